"""Any model: classes, coroutines, import paths, schemas, schemes of other packages, aliases that
are kept elsewhere; through the bus.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

import mltrigger as mt
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.asynchronous import AsyncInvoker
from mltrigger.versions.scheme import is_address


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://", clock=SimulatedClock()) as bus:
        yield bus


def outputs(bus: mt.EventBus, topic: str, samples: list[Any]) -> list[Any]:
    """Fire *samples* and return what became of each, in their order: the output, or the error."""
    run = bus.fire(topic, samples, progress=False, timeout_s=30)
    frame = bus.invocations().set_index("event_id")
    ended = [frame.loc[receipt.event_id] for receipt in run.receipts]
    return [
        (
            json.loads(row["output"])
            if row["outcome"] == "succeeded"
            else f"{row['outcome']}: {row['reason']}"
        )
        for row in ended
    ]


# -- classes ---------------------------------------------------------------------------------------


class Counting:
    """Counts how often it is made and warmed up; a heavy model in small."""

    made = 0
    warmed = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.weights = 2

    def warm_up(self) -> None:
        type(self).warmed += 1

    def predict(self, rows: Any) -> list[int]:
        return [
            int(value) * self.weights for value in (rows["x"] if hasattr(rows, "columns") else rows)
        ]


class ProbabilitiesOnly:
    def predict_proba(self, rows: Any) -> list[list[float]]:
        return [[0.25, 0.75] for _ in rows]


class TransformsOnly:
    def transform(self, rows: Any) -> list[int]:
        return [len(row) for row in rows]


@pytest.fixture
def counting() -> type[Counting]:
    """A class of its own for each test, so that nobody else has made one."""
    return type("Counting", (Counting,), {"made": 0, "warmed": 0})


def test_a_class_is_made_and_warmed_up_once_although_two_subscriptions_listen(
    bus: mt.EventBus, counting: type[Counting]
) -> None:
    model = mt.model(counting, name="doubler", version="1.0.0")
    bus.subscribe("numbers", model, name="first")
    bus.subscribe("numbers", "doubler:1.0.0", name="second")

    bus.fire("numbers", [1, 2, 3], progress=False)

    assert (counting.made, counting.warmed) == (1, 1)
    assert sorted(bus.invocations()["output"]) == ["2", "2", "4", "4", "6", "6"]


def test_a_class_is_not_made_before_somebody_listens(
    bus: mt.EventBus, counting: type[Counting]
) -> None:
    bus.subscribe("numbers", counting, name="idle", listen=False)

    assert counting.made == 0


def test_a_class_whose_objects_cannot_be_made_leaves_its_events_waiting_and_says_why(
    bus: mt.EventBus,
) -> None:
    class Broken:
        def __init__(self) -> None:
            raise OSError("weights.bin is missing")

        def __call__(self, data: Any) -> Any:
            return data

    sub = bus.subscribe("numbers", Broken, name="broken")
    bus.publish("numbers", 1)

    wait_until(lambda: "weights.bin is missing" in sub.state)
    assert bus.invocations().empty
    assert bus.subscriptions().set_index("subscription").loc["broken", "visible"] == 1


def test_closing_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    loading, loaded = threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            loading.set()
            loaded.wait(60)

        def __call__(self, data: Any) -> Any:
            return data

    with mt.connect("memory://") as bus:
        bus.subscribe("numbers", Slow, name="slow")
        assert loading.wait(10)
        began_s = time.monotonic()
        bus.close(drain_s=0.1)
        took_s = time.monotonic() - began_s
    loaded.set()

    assert took_s < 10


@pytest.mark.parametrize(
    ("target", "expected"),
    [(ProbabilitiesOnly, [0.25, 0.75]), (TransformsOnly, 5), (TransformsOnly(), 5)],
)
def test_what_has_no_predict_is_called_with_what_it_has(
    bus: mt.EventBus, target: Any, expected: Any
) -> None:
    bus.subscribe("texts", target, name="has-no-predict")

    assert outputs(bus, "texts", ["hello"]) == [expected]


def test_a_class_can_be_tried_without_a_bus(counting: type[Counting]) -> None:
    assert mt.model(counting, name="tried")([1, 2]) == [2, 4]


# -- coroutines ------------------------------------------------------------------------------------


def test_hundreds_of_coroutines_are_in_flight_on_one_loop(bus: mt.EventBus) -> None:
    everybody, here, loops = asyncio.Event(), [0], set()

    async def waits(number: int) -> int:
        """Answer only when 200 calls wait at the same time."""
        loops.add(id(asyncio.get_running_loop()))
        here[0] += 1
        if here[0] == 200:
            everybody.set()
        await everybody.wait()
        return number

    bus.subscribe("numbers", waits, max_concurrency=200)

    assert outputs(bus, "numbers", list(range(200))) == list(range(200))
    assert len(loops) == 1


def test_a_coroutine_that_takes_too_long_is_cancelled(bus: mt.EventBus) -> None:
    ended = threading.Event()

    async def sleeps(_: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    sub = bus.subscribe("numbers", sleeps, timeout_s=0.05, max_attempts=1)

    assert outputs(bus, "numbers", [1]) == ["dead: timeout"]
    assert ended.wait(5)
    assert "left behind" not in sub.state


def test_what_a_coroutine_prints_is_kept_with_its_own_attempt(bus: mt.EventBus) -> None:
    async def prints(number: int) -> int:
        await asyncio.sleep(0)
        print("number", number)
        return number

    bus.subscribe("numbers", prints)

    assert outputs(bus, "numbers", [1, 2, 3]) == [1, 2, 3]
    assert sorted(bus.invocations()["stdout"]) == ["number 1\n", "number 2\n", "number 3\n"]


def test_a_coroutines_error_is_its_own_and_its_traceback_begins_at_the_model(
    bus: mt.EventBus,
) -> None:
    async def fails(_: Any) -> None:
        raise ValueError("no such page")

    sub = bus.subscribe("numbers", fails, max_attempts=1)
    bus.fire("numbers", [1], progress=False)

    row = sub.dead_letters().iloc[0]
    assert (row["error_type"], row["error"], row["reason"]) == (
        "ValueError",
        "no such page",
        "model_error",
    )
    assert row["traceback"].count("File ") == 1 + row["traceback"].count("asynchronous.py")


def test_a_call_after_the_loop_was_closed_is_stopped_and_not_the_models_failure() -> None:
    async def model(data: int) -> int:
        return data

    caller = AsyncInvoker(mt.model(model), 5.0)
    assert caller.one(mt.Event(1)).output == "1"
    caller.close()

    assert caller.one(mt.Event(1)).reason == "stopped"


class Translator:
    async def __call__(self, text: str) -> str:
        return text.upper()


def test_a_class_with_an_async_call_is_a_model(bus: mt.EventBus) -> None:
    bus.subscribe("texts", Translator)

    assert outputs(bus, "texts", ["a", "b"]) == ["A", "B"]
    assert bus.models()["kind"].tolist() == ["async"]


def test_a_batch_of_a_coroutine_is_one_call(bus: mt.EventBus) -> None:
    sizes: list[int] = []

    async def doubled(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * n for n in numbers]

    sub = bus.subscribe("numbers", doubled, batch=True, batch_size=4, listen=False)
    run = bus.publish_batch("numbers", [1, 2, 3, 4])
    sub.start()
    bus.wait()

    assert sizes == [4]
    assert len(run) == len(bus.invocations()) == 4


# -- import paths ----------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shelf_of_models.py").write_text(
        "class Fitted:\n"
        "    def __init__(self, factor):\n        self.factor = factor\n"
        "    def predict(self, rows):\n        return [self.factor * row for row in rows]\n"
        "    def predict_proba(self, rows):\n        return [0.5 for row in rows]\n"
        "fitted = Fitted(3)\n"
        "def add_all(rows):\n    return [sum(row) for row in rows]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "shelf_of_models"
    sys.modules.pop("shelf_of_models", None)


def test_an_object_named_by_its_import_path_is_portable(bus: mt.EventBus, module: str) -> None:
    bus.subscribe("numbers", f"{module}:fitted", name="tripler")

    assert outputs(bus, "numbers", [2]) == [6]
    assert bus.models()["portable"].tolist() == [True]


def test_how_it_is_called_travels_to_other_processes(tmp_path: Path, module: str) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shelf = importlib.import_module(module)
    with mt.connect(url) as here:
        here.subscribe(
            "rows", mt.model(shelf.add_all, batch=True, version="1.0.0"), name="sums", listen=False
        )
        here.subscribe(
            "rows",
            mt.model(f"{module}:fitted", name="sure", version="1.0.0", method="predict_proba"),
            name="sure",
            listen=False,
        )
        here.publish("rows", [1, 2])
    with mt.connect(url) as elsewhere:  # knows nothing but the store
        for name in ("sums", "sure"):
            elsewhere.subscription(name).start()
        elsewhere.wait()
        found = elsewhere.invocations().set_index("subscription")["output"]

    assert found.to_dict() == {"sums": "3", "sure": "0.5"}


def test_a_wrong_import_path_says_what_is_missing(bus: mt.EventBus, module: str) -> None:
    with pytest.raises(mt.NotFound, match="has no attribute 'fited'"):
        bus.subscribe("numbers", f"{module}:fited", name="tripler")
    with pytest.raises(mt.NotFound, match="No module named"):
        bus.subscribe("numbers", "no_such_module:fitted")


# -- schemas ---------------------------------------------------------------------------------------


class Page(pydantic.BaseModel):
    number: int
    text: str


def test_a_pydantic_hint_makes_the_model_get_its_object_and_a_mismatch_a_dead_letter_that_names_the_field(
    bus: mt.EventBus,
) -> None:
    def words(page: Page) -> int:
        return len(page.text.split())

    sub = bus.subscribe("pages", words)

    assert outputs(
        bus, "pages", [{"number": 1, "text": "two words"}, {"number": "x", "text": "a"}]
    ) == [2, "dead: invalid_input"]
    assert "number" in sub.dead_letters()["error"].iloc[0]
    assert sub.dead_letters()["attempts"].tolist() == [1]


def test_in_a_batch_only_what_does_not_fit_is_dead(bus: mt.EventBus) -> None:
    seen: list[int] = []

    def words(pages: list[Page]) -> list[int]:
        seen.append(len(pages))
        return [page.number for page in pages]

    sub = bus.subscribe("pages", words, batch=True, batch_size=8, listen=False)
    receipts = bus.publish_batch(
        "pages", [{"number": 1, "text": ""}, {"text": ""}, {"number": 3, "text": ""}]
    )
    sub.start()
    bus.wait()

    frame = bus.invocations().set_index("event_id")
    assert [frame.loc[r.event_id, "outcome"] for r in receipts] == [
        "succeeded",
        "dead",
        "succeeded",
    ]
    assert [
        frame.loc[r.event_id, "output"]
        for r in receipts
        if frame.loc[r.event_id, "outcome"] == "succeeded"
    ] == ["1", "3"]
    assert seen == [2]


def test_a_json_schema_of_the_output_is_kept_to(bus: mt.EventBus) -> None:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["invoice", "letter"]}},
        "required": ["label"],
    }
    model = mt.model(
        lambda text: {"label": text}, name="labels", version="1.0.0", output_schema=schema
    )
    bus.subscribe("texts", model)

    assert outputs(bus, "texts", ["invoice", "poem"]) == [
        {"label": "invoice"},
        "dead: invalid_output",
    ]


def test_the_registry_shows_what_a_version_takes_and_gives(bus: mt.EventBus) -> None:
    bus.register(
        mt.model(
            lambda page: page, name="echo", input_schema=Page, output_schema={"type": "integer"}
        )
    )

    row = bus.models().iloc[0]
    assert row["takes"] == "number: integer, text: string"
    assert row["gives"] == "integer"


def test_a_schema_given_by_hand_holds_in_another_process(tmp_path: Path, module: str) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with mt.connect(url) as here:
        given = {
            "input_schema": {"type": "array", "items": {"type": "number"}},
            "batch": True,
            "version": "1.0.0",
            "name": "sums",
        }
        here.subscribe("rows", mt.model(f"{module}:add_all", **given), listen=False)
        here.publish_batch("rows", [[1, 2], ["x"]])
    with mt.connect(url) as elsewhere:
        elsewhere.subscription("sums").start()
        elsewhere.wait()
        found = elsewhere.invocations()

    assert sorted(found["outcome"]) == ["dead", "succeeded"]
    assert found.set_index("outcome").loc["dead", "reason"] == "invalid_input"


def test_a_dataclass_of_a_notebook_travels_to_the_process_that_isolates_the_model(
    bus: mt.EventBus,
) -> None:
    code = (
        "import dataclasses\n@dataclasses.dataclass\nclass Ticket:\n    number: int\n    text: str"
        " = ''\n"
    )
    here: dict[str, Any] = {"__name__": "__main__"}
    # as a cell does
    exec(
        code + "def number_of(ticket: Ticket):\n    return [type(ticket).__name__, ticket.number]",
        here,
    )
    bus.subscribe(
        "tickets",
        mt.model(here["number_of"], name="numbers", input_schema=here["Ticket"]),
        isolation="process",
    )

    assert outputs(bus, "tickets", [{"number": 3}, {"text": "none"}]) == [
        ["Ticket", 3],
        "dead: invalid_input",
    ]


# -- schemes of other packages ---------------------------------------------------------------------

_PACKAGE = """
from mltrigger.versions.scheme import Description, Endpoint, Scheme
from mltrigger.errors import InvalidModel, ModelFailure


