"""Leases in a SQL store: claim waiting deliveries, and take back leases that ran out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.policy import MAX_ABANDONED, SUSPECT
from mltrigger.store import leases
from mltrigger.store.begun import begun_by
from mltrigger.store.leases import Member
from mltrigger.store.lots import By
from mltrigger.store.outcomes import ANSWERING
from mltrigger.store.queue import (
    CLAIM_RANGE,
    CLAIM_READY,
    INSERT_AWAITED,
    INSERT_DEAD,
    INSERT_READY,
    Dead,
    Term,
    Waiting,
    claims,
)
from mltrigger.store.transaction import OFTEN, Row, Store, Transaction
from mltrigger.store.unit import Uncalled, record_uncalled

_BEYOND = """
(SELECT e.seq FROM event e INDEXED BY event_topic
  WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
  AND e.seq <= coalesce(c.last_seq, e.seq) ORDER BY e.seq LIMIT 1) IS NOT NULL
"""
"""Whether an event waits for a subscription ``s`` behind its cursor ``c``.

In an order: EXISTS would read a whole part of the log where the planner expects many such events.
"""
_STANDING = f"""{OFTEN}
SELECT s.topic_id, s.paused, c.next_seq, c.next_lease,
  (SELECT min(visible_us) FROM ready WHERE subscription_id = :s),
  (SELECT value FROM setting WHERE name = 'generation'),
  (SELECT max(number) FROM binding WHERE subscription_id = :s), c.last_seq, s.outside,
  {_BEYOND}
FROM subscription s JOIN cursor c ON c.subscription_id = s.id WHERE s.id = :s
"""
BEHIND = """
((SELECT count(*) FROM event e WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq
  AND e.seq <= coalesce(c.last_seq, 9223372036854775807))
- (SELECT count(*) FROM event e
  WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NOT NULL
  AND e.seq <= coalesce(c.last_seq, 9223372036854775807)))
"""
"""How many events wait for a subscription ``s`` behind its cursor ``c``. Indexes alone know it."""
_DUE_FIRST = f"""{CLAIM_READY} AND q.visible_us <= :now ORDER BY q.visible_us, q.seq LIMIT :n"""
_FIRST_BEYOND = """
SELECT e.published_us FROM event e INDEXED BY event_topic
WHERE e.topic_id = :t AND e.seq >= :next AND e.seq <= :last AND e.by_rows_us IS NULL
ORDER BY e.seq LIMIT 1
"""
_DELETE_READY = """
DELETE FROM ready WHERE subscription_id = :s AND visible_us = :visible_us AND seq = :seq
"""
_ADVANCE = """
UPDATE cursor SET next_seq = :next_seq, next_lease = next_lease + 1 WHERE subscription_id = :s
"""
_DUE = f"""{OFTEN}
SELECT s.paused, (SELECT min(visible_us) FROM ready WHERE subscription_id = :s),
  (SELECT min(until_us) FROM lease WHERE subscription_id = :s),
  {_BEYOND}
FROM subscription s JOIN cursor c ON c.subscription_id = s.id WHERE s.id = :s
"""
_DUE_OF_ALL = f"""
SELECT s.id,
  CASE WHEN s.paused = 0 THEN (SELECT min(visible_us) FROM ready WHERE subscription_id = s.id) END,
  (SELECT min(until_us) FROM lease WHERE subscription_id = s.id),
  CASE WHEN s.paused = 0 AND {_BEYOND} THEN 0 END,
  CASE WHEN s.paused = 0 AND EXISTS (SELECT 1 FROM keyed k WHERE k.subscription_id = s.id)
    THEN 0 END
