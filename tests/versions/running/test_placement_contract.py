"""The contract of every place where a model runs: a thread, a process of its own, and executors of
threads, processes, Dask and Ray.
"""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import clusters
import pydantic
import pytest

import mltrigger as mt
from mltrigger.errors import InvalidModel, ObjectMissing
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.policy import DeliveryPolicy
from mltrigger.versions.describe import as_model
from mltrigger.versions.running.capture import captured
from mltrigger.versions.running.invoke import Caller, Result
from mltrigger.versions.running.placement import Executing, Placement, check_placement
from mltrigger.versions.running.thread import Invoker

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="processes cannot be killed as a group there"
)


def processes(count: int = 2) -> ProcessPoolExecutor:
    """Return a pool of fresh interpreters, all of them started."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))
    wait([pool.submit(time.sleep, 0.1) for _ in range(count)])
    return pool


# They end with the module: a cluster without work still takes a tenth of a processor.
@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with processes() as executor:
        yield executor


@pytest.fixture(scope="module")
def dask() -> Iterator[Executor]:
    with clusters.dask() as executor:
        yield executor


@pytest.fixture(scope="module")
def ray() -> Iterator[Executor]:
    with clusters.ray() as executor:
        yield executor


@dataclasses.dataclass(frozen=True)
class Place:
    """A place, and the callers in it. All are closed at the end of a test.

    ``lasting`` is the executor of most tests. ``mortal`` is one whose workers may be killed.
    """

    name: str
    lasting: Executing | None
    mortal: Executing | None
    made: list[Placement] = dataclasses.field(default_factory=list)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the model is a copy in another process."""
        return self.name not in ("thread", "threads")

    def policy(self, timeout_s: float) -> DeliveryPolicy:
        isolated = "process" if self.name == "process" else "thread"
        return DeliveryPolicy(timeout_s=timeout_s, isolation=isolated, max_concurrency=2)

    def __call__(
        self, target: Any, *, timeout_s: float = 200.0, mortal: bool = False, **described: Any
    ) -> Caller:
        model = as_model(target, name="probe", **described)
        version = dataclasses.replace(model.describe(), import_path=None)
        executor = self.mortal if mortal else self.lasting
        placement = Placement(lambda: (version, model), self.policy(timeout_s), executor)
        self.made.append(placement)
        return placement()[1]

    def close(self) -> None:
        for placement in self.made:
            placement.close()


def _where(*names: str) -> pytest.MarkDecorator:
    groups = {"pool", "dask", "ray"}  # each starts its processes once
    return pytest.mark.parametrize(
        "place",
        [
            pytest.param(
                name,
                marks=[pytest.mark.xdist_group(name)] * (name in groups)
                + [pytest.mark.needs("ray")] * (name == "ray"),
            )
            for name in names
        ],
        indirect=True,
    )


everywhere = _where("thread", "process", "threads", "pool", "dask", "ray")
in_workers = _where("process", "threads", "pool", "dask", "ray")
elsewhere = _where("process", "pool", "dask", "ray")


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    name = request.param
    lasting = None if name in ("thread", "process") else request.getfixturevalue(name)
    place = Place(name, lasting, processes if name == "pool" else lasting)
    yield place
    place.close()


def answer(result: Result) -> Any:
    assert result.error is None, result
    return json.loads(result.output or "")


# -- what arrives ----------------------------------------------------------------------------------


@everywhere
def test_data_arrive_as_they_were_published(place: Place) -> None:
    data = {
        "bytes": b"\xff\x00",
        "decimal": Decimal("1.10"),
        "nan": float("nan"),
        "text": "ä\n\u2028{}",
        "big": 2**70,
        "none": None,
    }
    caller = place(lambda data: [repr(value) for value in data.values()])

    assert answer(caller.one(Event(data))) == [repr(value) for value in data.values()]


@everywhere
def test_raw_bytes_arrive_as_bytes(place: Place) -> None:
    event = Event(b"\x89PNG", datacontenttype="image/png")

    assert answer(place(lambda data: data.hex()).one(event)) == "89504e47"


@everywhere
def test_data_may_be_nested_deeply(place: Place) -> None:
    deep: Any = Decimal(1)
    for _ in range(97):
        deep = [deep]
    caller = place(lambda data: data)

    assert caller.one(Event(deep)) == Invoker(as_model(lambda data: data, name="here")).one(
        Event(deep)
    )


