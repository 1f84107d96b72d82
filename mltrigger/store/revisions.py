"""Which events a subscription had a right to, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.filters import FilterPolicy
from mltrigger.store.damage import damaged, numbers
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Reader

_REVISIONS = (
    "SELECT id, topic_id, made_seq, from_seq, bound, filter, filter_scope FROM revision WHERE"
    " subscription_id = :s ORDER BY id"
)
END = 2**62
"""Beyond every event."""


class Period(NamedTuple):
    """The events of a topic after ``low`` up to ``high`` were the subscription's if it was
    ``bound`` and they pass ``filter``.
    """

    topic_id: int
    low: int
    high: int
    bound: bool
    filter: FilterPolicy | None


class History(NamedTuple):
    """A subscription that exists or did, and its periods, oldest first.

    They follow one another; only one that began with the archive overlaps those before it. An event
    was due if one of them says so. ``since`` is the newest event when the first of them was made.
    """

    id: int
    name: str
    topic: str
    since: int
    periods: Sequence[Period]

    def at(self, seq: int, topic_id: int) -> list[Period]:
        """Return the periods of one event in which the subscription was bound, the newest first."""
        return [
            p
            for p in reversed(self.periods)
            if p.bound and p.topic_id == topic_id and p.low < seq <= p.high
        ]

    def ranges(self) -> list[tuple[int, int, int]]:
        """Return (topic, low, high) of all events that were published while it was bound; none of
        them overlap.
        """
        found: list[tuple[int, int, int]] = []
        for topic_id, low, high in sorted(
            (p.topic_id, p.low, p.high) for p in self.periods if p.bound and p.low < p.high
        ):
            if found and found[-1][0] == topic_id and low <= found[-1][2]:
                found[-1] = (topic_id, found[-1][1], max(high, found[-1][2]))
            else:
                found.append((topic_id, low, high))
        return found


def histories(reader: Reader, name: str | None = None) -> list[History]:
    """Return the history of subscription *name*, or of all."""
    found = reader.query(
        "SELECT s.id, s.name, t.name FROM subscription s JOIN topic t ON t.id = s.topic_id "
        + ("WHERE s.name = :name " if name is not None else "")
        + "ORDER BY t.id, s.id",
        {"name": name},
    )
    return [_history(reader, *row) for row in found]


def _history(reader: Reader, number: int, name: str, topic: str) -> History:
    rows = reader.query(_REVISIONS, {"s": number})
    if not rows:
        raise damaged("revision", f"of subscription {number}", LookupError("there is none"))
    for row in rows:
        try:
            numbers(*row[1:5])
        except TypeError as error:
            raise damaged("revision", row[0], error) from error
    ends = [*(row[2] for row in rows[1:]), END]
    periods = [
        Period(topic_id, low, end, bool(bound), filter_of(text, scope, "revision", key))
        for (key, topic_id, _, low, bound, text, scope), end in zip(rows, ends, strict=True)
    ]
    return History(number, name, topic, rows[0][2], periods)
