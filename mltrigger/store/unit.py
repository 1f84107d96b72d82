"""The log's unit of work: attempts are recorded in the same transaction as their settlement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery
from mltrigger.clock import Clock
from mltrigger.store.outcomes import Outcome
from mltrigger.store.transaction import Transaction
from mltrigger.versions.running.invoke import Result


class Invocation(NamedTuple):
    """One attempt of one model version on one delivery."""

    delivery: Delivery
    outcome: Outcome
    model_version_id: int | None
    result: Result
    started_us: int | None
    finished_us: int | None
    batch_size: int
    reason: str | None = None
    stdout: str | None = None


class Uncalled(NamedTuple):
    """An attempt that ended without an answer of a model."""

    subscription_id: int
    seq: int
    attempt: int
    visible_us: int
    received_us: int
    worker_id: int
    reason: str
    error: str | None = None


class _Row(NamedTuple):
    """A row of ``invocation``."""

    seq: int
    subscription_id: int
    attempt: int
    role: str
    outcome: Outcome
    reason: str | None
    visible_us: int
    received_us: int
    settled_us: int
    worker_id: int
    error: str | None
    model_version_id: int | None = None
    started_us: int | None = None
    finished_us: int | None = None
    batch_size: int | None = None
    output: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    stdout: str | None = None


_RECORD = f"""
INSERT INTO invocation ({", ".join(_Row._fields)})
VALUES ({", ".join(f":{name}" for name in _Row._fields)})
ON CONFLICT (seq, subscription_id, attempt) DO UPDATE SET
  outcome = excluded.outcome, reason = excluded.reason, started_us = excluded.started_us,
  finished_us = excluded.finished_us, output = excluded.output,
  error_type = excluded.error_type, error = excluded.error, traceback = excluded.traceback,
  stdout = excluded.stdout
WHERE invocation.outcome = 'abandoned'
"""

# For an attempt that lost its lease: no row if its event was pruned, else its outcome so far.
_EARLIER = """
SELECT i.outcome FROM event e LEFT JOIN invocation i
  ON i.seq = e.seq AND i.subscription_id = :s AND i.attempt = :attempt
WHERE e.seq = :seq
"""

_FORGET = """
DELETE FROM invocation
WHERE seq = :seq AND subscription_id = :s AND attempt = :attempt AND outcome = 'abandoned'
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
        """Write one row an attempt of a subscription of that *role*.

        The row of an attempt that was recorded as abandoned and then ended is corrected in place.
        Deliveries in *counted* came after their lease and count all the same. They get a new row,
        so that readers who follow the log see them.
        """
        settled_us, worker_id = self._clock.now_us(), self._worker_id()
        counts = Counter((i.delivery.subscription_id, i.outcome) for i in invocations)
        late = [i for i in invocations if i.outcome == "stale" or i.delivery in counted]
        if late:
            pruned = [i for i in late if not self._count_late(i, counts)]
            invocations = [i for i in invocations if i not in pruned]
            self.transaction.execute_many(
                _FORGET, [(d.seq, d.subscription_id, d.attempt) for d in counted]
            )
        self.transaction.execute_many(
            _RECORD, [_row(i, role, settled_us, worker_id) for i in invocations]
        )
        for (subscription_id, outcome), n in counts.items():
            tally(self.transaction, subscription_id, worker_id, outcome, n)

    def _count_late(self, invocation: Invocation, counts: Counter[tuple[int, Outcome]]) -> bool:
        """Count a late attempt once, whatever was written before.

        Return whether its event is still there.
        """
        d = invocation.delivery
        earlier = self.transaction.query(
            _EARLIER, {"s": d.subscription_id, "seq": d.seq, "attempt": d.attempt}
        )
        if earlier == [("abandoned",)]:
            counts[d.subscription_id, "abandoned"] -= 1
        elif earlier != [(None,)]:
            counts[d.subscription_id, invocation.outcome] -= 1
        return bool(earlier)


def tally(
    transaction: Transaction, subscription_id: int, worker_id: int, outcome: Outcome, n: int
) -> None:
    """Add *n* to the number of attempts with that outcome. *n* may be negative."""
    transaction.execute_many(_TALLY, [(subscription_id, worker_id, outcome, n)])


def record_uncalled(
    transaction: Transaction,
    attempts: Sequence[Uncalled],
    outcome: Outcome,
    now_us: int,
    role: str = "live",
) -> None:
    """Record *attempts* that ended without an answer of a model."""
    rows = [
        _Row(
            a.seq,
            a.subscription_id,
            a.attempt,
            role,
            outcome,
            a.reason,
            a.visible_us,
            a.received_us,
            now_us,
            a.worker_id,
            a.error,
        )
        for a in attempts
    ]
    transaction.execute_many(_RECORD, rows)
    counts = Counter((a.subscription_id, a.worker_id) for a in attempts)
    for (subscription_id, worker_id), n in counts.items():
        tally(transaction, subscription_id, worker_id, outcome, n)


def _row(invocation: Invocation, role: str, settled_us: int, worker_id: int) -> _Row:
    d, result = invocation.delivery, invocation.result
    return _Row(
        d.seq,
        d.subscription_id,
        d.attempt,
        role,
        invocation.outcome,
        invocation.reason,
        d.visible_us,
        d.received_us,
        settled_us,
        worker_id,
        result.error,
        invocation.model_version_id,
        invocation.started_us,
        invocation.finished_us,
        invocation.batch_size,
        result.output,
        result.error_type,
        result.traceback,
        invocation.stdout,
    )
