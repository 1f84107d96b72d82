"""A table of a SQLite file: a trigger copies the columns of a changed row into an outbox.

The outbox lies in the same file, since a trigger cannot write into another one. Its rows hold plain
values: a value that JSON cannot hold must not make the user's insert fail.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mltrigger.broker import Finding
from mltrigger.errors import InvalidName
from mltrigger.sources.table import checks
from mltrigger.sources.table.database import (
    BATCH_BYTES,
    BATCH_ROWS,
    Change,
    Chunk,
    Database,
    Key,
    Taken,
    Waiting,
)
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.sqlite_file import SqliteFile
from mltrigger.sources.table.sqlite_sql import FEEDS, Shape, SqliteSql, ident
from mltrigger.sources.table.values import as_json, from_key, key_text, to_key

_GLANCE_S, _REST_S = 0.02, 1.0
"""How often to look for a change, and the longest wait for one."""
_MOST_COLUMNS = 1_900
"""SQLite allows 2,000 in a table."""
_DAYS_1970 = 2440587.5
"""The Julian day of 1970-01-01 (https://sqlite.org/lang_datefunc.html)."""


class SqliteTable(Database):
    """A table of a SQLite file."""

    def __init__(self, place: TablePlace) -> None:
        super().__init__(place)
        self._sql = SqliteSql(place)
        self._file = SqliteFile(place)
        self._seen: tuple[int, Shape] | None = None
        self._written = self._attached = -1

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

    def attach(self, bus: str) -> str:
        """Make everything that is missing in one transaction. Return the epoch of the outbox."""
        self._file.check()
        if self._known() != (bus, True):
            self._make(bus)
        self._attached = self._schema()
        return self._epoch()

    def _make(self, bus: str) -> None:
        self.check()
        with self._file.writing() as connection:
            shape = self._shape()
            connection.execute(FEEDS)
            taken_by = connection.execute(
                "SELECT bus FROM mltrigger_feeds WHERE outbox = ?", (self.place.outbox,)
            ).fetchone()
            if taken_by is not None and taken_by[0] not in (None, bus):
                raise Taken
            self._make_outbox(connection, shape)
            remade = self._remake_triggers(connection, shape)
            if taken_by is None:
                connection.execute(self._sql.claim(shape))
            connection.execute(
                "UPDATE mltrigger_feeds SET bus = ? WHERE outbox = ?", (bus, self.place.outbox)
            )
            if remade and taken_by is not None:  # count anew: the table may be another one
                connection.execute(
                    "UPDATE mltrigger_feeds SET remade = julianday('now'), rows = (SELECT count(*)"
                    f" FROM {ident(shape.table)}) - taken - (SELECT count(*) FROM"
                    f" {ident(self.place.outbox)} WHERE change = 'insert') WHERE outbox = ?",
                    (self.place.outbox,),
                )

    def altered(self) -> bool:
        """Whether the schema has changed since :meth:`attach`."""
        return self._schema() != self._attached

    def remove(self) -> None:
        """Remove everything that :meth:`attach` made."""
        with self._file.writing() as connection:
            names = {n for (n,) in connection.execute("SELECT name FROM sqlite_master")}
            for statement in self.removal():
                if "mltrigger_feeds" not in statement or "mltrigger_feeds" in names:
                    connection.execute(statement)
            if (
                "mltrigger_feeds" in names
                and not connection.execute("SELECT 1 FROM mltrigger_feeds LIMIT 1").fetchall()
            ):
                connection.execute("DROP TABLE mltrigger_feeds")

    # -- read --------------------------------------------------------------------------------------

    def read(self) -> list[Change]:
        """Return the next committed changes, oldest first."""
        found, size = [], 0
        rows = self._file.open().execute(
            f"SELECT * FROM {ident(self.place.outbox)} ORDER BY id LIMIT {BATCH_ROWS}"
        )
        keys = self.keys()
        try:
            for row in rows:
                found.append(self._change(row, keys))
                size += sum(len(v) for v in row if isinstance(v, (str, bytes)))
                if size > BATCH_BYTES:
                    break
        finally:
            rows.close()  # ends the read transaction: the user's commit must not wait for it
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
        """Delete these rows of the outbox, and count them as taken."""
        delete, inserted = f"DELETE FROM {ident(self.place.outbox)} WHERE id = ?", 0
        with self._file.writing() as connection:
            for change in changes:
                gone = connection.execute(delete, (change.id,)).rowcount
                inserted += gone if change.change == "insert" else 0
            connection.execute(
                "UPDATE mltrigger_feeds SET taken = taken + ? WHERE outbox = ?",
                (inserted, self.place.outbox),
            )

    def keys(self) -> list[str]:
        """Return the primary key's columns."""
        return self._shape().key

    def chunk(self, after: Key | None) -> tuple[Chunk, set[str]]:
        """Return the next rows of the table by primary key, and the keys inserted in the outbox."""
        shape, connection = self._shape(), self._file.open()
        connection.execute("BEGIN")
        try:
            rows = self._next_rows(connection, shape, after)
            fresh = connection.execute(
                f"SELECT * FROM {ident(self.place.outbox)} WHERE change = 'insert'"
            )
            inserted = {self._change(row, shape.key).key or "" for row in fresh}
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
        beyond = [f"{ident(column)} IS NOT NULL" for column in shape.key]
        if after is not None:
            beyond.append(f"({key}) > ({', '.join('?' * len(shape.key))})")
        rows, size = [], 0
        cursor = connection.execute(
            f"SELECT {', '.join(map(ident, shape.columns))} FROM {ident(shape.table)}"
            f" WHERE {' AND '.join(beyond)} ORDER BY {key} LIMIT {BATCH_ROWS}",
            from_key(after) if after is not None else (),
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
        """Return what waits in the outbox."""
        outbox = ident(self.place.outbox)
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
            self._file.check()
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
        self._seen = None
        self._file.close()

    def _make_outbox(self, connection: sqlite3.Connection, shape: Shape) -> None:
        connection.execute(self._sql.outbox_sql(shape))
        there = len(connection.execute(f"PRAGMA table_info({ident(self.place.outbox)})").fetchall())
        for n in range(there - 5, len(self._sql.captured(shape))):
            connection.execute(f"ALTER TABLE {ident(self.place.outbox)} ADD COLUMN v{n}")

    def _remake_triggers(self, connection: sqlite3.Connection, shape: Shape) -> bool:
        """Make the triggers anew that are not as they should be. Return whether one was missing."""
        made = dict(
            connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        )
        missing = False
        for on, sql in zip(self.place.on, self._sql.triggers(shape), strict=True):
            name = self._sql.trigger(on)
            if made.get(name) != sql:
                missing = missing or name not in made
                connection.execute(f"DROP TRIGGER IF EXISTS {ident(name)}")
                connection.execute(sql)
        return missing

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
