"""Models in executors: how they travel, and what becomes of events when a worker dies.

The rest is in the contract of placements.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import clusters
import pydantic
import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.versions.describe import Model, as_model
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.workers.invoker import WorkerInvoker
from mltrigger.versions.running.workers.sending import in_executor

Invoke = Callable[..., WorkerInvoker]


def processes(count: int = 1) -> ProcessPoolExecutor:
    """Return a pool whose processes are fresh interpreters: a fork of a process with threads may
    inherit a lock that nobody opens.

    All of them are started here. A pool starts one more for a call, and one that starts while the
    pool breaks is waited for for ever.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    wait([pool.submit(time.sleep, 0.1) for _ in range(count)])
    assert len(pool._processes) == count
    return pool


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """One process that all tests share; to start one takes longer than most of them."""
    with processes() as pool:
        yield pool


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    """Make invokers, which are closed at the end."""
    made: list[WorkerInvoker] = []

    def make(
        target: Any,
        executor: Any,
        *,
        path: str | None = None,
        timeout_s: float = 60.0,
        **described: Any,
    ) -> WorkerInvoker:
        model = target if isinstance(target, Model) else as_model(target, name="probe", **described)
        made.append(WorkerInvoker(model, in_executor(model, path, executor, timeout_s)))
        return made[-1]

    yield make
    for invoker in made:
        invoker.close()


def answer(result: Result) -> Any:
    assert result.error is None, result
    return json.loads(result.output or "")


class Noted(ThreadPoolExecutor):
    """Runs what it is given in the process that it is given to, as a pickle would arrive there; and
    notes how large it is.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.sizes: list[int] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.sizes.append(len(pickle.dumps(args)))
        return super().submit(fn, *args, **kwargs)


class Elsewhere(Executor):
    """An executor that is no pool of threads, as far as anybody can tell."""

    def __init__(self) -> None:
        self.inner = Noted()
        self.ended = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended += 1
        self.inner.shutdown(wait=wait, cancel_futures=cancel_futures)


# -- where it runs, and what comes back ------------------------------------------------------------


def test_in_threads_the_model_is_the_very_object(invoke: Invoke) -> None:
    lock = threading.Lock()  # nothing that could be sent
    with ThreadPoolExecutor(3, "the-pool") as threads:
        invoker = invoke(
            lambda data: [threading.current_thread().name, lock.locked(), data], threads
        )

        name, locked, data = answer(invoker.one(Event(1)))

    assert (name.rpartition("_")[0], locked, data, invoker.concurrency) == ("the-pool", False, 1, 3)


def test_a_model_travels_once(invoke: Invoke) -> None:
    executor = Elsewhere()
    weights = os.urandom(100_000)
    invoker = invoke(lambda data: len(weights) + data, executor)

    assert [answer(invoker.one(Event(n))) for n in (1, 2, 3)] == [100_001, 100_002, 100_003]

    sizes = executor.inner.sizes
    assert [size > 100_000 for size in sizes] == [False, True, False, False]
    assert max(sizes[0], *sizes[2:]) < 2_000


def test_a_worker_that_lacks_the_model_gets_it_soon(invoke: Invoke) -> None:
    """Calls go to two workers in turn: what one is sent after it said that it lacks the model, the
    other gets.
    """
    sizes: list[int] = []
    with processes() as one, processes() as other:

        class InTurn(Elsewhere):
            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
                sizes.append(len(pickle.dumps(args)))
                return (one, other)[len(sizes) % 2].submit(fn, *args, **kwargs)

        weights = os.urandom(100_000)
        invoker = invoke(lambda data: len(weights) + data, InTurn())
        outputs = [answer(invoker.one(Event(n))) for n in range(6)]

    assert outputs == [100_000 + n for n in range(6)]
    assert [size > 100_000 for size in sizes] == [False, True, True, False, False, False, False]


def test_two_calls_are_never_taken_for_one(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask answers a call with the result of an equal one."""
    executor, given = Elsewhere(), []
    monkeypatch.setattr(
        executor, "submit", lambda fn, *args: given.append(args) or executor.inner.submit(fn, *args)
    )
    invoker, event = invoke(lambda data: data, executor), Event(1)

    for _ in range(3):
        invoker.one(event)

    assert all(a != b for i, a in enumerate(given) for b in given[:i])


def page_schema() -> type[pydantic.BaseModel]:
    class Page(pydantic.BaseModel):
        n: int

    return Page


