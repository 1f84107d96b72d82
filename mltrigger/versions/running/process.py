"""Models in processes of their own (``isolation="process"``): what hangs, crashes or eats the
memory is stopped, and only that.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

from mltrigger.event.event import Event
from mltrigger.versions.describe import Model
from mltrigger.versions.running.capture import echo
from mltrigger.versions.running.executed import HOLD_S
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.running.isolated import ModelProcess
from mltrigger.versions.running.parcel import description, path_there, sent, takes_batches
from mltrigger.versions.running.peer import Died, TimedOut
from mltrigger.versions.running.portable import packed
from mltrigger.versions.scheme import Setting

START_TIMEOUT_S = 120.0
_STOPPED = Result(reason="stopped", error_type="Closed", error="the model's processes were stopped")


class ProcessInvoker:
    """Calls one model in child processes that can be killed; never raises.

    The counterpart of ``Invoker``, which calls it in a thread.

    A child serves one call at a time; there are as many as calls at the same time. The model is
    sent when the object is made: what a notebook changes later does not reach it. What it prints is
    written to ``sys.stdout`` of the calling thread.

    Parameters
    ----------
    model : Model
        What to call.
    import_path : str, optional
        ``package.module:attribute``, where the children find it; without one it is sent with
        cloudpickle. So it is when its schema is a class that cannot be imported.
    timeout_s : float
        Longest run of one call; then the process is killed, and every process that it has started.
        A batch is one call; when it killed its process, each event of it is another one.
    memory_limit_mb : int, optional
        Most address space of a child (``RLIMIT_AS``), libraries included; beyond it the model gets
        a MemoryError.
    max_calls : int
        Calls after which a child is replaced, so that what leaks is bounded.
    start_timeout_s : float
        Longest time to start a child and load the model; it does not count as the model's run. A
        model that cannot be loaded is waited for: that spends no attempt.

    Raises
    ------
    InvalidModel
        See :func:`~mltrigger.versions.running.portable.check_portable`.
    """

    def __init__(
        self,
        model: Model,
        *,
        import_path: str | None,
        timeout_s: float,
        memory_limit_mb: int | None = None,
        max_calls: int = 10_000,
        processes: int = 1,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.model = model
        self.batches = takes_batches(model, Setting(timeout_s))
        self.concurrency, self.runs_here = 1, False
        # a call ends by itself here, in its own time; nobody else needs to watch it
        self.grace_s = math.inf
        self._timeout_s, self._start_timeout_s, self._max_calls = (
            timeout_s,
            start_timeout_s,
            max_calls,
        )
        path = path_there(model, import_path)
        # once: what a file holds later is another version
        described = {**description(model, path), "processes": processes}
        self._file = packed(model) if path is None else None
        self._make = functools.partial(ModelProcess, described, self._file, memory_limit_mb)
        self._idle: list[ModelProcess] = []
        self._all: set[ModelProcess] = set()
        self._guard = threading.Lock()
        self._closed = False
        # Not at exit: there the end of the pipes ends the children.
        weakref.finalize(self, _close, self._all, self._file, os.getpid()).atexit = False

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        return self._ask([event], self._time())[0]

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Call the model with a batch, as ``Invoker.many`` does.

        After a crash each event is tried alone, so that only its cause fails.
        """
        time_left = self._time()
        results = self._ask(events, time_left, again) if events else []
        if len(events) > 1 and results[0].reason == "worker_died":
            return [self._alone(event, again) for event in events]
        return results

    def close(self) -> None:
        """Kill all children.

        Idempotent; calls under way, and later ones, give a Result with reason ``stopped``.
        """
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            children = list(self._all)
            if self._file is not None:
                self._file.close()
        for child in children:
            child.kill()  # no more: a thread may be waiting for it
        for child in idle:
            self._drop(child)

    def _alone(self, event: Event, again: Callable[[], None]) -> Result:
        again()
        return self._ask([event], self._time())[0]  # in its own time: none shall pay for the cause

    def _time(self) -> _Time:
        return _Time(_Allowance(self._start_timeout_s), _Allowance(self._timeout_s))

    def _ask(
        self, events: Sequence[Event], time_left: _Time, again: Callable[[], None] = lambda: None
    ) -> list[Result]:
        try:
            request = [sent(event) for event in events]
        except Exception as error:  # never published: what came through a broker has a JSON form
            return [failure(error)._replace(reason="invalid_event")] * len(events)

        def renewed() -> float:
            again()
            return time.monotonic() + self._timeout_s

        child = self._take(time_left)
        if isinstance(child, Result):
            return [child] * len(events)
        try:
            with time_left.answering as deadline:
                results = child.call(request, events, deadline, renewed)
        except TimedOut:
            results = [self._late()] * len(events)
        except Died as died:
            results = [
                Result(
                    reason="worker_died",
                    error_type="ProcessDied",
                    error=f"the model's process {died}",
                )
            ] * len(events)
        except BaseException:  # an interrupt, in the main thread
            self._drop(child)
            raise
        else:
            echo(child.printed())
            self._give_back(child)
            return results
        return self._lost(child, results)

    def _late(self) -> Result:
        error = f"no answer within timeout_s = {self._timeout_s:g}; its process was stopped"
        return Result(reason="timeout", error_type="TimeoutError", error=error)

    def _take(self, time_left: _Time) -> ModelProcess | Result:
        """Return a child that has loaded the model, or why there is none."""
        while True:
            with self._guard:
                if self._closed:
                    return _STOPPED
                if not self._idle:
                    break
                child = self._idle.pop()  # the one that was used last: its caches are warm
            if child.alive:
                return child
            self._drop(child)
        return self._start(time_left)

    def _start(self, time_left: _Time) -> ModelProcess | Result:
        with time_left.starting as deadline:
            try:
                child = self._make()
            except (OSError, ValueError) as error:
                # no more processes; or the file was closed a moment ago
                return _STOPPED if self._closed else failure(error)._replace(reason="no_process")
            with self._guard:
                self._all.add(child)
            # after it was added: whoever closes either sees the child, or is seen here
            if self._closed:
                return self._lost(child, [_STOPPED])[0]
            refused = self._loaded(child, deadline)
        if refused is None:
            return child
        # it says nothing of events
        waiting = refused._replace(
            reason="model_unavailable", permanent=False, throttled=True, delay_s=HOLD_S
        )
        return self._lost(child, [waiting])[0]

    def _loaded(self, child: ModelProcess, deadline: float) -> Result | None:
        """Let *child* load the model; return what went wrong."""
        try:
            return child.load(deadline)
        except TimedOut:
            return Result(
                error_type="TimeoutError",
                error=(
                    f"the model was not loaded within start_timeout_s = {self._start_timeout_s:g}"
                ),
            )
        except Died as died:
            return Result(
                error_type="ProcessDied",
                error=f"the model's process {died} while it loaded the model",
            )
        except BaseException:
            self._drop(child)
            raise

    def _give_back(self, child: ModelProcess) -> None:
        with self._guard:
            keep = not self._closed and child.calls < self._max_calls
            if keep:
                self._idle.append(child)
        if not keep:
            self._drop(child)

    def _lost(self, child: ModelProcess, results: list[Result]) -> list[Result]:
        """End *child* after *results*, its last words first; they are nobody's failure when it was
        we who killed it.
        """
        child.kill()
        echo(child.printed())
        self._drop(child)
        return [_STOPPED] * len(results) if self._closed else results

    def _drop(self, child: ModelProcess) -> None:
        child.close()
        with self._guard:
            self._all.discard(child)


class _Allowance:
    """Seconds that may be spent: each ``with`` block gets the instant at which they are over, and
    is charged for what it took.
    """

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s
        self._began_s = 0.0

    def __enter__(self) -> float:
        self._began_s = time.monotonic()
        return self._began_s + self.left_s

    def __exit__(self, *_: object) -> None:
        self.left_s -= time.monotonic() - self._began_s


class _Time(NamedTuple):
    """What one call may take, and what starting a process for it."""

    starting: _Allowance
    answering: _Allowance


def _close(children: set[ModelProcess], file: BinaryIO | None, process: int) -> None:
    """End what an invoker left behind that nobody closed; not from a copy of the process that made
    it.
    """
    if os.getpid() == process:
        for child in list(children):
            child.close()
        if file is not None:
            file.close()
