"""The disk below a SQLite store, as a part: connections, and the file of the write-ahead log.

Tests pass another disk, to cut the power or to make a sync fail.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from typing import Any, Protocol

_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_CHUNK = bytes(256 * 1024)


class Connection(Protocol):
    """The part of a SQLite connection that a store uses. It raises the errors of ``sqlite3``.

    It is in autocommit mode: transactions begin and end with statements. Threads take turns.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    @property
    def total_changes(self) -> int:
        """The number of rows changed since the connection was opened."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any:
        """Run *sql*. Return a cursor: iterable, with ``fetchall()`` and ``rowcount``."""

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        """Run *sql* for each of *parameters*. Return a cursor with ``rowcount``."""

    def create_function(
        self, name: str, narg: int, func: Callable[..., Any] | None, /, *, deterministic: bool = ...
    ) -> None:
        """Make *func* callable in SQL."""

    def close(self) -> None:
        """Close it."""


class Disk(Protocol):
    """Where a store lies. The promise of ``durability=full`` rests on :meth:`sync`."""

    def connect(self, location: str, timeout_s: float) -> Connection:
        """Open a connection to the database at *location*. It waits *timeout_s* for a lock.

        Any thread may use it. No pragma is set yet.
        """

    def open_log(self, location: str) -> int:
        """Return a handle of the write-ahead log of the database at *location*. It exists."""

    def size(self, log: int) -> int:
        """Return the size of the log in bytes."""

    def read(self, log: int, count: int, at: int) -> bytes:
        """Return at most *count* bytes of the log from byte *at* on."""

    def zeros(self, log: int, end: int) -> None:
        """Write zeros from the end of the log up to byte *end*. The write lock is held."""

    def sync(self, log: int) -> None:
        """Return when all that was written to the log before has reached the disk.

        Raises
        ------
        OSError
            When the disk refuses. The log is not to be trusted from then on.
        """

    def close_log(self, log: int) -> None:
        """Give the handle back."""


class SqliteDisk:
    """The disk of this machine, with the ``sqlite3`` of Python."""

    def connect(self, location: str, timeout_s: float) -> Connection:
        """Open a connection, see :class:`Disk`."""
        return sqlite3.connect(
            location,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )

    def open_log(self, location: str) -> int:
        """Return a handle. Never one of the ``-shm``: closing that gives SQLite's locks away."""
        return os.open(location + "-wal", _FLAGS)

    def size(self, log: int) -> int:
        """Return the size in bytes."""
        return os.fstat(log).st_size

    def read(self, log: int, count: int, at: int) -> bytes:
        """Return some bytes."""
        if hasattr(os, "pread"):
            return os.pread(log, count, at)
        os.lseek(log, at, os.SEEK_SET)  # Windows
        return os.read(log, count)

    def zeros(self, log: int, end: int) -> None:
        """Write zeros up to *end*."""
        at = os.lseek(log, 0, os.SEEK_END)
        while at < end:
            at += os.write(log, _CHUNK[: end - at])

    def sync(self, log: int) -> None:
        """Return when the log is on the disk, see :class:`Disk`."""
        if sys.platform == "darwin":  # fsync leaves it in the cache of the drive there
            import fcntl

            fcntl.fcntl(log, fcntl.F_FULLFSYNC)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(log)
        else:
            os.fsync(log)

    def close_log(self, log: int) -> None:
        """Give the handle back."""
        os.close(log)
