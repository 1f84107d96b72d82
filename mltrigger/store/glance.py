"""A glance at the log for a live view: its newest attempts, and counts that grow with it.

A view looks several times a second. So each look reads only the news since the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from mltrigger.store.attempts import NEWEST
from mltrigger.store.outcomes import ANSWERING
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader, Row, Store

FAILED = tuple(CODES[outcome] for outcome in ("failed", "dead", "abandoned"))
"""The numbers of the outcomes that a chart of failures counts."""
ANEW_S = 60.0
"""Events are counted anew so often. Retention deletes once a minute."""

# One look each: both together would read the whole index.
_ENDS = """
SELECT coalesce((SELECT min(seq) FROM event), 0), coalesce((SELECT max(seq) FROM event), 0)
"""
_TOPICS = "SELECT id, name FROM topic ORDER BY id"
_PUBLISHED = """
SELECT (SELECT count(*) FROM event WHERE topic_id = :t AND seq > :after),
  coalesce((SELECT max(seq) FROM event WHERE topic_id = :t), 0)
"""
_CORRECTING = "SELECT id FROM subscription WHERE parent_id = :s AND role = 'correction'"
_VERSIONS = "SELECT id, name, version FROM model_version"
_CANARIES = """
SELECT b.subscription_id, b.canary, b.share
FROM binding b
JOIN (SELECT subscription_id, max(number) AS number FROM binding GROUP BY subscription_id) AS last
  ON last.subscription_id = b.subscription_id AND last.number = b.number
WHERE b.canary IS NOT NULL
"""
_PAST = """
SELECT b.subscription_id, b.number, coalesce(m.name || ':' || m.version, b.selector), b.kind,
  b.from_seq
FROM binding b LEFT JOIN model_version m ON m.id = b.model_version_id
WHERE b.number < (SELECT max(number) FROM binding l WHERE l.subscription_id = b.subscription_id)
ORDER BY b.subscription_id, b.number
"""
_COLUMNS = """
o.lot_id + o.place, o.outcome, coalesce(l.model_version_id, 0), l.settled_us,
  coalesce(d.visible_us, e.by_rows_us, e.published_us), e.published_us,
  l.started_us + coalesce(o.began_us, 0),
  CASE WHEN o.took_us IS NULL THEN l.finished_us
    ELSE l.started_us + coalesce(o.began_us, 0) + o.took_us END
"""
_BESIDE = """
JOIN event e ON e.seq = o.seq
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
"""
_ANSWERS = f"l.role IN {ANSWERING!r}"
_OF_ONE = f"""
SELECT {_COLUMNS} FROM (
  SELECT * FROM outcome WHERE subscription_id = :s ORDER BY seq DESC, attempt DESC LIMIT :n
) AS o JOIN lot l ON l.id = o.lot_id {_BESIDE} WHERE {_ANSWERS}
"""
_LOTS = """
SELECT id, n FROM lot WHERE id >= coalesce((SELECT max(id) FROM lot WHERE id <= :row), 0) {whose}
ORDER BY id DESC LIMIT :n
"""
# CROSS JOIN says which table is read first.
_NEWS = f"""
SELECT {_COLUMNS} FROM lot l CROSS JOIN outcome o ON o.subscription_id = l.subscription_id
  AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
{_BESIDE} WHERE l.id >= :first {{whose}} AND o.lot_id + o.place > :row AND {_ANSWERS}
ORDER BY l.id DESC, o.place DESC LIMIT :n
"""


class Ends(NamedTuple):
    """The first and the last event of the archive, and the row of the newest attempt."""

    first: int
    last: int
    row: int


class Attempt(NamedTuple):
    """The times of one attempt, in microseconds. The outcome and the version are numbers.

    ``visible_us`` is the time from which it waited.
    """

    row: int
    outcome: int
    version: int
    settled_us: int
    visible_us: int
    published_us: int
    started_us: int | None
    finished_us: int | None


class Published:
    """Counts the events of each topic. A look reads the events since the last one.

    Now and then all are counted anew, since old ones are deleted.

    Parameters
    ----------
    monotonic : callable
        Returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._counts: dict[str, tuple[int, int]] = {}
        self._first, self._anew_s = 0, 0.0

    def look(self, reader: Reader, ends: Ends) -> dict[str, int]:
        """Return the number of kept events by topic."""
        now_s = self._monotonic()
        if ends.first != self._first or now_s >= self._anew_s:
            self._counts, self._first, self._anew_s = {}, ends.first, now_s + ANEW_S
        for number, name in reader.query(_TOPICS, {}):
            n, after = self._counts.get(name, (0, 0))
            if after < ends.last:
                ((more, last),) = reader.query(_PUBLISHED, {"t": number, "after": after})
                # An event of another topic may have a number below that becomes visible later.
                self._counts[name] = n + int(more), max(after, int(last))
        return {name: n for name, (n, _) in self._counts.items()}


