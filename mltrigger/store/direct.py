"""Direct calls in a SQL store: their events and leases in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import AT_ONCE, Delivery, SubscriptionSpec
from mltrigger.errors import MltriggerError
from mltrigger.store import binding, leasing, publishing
from mltrigger.store.publishing import Encoded
from mltrigger.store.queue import INSERT_LEASE, Term, delivery
from mltrigger.store.transaction import Row, Transaction

_HERE = """
SELECT s.topic_id, s.paused, (SELECT coalesce(max(seq), 0) FROM event)
FROM subscription s WHERE s.id = :s
"""
_KNOWN = """
SELECT seq, data, datacontenttype,
  (SELECT outcome FROM final f WHERE f.seq = e.seq AND f.subscription_id = :s)
FROM event e WHERE id = :id AND source = :source AND topic_id = :topic_id
"""


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
        of = {"s": spec.id, "id": event.id, "source": event.source, "topic_id": topic_id}
        if known := transaction.query(_KNOWN, of):
            seqs.append(_known(known[0], each, again))
        else:
            newest += 1
            fresh.append((each, newest))
            seqs.append(newest)
    deliveries = _fresh(transaction, spec, topic_id, fresh, term)
    return Begun(seqs, deliveries + _again(transaction, spec, again, term))


def _known(row: Row, each: Encoded, again: list[int]) -> int:
    """Return the number of an event that was sent before. Add it to *again* if it did not run."""
    seq, kept, kept_type, outcome = row
    event, raw, media_type = each
    if publishing.differ((bytes(kept), kept_type), (raw, media_type)):
        raise IdTaken(f"id {event.id[:100]!r} was sent before with other data: use another id")
    if outcome == "skipped":
        again.append(seq)
    return int(seq)


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
