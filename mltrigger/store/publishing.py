"""Publishing in a SQL store: each event once in the log, and that is its delivery.

Only a subscription that goes by rows gets a row for it. So does each one when it is delayed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import Receipt
from mltrigger.errors import warn
from mltrigger.event.data import is_json
from mltrigger.event.delay import NOT_BEFORE, due_us
from mltrigger.event.event import Event
from mltrigger.event.ids import new_trace
from mltrigger.store.keys import id_key, time_key
from mltrigger.store.queue import INSERT_AWAITED, INSERT_READY, Waiting
from mltrigger.store.topics import Bound, Seen, Topic
from mltrigger.store.transaction import Row, Transaction

Encoded = tuple[Event, bytes, str | None]
"""An event, its data as bytes, and their media type; ``None`` stands for JSON."""

_INSERT_EVENT = """
INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, by_rows_us, time,
  subject, datacontenttype, dataschema, traceparent, extensions, data)
VALUES (:seq, :topic_id, :id, :source_id, :type_id, :published_us, :lag_us, :by_rows_us, :time,
  :subject, :datacontenttype, :dataschema, :traceparent, :extensions, :data)
ON CONFLICT (id, source_id, topic_id) DO NOTHING
"""
# Most events have no more columns. To bind seven times nothing takes as long as to insert them.
_INSERT_PLAIN = """
INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, data)
VALUES (:seq, :topic_id, :id, :source_id, :type_id, :published_us, :lag_us, :data)
ON CONFLICT (id, source_id, topic_id) DO NOTHING
"""
_SELECT_SEQ = """
SELECT seq, data, datacontenttype FROM event
WHERE id = :id AND source_id = :source_id AND topic_id = :topic_id
"""
_DELIVERED = """
SELECT 1 FROM final WHERE seq = :seq AND subscription_id = :s
UNION ALL SELECT 1 FROM leased WHERE subscription_id = :s AND seq = :seq
UNION ALL SELECT 1 FROM waiting WHERE subscription_id = :s AND seq = :seq LIMIT 1
"""
_REPEATED = """
INSERT INTO repeat (seq, times, differing, repeated_us) VALUES (:seq, 1, :differing, :now)
ON CONFLICT (seq) DO UPDATE SET times = repeat.times + 1,
  differing = repeat.differing + excluded.differing, repeated_us = excluded.repeated_us
