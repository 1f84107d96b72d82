"""Retention: delete old events with their records, by age and by count.

Open events and dead letters are never deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mltrigger.clock import Clock
from mltrigger.errors import InvalidPolicy
from mltrigger.store import labels, limits
from mltrigger.store.transaction import Store, Transaction
from mltrigger.text import card_of

_FIRST_PER_S, _MOST_PER_S = 5_000, 1_000_000
"""The events, or lots, of one transaction, by how long it may hold the write lock."""

# Cursors hold the events of their topic that are still before them. Those of lanes hold no more
# than their limit allows.
_LIMIT = """
coalesce((SELECT CAST(json_extract(value, '$[1]') AS BIGINT) FROM json_each(:floors)
  WHERE CAST(json_extract(value, '$[0]') AS BIGINT) = {s}), 0)
"""
_FLOOR = f"""
WITH floor AS (
  SELECT s.topic_id, min(CASE WHEN c.next_seq < {_LIMIT.format(s="s.id")}
    THEN {_LIMIT.format(s="s.id")} ELSE c.next_seq END) AS seq
  FROM cursor c JOIN subscription s ON s.id = c.subscription_id
  WHERE s.bound = 1 AND c.next_seq IS NOT NULL GROUP BY s.topic_id
)
"""
_NEXT = f"""
{_FLOOR}
SELECT e.seq FROM event e LEFT JOIN floor f ON f.topic_id = e.topic_id
WHERE e.seq > :after AND e.seq <= :last
  AND (f.seq IS NULL OR e.seq < f.seq OR e.by_rows_us IS NOT NULL)
ORDER BY e.seq LIMIT 1
"""
_STEP_TO = """
SELECT max(seq) FROM (
  SELECT seq FROM event WHERE seq >= :low AND seq <= :last ORDER BY seq LIMIT :n
) AS step
"""
_IN_STEP = "subscription_id IN (SELECT id FROM subscription) AND seq BETWEEN :low AND :high"
_HELD = f"""
{_FLOOR}
SELECT e.seq FROM event e JOIN floor f ON f.topic_id = e.topic_id AND e.seq >= f.seq
WHERE e.seq BETWEEN :low AND :high AND e.by_rows_us IS NULL
UNION SELECT seq FROM leased WHERE seq BETWEEN :low AND :high
  AND {_LIMIT.format(s="subscription_id")} < {limits.ALL}
UNION SELECT seq FROM ready WHERE seq BETWEEN :low AND :high
  AND seq >= {_LIMIT.format(s="subscription_id")}
UNION SELECT seq FROM awaited WHERE {_IN_STEP}
UNION SELECT seq FROM keyed WHERE {_IN_STEP}
UNION SELECT seq FROM dead_letter WHERE {_IN_STEP} AND discarded_us IS NULL
UNION SELECT seq FROM unsent WHERE seq BETWEEN :low AND :high
"""
_NEWEST = "SELECT coalesce((SELECT seq FROM event ORDER BY seq DESC LIMIT 1), 0)"
"""Of the events that are visible: the next numbers may be given, and theirs are young."""
_COUNT = "SELECT count(*) FROM event"
"""A statement of its own: SQLite then counts an index without reading its entries."""
_SURPLUS = "SELECT seq FROM event ORDER BY seq LIMIT 1 OFFSET :n"
_YOUNG = """
SELECT min(seq) FROM (
  SELECT seq FROM event WHERE seq > :last AND published_us >= :before ORDER BY seq LIMIT 1
) AS young
"""
_LEFT = "SELECT count(*) FROM event WHERE seq <= :last"
_USED = """
SELECT DISTINCT lot_id FROM outcome WHERE seq <= :last AND lot_id BETWEEN :low AND :high
"""
"""The lots of events that are kept, such as dead letters."""
_EMPTY = """
SELECT l.id FROM lot l
WHERE l.id > :after AND l.high <= :last AND l.id < (SELECT max(id) FROM lot) AND NOT EXISTS (
  SELECT 1 FROM outcome o WHERE o.subscription_id = l.subscription_id
    AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id)
