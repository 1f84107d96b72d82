"""Publishing in a SQL store: each event once in the archive.

Each subscription whose filter it passes gets one narrow row.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Receipt
from mltrigger.errors import NotFound, warn
from mltrigger.event.data import is_json
from mltrigger.event.delay import NOT_BEFORE, due_us
from mltrigger.event.event import Event, attributes_of
from mltrigger.event.ids import new_trace
from mltrigger.filters import FilterPolicy
from mltrigger.names import is_topic
from mltrigger.store.queue import INSERT_AWAITED, INSERT_READY, Waiting
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Row, Transaction

Encoded = tuple[Event, bytes, str | None]
"""An event, its data as bytes, and their media type; ``None`` stands for JSON."""

_INSERT_EVENT = """
INSERT INTO event (seq, topic_id, id, source, type, time, subject, datacontenttype, dataschema,
  traceparent, extensions, data, published_us)
VALUES (:seq, :topic_id, :id, :source, :type, :time, :subject, :datacontenttype, :dataschema,
  :traceparent, :extensions, :data, :published_us)
ON CONFLICT (id, source, topic_id) DO NOTHING
"""
_SELECT_SEQ = """
SELECT seq, data, datacontenttype FROM event
WHERE id = :id AND source = :source AND topic_id = :topic_id
"""
_DELIVERED = """
SELECT 1 FROM final WHERE seq = :seq AND subscription_id = :s
UNION ALL SELECT 1 FROM lease WHERE subscription_id = :s AND seq = :seq
UNION ALL SELECT 1 FROM waiting WHERE subscription_id = :s AND seq = :seq LIMIT 1
"""
# One query instead of three, since each single publish needs it.
_TOPIC = """
SELECT t.id, (SELECT coalesce(max(seq), 0) FROM event),
  s.id, s.name, s.filter, s.filter_scope, s.outside
FROM topic t
LEFT JOIN subscription s ON s.topic_id = t.id AND s.bound = 1 AND s.role = 'live'
WHERE t.name = :name ORDER BY s.id
"""
_REPEATED = """
INSERT INTO repeat (seq, times, differing, repeated_us) VALUES (:seq, 1, :differing, :now)
ON CONFLICT (seq) DO UPDATE SET times = repeat.times + 1,
  differing = repeat.differing + excluded.differing, repeated_us = excluded.repeated_us
