"""Leases in a SQL store: claim waiting deliveries, and take back leases that ran out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.policy import MAX_ABANDONED, SUSPECT
from mltrigger.store.queue import (
    CLAIM_READY,
    DELETE_LEASE,
    INSERT_AWAITED,
    INSERT_DEAD,
    INSERT_LEASE,
    INSERT_READY,
    Claim,
    Dead,
    Term,
    Waiting,
    claims,
    lease_row,
)
from mltrigger.store.transaction import Store, Transaction
from mltrigger.store.unit import Uncalled, record_uncalled

_CLAIM = f"""{CLAIM_READY}
  AND q.visible_us <= :now AND (SELECT paused FROM subscription WHERE id = :s) = 0
ORDER BY q.visible_us, q.seq LIMIT :n
"""
_DELETE_READY = """
DELETE FROM ready WHERE subscription_id = :s AND visible_us = :visible_us AND seq = :seq
"""
_DUE = """
SELECT
  (SELECT min(visible_us) FROM ready WHERE subscription_id = :s
    AND (SELECT paused FROM subscription WHERE id = :s) = 0),
  (SELECT min(until_us) FROM lease WHERE subscription_id = :s)
"""
_DUE_OF_ALL = """
SELECT s.id,
  CASE WHEN s.paused = 0 THEN (SELECT min(visible_us) FROM ready WHERE subscription_id = s.id) END,
  (SELECT min(until_us) FROM lease WHERE subscription_id = s.id)
FROM subscription s WHERE s.bound = 1
"""
_EXPIRED = """
SELECT subscription_id, seq, attempt, failures, abandoned, visible_us, received_us, worker_id,
  outside
FROM lease WHERE subscription_id = :s AND until_us <= :now
"""
_KILLS = (
    f"{MAX_ABANDONED} attempts ran alone in their process and never ended: the event kills the"
    " process that works on it"
)

_GONE = "the process that called the model ended before it answered: call it again, with another id"


class _Expired(NamedTuple):
    """A lease that ran out."""

    subscription_id: int
    seq: int
    attempt: int
    failures: int
    abandoned: int
    visible_us: int
    received_us: int
    worker_id: int
    outside: int


def claim(transaction: Transaction, term: Term, most: int) -> list[Claim]:
    """Lease up to *most* deliveries for *term*, the oldest first."""
    found = claims(
        transaction, _CLAIM, {"s": term.subscription_id, "now": term.received_us, "n": most}
    )
    return _leased(transaction, term, _together(found))


def claim_these(transaction: Transaction, term: Term, seqs: Sequence[int]) -> list[Claim]:
    """Lease the waiting deliveries of the events *seqs* for *term*."""
    among = ", ".join(str(int(seq)) for seq in seqs)
    sql = f"{CLAIM_READY} AND q.seq IN ({among}) ORDER BY q.seq"
    return _leased(transaction, term, claims(transaction, sql, {"s": term.subscription_id}))


def _leased(transaction: Transaction, term: Term, found: list[Claim]) -> list[Claim]:
    transaction.execute_many(
        _DELETE_READY, [(term.subscription_id, c.visible_us, c.seq) for c in found]
    )
    transaction.execute_many(INSERT_LEASE, [lease_row(c, term) for c in found])
    return found


def _together(found: list[Claim]) -> list[Claim]:
    """Return the first claims that may be leased together.

    A delivery that was abandoned before is leased alone, so that it harms no other.
    """
    suspect = next((i for i, c in enumerate(found) if c.abandoned), None)
    return found if suspect is None else found[: max(1, suspect)]


def put_back(transaction: Transaction, subscription_id: int, found: Sequence[Claim]) -> None:
    """Undo the leases of *found*. Nobody has worked on them."""
    transaction.execute_many(DELETE_LEASE, [(subscription_id, c.seq, c.attempt + 1) for c in found])
    transaction.execute_many(
        INSERT_READY,
        [
            Waiting(subscription_id, c.visible_us, c.seq, c.attempt, c.failures, c.abandoned)
            for c in found
        ],
    )


def due(store: Store, subscription_id: int) -> tuple[int | None, int | None]:
    """Return when the next delivery falls due, and when the next lease runs out."""
    ((visible_us, until_us),) = store.read(_DUE, {"s": subscription_id})
    return visible_us, until_us


def due_of_all(store: Store) -> list[tuple[int, int]]:
    """Return (id, time) of each subscription with a delivery or a lease that falls due."""
    return [
        (number, min(at for at in times if at is not None))
        for number, *times in store.read(_DUE_OF_ALL)
        if times != [None, None]
    ]


def has_expired(store: Store, subscription_id: int, now_us: int) -> bool:
    """Whether a lease has run out. This look needs no write lock."""
    return bool(store.read(f"{_EXPIRED} LIMIT 1", {"s": subscription_id, "now": now_us}))


def sweep(transaction: Transaction, subscription_id: int, now_us: int, role: str = "live") -> bool:
    """End the leases that ran out. Return whether an event is dead now.

    A delivery returns to its old place. Behind newer events it would wait for the whole backlog
    once more. An event that killed its worker too often is dead. So is each direct call: its caller
    has gone.
    """
    rows = transaction.query(_EXPIRED, {"s": subscription_id, "now": now_us})
    expired = list(map(_Expired._make, rows))
    transaction.execute_many(DELETE_LEASE, [(e.subscription_id, e.seq, e.attempt) for e in expired])
    direct = role == "direct"
    # An attempt alone was counted when it began.
    dead = [e for e in expired if direct or e.abandoned >= MAX_ABANDONED]
    again = [] if direct else [e for e in expired if e.abandoned < MAX_ABANDONED]
    why = _GONE if direct else _KILLS
    transaction.execute_many(INSERT_READY, [_waiting(e) for e in again if not e.outside])
    transaction.execute_many(INSERT_AWAITED, [_waiting(e) for e in again if e.outside])
    transaction.execute_many(
        INSERT_DEAD,
        [
            Dead(e.subscription_id, e.seq, e.attempt, "worker_died", None, why, None, now_us)
            for e in dead
        ],
    )
    record_uncalled(transaction, [_ended(e, "lease_expired") for e in again], "abandoned", now_us)
    died = [_ended(e, "worker_died", _GONE if direct else None) for e in dead]
    record_uncalled(transaction, died, "dead", now_us, role)
    return bool(dead)


def _waiting(e: _Expired) -> Waiting:
    return Waiting(
        e.subscription_id, e.visible_us, e.seq, e.attempt, e.failures, e.abandoned or SUSPECT
    )


def _ended(e: _Expired, reason: str, error: str | None = None) -> Uncalled:
    return Uncalled(
        e.subscription_id, e.seq, e.attempt, e.visible_us, e.received_us, e.worker_id, reason, error
    )