FROM subscription s JOIN cursor c ON c.subscription_id = s.id WHERE s.bound = 1
"""
_ABANDONED = 4
"""The place of that column in a claim."""
_RAN_OUT = "SELECT 1 FROM lease WHERE subscription_id = :s AND until_us <= :now LIMIT 1"
_KILLS = (
    f"{MAX_ABANDONED} attempts ran alone in their process and never ended: the event kills the"
    " process that works on it"
)
_GONE = "the process that called the model ended before it answered: call it again, with another id"


_ALL = 2**63 - 1


class Standing(NamedTuple):
    """How far a subscription is.

    ``due_us`` is when its first row falls due. ``generation`` is that of the registry. ``binding``
    is the number of its newest one.
    """

    topic_id: int
    paused: int
    next_seq: int | None
    next_lease: int
    due_us: int | None
    generation: str | None
    binding: int | None
    last_seq: int | None = None
    """The last event of a lane that ends."""
    outside: int = 0
    beyond: int = 1
    """Whether an event waits behind its cursor."""

    def has_work(self, now_us: int) -> bool:
        """Whether something can be claimed now."""
        return bool(self.beyond) or (self.due_us is not None and self.due_us <= now_us)

    @property
    def up_to(self) -> int:
        """The number of the last event that it may get."""
        return _ALL if self.last_seq is None else self.last_seq


def standing(transaction: Transaction, subscription_id: int) -> Standing | None:
    """Return how far a subscription is, ``None`` if there is none."""
    rows = transaction.query(_STANDING, {"s": subscription_id})
    return Standing(*rows[0]) if rows else None


def claim(transaction: Transaction, at: Standing, term: Term, most: int) -> list[Row]:
    """Lease up to *most* deliveries for *term*, those that wait longest first.

    Rows that are due come before the range behind the cursor if the first event of that is younger.
    A delivery that was abandoned before is leased alone, so that it harms no other.
    """
    if at.paused:
        return []
    is_due = at.due_us is not None and at.due_us <= term.received_us
    first_us = _first_beyond_us(transaction, at) if is_due else None
    rows_first = first_us is None or (at.due_us or 0) <= first_us
    until_us = term.received_us if first_us is None else min(first_us, term.received_us)
    found: list[Row] = []
    if is_due and rows_first:
        found = _together(_due(transaction, term, until_us, most))
    room = 0 if any(row[_ABANDONED] for row in found) else most - len(found)
    beyond: list[Row] = []
    if room > 0 and at.next_seq is not None:
        given = {"t": at.topic_id, "next": at.next_seq, "last": at.up_to, "n": room}
        beyond = claims(transaction, CLAIM_RANGE, given)
    if is_due and not rows_first and len(beyond) < room:
        later = _due(transaction, term, term.received_us, room - len(beyond))
        found = list(itertools.takewhile(lambda row: not row[_ABANDONED], later))
    if found or beyond:
        _lease(transaction, at, term, found, beyond)
    return found + beyond if rows_first else beyond + found


def _first_beyond_us(transaction: Transaction, at: Standing) -> int | None:
    """Return when the first event behind the cursor was published, ``None`` without one."""
    if at.next_seq is None:
        return None
    of = {"t": at.topic_id, "next": at.next_seq, "last": at.up_to}
    rows = transaction.query(_FIRST_BEYOND, of)
    return rows[0][0] if rows else None


def _due(transaction: Transaction, term: Term, until_us: int, most: int) -> list[Row]:
    given = {"s": term.subscription_id, "now": until_us, "n": most}
    return claims(transaction, _DUE_FIRST, given)


def _lease(
    transaction: Transaction, at: Standing, term: Term, found: list[Row], beyond: list[Row]
) -> None:
    """Move rows and a range to a lease."""
    s = term.subscription_id
    keys = [(s, visible_us, seq) for seq, visible_us, *_ in found]
    transaction.put(_DELETE_READY, keys)
    advance(transaction, s, beyond[-1][0] + 1 if beyond else at.next_seq)
    leases.hold(transaction, term, [*found, *beyond], len(beyond))


def advance(transaction: Transaction, subscription_id: int, next_seq: int | None) -> None:
    """Move the cursor to *next_seq*, and use up a number of leases."""
    transaction.put(_ADVANCE, [(next_seq, subscription_id)])


def claim_these(transaction: Transaction, term: Term, seqs: Sequence[int]) -> list[Row]:
    """Lease the waiting rows of the events *seqs* for *term*."""
    among = ", ".join(str(int(seq)) for seq in seqs)
    sql = f"{CLAIM_READY} AND q.seq IN ({among}) ORDER BY q.seq"
    found = claims(transaction, sql, {"s": term.subscription_id})
    transaction.execute_many(
        _DELETE_READY, [(term.subscription_id, visible_us, seq) for seq, visible_us, *_ in found]
    )
    leases.hold(transaction, term, found)
    return found


def _together(found: list[Row]) -> list[Row]:
    """Return the first claims that may be leased together."""
    suspect = next((i for i, row in enumerate(found) if row[_ABANDONED]), None)
    return found if suspect is None else found[: max(1, suspect)]


def put_back(transaction: Transaction, term: Term, found: Sequence[Row]) -> None:
    """Undo the leases of *found*, of which no call has begun."""
    s = term.subscription_id
    leases.let_go(transaction, s, term.number, [row[0] for row in found])
    rows = [(s, visible_us, seq, *counts[:3]) for seq, visible_us, *counts in found]
    transaction.execute_many(INSERT_READY, rows)


class Due(NamedTuple):
    """The next occasions of a subscription: its first row, its first lease, an event beyond."""

    paused: int
    visible_us: int | None
    until_us: int | None
    beyond: int


def due(store: Store, subscription_id: int) -> Due:
    """Return when the next row falls due and the next lease runs out, and whether events wait."""
    rows = store.read(_DUE, {"s": subscription_id})
    return Due(*rows[0]) if rows else Due(1, None, None, 0)


def due_of_all(store: Store) -> list[tuple[int, int]]:
    """Return (id, time) of each subscription with a delivery or a lease that falls due."""
    return [
        (number, min(at for at in times if at is not None))
        for number, *times in store.read(_DUE_OF_ALL)
        if times != [None] * len(times)
    ]


def has_expired(store: Store, subscription_id: int, now_us: int) -> bool:
    """Whether a lease has run out. This look needs no write lock."""
    return bool(store.read(_RAN_OUT, {"s": subscription_id, "now": now_us}))


def sweep(transaction: Transaction, subscription_id: int, now_us: int, role: str = "live") -> bool:
    """End the leases that ran out. Return whether an event is dead now.

    A delivery returns to its old place. Behind newer events it would wait for the whole backlog
    once more. An event that killed its worker too often is dead. So is each direct call: its caller
    has gone. In a lane nothing becomes a suspect: a call alone would keep live calls waiting. There
    the number of attempts counts, and a dead event is no dead letter.
    """
    over = leases.expired(transaction, subscription_id, now_us)
    found = [member for lease in over for member in leases.members(transaction, lease)]
    direct, unanswered = role == "direct", role not in ANSWERING
    # An attempt alone was counted when it began.
    dead = [m for m in found if direct or _kills(m, unanswered)]
    again = [] if direct else [m for m in found if not _kills(m, unanswered)]
    why = _GONE if direct else _KILLS
    waiting = [(m, _waiting(m, unanswered)) for m in again]
    transaction.execute_many(INSERT_READY, [w for m, w in waiting if not m.lease.outside])
    transaction.execute_many(INSERT_AWAITED, [w for m, w in waiting if m.lease.outside])
    transaction.execute_many(
        INSERT_DEAD,
        [
            Dead(subscription_id, m.seq, m.lease.attempt, "worker_died", None, why, None, now_us)
            for m in dead
            if not unanswered
        ],
    )
    those = again + dead
    by = begun_by(transaction, subscription_id, those, role)
    reasons = [*["lease_expired"] * len(again), *["worker_died"] * len(dead)]
    said = _GONE if direct else None
    ended = [_ended(*each, said) for each in zip(those, by, reasons, strict=True)]
    record_uncalled(transaction, ended[: len(again)], "abandoned", now_us)
    record_uncalled(transaction, ended[len(again) :], "dead", now_us)
    return bool(dead)


def _kills(m: Member, unanswered: bool) -> bool:
    return (m.lease.attempt if unanswered else m.lease.abandoned) >= MAX_ABANDONED


def _waiting(m: Member, unanswered: bool) -> Waiting:
    lease = m.lease
    suspicion = 0 if unanswered else lease.abandoned or SUSPECT
    return Waiting(
        lease.subscription_id, m.visible_us, m.seq, lease.attempt, lease.failures, suspicion
    )


def _ended(m: Member, by: By, reason: str, error: str | None) -> Uncalled:
    lease = m.lease
    return Uncalled(
        lease.subscription_id,
        m.seq,
        lease.attempt,
        lease.visible_us,
        lease.received_us,
        lease.worker_id,
        reason,
        error,
        by,
    )
