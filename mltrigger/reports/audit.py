"""The audit: published events and their outcomes, counted from both sides.

This is G2 of the promise, as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mltrigger.store.archive import ARCHIVED, Archived, archived
from mltrigger.store.revisions import History, Period, histories
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Store

SHOWN = 10
"""The most events that are named where the sides differ."""
_BATCH = 2_000

_MINE = "e.topic_id = :t AND e.seq > :low AND e.seq <= :high"
_COUNT = f"SELECT count(*) FROM event e WHERE {_MINE}"
_PLACED = """
(EXISTS (SELECT 1 FROM final f WHERE f.seq = e.seq AND f.subscription_id = :s)
OR EXISTS (SELECT 1 FROM leased l WHERE l.subscription_id = :s AND l.seq = e.seq)
OR e.seq IN (SELECT r.seq FROM waiting r WHERE r.subscription_id = :s))
"""
_NOWHERE = f"SELECT e.seq FROM event e WHERE {_MINE} AND NOT {_PLACED} ORDER BY e.seq"
_EACH = f"""
SELECT e.seq, e.published_us, {_PLACED}, {ARCHIVED} FROM event e WHERE {_MINE}
ORDER BY e.seq LIMIT {_BATCH}
"""
_ENDED = "SELECT subscription_id, outcome, count(*) FROM final GROUP BY subscription_id, outcome"
_OPEN = """
SELECT subscription_id, count(*) FROM (
  SELECT subscription_id FROM waiting UNION ALL SELECT subscription_id FROM leased) AS o
GROUP BY subscription_id
"""
_DOUBLE = """
SELECT seq, subscription_id FROM (
  SELECT seq, subscription_id FROM final
  UNION ALL SELECT seq, subscription_id FROM waiting
  UNION ALL SELECT seq, subscription_id FROM leased) AS found
