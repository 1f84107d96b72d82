"""The message for a value that does not fit a schema.

It names the first three fields with their paths. It never repeats more than 100 characters of the
data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

MAX_NAMED = 3
"""Places that a message names. Of others it says only that there are more."""
MAX_DATA = 100
"""Characters of the data that a message repeats at most, in all."""
_KEY, _VALUE, _OWN_NAME, _OWN_TEXT = 24, 40, 80, 100
_DEEP = 12
NOTHING = object()
"""The value of a mismatch that shows none."""


class Mismatch(NamedTuple):
    """One thing that does not fit: its place, a description, and the value.

    *quoted* is text from elsewhere that may repeat the data.
    """

    path: tuple[str | int, ...]
    wrong: str
    value: Any = NOTHING
    quoted: str = ""


class _Budget:
    """Counts the characters of the data that may still be repeated."""

    def __init__(self) -> None:
        self._left = MAX_DATA

    def take(self, text: str, most: int) -> str:
        """Return the beginning of *text*, at most *most* characters."""
        cut = text[: min(most, self._left)]
        self._left -= len(cut)
        return cut

    def beginning(self, text: str, most: int) -> str:
        """Return the same, with ``…`` where something is left out."""
        cut = self.take(text, most)
        return cut if len(cut) == len(text) else cut + "…"


def told(mismatches: Iterable[Mismatch], root: str, names: frozenset[str]) -> str:
    """Return the message for *mismatches*.

    Parameters
    ----------
    mismatches
        In the order in which they are named.
    root : str
        The name of the whole value, such as ``$``.
    names : frozenset of str
        The fields that the schema knows. They are not data.
    """
    by_path: dict[tuple[str | int, ...], list[Mismatch]] = {}
    more = False
    for found in mismatches:
        if found.path not in by_path and len(by_path) == MAX_NAMED:
            more = True
            break
        by_path.setdefault(found.path, []).append(found)
    budget = _Budget()
    lines = [
        f"{_path(path, root, names, budget)}: {_line(found, budget)}"
        for path, found in by_path.items()
    ]
    return "; ".join(lines) + ("; and more" if more else "")


def _line(found: Sequence[Mismatch], budget: _Budget) -> str:
    """Return one line for one place. The branches of a union become one expectation."""
    wrongs = list(dict.fromkeys(m.wrong for m in found))
    if all(wrong.startswith("expected ") for wrong in wrongs):
        wrongs = ["expected " + " or ".join(wrong.removeprefix("expected ") for wrong in wrongs)]
    text = ", ".join(wrongs[:MAX_NAMED])
    if found[0].quoted:
        text += f": {budget.beginning(found[0].quoted, _OWN_TEXT)}"
    return text if found[0].value is NOTHING else f"{text}, got {_shown(found[0].value, budget)}"


def _path(path: Sequence[str | int], root: str, names: frozenset[str], budget: _Budget) -> str:
    """Return ``page.items[3]``. A root ``$`` stands before it, any other root only alone.

    A field that the schema does not name is data.
    """
    text = root if root.startswith("$") or not path else ""
    for part in path if len(path) <= _DEEP else (*path[: _DEEP // 2], "…", *path[-_DEEP // 2 :]):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part[:_OWN_NAME] if part in names else budget.beginning(part, _KEY)
            text += f".{name}" if text else name
    return text


def _shown(value: Any, budget: _Budget) -> str:
    """Return a short value as it is in JSON, and others by their kind."""
    if value is None or isinstance(value, bool):
        return as_json(value)
    if isinstance(value, str):
        cut = budget.take(value, _VALUE)
        return repr(cut) if len(cut) == len(value) else repr(cut) + "…"
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"an integer of {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    if isinstance(value, (int, float)):
        return budget.beginning(repr(value), _VALUE)
    if isinstance(value, (Mapping, list, tuple)):
        return f"{'an object' if isinstance(value, Mapping) else 'an array'} of {len(value):,}"
    return type(value).__qualname__[:_KEY]


def as_json(value: Any) -> str:
    """Return *value* as text, with the names of JSON for None, True and False."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def cut(text: str) -> str:
    """Return the beginning of a text that comes from the schema."""
    return text if len(text) <= _OWN_TEXT else text[:_OWN_TEXT] + "…"
