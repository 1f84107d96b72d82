"""Errors about a table when it is named, and findings while it is watched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mltrigger.broker import Finding
from mltrigger.errors import InvalidName, NotFound
from mltrigger.sources.table.database import LIMIT, Waiting
from mltrigger.sources.table.place import TablePlace
from mltrigger.text import count

_LONG_S = 60.0


def no_table(place: TablePlace, known: Iterable[str], is_view: bool = False) -> InvalidName:
    """Return the error for a table that does not exist."""
    if is_view:
        return InvalidName(
            f"source {place.shown} is a view: rows are inserted into tables, name one of them"
        )
    error = NotFound.of(f"table in {place.base}", place.relation, known)
    return InvalidName(str(error))


def columns(place: TablePlace, known: Sequence[str]) -> None:
    """Raise InvalidName when a field is no column of the table."""
    for field in place.fields:
        if field not in known:
            raise InvalidName(str(NotFound.of(f"column of {place.shown}", field, known)))


def gone(about: str, place: TablePlace, known: Sequence[str]) -> Iterable[Finding]:
    """Yield the finding about fields that are no columns any more."""
    if missing := [field for field in place.fields if field not in known]:
        yield Finding(
            "warning",
            about,
            "table",
            f"{', '.join(map(repr, missing))} of {place.shown} is gone or has another name: events"
            " come without it",
            "unsubscribe(delete=True), and subscribe with other fields=[…]",
        )


def renamed(about: str, place: TablePlace, now: str) -> Finding:
    """Return the finding about a table with another name."""
    return Finding(
        "info",
        about,
        "table",
        f"table {place.shown} is called {now!r} now; its changes are events all the same",
        "none; to follow the new name, subscribe to it and unsubscribe(delete=True) this one",
    )


def no_trigger(about: str, place: TablePlace) -> Finding:
    """Return the finding about triggers that are not there, or not as they should be."""
    return Finding(
        "error",
        about,
        "table",
        f"the trigger of {place.shown} is missing or was changed: changes are no events",
        "a listener makes it again; without the right to do so, the owner runs the SQL of"
        " `mltrigger table sql`",
    )


def remade(about: str, place: TablePlace, ago_s: float) -> Finding:
    """Return the finding about a trigger that was missing."""
    return Finding(
        "warning",
        about,
        "table",
        f"the trigger of {place.shown} was missing, as after a table is made anew; it was made"
        f" again {_lasting(ago_s)} ago, and changes before that may be no events",
        "publish the missing rows; unsubscribe(delete=True) and subscribe anew ends this advice",
    )


def missing(about: str, place: TablePlace, rows: int, why: str) -> Finding:
    """Return the finding about rows that are no events."""
    return Finding(
        "error",
        about,
        "table",
        f"at least {count(rows, 'row')} of {place.shown} came without an event: {why}, or the"
        " trigger was away",
        "publish them, or unsubscribe(delete=True) and subscribe with start='earliest'",
    )


def outbox(about: str, place: TablePlace, waits: Waiting) -> Iterable[Finding]:
    """Yield findings about rows that wait in the outbox."""
    age = "" if waits.oldest_s is None else f", the oldest for {_lasting(waits.oldest_s)}"
    said = f"{count(waits.rows, 'change')} of {place.shown} wait in the outbox{age}"
    if waits.full:
        yield Finding(
            "error",
            about,
            "outbox",
            f"{said}; it is full ({LIMIT:,}): changes after that are no events",
            "let a listener run: sub.start() or `mltrigger worker`; or unsubscribe(delete=True)",
        )
    elif waits.oldest_s is not None and waits.oldest_s > _LONG_S:
        yield Finding(
            "warning",
            about,
            "outbox",
            f"{said}; nobody takes them. It is full at {LIMIT:,}",
            "let a listener run: sub.start() or `mltrigger worker`; or unsubscribe(delete=True)",
        )


def _lasting(seconds: float) -> str:
    """Return a duration in words, in its largest unit."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * length:
            return count(int(seconds // length), unit)
    return f"{seconds:.0f} s"
