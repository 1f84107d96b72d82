"""Turns: many calls at once or one alone, nobody waits for ever, and what that means for
subscriptions of one process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import Gate, is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.broker import Delivery
from mltrigger.delivery.suspects import UNLIKELY
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.turns import HERE, Turns

STEP_S = 0.05


class Calls:
    """Calls in threads of their own, that go on until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self._ends: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def begin(self, name: str, alone: bool = False) -> None:
        self._ends[name] = threading.Event()

        def call() -> None:
            turn = self.turns.entered(alone)
            self.began.append(name)
            self._ends[name].wait(30)
            turn.leave()

        self._threads.append(threading.Thread(target=call, daemon=True))
        self._threads[-1].start()

    def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()

    def close(self) -> None:
        self.end(*self._ends)
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls(Turns())
    yield calls
    calls.close()


def test_many_run_at_once(calls: Calls) -> None:
    calls.begin("a")
    calls.begin("b")

    wait_until(lambda: sorted(calls.began) == ["a", "b"])


def test_one_that_is_alone_waits_for_the_others_and_they_for_it(calls: Calls) -> None:
    calls.begin("a")
    wait_until(lambda: calls.began == ["a"])
    calls.begin("suspect", alone=True)
    wait_until(lambda: calls.turns.wanted)
    assert calls.turns.closed

    calls.end("a")
    wait_until(lambda: calls.began == ["a", "suspect"])
    calls.begin("b")
    time.sleep(STEP_S)
    assert calls.began == ["a", "suspect"]

    calls.end("suspect")
    wait_until(lambda: calls.began == ["a", "suspect", "b"])


def test_after_one_that_was_alone_those_whom_it_kept_waiting_come_first(calls: Calls) -> None:
    calls.begin("first suspect", alone=True)
    wait_until(lambda: calls.began == ["first suspect"])
    calls.begin("second suspect", alone=True)
    wait_until(lambda: calls.turns.wanted)
    calls.begin("a")
    time.sleep(2 * STEP_S)  # it is kept waiting

    calls.end("first suspect")

    wait_until(lambda: calls.began == ["first suspect", "a"])
    calls.end("a")
    wait_until(lambda: calls.began == ["first suspect", "a", "second suspect"])


def test_one_that_waits_to_be_alone_lets_others_begin_from_time_to_time(calls: Calls) -> None:
    calls.begin("waits for b")
    wait_until(lambda: calls.began == ["waits for b"])
    calls.begin("suspect", alone=True)
    wait_until(lambda: calls.turns.wanted)

    calls.begin("b")

    wait_until(lambda: calls.began == ["waits for b", "b"])
    calls.end("b", "waits for b")
    wait_until(lambda: calls.began[-1] == "suspect")


def test_one_that_was_left_behind_holds_nobody_up_and_nothing_is_proved_beside_it() -> None:
    turns = Turns()
    hangs = turns.entered()
    hangs.leave_behind()

    beside = turns.entered(alone=True)
    assert (turns.left_behind, beside.proves) == (1, False)
    beside.leave()
    hangs.leave()

    assert (turns.left_behind, turns.entered(alone=True).proves) == (0, True)


def test_who_is_stopped_while_it_waits_gets_no_turn() -> None:
    turns = Turns()
    turns.entered(alone=True)

    assert turns.enter(stopped=lambda: True) is None
    assert turns.enter(alone=True, stopped=lambda: True) is None
    assert not turns.wanted


# -- in a bus --------------------------------------------------------------------------------------


def abandoned(bus: mt.EventBus, name: str, n: int) -> list[Delivery]:
    """Let *n* events of a subscription be leased by somebody who is never heard of again."""
    spec = bus.registry.subscription(name)
    assert spec is not None
    return bus.broker.receive(spec, n)


class Counted:
    """Notes how many models ran at once while each event did."""

    def __init__(self) -> None:
        self._now, self._guard = 0, threading.Lock()
        self.most: dict[object, int] = {}

    def model(self, event: mt.Event) -> object:
        with self._guard:
            self._now += 1
            running = self._now
        for _ in range(5):
            time.sleep(0.004)
            running = max(running, self._now)
        with self._guard:
            self._now -= 1
        self.most[event.data] = running
        return event.data


