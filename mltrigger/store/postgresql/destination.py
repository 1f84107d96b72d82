"""The schema that a move fills: nothing else opens it until all of it is there.

Rows come in parts, each in one commit with a note of how far the move is. So a move that is cut off
goes on behind its last part. The version of the schema is negative until the move is done. Every
other process refuses such a version.
"""

from __future__ import annotations

import contextlib
import json
import struct
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from mltrigger.errors import StoreError
from mltrigger.store import tables
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.keys import TextKey
from mltrigger.store.postgresql import SCHEMA, partitions, schema, versions
from mltrigger.store.postgresql.place import parts_of
from mltrigger.store.postgresql.sessions import Session, Sessions
from mltrigger.store.postgresql.transaction import SessionDriver
from mltrigger.store.postgresql.trouble import is_cut, said
from mltrigger.store.transaction import Row
from mltrigger.text import redacted, short

_ALONE = "SELECT pg_try_advisory_lock(hashtextextended('mltrigger move ' || %s, 0))"
_WRITERS = f"SELECT pg_advisory_xact_lock(({schema.WRITERS_KEY}))"
_NOTES = "SELECT name, value FROM setting WHERE name IN ('move', 'moved_from')"
_NOTE = "INSERT INTO setting (name, value) VALUES (%s, %s)"
_GO_ON = "UPDATE setting SET value = %s WHERE name = 'move' AND value = %s"
_VERSION = "UPDATE schema_version SET version = %s WHERE version = %s"
_SETTING = """
INSERT INTO setting (name, value) VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_SEQUENCES = (
    "SELECT setval('event_seq', seq) FROM event ORDER BY seq DESC LIMIT 1",
    "SELECT setval('lot_seq', id + n) FROM lot ORDER BY id DESC LIMIT 1",
)
_MAY = """
SELECT has_database_privilege(current_database(), 'CREATE'),
  (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %s)
