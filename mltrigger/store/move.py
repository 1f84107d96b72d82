"""A move: all that a file has, into an empty schema of PostgreSQL. It takes no new work meanwhile.

The file refuses first. Then its rows are copied in the order of their keys. At the end the schema
opens, and the file says where it has gone. Each step is noted on both sides. So the same call goes
on after a crash at any point. At no time do both sides take work.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mltrigger.clock import Clock, SystemClock
from mltrigger.errors import StoreError
from mltrigger.store.postgresql.destination import Destination, Reached, names
from mltrigger.store.postgresql.schema import columns
from mltrigger.store.sqlite import fence
from mltrigger.store.sqlite.living import Living
from mltrigger.store.transaction import Row, Store

MOST_ROWS = 10_000
"""The rows of one commit."""
_FIRST_ROWS = 200
_MOST_BYTES = 16 * 1024 * 1024
"""The size of one commit. A large event may be larger."""
_SAMPLED = 50
_LOOK_S = 0.1
_LONGEST_KEY = 2_600
"""PostgreSQL keeps no longer text in an index."""
_KEYS = {
    "event": "id",
    "name": "text",
    "label": "event_id",
    "source": "url",
    "setting": "name",
    "descent": "root",
    "effect": "key",
    "keyed": "key",
    "turn": "key",
}
"""The columns in an index that have no limit, or one that is beyond PostgreSQL's."""
_TOO_LONG = "SELECT count(*) FROM {table} WHERE length(CAST({column} AS BLOB)) > :most"
_KEY = """
SELECT name FROM pragma_table_info(:table) WHERE pk > 0 ORDER BY pk
"""
_UNIQUE = """
SELECT i.name FROM pragma_index_list(:table) l, pragma_index_info(l.name) i
WHERE l."unique" = 1 ORDER BY l.seq, i.seqno
"""
_LIVE = """
SELECT l.worker_id, w.place, count(*), max(l.until_us)
FROM lease l LEFT JOIN worker w ON w.id = l.worker_id WHERE l.until_us > :now
GROUP BY l.worker_id, w.place
"""
# Those of one machine: its time, the sources that it holds, and the move itself.
_SETTINGS = f"""
SELECT name, value FROM setting
WHERE name NOT IN ('clock', '{fence.NOTE}') AND substr(name, 1, 6) <> 'lease:'
"""
ROWS_PER_S, BYTES_PER_S = 25_000, 20_000_000
"""How fast a move is, roughly."""


class Part(NamedTuple):
    """A table, and its number of rows on both sides."""

    table: str
    source: int
    destination: int


class Progress(NamedTuple):
    """How many rows of a table have been copied, and in which time of this run."""

    table: str
    done: int
    total: int
    copied: int
    took_s: float


Say = Callable[[Progress], None]


