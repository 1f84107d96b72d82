"""Turns: claims of a subscription whose keys share it fairly.

The keys stand in a ring. Each one gets a turn of one event, and goes to the end. A key at its limit
keeps its place and is passed over. So a claim looks at as many keys as it finds events, and at
those with calls that run. The backlog of a key costs nothing.

A key without waiting events keeps its place for one round. Then it is forgotten. The first turn of
a key that comes anew has a few events more.

Within a key the highest priority goes first. Each fourth event is the one that waits longest, if
that is more than a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.store import leases, placing
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.leasing import Standing, advance
from mltrigger.store.pace import Pace
from mltrigger.store.placing import INSERT_KEYED, Placing
from mltrigger.store.queue import CLAIM_KEYED, Term, claims
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Row, Transaction

AGED_US = 60_000_000
"""An event that has waited for longer is lifted."""
EACH = 4
"""Each so many events of a key, one goes first by its age."""
_TAKEN_IN = 1_000
"""How many rows that fell due one claim gives a place. More wait for the next claim."""
_PAGE = 1_000
_NEW = f"""
SELECT q.visible_us, q.attempt, q.failures, q.abandoned, a.data, a.datacontenttype, {ARCHIVED}
FROM ready q JOIN event e ON e.seq = q.seq
LEFT JOIN resent a ON a.subscription_id = q.subscription_id AND a.seq = q.seq
WHERE q.subscription_id = :s AND q.visible_us <= :now ORDER BY q.visible_us, q.seq LIMIT :n
"""
_TAKE_READY = """
DELETE FROM ready WHERE subscription_id = :s AND visible_us = :visible_us AND seq = :seq
"""
_TAKE = """
DELETE FROM keyed
WHERE subscription_id = :s AND key = :key AND rank = :rank AND visible_us = :visible_us
  AND seq = :seq
