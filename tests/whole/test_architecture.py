"""The house: which room may use which, what lies only in one place, and how large a room may be."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "mltrigger"

LEVELS = [
    {"errors", "clock", "_version"},
    {"text"},
    {"names", "policy"},
    {"event"},
    {"filters"},
    {"broker"},
    {"versions"},
    {"schemes"},
    {"sources"},
    {"store"},
    {"delivery"},
    {"reports"},
    {"aws"},
    {"run"},
    {"handle"},
    {"bus"},
    {"urls"},
    {"worker"},
    {"notebook", "testing"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
"""The rooms from the ground up. A module imports from lower levels and from its own room; never
from beside or above.
"""

EXCEPTIONS = {
    # The method of a subscription that opens its widget; loaded when somebody calls it.
    ("handle", "notebook.dashboard", "dashboard"),
    # The progress bar in a page; loaded when a notebook waits.
    ("reports.bar", "notebook.progress", "_drawing"),
}
BOTO3 = {"aws/clients.py"}
MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 90


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement: of what, and in which function (empty: at module level)."""

    module: str
    name: str
    function: str
    line: int


def sources() -> dict[str, Path]:
    """Return the modules of the package under their names without the package's own."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


SOURCES = sources()
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
MODULES = [name for name in SOURCES if name]


def relative(name: str) -> str:
    return SOURCES[name].relative_to(PACKAGE).as_posix()


@functools.cache
def imports(name: str) -> list[Import]:
    """Return what module *name* imports when it runs; what is only there for types is left out."""
    return list(
        _imports(
            TREES[name],
            "",
            package=name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0],
        )
    )


def _imports(node: ast.AST, function: str, package: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", function, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = ["mltrigger", *package.split(".")][
                : None if child.level < 2 else 1 - child.level
            ]
            base = (
                ".".join([*filter(None, parts), *filter(None, [child.module])])
                if child.level
                else child.module or ""
            )
            yield from (Import(base, alias.name, function, child.lineno) for alias in child.names)
        else:
            inner = (
                child.name
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                else function
            )
            yield from _imports(child, inner, package)


def own(found: Import) -> str | None:
    """Return the module of the package that *found* imports, ``None`` when it is somebody else's."""
    package, _, rest = found.module.partition(".")
    if package != "mltrigger":
        return None
    inner = f"{rest}.{found.name}".strip(".")
    return inner if inner in SOURCES else rest


def level(name: str) -> int:
    """Return the level of module *name*: of its longest prefix that has one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        for number, rooms in enumerate(LEVELS):
            if ".".join(parts[:end]) in rooms:
                return number
    raise AssertionError(f"{name} has no level: give it one in LEVELS")


def room(name: str) -> str:
    return name.partition(".")[0]


def calls(name: str) -> Iterator[tuple[str, int]]:
    """Yield what module *name* calls, as it is written, and the line."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


# -- the arrows ------------------------------------------------------------------------------------


def upwards(name: str) -> Iterator[str]:
    """Yield the imports of module *name* that do not point downwards."""
    for found in imports(name):
        other = own(found)
        if other is None or other == name or (name, other, found.function) in EXCEPTIONS:
            continue
        if not other:  # the package itself, which is above everything but its users
            allowed = room(name) in ("demo", "cli", "notebook")
        else:
            allowed = level(other) < level(name) or (
                room(other) == room(name) and level(other) == level(name)
            )
        if not allowed:
            yield f"{relative(name)}:{found.line} imports {other or 'the package itself'}"


def test_imports_point_downwards() -> None:
    assert [arrow for name in MODULES for arrow in upwards(name)] == []


def test_every_exception_is_still_needed() -> None:
    used = {(name, own(found), found.function) for name in MODULES for found in imports(name)}

    assert used >= EXCEPTIONS


def test_the_package_itself_imports_its_rooms_only_when_they_are_asked_for() -> None:
    at_once = {own(found) for found in imports("") if not found.function} - {None}

    assert at_once == {"_version"}


def test_no_two_modules_import_each_other() -> None:
    arrows = {
        (name, other)
        for name in MODULES
        for found in imports(name)
        if (other := own(found)) and not found.function
    }

    assert {pair for pair in arrows if pair[::-1] in arrows} == set()


