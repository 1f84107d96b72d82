"""SQLite as a store: one write connection per process, group commit, safe files."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mltrigger.errors import StoreError
from mltrigger.store import schema
from mltrigger.store.connections import Connections
from mltrigger.store.files import file_lock
from mltrigger.store.transaction import Reader, Row, Transaction

BUSY_S = 30.0
"""How long a writer waits for another process before StoreError."""
CHECKPOINT_CHANGES = 20_000
"""Changed rows after which this process moves the write-ahead log into the database."""
LOG_BYTES = 64 * 1024 * 1024
"""Above this size, the write-ahead log of all writers is moved and cut off."""
_LOG_STEP = 16 * 1024 * 1024
"""Bytes until the next try, when a reader kept the log from being cut off."""
_MEASURE_S = 0.01
"""The shortest time between two measures of the log."""
_GROUP = 64


class SqliteStore:
    """A SQLite database, in a file or in memory.

    Writers of this process share one connection. Writers at the same time share one commit (group
    commit). Each runs in a savepoint and returns when the commit has reached the disk.

    Parameters
    ----------
    path : Path or None
        The file, created with mode 0600. ``None`` keeps everything in memory.
    durability : {"full", "normal"}
        ``full``: a commit has reached the disk (``PRAGMA synchronous=FULL``). ``normal`` survives a
        crash of the process, not a power cut. The user chooses it.
    """

    def __init__(
        self,
        path: Path | None = None,
        durability: str = "full",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if durability not in ("full", "normal"):
            raise StoreError(f"durability must be 'full' or 'normal', got {durability!r}")
        self._levels = {True: "FULL" if durability == "full" else "NORMAL", False: "NORMAL"}
        self._level = ""
        self._pid, self._sleep = os.getpid(), sleep
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._waiting: set[object] = set()
        self._give_up_s = math.inf
        self._silent = False
        self._cohort: _Cohort | None = None
        self._checkpoint_at, self._log_at = CHECKPOINT_CHANGES, LOG_BYTES
        self._measure_s, self._log_bytes = 0.0, 0
        self._connections = Connections(path, lambda: BUSY_S, sleep)
        self._gate = self._connections.gate
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

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[Transaction]:
        """Begin a write transaction, see :class:`~mltrigger.store.transaction.Store`."""
        waiting = object()
        self._connections.check()
        if self._owner == threading.get_ident():
            raise RuntimeError(
                "a transaction inside one of the same thread would wait for itself for ever: pass"
                " the unit on"
            )
        try:
            # Ctrl-C may come between any two steps. So ``with``, ``except`` and ``finally``
            # release all that is held, never a plain line.
            self._waiting.add(waiting)
            with self._lock:
                self._waiting.discard(waiting)
                if self._connections.closed:
                    self._connections.check()
                try:
                    self._owner = threading.get_ident()
                    cohort = self._join(durable)
                    transaction = Transaction(self, self._connections.writer)
                    yield transaction
                    self._leave(cohort)
                except BaseException:
                    self._undo()
                    raise
                finally:
                    self._owner = None
                    self._go_out()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        finally:
            self._waiting.discard(waiting)
        self._await(cohort)
        transaction.committed()

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql*. A reader sees the last commit and waits for nobody."""
        try:
            return self._connections.read(
                sql, parameters or {}, self._lock, own=self._owner == threading.get_ident()
            )
        except sqlite3.Error as error:
            raise self._failed(error) from error

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
        try:
            with self._connections.reading(
                self._lock, own=self._owner == threading.get_ident()
            ) as driver:
                yield Transaction(self, driver)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def copy(self, to: Callable[[sqlite3.Connection], None]) -> None:
        """Call *to* with a copyable connection, see :class:`~mltrigger.store.transaction.Store`."""
        with self._connections.reading(
            self._lock, own=self._owner == threading.get_ident()
        ) as connection:
            to(connection)

    def lost(self) -> str | None:
        """Return the trouble when the file was removed or replaced, else ``None``."""
        return self._connections.lost()

    def close(self) -> None:
        """Close the connections. The last one of all processes removes the write-ahead log."""
        if self._connections.closed or os.getpid() != self._pid:
            return
        self.give_up(min(self._give_up_s, time.monotonic()))
        with self._lock:
            try:
                self._gate.enter(self)
                if self._cohort is not None:  # left open for a writer who has not come
                    self._commit(self._cohort)
                self._connections.close()
            finally:
                self._gate.leave(self)

    def _failed(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.DatabaseError):  # a damaged page may be the first sign of it
            try:
                self._connections.check_whole()
            except StoreError as refused:
                return refused
        return StoreError(f"store {self.description}: {error}")

    # -- group commit ------------------------------------------------------------------------------

    def _join(self, durable: bool) -> _Cohort:
        """Be inside a transaction: a new one, or a savepoint of the open one.

        The write lock is held here and in all methods below.
        """
        if self._cohort is None:
            self._begin(durable)
            self._cohort = _Cohort(durable)
        else:
            self._connections.writer.execute("SAVEPOINT member")
        return self._cohort

    def _begin(self, durable: bool) -> None:
        if self._silent:
            raise sqlite3.OperationalError("database is locked, and about to be closed here")
        try:
            self._try_to_begin(durable)
        except sqlite3.OperationalError:
            self._wait_to_begin(durable)

    def _wait_to_begin(self, durable: bool) -> None:
        try:
            self._connections.patiently(
                lambda: self._try_to_begin(durable), self._sleep_outside, lambda: self._give_up_s
            )
        except StoreError:
            # one that waited in vain speaks for all later ones
            self._silent = time.monotonic() > self._give_up_s
            raise

    def _try_to_begin(self, durable: bool) -> None:
        self._gate.enter(self)
        connections = self._connections
        if not connections.is_ready and connections.open():  # for the first time, or after a fork
            self._level, self._checkpoint_at, self._log_at = "", CHECKPOINT_CHANGES, LOG_BYTES
        driver = connections.writer
        if self._level != self._levels[durable]:
            self._level = self._levels[durable]
            driver.execute(f"PRAGMA synchronous={self._level}")
        driver.execute("BEGIN IMMEDIATE")
        if not connections.is_ready:
            connections.begun()

    def _sleep_outside(self, seconds: float) -> None:
        """Wait for others where no fork waits for us."""
        self._gate.leave(self)
        self._sleep(seconds)

    def _go_out(self) -> None:
        """Leave the gate, unless the transaction goes on."""
        if self._cohort is None:
            self._gate.leave(self)

    def _leave(self, cohort: _Cohort) -> None:
        """Commit, or leave the commit to a writer who waits to join."""
        if cohort.size:
            self._connections.writer.execute("RELEASE member")
        cohort.size += 1
        if not cohort.durable or not self._waiting or cohort.size >= _GROUP:
            self._commit(cohort)
        else:
            cohort.leave_open()

    def _await(self, cohort: _Cohort) -> None:
        """Wait until *cohort* is durable, without the write lock."""
        try:
            cohort.wait(0.005)
        finally:
            if not cohort.ended:
                with self._lock:  # nobody came after all
                    try:
                        if not cohort.ended:
                            self._commit(cohort)
                    finally:
                        self._go_out()
        if isinstance(cohort.error, StoreError):
            raise StoreError(str(cohort.error)) from cohort.error
        if cohort.error is not None:
            raise StoreError(
                f"store {self.description}: commit failed: {cohort.error}"
            ) from cohort.error

    def _undo(self) -> None:
        """Roll back this writer only, if there are others in the transaction."""
        cohort = self._cohort
        if not self._connections.in_transaction:
            if cohort is not None:  # SQLite rolled everything back by itself: disk full, I/O error
                self._end(cohort, sqlite3.OperationalError("the transaction was rolled back"))
        elif cohort is None or cohort.size == 0:
            self._connections.writer.execute("ROLLBACK")
            if cohort is not None:
                self._end(cohort)
        else:
            # Ctrl-C before the savepoint began, or after its work was taken in
            with contextlib.suppress(sqlite3.OperationalError):
                self._connections.writer.execute("ROLLBACK TO member")
                self._connections.writer.execute("RELEASE member")
            if not self._waiting:
                self._commit(cohort)

    def _commit(self, cohort: _Cohort) -> None:
        driver = self._connections.writer
        try:
            driver.execute("COMMIT")
            self._connections.committed(cohort.durable)
        except (sqlite3.Error, StoreError) as error:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            self._end(cohort, error)
            return
        except BaseException:
            if not driver.in_transaction:  # Ctrl-C, held back during the wait for the disk
                self._end(cohort)
            raise
        self._end(cohort)
        now_s = time.monotonic()
        if now_s >= self._measure_s:
            self._measure_s = now_s + _MEASURE_S
            self._log_bytes = self._connections.log_bytes()
        if self._log_bytes >= self._log_at or driver.total_changes >= self._checkpoint_at:
            self._checkpoint()

    def _end(self, cohort: _Cohort, error: Exception | None = None) -> None:
        self._cohort = None
        cohort.end(error)

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the database, unless another process does.

        Cut off a long log.

        SQLite 3.7.0 to 3.51.2 can corrupt a database when several processes checkpoint at once
        (https://sqlite.org/wal.html, "The WAL-reset bug"). So its own checkpoints are off, and ours
        hold a file lock.
        """
        self._checkpoint_at = self._connections.writer.total_changes + CHECKPOINT_CHANGES
        if self.location is None:
            return
        # Committed data is safe without it. No handle or no room is no reason to fail.
        with (
            contextlib.suppress(sqlite3.Error, OSError),
            file_lock(Path(self.location + "-checkpoint")) as held,
        ):
            if held:
                self._connections.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if self._log_bytes >= self._log_at:  # little is left to do, so others hardly wait
                    self._connections.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._log_bytes = self._connections.log_bytes()
        self._log_at = LOG_BYTES if self._log_bytes < LOG_BYTES else self._log_bytes + _LOG_STEP

    def _prepare(self) -> None:
        self._connections.prepare()
        self._connections.open()
        self._begin(durable=True)
        try:
            schema.create(self._connections.writer)
        except BaseException:
            self._connections.writer.execute("ROLLBACK")
            raise
        self._connections.writer.execute("COMMIT")


class _Cohort:
    """The writers that share one commit. A single writer needs no event to wait for."""

    __slots__ = ("_done", "durable", "ended", "error", "size")

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.size = 0
        self.ended = False
        self.error: Exception | None = None
        self._done: threading.Event | None = None

    def leave_open(self) -> None:
        """Leave the commit to a waiting writer. The write lock is held, as for :meth:`end`."""
        self._done = self._done or threading.Event()

    def end(self, error: Exception | None) -> None:
        self.error, self.ended = error, True
        if self._done is not None:
            self._done.set()

    def wait(self, timeout_s: float) -> None:
        if self._done is not None:
            self._done.wait(timeout_s)
