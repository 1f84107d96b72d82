"""Subscriptions in a SQL store: their right to events, and sending single events again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import Sending, SubscriptionSpec
from mltrigger.errors import NameTaken
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.outcomes import Outcome
from mltrigger.store.publishing import Seen
from mltrigger.store.queue import INSERT_READY, Waiting
from mltrigger.store.registry import ensure_topic, next_generation
from mltrigger.store.transaction import Transaction
from mltrigger.store.unit import tally

_KNOWN = "SELECT id, topic_id, bound, filter, filter_scope FROM subscription WHERE name = :name"
_UPDATE = """
UPDATE subscription SET topic_id = :topic_id, selector = :selector, policy = :policy,
  emit_topic_id = :emit, filter = :filter, filter_scope = :scope,
  outside = CASE WHEN :outside = 1 THEN 1 ELSE outside END,
  paused = CASE WHEN bound = 1 THEN paused ELSE 0 END, bound = 1
WHERE name = :name
"""
_INSERT = """
INSERT INTO subscription (name, topic_id, selector, emit_topic_id, policy, filter, filter_scope,
  created_us, bound, outside, role)
VALUES (:name, :topic_id, :selector, :emit, :policy, :filter, :scope, :now, 1, :outside, :role)
"""
_REVISE = """
INSERT INTO revision
  (subscription_id, topic_id, made_seq, from_seq, bound, filter, filter_scope, made_us)
SELECT id, topic_id, (SELECT coalesce(max(seq), 0) FROM event),
  CASE WHEN :from_start = 1 THEN 0 ELSE (SELECT coalesce(max(seq), 0) FROM event) END,
  bound, filter, filter_scope, :now
FROM subscription WHERE name = :name
"""
# Events that ended only because somebody unsubscribed have not ended for a new binding.
_NOT_ENDED = """
FROM event e JOIN subscription s ON s.topic_id = e.topic_id
WHERE s.name = :name AND NOT EXISTS (
  SELECT 1 FROM final f WHERE f.seq = e.seq AND f.subscription_id = s.id
    AND (f.outcome <> 'skipped' OR f.reason <> 'unsubscribed')
)
"""
_READY_FROM_START = f"""
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT s.id, :now, e.seq,
  (SELECT coalesce(max(attempt), 0) FROM invocation i
    WHERE i.seq = e.seq AND i.subscription_id = s.id), 0, 0
{_NOT_ENDED}
"""
_REOPEN_UNSUBSCRIBED = """
UPDATE invocation SET outcome = 'interrupted'
WHERE subscription_id = :s AND outcome = 'skipped' AND reason = 'unsubscribed'
  AND seq IN (SELECT seq FROM ready WHERE subscription_id = :s)
"""
_OPEN = """
SELECT seq, attempt + 1 AS attempt, visible_us, NULL AS received_us, NULL AS worker_id
  FROM waiting WHERE subscription_id = :s
UNION ALL SELECT seq, attempt, visible_us, received_us, worker_id
  FROM lease WHERE subscription_id = :s
"""
_SKIP_OPEN = f"""
INSERT INTO invocation (seq, subscription_id, attempt, role, outcome, reason, visible_us,
  received_us, settled_us, worker_id)
SELECT seq, :s, attempt, (SELECT role FROM subscription WHERE id = :s), 'skipped',
  'unsubscribed', visible_us, coalesce(received_us, :now), :now, coalesce(worker_id, :worker_id)
FROM ({_OPEN}) AS open WHERE true
ON CONFLICT (seq, subscription_id, attempt)
DO UPDATE SET outcome = 'skipped', reason = 'unsubscribed'
"""
_UNBEGUN = "SELECT subscription_id FROM waiting WHERE seq = :seq AND attempt = 0"
_CANCEL = """
INSERT INTO invocation (seq, subscription_id, attempt, role, outcome, reason, visible_us,
  received_us, settled_us, worker_id)
VALUES (:seq, :s, 1, (SELECT role FROM subscription WHERE id = :s), 'skipped', 'cancelled',
  :now, :now, :now, :worker_id)
