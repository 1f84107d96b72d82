"""Waits: why the events of a key wait, and until when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mltrigger.policy import DeliveryPolicy
from mltrigger.store import pace, turns
from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.pace import Pace
from mltrigger.store.placing import NO_KEY, Placing
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Row

_OF = "SELECT policy, role, outside, paused FROM subscription WHERE id = :s"
_KEYED = "SELECT key, count(*), min(seq) FROM keyed WHERE subscription_id = :s GROUP BY key"
_LEASED = """
SELECT by_key, sum(n), min(low) FROM lease
WHERE subscription_id = :s AND by_key IS NOT NULL GROUP BY by_key
"""
_READY = f"""
SELECT q.visible_us, a.data, a.datacontenttype, {ARCHIVED}
FROM ready q JOIN event e ON e.seq = q.seq
LEFT JOIN resent a ON a.subscription_id = q.subscription_id AND a.seq = q.seq
WHERE q.subscription_id = :s ORDER BY q.visible_us, q.seq LIMIT :most
"""
_PUBLISHED = "SELECT seq, published_us FROM event WHERE seq IN ({seqs})"
_PLACE = "SELECT key, rank, visible_us FROM keyed WHERE subscription_id = :s AND seq = :seq"
_AHEAD = """
SELECT count(*) FROM keyed WHERE subscription_id = :s AND key = :key
  AND (rank < :rank OR (rank = :rank AND
    (visible_us < :visible_us OR (visible_us = :visible_us AND seq < :seq))))
"""
_AT_ONCE = 5_000


class Wait(NamedTuple):
    """A reason to wait. ``until_us`` is ``None`` if no time ends it."""

    why: str
    until_us: int | None = None


class KeyDepth(NamedTuple):
    """The open events of one key. ``key`` is ``None`` for events without one."""

    key: str | None
    waiting: int
    in_flight: int
    delayed: int
    oldest_us: int | None
    wait: Wait


class _Key:
    """The events of one key, counted."""

    def __init__(self) -> None:
        self.waiting = self.in_flight = self.delayed = 0
        self.seqs: list[int] = []
        self.due_us: int | None = None

    def take(self, visible_us: int, now_us: int) -> None:
        """Count an event that is not in its place."""
        if visible_us <= now_us:
            self.waiting += 1
            return
        self.delayed += 1
        self.due_us = visible_us if self.due_us is None else min(self.due_us, visible_us)


class _Standing(NamedTuple):
    """The settings and the state of a subscription that decide on waits."""

    policy: DeliveryPolicy
    paused: bool
    pace: Pace

    def wait(self, in_flight: int, now_us: int) -> Wait:
        """Return why the first waiting event of a key waits."""
        limit = self.policy.max_concurrency_per_key
        if self.paused:
            return Wait("paused")
        if limit is not None and in_flight >= limit:
            return Wait(f"key at its limit: {in_flight} of {limit} in flight")
        if (next_us := self.pace.next_us(now_us)) > now_us:
            return Wait(f"rate of {self.policy.max_rate_per_s_total:g}/s is used up", next_us)
        return Wait("its turn, and a free listener")


def _standing(reader: Reader, subscription_id: int) -> _Standing | None:
    """Return how a subscription stands, ``None`` if it has no limits here."""
    for policy, role, outside, paused in reader.query(_OF, {"s": subscription_id}):
        settings = DeliveryPolicy.from_json(policy)
        if role == "live" and not outside:
            rate = settings.max_rate_per_s_total
            return _Standing(settings, bool(paused), pace.read(reader, subscription_id, rate))
    return None


def by_key(
    reader: Reader, subscription_id: int, now_us: int, most: int = 2**62
) -> list[KeyDepth] | None:
    """Return the open events of a subscription by key. ``None`` if it has no key here.

    Of those that have no place so far *most* are read, the first ones that are due.
    """
    at = _standing(reader, subscription_id)
    if at is None or at.policy.key is None:
        return None
    keys: dict[str, _Key] = {}
    of = {"s": subscription_id}
    for key, n, seq in reader.query(_KEYED, of):
        found = keys.setdefault(key, _Key())
        found.waiting += n
        found.seqs.append(seq)
    for key, n, seq in reader.query(_LEASED, of):
        found = keys.setdefault(key, _Key())
        found.in_flight += int(n)
        found.seqs.append(seq)
    for key, visible_us, seq in _unplaced(reader, at.policy, {**of, "most": most}):
        found = keys.setdefault(key, _Key())
        found.take(visible_us, now_us)
        found.seqs.append(seq)
    published = _published(reader, [min(k.seqs) for k in keys.values()])
    made = [_depth(key, k, published, at, now_us) for key, k in keys.items()]
    return sorted(made, key=lambda d: (-d.waiting, -d.in_flight, -d.delayed, d.key or NO_KEY))


def _depth(key: str, k: _Key, published: dict[int, int], at: _Standing, now_us: int) -> KeyDepth:
    wait = Wait("")
    if k.waiting:
        wait = at.wait(k.in_flight, now_us)
    elif k.delayed:
        wait = Wait("delayed", k.due_us)
    named = None if key == NO_KEY else key
    return KeyDepth(named, k.waiting, k.in_flight, k.delayed, published.get(min(k.seqs)), wait)


def _unplaced(
    reader: Reader, policy: DeliveryPolicy, of: dict[str, int]
) -> Iterator[tuple[str, int, int]]:
    """Yield key, due time and number of rows that have no place so far."""
    by = Placing.of(policy)
    for visible_us, data, media_type, *event in reader.query(_READY, of):
        seen = archived(event)
        if data is not None:
            seen = seen._replace(raw=data, media_type=media_type)
        if by is not None:
            yield by.place(Seen(*seen))[0], visible_us, event[0]


def _published(reader: Reader, seqs: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for first in range(0, len(seqs), _AT_ONCE):
        among = ", ".join(str(int(seq)) for seq in seqs[first : first + _AT_ONCE])
        found.update(reader.query(_PUBLISHED.format(seqs=among), {}))
    return found


def of_event(reader: Reader, subscription_id: int, seq: int, now_us: int) -> list[Wait]:
    """Return why an event that is due waits: its key, its place there, the total rate."""
    at = _standing(reader, subscription_id)
    if at is None or at.paused:
        return []
    of = {"s": subscription_id, "seq": seq}
    found = reader.query(_PLACE, of)
    key = found[0][0] if found else None
    waits = []
    if key is not None:
        busy = turns.in_flight(reader, subscription_id).get(key, 0)
        waits.append(_named(at.wait(busy, now_us), key, at.policy))
        waits += _ahead(reader, of, found[0], at.policy)
    elif (next_us := at.pace.next_us(now_us)) > now_us:
        waits.append(at.wait(0, now_us)._replace(until_us=next_us))
    return waits


def _named(wait: Wait, key: str, policy: DeliveryPolicy) -> Wait:
    if policy.key is None:
        return wait
    return wait._replace(why=f"{policy.key} {key!r}: {wait.why}" if key else wait.why)


def _ahead(reader: Reader, of: dict[str, int], place: Row, policy: DeliveryPolicy) -> list[Wait]:
    key, rank, visible_us = place
    given = {**of, "key": key, "rank": rank, "visible_us": visible_us}
    ((n,),) = reader.query(_AHEAD, given)
    return [Wait(f"behind {n} {'of its key' if policy.key else 'others'}")] if n else []