"""


class Published(NamedTuple):
    """The outcome of a publish: a receipt for each event, and the subscriptions with new work."""

    receipts: list[Receipt]
    woken: frozenset[int]


class _Bound(NamedTuple):
    """A subscription of the topic, and its filter if it has one."""

    id: int
    name: str
    policy: FilterPolicy | None
    outside: bool


class _Topic(NamedTuple):
    """A topic, the newest event of the archive, and the bound subscriptions of the topic."""

    id: int
    newest: int
    bound: list[_Bound]


def publish(
    transaction: Transaction,
    topic: str,
    encoded: Sequence[Encoded],
    now_us: int,
    carried: bool = False,
    arrived_us: Sequence[int] | None = None,
) -> Published:
    """Write *encoded* events and their deliveries.

    Parameters
    ----------
    carried : bool
        Whether an outside queue brings the deliveries of subscriptions that have one. They are
        awaited then.
    arrived_us : sequence of int, optional
        When each event was published elsewhere. Its deliveries have waited since then, and an event
        that is known already is not a repeat.
    """
    found = _topic(transaction, topic)
    at_us = arrived_us or [now_us] * len(encoded)
    seqs = range(found.newest + 1, found.newest + 1 + len(encoded))
    rows = [
        _event_row(*e, seq, found.id, published_us)
        for e, seq, published_us in zip(encoded, seqs, at_us, strict=True)
    ]
    added = transaction.execute_many(_INSERT_EVENT, rows)
    to_whom = _matching(found.bound, encoded)
    if added == len(rows):
        receipts = [
            Receipt(event.id, seq, False, tuple([b.name for b in to]))
            for (event, _, _), seq, to in zip(encoded, seqs, to_whom, strict=True)
        ]
    else:
        receipts = _receipts(transaction, encoded, to_whom, found, now_us, arrived_us is None)
    ready: list[Waiting] = []
    awaited: list[Waiting] = []
    for receipt, to, visible_us, (event, _, _) in zip(
        receipts, to_whom, at_us, encoded, strict=True
    ):
        if not receipt.duplicate:
            if event.extensions and NOT_BEFORE in event.extensions:
                visible_us = max(visible_us, due_us(event.extensions))
            for b in to:
                queue = awaited if carried and b.outside else ready
                queue.append(Waiting(b.id, visible_us, receipt.seq))
    transaction.execute_many(INSERT_READY, ready)
    transaction.execute_many(INSERT_AWAITED, awaited)
    woken = frozenset(row.subscription_id for row in (*ready, *awaited))
    return Published(receipts, woken)


def archive(
    transaction: Transaction,
    topic_id: int,
    numbered: Sequence[tuple[Encoded, int]],
    now_us: int,
) -> None:
    """Write events with their numbers into the archive, without a delivery."""
    rows = [_event_row(*each, seq, topic_id, now_us) for each, seq in numbered]
    transaction.execute_many(_INSERT_EVENT, rows)


def _topic(transaction: Transaction, name: str) -> _Topic:
    rows = transaction.query(_TOPIC, {"name": name}) if is_topic(name) else []
    if not rows:
        names = transaction.query("SELECT name FROM topic", {})
        known = [other for (other,) in names if is_topic(other)]
        raise NotFound.of(
            "topic",
            name,
            known,
            "subscribe to it or call bus.topic(…) to make it; bus.topics() lists all",
        )
    bound = []
    for topic_id, newest, number, subscription, filter_text, scope, outside in rows:  # noqa: B007
        if number is not None:
            policy = filter_of(filter_text, scope, "subscription", number)
            bound.append(_Bound(number, subscription, policy, bool(outside)))
    return _Topic(topic_id, newest, bound)


class Seen:
    """An event as filters see it, parsed once, and only when a filter asks.

    Parameters
    ----------
    event, raw, media_type
        The event, its data as bytes, and their media type.
    """

    def __init__(self, event: Event, raw: bytes, media_type: str | None) -> None:
        self._event, self._raw, self._media_type = event, raw, media_type

    @functools.cached_property
    def attributes(self) -> dict[str, Any]:
        """The context attributes by name."""
        return attributes_of(self._event)

    @functools.cached_property
    def body(self) -> Any:
        """The data as plain JSON, as a subscriber in another language reads it.

        ``None`` for other data, which never matches.
        """
        return json.loads(self._raw) if is_json(self._media_type) else None

    def passes(self, policy: FilterPolicy | None) -> bool:
        """Whether a subscription with this filter gets the event."""
        if policy is None:
            return True
        return (
            policy.matches_attributes(self.attributes)
            if policy.scope == "MessageAttributes"
            else policy.matches_body(self.body)
        )


def _matching(bound: Sequence[_Bound], encoded: Sequence[Encoded]) -> list[Sequence[_Bound]]:
    """Return for each event the subscriptions that get it."""
    if all(b.policy is None for b in bound):
        return [bound] * len(encoded)
    return [[b for b in bound if seen.passes(b.policy)] for seen in (Seen(*e) for e in encoded)]


def _receipts(
    transaction: Transaction,
    encoded: Sequence[Encoded],
    to_whom: Sequence[Sequence[_Bound]],
    topic: _Topic,
    now_us: int,
    repeats: bool,
) -> list[Receipt]:
    """Return the receipts when some events were there before, or stand twice among *encoded*.

    Record the repeats, if asked for.
    """
    receipts: list[Receipt] = []
    seen: dict[int, Sequence[_Bound]] = {}
    for (event, raw, media_type), to in zip(encoded, to_whom, strict=True):
        ((seq, kept, kept_type),) = transaction.query(
            _SELECT_SEQ, {"id": event.id, "source": event.source, "topic_id": topic.id}
        )
        duplicate = seq <= topic.newest or seq in seen
        # The first of several equal events was delivered. The data of the others do not count.
        to = seen.setdefault(seq, to)
        if seq <= topic.newest:
            to = [b for b in topic.bound if transaction.query(_DELIVERED, {"s": b.id, "seq": seq})]
        if duplicate and repeats:
            differs = differ((bytes(kept), kept_type), (raw, media_type))
            transaction.execute(_REPEATED, {"seq": seq, "differing": int(differs), "now": now_us})
            if differs:
                warn(
                    f"event {event.id!r} was published before with other data: the first stays"
                    f" (sha256 {_hash(bytes(kept))}…), this one is not delivered ({_hash(raw)}…)"
                )
        receipts.append(Receipt(event.id, seq, duplicate, tuple([b.name for b in to])))
    return receipts


def differ(one: tuple[bytes, str | None], other: tuple[bytes, str | None]) -> bool:
    """Whether two bodies say different things. Order of keys and blanks of JSON do not matter."""
    if one[0] == other[0]:
        return False
    try:
        said = [
            json.dumps(json.loads(data), sort_keys=True)
            for data, media_type in (one, other)
            if is_json(media_type)
        ]
    except (ValueError, RecursionError):
        return True
    return len(said) < 2 or said[0] != said[1]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _event_row(
    event: Event, data: bytes, media_type: str | None, seq: int, topic_id: int, now_us: int
) -> Row:
    others = (
        {n: v for n, v in event.extensions.items() if n != "traceparent"}
        if event.extensions
        else None
    )
    return (
        seq,
        topic_id,
        event.id,
        event.source,
        event.type,
        event.time.isoformat(),
        event.subject,
        media_type,
        event.dataschema,
        event.traceparent or new_trace(),
        json.dumps(others) if others else None,
        data,
        now_us,
    )
