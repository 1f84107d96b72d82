"""Where a SQLite store lies: whether the files that are open still have their names, and who else holds their locks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mltrigger.store.files import File

_LOCKS = "/proc/locks"
_FIELDS = 8
"""Of a line about a lock that is held; one that is waited for has an arrow more (https://man7.org/linux/man-pages/man5/proc_locks.5.html)."""
_WRITE_BYTE = 120
"""The byte of the ``-shm`` file that a writer locks (https://sqlite.org/walformat.html, "WAL locks")."""
_PENDING_BYTE = 0x40000000
"""From here on a file is locked by who has the whole of it (https://sqlite.org/fileformat2.html, "The lock-byte page")."""


class Lost(Exception):  # a signal: the store makes its error of it
    """A file that is open has lost its name: what is written to it is nowhere."""


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
        self.location, self._file = location, file
        self._log, self._index = location + "-wal", location + "-shm"
        self._beside: tuple[File, File] | None = None

    @property
    def is_noted(self) -> bool:
        """Whether it is known which files SQLite has opened beside the database."""
        return self._beside is not None

    def forget(self) -> None:
        """SQLite has closed its files; others follow."""
        self._beside = None

    def note(self) -> None:
        """Remember which files SQLite has opened beside the database, now that they are there."""
        self._beside = _which(self._log), _which(self._index)

    def check(self) -> int:
        """Raise Lost unless all open files have their names; return the size of the write-ahead log."""
        self.check_database()
        if self._beside is None:
            return 0
        log, index = _status(self._log), _status(self._index)
        if (log.st_dev, log.st_ino) != self._beside[0]:
            raise Lost(Path(self._log).name)
        if (index.st_dev, index.st_ino) != self._beside[1]:
            raise Lost(Path(self._index).name)
        return log.st_size

    def check_database(self) -> None:
        """Raise Lost unless the database has its name."""
        if _which(self.location) != self._file:
            raise Lost(Path(self.location).name)

    def writer(self) -> str:
        """Return which process has the write lock, for people: its number, its name and whether it is stopped; empty if unknown."""
        pid = writer_of(self.location)
        if pid is None:
            return ""
        return "this process itself" if pid == os.getpid() else f"process {pid}{_described(pid)}"


def writer_of(location: str) -> int | None:
    """Return the number of the process that has the write lock of a store; ``None`` when nobody has, or the system does not say."""
    try:
        database, index = _inode(location), _inode(location + "-shm")
        lines = Path(_LOCKS).read_text(encoding="ascii", errors="replace").splitlines()
        held = [fields for fields in map(str.split, lines) if len(fields) == _FIELDS and fields[3] == "WRITE"]
        for _, _, _, _, pid, device, first, last in held:
            inode = int(device.rpartition(":")[2])
            writes = inode == index and int(first) <= _WRITE_BYTE and (last == "EOF" or int(last) >= _WRITE_BYTE)
            if writes or (inode == database and int(first) >= _PENDING_BYTE):
                return int(pid) if int(pid) > 0 else None  # of another container it is not told
    except (OSError, ValueError):
        return None
    return None


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, by a debugger or Ctrl-Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] in ("T", "t")
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
