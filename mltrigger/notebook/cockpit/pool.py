"""A few threads that answer questions, so that a slow one never holds up the others."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

MOST_WAITING = 64
"""More questions than these are refused."""
_IDLE_S = 5.0


class Pool:
    """Runs functions in threads of its own, which end when nothing is left to do.

    The threads never keep the process alive.

    Parameters
    ----------
    threads : int
        The most threads at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._most, self._running, self._idle = threads, 0, 0
        self._closed = False
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self._changed = threading.Condition()

    def submit(self, work: Callable[[], None]) -> bool:
        """Run *work* soon. Return False if too much waits already, or the pool is closed.

        It must not raise.
        """
        with self._changed:
            if self._closed or len(self._waiting) >= MOST_WAITING:
                return False
            self._waiting.append(work)
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._running < self._most:
                self._running += 1
                threading.Thread(target=self._work, name="mltrigger-cockpit", daemon=True).start()
            return True

    def close(self) -> None:
        """Drop the waiting jobs. Running ones may end. Idempotent."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # hold nothing while waiting

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closed, _IDLE_S)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None