ORDER BY l.id LIMIT :n
"""
_FORGET_DESCENT = """
DELETE FROM descent WHERE counted_us < (SELECT published_us FROM event ORDER BY seq LIMIT 1)
"""
_OF_LANES = """
DELETE FROM ready WHERE subscription_id IN (SELECT id FROM subscription WHERE parent_id IS NOT NULL)
  AND seq BETWEEN :low AND :high
"""
_OF_SUBSCRIPTIONS = ("resent", "dead_letter", "effect")
_MOST_HELD = 0.25
"""If more events of a part of the log are held, the others are deleted one by one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """How long events and their invocations are kept.

    Open events and dead letters stay until they are ended.

    Parameters
    ----------
    max_age_s : float, optional
        Seconds since publication. Older events may be deleted. Default: no limit.
    max_events : int, optional
        The number of newest events to keep, over all topics. Default: no limit.
    """

    max_age_s: float | None = None
    max_events: int | None = None

    def __post_init__(self) -> None:
        for name, whole in (("max_age_s", False), ("max_events", True)):
            value = getattr(self, name)
            kinds = int if whole else (int, float)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= value < math.inf
            ):
                raise InvalidPolicy(
                    f"retention {name} must be a {'whole ' if whole else ''}number of at least 1 or"
                    f" left out, got {value!r}"
                )

    def _repr_html_(self) -> str:
        return card_of("Retention", self, {"max_age_s": " s"})


class Pruned(NamedTuple):
    """The counts of deleted events and invocations, and of old events that are open or dead."""

    events: int
    invocations: int
    held: int

    def _repr_html_(self) -> str:
        return card_of("Pruned", self)


def prune(store: Store, clock: Clock, retention: Retention) -> Pruned:
    """Delete the events beyond *retention*, oldest first, in small transactions.

    A kill at any point leaves only whole events. The space is given back by and by.
    """
    last = surplus(store, retention, clock.now_us())
    with store.snapshot() as reader:
        floors = json.dumps([*limits.floors(reader, clock.now_us()).items()])
    events = invocations = after = 0
    steps = _Steps(store)
    for low, high in store.spans("event", last):
        try:
            with store.transaction() as transaction:
                deleted, ended = _delete_span(transaction, low, high, floors)
            events, invocations = events + deleted, invocations + ended
        except _InTheWay:
            after = high  # the next time finds it
    # A search for the next event, without the write lock: a stopped subscription may hold many.
    while found := store.read(_NEXT, {"after": after, "last": last, "floors": floors}):
        ((low,),) = found
        with steps.next() as transaction:
            after, deleted, ended = _delete(transaction, low, last, steps.n, floors)
        events, invocations = events + deleted, invocations + ended
    _delete_lots(store, last)
    with store.transaction() as transaction:
        transaction.execute(_FORGET_DESCENT, {})
    ((held,),) = store.read(_LEFT, {"last": last})
    store.tidy()
    return Pruned(events, invocations, held)


def beyond(store: Store, retention: Retention, now_us: int) -> int:
    """Return the number of events beyond *retention*. Open ones and dead letters are among them."""
    last = surplus(store, retention, now_us)
    ((n,),) = store.read(_LEFT, {"last": last})
    return int(n)


def surplus(store: Store, retention: Retention, now_us: int) -> int:
    """Return the last event beyond *retention*, without the write lock.

    The archive is in the order of publication, so all events after a young one are young. The cost
    grows with the number of deleted events, not of kept ones. The newest event stays, because the
    next one takes the number after it.
    """
    last = 0
    with store.snapshot() as reader:
        ((newest,),) = reader.query(_NEWEST, {})
        if retention.max_events is not None:
            ((count,),) = reader.query(_COUNT, {})
            if count > retention.max_events:
                ((last,),) = reader.query(_SURPLUS, {"n": count - retention.max_events - 1})
        if retention.max_age_s is not None:
            before_us = now_us - int(retention.max_age_s * 1e6)
            ((young,),) = reader.query(_YOUNG, {"last": last, "before": before_us})
            last = newest if young is None else young - 1
    return int(min(last, newest - 1))


class _InTheWay(Exception):  # a signal
    """A reader has a part of the log open."""


