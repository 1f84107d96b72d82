"""What must hold whatever a model is: one bad event harms nobody else, a version is immutable, and
who waits is told why.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

import mltrigger as mt
from mltrigger.testing import SimulatedClock


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        yield bus


def ends(bus: mt.EventBus, topic: str, samples: list[Any]) -> list[Any]:
    """Publish *samples* before anybody listens, start the one subscription, and return what became
    of each: its output, or the reason.
    """
    (name,) = bus.subscriptions()["subscription"]
    receipts = bus.publish_batch(topic, samples)
    bus.subscription(name).start()
    bus.wait(timeout_s=30, progress=False)
    frame = bus.invocations().drop_duplicates("event_id", keep="last").set_index("event_id")
    rows = [frame.loc[receipt.event_id] for receipt in receipts]
    return [
        json.loads(row["output"]) if row["outcome"] == "succeeded" else row["reason"]
        for row in rows
    ]


# -- one bad event ---------------------------------------------------------------------------------


def test_a_coroutine_that_exits_is_one_failed_event(bus: mt.EventBus) -> None:
    async def fragile(number: int) -> int:
        await asyncio.sleep(0)
        if number == 2:
            sys.exit(3)
        return number

    bus.subscribe("numbers", fragile, max_attempts=1, listen=False)

    assert ends(bus, "numbers", [1, 2, 3]) == [1, "model_error", 3]
    assert ends(bus, "numbers", [4]) == [4]


def test_the_search_for_a_bad_event_has_the_time_that_its_calls_need() -> None:
    """Each call of a batch model costs 0.4 s here, whatever is in it; finding the bad one takes
    seven of them.
    """

    def slow(numbers: list[int]) -> list[int]:
        time.sleep(0.4)
        if -1 in numbers:
            raise ValueError("negative")
        return numbers

    with mt.connect("memory://") as bus:
        bus.subscribe(
            "numbers", slow, batch=True, batch_size=8, timeout_s=2.0, max_attempts=1, listen=False
        )

        assert ends(bus, "numbers", [0, 1, 2, -1, 4, 5, 6, 7]) == [
            0,
            1,
            2,
            "model_error",
            4,
            5,
            6,
            7,
        ]


@pytest.mark.parametrize("reason", ["no_process", "stopped", "group_order", "worker_died"])
def test_a_model_cannot_speak_in_our_name(bus: mt.EventBus, reason: str) -> None:
    def forges(_: Any) -> None:
        raise mt.ModelFailure("no", reason=reason)

    bus.subscribe("numbers", forges, max_attempts=1, listen=False)

    assert ends(bus, "numbers", [1]) == ["model_error"]
    assert bus.invocations()["outcome"].tolist() == ["dead"]


class Columns:
    """Adds up what it was fitted with, in that order, as scikit-learn's estimators insist."""

    feature_names_in_ = np.array(["x", "y"], dtype=object)

    def predict(self, frame: Any) -> list[float]:
        if list(frame.columns) != ["x", "y"]:
            raise ValueError("Feature names must be in the same order as they were in fit")
        return list(frame["x"] - frame["y"])


def test_the_order_of_keys_and_further_fields_do_not_matter_to_a_fitted_predictor(
    bus: mt.EventBus,
) -> None:
    bus.subscribe("rows", Columns(), name="columns", max_attempts=1, listen=False)

    assert ends(
        bus, "rows", [{"y": 2, "x": 1}, {"x": 5, "y": 1}, {"x": 9, "note": "new", "y": 1}]
    ) == [-1, 4, 8]


def test_a_predictor_gets_a_frame_also_when_its_input_has_a_class(bus: mt.EventBus) -> None:
    class Row(pydantic.BaseModel):
        x: int
        y: int

    bus.subscribe(
        "rows", mt.model(Columns(), name="columns", input_schema=Row), max_attempts=1, listen=False
    )

    assert ends(bus, "rows", [{"x": 5, "y": 1}, {"x": "?", "y": 1}]) == [4, "invalid_input"]


# -- a version -------------------------------------------------------------------------------------


class Two:
    def predict(self, rows: Any) -> list[str]:
        return ["label" for _ in rows]

    def predict_proba(self, rows: Any) -> list[float]:
        return [0.5 for _ in rows]


