"""The place of a SQLite store: names of open files, and holders of locks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from mltrigger.store.sqlite.files import HEADER_BYTES, MAGIC, File, header_of

_COARSEST_S = 2.5
"""The coarsest times of a file system: FAT has steps of two seconds."""
_STEP_NS, _EXACT_S = 10_000_000, 0.1
"""A time that is no multiple of the first is the kernel's, with steps of at most this length."""
_LOCKS = "/proc/locks"
_FIELDS = 8
"""A line about a held lock. A waiting one has an arrow more
(https://man7.org/linux/man-pages/man5/proc_locks.5.html).
"""
_WRITE_BYTE = 120
"""The byte of ``-shm`` that a writer locks (https://sqlite.org/walformat.html, "WAL locks")."""
_PENDING_BYTE = 0x40000000
"""The first byte of a lock of a whole file.

https://sqlite.org/fileformat2.html, "The lock-byte page"
"""


class Lost(Exception):  # a signal: the store makes its error of it
    """An open file has lost its name or its content. Data written to it is nowhere."""

    def __init__(self, name: str, how: str = "removed or replaced") -> None:
        super().__init__(f"the file {name} was {how} while it was open, so nothing is kept")


class Written(NamedTuple):
    """The header of a database, and the size of its pages in the file.

    The change counter never falls (https://sqlite.org/fileformat2.html, "File change counter").
    ``cleared`` is the user version, which rises when pages are given back. While both stay, the
    pages do not fall either. Pages that were given back may stay in the file for some time.
    """

    counter: int
    cleared: int
    pages: int
    size: int

    def is_before(self, other: Written) -> bool:
        """Whether this is older than *other*, or a cut-off rest of it."""
        rise = (self.counter - other.counter) % 2**32
        if rise or self.cleared != other.cleared:
            return rise >= 2**31 or self.cleared < other.cleared
        return self.pages < other.pages or self.size < other.size


class Place:
    """The files of one store under their names.

    Parameters
    ----------
    location : str
        The path of the database.
    file : File
        The file that was opened there.
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
        """Whether the files that SQLite opened beside the database are known."""
        return bool(self._beside)

    def forget(self) -> None:
        """Forget the files: SQLite has closed them."""
        self._beside, self._is_calm = [], False

    def note(self) -> None:
        """Remember the files that SQLite has opened beside the database."""
        self._beside = [(path, _which(path)) for path in (self._log, self._index)]

    def check(self) -> None:
        """Raise Lost unless all open files have their names, and the database its content.

        The time of a folder tells that a name in it has changed. It is trusted once it is old
        enough for the clock of any file system, and all files were looked at since. Until then each
        file is.
        """
        path = self._folder
        try:  # one function, since it runs at every commit
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

    def check_database(self) -> None:
        """Raise Lost unless the database has its name and was not overwritten or cut off.

        SQLite writes to it only in a checkpoint. Otherwise a look at its status is enough.
        """
        status = _status(self.location)
        if (status.st_dev, status.st_ino) != self._file:
            raise Lost(Path(self.location).name)
        if (status.st_mtime_ns, status.st_size) != self._state:
            self._check_content(status)

    def check_whole(self) -> None:
        """Raise Lost as :meth:`check` does, but read the header even if its time has not changed.

        Two writes within one step of the file system's clock have the same time.
        """
        self._state = (0, 0)
        self.check()

    def _check_content(self, status: os.stat_result) -> None:
        with self._guard:  # another thread must not compare with a later look
            if (found := header_of(self._file)) is None:
                return
            header, size = found
            written = None
            if len(header) == HEADER_BYTES and header.startswith(MAGIC):
                counter, cleared, pages = (
                    int.from_bytes(header[at : at + 4], "big") for at in (24, 60, 28)
                )
                page = int.from_bytes(header[16:18], "big")
                page = 65536 if page == 1 else page
                written = Written(counter, cleared, pages, min(size, pages * page))
            if self._written is not None and (written is None or written.is_before(self._written)):
                raise Lost(Path(self.location).name, "overwritten or cut off")
            self._written = written
        self._state = status.st_mtime_ns, status.st_size

    def writer(self) -> str:
        """Return the process with the write lock in words: number, name, state. Else empty."""
        pid = writer_of(self.location)
        if pid is None:
            return ""
        return "this process itself" if pid == os.getpid() else f"process {pid}{_described(pid)}"


def writer_of(location: str) -> int | None:
    """Return the number of the process with the write lock of a store, ``None`` if unknown."""
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
                # a process of another container is not named
                return int(pid) if int(pid) > 0 else None
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
