"""From messages that have come to deliveries: what the log knows of each event decides, in one
transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from mltrigger.aws.transport.polls import Message
from mltrigger.broker import MAX_EVENT_BYTES, Delivery, SubscriptionSpec
from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event.envelopes import Ignored, Item, Unreadable
from mltrigger.event.event import Event, encode_data
from mltrigger.store import publishing
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.outcomes import Outcome
from mltrigger.store.publishing import Encoded, Seen
from mltrigger.store.queue import (
    CLAIM_AWAITED,
    INSERT_AWAITED,
    INSERT_DEAD,
    INSERT_LEASE,
    Claim,
    Dead,
    Term,
    Waiting,
    claims,
    delivery,
    lease_row,
)
from mltrigger.store.registry import ensure_topic
from mltrigger.store.transaction import Transaction
from mltrigger.store.unit import Uncalled, record_uncalled

UNREADABLE_TYPE = "mltrigger.unreadable"
INBOX = ".inbox"
"""What the topic of events that only one subscription knows of ends with; no other name may hold a
dot.
"""
RAW_BYTES = 4 * 1024 * 1024
"""The most that is kept of one message as the raw bytes of several dead letters. Beyond it each
keeps its own part: the whole for each of thousands of records would fill the disk.
"""
_EARLY_US = 1_000_000
"""SQS counts whole seconds: a message that comes this much before its time has come in time."""

_FINAL = "SELECT seq FROM final WHERE subscription_id = :s AND seq IN ({seqs})"
_LEASED = "SELECT seq, until_us FROM lease WHERE subscription_id = :s AND seq IN ({seqs})"
_READY = "SELECT seq FROM ready WHERE subscription_id = :s AND seq IN ({seqs})"
_AWAITED = "SELECT seq, visible_us FROM awaited WHERE subscription_id = :s AND seq IN ({seqs})"
_STRAY = f"""
SELECT (SELECT coalesce(max(attempt), 0) FROM invocation i
  WHERE i.seq = e.seq AND i.subscription_id = :s), e.published_us, {ARCHIVED}
FROM event e WHERE e.seq IN ({{seqs}})
"""
_CLAIMED = "DELETE FROM awaited WHERE subscription_id = :s AND seq = :seq"
_KNOWN = "SELECT seq FROM event WHERE id = :id AND source = :source AND topic_id = :t"
_SENT = """
INSERT INTO resent (subscription_id, seq, times, resent_us) VALUES (:s, :seq, 0, :now) ON CONFLICT (subscription_id, seq) DO NOTHING
"""
_TAKES = "SELECT 1 FROM subscription WHERE id = :s AND bound = 1 AND paused = 0"
READY_OF_AWAITED = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM awaited WHERE subscription_id = :s
"""
_PLACES = ("ready", "awaited", "lease")
_LAST = "SELECT coalesce(max(attempt), 0) FROM invocation WHERE subscription_id = :s AND seq = :seq"


class Arrived(NamedTuple):
    """A message, and when it was sent.

    ``identity`` are source and id of the event that it says it is, if it says so outside of its
    body; ``read`` returns what it holds, which is not needed of what is in the archive already.
    ``alone`` says that no other subscription has a queue for the same events: where there are
    others, what brings no identity of its own cannot be told to be what came to them.
    """

    message: Message
    message_id: str
    identity: tuple[str, str] | None
    read: Callable[[], Sequence[Item]]
    sent_us: int
    alone: bool


class Lease(NamedTuple):
    """Until when what is leased now is leased, and by which worker; ``accepted``: the message may
    go before the model has run.
    """

    now_us: int
    until_us: int
    worker_id: int
    accepted: bool = False


class Early(NamedTuple):
    """A message that comes before its time: when that is, and the delivery that it stands for, if
    there is one.
    """

    message: Message
    at_us: int
    key: tuple[int, int] | None


class Taken(NamedTuple):
    """What became of messages: deliveries that are leased now, messages that are done with, and
    those that come too early.

    ``moved`` says that the log has taken something over, which must be durable before its message
    is deleted.
    """

    deliveries: list[Delivery]
    done: list[Message]
    early: list[Early]
    moved: bool = False


