"""Subscriptions in a SQL store: which events they have a right to, and sending single events to
them again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.broker import Sending, SubscriptionSpec
from mltrigger.errors import NameTaken
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.publishing import INSERT_READY, Seen
from mltrigger.store.registry import ensure_topic, next_generation
from mltrigger.store.transaction import Transaction

_KNOWN = "SELECT id, bound, filter, filter_scope, topic_id FROM subscription WHERE name = :name"
_UPDATE = """
UPDATE subscription SET topic_id = :topic_id, selector = :selector, policy = :policy, emit_topic_id = :emit, filter = :filter,
  filter_scope = :scope, outside = CASE WHEN :outside = 1 THEN 1 ELSE outside END,
  paused = CASE WHEN bound = 1 THEN paused ELSE 0 END, bound = 1 WHERE name = :name
"""
_INSERT = """
INSERT INTO subscription (name, topic_id, selector, emit_topic_id, policy, filter, filter_scope, created_us, bound, outside)
VALUES (:name, :topic_id, :selector, :emit, :policy, :filter, :scope, :now, 1, :outside)
"""
_REVISE = """
INSERT INTO revision (subscription_id, topic_id, made_seq, from_seq, bound, filter, filter_scope, made_us)
SELECT id, topic_id, (SELECT coalesce(max(seq), 0) FROM event),
  CASE WHEN :from_start = 1 THEN 0 ELSE (SELECT coalesce(max(seq), 0) FROM event) END, bound, filter, filter_scope, :now
FROM subscription WHERE name = :name
"""
_NOT_ENDED = """
FROM event e JOIN subscription s ON s.topic_id = e.topic_id WHERE s.name = :name AND NOT EXISTS (
  SELECT 1 FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = s.id AND (i.outcome IN ('succeeded', 'dead')
  OR (i.outcome = 'skipped' AND i.reason <> 'unsubscribed')))
"""
_READY_FROM_START = f"""
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT s.id, :now, e.seq, (SELECT coalesce(max(attempt), 0) FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = s.id), 0, 0
{_NOT_ENDED}
"""
_REOPEN_UNSUBSCRIBED = """
UPDATE invocation SET outcome = 'interrupted' WHERE subscription_id = :s AND outcome = 'skipped' AND reason = 'unsubscribed'
AND seq IN (SELECT seq FROM ready WHERE subscription_id = :s)
"""
_OPEN = """
SELECT seq, attempt + 1 AS attempt, visible_us, NULL AS received_us, NULL AS worker_id FROM waiting WHERE subscription_id = :s
UNION ALL SELECT seq, attempt, visible_us, received_us, worker_id FROM lease WHERE subscription_id = :s
"""
_SKIP_OPEN = f"""
INSERT INTO invocation (seq, subscription_id, attempt, role, outcome, reason, visible_us, received_us, settled_us, worker_id)
SELECT seq, :s, attempt, 'live', 'skipped', 'unsubscribed', visible_us, coalesce(received_us, :now), :now, coalesce(worker_id, :worker_id)
FROM ({_OPEN}) AS open WHERE true
ON CONFLICT (seq, subscription_id, attempt) DO UPDATE SET outcome = 'skipped', reason = 'unsubscribed'
"""
_TALLY = """
INSERT INTO tally (subscription_id, worker_id, outcome, n) VALUES (:s, :worker_id, :outcome, :n)
ON CONFLICT (subscription_id, worker_id, outcome) DO UPDATE SET n = tally.n + excluded.n
"""
_LAST_ATTEMPT = (
    "SELECT coalesce(max(attempt), 0) FROM invocation WHERE seq = :seq AND subscription_id = :s"
)
_FINAL = (
    "SELECT outcome FROM invocation WHERE seq = :seq AND subscription_id = :s AND outcome IN"
    " ('succeeded', 'dead', 'skipped')"
)
_LISTED = """
SELECT (SELECT count(*) FROM dead_letter d WHERE d.subscription_id = :s AND d.seq = :seq AND d.discarded_us IS NULL)
FROM event WHERE seq = :seq
"""
# The outcome is taken back: what was dead was only a failure, what was skipped only stopped. The
# reason and the error stay.
_REOPEN = """
UPDATE invocation SET outcome = CASE outcome WHEN 'dead' THEN 'failed' ELSE 'interrupted' END
WHERE seq = :seq AND subscription_id = :s AND outcome IN ('dead', 'skipped')
"""
_RESENT = """
INSERT INTO resent (subscription_id, seq, times, resent_us, data, datacontenttype) VALUES (:s, :seq, 1, :now, :data, :media_type)
ON CONFLICT (subscription_id, seq) DO UPDATE SET times = resent.times + 1, resent_us = excluded.resent_us,
  data = coalesce(excluded.data, resent.data), datacontenttype = CASE WHEN excluded.data IS NULL THEN resent.datacontenttype
  ELSE excluded.datacontenttype END
