"""The doctor's findings about keys: one that has most, events without one, and idle calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from stores import SQL, url_of

import mltrigger as mt
from mltrigger.reports import key_checks
from mltrigger.testing import SimulatedClock


@pytest.fixture(params=SQL)
def bus(request: pytest.FixtureRequest, clock: SimulatedClock) -> Iterator[mt.EventBus]:
    with mt.connect(url_of(request), clock=clock) as opened:
        yield opened


def subscribed(bus: mt.EventBus, **policy: Any) -> mt.Subscription:
    model = mt.model(lambda order: order, name="price", version="1.0.0")
    return bus.subscribe("orders", model, key="tenant", listen=False, **policy)


def publish(bus: mt.EventBus, tenant: Any, n: int) -> None:
    bus.publish_batch("orders", [{"tenant": tenant}] * n)


def found(sub: mt.Subscription) -> dict[str, tuple[str, str, str]]:
    """Return check -> severity, finding and advice, of the findings about keys."""
    frame = sub.doctor()
    frame = frame[frame["check"].isin(["key", "max_concurrency_per_key"])]
    rows = frame[["check", "severity", "finding", "advice"]].itertuples(index=False)
    return {check: tuple(rest) for check, *rest in rows}


def test_a_key_that_has_most_of_what_waits_is_named(bus: mt.EventBus) -> None:
    sub = subscribed(bus, max_concurrency_per_key=2)
    publish(bus, "north", 90)
    publish(bus, "south", 10)

    severity, finding, advice = found(sub)["key"]

    assert severity == "info"
    assert finding == "the tenant north has 90 of 100 events that wait"
    assert "raise max_concurrency_per_key, now 2" in advice


@pytest.mark.parametrize(("north", "south"), [(50, 50), (80, 10), (100, 0)])
def test_keys_with_few_events_or_like_shares_are_no_finding(
    bus: mt.EventBus, north: int, south: int
) -> None:
    sub = subscribed(bus)
    publish(bus, "north", north)
    publish(bus, "south", south)

    assert found(sub) == {}


def test_open_events_without_a_key_are_counted(bus: mt.EventBus) -> None:
    sub = subscribed(bus)
    publish(bus, "north", 1)
    publish(bus, None, 3)
    bus.publish("orders", {"tenant": ["a list"]}, delay_s=60)

    severity, finding, advice = found(sub)["key"]

    assert severity == "warning"
    assert finding == "4 open events have no 'tenant': such events share one turn and one limit"
    assert advice.startswith("publish them with 'tenant'")


def test_calls_that_a_limit_leaves_idle_are_counted(bus: mt.EventBus) -> None:
    sub = subscribed(bus, max_concurrency_per_key=1, max_concurrency=8)
    publish(bus, "north", 5)
    publish(bus, "south", 4)
    taken = bus.broker.receive(bus.spec("price"), 8)

    severity, finding, advice = found(sub)["max_concurrency_per_key"]

    assert len(taken) == 2
    assert severity == "warning"
    assert finding == (
        "2 keys with max_concurrency_per_key=1 let 2 events run: 6 of max_concurrency=8 stay idle,"
        " and 7 wait"
    )
    assert advice.startswith("max_concurrency_per_key=4 would use all")


@pytest.mark.parametrize(
    ("limit", "calls", "tenants", "each"),
    [(1, 8, 8, 3), (4, 8, 2, 9), (2, 8, 3, 2), (None, 8, 1, 9), (1, None, 1, 9)],
    ids=["keys enough", "limit enough", "nothing is held up", "no limit", "calls by default"],
)
def test_a_limit_that_holds_up_no_call_is_no_finding(
    bus: mt.EventBus, limit: int | None, calls: int | None, tenants: int, each: int
) -> None:
    sub = subscribed(bus, max_concurrency_per_key=limit, max_concurrency=calls)
    for n in range(tenants):
        publish(bus, f"tenant {n}", each)

    assert "max_concurrency_per_key" not in found(sub)


def test_a_subscription_without_a_key_and_one_without_events_have_no_findings(
    bus: mt.EventBus,
) -> None:
    model = mt.model(lambda order: order, name="plain", version="1.0.0")
    plain = bus.subscribe("orders", model, listen=False)
    keyed = subscribed(bus, max_concurrency_per_key=1, max_concurrency=4)

    assert found(keyed) == {}
    bus.publish_batch("orders", [{"n": n} for n in range(200)])
    assert found(plain) == {}


def test_only_the_first_events_that_are_delayed_are_read(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_checks, "LOOKED_AT", 5)
    sub = subscribed(bus)
    publish(bus, None, 20)
    for _ in range(8):
        bus.publish("orders", {"n": 1}, delay_s=60)

    assert found(sub)["key"][1].startswith("25 open events")
    assert sub.depth(by="key")["delayed"].sum() == 8