"""


class Published(NamedTuple):
    """The outcome of a publish: a receipt for each event, and the keys of listeners to wake."""

    receipts: list[Receipt]
    woken: frozenset[str]


def publish(
    transaction: Transaction,
    name: str,
    encoded: Sequence[Encoded],
    now_us: int,
    carried: bool = False,
    arrived_us: Sequence[int] | None = None,
) -> Published:
    """Write *encoded* events of topic *name*, and the rows of subscriptions that go by rows.

    Parameters
    ----------
    carried : bool
        Whether an outside queue brings the deliveries of subscriptions that have one. They are
        awaited then.
    arrived_us : sequence of int, optional
        When each event was published elsewhere. Its deliveries have waited since then, and an event
        that is known already is not a repeat.
    """
    topic, newest = transaction.store.topics.of(transaction, name)
    rows = _event_rows(transaction, topic.id, encoded, newest, arrived_us or now_us)
    added = _insert(transaction, rows)
    to_whom = _matching(topic, encoded)
    if added == len(rows):
        receipts = [
            Receipt(event.id, row[0], False, names)
            for (event, _, _), row, (_, names) in zip(encoded, rows, to_whom, strict=True)
        ]
    else:
        bound = [topic.bound_of(to) for to, _ in to_whom]
        receipts = _receipts(
            transaction, encoded, rows, bound, topic, newest, now_us, arrived_us is None
        )
    woken = _place(transaction, topic, receipts, rows, [to for to, _ in to_whom], carried)
    return Published(receipts, frozenset(woken))


def _place(
    transaction: Transaction,
    topic: Topic,
    receipts: Sequence[Receipt],
    rows: Sequence[Row],
    to_whom: Sequence[Sequence[Bound]],
    carried: bool,
) -> set[str]:
    """Write the rows of new events. Return the keys of those who have something to do now."""
    woken = {f"topic:{topic.name}"}
    plain = len(rows[0]) == _PLAIN if rows else True
    if not topic.by_rows and (plain or all(row[_BY_ROWS] is None for row in rows)):
        return woken
    ready: list[Waiting] = []
    awaited: list[Waiting] = []
    for receipt, row, to in zip(receipts, rows, to_whom, strict=True):
        if receipt.duplicate:
            continue
        due_at_us = None if plain else row[_BY_ROWS]
        visible_us = row[_PUBLISHED] if due_at_us is None else due_at_us
        for b in to if due_at_us is None else topic.bound_of(to):
            queue = awaited if carried and b.outside else ready
            queue.append(Waiting(b.id, visible_us, receipt.seq))
    transaction.execute_many(INSERT_READY, ready)
    transaction.execute_many(INSERT_AWAITED, awaited)
    return woken | {f"ready:{row.subscription_id}" for row in (*ready, *awaited)}


def archive(
    transaction: Transaction, topic_id: int, encoded: Sequence[Encoded], newest: int, now_us: int
) -> list[int]:
    """Write events after number *newest* into the log, for nobody. Return their numbers."""
    rows = _event_rows(transaction, topic_id, encoded, newest, now_us)
    _insert(transaction, rows)
    return [row[0] for row in rows]


def _matching(
    topic: Topic, encoded: Sequence[Encoded]
) -> Sequence[tuple[Sequence[Bound], tuple[str, ...]]]:
    """Return for each event the subscriptions by rows that get it, and the names of all."""
    if topic.filters is None:
        return [(topic.by_rows, topic.names)] * len(encoded)
    found = []
    for each in encoded:
        to = [topic.by_rows[place] for place in topic.filters.matching(Seen(*each))]
        found.append((to, tuple(b.name for b in topic.bound_of(to))))
    return found


def _receipts(
    transaction: Transaction,
    encoded: Sequence[Encoded],
    rows: Sequence[Row],
    to_whom: Sequence[Sequence[Bound]],
    topic: Topic,
    newest: int,
    now_us: int,
    repeats: bool,
) -> list[Receipt]:
    """Return the receipts when some events were there before, or stand twice among *encoded*.

    Record the repeats, if asked for.
    """
    receipts: list[Receipt] = []
    seen: dict[int, Sequence[Bound]] = {}
    for (event, raw, media_type), row, to in zip(encoded, rows, to_whom, strict=True):
        _, topic_id, key, source_id, *_ = row
        ((seq, kept, kept_type),) = transaction.query(
            _SELECT_SEQ, {"id": key, "source_id": source_id, "topic_id": topic_id}
        )
        duplicate = seq <= newest or seq in seen
        # The first of several equal events was delivered. The data of the others do not count.
        to = seen.setdefault(seq, to)
        if seq <= newest:
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


_PUBLISHED, _BY_ROWS, _PLAIN = 5, 7, 8
"""The places of these columns in a row of ``event``, and how many a plain row has."""


def _insert(transaction: Transaction, rows: Sequence[Row]) -> int:
    """Insert the rows of events, all plain or all whole. Return how many are new."""
    plain = bool(rows) and len(rows[0]) == _PLAIN
    return transaction.execute_many(_INSERT_PLAIN if plain else _INSERT_EVENT, rows)


def _event_rows(
    transaction: Transaction,
    topic_id: int,
    encoded: Sequence[Encoded],
    newest: int,
    published_us: int | Sequence[int],
) -> list[Row]:
    """Return the rows of events, numbered from the one after *newest* on.

    They are plain if all can be: without the columns that most events do not need.
    """
    texts = {text for event, _, _ in encoded for text in (event.source, event.type)}
    names = transaction.store.vocabulary.numbers(transaction, texts)
    at_us = [published_us] * len(encoded) if isinstance(published_us, int) else published_us
    rows: list[Row] = []
    rest: list[Row] = []
    for seq, ((event, data, media_type), us) in enumerate(
        zip(encoded, at_us, strict=True), newest + 1
    ):
        key, (lag_us, time) = id_key(event.id), time_key(event.time, us)
        by_rows_us = traceparent = others = None
        if event.extensions:
            traceparent, others, by_rows_us = _extensions(event, us)
        if traceparent is None and isinstance(key, str):
            traceparent = new_trace()
        source_id, type_id = names[event.source], names[event.type]
        rows.append((seq, topic_id, key, source_id, type_id, us, lag_us, data))
        subject, schema = event.subject, event.dataschema
        rest.append((by_rows_us, time, subject, media_type, schema, traceparent, others))
    if all(each == _NOTHING for each in rest):
        return rows
    return [(*row[:-1], *more, row[-1]) for row, more in zip(rows, rest, strict=True)]


_NOTHING = (None,) * 7


def _extensions(event: Event, published_us: int) -> tuple[str | None, str | None, int | None]:
    """Return the trace of an event, its other extensions as JSON, and its time if it is delayed."""
    others = {n: v for n, v in event.extensions.items() if n != "traceparent"}
    due_at_us = due_us(others) if NOT_BEFORE in others else 0
    return (
        event.traceparent,
        json.dumps(others) if others else None,
        due_at_us if due_at_us > published_us else None,
    )
