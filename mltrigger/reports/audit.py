"""The audit: published events and their outcomes, counted from both sides.

This is G2 of the promise, as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mltrigger.errors import warn
from mltrigger.reports.corrected import balance
from mltrigger.store.archive import ARCHIVED, Archived, archived
from mltrigger.store.outcomes import FINAL, OUTCOMES
from mltrigger.store.revisions import END, History, Period, histories
from mltrigger.store.tables import CODES, FINAL_CODES
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Store

SHOWN = 10
"""The most events that are named where the sides differ."""
_BATCH = 2_000

_MINE = "e.topic_id = :t AND e.seq > :low AND e.seq <= :high"
_COUNT = f"SELECT count(*) FROM event e WHERE {_MINE}"
_ENDS = f"outcome IN {FINAL_CODES}"
_OPEN = """
SELECT seq FROM waiting WHERE subscription_id = :s
UNION ALL SELECT seq FROM leased WHERE subscription_id = :s
"""
_PLACES = f"SELECT seq FROM outcome WHERE subscription_id = :s AND {_ENDS} UNION ALL {_OPEN}"
_HAS_ENDED = f"""
EXISTS (SELECT 1 FROM outcome o WHERE o.subscription_id = :s AND o.seq = e.seq AND o.{_ENDS})
"""
_NO_PLACE = f"SELECT e.seq FROM event e WHERE {_MINE} EXCEPT SELECT seq FROM ({_PLACES})"
_NOWHERE = f"{_NO_PLACE} ORDER BY 1"
_HOW_MANY_NOWHERE = f"SELECT count(*) FROM ({_NO_PLACE}) AS nowhere"
_EACH = f"""
SELECT e.seq, e.published_us, {_HAS_ENDED}, {ARCHIVED} FROM event e WHERE {_MINE}
ORDER BY e.seq LIMIT {_BATCH}
"""
# Most attempts are the first one and succeed. They are counted without a look at them.
_ATTEMPTS = "SELECT count(*) FROM outcome WHERE subscription_id = :s"
_UNUSUAL = f"""
SELECT outcome, attempt > 1, count(*) FROM outcome
WHERE subscription_id = :s AND (outcome <> {CODES["succeeded"]} OR attempt > 1)
GROUP BY outcome, attempt > 1
"""
_HOW_MANY_OPEN = f"SELECT count(*) FROM ({_OPEN}) AS open"
_ENDED_TWICE = f"""
SELECT o.seq FROM outcome o
WHERE o.subscription_id = :s AND o.attempt > 1 AND o.{_ENDS} AND EXISTS (
  SELECT 1 FROM outcome p
  WHERE p.subscription_id = :s AND p.seq = o.seq AND p.attempt < o.attempt AND p.{_ENDS})
"""
# Events behind the cursor may be very many. They are only looked at where there is another place.
_BESIDE_OTHERS = f"""
WITH single AS (
  SELECT seq FROM ready WHERE subscription_id = :s
  UNION ALL SELECT seq FROM awaited WHERE subscription_id = :s
  UNION ALL SELECT seq FROM keyed WHERE subscription_id = :s
  UNION ALL SELECT seq FROM leased WHERE subscription_id = :s
), begun AS (
  SELECT seq FROM single UNION ALL
  SELECT o.seq FROM cursor c CROSS JOIN outcome o ON o.subscription_id = :s AND o.seq >= c.next_seq
  WHERE c.subscription_id = :s AND o.{_ENDS}
)
SELECT seq FROM single GROUP BY seq HAVING count(*) > 1
UNION SELECT n.seq FROM single n CROSS JOIN outcome o ON o.subscription_id = :s AND o.seq = n.seq
  WHERE o.{_ENDS}
UNION SELECT b.seq FROM begun b
  JOIN cursor c ON c.subscription_id = :s AND b.seq >= c.next_seq
  JOIN subscription s ON s.id = :s
  WHERE s.topic_id = (SELECT topic_id FROM event WHERE seq = b.seq AND by_rows_us IS NULL)
"""
_OUTSIDE = f"""
SELECT count(*) FROM ({_PLACES}) AS places WHERE seq > :low AND seq <= :high
"""
_HOW_MANY = f"SELECT count(DISTINCT seq) FROM ({_PLACES}) AS places"
_TOPICS = f"SELECT seq, topic_id FROM event WHERE seq IN ({_PLACES})"
_ASKED_FOR = "SELECT seq FROM resent WHERE subscription_id = :s"


class Balance(NamedTuple):
    """The balance of one subscription: events due to it, and their outcomes.

    ``published`` events came to its topic while it was bound. Its filter kept ``filtered`` of them
    out. It got ``sent`` others on request. The sum is ``succeeded`` + ``dead`` + ``skipped`` +
    ``open``: then it is ``balanced``. ``corrected`` answers were replaced. Each needs its event on
    the emit topic, or counts as missing. ``missing`` events were due and are nowhere. ``double``
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
    corrected: int
    missing: int
    double: int
    surplus: int
    balanced: bool
    events: str | None


class _Due(NamedTuple):
    """The side of the archive: missing events were due, undue events have a place.

    ``beside`` counts the events with a place that were not due.
    """

    published: int
    due: int
    beside: int
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
    """Return the balance of each subscription at one moment, also of unsubscribed ones.

    It warns where a user who may not read the data of events leaves something unchecked.
    """
    with store.snapshot() as reader:
        if not store.hides_data:
            return balances(reader)
        found = [(history, _balance(reader, history, True)) for history in histories(reader)]
    if unchecked := [h.name for h, b in found if _filters(h) or b.corrected]:
        warn(
            f"the audit of {', '.join(map(repr, unchecked))} trusts filters and corrections: this"
            " user may not read the data of events; let the owner of the tables call it, too"
        )
    return [b for _, b in found]


