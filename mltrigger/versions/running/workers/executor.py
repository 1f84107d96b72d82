"""Models in an executor: threads, processes, Dask's ``client.get_executor()``, Ray.

Any :class:`concurrent.futures.Executor` will do.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

from mltrigger.errors import Closed
from mltrigger.event.event import Event
from mltrigger.text import redacted
from mltrigger.versions.describe import Model
from mltrigger.versions.running.capture import echo
from mltrigger.versions.running.current import ENCODING_S, current
from mltrigger.versions.running.here import called
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.workers.invoker import NoAnswer, unavailable
from mltrigger.versions.running.workers.pools import Source
from mltrigger.versions.running.workers.worker import run_here
from mltrigger.versions.scheme import Setting

_DIED = frozenset({"KilledWorker", "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"})
"""Errors that Dask and Ray raise when a worker ended during a call."""
_TELLING = (ThreadPoolExecutor, ProcessPoolExecutor)
"""Executors that cancel only calls that have not begun. Dask and Ray cancel any."""
_STOPPED = Result(
    reason="stopped", error_type="Closed", error="the executor of the model was shut down"
)


class InExecutor(abc.ABC):
    """The workers of an executor.

    The owner of an executor that is handed over shuts it down. An executor that a
    callable makes is shut down with the subscription. It is made again when it breaks.

    Dask itself tries a call that killed its worker on three others. It may suspect other calls that
    waited for the same worker. Its setting ``distributed.scheduler.allowed-failures: 0`` spares
    them. Here such a call counts as one death of a worker.

    Parameters
    ----------
    source : Source
        The executor.
    timeout_s : float
        Longest wait for one call, the wait for a free worker included. Ask for no more calls at
        once than there are workers. An executor cannot stop a call that runs: after a timeout its
        worker stays busy until the model returns. (Ray can.) A call that a pool of the standard
        library did not begin in time is an outage, not a timeout of the model.
    """

    batches: bool
    runs_here = False

    def __init__(self, source: Source, timeout_s: float) -> None:
        self._source, self._timeout_s = source, timeout_s
        self.concurrency = source.workers

    @abc.abstractmethod
    def packed(self, event: Event) -> Any:
        """See :class:`~mltrigger.versions.running.workers.invoker.Workers`."""

    @abc.abstractmethod
    def _called(self, packed: list[Any]) -> dict[str, Any]:
        """Call the model and return the answer of :func:`.worker.run`."""

    def call(self, packed: list[Any], again: Callable[[], None], alone: bool) -> list[Result]:
        """Call the model in one worker, in a turn of its own if *alone*.

        A pool breaks as a whole: all calls under way lose their answer. So the death of a worker
        proves nothing about a call that had company.
        """
        del again
        turn = self._source.turn(alone)
        try:
            answer = self._called(packed)
        except NoAnswer as none:
            none.doubtful &= turn.had_company
            raise
        finally:
            turn.leave()
        echo(answer.get("printed") or "")
        if "failed" in answer:
            raise NoAnswer(unavailable(Result(**answer["failed"])))
        return [Result(**fields) for fields in answer["results"]]

    def close(self) -> None:
        """Shut down an executor that was made here. Idempotent.

        Calls that have not begun give a Result with reason ``stopped``.
        """
        self._source.close()

    def _answer(
        self,
        wait_s: float,
        has_returned: Callable[[], bool],
        function: Callable[..., dict[str, Any]],
        *given: Any,
    ) -> dict[str, Any]:
        """Submit *function* and return its answer within *wait_s*.

        Encoding the answer is not the model's time: once it *has_returned*, it has ``ENCODING_S``.
        """
        executor, future = self._submitted(function, *given)
        try:
            with contextlib.suppress(TimeoutError):
                return future.result(wait_s)
            return future.result(ENCODING_S if has_returned() else 0)
        except CancelledError as error:  # the executor was shut down, or lost its scheduler
            if self._source.closed:
                raise NoAnswer(_STOPPED) from error
            # Another call may have broken the pool, which cancels those that have not begun.
            raise NoAnswer(self._outage("cancelled", error), self._source.makes) from error
        except BaseException as error:
            if not future.done():
                never_begun = future.cancel() and isinstance(executor, _TELLING)
                if not isinstance(error, TimeoutError):
                    raise  # an interrupt, in the main thread
                raise NoAnswer(_late(wait_s, not never_begun)) from None
            raise self._ended(executor, error) from error

    def _submitted(
        self, function: Callable[..., dict[str, Any]], *given: Any
    ) -> tuple[Executor, Future[dict[str, Any]]]:
        """Submit a call. A broken executor is made again once."""
        for last in (not self._source.makes, True):
            executor = None
            try:
                executor = self._source.get()
                return executor, executor.submit(function, *given)
            except Closed:
                raise NoAnswer(_STOPPED) from None
            except Exception as error:
                self._source.broke(executor)  # only this one: another may be in use by now
                if last:
                    raise NoAnswer(self._outage("not taken", error)) from error
        raise AssertionError  # the loop ends with a return or an error

    def _ended(self, executor: Executor, error: BaseException) -> NoAnswer:
        """Return the meaning of *error*, which ended a call. Errors of a model come as results."""
        broken = isinstance(error, BrokenExecutor) and not isinstance(error, BrokenThreadPool)
        if broken:
            self._source.broke(executor)
        if broken or _DIED.intersection(kind.__name__ for kind in type(error).__mro__):
            text = redacted(f"the worker died: {error}")[:1000]
            died = Result(reason="worker_died", error_type=type(error).__name__, error=text)
            return NoAnswer(died, doubtful=True)
        return NoAnswer(self._outage("not run", error))

    def _outage(self, how: str, error: BaseException) -> Result:
        """Return the Result of a call that the executor did not make. No event is blamed."""
        advice = (
            ""
            if self._source.makes
            else "; a callable that makes an executor is asked for another when one breaks:"
            " executor=lambda: …"
        )
        text = f"the executor has {how} the call: {type(error).__name__}: {error}"[:1000]
        return Result(
            reason="no_process", error_type=type(error).__name__, error=redacted(text + advice)
        )


class InThreads(InExecutor):
    """A ``ThreadPoolExecutor``: the model is this very object, in this process."""

    runs_here = True

    def __init__(self, model: Model, source: Source, timeout_s: float) -> None:
        super().__init__(source, timeout_s)
        self._caller = called(model, Setting(timeout_s, self.concurrency))
        self.batches = self._caller.batches

    def packed(self, event: Event) -> Event:
        """Return *event* itself."""
        return event

    def close(self) -> None:
        """See :meth:`InExecutor.close`."""
        super().close()
        self._caller.close()

    def _called(self, packed: list[Event]) -> dict[str, Any]:
        under_way, returned = current(), threading.Event()
        if under_way is not None:
            under_way = dataclasses.replace(under_way, returned=lambda _: returned.set())
        return self._answer(
            self._timeout_s, returned.is_set, run_here, self._caller, packed, under_way
        )


def _late(wait_s: float, may_run: bool) -> Result:
    if may_run:
        error = f"no answer within {wait_s:g} s; whether its worker goes on is up to the executor"
        return Result(reason="timeout", error_type="TimeoutError", error=error)
    error = (
        f"no worker of the executor was free within {wait_s:g} s: give it more workers, or ask for"
        " fewer calls at once"
    )
    # the model was never called, so no event is blamed
    return Result(reason="no_process", error_type="TimeoutError", error=error)
