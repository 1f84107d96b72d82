"""Points in time, as every call with ``since`` takes them."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mltrigger.errors import InvalidEvent
from mltrigger.text import short

Moment = datetime | timedelta | str | None
"""A time with its zone, as a datetime or as ISO text, or an age, as a timedelta or as ``"2d"``.

An age counts back from now on the clock of the bus. ``None`` is no limit.
"""
FORMS = (
    "a time with its zone (datetime.now(UTC), '2026-11-28T09:00Z'), or an age"
    " (timedelta(days=2), '2d', '90m', '1h30m', '2w')"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_AGE = re.compile("".join(rf"(?:{_NUMBER}\s*{unit}\s*)?" for unit in _UNITS), re.IGNORECASE)
_OLDEST = timedelta(days=100 * 366)
_LONGEST_TEXT = 100


def moment_us(given: Any, now_us: int, name: str = "since") -> int | None:
    """Return the time that *given* names, in microseconds since 1970.

    Parameters
    ----------
    given : datetime, timedelta, str or None
        See :data:`Moment`.
    now_us : int
        The time from which an age counts back.
    name : str
        The name of the argument, for errors.

    Raises
    ------
    InvalidEvent
        When *given* is anything else, has no zone, or is an age that is not above 0 s and at most
        100 years.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = _parsed(given, name)
    if isinstance(given, timedelta):
        return now_us - _age(given, name) // _US
    if not isinstance(given, datetime) or _is_missing(given):
        raise _refused(given, name)
    if given.utcoffset() is None:
        raise InvalidEvent(
            f"{name}={given.isoformat()} is naive; give its zone, for example datetime.now(UTC)"
        )
    return int((given - _EPOCH) // _US)


def fixed_ages(where: Mapping[str, Any], now_us: int) -> dict[str, Any]:
    """Return filters whose ages are the times that they name now, as ISO text."""
    ages = {
        name: _fixed(text, now_us, name)
        for name, text in where.items()
        if name in ("since", "until") and isinstance(text, str)
    }
    return {**where, **ages}


def _fixed(text: str, now_us: int, name: str) -> str:
    parsed = _parsed(text, name)
    if isinstance(parsed, datetime):
        return text
    return (_EPOCH + _US * now_us - _age(parsed, name)).isoformat()


def _parsed(text: str, name: str) -> datetime | timedelta:
    stripped = text.strip()
    if 0 < len(stripped) <= _LONGEST_TEXT:
        if (age := _AGE.fullmatch(stripped)) is not None:
            given = zip(_UNITS.values(), age.groups(), strict=True)
            parts = {unit: float(number) for unit, number in given if number}
            try:
                return timedelta(**parts)
            except OverflowError:
                raise _out_of_range(text, name) from None
        try:
            return datetime.fromisoformat(stripped)
        except ValueError:
            pass
    raise _refused(text, name)


def _age(given: timedelta, name: str) -> timedelta:
    if not timedelta() < given <= _OLDEST:
        raise _out_of_range(given, name)
    return given


def _is_missing(given: datetime) -> bool:
    """Return whether it is pandas' NaT, which is a datetime and not equal to itself."""
    return given != given


def _refused(given: Any, name: str) -> InvalidEvent:
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    unit = f"; a number has no unit: '{short(given)}s' are seconds" if is_number else ""
    return InvalidEvent(f"{name} must be {FORMS}; got {short(given)}{unit}")


def _out_of_range(given: Any, name: str) -> InvalidEvent:
    return InvalidEvent(
        f"{name}={short(str(given))} counts back from now: it must be above 0 s and at most 100"
        f" years; {name} takes {FORMS}"
    )
