"""The record of effects: what models did to other systems, for which event, with which answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from mltrigger.clock import Clock
from mltrigger.store.archive import SOURCE
from mltrigger.store.tables import FINAL_CODES
from mltrigger.store.transaction import Reader, Row, Store, Transaction

State = Literal["answered", "unknown", "failed"]
"""``answered``: it has happened. ``failed``: it has not. ``unknown``: its end was not recorded."""
STATE = """
CASE WHEN f.answered_us IS NOT NULL THEN 'answered' WHEN f.error IS NOT NULL THEN 'failed'
  ELSE 'unknown' END
"""
_KEY = "subscription_id = :s AND seq = :seq AND name = :name AND key = :key"
_HOME = """
SELECT s.id, s.role, s.lane, p.id, coalesce(p.name, s.name)
FROM subscription s LEFT JOIN subscription p ON p.id = s.parent_id WHERE s.id = :s
"""
_FIND = f"SELECT calls, {STATE}, answer, error FROM effect f WHERE {_KEY}"
_INSERT = """
INSERT INTO effect (subscription_id, seq, name, key, attempt, calls, intended_us)
VALUES (:s, :seq, :name, :key, :attempt, 1, :now_us)
"""
_AGAIN = f"""
UPDATE effect SET attempt = :attempt, calls = calls + 1, intended_us = :now_us,
  answered_us = NULL, answer = NULL, error = NULL WHERE {_KEY}
"""
_END = f"""
UPDATE effect SET answered_us = :answered_us, answer = :answer, error = :error
WHERE {_KEY} AND calls = :calls
"""
_ENDED = f"""
SELECT 1 FROM outcome WHERE subscription_id = :s AND seq = :seq AND outcome IN {FINAL_CODES}
"""
_SELECT = f"""
SELECT event_id(e.id), {SOURCE}, f.name, f.key, {STATE}, f.attempt, f.calls, f.intended_us,
  f.answered_us, f.answer, f.error
FROM effect f JOIN event e ON e.seq = f.seq WHERE f.subscription_id = :s
"""
_ORDER = "ORDER BY f.intended_us, f.seq, f.name, f.key"
_ROWS = f"{_SELECT} {_ORDER}"
_ROWS_OF_EVENT = f"{_SELECT} AND f.seq = :seq {_ORDER}"
_OF_EVENT = f"""
SELECT f.name, f.key, {STATE}, f.attempt, f.error FROM effect f
WHERE f.subscription_id = :s AND f.seq = :seq ORDER BY f.intended_us, f.name, f.key
"""
_UNKNOWN = """
SELECT f.name, count(*) FROM effect f
WHERE f.subscription_id = :s AND f.answered_us IS NULL AND f.error IS NULL AND NOT EXISTS (
  SELECT 1 FROM leased l WHERE l.subscription_id = f.subscription_id AND l.seq = f.seq
    AND l.attempt = f.attempt)
GROUP BY f.name ORDER BY f.name
"""


class Intent(NamedTuple):
    """An effect that is about to be called, in an attempt for an event of a subscription.

    Without a ``key`` one is derived. ``again`` calls also if it is unknown. ``recorded`` never
    calls.
    """

    subscription_id: int
    seq: int
    attempt: int
    event_id: str
    source: str
    name: str
    key: str | None
    again: bool = False
    recorded: bool = False
    now_us: int = 0


class Intended(NamedTuple):
    """The record of an effect. With ``number`` above 0 that call of it begins now.

    - ``home``: the subscription that keeps it.
    - ``is_missing``: it must come from a recording, which does not have it.
    - ``is_ended``: the recording is complete.
    """

    home: int
    key: str
    number: int = 0
    state: State | None = None
    answer: str | None = None
    error: str | None = None
    is_missing: bool = False
    is_ended: bool = False


class End(NamedTuple):
    """The end of call ``number`` of an effect. ``error`` is a note if it was answered."""

    home: int
    seq: int
    name: str
    key: str
    number: int
    is_answered: bool
    answer: str | None = None
    error: str | None = None
    now_us: int = 0


class Effects:
    """The record of effects in one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def intend(self, intent: Intent) -> Intended:
        """Record *intent* unless the effect is known. It is durable then."""
        given = intent._replace(now_us=self._clock.now_us())
        return self._store.write(_intend_each, given)

    def end(self, end: End) -> None:
        """Record the end of a call. It is durable then. A later call keeps its own end."""
        self._store.write(_end_each, end._replace(now_us=self._clock.now_us()))

    def rows(self, subscription_id: int, seq: int | None = None) -> list[Row]:
        """Return the effects of a subscription, oldest first, as the frame shows them.

        With *seq* only those of one event.
        """
        statement = _ROWS if seq is None else _ROWS_OF_EVENT
        return self._store.read(statement, {"s": subscription_id, "seq": seq})

    def unknown(self, subscription_id: int) -> dict[str, int]:
        """Return the number of unknown effects by name. Those of calls under way do not count."""
        rows = self._store.read(_UNKNOWN, {"s": subscription_id})
        return {name: int(n) for name, n in rows}


def of_event(reader: Reader, subscription_id: int, seq: int) -> list[Row]:
    """Return name, key, state, attempt and error of the effects of one event."""
    return reader.query(_OF_EVENT, {"s": subscription_id, "seq": seq})


def _intend_each(transaction: Transaction, intents: Sequence[Intent]) -> list[Intended]:
    return [_intend(transaction, intent) for intent in intents]


def _intend(transaction: Transaction, intent: Intent) -> Intended:
    ((own, role, lane, parent, name),) = transaction.query(_HOME, {"s": intent.subscription_id})
    is_lane = role in ("shadow", "replay") and _policy(lane) != "live"
    is_replayed = is_lane or intent.recorded
    # a correction answers an event again: its effects have happened
    home = parent if parent is not None and (is_replayed or role == "correction") else own
    key = intent.key or derived_key(name, intent)
    of = {"s": home, "seq": intent.seq, "name": intent.name, "key": key}
    found = transaction.query(_FIND, of)
    known = Intended(home, key)
    if found:
        calls, state, answer, error = found[0]
        known = Intended(home, key, 0, state, answer, error)
        if state == "answered":
            return known
    if is_replayed:
        return known._replace(is_missing=True, is_ended=bool(transaction.query(_ENDED, of)))
    call = {**of, "attempt": intent.attempt, "now_us": intent.now_us}
    if not found:
        transaction.execute(_INSERT, call)
        return known._replace(number=1)
    if known.state == "unknown" and not intent.again:
        return known
    transaction.execute(_AGAIN, call)
    return known._replace(number=calls + 1)


def derived_key(subscription: str, intent: Intent) -> str:
    """Return the idempotency key of an effect without one: the same in every attempt."""
    parts = [subscription, intent.source, intent.event_id, intent.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _policy(lane: str | None) -> str:
    """Return the policy of a lane about effects: recorded or live."""
    return str(json.loads(lane).get("effects", "recorded")) if lane else "recorded"


def _end_each(transaction: Transaction, ends: Sequence[End]) -> list[None]:
    for end in _asked(ends):
        transaction.execute(_END, end)
    return [None] * len(ends)


def _asked(ends: Sequence[End]) -> Iterator[dict[str, object]]:
    for home, seq, name, key, number, is_answered, answer, error, now_us in ends:
        yield {
            "s": home,
            "seq": seq,
            "name": name,
            "key": key,
            "calls": number,
            "answered_us": now_us if is_answered else None,
            "answer": answer,
            "error": error,
        }
