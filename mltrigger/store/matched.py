"""Attempts that match, from the newest back, through a log of any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.store.archive import ARCHIVED
from mltrigger.store.attempts import (
    BY_EXCEPTIONS,
    BY_LOTS,
    COLUMNS,
    FROM,
    INVOKED,
    NEWEST,
    running_of,
    settled_since,
    where_of,
)
from mltrigger.store.corrections import CORRECTED
from mltrigger.store.event_keys import OTHERS, Keys
from mltrigger.store.marks import Marks
from mltrigger.store.matching import Conditions, Matching, in_json, is_exact, is_in
from mltrigger.store.outcomes import ANSWERING, OUTCOMES
from mltrigger.store.transaction import Reader, Row

BUDGET_S = 0.25
"""The time that one page may look."""
FIRST = 2**62
"""Stands for the newest recorded attempt: a page from here on has no running ones."""
_LEAST, _MOST = 1_024, 1 << 20
"""The rows of one statement. The fewest that match are found in few statements."""
_SHORT_S, _LONG_S = 0.02, 0.08
_SHOWN = "i.output, i.error_type, i.error, e.subject, event_id(e.id)"
_BOUNDARY = "SELECT coalesce(max(id), :row) FROM lot WHERE id <= :row"
_OLDEST = "SELECT min(id) FROM lot"
_SETTLED = "SELECT settled_us FROM lot WHERE id >= :row ORDER BY id LIMIT 1"
_WITHIN = "i.lot_id >= :floor AND i.lot_id < :top AND i.id < :top AND i.id > :after"
_TALLY = f"""
SELECT coalesce(sum(n), 0) FROM tally t JOIN subscription s ON s.id = t.subscription_id
WHERE s.role IN {ANSWERING!r}
"""
_RUNNING = f"""
SELECT coalesce(sum(l.n), 0) FROM lease l JOIN subscription s ON s.id = l.subscription_id
WHERE s.role IN {ANSWERING!r}
"""
_WHOSE = "AND coalesce(s.parent_id, s.id) = :s"
# A tally counts for ever, and what was no event, too. Only messages from outside are none. Once
# there are limits, old attempts may be gone.
_IS_WHOLE = """
SELECT (SELECT coalesce(min(seq), 0) FROM event) <= 1
  AND NOT EXISTS (SELECT 1 FROM setting WHERE name = 'retention')
  AND NOT EXISTS (SELECT 1 FROM subscription WHERE outside = 1)