"""
_BEGUN = """
SELECT name FROM subscription WHERE id IN (
  SELECT subscription_id FROM invocation WHERE seq = :seq AND outcome <> 'skipped'
  UNION SELECT subscription_id FROM lease WHERE seq = :seq
) ORDER BY name
"""
_EVENT = """
SELECT
  (SELECT outcome FROM final WHERE seq = e.seq AND subscription_id = :s),
  (SELECT coalesce(max(attempt), 0) FROM invocation WHERE seq = e.seq AND subscription_id = :s),
  EXISTS (SELECT 1 FROM dead_letter
    WHERE subscription_id = :s AND seq = e.seq AND discarded_us IS NULL)
FROM event e WHERE seq = :seq
"""
# The outcome is taken back: a dead event only failed, a skipped one was only stopped. The reason
# and the error stay.
_REOPEN = """
UPDATE invocation SET outcome = :reopened
WHERE seq = :seq AND subscription_id = :s AND outcome = :final
"""
_RESENT = """
INSERT INTO resent (subscription_id, seq, times, resent_us, data, datacontenttype)
VALUES (:s, :seq, 1, :now, :data, :media_type)
ON CONFLICT (subscription_id, seq) DO UPDATE SET
  times = resent.times + 1, resent_us = excluded.resent_us,
  data = coalesce(excluded.data, resent.data),
  datacontenttype = CASE WHEN excluded.data IS NULL THEN resent.datacontenttype
    ELSE excluded.datacontenttype END
