"""SQLite as a store: one write connection per process, group commit, safe files."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool, StaticPool

from mltrigger.errors import Closed, StoreError
from mltrigger.store.files import file_lock, open_file, release_file
from mltrigger.store.schema import migrate
from mltrigger.store.transaction import Reader, Row, Transaction

BUSY_S = 30.0
"""How long a writer waits for another process before it gives up with StoreError."""
CHECKPOINT_CHANGES = 20_000
"""Changed rows after which this process moves the write-ahead log into the database."""
LOG_BYTES = 64 * 1024 * 1024
"""Size of the write-ahead log above which a process that opens the store moves it into the database at its first commit."""
_GROUP = 64


class SqliteStore:
    """A SQLite database, in a file or in memory.

    Writers of this process share one connection and, when they come at the same time, one commit (group commit): each runs in a
    savepoint of the same transaction and returns when the commit has reached the disk.

    Parameters
    ----------
    path : Path or None
        The file, created with mode 0600; ``None`` keeps everything in memory.
    durability : {"full", "normal"}
        ``full``: a commit has reached the disk (``PRAGMA synchronous=FULL``). ``normal`` survives a crash of the process, not a
        power cut: the user's choice.
    """

    def __init__(self, path: Path | None = None, durability: str = "full", sleep: Callable[[float], None] = time.sleep) -> None:
        if durability not in ("full", "normal"):
            raise StoreError(f"durability must be 'full' or 'normal', got {durability!r}")
        self.description = "memory" if path is None else path.name
        self.location = None if path is None else str(path.resolve())
        self._pid, self._sleep, self._closed = os.getpid(), sleep, False
        self._levels = {True: "FULL" if durability == "full" else "NORMAL", False: "NORMAL"}
        self._level = ""
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._waiting: set[Transaction] = set()
        self._give_up_s = math.inf
        self._silent = False
        self._cohort: _Cohort | None = None
        self._file = open_file(path) if path is not None else None
        # What others left behind counts too: processes that never live long enough would let the log grow without end.
        self._checkpoint_at = CHECKPOINT_CHANGES if _log_bytes(path) < LOG_BYTES else 0
        self._engine = _engine(path, readers=False, sleep=sleep)
        self._readers = _engine(path, readers=True, sleep=sleep) if path is not None else None
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._raw: sqlite3.Connection = self._connection.connection.driver_connection  # type: ignore[assignment]
        try:
            self._prepare_schema()
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(
                f"{self.description} is not a usable SQLite database: {error}; name another file, nothing was changed"
            ) from error
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def transaction(self, durable: bool = True) -> Iterator[Transaction]:
        """Begin a write transaction; see :class:`~mltrigger.store.transaction.Store`."""
        transaction = Transaction(self, self._raw)
        self._check()
        if self._owner == threading.get_ident():
            raise RuntimeError("a transaction inside one of the same thread would wait for itself for ever: pass the unit on")
        try:
            # Ctrl-C may come between any two steps: what is held is let go of by ``with``, ``except`` and ``finally``, never by a line.
            self._waiting.add(transaction)
            with self._lock:
                self._waiting.discard(transaction)
                self._check()
                try:
                    self._owner = threading.get_ident()
                    cohort = self._join(durable)
                    yield transaction
                    self._leave(cohort)
                except BaseException:
                    self._undo()
                    raise
                finally:
                    self._owner = None
        except sqlite3.Error as error:
            raise self._failed(error) from error
        finally:
            self._waiting.discard(transaction)
        self._await(cohort)
        transaction.committed()

    def read(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the rows of *sql*; a reader sees the last commit and waits for nobody."""
        self._check()
        try:
            if self._readers is None:  # in memory there is one connection only
                if self._owner == threading.get_ident():  # a look from inside a transaction must not wait for its end
                    return self._raw.execute(sql, parameters or {}).fetchall()
                with self._lock:
                    return self._raw.execute(sql, parameters or {}).fetchall()
            with self._readers.connect() as connection:
                driver: Any = connection.connection.driver_connection
                rows: list[Row] = driver.execute(sql, parameters or {}).fetchall()
                return rows
        except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
            raise self._failed(error) from error

    def give_up(self, at_s: float) -> None:
        """Let no writer wait for another process beyond the monotonic time *at_s*: the store is about to be closed."""
        self._give_up_s = at_s

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Reader]:
        """Begin a look at one moment; see :class:`~mltrigger.store.transaction.Store`."""
        self._check()
        try:
            if self._readers is None:
                with self._lock:
                    yield Transaction(self, self._raw)
                return
            with self._readers.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("BEGIN")
                try:
                    yield Transaction(self, driver)
                finally:
                    driver.execute("ROLLBACK")
        except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the connections; the last one of all processes removes the write-ahead log."""
        if self._closed or os.getpid() != self._pid:
            return
        self.give_up(min(self._give_up_s, time.monotonic()))
        with self._lock:
            self._closed = True
            self._connection.close()
            self._engine.dispose()
            if self._readers is not None:
                self._readers.dispose()
            if self._file is not None:
                release_file(self._file)

    def _check(self) -> None:
        if self._closed:
            raise Closed("this bus is closed: mt.connect(…) opens another one")
        if os.getpid() != self._pid:
            raise StoreError("this bus was opened before a fork; SQLite connections must not be shared: call mt.connect(…) in the child")

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"store {self.description}: {getattr(error, 'orig', error)}")

    # -- group commit ---------------------------------------------------------------------------------------------------------

    def _join(self, durable: bool) -> _Cohort:
        """Be inside a transaction: an own one, or a savepoint of the one that is open. The write lock is held, as in all that follows."""
        if self._cohort is None:
            self._begin(durable)
            self._cohort = _Cohort(durable)
        else:
            self._raw.execute("SAVEPOINT member")
        return self._cohort

    def _begin(self, durable: bool) -> None:
        if self._silent:
            raise sqlite3.OperationalError("database is locked, and about to be closed here")
        if self._level != self._levels[durable]:
            self._level = self._levels[durable]
            self._raw.execute(f"PRAGMA synchronous={self._level}")
        try:
            _patiently(self._raw, "BEGIN IMMEDIATE", self._sleep, lambda: self._give_up_s)
        except sqlite3.OperationalError:
            self._silent = time.monotonic() > self._give_up_s  # one that waited in vain speaks for all who come after
            raise

    def _leave(self, cohort: _Cohort) -> None:
        """Commit, or leave that to a writer who is waiting to add to the same transaction."""
        if cohort.size:
            self._raw.execute("RELEASE member")
        cohort.size += 1
        if not cohort.durable or not self._waiting or cohort.size >= _GROUP:
            self._commit(cohort)
        else:
            cohort.leave_open()

    def _await(self, cohort: _Cohort) -> None:
        """Return when *cohort* is durable; the write lock is not held."""
        try:
            cohort.wait(0.005)
        finally:
            if not cohort.ended:
                with self._lock:  # nobody came after all
                    if not cohort.ended:
                        self._commit(cohort)
        if cohort.error is not None:
            raise StoreError(f"store {self.description}: commit failed: {cohort.error}") from cohort.error

    def _undo(self) -> None:
        """Roll back this writer only, if there are others in the transaction."""
        cohort = self._cohort
        if not self._raw.in_transaction:
            if cohort is not None:  # SQLite itself rolled everything back: disk full, I/O error
                self._end(cohort, sqlite3.OperationalError("the transaction was rolled back"))
        elif cohort is None or cohort.size == 0:
            self._raw.execute("ROLLBACK")
            if cohort is not None:
                self._end(cohort)
        else:
            with contextlib.suppress(sqlite3.OperationalError):  # Ctrl-C before the savepoint was there, or after its work was taken in
                self._raw.execute("ROLLBACK TO member")
                self._raw.execute("RELEASE member")
            if not self._waiting:
                self._commit(cohort)

    def _commit(self, cohort: _Cohort) -> None:
        try:
            self._raw.execute("COMMIT")
        except sqlite3.Error as error:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            self._end(cohort, error)
            return
        except BaseException:
            if not self._raw.in_transaction:  # Ctrl-C, held back while the disk was waited for
                self._end(cohort)
            raise
        self._end(cohort)
        if self._raw.total_changes >= self._checkpoint_at:
            self._checkpoint()

    def _end(self, cohort: _Cohort, error: sqlite3.Error | None = None) -> None:
        self._cohort = None
        cohort.end(error)

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the database, if no other process is doing so.

        SQLite 3.7.0 to 3.51.2 can corrupt a database when several processes checkpoint at once
        (https://sqlite.org/wal.html, "The WAL-reset bug"), so its own checkpoints are off and ours hold a file lock.
        """
        self._checkpoint_at = self._raw.total_changes + CHECKPOINT_CHANGES
        if self.location is not None:
            # What was committed is safe without it: no handle left, or no room, is no reason to fail.
            with contextlib.suppress(sqlite3.Error, OSError), file_lock(Path(self.location + "-checkpoint")) as held:
                if held:
                    self._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _prepare_schema(self) -> None:
        self._begin(durable=True)
        try:
            migrate(self._connection)
        except BaseException:
            self._raw.execute("ROLLBACK")
            raise
        self._raw.execute("COMMIT")


