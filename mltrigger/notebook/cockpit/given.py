"""The arguments of an ask. A view may send anything: each is checked before it is used."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, MltriggerError, NotFound
from mltrigger.notebook.cockpit.code import MOST_DATA_CHARACTERS
from mltrigger.text import short

MOST_CHARACTERS = 2_000
"""The longest text of an argument."""
FILTERS = ("version", "reason", "key", "since", "until", "text")
"""The filters of dead letters."""
_MOST_NUMBER, _MOST_VALUES = 2**63 - 1, 100


class Wrong(InvalidEvent):
    """One argument is wrong. The view shows the sentence beside its field.

    Attributes
    ----------
    field : str
        The name of the argument, such as ``guard.errors``.
    """

    def __init__(self, field: str, said: str, reason: str = "invalid_event") -> None:
        super().__init__(said, reason)
        self.field = field


@contextlib.contextmanager
def about(field: str) -> Iterator[None]:
    """Say that an error of the block is about one argument."""
    try:
        yield
    except Wrong:
        raise
    except MltriggerError as error:
        raise Wrong(field, str(error)) from error


class Given:
    """The arguments of one ask, by name.

    Parameters
    ----------
    args : any
        An object of JSON, or anything else, which is refused.
    within : str
        The name of the argument that they are in, for errors.

    Raises
    ------
    Wrong
        With the argument and its right form, from each method.
    """

    def __init__(self, args: Any, within: str = "") -> None:
        self._within = f"{within}." if within else ""
        if args is not None and not isinstance(args, Mapping):
            raise InvalidEvent(f"the arguments must be an object, got {short(args)}")
        self._args: Mapping[str, Any] = args or {}

    def __contains__(self, name: str) -> bool:
        return self._args.get(name) is not None

    def has(self, name: str) -> bool:
        """Whether the argument *name* is there. It may be ``null``."""
        return name in self._args

    def text(self, name: str, most: int = MOST_CHARACTERS) -> str:
        """Return a text that is not empty."""
        value = self._args.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, f"{name} must be a text, got {short(value)}")
        if len(value) > most:
            raise self._wrong(name, f"{name} may have {most:,} characters, it has {len(value):,}")
        return value

    def text_or_none(self, name: str, most: int = MOST_CHARACTERS) -> str | None:
        """Return a text, None without one."""
        value = self._args.get(name)
        return None if value is None or value == "" else self.text(name, most)

    def whole(self, name: str, low: int = 0, high: int = _MOST_NUMBER) -> int:
        """Return a whole number from *low* to *high*."""
        value = self._args.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(
                name, f"{name} must be a whole number from {low} on, got {short(value)}"
            )
        return value

    def number_or_none(
        self, name: str, above: float = 0.0, least: float | None = None
    ) -> float | None:
        """Return a number above *above*, or from *least* on. None without one."""
        value = self._args.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, f"{name} must be a number, got {short(value)}")
        is_large = value > above if least is None else value >= least
        if not (math.isfinite(value) and is_large):
            low = f"above {above:g}" if least is None else f"from {least:g} on"
            raise self._wrong(name, f"{name} must be a number {low}, got {short(value)}")
        return int(value) if float(value).is_integer() else float(value)

    def flag(self, name: str) -> bool:
        """Return true or false. It is false where it is left out."""
        value = self._args.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, f"{name} must be true or false, got {short(value)}")
        return value

    def one_of(self, name: str, kind: str, known: Iterable[str]) -> str:
        """Return a text that is one of *known*. Else the error lists the near ones."""
        value = self.text(name)
        names = list(known)
        if value not in names:
            raise self._wrong(name, str(NotFound.of(kind, short(value), names)))
        return value

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        """Return one of *known*, None if it is left out or the first one, which is usual."""
        if name not in self or self._args[name] == "":
            return None
        value = self.one_of(name, name, known)
        return None if value == known[0] else value

    def whole_or_none(self, name: str, low: int = 1, usual: int | None = None) -> int | None:
        """Return a whole number from *low* on, None if it is left out or the *usual* one."""
        if name not in self or self._args[name] == "":
            return None
        value = self.whole(name, low)
        return None if value == usual else value

    def inner(self, name: str, within: str = "") -> Given:
        """Return the arguments inside the argument *name*. *within* is its name in errors."""
        return Given(self._args.get(name), within)

    def json(self, name: str) -> Any:
        """Return the value of a text of JSON. Each number stays as it is written."""
        text = self.text(name, MOST_DATA_CHARACTERS)
        try:
            return json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise self._wrong("data", f"this is no JSON: {short(str(error), 200)}") from None

    def raw(self, name: str) -> Any:
        """Return an argument as it came."""
        return self._args.get(name)

    def names(self) -> list[str]:
        """Return the names of the arguments that are set."""
        return [name for name, value in self._args.items() if value not in (None, "", [])]

    def _wrong(self, name: str, said: str) -> Wrong:
        return Wrong(f"{self._within}{name}", said)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def filters(given: Given, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the filters *names* as keywords of the public calls.

    Raises
    ------
    InvalidEvent
        When another filter is set: the call cannot keep to it.
    """
    others = [name for name in given.names() if name not in (*names, "subscription")]
    if others:
        raise InvalidEvent(
            f"this takes no filter {' and '.join(short(repr(name)) for name in others)}: clear it"
        )
    return {name: _value(given, name) for name in given.names() if name in names}


def _value(given: Given, name: str) -> Any:
    value = given.raw(name)
    if isinstance(value, list):
        if len(value) > _MOST_VALUES:
            raise Wrong(name, f"{name} may have {_MOST_VALUES} values, it has {len(value):,}")
        return [Given({name: each}).text(name) for each in value]
    return given.text(name)
