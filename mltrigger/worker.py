"""A worker: a process that delivers all subscriptions with importable models."""

from __future__ import annotations

import contextlib
import importlib
import queue
import signal
import time
from collections.abc import Callable, Collection
from types import FrameType
from typing import TYPE_CHECKING, Any

from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidModel, MltriggerError, NotFound, StoreError
from mltrigger.policy import DeliveryPolicy
from mltrigger.text import one_line
from mltrigger.versions.running.placement import Executing, check_placement
from mltrigger.versions.selector import is_import_path

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

LOOK_S = 1.0
"""The interval of asking the registry for changed subscriptions, in seconds."""
SILENT_S = 10.0
"""A store that has not answered for so long counts as not reachable."""


class Stop:
    """A flag that ends a worker.

    Unlike an Event, a signal handler may set it at any point of its own wait.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signals: tuple[signal.Signals, ...] = ()

    def set(self) -> None:
        """End the worker."""
        self._is_set = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether the worker has to end."""
        return self._is_set

    def on(self, *signals: signal.Signals) -> None:
        """Let *signals* set it. A second one ends the process at once."""
        self._signals = signals
        self._hold()

    def _hold(self) -> None:
        """Take the signals back from libraries.

        Ray takes them when it is imported, and once more below Python when it connects. So they are
        taken back without a look at who has them.
        """
        for number in () if self._is_set else self._signals:
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.alarm(0)  # Ray's handler, if it was called first, would abort the drain after 3 s
        self.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, at most *timeout_s*."""
        self._hold()
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
    executor : concurrent.futures.Executor, or a callable that makes one, optional
        The place of the models. Default: this process.
    monotonic : callable
        Returns seconds that only rise.
    """

    def __init__(
        self,
        bus: EventBus,
        only: Collection[str],
        say: Callable[[str], None],
        stopping: Stop,
        executor: Executing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus, self._only = bus, frozenset(only)
        self._say, self._executor, self._monotonic = say, executor, monotonic
        self._reasons, self._looked_s = ["it has not looked for subscriptions yet"], monotonic()
        self._taken: dict[str, SubscriptionSpec] = {}
        self._left: dict[str, str] = {}
        self._stopping = stopping

    def run(self, until_idle: bool = False) -> None:
        """Deliver until it is stopped, or until nothing is open."""
        while not self._stopping.is_set():
            try:
                self.look()
                self._reasons, self._looked_s = self._waits_for(), self._monotonic()
                if until_idle and self._idle():
                    return
            except StoreError as error:
                self._reasons = [f"the store does not answer: {error}"]
                self._looked_s = self._monotonic()
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

    def lifeless(self) -> list[str]:
        """Return why the process has to be started again. Empty while it lives, or drains."""
        return [] if self._stopping.is_set() else self._bus.vitals.lifeless()

    def unready(self) -> list[str]:
        """Return why it cannot deliver now. Empty if it can. It returns at once."""
        if self._stopping.is_set():
            return ["it drains"]
        silent_s = self._monotonic() - self._looked_s
        if silent_s > SILENT_S:
            return [f"the store has not answered for {silent_s:.0f} s"]
        return self._reasons

    def _waits_for(self) -> list[str]:
        if not self._taken and not self._left:
            return ["there is no subscription yet"]
        # Without names it takes those that it can. It is ready if there are any.
        wanted = self._only or (self._left if not self._taken else ())
        missing = sorted(name for name in wanted if name not in self._taken)
        left = [f"{name}: {self._left.get(name, 'not taken yet')}" for name in missing]
        return left + self._bus.vitals.unready()

    def _idle(self) -> bool:
        """Whether all taken subscriptions are done. Asked twice: one may hand on to another."""
        return all(self._done() for _ in range(2))

    def _done(self) -> bool:
        depths = [self._bus.broker.depth(spec) for spec in self._taken.values()]
        return not any(depth.visible or depth.delayed or depth.in_flight for depth in depths)

    def _take(self, spec: SubscriptionSpec) -> None:
        try:
            self._bus.model_of(spec)
            self._bus.listen(spec, self._executor)
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


def executor_at(path: str) -> Executing:
    """Return the executor at *path*, ``package.module:name``, or the callable there.

    Raises
    ------
    InvalidModel
        If there is none.
    """
    module, _, attribute = path.partition(":")
    if not is_import_path(path):
        raise InvalidModel(f"executor {path[:200]!r} must be package.module:name")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module may do anything while it is imported
        raise InvalidModel(
            f"executor {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    check_placement(None, DeliveryPolicy(), found)
    executor: Executing = found
    return executor


def stop_on_signals() -> Stop:
    """Return a flag that SIGTERM or SIGINT sets, so that a worker drains.

    A second signal ends the process at once.
    """
    stopping = Stop()
    stopping.on(signal.SIGTERM, signal.SIGINT)
    return stopping
