"""From messages to deliveries: one transaction asks the log about each event, and leases it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from mltrigger.aws.transport.archiving import Arrived, Lease, Placed, end, placed
from mltrigger.aws.transport.polls import Message
from mltrigger.broker import Delivery, SubscriptionSpec
from mltrigger.store import leases
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.queue import CLAIM_AWAITED, INSERT_AWAITED, Term, Waiting, claims, deliveries
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Transaction

_LATER_US = 5_000_000
"""Microseconds until a message comes again that nobody may lease now."""
_EARLY_US = 1_000_000
"""SQS counts whole seconds: a message may come this much before its time, in microseconds."""

_FINAL = "SELECT seq FROM final WHERE subscription_id = :s AND seq IN ({seqs})"
_LEASED = "SELECT seq, until_us FROM leased WHERE subscription_id = :s AND seq IN ({seqs})"
_READY = "SELECT seq FROM ready WHERE subscription_id = :s AND seq IN ({seqs})"
_AWAITED = "SELECT seq, visible_us FROM awaited WHERE subscription_id = :s AND seq IN ({seqs})"
_STRAY = f"""
SELECT (SELECT coalesce(max(attempt), 0) FROM outcome i
  WHERE i.seq = e.seq AND i.subscription_id = :s), e.published_us, {ARCHIVED}
FROM event e WHERE e.seq IN ({{seqs}})
"""
_TAKES = "SELECT 1 FROM subscription WHERE id = :s AND bound = 1 AND paused = 0"
_READY_OF_AWAITED = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT subscription_id, visible_us, seq, attempt, failures, abandoned
FROM awaited WHERE subscription_id = :s AND seq = :seq
"""
_CLAIMED = "DELETE FROM awaited WHERE subscription_id = :s AND seq = :seq"


class Early(NamedTuple):
    """An early message: its due time and its delivery, ``None`` if unknown."""

    message: Message
    at_us: int
    key: tuple[int, int] | None


class Taken(NamedTuple):
    """The results for messages: leased deliveries, finished messages, and early ones.

    ``moved`` says that the log has taken something over. That must be durable before its message
    is deleted.
    """

    deliveries: list[Delivery]
    done: list[Message]
    early: list[Early]
    moved: bool = False


class _Standing(NamedTuple):
    """The state of events in the log: their end of lease, or their due time, by number."""

    leased: dict[int, int]
    awaited: dict[int, int]


def take_in(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Sequence[Arrived], lease: Lease
) -> Taken:
    """Lease arrived events that have neither an outcome nor another lease."""
    # Somebody may have unsubscribed or paused it during the poll.
    if not transaction.query(_TAKES, {"s": spec.id}):
        return Taken([], [], [Early(a.message, lease.now_us + _LATER_US, None) for a in arrived])
    events = placed(transaction, spec, arrived, lease)
    taken = _lease(transaction, spec, events, lease) if events else Taken([], [], [])
    held = {id(d.message) for d in taken.deliveries} | {id(e.message) for e in taken.early}
    unread = len({id(message) for message, _ in events}) < len(arrived)
    return taken._replace(
        done=[a.message for a in arrived if id(a.message) not in held], moved=taken.moved or unread
    )


def bury(
    transaction: Transaction,
    spec: SubscriptionSpec,
    arrived: Sequence[Arrived],
    lease: Lease,
    error: str,
) -> list[Message]:
    """Make dead letters of messages from the dead-letter queue. Return the finished ones.

    Events with an outcome keep it. Messages of events that somebody works on stay in the queue.
    """
    open_ = {
        id(message)
        for message, seq in placed(transaction, spec, arrived, lease)
        if not end(transaction, spec, seq, "dead", "worker_died", error, lease)
    }
    return [a.message for a in arrived if id(a.message) not in open_]


def take_over(transaction: Transaction, subscription_id: int, seqs: Iterable[int]) -> None:
    """Let the log deliver awaited events, instead of their queue."""
    for seq in dict.fromkeys(seqs):
        of = {"s": subscription_id, "seq": seq}
        transaction.execute(_READY_OF_AWAITED, of)
        transaction.execute(_CLAIMED, of)