"""
_DISCARD = """
UPDATE dead_letter SET discarded_us = :now, discard_reason = :reason
WHERE subscription_id = :s AND seq = :seq AND discarded_us IS NULL
"""


class _Known(NamedTuple):
    """A subscription that exists, bound or not."""

    id: int
    topic_id: int
    bound: int
    filter: str | None
    scope: str | None


def _known(transaction: Transaction, name: str) -> _Known | None:
    rows = transaction.query(_KNOWN, {"name": name})
    return _Known(*rows[0]) if rows else None


def bind(
    transaction: Transaction,
    subscription: SubscriptionSpec,
    from_start: bool,
    worker_id: int,
    now_us: int,
    outside: bool = False,
) -> None:
    """Write the subscription, and a revision if its right to events changes.

    *outside* says that it has a queue elsewhere.
    """
    policy = subscription.filter
    row = {
        "name": subscription.name,
        "selector": subscription.selector,
        "policy": subscription.policy.to_json(),
        "now": now_us,
        "topic_id": ensure_topic(transaction, subscription.topic, now_us),
        "filter": policy and policy.to_json(),
        "emit": ensure_topic(transaction, subscription.emit, now_us) if subscription.emit else None,
        "scope": policy and policy.scope,
        "outside": int(outside),
        "role": subscription.role,
    }
    known = _known(transaction, subscription.name)
    bound = known if known and known.bound else None
    if bound and bound.topic_id != row["topic_id"]:
        raise NameTaken(
            f"subscription {subscription.name!r} listens to another topic: pass name='…' for a"
            " second one, or unsubscribe it"
        )
    transaction.execute(_UPDATE if known else _INSERT, row)
    next_generation(transaction)
    if bound is None or (bound.filter, bound.scope) != (row["filter"], row["scope"]):
        starts = int(bound is None and from_start)
        transaction.execute(_REVISE, {**row, "from_start": starts})
    if bound is None and from_start:
        _deliver_archive(transaction, subscription, now_us)
        if known:
            reopened = transaction.execute(_REOPEN_UNSUBSCRIBED, {"s": known.id})
            tally(transaction, known.id, worker_id, "skipped", -reopened)
            tally(transaction, known.id, worker_id, "interrupted", reopened)


def _deliver_archive(transaction: Transaction, subscription: SubscriptionSpec, now_us: int) -> None:
    """Make every event of the archive ready that passes the filter and has not ended."""
    of = {"name": subscription.name, "now": now_us}
    if subscription.filter is None:
        transaction.execute(_READY_FROM_START, of)
        return
    for row in transaction.query(f"SELECT {ARCHIVED} {_NOT_ENDED}", of):
        if Seen(*archived(row)).passes(subscription.filter):
            seq, *_ = row
            transaction.execute(f"{_READY_FROM_START} AND e.seq = :seq", {**of, "seq": seq})


def unbind(transaction: Transaction, name: str, worker_id: int, now_us: int) -> bool:
    """End open deliveries as skipped. Return whether the subscription exists."""
    known = _known(transaction, name)
    if known is None or not known.bound:
        return False
    of = {"s": known.id, "now": now_us, "worker_id": worker_id}
    skipped = transaction.execute(_SKIP_OPEN, of)
    tally(transaction, known.id, worker_id, "skipped", skipped)
    for place in ("ready", "awaited", "lease"):
        transaction.execute(f"DELETE FROM {place} WHERE subscription_id = :s", of)
    transaction.execute("UPDATE subscription SET bound = 0 WHERE id = :s", of)
    next_generation(transaction)
    transaction.execute(_REVISE, {"name": name, "now": now_us, "from_start": 0})
    return True


def cancel(transaction: Transaction, seq: int, worker_id: int, now_us: int) -> list[str]:
    """End deliveries of an event that have not begun. Return the subscriptions that had begun."""
    of = {"seq": seq, "now": now_us, "worker_id": worker_id}
    for (number,) in transaction.query(_UNBEGUN, of):
        mine = {**of, "s": number}
        transaction.execute(_CANCEL, mine)
        tally(transaction, number, worker_id, "skipped", 1)
        for place in ("ready", "awaited"):
            transaction.execute(
                f"DELETE FROM {place} WHERE subscription_id = :s AND seq = :seq", mine
            )
    return [name for (name,) in transaction.query(_BEGUN, of)]


def send(
    transaction: Transaction,
    number: int,
    seqs: Sequence[int],
    sending: Sending,
    worker_id: int,
    now_us: int,
) -> list[int]:
    """Make archived events ready again for subscription *number*. Return their places.

    Events that are open or succeeded are left out, and so are dead ones that were discarded.
    """
    if not transaction.query(
        "SELECT 1 FROM subscription WHERE id = :s AND bound = 1", {"s": number}
    ):
        # Unsubscribed meanwhile: nobody would receive them, and a new binding would find them
        # twice.
        return []
    waiting: set[int] | None = None
    sent: list[int] = []
    for seq in dict.fromkeys(seqs):
        found = transaction.query(_EVENT, {"s": number, "seq": seq})
        if not found:
            continue  # pruned meanwhile
        ((final, last_attempt, listed),) = found
        if final == "succeeded" or (final == "dead" and not listed):
            continue
        if final is None:
            if waiting is None:
                waiting = {at for at, *_ in transaction.query(_OPEN, {"s": number})}
            if seq in waiting:
                continue
        delay_s = sending.delay_s + (len(sent) / sending.rate_per_s if sending.rate_per_s else 0)
        visible_us = now_us + int(delay_s * 1e6)
        transaction.execute_many(INSERT_READY, [Waiting(number, visible_us, seq, last_attempt)])
        if final is not None:
            _reopen(transaction, number, seq, final, worker_id)
        transaction.execute(
            _RESENT,
            {
                "s": number,
                "seq": seq,
                "now": now_us,
                "data": sending.data,
                "media_type": sending.media_type,
            },
        )
        sent.append(seq)
    return sent


def _reopen(
    transaction: Transaction, number: int, seq: int, final: Outcome, worker_id: int
) -> None:
    """Take back a dead or skipped outcome."""
    reopened: Outcome = "failed" if final == "dead" else "interrupted"
    of = {"s": number, "seq": seq, "final": final, "reopened": reopened}
    transaction.execute(_REOPEN, of)
    transaction.execute("DELETE FROM dead_letter WHERE subscription_id = :s AND seq = :seq", of)
    tally(transaction, number, worker_id, final, -1)
    tally(transaction, number, worker_id, reopened, 1)


def discard(
    transaction: Transaction, number: int, seqs: Sequence[int], reason: str, now_us: int
) -> list[int]:
    """Discard dead letters. Return the newly discarded ones."""
    return [
        seq
        for seq in dict.fromkeys(seqs)
        if transaction.execute(_DISCARD, {"s": number, "seq": seq, "reason": reason, "now": now_us})
    ]
