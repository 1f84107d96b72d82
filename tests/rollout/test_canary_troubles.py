"""Canaries and promotes in trouble: outages, killed workers, floating selectors, new cells."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until
from stores import SQL, url_of

import mltrigger as mt
from mltrigger.rollout.guard import Alarm
from mltrigger.store import ledger
from mltrigger.testing import SimulatedClock


def answers(version: str) -> mt.Model:
    """A version that answers with its number."""

    def ocr(document: object) -> str:
        return version

    return mt.model(ocr, name="ocr", version=version)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture(params=SQL)
def bus(request: pytest.FixtureRequest, clock: SimulatedClock) -> Iterator[mt.EventBus]:
    with mt.connect(url_of(request), clock=clock) as bus:
        yield bus


def outputs(bus: mt.EventBus, n: int) -> list[object]:
    return list(bus.fire("documents", range(n), progress=False).results()["output"])


def rule(bus: Any, sub: mt.Subscription, name: str = "errors") -> Alarm:
    _, alarms = bus.rollout.alarms(bus.spec(sub.name))
    return next(alarm for alarm in alarms if alarm.rule == name)


# -- ends of a canary ------------------------------------------------------------------------------


def test_unsubscribing_ends_the_canary(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    canary = sub.canary(answers("2.0.0"), steps=[0.9])
    sub.unsubscribe()

    again = bus.subscribe("documents", answers("1.0.0"))

    assert outputs(bus, 20) == ["1.0.0"] * 20
    last = again.history()[-1]
    assert (last.kind, last.canary, last.why) == ("rollback", None, "unsubscribed")
    assert "unsubscribed" in canary.state


def test_canary_that_promotes_itself_moves_the_alias_of_the_subscription(bus: mt.EventBus) -> None:
    for version in ("1.0.0", "2.0.0"):
        bus.register(answers(version))
    bus.alias("ocr", "champion", "1.0.0")
    sub = bus.subscribe("documents", "ocr@champion")
    sub.canary("2.0.0", steps=[0.9], min_events=1, min_s=0, then="promote")

    def promoted() -> bool:
        outputs(bus, 20)
        return sub.history()[-1].kind == "promote"

    wait_until(promoted, timeout_s=30)
    assert sub.selector == "ocr@champion"
    assert outputs(bus, 2) == ["2.0.0"] * 2
    assert sub.rollback().version == "ocr:1.0.0"
    assert outputs(bus, 2) == ["1.0.0"] * 2


# -- selectors that float --------------------------------------------------------------------------


def test_canary_of_a_new_model_leaves_the_live_version_of_latest_alone(bus: mt.EventBus) -> None:
    bus.register(answers("1.0.0"))
    sub = bus.subscribe("documents", "ocr:latest")

    sub.canary(answers("2.0.0"), steps=[0.3])

    found = outputs(bus, 100)
    assert 0 < found.count("2.0.0") < 70
    assert sub.history()[-1].version == "ocr:1.0.0"
    sub.rollback()
    assert outputs(bus, 20) == ["1.0.0"] * 20


def test_promote_of_a_new_model_on_latest_is_in_the_history(bus: mt.EventBus) -> None:
    bus.register(answers("1.0.0"))
    sub = bus.subscribe("documents", "ocr:latest")

    sub.promote(answers("2.0.0"))

    assert [(b.kind, b.version) for b in sub.history()] == [
        ("bind", "ocr:1.0.0"),
        ("promote", "ocr:2.0.0"),
    ]
    assert outputs(bus, 2) == ["2.0.0"] * 2
    sub.rollback()
    assert outputs(bus, 2) == ["1.0.0"] * 2


# -- the guard and outages -------------------------------------------------------------------------


def test_throttled_canary_neither_counts_as_bad_nor_holds_the_live_version(
    bus: mt.EventBus,
) -> None:
    def busy(document: object) -> str:
        raise mt.ModelFailure("busy", reason="throttled", throttled=True, delay_s=50)

    sub = bus.subscribe("documents", answers("1.0.0"))
    outputs(bus, 100)
    sub.canary(mt.model(busy, name="ocr", version="2.0.0"), steps=[0.5])

    bus.publish_batch("documents", range(200))
    wait_until(lambda: len(sub.invocations()) == 300 and not sub.depth().in_flight)

    live = sub.invocations()["role"] == "live"
    assert 150 < live.sum() < 250
    assert "0 of 0 canary" in rule(bus, sub).text
    assert sub.history()[-1].canary == "ocr:2.0.0"


def killed(bus: Any, clock: SimulatedClock, sub: mt.Subscription, most: int) -> None:
    """Let a process lease events and die."""
    spec = bus.spec(sub.name)
    assert bus.broker.receive(spec, most)
    clock.advance(s=spec.policy.lease + 2)
    bus.broker.sweep(spec, bus.log.now_us())


def test_killed_worker_is_not_held_against_the_canary_whose_events_it_had(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"), listen=False)
    bus.register(answers("2.0.0"))
    sub.canary("2.0.0", steps=[0.5])
    bus.publish_batch("documents", range(200))
    killed(bus, clock, sub, 200)

    assert "0 of 0 canary" in rule(bus, sub).text
    sub.start()
    wait_until(lambda: len(sub.results()) == 200)

    assert sub.history()[-1].canary == "ocr:2.0.0"
    by_canary = int((sub.results()["output"] == "2.0.0").sum())
    assert f"0 of {by_canary} canary" in rule(bus, sub).text


def test_event_that_kills_its_worker_alone_counts_against_the_canary_once(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"), listen=False)
    bus.register(answers("2.0.0"))
    sub.canary("2.0.0", steps=[1.0])
    bus.publish("documents", 1)
    for _ in range(3):
        killed(bus, clock, sub, 1)

    assert "1 of 1 canary" in rule(bus, sub).text


def test_batch_is_one_call_for_the_guard(bus: mt.EventBus) -> None:
    calls: list[int] = []

    def batch(said: str) -> mt.Model:
        def ocr(documents: list[object]) -> list[str]:
            calls.append(len(documents))
            return [said] * len(documents)

        return mt.model(ocr, name="ocr", version=said, batch=True)

    sub = bus.subscribe("documents", batch("1.0.0"), batch_size=50)
    sub.canary(batch("2.0.0"), steps=[1.0])
    bus.fire("documents", range(100), progress=False)

    assert "0 of 100 canary" in rule(bus, sub).text
    assert f"0 of {len(calls)} canary" in rule(bus, sub, "p95").text


# -- looks -----------------------------------------------------------------------------------------


def test_limit_of_slow_calls_is_measured_once(bus: Any, clock: SimulatedClock) -> None:
    def slow(took_s: float) -> float:
        clock.advance(s=took_s)
        return took_s

    sub = bus.subscribe("documents", mt.model(slow, name="ocr", version="1.0.0"))
    bus.fire("documents", [0.01] * 120, progress=False)
    sub.canary(answers("2.0.0"), steps=[0.1], min_events=10_000)
    spec = bus.spec(sub.name)
    seen = bus.rollout.ledger.rows(spec.id)  # a listener does not read them again
    limits = []

    for took_s in (0.01, 0.02, 0.03):
        bus.rollout.watch.judge(spec.id, seen)
        limits.append(bus.rollout.ledger.rows(spec.id)[-1].steps["slow_us"])
        bus.fire("documents", [took_s] * 150, progress=False)

    assert limits == [13_000] * 3


def test_slow_call_is_slower_by_a_millisecond_at_least(bus: Any) -> None:
    """Faster models differ by the noise of the machine."""
    sub = bus.subscribe("documents", answers("1.0.0"))
    outputs(bus, 120)
    sub.canary(answers("2.0.0"), steps=[0.1])
    spec = bus.spec(sub.name)

    bus.rollout.watch.judge(spec.id, bus.rollout.ledger.rows(spec.id))

    assert bus.rollout.ledger.rows(spec.id)[-1].steps["slow_us"] >= 1_000


def test_many_looks_count_the_same_as_one(bus: Any, clock: SimulatedClock) -> None:
    tries: dict[object, int] = {}

    def flaky(event: mt.Event) -> str:
        tries[event.id] = tries.get(event.id, 0) + 1
        if event.data % 3 == 0 and tries[event.id] == 1:
            raise ValueError("first time")
        return "2.0.0"

    sub = bus.subscribe("documents", answers("1.0.0"))
    model = mt.model(flaky, name="ocr", version="2.0.0")
    sub.canary(model, steps=[0.4], guard=mt.Guard(errors=1000, p95=None))
    texts = []
    for _ in range(5):
        bus.publish_batch("documents", range(30))
        wait_until(lambda: len(sub.invocations()) >= 30 * (len(texts) + 1))
        texts.append(rule(bus, sub).text)
        clock.advance(s=5)
    wait_until(lambda: len(sub.results()) == 150 or clock.advance(s=1))  # retries fall due

    often = rule(bus, sub).text
    bus.rollout.watch.forget()

    assert rule(bus, sub).text == often
    assert len(set(texts)) > 1


def test_promote_reads_only_the_first_event_of_a_long_backlog(tmp_path: Path) -> None:
    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        sub = bus.subscribe("documents", answers("1.0.0"), listen=False)
        bus.publish_batch("documents", range(5000))
        of = {"s": bus.spec(sub.name).id}
    steps = []
    file = sqlite3.connect(f"{tmp_path}/bus.db")
    file.set_progress_handler(lambda: steps.append(1), 100)

    found = file.execute(ledger._LOWEST_OPEN, of).fetchall()

    file.close()
    assert found == [(1,)]
    assert len(steps) < 50
