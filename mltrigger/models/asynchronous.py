"""Models that are ``async def``: many calls in flight on one event loop, for models that wait on the network."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.events import Event
from mltrigger.models.describe import Model
from mltrigger.models.invoke import Invoker

CONCURRENCY = 64
"""Calls in flight when the subscription does not say."""
_END_S = 5.0


class AsyncInvoker(Invoker):
    """Calls one coroutine function; never raises. Whoever calls waits; the coroutine runs on the loop, between all the others.

    Parameters
    ----------
    model : Model
        What to call; of a class, an object whose ``__call__`` is ``async``.
    timeout_s : float
        Longest run of one call: then the coroutine is cancelled, which frees what it holds. Code that blocks the loop instead of awaiting
        blocks all calls, and cannot be cancelled.
    """

    concurrency = CONCURRENCY
    grace_s = 2.0

    def __init__(self, model: Model, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._waiting = 0
        super().__init__(model)

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether a coroutine is under way."""
        return self._waiting > 0

    def close(self) -> None:
        """Cancel what is under way and end the loop; idempotent."""
        with self._guard:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(_END_S)

    def _parts(self, model: Model) -> tuple[Callable[[Any], Any], Callable[[Event], Any]]:
        function, given = super()._parts(model)
        return lambda value: self._wait(function(value)), given

    def _wait(self, answer: Coroutine[Any, Any, Any]) -> Any:
        """Run *answer* on the loop, in a copy of this thread's context: what it prints is captured where this thread's is."""
        with self._guard:
            loop = self._loop or self._started()
            self._waiting += 1
        future = asyncio.run_coroutine_threadsafe(self._limited(answer), loop)
        try:
            return future.result(self._timeout_s + self.grace_s / 2)
        except concurrent.futures.CancelledError:
            raise ModelFailure("the coroutine was cancelled", kind="CancelledError", whole=True) from None
        except concurrent.futures.TimeoutError:
            if future.done():  # its own, raised by the model
                raise
            future.cancel()
            raise ModelFailure(
                f"no answer within timeout_s = {self._timeout_s:g}; something blocks the event loop instead of awaiting",
                reason="timeout", kind="TimeoutError", whole=True,
            ) from None  # fmt: skip
        finally:
            with self._guard:
                self._waiting -= 1

    async def _limited(self, answer: Coroutine[Any, Any, Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await answer
        except TimeoutError:
            if not limit.expired():
                raise
            raise ModelFailure(
                f"no answer within timeout_s = {self._timeout_s:g}; the coroutine was cancelled",
                reason="timeout", kind="TimeoutError", whole=True,
            ) from None  # fmt: skip

    def _started(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="mltrigger-async", daemon=True)
        self._thread.start()
        return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
