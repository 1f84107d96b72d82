"""What counts as the time of a model: from its call until it returns, wherever it runs; what it
asks of a bus is asked for its event.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from shared import is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.current import is_small

TIMEOUT_S = 0.5
WRITING_S = 1.2
PLACES = ["thread", "async", "process", "threads", "processes"]


@pytest.fixture(params=PLACES)
def placed(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Subscribe a model where it runs in each of the places in turn."""
    pools: list[Executor] = []

    def subscribe(
        bus: mt.EventBus, topic: str, model: Callable[[Any], Any], **policy: Any
    ) -> mt.Subscription:
        if request.param == "async":

            async def waits(data: Any) -> Any:
                return model(data)

            return bus.subscribe(topic, mt.model(waits, name="placed"), **policy)
        if request.param == "process":
            policy["isolation"] = "process"
        elif request.param == "threads":
            pools.append(ThreadPoolExecutor(1))
        elif request.param == "processes":
            pools.append(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            pools[-1].submit(exec, "import mltrigger.versions.running.workers.worker").result()
        return bus.subscribe(
            topic, mt.model(model, name="placed"), executor=pools[-1] if pools else None, **policy
        )

    yield subscribe
    for pool in pools:
        pool.shutdown(wait=False)


def slowly_written(rows: int) -> Callable[[Any], Any]:
    """Return a model that answers at once with something that takes long to write down."""
    writing_s = WRITING_S

    def model(data: Any) -> Any:
        if data == "warm":
            return data
        import time  # it travels without this module

        class Answer:
            def tolist(self) -> list[str]:
                time.sleep(writing_s)
                return ["x" * 1024] * rows

        return Answer()

    return model


def test_writing_an_answer_down_is_not_the_time_of_the_model(placed: Callable[..., Any]) -> None:
    with mt.connect("memory://") as bus:
        sub = placed(bus, "t", slowly_written(2), timeout_s=TIMEOUT_S, max_attempts=1)
        bus.fire("t", "warm", timeout_s=60, progress=False)
        bus.fire("t", "answer", timeout_s=60, progress=False)

        rows = sub.invocations()
        assert rows["outcome"].tolist() == ["succeeded", "succeeded"]
        assert rows["reason"].isna().all()


def test_answer_that_is_too_large_is_no_timeout(placed: Callable[..., Any]) -> None:
    with mt.connect("memory://") as bus:
        bus.topic("out")
        sub = placed(
            bus, "t", slowly_written(20_000), timeout_s=TIMEOUT_S, max_attempts=1, emit="out"
        )
        bus.fire("t", "warm", timeout_s=60, progress=False)
        bus.fire("t", "answer", timeout_s=60, progress=False)

        assert sub.dead_letters()["reason"].tolist() == ["result_too_large"]


def test_time_that_is_shown_ends_when_the_model_has_returned() -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("t", slowly_written(2))
        bus.fire("t", ["answer"], progress=False)

        assert sub.invocations()["model_ms"].iloc[0] < 1000 * WRITING_S / 2


def test_model_that_does_not_return_is_late_all_the_same(placed: Callable[..., Any]) -> None:
    def sleeps(data: Any) -> Any:
        import time

        time.sleep(0 if data == "warm" else 3)
        return data

    with mt.connect("memory://") as bus:
        sub = placed(bus, "t", sleeps, timeout_s=TIMEOUT_S, max_attempts=1)
        bus.fire("t", "warm", timeout_s=60, progress=False)
        bus.fire("t", "late", timeout_s=60, progress=False)

        assert sub.dead_letters()["reason"].tolist() == ["timeout"]


@pytest.mark.parametrize("answer", [None, 1, 2.5, "text", [1, 2], {"a": 1, "b": "text"}, ("a", 2)])
def test_small_answers_are_written_down_in_no_time(answer: object) -> None:
    assert is_small(answer)


@pytest.mark.parametrize(
    "answer",
    ["x" * 100_000, list(range(100)), {"a": [1]}, {"a": "x" * 2000}, object(), itertools.count()],
)
def test_of_other_answers_nobody_knows(answer: object) -> None:
    assert not is_small(answer)


# -- what a model does through a bus, in a process of its own --------------------------------------


@pytest.mark.parametrize("place", ["process", "processes"])
def test_model_in_another_process_publishes_for_its_event_and_does_not_wait_for_itself(
    place: str, file: Path
) -> None:
    url = f"sqlite:///{file}"

    def asks(data: Any) -> Any:
        import mltrigger as mt

        with mt.connect(url) as bus:
            if data == "fire":
                bus.fire("in", "again", progress=False)
            elif data == "wait":
                bus.wait(progress=False)
            else:
                bus.publish("out", data)

    pool = (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        if place == "processes"
        else None
    )
    with mt.connect(url) as bus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bus.topic("out")
        where = {"isolation": "process"} if pool is None else {"executor": pool}
        sub = bus.subscribe("in", mt.model(asks, name="asks"), timeout_s=60, **where)
        receipt = bus.publish("in", "publish")
        bus.publish_batch("in", ["fire", "wait"])
        wait_until(lambda: is_settled(sub), 60)

        (row,) = bus.events("out").to_dict(orient="records")
        assert (row["causation_id"], row["hops"]) == (receipt.event_id, 1)
        assert sub.dead_letters()["reason"].tolist() == ["waits_for_itself"] * 2
        assert len(bus.events("in")) == 3
    if pool is not None:
        pool.shutdown(wait=False)


# -- an executor that takes no calls ---------------------------------------------------------------


def test_subscription_whose_executor_is_broken_tries_it_ever_more_rarely(
    clock: SimulatedClock,
) -> None:
    pool = ThreadPoolExecutor(2)
    pool.shutdown()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("t", mt.model(lambda n: n, name="m"), executor=pool)
        bus.publish_batch("t", list(range(20)))
        for _ in range(60):
            clock.advance(s=1)
            time.sleep(0.01)

        assert 2 <= outcomes(sub).count("interrupted") <= 2 * 7  # after 2, 4, 8, 16, 32 s
        assert sub.state.startswith("waiting for the model: the executor has not taken the call")
        assert sub.depth().dead == 0
