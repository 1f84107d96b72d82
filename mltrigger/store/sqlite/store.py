"""SQLite as a store: one write connection per process, shared commits and syncs, safe files."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, cast

from mltrigger.clock import Clock
from mltrigger.errors import DiskFailed, StoreError
from mltrigger.store import schema
from mltrigger.store.combining import Combined, Commit
from mltrigger.store.sqlite import unsure
from mltrigger.store.sqlite.connections import RETURN, Connections
from mltrigger.store.sqlite.disk import Connection, Disk, SqliteDisk
from mltrigger.store.sqlite.durable import poisoned
from mltrigger.store.sqlite.logkeeper import LogKeeper
from mltrigger.store.timekeeper import Timekeeper
from mltrigger.store.topics import Topics
from mltrigger.store.transaction import Reader, Row, Transaction
from mltrigger.store.vocabulary import Vocabulary

BUSY_S = 30.0
"""How long a writer waits for another process before StoreError."""
_KEEPER_S = 0.1
"""How long the keeper of the log waits. Writers of this process wait for it meanwhile."""


class SqliteStore(Combined):
    """A SQLite database, in a file or in memory.

    Writers of this process share one connection. A commit is visible first: it waits for no disk
    inside the write lock. Then one sync of the log, outside the lock, makes all commits before it
    durable. Each writer returns after that.

    Parameters
    ----------
    path : Path or None
        The file, created with mode 0600. ``None`` keeps everything in memory.
    durability : {"full", "normal"}
        ``full``: a writer returns when its commit has reached the disk. ``normal`` never syncs: it
        survives a crash of the process, not a power cut. The user chooses it.
    sleep : callable
        Waits. Passed in for tests.
    disk : Disk or None
        Opens the files, and syncs the log. Passed in for tests.
    """

    driver_error = sqlite3.Error
    by_columns, hold_s = True, 0.002

    def __init__(
        self,
        path: Path | None = None,
        durability: str = "full",
        sleep: Callable[[float], None] = time.sleep,
        disk: Disk | None = None,
    ) -> None:
        if durability not in ("full", "normal"):
            raise StoreError(f"durability must be 'full' or 'normal', got {durability!r}")
        self._pid, self._sleep = os.getpid(), sleep
        self._lock = threading.Lock()
        super().__init__()
        self._give_up_s = math.inf
        self._silent = False
        self._connections = Connections(path, lambda: BUSY_S, sleep, disk or SqliteDisk())
        self._syncs = path is not None and durability == "full"
        self._keeper = LogKeeper(self._connections, self._alone)
        self._gate = self._connections.gate
        self.vocabulary, self.topics = Vocabulary(), Topics()
        self.description, self.location = self._connections.description, self._connections.location
        try:
            self._gate.enter(self)
            self._prepare()
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(
                f"{self.description} is not a usable SQLite database: {error}; name another file,"
                " nothing was changed"
            ) from error
        except BaseException:
            self.close()
            raise
        finally:
            self._gate.leave(self)

    def make_durable(self) -> None:
        """Return when all that is visible now is on the disk. See :class:`Store`."""
        user, own = object(), self._owner == threading.get_ident()
        while self._syncs and not self._connections.closed:
            try:
                self._gate.enter(user, waits=not own)  # or a fork would close the log meanwhile
                if self._connections.is_ready:
                    self._connections.sync.force()
                    return
            except OSError:
                self._check_disk()
                raise
            finally:
                self._gate.leave(user)
            with self.transaction(durable=False):
                pass  # a fork has closed it: now it is open again

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql*. A reader sees the last commit, and never waits."""
        self._check_disk()
        try:
            return self._connections.read(
                sql, parameters or {}, self._lock, own=self._owner == threading.get_ident()
            )
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def timekeeper(self, clock: Clock) -> Timekeeper:
        """Return the part that keeps *clock* to the time of the file."""
        return Timekeeper(clock)

    def version(self) -> object:
        """Return a value that differs after each commit. Call it from one thread at a time."""
        try:
            return self._connections.version()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def give_up(self, at_s: float) -> None:
        """Let no writer wait beyond the monotonic time *at_s*: the store is about to close."""
        self._give_up_s = at_s

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Begin a look at one moment, see :class:`~mltrigger.store.transaction.Store`."""
        self._check_disk()
        try:
            with self._connections.reading(
                self._lock, own=self._owner == threading.get_ident()
            ) as driver:
                yield Transaction(self, driver)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def copy(self, to: Callable[[sqlite3.Connection], None]) -> None:
        """Call *to* with a copyable connection, see :class:`~mltrigger.store.transaction.Store`."""
        self._check_disk()
        with self._connections.reading(
            self._lock, own=self._owner == threading.get_ident()
        ) as connection:
            to(cast("sqlite3.Connection", connection))

    def spans(self, table: str, last: int) -> list[tuple[int, int]]:
        """Return nothing: a file has no parts. See :class:`~mltrigger.store.transaction.Store`."""
        return []

    def shed(
        self, transaction: Transaction, table: str, span: tuple[int, int], kept: Sequence[int]
    ) -> NoReturn:
        """Raise an error: there are no :meth:`spans`."""
        raise NotImplementedError("a file has no parts")

    def tidy(self) -> None:
        """Give free pages back, see :class:`~mltrigger.store.transaction.Store`."""
        self._keeper.tidy()

    def lost(self) -> tuple[str, str] | None:
        """Return why nothing can be stored, see :class:`~mltrigger.store.transaction.Store`."""
        if (error := self._connections.sync.error) is not None:
            return poisoned(error)
        return None if (lost := self._connections.lost()) is None else (lost, RETURN)

    def close(self) -> None:
        """Close the connections. The last one of all processes removes the write-ahead log."""
        if self._connections.closed or os.getpid() != self._pid:
            return
        self.give_up(min(self._give_up_s, time.monotonic()))
        self._keeper.stop()
        with self._lock:
            try:
                self._gate.enter(self)
                self._connections.close()
            finally:
                self._gate.leave(self)

    def _check_open(self) -> None:
        self._connections.check()

    def _transaction(self) -> Transaction:
        return Transaction(self, self._connections.writer)

    def _failed(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.DatabaseError):  # a damaged page may be the first sign of it
            try:
                self._connections.check_whole()
            except StoreError as refused:
                return refused
        return StoreError(f"store {self.description}: {error}")

    # -- the write lock ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _holding(self, lock: AbstractContextManager[object] | None = None) -> Iterator[None]:
        """Hold the write lock of this process. The keeper of the log brings it with a limit."""
        self._check_free()
        try:
            # Ctrl-C may come between any two steps. So ``with``, ``except`` and ``finally``
            # release all that is held, never a plain line.
            with lock or self._lock:
                self._connections.check()
                try:
                    self._owner = threading.get_ident()
                    yield
                finally:
                    self._owner = None
                    self._gate.leave(self)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _commit(self, commit: Commit) -> None:
        self._connections.check_place()  # what is nowhere can be leased to nobody
        commit.is_asked = True
        self._connections.writer.execute("COMMIT")
        commit.number = self._counted()
        self._keeper.committed()

    def _undo(self, commit: Commit, error: BaseException) -> None:
        """Roll back, unless it is committed. Ctrl-C may have come after the commit."""
        self._connections.note(error)
        if self._connections.in_transaction:
            self._connections.writer.execute("ROLLBACK")
        elif commit.is_asked and not commit.number and not isinstance(error, sqlite3.Error):
            commit.number = self._counted()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Connection]:
        """Hold the write lock of all processes for the keeper. Changes without a commit are undone.

        A fork waits for the keeper. So the keeper does not wait for it.
        """
        with self._holding(self._gate.holding(self._lock)):
            try:
                end_s = time.monotonic() + _KEEPER_S
                self._connections.patiently(
                    lambda: self._try_to_begin(waits=False), give_up_s=lambda: end_s
                )
                yield self._connections.writer
            except sqlite3.Error as error:
                self._connections.note(error)
                raise
            finally:
                if self._connections.in_transaction:
                    self._connections.writer.execute("ROLLBACK")

    def _begin(self, commit: Commit) -> None:
        self._check_disk()
        if self._silent:
            raise sqlite3.OperationalError("database is locked, and about to be closed here")
        try:
            self._try_to_begin()
        except sqlite3.OperationalError:
            self._wait_to_begin()
        commit.has_begun = True

    def _wait_to_begin(self) -> None:
        try:
            self._connections.patiently(
                self._try_to_begin, self._sleep_outside, lambda: self._give_up_s
            )
        except StoreError:
            # one that waited in vain speaks for all later ones
            self._silent = time.monotonic() > self._give_up_s
            raise

    def _try_to_begin(self, waits: bool = True) -> None:
        self._gate.enter(self, waits)
        connections = self._connections
        if not connections.is_ready:  # for the first time, or after a fork
            connections.open()
        if connections.in_transaction:  # Ctrl-C came in the middle of a rollback
            connections.writer.execute("ROLLBACK")
        connections.writer.execute("BEGIN IMMEDIATE")
        if not connections.is_ready:
            connections.begun()

    def _sleep_outside(self, seconds: float) -> None:
        """Wait for others where no fork waits for us."""
        self._gate.leave(self)
        self._sleep(seconds)

    # -- commits -----------------------------------------------------------------------------------

    def _counted(self) -> int:
        return self._connections.sync.written() if self._syncs else 1

    # -- the disk ----------------------------------------------------------------------------------

    def _await(self, commit: Commit, durable: bool) -> None:
        """Return when *commit* is as durable as it should be. The write lock is not held."""
        if durable and not self._syncs:
            self._connections.check_kept()
        elif durable:
            try:
                self._connections.sync.wait(commit.number)
            except OSError:
                self._check_disk()
                raise

    def _check_disk(self) -> None:
        """Raise DiskFailed for good, once a sync has failed."""
        if (error := self._connections.sync.error) is not None:
            said, advice = poisoned(error)
            raise DiskFailed(f"store {self.description}: {said}; {advice}") from error

    def _prepare(self) -> None:
        self._connections.prepare()
        self._connections.open()
        with self._committing(Commit()):
            schema.create(cast("sqlite3.Connection", self._connections.writer))
        unsure.check(self._connections)
