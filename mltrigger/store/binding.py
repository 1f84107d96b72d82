"""Subscriptions in a SQL store: their right to events, and sending single events again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Sending, SubscriptionSpec
from mltrigger.errors import NameTaken
from mltrigger.store import leases, ledger, pace
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.lots import LotOf, insert_lot, next_row
from mltrigger.store.outcomes import Outcome
from mltrigger.store.placing import Placing, check_outside, placing_of
from mltrigger.store.queue import INSERT_READY, LAST, LISTED, Waiting
from mltrigger.store.registry import ensure_topic, next_generation
from mltrigger.store.tables import CODES
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Transaction
from mltrigger.store.unit import Uncalled, record_uncalled, tally

_KNOWN = """
SELECT id, topic_id, bound, filter, filter_scope, policy FROM subscription WHERE name = :name
"""
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
_PLACE = "SELECT id, topic_id, outside FROM subscription WHERE name = :name"
_CURSOR = "SELECT next_seq FROM cursor WHERE subscription_id = :s"
_REVISE = """
INSERT INTO revision
  (subscription_id, topic_id, made_seq, from_seq, bound, filter, filter_scope, made_us)
SELECT id, topic_id, (SELECT coalesce(max(seq), 0) FROM event),
  CASE WHEN :from_start = 1 THEN 0 ELSE (SELECT coalesce(max(seq), 0) FROM event) END,
  bound, filter, filter_scope, :now
