"""What becomes of deliveries in a SQL store: rows of those that come again or are dead, and answers
that came after their lease.
"""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.broker import Delivery, Settlement
from mltrigger.policy import MAX_ABANDONED, SUSPECT, charged, cleared
from mltrigger.store.transaction import Row, Transaction

FAR_S = 3_600.0
"""The longest that an event waits for its next attempt in a queue outside."""
INSERT_DEAD = """
INSERT INTO dead_letter (subscription_id, seq, attempt, reason, error_type, error, traceback, dead_us)
VALUES (:s, :seq, :attempt, :reason, :error_type, :error, :traceback, :now) ON CONFLICT DO NOTHING
"""
_FINAL = (
    "SELECT 1 FROM invocation WHERE subscription_id = :s AND seq = :seq AND outcome IN"
    " ('succeeded', 'dead', 'skipped') LIMIT 1"
)
_RESENT = "SELECT resent_us FROM resent WHERE subscription_id = :s AND seq = :seq"


def comes_again(settlement: Settlement) -> bool:
    """Whether the message of a delivery that is tried again brings it: one far in the future is
    kept here, where nothing expires.
    """
    return settlement.delivery.message is not None and settlement.delay_s <= FAR_S


def again_row(settlement: Settlement, now_us: int, failures: int, abandoned: int) -> Row:
    """Return the row of a delivery that comes again; the counts are those of its lease."""
    d = settlement.delivery
    if d.alone:  # it has ended
        abandoned = cleared(abandoned, d.abandoned)
    if settlement.verdict == "release":
        return (d.subscription_id, d.visible_us, d.seq, d.attempt, failures, abandoned)
    visible_us = now_us + int(settlement.delay_s * 1e6)
    deaths = charged(abandoned) if settlement.counts == "death" else abandoned
    return (
        d.subscription_id,
        visible_us,
        d.seq,
        d.attempt,
        failures + (settlement.counts == "failure"),
        deaths,
    )


def dead_row(settlement: Settlement, now_us: int) -> Row:
    """Return the row of a dead letter."""
    d, s = settlement.delivery, settlement
    return (
        d.subscription_id,
        d.seq,
        d.attempt,
        s.reason or "model_error",
        s.error_type,
        s.error,
        s.traceback,
        now_us,
    )


def died_row(row: Row, now_us: int) -> Row:
    """Return the row of a dead letter of an event that ended its process too often; *row* is what
    its lease was.
    """
    error = (
        f"{MAX_ABANDONED} attempts ran alone in their process and never ended: the event kills the"
        " process that works on it"
    )
    return (row[0], row[1], row[2], "worker_died", None, error, None, now_us)


def settle_late(
    transaction: Transaction, settlements: Sequence[Settlement], now_us: int
) -> list[Delivery]:
    """Let answers count whose lease was lost, as far as their event is open; return those that do.

    A worker that was stopped for longer than its lease has not died. What it answers is as good as
    what the next one would: a final answer ends the event, a failure is counted. In any case its
    attempt is abandoned no longer.
    """
    return [s.delivery for s in settlements if _settled_late(transaction, s, now_us)]


def _settled_late(transaction: Transaction, settlement: Settlement, now_us: int) -> bool:
    delivery = settlement.delivery
    of = {"s": delivery.subscription_id, "seq": delivery.seq}
    if transaction.query(_FINAL, of):
        return False
    resent = transaction.query(_RESENT, of)
    if resent and resent[0][0] != delivery.since_us:  # sent again since, perhaps with other data
        return False
    for place in ("lease", "awaited", "ready"):
        rows = transaction.query(
            f"SELECT abandoned FROM {place} WHERE subscription_id = :s AND seq = :seq", of
        )
        if not rows:
            continue
        if settlement.verdict in ("ack", "dead_letter"):
            transaction.execute(
                f"DELETE FROM {place} WHERE subscription_id = :s AND seq = :seq", of
            )
            if settlement.verdict == "dead_letter":
                transaction.execute_many(INSERT_DEAD, [dead_row(settlement, now_us)])
            return True
        abandoned = _taken_back(rows[0][0], delivery)
        if settlement.verdict == "retry" and settlement.counts == "death":
            abandoned = charged(abandoned)
        failed = int(settlement.verdict == "retry" and settlement.counts == "failure")
        transaction.execute(
            f"UPDATE {place} SET abandoned = :abandoned, failures = failures + :failed WHERE"
            " subscription_id = :s AND seq = :seq",
            {**of, "abandoned": abandoned, "failed": failed},
        )
        return settlement.verdict == "retry"
    return False  # it was unsubscribed, or let go


def _taken_back(abandoned: int, delivery: Delivery) -> int:
    """Return the count of abandoned attempts without this one, which has ended after all."""
    if delivery.alone:
        return cleared(abandoned, delivery.abandoned)
    return min(0, delivery.abandoned) if abandoned == SUSPECT else abandoned
