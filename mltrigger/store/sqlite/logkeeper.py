"""The keeper of the log: makes it long once, moves it into the database, gives free pages back.

All of that is done in a thread of the store, never in a publish or a settlement.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from mltrigger.errors import StoreError
from mltrigger.store.sqlite.connections import Connections
from mltrigger.store.sqlite.disk import Connection
from mltrigger.store.sqlite.files import file_lock
from mltrigger.store.sqlite.wal import PRESIZED, Wal

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""The part of the log in use from which on it is moved into the database."""
GROWN_BYTES = 128 * 1024
"""The length from which on the log is made long. A command that ends at once never gets there."""
FREE_PAGES = 1024
"""So many free pages stay in the database, and a quarter of all: new events need them again."""
_HOLD_S = 0.002
"""About how long one transaction that gives pages back holds the write lock."""
_LOOK_S, _LOOK_CHANGES = 0.01, 100
"""The log is looked at after so long, or so many changed rows."""
_PAUSE_S = 0.5
"""The shortest time until the next try after one that came to nothing."""
_IDLE_S = 5.0
"""The thread ends after so long without work."""
_PASSES, _REST_FRAMES = 3, 64
"""At most so many passes beside writers, until so little of the log is left for the last one."""
_TOO_LONG = 1.5
"""Writers have to wait for the last pass once the log has so many times its limit."""
_MARK = 12