@everywhere
def test_a_model_that_wants_the_event_gets_all_of_it(place: Place) -> None:
    def model(event: mt.Event) -> dict[str, Any]:
        fields = ["data", "type", "source", "id", "subject", "datacontenttype", "dataschema"]
        found = {name: getattr(event, name) for name in [*fields, "extensions"]}
        return {**found, "time": event.time.isoformat()}

    event = Event(
        [1],
        type="t",
        source="s",
        id="i",
        subject="ß",
        datacontenttype="application/json",
        dataschema="urn:x",
        time=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        extensions={"hops": 2, "flag": True, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"},
    )

    assert answer(place(model).one(event)) == model(event)


@everywhere
def test_a_batch_arrives_as_events(place: Place) -> None:
    def model(events: list[mt.Event]) -> list[str]:
        return [event.id for event in events]

    results = place(model, batch=True).many([Event(id="a"), Event(id="b")])

    assert [answer(result) for result in results] == ["a", "b"]


def page_schema() -> type[pydantic.BaseModel]:
    class Page(pydantic.BaseModel):
        n: int

    return Page


@everywhere
def test_a_schema_is_checked_there_and_makes_its_objects(place: Place) -> None:
    caller = place(lambda page: [type(page).__name__, page.n], input_schema=page_schema())

    good, bad = caller.one(Event({"n": 1})), caller.one(Event({"n": "x"}))

    assert (answer(good), bad.reason, bad.permanent) == (["Page", 1], "invalid_input", True)


# -- objects of events -----------------------------------------------------------------------------


def gone() -> Any:
    raise ObjectMissing(2, "no such object")


@everywhere
def test_the_object_of_an_event_can_be_opened(place: Place) -> None:
    def model(event: mt.Event) -> Any:
        with event.open() as file:
            return file.read().decode()

    event = with_opener(Event(), lambda: io.BytesIO(b"content"))

    assert answer(place(model).one(event)) == "content"


@everywhere
def test_an_object_that_the_model_cannot_see_is_not_read(place: Place) -> None:
    assert answer(place(lambda data: data).one(with_opener(Event(1), gone))) == 1


@everywhere
def test_one_missing_object_fails_alone(place: Place) -> None:
    def model(events: list[mt.Event]) -> Any:
        return [len(event.open().read()) for event in events]

    there = with_opener(Event(), lambda: io.BytesIO(b"12"))
    results = place(model, batch=True).many([there, with_opener(Event(), gone), there])

    assert [result.output or result.reason for result in results] == ["2", "object_missing", "2"]


# -- what comes back -------------------------------------------------------------------------------


@everywhere
def test_results_are_those_of_a_plain_call(place: Place) -> None:
    def model(data: Any) -> Any:
        if data == "retry":
            raise mt.Retry(delay_s=7, reason="busy")
        if data == "reject":
            raise mt.Reject("no use")
        if data == "error":
            raise ValueError("so \udcff")
        if data == "odd":
            raise type("Odd", (Exception,), {"__str__": lambda _: 1 / 0})
        if data == "exit":
            sys.exit(3)
        return {"object": object(), "huge": "x" * 17_000_000, "null": None, "nan": float("nan")}[
            data
        ]

    caller, plain = place(model), Invoker(as_model(model))
    for data in ("retry", "reject", "error", "odd", "exit", "object", "huge", "null", "nan"):
        there, here = caller.one(Event(data)), plain.one(Event(data))
        assert there._replace(traceback=None) == here._replace(traceback=None)
        assert (there.traceback is None) == (here.traceback is None)


@everywhere
def test_a_traceback_begins_in_the_model(place: Place) -> None:
    def model(data: int) -> float:
        return 1 / data

    trace = place(model).one(Event(0)).traceback or ""

    assert re.findall(r'"(.*)", .* in (\w+)', trace) == [("test_placement_contract.py", "model")]


@everywhere
def test_a_batch_is_halved_around_a_bad_event(place: Place) -> None:
    results = place(lambda rows: [6 / row for row in rows], batch=True).many(
        [Event(n) for n in (1, 2, 0, 3)]
    )

    assert [r.output or r.error_type for r in results] == ["6.0", "3.0", "ZeroDivisionError", "2.0"]


@everywhere
def test_an_empty_batch_is_no_call(place: Place) -> None:
    assert list(place(lambda rows: rows, batch=True).many([])) == []


@everywhere
def test_prints_come_back(place: Place) -> None:
    caller = place(lambda data: print("page", data))

    with captured() as printed:
        caller.one(Event(7))

        assert printed.take() == "page 7\n"


@everywhere
def test_a_coroutine_function_runs_there(place: Place) -> None:
    async def model(data: Any) -> Any:
        import asyncio

        await asyncio.sleep(0)
        return data

    assert answer(place(model).one(Event(1))) == 1


@everywhere
def test_a_model_at_an_address_takes_batches(place: Place) -> None:
    lines, each = (place("command:cat", mode=mode) for mode in ("lines", "each"))

    assert (lines.batches, each.batches) == (True, False)
    assert [answer(result) for result in lines.many([Event(n) for n in range(5)])] == list(range(5))
    assert answer(each.one(Event(1))) == 1


@everywhere
def test_calls_at_the_same_time_do_not_mix(place: Place) -> None:
    caller = place(lambda data: data * 2)
    with ThreadPoolExecutor(4) as asking:
        results = list(asking.map(caller.one, map(Event, range(24))))

    assert [answer(result) for result in results] == [n * 2 for n in range(24)]


@everywhere
def test_loading_does_not_count_as_running(place: Place) -> None:
    class Slow:
        def __init__(self) -> None:
            import time

            time.sleep(1.6)

        def __call__(self, data: Any) -> Any:
            return data

    assert answer(place(Slow, timeout_s=1.5).one(Event(1))) == 1


# -- a copy in another process ---------------------------------------------------------------------


@elsewhere
def test_the_model_is_a_copy_that_stays(place: Place) -> None:
    class Seen:
        def __init__(self) -> None:
            self.data: list[int] = []

        def __call__(self, data: int) -> list[Any]:
            self.data.append(data)
            return [os.getpid(), *self.data]

    seen = Seen()
    caller = place(seen)
    answers = [answer(caller.one(Event(n))) for n in range(8)]

    by_process: dict[int, list[int]] = {}
    for n, (pid, *data) in enumerate(answers):
        assert data == [*by_process.get(pid, []), n]
        by_process[pid] = data
    assert os.getpid() not in by_process
    assert len(by_process) <= 2
    assert seen.data == []


@elsewhere
def test_data_that_cannot_travel_are_a_result(place: Place) -> None:
    results = place(lambda rows: rows, batch=True).many([Event(1), Event(object()), Event(2)])

    assert [result.output or result.error_type for result in results] == ["1", "NotEncodable", "2"]
    assert results[1].reason == "invalid_event"


@elsewhere
def test_a_model_that_cannot_travel_is_refused_when_it_is_subscribed(place: Place) -> None:
    lock = threading.Lock()
    model = as_model(lambda data: lock.locked(), name="probe")

    with pytest.raises(InvalidModel, match="'lock' is a lock"):
        check_placement(model, place.policy(1.0), place.lasting)


@elsewhere
def test_a_model_that_cannot_be_loaded_there_blames_no_event(place: Place) -> None:
    here = os.getpid()

    class Choosy:
        def __init__(self) -> None:
            if os.getpid() != here:
                raise KeyError("weights")

        def __call__(self, data: Any) -> Any:
            return data

    result = place(Choosy).one(Event(1))

    assert (result.reason, result.error_type) == ("model_unavailable", "KeyError")
    assert (result.throttled, result.permanent) == (True, False)


# -- what is late, dies, or is closed --------------------------------------------------------------


@in_workers
def test_a_call_that_takes_too_long_is_given_up(place: Place) -> None:
    def model(data: float) -> float:
        import time

        time.sleep(data)
        return data

    of_a_cluster = place.name in ("dask", "ray")  # a call passes several busy processes
    timeout_s = 5.0 if of_a_cluster else 0.8
    caller = place(model, timeout_s=timeout_s)
    with ThreadPoolExecutor(2) as asking:  # until both workers have loaded it
        for _ in range(10):
            assert [answer(r) for r in asking.map(caller.one, [Event(0.05)] * 2)] == [0.05] * 2
    late = caller.one(Event(2 * timeout_s))

    assert (late.reason, late.error_type, late.permanent) == ("timeout", "TimeoutError", False)


def deadly() -> Callable[[Any], Any]:
    """Return a model that one event kills. It travels without this module, which is slow to import."""
    kill, own, sigkill = os.kill, os.getpid, signal.SIGKILL

    def model(rows: list[Any]) -> list[Any]:
        if "poison" in rows:
            kill(own(), sigkill)
        return rows

    return model


@elsewhere
def test_only_the_event_that_kills_its_worker_is_blamed(place: Place) -> None:
    caller = place(deadly(), mortal=True, batch=True)
    answer(caller.one(Event("warm")))

    results = caller.many([Event("a"), Event("poison"), Event("b")])

    assert [result.output or result.reason for result in results] == ['"a"', "worker_died", '"b"']
    assert answer(caller.one(Event("c"))) == "c"


@elsewhere
def test_calls_beside_the_one_that_kills_its_worker_are_not_blamed(place: Place) -> None:
    caller = place(deadly(), mortal=True, batch=True)
    answer(caller.one(Event("warm")))
    with ThreadPoolExecutor(4) as asking:
        results = list(asking.map(caller.one, map(Event, ["a", "poison", "b", "c"])))

    outputs = [result.output or result.reason for result in results]
    assert outputs == ['"a"', "worker_died", '"b"', '"c"']


@in_workers
def test_a_closed_caller_stops_and_blames_no_event(place: Place) -> None:
    caller = place(lambda data: data)
    answer(caller.one(Event(1)))
    caller.close()
    caller.close()

    assert [result.reason for result in caller.many([Event(1), Event(2)])] == ["stopped"] * 2