_LATER_US = 5_000_000
"""When a message is looked at again that nobody may lease now."""


def take_in(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Sequence[Arrived], lease: Lease
) -> Taken:
    """Lease what has *arrived* for a subscription, as far as the log has neither an outcome for it
    nor somebody at work on it.
    """
    # somebody unsubscribed or paused it while the poll was under way
    if not transaction.query(_TAKES, {"s": spec.id}):
        return Taken([], [], [Early(a.message, lease.now_us + _LATER_US, None) for a in arrived])
    seqs = _seqs(transaction, spec, arrived, lease)
    taken = _lease(transaction, spec, seqs, lease) if seqs else Taken([], [], [])
    held = {id(d.message) for d in taken.deliveries} | {id(e.message) for e in taken.early}
    unread = len({id(message) for message, _ in seqs}) < len(arrived)
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
    """Make dead letters of what SQS moved to the dead-letter queue, as far as there is no outcome
    yet; return what is done with.

    What somebody is still at work on stays there.
    """
    open_: set[int] = set()
    for message, seq in _seqs(transaction, spec, arrived, lease):
        if not _end(transaction, spec, seq, "dead", "worker_died", error, lease):
            open_.add(id(message))
    return [a.message for a in arrived if id(a.message) not in open_]


def _seqs(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Sequence[Arrived], lease: Lease
) -> list[tuple[Message, int]]:
    """Return the places in the archive of what has arrived, put there as far as it was not; end at
    once what is no event.
    """
    topic_id = ensure_topic(transaction, spec.topic, lease.now_us)
    known: list[tuple[Message, int]] = []
    found: list[_Found] = []
    for a in arrived:
        rows = (
            transaction.query(_KNOWN, {"source": a.identity[0], "id": a.identity[1], "t": topic_id})
            if a.identity
            else []
        )
        if rows:
            known.append((a.message, rows[0][0]))
        else:
            found += [_Found(a.message, *event) for event in _events(transaction, spec, a, lease)]
    seqs = _archive(transaction, spec, found, lease.now_us)
    for f, seq in zip(found, seqs, strict=True):
        if not f.shared and not Seen(*f.encoded).passes(spec.filter):
            _end_filtered(transaction, spec, seq, lease)
    place = {id(a.message): i for i, a in enumerate(arrived)}
    # As they have arrived: a group keeps its order, whoever published what of it.
    return sorted(
        [*known, *((f.message, seq) for f, seq in zip(found, seqs, strict=True))],
        key=lambda each: place[id(each[0])],
    )


class _Found(NamedTuple):
    """An event in a message; ``shared`` when it belongs to the topic, and every subscription of it
    gets the same.
    """

    message: Message
    encoded: Encoded
    shared: bool
    sent_us: int


def _events(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Arrived, lease: Lease
) -> list[tuple[Encoded, bool, int]]:
    """Return the events of one message, whether they are shared, and when they were sent; end at
    once what is no event.
    """
    events, sent_us, room = [], min(arrived.sent_us, lease.now_us), RAW_BYTES
    for item in arrived.read():
        found = _encoded(item) if isinstance(item, Event) else item
        if isinstance(found, Unreadable) and found.part is not None:
            room -= len(found.raw)
            found = found if room >= 0 else found._replace(raw=found.part)
        if isinstance(found, (Unreadable, Ignored)):
            _end_unread(transaction, spec, found, arrived, sent_us, lease)
        else:
            events.append((found, arrived.alone or found[0].id != arrived.message_id, sent_us))
    return events


def _encoded(event: Event) -> Encoded | Unreadable:
    try:
        return (event, *encode_data(event, MAX_EVENT_BYTES))
    except (InvalidEvent, NotEncodable) as error:
        return Unreadable(
            getattr(error, "reason", "invalid_event"),
            str(error),
            event.id,
            repr(event.data).encode()[:1000],
        )


