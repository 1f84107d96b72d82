"""The house: which room may use which, what lies only in one place, and how large a room may be."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mltrigger

pytestmark = pytest.mark.xdist_group("architecture")  # one process reads the sources

PACKAGE = Path(__file__).parents[2] / "mltrigger"

FLOORS = (
    {"errors", "clock", "_version"},
    {"text", "names"},
    {"policy"},
    {"event"},
    {"filters"},
    {"broker"},
    {"versions"},
    {"schemes"},
    {"store"},
    {"delivery"},
    {"reports"},
    {"rollout"},
    {"sources"},
    {"aws"},
    {"run"},
    {"handle"},
    {"bus"},
    {"urls"},
    {"telemetry"},
    {"api"},
    {"worker"},
    {"notebook", "testing", "demo"},
    {"cli"},
    {"__main__"},
)
"""The rooms from the ground up. A room imports from lower floors only. No room has two floors."""
ADAPTERS = ("versions.schemes", "sources", "aws", "api", "telemetry")
"""Each has one door, a table of names: ``names.Adapters``. The core never imports one."""
FACES = ("notebook", "cli", "testing", "demo", "__main__")
"""They show and steer. The core never imports one, but for the two doors below."""
DOORS = {
    # The methods of a bus and of a subscription that open their widget.
    ("bus", "notebook.cockpit.widget", "dashboard"),
    ("handle", "notebook.cockpit.widget", "dashboard"),
    # The progress bar in a page.
    ("reports.bar", "notebook.progress", "_drawing"),
    # The cards of frames.
    ("reports.shown", "notebook.cards", "_html"),
    # The charts.
    ("reports.plots", "notebook.plotting", "drawing"),
}
"""(module, face, function): opened when somebody calls the function, never at import."""
MOST_ROOMS = 27
"""The adapters are five: telemetry came last."""
BOTO3 = {"aws/clients.py"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


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
MODULES = [name for name in SOURCES if name]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(SOURCES[name].read_text())


def relative(name: str) -> str:
    return SOURCES[name].relative_to(PACKAGE).as_posix()


@functools.cache
def imports(name: str) -> list[Import]:
    """Return what module *name* imports when it runs; what is only there for types is left out."""
    return list(
        _imports(
            tree(name),
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


def floor(name: str) -> int:
    """Return the floor of module *name*: that of its room."""
    for number, rooms in enumerate(FLOORS):
        if room(name) in rooms:
            return number
    raise AssertionError(f"{name} has no floor: give its room one in FLOORS")


def is_in(name: str, *rooms: str) -> bool:
    """Whether module *name* is one of *rooms* or lies inside."""
    return any(name == each or name.startswith(f"{each}.") for each in rooms)


def room(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def calls(name: str) -> list[tuple[str, int]]:
    """Return what module *name* calls, as it is written, and the line."""
    nodes = (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))
    return [(ast.unparse(node.func), node.lineno) for node in nodes]


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


# -- the arrows ------------------------------------------------------------------------------------


@functools.cache
def arrows() -> list[tuple[str, str, Import]]:
    """Return (module, module that it imports, the statement), without the doors."""
    pairs = ((name, own(found), found) for name in MODULES for found in imports(name))
    return [
        (name, other, found)
        for name, other, found in pairs
        if other is not None and (name, other, found.function) not in DOORS
    ]


def test_imports_point_downwards() -> None:
    upwards = [
        f"{relative(name)}:{found.line} imports {other or 'the package itself'}"
        for name, other, found in arrows()
        if room(other) != room(name)
        # The package itself is above everything. Its users are faces.
        and (floor(other) >= floor(name) if other else not is_in(name, *FACES))
    ]

    assert upwards == []


def test_the_core_imports_no_adapter_and_no_face_not_even_late() -> None:
    found = [
        f"{relative(name)}:{statement.line} imports {other}"
        for name, other, statement in arrows()
        if not is_in(name, *ADAPTERS, *FACES) and is_in(other, *ADAPTERS, *FACES)
    ]

    assert found == []


def test_every_door_is_still_needed() -> None:
    used = {(name, own(found), found.function) for name in MODULES for found in imports(name)}

    assert used >= DOORS


def part(name: str, folder: str) -> str | None:
    """Return the part of *folder* that module *name* belongs to, if it does."""
    if name == folder:
        return "__init__"
    return name.removeprefix(f"{folder}.").partition(".")[0] if is_in(name, folder) else None


def test_no_folder_has_a_circle_among_its_parts() -> None:
    """Between its modules and sub-folders; between rooms the floors see to it."""
    folders = {name.rpartition(".")[0] for name in MODULES if "." in name}
    found = {(folder, *circle) for folder in folders for circle in circles(inside(folder))}

    assert found == set()


def inside(folder: str) -> set[tuple[str, str]]:
    """Return the arrows between the parts of *folder*."""
    pairs = {(part(name, folder), part(other, folder)) for name, other, _ in arrows()}
    return {(a, b) for a, b in pairs if a is not None and b is not None and a != b}


def circles(pairs: set[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """Yield the sets of parts that reach each other, sorted."""
    reached = {a: {b for x, b in pairs if x == a} for a, _ in pairs}
    for _ in reached:
        reached = {a: bs.union(*(reached.get(b, set()) for b in bs)) for a, bs in reached.items()}
    both = {a: {b for b in bs if a in reached.get(b, set())} for a, bs in reached.items()}
    yield from {tuple(sorted(bs)) for bs in both.values() if len(bs) > 1}


def test_the_top_level_is_a_reading_list() -> None:
    rooms = {room(name) for name in MODULES}

    assert rooms == set().union(*FLOORS)
    assert len(rooms - {"_version", "__main__"}) <= MOST_ROOMS


def test_no_room_is_named_like_a_public_call() -> None:
    """Importing ``mltrigger.model.x`` would replace the decorator ``mt.model``."""
    assert {room(name) for name in MODULES} & set(mltrigger.__all__) == set()


def test_the_package_itself_imports_its_rooms_only_when_they_are_asked_for() -> None:
    at_once = {own(found) for found in imports("") if not found.function} - {None}

    assert at_once == {"_version"}


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
        if floor(name) < floor("versions") or re.match(r"versions\.(\w+$|code|schema)", name)
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


UNPICKLED = {"versions/running/workers/worker.py": "pickle.loads"}
"""The model of a notebook, in its worker: an object of the user in the calling process, never of an
event.
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
        for node in ast.walk(tree(name))
        if isinstance(node, ast.keyword)
        and node.arg == "shell"
        and ast.unparse(node.value) != "False"
    ]
    found = [where for where in called(*LOADERS, ends=".read_pickle") if not _is_known(where)]

    assert found + shells == []


def test_only_the_processes_of_a_model_unpickle() -> None:
    known = [where for where in called(*LOADERS) if _is_known(where)]

    assert len(known) == len(UNPICKLED) == 1


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
    views = [path for kind in ("js", "css") for path in PACKAGE.rglob(f"*.{kind}")]
    lengths |= {path.name: len(path.read_text().splitlines()) for path in views}

    assert views
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
