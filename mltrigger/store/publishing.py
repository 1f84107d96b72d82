"""Publishing in a SQL store: each event once in the log, and that is its delivery.

Only a subscription that goes by rows gets a row for it. So does each one when it is delayed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import MAX_EVENT_BYTES, Receipt
from mltrigger.errors import warn
from mltrigger.event.data import encode_data, encode_plain, is_json
from mltrigger.event.delay import NOT_BEFORE, due_us
from mltrigger.event.event import DEFAULT_SOURCE, DEFAULT_TYPE, Event
from mltrigger.event.ids import new_ids, new_trace
from mltrigger.event.making import as_event, restored
from mltrigger.store import placing
from mltrigger.store.keys import id_key, time_key, time_of
from mltrigger.store.queue import INSERT_AWAITED, INSERT_READY
from mltrigger.store.topics import Bound, Seen, Topic
from mltrigger.store.transaction import Row, Transaction

Encoded = tuple[Event, bytes, str | None]
"""An event, its data as bytes, and their media type; ``None`` stands for JSON."""

_INSERT_EVENT = """
INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, by_rows_us, time,
  subject, datacontenttype, dataschema, traceparent, extensions, data)
VALUES (:seq, :topic_id, :id, :source_id, :type_id, :published_us, :lag_us, :by_rows_us, :time,
  :subject, :datacontenttype, :dataschema, :traceparent, :extensions, :data)
ON CONFLICT DO NOTHING
"""
# Most events have no more columns. To bind seven times nothing takes as long as to insert them.
_INSERT_PLAIN = """
INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, data)
VALUES (:seq, :topic_id, :id, :source_id, :type_id, :published_us, :lag_us, :data)
ON CONFLICT DO NOTHING
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


class Plain(NamedTuple):
    """Data of new events: their ids, as text and as stored, their JSON, and the time of all."""

    ids: Sequence[str]
    keys: Sequence[bytes]
    raws: Sequence[bytes]
    time_us: int

    def encoded(self) -> list[Encoded]:
        """Return the same as events."""
        at = time_of(self.time_us, 0, None)
        about = DEFAULT_TYPE, DEFAULT_SOURCE
        return [
            (restored(raw, *about, event_id, at, None, None, None, {}), raw, None)
            for event_id, raw in zip(self.ids, self.raws, strict=True)
        ]


Samples = Plain | Sequence[Encoded]
Asked = tuple[str, Samples]
"""The name of a topic, and the events for it."""


_OTHERS = Event, bytes, bytearray
"""Samples with attributes of their own: bytes have a media type."""


