"""From messages to events of the archive. Arrivals that are no events end here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.aws.transport.polls import Message
from mltrigger.broker import MAX_EVENT_BYTES, SubscriptionSpec
from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event.data import encode_data
from mltrigger.event.envelopes import UNREADABLE_TYPE, Ignored, Item, Unreadable
from mltrigger.event.event import Event
from mltrigger.store import leases, publishing
from mltrigger.store.keys import id_key
from mltrigger.store.outcomes import Outcome
from mltrigger.store.publishing import Encoded
from mltrigger.store.queue import INSERT_DEAD, Dead
from mltrigger.store.registry import ensure_topic
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Transaction
from mltrigger.store.unit import Uncalled, record_uncalled

INBOX = ".inbox"
"""Ending of the topic with events of one subscription only. No other name may have a dot."""
RAW_BYTES = 4 * 1024 * 1024
"""The most raw bytes that the dead letters of one message keep together.

Beyond it each keeps its own part only. Thousands of whole copies would fill the disk.
"""

_KNOWN = """
SELECT seq FROM event WHERE id = :id AND topic_id = :t
  AND source_id = (SELECT id FROM name WHERE text = :source)
"""
_SENT = """
INSERT INTO resent (subscription_id, seq, times, resent_us) VALUES (:s, :seq, 0, :now)
ON CONFLICT (subscription_id, seq) DO NOTHING
"""
_PLACES = ("ready", "awaited", "leased")
_ENDED = "SELECT 1 FROM final WHERE subscription_id = :s AND seq = :seq LIMIT 1"
_BUSY = "SELECT 1 FROM leased WHERE subscription_id = :s AND seq = :seq AND until_us > :now"
_LAST = "SELECT coalesce(max(attempt), 0) FROM outcome WHERE subscription_id = :s AND seq = :seq"


class Arrived(NamedTuple):
    """A received message, and the way to read it.

    Attributes
    ----------
    identity : tuple of str, optional
        Source and id of its event, if the message names them outside of its body.
    read : callable
        Returns the content of the message. An event of the archive needs no reading.
    sent_us : int
        When it was sent.
    alone : bool
        Whether no other subscription has a queue for the same events. If others have, an event
        without an identity of its own cannot be matched with theirs.
    """

    message: Message
    message_id: str
    identity: tuple[str, str] | None
    read: Callable[[], Sequence[Item]]
    sent_us: int
    alone: bool


class Lease(NamedTuple):
    """The term and the worker of leases that begin now.

    ``accepted`` says that the message may be deleted before the model has run. ``binding`` is the
    newest one of the subscription.
    """

    now_us: int
    until_us: int
    worker_id: int
    accepted: bool = False
    binding: int = 0


class Placed(NamedTuple):
    """A message, and the number in the archive of an event in it."""

    message: Message
    seq: int


class _Found(NamedTuple):
    """An event in a message.

    ``shared`` says that it belongs to the topic: every subscription of the topic gets it.
    """

    message: Message
    encoded: Encoded
    shared: bool
    sent_us: int


def placed(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Sequence[Arrived], lease: Lease
) -> list[Placed]:
    """Return the events of *arrived* in their order, after adding new ones to the archive.

    Arrivals that are no events end at once. The order of arrival is the order of a group.
    """
    topic_id = ensure_topic(transaction, spec.topic, lease.now_us)
    known: list[Placed] = []
    found: list[_Found] = []
    for a in arrived:
        seq = None if a.identity is None else _known(transaction, *a.identity, topic_id)
        if seq is not None:
            known.append(Placed(a.message, seq))
        else:
            found += _events(transaction, spec, a, lease)
    seqs = _archive(transaction, spec, found, lease.now_us)
    for f, seq in zip(found, seqs, strict=True):
        if not f.shared and not Seen(*f.encoded).passes(spec.filter):
            _end_filtered(transaction, spec, seq, lease)
    known += [Placed(f.message, seq) for f, seq in zip(found, seqs, strict=True)]
    order = {id(a.message): i for i, a in enumerate(arrived)}
    return sorted(known, key=lambda each: order[id(each.message)])


def end(
    transaction: Transaction,
    spec: SubscriptionSpec,
    seq: int,
    outcome: Outcome,
    reason: str,
    error: str | None,
    lease: Lease,
) -> bool:
    """Give an event an outcome without calling the model. Return whether it has one now.

    An event under way is left alone.
    """
    of = {"s": spec.id, "seq": seq, "now": lease.now_us}
    if transaction.query(_BUSY, of):
        return False
    if transaction.query(_ENDED, of):
        return True
    if (held := leases.holder(transaction, spec.id, seq)) is not None:
        leases.let_go(transaction, spec.id, held.number, [seq])
    for place in ("ready", "awaited"):
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


def _known(transaction: Transaction, source: str, id_: str, topic_id: int) -> int | None:
    """Return the number of the event in the archive, ``None`` if it is new."""
    rows = transaction.query(_KNOWN, {"source": source, "id": id_key(id_), "t": topic_id})
    return next((seq for (seq,) in rows), None)


def _events(
    transaction: Transaction, spec: SubscriptionSpec, arrived: Arrived, lease: Lease
) -> list[_Found]:
    """Return the events of one message. End arrivals that are no events."""
    events, sent_us, room = [], min(arrived.sent_us, lease.now_us), RAW_BYTES
    for item in arrived.read():
        found = _encoded(item) if isinstance(item, Event) else item
        if isinstance(found, Unreadable) and found.part is not None:
            room -= len(found.raw)
            found = found if room >= 0 else found._replace(raw=found.part)
        if isinstance(found, (Unreadable, Ignored)):
            _end_unread(transaction, spec, found, arrived, sent_us, lease)
        else:
            event, *_ = found
            shared = arrived.alone or event.id != arrived.message_id
            events.append(_Found(arrived.message, found, shared, sent_us))
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
    """Add new events to the archive. Return the numbers of all.

    Every subscription of the topic awaits a shared event. The others belong to this subscription
    only: they have a topic of their own, and count as sent again.
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
            event, *_ = f.encoded
            seq = _known(transaction, event.source, event.id, topic_id)
            if seq is None:
                new.append((i, f))
            else:
                seqs[i] = seq
        if not new:
            continue
        published = publishing.publish(
            transaction,
            [(topic, [f.encoded for _, f in new])],
            now_us,
            carried=True,
            arrived_us=[f.sent_us for _, f in new],
        )
        for (i, f), receipt in zip(new, published.receipts[0], strict=True):
            seqs[i] = receipt.seq
            if not shared:
                transaction.execute(_SENT, {"s": spec.id, "seq": receipt.seq, "now": f.sent_us})
    return [seqs[i] for i in range(len(found))]