class _Cohort:
    """The writers that share one commit. Most are alone, and need no event to wait for."""

    __slots__ = ("_done", "durable", "ended", "error", "size")

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.size = 0
        self.ended = False
        self.error: sqlite3.Error | None = None
        self._done: threading.Event | None = None

    def leave_open(self) -> None:
        """Leave the commit to a writer who is waiting; called with the write lock held, like :meth:`end`."""
        self._done = self._done or threading.Event()

    def end(self, error: sqlite3.Error | None) -> None:
        self.error, self.ended = error, True
        if self._done is not None:
            self._done.set()

    def wait(self, timeout_s: float) -> None:
        if self._done is not None:
            self._done.wait(timeout_s)


def _log_bytes(path: Path | None) -> int:
    """Return the size of the write-ahead log; 0 where there is none."""
    try:
        return 0 if path is None else os.stat(f"{path}-wal").st_size  # noqa: PTH116 - the path with an ending of SQLite's own
    except OSError:
        return 0


def _patiently(connection: Any, sql: str, sleep: Callable[[float], None], give_up_s: Callable[[], float] = lambda: math.inf) -> None:
    """Run *sql*, waiting for other processes up to ``BUSY_S``; SQLite's own wait does not cover a change of the journal mode.

    It waits no longer than until the monotonic time that *give_up_s* returns, which may change meanwhile.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > min(deadline, give_up_s()):
                raise
            sleep(random.uniform(0.001, 0.05))
        else:
            return


def _engine(path: Path | None, readers: bool, sleep: Callable[[float], None]) -> sa.Engine:
    options: dict[str, Any] = (
        {"poolclass": StaticPool} if path is None or not readers else {"poolclass": QueuePool, "pool_size": 4, "max_overflow": 12}
    )
    url = sa.URL.create("sqlite", database=":memory:" if path is None else str(path))
    # A writer waits in short steps, between which Ctrl-C and the end of the process are noticed.
    arguments = {"check_same_thread": False, "isolation_level": None, "timeout": 5.0 if readers else 0.1, "cached_statements": 256}
    engine = sa.create_engine(url, connect_args=arguments, **options)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        if path is not None and not readers:
            _patiently(connection, "PRAGMA journal_mode=WAL", sleep)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA cache_size=-32768")
        if readers:
            connection.execute("PRAGMA query_only=1")

    return engine