FROM subscription WHERE name = :name
"""
_KEEP_CURSOR = """
INSERT INTO cursor (subscription_id, next_seq) VALUES (:s, :next_seq)
ON CONFLICT (subscription_id) DO UPDATE SET next_seq = excluded.next_seq
"""
_BEYOND = """
SELECT e.published_us, e.seq, 0
FROM cursor c JOIN event e ON e.topic_id = :topic_id AND e.seq >= c.next_seq
WHERE c.subscription_id = :s AND e.by_rows_us IS NULL
"""
# Events that ended only because somebody unsubscribed have not ended for a new binding.
_NOT_ENDED = """
FROM event e JOIN subscription s ON s.topic_id = e.topic_id
WHERE s.id = :s AND NOT EXISTS (
  SELECT 1 FROM final f WHERE f.seq = e.seq AND f.subscription_id = s.id
    AND (f.outcome <> 'skipped' OR f.reason <> 'unsubscribed')
)
"""
_LAST_ATTEMPT = """
SELECT coalesce(max(attempt), 0) FROM outcome WHERE seq = e.seq AND subscription_id = s.id
"""
_FROM_START = f"""
SELECT CASE WHEN e.by_rows_us > :now THEN e.by_rows_us ELSE :now END, e.seq, ({_LAST_ATTEMPT})
{_NOT_ENDED}
"""
_READY = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT :s, found.*, 0, 0 FROM ({found}) AS found WHERE true ON CONFLICT DO NOTHING
"""
_REOPEN_UNSUBSCRIBED = f"""
UPDATE outcome SET outcome = {CODES["interrupted"]}
WHERE subscription_id = :s AND outcome = {CODES["skipped"]}
  AND seq IN (SELECT seq FROM ready WHERE subscription_id = :s)
  AND EXISTS (SELECT 1 FROM final f WHERE f.subscription_id = :s AND f.seq = outcome.seq
    AND f.attempt = outcome.attempt AND f.reason = 'unsubscribed')
"""
_OPEN = """
SELECT seq, attempt + 1 AS attempt, visible_us FROM waiting WHERE subscription_id = :s
UNION ALL SELECT seq, attempt, visible_us FROM leased WHERE subscription_id = :s
"""
_OPEN_SPAN = f"SELECT count(*), min(seq), max(seq) FROM ({_OPEN}) AS open"
_SKIP_OPEN = f"""
INSERT INTO outcome (subscription_id, seq, attempt, lot_id, place, outcome)
SELECT :s, seq, attempt, :row, row_number() OVER (ORDER BY seq) - 1, {CODES["skipped"]}
FROM ({_OPEN}) AS open WHERE true
ON CONFLICT (subscription_id, seq, attempt) DO UPDATE SET
  outcome = excluded.outcome, lot_id = excluded.lot_id, place = excluded.place
"""
# An event that was leased and given back has not begun: no attempt of it was recorded.
_UNBEGUN = f"""
SELECT w.subscription_id, w.attempt + 1 FROM waiting w WHERE w.seq = :seq AND NOT EXISTS (
  SELECT 1 FROM outcome o WHERE o.subscription_id = w.subscription_id AND o.seq = w.seq
    AND o.outcome <> {CODES["skipped"]})
"""
_BY_ROWS = """
UPDATE event SET by_rows_us = published_us WHERE seq = :seq AND by_rows_us IS NULL
"""
_HOLDERS = "SELECT subscription_id FROM leased WHERE seq = :seq"
_BEGUN = f"""
SELECT name FROM subscription WHERE parent_id IS NULL AND id IN (
  SELECT s.id FROM subscription s JOIN outcome o ON o.subscription_id = s.id AND o.seq = :seq
    WHERE o.outcome <> {CODES["skipped"]}
  UNION SELECT subscription_id FROM leased WHERE seq = :seq
) ORDER BY name
"""
# What is listed is not open. To look for it among all that wait takes long, if many do. A parameter
# finds it there by its number, a column would not.
_EVENT = f"""
SELECT
  (SELECT outcome FROM final WHERE seq = :seq AND subscription_id = :s),
  (SELECT coalesce(max(attempt), 0) FROM outcome WHERE seq = :seq AND subscription_id = :s),
  {LISTED},
  CASE WHEN {LISTED} THEN 0
    WHEN EXISTS (SELECT 1 FROM waiting WHERE subscription_id = :s AND seq = :seq)
      OR EXISTS (SELECT 1 FROM leased WHERE subscription_id = :s AND seq = :seq) THEN 1 ELSE 0 END
FROM event e WHERE seq = :seq
"""
# The outcome is taken back: a dead event only failed, a skipped one was only stopped. The reason
# and the error stay.
_REOPEN = """
UPDATE outcome SET outcome = :reopened
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
_DISCARD = f"""
UPDATE dead_letter SET discarded_us = :now, discard_reason = :reason
WHERE subscription_id = :s AND seq = :seq AND {LISTED}
"""
# The next claims give them places again, by the new key and priority.
_TAKE_OUT = (
    """INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
    SELECT subscription_id, visible_us, seq, attempt, failures, abandoned FROM keyed
    WHERE subscription_id = :s ON CONFLICT DO NOTHING""",
    "DELETE FROM keyed WHERE subscription_id = :s",
    "DELETE FROM turn WHERE subscription_id = :s",
)
_LANES = "SELECT id FROM subscription WHERE parent_id = :s"
# A new binding of the same name does not revive them. So their place is given up, too.
_END_LANES = (
    *(f"DELETE FROM {place} WHERE subscription_id IN ({_LANES})" for place in ("ready", "lease")),
    f"UPDATE cursor SET next_seq = NULL WHERE subscription_id IN ({_LANES})",
    """UPDATE subscription SET bound = 0, lane = json_set(lane, '$.ended', 'unsubscribed')
    WHERE parent_id = :s""",
)


class _Known(NamedTuple):
    """A subscription that exists, bound or not."""

    id: int
    topic_id: int
    bound: int
    filter: str | None
    scope: str | None
    policy: str


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
    rebind: bool = False,
) -> None:
    """Write the subscription, and a revision if its right to events changes.

    *outside* says that it has a queue elsewhere. A version that was replaced on purpose is bound
    only with *rebind*.
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
    rows = ledger.read(transaction, bound.id) if bound else []
    if rows and not rebind and ledger.kept(rows, subscription.selector):
        row["selector"] = rows[-1].selector
    transaction.execute(_UPDATE if known else _INSERT, row)
    next_generation(transaction)
    if bound is None or (bound.filter, bound.scope) != (row["filter"], row["scope"]):
        starts = int(bound is None and from_start)
        transaction.execute(_REVISE, {**row, "from_start": starts})
    if known is not None and Placing.of(subscription.policy) != placing_of(known.policy, known.id):
        for statement in _TAKE_OUT:
            transaction.execute(statement, {"s": known.id})
    _place_cursor(transaction, subscription, bound is None and from_start, bound is None, now_us)
    if bound is None and from_start and known:
        reopened = transaction.execute(_REOPEN_UNSUBSCRIBED, {"s": known.id})
        tally(transaction, known.id, worker_id, "skipped", -reopened)
        tally(transaction, known.id, worker_id, "interrupted", reopened)
    ((number,),) = transaction.query("SELECT id FROM subscription WHERE name = :name", row)
    ledger.bound(transaction, number, str(row["selector"]), ledger.user(), now_us)


def _place_cursor(
    transaction: Transaction,
    subscription: SubscriptionSpec,
    from_start: bool,
    anew: bool,
    now_us: int,
) -> None:
    """Let the cursor of a subscription begin, end, or stay.

    A cursor never moves back. Events of the archive that a new binding asks for become rows, unless
    no event has come to the subscription yet.
    """
    ((number, topic_id, outside),) = transaction.query(_PLACE, {"name": subscription.name})
    has_own = subscription.filter is not None or subscription.is_placed
    by_rows = bool(outside) or has_own or subscription.role != "live"
    if subscription.is_limited:
        if outside:
            check_outside(subscription.policy)
        transaction.execute(pace.MAKE, {"s": number})
    rows = transaction.query(_CURSOR, {"s": number})
    at = rows[0][0] if rows else None
    of = {"s": number, "topic_id": topic_id, "now": now_us}
    if from_start and (by_rows or rows):
        _deliver_archive(transaction, subscription, of)
    elif from_start:
        transaction.execute(_KEEP_CURSOR, {"s": number, "next_seq": 1})
        delayed = f"{_FROM_START} AND e.by_rows_us IS NOT NULL"
        transaction.execute(_READY.format(found=delayed), of)
        return
    if by_rows and at is not None:
        transaction.execute(_READY.format(found=_BEYOND), of)
    if by_rows or at is None or anew:
        ((newest,),) = transaction.query("SELECT coalesce(max(seq), 0) FROM event", {})
        next_seq = None if by_rows else newest + 1
        transaction.execute(_KEEP_CURSOR, {"s": number, "next_seq": next_seq})


