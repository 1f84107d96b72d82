"""The queue's tables: their rows as values, and the statements that write them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Delivery
from mltrigger.event.data import check_data
from mltrigger.event.delay import due_us
from mltrigger.event.event import Event, Rest
from mltrigger.event.making import restored, restored_later
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.keys import id_text, time_of, trace_of
from mltrigger.store.transaction import Row, Transaction


class Waiting(NamedTuple):
    """A row of ``ready`` or ``awaited``: a delivery that nobody has leased."""

    subscription_id: int
    visible_us: int
    seq: int
    attempt: int = 0
    failures: int = 0
    abandoned: int = 0


INSERT_READY = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
VALUES (:subscription_id, :visible_us, :seq, :attempt, :failures, :abandoned)
ON CONFLICT DO NOTHING
"""
INSERT_AWAITED = INSERT_READY.replace("ready", "awaited")
"""For deliveries that an outside queue carries."""


class Claim(NamedTuple):
    """A waiting delivery with its event, as a listener claims it."""

    seq: int
    visible_us: int
    attempt: int
    failures: int
    abandoned: int
    published_us: int
    lag_us: int
    key: bytes | str
    source_id: int
    type_id: int
    time: str | None
    subject: str | None
    media_type: str | None
    dataschema: str | None
    traceparent: str | None
    extensions: str | None
    data: bytes
    times: int | None = None
    """How often it was sent again, ``None`` for never."""
    resent_us: int | None = None
    other_data: bytes | None = None
    """Data that replace those of the archive."""
    other_type: str | None = None


_EVENT = """e.published_us, e.lag_us, e.id, e.source_id, e.type_id, e.time, e.subject,
  e.datacontenttype, e.dataschema, e.traceparent, e.extensions, e.data"""
_CLAIM = f"""
SELECT q.seq, q.visible_us, q.attempt, q.failures, q.abandoned, {_EVENT},
  a.times, a.resent_us, a.data, a.datacontenttype
FROM {{place}} q JOIN event e ON e.seq = q.seq
LEFT JOIN resent a ON a.subscription_id = q.subscription_id AND a.seq = q.seq
WHERE q.subscription_id = :s
"""
CLAIM_READY = _CLAIM.format(place="ready")
CLAIM_AWAITED = _CLAIM.format(place="awaited")
CLAIM_KEYED = _CLAIM.format(place="keyed").replace("\nFROM", ", q.rank\nFROM", 1)
"""With the rank behind the columns of a claim."""
# Without statistics the planner may read the whole table.
CLAIM_RANGE = f"""
SELECT e.seq, e.published_us, 0, 0, 0, {_EVENT}
FROM event e INDEXED BY event_topic
WHERE e.topic_id = :t AND e.seq >= :next AND e.seq <= :last AND e.by_rows_us IS NULL
ORDER BY e.seq LIMIT :n
"""


def claims(transaction: Transaction, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
    """Return the rows that *sql*, one of those above, finds: columns of :class:`Claim`.

    A row of a range ends before the columns of events that were sent again. A row of ``keyed`` has
    its rank behind all of them.
    """
    return transaction.query(sql, parameters)


class Term(NamedTuple):
    """The shared part of leases of one claim: subscription, number, times and worker."""

    subscription_id: int
    number: int
    received_us: int
    until_us: int
    worker_id: int
    outside: bool = False
    """Whether messages of an outside queue belong to them."""
    binding: int = 0
    """The newest binding of the subscription."""


def deliveries(transaction: Transaction, found: Sequence[Row], term: Term) -> list[Delivery]:
    """Return the deliveries of claims that were leased for *term*.

    Raises
    ------
    StoreError
        When an event cannot be read.
    """
    words = transaction.store.vocabulary
    numbers = {row[8] for row in found} | {row[9] for row in found}
    names = {n: words.text(transaction, n) for n in numbers}
    made = []
    for row in found:
        seq, visible_us, attempt, failures, abandoned, published_us, lag_us, key, source_id = row[
            :9
        ]
        type_id, time, subject, media_type, schema, traceparent, extensions, data = row[9:17]
        since_us = published_us
        if (
            type(key) is bytes
            and type(data) is bytes
            and type(published_us) is int
            and type(lag_us) is int
            and time is subject is schema is media_type is traceparent is extensions is None
            and (len(row) == _OF_RANGE or row[_OF_RANGE] is None)
        ):
            try:
                check_data(data, None)
            except ERRORS as error:
                raise damaged("event", seq, error) from error
            rest = functools.partial(rest_of, names[source_id], key, published_us, lag_us)
            event = restored_later(data, names[type_id], rest)
        else:
            event, since_us = _whole(Claim(*row[:_WIDTH]), names)
        made.append(
            Delivery(
                event,
                seq,
                term.subscription_id,
                attempt + 1,
                failures,
                abandoned,
                published_us,
                visible_us,
                term.received_us,
                since_us,
                term.number,
            )
        )
    return made


_WIDTH = len(Claim._fields)
_OF_RANGE = 17
"""How many columns a row of a range has."""


def rest_of(source: str, key: bytes, published_us: int, lag_us: int) -> Rest:
    """Return the attributes of a plain event that few models ask for."""
    time = time_of(published_us, lag_us, None)
    return source, id_text(key), time, None, None, {"traceparent": trace_of(key)}


def _whole(claim: Claim, names: Mapping[int, str]) -> tuple[Event, int]:
    """Return the event of *claim*, and since when it waits. Raise StoreError for a damaged one."""
    data, media_type, published_us = claim.data, claim.media_type, claim.published_us
    try:
        others: dict[str, Any] = {"traceparent": claim.traceparent or trace_of(claim.key)}
        since_us = published_us
        if claim.extensions:
            others |= json.loads(claim.extensions)
            since_us = max(published_us, due_us(others))
        if claim.times:
            others["redrive"] = claim.times
            if claim.other_data is not None:
                data, media_type = claim.other_data, claim.other_type
        event = restored(
            check_data(data, media_type),
            names[claim.type_id],
            names[claim.source_id],
            id_text(claim.key),
            time_of(published_us, claim.lag_us, claim.time),
            claim.subject,
            media_type,
            claim.dataschema,
            others,
        )
    except ERRORS as error:
        table = "event" if claim.other_data is None else "resent"
        raise damaged(table, claim.seq, error) from error
    return event, claim.resent_us or since_us


class Dead(NamedTuple):
    """A row of ``dead_letter``."""

    subscription_id: int
    seq: int
    attempt: int
    reason: str
    error_type: str | None
    error: str | None
    traceback: str | None
    dead_us: int


INSERT_DEAD = """
INSERT INTO dead_letter
  (subscription_id, seq, attempt, reason, error_type, error, traceback, dead_us)
VALUES (:subscription_id, :seq, :attempt, :reason, :error_type, :error, :traceback, :dead_us)
ON CONFLICT DO NOTHING
"""
LISTED = """
EXISTS (SELECT 1 FROM dead_letter d LEFT JOIN outcome o
    ON o.subscription_id = d.subscription_id AND o.seq = d.seq AND o.attempt = d.attempt
  WHERE d.subscription_id = :s AND d.seq = :seq AND d.discarded_us IS NULL
    AND coalesce(o.lot_id + o.place, 0) <= :up_to)
"""
"""Whether an event is an open dead letter, and was one when ``up_to`` was recorded.

Another process may have sent it again since then, and it may have died again.
"""
LAST = 2**63 - 1
"""The last number of a record that there can be."""
