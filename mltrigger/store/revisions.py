"""The right of a subscription to events, over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.filters import FilterPolicy
from mltrigger.store.damage import damaged, numbers
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Reader

_REVISIONS = """
SELECT id, topic_id, made_seq, from_seq, bound, filter, filter_scope FROM revision
WHERE subscription_id = :s ORDER BY id
"""
END = 2**62
"""A place beyond every event."""


class _Revision(NamedTuple):
    """A row of ``revision``."""

    id: int
    topic_id: int
    made_seq: int
    from_seq: int
    bound: int
    filter: str | None
    scope: str | None


class Period(NamedTuple):
    """A span of a topic: the events after ``low`` up to ``high``.

    They are due to the subscription if it was ``bound`` and they pass ``filter``.
    """

    topic_id: int
    low: int
    high: int
    bound: bool
    filter: FilterPolicy | None


class History(NamedTuple):
    """A subscription, bound or not, and its periods, oldest first.

    The periods follow one another. Only one that began with the archive overlaps earlier ones. An
    event was due if one period says so. ``since`` is the newest event when the first was made.
    """

    id: int
    name: str
    topic: str
    since: int
    periods: Sequence[Period]

    def at(self, seq: int, topic_id: int) -> list[Period]:
        """Return the bound periods of one event, the newest first."""
        return [
            p
            for p in reversed(self.periods)
            if p.bound and p.topic_id == topic_id and p.low < seq <= p.high
        ]

    def ranges(self) -> list[tuple[int, int, int]]:
        """Return (topic, low, high) of all events published while it was bound, without overlap."""
        found: list[tuple[int, int, int]] = []
        for topic_id, low, high in sorted(
            (p.topic_id, p.low, p.high) for p in self.periods if p.bound and p.low < p.high
        ):
            if found:
                last_topic, last_low, last_high = found[-1]
                if last_topic == topic_id and low <= last_high:
                    found[-1] = (topic_id, last_low, max(high, last_high))
                    continue
            found.append((topic_id, low, high))
        return found


def histories(reader: Reader, name: str | None = None) -> list[History]:
    """Return the history of subscription *name*, or of all."""
    found = reader.query(
        "SELECT s.id, s.name, t.name FROM subscription s JOIN topic t ON t.id = s.topic_id "
        "WHERE s.parent_id IS NULL "
        + ("AND s.name = :name " if name is not None else "")
        + "ORDER BY t.id, s.id",
        {"name": name},
    )
    return [_history(reader, *row) for row in found]


def _history(reader: Reader, number: int, name: str, topic: str) -> History:
    revisions = list(map(_Revision._make, reader.query(_REVISIONS, {"s": number})))
    if not revisions:
        raise damaged("revision", f"of subscription {number}", LookupError("there is none"))
    for r in revisions:
        try:
            numbers(r.topic_id, r.made_seq, r.from_seq, r.bound)
        except TypeError as error:
            raise damaged("revision", r.id, error) from error
    ends = [*(r.made_seq for r in revisions[1:]), END]
    periods = [
        Period(
            r.topic_id,
            r.from_seq,
            end,
            bool(r.bound),
            filter_of(r.filter, r.scope, "revision", r.id),
        )
        for r, end in zip(revisions, ends, strict=True)
    ]
    return History(number, name, topic, revisions[0].made_seq, periods)
