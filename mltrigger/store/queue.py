"""The queue's tables: their rows as values, and the statements that write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from mltrigger.broker import Delivery
from mltrigger.event.data import check_data
from mltrigger.event.delay import due_us
from mltrigger.event.event import restored
from mltrigger.store.damage import ERRORS, damaged
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
    id: str
    source: str
    type: str
    time: str
    subject: str | None
    media_type: str | None
    dataschema: str | None
    traceparent: str
    extensions: str | None
    data: bytes
    times: int | None
    """How often it was sent again, ``None`` for never."""
    resent_us: int | None
    other_data: bytes | None
    """Data that replace those of the archive."""
    other_type: str | None


_CLAIM = """
SELECT q.seq, q.visible_us, q.attempt, q.failures, q.abandoned, e.published_us, e.id, e.source,
  e.type, e.time, e.subject, e.datacontenttype, e.dataschema, e.traceparent, e.extensions, e.data,
  a.times, a.resent_us, a.data, a.datacontenttype
FROM {place} q JOIN event e ON e.seq = q.seq
LEFT JOIN resent a ON a.subscription_id = q.subscription_id AND a.seq = q.seq
WHERE q.subscription_id = :s
"""
CLAIM_READY = _CLAIM.format(place="ready")
CLAIM_AWAITED = _CLAIM.format(place="awaited")


def claims(transaction: Transaction, sql: str, parameters: Mapping[str, Any]) -> list[Claim]:
    """Return the claims that *sql* finds. It begins with CLAIM_READY or CLAIM_AWAITED."""
    return list(map(Claim._make, transaction.query(sql, parameters)))


def delivery(claim: Claim, subscription_id: int, now_us: int) -> Delivery:
    """Return the delivery of *claim*, leased at *now_us*.

    Raises
    ------
    StoreError
        When its event cannot be read.
    """
    data, media_type = claim.data, claim.media_type
    try:
        others: dict[str, Any] = {"traceparent": claim.traceparent}
        if claim.extensions:
            others |= json.loads(claim.extensions)
        if claim.times:
            others["redrive"] = claim.times
            if claim.other_data is not None:
                data, media_type = claim.other_data, claim.other_type
        event = restored(
            check_data(data, media_type),
            claim.type,
            claim.source,
            claim.id,
            datetime.fromisoformat(claim.time),
            claim.subject,
            media_type,
            claim.dataschema,
            others,
        )
    except ERRORS as error:
        table = "event" if claim.other_data is None else "resent"
        raise damaged(table, claim.seq, error) from error
    return Delivery(
        event,
        claim.seq,
        subscription_id,
        claim.attempt + 1,
        claim.failures,
        claim.abandoned,
        claim.published_us,
        claim.visible_us,
        now_us,
        claim.resent_us or max(claim.published_us, due_us(others)),
    )


INSERT_LEASE = """
INSERT INTO lease (subscription_id, seq, attempt, failures, abandoned, visible_us, received_us,
  until_us, worker_id, outside)
VALUES (:s, :seq, :attempt, :failures, :abandoned, :visible_us, :received_us, :until_us,
  :worker_id, :outside)
"""
DELETE_LEASE = "DELETE FROM lease WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt"


class Term(NamedTuple):
    """The shared part of leases of one moment: subscription, times and worker."""

    subscription_id: int
    received_us: int
    until_us: int
    worker_id: int
    outside: bool = False
    """Whether messages of an outside queue belong to them."""


def lease_row(claim: Claim, term: Term) -> Row:
    """Return the row for INSERT_LEASE. The new lease begins the next attempt."""
    return (
        term.subscription_id,
        claim.seq,
        claim.attempt + 1,
        claim.failures,
        claim.abandoned,
        claim.visible_us,
        term.received_us,
        term.until_us,
        term.worker_id,
        int(term.outside),
    )


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
