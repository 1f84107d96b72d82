"""Publishing to PostgreSQL takes events for new ones, and finds out with the commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import mltrigger as mt


@pytest.fixture
def bus(team: str) -> Iterator[mt.EventBus]:
    with mt.connect(team) as bus:
        bus.topic("pages")
        yield bus


def event(number: int) -> mt.Event:
    return mt.Event({"n": number}, id=f"page {number}", subject="a\0b")


def ids(bus: mt.EventBus) -> list[str]:
    return list(bus.events("pages")["event_id"])


@pytest.mark.parametrize("size", [2, 40])
def test_batch_with_a_known_event_adds_only_the_new_ones(bus: mt.EventBus, size: int) -> None:
    bus.publish("pages", event(1))
    receipts = bus.publish_batch("pages", [event(n) for n in range(size)])
    assert [r.duplicate for r in receipts] == [n == 1 for n in range(size)]
    assert sorted(ids(bus)) == sorted(f"page {n}" for n in range(size))


@pytest.mark.parametrize("size", [2, 40])
def test_event_that_stands_twice_in_a_batch_is_added_once(bus: mt.EventBus, size: int) -> None:
    receipts = bus.publish_batch("pages", [event(n // 2) for n in range(size)])
    assert [r.duplicate for r in receipts] == [bool(n % 2) for n in range(size)]
    assert ids(bus) == [f"page {n}" for n in range(size // 2)]


def test_known_events_do_not_harm_writes_of_other_threads(bus: mt.EventBus) -> None:
    bus.publish("pages", event(0))
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda n: bus.publish("pages", event(n % 40)), range(80)))
    assert sum(not r.duplicate for r in receipts) == 39
    assert sorted(ids(bus)) == sorted(f"page {n}" for n in range(40))
    assert len({r.seq for r in receipts}) == 40


def test_publishes_after_a_known_event_are_numbered_in_their_order(bus: mt.EventBus) -> None:
    bus.publish("pages", event(0))
    numbers = [bus.publish("pages", event(n)).seq for n in range(80)]
    assert numbers == sorted(set(numbers))


def journeys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the statements that this thread sends to the server."""
    sent: list[str] = []
    here, execute = threading.get_ident(), psycopg.Cursor.execute

    def noted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == here:
            sent.append(str(query))
        return execute(self, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return sent


def test_publish_takes_three_journeys(bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin, commit and flush."""
    bus.publish("pages", event(0))
    sent = journeys(monkeypatch)
    bus.publish("pages", event(1))
    assert len(sent) == 3
    assert "INSERT INTO event" in sent[1] and "COMMIT" in sent[1]


def test_first_publish_after_a_subscription_sees_it(bus: mt.EventBus) -> None:
    """The answer that came with the begin is that of this transaction."""
    bus.publish("pages", event(0))
    bus.subscribe("pages", mt.model("reader")(print), listen=False)
    assert bus.publish("pages", event(1)).subscriptions == ("reader",)
