"""Publishing in a SQL store: the event once in the archive, and one narrow row for each
subscription whose filter it passes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Receipt
from mltrigger.errors import NotFound, warn
from mltrigger.event.event import Event, attributes_of, is_json
from mltrigger.event.ids import new_trace
from mltrigger.filters import FilterPolicy
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Row, Transaction

Encoded = tuple[Event, bytes, str | None]
"""An event, its data as bytes, and their media type; ``None`` stands for JSON."""

_INSERT_EVENT = """
INSERT INTO event (seq, topic_id, id, source, type, time, subject, datacontenttype, dataschema, traceparent, extensions, data,
  published_us)
VALUES (:seq, :topic_id, :id, :source, :type, :time, :subject, :datacontenttype, :dataschema, :traceparent, :extensions, :data,
  :published_us)
ON CONFLICT (id, source, topic_id) DO NOTHING
"""
INSERT_READY = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
VALUES (:subscription_id, :visible_us, :seq, :attempt, :failures, :abandoned) ON CONFLICT DO NOTHING
"""
INSERT_AWAITED = INSERT_READY.replace("ready", "awaited")
"""For subscriptions whose events a queue outside carries."""
_SELECT_SEQ = (
    "SELECT seq, data, datacontenttype FROM event WHERE id = :id AND source = :source AND topic_id"
    " = :topic_id"
)
_DELIVERED = """
SELECT 1 FROM invocation WHERE seq = :seq AND subscription_id = :s AND outcome IN ('succeeded', 'dead', 'skipped')
UNION ALL SELECT 1 FROM lease WHERE subscription_id = :s AND seq = :seq
UNION ALL SELECT 1 FROM waiting WHERE subscription_id = :s AND seq = :seq LIMIT 1
"""
# One question instead of three, since each event that is published alone asks it.
_TOPIC = """
SELECT t.id, (SELECT coalesce(max(seq), 0) FROM event), s.id, s.name, s.filter, s.filter_scope, s.outside
FROM topic t LEFT JOIN subscription s ON s.topic_id = t.id AND s.bound = 1 WHERE t.name = :name ORDER BY s.id
"""
_REPEATED = """
INSERT INTO repeat (seq, times, differing, repeated_us) VALUES (:seq, 1, :differing, :now)
ON CONFLICT (seq) DO UPDATE SET times = repeat.times + 1, differing = repeat.differing + excluded.differing,
  repeated_us = excluded.repeated_us
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


def publish(
    transaction: Transaction,
    topic: str,
    encoded: Sequence[Encoded],
    now_us: int,
    carried: bool = False,
    arrived_us: Sequence[int] | None = None,
) -> Published:
    """Write *encoded* events and their deliveries; those that a queue outside has *carried*, or
    will, are awaited.

    Events that were published elsewhere and have *arrived* say when that was, and have waited
    since; one that is there already is no news then.
    """
    found = transaction.query(_TOPIC, {"name": topic})
    if not found:
        known = [name for (name,) in transaction.query("SELECT name FROM topic", {})]
        raise NotFound.of(
            "topic",
            topic,
            known,
            "subscribe to it or call bus.topic(…) to make it; bus.topics() lists all",
        )
    topic_id, base = found[0][:2]
    at_us = arrived_us or [now_us] * len(encoded)
    rows = [
        _event_row(*e, seq, topic_id, at_us[i])
        for i, (seq, e) in enumerate(enumerate(encoded, base + 1))
    ]
    added = transaction.execute_many(_INSERT_EVENT, rows)
    bound = [_bound(row, carried) for row in found if row[2] is not None]
    to_whom = _matching(bound, encoded)
    if added == len(rows):
        receipts = [
            Receipt(row[2], row[0], False, tuple([b.name for b in to]))
            for row, to in zip(rows, to_whom, strict=True)
        ]
        ready = [
            (b.id, since_us, row[0], 0, 0, 0)
            for row, to, since_us in zip(rows, to_whom, at_us, strict=True)
            for b in to
        ]
    else:
        receipts = _receipts(
            transaction, encoded, to_whom, bound, base, topic_id, now_us, arrived_us is None
        )
        fresh = {
            r.seq: (to, since_us)
            for r, to, since_us in zip(receipts, to_whom, at_us, strict=True)
            if not r.duplicate
        }
        ready = [
            (b.id, since_us, seq, 0, 0, 0) for seq, (to, since_us) in fresh.items() for b in to
        ]
    if not carried:
        transaction.execute_many(INSERT_READY, ready)
    else:
        outside = {b.id for b in bound if b.outside}
        transaction.execute_many(INSERT_AWAITED, [row for row in ready if row[0] in outside])
        transaction.execute_many(INSERT_READY, [row for row in ready if row[0] not in outside])
    return Published(receipts, frozenset(row[0] for row in ready))


def _bound(row: Row, carried: bool) -> _Bound:
    _, _, number, name, filter_text, scope, outside = row
    return _Bound(
        number,
        name,
        filter_of(filter_text, scope, "subscription", number),
        carried and bool(outside),
    )


class Seen:
    """An event as filters see it: taken apart once, and only if one of them asks.

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
        """The data as a subscriber in another language would read it: plain JSON; ``None`` for what
        is not JSON, which never matches.
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
    bound: Sequence[_Bound],
    base: int,
    topic_id: int,
    now_us: int,
    repeats: bool,
) -> list[Receipt]:
    """Return the receipts of events of which some were there before, or stand twice among them;
    note the repeats.
    """
    receipts: list[Receipt] = []
    seen: dict[int, Sequence[_Bound]] = {}
    for (event, raw, media_type), to in zip(encoded, to_whom, strict=True):
        seq, kept, kept_type = transaction.query(
            _SELECT_SEQ, {"id": event.id, "source": event.source, "topic_id": topic_id}
        )[0]
        duplicate = seq <= base or seq in seen
        # the first of them is what was delivered, whatever the others hold
        to = seen.setdefault(seq, to)
        if seq <= base:
            to = [b for b in bound if transaction.query(_DELIVERED, {"s": b.id, "seq": seq})]
        if duplicate and repeats:
            differs = _differ((bytes(kept), kept_type), (raw, media_type))
            transaction.execute(_REPEATED, {"seq": seq, "differing": int(differs), "now": now_us})
            if differs:
                warn(
                    f"event {event.id!r} was published before with other data: the first stays"
                    f" (sha256 {_hash(bytes(kept))}…), this one is not delivered ({_hash(raw)}…)"
                )
        receipts.append(Receipt(event.id, seq, duplicate, tuple([b.name for b in to])))
    return receipts


def _differ(one: tuple[bytes, str | None], other: tuple[bytes, str | None]) -> bool:
    """Whether two bodies say different things: JSON says the same in another order of keys, or with
    other blanks.
    """
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
