"""Transaction: the unit of work. Broker, registry and log write through it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import sqlite3

    from mltrigger.store.topics import Topics
    from mltrigger.store.vocabulary import Vocabulary

Row = tuple[Any, ...]
T = TypeVar("T")


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

    It is visible to others a moment earlier. Our own listeners may begin then. Everything that
    others act upon waits until it is durable.

    Statements are plain SQL with ``:named`` parameters, in the common part of SQLite and
    PostgreSQL.
    """

    __slots__ = ("_driver", "_durable", "_visible", "store")

    def __init__(self, store: Store, driver: Driver) -> None:
        self.store = store
        self._driver = driver
        self._visible: list[Callable[[], None]] = []
        self._durable: list[Callable[[], None]] = []

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

    def after_visible(self, action: Callable[[], None]) -> None:
        """Call *action* once others see the transaction, before it is durable.

        It must not wait or raise. A rollback drops it.
        """
        self._visible.append(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* once the transaction is durable. A rollback drops it."""
        self._durable.append(action)

    def visible(self) -> None:
        """Run the actions asked for by :meth:`after_visible`. Again: nothing."""
        hooks, self._visible = self._visible, []
        for hook in hooks:
            hook()

    def committed(self) -> None:
        """Run the actions asked for by :meth:`after_commit`."""
        for hook in self._durable:
            hook()


@functools.cache
def positional(sql: str) -> str:
    """Return *sql* with ``?`` for every ``:name``."""
    return re.sub(r"(?<![:\w]):[a-z_]+", "?", sql)


class Store(Protocol):
    """A database with the schema of :mod:`mltrigger.store.schema`."""

    description: str
    location: str | None
    vocabulary: Vocabulary
    topics: Topics

    def transaction(self, durable: bool = True) -> AbstractContextManager[Transaction]:
        """Begin a transaction that may write.

        With ``durable=False`` a power cut may undo it. A crash of the process does not.
        """

    def write(self, action: Callable[[Transaction], T], durable: bool = True) -> T:
        """Call *action* with a transaction, and commit. Return its result.

        Callers at the same time share one commit. So *action* runs in the thread of any of them,
        and again if another one of them fails: it keeps nothing from a call before.
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

    def make_durable(self) -> None:
        """Return when all that is visible now is on the disk, also commits of other processes.

        Call it before anything that was read leaves this process.
        """

    def give_up(self, at_s: float) -> None:
        """Let no writer wait beyond the monotonic time *at_s*: the store is about to close."""

    def copy(self, to: Callable[[sqlite3.Connection], None]) -> None:
        """Call *to* with a connection for copying the whole database as of one moment."""

    def tidy(self) -> None:
        """Give free space back, by and by, after a deletion. Returns at once."""

    def lost(self) -> tuple[str, str] | None:
        """Return why nothing can be stored any more, and what to do, else ``None``.

        The open file has lost its name or content, or the disk has failed.
        """

    def close(self) -> None:
        """Release files and connections. Idempotent."""