def _deliver_archive(
    transaction: Transaction, subscription: SubscriptionSpec, of: Mapping[str, Any]
) -> None:
    """Make every event of the archive ready that passes the filter and has not ended."""
    if subscription.filter is None:
        transaction.execute(_READY.format(found=_FROM_START), of)
        return
    for row in transaction.query(f"SELECT {ARCHIVED} {_NOT_ENDED}", of):
        if Seen(*archived(row)).passes(subscription.filter):
            seq, *_ = row
            one = f"{_FROM_START} AND e.seq = :seq"
            transaction.execute(_READY.format(found=one), {**of, "seq": seq})


def unbind(transaction: Transaction, name: str, worker_id: int, now_us: int) -> bool:
    """End open deliveries as skipped. Return whether the subscription exists."""
    known = _known(transaction, name)
    if known is None or not known.bound:
        return False
    of = {"s": known.id}
    ((n, low, high),) = transaction.query(_OPEN_SPAN, of)
    if n:
        ((role,),) = transaction.query("SELECT role FROM subscription WHERE id = :s", of)
        row = next_row(transaction)
        lot = LotOf(known.id, role, now_us, worker_id, None, now_us, None, reason="unsubscribed")
        insert_lot(transaction, row, n, (low, high), lot)
        transaction.execute(_SKIP_OPEN, {**of, "row": row})
        tally(transaction, known.id, worker_id, "skipped", n)
    for place in ("ready", "awaited", "keyed", "turn", "lease"):
        transaction.execute(f"DELETE FROM {place} WHERE subscription_id = :s", of)
    ledger.unbound(transaction, known.id, ledger.user(), now_us)
    transaction.execute("UPDATE subscription SET bound = 0 WHERE id = :s", of)
    transaction.execute(_KEEP_CURSOR, {"s": known.id, "next_seq": None})
    for statement in _END_LANES:
        transaction.execute(statement, of)
    next_generation(transaction)
    transaction.execute(_REVISE, {"name": name, "now": now_us, "from_start": 0})
    return True


def cancel(transaction: Transaction, seq: int, worker_id: int, now_us: int) -> list[str]:
    """End deliveries of an event that have not begun. Return the subscriptions that had begun."""
    of = {"seq": seq}
    unbegun = transaction.query(_UNBEGUN, of)
    for (number,) in transaction.query(_HOLDERS, of):
        lease = leases.holder(transaction, number, seq)
        if lease is not None:  # no range knows the event from now on
            leases.single_out(transaction, lease, seq)
    transaction.execute(_BY_ROWS, of)
    for number, attempt in unbegun:
        ((role,),) = transaction.query("SELECT role FROM subscription WHERE id = :s", {"s": number})
        skipped = Uncalled(number, seq, attempt, now_us, now_us, worker_id, "cancelled")
        record_uncalled(transaction, [skipped], "skipped", now_us, role)
        for place in ("ready", "awaited", "keyed"):
            transaction.execute(
                f"DELETE FROM {place} WHERE subscription_id = :s AND seq = :seq",
                {**of, "s": number},
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
    sent: list[int] = []
    up_to = LAST if sending.up_to is None else sending.up_to
    for seq in dict.fromkeys(seqs):
        found = transaction.query(_EVENT, {"s": number, "seq": seq, "up_to": up_to})
        if not found:
            continue  # pruned meanwhile
        ((final, last_attempt, listed, is_open),) = found
        if is_open or final == "succeeded":
            continue
        if not listed and (final == "dead" or sending.up_to is not None):
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
    of = {"s": number, "seq": seq, "final": CODES[final], "reopened": CODES[reopened]}
    transaction.execute(_REOPEN, of)
    transaction.execute("DELETE FROM dead_letter WHERE subscription_id = :s AND seq = :seq", of)
    tally(transaction, number, worker_id, final, -1)
    tally(transaction, number, worker_id, reopened, 1)


def discard(
    transaction: Transaction,
    number: int,
    seqs: Sequence[int],
    reason: str,
    now_us: int,
    up_to: int | None,
) -> list[int]:
    """Discard dead letters. Return the newly discarded ones."""
    of = {"s": number, "reason": reason, "now": now_us, "up_to": LAST if up_to is None else up_to}
    return [seq for seq in dict.fromkeys(seqs) if transaction.execute(_DISCARD, {**of, "seq": seq})]
