"""The keeper: one thread that holds leases, ends late calls and does the chores of a process."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.delivery.listener import Listener

logger = logging.getLogger("mltrigger")

SEEN_S = 5.0
_IDLE_S = 0.5


class Chore:
    """An action that is due every *every_s* seconds. An error is logged, and it is due again."""

    def __init__(self, every_s: Callable[[], float], do: Callable[[], object]) -> None:
        self.every_s, self._do = every_s, do
        self._due_s = time.monotonic() + every_s()

    def do_if_due(self) -> None:
        """Do it if it is due."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + self.every_s()
            try:
                self._do()
            except Exception:
                logger.exception("the store did not answer")


def quietly(action: Callable[..., object], *given: Any) -> None:
    """Do *action*. Log its error."""
    try:
        action(*given)
    except Exception:
        logger.exception("a chore of the background failed; trying again")


def beside(
    submit: Callable[[Callable[[], None]], None], action: Callable[[], object]
) -> Callable[[], object]:
    """Return how to do *action* in a thread, unless it is under way. The leases wait for none."""
    guard = threading.Lock()

    def do() -> None:
        if guard.acquire(blocking=False):
            try:
                action()
            finally:
                guard.release()

    return lambda: submit(functools.partial(quietly, do))


class Keeper:
    """Calls ``tick`` of every listener, often enough for the shortest lease and timeout.

    Parameters
    ----------
    chores : sequence of Chore
        Other actions that are due from time to time.
    """

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._listeners: list[Listener] = []
        self._shortest_s = _IDLE_S
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, listener: Listener) -> None:
        """Keep *listener* until :meth:`forget`, or until it has stopped with nothing in flight."""
        self._set([*self._listeners, listener])
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="mltrigger-keeper", daemon=True)
            self._thread.start()

    def forget(self, listener: Listener) -> None:
        """Keep *listener* no more."""
        self._set([kept for kept in self._listeners if kept is not listener])

    def _set(self, listeners: list[Listener]) -> None:
        policies = [listener.spec.policy for listener in listeners]
        shortest = [min(policy.lease / 6, policy.timeout_s / 4) for policy in policies]
        self._listeners, self._shortest_s = listeners, min([_IDLE_S, *shortest])

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, or need not: nothing was kept yet, or it was stopped."""
        return self._thread is None or self._thread.is_alive() or self._stop.is_set()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)

    def _loop(self) -> None:
        while not self._stop.wait(self._pause_s()):
            for listener in self._listeners:
                try:
                    busy = listener.tick()
                    if not busy and listener.state == "stopped":
                        self.forget(listener)
                except Exception:
                    logger.exception(
                        "keeping the leases of %s failed; trying again", listener.spec.name
                    )
            for chore in self._chores:
                chore.do_if_due()

    def _pause_s(self) -> float:
        return max(0.01, min([self._shortest_s, *(chore.every_s() for chore in self._chores)]))
