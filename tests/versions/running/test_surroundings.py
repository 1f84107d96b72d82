"""A delivered model sees what a direct call would: the decimal context, numpy's errors, the
variables of the cell that subscribed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest

import mltrigger as mt

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as made:
        yield made


@pytest.fixture
def cell() -> Iterator[Callable[..., Any]]:
    """Run a function as a cell does that has set all of these."""
    context = contextvars.Context()
    context.run(_set)
    yield context.run


def _set() -> None:
    decimal.setcontext(decimal.Context(prec=5, rounding=decimal.ROUND_UP))
    np.seterr(invalid="raise")
    tenant.set("north")


def share(cents: int) -> str:
    return str(decimal.Decimal(cents) / 3)


def root(value: int) -> str:
    try:
        return str(np.sqrt(np.float64(value)))
    except FloatingPointError:
        return "refused"


def owner(_: int) -> str:
    return tenant.get()


async def awaited(_: int) -> str:
    await asyncio.sleep(0)
    return f"{tenant.get()} {decimal.Decimal(1) / 3} {root(-1)}"


def outputs(bus: mt.EventBus, topic: str, data: list[Any]) -> list[Any]:
    return list(bus.fire(topic, data, progress=False, timeout_s=60).results()["output"])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("model", [share, root, owner], ids=lambda model: model.__name__)
def test_a_thread_has_the_context_of_the_cell_that_subscribed(
    bus: mt.EventBus, cell: Any, model: Any
) -> None:
    cell(bus.subscribe, "t", model)

    assert outputs(bus, "t", [-1]) == [cell(model, -1)]
    assert cell(model, -1) != model(-1)


def test_a_coroutine_has_the_context_of_the_cell_that_subscribed(
    bus: mt.EventBus, cell: Any
) -> None:
    cell(bus.subscribe, "t", awaited)

    assert outputs(bus, "t", [1]) == ["north 0.33334 refused"]


def test_a_batch_and_an_object_that_is_made_have_the_context_of_the_cell(
    bus: mt.EventBus, cell: Any
) -> None:
    class Made:
        def __init__(self) -> None:
            self.owner = tenant.get()

        def predict(self, rows: list[int]) -> list[str]:
            return [f"{self.owner} {tenant.get()}" for _ in rows]

    cell(bus.subscribe, "t", Made)

    assert outputs(bus, "t", [1, 2]) == ["north north"] * 2


def test_a_pool_of_threads_has_the_context_of_the_cell_that_subscribed(
    bus: mt.EventBus, cell: Any
) -> None:
    with ThreadPoolExecutor(2) as pool:
        for model in (share, root, owner):
            cell(bus.subscribe, model.__name__, model, executor=pool)

        assert [outputs(bus, model.__name__, [-1])[0] for model in (share, root, owner)] == [
            "-0.33334",
            "refused",
            "north",
        ]


@contextlib.contextmanager
def elsewhere(how: str) -> Iterator[dict[str, Any]]:
    if how == "isolation":
        yield {"isolation": "process"}
        return
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        yield {"executor": pool}


@pytest.mark.parametrize("how", ["isolation", "executor"])
@pytest.mark.parametrize("sent", [False, True], ids=["imported", "pickled"])
def test_another_process_has_the_decimal_context_and_the_errors_of_numpy(
    bus: mt.EventBus, cell: Any, how: str, sent: bool
) -> None:
    models = [lambda n: share(n), lambda n: root(n)] if sent else [share, root]
    with elsewhere(how) as placed:
        for number, model in enumerate(models):
            cell(bus.subscribe, f"t{number}", mt.model(model, name=f"m{number}"), **placed)

        assert [outputs(bus, f"t{number}", [-1])[0] for number in range(2)] == [
            "-0.33334",
            "refused",
        ]


def test_what_the_cell_sets_later_is_not_seen(bus: mt.EventBus, cell: Any) -> None:
    cell(bus.subscribe, "t", share)
    cell(setattr, cell(decimal.getcontext), "prec", 9)

    assert outputs(bus, "t", [1]) == ["0.33334"]


def test_a_call_leaves_nothing_to_the_next_and_to_the_cell(bus: mt.EventBus, cell: Any) -> None:
    def model(number: int) -> str:
        seen = (
            f"{tenant.get()} {decimal.getcontext().prec} {np.geterr()['invalid']}"
            f" {bool(decimal.getcontext().flags[decimal.Inexact])}"
        )
        decimal.getcontext().prec = 2
        np.seterr(invalid="ignore")
        tenant.set("south")
        decimal.Decimal(1) / 3
        return seen

    cell(bus.subscribe, "t", model)

    assert outputs(bus, "t", [1, 2, 3]) == ["north 5 raise False"] * 3
    assert (cell(tenant.get), cell(decimal.getcontext).prec, cell(np.geterr)["invalid"]) == (
        "north",
        5,
        "raise",
    )


def test_the_cell_that_runs_again_brings_its_context(bus: mt.EventBus, cell: Any) -> None:
    cell(bus.subscribe, "t", owner)
    cell(tenant.set, "south")
    cell(bus.subscribe, "t", owner)

    assert outputs(bus, "t", [1]) == ["south"]


def test_what_is_printed_is_kept_with_the_call(
    bus: mt.EventBus, cell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(number: int) -> int:
        print("seen", number)
        return number

    sub = cell(bus.subscribe, "t", model)

    assert outputs(bus, "t", [7]) == [7]
    assert sub.invocations()["stdout"].tolist() == ["seen 7\n"]
    assert "seen" not in capsys.readouterr().out


# -- what belongs to another thread ----------------------------------------------------------------

connection = sqlite3.connect(":memory:")
lock = asyncio.Lock()


def asks(_: int) -> Any:
    return connection.execute("select 1").fetchone()


def listens(_: int) -> Any:
    return int(signal.signal(signal.SIGUSR1, signal.SIG_DFL))  # type: ignore[arg-type]


def takes_the_loop(_: int) -> Any:
    return str(asyncio.get_event_loop())


def takes_the_running_loop(_: int) -> Any:
    return str(asyncio.get_running_loop())


async def waits(_: int) -> None:
    async with lock:
        await asyncio.sleep(0)


async def runs(_: int) -> None:
    asyncio.run(asyncio.sleep(0))


@pytest.mark.parametrize(
    ("model", "own", "advice"),
    [
        pytest.param(
            asks, "SQLite objects created in a thread", "make it in the model", id="a connection"
        ),
        pytest.param(
            listens,
            "signal only works in main thread",
            'isolation="process"',
            id="a signal",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="no SIGUSR1"),
        ),
        pytest.param(
            takes_the_loop, "There is no current event loop", "async def", id="the event loop"
        ),
        pytest.param(
            takes_the_running_loop,
            "no running event loop",
            "async def",
            id="the running event loop",
        ),
        pytest.param(
            waits,
            "is bound to a different event loop",
            "make it in the model",
            id="a lock of another loop",
        ),
        pytest.param(
            runs, "cannot be called from a running event loop", "await", id="a loop within a loop"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_what_belongs_to_another_thread_fails_with_advice(
    bus: mt.EventBus, model: Any, own: str, advice: str
) -> None:
    async def use_the_lock() -> None:
        async with lock:
            waiting = asyncio.ensure_future(lock.acquire())  # which binds it to this loop
            await asyncio.sleep(0)
            waiting.cancel()

    asyncio.run(use_the_lock())
    held = asyncio.Event()

    async def hold() -> None:
        await lock.acquire()
        held.set()

    if model is waits:
        asyncio.run(hold())
    try:
        sub = bus.subscribe("t", model, max_attempts=1)
        bus.fire("t", [1], progress=False)
        error = sub.dead_letters()["error"].iloc[0]
    finally:
        if lock.locked():
            lock.release()

    assert own in error
    assert advice in error


def test_other_errors_have_the_words_of_the_model_alone(bus: mt.EventBus) -> None:
    def model(_: int) -> None:
        raise ValueError("the main thread of the story is missing")

    sub = bus.subscribe("t", model, max_attempts=1)
    bus.fire("t", [1], progress=False)

    assert sub.dead_letters()["error"].tolist() == ["the main thread of the story is missing"]


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be killed as a group there")
def test_a_signal_works_as_advised(bus: mt.EventBus) -> None:
    bus.subscribe("t", listens, isolation="process")

    assert outputs(bus, "t", [1]) == [int(signal.SIG_DFL)]
