"""A table of a SQLite file: a trigger copies the columns of a changed row into an outbox.

The outbox lies in the same file, since a trigger cannot write into another one. Its rows hold plain
values: a value that JSON cannot hold must not make the user's insert fail.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mltrigger.broker import Finding
from mltrigger.errors import InvalidName, StoreError
from mltrigger.sources.table import checks
from mltrigger.sources.table.database import (
    BATCH_BYTES,
    BATCH_ROWS,
    Change,
    Chunk,
    Database,
    Key,
    Waiting,
)
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.quoting import ident
from mltrigger.sources.table.sqlite_file import SqliteFile
from mltrigger.sources.table.sqlite_setup import Setup
from mltrigger.sources.table.sqlite_sql import Shape, SqliteSql
from mltrigger.sources.table.values import as_json, from_key, key_text, to_key

_GLANCE_S, _REST_S = 0.02, 1.0
"""How often to look for a change, and the longest wait for one."""
_MOST_COLUMNS = 1_900
"""SQLite allows 2,000 in a table."""
_QUIET_S, _OLD_S, _MOST_PENDING = 1.0, 20.0, 2_000
"""When taken rows are deleted."""
_DAYS_1970 = 2440587.5
"""The Julian day of 1970-01-01 (https://sqlite.org/lang_datefunc.html)."""


class SqliteTable(Database):
    """A table of a SQLite file."""

    def __init__(self, place: TablePlace) -> None:
        super().__init__(place)
        self._sql = SqliteSql(place)
        self._file = SqliteFile(place)
        self._setup = Setup(place, self._sql, self._file)
        self._seen: tuple[int, Shape] | None = None
        self._written = self._attached = -1
        self._upto = self._pending = 0
        self._taken_s = self._first_s = 0.0

    # -- make and remove ---------------------------------------------------------------------------

    def statements(self) -> list[str]:
        """Return the SQL that makes everything."""
        return self._sql.all(self._shape())

    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""
        return self._sql.removal()

    def grants(self, role: str | None = None) -> list[str]:
        """Return nothing: who may write the file may do everything."""
        return []

    def check(self) -> None:
        """Raise InvalidName unless table and columns exist."""
        shape = self._shape()
        checks.columns(self.place, shape.columns)
        wanted = self._sql.captured(shape)
        if len(wanted) > _MOST_COLUMNS:
            raise InvalidName(
                f"table {self.place.shown} has {len(wanted)} columns, more than an outbox can hold:"
                " name some with fields=[…]"
            )

    def installed(self) -> bool:
        """Whether the triggers are there as :meth:`statements` makes them."""
        shape = self._shape()
        made = dict(self._file.query("SELECT name, sql FROM sqlite_master"))
        wanted = dict(
            zip(map(self._sql.trigger, self.place.on), self._sql.triggers(shape), strict=True)
        )
        return self.place.outbox in made and all(
            made.get(name) == sql for name, sql in wanted.items()
        )

    def attach(self, owner: str) -> str:
        """Make everything that is missing in one transaction. Return the epoch of the outbox."""
        self._file.check()
        if self._known() != (owner, True):
            with self._file.errors():
                if self._known()[0] is None:
                    self.check()
                self._setup.make(self._shape, owner)
        self._attached = self._schema()
        return self._epoch()

    def altered(self) -> bool:
        """Whether the schema has changed since :meth:`attach`."""
        return self._schema() != self._attached

    def remove(self) -> None:
        """Remove everything that :meth:`attach` made."""
        self._setup.remove()

    # -- read --------------------------------------------------------------------------------------

    def read(self) -> list[Change]:
        """Return the next committed changes, oldest first."""
        found, size, self.more = list[Change](), 0, False
        keys = self.keys()
        with self._file.errors():
            rows = self._file.open().execute(
                f"SELECT * FROM {ident(self.place.outbox)} WHERE id > ? ORDER BY id"
                f" LIMIT {BATCH_ROWS}",
                (self._upto,),
            )
            try:
                for row in rows:
                    found.append(self._change(row, keys))
                    size += sum(len(v) for v in row if isinstance(v, (str, bytes)))
                    if size > BATCH_BYTES:
                        self.more = True
                        break
            finally:
                rows.close()  # ends the read transaction: the user's commit must not wait for it
        self.more = self.more or len(found) == BATCH_ROWS
        return found

    def _change(self, row: tuple[Any, ...], keys: Sequence[str]) -> Change:
        number, change, at_days, last, names, *values = row
        columns = json.loads(names)
        whole = dict(zip(columns, values, strict=False))
        fields = self.place.fields or columns
        return Change(
            number,
            change,
            round((at_days - _DAYS_1970) * 86_400_000) * 1000,
            key_text([whole.get(name) for name in keys]) if keys else None,
            {name: as_json(whole[name]) for name in fields if name in whole},
            bool(last),
        )

    def delete(self, changes: Sequence[Change]) -> None:
        """Note that these were taken. They are deleted when the application writes no more.

        SQLite has one writer. A transaction of the application that began with a read fails when
        another one writes before it does.
        """
        if not self._pending:
            self._first_s = time.monotonic()
        self._upto, self._taken_s = changes[-1].id, time.monotonic()
        self._pending += len(changes)
        self.tidy(at_end=any(change.last for change in changes))  # a full outbox takes no more

    def tidy(self, at_end: bool = False) -> None:
        """Delete taken rows: after a quiet second, when they are many or old, or *at_end*."""
        now_s = time.monotonic()
        is_due = (
            at_end
            or self._pending >= _MOST_PENDING
            or now_s - self._taken_s > _QUIET_S
            or now_s - self._first_s > _OLD_S
        )
        if not (self._pending and is_due and self._file.is_open):
            return
        outbox = ident(self.place.outbox)
        with (
            contextlib.suppress(sqlite3.OperationalError),
            self._file.writing(waits=False) as connection,
        ):
            connection.execute(
                f"UPDATE mltrigger_feeds SET taken = taken + (SELECT count(*) FROM {outbox}"
                " WHERE id <= ? AND change = 'insert') WHERE outbox = ?",
                (self._upto, self.place.outbox),
            )
            connection.execute(f"DELETE FROM {outbox} WHERE id <= ?", (self._upto,))
            self._pending = 0

    def unreadable(self) -> int:
        """Return how many rows have no value in their primary key: SQLite allows it."""
        shape = self._shape()
        missing = " OR ".join(f"{ident(column)} IS NULL" for column in shape.key) or "0"
        sql = f"SELECT count(*) FROM {ident(shape.table)} WHERE {missing}"
        return int(self._file.query(sql)[0][0])

    def keys(self) -> list[str]:
        """Return the primary key's columns."""
        return self._shape().key

    def chunk(self, after: Key | None) -> tuple[Chunk, set[str]]:
        """Return the next rows of the table by primary key, and the keys inserted in the outbox."""
        shape, connection = self._shape(), self._file.open()
        connection.execute("BEGIN")
        try:
            rows = self._next_rows(connection, shape, after)
            copied = ", ".join(f"v{n}" for n in range(len(shape.key)))  # the key comes first
            fresh = connection.execute(
                f"SELECT {copied} FROM {ident(self.place.outbox)} WHERE change = 'insert'"
            )
            inserted = {key_text(row) for row in fresh}
        finally:
            connection.execute("COMMIT")
        fields, found, last = self.place.fields or shape.columns, [], after
        for row in rows:
            whole = dict(zip(shape.columns, row, strict=True))
            key = [whole[name] for name in shape.key]
            found.append((key_text(key), {name: as_json(whole[name]) for name in fields}))
            last = to_key(key)
        return Chunk(found, last), inserted

    def _next_rows(
        self, connection: sqlite3.Connection, shape: Shape, after: Key | None
    ) -> list[tuple[Any, ...]]:
        """Return the next rows by primary key. SQLite allows NULL in one: no row is named by it."""
        key = ", ".join(map(ident, shape.key))
        given: list[Any] = []
        beyond = [f"{ident(column)} IS NOT NULL" for column in shape.key]
        if after is not None:
            given, places = from_key(after)
            beyond.append(f"({key}) > ({', '.join(places)})")
        rows, size = [], 0
        cursor = connection.execute(
            f"SELECT {', '.join(map(ident, shape.columns))} FROM {ident(shape.table)}"
            f" WHERE {' AND '.join(beyond)} ORDER BY {key} LIMIT {BATCH_ROWS}",
            given,
        )
        for row in cursor:
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if size > BATCH_BYTES:
                break
        cursor.close()
        return rows

    def rows(self) -> int:
        """Return how many rows the table has."""
        return int(self._file.query(f"SELECT count(*) FROM {ident(self._shape().table)}")[0][0])

    def waiting(self) -> Waiting:
        """Return the number and age of the rows in the outbox."""
        outbox = f"{ident(self.place.outbox)} WHERE id > {self._upto}"
        ((n, oldest, full),) = self._file.query(
            f"SELECT (SELECT count(*) FROM {outbox}),"
            f" (SELECT (julianday('now') - at) * 86400 FROM {outbox} ORDER BY id LIMIT 1),"
            f" (SELECT last FROM {outbox} ORDER BY id DESC LIMIT 1)"
        )
        return Waiting(int(n), None if oldest is None else max(0.0, oldest), bool(full))

    def wait(self, stopped: threading.Event) -> None:
        """Wait until another connection has written to the file, or for a second."""
        until_s = time.monotonic() + _REST_S
        while not stopped.is_set() and time.monotonic() < until_s:
            try:
                self._file.check()
            except (StoreError, OSError):
                self.close()
                raise
            ((version,),) = self._file.query("PRAGMA data_version")
            if version != self._written:
                self._written = version
                return
            stopped.wait(_GLANCE_S)

    def findings(self, about: str) -> Iterator[Finding]:
        """Yield findings about the trigger and rows that are no events."""
        shape = self._shape()
        if shape.table != self.place.table:
            yield checks.renamed(about, self.place, shape.table)
        yield from checks.gone(about, self.place, shape.columns)
        if not self.installed():
            yield checks.no_trigger(about, self.place)
            return
        known = self._file.query(
            f"SELECT rows, taken + (SELECT count(*) FROM {ident(self.place.outbox)} WHERE change ="
            " 'insert'), (julianday('now') - remade) * 86400 FROM mltrigger_feeds WHERE outbox = ?",
            (self.place.outbox,),
        )
        for before, captured, remade_s in known:
            if remade_s is not None:
                yield checks.remade(about, self.place, remade_s)
            missing = self.rows() - before - captured if "insert" in self.place.on else 0
            if missing > 0:
                yield checks.missing(about, self.place, missing, "a program switched triggers off")
        yield from checks.outbox(about, self.place, self.waiting())

    def close(self) -> None:
        """Close the connection."""
        self._seen, self._attached = None, -1
        if self._file.is_open:
            with contextlib.suppress(sqlite3.Error, OSError, StoreError):
                self._file.check()
                self.tidy(at_end=True)
        self._upto = self._pending = 0  # another file may have the name when it opens again
        self._file.close()

    # -- the table as it is ------------------------------------------------------------------------

    def _shape(self) -> Shape:
        """Return the table as it is now. A renamed one is found by its trigger."""
        version = self._schema()
        if self._seen is None or self._seen[0] != version:
            self._seen = version, self._looked_at()
        return self._seen[1]

    def _schema(self) -> int:
        return int(self._file.query("PRAGMA schema_version")[0][0])

    def _looked_at(self) -> Shape:
        names = dict(self._file.query("SELECT name, type FROM sqlite_master"))
        table = self.place.table
        sql = "SELECT 1 FROM sqlite_master WHERE name = ? AND sql LIKE 'CREATE VIRTUAL%'"
        if self._file.query(sql, (table,)):
            raise InvalidName(
                f"source {self.place.shown} is a virtual table: SQLite allows no trigger on it"
            )
        if names.get(table) != "table":
            followed = self._file.query(
                "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name = ?",
                (self._sql.trigger(self.place.on[0]),),
            )
            if not followed:
                own = [n for n, kind in names.items() if kind == "table" and "mltrigger" not in n]
                raise checks.no_table(self.place, own, is_view=names.get(table) == "view")
            ((table,),) = followed
        info = self._file.query(f"PRAGMA table_xinfo({ident(table)})")
        # hidden = 1 is a column of a virtual table (https://sqlite.org/pragma.html)
        columns = [name for _, name, _, _, _, _, hidden in info if hidden != 1]
        key = [name for place, name in sorted((row[5], row[1]) for row in info if row[5])]
        return Shape(table, columns, key)

    def _known(self) -> tuple[str | None, bool]:
        """Return the bus that has the feed, and whether everything is in place."""
        if not self._file.query("SELECT 1 FROM sqlite_master WHERE name = 'mltrigger_feeds'"):
            return None, False
        rows = self._file.query(
            "SELECT bus FROM mltrigger_feeds WHERE outbox = ?", (self.place.outbox,)
        )
        return (rows[0][0] if rows else None), bool(rows) and self.installed()

    def _epoch(self) -> str:
        ((epoch,),) = self._file.query(
            "SELECT epoch FROM mltrigger_feeds WHERE outbox = ?", (self.place.outbox,)
        )
        return str(epoch)