def test_suspects_run_alone_in_the_whole_process_one_after_the_other_and_all_others_go_on(
    clock: SimulatedClock,
) -> None:
    counted = Counted()

    def suspicious(event: mt.Event) -> object:
        return counted.model(event)

    def innocent(event: mt.Event) -> object:
        return counted.model(event)

    with (
        mt.connect("memory://", clock=clock) as bus,
        mt.connect("memory://", clock=clock) as elsewhere,
    ):
        suspects = bus.subscribe("a", suspicious, listen=False, max_concurrency=4, lease_s=60)
        others = bus.subscribe("b", innocent, max_concurrency=4)
        more = elsewhere.subscribe("b", innocent, max_concurrency=2)
        bus.publish_batch("a", [f"suspect {n}" for n in range(12)])
        assert len(abandoned(bus, "suspicious", 12)) == 12
        clock.advance(s=61)
        suspects.start()
        for n in range(12):
            bus.publish_batch("b", [f"innocent {n}.{k}" for k in range(4)])
            elsewhere.publish("b", f"elsewhere {n}")
            time.sleep(0.02)

        wait_until(lambda: is_settled(suspects) and is_settled(others) and is_settled(more))

        assert {
            name: most for name, most in counted.most.items() if str(name).startswith("suspect")
        } == {f"suspect {n}": 1 for n in range(12)}
        assert outcomes(others) == ["succeeded"] * 48
        assert sorted(outcomes(suspects)) == ["abandoned"] * 12 + ["succeeded"] * 12


def test_event_whose_listener_ends_again_and_again_runs_alone_although_its_model_runs_elsewhere(
    clock: SimulatedClock, tmp_path: Path
) -> None:
    running = tmp_path / "running"

    def suspicious(path: str) -> None:
        import pathlib
        import time

        pathlib.Path(path).touch()
        time.sleep(0.5)
        pathlib.Path(path).unlink()

    with mt.connect("memory://", clock=clock) as bus:
        suspect = bus.subscribe("a", suspicious, listen=False, isolation="process", lease_s=600)
        others = bus.subscribe("b", lambda _: running.exists(), name="others", max_concurrency=2)
        bus.publish("a", str(running))
        for _ in range(UNLIKELY):
            assert len(abandoned(bus, "suspicious", 1)) == 1
            clock.advance(s=601)
        suspect.start()
        while not is_settled(suspect):
            bus.publish("b", 1)
            time.sleep(0.01)
        wait_until(lambda: is_settled(others))

        assert outcomes(suspect) == ["abandoned"] * UNLIKELY + ["succeeded"]
        assert set(others.invocations()["output"]) == {"false"}


def test_suspects_of_a_batch_are_no_batch(clock: SimulatedClock) -> None:
    sizes: list[int] = []

    @mt.model("rows", version="1.0.0", batch=True)
    def rows(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        return batch

    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("a", rows, listen=False, batch_size=8, lease_s=60)
        bus.publish_batch("a", [1, 2, 3])
        abandoned(bus, "rows", 3)
        clock.advance(s=61)
        bus.publish_batch("a", [4, 5, 6, 7])
        sub.start()
        wait_until(lambda: is_settled(sub))

    assert sorted(sizes) == [1, 1, 1, 4]


def test_suspect_whose_model_waits_for_another_subscription_holds_nothing_up(
    clock: SimulatedClock, gate: Gate
) -> None:
    def asks(n: int) -> object:
        gate.reached.set()
        return bus.fire("answers", n, progress=False).results()["output"][0]

    def doubles(n: int) -> int:
        return 2 * n

    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("questions", asks, listen=False, lease_s=60)
        bus.publish("questions", 21)
        abandoned(bus, "asks", 1)
        clock.advance(s=61)
        bus.subscribe("answers", doubles)
        sub.start()
        wait_until(lambda: is_settled(sub))

        assert outcomes(sub) == ["abandoned", "succeeded"]
    assert not HERE.busy


def test_stopped_listener_gives_a_suspect_back_that_waits_for_its_turn(
    clock: SimulatedClock, gate: Gate
) -> None:
    def hangs(_: object) -> None:
        gate.wait()

    def suspicious(n: int) -> int:
        return n

    with mt.connect("memory://", clock=clock) as bus:
        bus.subscribe("a", hangs)
        sub = bus.subscribe("b", suspicious, listen=False, lease_s=60)
        bus.publish("b", 1)
        abandoned(bus, "suspicious", 1)
        clock.advance(s=61)
        bus.publish("a", 1)
        assert gate.reached.wait(20)
        sub.start()
        wait_until(lambda: HERE.wanted)

        sub.stop()

        assert (sub.depth().visible, sub.depth().in_flight) == (1, 0)
        gate.open()
