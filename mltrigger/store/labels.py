"""Labels: the truths about events. The latest one of an event counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.store.archive import SOURCE
from mltrigger.store.transaction import Row, Store, Transaction

_AT_ONCE = 2_000
"""The labels of one commit. Others can write in between."""
_INSERT = """
INSERT INTO label (event_id, source, truth, true_us, made_us, made_by)
VALUES (:event_id, :source, :truth, :true_us, :made_us, :made_by)
"""
_SOURCES = f"""
SELECT DISTINCT j.value, {SOURCE} FROM json_each(:ids) j JOIN event e ON e.id = event_key(j.value)
ORDER BY 1, 2
"""
_OF = f"e.id = event_key(l.event_id) AND (l.source IS NULL OR l.source = {SOURCE})"
_ROWS = f"""
SELECT l.event_id, l.source, l.truth, l.true_us, l.made_us, l.made_by,
  EXISTS (SELECT 1 FROM event e WHERE {_OF}),
  NOT EXISTS (SELECT 1 FROM label o WHERE o.event_id = l.event_id
    AND (o.source IS NULL OR l.source IS NULL OR o.source = l.source)
    AND (o.true_us, o.id) > (l.true_us, l.id))
FROM label l ORDER BY l.id
"""
# of a topic, the one that counts last
_TRUTHS = f"""
SELECT e.seq, l.truth FROM label l JOIN event e ON {_OF}
WHERE e.topic_id = (SELECT topic_id FROM subscription WHERE id = :s) ORDER BY l.true_us, l.id
"""
_ANY = "SELECT 1 FROM label LIMIT 1"
_FORGET = f"""
DELETE FROM label WHERE id IN (
  SELECT l.id FROM event e JOIN label l
    ON l.event_id = event_id(e.id) AND (l.source IS NULL OR l.source = {SOURCE})
  WHERE e.seq BETWEEN :low AND :high{{free}} AND NOT EXISTS (
    SELECT 1 FROM event k WHERE k.id = e.id AND k.seq NOT BETWEEN :low AND :high))
"""


class Label(NamedTuple):
    """The truth about an event, as JSON, and since when it holds.

    Without a ``source`` it is about any event with the id. Without ``true_us`` it holds since now.
    """

    event_id: str
    source: str | None
    truth: str
    true_us: int | None
    made_by: str


class Labels:
    """The labels of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def sources(self, event_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the sources of those of *event_ids* that are in the archive."""
        found: dict[str, list[str]] = {}
        for at in range(0, len(event_ids), _AT_ONCE):
            ids = json.dumps(event_ids[at : at + _AT_ONCE])
            for event_id, source in self._store.read(_SOURCES, {"ids": ids}):
                found.setdefault(event_id, []).append(source)
        return found

    def add(self, labels: Sequence[Label]) -> None:
        """Keep *labels*, many of them in several commits."""
        now_us = self._clock.now_us()
        rows: list[Row] = [
            (*each[:3], now_us if each.true_us is None else each.true_us, now_us, each.made_by)
            for each in labels
        ]
        for at in range(0, len(rows), _AT_ONCE):
            with self._store.transaction() as transaction:
                transaction.execute_many(_INSERT, rows[at : at + _AT_ONCE])

    def rows(self) -> list[Row]:
        """Return all labels in the order in which they came, as the frame shows them."""
        return self._store.read(_ROWS)

    def truths(self, subscription_id: int) -> dict[int, str]:
        """Return the truth that counts, as JSON, for each labelled event of a subscription."""
        return dict(self._store.read(_TRUTHS, {"s": subscription_id}))


def forget(transaction: Transaction, low: int, high: int, free: str) -> None:
    """Delete the labels of events that are about to be deleted. *free* leaves others out."""
    if transaction.query(_ANY, {}):
        transaction.execute(_FORGET.format(free=free), {"low": low, "high": high})
