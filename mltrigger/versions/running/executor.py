"""Models in an executor, which is how they leave this machine: processes, Dask's
``client.get_executor()``, Ray.

Anything that is a :class:`concurrent.futures.Executor` will do. What it is given is a function of
:mod:`mltrigger.versions.running.executed` and plain values, so its workers need mltrigger, and
whatever the model imports. The model itself travels when a worker turns out not to have it, and
stays there: calls name it by its digest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any, BinaryIO

from mltrigger.errors import Closed, InvalidEvent
from mltrigger.event.event import Event, can_open
from mltrigger.text import redacted
from mltrigger.versions.describe import Model
from mltrigger.versions.describe import import_path as path_of
from mltrigger.versions.running import parcel
from mltrigger.versions.running.capture import echo
from mltrigger.versions.running.current import ENCODING_S, current, place
from mltrigger.versions.running.executed import CONCURRENCY, in_thread, run
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.running.placement import called
from mltrigger.versions.running.pools import Source, turns_in
from mltrigger.versions.running.portable import packed
from mltrigger.versions.running.turns import Turn, Turns
from mltrigger.versions.scheme import Setting

START_TIMEOUT_S = 120.0
_DIED = frozenset({"KilledWorker", "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"})
"""What Dask and Ray raise when workers ended under a call."""
_CHANCES = 16
"""Calls that take the model along because one worker lacks it; by then it has got one of them, or
is gone.
"""
_MOST_BYTES = 64 * 1024 * 1024
"""Largest object of an event that travels with its call: it is in the memory of both sides, and of
what lies between, as a whole.
"""
_TELLING = (ThreadPoolExecutor, ProcessPoolExecutor)
"""Executors that cancel only what has not begun; Dask and Ray cancel anything."""
_STOPPED = Result(
    reason="stopped", error_type="Closed", error="the executor of the model was shut down"
)


class ExecutorInvoker:
    """Calls one model in an executor; never raises, once it is made.

    An executor that is handed over stays its owner's, who shuts it down. One that a callable makes
    is shut down with the subscription, and made again when it broke.

    Dask itself tries a call that killed its worker on three others, and may suspect what waited
    there for the same worker; its setting ``distributed.scheduler.allowed-failures: 0`` spares
    them. Here such a call counts as one death of a worker, as always.

    Parameters
    ----------
    model : Model
        What to call. In the threads of a ``ThreadPoolExecutor`` it is this very object; elsewhere a
        copy, once in each process.
    import_path : str, optional
        ``package.module:attribute``, where the workers find it; without one it is sent with
        cloudpickle.
    executor : Executor, or a callable without arguments that makes one
        Where. Processes should not be forked from a process with threads: ``ProcessPoolExecutor(4,
        get_context("forkserver"))``.
    timeout_s : float
        Longest wait for one call, a worker that is free included: ask for no more calls at once
        than there are workers. An executor cannot stop what runs: after a timeout its worker is
        busy until the model returns. (``isolation="process"`` kills, and so does Ray.) What a pool
        of the standard library did not begin by then is an outage, not the model's timeout.
    start_timeout_s : float
        How much longer a call may take in which a worker loads the model.

    Raises
    ------
    InvalidModel
        When *executor* is none, or the model cannot be sent.
    """

    def __init__(
        self,
        model: Model,
        import_path: str | None,
        executor: Executor | Callable[[], Executor],
        timeout_s: float,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.model = model
        # a call ends by itself here, in its own time; nobody else needs to watch it
        self.grace_s = math.inf
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._source, self._turns = Source(executor), Turns()
        first = self._source.get()
        self.concurrency = _workers(first)
        self.runs_here = isinstance(first, ThreadPoolExecutor)
        self._here = (
            called(model, Setting(timeout_s, self.concurrency))
            if isinstance(first, ThreadPoolExecutor)
            else None
        )
        self.batches = (
            self._here.batches
            if self._here
            else parcel.takes_batches(model, Setting(timeout_s, self.concurrency))
        )
        path = parcel.path_there(model, import_path)
        self._contents = b"" if path or self._here else _pickled(model)
        self._ticket = "" if self._here else _ticket(model, path, timeout_s, self.concurrency)
        self._key = hashlib.sha256(self._contents + self._ticket.encode()).hexdigest()
        # Nobody can choose the worker of a call: what one lacks travels with all calls, until one
        # of them was its.
        self._lacking: dict[str, int] = {}
        self._guard = threading.Lock()
        self._flags = tempfile.TemporaryDirectory(prefix="mltrigger-calls-")

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        return self._asked([event])[0]

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Call the model with a batch, as ``Invoker.many`` does.

        After its worker died each event is tried alone: only its cause fails.
        """
        results = self._asked(events) if events else []
        if len(events) > 1 and any(result.reason == "worker_died" for result in results):
            return [self._alone(event, again) for event in events]
        return results

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._turns.busy

    def close(self) -> None:
        """Shut down an executor that was made here; idempotent.

        Calls that it has not begun give a Result with reason ``stopped``.
        """
        self._source.close()
        self._flags.cleanup()
        if self._here is not None:
            self._here.close()

    def _alone(self, event: Event, again: Callable[[], None]) -> Result:
        again()
        return self._asked([event], alone=True)[0]

    def _asked(self, events: Sequence[Event], alone: bool = False) -> list[Result]:
        """Call the model with those of *events* that can be sent; the others have failed alone."""
        travelling: list[Any] = []
        refused: dict[int, Result] = {}
        for number, event in enumerate(events):
            try:
                travelling.append(event if self._here else self._sent(event))
            except Exception as error:
                refused[number] = failure(error)
        results = self._tried(travelling, alone) if travelling else []
        # in ascending order, so that each lands where its event was
        for number, result in refused.items():
            results.insert(number, result)
        return results

    def _sent(self, event: Event) -> tuple[str, bytes | None]:
        """Return *event* as it travels, JSON, and its object if the model may look at that: only
        here are the rules of its source known.
        """
        content = None
        if self.model.wants_event and can_open(event):
            with event.open() as source:
                content = _content(source)
        return json.dumps({**parcel.sent(event), "opens": content is not None}), content

    def _tried(self, events: list[Any], alone: bool) -> list[Result]:
        if not alone:
            try:
                return self._in_turn(events, alone=False)
            except _NoAnswerError as none:
                if len(events) > 1 or not (none.doubtful and none.had_company):
                    return [none.result] * len(events)
                if none.otherwise is not None:
                    return [none.otherwise]
        # A pool breaks as a whole: with one worker all calls under way lose their answer. Alone, a
        # call can only blame itself.
        try:
            return self._in_turn(events, alone=True)
        except _NoAnswerError as none:
            return [none.result] * len(events)

    def _in_turn(self, events: list[Any], alone: bool) -> list[Result]:
        turn = self._turn(alone)
        try:
            return self._called(events)
        except _NoAnswerError as none:
            none.had_company = turn.had_company
            raise
        finally:
            turn.leave()

    def _turn(self, alone: bool) -> Turn:
        """Wait for a turn in the executor that is in use by then."""
        while True:
            try:
                turns = turns_in(self._source.get())
            except Exception:  # the call says why there is none
                turns = Turns()
            turn = turns.entered(alone)
            self._turns = turns
            if not self._source.makes or self._source.uses(turns):
                return turn
            turn.leave()

    def _called(self, events: list[Any]) -> list[Result]:
        if self._here is not None:
            under_way, returned = current(), threading.Event()
            if under_way is not None:
                under_way = dataclasses.replace(under_way, returned=lambda _: returned.set())
            answer = self._answer(
                self._timeout_s, returned.is_set, in_thread, self._here, events, under_way
            )
        else:
            answer = self._run(events, with_model=bool(self._lacking))
            if "missing" in answer:
                answer = self._run(events, with_model=True)
        echo(answer.get("printed") or "")
        if "failed" in answer:
            raise _NoAnswerError(Result(**answer["failed"]))
        return [Result(**fields) for fields in answer["results"]]

    def _run(self, events: list[Any], with_model: bool) -> dict[str, Any]:
        """Have *events* run by whichever worker is free; *with_model*, one that does not have it
        yet loads it first.
        """
        wait_s, contents = (
            (self._start_timeout_s + self._timeout_s, self._contents)
            if with_model
            else (self._timeout_s, None)
        )
        texts, objects = (
            f"[{','.join(text for text, _ in events)}]",
            [content for _, content in events],
        )
        own = objects if any(content is not None for content in objects) else None
        turn = uuid.uuid4().hex
        flag = Path(self._flags.name) / turn
        answer = self._answer(
            wait_s,
            flag.exists,
            run,
            self._key,
            self._ticket,
            contents,
            texts,
            own,
            turn,
            place(),
            str(flag),
        )
        flag.unlink(missing_ok=True)
        with self._guard:
            if "missing" in answer:
                self._lacking[answer["worker"]] = _CHANCES
            else:
                self._lacking.pop(answer["worker"], None)
                self._lacking = {
                    worker: left - with_model
                    for worker, left in self._lacking.items()
                    if left > with_model
                }
        return answer

    def _answer(
        self,
        wait_s: float,
        has_returned: Callable[[], bool],
        function: Callable[..., dict[str, Any]],
        *given: Any,
    ) -> dict[str, Any]:
        executor, future = self._submitted(function, *given)
        try:
            with contextlib.suppress(TimeoutError):
                return future.result(wait_s)
            # writing the answer down is not the model's time
            return future.result(ENCODING_S if has_returned() else 0)
        except CancelledError as error:  # by whoever shut it down, or lost sight of its scheduler
            raise _NoAnswerError(
                _STOPPED if self._source.closed else self._outage("cancelled", error)
            ) from error
        except BaseException as error:
            if not future.done():
                never_begun = future.cancel() and isinstance(executor, _TELLING)
                if not isinstance(error, TimeoutError):
                    raise  # an interrupt, in the main thread
                raise _NoAnswerError(_late(wait_s, not never_begun)) from None
            raise self._ended(executor, error) from error

    def _submitted(
        self, function: Callable[..., dict[str, Any]], *given: Any
    ) -> tuple[Executor, Future[dict[str, Any]]]:
        """Submit a call; an executor that is broken is made again once."""
        for last in (not self._source.makes, True):
            try:
                executor = self._source.get()
                return executor, executor.submit(function, *given)
            except Closed:
                raise _NoAnswerError(_STOPPED) from None
            except Exception as error:
                self._source.broke()
                if last:
                    raise _NoAnswerError(self._outage("not taken", error)) from error
        raise AssertionError  # the loop ends with a return or an error

    def _ended(self, executor: Executor, error: BaseException) -> _NoAnswerError:
        """Return what it means that a call ended with *error*, which is none of the model's: those
        come as results.
        """
        names = {kind.__name__ for kind in type(error).__mro__}
        broken = isinstance(error, BrokenExecutor) and not isinstance(error, BrokenThreadPool)
        if broken:
            self._source.broke(executor)
        if broken or names & _DIED:
            text = redacted(f"the worker died: {error}")[:1000]
            return _NoAnswerError(
                Result(reason="worker_died", error_type=type(error).__name__, error=text),
                doubtful=True,
                # it is broken for good
                otherwise=(
                    None if self._source.makes or not broken else self._outage("not run", error)
                ),
            )
        return _NoAnswerError(self._outage("not run", error))

    def _outage(self, what: str, error: BaseException) -> Result:
        """Return the Result of a call that the executor did not make: nobody's failure."""
        again = (
            ""
            if self._source.makes
            else (
                "; a callable that makes an executor is asked for another when one breaks:"
                " executor=lambda: …"
            )
        )
        text = redacted(
            f"the executor has {what} the call: {type(error).__name__}: {error}"[:1000] + again
        )
        return Result(reason="no_process", error_type=type(error).__name__, error=text)