def balances(reader: Reader) -> list[Balance]:
    """Return the balance of each subscription, see :func:`audit`."""
    return [_balance(reader, history) for history in histories(reader)]


def _filters(history: History) -> bool:
    return any(period.filter for period in history.periods)


def kept_out(reader: Reader, history: History) -> Iterator[KeptOut]:
    """Yield the events that filters kept out."""
    for event in _each(reader, history):
        if not event.is_placed and not event.is_due:
            yield KeptOut(event.seq, event.published_us, event.archived, event.periods[0])


class _Placed(NamedTuple):
    """The side of the subscription: ended and open events, and those with more than one place."""

    ended: dict[str, int]
    open: int
    double: list[int]

    @property
    def n(self) -> int:
        return sum(self.ended.values()) + self.open


def _balance(reader: Reader, history: History, blind: bool = False) -> Balance:
    placed = _placed(reader, history)
    if _filters(history):
        found = _trusting(reader, history) if blind else _filtering(reader, history)
    else:
        found = _plain(reader, history, placed)
    surplus = _surplus(reader, history, found.undue) if found.beside else []
    sent = found.beside - len(surplus)
    corrected, lost = balance(reader, history.id, blind)
    return Balance(
        history.topic,
        history.name,
        found.published,
        found.published - found.due,
        sent,
        placed.ended["succeeded"],
        placed.ended["dead"],
        placed.ended["skipped"],
        placed.open,
        corrected,
        len(found.missing) + len(lost),
        len(placed.double),
        len(surplus),
        found.due + sent == placed.n and not (found.missing or placed.double or surplus or lost),
        _named(reader, [*found.missing, *lost, *placed.double, *surplus]),
    )


def _placed(reader: Reader, history: History) -> _Placed:
    of = {"s": history.id}
    ((attempts,),) = reader.query(_ATTEMPTS, of)
    ((open_,),) = reader.query(_HOW_MANY_OPEN, of)
    unusual = {(OUTCOMES[code], bool(again)): n for code, again, n in reader.query(_UNUSUAL, of)}
    others = sum(n for (outcome, _), n in unusual.items() if outcome != "succeeded")
    ended: dict[str, int] = {
        o: unusual.get((o, False), 0) + unusual.get((o, True), 0) for o in FINAL
    }
    ended["succeeded"] = attempts - others
    double = {seq for (seq,) in reader.query(_BESIDE_OTHERS, of)} if open_ else set[int]()
    if any(again and outcome in FINAL for outcome, again in unusual):
        double |= {seq for (seq,) in reader.query(_ENDED_TWICE, of)}
    return _Placed(ended, open_, sorted(double))


def _plain(reader: Reader, history: History, placed: _Placed) -> _Due:
    """Count in the database, where no filter was ever set.

    Events are compared one by one only where the numbers differ.
    """
    ranges = history.ranges()
    of = [{"s": history.id, "t": t, "low": low, "high": high} for t, low, high in ranges]
    published = sum(n for o in of for (n,) in reader.query(_COUNT, o))
    if not placed.double and len({t for t, _, _ in ranges}) == 1:
        beside = _outside(reader, history)
        if published == placed.n - beside:
            return _Due(published, published, beside, [], [])
    missing = [seq for o in of for (seq,) in reader.query(_NOWHERE, o)]
    beside = _somewhere(reader, history) - (published - len(missing))
    return _Due(published, published, beside, missing, [])


def _outside(reader: Reader, history: History) -> int:
    """Return how many events have a place, and came while the subscription was not bound."""
    lows = [low for _, low, _ in history.ranges()]
    highs = [high for _, _, high in history.ranges()]
    between = zip([-END, *highs], [*lows, END], strict=True)
    spans = [{"s": history.id, "low": low, "high": high} for low, high in between if low < high]
    return sum(n for span in spans for (n,) in reader.query(_OUTSIDE, span))


def _somewhere(reader: Reader, history: History) -> int:
    ((n,),) = reader.query(_HOW_MANY, {"s": history.id})
    return int(n)


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
    beside = _somewhere(reader, history) - (due - len(missing))
    return _Due(published, due, beside, missing, undue)


def _trusting(reader: Reader, history: History) -> _Due:
    """Count without a look at filters: the events that have no place were kept out."""
    ranges = history.ranges()
    of = [{"s": history.id, "t": t, "low": low, "high": high} for t, low, high in ranges]
    published = sum(n for o in of for (n,) in reader.query(_COUNT, o))
    nowhere = sum(n for o in of for (n,) in reader.query(_HOW_MANY_NOWHERE, o))
    due = published - nowhere
    return _Due(published, due, _somewhere(reader, history) - due, [], [])


def _each(reader: Reader, history: History) -> Iterator[_Published]:
    """Yield each event that was published while the subscription was bound."""
    of = {"s": history.id}
    open_ = {seq for (seq,) in reader.query(_OPEN, of)}
    for topic_id, low, high in history.ranges():
        after = low
        while rows := reader.query(_EACH, {**of, "t": topic_id, "low": after, "high": high}):
            for seq, published_us, ended, *columns in rows:
                periods = history.at(seq, topic_id)
                yield _Published(seq, published_us, bool(ended) or seq in open_, periods, columns)
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
        for (seq,) in reader.query(_PLACES, {"s": history.id})
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