"""
_IN_FLIGHT = """
SELECT by_key, sum(n) FROM lease WHERE subscription_id = :s AND by_key IS NOT NULL GROUP BY by_key
"""
_RING = """
SELECT key, turn, bonus, served FROM turn
WHERE subscription_id = :s AND turn >= :turn AND (turn > :turn OR key > :key)
ORDER BY turn, key LIMIT :n
"""
_OF_KEY = f"{CLAIM_KEYED} AND q.key = :key"
_BY_RANK = f"{_OF_KEY} ORDER BY q.rank, q.visible_us, q.seq LIMIT :n"
_BY_AGE = f"{_OF_KEY} AND q.aged_us <= :before ORDER BY q.aged_us, q.seq LIMIT :n"
_MOVE = """
UPDATE turn SET turn = :turn, bonus = :bonus, served = :served
WHERE subscription_id = :s AND key = :key
"""
_FORGET = "DELETE FROM turn WHERE subscription_id = :s AND key = :key"
_ABANDONED = 4
"""The place of that column in a claim."""


class _Key:
    """A key of the ring during one claim."""

    __slots__ = ("bonus", "found", "is_empty", "key", "room", "served", "turn")

    def __init__(self, key: str, turn: int, bonus: int, served: int, room: int) -> None:
        self.key, self.turn, self.bonus, self.served, self.room = key, turn, bonus, served, room
        self.found: list[Row] = []
        self.is_empty = False

    @property
    def left(self) -> int:
        """How many more events it may have."""
        return 0 if self.is_empty else self.room - len(self.found)


def in_flight(reader: Reader, subscription_id: int) -> dict[str, int]:
    """Return the number of leased events by key."""
    return {key: int(n) for key, n in reader.query(_IN_FLIGHT, {"s": subscription_id})}


def claim(
    transaction: Transaction,
    spec: SubscriptionSpec,
    at: Standing,
    term: Term,
    most: int,
    pace: Pace,
) -> tuple[list[Row], Pace]:
    """Lease up to *most* deliveries for *term*, in the order of turns. Return them and the pace.

    A delivery that was abandoned before is leased alone, so that it harms no other.
    """
    if at.paused:
        return [], pace
    if at.due_us is not None and at.due_us <= term.received_us:
        take_in(transaction, spec, term.received_us)
    limit = spec.policy.max_concurrency_per_key
    busy = in_flight(transaction, spec.id) if limit is not None else {}
    ring = _Ring(transaction, spec.id, busy, most if limit is None else limit)
    keys = _filled(transaction, term, most, ring)
    _part(transaction, spec, keys)
    pace = _move_on(transaction, spec.id, keys, pace)
    named = {row[0]: key.key for key in keys for row in key.found}
    found = [row for key in keys for row in key.found]
    if found:
        advance(transaction, spec.id, at.next_seq)
        leases.hold(transaction, term, found, keys=named if spec.policy.key is not None else None)
    return found, pace


def has_room(reader: Reader, spec: SubscriptionSpec) -> bool:
    """Whether a key that is not at its limit has its place in the ring."""
    limit = spec.policy.max_concurrency_per_key
    busy = in_flight(reader, spec.id) if limit is not None else {}
    return bool(_Ring(reader, spec.id, busy, limit or 1).more(1))


class _Ring:
    """The keys of a subscription with room, from the first one on."""

    def __init__(
        self, reader: Reader, subscription_id: int, busy: Mapping[str, int], limit: int
    ) -> None:
        self._reader, self._s = reader, subscription_id
        self._busy, self._limit = busy, limit
        self._full = sum(n >= limit for n in busy.values())
        self._at = (-1, "")
        self._is_over = False

    def more(self, n: int) -> list[_Key]:
        """Return the next keys, *n* if there are so many."""
        found: list[_Key] = []
        while len(found) < n and not self._is_over:
            wanted = min(n - len(found) + self._full, _PAGE)
            turn, key = self._at
            of = {"s": self._s, "turn": turn, "key": key, "n": wanted}
            rows = self._reader.query(_RING, of)
            self._is_over = len(rows) < wanted
            for key, turn, bonus, served in rows:
                self._at = (turn, key)
                if (room := self._limit - self._busy.get(key, 0)) > 0:
                    found.append(_Key(key, turn, bonus, served, room))
        return found


def _filled(transaction: Transaction, term: Term, most: int, ring: _Ring) -> list[_Key]:
    """Take up to *most* waiting events. Return the keys in their order."""
    keys: list[_Key] = []
    while (left := most - sum(len(key.found) for key in keys)) > 0:
        open_ = [key for key in keys if key.left > 0]
        more = ring.more(left - len(open_)) if len(open_) < left else []
        keys += more
        if not (open_ := [*open_, *more]):
            break
        taken: list[Row] = []
        for key, n in zip(open_, _shares(open_, left), strict=True):
            if n > 0:
                taken += _take(transaction, term, key, n)
        transaction.execute_many(_TAKE, taken)
    return keys


def _shares(keys: Sequence[_Key], left: int) -> list[int]:
    """Return how many of *left* events each key gets, if it has so many."""
    shares: list[int] = []
    for key in keys:
        turn = 1 if key.found else 1 + key.bonus
        shares.append(min(turn, key.left, left))
        left -= shares[-1]
    while left > 0 and (those := [i for i, key in enumerate(keys) if shares[i] < key.left]):
        each = max(1, left // len(those))
        for i in those:
            n = min(each, keys[i].left - shares[i], left)
            shares[i] += n
            left -= n
    return shares


def _take(transaction: Transaction, term: Term, key: _Key, n: int) -> list[Row]:
    """Find up to *n* events of *key*. Return the places of those that still have to be deleted."""
    of: dict[str, Any] = {"s": term.subscription_id, "key": key.key}
    aged = sum((key.served + i) % EACH == EACH - 1 for i in range(n))
    found: list[Row] = []
    if aged:
        given = {**of, "before": term.received_us - AGED_US, "n": aged}
        found = claims(transaction, _BY_AGE, given)
        transaction.execute_many(_TAKE, _places(of["s"], key.key, found))
    rest = claims(transaction, _BY_RANK, {**of, "n": n - len(found)}) if len(found) < n else []
    found += rest
    key.found += found
    key.served = (key.served + len(found)) % EACH
    key.is_empty = len(found) < n
    return _places(term.subscription_id, key.key, rest)


def _places(subscription_id: int, key: str, rows: Sequence[Row]) -> list[Row]:
    return [(subscription_id, key, row[-1], row[1], row[0]) for row in rows]


def _part(transaction: Transaction, spec: SubscriptionSpec, keys: Sequence[_Key]) -> None:
    """Let a delivery that was abandoned before be alone. Those behind it wait again."""
    found = [row for key in keys for row in key.found]
    suspect = next((i for i, row in enumerate(found) if row[_ABANDONED]), None)
    if suspect is None:
        return
    left = max(1, suspect)
    for key in keys:
        back, key.found = key.found[left:], key.found[:left]
        left -= len(key.found)
        if back:
            key.is_empty = False
            ages = spec.policy.priority is not None
            places = _places(spec.id, key.key, back)
            rows = [
                (*place, *row[2:5], row[1] if ages else None)
                for place, row in zip(places, back, strict=True)
            ]
            transaction.execute_many(INSERT_KEYED, rows)


def _move_on(
    transaction: Transaction, subscription_id: int, keys: Sequence[_Key], pace: Pace
) -> Pace:
    """Give the keys that had their turn the next one. Forget those that had nothing twice."""
    moved: list[Row] = []
    gone: list[Row] = []
    last = pace.turn
    for key in keys:
        n = len(key.found)
        if n == 0 and not key.is_empty:
            continue  # its events wait for one that has to be alone
        if n == 0 and not key.bonus:
            gone.append((subscription_id, key.key))
        elif n <= key.bonus and not key.is_empty:  # its first turn goes on
            moved.append((key.turn, key.bonus - n, key.served, subscription_id, key.key))
        else:
            last += 1
            moved.append((last, 0, key.served, subscription_id, key.key))
    transaction.execute_many(_MOVE, moved)
    transaction.execute_many(_FORGET, gone)
    # a key that comes next stands behind all of them
    return pace._replace(turn=last + 1) if last > pace.turn else pace


def take_in(transaction: Transaction, spec: SubscriptionSpec, now_us: int) -> None:
    """Give rows of ``ready`` that are due a place among the keys."""
    by = Placing.of(spec.policy)
    given = {"s": spec.id, "now": now_us, "n": _TAKEN_IN}
    rows = transaction.query(_NEW, given) if by is not None else []
    placed: list[Row] = []
    for visible_us, attempt, failures, abandoned, data, media_type, *event in rows:
        seen = archived(event)
        if data is not None:
            seen = seen._replace(raw=data, media_type=media_type)
        waiting = (spec.id, visible_us, event[0], attempt, failures, abandoned)
        placed.append(by.row(Seen(*seen), waiting))  # type: ignore[union-attr]
    transaction.execute_many(_TAKE_READY, [(spec.id, row[3], row[4]) for row in placed])
    placing.insert(transaction, placed)