def test_an_object_that_is_too_large_to_travel_is_refused_and_the_alternative_named(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.versions.running.workers.sending._MOST_BYTES", 2**20)

    def model(event: mt.Event) -> int:
        return len(event.open().read())

    invoker = invoke(model, Elsewhere())
    fits, refused = (
        invoker.one(with_opener(Event(), lambda size=size: io.BytesIO(bytes(size))))
        for size in (2**20, 2**20 + 1)
    )

    assert (answer(fits), refused.reason, refused.permanent) == (2**20, "object_too_large", True)
    assert "more than 1 MiB" in (refused.error or "") and "isolation='process'" in (
        refused.error or ""
    )


def test_a_worker_that_makes_room_drops_no_model_that_is_being_called(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.versions.running.workers.worker._MOST_HELD", 1)
    begun, gate = tmp_path / "begun", tmp_path / "gate"

    async def slow(data: Any) -> Any:
        import asyncio

        begun.touch()
        while not gate.exists():
            await asyncio.sleep(0.01)
        return data

    with ThreadPoolExecutor(1) as asking:
        waiting = asking.submit(invoke(slow, Elsewhere()).one, Event(1))
        wait_until(begun.exists)
        other = invoke(lambda data: data, Elsewhere()).one(Event(2))
        gate.touch()

        assert (answer(waiting.result()), answer(other)) == (1, 2)


# -- what cannot be sent or loaded -----------------------------------------------------------------


def test_what_is_no_executor_is_refused(invoke: Invoke) -> None:
    client = types.SimpleNamespace(get_executor=print)

    with pytest.raises(
        InvalidModel, match=r"takes a concurrent\.futures\.Executor, not int; or a callable"
    ):
        invoke(len, 4)
    with pytest.raises(InvalidModel, match=r"hand over client\.get_executor\(\)"):
        invoke(len, client)
    with pytest.raises(InvalidModel, match=r"made no concurrent\.futures\.Executor, but a str"):
        invoke(len, lambda: "pool")


def test_an_executor_of_ray_says_how_to_install_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(InvalidModel, match=r"RayExecutor needs ray: .*pip install -e '\.\[ray\]'"):
        mt.RayExecutor()


def test_a_model_is_imported_where_it_is_known(invoke: Invoke, pool: ProcessPoolExecutor) -> None:
    assert (
        answer(invoke(textwrap.dedent, pool, path="textwrap:dedent").one(Event("  text"))) == "text"
    )


def test_other_code_on_a_worker_is_not_run(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moving_model.py").write_text("def score(data):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import moving_model  # type: ignore[import-not-found]

    invoker = invoke(moving_model.score, Elsewhere(), path="moving_model:score")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "moving_model.py").write_text("def score(data):\n    return 20 + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    monkeypatch.delitem(sys.modules, "moving_model")

    result = invoker.one(Event(1))

    assert (result.reason, result.throttled, result.permanent) == ("model_unavailable", True, False)
    assert "moving_model:score holds other code on this worker" in (result.error or "")


def test_other_files_behind_an_address_are_not_run(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker begins in another folder, where a file has the same name."""
    for folder, text in (("here", "cat"), ("there", "sed s/1/2/"), ("same", "cat")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "score.sh").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    invoker = invoke("command:sh score.sh", Elsewhere(), mode="each")
    monkeypatch.chdir(tmp_path / "there")
    refused = invoker.one(Event(1))
    monkeypatch.chdir(tmp_path / "same")

    assert (refused.reason, refused.throttled, refused.permanent) == (
        "model_unavailable",
        True,
        False,
    )
    assert "command:sh score.sh holds other content" in (refused.error or "")
    assert answer(invoker.one(Event(1))) == 1


def test_a_schema_that_was_given_makes_objects_there_although_the_model_is_imported(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plain_module", module := types.ModuleType("plain_module"))
    exec("def kind(page):\n    return type(page).__name__\n", vars(module))
    executor = Elsewhere()

    for schema, expected in ((page_schema(), "Page"), ({"type": "object"}, "dict"), (None, "dict")):
        invoker = invoke(module.kind, executor, path="plain_module:kind", input_schema=schema)

        assert answer(invoker.one(Event({"n": 1}))) == expected


def test_a_model_that_cannot_be_loaded_there_blames_no_event(invoke: Invoke) -> None:
    module = types.ModuleType("only_here")
    exec("def score(data):\n    return 1\n", vars(module))
    sys.modules["only_here"] = module
    try:
        with processes() as fresh:
            result = invoke(module.score, fresh, path="only_here:score").one(Event(1))
    finally:
        del sys.modules["only_here"]

    assert (result.reason, result.throttled, result.error_type) == (
        "model_unavailable",
        True,
        "ModuleNotFoundError",
    )


# -- what dies, hangs, or is shut down -------------------------------------------------------------


def deadly() -> Callable[[Any], Any]:
    """Return a model that some data kill; it travels without this module, which takes seconds to
    import.
    """

    def model(data: Any) -> Any:
        if data == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    return model


def test_only_the_event_that_kills_its_worker_is_blamed_when_subscriptions_share_a_pool(
    invoke: Invoke,
) -> None:
    made: list[ProcessPoolExecutor] = []

    def shared() -> ProcessPoolExecutor:
        """Return the one pool that all use, another one after it broke."""
        if not made or made[-1]._broken:
            made.append(processes(4))
        return made[-1]

    def slow(data: Any) -> Any:
        time.sleep(0.3)
        return data

    bad, good = invoke(deadly(), shared), invoke(slow, shared)
    answer(bad.one(Event("warm")))
    answer(good.one(Event("warm")))

    with ThreadPoolExecutor(4) as threads:
        innocent = [threads.submit(good.one, Event(n)) for n in range(3)]
        time.sleep(0.1)
        guilty = threads.submit(bad.one, Event("poison"))
        results = [future.result() for future in innocent]

    assert [answer(result) for result in results] == [0, 1, 2]
    assert guilty.result().reason == "worker_died"


def test_calls_that_ran_beside_one_another_in_a_pool_that_is_broken_for_good_are_not_blamed(
    invoke: Invoke,
) -> None:
    with processes(4) as pool, ThreadPoolExecutor(4) as threads:
        invoker = invoke(deadly(), pool)
        answer(invoker.one(Event("warm")))

        results = list(threads.map(invoker.one, [Event("poison"), *(Event(n) for n in range(3))]))

    assert all(result.reason in (None, "no_process") for result in results[1:])


def test_a_broken_pool_that_was_handed_over_is_an_outage(invoke: Invoke) -> None:
    with processes() as broken:
        invoker = invoke(deadly(), broken)

        first, second = invoker.one(Event("poison")), invoker.one(Event("a"))

    assert (first.reason, second.reason) == ("worker_died", "no_process")
    assert "BrokenProcessPool" in (second.error or "")
    assert "executor=lambda: …" in (second.error or "")


def test_an_executor_that_was_shut_down_is_an_outage(invoke: Invoke) -> None:
    for executor in (ThreadPoolExecutor(1), Elsewhere()):
        invoker = invoke(lambda data: data, executor)
        executor.shutdown()

        assert invoker.one(Event(1)).reason == "no_process"


def test_an_executor_that_cannot_be_made_again_is_an_outage(invoke: Invoke) -> None:
    made = [Elsewhere()]
    made[0].shutdown()
    invoker = invoke(lambda data: data, lambda: made.pop())

    result = invoker.one(Event(1))

    assert (result.reason, result.error_type) == ("no_process", "IndexError")


def test_a_call_that_was_cancelled_beside_another_is_made_again_alone(invoke: Invoke) -> None:
    """A pool that one call breaks is shut down, which cancels the calls that have not begun."""
    gate, futures = threading.Event(), list[Future[Any]]()

    class Kept(Elsewhere):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            futures.append(super().submit(fn, *args, **kwargs))
            return futures[-1]

    executor = Kept()
    invoker = invoke(lambda data: data, lambda: executor)
    executor.inner.submit(gate.wait, 30)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(invoker.one, Event(n)) for n in range(2)]
        wait_until(lambda: len(futures) == 2)
        assert futures[0].cancel()
        gate.set()

        assert [answer(future.result()) for future in waiting] == [0, 1]


def test_an_executor_that_two_calls_find_broken_is_made_again_once(invoke: Invoke) -> None:
    both, made_again = threading.Barrier(2), threading.Event()

    class Broken(Elsewhere):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if both.wait(10) == 0:  # this one notices it when the other has another executor
                assert made_again.wait(10)
            raise BrokenProcessPool("broken")

    made = [Broken(), Elsewhere(), Elsewhere()]
    given = iter(made)

    def make() -> Executor:
        executor = next(given)
        if executor is made[1]:
            made_again.set()
        return executor

    invoker = invoke(lambda data: data, make)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(invoker.one, [Event(1), Event(2)]))

    assert [answer(result) for result in results] == [1, 2]
    assert [executor.ended for executor in made] == [1, 0, 0]


def test_one_that_is_shut_down_is_made_again(invoke: Invoke) -> None:
    made = [Elsewhere(), Elsewhere()]
    made[1].shutdown()
    invoker = invoke(lambda data: data, lambda: made.pop())

    assert answer(invoker.one(Event(1))) == 1
    assert made == []


def test_what_takes_too_long_is_given_up(invoke: Invoke) -> None:
    gate, begun = threading.Event(), list[int]()
    with ThreadPoolExecutor(1) as threads:
        invoker = invoke(lambda data: begun.append(data) or gate.wait(30), threads, timeout_s=0.05)

        late, behind = invoker.one(Event(1)), invoker.one(Event(2))
        gate.set()

    assert (late.reason, behind.reason, begun) == (
        "timeout",
        "no_process",
        [1],
    )  # what had not begun was cancelled, and is nobody's failure


def test_who_waits_for_the_worker_of_somebody_else_has_not_been_too_slow(invoke: Invoke) -> None:
    gate, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads, ThreadPoolExecutor(1) as asking:
        slow = asking.submit(
            invoke(lambda data: begun.set() or gate.wait(30), threads).one, Event(1)
        )
        assert begun.wait(10)

        result = invoke(lambda data: data, threads, timeout_s=0.05).one(Event(2))
        gate.set()

        assert answer(slow.result()) is True
    assert (result.reason, result.permanent) == ("no_process", False)
    assert "no worker of the executor was free within 0.05 s" in (result.error or "")


def test_of_an_executor_that_cancels_anything_nobody_knows_whether_it_had_begun(
    invoke: Invoke,
) -> None:
    class LikeDask(Elsewhere):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Future()

    invoker = invoke(lambda data: data, LikeDask(), timeout_s=0.05)

    assert invoker.one(Event(1)).reason == "timeout"


def test_only_an_executor_that_was_made_here_is_shut_down(invoke: Invoke) -> None:
    own, theirs = Elsewhere(), Elsewhere()
    invokers = [invoke(lambda data: data, lambda: own), invoke(lambda data: data, theirs)]

    for invoker in invokers:
        invoker.close()
        invoker.close()

    assert (own.ended, theirs.ended) == (1, 0)
    assert [invoker.one(Event(1)).reason for invoker in invokers] == ["stopped", "stopped"]


def test_a_call_that_was_not_begun_when_it_was_closed_is_stopped(invoke: Invoke) -> None:
    gate, executor = threading.Event(), Elsewhere()
    executor.inner.submit(gate.wait, 30)
    invoker = invoke(lambda data: data, lambda: executor)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(invoker.one, Event(1))
        wait_until(lambda: len(executor.inner.sizes) == 2)

        invoker.close()

        assert waiting.result().reason == "stopped"
        gate.set()


def test_an_error_of_the_executor_itself_is_an_outage(invoke: Invoke) -> None:
    class Failing(Elsewhere):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(ModuleNotFoundError("No module named 'mltrigger'"))
            return future

    result = invoke(lambda data: data, Failing()).one(Event(1))

    assert (result.reason, result.error_type) == ("no_process", "ModuleNotFoundError")
    assert "the executor has not run the call" in (result.error or "")


# -- on a bus --------------------------------------------------------------------------------------


def test_a_subscription_runs_in_processes() -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "numbers",
            mt.model(lambda n: [n, os.getpid()], name="whoami"),
            executor=lambda: processes(1),
        )

        run = bus.fire("numbers", range(8), progress=False)
        outputs = list(run.results()["output"])

        assert sorted(output[0] for output in outputs) == list(range(8))
        assert os.getpid() not in {output[1] for output in outputs}
        assert set(sub.invocations()["outcome"]) == {"succeeded"}


def test_a_worker_of_dask_that_is_killed_loses_no_event(tmp_path: Path) -> None:
    """A cluster of two worker processes; one is killed while it runs the model."""
    killed = tmp_path / "killed"

    def model(n: int) -> Any:
        if n == 5 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [n, os.getpid()]

    with clusters.dask() as executor, mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", mt.model(model, name="whoami"), executor=executor)
        run = bus.fire("numbers", range(12), progress=False, timeout_s=60.0)
        rows, outputs = sub.invocations(), list(run.results()["output"])

    assert killed.exists()
    assert sorted(output[0] for output in outputs) == list(range(12))
    assert os.getpid() not in {output[1] for output in outputs}
    ended = rows[rows["outcome"].isin(["succeeded", "dead", "skipped"])]
    assert sorted(ended["event_id"].value_counts()) == [1] * 12
