"""Bodies of requests: each member is known and has its type, or the request is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mltrigger.api.problems import Refused
from mltrigger.errors import NotFound

Check = Callable[[str, Any], Any]
"""Takes the name of a member and its value. Returns the value, or refuses it."""
MOST_SAID = 1_000
"""The longest reason, in characters."""


def checked(given: Mapping[str, Any], members: Mapping[str, Check]) -> dict[str, Any]:
    """Return the members of a body. An unknown one is refused with the near names."""
    for name in given:
        if name not in members:
            raise refused(str(NotFound.of("member", name, members)))
    return {name: members[name](name, value) for name, value in given.items()}


def refused(detail: str) -> Refused:
    """Return the refusal of a body."""
    return Refused(400, "bad_request", detail)


def text(name: str, value: Any) -> str:
    """Take a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise refused(f"{name} must be a text that is not empty")
    if not value.isprintable() or len(value) > MOST_SAID:
        raise refused(f"{name} must have printable characters, at most {MOST_SAID:,}")
    return value


def whole(name: str, value: Any) -> int:
    """Take a whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**53:
        raise refused(f"{name} must be a whole number")
    return value


def number(name: str, value: Any) -> float:
    """Take a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise refused(f"{name} must be a number")
    if abs(value) >= 2**53 or not math.isfinite(value):
        raise refused(f"{name} must be a finite number")
    return float(value)


def written_number(name: str, value: Any) -> float:
    """Take a number that is written in a query."""
    try:
        return number(name, float(value))
    except ValueError:
        raise refused(f"{name} must be a number") from None


def members(name: str, value: Any) -> dict[str, Any]:
    """Take an object."""
    if not isinstance(value, dict):
        raise refused(f"{name} must be an object")
    return value


def one_of(*words: str) -> Check:
    """Take one of *words*."""

    def check(name: str, value: Any) -> str:
        if value not in words:
            raise refused(f"{name} must be {' or '.join(map(repr, words))}")
        return str(value)

    return check


def either(*checks: Check) -> Check:
    """Take a value that one of *checks* takes."""

    def check(name: str, value: Any) -> Any:
        said = []
        for each in checks:
            try:
                return each(name, value)
            except Refused as error:
                said.append(str(error).removeprefix(f"{name} must be "))
        raise refused(f"{name} must be {' or '.join(said)}")

    return check


def nothing(name: str, value: Any) -> None:
    """Take null."""
    if value is not None:
        raise refused(f"{name} must be null")


def each(check: Check) -> Check:
    """Take a list whose values *check* takes."""

    def checked_each(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise refused(f"{name} must be a list that is not empty")
        return [check(f"each of {name}", part) for part in value]

    return checked_each