def _end_filtered(transaction: Transaction, spec: SubscriptionSpec, seq: int, lease: Lease) -> None:
    """Record that the filter kept out an event that only this subscription knows.

    The archive of the topic does not tell it.
    """
    of = {"s": spec.id, "seq": seq}
    if not any(
        transaction.query(f"SELECT 1 FROM {place} WHERE subscription_id = :s AND seq = :seq", of)
        for place in _PLACES
    ):
        end(transaction, spec, seq, "skipped", "filtered", None, lease)


def _end_unread(
    transaction: Transaction,
    spec: SubscriptionSpec,
    item: Unreadable | Ignored,
    arrived: Arrived,
    sent_us: int,
    lease: Lease,
) -> None:
    """End an arrival that is no event: a dead letter with its raw bytes, or a skipped row."""
    # The token of a confirmation would subscribe somebody. Only its arrival is kept.
    raw = b"" if item.reason == "sns_confirmation" else item.raw
    type_ = item.type if isinstance(item, Ignored) else UNREADABLE_TYPE
    event = Event(
        raw, id=item.id, source=f"mltrigger/{spec.name}", type=type_, datacontenttype="text/plain"
    )
    found = _Found(arrived.message, (event, raw, "text/plain"), arrived.alone, sent_us)
    (seq,) = _archive(transaction, spec, [found], lease.now_us)
    if isinstance(item, Unreadable):
        end(transaction, spec, seq, "dead", item.reason, item.message, lease)
    else:
        end(transaction, spec, seq, "skipped", item.reason, None, lease)
