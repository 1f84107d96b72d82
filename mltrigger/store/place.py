"""Where a SQLite store lies: whether the files that are open still have their names, and who else
holds their locks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from mltrigger.store.files import HEADER_BYTES, MAGIC, File, header_of

_COARSEST_S = 2.5
"""No file system tells times less exactly: FAT has steps of two seconds."""
_STEP_NS, _EXACT_S = 10_000_000, 0.1
"""A time that is no multiple of the first comes from the kernel's clock, whose steps are at most
that long; then the second is enough.
"""
_LOCKS = "/proc/locks"
_FIELDS = 8
"""Of a line about a lock that is held; one that is waited for has an arrow more
(https://man7.org/linux/man-pages/man5/proc_locks.5.html).
"""
_WRITE_BYTE = 120
"""The byte of the ``-shm`` file that a writer locks (https://sqlite.org/walformat.html, "WAL
locks").
"""
_PENDING_BYTE = 0x40000000
"""From here on a file is locked by who has the whole of it (https://sqlite.org/fileformat2.html,
"The lock-byte page").
"""


class Lost(Exception):  # a signal: the store makes its error of it
    """A file that is open has lost its name, or its content: what is written to it is nowhere."""

    def __init__(self, name: str, how: str = "removed or replaced") -> None:
        super().__init__(f"the file {name} was {how} while it was open, so nothing is kept")


class Written(NamedTuple):
    """What the header of a database says of when it was written, with the size of the file.

    The counter never falls and, while it stays, neither do the pages
    (https://sqlite.org/fileformat2.html, "File change counter").
    """

    counter: int
    pages: int
    size: int

    def is_before(self, other: Written) -> bool:
        """Whether this was written before *other*, or is the rest of it."""
        rise = (self.counter - other.counter) % 2**32
        return rise >= 2**31 or (rise == 0 and (self.pages < other.pages or self.size < other.size))


class Place:
    """The files of one store under their names.

    Parameters
    ----------
    location : str
        The path of the database.
    file : File
        Which file was opened there.
    """

    def __init__(self, location: str, file: File) -> None:
        self.location = location
        self._log, self._index, self._folder = (
            location + "-wal",
            location + "-shm",
            str(Path(location).parent),
        )
        self._file, self._beside = file, list[tuple[str, File]]()
        self._seen: tuple[int, int, int] | None = None
        self._guard = threading.Lock()
        self._state = (0, 0)
        self._written: Written | None = None
        self._since_s, self._is_calm = 0.0, False

    @property
    def is_noted(self) -> bool:
        """Whether it is known which files SQLite has opened beside the database."""
        return bool(self._beside)

    def forget(self) -> None:
        """SQLite has closed its files; others follow."""
        self._beside, self._is_calm = [], False

    def note(self) -> None:
        """Remember which files SQLite has opened beside the database, now that they are there."""
        self._beside = [(path, _which(path)) for path in (self._log, self._index)]

    def check(self) -> None:
        """Raise Lost unless all open files have their names, and the database its content.

        A folder's time tells when any of its names has changed. It is believed once it has been the
        same for so long that the clock of no file system could hide a change, and all files were
        looked at after that. Until then each of them is.
        """
        path = self._folder
        try:  # all in one function: it runs at every commit
            folder = os.stat(path)  # noqa: PTH116
            seen = (folder.st_dev, folder.st_ino, folder.st_mtime_ns)
            path = self.location
            status = os.stat(path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) != self._file:
                raise Lost(Path(path).name)
            if (status.st_mtime_ns, status.st_size) != self._state:
                self._check_content(status)
            if seen == self._seen and self._is_calm:
                return
            for path, known in self._beside:
                status = os.stat(path)  # noqa: PTH116
                if (status.st_dev, status.st_ino) != known:
                    raise Lost(Path(path).name)
        except OSError:
            raise Lost(Path(path).name) from None
        now_s = time.monotonic()
        if seen != self._seen:
            self._seen, self._since_s, self._is_calm = seen, now_s, False
        else:
            settles_s = _EXACT_S if seen[2] % _STEP_NS else _COARSEST_S
            self._is_calm = bool(self._beside) and now_s - self._since_s > settles_s

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        return _status(self._log).st_size

    def check_database(self) -> None:
        """Raise Lost unless the database has its name, and was not overwritten by an older one or
        cut off.

        SQLite writes to it only when it moves the log in; else a look at its status is enough.
        """
        status = _status(self.location)
        if (status.st_dev, status.st_ino) != self._file:
            raise Lost(Path(self.location).name)
        if (status.st_mtime_ns, status.st_size) != self._state:
            self._check_content(status)

    def _check_content(self, status: os.stat_result) -> None:
        with self._guard:  # another thread must not compare with a look that was later
            if (found := header_of(self._file)) is None:
                return
            header, size = found
            written = None
            if len(header) == HEADER_BYTES and header.startswith(MAGIC):
                written = Written(
                    int.from_bytes(header[24:28], "big"), int.from_bytes(header[28:32], "big"), size
                )
            if self._written is not None and (written is None or written.is_before(self._written)):
                raise Lost(Path(self.location).name, "overwritten or cut off")
            self._written = written
        self._state = status.st_mtime_ns, status.st_size

    def writer(self) -> str:
        """Return which process has the write lock, for people: its number, its name and whether it
        is stopped; empty if unknown.
        """
        pid = writer_of(self.location)
        if pid is None:
            return ""
        return "this process itself" if pid == os.getpid() else f"process {pid}{_described(pid)}"


def writer_of(location: str) -> int | None:
    """Return the number of the process that has the write lock of a store; ``None`` when nobody
    has, or the system does not say.
    """
    try:
        database, index = _inode(location), _inode(location + "-shm")
        lines = Path(_LOCKS).read_text(encoding="ascii", errors="replace").splitlines()
        held = [
            fields
            for fields in map(str.split, lines)
            if len(fields) == _FIELDS and fields[3] == "WRITE"
        ]
        for _, _, _, _, pid, device, first, last in held:
            inode = int(device.rpartition(":")[2])
            writes = (
                inode == index
                and int(first) <= _WRITE_BYTE
                and (last == "EOF" or int(last) >= _WRITE_BYTE)
            )
            if writes or (inode == database and int(first) >= _PENDING_BYTE):
                return int(pid) if int(pid) > 0 else None  # of another container it is not told
    except (OSError, ValueError):
        return None
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a debugger or Ctrl-Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(
            ")"
        )[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _described(pid: int) -> str:
    name = ""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    said = [name] * bool(name) + ["stopped"] * is_stopped(pid)
    return f" ({', '.join(said)})" if said else ""


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - the path with an ending of SQLite's own
    except OSError:
        return None


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116 - at every commit
    except OSError:
        raise Lost(Path(path).name) from None


def _which(path: str) -> File:
    status = _status(path)
    return status.st_dev, status.st_ino
