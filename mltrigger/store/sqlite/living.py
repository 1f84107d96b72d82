"""Life: each worker of a store holds a lock that ends with its process.

So the events of a killed process come back at once. The lease is for machines that are lost.

The lock is one byte of a file beside the store, at the worker's number. It is an open file
description lock (https://man7.org/linux/man-pages/man2/fcntl_locking.2.html). A plain POSIX lock
would be lost as soon as anything in the process closes that file, a copy of the folder for example.
A lock by ``flock`` would need a file for each worker, which the killed ones leave behind.

A forked child shares the lock of its parent, so it closes its copy of the handle. If it cannot, it
keeps the lock, and the lease decides. A paused or busy process keeps its lock.

A worker's row names the boot of the machine and the file of its lock. So nobody judges workers of
another machine, and none whose file was removed. On macOS, on Windows and on a network file system
no worker has a lock: the lease decides.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
from collections.abc import Collection
from pathlib import Path

from mltrigger.clock import boot_id
from mltrigger.store.sqlite.files import network_filesystem

_LOCK = "hhqqi0q"
"""``struct flock``: type, whence, start, length, process."""
_TRIES, _NONE = 5, -1
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_handles: set[int] = set()


class Living:
    """The lock of one worker, and a look at the locks of others.

    Parameters
    ----------
    location : str or None
        The path of the store. ``None`` in memory: nobody else sees it.
    boot : str, optional
        The id of this boot of the machine. Passed in for tests.
    """

    def __init__(self, location: str | None, boot: str | None = None) -> None:
        self._path = Path(f"{location}-alive")
        self._boot = boot_id() if boot is None else boot
        self._pid, self._handle, self._worker_id = os.getpid(), _NONE, 0
        self._place: str | None = None
        self._guard = threading.Lock()
        self._usable = location is not None and bool(self._boot) and _can_lock()

    @property
    def place(self) -> str | None:
        """The boot and the file of the locks seen here. ``None`` if there can be none."""
        with self._guard, contextlib.suppress(OSError):
            if self._place is None:
                self._let_go()
                self._open()
        return self._place

    def hold(self, worker_id: int) -> str | None:
        """Hold the lock of *worker_id* until :meth:`close` or the end of this process.

        Return its place, for the worker's row. ``None`` if there can be no lock here.
        """
        with self._guard:
            for _ in range(_TRIES):
                try:
                    self._let_go()
                    self._open()
                    _lock(self._handle, worker_id)
                    if self._place == self._named(self._path.lstat()):
                        self._worker_id = worker_id
                        return self._place  # else it was removed in between
                except OSError:
                    break
            self._let_go()
            return None

    def gone(self, worker_ids: Collection[int]) -> set[int]:
        """Return those of *worker_ids* whose process has ended for certain.

        They must have had their locks at our :attr:`place`.
        """
        with self._guard:
            if self._place is None or os.getpid() != self._pid:
                return set()
            others = set(worker_ids) - {self._worker_id}
            return {number for number in others if not _is_locked(self._handle, number)}

    def close(self) -> None:
        """Give the lock up, and judge nobody any more. Idempotent."""
        with self._guard:
            self._usable = False
            self._let_go()

    def _open(self) -> None:
        if not self._usable or network_filesystem(self._path) is not None:
            raise PermissionError("no lock here can be trusted")
        self._handle = os.open(self._path, _OPEN, 0o600)
        _handles.add(self._handle)
        status = os.fstat(self._handle)
        self._usable = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
        if self._usable:
            self._place = self._named(status)

    def _named(self, status: os.stat_result) -> str:
        return f"{self._boot} {status.st_dev}:{status.st_ino}"

    def _let_go(self) -> None:
        handle, self._handle, self._place = self._handle, _NONE, None
        if handle in _handles and os.getpid() == self._pid:
            _handles.discard(handle)
            os.close(handle)


def _can_lock() -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    return hasattr(fcntl, "F_OFD_SETLK")


def _lock(handle: int, number: int) -> None:
    import fcntl

    wanted = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    fcntl.fcntl(handle, fcntl.F_OFD_SETLK, wanted)


def _is_locked(handle: int, number: int) -> bool:
    import fcntl

    wanted = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
    found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, wanted)
    return bool(struct.unpack(_LOCK, found)[0] != fcntl.F_UNLCK)


def _in_child() -> None:
    for handle in list(_handles):
        with contextlib.suppress(OSError):
            os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
