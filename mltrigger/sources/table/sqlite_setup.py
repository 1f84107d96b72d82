"""Making and removing the outbox and the triggers of a table of SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from mltrigger.sources.table.database import Taken
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.quoting import ident
from mltrigger.sources.table.sqlite_file import SqliteFile
from mltrigger.sources.table.sqlite_sql import FEEDS, Shape, SqliteSql


class Setup:
    """Makes and removes the things of one table.

    Parameters
    ----------
    place, sql, file
        The table, its SQL, and the connection.
    """

    def __init__(self, place: TablePlace, sql: SqliteSql, file: SqliteFile) -> None:
        self._place, self._sql, self._file = place, sql, file

    def make(self, look: Callable[[], Shape], owner: str) -> None:
        """Make everything for *owner* in one transaction. Raises Taken.

        *look* returns the table as it is. It is asked inside the transaction: a trigger with the
        old name of a column would fail each insert.
        """
        with self._file.writing() as connection:
            shape = look()
            connection.execute(FEEDS)
            taken_by = connection.execute(
                "SELECT bus FROM mltrigger_feeds WHERE outbox = ?", (self._place.outbox,)
            ).fetchone()
            if taken_by is not None and taken_by[0] not in (None, owner):
                raise Taken
            self._make_outbox(connection, shape)
            remade = self._remake_triggers(connection, shape)
            if taken_by is None:
                connection.execute(self._sql.claim(shape))
            connection.execute(
                "UPDATE mltrigger_feeds SET bus = ? WHERE outbox = ?", (owner, self._place.outbox)
            )
            if remade and taken_by is not None:  # count anew: the table may be another one
                connection.execute(
                    "UPDATE mltrigger_feeds SET remade = julianday('now'), rows = (SELECT count(*)"
                    f" FROM {ident(shape.table)}) - taken - (SELECT count(*) FROM"
                    f" {ident(self._place.outbox)} WHERE change = 'insert') WHERE outbox = ?",
                    (self._place.outbox,),
                )

    def remove(self) -> None:
        """Remove everything that :meth:`make` made."""
        with self._file.writing() as connection:
            names = {n for (n,) in connection.execute("SELECT name FROM sqlite_master")}
            for statement in self._sql.removal():
                if "mltrigger_feeds" not in statement or "mltrigger_feeds" in names:
                    connection.execute(statement)
            if (
                "mltrigger_feeds" in names
                and not connection.execute("SELECT 1 FROM mltrigger_feeds LIMIT 1").fetchall()
            ):
                connection.execute("DROP TABLE mltrigger_feeds")

    def _make_outbox(self, connection: sqlite3.Connection, shape: Shape) -> None:
        connection.execute(self._sql.outbox_sql(shape))
        there = len(
            connection.execute(f"PRAGMA table_info({ident(self._place.outbox)})").fetchall()
        )
        for n in range(there - 5, len(self._sql.captured(shape))):
            connection.execute(f"ALTER TABLE {ident(self._place.outbox)} ADD COLUMN v{n}")

    def _remake_triggers(self, connection: sqlite3.Connection, shape: Shape) -> bool:
        """Make the triggers anew that are not as they should be. Return whether one was missing."""
        made = dict(
            connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        )
        missing = False
        for on, sql in zip(self._place.on, self._sql.triggers(shape), strict=True):
            name = self._sql.trigger(on)
            if made.get(name) != sql:
                missing = missing or name not in made
                connection.execute(f"DROP TRIGGER IF EXISTS {ident(name)}")
                connection.execute(sql)
        return missing
