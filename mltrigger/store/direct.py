"""Direct calls in a SQL store: their events and leases in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import AT_ONCE, Delivery, SubscriptionSpec
from mltrigger.errors import MltriggerError
from mltrigger.store import binding, leasing, publishing
from mltrigger.store.publishing import Encoded
from mltrigger.store.queue import INSERT_LEASE, Term, delivery
from mltrigger.store.transaction import Row, Store, Transaction

_HERE = """
SELECT s.topic_id, s.paused, (SELECT coalesce(max(seq), 0) FROM event)
FROM subscription s WHERE s.id = :s
"""
_KNOWN = """
SELECT e.seq, e.data, e.datacontenttype, f.outcome, f.reason
FROM event e LEFT JOIN final f ON f.seq = e.seq AND f.subscription_id = :s
WHERE e.id = :id AND e.source = :source
  AND e.topic_id = (SELECT topic_id FROM subscription WHERE id = :s)
"""
_CUT_OFF = ("unsubscribed", "cancelled")
"""Reasons of skipped calls that may have begun: they do not run again."""


class IdTaken(MltriggerError):
    """A call has an id that was used before, with other data."""


class Paused(MltriggerError):
    """The model is paused. Nothing was recorded."""


class Begun(NamedTuple):
    """The events of a call: their numbers in the log, and the leases of those that run now.

    An event without a lease was sent before.
    """

    seqs: list[int]
    deliveries: list[Delivery]


def begin(
    transaction: Transaction, spec: SubscriptionSpec, encoded: Sequence[Encoded], term: Term
) -> Begun:
    """Write the new ones of *encoded* and lease them.

    An event that was skipped before never ran. It runs now.

    Raises
    ------
    IdTaken
        When one has other data than before.
    Paused
        When the model is paused.
    """
    ((topic_id, paused, newest),) = transaction.query(_HERE, {"s": spec.id})
    if paused:
        raise Paused(f"model {spec.selector} is paused: try again later")
    seqs: list[int] = []
    again: list[int] = []
    fresh: list[tuple[Encoded, int]] = []
    for each in encoded:
        event = each[0]
        of = {"s": spec.id, "id": event.id, "source": event.source}
        if known := transaction.query(_KNOWN, of):
            seq, runs = _known(known[0], each)
            seqs.append(seq)
            again += [seq] if runs else []
        else:
            newest += 1
            fresh.append((each, newest))
            seqs.append(newest)
    deliveries = _fresh(transaction, spec, topic_id, fresh, term)
    return Begun(seqs, deliveries + _again(transaction, spec, again, term))


def begun(reader: Store, spec: SubscriptionSpec, encoded: Sequence[Encoded]) -> list[int] | None:
    """Return the numbers of events that were sent before, unless one is new or runs again."""
    seqs = []
    for each in encoded:
        of = {"s": spec.id, "id": each[0].id, "source": each[0].source}
        known = reader.read(_KNOWN, of)
        if not known:
            return None
        seq, runs = _known(known[0], each)
        if runs:
            return None
        seqs.append(seq)
    return seqs


def _known(row: Row, each: Encoded) -> tuple[int, bool]:
    """Return the number of an event that was sent before, and whether it did not run then."""
    seq, kept, kept_type, outcome, reason = row
    event, raw, media_type = each
    if publishing.differ((bytes(kept), kept_type), (raw, media_type)):
        raise IdTaken(f"id {event.id[:100]!r} was sent before with other data: use another id")
    return int(seq), outcome == "skipped" and reason not in _CUT_OFF


def _fresh(
    transaction: Transaction,
    spec: SubscriptionSpec,
    topic_id: int,
    fresh: Sequence[tuple[Encoded, int]],
    term: Term,
) -> list[Delivery]:
    now_us = term.received_us
    publishing.archive(transaction, topic_id, fresh, now_us)
    leases = [(term.subscription_id, seq, 1, 0, 0, now_us, *term[1:4], 0) for _, seq in fresh]
    transaction.execute_many(INSERT_LEASE, leases)
    return [
        Delivery(each[0], seq, spec.id, 1, 0, 0, now_us, now_us, now_us, now_us)
        for each, seq in fresh
    ]


def _again(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int], term: Term
) -> list[Delivery]:
    if not seqs:
        return []
    binding.send(transaction, spec.id, seqs, AT_ONCE, term.worker_id, term.received_us)
    found = leasing.claim_these(transaction, term, seqs)
    return [delivery(claim, spec.id, term.received_us) for claim in found]