class Glance:
    """Reads a store for live views.

    Parameters
    ----------
    store : Store
        The store of the log.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def ends(self) -> Ends:
        """Return how far the log goes now."""
        with self._store.snapshot() as reader:
            return _ends(reader)

    def topics(self, published: Published) -> dict[str, int]:
        """Return the number of kept events by topic, as *published* counts them."""
        with self._store.snapshot() as reader:
            return published.look(reader, _ends(reader))

    def versions(self) -> dict[int, tuple[str, str]]:
        """Return the name and version of each model version by its number."""
        return {n: (name, version) for n, name, version in self._store.read(_VERSIONS)}

    def canaries(self) -> dict[int, tuple[str, float]]:
        """Return the canary that is under way and its share, by subscription id."""
        return {s: (canary, share) for s, canary, share in self._store.read(_CANARIES)}

    def bindings(self) -> dict[int, list[dict[str, Any]]]:
        """Return the past bindings by subscription id: ``number`` and ``label`` of each."""
        found: dict[int, list[dict[str, Any]]] = {}
        for s, number, version, kind, from_seq in self._store.read(_PAST):
            label = f"{number}: {version}, {kind}, from event {from_seq} on"
            found.setdefault(s, []).append({"number": number, "label": label})
        return found

    def attempts(self, subscription_id: int | None, after_row: int, most: int) -> list[Attempt]:
        """Return the newest attempts that answer somebody, at most *most*, oldest first.

        Parameters
        ----------
        subscription_id : int or None
            Whose attempts. ``None``: those of all.
        after_row : int
            Only attempts recorded after this row. 0 finds the newest ones by their events.
        """
        with self._store.snapshot() as reader:
            whose = _whose(reader, subscription_id)
            if whose and not after_row:
                rows = [row for s in whose for row in reader.query(_OF_ONE, {"s": s, "n": most})]
            else:
                rows = _news(reader, whose, after_row, most)
        return [Attempt._make(row) for row in sorted(rows)[-most:]]


def _ends(reader: Reader) -> Ends:
    ((first, last),) = reader.query(_ENDS, {})
    ((row,),) = reader.query(NEWEST, {})
    return Ends(int(first), int(last), int(row))


def _news(reader: Reader, whose: Sequence[int], after_row: int, most: int) -> list[Row]:
    """Return the newest attempts after a row. Only lots are read that hold them."""
    among = f"subscription_id IN ({', '.join(map(str, whose))})" if whose else ""
    of = {"row": after_row, "n": most}
    lots = reader.query(_LOTS.format(whose=f"AND {among}" if among else ""), of)
    n, first = 0, None
    for first, size in lots:  # noqa: B007 - the last one that is needed
        n += size
        if n >= most:
            break
    if first is None:
        return []
    sql = _NEWS.format(whose=f"AND l.{among}" if among else "")
    return reader.query(sql, {**of, "first": first})


def _whose(reader: Reader, subscription_id: int | None) -> Sequence[int]:
    if subscription_id is None:
        return ()
    others: Collection[tuple[int]] = reader.query(_CORRECTING, {"s": subscription_id})
    return [int(subscription_id), *(int(number) for (number,) in others)]