class Move:
    """The move of one file.

    Parameters
    ----------
    source : Store
        The store of the file.
    destination : Destination
        The schema that it moves to.
    clock : Clock, optional
        The time of leases.
    sleep : callable, optional
        Waits for leases to end.
    """

    def __init__(
        self,
        source: Store,
        destination: Destination,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if source.location is None:
            raise StoreError("a store in memory cannot move: name a file")
        self._source, self._destination, self._sleep = source, destination, sleep
        self._clock = clock or SystemClock()
        source.timekeeper(self._clock).follow(source)

    # -- before ------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Return why this move cannot begin, or go on. Nothing is changed."""
        found, reached = self._leaving(), self._destination.reached()
        said = [self._conflict(found, reached)]
        if reached is None and said == [None]:
            said.append(self._destination.problem())
        for table, column in _KEYS.items():
            sql = _TOO_LONG.format(table=table, column=column)
            ((n,),) = self._source.read(sql, {"most": _LONGEST_KEY})
            if n:
                said.append(
                    f"{n:,} rows of {table} have a longer {column} than PostgreSQL keeps in an"
                    f" index ({_LONGEST_KEY:,} bytes)"
                )
        return [problem for problem in said if problem]

    def counts(self) -> list[Part]:
        """Return the rows of each table of the file, and how many of them were copied."""
        reached = self._destination.reached()
        done = reached.tables if reached is not None else {}
        return [Part(t, self._count(t), done.get(t, ([], 0))[1]) for t in _copied()]

    def live(self) -> dict[int, int]:
        """Return how many leases each worker still holds. Those of dead workers do not count."""
        held = self._source.read(_LIVE, {"now": self._clock.now_us()})
        with contextlib.closing(Living(self._source.location)) as living:
            dead = living.gone({w for w, place, *_ in held if place and place == living.place})
        return {worker: n for worker, _, n, _ in held if worker not in dead}

    def read_all(self, say: Say) -> tuple[int, int]:
        """Read all rows, and write none. Return their bytes, roughly, and the texts with a NUL."""
        size = texts = 0
        for table in _copied():
            for rows in self._told(table, [], 0, say):
                size += len(rows) * _mean_bytes(rows)
                texts += sum(type(v) is str and "\0" in v for row in rows for v in row)
        return size, texts

    # -- the move ----------------------------------------------------------------------------------

    def run(self, wait_s: float, say: Say, verify: Callable[[], None]) -> list[Part]:
        """Move all. Return the rows of each table on both sides.

        Parameters
        ----------
        wait_s : float
            The longest wait for leases to end.
        say : callable
            Gets the progress.
        verify : callable
            Compares both sides before the destination opens. It raises if they differ.

        Raises
        ------
        StoreError
            When it cannot begin or go on. The message says what to do.
        """
        self._destination.alone()
        if found := self.problems():
            raise StoreError("; ".join(found))
        reached = self._destination.reached()
        move = self._leaving()
        if reached is None or not reached.is_done:
            if move is None:
                move = fence.Leaving(uuid.uuid4().hex, self._destination.shown, "draining")
                self._fence(move)
            if reached is None:
                reached = Reached(move.id, self._source.description, {})
                self._destination.begin(reached)
            if move.state == "draining":
                self._drain(wait_s)
                move = move._replace(state="frozen")
                self._fence(move)
            for table in _copied():
                reached = self._copy(table, reached, say)
            self._destination.tidy()
            self._compare()
            verify()
            self._destination.finish(self._source.read(_SETTINGS), reached)
        assert move is not None  # noqa: S101 - there is no conflict
        if move.state != "moved":
            self._fence(move._replace(state="moved"))
        return self._parts()

    def undo(self) -> None:
        """Take the move back: the destination is emptied, and the file takes work again.

        Raises
        ------
        StoreError
            When the destination is open already, or there is no move.
        """
        self._destination.alone()
        found, reached = self._leaving(), self._destination.reached()
        if found is None:
            raise StoreError(f"store {self._source.description} does not move: nothing to undo")
        if (conflict := self._conflict(found, reached)) is not None:
            raise StoreError(conflict)
        if found.state == "moved" or (reached is not None and reached.is_done):
            raise StoreError(
                f"the move to {found.to} is done, and that store may have new events: it cannot be"
                " undone"
            )
        self._undo(reached)

    def _undo(self, reached: Reached | None) -> None:
        if reached is not None:
            self._destination.forget()
        with self._source.transaction() as transaction:
            fence.lift(transaction)

    def _leaving(self) -> fence.Leaving | None:
        with self._source.snapshot() as reader:
            return fence.leaving(reader)

    def _conflict(self, found: fence.Leaving | None, reached: Reached | None) -> str | None:
        """Return why the notes of both sides are not of one move."""
        to = self._destination.shown
        if reached is None:
            if found is None or (found.to == to and found.state != "moved"):
                return None
            return f"store {self._source.description}: {found.refusal}"
        if found is not None and found.id == reached.id:
            return None
        done = "has come from" if reached.is_done else "is on its way from"
        return f"{to} {done} another store, {reached.origin}: name another schema with ?schema="

    def _fence(self, move: fence.Leaving) -> None:
        with self._source.transaction() as transaction:
            found = fence.leaving(transaction)
            if found is not None and found.id != move.id:
                raise StoreError(f"store {self._source.description}: {found.refusal}")
            fence.put_up(transaction, move)

    def _drain(self, wait_s: float) -> None:
        """Wait until no process works on an event of the file. Else nothing moves."""
        waited_s = 0.0
        while live := self.live():
            if waited_s >= wait_s:
                self._undo(self._destination.reached())
                workers = ", ".join(str(worker) for worker in sorted(live))
                raise StoreError(
                    f"{sum(live.values()):,} leases are held by the workers {workers}, after"
                    f" {waited_s:.0f} s: stop them, or wait longer with --wait-s. Nothing has"
                    " moved, and the store takes work again"
                )
            self._sleep(_LOOK_S)
            waited_s += _LOOK_S

    # -- rows --------------------------------------------------------------------------------------

    def _copy(self, table: str, reached: Reached, say: Say) -> Reached:
        after, done = reached.tables.get(table, ([], 0))
        key = self._key(table)
        at = [list(columns(table)).index(name) for name in key]
        for rows in self._told(table, after, done, say):
            done += len(rows)
            last = [rows[-1][i] for i in at]
            now = reached._replace(tables={**reached.tables, table: (last, done)})
            self._destination.add(table, list(columns(table)), rows, reached, now)
            reached = now
        return reached

    def _told(self, table: str, after: Sequence[Any], done: int, say: Say) -> Iterator[list[Row]]:
        """Yield the rows behind the key *after* in parts. Tell *say* when each has been used."""
        began_s, total, copied = time.monotonic(), self._count(table), 0
        for rows in self._rows(table, after):
            yield rows
            copied += len(rows)
            say(Progress(table, done + copied, total, copied, time.monotonic() - began_s))

    def _rows(self, table: str, after: Sequence[Any]) -> Iterator[list[Row]]:
        key, most = self._key(table), _FIRST_ROWS
        wanted = list(columns(table))
        at = [wanted.index(name) for name in key]
        shown = ", ".join(_read(table, name) for name in wanted)
        order = ", ".join(key)
        behind = f"WHERE ({order}) > ({', '.join(f':k{i}_' for i in range(len(key)))})"
        while True:
            of = {f"k{i}_": value for i, value in enumerate(after)}
            sql = f"SELECT {shown} FROM {table} {behind if after else ''} ORDER BY {order} LIMIT :n"
            rows = self._source.read(sql, {**of, "n": most})
            if not rows:
                return
            yield rows
            after = [rows[-1][i] for i in at]
            most = max(1, min(MOST_ROWS, _MOST_BYTES // _mean_bytes(rows), 10 * len(rows)))

    def _key(self, table: str) -> list[str]:
        """Return the columns that number the rows of *table*."""
        of = {"table": table}
        found = self._source.read(_KEY, of) or self._source.read(_UNIQUE, of)
        return [name for (name,) in found]

    def _count(self, table: str) -> int:
        ((n,),) = self._source.read(f"SELECT count(*) FROM {table}")
        return int(n)

    def _parts(self) -> list[Part]:
        return [Part(t, self._count(t), self._destination.count(t)) for t in _copied()]

    def _compare(self) -> None:
        differing = [part for part in self._parts() if part.source != part.destination]
        if differing:
            said = ", ".join(f"{t} {there:,} of {n:,}" for t, n, there in differing)
            raise StoreError(
                f"the copy is not whole ({said}): take it back with --undo, and move again"
            )


def _copied() -> list[str]:
    """Return the tables whose rows are copied one by one. Settings come at the end."""
    return [table for table in names() if table != "setting"]


def _read(table: str, name: str) -> str:
    if (table, name) == ("subscription", "paused"):
        return f"CASE paused WHEN {fence.HELD} THEN 0 ELSE paused END"
    return name


def _mean_bytes(rows: Sequence[Row]) -> int:
    """Return the size of a row, roughly."""
    sampled = rows[:: max(1, len(rows) // _SAMPLED)]
    values = [v for row in sampled for v in row]
    return 1 + sum(len(v) if isinstance(v, (str, bytes)) else 8 for v in values) // len(sampled)
