"""Models in processes of their own (``isolation="process"``).

A model that hangs, crashes or eats the memory is killed. Nothing else is.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO

from mltrigger.event.event import Event
from mltrigger.versions.describe import Model
from mltrigger.versions.running.capture import echo
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.running.killable import Died, TimedOut
from mltrigger.versions.running.workers import parcel
from mltrigger.versions.running.workers.invoker import START_TIMEOUT_S, NoAnswer, unavailable
from mltrigger.versions.running.workers.portable import packed
from mltrigger.versions.running.workers.process import ModelProcess
from mltrigger.versions.scheme import Setting

_STOPPED = Result(reason="stopped", error_type="Closed", error="the model's processes were stopped")
_FOREVER_S = 30 * 24 * 3600.0


class Processes:
    """The child processes of one model, as its workers.

    A child serves one call at a time. As many are started as calls run at the same time. The model
    is packed now: later changes in a notebook do not reach it. Its prints are written to
    ``sys.stdout`` of the calling thread.

    Parameters
    ----------
    model : Model
        The model.
    import_path : str, optional
        ``package.module:attribute``, from which children import the model. Without it, or if a
        schema is a class that cannot be imported, the model is sent with cloudpickle.
    timeout_s : float
        Longest run of one call. Then the process is killed, with all processes that it started. A
        batch is one call.
    memory_limit_mb : int, optional
        Largest address space of a child (``RLIMIT_AS``), libraries included. Beyond it the model
        gets a MemoryError.
    processes : int
        Processes that compute at the same time on this machine, as far as is known.
    max_calls : int
        Calls after which a child is replaced. This bounds leaks.
    start_timeout_s : float
        Longest time to start a child and load the model. It does not count as run time of the
        model, and a failure spends no attempt.

    Raises
    ------
    InvalidModel
        See :func:`~mltrigger.versions.running.workers.portable.check_portable`.
    """

    concurrency, runs_here = 1, False

    def __init__(
        self,
        model: Model,
        import_path: str | None,
        timeout_s: float,
        *,
        memory_limit_mb: int | None = None,
        processes: int = 1,
        max_calls: int = 10_000,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.batches = parcel.takes_batches(model, Setting(timeout_s))
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._max_calls = max_calls
        path = parcel.path_there(model, import_path)
        # The parent ends what takes too long, so the child has no timeout of its own.
        ticket = parcel.ticket(model, path, Setting(_FOREVER_S, processes=processes))
        self._file = packed(model) if path is None else None
        self._make = functools.partial(ModelProcess, ticket, self._file, memory_limit_mb)
        self._idle: list[ModelProcess] = []
        self._all: set[ModelProcess] = set()
        self._guard = threading.Lock()
        self._closed = False
        # Not at exit: there the end of the pipes ends the children.
        weakref.finalize(self, _close, self._all, self._file, os.getpid()).atexit = False

    def packed(self, event: Event) -> tuple[Event, dict[str, Any]]:
        """Return *event*, which opens its object here, and its JSON form."""
        return event, parcel.sent(event)

    def call(
        self,
        packed: list[tuple[Event, dict[str, Any]]],
        again: Callable[[], None],
        alone: bool,
    ) -> list[Result]:
        """Call the model in one child. A child serves one call, so each call is *alone*."""
        del alone
        child = self._take()
        try:
            results = child.call(packed, self._timeout_s, again)
        except TimedOut:
            late = f"no answer within timeout_s = {self._timeout_s:g}; its process was stopped"
            result = Result(reason="timeout", error_type="TimeoutError", error=late)
            raise self._lost(child, result) from None
        except Died as died:
            result = _died(f"the model's process {died}")._replace(reason="worker_died")
            raise self._lost(child, result) from None
        except BaseException:  # an interrupt, in the main thread
            self._drop(child)
            raise
        echo(child.printed())
        self._give_back(child)
        return results

    def close(self) -> None:
        """Kill all children. Idempotent.

        Calls under way, and later ones, give a Result with reason ``stopped``.
        """
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
            children = list(self._all)
            if self._file is not None:
                self._file.close()
        for child in children:
            child.kill()  # no more than that: a thread may be waiting for it
        for child in idle:
            self._drop(child)

    def _take(self) -> ModelProcess:
        """Return a child that has loaded the model."""
        while True:
            with self._guard:
                if self._closed:
                    raise NoAnswer(_STOPPED)
                if not self._idle:
                    break
                child = self._idle.pop()  # the one that was used last: its caches are warm
            if child.alive:
                return child
            self._drop(child)
        return self._started()

    def _started(self) -> ModelProcess:
        deadline = time.monotonic() + self._start_timeout_s
        try:
            child = self._make()
        except (OSError, ValueError) as error:
            # no more processes are possible, or the file was closed a moment ago
            raise NoAnswer(
                _STOPPED if self._closed else failure(error)._replace(reason="no_process")
            ) from error
        with self._guard:
            self._all.add(child)
        # After it was added: either close() sees the child, or it is seen here.
        if self._closed:
            raise self._lost(child, _STOPPED)
        try:
            refused = child.load(deadline)
        except TimedOut:
            late = f"the model was not loaded within start_timeout_s = {self._start_timeout_s:g}"
            refused = Result(error_type="TimeoutError", error=late)
        except Died as died:
            refused = _died(f"the model's process {died} while it loaded the model")
        except BaseException:
            self._drop(child)
            raise
        if refused is not None:
            raise self._lost(child, unavailable(refused))
        return child

    def _give_back(self, child: ModelProcess) -> None:
        with self._guard:
            keep = not self._closed and child.calls < self._max_calls
            if keep:
                self._idle.append(child)
        if not keep:
            self._drop(child)

    def _lost(self, child: ModelProcess, result: Result) -> NoAnswer:
        """End *child* after *result*. Its last words are printed first.

        If we killed it ourselves, no event is blamed.
        """
        child.kill()
        echo(child.printed())
        self._drop(child)
        return NoAnswer(_STOPPED if self._closed else result)

    def _drop(self, child: ModelProcess) -> None:
        child.close()
        with self._guard:
            self._all.discard(child)


def _died(error: str) -> Result:
    return Result(error_type="ProcessDied", error=error)


def _close(children: set[ModelProcess], file: BinaryIO | None, process: int) -> None:
    """End the children of an object that nobody closed. A fork of its process must not."""
    if os.getpid() == process:
        for child in list(children):
            child.close()
        if file is not None:
            file.close()
