"""Transactions in PostgreSQL: many rows go to the server as arrays, and few statements at once."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg

from mltrigger.store.keys import TextKey
from mltrigger.store.postgresql.dialect import by_position, translated
from mltrigger.store.postgresql.schema import columns
from mltrigger.store.postgresql.sessions import Session
from mltrigger.store.transaction import Row, Transaction

_FEW = 16
"""Fewer rows are written as plain text into one statement."""
_AT_ONCE = 200
"""The statements that go to the server together."""
_INSERT = re.compile(
    r"\s*INSERT INTO (\w+)\s*\(([^)]*)\)\s*VALUES\s*\(((?:\s*:\w+,?)+)\)(.*)", re.DOTALL
)


class SessionDriver:
    """A session as the statements of the store see it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def execute(self, sql: str, parameters: Any = (), /) -> psycopg.Cursor[Any]:
        """Run *sql*, and return its cursor."""
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
    """A transaction of a session."""

    __slots__ = ("_pending", "_session")

    def __init__(self, store: Any, session: Session) -> None:
        super().__init__(store, SessionDriver(session))
        self._session = session
        self._pending: list[str] = []

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of *sql*."""
        self._send()
        return super().query(sql, parameters)

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """Run *sql* once. Return the number of changed rows."""
        self._send()
        return super().execute(sql, parameters)

    def put(self, sql: str, rows: Sequence[Row]) -> None:
        """Keep the statements for a few *rows* until the next one, see :class:`Transaction`."""
        parts = _insert_of(sql)
        if len(rows) >= _FEW:
            self.execute_many(sql, rows)
        elif rows:
            cursor = psycopg.ClientCursor(self._session)
            if parts is None:
                self._pending += [cursor.mogrify(by_position(sql), row) for row in rows]
            else:
                self._pending.append(cursor.mogrify(*_values(parts, rows)))

    def pending(self) -> str:
        """Return the statements that were kept, for the commit."""
        pending, self._pending = self._pending, []
        return "".join(f"{statement};" for statement in pending)

    def _send(self) -> None:
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
        if len(rows) < _FEW:
            return self._session.execute(*_values(parts, rows)).rowcount
        return self._as_arrays(parts, rows)

    insert = execute_many

    def _as_arrays(self, parts: _Insert, rows: Sequence[Row]) -> int:
        types = columns(parts.table)
        arrays = [
            [v.as_bytes() if isinstance(v, TextKey) else v for v in column]
            if types[name] == "bytea"
            else list(column)
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


@functools.cache
def _insert_of(sql: str) -> _Insert | None:
    """Return the parts of an INSERT of plain values, ``None`` for another statement."""
    found = _INSERT.fullmatch(sql)
    if found is None:
        return None
    table, names, _, rest = found.groups()
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