class Shout(Endpoint):
    def __init__(self, mark):
        self.mark = mark
        self.closed = False

    def call(self, events):
        if events[0].data == "later":
            raise ModelFailure("busy", reason="throttled", delay_s=30, throttled=True)
        return [events[0].data.upper() + self.mark]

    def close(self):
        self.closed = True


class ShoutScheme(Scheme):
    aliases = {"loud": "2"}

    def describe(self, address):
        address.checked(mark=str)
        name, _, version = address.rest.removeprefix("//").partition("/")
        if not name:
            raise InvalidModel("write shout://name")
        if version.startswith("@"):
            return Description(name=name, alias=version[1:])
        return Description(name=name, version=f"{version}.0.0" if version else None)

    def pin(self, address):
        from mltrigger.versions.address import Address

        base, at, alias = address.text.partition("@")
        if not at:
            return address
        if self.aliases[alias] == "down":
            raise ConnectionError("the registry is down")
        return Address(base + self.aliases[alias], address.given)

    def open(self, address, setting):
        return Shout(address.options.get("mark", "!"))
"""


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Another package, installed: its module and its entry point."""
    from mltrigger.names import entry_points

    (tmp_path / "shouting.py").write_text(_PACKAGE)
    info = tmp_path / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mltrigger.models]\nshout = shouting:ShoutScheme\nbroken = shouting:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    entry_points.cache_clear()
    yield importlib.import_module("shouting")
    entry_points.cache_clear()
    sys.modules.pop("shouting", None)


