"""No network for a while: sockets of Python connect to nothing, not even on this machine."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_REFUSED = frozenset(
    {
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.getnameinfo",
        "socket.sendmsg",
        "socket.sendto",
    }
)


class NoNetwork(OSError):
    """A connection in a test that has no network."""


class _Watch:
    """Refuses connections while it is on. Python keeps its hook until the process ends."""

    def __init__(self) -> None:
        self.on, self._is_there, self._guard = 0, False, threading.Lock()

    def begin(self) -> None:
        """Refuse connections."""
        with self._guard:
            self.on += 1
            if not self._is_there:
                sys.addaudithook(self._hear)
                self._is_there = True

    def end(self) -> None:
        """Allow them again."""
        with self._guard:
            self.on -= 1

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if self.on and event in _REFUSED:
            where = next((part for part in given if isinstance(part, (tuple, str, bytes))), "")
            raise NoNetwork(
                f"no network in a case: {event} {where!r:.100}; put the call into mt.once, and its"
                " answer comes from the recording"
            )


_watch = _Watch()


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Refuse connections inside the block, in all threads of this process.

    Programs that the process starts, and libraries with sockets of their own, are not seen.
    """
    _watch.begin()
    try:
        yield
    finally:
        _watch.end()
