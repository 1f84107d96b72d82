"""Lanes in a SQL store: subscriptions beside another one, over the same log, with another role.

A lane has a cursor of its own over the topic of its parent. It is no subscription for anybody else:
it is in no receipt, no audit and no list. Its attempts carry its role.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mltrigger.broker import SubscriptionSpec
from mltrigger.policy import DeliveryPolicy
from mltrigger.store import ledger
from mltrigger.store.queue import INSERT_READY, Waiting
from mltrigger.store.registry import next_generation
from mltrigger.store.transaction import Reader, Transaction

Role = Literal["shadow", "replay", "correction"]
LANES: tuple[Role, ...] = ("shadow", "replay", "correction")

_NUMBER = "SELECT coalesce(max(id), 0) + 1 FROM subscription"
_INSERT = """
INSERT INTO subscription (name, topic_id, selector, emit_topic_id, policy, filter, filter_scope,
  created_us, bound, outside, role, parent_id, lane)
SELECT :name, topic_id, :selector, :emit, :policy, filter, filter_scope, :now, 1, 0, :role, id,
  :lane
FROM subscription WHERE id = :parent RETURNING id
"""
_EMIT = "SELECT emit_topic_id FROM subscription WHERE id = :parent"
_CURSOR = """
INSERT INTO cursor (subscription_id, next_seq, last_seq) VALUES (:s, :next_seq, :last_seq)
"""
_IN_LANE = """
SELECT seq FROM outcome WHERE subscription_id = :s UNION
SELECT seq FROM ready WHERE subscription_id = :s UNION
SELECT seq FROM leased WHERE subscription_id = :s
"""
_SOME_IN_LANE = f"SELECT seq FROM ({_IN_LANE}) AS there WHERE seq IN ({{seqs}})"
_DELAYED = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT :s, :now, e.seq, 0, 0, 0
FROM event e JOIN subscription s ON s.topic_id = e.topic_id
WHERE s.id = :s AND e.by_rows_us <= :now AND e.seq BETWEEN :low AND :high
ON CONFLICT DO NOTHING
"""
_ROW = "SELECT id, name, role, selector, bound, created_us, lane, parent_id FROM subscription"
_IS_THROUGH = """
SELECT coalesce((
    SELECT CAST(json_extract(lane, '$.filled') AS INTEGER) FROM subscription WHERE id = :s), 1) <> 0
  AND NOT EXISTS (SELECT 1 FROM ready WHERE subscription_id = :s)
  AND NOT EXISTS (SELECT 1 FROM lease WHERE subscription_id = :s)
  AND NOT EXISTS (SELECT 1 FROM cursor c JOIN subscription s ON s.id = c.subscription_id
    JOIN event e ON e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
    WHERE c.subscription_id = :s AND e.seq <= coalesce(c.last_seq, e.seq))
"""
_END = """
UPDATE subscription SET bound = 0, lane = json_set(lane, '$.ended', :ended)
WHERE id = :s AND bound = 1
"""
_BEGIN = """
UPDATE subscription SET bound = 1, lane = json_remove(lane, '$.ended')
WHERE id = :s AND bound = 0
  AND coalesce(json_extract(lane, '$.ended'), '') NOT IN ('unsubscribed', 'replaced')
  AND (SELECT bound FROM subscription p WHERE p.id = subscription.parent_id) = 1
"""
_FROM_NOW = """
UPDATE cursor SET next_seq = 1 + (SELECT coalesce(max(seq), 0) FROM event)
WHERE subscription_id = :s
"""


class Opened(NamedTuple):
    """The settings of a new lane.

    The events from ``next_seq`` to ``last_seq`` are its own. Without a ``next_seq`` it gets those
    of ``seqs``. ``emits``: its outputs go where those of the parent go.
    """

    role: Role
    selector: str
    policy: DeliveryPolicy
    settings: Mapping[str, Any]
    next_seq: int | None = None
    last_seq: int | None = None
    seqs: Sequence[int] = ()
    emits: bool = False


