"""Examples of public names, which ``?`` and ``help`` show below the documentation.

They are in ``examples.txt``, under the name that they are about. Each runs by itself. ``bus``,
``sub`` (its subscription ``ocr`` of ``documents``), ``event`` and two versions of a model,
``read_page`` and ``read_faster``, are there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import inspect
import textwrap
from typing import Any

_HANDLES = (
    ("mltrigger.bus", "EventBus"),
    ("mltrigger.handle", "Subscription"),
    ("mltrigger.run", "Run"),
)
HEAD = "Examples\n--------\n"


@functools.cache
def written() -> dict[str, str]:
    """Return name -> example."""
    text = importlib.resources.files(__package__).joinpath("examples.txt").read_text("utf-8")
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line and not line[0].isspace():
            lines = found[line.strip()] = []
        else:
            lines.append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def attach(name: str, value: Any) -> Any:
    """Put the examples of *name*, and of the methods of a class, into their documentation.

    With a bus, or with the way to one, come those of its handles.
    """
    for home, handle in _HANDLES if name in ("EventBus", "connect") else ():
        _attach(handle, getattr(importlib.import_module(home), handle))
    return _attach(name, value)


def _attach(name: str, value: Any) -> Any:
    _put(value, written().get(name))
    if inspect.isclass(value):
        for path, example in written().items():
            owner, _, method = path.partition(".")
            if owner == name and method:
                _put(_owned(value, method), example)
    return value


def _owned(cls: type, method: str) -> Any:
    """Return the function behind a method, in the class that has it."""
    found = next(vars(base)[method] for base in cls.__mro__ if method in vars(base))
    return getattr(found, "__func__", found)


def _put(value: Any, example: str | None) -> None:
    documented = inspect.getdoc(value) or ""
    if example is not None and HEAD not in documented:
        value.__doc__ = f"{documented}\n\n{HEAD}{example}\n"