"""
_DISCARD = """
UPDATE dead_letter SET discarded_us = :now, discard_reason = :reason
WHERE subscription_id = :s AND seq = :seq AND discarded_us IS NULL
"""


def bind(
    transaction: Transaction,
    subscription: SubscriptionSpec,
    from_start: bool,
    worker_id: int,
    now_us: int,
    outside: bool = False,
) -> None:
    """Write the subscription, and a revision when what it has a right to changes; *outside* says
    that it has a queue elsewhere.
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
    }
    known = transaction.query(_KNOWN, row)
    if known and known[0][1] and known[0][4] != row["topic_id"]:
        raise NameTaken(
            f"subscription {subscription.name!r} listens to another topic: pass name='…' for a"
            " second one, or unsubscribe it"
        )
    transaction.execute(_UPDATE if known else _INSERT, row)
    next_generation(transaction)
    newly = not (known and known[0][1])
    if newly or known[0][2:4] != (row["filter"], row["scope"]):
        transaction.execute(_REVISE, {**row, "from_start": int(newly and from_start)})
    if newly and from_start:
        if policy is None:
            transaction.execute(_READY_FROM_START, row)
        else:
            found = transaction.query(f"SELECT {ARCHIVED} {_NOT_ENDED}", row)
            some = [
                (now_us, subscription.name, f[0])
                for f in found
                if Seen(*archived(f)).passes(policy)
            ]
            transaction.execute_many(f"{_READY_FROM_START} AND e.seq = :seq", some)
        if known:
            reopened = transaction.execute(
                _REOPEN_UNSUBSCRIBED, of := {"s": known[0][0], "worker_id": worker_id}
            )
            for outcome, n in (("skipped", -reopened), ("interrupted", reopened)):
                transaction.execute(_TALLY, {**of, "outcome": outcome, "n": n})


def unbind(transaction: Transaction, name: str, worker_id: int, now_us: int) -> bool:
    """End what is open as skipped; return whether there was such a subscription."""
    known = transaction.query(_KNOWN, {"name": name})
    if not known or not known[0][1]:
        return False
    of = {"s": known[0][0], "now": now_us, "worker_id": worker_id}
    skipped = transaction.execute(_SKIP_OPEN, of)
    transaction.execute(_TALLY, {**of, "outcome": "skipped", "n": skipped})
    transaction.execute("DELETE FROM ready WHERE subscription_id = :s", of)
    transaction.execute("DELETE FROM awaited WHERE subscription_id = :s", of)
    transaction.execute("DELETE FROM lease WHERE subscription_id = :s", of)
    transaction.execute("UPDATE subscription SET bound = 0 WHERE id = :s", of)
    next_generation(transaction)
    transaction.execute(_REVISE, {"name": name, "now": now_us, "from_start": 0})
    return True


def send(
    transaction: Transaction,
    number: int,
    seqs: Sequence[int],
    sending: Sending,
    worker_id: int,
    now_us: int,
) -> list[int]:
    """Make archived events ready again for subscription *number*; return those that were neither
    open nor succeeded.
    """
    if not transaction.query(
        "SELECT 1 FROM subscription WHERE id = :s AND bound = 1", {"s": number}
    ):
        # somebody unsubscribed it meanwhile: nobody would receive them, and a new binding would
        # find them twice
        return []
    waiting: set[int] | None = None
    sent: list[int] = []
    for seq in dict.fromkeys(seqs):
        of = {
            "s": number,
            "seq": seq,
            "now": now_us,
            "data": sending.data,
            "media_type": sending.media_type,
            "worker_id": worker_id,
        }
        final = [outcome for (outcome,) in transaction.query(_FINAL, of)]
        if not final and waiting is None:
            waiting = {row[0] for row in transaction.query(_OPEN, {"s": number})}
        listed = transaction.query(_LISTED, of)
        if not listed or ("dead" in final and not listed[0][0]):
            continue  # somebody discarded it meanwhile, and it may even have been let go
        if "succeeded" in final or (not final and waiting is not None and seq in waiting):
            continue
        last = transaction.query(_LAST_ATTEMPT, of)[0][0]
        delay_s = sending.delay_s + (len(sent) / sending.rate_per_s if sending.rate_per_s else 0)
        transaction.execute_many(
            INSERT_READY, [(number, now_us + int(delay_s * 1e6), seq, last, 0, 0)]
        )
        if final:
            transaction.execute(_REOPEN, of)
            transaction.execute(
                "DELETE FROM dead_letter WHERE subscription_id = :s AND seq = :seq", of
            )
            for outcome, n in (
                (final[0], -1),
                ("failed" if final[0] == "dead" else "interrupted", 1),
            ):
                transaction.execute(_TALLY, {**of, "outcome": outcome, "n": n})
        transaction.execute(_RESENT, of)
        sent.append(seq)
    return sent


def discard(
    transaction: Transaction, number: int, seqs: Sequence[int], reason: str, now_us: int
) -> list[int]:
    """Mark dead letters as put away; return those that were not before."""
    return [
        seq
        for seq in dict.fromkeys(seqs)
        if transaction.execute(_DISCARD, {"s": number, "seq": seq, "reason": reason, "now": now_us})
    ]
