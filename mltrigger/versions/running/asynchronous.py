"""Models that are ``async def``: many calls in flight on one event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.event.event import Event
from mltrigger.versions.describe import Model
from mltrigger.versions.running import current as running
from mltrigger.versions.running.current import end_copy
from mltrigger.versions.running.thread import Invoker, OwnFailure

CONCURRENCY = 64
"""Calls in flight, unless the subscription says another number."""
_END_S = 5.0
_LATE_S, _LATE = 0.05, 0.1
"""Delays in seconds, and as a share of the timeout. A coroutine that ends later was blocked."""
_GIVEN_UP_S = 60.0
"""A loop that is blocked for longer, and for ten timeouts, is given up."""


class _Stay:
    """The *number*-th coroutine on the loop. *company*: others were there when it came."""

    __slots__ = ("begun", "company", "number")

    def __init__(self, number: int, company: bool) -> None:
        self.number, self.company, self.begun = number, company, False


class AsyncInvoker(Invoker):
    """Calls one coroutine function. Never raises, once it is made.

    The calling thread waits. The coroutine runs on the loop, beside all others.

    Parameters
    ----------
    model : Model
        A coroutine function, or a class with an ``async`` method ``__call__``.
    timeout_s : float
        Longest run of one call. Then the coroutine is cancelled, and its resources are freed. Code
        that blocks the loop instead of awaiting blocks all calls. It cannot be cancelled.
    """

    concurrency = CONCURRENCY
    grace_s = 2.0

    def __init__(self, model: Model, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._stays: set[_Stay] = set()
        self._entered = 0
        self._blocked_s: float | None = None
        super().__init__(model)

    def close(self) -> None:
        """Cancel the calls under way and end the loop. Idempotent.

        Later calls give a Result with reason ``stopped``.
        """
        with self._guard:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(_END_S)

    def _parts(self, model: Model) -> tuple[Callable[[Any], Any], Callable[[Event], Any]]:
        function, given = super()._parts(model)
        return lambda value: self._wait(function(value)), given

    def _wait(self, answer: Coroutine[Any, Any, Any]) -> Any:
        """Run *answer* on the loop, in a copy of this thread's context. Return its result.

        So its prints are captured together with those of this thread.
        """
        with self._guard:
            if self._closed:
                answer.close()
                raise _stopped()
            loop = self._loop or self._started()
            self._entered += 1
            stay = _Stay(self._entered, bool(self._stays))
            self._stays.add(stay)
            future = asyncio.run_coroutine_threadsafe(self._limited(answer, stay), loop)
        try:
            value, error = future.result(self._timeout_s + self.grace_s / 2)
        except concurrent.futures.CancelledError:
            if self._closed:
                raise _stopped() from None
            raise ModelFailure(
                "the coroutine was cancelled", kind="CancelledError", whole=True
            ) from None
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise self._blocked(loop, stay) from None
        if error is not None:
            raise error
        return value

    def _blocked(self, loop: asyncio.AbstractEventLoop, stay: _Stay) -> ModelFailure:
        """Return the failure of a call that the loop did not even cancel.

        Only a coroutine that is alone on the loop is proved to block it.
        """
        with self._guard, contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._leave, stay)
            now_s, alone = time.monotonic(), not self._had_company(stay)
            if alone and self._blocked_s is None:
                self._blocked_s = now_s
            if (
                self._blocked_s is not None
                and self._loop is loop
                and now_s - self._blocked_s > max(_GIVEN_UP_S, 10 * self._timeout_s)
            ):
                # It seems blocked for ever. The next call gets another loop.
                self._loop = self._thread = self._blocked_s = None
                self._stays.clear()
                loop.call_soon_threadsafe(loop.stop)
        return self._late(
            "something blocks the event loop instead of awaiting", self._had_company(stay)
        )

    def _late(self, why: str, is_acquitted: bool) -> ModelFailure:
        why += ": it may be another event, each is called alone now" if is_acquitted else ""
        return ModelFailure(
            f"no answer within timeout_s = {self._timeout_s:g}; {why}",
            reason="timeout",
            kind="TimeoutError",
            whole=True,
            throttled=is_acquitted,
        )

    def _had_company(self, stay: _Stay) -> bool:
        """Whether another coroutine was on the loop at any time since this one came."""
        return stay.company or self._entered != stay.number

    def _leave(self, stay: _Stay) -> None:
        if not stay.begun:
            self._stays.discard(stay)

    async def _limited(
        self, answer: Coroutine[Any, Any, Any], stay: _Stay
    ) -> tuple[Any, BaseException | None]:
        stay.begun, self._blocked_s = True, None
        try:
            return await self._outcome(answer, stay)
        finally:
            self._stays.discard(stay)

    async def _outcome(
        self, answer: Coroutine[Any, Any, Any], stay: _Stay
    ) -> tuple[Any, BaseException | None]:
        """Return the answer, or the error. SystemExit must not be raised: it would end the loop."""
        began = running.forks
        until_s = time.monotonic() + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                value = await answer
                if running.forks != began:
                    end_copy()
                return value, None
        except asyncio.CancelledError:
            raise
        except TimeoutError as error:
            if not limit.expired():
                return None, error
            if time.monotonic() - until_s > _LATE_S + _LATE * self._timeout_s:
                return None, self._late(
                    "something blocked the event loop instead of awaiting", self._had_company(stay)
                )
            return None, self._late("the coroutine was cancelled", False)
        except BaseException as error:
            if running.forks != began:
                end_copy(error)
            return None, error

    def _started(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_serve,
            args=(loop, lambda: self._closed or self._loop is not loop),
            name="mltrigger-async",
            daemon=True,
        )
        self._thread.start()
        return loop


def _stopped() -> ModelFailure:
    return OwnFailure(
        "the event loop of the model was closed", reason="stopped", kind="Closed", whole=True
    )


def _serve(loop: asyncio.AbstractEventLoop, is_closed: Callable[[], bool]) -> None:
    """Run *loop* until we close it.

    A model may stop it, or raise SystemExit in a task. That must not end the calls of others.
    """
    asyncio.set_event_loop(loop)
    try:
        while True:
            with contextlib.suppress(BaseException):
                loop.run_forever()
            if is_closed():
                break
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