"""


class Page(NamedTuple):
    """A page of attempts, the newest first.

    ``next`` is the cursor of the page after it, ``None`` if there is none. If the time was over
    before the page was full, ``looked_us`` says back to when it has looked.
    """

    rows: list[Row]
    next: int | None
    looked_us: int | None = None


class Counted(NamedTuple):
    """A number of attempts: exact, or the least that it is."""

    n: int
    is_exact: bool


class Pages:
    """The attempts that match, as of one moment.

    Parameters
    ----------
    reader : Reader
        A look at that moment.
    matching : Matching
        The attempts that are asked for.
    timer : callable
        Returns seconds that only rise.
    """

    def __init__(self, reader: Reader, matching: Matching, timer: Callable[[], float]) -> None:
        self._reader, self._matching, self._timer = reader, matching, timer
        self._conditions = Conditions(reader, matching)
        self._keys = None if matching.keys is None else Keys(reader)
        if self._keys is not None:
            among = ", ".join(map(str, self._keys.subscriptions)) or "NULL"
            for where in (self._conditions.recorded, self._conditions.running):
                where.append(f"i.subscription_id IN ({among})")

    def page(
        self, columns: Sequence[str], before: int | None, limit: int, budget_s: float | None
    ) -> Page:
        """Return a page. See :meth:`mltrigger.store.log.Log.matching`."""
        running = self._running(columns)[:limit] if before is None else []
        walk, most = self._walk(columns, before), limit - len(running)
        is_over, found = self._alarm(budget_s), list[Row]()
        while walk.is_under_way and len(found) <= most and not is_over():
            found += walk.step(most + 1 - len(found))
        rows = running + [row[: len(columns)] for row in found[:most]]
        if len(found) > most:
            return Page(rows, found[most - 1][len(columns)] if most else walk.first)
        if not walk.is_under_way:
            return Page(rows, None)
        ((looked_us,),) = self._reader.query(_SETTLED, {"row": walk.top}) or [(None,)]
        return Page(rows, walk.top, looked_us)

    def newer(self, columns: Sequence[str], after: int, limit: int, budget_s: float | None) -> Page:
        """Return the page before another one. See :meth:`mltrigger.store.log.Log.newer`."""
        is_over, found = self._alarm(budget_s), list[Row]()
        ((newest,),) = self._reader.query(NEWEST, {})
        ((oldest,),) = self._reader.query(_OLDEST, {})
        at, size = max(after, (oldest or 0) - 1), _LEAST
        while at < newest and len(found) <= limit and not is_over():
            begun_s = self._timer()
            walk, rows = self._walk(columns, min(at + size, newest) + 1, at), list[Row]()
            while walk.is_under_way:
                rows += walk.step(_MOST)
            found += reversed(rows)
            at, took_s = min(at + size, newest), self._timer() - begun_s
            size = min(size * 4, _MOST) if took_s < _SHORT_S and len(rows) < limit else size
        page = [row[: len(columns)] for row in found[:limit]][::-1]
        if len(found) > limit:
            return Page(page, found[limit - 1][len(columns)])
        if at >= newest:
            return Page(page, None)
        ((looked_us,),) = self._reader.query(_SETTLED, {"row": at}) or [(None,)]
        return Page(page, at, looked_us)

    def rows(self, columns: Sequence[str], limit: int | None) -> list[Row]:
        """Return all that match, or the newest *limit*, oldest first. Running ones come last."""
        running, walk = self._running(columns)[::-1], self._walk(columns, None)
        most = None if limit is None else max(0, limit - len(running))
        found = list[Row]()
        while walk.is_under_way and (most is None or len(found) < most):
            found += walk.step(_MOST if most is None else most - len(found))
        rows = [row[: len(columns)] for row in found[:most][::-1]] + running
        return rows if limit is None else rows[-limit:] if limit else []

    def after(self, columns: Sequence[str], row: int) -> tuple[list[Row], int]:
        """Return all that match and were recorded after *row*, oldest first, and the newest row."""
        walk, found = self._walk(columns, None, row), list[Row]()
        while walk.is_under_way:
            found += walk.step(_MOST)
        return [each[: len(columns)] for each in reversed(found)], max(row, walk.first - 1)

    def count(self, at_most: int, budget_s: float | None) -> Counted:
        """Return the number of all. See :meth:`mltrigger.store.log.Log.count`."""
        if self._matching.is_plain and self._reader.query(_IS_WHOLE, {}) == [(1,)]:
            return Counted(self._tallied(), True)
        n, is_over = len(self._running(())), self._alarm(budget_s)
        walk = self._walk((), None)
        while walk.is_under_way and n <= at_most and not is_over():
            n += walk.count(at_most + 1 - n)
        return Counted(min(n, at_most), n <= at_most and not walk.is_under_way)

    def count_events(self, up_to: int, budget_s: float | None) -> Counted:
        """Return the number of events. See :meth:`mltrigger.store.log.Log.count_events`."""
        is_over, seen = self._alarm(budget_s), Marks()
        walk = self._walk(("seq",), up_to + 1)
        while walk.is_under_way and not is_over():
            for seq, *_ in walk.step(_MOST):
                seen.add(seq)
        return Counted(seen.n, not walk.is_under_way)

    def _tallied(self) -> int:
        wanted = self._matching
        of = {"s": wanted.subscription_id}
        mine = "" if wanted.subscription_id is None else _WHOSE
        outcomes = OUTCOMES if wanted.outcomes is None else wanted.outcomes
        among = ", ".join(repr(o) for o in OUTCOMES if o in outcomes) or "NULL"
        ((n,),) = self._reader.query(f"{_TALLY} {mine} AND t.outcome IN ({among})", of)
        if wanted.has_running:
            ((running,),) = self._reader.query(f"{_RUNNING} {mine}", of)
            n += running
        return int(n)

    def _alarm(self, budget_s: float | None) -> Callable[[], bool]:
        end = None if budget_s is None else self._timer() + budget_s
        return lambda: end is not None and self._timer() > end

    def _running(self, columns: Sequence[str]) -> list[Row]:
        """Return the attempts under way, the newest first."""
        if not self._matching.has_running or self._matching.reasons is not None:
            return []
        conditions = self._conditions
        select = self._select(columns)
        rows = running_of(self._reader, select, conditions.running, conditions.parameters)
        return [row[: len(columns)] for row in self._verified(rows, len(columns))[::-1]]

    def _walk(self, columns: Sequence[str], before: int | None, after: int = 0) -> _Walk:
        conditions = self._conditions
        wanted = self._matching
        is_exception = wanted.outcomes is not None and "succeeded" not in wanted.outcomes
        # an answer that went well has no reason but one
        is_exception |= wanted.reasons is not None and CORRECTED not in wanted.reasons
        attempts = BY_EXCEPTIONS if is_exception else BY_LOTS
        where = where_of([*conditions.recorded, INVOKED, _WITHIN])
        sql = _Sql(
            self._select(columns),
            f"{FROM.format(attempts=attempts)} {where}",
            {**conditions.parameters, "after": after},
            len(columns),
            self._is_looked_at,
            lambda rows: self._verified(rows, len(columns)),
        )
        return _Walk(self._reader, sql, self._timer, before)

    def _select(self, columns: Sequence[str]) -> str:
        """Return the SELECT of *columns*, of the row, and of the columns to look at here."""
        more = ["i.id"]
        if self._is_looked_at:
            more += [_SHOWN, "i.subscription_id"]
        if self._keys is not None:  # a user may not read the data of events, and they may be large
            more += [OTHERS, ARCHIVED]
        return "SELECT " + ", ".join([*(COLUMNS[c] for c in columns), *more])

    @property
    def _is_looked_at(self) -> bool:
        text = self._matching.text
        return self._keys is not None or not (text is None or is_exact(text))

    def _verified(self, rows: list[Row], n: int) -> list[Row]:
        """Return those that match also in that which SQL cannot compare, after *n* columns."""
        if not self._is_looked_at:
            return rows
        return [row for row in rows if self._is_right(row[n + 1 :])]

    def _is_right(self, row: Row) -> bool:
        (output, error_type, error, subject, event_id), s = row[:5], row[5]
        others, event = row[6:8], row[8:]
        text, keys = self._matching.text, self._keys
        said = f"{error_type}: {error or ''}" if error_type else error
        if text is not None and not (
            is_in(text, (said, subject, event_id))
            or is_in(text, (output,))
            or is_in(in_json(text), (output,))
        ):
            return False
        return keys is None or keys.of(s, event, others) in (self._matching.keys or ())


class _Sql(NamedTuple):
    """A statement for some rows, in parts. The number of a row is at its *place*."""

    select: str
    attempts: str
    parameters: Mapping[str, Any]
    place: int
    is_looked_at: bool
    verified: Callable[[list[Row]], list[Row]]


class _Walk:
    """Goes through recorded attempts from the newest back, in steps that take a moment each.

    Attributes
    ----------
    first, top : int
        All rows from the first down to the top were looked at, but for the top itself.
    """

    def __init__(
        self, reader: Reader, sql: _Sql, timer: Callable[[], float], before: int | None
    ) -> None:
        self._reader, self._sql, self._timer, self._size = reader, sql, timer, _LEAST
        ((newest,),) = reader.query(NEWEST, {})
        ((oldest,),) = reader.query(_OLDEST, {})
        self.first = self.top = newest + 1 if before is None else min(before, newest + 1)
        self._low = newest + 1 if oldest is None else max(int(oldest), sql.parameters["after"])
        since_us = sql.parameters["since_us"]
        if since_us is not None:
            # an attempt is received before it is settled
            self._low = max(self._low, settled_since(reader, since_us))

    @property
    def is_under_way(self) -> bool:
        """Whether older rows are left."""
        return bool(self.top > self._low)

    def step(self, most: int) -> list[Row]:
        """Return the next rows that match, perhaps none, about *most* at most."""
        sql, begun_s = self._sql, self._timer()
        most = max(most, _LEAST) if sql.is_looked_at else most
        floor = self._floor()
        order = "ORDER BY i.lot_id DESC, i.place DESC"
        rows = self._query(f"{sql.select} {sql.attempts} {order} LIMIT :limit", floor, most)
        self.top = rows[-1][sql.place] if len(rows) == most else floor
        self._took(self._timer() - begun_s)
        return sql.verified(rows)

    def count(self, most: int) -> int:
        """Return how many of the next rows match. It counts up to *most*."""
        sql, begun_s = self._sql, self._timer()
        if sql.is_looked_at:
            return len(self.step(_LEAST))
        floor = self._floor()
        limited = f"SELECT i.id {sql.attempts} LIMIT :limit"
        ((n,),) = self._query(f"SELECT count(*) FROM ({limited}) AS found", floor, most)
        self.top = floor
        self._took(self._timer() - begun_s)
        return int(n)

    def _floor(self) -> int:
        """Return the first row of the lot down to which the next statement looks."""
        wanted = max(self._low, self.top - self._size)
        ((floor,),) = self._reader.query(_BOUNDARY, {"row": wanted})
        return int(floor)

    def _query(self, statement: str, floor: int, limit: int) -> list[Row]:
        of = {**self._sql.parameters, "floor": floor, "top": self.top, "limit": limit}
        return self._reader.query(statement, of)

    def _took(self, took_s: float) -> None:
        if took_s < _SHORT_S:
            self._size = min(self._size * 4, _MOST)
        elif took_s > _LONG_S:
            self._size = max(self._size // 4, _LEAST)
