"""News: one thread waits for outcomes, and wakes all open streams."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any, Protocol

_LOOK_S = 1.0


class Wakeup(Protocol):
    """The part of a bus' wakeup that is used here."""

    def generation(self, key: str) -> Any:
        """Return the number of wakes so far."""

    def wait(self, key: str, seen: Any, timeout_s: float) -> bool:
        """Wait until there was one since *seen*."""


class Next:
    """The next outcome of anybody."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def within(self, timeout_s: float) -> bool:
        """Wait for it. Return whether it came within *timeout_s* seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout_s)
            return True
        return False


class News:
    """Tells the streams of one event loop that outcomes were recorded.

    Parameters
    ----------
    wakeup : Wakeup
        That of the bus. It sees other processes, too.
    """

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._event = asyncio.Event()
        self._wanted = threading.Event()
        self._is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more news come."""
        return self._is_over

    def start(self) -> None:
        """Begin to wait. Call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="mltrigger-news", daemon=True).start()

    def stop(self) -> None:
        """End the thread within a second, and wake all streams now."""
        self._is_over = True
        self._wanted.set()
        self._tell_soon()

    def next(self) -> Next:
        """Return the next outcome from now on. Call it in the event loop."""
        self._wanted.set()
        return Next(self._event)

    def _run(self) -> None:
        while not self._is_over:
            self._wanted.wait()  # without a stream nobody is woken for nothing
            self._wanted.clear()
            seen = self._wakeup.generation("done")
            self._tell_soon()  # there may have been one before this look
            while not self._wakeup.wait("done", seen, _LOOK_S) and not self._is_over:
                pass
            self._tell_soon()

    def _tell_soon(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        told, self._event = self._event, asyncio.Event()
        told.set()
