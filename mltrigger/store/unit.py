"""The unit of work: one row an attempt, written in the same transaction as its settlement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery
from mltrigger.clock import Clock
from mltrigger.store.outcomes import Outcome
from mltrigger.store.transaction import Row, Transaction
from mltrigger.versions.running.invoke import Result


class Invocation(NamedTuple):
    """One attempt of one model version on one delivery, as it is recorded."""

    delivery: Delivery
    outcome: Outcome
    model_version_id: int | None
    result: Result
    started_us: int | None
    finished_us: int | None
    batch_size: int
    reason: str | None = None
    stdout: str | None = None
    role: str = "live"


_RECORD = """
INSERT INTO invocation (seq, subscription_id, attempt, model_version_id, role, outcome, reason, visible_us, received_us, started_us,
  finished_us, settled_us, batch_size, worker_id, output, error_type, error, traceback, stdout)
VALUES (:seq, :subscription_id, :attempt, :model_version_id, :role, :outcome, :reason, :visible_us, :received_us, :started_us,
  :finished_us, :settled_us, :batch_size, :worker_id, :output, :error_type, :error, :traceback, :stdout)
ON CONFLICT (seq, subscription_id, attempt) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
  started_us = excluded.started_us, finished_us = excluded.finished_us, output = excluded.output, error_type = excluded.error_type,
  error = excluded.error, traceback = excluded.traceback, stdout = excluded.stdout
WHERE invocation.outcome = 'abandoned'
"""

# What an attempt that lost its lease finds: nothing when its event was pruned, else the outcome
# that was written for it, if any.
_EARLIER = """
SELECT i.outcome FROM event e LEFT JOIN invocation i ON i.seq = e.seq AND i.subscription_id = :s AND i.attempt = :attempt
WHERE e.seq = :seq
"""

_FORGET = (
    "DELETE FROM invocation WHERE seq = :seq AND subscription_id = :s AND attempt = :attempt AND"
    " outcome = 'abandoned'"
)

_TALLY = """
INSERT INTO tally (subscription_id, worker_id, outcome, n) VALUES (:subscription_id, :worker_id, :outcome, :n)
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

    def record(self, invocations: Sequence[Invocation], counted: Sequence[Delivery] = ()) -> None:
        """Write one row an attempt.

        An attempt that was taken for abandoned and ended after all is corrected in place.

        Those of *counted* came after their lease and count all the same: their row is a new one,
        for those who follow the log.
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
            _RECORD, [_row(i, settled_us, worker_id) for i in invocations]
        )
        self.transaction.execute_many(
            _TALLY, [(s, worker_id, outcome, n) for (s, outcome), n in counts.items()]
        )

    def _count_late(self, invocation: Invocation, counts: Counter[tuple[int, Outcome]]) -> bool:
        """Count a late attempt once, whatever was written for it before; return whether its event
        is still there.
        """
        delivery = invocation.delivery
        s = delivery.subscription_id
        earlier = self.transaction.query(
            _EARLIER, {"s": s, "seq": delivery.seq, "attempt": delivery.attempt}
        )
        if earlier == [("abandoned",)]:
            counts[s, "abandoned"] -= 1
        elif earlier != [(None,)]:
            counts[s, invocation.outcome] -= 1
        return bool(earlier)


def record_uncalled(transaction: Transaction, rows: Sequence[Row], outcome: Outcome) -> None:
    """Record deliveries that ended before any model was called: (subscription_id, seq, attempt,
    now, worker, reason, error).
    """
    transaction.execute_many(
        _RECORD,
        [
            (
                seq,
                s,
                attempt,
                None,
                "live",
                outcome,
                reason,
                now_us,
                now_us,
                None,
                None,
                now_us,
                None,
                worker_id,
                None,
                None,
                error,
                None,
                None,
            )
            for s, seq, attempt, now_us, worker_id, reason, error in rows
        ],
    )
    counts = Counter((row[0], row[4]) for row in rows)
    transaction.execute_many(_TALLY, [(s, w, outcome, n) for (s, w), n in counts.items()])


def record_abandoned(
    transaction: Transaction, rows: Sequence[Row], outcome: Outcome, now_us: int
) -> None:
    """Record attempts that never ended, from the leases they left: (subscription_id, seq, attempt,
    visible, received, worker).
    """
    reason = "lease_expired" if outcome == "abandoned" else "worker_died"
    transaction.execute_many(
        _RECORD,
        [
            (
                seq,
                subscription_id,
                attempt,
                None,
                "live",
                outcome,
                reason,
                visible_us,
                received_us,
                None,
                None,
                now_us,
                None,
                worker_id,
                None,
                None,
                None,
                None,
                None,
            )
            for subscription_id, seq, attempt, visible_us, received_us, worker_id in rows
        ],
    )
    counts = Counter((row[0], row[5]) for row in rows)
    transaction.execute_many(_TALLY, [(s, w, outcome, n) for (s, w), n in counts.items()])


def _row(invocation: Invocation, settled_us: int, worker_id: int) -> Row:
    delivery, result = invocation.delivery, invocation.result
    return (
        delivery.seq,
        delivery.subscription_id,
        delivery.attempt,
        invocation.model_version_id,
        invocation.role,
        invocation.outcome,
        invocation.reason,
        delivery.visible_us,
        delivery.received_us,
        invocation.started_us,
        invocation.finished_us,
        settled_us,
        invocation.batch_size,
        worker_id,
        result.output,
        result.error_type,
        result.error,
        result.traceback,
        invocation.stdout,
    )