def _archive(
    transaction: Transaction, spec: SubscriptionSpec, found: Sequence[_Found], now_us: int
) -> list[int]:
    """Put events into the archive, as far as they are not there; return their seqs.

    What is shared is awaited by every subscription of the topic. Anything else is known to this one
    only: it has a topic of its own, and counts as sent.
    """
    seqs: dict[int, int] = {}
    for shared in (True, False):
        mine = [(i, f) for i, f in enumerate(found) if f.shared == shared]
        if not mine:
            continue
        topic = spec.topic if shared else f"{spec.name}{INBOX}"
        topic_id = ensure_topic(transaction, topic, now_us)
        new = []
        for i, f in mine:
            event = f.encoded[0]
            known = transaction.query(
                _KNOWN, {"id": event.id, "source": event.source, "t": topic_id}
            )
            if known:
                seqs[i] = known[0][0]
            else:
                new.append((i, f))
        if new:
            published = publishing.publish(
                transaction,
                topic,
                [f.encoded for _, f in new],
                now_us,
                carried=True,
                arrived_us=[f.sent_us for _, f in new],
            )
            for (i, f), receipt in zip(new, published.receipts, strict=True):
                seqs[i] = receipt.seq
                if not shared:
                    transaction.execute(_SENT, {"s": spec.id, "seq": receipt.seq, "now": f.sent_us})
    return [seqs[i] for i in range(len(found))]


def _lease(
    transaction: Transaction,
    spec: SubscriptionSpec,
    events: Sequence[tuple[Message, int]],
    lease: Lease,
) -> Taken:
    seqs = [seq for _, seq in events]
    of, among = {"s": spec.id}, ", ".join(map(str, dict.fromkeys(seqs)))  # numbers of ours
    final: set[int] = {seq for (seq,) in transaction.query(_FINAL.format(seqs=among), of)}
    leased: dict[int, int] = dict(map(tuple, transaction.query(_LEASED.format(seqs=among), of)))
    ready: set[int] = {seq for (seq,) in transaction.query(_READY.format(seqs=among), of)}
    awaited: dict[int, int] = dict(map(tuple, transaction.query(_AWAITED.format(seqs=among), of)))
    strays = [
        seq
        for seq in dict.fromkeys(seqs)
        if seq not in final and seq not in leased and seq not in ready and seq not in awaited
    ]
    awaited |= _adopt(transaction, spec, strays, lease.now_us) if strays else {}
    claimed: dict[int, Message] = {}
    early: list[Early] = []
    several = {n for n, count in Counter(id(message) for message, _ in events).items() if count > 1}
    taken_over = [seq for message, seq in events if id(message) in several and seq in awaited]
    behind: dict[str, int] = {}
    for message, seq in events:
        if id(message) in several:
            continue
        at_us = _not_before(seq, message, leased, claimed, awaited, lease)
        # the order of a group: nothing overtakes what has to wait
        if message.group is not None and message.group in behind:
            at_us = max(at_us or 0, behind[message.group])
        if at_us is not None:
            early.append(Early(message, at_us, (spec.id, seq)))
            if message.group is not None:
                behind[message.group] = at_us
        elif seq in awaited:
            claimed[seq] = message
    _take_over(transaction, spec, taken_over)
    found = _claim(transaction, spec, claimed, lease)
    deliveries = [delivery(claim, spec.id, lease.now_us) for claim in found]
    for d in deliveries:
        d.group = claimed[d.seq].group
        if not lease.accepted:
            d.message = claimed[d.seq]
    return Taken(deliveries, [], early, bool(taken_over))


def _not_before(
    seq: int,
    message: Message,
    leased: Mapping[int, int],
    claimed: Mapping[int, Message],
    awaited: Mapping[int, int],
    lease: Lease,
) -> int | None:
    """Return when the message should come again, if it is too early for it now."""
    if seq in leased:
        return leased[seq]
    # the same event came twice at once: the copy waits for what becomes of the first
    if seq in claimed and claimed[seq] is not message:
        return lease.until_us
    if seq in awaited and awaited[seq] > lease.now_us + _EARLY_US:
        return awaited[seq]
    return None


