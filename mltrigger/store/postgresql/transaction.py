"""Transactions in PostgreSQL: many rows go to the server as arrays, and few statements at once."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from mltrigger.store.keys import TextKey
from mltrigger.store.lots import NEXT_ROW
from mltrigger.store.postgresql.dialect import by_position, translated
from mltrigger.store.postgresql.partitions import SIZE, Partitions
from mltrigger.store.postgresql.schema import columns
from mltrigger.store.postgresql.sessions import Session
from mltrigger.store.postgresql.versions import CONFLICTS
from mltrigger.store.transaction import OFTEN, Row, Transaction

_FEW = 16
"""Fewer rows are written as plain text into one statement."""
_AT_ONCE = 200
"""The statements that go to the server together."""
_UNLESS_THERE = "ON CONFLICT DO NOTHING"
_INSERT = re.compile(
    r"\s*INSERT INTO (\w+)\s*\(([^)]*)\)\s*VALUES\s*\(((?:\s*:\w+,?)+)\)(.*)", re.DOTALL
)


class SessionDriver:
    """A session as the statements of the store see it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def execute(self, sql: str, parameters: Any = (), /) -> psycopg.Cursor[Any]:
        """Run *sql*, and return its cursor."""
        if sql.startswith(OFTEN) and self.session.prepare_threshold is not None:
            return psycopg.Cursor(self.session).execute(
                translated(sql), parameters, prepare=True, binary=True
            )
        # Values are written into the text: the server then knows each type from its place. Answers
        # come in binary form.
        text = psycopg.ClientCursor(self.session).mogrify(translated(sql), parameters)
        return psycopg.Cursor(self.session).execute(text, binary=True)

    def executemany(self, sql: str, rows: Any, /) -> Any:
        """Run *sql* for each of *rows*. Return their number under ``rowcount``."""
        raise NotImplementedError


class _Insert(NamedTuple):
    table: str
    columns: tuple[str, ...]
    rest: str


