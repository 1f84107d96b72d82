"""The connections of a process to one SQLite database: one that writes, some that read.

They open when needed and close while the process forks.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mltrigger.errors import Closed, StoreError
from mltrigger.store.keys import id_key, id_text, trace_id
from mltrigger.store.sqlite import forks, unsure
from mltrigger.store.sqlite.disk import Connection, Disk
from mltrigger.store.sqlite.durable import SharedSync
from mltrigger.store.sqlite.files import File, forget_files, open_file, release_file, sync_file
from mltrigger.store.sqlite.place import Lost, Place
from mltrigger.store.sqlite.wal import Wal

Sleep = Callable[[float], None]

_FUNCTIONS = (("event_id", 1, id_text), ("event_key", 1, id_key), ("trace_id", 2, trace_id))
"""The functions of our SQL: name, number of arguments, and the function."""
_READERS = 4
"""The number of reading connections to keep for the next question."""
_CHECKPOINT_BUSY_S = 0.1
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.0005, 0.05
"""The steps in which a writer waits for other processes."""
LONGEST_LOG = 16 * 1024 * 1024
"""A longer log, of a large transaction or beside a slow reader, is cut when it begins anew."""
RETURN = "put it back, or close this bus and connect again"
"""The advice for a file that has lost its name or its content."""


class Connections:
    """Opens and closes the connections of a store.

    Call all methods but :meth:`reading` with the store's write lock held.

    Parameters
    ----------
    path : Path or None
        The file. ``None`` for a database in memory, which lives as long as its one connection.
    busy_s : callable
        Returns how long to wait for another program.
    sleep : callable
        Waits. Passed in for tests.
    disk : Disk
        Opens the files.
    """

    def __init__(
        self, path: Path | None, busy_s: Callable[[], float], sleep: Sleep, disk: Disk
    ) -> None:
        self.description = "memory" if path is None else path.name
        self.location = None if path is None else str(path.resolve())
        self.closed = False
        self.is_ready = False
        """Whether the writing connection is open, its files are known, and none is lost."""
        self._pid, self._path, self._busy_s, self._sleep = os.getpid(), path, busy_s, sleep
        self._disk = disk
        self._file: File | None = None
        self._place: Place | None = None
        self._lost: Lost | None = None
        self._raw: Connection | None = None
        self.wal = None if self.location is None else Wal(disk, self.location)
        self.sync = SharedSync(self._to_the_disk, self._mark)
        self._idle: list[Connection] = []
        self._watching: Connection | None = None
        self._watched = 0
        forks.add(self, forget_files)
        self.gate = forks.gate()

    def prepare(self) -> None:
        """Make the file, or check the existing one."""
        if self._path is not None:
            self._file = open_file(self._path, self._disk)
            self._place = Place(str(self._path.resolve()), self._file)

    def check(self) -> None:
        """Raise Closed when closed, StoreError in a forked child."""
        if self.closed:
            raise Closed("this bus is closed: mt.connect(…) opens another one")
        if os.getpid() != self._pid:
            raise StoreError(
                "this bus was opened before a fork; SQLite connections must not be shared: call"
                " mt.connect(…) in the child"
            )

    # -- write -------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether files are open."""
        return self._raw is not None and self._place is not None

    @property
    def writer(self) -> Connection:
        """The writing connection, once it is open."""
        assert self._raw is not None  # noqa: S101 - for the type checker
        return self._raw

    @property
    def in_transaction(self) -> bool:
        """Whether the writing connection is inside a transaction."""
        return self._raw is not None and self._raw.in_transaction

    def open(self) -> bool:
        """Open the writing connection. Return whether it was opened now.

        A lost file must be back.
        """
        if self._lost is not None or self._raw is None:
            self.check_place()
        if self._raw is not None:
            return False
        self._raw = self._connected(reads=False)
        return True

    def begun(self) -> None:
        """Note that a transaction has begun. All files exist by now."""
        if self._place is not None and not self._place.is_noted:
            self._place.note()
            self._open_log()
        self.is_ready = self._lost is None

    def _open_log(self) -> None:
        assert self.wal is not None  # noqa: S101 - a file has one
        try:
            self.wal.open()
        except OSError as error:
            self._place.forget() if self._place is not None else None
            raise sqlite3.OperationalError(
                f"its write-ahead log cannot be opened ({error.strerror})"
            ) from error

    def let_go(self) -> None:
        """Close all of a file until it is needed again."""
        if self._place is not None:
            self._close()

    def close(self) -> None:
        """Close everything for good."""
        self.closed = True
        self._close()
        forks.remove(self)
        if self._file is not None:
            release_file(self._file)

    def _close(self) -> None:
        if self.wal is not None:
            self.sync.finish()  # another process may keep the log
            self.wal.close()
        for connection in (self._raw, self._watching, *self._idle):
            if connection is not None:
                connection.close()
        self._raw, self._watching, self._idle, self.is_ready = None, None, [], False
        if self._place is not None:
            self._place.forget()

    # -- read --------------------------------------------------------------------------------------

    def read(
        self, sql: str, parameters: Mapping[str, Any], lock: threading.Lock, own: bool
    ) -> list[Any]:
        """Return the rows of *sql*. Like :meth:`reading`, for one question."""
        if self._place is None:
            with self.reading(lock, own) as driver:
                return list(driver.execute(sql, parameters))
        self.check()
        reader = object()
        try:
            self.gate.enter(reader, waits=not own)
            connection = self._take()
            try:
                return list(connection.execute(sql, parameters))
            finally:
                self._give_back(connection)
        finally:
            self.gate.leave(reader)

    def version(self) -> tuple[int, int]:
        """Return a value that differs after each commit. See :meth:`Store.version`."""
        self.check()
        if self._place is None:
            return 0, self.writer.total_changes
        reader = object()
        try:
            self.gate.enter(reader)
            self.check_place()
            if self._watching is None:  # numbers of two connections cannot be compared
                self._watching, self._watched = self._connected(reads=True), self._watched + 1
            ((number,),) = self._watching.execute("PRAGMA data_version").fetchall()
            return self._watched, int(number)
        finally:
            self.gate.leave(reader)

    @contextlib.contextmanager
    def reading(self, lock: threading.Lock, own: bool) -> Iterator[Connection]:
        """Hold a reading connection.

        *own*: this thread is in a transaction, and must not wait for its own end.
        """
        # In memory there is only one connection. Its lock comes first, as for writers: a fork waits
        # for all who are inside.
        only = self._place is None and not own
        reader = object()
        with lock if only else contextlib.nullcontext():
            self.check()
            try:
                self.gate.enter(reader, waits=not own)
                if self._place is None:
                    yield self.writer
                    return
                connection = self._take()
                try:
                    connection.execute("BEGIN")
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    self._give_back(connection)
            finally:
                self.gate.leave(reader)

    def _take(self) -> Connection:
        self.check_place()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connected(reads=True)

    def _give_back(self, connection: Connection) -> None:
        if len(self._idle) < _READERS and not self.closed:
            self._idle.append(connection)
        else:
            connection.close()

    @contextlib.contextmanager
    def checkpointing(self) -> Iterator[Connection]:
        """Hold a connection that moves the log into the database, and syncs both."""
        assert self.location is not None  # noqa: S101 - a file has one
        with contextlib.closing(self._disk.connect(self.location, _CHECKPOINT_BUSY_S)) as driver:
            driver.execute("PRAGMA wal_autocheckpoint=0")
            driver.execute("PRAGMA synchronous=NORMAL")  # at OFF a power cut damages the file
            yield driver

    def sync_database(self) -> None:
        """Sync the database file, to which the log was moved. The write lock is not needed."""
        try:
            if self._file is not None:
                sync_file(self._file)
        except OSError as error:
            self.sync.poison(error)
            raise

    # -- the files ---------------------------------------------------------------------------------

    def _to_the_disk(self) -> None:
        """Bring the log to the disk. Raise StoreError when it is nowhere."""
        assert self.wal is not None  # noqa: S101 - a file has one
        self.wal.sync()
        self.check_kept()

    def _mark(self) -> None:
        if self.location is not None:
            unsure.mark(self.location)

    def note(self, error: BaseException) -> None:
        """Poison the store when *error* is a sync that failed inside SQLite."""
        if "FSYNC" in getattr(error, "sqlite_errorname", ""):
            self.sync.poison(OSError(errno.EIO, f"{error}, in a sync of SQLite"))

    def check_kept(self) -> None:
        """Raise StoreError when the last commit is nowhere."""
        try:
            if self._place is not None:
                self._place.check()
        except Lost as lost:
            raise self._refused(lost) from None

    def check_place(self) -> None:
        """Raise StoreError when the file was removed or replaced, until everything is back."""
        try:
            if self._place is not None:
                self._place.check() if self._lost is not None else self._place.check_database()
            self._lost = None
        except Lost as lost:
            raise self._refused(lost) from None

    def check_whole(self) -> None:
        """Raise StoreError when an open file has lost its name or content. Trust no time of it."""
        try:
            if self._place is not None:
                self._place.check_whole()
        except Lost as lost:
            raise self._refused(lost) from None

    def lost(self) -> str | None:
        """Return how an open file has lost its name or content, else ``None``."""
        try:
            if self._place is not None:
                self._place.check()
        except Lost as lost:
            return str(lost)
        return None

    def _refused(self, lost: Lost) -> StoreError:
        self._lost, self.is_ready = lost, False
        return StoreError(f"store {self.description}: {lost}; {RETURN}")

    # -- patience ----------------------------------------------------------------------------------

    def patiently(
        self,
        action: Callable[[], object],
        sleep: Sleep | None = None,
        give_up_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Do *action*, waiting for other programs until the monotonic time of *give_up_s*.

        SQLite's own wait does not cover a change of the journal mode. *give_up_s* may change
        meanwhile.
        """
        began_s = time.monotonic()
        while True:
            try:
                action()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                waited_s = time.monotonic() - began_s
                if waited_s > min(self._busy_s(), give_up_s() - began_s):
                    raise self._locked(waited_s) from error
                # Most hold the lock for a millisecond, and some soon take it again.
                step_s = min(max(_SHORTEST_WAIT_S, waited_s / 4), _LONGEST_WAIT_S)
                (sleep or self._sleep)(random.uniform(step_s / 2, step_s))
            else:
                return

    def _locked(self, waited_s: float) -> StoreError:
        who = (self._place.writer() if self._place is not None else "") or "another program"
        return StoreError(
            f"store {self.description}: database is locked: {who} holds its write lock; waited"
            f" {waited_s:.1f} s. Let it go on or end it, then try again"
        )

    def _connected(self, reads: bool) -> Connection:
        # A writer waits in short steps of ours. Between them it notices Ctrl-C and the end of
        # the process. SQLite's own steps grow so soon that a busy process shuts others out.
        connection = self._disk.connect(self.location or ":memory:", 5.0 if reads else 0.0)
        try:
            if self._path is not None and not reads:
                if self._path.stat().st_size == 0:  # later it would write, and change nothing
                    self.patiently(lambda: connection.execute("PRAGMA auto_vacuum=INCREMENTAL"))
                self.patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"))
                connection.execute("PRAGMA synchronous=NORMAL")  # the sync of a commit is ours
                connection.execute(f"PRAGMA journal_size_limit={LONGEST_LOG}").fetchall()
                # An INSERT of many rows notes what it can undo: not in a file of its own.
                connection.execute("PRAGMA temp_store=MEMORY")
            for name, n, function in _FUNCTIONS:
                connection.create_function(name, n, function, deterministic=True)
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("PRAGMA cache_size=-32768")
            if reads:
                connection.execute("PRAGMA query_only=1")
        except BaseException:
            connection.close()
            raise
        return connection
