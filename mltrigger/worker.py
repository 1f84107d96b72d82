"""A worker: a process that delivers all subscriptions with importable models."""

from __future__ import annotations

import contextlib
import queue
import signal
from collections.abc import Callable, Collection
from types import FrameType
from typing import TYPE_CHECKING

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import MltriggerError, NotFound, StoreError
from mltrigger.text import one_line

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

LOOK_S = 1.0
"""The interval of asking the registry for changed subscriptions, in seconds."""


class Stop:
    """A flag that ends a worker.

    Unlike an Event, a signal handler may set it at any point of its own wait.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the worker."""
        self._is_set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether the worker has to end."""
        return self._is_set

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, at most *timeout_s*."""
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=timeout_s)


class Worker:
    """Takes subscriptions with portable models, and lets go of those that end.

    Parameters
    ----------
    bus : EventBus
        The bus of the subscriptions.
    only : collection of str
        The names to take. Empty means all.
    say : callable
        Takes one line for the user.
    stopping : Stop
        Ends :meth:`run`.
    """

    def __init__(
        self, bus: EventBus, only: Collection[str], say: Callable[[str], None], stopping: Stop
    ) -> None:
        self._bus, self._only = bus, frozenset(only)
        self._say = say
        self._taken: dict[str, SubscriptionSpec] = {}
        self._left: dict[str, str] = {}
        self._stopping = stopping

    def run(self, until_idle: bool = False) -> None:
        """Deliver until it is stopped, or until nothing is open."""
        while not self._stopping.is_set():
            try:
                self.look()
                if until_idle and self._idle():
                    return
            except StoreError as error:
                self._say(one_line(f"the store does not answer, trying again: {error}"))
            self._stopping.wait(LOOK_S)

    def look(self) -> None:
        """Take new and changed subscriptions, and let go of ended ones."""
        specs = {
            s.name: s
            for s in self._bus.registry.subscriptions()
            if not self._only or s.name in self._only
        }
        for name in sorted(self._only - specs.keys() - self._left.keys()):
            self._leave(name, "there is no such subscription yet")
        for name in sorted(self._taken.keys() - specs.keys()):
            del self._taken[name]
            self._bus.stop_listening(name)
            self._say(f"{name}: let go, it was unsubscribed")
        for name, spec in specs.items():
            if self._taken.get(name) != spec:
                self._take(spec)
            else:
                # it may have been unsubscribed and subscribed again since the last look
                self._bus.listen(spec)

    def _idle(self) -> bool:
        """Whether all taken subscriptions are done. Asked twice: one may hand on to another."""
        return all(self._done() for _ in range(2))

    def _done(self) -> bool:
        depths = [self._bus.broker.depth(spec) for spec in self._taken.values()]
        return not any(depth.visible or depth.delayed or depth.in_flight for depth in depths)

    def _take(self, spec: SubscriptionSpec) -> None:
        try:
            self._bus.model_of(spec)
            self._bus.listen(spec)
        except NotFound as error:
            self._leave(spec.name, str(error))
        except MltriggerError as error:
            self._leave(spec.name, f"{type(error).__name__}: {error}")
        else:
            self._taken[spec.name] = spec
            self._left.pop(spec.name, None)
            self._say(
                f"{spec.name}: {spec.topic} ->"
                f" {spec.selector}{f' -> {spec.emit}' if spec.emit else ''}"
            )

    def _leave(self, name: str, why: str) -> None:
        if self._left.get(name) != why:
            self._left[name] = why
            self._say(one_line(f"{name}: left to others: {why}"))


def stop_on_signals() -> Stop:
    """Return a flag that SIGTERM or SIGINT sets, so that a worker drains.

    A second signal ends the process at once.
    """
    stopping = Stop()

    def stop(signum: int, _: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    return stopping