"""
_AGAIN = "; nothing is lost: call the same command again, it goes on behind its last commit"
_MAY_NOT = "the role may make no schema in that database: ask its owner for CREATE"


class Reached(NamedTuple):
    """How far a move has come: the last key of each table, and the number of its rows.

    ``is_done``: the schema is complete, and open to everybody.
    """

    id: str
    origin: str
    tables: dict[str, tuple[list[Any], int]]
    is_done: bool = False

    def text(self) -> str:
        """Return it as the schema keeps it."""
        return json.dumps(self._asdict())


class Destination:
    """The schema at a URL of PostgreSQL, for one move.

    Parameters
    ----------
    url : str
        As ``mt.connect`` takes it.

    Raises
    ------
    StoreError
        When the server does not answer, or its encoding cannot hold every text.
    """

    def __init__(self, url: str) -> None:
        conninfo, self.schema = parts_of(url)
        self._made, self._has_begun = set[tuple[str, int]](), False
        self.description = "PostgreSQL"
        with self._said():
            sessions = Sessions(conninfo, self.schema)
            self._session: Session = sessions.open()
        info = self._session.info
        self.description = f"PostgreSQL, database {info.dbname}"
        self.shown = _shown(info, self.schema)
        if sessions.is_pooled:
            self.close()
            raise StoreError(
                "a move needs a connection of its own for all its time, and a pooler is in"
                " between: name the address of the server itself"
            )
        with self._said():
            schema.check_encoding(self._session)
            # The file is told that its rows are there: then they must be on the disk.
            self._session.execute("SET synchronous_commit TO on")

    def close(self) -> None:
        """Close the session. Idempotent."""
        self._session.close()

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of a statement of the store."""
        with self._said():
            return list(SessionDriver(self._session).execute(statement, parameters).fetchall())

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Destination]:
        """Begin a look at one moment."""
        with self._said(), self._session.transaction():
            self._session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield self

    # -- before ------------------------------------------------------------------------------------

    def alone(self) -> None:
        """Keep other moves away until :meth:`close`.

        Raises
        ------
        StoreError
            When another move is at work.
        """
        with self._said():
            if self._session.execute(_ALONE, [self.schema]).fetchone() != (True,):
                raise StoreError(
                    f"another `mltrigger move` fills {self.shown} at this moment: wait for it"
                )

    def reached(self) -> Reached | None:
        """Return how far the move into this schema is, ``None`` without one."""
        with self._said():
            if schema.found(self._session, self.schema) is None:
                return None
            notes = dict(self._session.execute(_NOTES).fetchall())
        value = notes.get("move", notes.get("moved_from"))
        self._has_begun = value is not None
        return None if value is None else Reached(**json.loads(value))

    def problem(self) -> str | None:
        """Return why this schema takes no move, ``None`` if it does."""
        with self._said():
            version = schema.found(self._session, self.schema)
            may_make, owns = self._session.execute(_MAY, [self.schema]).fetchone() or (None, None)
            if owns is False:
                return f"the schema {self.schema!r} has another owner: connect as that role"
            if version is None:
                return None if may_make or owns else _MAY_NOT
            if version != tables.VERSION:
                return str(schema.refused(version))
            counts = {t: self.count(t) for t in names() if t != "setting"}
        there = [f"{table} {n:,}" for table, n in counts.items() if n]
        if not there:
            return None
        return (
            f"{self.shown} is not empty ({', '.join(there)}): name another schema with ?schema=,"
            f" or remove that one with DROP SCHEMA {self.schema} CASCADE"
        )

    # -- the move ----------------------------------------------------------------------------------

    def begin(self, reached: Reached) -> None:
        """Make the schema, and keep everybody else out of it."""
        with self._said():
            schema.made(self._session, self.schema)
            with self._session.transaction():
                self._session.execute(_WRITERS, [self.schema])
                if (problem := self.problem()) is not None:
                    raise StoreError(problem)
                self._session.execute(_VERSION, [-tables.VERSION, tables.VERSION])
                self._session.execute(_NOTE, ["move", reached.text()])
        self._has_begun = True

    def add(
        self, table: str, columns: Sequence[str], rows: Sequence[Row], before: Reached, now: Reached
    ) -> None:
        """Add *rows* to *table*, in one commit with the note of how far the move is *now*."""
        with self._said(), self._session.transaction():
            self._go_on(before, now)
            self._make_room(table, columns, rows)
            self._copy(table, columns, rows)

    def _go_on(self, before: Reached, now: Reached) -> None:
        if self._session.execute(_GO_ON, [now.text(), before.text()]).rowcount != 1:
            raise StoreError(
                f"another process has worked at the move to {self.shown}: call it again when that"
                " one has ended"
            )

    def _make_room(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Make the partitions that *rows* belong to."""
        if (key := partitions.KEYS.get(table)) is None:
            return
        of, at = [table] if table == "lot" else [*partitions.OF_EVENTS], columns.index(key)
        for number in sorted({row[at] // partitions.SIZE for row in rows}):
            if (of[0], number) not in self._made:
                self._session.execute("SELECT make_partition(%s::text[], %s)", [of, number])
                self._made.add((of[0], number))

    def _copy(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        types = [schema.columns(table)[name] for name in columns]
        at = [i for i, kind in enumerate(types) if kind == "bytea"]
        given = [_in_bytes(row, columns, at) for row in rows] if at else rows
        head = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with psycopg.Cursor(self._session) as cursor, cursor.copy(head) as copy:
            copy.set_types(types)
            for row in given:
                try:
                    copy.write_row(row)
                except (*ERRORS, struct.error, psycopg.DataError) as error:
                    raise damaged(table, short(row[:3]), error) from error

    def tidy(self) -> None:
        """Let the server count the rows. It plans by their numbers."""
        with self._said():
            for table in names():
                if table in versions.VIEWS:
                    continue
                self._session.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))

    def finish(self, settings: Sequence[Row], before: Reached) -> None:
        """Open the schema to everybody, with the last rows: *settings*."""
        with self._said(), self._session.transaction():
            done = before._replace(is_done=True)
            self._go_on(before, done)
            self._session.execute("UPDATE setting SET name = 'moved_from' WHERE name = 'move'")
            for row in settings:
                self._session.execute(_SETTING, row)
            for table in schema.NUMBERED:
                self._session.execute(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id))"
                    f" FROM {table} HAVING max(id) > 0"
                )
            for numbers in _SEQUENCES:
                self._session.execute(numbers)
            self._session.execute(_VERSION, [tables.VERSION, -tables.VERSION])

    def forget(self) -> None:
        """Remove all that a move has brought so far. The empty schema stays."""
        with self._said(), self._session.transaction():
            self._session.execute(_WRITERS, [self.schema])
            stored = [name for name in names() if name not in versions.VIEWS]
            everything = sql.SQL(", ").join(map(sql.Identifier, [*stored, *versions.STORED]))
            self._session.execute(sql.SQL("TRUNCATE {}").format(everything))
            self._session.execute(_VERSION, [tables.VERSION, -tables.VERSION])

    # -- facts -------------------------------------------------------------------------------------

    def count(self, table: str) -> int:
        """Return the number of rows of *table*."""
        with self._said():
            found = self._session.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            ).fetchone()
        return int(found[0]) if found else 0

    def server(self) -> str:
        """Return the version of the server in words."""
        number = self._session.info.server_version
        return f"PostgreSQL {number // 10_000}.{number % 10_000}"

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            again = _AGAIN if self._has_begun and is_cut(error) else ""
            raise StoreError(f"store {self.description}: {redacted(said(error))}{again}") from error


def names() -> list[str]:
    """Return the tables that a move fills: all but those about living processes."""
    return [t for t in schema.table_names() if t not in ("schema_version", "listener")]


def _in_bytes(row: Row, columns: Sequence[str], at: Sequence[int]) -> Row:
    """Return *row* with bytes instead of texts in the columns *at*."""
    if not any(isinstance(row[i], str) for i in at):
        return row
    made = list(row)
    for i in at:
        if isinstance(value := row[i], str):
            made[i] = TextKey(value).as_bytes() if columns[i] == "id" else value.encode()
    return tuple(made)


def _shown(info: psycopg.ConnectionInfo, name: str) -> str:
    """Return a URL for people, without the user and the password."""
    words = {"schema": name} if name != SCHEMA else {}
    host = info.host
    if host.startswith("/"):
        words, host = {"host": host, **words}, ""
    elif ":" in host:
        host = f"[{host}]"
    port = f":{info.port}" if host and info.port != 5432 else ""
    query = f"?{urllib.parse.urlencode(words, safe='/')}" if words else ""
    return f"postgresql://{host}{port}/{info.dbname}{query}"