GROUP BY seq, subscription_id HAVING count(*) > 1
"""
_ANYWHERE = """
SELECT seq FROM final WHERE subscription_id = :s
UNION SELECT seq FROM waiting WHERE subscription_id = :s
UNION SELECT seq FROM leased WHERE subscription_id = :s
"""
_HOW_MANY = f"SELECT count(*) FROM ({_ANYWHERE}) AS found"
_TOPICS = f"SELECT seq, topic_id FROM event WHERE seq IN ({_ANYWHERE})"
_ASKED_FOR = "SELECT seq FROM resent WHERE subscription_id = :s"


class Balance(NamedTuple):
    """The balance of one subscription: events due to it, and their outcomes.

    ``published`` events came to its topic while it was bound. Its filter kept ``filtered`` of them
    out. It got ``sent`` others on request. The sum is ``succeeded`` + ``dead`` + ``skipped`` +
    ``open``: then it is ``balanced``. ``missing`` events were due and are nowhere. ``double``
    events have more than one outcome or place. ``surplus`` events are there, but were neither due
    nor asked for. ``events`` names the first of these three kinds.
    """

    topic: str
    subscription: str
    published: int
    filtered: int
    sent: int
    succeeded: int
    dead: int
    skipped: int
    open: int
    missing: int
    double: int
    surplus: int
    balanced: bool
    events: str | None


class _Due(NamedTuple):
    """The side of the archive: missing events were due, undue events have a place."""

    published: int
    due: int
    missing: list[int]
    undue: list[int]


class _Published(NamedTuple):
    """An event that came while the subscription was bound. Its ``periods`` decide if it was due."""

    seq: int
    published_us: int
    is_placed: bool
    periods: list[Period]
    columns: list[Any]

    @property
    def archived(self) -> Archived:
        return archived(self.columns)

    @property
    def is_due(self) -> bool:
        seen = Seen(*self.archived)
        return any(seen.passes(period.filter) for period in self.periods)


class KeptOut(NamedTuple):
    """An event that a filter kept out. ``period`` is the newest one that decided."""

    seq: int
    published_us: int
    archived: Archived
    period: Period


def audit(store: Store) -> list[Balance]:
    """Return the balance of each subscription at one moment, also of unsubscribed ones."""
    with store.snapshot() as reader:
        ended: dict[tuple[int, str], int] = {
            (s, outcome): n for s, outcome, n in reader.query(_ENDED, {})
        }
        open_: dict[int, int] = dict(map(tuple, reader.query(_OPEN, {})))
        double: dict[int, list[int]] = {}
        for seq, s in reader.query(_DOUBLE, {}):
            double.setdefault(s, []).append(seq)
        return [
            _balance(reader, history, ended, open_.get(history.id, 0), double.get(history.id, []))
            for history in histories(reader)
        ]


def kept_out(reader: Reader, history: History) -> Iterator[KeptOut]:
    """Yield the events that filters kept out."""
    for event in _each(reader, history):
        if not event.is_placed and not event.is_due:
            yield KeptOut(event.seq, event.published_us, event.archived, event.periods[0])


def _balance(
    reader: Reader,
    history: History,
    ended: dict[tuple[int, str], int],
    open_: int,
    double: list[int],
) -> Balance:
    filtering = any(p.filter for p in history.periods)
    found = _filtering(reader, history) if filtering else _plain(reader, history)
    ((somewhere,),) = reader.query(_HOW_MANY, {"s": history.id})
    beside = somewhere - (found.due - len(found.missing))
    surplus = _surplus(reader, history, found.undue) if beside else []
    succeeded, dead, skipped = (
        ended.get((history.id, outcome), 0) for outcome in ("succeeded", "dead", "skipped")
    )
    sent = beside - len(surplus)
    adds_up = found.due + sent == succeeded + dead + skipped + open_
    return Balance(
        history.topic,
        history.name,
        found.published,
        found.published - found.due,
        sent,
        succeeded,
        dead,
        skipped,
        open_,
        len(found.missing),
        len(double),
        len(surplus),
        adds_up and not (found.missing or double or surplus),
        _named(reader, [*found.missing, *double, *surplus]),
    )


def _plain(reader: Reader, history: History) -> _Due:
    """Count in the database, where no filter was ever set."""
    of = [{"s": history.id, "t": t, "low": low, "high": high} for t, low, high in history.ranges()]
    published = sum(n for o in of for (n,) in reader.query(_COUNT, o))
    return _Due(published, published, [seq for o in of for (seq,) in reader.query(_NOWHERE, o)], [])


def _filtering(reader: Reader, history: History) -> _Due:
    """Count event by event, where filters decide."""
    published = due = 0
    missing: list[int] = []
    undue: list[int] = []
    for event in _each(reader, history):
        published += 1
        if event.is_due:
            due += 1
            if not event.is_placed:
                missing.append(event.seq)
        elif event.is_placed:
            undue.append(event.seq)
    return _Due(published, due, missing, undue)


def _each(reader: Reader, history: History) -> Iterator[_Published]:
    """Yield each event that was published while the subscription was bound."""
    for topic_id, low, high in history.ranges():
        after = low
        while rows := reader.query(
            _EACH, {"s": history.id, "t": topic_id, "low": after, "high": high}
        ):
            for seq, published_us, is_placed, *columns in rows:
                periods = history.at(seq, topic_id)
                yield _Published(seq, published_us, bool(is_placed), periods, columns)
                after = seq


def _surplus(reader: Reader, history: History, undue: list[int]) -> list[int]:
    """Return the events that are there, but were neither due nor asked for.

    Events older than the subscription came from the archive.
    """
    ranges = history.ranges()
    topics: dict[int, int] = dict(map(tuple, reader.query(_TOPICS, {"s": history.id})))
    asked = {seq for (seq,) in reader.query(_ASKED_FOR, {"s": history.id})}
    outside = [
        seq
        for (seq,) in reader.query(_ANYWHERE, {"s": history.id})
        if not any(t == topics.get(seq) and low < seq <= high for t, low, high in ranges)
    ]
    return sorted(
        seq for seq in {*undue, *outside} - asked if seq > history.since or seq not in topics
    )


def _named(reader: Reader, seqs: list[int]) -> str | None:
    if not seqs:
        return None
    ids = [
        id_
        for seq in seqs[:SHOWN]
        for (id_,) in reader.query("SELECT event_id(id) FROM event WHERE seq = :seq", {"seq": seq})
    ]
    return ", ".join(ids) + (", …" if len(seqs) > SHOWN else "")