class _Steps:
    """Transactions that leave others room to write: short ones, with a pause after each.

    Each is durable. Otherwise the sync of another one's publish would have to write them all.

    Attributes
    ----------
    n : int
        The number of rows for the next one. It follows the time that the last one took.
    """

    def __init__(self, store: Store) -> None:
        self._store, self.n = store, int(store.hold_s * _FIRST_PER_S)

    @contextlib.contextmanager
    def next(self) -> Iterator[Transaction]:
        """Begin one. After it, wait until others had their turn."""
        with self._store.transaction() as transaction:
            began_s = time.monotonic()
            yield transaction
            ended_s = time.monotonic()
        held_s = max(ended_s - began_s, 1e-6)  # not all clocks have such small steps
        least, most = (int(self._store.hold_s * each) for each in (_FIRST_PER_S, _MOST_PER_S))
        self.n = min(max(int(self.n * min(self._store.hold_s / held_s, 2)), least), most)
        time.sleep(max(0.0, ended_s + held_s / 2 - time.monotonic()))  # the sync is part of it


def _delete(
    transaction: Transaction, low: int, last: int, n: int, floors: str
) -> tuple[int, int, int]:
    """Delete the next *n* events from *low* on. Return the last one, and the numbers deleted."""
    ((high,),) = transaction.query(_STEP_TO, {"low": low, "last": last, "n": n})
    if high is None:  # another process was faster
        return low, 0, 0
    of = {"low": low, "high": high}
    free = _free(_held(transaction, low, high, floors))
    ended = transaction.execute(f"DELETE FROM outcome WHERE {_IN_STEP}{free}", of)
    transaction.execute(f"DELETE FROM detail WHERE {_IN_STEP}{free}", of)
    _delete_beside(transaction, low, high, free)
    deleted = transaction.execute(f"DELETE FROM event WHERE seq BETWEEN :low AND :high{free}", of)
    return high, deleted, ended


def _delete_span(transaction: Transaction, low: int, high: int, floors: str) -> tuple[int, int]:
    """Delete the events from *low* to *high*, all of a part of the log. Return the numbers deleted.

    Raises
    ------
    _InTheWay
        When a reader has the part open. The caller rolls back.
    """
    held = _held(transaction, low, high, floors)
    if len(held) > (high - low) * _MOST_HELD:
        return 0, 0
    _delete_beside(transaction, low, high, _free(held))  # labels go by the ids of the events
    gone = transaction.store.shed(transaction, "event", (low, high), held)
    if not gone["event"]:
        raise _InTheWay
    return gone["event"], gone["outcome"]


def _held(transaction: Transaction, low: int, high: int, floors: str) -> list[int]:
    rows = transaction.query(_HELD, {"low": low, "high": high, "floors": floors})
    return [int(seq) for (seq,) in rows]


def _free(held: Sequence[int]) -> str:
    return f" AND seq NOT IN ({', '.join(map(str, held))})" if held else ""


def _delete_beside(transaction: Transaction, low: int, high: int, free: str) -> None:
    """Delete the rows about events, but for the events themselves and their attempts."""
    of = {"low": low, "high": high}
    transaction.execute(f"{_OF_LANES}{free}", of)
    for table in _OF_SUBSCRIPTIONS:
        transaction.execute(f"DELETE FROM {table} WHERE {_IN_STEP}{free}", of)
    labels.forget(transaction, low, high, free)
    transaction.execute(f"DELETE FROM repeat WHERE seq BETWEEN :low AND :high{free}", of)


def _delete_lots(store: Store, last: int) -> None:
    """Delete the lots of deleted events. The newest lot stays: it carries the numbers."""
    after, steps = 0, _Steps(store)
    for low, high in store.spans("lot", last):
        used = store.read(_USED, {"low": low, "high": high, "last": last})
        if len(used) <= (high - low) * _MOST_HELD:
            with store.transaction() as transaction:
                store.shed(transaction, "lot", (low, high), [number for (number,) in used])
    while rows := store.read(_EMPTY, {"after": after, "last": last, "n": steps.n}):
        after = rows[-1][0]
        among = ", ".join(str(number) for (number,) in rows)
        with steps.next() as transaction:
            transaction.execute(f"DELETE FROM lot WHERE id IN ({among})", {})
