"""Delays and cancelling, as a user calls them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shared import Gate, in_memory, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock


def answer(data: Any) -> Any:
    return data


def now(clock: SimulatedClock) -> datetime:
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC)


def test_delays_hold_for_one_for_many_and_for_fire(bus: mt.EventBus, clock: SimulatedClock) -> None:
    sub = bus.subscribe("documents", answer, name="ocr")
    bus.publish("documents", "third", delay_s=3 * 86_400)
    bus.publish_batch("documents", ["second"], at=now(clock) + timedelta(days=2))
    with pytest.warns(UserWarning, match="1 of 1"):
        run = bus.fire("documents", ["first"], delay_s=86_400.5, progress=False, timeout_s=0.1)
    bus.publish("documents", "now", delay_s=0)
    assert bus.fire("documents", ["also now"], progress=False).open == 0
    assert sub.depth().delayed == 3
    for n in range(3):
        clock.advance(s=86_401)
        wait_until(lambda n=n: len(sub.results()) == 3 + n)

    assert list(sub.results()["output"]) == ["now", "also now", "first", "second", "third"]
    assert run.results()["output"].tolist() == ["first"]
    assert (sub.invocations()["queue_ms"] < 5_000).all()


def test_age_counts_from_the_time_that_was_asked_for(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe("documents", answer, name="ocr", max_age_s=60)
    bus.publish("documents", "late", delay_s=100)
    settle(bus, clock, sub)

    assert outcomes(sub) == ["succeeded"]


@in_memory
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"delay_s": -1}, "from 0 s to 100 years"),
        ({"delay_s": float("nan")}, "from 0 s to 100 years"),
        ({"delay_s": "1h"}, "from 0 s to 100 years"),
        ({"at": datetime(2027, 1, 1)}, "with a time zone"),
        ({"at": "tomorrow"}, "with a time zone"),
        ({"at": datetime(2027, 1, 1, tzinfo=UTC), "delay_s": 1}, "exclude each other"),
    ],
)
def test_delay_that_makes_no_sense_is_refused(
    bus: mt.EventBus, given: dict[str, Any], message: str
) -> None:
    bus.topic("documents")
    with pytest.raises(mt.InvalidEvent, match=message):
        bus.publish("documents", 1, **given)
    with pytest.raises(mt.InvalidEvent, match=message):
        bus.publish_batch("documents", [1], **given)
    assert not len(bus.events())


@in_memory
@pytest.mark.parametrize("text", ["tomorrow", "", "9999-99-99", "2026-01-01"])
def test_extension_that_is_no_time_delays_nothing(
    bus: mt.EventBus, clock: SimulatedClock, text: str
) -> None:
    sub = bus.subscribe("documents", answer, name="ocr")
    bus.publish("documents", mt.Event(1, extensions={"notbefore": text}))
    assert bus.wait(30, progress=False)

    assert outcomes(sub) == ["succeeded"]


def test_cancel_ends_what_has_not_begun_and_names_the_others(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    held = bus.subscribe("documents", lambda _: gate.wait(), name="held")
    other = bus.subscribe("documents", answer, name="other", listen=False)
    receipt = bus.publish("documents", 1)
    assert gate.reached.wait(20)

    assert bus.cancel(receipt) == ["held"]
    gate.open()
    other.start()
    assert bus.wait(30, progress=False)

    assert outcomes(held) == ["succeeded"]
    assert list(other.skipped()["reason"]) == ["cancelled"]
    assert bus.cancel(receipt.event_id) == ["held"]
    assert bus.audit()["balanced"].all()


def test_cancelled_delay_is_never_delivered(bus: mt.EventBus, clock: SimulatedClock) -> None:
    sub = bus.subscribe("documents", answer, name="ocr")
    event = mt.Event("x")
    bus.publish("documents", event, delay_s=60)
    assert bus.cancel(event) == []
    clock.advance(s=61)
    assert bus.wait(30, progress=False)

    assert outcomes(sub) == ["skipped"]
    with pytest.raises(mt.NotFound, match="no event 'nothing'"):
        bus.cancel("nothing")
