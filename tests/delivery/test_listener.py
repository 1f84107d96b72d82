"""What becomes of an event: outcomes, retries, hanging and printing models, batches, hand-on,
versions, stopping.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from shared import Gate, in_memory, is_settled, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.broker import Depth, Settlement
from mltrigger.delivery.bindings import Bindings
from mltrigger.delivery.listener import MOST_LEFT_BEHIND, Listener
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.event.event import MAX_HOPS
from mltrigger.testing import SimulatedClock
from mltrigger.versions.describe import Model, as_model
from mltrigger.versions.running.invoke import MAX_TEXT
from mltrigger.versions.running.placement import Placement

FOREVER_S = 40_000.0
"""A timeout that simulated time does not reach while a test lets retries come."""


def data(sub: mt.Subscription, column: str) -> list[Any]:
    return list(sub.invocations(columns=[column])[column])


def last(sub: mt.Subscription) -> pd.Series[Any]:
    return sub.invocations().iloc[-1]


def done(sub: mt.Subscription) -> mt.Subscription:
    wait_until(lambda: is_settled(sub))
    return sub


# -- outcomes --------------------------------------------------------------------------------------


def test_success_is_one_row_with_output_version_and_times(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    @mt.model("count", version="1.2.0")
    def count(text: str) -> dict[str, int]:
        clock.advance(s=0.25)
        return {"words": len(text.split())}

    sub = bus.subscribe("texts", count)
    bus.publish("texts", "two words", type="text.written", source="pen", id="t-1")

    row = last(done(sub))
    assert (row["event_id"], row["source"], row["type"], row["topic"], row["subscription"]) == (
        "t-1",
        "pen",
        "text.written",
        "texts",
        "count",
    )
    assert (row["model"], row["version"], row["role"], row["attempt"], row["outcome"]) == (
        "count",
        "1.2.0",
        "live",
        1,
        "succeeded",
    )
    assert row["output"] == '{"words":2}'
    assert (row["queue_ms"], row["model_ms"], row["total_ms"], row["batch_size"]) == (
        0.0,
        250.0,
        250.0,
        1,
    )
    assert row[["reason", "error_type", "error", "stdout"]].isna().all()


def test_failing_model_is_tried_again_until_its_attempts_are_used_up(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def fails(_: object) -> None:
        raise ValueError("no such page")

    sub = bus.subscribe("documents", fails, max_attempts=3, timeout_s=FOREVER_S)
    bus.publish("documents", {"page": 7}, id="d-7")
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "failed", "dead"]
    assert data(sub, "attempt") == [1, 2, 3]
    assert data(sub, "reason") == ["model_error"] * 3
    assert data(sub, "error") == ["no such page"] * 3
    (letter,) = sub.dead_letters().to_dict(orient="records")
    assert (letter["event_id"], letter["reason"], letter["attempts"], letter["data"]) == (
        "d-7",
        "model_error",
        3,
        '{"page":7}',
    )
    assert letter["error_type"] == "ValueError"
    assert 'raise ValueError("no such page")' in letter["traceback"]


def test_model_that_recovers_succeeds(bus: mt.EventBus, clock: SimulatedClock) -> None:
    answers = iter([ValueError("not yet"), KeyError("not yet"), "now"])

    def recovers(_: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sub = bus.subscribe("documents", recovers, timeout_s=FOREVER_S)
    bus.publish("documents", 1)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "failed", "succeeded"]
    assert sub.depth().dead == 0


def test_failed_event_waits_before_it_comes_again(bus: mt.EventBus, clock: SimulatedClock) -> None:
    def fails(_: object) -> None:
        raise ValueError

    sub = bus.subscribe("documents", fails, max_attempts=2, timeout_s=FOREVER_S)
    bus.publish("documents", 1)

    wait_until(lambda: sub.depth().delayed == 1)
    clock.advance(s=1.0)  # the first delay is at most the base of the backoff
    assert sub.depth().delayed == 0


def test_failing_event_does_not_hold_up_the_others(bus: mt.EventBus) -> None:
    def divide(n: int) -> float:
        return 1 / n

    sub = bus.subscribe("numbers", divide)
    bus.publish_batch("numbers", [0, 1, 2])

    wait_until(
        lambda: sub.depth().delayed == 1 and sub.depth().visible + sub.depth().in_flight == 0
    )
    assert sorted(outcomes(sub)) == ["failed", "succeeded", "succeeded"]


def test_retry_comes_after_the_delay_that_the_model_asked_for(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    calls: list[int] = []

    def busy(_: object) -> str:
        calls.append(1)
        if len(calls) == 1:
            raise mt.Retry(delay_s=300, reason="the model server is loading")
        return "done"

    sub = bus.subscribe("documents", busy, timeout_s=FOREVER_S)
    bus.publish("documents", 1)

    wait_until(lambda: sub.depth().delayed == 1)
    clock.advance(s=299.9)
    assert sub.depth().delayed == 1
    clock.advance(s=0.1)
    settle(bus, clock, sub)
    assert outcomes(sub) == ["failed", "succeeded"]
    assert data(sub, "reason")[0] == "retry"
    assert data(sub, "error")[0] == "the model server is loading"


def test_rejected_event_is_dead_at_once(bus: mt.EventBus) -> None:
    def rejects(_: object) -> None:
        raise mt.Reject("blank page")

    sub = bus.subscribe("documents", rejects)
    bus.publish("documents", 1)

    row = last(done(sub))
    assert (row["outcome"], row["reason"], row["error_type"], row["error"]) == (
        "dead",
        "rejected",
        "Reject",
        "blank page",
    )
    assert len(sub.invocations()) == 1


@in_memory
@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), KeyboardInterrupt("stop"), GeneratorExit("x"), MemoryError()],
    ids=repr,
)
def test_model_that_tries_to_end_the_process_only_fails(
    bus: mt.EventBus, raised: BaseException
) -> None:
    def ends(wanted: str) -> str:
        if wanted == "end":
            raise raised
        return "alive"

    sub = bus.subscribe("documents", ends, max_attempts=1)
    bus.publish_batch("documents", ["end", "go on"])

    assert outcomes(done(sub)) == ["dead", "succeeded"]
    assert data(sub, "error_type")[0] == type(raised).__name__


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("ending", "code"), [("exit", 3), ("raise", 1), ("return", 0)])
@pytest.mark.parametrize("kind", ["one", "batch", "coroutine"])
def test_copy_that_a_model_makes_with_fork_ends_when_the_model_ends_in_it(
    bus: mt.EventBus, ending: str, code: int, kind: str
) -> None:
    def forks() -> int:
        if not (copy := os.fork()):
            if ending == "exit":
                sys.exit(code)
            if ending == "raise":
                raise ValueError(ending)
            return 99
        return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])

    def batch(values: list[Any]) -> list[int]:
        return [forks()] * len(values)

    async def coroutine(_: object) -> int:
        return forks()

    models = {
        "one": mt.model(lambda _: forks(), name="m"),
        "batch": mt.model(batch, batch=True, name="m"),
        "coroutine": coroutine,
    }
    sub = bus.subscribe("documents", models[kind], timeout_s=15, max_attempts=1)
    bus.publish_batch("documents", [1, 2])

    assert outcomes(done(sub)) == ["succeeded"] * 2
    assert data(sub, "output") == [str(code)] * 2


def test_model_that_stops_its_loop_or_closes_stdout_harms_no_other_event(bus: mt.EventBus) -> None:
    async def stops(how: str) -> str:
        if how == "stop":
            asyncio.get_running_loop().stop()
        elif how == "exit":
            await asyncio.gather(asyncio.create_task(exits()), return_exceptions=True)
        await asyncio.sleep(0.001)
        return how

    async def exits() -> None:
        raise SystemExit

    def closes(how: str) -> str:
        sys.stdout.close()
        print(how)
        return how

    subs = [
        bus.subscribe("documents", model, max_attempts=1, timeout_s=15) for model in (stops, closes)
    ]
    bus.publish_batch("documents", ["fine", "stop", "fine", "exit", "fine"])

    for sub in subs:
        assert outcomes(done(sub)) == ["succeeded"] * 5
    assert not sys.stdout.closed


def test_error_that_cannot_be_looked_at_is_still_a_row(bus: mt.EventBus) -> None:
    class Hostile(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__qualname__":
                raise RuntimeError("and now?")
            return super().__getattribute__(name)

    class HostileError(Exception, metaclass=Hostile):
        pass

    def fails(_: object) -> None:
        raise HostileError

    sub = bus.subscribe("documents", fails, max_attempts=1)
    bus.publish("documents", 1)

    assert outcomes(done(sub)) == ["dead"]
    assert data(sub, "reason") == ["model_error"]


def test_error_that_cannot_be_printed_is_still_a_row(bus: mt.EventBus) -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("and now?")

    def fails(_: object) -> None:
        raise HostileError

    sub = bus.subscribe("documents", fails, max_attempts=1)
    bus.publish("documents", 1)

    row = last(done(sub))
    assert row["outcome"] == "dead"
    assert "HostileError" in row["error"]


def test_long_error_is_cut_and_says_how_much(bus: mt.EventBus) -> None:
    def fails(_: object) -> None:
        raise ValueError("x" * 1_000_000)

    sub = bus.subscribe("documents", fails, max_attempts=1)
    bus.publish("documents", 1)

    error = last(done(sub))["error"]
    assert len(error) < MAX_TEXT + 100
    assert error.endswith(f"… ({1_000_000 - MAX_TEXT:,} more characters)")


def test_errors_and_tracebacks_hold_no_absolute_path(bus: mt.EventBus) -> None:
    def fails(_: object) -> None:
        raise ValueError("x")

    sub = bus.subscribe("documents", fails, max_attempts=1)
    bus.publish("documents", 1)

    done(sub)
    (letter,) = sub.dead_letters().to_dict(orient="records")
    assert 'File "test_listener.py"' in letter["traceback"]
    assert 'File "/' not in letter["traceback"]


# -- hanging models --------------------------------------------------------------------------------


def hanging(gate: Gate) -> Callable[[str], str]:
    """Return a model that hangs on one event, until *gate* opens."""

    def hangs(wanted: str) -> str:
        if wanted == "hang":
            gate.wait()
        return wanted

    return hangs


def test_hanging_call_fails_with_reason_timeout_and_the_next_event_is_handled(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    sub = bus.subscribe("documents", hanging(gate), timeout_s=0.05, max_attempts=1)
    bus.publish("documents", "hang")
    assert gate.reached.wait(20)
    clock.advance(s=0.06)
    bus.publish("documents", "go on")

    done(sub)
    assert outcomes(sub) == ["dead", "succeeded"]
    row = sub.invocations().iloc[0]
    assert (row["reason"], row["error_type"]) == ("timeout", "TimeoutError")
    assert "timeout_s = 0.05" in row["error"]
    assert row["model_ms"] >= 50


def test_answer_that_comes_after_the_timeout_is_ignored(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    late = threading.Event()

    def hangs(_: object) -> str:
        gate.wait()
        late.set()
        return "late"

    sub = bus.subscribe("documents", hangs, timeout_s=0.05, max_attempts=1)
    bus.publish("documents", 1)
    assert gate.reached.wait(20)
    clock.advance(s=0.06)
    done(sub)
    gate.open()
    assert late.wait(20)
    bus.publish("documents", 2)
    done(sub)

    assert outcomes(sub) == ["dead", "succeeded"]
    assert data(sub, "attempt") == [1, 1]


def test_event_whose_call_timed_out_is_tried_again(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    calls = itertools.count()

    def hangs_once(_: object) -> str:
        if next(calls) == 0:
            gate.wait()
        return "answer"

    sub = bus.subscribe("documents", hangs_once, timeout_s=0.05)
    bus.publish("documents", 1)
    assert gate.reached.wait(20)
    clock.advance(s=0.06)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "succeeded"]


def test_listener_that_takes_its_time_to_start_is_kept_all_the_same(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Listener.start

    def slowly(self: Listener) -> None:
        threading.Event().wait(0.2)  # meanwhile the keeper looks for listeners that have ended
        start(self)

    monkeypatch.setattr(Listener, "start", slowly)
    sub = bus.subscribe(
        "documents", lambda _: gate.wait(), name="hangs", timeout_s=0.05, max_attempts=1
    )
    bus.publish("documents", 1)
    assert gate.reached.wait(20)
    clock.advance(s=0.06)
    done(sub)

    assert outcomes(sub) == ["dead"]


def test_events_that_were_answered_before_one_hangs_keep_their_answers(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    # A fast model's slot leases several events at once.
    sub = bus.subscribe("documents", hanging(gate), timeout_s=0.05, max_attempts=1)
    bus.fire("documents", ["warm", "up"], progress=False)
    bus.publish_batch("documents", ["a", "b", "hang", "c"])
    assert gate.reached.wait(20)
    clock.advance(s=0.06)

    done(sub)
    rows = sub.invocations().iloc[2:].merge(bus.events("documents"), on="event_id")
    assert dict(zip(rows["data"], rows["outcome"], strict=True)) == {
        '"a"': "succeeded",
        '"b"': "succeeded",
        '"hang"': "dead",
        '"c"': "succeeded",
    }


@pytest.fixture
def parts(clock: SimulatedClock) -> Iterator[mt.EventBus]:
    """A bus to take parts from, for a listener without the keeper's thread."""
    with mt.connect("memory://", clock=clock) as bus:
        yield bus


