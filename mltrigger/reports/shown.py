"""Frames that a notebook shows in their own way."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mltrigger.text import count, letters, near, short

_ERROR = 300
"""Characters of an error on one line."""


def shown(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Let a notebook show *table* as a card of its *kind*. It stays a plain frame.

    The card belongs to this very object. Parts, copies, merged and unpickled frames have none.
    """
    ref = weakref.ref(table)  # a circle would keep a large frame alive
    object.__setattr__(table, "_repr_html_", functools.partial(_html, ref, kind))
    return table


def _html(ref: weakref.ref[pd.DataFrame], kind: str) -> str | None:
    from mltrigger.notebook import cards

    table = ref()
    if table is None or not pd.get_option("display.notebook_repr_html"):
        return None
    html: str | None = None
    with contextlib.suppress(Exception):  # a value that the user put there may raise anything
        html = cards.html(table, kind)
    return html or pd.DataFrame._repr_html_(table)  # type: ignore[attr-defined]  # the stubs do not know it


class _Whole(pd.DataFrame):
    """A frame with a repr of its own, which a terminal takes from the class alone.

    Only the frame that was asked for is of this class. Parts, copies, joined, grouped and unpickled
    ones are plain frames, and a file of it has no trace of the class.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pd.DataFrame, (pd.DataFrame(self),)


class Sentences(_Whole):
    """A frame that shows its text whole. Pandas would cut it off after 50 characters.

    The class stays for its repr: an explanation is read in terminals, too.
    """

    def __repr__(self) -> str:
        with pd.option_context(
            "display.max_colwidth", None, "display.max_columns", None, "display.width", 1000
        ):
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_colwidth", None):
            html: str | None = super()._repr_html_()  # type: ignore[misc]  # the stubs do not know it
            return html


class DeadLetters(_Whole):
    """Dead letters: a frame to compute with, and a card to read.

    The class stays for its repr: of 15 columns a terminal would show neither reason nor error.
    """

    _READ = (
        "event_id",
        "subject",
        "reason",
        "attempts",
        "model",
        "version",
        "error_type",
        "error",
        "traceback",
        "dead_at",
        "data",
    )
    _SHOWN = 20

    def __repr__(self) -> str:
        few = [
            name
            for name in ("event_id", "reason", "attempts", "error_type", "error")
            if name in self.columns
        ]
        table = pd.DataFrame(self)
        if not set(self._READ) <= set(self.columns):
            return repr(table)
        with pd.option_context("display.max_columns", None, "display.width", 200):
            return (
                f"{table[few]!r}\n({len(self.columns)} columns:"
                f" {', '.join(map(str, self.columns))})"
            )

    def _repr_html_(self) -> str | None:
        if not set(self._READ) <= set(self.columns) or not self.columns.is_unique:
            html: str | None = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]  # the stubs do not know it
            return html
        rest = (
            f"{len(self) - self._SHOWN:,} more: choose by dead_letters(reason=…, text=…, since=…)"
            if len(self) > self._SHOWN
            else ""
        )
        few = pd.DataFrame(self)[list(self._READ)].head(self._SHOWN).to_dict("records")
        entries = [_letter(row) for row in few]
        return letters(count(len(self), "dead letter"), entries, rest)


def moment(at: Any) -> str:
    """Return a time in words: in UTC, if its zone is known. Anything else is its text."""
    if not isinstance(at, pd.Timestamp):
        return str(at)
    if at.tzinfo is None:
        return f"{at:%Y-%m-%d %H:%M:%S}"
    return f"{at.tz_convert('UTC'):%Y-%m-%d %H:%M:%S} UTC"


def _is_missing(value: Any) -> bool:
    """Whether *value* is a missing one. A list that a user put there is none."""
    return value is None or bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _attempts(n: Any) -> str:
    return count(n, "attempt") if isinstance(n, int) else str(n)


def _letter(row: Mapping[Any, Any]) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Return a dead letter as :func:`mltrigger.text.letters` shows it."""
    known = {name: value for name, value in row.items() if not _is_missing(value)}
    about = known.get("subject") or known["event_id"]
    at = moment(known.get("dead_at", ""))
    model = ":".join(str(known[name]) for name in ("model", "version") if name in known)
    facts = " · ".join(
        part
        for part in (str(known.get("reason", "")), _attempts(known.get("attempts", 0)), model, at)
        if part
    )
    error = ": ".join(str(known[name]) for name in ("error_type", "error") if name in known)
    line = short(error, _ERROR)
    more = [("whole error", error)] if line != error else []
    more += [("traceback", near(str(known["traceback"])))] if "traceback" in known else []
    more += [("data", str(known["data"]))] if "data" in known else []
    return (
        str(about),
        facts,
        line,
        more if about == known["event_id"] else [*more, ("event id", str(known["event_id"]))],
    )
