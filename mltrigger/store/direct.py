"""Direct calls in a SQL store: their events and leases in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.broker import AT_ONCE, Delivery, SubscriptionSpec
from mltrigger.errors import MltriggerError
from mltrigger.store import binding, leases, leasing, publishing
from mltrigger.store.keys import id_key
from mltrigger.store.leasing import Standing
from mltrigger.store.publishing import Encoded
from mltrigger.store.queue import Term, deliveries
from mltrigger.store.transaction import Row, Store, Transaction

_NEWEST = "SELECT coalesce(max(seq), 0) FROM event"
_KNOWN = """
SELECT e.seq, e.data, e.datacontenttype, f.outcome, f.reason
FROM event e LEFT JOIN final f ON f.seq = e.seq AND f.subscription_id = :s
WHERE e.id = :id AND e.source_id = (SELECT id FROM name WHERE text = :source)
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
    transaction: Transaction,
    spec: SubscriptionSpec,
    encoded: Sequence[Encoded],
    at: Standing,
    term: Term,
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
    if at.paused:
        raise Paused(f"model {spec.selector} is paused: try again later")
    seqs: list[int] = []
    again: list[int] = []
    fresh: list[Encoded] = []
    ((newest,),) = transaction.query(_NEWEST, {})
    for each in encoded:
        of = _identity(spec, each)
        if known := transaction.query(_KNOWN, of):
            seq, runs = _known(known[0], each)
            seqs.append(seq)
            again += [seq] if runs else []
        else:
            fresh.append(each)
            seqs.append(newest + len(fresh))
    leased = _fresh(transaction, spec, fresh, at.topic_id, newest, term)
    return Begun(seqs, leased + _again(transaction, spec, again, term))


def begun(reader: Store, spec: SubscriptionSpec, encoded: Sequence[Encoded]) -> list[int] | None:
    """Return the numbers of events that were sent before, unless one is new or runs again."""
    seqs = []
    for each in encoded:
        known = reader.read(_KNOWN, _identity(spec, each))
        if not known:
            return None
        seq, runs = _known(known[0], each)
        if runs:
            return None
        seqs.append(seq)
    return seqs


def _identity(spec: SubscriptionSpec, each: Encoded) -> dict[str, Any]:
    return {"s": spec.id, "id": id_key(each[0].id), "source": each[0].source}


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
    fresh: Sequence[Encoded],
    topic_id: int,
    newest: int,
    term: Term,
) -> list[Delivery]:
    if not fresh:
        return []
    at_us = term.received_us
    seqs = publishing.archive(transaction, topic_id, fresh, newest, at_us)
    leases.hold_new(transaction, term, seqs)
    return [
        Delivery(each[0], seq, spec.id, 1, 0, 0, at_us, at_us, at_us, at_us, term.number)
        for each, seq in zip(fresh, seqs, strict=True)
    ]


def _again(
    transaction: Transaction, spec: SubscriptionSpec, seqs: Sequence[int], term: Term
) -> list[Delivery]:
    if not seqs:
        return []
    binding.send(transaction, spec.id, seqs, AT_ONCE, term.worker_id, term.received_us)
    return deliveries(transaction, leasing.claim_these(transaction, term, seqs), term)
