"""The log's unit of work: attempts are recorded in the same transaction as their settlement."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery
from mltrigger.clock import Clock
from mltrigger.store.lots import Attempt, By, LotOf, Succeeded, record_lots, record_successes
from mltrigger.store.outcomes import Outcome
from mltrigger.store.transaction import Transaction
from mltrigger.store.undone import is_undone
from mltrigger.versions.running.invoke import Result


class Invocation(NamedTuple):
    """One attempt of one model version on one delivery. Without ``by`` no version was called."""

    delivery: Delivery
    outcome: Outcome
    by: By | None
    result: Result
    started_us: int | None
    finished_us: int | None
    batch_size: int
    reason: str | None = None
    stdout: str | None = None


class Uncalled(NamedTuple):
    """An attempt that ended without an answer of a model.

    ``visible_us`` is ``None`` if its event waited since it was published.
    """

    subscription_id: int
    seq: int
    attempt: int
    visible_us: int | None
    received_us: int
    worker_id: int
    reason: str
    error: str | None = None
    by: By | None = None


# For an attempt that lost its lease: no row if its event was pruned, else its outcome so far.
_EARLIER = """
SELECT i.outcome FROM event e LEFT JOIN invocation i
  ON i.seq = e.seq AND i.subscription_id = :s AND i.attempt = :attempt
WHERE e.seq = :seq
"""
_TALLY = """
INSERT INTO tally (subscription_id, worker_id, outcome, n)
VALUES (:subscription_id, :worker_id, :outcome, :n)
ON CONFLICT (subscription_id, worker_id, outcome) DO UPDATE SET n = tally.n + excluded.n
"""


class Unit:
    """The log's unit of work: record, hand on and settle in one commit."""

    __slots__ = ("_clock", "_worker_id", "transaction")

    def __init__(
        self, transaction: Transaction, clock: Clock, worker_id: Callable[[], int]
    ) -> None:
        self.transaction = transaction
        self._clock = clock
        self._worker_id = worker_id

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* once the unit is durable."""
        self.transaction.after_commit(action)

    def record(
        self,
        invocations: Sequence[Invocation],
        counted: Sequence[Delivery] = (),
        role: str = "live",
    ) -> None:
        """Write one row an attempt. Those without a version are of that *role*.

        An attempt that was recorded as abandoned and then ended is corrected. Deliveries in
        *counted* came after their lease and count all the same. Both get a new row, so that readers
        who follow the log see them.
        """
        settled_us, worker_id = self._clock.now_us(), self._worker_id()
        counts = Counter((i.delivery.subscription_id, i.outcome) for i in invocations)
        late = [i for i in invocations if i.outcome == "stale" or i.delivery in counted]
        if late:
            pruned = [i for i in late if not self._count_late(i, counts)]
            invocations = [i for i in invocations if i not in pruned]
        for _, group in itertools.groupby(invocations, _alike):
            same = list(group)
            lot = _lot(same, role, settled_us, worker_id)
            record_lots(self.transaction, lot, _attempts(same, lot), corrects=bool(late))
        for (subscription_id, outcome), n in counts.items():
            tally(self.transaction, subscription_id, worker_id, outcome, n)

    def record_well(self, well: Succeeded) -> None:
        """Write one row an attempt of answers that went well, whose leases have ended."""
        settled_us, worker_id = self._clock.now_us(), self._worker_id()
        s, size = well.subscription_id, well.batch_size
        for received_us, part in well.by_receipt():
            times_us = (part.started_us, part.finished_us)
            version_id, binding, role = well.by
            lot = LotOf(
                *(s, role, settled_us, worker_id, version_id, received_us, size, *times_us),
                binding=binding,
            )
            record_successes(self.transaction, lot, part)
        tally(self.transaction, s, worker_id, "succeeded", len(well.deliveries))

    def _count_late(self, invocation: Invocation, counts: Counter[tuple[int, Outcome]]) -> bool:
        """Count a late attempt once, whatever was written before.

        Return whether it is recorded: its event is there, and its claim is not undone.
        """
        d = invocation.delivery
        earlier = self.transaction.query(
            _EARLIER, {"s": d.subscription_id, "seq": d.seq, "attempt": d.attempt}
        )
        if earlier == [("abandoned",)]:
            counts[d.subscription_id, "abandoned"] -= 1
        elif earlier != [(None,)]:
            counts[d.subscription_id, invocation.outcome] -= 1
        elif invocation.outcome == "stale" and is_undone(self.transaction, d):
            counts[d.subscription_id, "stale"] -= 1
            return False
        return bool(earlier)


def tally(
    transaction: Transaction, subscription_id: int, worker_id: int, outcome: Outcome, n: int
) -> None:
    """Add *n* to the number of attempts with that outcome. *n* may be negative."""
    transaction.put(_TALLY, [(subscription_id, worker_id, outcome, n)])


def record_uncalled(
    transaction: Transaction,
    attempts: Iterable[Uncalled],
    outcome: Outcome,
    now_us: int,
    role: str = "live",
) -> None:
    """Record *attempts* that ended without an answer of a model."""
    for shared, group in itertools.groupby(attempts, _shared_uncalled):
        subscription_id, worker_id, received_us, reason, by = shared
        version_id, binding, own = by or By(None, 0, role)
        lot = LotOf(
            *(subscription_id, own, now_us, worker_id, version_id, received_us, None),
            reason=reason,
            binding=binding,
        )
        rows = [Attempt(a.seq, a.attempt, outcome, a.visible_us, error=a.error) for a in group]
        record_lots(transaction, lot, rows)
        tally(transaction, subscription_id, worker_id, outcome, len(rows))


def _shared_uncalled(a: Uncalled) -> tuple[int, int, int, str, By | None]:
    return a.subscription_id, a.worker_id, a.received_us, a.reason, a.by


def _alike(i: Invocation) -> tuple[int, By | None, int, int, bool]:
    """Return the key of attempts that go into one lot."""
    d = i.delivery
    timed = i.started_us is not None and i.finished_us is not None
    return d.subscription_id, i.by, d.received_us, i.batch_size, timed


def _lot(same: Sequence[Invocation], role: str, settled_us: int, worker_id: int) -> LotOf:
    first = same[0]
    d, by = first.delivery, first.by
    return LotOf(
        d.subscription_id,
        by.role if by else role,
        settled_us,
        worker_id,
        by and by.version_id,
        d.received_us,
        first.batch_size,
        first.started_us,
        first.finished_us,
        binding=by.binding if by else 0,
    )


def _attempts(same: Sequence[Invocation], lot: LotOf) -> list[Attempt]:
    began_us, ended_us = lot.started_us, lot.finished_us
    made = []
    for d, outcome, _, result, started_us, finished_us, _, reason, stdout in same:
        own = (started_us, finished_us) != (began_us, ended_us)
        made.append(
            Attempt(
                d.seq,
                d.attempt,
                outcome,
                None if d.visible_us == d.published_us else d.visible_us,
                reason,
                result.output,
                result.error_type,
                result.error,
                result.traceback,
                stdout,
                *_times(own, began_us, started_us, finished_us),
                result.measures,
            )
        )
    return made


def _times(
    own: bool, began_us: int | None, started_us: int | None, finished_us: int | None
) -> tuple[int | None, int | None]:
    """Return when an attempt began in its lot and how long it took, if it is not as the lot."""
    if not own or began_us is None or started_us is None or finished_us is None:
        return None, None
    return started_us - began_us, finished_us - started_us