def test_a_released_version_is_called_in_one_way(bus: mt.EventBus) -> None:
    bus.register(Two(), name="two", version="1.0.0", method="predict_proba")

    bus.register(Two(), name="two", version="1.0.0", method="predict_proba")
    with pytest.raises(mt.VersionConflict, match=r"two:1\.0\.0"):
        bus.register(Two(), name="two", version="1.0.0")
    with pytest.raises(mt.VersionConflict, match=r"two:1\.0\.0"):
        bus.register(
            Two(),
            name="two",
            version="1.0.0",
            method="predict_proba",
            input_schema={"type": "number"},
        )


def test_a_build_that_is_called_in_another_way_is_another_build(bus: mt.EventBus) -> None:
    builds = {
        str(bus.register(Two(), name="two", **how))
        for how in ({}, {"method": "predict_proba"}, {"input_schema": {"type": "number"}})
    }

    assert len(builds) == 3


def test_what_an_earlier_release_registered_without_saying_how_it_is_called_is_believed(
    bus: mt.EventBus,
) -> None:
    bus.register(Two(), name="two", version="1.0.0")
    with bus._store.transaction() as transaction:
        transaction.execute("UPDATE model_version SET options = NULL", {})

    assert (
        str(bus.register(Two(), name="two", version="1.0.0", method="predict_proba")) == "two:1.0.0"
    )


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "documents_model.py").write_text(
        "def title(document: dict):\n    return document.get('title')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "documents_model"
    sys.modules.pop("documents_model", None)


def test_a_schema_given_by_hand_goes_before_the_hint_in_every_process(
    tmp_path: Path, module: str
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    schema = {"type": "object", "required": ["title"]}
    with mt.connect(url) as here:
        here.subscribe(
            "documents",
            mt.model(f"{module}:title", version="1.0.0", input_schema=schema),
            max_attempts=1,
            listen=False,
        )
        here.publish("documents", {"name": "no title"})
    with mt.connect(url) as elsewhere:
        elsewhere.subscription("title").start()
        elsewhere.wait()
        assert elsewhere.invocations()["reason"].tolist() == ["invalid_input"]


MADE: list[int] = []


def test_one_class_is_one_object_however_often_it_is_handed_over(bus: mt.EventBus) -> None:
    class Heavy:
        def __init__(self) -> None:
            MADE.append(1)

        def __call__(self, number: int) -> int:
            return number

    for name in ("first", "second"):
        bus.subscribe("numbers", mt.model(Heavy, name="heavy", version="1.0.0"), name=name)
        bus.fire("numbers", [1], progress=False)

    assert len(MADE) == 1


# -- an alias that is kept elsewhere ---------------------------------------------------------------

_REGISTRY = """
import asyncio
from mltrigger.errors import NotFound
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme

MEANT = "1"


class Echo(Endpoint):
    def call(self, events):
        return [events[0].data]


class ShelfScheme(Scheme):
    def describe(self, address):
        name, _, version = address.rest.removeprefix("//").partition("/")
        return Description(name, alias=version[1:]) if version.startswith("@") else Description(name, version=f"{version}.0.0")

    def pin(self, address):
        if "@" not in address.text:
            return address
        if MEANT == "gone":
            raise NotFound("no alias 'best' of model 'echo'")
        return Address(address.text.partition("@")[0] + MEANT, address.given)

    def open(self, address, setting):
        return Echo()
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from mltrigger.names import entry_points

    (tmp_path / "shelf_scheme.py").write_text(_REGISTRY)
    info = tmp_path / "shelf_scheme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-scheme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mltrigger.models]\nshelf = shelf_scheme:ShelfScheme\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    entry_points.cache_clear()
    yield importlib.import_module("shelf_scheme")
    entry_points.cache_clear()
    sys.modules.pop("shelf_scheme", None)


def test_a_followed_alias_keeps_the_schema_that_the_user_gave(shelf: Any) -> None:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        bus.subscribe(
            "numbers",
            mt.model("shelf://echo/@best", input_schema={"type": "number"}),
            max_attempts=1,
        )
        bus.fire("numbers", ["one"], progress=False)
        shelf.MEANT = "2"
        clock.advance(s=5)
        bus.fire("numbers", ["two"], progress=False)

        assert bus.invocations()[["version", "reason"]].values.tolist() == [
            ["1.0.0", "invalid_input"],
            ["2.0.0", "invalid_input"],
        ]
        assert bus.models()["takes"].tolist() == ["number", "number"]


def test_an_alias_that_was_deleted_elsewhere_leaves_its_events_waiting_and_says_so(
    shelf: Any,
) -> None:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", "shelf://echo/@best")
        bus.fire("numbers", [1], progress=False)
        shelf.MEANT = "gone"
        clock.advance(s=5)
        wait_until(lambda: "no alias 'best'" in sub.state)
        bus.publish("numbers", 2)

        assert len(bus.invocations()) == 1
        assert "no alias 'best'" in bus.doctor("echo").set_index("check").loc["model", "finding"]


def test_an_alias_set_by_hand_meanwhile_is_not_set_back(shelf: Any) -> None:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", "shelf://echo/@best", listen=False)
        bus.register("shelf://echo/7")
        bus.alias("echo", "best", "7.0.0")
        shelf.MEANT = "2"
        clock.advance(s=5)
        sub.start()
        bus.fire("numbers", [1], progress=False)

        assert bus.invocations()["version"].tolist() == ["7.0.0"]


def test_versions_that_come_and_go_leave_no_thread_behind() -> None:
    async def answer(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    before = set(threading.enumerate())
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        for patch in range(8):
            bus.register(
                mt.model(
                    answer,
                    version=f"1.0.{patch}",
                    input_schema={"type": "integer", "minimum": -patch},
                )
            )
        sub = bus.subscribe("numbers", "answer:1.0.0", max_concurrency=4)
        for patch in range(8):
            bus.subscribe("numbers", f"answer:1.0.{patch}", max_concurrency=4)
            bus.fire("numbers", list(range(20)), progress=False)
        assert set(bus.invocations()["outcome"]) == {"succeeded"}
        sub.stop()

    wait_until(
        lambda: (
            not [
                thread
                for thread in set(threading.enumerate()) - before
                if thread.name == "mltrigger-async"
            ]
        )
    )


# -- who waits is told why -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [SystemExit(3), OSError("weights.bin is missing"), KeyboardInterrupt()]
)
def test_a_model_that_cannot_be_loaded_is_said_wherever_somebody_looks(
    bus: mt.EventBus, error: BaseException
) -> None:
    class Broken:
        def __init__(self) -> None:
            raise error

        def predict(self, rows: Any) -> Any:
            return rows

    sub = bus.subscribe("numbers", Broken, name="broken")
    wait_until(lambda: "could not be loaded" in sub.state)
    with pytest.warns(
        UserWarning,
        match=f"1 of 'broken' .model Broken.*could not be loaded: {type(error).__name__}",
    ):
        bus.fire("numbers", [1], timeout_s=0.2, progress=False)

    finding = bus.doctor("broken").set_index("check").loc["model"]
    assert finding["severity"] == "error"
    assert type(error).__name__ in finding["finding"]
    assert bus.invocations().empty


def test_an_executor_that_takes_no_calls_is_found_by_the_doctor() -> None:
    with mt.connect("memory://") as bus, ThreadPoolExecutor(1) as executor:
        executor.shutdown()
        sub = bus.subscribe(
            "numbers", mt.model(lambda number: number, name="same"), executor=executor
        )
        bus.publish("numbers", 1)
        wait_until(lambda: len(bus.invocations()) > 0)

        assert "executor=lambda" in sub.doctor().set_index("check").loc["executor", "advice"]
        assert sub.dead_letters().empty


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": "adaptiv"}, "write True, False or 'adaptive'"),
        ({"batch": 8}, "batch_size says how many"),
        (
            {"batch": "adaptive"},
            r"takes one event: batch='adaptive' needs .*mt.model\(function, batch=True\)",
        ),
        ({"executor": 42}, "executor= takes a concurrent.futures.Executor, not int"),
        ({"executor": "dask"}, "executor= takes a concurrent.futures.Executor, not str"),
        ({"executor": ThreadPoolExecutor, "isolation": "process"}, "both say where the model runs"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_subscribed(
    bus: mt.EventBus, options: dict[str, Any], says: str
) -> None:
    def same(number: int) -> int:
        return number

    with pytest.raises(mt.MltriggerError, match=says):
        bus.subscribe("numbers", same, **options)
    assert bus.subscriptions().empty


def test_an_async_warm_up_is_refused() -> None:
    class Cold:
        async def warm_up(self) -> None: ...

        async def __call__(self, number: int) -> int:
            return number

    with pytest.raises(mt.InvalidModel, match="warm_up is async"):
        mt.model(Cold, name="cold")


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
