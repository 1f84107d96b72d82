"""Transaction: the unit of work. Broker, registry and log write through it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import sqlite3

Row = tuple[Any, ...]


class Driver(Protocol):
    """The part of a DB-API connection that is used here."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any: ...  # noqa: D102 - DB-API
    def executemany(self, sql: str, parameters: Any, /) -> Any: ...  # noqa: D102 - DB-API


class Reader(Protocol):
    """A store or a transaction that answers queries."""

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of *sql*."""


class Transaction:
    """One transaction of the store's database. It becomes durable when its ``with`` block ends.

    Statements are plain SQL with ``:named`` parameters, in the common part of SQLite and
    PostgreSQL.
    """

    __slots__ = ("_driver", "_hooks", "store")

    def __init__(self, store: Store, driver: Driver) -> None:
        self.store = store
        self._driver = driver
        self._hooks: list[Callable[[], None]] = []

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """Return the rows of *sql*."""
        rows: list[Row] = self._driver.execute(sql, parameters).fetchall()
        return rows

    def execute(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """Run *sql* once. Return the number of changed rows."""
        return int(self._driver.execute(sql, parameters).rowcount)

    def execute_many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run *sql* for each of *rows*. Return the number of changed rows.

        A row has its values in the order of their names in *sql*. Rows are tuples: binding 19
        values by name costs as much as inserting them.
        """
        return int(self._driver.executemany(positional(sql), rows).rowcount) if rows else 0

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* once the transaction is durable. A rollback drops it."""
        self._hooks.append(action)

    def committed(self) -> None:
        """Run the actions asked for by :meth:`after_commit`."""
        for hook in self._hooks:
            hook()


@functools.cache
def positional(sql: str) -> str:
    """Return *sql* with ``?`` for every ``:name``."""
    return re.sub(r"(?<![:\w]):[a-z_]+", "?", sql)


class Store(Protocol):
    """A database with the schema of :mod:`mltrigger.store.schema`."""

    description: str
    location: str | None

    def transaction(self, durable: bool = True) -> AbstractContextManager[Transaction]:
        """Begin a transaction that may write.

        With ``durable=False`` a power cut may undo it. A crash of the process does not.
        """

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql* as of now, without waiting for writers."""

    def version(self) -> object:
        """Return a value that differs after each commit, of any process. It costs next to nothing.

        Call it from one thread at a time.
        """

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Begin a look at one moment. Every query in the block sees the same state.

        Use nothing else of the store inside.
        """

    def give_up(self, at_s: float) -> None:
        """Let no writer wait beyond the monotonic time *at_s*: the store is about to close."""

    def copy(self, to: Callable[[sqlite3.Connection], None]) -> None:
        """Call *to* with a connection for copying the whole database as of one moment."""

    def lost(self) -> str | None:
        """Return the trouble when the open file no longer has its name, else ``None``."""

    def close(self) -> None:
        """Release files and connections. Idempotent."""