class LogKeeper:
    """Keeps the log of one store short, with the keepers of other processes.

    SQLite 3.7.0 to 3.51.2 can damage a database when a checkpoint finds nothing left to do while
    another process begins the log anew (https://sqlite.org/wal.html, "The WAL-reset bug"). So
    SQLite's own checkpoints are off. Ours hold a file lock between processes. The first passes of
    a round run beside writers, only when the log has grown. The last pass holds the write lock.
    SQLite syncs the database in it, so the passes before leave it little to sync.

    Parameters
    ----------
    connections : Connections
        Those of the store.
    alone : callable
        Holds the write lock, in a transaction of the connection that it returns.
    """

    def __init__(
        self, connections: Connections, alone: Callable[[], AbstractContextManager[Connection]]
    ) -> None:
        self._connections, self._alone = connections, alone
        self._guard, self._bell = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = self._tidies = False
        self._look_s = self._rest_s = 0.0
        self._changes = 0
        self._mark = (b"", 0)

    # -- from the threads of writers ---------------------------------------------------------------

    def committed(self) -> None:
        """Look at the log after a commit, not after each small one. The write lock is held."""
        wal, now_s = self._connections.wal, time.monotonic()
        if wal is None or now_s < self._rest_s:
            return
        changes = self._connections.writer.total_changes
        if now_s >= self._look_s or abs(changes - self._changes) >= _LOOK_CHANGES:
            self._look_s, self._changes = now_s + _LOOK_S, changes
            # The commit is there. An error here must not look as if it were not.
            with contextlib.suppress(OSError, StoreError):
                if _is_short(wal) or self._is_long(wal):
                    self._ring()

    def tidy(self) -> None:
        """Give free pages of the database back to the file system, after a deletion."""
        if self._connections.wal is not None:
            self._tidies = True
            self._ring()

    def stop(self) -> None:
        """End the thread, after the round under way."""
        self._ended = True
        self._bell.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _ring(self) -> None:
        with self._guard:
            self._bell.set()
            if self._thread is None and not self._ended:
                thread = threading.Thread(target=self._loop, name="mltrigger-log", daemon=True)
                with contextlib.suppress(RuntimeError):  # no thread can be started: later
                    thread.start()
                    self._thread = thread

    # -- in the thread of the keeper ---------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            if not self._bell.wait(_IDLE_S):
                self._try()  # once more: the last commits may have passed without a look
            with self._guard:
                if self._ended or not self._bell.is_set():
                    self._thread = None
                    return
                self._bell.clear()
            self._try()

    def _try(self) -> None:
        # Committed data is safe without it. A busy or full disk is no reason to fail.
        with contextlib.suppress(Exception):
            self.round()

    def round(self) -> None:
        """Do the chores that are due now, unless another process does."""
        self._rest_s = time.monotonic() + _PAUSE_S
        gate = self._connections.gate
        try:
            gate.enter(self)
            if self._connections.is_ready and self._connections.sync.error is None:
                self._keep(self._connections.wal)
        except sqlite3.Error as error:
            self._connections.note(error)
            raise
        finally:
            gate.leave(self)

    def _keep(self, wal: Wal | None) -> None:
        location = self._connections.location
        if wal is None or location is None:
            return
        with file_lock(Path(location + "-checkpoint")) as lock:
            if lock is None:
                return
            if _is_short(wal):
                with contextlib.suppress(OSError), self._alone():
                    wal.presize()
                self._connections.sync.force()
            self._mark = _read(lock)
            tidied = self._tidies and self._gave_back(wal)
            if tidied or self._is_long(wal):
                # Learn of a sync that failed in another process. The connection that moves the log
                # is new, and a kernel tells only handles that were open then.
                self._connections.sync.force()
                try:
                    is_whole = self._checkpoint(wal)
                finally:
                    # The last pass may have had no turn. A round that finds nothing left to do
                    # beside writers is what damages a database.
                    _write(lock, self._mark)
                if self._tidies and is_whole:
                    self._bell.set()  # go on, after a fork that waits
            if not _is_short(wal):
                self._rest_s = 0.0

    def _is_long(self, wal: Wal) -> bool:
        """Whether the log in use has grown to the limit, or by half of it since the last look."""
        salts, limit = wal.salts(), wal.frames_in(CHECKPOINT_BYTES)
        if salts and salts == self._mark[0]:
            limit = max(limit, self._mark[1] + limit // 2)
        return bool(salts) and wal.reaches(limit, salts)

    def _checkpoint(self, wal: Wal) -> bool:
        """Move the log into the database. Return whether all of it was moved."""
        with self._connections.checkpointing() as driver:
            for _ in range(_PASSES):
                salts, frames, moved = self._move(wal, driver)
                self._connections.sync_database()
                few = frames != moved or not wal.reaches(moved + _REST_FRAMES, salts)
                if few or wal.reaches(wal.frames_in(int(_TOO_LONG * CHECKPOINT_BYTES)), salts):
                    break
            if frames == moved:  # else a reader needs the rest of the log as it is
                # Nobody writes now. So the next writer finds all moved, and begins the log anew.
                with self._alone():
                    _, frames, moved = self._move(wal, driver)
        return frames == moved

    def _move(self, wal: Wal, driver: Connection) -> tuple[bytes, int, int]:
        """Checkpoint once. Return the generation of the log, its frames, and those moved."""
        salts = wal.salts()
        frames, moved = _pass(driver)
        self._mark = salts, frames
        return salts, frames, moved

    def _gave_back(self, wal: Wal) -> bool:
        """Give free pages back, a few at a time, until the log is long. Return whether any.

        On a slow disk that takes longer than a fork waits. So it ends then, and goes on later.
        """
        any_given = False
        while not (self._ended or self._connections.gate.is_shut or self._is_long(wal)):
            with self._alone() as driver:
                began_s = time.monotonic()
                if (surplus := _surplus(driver)) <= 0:
                    self._tidies = False
                    break
                for _ in range(surplus):
                    # Of more, sqlite3 would take only the first: it fetches no row without columns.
                    driver.execute("PRAGMA incremental_vacuum(1)").fetchall()
                    if time.monotonic() > began_s + _HOLD_S:
                        break
                ((cleared,),) = driver.execute("PRAGMA user_version").fetchall()
                driver.execute(f"PRAGMA user_version={cleared + 1}")  # see place.Written
                driver.execute("COMMIT")
                any_given, ended_s = True, time.monotonic()
            # Now others write. Else their next sync would have all of this to write.
            self._connections.sync.force()
            time.sleep(max(0.0, ended_s + (ended_s - began_s) / 2 - time.monotonic()))
        return any_given


def _surplus(driver: Connection) -> int:
    """Return how many pages are to be given back."""
    ((free,),) = driver.execute("PRAGMA freelist_count").fetchall()
    ((pages,),) = driver.execute("PRAGMA page_count").fetchall()
    return int(free - max(FREE_PAGES, pages // 4))


def _is_short(wal: Wal) -> bool:
    return GROWN_BYTES < wal.size() < PRESIZED


def _pass(driver: Connection) -> tuple[int, int]:
    """Checkpoint without waiting for readers. Return the frames of the log, and those moved."""
    ((_, frames, moved),) = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return frames, moved


def _read(lock: int) -> tuple[bytes, int]:
    """Return the generation and length of the log at the last checkpoint of any process."""
    os.lseek(lock, 0, os.SEEK_SET)
    kept = os.read(lock, _MARK)
    return (kept[:8], int.from_bytes(kept[8:], "big")) if len(kept) == _MARK else (b"", 0)


def _write(lock: int, mark: tuple[bytes, int]) -> None:
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, mark[0].ljust(8, b"\0") + mark[1].to_bytes(4, "big"))
