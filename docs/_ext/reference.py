"""Pages of the API reference: every public name, as ``tests/public_api.py`` lists them.

They are written into a folder that git ignores, when a build begins.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import public_api

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "api"
LARGE = 12
"""A class with more members than this has a page of its own."""
TITLES = {
    "mltrigger": "Functions",
    "mltrigger.rollout.agree": "Agreement of answers: mt.agree",
    "mltrigger.aws": "AWS: mt.aws",
    "mltrigger.schemes": "Schemes of models: mt.schemes",
    "mltrigger.testing": "Tests: mt.testing",
}


def names() -> dict[str, list[tuple[str, Any, list[str]]]]:
    """Return for each public module its names, with their values and public members."""
    found: dict[str, list[tuple[str, Any, list[str]]]] = {}
    for module in public_api.MODULES:
        home = importlib.import_module(module)
        paths = [
            line.partition("(")[0].removeprefix(f"{module}.")
            for line in public_api.lines()
            if line.startswith(f"{module}.")
        ]
        tops = [path for path in paths if "." not in path and hasattr(home, path)]
        members = {top: [p.split(".")[1] for p in paths if p.startswith(f"{top}.")] for top in tops}
        found[module] = [(top, getattr(home, top), members[top]) for top in tops]
    return found


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page."""
    for module, listed in names().items():
        stem = (
            module.removeprefix("mltrigger.").rpartition(".")[2] if "." in module else "functions"
        )
        text = [_heading(TITLES[module]), _directive("module", module)]
        errors: list[str] = []
        small: list[str] = []
        for name, value, members in listed:
            if not inspect.isclass(value):
                if callable(value):
                    text.append(_directive("function", f"{module}.{name}"))
                continue
            described = _class(f"{module}.{name}", value, members)
            if issubclass(value, BaseException):
                errors.append(described)
            elif len(members) > LARGE:
                yield name.lower(), _heading(name) + described
            elif module == "mltrigger":
                small.append(described)
            else:
                text.append(described)
        if errors:
            yield "errors", _heading("Errors") + "\n".join(errors)
        if small:
            yield "values", _heading("Values") + "\n".join(small)
        yield stem, "\n".join(text)


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n\n"


def _directive(kind: str, path: str, *options: str) -> str:
    return f".. auto{kind}:: {path}\n" + "".join(f"   :{o}\n" for o in options if o) + "\n"


def _class(path: str, cls: type, members: list[str]) -> str:
    is_error = issubclass(cls, BaseException)
    text = _directive("class", path, "show-inheritance:" if is_error else "")
    for member in members:
        kind = _kind(cls, member)
        if kind != "attribute" or not _is_described(cls, member):
            text += textwrap.indent(_directive(kind, f"{path}.{member}"), "   ")
    return text


def _kind(cls: type, member: str) -> str:
    found = inspect.getattr_static(cls, member)
    if isinstance(found, (property, functools.cached_property)):
        return "property"
    is_method = inspect.isroutine(found) or isinstance(found, (classmethod, staticmethod))
    return "method" if is_method else "attribute"


def _is_described(cls: type, field: str) -> bool:
    """Whether the docstring of *cls* describes *field* among its parameters."""
    return bool(re.search(rf"(?m)^\s*(?:\w+, )*{field}(?:, \w+)*(?: :|$)", cls.__doc__ or ""))


def keep_line(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep the words of a property from napoleon, which takes those before a colon for its type.

    Take away the parameters of a class that users never make.
    """
    if what in ("property", "attribute"):
        _kept[name] = list(lines)
    elif what == "class" and _is_made_by_us(name) and "Parameters" in lines:
        begin = lines.index("Parameters")
        ends = [n for n, line in enumerate(lines) if n > begin + 1 and line.startswith("---")]
        del lines[begin : ends[0] - 1 if ends else None]


def give_back(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Give a property its words back."""
    if name in _kept:
        lines[:] = _kept.pop(name)


_kept: dict[str, list[str]] = {}


def hide_signature(
    app: Any, what: str, name: str, value: Any, options: Any, signature: Any, returns: Any
) -> tuple[str, None] | None:
    """Hide how a class is made that users get from a call and never make."""
    return ("", None) if what == "class" and _is_made_by_us(name) else None


def _is_made_by_us(name: str) -> bool:
    return name.rpartition(".")[2] in public_api.MADE_BY_US


def write_pages(app: Any) -> None:
    """Write the pages. One that did not change is left as it is."""
    FOLDER.mkdir(exist_ok=True)
    written = dict(pages())
    for old in FOLDER.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.stem not in written:
            old.unlink()
    for name, text in written.items():
        file = FOLDER / f"{name}.rst"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the parts with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", keep_line, priority=400)
    app.connect("autodoc-process-docstring", give_back, priority=600)
    app.connect("autodoc-process-signature", hide_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
