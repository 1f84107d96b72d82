"""News: one thread looks for outcomes, and wakes the streams of their subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Protocol

logger = logging.getLogger("mltrigger")

_LOOK_S = 1.0
_REST_S = 0.05
"""The shortest time between two looks. Outcomes that come together are read together."""

Ended = Callable[[int], tuple[set[int], int]]
"""Takes a number of the log. Returns the subscriptions with outcomes after it, and the newest."""


class Wakeup(Protocol):
    """The part of a bus' wakeup that is used here."""

    def generation(self, key: str) -> Any:
        """Return the number of wakes so far."""

    def wait(self, key: str, seen: Any, timeout_s: float) -> bool:
        """Wait until there was one since *seen*."""


class Next:
    """The next outcome of one subscription."""

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
    ended : callable
        Finds the subscriptions with new outcomes.
    """

    def __init__(self, wakeup: Wakeup, ended: Ended) -> None:
        self._wakeup, self._ended = wakeup, ended
        self._events: dict[int, asyncio.Event] = {}
        self._wanted, self._rest = threading.Event(), threading.Event()
        self._is_over = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more news come."""
        return self._is_over

    def start(self) -> None:
        """Begin to look. Call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="mltrigger-news", daemon=True).start()

    def stop(self) -> None:
        """End the thread within a second, and wake all streams now."""
        self._is_over = True
        self._wanted.set()
        self._rest.set()
        self._tell_soon(None)

    def next(self, subscription: int) -> Next:
        """Return the next outcome of a subscription from now on. Call it in the event loop."""
        self._wanted.set()
        return Next(self._events.setdefault(subscription, asyncio.Event()))

    def _run(self) -> None:
        last = 0
        while not self._is_over:
            self._wanted.wait()  # without a stream nobody looks
            self._wanted.clear()
            seen = self._wakeup.generation("done")
            try:
                found, last = self._ended(last)
            except Exception:
                logger.debug("HTTP: no look at the outcomes", exc_info=True)
                found = None
            self._tell_soon(found)
            self._wakeup.wait("done", seen, _LOOK_S)
            self._rest.wait(_REST_S)

    def _tell_soon(self, subscriptions: Iterable[int] | None) -> None:
        """Wake the streams of *subscriptions*, or all."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._tell, subscriptions)

    def _tell(self, subscriptions: Iterable[int] | None) -> None:
        for number in list(self._events) if subscriptions is None else subscriptions:
            if (event := self._events.pop(number, None)) is not None:
                event.set()
        if self._events:
            self._wanted.set()
