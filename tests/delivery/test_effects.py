"""Effects of models: called at most once for an event, answered from the record after that."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from emulators import Account
from shared import Gate, in_memory, outcomes, settle, wait_until
from stores import ALL, url_of

import mltrigger as mt
from mltrigger.testing import SimulatedClock

FOREVER_S = 40_000.0
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Shop:
    """Another system. It keeps each charge as a line of a file, so that any process can pay."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    def charge(self, order: Any, idempotency_key: str) -> dict[str, Any]:
        with self.file.open("a") as lines:
            lines.write(f"{order} {idempotency_key}\n")
        return {"paid": order}

    @property
    def charges(self) -> list[str]:
        return self.file.read_text().splitlines()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "charges.txt")


@pytest.fixture(params=ALL)
def served(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    """A bus of each broker in turn, in real time."""
    if request.param == "aws":
        account: Account = request.getfixturevalue("aws")
        yield account.bus()
        return
    with mt.connect(url_of(request)) as bus:
        yield bus


@pytest.fixture(params=["thread", "process", "async"])
def run_as(request: pytest.FixtureRequest) -> Callable[[Callable[[Any], Any]], Any]:
    """Return how to make a model of a function, and the options to subscribe it with."""

    def made(function: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
        if request.param != "async":
            return mt.model("pay", version="1.0.0")(function), {"isolation": request.param}

        async def pay(order: Any) -> Any:
            return function(order)

        return mt.model("pay", version="1.0.0")(pay), {}

    return made


def states(sub: mt.Subscription) -> list[tuple[str, str, int]]:
    found = sub.effects()
    return list(zip(found["name"], found["state"], found["calls"], strict=True))


# -- at most once ----------------------------------------------------------------------------------


@pytest.mark.slow(every=5)
def test_retry_gets_the_recorded_answer(served: mt.EventBus, run_as: Any, shop: Shop) -> None:
    def pay(order: int) -> Any:
        seen = len(shop.charges)
        answer = mt.once("charge", shop.charge, order)
        if not seen:
            raise mt.Retry(0)
        return answer

    model, options = run_as(pay)
    sub = served.subscribe("orders", model, **options)
    run = served.fire("orders", [7], progress=False)

    assert run.results()["paid"].tolist() == [7]
    assert outcomes(sub) == ["failed", "succeeded"]
    ((charge, key),) = [line.split() for line in shop.charges]
    (effect,) = sub.effects().to_dict("records")
    assert (charge, key) == ("7", effect["key"])
    assert (effect["state"], effect["attempt"], effect["calls"]) == ("answered", 1, 1)
    assert effect["event_id"] == run.receipts[0].event_id
    assert effect["answer"] == '{"paid":7}'
    assert effect["intended_at"] <= effect["answered_at"]


@pytest.mark.slow(every=4)
def test_effect_that_failed_is_called_again_with_the_same_key(
    served: mt.EventBus, run_as: Any, shop: Shop
) -> None:
    def refuse_once(order: int, idempotency_key: str) -> Any:
        answer = shop.charge(order, idempotency_key)
        if len(shop.charges) == 1:
            raise mt.Retry(0, "out of order")
        return answer

    model, options = run_as(lambda order: mt.once("charge", refuse_once, order))
    sub = served.subscribe("orders", model, **options)
    run = served.fire("orders", [7], progress=False)

    assert run.results()["outcome"].tolist() == ["succeeded"]
    assert len(shop.charges) == 2
    assert len(set(shop.charges)) == 1
    assert states(sub) == [("charge", "answered", 2)]


def test_intent_is_recorded_before_the_call(bus: mt.EventBus, shop: Shop) -> None:
    before: list[Any] = []

    def look() -> None:
        before.extend(states(bus.subscription("pay")))

    sub = bus.subscribe("orders", mt.model("pay")(lambda _: mt.once("look", look)))
    bus.fire("orders", [1], progress=False)

    assert before == [("look", "unknown", 1)]
    assert states(sub) == [("look", "answered", 1)]


def test_coroutine_function_is_awaited(served: mt.EventBus) -> None:
    async def charge(order: int, idempotency_key: str) -> list[Any]:
        await asyncio.sleep(0)
        return [order, len(idempotency_key)]

    @mt.model("pay", version="1.0.0")
    async def pay(order: int) -> Any:
        first = await mt.once("charge", charge, order)
        return [first, await mt.once("charge", charge, order)]

    sub = served.subscribe("orders", pay)
    run = served.fire("orders", [7, 8], progress=False)

    assert run.results()["output"].tolist() == [[[7, 32]] * 2, [[8, 32]] * 2]
    assert states(sub) == [("charge", "answered", 1)] * 2


@in_memory
def test_coroutine_that_fails_is_recorded_as_failed(bus: mt.EventBus) -> None:
    async def charge() -> None:
        raise LookupError("no such card")

    async def pay(_: object) -> None:
        await mt.once("charge", charge)

    sub = bus.subscribe("orders", pay, max_attempts=1)
    bus.fire("orders", [1], progress=False)

    assert states(sub) == [("charge", "failed", 1)]
    assert sub.effects()["error"].tolist() == ["LookupError: no such card"]


@in_memory
def test_function_that_hides_a_coroutine_is_refused_and_did_nothing(bus: mt.EventBus) -> None:
    async def charge() -> int:
        return 1

    sub = bus.subscribe(
        "orders", lambda _: mt.once("charge", lambda: charge()), name="pay", max_attempts=1
    )
    bus.fire("orders", [1], progress=False)

    assert "hand over the coroutine function itself" in sub.invocations()["error"][0]
    assert states(sub) == [("charge", "failed", 1)]


@in_memory
def test_same_name_is_the_same_effect_and_another_key_is_another(
    bus: mt.EventBus, shop: Shop
) -> None:
    def pay(order: dict[str, Any]) -> Any:
        return [
            mt.once("charge", shop.charge, order["id"]),
            mt.once("charge", shop.charge, "not again"),
            mt.once("charge", shop.charge, "fee", key="fee-1"),
            mt.once("charge", shop.charge, "tax", key=2),
            mt.once("mail", len, "a greeting"),
        ]

    sub = bus.subscribe("orders", pay)
    run = bus.fire("orders", [{"id": 7}], progress=False)

    assert run.results()["output"][0] == [
        {"paid": 7},
        {"paid": 7},
        {"paid": "fee"},
        {"paid": "tax"},
        10,
    ]
    assert [line.split()[0] for line in shop.charges] == ["7", "fee", "tax"]
    assert {"fee-1", "2"} <= set(sub.effects()["key"])


@in_memory
def test_keys_differ_by_event_and_subscription(bus: mt.EventBus, shop: Shop) -> None:
    def pay(order: int) -> Any:
        return mt.once("charge", shop.charge, order)

    one, other = bus.subscribe("orders", pay), bus.subscribe("orders", pay, name="other")
    bus.fire("orders", [1, 2], progress=False)

    keys = [*one.effects()["key"], *other.effects()["key"]]
    assert len(set(keys)) == 4


@in_memory
def test_answer_is_the_same_the_first_time_and_later(bus: mt.EventBus) -> None:
    def pay(_: object) -> Any:
        return [repr(mt.once("charge", lambda: (1, {"a": 2.5}))) for _ in range(2)]

    bus.subscribe("orders", pay)
    run = bus.fire("orders", [1], progress=False)

    assert run.results()["output"][0] == ["[1, {'a': 2.5}]"] * 2


@in_memory
def test_key_is_handed_on_only_where_it_is_taken(bus: mt.EventBus) -> None:
    def with_any(*args: Any, **others: Any) -> Any:
        return [args, others]

    def given(order: int, idempotency_key: str = "") -> Any:
        return [order, idempotency_key]

    def pay(_: object) -> Any:
        return [
            mt.once("any", with_any, 1),
            mt.once("given", given, 2, "own"),
            mt.once("taken", given, 3, key="k"),
        ]

    bus.subscribe("orders", pay)
    run = bus.fire("orders", [1], progress=False)

    assert run.results()["output"][0] == [[[1], {}], [2, "own"], [3, "k"]]


# -- unknown ---------------------------------------------------------------------------------------


def dies_after(charge: Callable[..., Any], shop: Shop, deaths: int) -> Callable[..., Any]:
    """Return *charge*, after which the process dies the first *deaths* times."""

    def charged(order: int, idempotency_key: str) -> Any:
        answer = charge(order, idempotency_key)
        if len(shop.charges) <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return charged


@pytest.mark.skipif(sys.platform == "win32", reason="needs processes of their own")
def test_effect_whose_process_died_is_unknown_and_makes_a_dead_letter(
    bus: mt.EventBus, clock: SimulatedClock, shop: Shop
) -> None:
    charge = dies_after(shop.charge, shop, 1)
    sub = bus.subscribe(
        "orders",
        mt.model("pay")(lambda order: mt.once("charge", charge, order)),
        isolation="process",
        timeout_s=FOREVER_S,
    )
    receipt = bus.publish("orders", 7)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "dead"]
    assert len(shop.charges) == 1
    assert states(sub) == [("charge", "unknown", 1)]
    (letter,) = sub.dead_letters().to_dict("records")
    assert (letter["reason"], letter["error_type"]) == ("effect_unknown", "EffectUnknown")
    assert "may have happened" in letter["error"]
    found = bus.doctor().set_index("check").loc["effects"]
    assert "1 effect 'charge' began" in found["finding"]
    steps = sub.explain(receipt).set_index("step")["detail"]
    assert "it may have happened" in steps["effect charge"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs processes of their own")
def test_unknown_effect_is_called_again_with_the_same_key_on_request(
    bus: mt.EventBus, clock: SimulatedClock, shop: Shop
) -> None:
    charge = dies_after(shop.charge, shop, 1)
    sub = bus.subscribe(
        "orders",
        mt.model("pay")(lambda order: mt.once("charge", charge, order, unknown="again")),
        isolation="process",
        timeout_s=FOREVER_S,
    )
    bus.publish("orders", 7)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "succeeded"]
    assert len(shop.charges) == 2
    assert len(set(shop.charges)) == 1
    assert states(sub) == [("charge", "answered", 2)]


@in_memory
def test_function_may_say_that_its_effect_is_unknown(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def charge() -> None:
        raise mt.EffectUnknown("the bank did not answer in time")

    sub = bus.subscribe("orders", lambda _: mt.once("charge", charge), name="pay")
    bus.fire("orders", [1], progress=False)

    assert outcomes(sub) == ["dead"]
    assert states(sub) == [("charge", "unknown", 1)]


@in_memory
def test_late_answer_of_a_call_that_was_given_up_is_kept(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def charge() -> int:
        gate.wait()
        return 42

    sub = bus.subscribe("orders", lambda _: mt.once("charge", charge), name="pay", timeout_s=5.0)
    bus.publish("orders", 1)
    wait_until(gate.reached.is_set)
    clock.advance(s=6)
    wait_until(lambda: outcomes(sub)[:1] == ["failed"])
    clock.advance(s=60)
    wait_until(lambda: outcomes(sub) == ["failed", "dead"])
    gate.open()
    wait_until(lambda: states(sub) == [("charge", "answered", 1)])

    sub.redrive()
    wait_until(lambda: outcomes(sub)[-1] == "succeeded")
    assert sub.invocations()["output"].iloc[-1] == "42"


@in_memory
def test_no_effect_begins_after_the_call_has_timed_out(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate, shop: Shop
) -> None:
    refused: list[str] = []

    def pay(order: int) -> Any:
        gate.wait()
        try:
            return mt.once("charge", shop.charge, order)
        except mt.OutsideCall as error:
            refused.append(str(error))
            raise

    sub = bus.subscribe("orders", pay, timeout_s=5.0, max_attempts=1)
    bus.publish("orders", 1)
    wait_until(gate.reached.is_set)
    clock.advance(s=6)
    wait_until(lambda: outcomes(sub) == ["dead"])
    gate.open()

    wait_until(lambda: refused)
    assert "begins after its call ended" in refused[0]
    assert shop.charges == []
    assert states(sub) == []


KILLED = """
import os, signal, sys
import mltrigger as mt
url, file = sys.argv[1:3]

def charge(order, idempotency_key):
    with open(file, "a") as lines:
        lines.write(f"{order} {idempotency_key}\\n")
    if order == int(os.environ["FATAL"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return order

@mt.model("pay", version="1.0.0")
def pay(order):
    return mt.once("charge", charge, order)

with mt.connect(url) as bus:
    sub = bus.subscribe("orders", pay, name="pay", start="earliest", batch_size=4)
    print("waited", bus.wait(60, progress=False))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_processes_charge_nothing_twice_and_lose_nothing(file: Path, shop: Shop) -> None:
    url = f"sqlite:///{file}"
    with mt.connect(url) as bus:
        bus.topic("orders")
        bus.publish_batch("orders", list(range(12)))
    program = textwrap.dedent(KILLED)
    ends = []
    for fatal in (3, 7, -1):
        done = subprocess.run(
            [sys.executable, "-c", program, url, str(shop.file)],
            env={**os.environ, "FATAL": str(fatal)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        ends.append(done.returncode)

    assert ends == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert sorted(int(line.split()[0]) for line in shop.charges) == list(range(12))
    with mt.connect(url) as bus:
        sub = bus.subscription("pay")
        found = sub.effects()["state"].value_counts()
        assert (found["answered"], found["unknown"]) == (10, 2)
        assert sub.dead_letters()["reason"].tolist() == ["effect_unknown"] * 2
        assert bus.audit()["balanced"].all()


# -- answers that cannot be kept -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"), [(object(), "no JSON form"), ("x" * 2**20, "bytes of JSON")]
)
@in_memory
def test_effect_with_an_answer_that_cannot_be_kept_has_happened(
    answer: Any, why: str, bus: mt.EventBus, clock: SimulatedClock
) -> None:
    calls: list[int] = []

    def charge() -> Any:
        calls.append(1)
        return answer

    sub = bus.subscribe(
        "orders", lambda _: mt.once("charge", charge), name="pay", max_attempts=2, timeout_s=1e4
    )
    bus.publish("orders", 1)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "dead"]
    assert len(calls) == 1
    assert states(sub) == [("charge", "answered", 1)]
    assert why in sub.effects()["error"][0]
    assert sub.invocations()["error"].str.contains("has happened").all()


# -- where it works --------------------------------------------------------------------------------


def test_outside_of_a_call_it_is_refused() -> None:
    with pytest.raises(mt.OutsideCall, match="outside of a model's call"):
        mt.once("charge", len, "x")


@in_memory
def test_executor_of_threads_has_effects_and_one_of_processes_refuses(
    bus: mt.EventBus, shop: Shop
) -> None:
    def pay(order: int) -> Any:
        return mt.once("charge", shop.charge, order)

    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        bus.subscribe("orders", pay, name="threads", executor=threads)
        bus.subscribe("orders", pay, name="pool", executor=pool, max_attempts=1)
        run = bus.fire("orders", [1], progress=False)

    found = run.results().set_index("subscription")
    assert found["outcome"].to_dict() == {"threads": "succeeded", "pool": "dead"}
    assert "OutsideCall" in found["error"]["pool"]
    assert "isolation='process'" in found["error"]["pool"]
    assert len(shop.charges) == 1


@needs_fork
@in_memory
def test_copy_of_the_process_has_no_effects(bus: mt.EventBus, shop: Shop) -> None:
    def pay(order: int) -> Any:
        child = os.fork()
        if child == 0:
            try:
                mt.once("charge", shop.charge, "copy")
            except mt.OutsideCall:
                os._exit(7)
            os._exit(0)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), mt.once("a", lambda: 1)]

    bus.subscribe("orders", pay)
    run = bus.fire("orders", [1], progress=False)

    assert run.results()["output"][0] == [7, 1]
    assert shop.charges == []


@pytest.mark.parametrize("isolation", ["thread", "process"])
@in_memory
def test_batch_says_which_event(isolation: Any, bus: mt.EventBus, shop: Shop) -> None:
    @mt.model("pay", version="1.0.0", batch=True)
    def pay(orders: list[mt.Event]) -> list[Any]:
        for order in orders:
            if order.data == 3:
                raise ValueError("a bad order")
        return [mt.once("charge", shop.charge, order.data, event=order) for order in orders]

    sub = bus.subscribe("orders", pay, isolation=isolation, max_attempts=1, batch_size=8)
    run = bus.fire("orders", [1, 2, 3, 4], progress=False)

    assert run.results()["outcome"].tolist() == ["succeeded", "succeeded", "dead", "succeeded"]
    assert sorted(line.split()[0] for line in shop.charges) == ["1", "2", "4"]
    assert states(sub) == [("charge", "answered", 1)] * 3


@in_memory
def test_batch_without_an_event_is_refused(bus: mt.EventBus, shop: Shop) -> None:
    @mt.model("pay", version="1.0.0", batch=True)
    def pay(orders: list[Any]) -> list[Any]:
        return [mt.once("charge", shop.charge, order) for order in orders]

    @mt.model("other", version="1.0.0", batch=True)
    def other(orders: list[Any]) -> list[Any]:
        return [mt.once("charge", shop.charge, 1, event="nix") for _ in orders]

    bus.subscribe("orders", pay, max_attempts=1)
    bus.subscribe("orders", other, max_attempts=1)
    run = bus.fire("orders", [1], progress=False)

    errors = run.results()["error"]
    assert "say which event, event=" in errors[0]
    assert "event nix is not in this call" in errors[1]
    assert shop.charges == []


@in_memory
def test_direct_call_has_effects(bus: mt.EventBus, shop: Shop) -> None:
    bus.register(lambda order: mt.once("charge", shop.charge, order), name="pay", version="1.0.0")
    from mltrigger.versions.selector import Selector

    event = mt.Event(7, id="d-1")
    answers = [
        bus.direct.submit(Selector.parse("pay:1.0.0"), [event]).result(60)[0] for _ in range(2)
    ]

    assert [each.output for each in answers] == ['{"paid":7}'] * 2
    assert len(shop.charges) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "the name of an effect"),
        ({"name": "x" * 101}, "the name of an effect"),
        ({"name": "a\nb"}, "the name of an effect"),
        ({"key": ""}, "key must be"),
        ({"key": 1.5}, "key must be"),
        ({"key": "k" * 256}, "key must be"),
        ({"unknown": "maybe"}, "unknown must be 'fail' or 'again'"),
    ],
)
@in_memory
def test_arguments_that_make_no_sense_are_refused_before_the_call(
    given: dict[str, Any], said: str, bus: mt.EventBus, shop: Shop
) -> None:
    options = {"name": "charge", **given}

    def pay(order: int) -> Any:
        return mt.once(options.pop("name"), shop.charge, order, **options)

    sub = bus.subscribe("orders", pay, max_attempts=1)
    bus.fire("orders", [1], progress=False)

    assert said in sub.invocations()["error"][0]
    assert (states(sub), shop.charges) == ([], [])


# -- lanes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["shadow", "replay"])
def test_lane_answers_from_the_record_and_calls_nothing(
    role: str, bus: mt.EventBus, clock: SimulatedClock, shop: Shop
) -> None:
    model = mt.model("pay", version="1.0.0")(lambda order: mt.once("charge", shop.charge, order))
    live = bus.subscribe("orders", model)
    lane = live.shadow(model) if role == "shadow" else None
    bus.fire("orders", [1, 2], progress=False)

    lane = lane or live.replay(model, wait=True)

    def is_done() -> bool:
        clock.advance(s=30)  # a shadow that was faster than the live call waits for its record
        return list(lane.results()["outcome"]) == ["succeeded"] * 2

    wait_until(is_done)

    assert sorted(lane.results()["paid"]) == sorted(live.results()["paid"]) == [1, 2]
    assert len(shop.charges) == 2
    assert states(live) == [("charge", "answered", 1)] * 2


def test_effect_that_is_not_in_the_record_fails_the_row(bus: mt.EventBus, shop: Shop) -> None:
    live = bus.subscribe("orders", mt.model("pay", version="1.0.0")(lambda order: order))
    bus.fire("orders", [1], progress=False)
    newer = mt.model("pay", version="1.1.0")(lambda order: mt.once("mail", shop.charge, order))

    row = live.replay(newer, wait=True).invocations().iloc[-1]

    assert (row["outcome"], row["reason"]) == ("dead", "effect_missing")
    assert row["error_type"] == "EffectMissing"
    assert "effects='live'" in row["error"]
    assert shop.charges == []


def test_lane_whose_policy_says_live_calls_with_the_key_of_the_live_effect(
    bus: mt.EventBus, shop: Shop
) -> None:
    model = mt.model("pay", version="1.0.0")(lambda order: mt.once("charge", shop.charge, order))
    live = bus.subscribe("orders", model)
    bus.fire("orders", [1], progress=False)

    live.replay(model, effects="live", wait=True)

    assert len(shop.charges) == 2
    assert len(set(shop.charges)) == 1
    assert states(live) == [("charge", "answered", 1)]


def test_shadow_that_is_faster_than_the_live_version_waits_for_its_record(
    bus: mt.EventBus, clock: SimulatedClock, shop: Shop
) -> None:
    model = mt.model("pay", version="1.0.0")(lambda order: mt.once("charge", shop.charge, order))
    live = bus.subscribe("orders", model, timeout_s=FOREVER_S)
    live.pause()
    shadow = live.shadow(model)
    bus.publish("orders", 1)
    wait_until(lambda: list(shadow.invocations()["outcome"])[:1] == ["failed"])
    assert "may still bring it" in shadow.invocations()["error"][0]

    live.resume()
    settle(bus, clock, live)

    def is_done() -> bool:
        clock.advance(s=30)
        return list(shadow.results()["outcome"]) == ["succeeded"]

    wait_until(is_done)
    assert len(shop.charges) == 1


def test_correction_does_not_repeat_what_has_happened(bus: mt.EventBus, shop: Shop) -> None:
    def pay(order: int) -> Any:
        return mt.once("charge", shop.charge, order)

    def better(order: int) -> Any:
        return [mt.once("charge", shop.charge, order), mt.once("mail", shop.charge, order)]

    live = bus.subscribe("orders", mt.model("pay", version="1.0.0")(pay))
    bus.fire("orders", [1], progress=False)
    live.promote(mt.model("pay", version="1.1.0")(better))
    at = live.correct(0).start().wait().progress()

    assert (at.corrected, at.dead) == (1, 0)
    assert len(shop.charges) == 2
    assert states(live) == [("charge", "answered", 1), ("mail", "answered", 1)]


@in_memory
def test_dry_run_answers_from_the_record(bus: mt.EventBus, shop: Shop) -> None:
    def pay(order: int) -> Any:
        mt.once("charge", shop.charge, order)
        raise mt.Reject("out of stock")

    sub = bus.subscribe("orders", pay)
    bus.fire("orders", [1], progress=False)
    repaired = mt.model("pay", version="1.1.0")(lambda order: mt.once("charge", shop.charge, order))
    newer = mt.model("pay", version="1.2.0")(lambda order: mt.once("mail", shop.charge, order))

    assert sub.dry_run(version=repaired)["paid"].tolist() == [1]
    assert "EffectMissing" in sub.dry_run(version=newer)["error"][0]
    assert len(shop.charges) == 1


# -- the frame, and its end ------------------------------------------------------------------------


def test_frame_has_its_dtypes_with_and_without_rows(bus: mt.EventBus) -> None:
    sub = bus.subscribe("orders", lambda _: mt.once("charge", lambda: 1), name="pay")
    before = sub.effects()
    bus.fire("orders", [1], progress=False)
    after = sub.effects()

    assert (len(before), len(after)) == (0, 1)
    assert before.dtypes.to_dict() == after.dtypes.to_dict()
    assert list(after) == [
        *("event_id", "source", "name", "key", "state", "attempt", "calls"),
        *("intended_at", "answered_at", "answer", "error"),
    ]


def test_effects_are_deleted_with_their_events(bus: mt.EventBus) -> None:
    sub = bus.subscribe("orders", lambda _: mt.once("charge", lambda: 1), name="pay")
    bus.fire("orders", [1, 2, 3], progress=False)
    bus.retain(max_events=1)
    bus.prune()

    assert len(sub.effects()) == 1
    assert bus._store.read("SELECT count(*) FROM effect") == [(1,)]