def _take_over(transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int]) -> None:
    """Let the log deliver what one message holds together with others: SQS can neither lease nor
    repeat them one by one.
    """
    for seq in dict.fromkeys(seqs):
        transaction.execute(READY_OF_AWAITED + " AND seq = :seq", {"s": spec.id, "seq": seq})
        transaction.execute(_CLAIMED, {"subscription_id": spec.id, "s": spec.id, "seq": seq})


def _end_filtered(transaction: Transaction, spec: SubscriptionSpec, seq: int, lease: Lease) -> None:
    """Write down that the filter kept out an event that no other subscription knows of: the archive
    of the topic does not tell.
    """
    of = {"s": spec.id, "seq": seq}
    if not any(
        transaction.query(f"SELECT 1 FROM {place} WHERE subscription_id = :s AND seq = :seq", of)
        for place in _PLACES
    ):
        _end(transaction, spec, seq, "skipped", "filtered", None, lease)


def _claim(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Collection[int], lease: Lease
) -> list[Claim]:
    """Lease the awaited events *seqs*, in that order."""
    if not seqs:
        return []
    sql = f"{CLAIM_AWAITED} AND q.seq IN ({', '.join(map(str, seqs))})"
    order = {seq: i for i, seq in enumerate(seqs)}
    found = sorted(claims(transaction, sql, {"s": spec.id}), key=lambda claim: order[claim.seq])
    term = Term(spec.id, lease.now_us, lease.until_us, lease.worker_id, not lease.accepted)
    transaction.execute_many(_CLAIMED, [(spec.id, claim.seq) for claim in found])
    transaction.execute_many(INSERT_LEASE, [lease_row(claim, term) for claim in found])
    return found


def _adopt(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int], now_us: int
) -> dict[int, int]:
    """Await events of the archive that nobody awaited, and that the filter lets pass: they were
    published before we were here.
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


def _end_unread(
    transaction: Transaction,
    spec: SubscriptionSpec,
    item: Unreadable | Ignored,
    arrived: Arrived,
    sent_us: int,
    lease: Lease,
) -> None:
    """End what is no event: a dead letter with its raw bytes, or a row that says why it was
    skipped.
    """
    # A confirmation holds a token that would subscribe somebody; that it came is all that is kept.
    raw = b"" if item.reason == "sns_confirmation" else item.raw
    type_ = item.type if isinstance(item, Ignored) else UNREADABLE_TYPE
    event = Event(
        raw, id=item.id, source=f"mltrigger/{spec.name}", type=type_, datacontenttype="text/plain"
    )
    found = _Found(arrived.message, (event, raw, "text/plain"), arrived.alone, sent_us)
    (seq,) = _archive(transaction, spec, [found], lease.now_us)
    if isinstance(item, Unreadable):
        _end(transaction, spec, seq, "dead", item.reason, item.message, lease)
    else:
        _end(transaction, spec, seq, "skipped", item.reason, None, lease)


def _end(
    transaction: Transaction,
    spec: SubscriptionSpec,
    seq: int,
    outcome: Outcome,
    reason: str,
    error: str | None,
    lease: Lease,
) -> bool:
    """Give the event an outcome without calling the model, if nobody is at work on it; return
    whether it has one now.
    """
    of = {"s": spec.id, "seq": seq, "now": lease.now_us}
    busy = transaction.query(
        "SELECT 1 FROM lease WHERE subscription_id = :s AND seq = :seq AND until_us > :now", of
    )
    if busy or transaction.query(_FINAL.format(seqs=str(seq)), of):
        return not busy
    for place in _PLACES:
        transaction.execute(f"DELETE FROM {place} WHERE subscription_id = :s AND seq = :seq", of)
    ((last,),) = transaction.query(_LAST, of)
    now_us, attempt = lease.now_us, last + 1
    if outcome == "dead":
        transaction.execute_many(
            INSERT_DEAD, [Dead(spec.id, seq, attempt, reason, None, error, None, now_us)]
        )
    ended = Uncalled(spec.id, seq, attempt, now_us, now_us, lease.worker_id, reason, error)
    record_uncalled(transaction, [ended], outcome, now_us)
    return True