class _NoAnswerError(Exception):
    """A call without an answer: the Result of all its events.

    It is doubtful when another call may be the cause, if it ``had_company``: then it is tried again
    alone, or *otherwise* is its Result.
    """

    def __init__(
        self, result: Result, doubtful: bool = False, otherwise: Result | None = None
    ) -> None:
        super().__init__(result.error)
        self.result, self.doubtful, self.otherwise = result, doubtful, otherwise
        self.had_company = False


def _late(wait_s: float, may_run: bool) -> Result:
    if may_run:
        error = f"no answer within {wait_s:g} s; whether its worker goes on is up to the executor"
        return Result(reason="timeout", error_type="TimeoutError", error=error)
    error = (
        f"no worker of the executor was free within {wait_s:g} s: give it more workers, or ask for"
        " fewer calls at once"
    )
    # it was never called: nobody's failure
    return Result(reason="no_process", error_type="TimeoutError", error=error)


def _content(source: BinaryIO) -> bytes:
    """Return all of *source*; raises InvalidEvent when that is more than may travel."""
    found = bytearray()
    while len(found) <= _MOST_BYTES and (part := source.read(_MOST_BYTES + 1 - len(found))):
        found += part
    if len(found) > _MOST_BYTES:
        most = f"{_MOST_BYTES // 1024**2} MiB"
        raise InvalidEvent(
            f"the object has more than {most}, the most that is sent to a worker with its call;"
            " isolation='process' instead of an executor opens it on this machine, at any size",
            "object_too_large",
        )
    return bytes(found)