def test_another_package_adds_a_scheme_by_an_entry_point(bus: mt.EventBus, shout: Any) -> None:
    sub = bus.subscribe("texts", mt.model("shout://greeter/1", mark="?"))

    assert outputs(bus, "texts", ["hello"]) == ["HELLO?"]
    assert sub.selector == "greeter:1.0.0"
    row = bus.models().iloc[0]
    assert (row["kind"], row["address"], row["portable"]) == ("shout", "shout://greeter/1", True)


def test_an_address_is_called_in_a_process_that_knows_only_the_store(
    tmp_path: Path, shout: Any
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with mt.connect(url) as here:
        here.subscribe("texts", mt.model("shout://greeter/1", mark="?"), listen=False)
        here.publish("texts", "hello")
    with mt.connect(url) as elsewhere:
        elsewhere.subscription("greeter").start()
        elsewhere.wait()
        assert elsewhere.invocations()["output"].tolist() == ['"HELLO?"']


def test_an_address_runs_in_a_process_of_its_own(bus: mt.EventBus, shout: Any) -> None:
    bus.subscribe("texts", "shout://greeter", isolation="process")

    assert outputs(bus, "texts", ["hello"]) == ["HELLO!"]


def test_a_wrong_option_or_scheme_lists_the_near_ones(bus: mt.EventBus, shout: Any) -> None:
    with pytest.raises(mt.NotFound, match="did you mean 'mark'"):
        mt.model("shout://greeter", marc="?")
    with pytest.raises(mt.InvalidModel, match="mark must be str, got 5"):
        mt.model("shout://greeter", mark=5)
    with pytest.raises(mt.NotFound, match="did you mean 'shout'"):
        mt.model("shuot://greeter")
    with pytest.raises(mt.InvalidModel, match="'broken': shouting:Nothing cannot be loaded"):
        mt.model("broken://greeter")
    with pytest.raises(mt.InvalidModel, match="must have a JSON form"):
        mt.model("shout://greeter", mark=object())


def test_another_address_under_the_same_version_is_a_conflict(bus: mt.EventBus, shout: Any) -> None:
    bus.register("shout://greeter/1")

    with pytest.raises(mt.VersionConflict, match=r"greeter:1\.0\.0"):
        bus.register("shout://greeter/1", mark="?")


def test_being_throttled_spends_no_attempt_and_holds_the_listener_back(shout: Any) -> None:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("texts", "shout://greeter", max_attempts=1)
        bus.publish("texts", "later")
        wait_until(lambda: len(bus.invocations()) == 1)
        bus.publish("texts", "hello")
        row = bus.invocations().iloc[0]
        assert (row["outcome"], row["reason"]) == ("failed", "throttled")
        assert sub.dead_letters().empty
        assert len(bus.invocations()) == 1  # the other one waits as long as the server asked
        wait_until(lambda: sub.state == "waiting for the model: busy")

        clock.advance(s=31)
        wait_until(lambda: "succeeded" in set(bus.invocations()["outcome"]))


def test_an_alias_elsewhere_is_followed_and_the_version_that_ran_recorded(shout: Any) -> None:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("texts", "shout://greeter/@loud")
        bus.fire("texts", ["one"], progress=False)
        shout.ShoutScheme.aliases = {"loud": "3"}
        clock.advance(s=5)
        bus.fire("texts", ["two"], progress=False)
        shout.ShoutScheme.aliases = {"loud": "down"}
        clock.advance(s=5)
        bus.fire("texts", ["three"], progress=False)

        assert sub.selector == "greeter@loud"
        assert bus.invocations()["version"].tolist() == ["2.0.0", "3.0.0", "3.0.0"]
        assert bus.models().set_index("version")["aliases"].to_dict() == {
            "2.0.0": "",
            "3.0.0": "loud",
        }


def test_a_followed_alias_takes_no_version_of_ours(bus: mt.EventBus, shout: Any) -> None:
    with pytest.raises(mt.InvalidModel, match="leave the version out"):
        bus.subscribe("texts", "shout://greeter/@loud", version="1.0.0")


def test_an_address_can_be_tried_without_a_bus(shout: Any) -> None:
    assert mt.model("shout://greeter")("hello") == "HELLO!"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host/score", True),
        ("command:./score --json", True),
        ("onnx:model.onnx", True),
        ("models:/churn@champion", True),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f", True),
        ("nosuch://host", True),
        ("ocr:1.0.0", False),
        ("ocr:latest", False),
        ("onnx:1.0.0", False),
        ("ocr@champion", False),
        ("ocr", False),
        ("ocr:0.0.0+abc", False),
        ("package.module:attribute", False),
        ("models:read_page", False),
        ("models:Reader.read", False),
    ],
)
def test_addresses_are_told_from_selectors_and_import_paths(text: str, expected: bool) -> None:
    assert is_address(text) is expected


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