class PostgresTransaction(Transaction):
    """A transaction of a session.

    Parameters
    ----------
    next_row : int
        The row of the next attempt.
    is_hopeful : bool
        Whether :meth:`insert` may take all rows for new ones. The database raises UniqueViolation
        if one is not, at the latest with the commit.
    foreseen : tuple of (str, list), optional
        A query and its answer, which came with the begin of the transaction.
    """

    __slots__ = (
        "_foreseen",
        "_has_begun",
        "_is_hopeful",
        "_next_row",
        "_partitions",
        "_pending",
        "_session",
        "first",
    )

    def __init__(
        self,
        store: Any,
        session: Session,
        partitions: Partitions,
        next_row: int,
        is_hopeful: bool = False,
        foreseen: tuple[str, list[Row]] | None = None,
    ) -> None:
        super().__init__(store, SessionDriver(session))
        self._session, self._partitions, self._next_row = session, partitions, next_row
        self._is_hopeful, self._foreseen = is_hopeful, foreseen
        self._pending: list[str] = []
        self._has_begun = False
        self.first: str | None = None
        """The first statement, if it is a query that can be foreseen."""

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of *sql*."""
        if sql == NEXT_ROW:
            return [(self._next_row,)]
        if not (self._has_begun or self._pending or parameters or "%" in sql):
            self._has_begun, self.first = True, sql
            if self._foreseen is not None and self._foreseen[0] == sql:
                return self._foreseen[1]
        return self._last(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """Run *sql* once. Return the number of changed rows."""
        return self._last(sql, parameters).rowcount

    def insert(self, sql: str, rows: Sequence[Row]) -> int:
        """Run the INSERT *sql* for each of *rows*, see :class:`Transaction`."""
        parts = _insert_of(sql)
        if (
            not (rows and self._is_hopeful)
            or parts is None
            or parts.rest.strip() != _UNLESS_THERE
            or (parts.table == "event" and len(self._news(rows)) < len(rows))
        ):
            return self.execute_many(sql, rows)
        # the number comes after the rows: none is lost if there are none
        counted = [self._pending.pop()] if parts.table == "event" else []
        self._add(parts._replace(rest=""), rows)
        self._pending += counted
        return len(rows)

    def _add(self, parts: _Insert, rows: Sequence[Row]) -> None:
        if len(rows) < _FEW:
            client = psycopg.ClientCursor(self._session)
            self._pending.append(client.mogrify(*_values(parts, rows)))
            return
        self._send()
        types = columns(parts.table)
        sql = f"COPY {parts.table} ({', '.join(parts.columns)}) FROM STDIN (FORMAT BINARY)"
        with psycopg.Cursor(self._session) as cursor, cursor.copy(sql) as copy:
            copy.set_types([types[name] for name in parts.columns])
            for row in rows:
                copy.write_row([_bytes(value) for value in row])

    def put(self, sql: str, rows: Sequence[Row]) -> None:
        """Keep the statements for a few *rows* until the next one, see :class:`Transaction`."""
        parts = _insert_of(sql)
        if parts is not None and parts.table == "lot":
            self._count_on("lot", rows[0][0], rows[-1][0], rows[-1][0] + rows[-1][1])
        if len(rows) >= _FEW:
            self.execute_many(sql, rows)
        elif rows:
            cursor = psycopg.ClientCursor(self._session)
            if parts is None:
                self._pending += [cursor.mogrify(by_position(sql), row) for row in rows]
            else:
                self._pending.append(cursor.mogrify(*_values(parts, rows)))

    def _news(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows of events whose ids are in no other partition. Make room for them."""
        first, last = rows[0][0], rows[-1][0]
        self._count_on("event", first, last, last)
        keys = [(_bytes(row[2]), row[3], row[1]) for row in rows]
        known = self._partitions.known(self._session, (first, last), keys)
        if not known and first // SIZE == last // SIZE:
            return rows
        news = []
        for row, key in zip(rows, keys, strict=True):
            if key not in known:
                known.add(key)  # two partitions do not see that they have the same one
                news.append(row)
        return news

    def _count_on(self, table: str, first: int, last: int, newest: int) -> None:
        self._partitions.ensure(self._session, table, first, last)
        self._pending.append(f"SELECT setval('{table}_seq', {newest})")
        if table == "lot":
            self._next_row = newest

    def pending(self) -> str:
        """Return the statements that were kept, for the commit."""
        pending, self._pending = self._pending, []
        return "".join(f"{statement};" for statement in pending)

    def _last(self, sql: str, parameters: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        """Send the statements that were kept, with *sql*. Return the cursor of that."""
        self._has_begun = True
        if sql.startswith(OFTEN) and self._session.prepare_threshold is not None:
            self._send()
        if not self._pending:
            return SessionDriver(self._session).execute(sql, parameters)
        # several statements can only be answered in text form
        text = psycopg.ClientCursor(self._session).mogrify(translated(sql), parameters)
        last = self._session.execute(self.pending() + text)
        while last.nextset():
            pass
        return last

    def _send(self) -> None:
        self._has_begun = True
        if self._pending:
            self._session.execute(self.pending())

    def execute_many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run *sql* for each of *rows*, see :class:`Transaction`."""
        if not rows:
            return 0
        self._send()
        parts = _insert_of(sql)
        if parts is None:
            return self._one_by_one(sql, rows)
        if parts.table == "event":
            rows = self._news(rows)
            if not rows:
                return 0
        if len(rows) < _FEW:
            return self._session.execute(*_values(parts, rows)).rowcount
        return self._as_arrays(parts, rows)

    def _as_arrays(self, parts: _Insert, rows: Sequence[Row]) -> int:
        types = columns(parts.table)
        arrays = [
            [_bytes(value) for value in column] if types[name] == "bytea" else list(column)
            for name, column in zip(parts.columns, zip(*rows, strict=True), strict=True)
        ]
        with psycopg.Cursor(self._session) as cursor:
            return cursor.execute(_arrays(parts), arrays).rowcount

    def _one_by_one(self, sql: str, rows: Sequence[Row]) -> int:
        changed, text, cursor = 0, by_position(sql), psycopg.ClientCursor(self._session)
        for at in range(0, len(rows), _AT_ONCE):
            cursor.execute(";".join(cursor.mogrify(text, row) for row in rows[at : at + _AT_ONCE]))
            changed += cursor.rowcount
            while cursor.nextset():
                changed += cursor.rowcount
        return changed


def _bytes(value: Any) -> Any:
    return value.as_bytes() if isinstance(value, TextKey) else value


@functools.cache
def _insert_of(sql: str) -> _Insert | None:
    """Return the parts of an INSERT of plain values, ``None`` for another statement."""
    found = _INSERT.fullmatch(sql)
    if found is None:
        return None
    table, names, _, rest = found.groups()
    rest = CONFLICTS.get(rest.strip(), rest)
    return _Insert(table, tuple(name.strip() for name in names.split(",")), rest.replace("%", "%%"))


def _values(parts: _Insert, rows: Sequence[Row]) -> tuple[str, list[Any]]:
    """Return an INSERT of *rows*, and their values."""
    row = f"({', '.join(['%s'] * len(parts.columns))})"
    sql = f"{_head(parts)} VALUES {', '.join([row] * len(rows))}{parts.rest}"
    return sql, [value for row in rows for value in row]


def _head(parts: _Insert) -> str:
    return f"INSERT INTO {parts.table} ({', '.join(parts.columns)})"


@functools.cache
def _arrays(parts: _Insert) -> str:
    types = columns(parts.table)
    values = ", ".join(f"%b::{types[name]}[]" for name in parts.columns)
    return f"{_head(parts)} SELECT * FROM unnest({values}){parts.rest}"