def _pickled(model: Model) -> bytes:
    with packed(model) as file:
        file.seek(0)
        return file.read()


def _ticket(model: Model, import_path: str | None, timeout_s: float, processes: int) -> str:
    """Return what every call says of the model, as JSON; as text, since Dask looks into everything
    that is not.
    """
    described = parcel.description(model, import_path)
    # also what is pickled may be found by its name there, by pickle
    if import_path or path_of(model.target):
        described["digest"] = parcel.content_digest(model)
    return json.dumps({**described, "timeout_s": timeout_s, "processes": processes}, sort_keys=True)


def _workers(executor: Executor) -> int:
    """Return how many calls *executor* runs at once, as far as it can be told."""
    # of both pools of the standard library, of loky and of ours
    if isinstance(most := getattr(executor, "_max_workers", None), int):
        return max(1, most)
    # Dask's has a client; without workers yet, or out of sight, it says nothing
    with contextlib.suppress(Exception):
        return sum(executor._client.nthreads().values()) or CONCURRENCY  # type: ignore[attr-defined]
    return CONCURRENCY


class RayExecutor(Executor):
    """Ray as an executor, which it has none of its own for: each call is a task.

    ``executor=RayExecutor(num_cpus=1)``.

    Cancelling a call, as a timeout does, ends the worker that runs it. Ray is neither started nor
    shut down by this.

    Parameters
    ----------
    **options
        What ``ray.remote`` takes: ``num_cpus``, ``num_gpus``, ``resources``, ``runtime_env``, … A
        call whose worker died is not repeated by Ray but by its subscription, which counts it:
        ``max_retries`` is 0.
    """

    def __init__(self, **options: Any) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._closed = False
        ray = self._ray
        self._task = ray.remote(**{"max_retries": 0, **options})(_applied)
        each = float(options.get("num_cpus", 1)) or 1.0
        self._max_workers = (
            max(1, int(ray.cluster_resources().get("CPU", CONCURRENCY) / each))
            if ray.is_initialized()
            else CONCURRENCY
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run *fn* as a task."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        reference = self._task.remote(fn, args, kwargs)
        future: Future[Any] = reference.future()
        future.add_done_callback(
            lambda done: self._ray.cancel(reference, force=True) if done.cancelled() else None
        )
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those under way go on."""
        self._closed = True


def _applied(function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*given, **named)