def prepared(samples: Sequence[Any]) -> Samples:
    """Return Events and data, encoded. That needs no lock.

    Plain data are by far the most. They become rows without an Event for each.
    """
    if any(isinstance(sample, _OTHERS) for sample in samples):
        return [(e, *encode_data(e, MAX_EVENT_BYTES)) for e in map(as_event, samples)]
    raws = encode_plain(samples, MAX_EVENT_BYTES)
    return Plain(*new_ids(len(raws)), raws, time.time_ns() // 1000)


class _Rows(NamedTuple):
    """Rows of ``event``: the columns that all have, and the others unless all are NULL."""

    rows: list[Row]
    rest: list[Row] | None


class _Draft(NamedTuple):
    """Samples for one topic, as rows. ``to`` has the receivers of each event."""

    topic: Topic
    samples: Samples
    rows: _Rows
    to: Sequence[tuple[Sequence[Bound], tuple[str, ...]]]
    seen: Sequence[Seen] | None
    """The events, if somebody looks into them."""


class Published(NamedTuple):
    """The outcome of publishing: receipts for all that was asked, and the listeners to wake."""

    receipts: list[list[Receipt]]
    woken: frozenset[str]


def publish(
    transaction: Transaction,
    asked: Sequence[Asked],
    now_us: int,
    carried: bool = False,
    arrived_us: Sequence[int] | None = None,
) -> Published:
    """Write events, and the rows of subscriptions that go by rows.

    Parameters
    ----------
    carried : bool
        Whether an outside queue brings the deliveries of subscriptions that have one. They are
        awaited then.
    arrived_us : sequence of int, optional
        When each event was published elsewhere. Its deliveries have waited since then, and an event
        that is known already is not a repeat.
    """
    topics = transaction.store.topics
    generation, newest = topics.now(transaction)
    drafts, n = list[_Draft](), 0
    for name, samples in asked:
        topic = topics.of(transaction, name, generation)
        rows = _rows_of(transaction, topic.id, samples, newest + n, arrived_us or now_us)
        seen = _seen(topic, samples)
        drafts.append(_Draft(topic, samples, rows, _matching(topic, samples, seen), seen))
        n += len(rows.rows)
    if _insert(transaction, [draft.rows for draft in drafts]) == n:
        receipts = [_new(draft) for draft in drafts]
    else:
        receipts = _Repeats(transaction, newest, now_us, arrived_us is None).receipts(drafts)
    woken = set[str]()
    for draft, made in zip(drafts, receipts, strict=True):
        woken |= _place(transaction, draft, made, carried)
    return Published(receipts, frozenset(woken))


def _new(draft: _Draft) -> list[Receipt]:
    """Return the receipts of events that are all new."""
    ids = _ids(draft.samples)
    return [
        Receipt(event_id, row[0], False, names)
        for event_id, row, (_, names) in zip(ids, draft.rows.rows, draft.to, strict=True)
    ]


def _ids(samples: Samples) -> Sequence[str]:
    return samples.ids if isinstance(samples, Plain) else [event.id for event, _, _ in samples]


def _encoded(samples: Samples) -> Sequence[Encoded]:
    return samples.encoded() if isinstance(samples, Plain) else samples


def _place(
    transaction: Transaction, draft: _Draft, receipts: Sequence[Receipt], carried: bool
) -> set[str]:
    """Write the rows of new events. Return the keys of those who have something to do now."""
    topic, (rows, rest) = draft.topic, draft.rows
    woken = {f"topic:{topic.name}"}
    if not topic.by_rows and (rest is None or all(more[_BY_ROWS] is None for more in rest)):
        return woken
    ready: list[Row] = []
    awaited: list[Row] = []
    keyed: list[Row] = []
    dues: Iterable[int | None] = (
        itertools.repeat(None) if rest is None else (m[_BY_ROWS] for m in rest)
    )
    seen = itertools.repeat(None) if draft.seen is None else draft.seen
    for receipt, row, due_at_us, (to, _), look in zip(
        receipts, rows, dues, draft.to, seen, strict=False
    ):
        if receipt.duplicate:
            continue
        visible_us = row[_PUBLISHED] if due_at_us is None else due_at_us
        for b in to if due_at_us is None else topic.bound_of(to):
            waiting = (b.id, visible_us, receipt.seq, 0, 0, 0)  # as Waiting
            if b.placing is not None and look is not None and due_at_us is None:
                keyed.append(b.placing.row(look, waiting))
            else:
                (awaited if carried and b.outside else ready).append(waiting)
    transaction.insert(INSERT_READY, ready)
    transaction.insert(INSERT_AWAITED, awaited)
    if keyed:
        placing.insert(transaction, keyed)
    return woken | {f"ready:{b_id}" for b_id in {row[0] for row in (*ready, *awaited, *keyed)}}


def archive(
    transaction: Transaction, topic_id: int, encoded: Sequence[Encoded], newest: int, now_us: int
) -> list[int]:
    """Write events into the log after number *newest*, without deliveries. Return their numbers."""
    rows = _rows_of(transaction, topic_id, encoded, newest, now_us)
    _insert(transaction, [rows])
    return [row[0] for row in rows.rows]


def _seen(topic: Topic, samples: Samples) -> Sequence[Seen] | None:
    """Return the events as filters, keys and priorities see them. ``None`` without any."""
    if topic.filters is None and not topic.places:
        return None
    if isinstance(samples, Plain) and not topic.reads_attributes:
        return [Seen(None, raw, None) for raw in samples.raws]
    return [Seen(*each) for each in _encoded(samples)]


def _matching(
    topic: Topic, samples: Samples, all_seen: Sequence[Seen] | None
) -> Sequence[tuple[Sequence[Bound], tuple[str, ...]]]:
    """Return for each event the subscriptions by rows that get it, and the names of all."""
    if topic.filters is None or all_seen is None:
        return [(topic.by_rows, topic.names)] * len(_ids(samples))
    found = []
    for seen in all_seen:
        to = [topic.by_rows[place] for place in topic.filters.matching(seen)]
        found.append((to, tuple([b.name for b in topic.bound_of(to) if not b.is_lane])))
    return found


class _Repeats:
    """Makes receipts when some events were there before, or stand twice in one commit.

    Records the repeats, if asked for.
    """

    def __init__(self, transaction: Transaction, newest: int, now_us: int, recorded: bool) -> None:
        self._transaction, self._newest, self._now_us = transaction, newest, now_us
        self._recorded = recorded
        self._seen: dict[int, Sequence[Bound]] = {}

    def receipts(self, drafts: Sequence[_Draft]) -> list[list[Receipt]]:
        """Return the receipts of *drafts*, in the order in which they were written."""
        made = []
        for topic, samples, (rows, _), to_whom, _ in drafts:
            each = zip(_encoded(samples), rows, to_whom, strict=True)
            made.append([self._receipt(topic, *one) for one in each])
        return made

    def _receipt(
        self,
        topic: Topic,
        encoded: Encoded,
        row: Row,
        to_whom: tuple[Sequence[Bound], tuple[str, ...]],
    ) -> Receipt:
        event, raw, media_type = encoded
        _, topic_id, key, source_id, *_ = row
        ((seq, kept, kept_type),) = self._transaction.query(
            _SELECT_SEQ, {"id": key, "source_id": source_id, "topic_id": topic_id}
        )
        duplicate = seq <= self._newest or seq in self._seen
        # The first of several equal events was delivered. The data of the others do not count.
        to = self._seen.setdefault(seq, topic.bound_of(to_whom[0]))
        if seq <= self._newest:
            to = [
                b
                for b in topic.bound
                if self._transaction.query(_DELIVERED, {"s": b.id, "seq": seq})
            ]
        if duplicate and self._recorded:
            self._record(seq, event.id, (bytes(kept), kept_type), (raw, media_type))
        names = tuple([b.name for b in to if not b.is_lane])
        return Receipt(event.id, seq, duplicate, names)

    def _record(
        self,
        seq: int,
        event_id: str,
        kept: tuple[bytes, str | None],
        said: tuple[bytes, str | None],
    ) -> None:
        differs = differ(kept, said)
        self._transaction.execute(
            _REPEATED, {"seq": seq, "differing": int(differs), "now": self._now_us}
        )
        if differs:
            warn(
                f"event {event_id!r} was published before with other data: the first stays"
                f" (sha256 {_hash(kept[0])}…), this one is not delivered ({_hash(said[0])}…)"
            )


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


_PUBLISHED, _BY_ROWS = 5, 0
"""The places of these columns in a row of ``event``, and in the rest of one."""
_NOTHING = (None,) * 7
_LARGE = 64 * 1024
"""Data of more bytes are inserted one by one."""


def _insert(transaction: Transaction, parts: Sequence[_Rows]) -> int:
    """Insert the rows of events, all plain or all whole. Return how many are new."""
    sql, rows = _INSERT_PLAIN, [row for rows, _ in parts for row in rows]
    if any(rest is not None for _, rest in parts):
        sql = _INSERT_EVENT
        rests = (more for rows, rest in parts for more in rest or [_NOTHING] * len(rows))
        rows = [(*row[:-1], *more, row[-1]) for row, more in zip(rows, rests, strict=True)]
    # SQLite has a copy of all that one statement inserts
    is_large = any(len(row[-1]) > _LARGE for row in rows)
    return (transaction.execute_many if is_large else transaction.insert)(sql, rows)


def _rows_of(
    transaction: Transaction,
    topic_id: int,
    samples: Samples,
    newest: int,
    published_us: int | Sequence[int],
) -> _Rows:
    """Return the rows of events, numbered from the one after *newest* on."""
    if isinstance(samples, Plain) and isinstance(published_us, int):
        names = transaction.store.vocabulary.numbers(transaction, (DEFAULT_SOURCE, DEFAULT_TYPE))
        about = (names[DEFAULT_SOURCE], names[DEFAULT_TYPE])
        times_us = (published_us, published_us - samples.time_us)
        numbered = zip(itertools.count(newest + 1), samples.keys, samples.raws, strict=False)
        rows = [(seq, topic_id, key, *about, *times_us, raw) for seq, key, raw in numbered]
        return _Rows(rows, None)
    return _whole_rows(transaction, topic_id, _encoded(samples), newest, published_us)


def _whole_rows(
    transaction: Transaction,
    topic_id: int,
    encoded: Sequence[Encoded],
    newest: int,
    published_us: int | Sequence[int],
) -> _Rows:
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
    return _Rows(rows, None if all(each == _NOTHING for each in rest) else rest)


def _extensions(event: Event, published_us: int) -> tuple[str | None, str | None, int | None]:
    """Return the trace of an event, its other extensions as JSON, and its time if it is delayed."""
    others = {n: v for n, v in event.extensions.items() if n != "traceparent"}
    due_at_us = due_us(others) if NOT_BEFORE in others else 0
    return (
        event.traceparent,
        json.dumps(others) if others else None,
        due_at_us if due_at_us > published_us else None,
    )
