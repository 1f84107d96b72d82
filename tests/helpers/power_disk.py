"""A disk for stores that notes all that happens on it. It needs apsw, for its VFS.

apsw brings its own SQLite. Never load this where ``sqlite3`` opens the same file: the locks of
either break those of the other. So only ``power_load.py`` loads it, in a process of its own.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import apsw
from power_record import Record

from mltrigger.store.sqlite.disk import SqliteDisk

_VFS = "power"


class _File(apsw.VFSFile):
    """A file of the platform that notes writes when they have ended."""

    def __init__(self, name: Any, flags: list[int], disk: PowerDisk) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._file = b"l" if path.endswith("-wal") else b"d"
        disk.opened(self)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's name
        super().xWrite(data, offset)
        self._disk.record.note(b"W", self._file, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._disk.record.note(b"T", self._file, size)

    def xSync(self, _flags: int) -> None:  # noqa: N802
        try:
            self._disk.note_sync(self._file, self)
        except OSError as error:
            refused = apsw.IOError(str(error))
            refused.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise refused from error


class _Vfs(apsw.VFS):
    """The file system of the platform, with locks and shared memory. Its files are ours."""

    def __init__(self, disk: PowerDisk) -> None:
        super().__init__(_VFS, base="")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(name, flags, self._disk)


class PowerDisk(SqliteDisk):
    """A :class:`~mltrigger.store.sqlite.disk.Disk` that notes what is written and synced.

    Parameters
    ----------
    record : Record
        Takes the notes.
    wrong : str
        ``no sync``: a sync of the log returns without one. ``keeper``: no connection syncs, as
        with ``PRAGMA synchronous=OFF``.
    fails_at : int
        The number of the sync of the log that fails, from 1 on. 0: none. As on Linux, each handle
        that was open then learns of it at its next sync, and later handles never do.
    sync_s : float
        How long a sync takes, so that others write meanwhile.
    """

    def __init__(
        self, record: Record, wrong: str = "", fails_at: int = 0, sync_s: float = 0.0005
    ) -> None:
        self.record, self._wrong, self._sync_s = record, wrong, sync_s
        self._left, self._unaware = fails_at, set[object]()
        self._handles, self._guard = set[object](), threading.Lock()
        self._vfs = _Vfs(self)

    def connect(self, location: str, timeout_s: float) -> Connection:  # type: ignore[override]
        db = apsw.Connection(location, vfs=_VFS)
        db.set_busy_timeout(int(timeout_s * 1000))
        return Connection(db, self._wrong == "keeper")

    def open_log(self, location: str) -> int:
        log = super().open_log(location)
        self.opened(log)
        return log

    def opened(self, handle: object) -> None:
        """Note a new handle."""
        with self._guard:
            self._handles.add(handle)
            self._unaware.discard(handle)  # a number is used again

    def fail_next(self) -> None:
        """Let the next sync of the log fail."""
        with self._guard:
            self._left = 1

    def zeros(self, log: int, end: int) -> None:
        begin = self.size(log)
        super().zeros(log, end)
        if end > begin:
            self.record.note(b"W", b"l", begin, bytes(end - begin))

    def sync(self, log: int) -> None:
        if self._wrong != "no sync":
            self.note_sync(b"l", log)

    def note_sync(self, file: bytes, handle: object) -> None:
        """Note a sync. It covers the writes that have ended when it begins."""
        thread = threading.get_native_id()
        self.record.note(b"B", file, thread)
        time.sleep(self._sync_s)
        fails = file == b"l" and self._fails(handle)
        self.record.note(b"F" if fails else b"S", file, thread)
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _fails(self, handle: object) -> bool:
        with self._guard:
            self._left -= 1
            if self._left == 0:
                self._unaware = set(self._handles)
            is_unaware = handle in self._unaware
            self._unaware.discard(handle)
            return is_unaware


class Connection:
    """A connection of apsw with the interface and the errors of ``sqlite3``."""

    def __init__(self, db: apsw.Connection, is_careless: bool) -> None:
        self._db, self._is_careless = db, is_careless

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    @property
    def total_changes(self) -> int:
        return self._db.total_changes()

    def execute(self, sql: str, parameters: Any = (), /) -> Rows:
        return self._run(sql, [parameters])

    def executemany(self, sql: str, parameters: Any, /) -> Rows:
        return self._run(sql, parameters)

    def create_function(
        self,
        name: str,
        narg: int,
        func: Callable[..., Any] | None,
        /,
        *,
        deterministic: bool = False,
    ) -> None:
        self._db.create_scalar_function(name, func, narg, deterministic=deterministic)

    def close(self) -> None:
        with _errors():
            self._db.close()

    def _run(self, sql: str, each: Any) -> Rows:
        if self._is_careless and sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous=OFF"
        rows: list[tuple[Any, ...]] = []
        changes = 0
        with _errors():
            for parameters in each:
                before = self._db.total_changes()
                bound = dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)
                rows += self._db.execute(sql, bound)
                changes += self._db.changes() if self._db.total_changes() != before else 0
        return Rows(rows, changes)


class Rows:
    """A cursor whose rows are all there."""

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self._rows, self.rowcount = iter(rows), rowcount

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise the errors of ``sqlite3`` for those of apsw."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise sqlite3.OperationalError("database is locked") from error
    except apsw.ConstraintError as error:
        raise sqlite3.IntegrityError(str(error)) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise sqlite3.DatabaseError(str(error)) from error
    except apsw.Error as error:
        found = sqlite3.OperationalError(str(error))
        name = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0), "")
        found.sqlite_errorname = str(name)  # type: ignore[misc]
        raise found from error
