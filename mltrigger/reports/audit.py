"""The audit: what was published and what became of it, counted from two sides.

G2 of the promise, as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.publishing import Seen
from mltrigger.store.revisions import History, Period, histories
from mltrigger.store.transaction import Reader, Row, Store

SHOWN = 10
"""Events that are named at most where the sides differ."""
_BATCH = 2_000

_MINE = "e.topic_id = :t AND e.seq > :low AND e.seq <= :high"
_COUNT = f"SELECT count(*) FROM event e WHERE {_MINE}"
_PLACED = """
(EXISTS (SELECT 1 FROM final f WHERE f.seq = e.seq AND f.subscription_id = :s)
OR EXISTS (SELECT 1 FROM lease l WHERE l.subscription_id = :s AND l.seq = e.seq)
OR e.seq IN (SELECT r.seq FROM waiting r WHERE r.subscription_id = :s))
"""
_NOWHERE = f"SELECT e.seq FROM event e WHERE {_MINE} AND NOT {_PLACED} ORDER BY e.seq"
_EACH = (
    f"SELECT {ARCHIVED}, e.published_us, {_PLACED} FROM event e WHERE {_MINE} ORDER BY e.seq LIMIT"
    f" {_BATCH}"
)
_ENDED = "SELECT subscription_id, outcome, count(*) FROM final GROUP BY subscription_id, outcome"
_OPEN = """
SELECT subscription_id, count(*) FROM (SELECT subscription_id FROM waiting UNION ALL SELECT subscription_id FROM lease) AS o
GROUP BY subscription_id
"""
_DOUBLE = """
SELECT seq, subscription_id FROM (
  SELECT seq, subscription_id FROM final
  UNION ALL SELECT seq, subscription_id FROM waiting UNION ALL SELECT seq, subscription_id FROM lease) AS found
GROUP BY seq, subscription_id HAVING count(*) > 1
"""
_ANYWHERE = """
SELECT seq FROM final WHERE subscription_id = :s
UNION SELECT seq FROM waiting WHERE subscription_id = :s UNION SELECT seq FROM lease WHERE subscription_id = :s
"""
_TOPICS = f"SELECT seq, topic_id FROM event WHERE seq IN ({_ANYWHERE})"
_ASKED_FOR = "SELECT seq FROM resent WHERE subscription_id = :s"


class Balance(NamedTuple):
    """One subscription: what was due to it, and what is there.

    ``published`` events of its topic while it was bound, less the ``filtered`` ones, plus those
    ``sent`` to it beside that on request, are ``succeeded`` + ``dead`` + ``skipped`` + ``open``;
    then it is ``balanced``. ``missing`` were due and are nowhere; ``double`` have more than one
    outcome or place; ``surplus`` are there and were neither due nor asked for. ``events`` names the
    first of these.
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
    """What the archive says: how many were published, how many of them due, which of those are
    nowhere, which others are somewhere.
    """

    published: int
    due: int
    missing: list[int]
    undue: list[int]


def audit(store: Store) -> list[Balance]:
    """Return one balance a subscription, of those that were unsubscribed too; all of the same
    moment.
    """
    with store.snapshot() as reader:
        ended: dict[tuple[int, str], int] = {
            (s, outcome): n for s, outcome, n in reader.query(_ENDED, {})
        }
        open_: dict[int, int] = {row[0]: row[1] for row in reader.query(_OPEN, {})}
        double: dict[int, list[int]] = {}
        for seq, s in reader.query(_DOUBLE, {}):
            double.setdefault(s, []).append(seq)
        return [
            _balance(reader, history, ended, open_.get(history.id, 0), double.get(history.id, []))
            for history in histories(reader)
        ]


def _balance(
    reader: Reader,
    history: History,
    ended: dict[tuple[int, str], int],
    open_: int,
    double: list[int],
) -> Balance:
    found = (
        _filtering(reader, history)
        if any(p.filter for p in history.periods)
        else _plain(reader, history)
    )
    somewhere = reader.query(f"SELECT count(*) FROM ({_ANYWHERE}) AS found", {"s": history.id})[0][
        0
    ]
    beside = somewhere - (found.due - len(found.missing))
    surplus = _surplus(reader, history, found.undue) if beside else []
    succeeded, dead, skipped = (
        ended.get((history.id, outcome), 0) for outcome in ("succeeded", "dead", "skipped")
    )
    sent = beside - len(surplus)
    balanced = found.due + sent == succeeded + dead + skipped + open_ and not (
        found.missing or double or surplus
    )
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
        balanced,
        _named(reader, [*found.missing, *double, *surplus]),
    )


def _plain(reader: Reader, history: History) -> _Due:
    """Count where no filter was ever set: in the database."""
    of = [{"s": history.id, "t": t, "low": low, "high": high} for t, low, high in history.ranges()]
    published = sum(reader.query(_COUNT, o)[0][0] for o in of)
    return _Due(published, published, [seq for o in of for (seq,) in reader.query(_NOWHERE, o)], [])


def _filtering(reader: Reader, history: History) -> _Due:
    """Count where filters decide: each event is looked at."""
    published = due = 0
    missing: list[int] = []
    undue: list[int] = []
    for row, _, periods, placed in _each(reader, history):
        published += 1
        if _passed(row, periods):
            due += 1
            if not placed:
                missing.append(row[0])
        elif placed:
            undue.append(row[0])
    return _Due(published, due, missing, undue)


def kept_out(reader: Reader, history: History) -> Iterator[tuple[Row, int, Period]]:
    """Yield what filters kept out: an event's ``ARCHIVED`` columns, when it was published, and the
    newest period that decided.
    """
    for row, published_us, periods, placed in _each(reader, history):
        if not placed and not _passed(row, periods):
            yield row, published_us, periods[0]


def _passed(row: Row, periods: list[Period]) -> bool:
    seen = Seen(*archived(row))
    return any(seen.passes(p.filter) for p in periods)


def _each(reader: Reader, history: History) -> Iterator[tuple[Row, int, list[Period], bool]]:
    """Yield the ``ARCHIVED`` columns of each event that was published while the subscription was bound, when that was, the periods that
    decide, and whether it has a place."""  # noqa: D209 - one sentence
    for topic_id, low, high in history.ranges():
        after = low
        while rows := reader.query(
            _EACH, {"s": history.id, "t": topic_id, "low": after, "high": high}
        ):
            for row in rows:
                yield row[:-2], row[-2], history.at(row[0], topic_id), bool(row[-1])
            after = rows[-1][0]


def _surplus(reader: Reader, history: History, undue: list[int]) -> list[int]:
    """Return the events that are there, and were neither due nor asked for; what is older than the
    subscription came from the archive.
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
    rows: list[Row] = [
        row
        for seq in seqs[:SHOWN]
        for row in reader.query("SELECT id FROM event WHERE seq = :seq", {"seq": seq})
    ]
    return (
        ", ".join(id_ for (id_,) in rows) + (", …" if len(seqs) > SHOWN else "") if seqs else None
    )
