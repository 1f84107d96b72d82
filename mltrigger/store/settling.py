"""Settlement in a SQL store: done, again or dead, also for answers after their lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mltrigger.broker import Delivery, Settlement
from mltrigger.policy import SUSPECT, charged, cleared
from mltrigger.store.queue import (
    DELETE_LEASE,
    INSERT_AWAITED,
    INSERT_DEAD,
    INSERT_READY,
    Dead,
    Waiting,
)
from mltrigger.store.transaction import Transaction

FAR_S = 3_600.0
"""The longest wait for the next attempt in an outside queue. A longer one is kept here."""

_HELD = """
SELECT seq, attempt, failures, abandoned FROM lease
WHERE subscription_id = :s AND seq BETWEEN :low AND :high
"""
_FINAL = "SELECT 1 FROM final WHERE subscription_id = :s AND seq = :seq LIMIT 1"
_RESENT = "SELECT resent_us FROM resent WHERE subscription_id = :s AND seq = :seq"
_OF = "WHERE subscription_id = :s AND seq = :seq"


def held(
    transaction: Transaction, deliveries: Iterable[Delivery]
) -> dict[Delivery, tuple[int, int]]:
    """Return the deliveries whose lease is held, with its failures and abandoned attempts.

    The counts come from the lease: a late answer may have changed them.
    """
    by_subscription: dict[int, list[Delivery]] = {}
    for d in deliveries:
        by_subscription.setdefault(d.subscription_id, []).append(d)
    found: dict[Delivery, tuple[int, int]] = {}
    for s, mine in by_subscription.items():
        seqs = [d.seq for d in mine]
        leases = {
            (seq, attempt): (failures, abandoned)
            for seq, attempt, failures, abandoned in transaction.query(
                _HELD, {"s": s, "low": min(seqs), "high": max(seqs)}
            )
        }
        for d in mine:
            if (counts := leases.get((d.seq, d.attempt))) is not None:
                found[d] = counts
    return found


def settle(
    transaction: Transaction, settlements: Sequence[Settlement], now_us: int
) -> tuple[list[Delivery], set[int]]:
    """Settle the deliveries whose lease is held.

    Return the others, for which nothing was changed, and the subscriptions with new work.
    """
    counts = held(transaction, [s.delivery for s in settlements])
    lost = [s.delivery for s in settlements if s.delivery not in counts]
    if lost:
        settlements = [s for s in settlements if s.delivery in counts]
    transaction.execute_many(
        DELETE_LEASE,
        [(s.delivery.subscription_id, s.delivery.seq, s.delivery.attempt) for s in settlements],
    )
    back = [s for s in settlements if s.verdict in ("retry", "release")]
    if back:
        here = [_waiting(s, now_us, *counts[s.delivery]) for s in back if not comes_again(s)]
        outside = [_waiting(s, now_us, *counts[s.delivery]) for s in back if comes_again(s)]
        transaction.execute_many(INSERT_READY, here)
        transaction.execute_many(INSERT_AWAITED, outside)
    transaction.execute_many(
        INSERT_DEAD, [_dead(s, now_us) for s in settlements if s.verdict == "dead_letter"]
    )
    return lost, {s.delivery.subscription_id for s in back}


def comes_again(settlement: Settlement) -> bool:
    """Whether the next attempt comes with the message of an outside queue.

    A delivery with a long delay is kept here, where nothing expires.
    """
    return settlement.delivery.message is not None and settlement.delay_s <= FAR_S


def _waiting(settlement: Settlement, now_us: int, failures: int, abandoned: int) -> Waiting:
    """Return the row of a delivery that is tried again. The counts are those of its lease."""
    d = settlement.delivery
    if d.alone:  # it has ended
        abandoned = cleared(abandoned, d.abandoned)
    visible_us = d.visible_us
    if settlement.verdict == "retry":
        visible_us = now_us + int(settlement.delay_s * 1e6)
        failures += settlement.counts == "failure"
        if settlement.counts == "death":
            abandoned = charged(abandoned)
    return Waiting(d.subscription_id, visible_us, d.seq, d.attempt, failures, abandoned)


def _dead(settlement: Settlement, now_us: int) -> Dead:
    d, s = settlement.delivery, settlement
    reason = s.reason or "model_error"
    return Dead(
        d.subscription_id,
        d.seq,
        d.attempt,
        reason,
        s.error_type,
        s.error,
        s.traceback,
        now_us,
    )


def settle_late(
    transaction: Transaction, settlements: Sequence[Settlement], now_us: int
) -> list[Delivery]:
    """Count answers that came after their lease, if their event is open. Return those.

    A worker that was paused for longer than its lease has not died. Its answer is as good as the
    next one. A final answer ends the event. A failure is counted. In both cases its attempt is no
    longer abandoned.
    """
    return [s.delivery for s in settlements if _settled_late(transaction, s, now_us)]


def _settled_late(transaction: Transaction, settlement: Settlement, now_us: int) -> bool:
    delivery = settlement.delivery
    of = {"s": delivery.subscription_id, "seq": delivery.seq}
    if transaction.query(_FINAL, of):
        return False
    # Sent again since then, perhaps with other data: the answer is not about those.
    if any(at != delivery.since_us for (at,) in transaction.query(_RESENT, of)):
        return False
    for place in ("lease", "awaited", "ready"):
        found = transaction.query(f"SELECT abandoned FROM {place} {_OF}", of)
        if not found:
            continue
        if settlement.verdict in ("ack", "dead_letter"):
            transaction.execute(f"DELETE FROM {place} {_OF}", of)
            if settlement.verdict == "dead_letter":
                transaction.execute_many(INSERT_DEAD, [_dead(settlement, now_us)])
            return True
        ((abandoned,),) = found
        _count(transaction, settlement, place, _taken_back(abandoned, delivery))
        return settlement.verdict == "retry"
    return False  # it was unsubscribed, or pruned


def _count(transaction: Transaction, settlement: Settlement, place: str, abandoned: int) -> None:
    """Count a late failure or death where the delivery is now."""
    counts = settlement.counts if settlement.verdict == "retry" else None
    transaction.execute(
        f"UPDATE {place} SET abandoned = :abandoned, failures = failures + :failed {_OF}",
        {
            "s": settlement.delivery.subscription_id,
            "seq": settlement.delivery.seq,
            "abandoned": charged(abandoned) if counts == "death" else abandoned,
            "failed": int(counts == "failure"),
        },
    )


def _taken_back(abandoned: int, delivery: Delivery) -> int:
    """Return the count of abandoned attempts without this one, which has ended after all."""
    if delivery.alone:
        return cleared(abandoned, delivery.abandoned)
    return min(0, delivery.abandoned) if abandoned == SUSPECT else abandoned
