"""Calls as values: each can be shown as a line of Python, and done. Both are the same call."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

MOST_DATA_CHARACTERS = 256 * 1024
"""The longest data that stand in a line of code."""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A variable of the code: ``sub``, or the bus. ``mt`` is the package itself."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call of a public method: ``on.method(*args, **kwargs)``. Arguments may be calls."""

    on: Name | Call
    method: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def code(self) -> str:
        """Return the call as Python."""
        given = [*map(written, self.args), *(f"{name}={written(v)}" for name, v in self.kwargs)]
        return f"{written(self.on)}.{self.method}({', '.join(given)})"

    def run(self, names: Mapping[str, Any]) -> Any:
        """Do the call. *names* are the values of the variables."""
        target = valued(self.on, names)
        for part in self.method.split("."):
            target = getattr(target, part)
        return target(
            *(valued(each, names) for each in self.args),
            **{name: valued(each, names) for name, each in self.kwargs},
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One line: a call, and the variable that takes its result, if any."""

    call: Call
    to: str = ""

    def code(self) -> str:
        """Return the line."""
        return f"{self.to} = {self.call.code()}" if self.to else self.call.code()


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """Lines that are done one after the other."""

    steps: tuple[Step, ...]

    def code(self) -> str:
        """Return the lines as Python."""
        return "\n".join(step.code() for step in self.steps)

    def run(self, names: Mapping[str, Any]) -> Any:
        """Do all lines. Return the result of the last one."""
        known, result = dict(names), None
        for step in self.steps:
            result = step.call.run(known)
            if step.to:
                known[step.to] = result
        return result


def call(on: Name | Call, method: str, *args: Any, **kwargs: Any) -> Call:
    """Return a call. Keywords that are None are left out."""
    given = tuple((name, value) for name, value in kwargs.items() if value is not None)
    return Call(on, method, args, given)


def written(value: Any) -> str:
    """Return *value* as Python. Texts show each control character as an escape."""
    if isinstance(value, Name):
        return value.name
    if isinstance(value, Call):
        return value.code()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({_quoted(str(value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{written(k)}: {written(v)}' for k, v in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return f"[{', '.join(map(written, value))}]"
    return repr(value)


def _quoted(text: str) -> str:
    """Return the repr of *text*, in double quotes where that needs no escape."""
    shown = repr(text)
    if shown[0] == "'" and '"' not in shown:
        return f'"{shown[1:-1]}"'
    return shown


def valued(value: Any, names: Mapping[str, Any]) -> Any:
    """Return *value* with variables and calls replaced by their values."""
    if isinstance(value, Name):
        return names[value.name]
    if isinstance(value, Call):
        return value.run(names)
    return value
