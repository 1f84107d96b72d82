"""Forks: no file of a store is open, and nobody is inside SQLite, while a process is copied.

SQLite keeps in memory which POSIX locks a process holds (https://sqlite.org/howtocorrupt.html,
2.6). A forked child inherits that memory without the locks: others would take its store for closed
and remove the write-ahead log, and a transaction under way would never end. So a fork waits until
nobody uses a store, and closes the files; each is opened again when it is needed next. The child
inherits nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from mltrigger.errors import StoreError

PATIENCE_S = 5.0
"""How long a fork waits for transactions under way; after that it happens, and the child may open
no store.
"""

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
        """Close all files until they are needed again; nobody uses them now."""


class Gate:
    """Who is inside SQLite in this process; a fork shuts it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._changed = threading.Condition(self._guard)
        self._inside: set[object] = set()
        self._forks = 0

    @property
    def is_empty(self) -> bool:
        """Whether nobody is inside."""
        return not self._inside

    def enter(self, who: object, waits: bool = True) -> None:
        """Let *who* inside, after the forks under way; who is inside a transaction already must not
        wait for them.
        """
        with self._guard:
            while self._forks and waits and who not in self._inside:
                self._changed.wait()
            self._inside.add(who)

    def leave(self, who: object) -> None:
        """Say that *who* is outside again; idempotent."""
        self._inside.discard(who)  # at once: Ctrl-C may come while the lock is waited for
        if self._forks:
            with self._guard:
                self._changed.notify_all()

    def shut(self, timeout_s: float) -> None:
        """Let nobody in until :meth:`open`; return when nobody is inside, after *timeout_s* seconds
        at the latest.
        """
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._inside, timeout_s)

    def open(self) -> None:
        """Let everybody in again, if no other fork is under way."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


class _Process:
    """What a process knows of its stores, and of how it was made."""

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
    """Take care of *store* at forks; *in_child* makes a child forget what it has not inherited."""
    if _process.refused:
        raise StoreError(
            f"this process was forked while another thread was at work in a store; {_SPAWN}"
        )
    _process.stores.add(store)
    if in_child not in _process.in_child:
        _process.in_child.append(in_child)


def check_inherited(file: tuple[int, int]) -> None:
    """Raise StoreError in a forked child when its parent had *file* (device and inode) open by
    other means than a store.
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
    """Forget a store that is closed; idempotent."""
    _process.stores.discard(store)


def _before() -> None:
    _process.gate.shut(PATIENCE_S)
    # another thread may be forking too: neither goes on while files are being closed
    with _process.closing:
        if _process.gate.is_empty:
            for store in list(_process.stores):
                with contextlib.suppress(Exception):  # what stays open is refused in the child
                    store.let_go()


def _in_parent() -> None:
    _process.gate.open()


def _in_child() -> None:
    global _process
    before = _process
    stores = list(before.stores)
    inherited = before.refused or not before.gate.is_empty or any(store.is_open for store in stores)
    if inherited:
        # never freed: closing an inherited connection would undo what its owner is writing
        for store in stores:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    _process = _Process(forked=True, refused=inherited)
    for forget in before.in_child:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
