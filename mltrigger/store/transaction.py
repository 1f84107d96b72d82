"""Transaction: the unit of work. Broker, registry and log write through it."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import sqlite3

    from mltrigger.broker import Finding
    from mltrigger.clock import Clock
    from mltrigger.store.topics import Topics
    from mltrigger.store.vocabulary import Vocabulary

Row = tuple[Any, ...]
T = TypeVar("T")
G = TypeVar("G")
OFTEN = "/* often */"
"""A query that begins with this runs very often. All its parameters are whole numbers. A server
keeps its plan.
"""
BLOCK = 64
"""The most rows of one INSERT."""


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

    def put(self, sql: str, rows: Sequence[Row]) -> None:
        """Run *sql* for each of *rows*, as :meth:`execute_many`, before the next statement.

        Where a statement is a journey to a server, those without an answer travel together.
        """
        self.execute_many(sql, rows)

    def insert(self, sql: str, rows: Sequence[Row]) -> int:
        """Run the INSERT *sql* for each of *rows*, as :meth:`execute_many`, with few statements.

        One statement inserts up to ``BLOCK`` rows. That takes two thirds of the time, and other
        threads interrupt it less often.
        """
        execute, changed, at = self._driver.execute, 0, 0
        while (left := len(rows) - at) > 0:
            n = BLOCK if left >= BLOCK else 1 << left.bit_length() - 1
            block = rows[at : at + n]
            values = block[0] if n == 1 else list(itertools.chain.from_iterable(block))
            changed += int(execute(repeated(sql, n), values).rowcount)
            at += n
        return changed

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
        _run_once(self._visible)

    def committed(self) -> None:
        """Run the actions asked for by :meth:`after_commit`. Again: nothing."""
        _run_once(self._durable)


def _run_once(hooks: list[Callable[[], None]]) -> None:
    """Call each of *hooks* in the thread that takes it out. Callers may share a transaction."""
    while hooks:
        try:
            hook = hooks.pop(0)
        except IndexError:  # another thread took the last one
            return
        hook()


@functools.cache
def positional(sql: str) -> str:
    """Return *sql* with ``?`` for every ``:name``."""
    return re.sub(r"(?<![:\w]):[a-z_]+", "?", sql)


@functools.cache
def repeated(sql: str, n: int) -> str:
    """Return the INSERT *sql* for *n* rows at once, with ``?`` for every ``:name``."""
    before, values, after = re.split(r"(?<=VALUES )(\([^)]*\))", positional(sql))
    return before + ", ".join([values] * n) + after


class StoreTime(Protocol):
    """Keeps the clock of a process to the time of a store, which is the same for all processes."""

    def follow(self, store: Store) -> None:
        """Take over the time of the store."""

    def keep(self, transaction: Transaction) -> None:
        """Leave our time for later processes."""

    def published_us(self, transaction: Transaction) -> int:
        """Return the time of a publish."""


class Store(Protocol):
    """A database with the schema of :mod:`mltrigger.store.schema`."""

    description: str
    location: str | None
    vocabulary: Vocabulary
    topics: Topics
    by_columns: bool
    """Whether very many attempts are read by columns, in long texts."""
    hides_data: bool
    """Whether this user may not read the data and the extensions of events."""
    only_reads: bool
    """Whether this user may not change a subscription."""
    hold_s: float
    """About how long a transaction of the retention holds the write lock."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes can open it."""

    @property
    def home(self) -> str:
        """A name that differs between stores, the same in all processes."""

    def transaction(self, durable: bool = True) -> AbstractContextManager[Transaction]:
        """Begin a transaction that may write.

        With ``durable=False`` a power cut may undo it. A crash of the process does not.
        """

    def write(self, action: Callable[[Transaction, Sequence[G]], Sequence[T]], given: G) -> T:
        """Call *action* with a transaction and *given*, and commit. Return its result.

        Callers at the same time share one commit. Those with the same *action* share one call. It
        gets the value of each, and returns the result for each. So it runs in the thread of any
        of them, and again if another one fails: it keeps nothing from a call before.
        """

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql* as of now, without waiting for writers."""

    def timekeeper(self, clock: Clock) -> StoreTime:
        """Return the part that keeps *clock* to the time of the store."""

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

    def spans(self, table: str, last: int) -> list[tuple[int, int]]:
        """Return the numbers of parts of the log that can be emptied as a whole, oldest first.

        Of events: those up to number *last*. Of lots: those of events up to *last*.
        """

    def shed(
        self, transaction: Transaction, table: str, span: tuple[int, int], kept: Sequence[int]
    ) -> dict[str, int]:
        """Empty one of the :meth:`spans`, but for the events, or lots, *kept*.

        Return the number of rows that are gone, by table: none if a reader is in the way.
        """

    def tidy(self) -> None:
        """Give free space back, by and by, after a deletion. Returns at once."""

    def lost(self) -> tuple[str, str] | None:
        """Return why nothing can be stored any more, and the next step, else ``None``.

        The open file has lost its name or content, or the disk has failed.
        """

    def findings(self) -> Iterable[Finding]:
        """Return the findings of the doctor about the server below."""

    def close(self) -> None:
        """Release files and connections. Idempotent."""