def listener_of(
    parts: mt.EventBus,
    clock: SimulatedClock,
    model: Any,
    resolving: Callable[[], object] = lambda: None,
    **policy: Any,
) -> Listener:
    sub = parts.subscribe("documents", model, listen=False, **policy)
    version, spec = parts.registry.versions()[-1], parts.registry.subscription(sub.name)
    assert spec is not None
    described = as_model(model)

    def resolve() -> tuple[mt.ModelVersion, Model]:
        resolving()
        return version, described

    placement = Placement(resolve, spec.policy)
    return Listener(
        spec,
        Bindings(spec, lambda _: placement, clock),
        broker=parts.broker,
        log=parts.log,
        clock=clock,
        workers=ThreadWorkers(),
    )


def test_listener_counts_the_calls_that_it_left_behind(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def hangs(_: object) -> None:
        gate.wait()

    listener = listener_of(parts, clock, hangs, timeout_s=30, max_attempts=1)
    parts.publish("documents", 1)
    listener.start()
    assert gate.reached.wait(20)
    assert listener.leftover == 0

    clock.advance(s=31)
    assert listener.tick()

    wait_until(lambda: is_settled(parts.subscription("hangs")))
    assert (listener.leftover, listener.in_flight) == (1, 0)
    listener.stop(drain_s=0)


def refuses(call: Callable[[], None]) -> None:
    """Start no thread for *call*."""
    raise RuntimeError("can't start new thread")


def assert_goes_on(parts: mt.EventBus, listener: Listener, gate: Gate) -> None:
    """The event of the call that hangs is dead, and the other one succeeds."""
    sub = parts.subscription("hangs")
    try:
        wait_until(lambda: is_settled(sub))
        assert sorted(outcomes(sub)) == ["dead", "succeeded"]
    finally:
        gate.open()
        listener.stop(drain_s=5)


def test_slot_of_a_call_that_hangs_is_free_though_no_thread_can_be_started_for_a_while(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listener_of(parts, clock, hanging(gate), timeout_s=30, max_attempts=1)
    parts.publish_batch("documents", ["hang", "go on"])
    listener.start()
    assert gate.reached.wait(20)
    clock.advance(s=31)
    monkeypatch.setattr(listener._workers, "submit", refuses)
    with pytest.raises(RuntimeError):
        listener.tick()
    monkeypatch.undo()

    listener.tick()

    assert_goes_on(parts, listener, gate)


def test_listener_goes_on_after_a_hanging_call_beside_which_no_thread_could_be_started(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listener_of(
        parts, clock, hanging(gate), timeout_s=30, max_attempts=1, max_concurrency=2
    )
    parts.publish("documents", "hang")
    begin = listener._workers.submit
    monkeypatch.setattr(listener._workers, "submit", refuses)
    begin(listener._serve)
    listener.state = "listening"
    listener._slots.open()
    assert gate.reached.wait(20)
    monkeypatch.undo()
    clock.advance(s=31)
    parts.publish("documents", "go on")

    listener.tick()

    assert_goes_on(parts, listener, gate)


def test_events_of_a_late_batch_are_not_leased_anew_for_each_of_them(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    many, sizes = 60, list[int]()

    @mt.model("late", version="1.0.0", batch=True)
    def late(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        if len(sizes) == 1:
            gate.wait()
        return numbers

    listener = listener_of(parts, clock, late, timeout_s=30, batch_size=many)
    parts.publish_batch("documents", range(many))
    listener.start()
    assert gate.reached.wait(20)
    clock.advance(s=31)
    listener.tick()
    sub = parts.subscription("late")
    wait_until(lambda: sub.depth().delayed == many)

    clock.advance(s=31)
    listener._broker.wake(listener.spec)

    wait_until(lambda: is_settled(sub))
    assert sizes == [many] + [1] * many
    assert sub.invocations()["attempt"].max() < 10
    gate.open()
    listener.stop(drain_s=5)


def test_listener_with_many_calls_left_behind_waits_until_one_ends(
    clock: SimulatedClock, gate: Gate
) -> None:
    begun: list[int] = []

    def hangs(n: int) -> int:
        begun.append(n)
        gate.wait()
        return n

    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe(
            "calls", hangs, timeout_s=0.05, max_attempts=1, max_concurrency=MOST_LEFT_BEHIND
        )
        bus.publish_batch("calls", list(range(3 * MOST_LEFT_BEHIND)))
        wait_until(lambda: len(begun) == MOST_LEFT_BEHIND)
        clock.advance(s=0.06)
        wait_until(lambda: sub.state.startswith("waiting for calls that hang"))

        assert sub.state.endswith(
            "in threads that cannot be stopped; isolation='process' stops such calls"
        )
        assert len(begun) <= 2 * MOST_LEFT_BEHIND
        advice = sub.doctor().set_index("check").loc["hanging calls", "advice"]
        assert "isolation='process'" in advice
        assert sub.depth().visible >= MOST_LEFT_BEHIND

        gate.open()
        wait_until(lambda: is_settled(sub))
        wait_until(lambda: sub.state == "listening")
        assert outcomes(sub).count("succeeded") >= MOST_LEFT_BEHIND


def test_time_in_which_the_whole_process_was_stopped_is_not_a_timeout_of_the_model(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def waits(_: object) -> str:
        gate.wait()
        return "answer"

    listener = listener_of(parts, clock, waits, timeout_s=30, lease_s=60)
    parts.publish("documents", 1)
    listener.start()
    assert gate.reached.wait(20)

    clock.advance(s=90)  # nobody held the lease meanwhile: the keeper did not run either
    assert listener.tick()
    gate.open()
    done(parts.subscription("waits"))

    assert outcomes(parts.subscription("waits")) == ["succeeded"]
    assert listener.leftover == 0
    listener.stop()


def test_heartbeat_holds_the_lease_of_every_event_that_is_not_settled(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def waits(wanted: str) -> str:
        if wanted == "wait":
            gate.wait()
        return wanted

    listener = listener_of(parts, clock, waits, timeout_s=FOREVER_S, lease_s=30)
    listener.start()
    parts.publish("documents", "warm up")
    sub = done(parts.subscription("waits"))
    parts.publish_batch("documents", ["wait", "behind", "behind too"])
    assert gate.reached.wait(20)

    for _ in range(10):
        clock.advance(s=10)
        assert listener.tick()
    assert parts.broker.receive(listener.spec, 10) == []  # nobody else gets any of them

    gate.open()
    done(sub)
    assert outcomes(sub) == ["succeeded"] * 4
    assert set(data(sub, "attempt")) == {1}
    listener.stop()


def test_late_answer_of_a_listener_without_heartbeat_counts_and_takes_the_lease_of_the_next_one(
    parts: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def waits(_: object) -> str:
        gate.wait()
        return "late"

    listener = listener_of(parts, clock, waits, timeout_s=FOREVER_S, lease_s=30)
    parts.publish("documents", 1)
    listener.start()
    assert gate.reached.wait(20)

    clock.advance(s=31)
    (taken,) = parts.broker.receive(listener.spec, 1)
    listener.begin_stop()
    gate.open()
    listener.stop()

    sub = parts.subscription("waits")
    assert outcomes(sub) == ["succeeded"]
    assert (taken.attempt, sub.depth().in_flight) == (2, 0)
    assert parts.broker.settle([Settlement(taken, "ack")]) == [taken]


def test_outcome_that_cannot_be_recorded_at_once_is_recorded_later_and_the_model_not_called_again(
    file: Path, gate: Gate
) -> None:
    calls: list[int] = []

    def waits(n: int) -> int:
        calls.append(n)
        gate.wait()
        return n

    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe("numbers", waits)
        bus.publish("numbers", 1)
        assert gate.reached.wait(20)
        other_program = sqlite3.connect(file, isolation_level=None)
        other_program.execute("BEGIN IMMEDIATE")
        gate.open()
        assert sub.depth().in_flight == 1
        other_program.execute("COMMIT")
        other_program.close()
        done(sub)

        assert (outcomes(sub), calls) == (["succeeded"], [1])


# -- what a model does to its input, and prints ----------------------------------------------------


def test_model_that_changes_its_input_harms_neither_its_neighbour_nor_its_retry(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    seen: dict[str, list[Any]] = {"vandal": [], "neighbour": []}

    def vandal(document: dict[str, Any]) -> None:
        seen["vandal"].append(repr(document))
        document["pages"].clear()
        document["gone"] = True
        if len(seen["vandal"]) == 1:
            raise ValueError("and it fails, too")

    def neighbour(document: dict[str, Any]) -> None:
        seen["neighbour"].append(repr(document))

    first = bus.subscribe("documents", vandal, timeout_s=FOREVER_S)
    second = bus.subscribe("documents", neighbour)
    bus.publish("documents", {"pages": [1, 2]})
    settle(bus, clock, first)
    done(second)

    original = repr({"pages": [1, 2]})
    assert seen == {"vandal": [original, original], "neighbour": [original]}


def test_what_a_model_prints_is_kept_with_its_attempt(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    def chats(name: str) -> None:
        print("hello", name)
        print("to stderr", file=sys.stderr)

    sub = bus.subscribe("names", chats)
    bus.fire("names", ["a", "b"], progress=False)
    print("the cell's own output")

    assert data(sub, "stdout") == ["hello a\nto stderr\n", "hello b\nto stderr\n"]
    assert capsys.readouterr().out == "the cell's own output\n"


def test_megabytes_of_print_are_cut_and_counted(bus: mt.EventBus) -> None:
    def floods(_: object) -> str:
        for _ in range(3_000):
            print("x" * 999)
        return "still fine"

    sub = bus.subscribe("documents", floods)
    bus.publish("documents", 1)

    row = last(done(sub))
    assert row["outcome"] == "succeeded"
    assert len(row["stdout"]) < 70_000
    assert row["stdout"].endswith(f"… ({3_000_000 - 64 * 1024:,} more characters)")


# -- results that cannot be kept -------------------------------------------------------------------


def test_generator_function_is_refused_when_it_is_handed_over(bus: mt.EventBus) -> None:
    def yields(_: object) -> Iterator[int]:
        yield 1

    with pytest.raises(mt.InvalidModel, match=r"'yields' is a generator function; return list"):
        bus.subscribe("documents", yields)
    assert bus.models().empty


def returns_a_coroutine(_: object) -> object:
    return asyncio.sleep(0)


def returns_an_object_inside(_: object) -> object:
    return {"pages": [{"image": object()}]}


def returns_itself(_: object) -> object:
    value: list[object] = []
    value.append(value)
    return value


@in_memory
@pytest.mark.parametrize(
    ("model", "named"),
    [
        (returns_a_coroutine, "$: a coroutine"),
        (returns_an_object_inside, "$.pages[0].image: a value of type 'object'"),
        (returns_itself, "a value that contains itself"),
    ],
)
def test_result_that_has_no_json_form_is_dead_at_once_and_names_the_part(
    bus: mt.EventBus, model: Any, named: str
) -> None:
    sub = bus.subscribe("documents", model)
    bus.publish("documents", 1)

    row = last(done(sub))
    assert (row["outcome"], row["reason"]) == ("dead", "result_not_serialisable")
    assert named in row["error"]
    assert "the model ran" in row["error"]
    assert len(sub.invocations()) == 1


def test_not_a_number_is_kept(bus: mt.EventBus) -> None:
    def score(_: object) -> dict[str, float]:
        return {"score": math.nan, "best": math.inf}

    bus.subscribe("documents", score)
    results = bus.fire("documents", 1, progress=False).results()

    assert results.loc[0, "outcome"] == "succeeded"
    assert math.isnan(results.loc[0, "score"])
    assert results.loc[0, "best"] == math.inf


# -- batches ---------------------------------------------------------------------------------------


def batched(bus: mt.EventBus, model: Any, samples: list[Any], **policy: Any) -> mt.Subscription:
    """Publish first and listen then, so that the batches are the same every time."""
    sub = bus.subscribe("numbers", model, batch=True, listen=False, timeout_s=FOREVER_S, **policy)
    bus.publish_batch("numbers", [mt.Event(s, id=str(i)) for i, s in enumerate(samples)])
    return sub.start()


def by_event(sub: mt.Subscription, column: str) -> list[Any]:
    return list(sub.invocations().sort_values(["event_id", "attempt"])[column])


def test_batch_model_gets_lists_no_longer_than_the_batch_size(bus: mt.EventBus) -> None:
    sizes: list[int] = []

    def double(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return [2 * n for n in numbers]

    sub = done(batched(bus, double, list(range(10)), batch_size=4))

    assert sizes == [4, 4, 2]
    assert by_event(sub, "output") == [str(2 * n) for n in range(10)]
    assert by_event(sub, "batch_size") == [4] * 8 + [2] * 2


def test_batch_model_that_asks_for_events_gets_events(bus: mt.EventBus) -> None:
    def ids(events: list[mt.Event]) -> list[str]:
        return [event.id for event in events]

    sub = done(batched(bus, ids, ["a", "b"]))

    assert by_event(sub, "output") == ['"0"', '"1"']


@in_memory
@pytest.mark.parametrize(
    "answer", [[1, 2], [1, 2, 3, 4], "abc", {"a": 1, "b": 2, "c": 3}, 7, None], ids=repr
)
def test_batch_answer_of_the_wrong_length_is_dead_for_every_event_of_the_batch(
    bus: mt.EventBus, answer: object
) -> None:
    def wrong(_: list[int]) -> object:
        return answer

    sub = done(batched(bus, wrong, [1, 2, 3]))

    assert outcomes(sub) == ["dead"] * 3
    assert set(data(sub, "reason")) == {"bad_batch_result"}
    assert "one output an event" in data(sub, "error")[0]


def test_exception_in_place_of_an_output_fails_that_event_only(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def halves(numbers: list[int]) -> list[Any]:
        return [n // 2 if n % 2 == 0 else ValueError(f"{n} is odd") for n in numbers]

    sub = batched(bus, halves, [4, 5, 6], max_attempts=2)
    settle(bus, clock, sub)

    assert by_event(sub, "outcome") == ["succeeded", "failed", "dead", "succeeded"]
    assert by_event(sub, "error")[1:3] == ["5 is odd", "5 is odd"]


def test_signals_in_place_of_an_output_are_followed(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    calls: list[int] = []

    def picky(numbers: list[int]) -> list[Any]:
        calls.append(len(numbers))
        return [
            mt.Reject("zero") if n == 0 else mt.Retry(delay_s=60) if len(calls) == 1 else n
            for n in numbers
        ]

    sub = batched(bus, picky, [0, 1])
    settle(bus, clock, sub)

    assert by_event(sub, "outcome") == ["dead", "failed", "succeeded"]
    assert by_event(sub, "reason")[:2] == ["rejected", "retry"]


def test_one_bad_event_that_breaks_the_whole_batch_fails_alone(bus: mt.EventBus) -> None:
    def fragile(numbers: list[int]) -> list[float]:
        return [1 / n for n in numbers]

    sub = done(batched(bus, fragile, [1, 2, 0, 4, 5], max_attempts=1))

    assert by_event(sub, "outcome") == ["succeeded", "succeeded", "dead", "succeeded", "succeeded"]
    assert by_event(sub, "error_type")[2] == "ZeroDivisionError"


def test_output_of_a_batch_that_has_no_json_form_is_dead_alone(bus: mt.EventBus) -> None:
    def some(numbers: list[int]) -> list[Any]:
        return [object() if n == 1 else n for n in numbers]

    sub = done(batched(bus, some, [0, 1, 2]))

    assert by_event(sub, "outcome") == ["succeeded", "dead", "succeeded"]
    assert [reason == "result_not_serialisable" for reason in by_event(sub, "reason")] == [
        False,
        True,
        False,
    ]


def test_batch_answer_may_be_an_array_a_series_or_a_frame(bus: mt.EventBus) -> None:
    def table(numbers: list[int]) -> pd.DataFrame:
        return pd.DataFrame({"n": numbers, "square": [n * n for n in numbers]})

    sub = done(batched(bus, table, [2, 3]))

    assert by_event(sub, "output") == ['{"n":2,"square":4}', '{"n":3,"square":9}']


def test_what_a_batch_prints_is_kept_once(bus: mt.EventBus) -> None:
    def chats(numbers: list[int]) -> list[int]:
        print("batch of", len(numbers))
        return numbers

    sub = done(batched(bus, chats, [1, 2, 3]))

    assert [text for text in data(sub, "stdout") if isinstance(text, str)] == ["batch of 3\n"]


class Threshold:
    """A fitted model, as scikit-learn has them."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.seen: list[Any] = []

    def __getstate__(self) -> dict[str, float]:
        return {"at": self.at}

    def predict(self, rows: Any) -> Any:
        self.seen.append(rows)
        return (
            (rows["score"] > self.at).to_numpy()
            if isinstance(rows, pd.DataFrame)
            else [row > self.at for row in rows]
        )


def test_fitted_model_gets_one_frame_for_a_batch_of_objects(bus: mt.EventBus) -> None:
    model = Threshold(0.5)
    sub = bus.subscribe(
        "scores", mt.model(model, name="threshold", columns=["score", "id"]), listen=False
    )
    bus.publish_batch("scores", [{"score": 0.9, "id": 1}, {"score": 0.1, "id": 2}])
    sub.start()

    assert data(done(sub), "output") == ["true", "false"]
    (table,) = model.seen
    assert isinstance(table, pd.DataFrame)
    assert table.to_dict(orient="list") == {"score": [0.9, 0.1], "id": [1, 2]}


def test_fitted_model_gets_the_plain_list_of_anything_else(bus: mt.EventBus) -> None:
    model = Threshold(0.5)
    sub = bus.subscribe("scores", mt.model(model, name="threshold"), listen=False)
    bus.publish_batch("scores", [0.9, 0.1])
    sub.start()

    assert data(done(sub), "output") == ["true", "false"]
    assert model.seen == [[0.9, 0.1]]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_events_of_a_batch_in_which_one_hangs_are_not_blamed(isolation: str) -> None:
    def hangs(batch: list[int]) -> list[int]:
        import time

        if 3 in batch:
            time.sleep(8)
        return batch

    with mt.connect("memory://") as bus:
        model = mt.model(hangs, name="hangs", batch=True)
        sub = bus.subscribe(
            "numbers",
            model,
            batch_size=8,
            timeout_s=2.0,
            max_attempts=1,
            isolation=isolation,
            listen=False,
        )
        bus.publish_batch("numbers", range(8))
        sub.start()
        done(sub)
        frame = sub.invocations()

        assert list(frame["outcome"]).count("succeeded") == 7
        (letter,) = sub.dead_letters().to_dict("records")
        assert (letter["reason"], letter["data"]) == ("timeout", "3")
        assert "it was a batch of 8: each is called alone now" in frame["error"][0]
        assert set(frame[frame["outcome"] == "succeeded"]["batch_size"]) == {1}


def test_events_beside_one_that_blocks_the_event_loop_are_not_blamed() -> None:
    async def blocks(n: int) -> int:
        await asyncio.sleep(0.01)
        if n == 3:
            time.sleep(6)
        await asyncio.sleep(0.01)
        return n

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", blocks, timeout_s=2.0, max_attempts=1, listen=False)
        bus.publish_batch("numbers", range(8))
        sub.start()
        done(sub)

        assert outcomes(sub).count("succeeded") == 7
        (letter,) = sub.dead_letters().to_dict("records")
        assert (letter["reason"], letter["data"]) == ("timeout", "3")


def test_coroutine_that_awaits_too_long_is_to_blame_whoever_is_beside_it() -> None:
    async def waits(n: int) -> int:
        await asyncio.sleep(30 if n == 3 else 0.01)
        return n

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", waits, timeout_s=2.0, max_attempts=1, listen=False)
        bus.publish_batch("numbers", range(8))
        sub.start()

        assert sorted(outcomes(done(sub))) == ["dead"] + ["succeeded"] * 7


def test_batch_window_waits_for_a_batch_to_fill(bus: mt.EventBus) -> None:
    sizes: list[int] = []

    def counts(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return numbers

    sub = bus.subscribe("numbers", counts, batch=True, batch_size=3, batch_window_s=100)
    bus.publish("numbers", 1)
    wait_until(lambda: sub.depth().in_flight == 1)
    bus.publish("numbers", 2)
    wait_until(lambda: sub.depth().in_flight == 2)
    assert sizes == []
    bus.publish("numbers", 3)

    done(sub)
    assert sizes == [3]


def test_batch_window_that_is_over_takes_what_is_there(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sizes: list[int] = []

    def counts(numbers: list[int]) -> list[int]:
        sizes.append(len(numbers))
        return numbers

    sub = bus.subscribe(
        "numbers", counts, batch=True, batch_size=3, batch_window_s=5, timeout_s=FOREVER_S
    )
    bus.publish("numbers", 1)
    wait_until(lambda: sub.depth().in_flight == 1)
    spec = bus.registry.subscription("counts")

    def pass_time() -> bool:
        clock.advance(s=5)
        bus.broker.wake(spec)
        return is_settled(sub)

    wait_until(pass_time)
    assert sizes == [1]


def test_calls_run_at_the_same_time_up_to_the_concurrency_and_no_further(
    bus: mt.EventBus, gate: Gate
) -> None:
    running, most, guard = set(), [], threading.Lock()

    def slow(n: int) -> int:
        with guard:
            running.add(n)
            most.append(len(running))
        gate.wait()
        with guard:
            running.discard(n)
        return n

    sub = bus.subscribe("numbers", slow, max_concurrency=3, listen=False)
    bus.publish_batch("numbers", list(range(8)))
    sub.start()
    wait_until(lambda: len(running) == 3)
    assert sub.depth().in_flight == 3  # nothing is leased that has no slot
    gate.open()

    assert outcomes(done(sub)) == ["succeeded"] * 8
    assert max(most) == 3


# -- hand-on ---------------------------------------------------------------------------------------


def test_output_goes_on_in_the_same_trace_with_its_cause(bus: mt.EventBus) -> None:
    got: list[mt.Event] = []

    def read(page: str) -> dict[str, str]:
        return {"text": page.upper()}

    def label(event: mt.Event) -> str:
        got.append(event)
        return "invoice"

    reader = bus.subscribe("pages", read, emit="texts")
    labeller = bus.subscribe("texts", label, name="labeller")
    receipt = bus.publish("pages", "page", subject="page-1.png")
    done(reader)
    done(labeller)

    (event,) = got
    assert (event.data, event.subject, event.source) == (
        {"text": "PAGE"},
        "page-1.png",
        "mltrigger/read",
    )
    assert (event.extensions["causationid"], event.hops) == (receipt.event_id, 1)
    (cause,) = bus.events("pages").to_dict(orient="records")
    version, trace_id, span, _ = str(event.traceparent).split("-")
    assert (version, trace_id) == ("00", cause["trace_id"])
    assert span != "0" * 16
    assert reader.invocations()["trace_id"][0] == labeller.invocations()["trace_id"][0] == trace_id
    assert list(bus.trace(receipt.event_id)["subscription"]) == ["read", "labeller"]
    # from the first cause down
    assert list(bus.trace(event.id)["event_id"]) == [receipt.event_id, event.id]


def test_repeat_of_a_cause_emits_the_same_id(bus: mt.EventBus) -> None:
    cause = mt.Event("page", id="p-1", source="scanner")

    assert cause.emitted(1, by="read", type="t").id == cause.emitted(2, by="read", type="t").id
    assert cause.emitted(1, by="read", type="t").id != cause.emitted(1, by="other", type="t").id

    sub = bus.subscribe("pages", mt.model(str.upper, name="read"), emit="texts")
    bus.publish("pages", cause)
    done(sub)
    assert list(bus.events("texts")["event_id"]) == [cause.emitted(None, by="read", type="t").id]


def test_event_whose_second_attempt_succeeds_is_handed_on_once(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    answers = iter([ValueError("x"), "text"])

    def read(_: object) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sub = bus.subscribe("pages", read, emit="texts", timeout_s=FOREVER_S)
    bus.publish("pages", 1)
    settle(bus, clock, sub)

    assert list(bus.events("texts")["data"]) == ['"text"']


def test_each_of_many_outputs_is_handed_on_as_it_was_when_the_model_returned_it(
    bus: mt.EventBus,
) -> None:
    state = {"n": 0}

    def counter(_: object) -> dict[str, int]:
        state["n"] += 1
        return state  # the same object every time

    sub = bus.subscribe("ticks", counter, emit="counts", timeout_s=FOREVER_S)
    bus.fire("ticks", [0], progress=False)
    bus.publish_batch("ticks", list(range(5)))
    done(sub)

    assert list(bus.events("counts")["data"]) == data(sub, "output")


def test_output_none_is_recorded_and_not_handed_on(bus: mt.EventBus) -> None:
    def filters(n: int) -> int | None:
        return n if n > 0 else None

    sub = bus.subscribe("numbers", filters, emit="positive")
    bus.publish_batch("numbers", [-1, 1])

    assert data(done(sub), "output") == ["null", "1"]
    assert list(bus.events("positive")["data"]) == ["1"]


def test_failed_event_is_not_handed_on(bus: mt.EventBus) -> None:
    def fails(_: object) -> None:
        raise mt.Reject

    sub = bus.subscribe("numbers", fails, emit="answers")
    bus.publish("numbers", 1)
    done(sub)

    assert bus.events("answers").empty


def test_topic_that_feeds_itself_ends(bus: mt.EventBus) -> None:
    def echo(n: int) -> int:
        return n + 1

    sub = bus.subscribe("loop", echo, emit="loop")
    bus.publish("loop", 0)
    done(sub)

    assert outcomes(sub) == ["succeeded"] * MAX_HOPS + ["dead"]
    assert last(sub)["reason"] == "recursion_limit"
    assert len(bus.events("loop")) == MAX_HOPS + 1


def test_batch_model_that_feeds_itself_ends_too(bus: mt.EventBus) -> None:
    def echo(numbers: list[int]) -> list[int]:
        return [n + 1 for n in numbers]

    sub = bus.subscribe("loop", echo, batch=True, emit="loop")
    bus.publish("loop", 0)
    done(sub)

    assert outcomes(sub) == ["succeeded"] * MAX_HOPS + ["dead"]


# -- versions --------------------------------------------------------------------------------------


def version_of(number: str) -> mt.Model:
    return mt.model(lambda _: number, name="ocr", version=number)


def fired(bus: mt.EventBus) -> str:
    return str(bus.fire("documents", 1, progress=False).results().loc[0, "output"])


def test_selector_of_a_minor_version_picks_up_a_newer_patch(bus: mt.EventBus) -> None:
    bus.register(version_of("1.0.0"))
    sub = bus.subscribe("documents", "ocr:1.0", name="reader")
    assert fired(bus) == "1.0.0"

    bus.register(version_of("1.0.2"))
    bus.register(version_of("1.1.0"))

    assert fired(bus) == "1.0.2"
    assert data(sub, "version") == ["1.0.0", "1.0.2"]


def test_exact_selector_stays_where_it_is(bus: mt.EventBus) -> None:
    bus.subscribe("documents", version_of("1.0.0"))

    bus.register(version_of("1.0.1"))

    assert fired(bus) == "1.0.0"


def test_selector_latest_leaves_prereleases_aside(bus: mt.EventBus) -> None:
    bus.register(version_of("1.0.0"))
    bus.subscribe("documents", "ocr")

    bus.register(version_of("2.0.0-rc.1"))
    assert fired(bus) == "1.0.0"
    bus.register(version_of("1.10.0"))
    bus.register(version_of("1.9.0"))

    assert fired(bus) == "1.10.0"


def test_alias_switches_what_a_subscription_calls(bus: mt.EventBus) -> None:
    bus.register(version_of("1.0.0"))
    bus.register(version_of("2.0.0"))
    bus.alias("ocr", "champion", "1.0.0")
    sub = bus.subscribe("documents", "ocr@champion")
    assert fired(bus) == "1.0.0"

    bus.alias("ocr", "champion", "2.0.0")

    assert fired(bus) == "2.0.0"
    assert data(sub, "version") == ["1.0.0", "2.0.0"]  # recorded as what it was, not as the alias


@in_memory
def test_answer_is_recorded_before_a_newer_version_is_loaded(bus: mt.EventBus, gate: Gate) -> None:
    began, go = threading.Event(), threading.Event()

    @mt.model("ocr", version="1.0.0")
    def first(document: object) -> int:
        began.set()
        assert go.wait(20)
        return 1

    class Second:
        def __init__(self) -> None:
            gate.wait()

        def __call__(self, document: object) -> int:
            return 2

    bus.register(first)
    bus.alias("ocr", "champion", "1.0.0")
    sub = bus.subscribe("documents", "ocr@champion")
    bus.publish("documents", "a")
    assert began.wait(20)
    bus.register(mt.model(Second, name="ocr", version="2.0.0"))
    bus.alias("ocr", "champion", "2.0.0")

    go.set()

    assert gate.reached.wait(20)
    wait_until(lambda: outcomes(sub) == ["succeeded"])
    gate.open()


def test_selector_alias_or_model_that_does_not_exist_is_refused_with_the_near_names(
    bus: mt.EventBus,
) -> None:
    bus.register(version_of("1.0.0"))
    bus.alias("ocr", "champion", "1.0.0")

    with pytest.raises(mt.NotFound, match=r"did you mean 'ocr:1\.0\.0'"):
        bus.subscribe("documents", "ocr:1.0.1")
    with pytest.raises(mt.NotFound, match="did you mean 'ocr@champion'"):
        bus.subscribe("documents", "ocr@champoin")
    with pytest.raises(mt.NotFound, match="known: 'ocr'"):
        bus.subscribe("documents", "fraud:1")
    with pytest.raises(mt.NotFound):
        bus.alias("ocr", "champion", "9.9.9")
    assert bus.subscriptions().empty


def test_running_the_cell_again_is_the_same_subscription(bus: mt.EventBus) -> None:
    def cell() -> mt.Subscription:
        @mt.model("ocr", version="1.0.0")
        def read(document: object) -> str:
            return "text"

        return bus.subscribe("documents", read)  # type: ignore[no-any-return]

    first, again = cell(), cell()
    bus.fire("documents", 1, progress=False)

    assert len(bus.subscriptions()) == len(bus.models()) == 1
    assert outcomes(first) == outcomes(again) == ["succeeded"]
    assert "was" not in repr(again)


def test_other_code_under_a_released_version_is_refused(bus: mt.EventBus) -> None:
    @mt.model("ocr", version="1.0.0")
    def read(document: object) -> str:
        return "text"

    @mt.model("ocr", version="1.0.0")
    def other(document: object) -> str:
        return "another text"

    bus.subscribe("documents", read)

    with pytest.raises(mt.VersionConflict, match=r"ocr:1\.0\.0 is registered with other code"):
        bus.subscribe("documents", other)
    assert fired(bus) == "text"


def test_model_without_a_version_becomes_a_build_and_every_edit_a_new_one(bus: mt.EventBus) -> None:
    @mt.model("ocr")
    def read(document: object) -> str:
        return "text"

    @mt.model("ocr")
    def edited(document: object) -> str:
        return "better text"

    first = bus.subscribe("documents", read)
    assert fired(bus) == "text"
    before = first.selector
    second = bus.subscribe("documents", edited)
    assert fired(bus) == "better text"

    versions = data(second, "version")
    assert all(v.startswith("0.0.0+") and len(v) == 18 for v in versions)
    assert len(set(versions)) == 2
    assert before == f"ocr:{versions[0]}"


def test_subscribing_with_another_version_rebinds_and_says_what_it_was(bus: mt.EventBus) -> None:
    bus.subscribe("documents", version_of("1.0.0"))

    sub = bus.subscribe("documents", version_of("1.1.0"))

    assert (
        repr(sub)
        == "Subscription('documents' -> ocr:1.1.0 (was ocr:1.0.0), listening, no events yet)"
    )
    assert fired(bus) == "1.1.0"
    assert len(bus.subscriptions()) == 1


def test_every_cell_that_subscribes_and_fires_sees_its_own_version(bus: mt.EventBus) -> None:
    for n in range(1, 13):
        bus.subscribe("documents", version_of(f"{n}.0.0"))

        assert fired(bus) == f"{n}.0.0"


def test_name_of_a_subscription_to_another_topic_is_taken(bus: mt.EventBus) -> None:
    bus.subscribe("documents", version_of("1.0.0"))

    with pytest.raises(
        mt.NameTaken, match=r"listens to 'documents', not to 'pages'; pass name='…'"
    ):
        bus.subscribe("pages", version_of("1.0.0"))


def test_subscribe_is_a_decorator_and_leaves_a_function(bus: mt.EventBus) -> None:
    @bus.subscribe("documents", version="1.0.0")
    def double(n: int) -> int:
        return 2 * n

    assert double(4) == 8
    assert bus.fire("documents", 3, progress=False).results().loc[0, "output"] == 6


# -- stopping --------------------------------------------------------------------------------------


def test_stop_lets_the_running_call_end_and_releases_what_has_not_begun(
    bus: mt.EventBus, gate: Gate
) -> None:
    def waits(wanted: str) -> str:
        if wanted == "wait":
            gate.wait()
        return wanted

    sub = bus.subscribe("documents", waits, timeout_s=FOREVER_S)
    bus.fire("documents", "warm up", progress=False)
    bus.publish_batch("documents", ["wait", "a", "b", "c"])
    assert gate.reached.wait(20)
    assert sub.depth().in_flight == 4

    stopping = threading.Thread(target=sub.stop)
    stopping.start()
    wait_until(lambda: sub.state == "stopped" or not stopping.is_alive() or "stop" in sub.state)
    gate.open()
    stopping.join(timeout=30)

    assert (outcomes(sub), sub.depth().visible, sub.depth().in_flight) == (["succeeded"] * 2, 3, 0)
    sub.start()
    done(sub)
    assert outcomes(sub) == ["succeeded"] * 5  # a release is nobody's failure, and leaves no row
    assert data(sub, "attempt") == [1, 1, 2, 2, 2]


def test_call_cut_off_by_stop_is_interrupted_and_its_event_comes_again(
    bus: mt.EventBus, gate: Gate
) -> None:
    calls = itertools.count()

    def waits_once(_: object) -> str:
        if next(calls) == 0:
            gate.wait()
        return "answer"

    sub = bus.subscribe("documents", waits_once, max_attempts=1, timeout_s=FOREVER_S)
    bus.publish("documents", 1)
    assert gate.reached.wait(20)

    sub.stop(drain_s=0)

    assert outcomes(sub) == ["interrupted"]
    assert sub.depth() == Depth(visible=1, delayed=0, in_flight=0, dead=0, oldest_s=0.0)
    sub.start()
    done(sub)
    gate.open()
    assert outcomes(sub) == ["interrupted", "succeeded"]


def test_stopped_subscription_keeps_collecting_and_starts_again(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", mt.model(str.upper, name="shout"))
    sub.stop()
    sub.stop()
    bus.publish_batch("documents", ["a", "b"])
    assert (sub.state, sub.depth().visible) == ("stopped", 2)

    sub.start()
    sub.start()

    assert data(done(sub), "output") == ['"A"', '"B"']
    assert sub.state == "listening"


def test_stop_that_comes_just_before_the_listener_begins_to_wait_takes_no_poll(
    parts: mt.EventBus, clock: SimulatedClock
) -> None:
    def answers(_: object) -> None: ...

    def start_and_stop() -> None:
        def until_it_was_woken() -> None:
            key = f"ready:{listener.spec.id}"
            seen = parts.wakeup.generation(key)
            reached.set()
            wait_until(lambda: parts.wakeup.generation(key) != seen)

        reached = threading.Event()
        listener = listener_of(parts, clock, answers, resolving=until_it_was_woken)
        listener.start()
        assert reached.wait(20)
        listener.stop()

    took_s = []
    for _ in range(4):
        began_s = time.monotonic()
        start_and_stop()
        took_s.append(time.monotonic() - began_s)

    assert sorted(took_s)[1] < 0.9, took_s  # a poll takes a second


def test_closing_the_bus_waits_for_the_running_call(file: Path, gate: Gate) -> None:
    def waits(_: object) -> str:
        gate.wait()
        return "answer"

    bus = mt.connect(f"sqlite:///{file}")
    bus.subscribe("documents", waits)
    bus.publish("documents", 1)
    assert gate.reached.wait(20)
    closing = threading.Thread(target=bus.close)
    closing.start()
    gate.open()
    closing.join(timeout=30)

    with mt.connect(f"sqlite:///{file}") as again:
        assert outcomes(again.subscription("waits")) == ["succeeded"]


def test_closing_the_bus_releases_the_running_call_of_a_version_that_was_replaced(
    file: Path, gate: Gate
) -> None:
    def waits(_: object) -> str:
        gate.wait()
        return "first"

    bus = mt.connect(f"sqlite:///{file}")
    bus.subscribe("documents", mt.model(waits, name="ocr", version="1.0.0"))
    bus.publish("documents", 1)
    assert gate.reached.wait(20)
    bus.subscribe("documents", version_of("2.0.0"))

    bus.close(drain_s=0)

    with mt.connect(f"sqlite:///{file}") as again:
        sub = again.subscription("ocr")
        assert (outcomes(sub), sub.depth().visible, sub.depth().in_flight) == (
            ["interrupted"],
            1,
            0,
        )


def test_unsubscribed_name_is_gone_and_its_log_stays(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", mt.model(str.upper, name="shout"))
    bus.fire("documents", "a", progress=False)

    sub.unsubscribe()
    bus.unsubscribe("shout")

    with pytest.raises(mt.NotFound):
        bus.subscription("shout")
    assert len(bus.invocations()) == 1
    assert bus.publish("documents", "b").subscriptions == ()


def test_model_that_lives_elsewhere_is_waited_for(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as here:
        here.register(version_of("1.0.0"))  # a lambda: no other process can import it
        with mt.connect(f"sqlite:///{file}") as elsewhere:
            sub = elsewhere.subscribe("documents", "ocr:1.0.0")
            elsewhere.publish("documents", 1)

            wait_until(lambda: sub.state.startswith("waiting for the model"))
            assert sub.depth().visible == 1  # not leased by somebody who cannot work on it
            elsewhere.register(version_of("1.0.0"))

            assert outcomes(done(sub)) == ["succeeded"]