def _lease(
    transaction: Transaction, spec: SubscriptionSpec, events: Sequence[Placed], lease: Lease
) -> Taken:
    standing = _standing(transaction, spec, [seq for _, seq in events], lease.now_us)
    # SQS can neither lease nor repeat the events of one message one by one. The log can.
    counts = Counter(id(message) for message, _ in events)
    single = [each for each in events if counts[id(each.message)] == 1]
    moved = [seq for message, seq in events if counts[id(message)] > 1 and seq in standing.awaited]
    claimed, early = _sorted_out(spec, single, standing, lease)
    take_over(transaction, spec.id, moved)
    leased = _claim(transaction, spec, claimed, lease)
    for d in leased:
        d.group = claimed[d.seq].group
        if not lease.accepted:
            d.message = claimed[d.seq]
    return Taken(leased, [], early, bool(moved))


def _standing(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int], now_us: int
) -> _Standing:
    """Return the state of the events *seqs*. Await those that the log has not awaited yet."""
    among = ", ".join(map(str, dict.fromkeys(seqs)))  # numbers of ours

    def rows(sql: str) -> list[Any]:
        return list(map(tuple, transaction.query(sql.format(seqs=among), {"s": spec.id})))

    leased, awaited = dict(rows(_LEASED)), dict(rows(_AWAITED))
    known = {seq for (seq,) in rows(_FINAL) + rows(_READY)} | leased.keys() | awaited.keys()
    if strays := [seq for seq in dict.fromkeys(seqs) if seq not in known]:
        awaited |= _adopt(transaction, spec, strays)
    return _Standing(leased, awaited)


def _adopt(transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int]) -> dict[int, int]:
    """Await events of the archive that were published before this subscription was made.

    Events that the filter keeps out are not awaited. Return the due times of the others.
    """
    adopted = []
    for attempt, published_us, *row in transaction.query(
        _STRAY.format(seqs=", ".join(map(str, seqs))), {"s": spec.id}
    ):
        if Seen(*archived(row)).passes(spec.filter):
            seq, *_ = row
            adopted.append(Waiting(spec.id, published_us, seq, attempt))
    transaction.execute_many(INSERT_AWAITED, adopted)
    return {w.seq: w.visible_us for w in adopted}


def _sorted_out(
    spec: SubscriptionSpec, events: Sequence[Placed], standing: _Standing, lease: Lease
) -> tuple[dict[int, Message], list[Early]]:
    """Return the messages to claim by the number of their event, and the early ones."""
    claimed: dict[int, Message] = {}
    early: list[Early] = []
    behind: dict[str, int] = {}
    for message, seq in events:
        at_us = _not_before(seq, standing, claimed, lease)
        # In an ordered group, nothing overtakes a waiting message.
        if message.group is not None and message.group in behind:
            at_us = max(at_us or 0, behind[message.group])
        if at_us is not None:
            early.append(Early(message, at_us, (spec.id, seq)))
            if message.group is not None:
                behind[message.group] = at_us
        elif seq in standing.awaited:
            claimed[seq] = message
    return claimed, early


def _not_before(
    seq: int, standing: _Standing, claimed: Collection[int], lease: Lease
) -> int | None:
    """Return the due time of an early message, else ``None``."""
    if seq in standing.leased:
        return standing.leased[seq]
    if seq in claimed:  # a copy of an event in the same batch waits for the first one
        return lease.until_us
    at_us = standing.awaited.get(seq, 0)
    return at_us if at_us > lease.now_us + _EARLY_US else None


def _claim(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Collection[int], lease: Lease
) -> list[Delivery]:
    """Lease the awaited events *seqs*, in that order."""
    if not seqs:
        return []
    sql = f"{CLAIM_AWAITED} AND q.seq IN ({', '.join(map(str, seqs))})"
    order = {seq: i for i, seq in enumerate(seqs)}
    found = sorted(claims(transaction, sql, {"s": spec.id}), key=lambda row: order[row[0]])
    number = leases.next_number(transaction, spec.id)
    term = Term(
        *(spec.id, number, lease.now_us, lease.until_us, lease.worker_id, not lease.accepted),
        binding=lease.binding,
    )
    transaction.execute_many(_CLAIMED, [(spec.id, seq) for seq, *_ in found])
    leases.hold(transaction, term, found)
    return deliveries(transaction, found, term)
