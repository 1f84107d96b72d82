"""The files of a SQLite store: made safely, checked before use, locked across processes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from mltrigger.errors import StoreError
from mltrigger.store.schema import check
from mltrigger.store.sqlite.disk import Disk
from mltrigger.store.sqlite.forks import check_inherited

MAGIC = b"SQLite format 3\x00"
HEADER_BYTES = 100
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


_NOT_SYNCED = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""The errors of a sync itself (https://man7.org/linux/man-pages/man2/fdatasync.2.html)."""


File = tuple[int, int]
"""The identity of a file under any name: device and inode."""


@dataclasses.dataclass(slots=True)
class _Open:
    """An open file: a handle for reading its header, and the number of stores that use it."""

    handle: int
    stores: int = 0


# A process that closes any handle of a file loses all its POSIX locks on it
# (https://sqlite.org/howtocorrupt.html, 2.2). Other processes would then take an open store for
# closed and remove its write-ahead log. So a process keeps this one table of open files.
_open_here: dict[File, _Open] = {}
_guard = threading.Lock()


def open_file(path: Path, disk: Disk) -> File:
    """Create the file, or check the existing one. An open file is shared.

    Give it back with :func:`release_file`.
    """
    with _guard:
        if _which(path) not in _open_here:
            check_inherited(_which(path))
            _prepare(path, disk)
        _check_name(path)
        file = _which(path)
        if file not in _open_here:
            try:
                _open_here[file] = _Open(os.open(path, _READ))
            except OSError as error:
                raise StoreError(
                    f"store {path.name!r} cannot be opened ({error.strerror})"
                ) from error
        _open_here[file].stores += 1
        return file


def release_file(file: File) -> None:
    """Note that a store of this process has closed its connections to *file*."""
    with _guard:
        _open_here[file].stores -= 1
        if not _open_here[file].stores:
            os.close(_open_here.pop(file).handle)


def header_of(file: File) -> tuple[bytes, int] | None:
    """Return the present header and size of an open *file*, ``None`` if it is not open.

    The header of a shorter file is shorter.
    """
    with _guard:
        if (opened := _open_here.get(file)) is None:
            return None
        size = os.fstat(opened.handle).st_size  # it falls only after the header has changed
        os.lseek(opened.handle, 0, os.SEEK_SET)
        return os.read(opened.handle, HEADER_BYTES), size


def sync_file(file: File) -> None:
    """Bring an open *file* to the disk, where a handle for reading can do that.

    Raises
    ------
    OSError
        When the disk refuses.
    """
    opened = _open_here.get(file)
    if opened is not None and hasattr(os, "fdatasync"):
        try:
            os.fdatasync(opened.handle)
        except OSError as error:
            if error.errno in _NOT_SYNCED:
                raise


def forget_files() -> None:
    """Forget the open files of the parent. A forked child inherits none."""
    global _guard
    _guard = threading.Lock()
    for opened in _open_here.values():  # in a child this ends no lock of its parent
        with contextlib.suppress(OSError):
            os.close(opened.handle)
    _open_here.clear()


def _which(path: Path) -> File:
    try:
        status = path.lstat()
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _prepare(path: Path, disk: Disk) -> None:
    """Create the file with mode 0600 before SQLite does, or check the existing one.

    Its -wal and -shm files take the mode over.
    """
    if not path.parent.is_dir():
        raise StoreError(
            f"the folder of the store {path.name!r} does not exist: create it, or name another file"
        )
    if (kind := network_filesystem(path)) in _REFUSED:
        raise StoreError(
            f"store {path.name!r} lies on a network file system ({kind}), where SQLite loses"
            " writes: name a file on a local disk"
        )
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise StoreError(
            f"store {path.name!r} cannot be opened ({error.strerror}); a symbolic link is refused"
        ) from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"store {path.name!r} is not a regular file")
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            raise StoreError(
                f"store {path.name!r} belongs to another user: name a file of your own"
            )
        head = file.read(HEADER_BYTES)
    if head:
        _check_content(path, head, disk)


def _check_name(path: Path) -> None:
    """Refuse a file with several names.

    SQLite's log lies beside one name. A process that opens another name never sees it.
    https://sqlite.org/howtocorrupt.html, 2.5, "Multiple links to the same file"
    """
    several = path.lstat().st_nlink > 1
    if several or is_mount(path):
        what = "has several names (hard links)" if several else "is mounted as a single file"
        advice = "keep one name, and copy with bus.backup(…)" if several else "mount its folder"
        raise StoreError(
            f"store {path.name!r} {what}: what is written under one name is not seen, and lost,"
            f" under the other; {advice}"
        )


def _check_content(path: Path, head: bytes, disk: Disk) -> None:
    """Refuse a file that is no store of ours before anything is written, even the journal mode.

    The header is that of https://sqlite.org/fileformat2.html#the_database_header.
    """
    if not head.startswith(MAGIC) or len(head) < HEADER_BYTES:
        raise StoreError(
            f"{path.name!r} is not a SQLite database: name another file; nothing was changed"
        )
    recovers = False
    with contextlib.suppress(OSError):  # the last process that closes the store removes the log
        # a process died in a checkpoint: SQLite repeats it
        recovers = path.with_name(path.name + "-wal").stat().st_size > 0
    # Ask for the size afterwards: a checkpoint under way has ended by then.
    while not recovers and _bytes_of(head) > path.stat().st_size:
        before, head = head, _head_of(path)
        if head == before:  # else such a checkpoint has made it shorter
            raise StoreError(
                f"{path.name!r} is shorter than its header says: it was cut off; nothing was"
                " changed"
            )
    try:
        with contextlib.closing(disk.connect(str(path), 5.0)) as connection:
            connection.execute("PRAGMA query_only=1")
            check(cast("sqlite3.Connection", connection))
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path.name!r} is not a usable SQLite database ({error}): name another file; nothing"
            " was changed"
        ) from None
    except StoreError as error:
        raise StoreError(f"{path.name!r}: {error}") from None


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _bytes_of(head: bytes) -> int:
    """Return the size of a database with this header."""
    page_size, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    return pages * (65536 if page_size == 1 else page_size)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[int | None]:
    """Try to lock *path* without waiting. Return a handle of the locked file, else ``None``.

    The kernel releases the lock when the process dies.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        yield handle if _locked(handle) else None
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # on Windows the user has to keep to one process at a time
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_REFUSED = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs")
_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs", "lustre")


def network_filesystem(path: Path, mounts: str = "/proc/mounts") -> str | None:
    """Return the kind of network file system of *path*, ``None`` for a local or unknown one.

    SQLite's write-ahead log needs shared memory, which a network does not have
    (https://sqlite.org/wal.html, "Overview", 2).
    """
    _, kind = _mount_of(path, mounts)
    return kind if kind.startswith(_NETWORK) else None


def is_mount(path: Path, mounts: str = "/proc/mounts") -> bool:
    """Whether *path* is mounted by itself, as containers mount single files."""
    return _mount_of(path, mounts)[0] == str(path.resolve())


def _mount_of(path: Path, mounts: str) -> tuple[str, str]:
    """Return the mount point and the kind of the file system of *path*. Empty if unknown."""
    try:
        lines = Path(mounts).read_text(errors="replace").splitlines()
    except OSError:
        return "", ""
    found, real = ("", ""), path.resolve()
    for line in lines:
        _, mounted, kind, *_ = line.split(" ")
        # a blank is written \040
        mounted = mounted.encode().decode("unicode_escape") if "\\" in mounted else mounted
        if real.is_relative_to(mounted) and len(mounted) >= len(found[0]):
            found = (mounted, kind)
    return found
