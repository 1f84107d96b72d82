"""Forks: while a process is copied, no store has an open file, and no thread is inside SQLite.

SQLite keeps in memory which POSIX locks a process holds (https://sqlite.org/howtocorrupt.html,
2.6). A forked child inherits that memory without the locks. Others would take its store for closed
and remove the write-ahead log. A transaction under way would never end. So a fork waits until
no store is in use, and closes the files. Each opens again when needed. The child inherits nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from mltrigger.errors import StoreError

PATIENCE_S = 5.0
"""How long a fork waits for transactions. A child of a later fork may open no store."""

_STEP_S = 0.01
"""How often one who waits for a lock inside looks whether a fork waits."""
_HANDLES = "/dev/fd"
_SPAWN = (
    "what SQLite inherits of that cannot be used: start the process with"
    " multiprocessing.get_context('spawn')"
)


class Opened(Protocol):
    """A store that may have files open."""

    @property
    def is_open(self) -> bool:
        """Whether files are open."""

    def let_go(self) -> None:
        """Close all files until they are needed again. They are not in use now."""


class Gate:
    """The users of SQLite in this process. A fork shuts them out."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        self._inside: set[object] = set()
        self._forks = 0

    @property
    def is_empty(self) -> bool:
        """Whether it is empty."""
        return not self._inside

    @property
    def is_shut(self) -> bool:
        """Whether a fork waits, or is under way."""
        return self._forks > 0

    def enter(self, who: object, waits: bool = True) -> None:
        """Let *who* inside, after the forks under way.

        A user inside a transaction must not wait.
        """
        with self._guard:
            while self._forks and waits and who not in self._inside:
                self._changed.wait()
            self._inside.add(who)

    def leave(self, who: object) -> None:
        """Note that *who* is outside again. Idempotent."""
        self._inside.discard(who)  # at once: Ctrl-C may come during the wait for the lock
        if self._forks:
            with self._guard:
                self._changed.notify_all()

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold *lock*, for one who is inside.

        Raises
        ------
        StoreError
            When a fork waits. The holder of the lock may wait for its end.
        """
        while not lock.acquire(timeout=_STEP_S):
            if self._forks:
                raise StoreError("a fork of this process waits")
        try:
            yield
        finally:
            lock.release()

    def shut(self, timeout_s: float) -> None:
        """Close it until :meth:`open`. Return when it is empty, or after *timeout_s*."""
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._inside, timeout_s)

    def open(self) -> None:
        """Let everybody in again, if no other fork is under way."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


class _Process:
    """The stores of a process, and how the process was made."""

    def __init__(self, forked: bool = False, refused: bool = False) -> None:
        self.gate, self.forked = Gate(), forked
        self.stores: weakref.WeakSet[Opened] = weakref.WeakSet()
        self.closing = threading.Lock()
        self.in_child: list[Callable[[], None]] = []
        self.refused = refused


_process = _Process()


def gate() -> Gate:
    """Return the gate of this process."""
    return _process.gate


def add(store: Opened, in_child: Callable[[], None]) -> None:
    """Take care of *store* at forks. *in_child* makes a child forget the parent's part."""
    if _process.refused:
        raise StoreError(
            f"this process was forked while another thread was at work in a store; {_SPAWN}"
        )
    _process.stores.add(store)
    if in_child not in _process.in_child:
        _process.in_child.append(in_child)


def check_inherited(file: tuple[int, int]) -> None:
    """Raise StoreError in a forked child whose parent had *file* open outside of a store.

    *file* is device and inode.
    """
    if not _process.forked:
        return
    for name in os.listdir(_HANDLES):  # noqa: PTH208 - names only
        with contextlib.suppress(OSError):  # the listing itself is gone again
            status = os.fstat(int(name))
            if (status.st_dev, status.st_ino) == file:
                raise StoreError(
                    "this process was forked while its parent had the file of the store open, by"
                    f" other means than a bus; {_SPAWN}"
                )


def remove(store: Opened) -> None:
    """Forget a closed store. Idempotent."""
    _process.stores.discard(store)


def _before() -> None:
    _process.gate.shut(PATIENCE_S)
    # another thread may fork too: neither goes on while files close
    with _process.closing:
        if _process.gate.is_empty:
            for store in list(_process.stores):
                with contextlib.suppress(Exception):  # an open rest is refused in the child
                    store.let_go()


def _in_parent() -> None:
    _process.gate.open()


def _in_child() -> None:
    global _process
    before = _process
    stores = list(before.stores)
    inherited = before.refused or not before.gate.is_empty or any(store.is_open for store in stores)
    if inherited:
        # never freed: closing an inherited connection would undo its owner's writes
        for store in stores:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    _process = _Process(forked=True, refused=inherited)
    for forget in before.in_child:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
