"""The lanes of one store: open, stop and go on, and count how far each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery, Settlement, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.store import lanes, limits, settling
from mltrigger.store.attempts import settled_since
from mltrigger.store.broker import SqlBroker
from mltrigger.store.lanes import LaneRow, Opened
from mltrigger.store.leasing import BEHIND
from mltrigger.store.tables import CODES, FINAL_CODES
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup

RATE_S = 60.0
"""The rate of a lane is that of so many last seconds."""
_TALLY = "SELECT outcome, sum(n) FROM tally WHERE subscription_id = :s GROUP BY outcome"
_OPEN = f"""
SELECT (SELECT count(*) FROM ready WHERE subscription_id = :s)
  + (SELECT coalesce(sum(n), 0) FROM lease WHERE subscription_id = :s)
  + CASE WHEN c.next_seq IS NULL THEN 0 ELSE {BEHIND} END
FROM subscription s JOIN cursor c ON c.subscription_id = s.id WHERE s.id = :s
"""
_RECENT = """
SELECT coalesce(sum(n), 0), min(received_us), max(settled_us) FROM lot
WHERE id >= :lot AND subscription_id = :s AND settled_us >= :since
"""
_ANSWERED = f"""
SELECT count(*), coalesce(sum(o.outcome = {CODES["dead"]}), 0) FROM lot l CROSS JOIN outcome o
  ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
WHERE l.subscription_id = :s AND l.role = :role AND l.binding >= :first
  AND o.outcome IN {FINAL_CODES}
"""
_RANGE = """
SELECT coalesce((SELECT max(seq) FROM event WHERE topic_id = t.id), 0),
  coalesce((SELECT min(seq) FROM event WHERE topic_id = t.id), 1),
  (SELECT published_us FROM event ORDER BY seq LIMIT 1),
  coalesce((SELECT min(seq) FROM event), 1)
FROM topic t WHERE t.name = :topic
"""


class Counts(NamedTuple):
    """How far a lane is.

    ``done`` events have an answer, ``failed`` of them an error. ``open`` ones may still be kept out
    by the filter or the share.
    """

    done: int
    failed: int
    open: int
    rate_per_s: float


class Archive(NamedTuple):
    """The events of a topic: the last one and the first one, and when the log begins.

    ``is_cut``: older events of the log were deleted.
    """

    last: int
    first: int
    begins_us: int | None
    is_cut: bool


class LaneStore:
    """The lanes of one store.

    Parameters
    ----------
    store, clock, wakeup
        Parts of the bus.
    broker : SqlBroker
        The broker in *store*. Lanes need no queue outside.
    """

    def __init__(self, store: Store, clock: Clock, wakeup: Wakeup, broker: SqlBroker) -> None:
        self._store, self._clock, self._wakeup = store, clock, wakeup
        self.broker = broker

    def open(self, parent: SubscriptionSpec, given: Opened) -> LaneRow:
        """Make a lane of *parent*."""
        with self._store.transaction() as transaction:
            number, _ = lanes.open_lane(transaction, parent, given, self._clock.now_us())
            return lanes.lane(transaction, number)

    def rows(self, parent_id: int) -> list[LaneRow]:
        """Return the lanes of a subscription, oldest first, also those that have ended."""
        with self._store.snapshot() as reader:
            return lanes.lanes_of(reader, parent_id)

    def row(self, number: int) -> LaneRow:
        """Return a lane as it is now."""
        with self._store.snapshot() as reader:
            return lanes.lane(reader, number)

    def end(self, number: int, ended: str = "stopped") -> bool:
        """End a lane, see :func:`~mltrigger.store.lanes.end_lane`."""
        with self._store.transaction() as transaction:
            has_ended = lanes.end_lane(transaction, number, ended)
            keys = ["done", f"ready:{number}"]
            transaction.after_commit(lambda: self._wakeup.notify(keys))
        return has_ended

    def begin(self, number: int) -> bool:
        """Let a lane go on, see :func:`~mltrigger.store.lanes.begin_lane`."""
        with self._store.transaction() as transaction:
            return lanes.begin_lane(transaction, number)

    def finish(self, number: int) -> bool:
        """End a lane of which nothing is open any more. Return whether nothing is."""
        with self._store.snapshot() as reader:
            through = lanes.is_through(reader, number)
        if through:
            self.end(number, "done")
        return through

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """End leases of events that are not for their lane. Nothing is recorded.

        A power cut may undo it. Then they are looked at once more.
        """
        with self._store.transaction(durable=False) as transaction:
            if not settling.ack(transaction, deliveries):
                now_us = self._clock.now_us()
                settling.settle(transaction, [Settlement(d, "ack") for d in deliveries], now_us)

    def wait(self, timeout_s: float) -> None:
        """Wait for the next outcome, here or in another process."""
        self._wakeup.wait("done", self._wakeup.generation("done"), timeout_s)

    def counts(self, number: int) -> Counts:
        """Return how far a lane is."""
        of, now_us = {"s": number}, self._clock.now_us()
        since_us = now_us - int(RATE_S * 1e6)
        with self._store.snapshot() as reader:
            tally = {outcome: int(n) for outcome, n in reader.query(_TALLY, of)}
            ((open_,),) = reader.query(_OPEN, of)
            recent = {**of, "lot": settled_since(reader, since_us), "since": since_us}
            ((n, begun_us, ended_us),) = reader.query(_RECENT, recent)
        rate = n * 1e6 / max(1, ended_us - begun_us) if n else 0.0
        dead = tally.get("dead", 0)
        done = tally.get("succeeded", 0) + tally.get("skipped", 0) + dead
        return Counts(done, dead, int(open_), rate)

    def answered(self, subscription_id: int, role: str, first: int) -> tuple[int, int]:
        """Return how many events ended with that role since binding *first*, and how many failed.

        This looks at every lot of that role.
        """
        of = {"s": subscription_id, "role": role, "first": first}
        ((n, dead),) = self._store.read(_ANSWERED, of)
        return int(n), int(dead)

    def archive(self, topic: str) -> Archive:
        """Return the extent of the archive of *topic*."""
        rows = self._store.read(_RANGE, {"topic": topic})
        last, first, begins_us, oldest = rows[0] if rows else (0, 1, None, 1)
        return Archive(last, first, begins_us, oldest > 1)

    def since(self, at_us: int) -> int:
        """Return the first event that was published at that time or later."""
        with self._store.snapshot() as reader:
            return limits.since(reader, at_us)