class LaneRow(NamedTuple):
    """A lane as it is stored. ``lane`` has its settings as JSON."""

    id: int
    name: str
    role: Role
    selector: str
    bound: int
    created_us: int
    lane: str

    parent_id: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the lane."""
        return dict(json.loads(self.lane))

    @property
    def ended(self) -> str:
        """How it ended: ``done``, ``stopped``, ``unsubscribed``. Empty while it is open."""
        return "" if self.bound else str(self.settings.get("ended", "stopped"))


def open_lane(
    transaction: Transaction, parent: SubscriptionSpec, given: Opened, now_us: int
) -> tuple[int, str]:
    """Make a lane of *parent*. Return its number and its name."""
    ((number,),) = transaction.query(_NUMBER, {})
    name = f"{parent.name}~{given.role}-{number}"
    of = {"parent": parent.id}
    ((emit,),) = transaction.query(_EMIT, of) if given.emits else [(None,)]
    ((s,),) = transaction.query(
        _INSERT,
        {
            **of,
            "name": name,
            "selector": given.selector,
            "emit": emit,
            "policy": given.policy.to_json(),
            "now": now_us,
            "role": given.role,
            "lane": json.dumps(dict(given.settings)),
        },
    )
    cursor = {"s": s, "next_seq": given.next_seq, "last_seq": given.last_seq}
    transaction.execute(_CURSOR, cursor)
    if given.next_seq is not None and given.last_seq is not None:
        span = {"s": s, "low": given.next_seq, "high": given.last_seq, "now": now_us}
        transaction.execute(_DELAYED, span)
    transaction.execute_many(INSERT_READY, [Waiting(s, now_us, seq) for seq in given.seqs])
    ledger.bound(transaction, s, given.selector, ledger.user(), now_us)
    next_generation(transaction)
    return int(s), name


def in_lane(reader: Reader, number: int) -> set[int]:
    """Return all events of a lane, ended or open."""
    return {seq for (seq,) in reader.query(_IN_LANE, {"s": number})}


def add_to(transaction: Transaction, number: int, seqs: Sequence[int], now_us: int) -> int:
    """Add events to a lane, but for those that are in it. Return how many are new."""
    among = ", ".join(str(int(seq)) for seq in seqs)
    there = transaction.query(_SOME_IN_LANE.format(seqs=among), {"s": number})
    known = {seq for (seq,) in there}
    new = [Waiting(number, now_us, seq) for seq in seqs if seq not in known]
    transaction.execute_many(INSERT_READY, new)
    return len(new)


def lanes_of(reader: Reader, parent_id: int) -> list[LaneRow]:
    """Return the lanes of a subscription, oldest first, also those that have ended."""
    rows = reader.query(f"{_ROW} WHERE parent_id = :parent ORDER BY id", {"parent": parent_id})
    return [LaneRow(*row) for row in rows]


def lane(reader: Reader, number: int) -> LaneRow:
    """Return one lane."""
    (row,) = reader.query(f"{_ROW} WHERE id = :s", {"s": number})
    return LaneRow(*row)


def end_lane(transaction: Transaction, number: int, ended: str) -> bool:
    """End a lane. It keeps its place. Return whether it was open.

    Calls under way may end. *ended* says how: ``done`` or ``stopped``.
    """
    if not transaction.execute(_END, {"s": number, "ended": ended}):
        return False
    next_generation(transaction)
    return True


def begin_lane(transaction: Transaction, number: int) -> bool:
    """Let a lane that was stopped go on. Return whether it does.

    A shadow goes on with the next event, another lane where it was. A lane whose subscription was
    unsubscribed is over for good.
    """
    of = {"s": number}
    if not transaction.execute(_BEGIN, of):
        return False
    if lane(transaction, number).role == "shadow":
        transaction.execute("DELETE FROM ready WHERE subscription_id = :s", of)
        transaction.execute(_FROM_NOW, of)
    next_generation(transaction)
    return True


def is_through(reader: Reader, number: int) -> bool:
    """Whether nothing of a lane is open."""
    ((found,),) = reader.query(_IS_THROUGH, {"s": number})
    return bool(found)


def set_lane(transaction: Transaction, number: int, settings: Mapping[str, Any]) -> None:
    """Replace the settings of a lane."""
    transaction.execute(
        "UPDATE subscription SET lane = :lane WHERE id = :s",
        {"s": number, "lane": json.dumps(dict(settings))},
    )
    next_generation(transaction)
