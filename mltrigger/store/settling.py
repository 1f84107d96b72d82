"""Settlement in a SQL store: done, again or dead, also for answers after their lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mltrigger.broker import Delivery, Settlement
from mltrigger.broker.alike import Alike
from mltrigger.policy import SUSPECT, charged, cleared
from mltrigger.store import leases
from mltrigger.store.leases import Lease
from mltrigger.store.queue import INSERT_AWAITED, INSERT_DEAD, INSERT_READY, Dead, Waiting
from mltrigger.store.tables import CODES, FINAL_CODES
from mltrigger.store.transaction import Transaction
from mltrigger.store.undone import is_undone

FAR_S = 3_600.0
"""The longest wait for the next attempt in an outside queue. A longer one is kept here."""

# An attempt that ended once does not end again: its row would stay, and the event go.
_ENDED = f"""
SELECT 1 FROM outcome WHERE subscription_id = :s AND seq = :seq AND (outcome IN {FINAL_CODES}
  OR (attempt = :attempt AND outcome <> {CODES["abandoned"]})) LIMIT 1
"""
_RESENT = "SELECT resent_us FROM resent WHERE subscription_id = :s AND seq = :seq"
_OF = "WHERE subscription_id = :s AND seq = :seq"


def _by_number(deliveries: Iterable[Delivery]) -> Mapping[tuple[int, int], Sequence[int]]:
    if isinstance(deliveries, Alike):  # of one claim
        return {(deliveries.claim.subscription_id, deliveries.claim.lease): deliveries.seqs}
    found: dict[tuple[int, int], list[int]] = {}
    for d in deliveries:
        found.setdefault((d.subscription_id, d.lease), []).append(d.seq)
    return found


def extend(
    transaction: Transaction, deliveries: Sequence[Delivery], until_us: int
) -> list[Delivery]:
    """Let the leases of *deliveries* end at *until_us*. Return the lost ones."""
    found = {
        (s, number, seq)
        for (s, number), seqs in _by_number(deliveries).items()
        for seq in leases.extend(transaction, s, number, seqs, until_us)
    }
    return [d for d in deliveries if (d.subscription_id, d.lease, d.seq) not in found]


def settle(
    transaction: Transaction, settlements: Sequence[Settlement], now_us: int
) -> tuple[list[Delivery], set[int]]:
    """Settle the deliveries whose lease is held.

    Return the others, for which nothing was changed, and the subscriptions with new work.
    """
    asked = _by_number([s.delivery for s in settlements])
    # The counts come from the lease: a late answer may have changed them.
    rows = {key: leases.let_go(transaction, *key, seqs) for key, seqs in asked.items()}
    lost: list[Delivery] = []
    if any(len(rows[key]) < len(seqs) for key, seqs in asked.items()):
        left = {key: set(found) for key, found in rows.items()}
        mine: list[Settlement] = []
        for s in settlements:
            held = left[s.delivery.subscription_id, s.delivery.lease]
            if s.delivery.seq in held:
                held.remove(s.delivery.seq)  # the second one of a delivery comes too late
                mine.append(s)
            else:
                lost.append(s.delivery)
        settlements = mine
    back = [s for s in settlements if s.verdict in ("retry", "release")]
    if back:
        waiting = [(s, _waiting(s, now_us, _rows_of(rows, s)[s.delivery.seq])) for s in back]
        transaction.put(INSERT_READY, [w for s, w in waiting if not comes_again(s)])
        transaction.put(INSERT_AWAITED, [w for s, w in waiting if comes_again(s)])
    transaction.put(
        INSERT_DEAD, [_dead(s, now_us) for s in settlements if s.verdict == "dead_letter"]
    )
    return lost, {s.delivery.subscription_id for s in back}


def ack(transaction: Transaction, deliveries: Sequence[Delivery]) -> bool:
    """End the leases of all *deliveries*. Return ``False``, and end none, if one is lost."""
    asked = _by_number(deliveries)
    if len(asked) > 1 and any(
        len(leases.held(transaction, *key, seqs)) < len(seqs) for key, seqs in asked.items()
    ):
        return False
    return all(leases.let_all_go(transaction, *key, seqs) for key, seqs in asked.items())


def _rows_of(
    rows: dict[tuple[int, int], dict[int, Lease]], settlement: Settlement
) -> dict[int, Lease]:
    return rows[settlement.delivery.subscription_id, settlement.delivery.lease]


def comes_again(settlement: Settlement) -> bool:
    """Whether the next attempt comes with the message of an outside queue.

    A delivery with a long delay is kept here, where nothing expires.
    """
    return settlement.delivery.message is not None and settlement.delay_s <= FAR_S


def _waiting(settlement: Settlement, now_us: int, lease: Lease) -> Waiting:
    """Return the row of a delivery that is tried again. The counts are those of its lease."""
    d, failures, abandoned = settlement.delivery, lease.failures, lease.abandoned
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
    if transaction.query(_ENDED, {**of, "attempt": delivery.attempt}):
        return False
    # Sent again since then, perhaps with other data: the answer is not about those.
    if any(at != delivery.since_us for (at,) in transaction.query(_RESENT, of)):
        return False
    ends = settlement.verdict in ("ack", "dead_letter")
    if not ends and is_undone(transaction, delivery):
        return False
    lease = leases.holder(transaction, delivery.subscription_id, delivery.seq)
    if lease is not None:
        if ends:
            leases.let_go(transaction, lease.subscription_id, lease.number, [delivery.seq])
        else:
            leases.single_out(transaction, lease, delivery.seq)
            _count(transaction, settlement, "lease", "low", lease.abandoned)
    else:
        for place in ("awaited", "ready", "keyed"):
            found = transaction.query(f"SELECT abandoned FROM {place} {_OF}", of)
            if found and ends:
                transaction.execute(f"DELETE FROM {place} {_OF}", of)
            elif found:
                ((abandoned,),) = found
                _count(transaction, settlement, place, "seq", abandoned)
            if found:
                break
        else:
            return False  # it was unsubscribed, or pruned
    if settlement.verdict == "dead_letter":
        transaction.put(INSERT_DEAD, [_dead(settlement, now_us)])
    return settlement.verdict != "release"


def _count(
    transaction: Transaction, settlement: Settlement, place: str, column: str, abandoned: int
) -> None:
    """Count a late failure or death where the delivery is now. Take the abandoned attempt back."""
    counts = settlement.counts if settlement.verdict == "retry" else None
    abandoned = _taken_back(abandoned, settlement.delivery)
    transaction.execute(
        f"UPDATE {place} SET abandoned = :abandoned, failures = failures + :failed"
        f" WHERE subscription_id = :s AND {column} = :seq",
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
