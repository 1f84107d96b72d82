"""Which events a subscription had a right to, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.filters import FilterPolicy
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Reader


class Period(NamedTuple):
    """The events after ``low`` up to ``high`` were the subscription's if it was ``bound`` and they pass ``filter``."""

    low: int
    high: float
    bound: bool
    filter: FilterPolicy | None


class History(NamedTuple):
    """A subscription that exists or did, and its periods, oldest first; they cover everything since it was made."""

    id: int
    name: str
    topic_id: int
    topic: str
    periods: Sequence[Period]

    def at(self, seq: int) -> Period | None:
        """Return the period of one event, ``None`` when the subscription was made after it."""
        return next((p for p in self.periods if p.low < seq <= p.high), None)


def histories(reader: Reader, name: str | None = None) -> list[History]:
    """Return the history of subscription *name*, or of all."""
    found = reader.query(
        "SELECT s.id, s.name, t.id, t.name FROM subscription s JOIN topic t ON t.id = s.topic_id "
        + ("WHERE s.name = :name " if name is not None else "")
        + "ORDER BY t.id, s.id",
        {"name": name},
    )
    return [History(id_, own, topic_id, topic, _periods(reader, id_)) for id_, own, topic_id, topic in found]


def _periods(reader: Reader, subscription_id: int) -> list[Period]:
    periods: list[Period] = []
    rows = reader.query(
        "SELECT from_seq, bound, filter, filter_scope FROM revision WHERE subscription_id = :s ORDER BY id", {"s": subscription_id}
    )
    for from_seq, bound, text, scope in rows:
        # A later revision holds from its event on; one from the start takes the place of all before it.
        periods = [p._replace(high=min(p.high, from_seq)) for p in periods if p.low < from_seq]
        periods.append(Period(from_seq, math.inf, bool(bound), filter_of(text, scope)))
    return periods