def test_widgets_are_only_loaded_by_the_notebook_room() -> None:
    widgets = {"anywidget", "ipywidgets", "traitlets", "IPython"}
    elsewhere = [
        name
        for name in MODULES
        if room(name) != "notebook"
        for found in imports(name)
        if found.module.partition(".")[0] in widgets
    ]
    above = [
        name
        for name in MODULES
        if room(name) not in ("notebook",)
        for found in imports(name)
        if (own(found) or "").startswith("notebook") and not found.function
    ]

    assert (elsewhere, above) == ([], [])


def test_aws_stays_in_its_files() -> None:
    files = {
        relative(name)
        for name in SOURCES
        for found in imports(name)
        if found.module.partition(".")[0] in ("boto3", "botocore")
    }

    assert files <= BOTO3


def test_only_render_makes_html() -> None:
    files = {
        relative(name)
        for name in SOURCES
        for found in imports(name)
        if found.module.partition(".")[0] == "html"
    }

    assert files == {"text.py"}


@pytest.mark.parametrize(
    "library",
    [
        "pandas",
        "numpy",
        "requests",
        "tqdm",
        "cloudevents",
        "sqlite3",
        "joblib",
        "sklearn",
        "PIL",
    ],
)
def test_a_library_that_takes_time_to_load_is_not_loaded_to_describe_a_model(library: str) -> None:
    describing = [
        name
        for name in MODULES
        if level(name) < level("versions") or re.match(r"versions\.(\w+$|code|schema)", name)
    ]
    at_once = [
        name
        for name in describing
        for found in imports(name)
        if found.module.partition(".")[0] == library and not found.function
    ]

    assert at_once == []


# -- what nobody does ------------------------------------------------------------------------------

LOADERS = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "yaml.load",
    "tempfile.mktemp",
}


UNPICKLED = {
    "versions/running/child.py": "pickle.loads",
    "versions/running/executed.py": "pickle.loads",
}
"""A model of a notebook, in the process that isolates it and in the worker of an executor: what the
user of the calling process handed over, never what came in an event.
"""
PRINTING = ("cli/", "demo/", "versions/running/capture.py", "aws/transport/objects.py")
"""The third hands on what a model printed elsewhere; the last one prints into what is recorded of
the attempt that opens.
"""


def called(*names: str, ends: str = "\n") -> list[str]:
    """Return where the package calls one of *names*, or something whose name *ends* so."""
    return [
        f"{relative(name)}:{line} {call}"
        for name in SOURCES
        for call, line in calls(name)
        if call in names or call.endswith(ends)
    ]


def test_nothing_is_run_that_came_as_data() -> None:
    """BI-131: nothing of an event is ever unpickled."""
    shells = [
        f"{relative(name)}:{node.value.lineno} shell={ast.unparse(node.value)}"
        for name in SOURCES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.keyword)
        and node.arg == "shell"
        and ast.unparse(node.value) != "False"
    ]
    found = [where for where in called(*LOADERS, ends=".read_pickle") if not _is_known(where)]

    assert found + shells == []


def test_only_the_processes_of_a_model_unpickle() -> None:
    known = [where for where in called(*LOADERS) if _is_known(where)]

    assert len(known) == len(UNPICKLED) == 2


def _is_known(where: str) -> bool:
    return UNPICKLED.get(where.partition(":")[0]) == where.rpartition(" ")[2]


def test_only_the_command_line_and_the_demonstration_print() -> None:
    found = called("print", "sys.stdout.write", "sys.stderr.write")

    assert [where for where in found if not where.startswith(PRINTING)] == []


def test_nobody_configures_the_users_logging_or_warnings() -> None:
    found = called(
        "logging.basicConfig",
        "logging.disable",
        "warnings.simplefilter",
        "warnings.filterwarnings",
        ends=".setLevel",
    )

    assert [where for where in found if not where.startswith(("cli/", "demo/"))] == []


# -- how large a room may be -----------------------------------------------------------------------


def test_a_file_is_no_longer_than_one_can_read() -> None:
    lengths = {relative(name): len(path.read_text().splitlines()) for name, path in SOURCES.items()}

    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_a_function_is_no_longer_than_one_can_read() -> None:
    def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        """Its lines without its docstring, which may be as long as its promise."""
        first = (
            function.body[1]
            if ast.get_docstring(function) is not None and len(function.body) > 1
            else function.body[0]
        )
        return (function.end_lineno or 0) - first.lineno + 1

    lengths = {
        f"{relative(name)}:{f.lineno} {f.name}": lines(f)
        for name in SOURCES
        for f in functions(name)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}
