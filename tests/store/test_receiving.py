"""Claims within other commits: for receivers that wait, and of the next lot with the end of one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from shared import Gate, wait_until

import mltrigger as mt
from mltrigger.broker import Outdated, Settlement, SubscriptionSpec
from mltrigger.bus import EventBus
from mltrigger.clock import SystemClock
from mltrigger.store.broker import SqlBroker
from mltrigger.store.opening import embedded
from mltrigger.store.sqlite.disk import Connection, SqliteDisk
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.wake import SocketWakeup


class Statements:
    """A connection that notes the statements of its thread, and may fail before one."""

    def __init__(self, connection: Connection, disk: NotingDisk) -> None:
        self._connection, self._disk = connection, disk

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        self._disk.note(sql)
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        self._disk.note(sql)
        return self._connection.executemany(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class NotingDisk(SqliteDisk):
    """The real disk. Notes each statement; ``before`` may wait or raise."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.before: Callable[[str], object] = lambda sql: None
        self.before_sync: Callable[[], object] = lambda: None

    def note(self, sql: str) -> None:
        self.before(sql)
        self.said.append(" ".join(sql.split()))

    def connect(self, location: str, timeout_s: float) -> Connection:
        return Statements(super().connect(location, timeout_s), self)

    def sync(self, log: int) -> None:
        self.before_sync()
        super().sync(log)

    def count(self, beginning: str) -> int:
        return sum(sql.startswith(beginning) for sql in self.said)


@pytest.fixture
def disk() -> NotingDisk:
    return NotingDisk()


@pytest.fixture
def bus(file: Path, disk: NotingDisk) -> Iterator[EventBus]:
    parts = embedded(SqliteStore(file, disk=disk), SocketWakeup(str(file)))
    with EventBus(parts, SystemClock()) as bus:
        yield bus


@pytest.fixture
def broker(bus: EventBus) -> SqlBroker:
    assert isinstance(bus.broker, SqlBroker)
    return bus.broker


def bound(bus: EventBus, name: str = "reader", **settings: Any) -> SubscriptionSpec:
    """Bind a subscription without a listener."""
    model = mt.model("noop", version="1.0.0")(lambda data: None)
    bus.subscribe("documents", model, name=name, listen=False, **settings)
    spec = bus.registry.subscription(name)
    assert spec is not None
    return spec


class Waiting:
    """Receivers that wait, each in a thread of its own."""

    def __init__(self, broker: SqlBroker) -> None:
        self._broker, self._pool = broker, ThreadPoolExecutor(8)

    def receive(self, spec: SubscriptionSpec, most: int = 10, **given: Any) -> Any:
        """Begin to receive. Return the future answer, once it waits."""
        seats = self._broker._receiving._seats
        asked = self._pool.submit(self._broker.receive, spec, most, 30.0, **given)
        wait_until(lambda: spec.id in seats or asked.done())
        return asked

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
def waiting(broker: SqlBroker) -> Iterator[Waiting]:
    waiting = Waiting(broker)
    yield waiting
    waiting.close()


# -- a publish claims for receivers that wait ------------------------------------------------------


def test_waiting_receiver_gets_an_event_with_the_commit_of_its_publish(
    bus: EventBus, broker: SqlBroker, waiting: Waiting, disk: NotingDisk
) -> None:
    spec = bound(bus)
    asked = waiting.receive(spec)
    disk.said.clear()

    bus.publish("documents", "a")

    (delivery,) = asked.result(30)
    assert (delivery.event.data, delivery.attempt) == ("a", 1)
    assert disk.count("BEGIN IMMEDIATE") == 1
    assert broker.settle([Settlement(delivery, "ack")]) == []


def test_event_is_given_to_a_receiver_before_the_disk_has_it_and_with_its_lease(
    bus: EventBus, waiting: Waiting, disk: NotingDisk
) -> None:
    spec, synced = bound(bus), threading.Event()
    asked = waiting.receive(spec)
    disk.before_sync = lambda: synced.wait(30)

    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(bus.publish, "documents", "a")
        (delivery,) = asked.result(30)
        assert not published.done()
        assert bus.broker.depth(spec).in_flight == 1
        synced.set()
        assert published.result(30).seq == delivery.seq


def test_receiver_of_an_old_generation_gets_nothing(bus: EventBus, waiting: Waiting) -> None:
    spec = bound(bus)
    asked = waiting.receive(spec, generation=bus.registry.generation())
    with bus.registry._store.transaction() as transaction:  # as another process would
        transaction.execute("UPDATE setting SET value = 'newer' WHERE name = 'generation'", {})

    bus.publish("documents", "a")

    with pytest.raises(Outdated):
        asked.result(30)
    assert bus.broker.depth(spec).visible == 1


def test_paused_subscription_gets_nothing_with_a_publish(bus: EventBus, waiting: Waiting) -> None:
    spec = bound(bus)
    bus.broker.pause("reader")
    asked = waiting.receive(spec)

    bus.publish("documents", "a")

    assert asked.result(30) == []
    assert bus.broker.depth(spec).visible == 1


def test_publish_that_is_undone_leases_nothing_and_the_receiver_goes_on(
    bus: EventBus, broker: SqlBroker, waiting: Waiting, disk: NotingDisk
) -> None:
    spec = bound(bus)
    asked = waiting.receive(spec)

    def full(sql: str) -> None:
        if sql == "COMMIT":
            disk.before = lambda sql: None
            raise sqlite3.OperationalError("database or disk is full")

    disk.before = full
    with pytest.raises(mt.StoreError):
        bus.publish("documents", "lost")
    assert broker.depth(spec).open == 0
    bus.publish("documents", "kept")

    (delivery,) = asked.result(30)
    assert delivery.event.data == "kept"
    assert broker.depth(spec).in_flight == 1
    assert broker.settle([Settlement(delivery, "ack")]) == []


def publish_interrupted(bus: EventBus, broker: SqlBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish an event. Interrupt that after its commit, before anybody hears of it."""
    before = broker._receiving.hand_over

    def interrupted(transaction: Any, *given: Any) -> None:
        before(transaction, *given)
        monkeypatch.setattr(type(transaction), "visible", stop)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(broker._receiving, "hand_over", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.publish("documents", "a")
    monkeypatch.undo()


def test_publisher_that_is_interrupted_after_its_commit_leaves_no_lease_without_a_holder(
    bus: EventBus, broker: SqlBroker, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bound(bus)
    asked = waiting.receive(spec)
    publish_interrupted(bus, broker, monkeypatch)
    broker.watched()  # the next look of the process

    (delivery,) = asked.result(30)
    assert delivery.event.data == "a"
    assert broker.settle([Settlement(delivery, "ack")]) == []


def test_lease_that_a_receiver_could_not_ask_for_waits_for_its_next_look(
    bus: EventBus,
    broker: SqlBroker,
    waiting: Waiting,
    disk: NotingDisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = bound(bus)
    asked = waiting.receive(spec)

    def fail(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            raise sqlite3.DatabaseError("not now")

    publish_interrupted(bus, broker, monkeypatch)
    disk.before = fail
    broker.watched()
    with pytest.raises(mt.StoreError, match="not now"):
        asked.result(30)
    disk.before = lambda sql: None

    (delivery,) = broker.receive(spec, 10)
    assert (delivery.event.data, delivery.attempt) == ("a", 1)
    assert broker.settle([Settlement(delivery, "ack")]) == []
    assert broker.receive(spec, 10) == []


def test_filtered_receiver_gets_only_what_passes(bus: EventBus, waiting: Waiting) -> None:
    spec = bound(bus, filter={"type": ["wanted"]})
    asked = waiting.receive(spec)
    bus.publish("documents", "a", type="other")
    assert asked.result(30) == []
    asked = waiting.receive(spec)

    bus.publish("documents", "b", type="wanted")

    (delivery,) = asked.result(30)
    assert delivery.event.data == "b"


def test_two_receivers_of_one_subscription_never_get_the_same_event(
    bus: EventBus, broker: SqlBroker, waiting: Waiting
) -> None:
    spec = bound(bus)
    asked = [waiting.receive(spec, 1) for _ in range(4)]
    found = []
    for n in range(4):
        bus.publish("documents", n)
    for each in asked:
        found += [d.event.data for d in each.result(30)]
        broker.wake(spec)
    assert len(found) == len(set(found))
    assert len(found) + broker.depth(spec).visible == 4


# -- one commit a turn -----------------------------------------------------------------------------


def test_end_of_a_lot_and_the_lease_of_the_next_are_one_commit(
    bus: EventBus, disk: NotingDisk
) -> None:
    model = mt.model("noop", version="1.0.0", batch=True)(lambda batch: [None] * len(batch))
    sub = bus.subscribe("documents", model, name="noop", batch_size=5, listen=False)
    bus.publish_batch("documents", range(100))
    disk.said.clear()

    sub.start()
    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 100)
    lots = disk.count("INSERT INTO lot ")
    claims = disk.count("UPDATE cursor SET next_seq")
    commits = disk.count("COMMIT")

    assert (lots, claims) == (20, 20)
    assert commits < 30, "one a lot, and a few to begin"
    assert sub.depth().open == 0


def test_claim_that_fails_does_not_undo_the_outcome(bus: EventBus, disk: NotingDisk) -> None:
    called: list[int] = []
    sub = bus.subscribe(
        "documents",
        mt.model("note", version="1.0.0")(called.append),
        listen=False,
        batch_size=1,
    )
    bus.publish_batch("documents", range(3))

    def breaks(sql: str) -> None:
        if "UPDATE cursor SET next_seq" in sql and disk.count("INSERT INTO lot "):
            disk.before = lambda sql: None
            raise sqlite3.OperationalError("the claim fails")

    disk.said.clear()
    disk.before = breaks
    sub.start()
    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 3)

    assert called == [0, 1, 2]
    assert list(sub.invocations()["attempt"]) == [1, 1, 1]


def test_next_lot_begins_while_the_disk_takes_the_last_one(bus: EventBus, disk: NotingDisk) -> None:
    called: list[int] = []
    held, synced = threading.Event(), threading.Event()

    def holds() -> None:
        held.set()
        synced.wait(30)

    def note(data: int) -> None:
        called.append(data)
        if data == 0:
            disk.before_sync = holds

    sub = bus.subscribe("documents", mt.model("note", version="1.0.0")(note), listen=False)
    bus.publish_batch("documents", range(2))
    sub.start()

    assert held.wait(30)
    wait_until(lambda: called == [0, 1])
    synced.set()
    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 2)


def test_stop_leaves_nothing_leased(bus: EventBus) -> None:
    model = mt.model("noop", version="1.0.0")(lambda data: None)
    for turn in range(20):
        sub = bus.subscribe("documents", model, name=f"noop{turn}", listen=False)
        bus.publish_batch("documents", range(50))
        sub.start()
        wait_until(lambda sub=sub, turn=turn: bus.tally(sub._spec).get("succeeded", 0) > turn)
        sub.stop()
        assert sub.depth().in_flight == 0
        assert sub.depth().open + bus.tally(sub._spec)["succeeded"] == 50


def test_events_that_are_leased_while_the_listener_stops_are_given_back(
    bus: EventBus, disk: NotingDisk
) -> None:
    called: list[int] = []
    sub = bus.subscribe(
        "documents", mt.model("note", version="1.0.0")(called.append), name="note", listen=False
    )
    bus.publish_batch("documents", range(3))

    def stops(sql: str) -> None:
        if "UPDATE cursor SET next_seq" in sql and disk.count("INSERT INTO lot "):
            disk.before = lambda sql: None
            bus._engine._listeners["note"].begin_stop()

    disk.said.clear()
    disk.before = stops
    sub.start()
    wait_until(lambda: called)
    wait_until(lambda: disk.before is not stops)
    sub.stop()

    assert called == [0]
    assert (sub.depth().visible, sub.depth().in_flight) == (2, 0)
    assert list(sub.invocations()["outcome"]) == ["succeeded"]


def test_listener_says_that_outcomes_wait_for_the_store(bus: EventBus, disk: NotingDisk) -> None:
    sub = bus.subscribe("documents", mt.model("noop", version="1.0.0")(lambda data: None))

    def full(sql: str) -> None:
        if "INSERT INTO lot " in sql:
            raise sqlite3.OperationalError("database or disk is full")

    disk.before = full
    bus.publish("documents", "a")
    wait_until(lambda: sub.state.startswith("waiting for the store"))
    assert "disk is full" in sub.state
    disk.before = lambda sql: None

    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 1)
    wait_until(lambda: sub.state == "listening")


def test_slot_that_falls_free_after_a_timeout_receives_again(bus: EventBus, gate: Gate) -> None:
    def hangs(data: int) -> int:
        if data == 0:
            gate.wait()
        return data

    sub = bus.subscribe(
        "documents", mt.model("hangs", version="1.0.0")(hangs), timeout_s=2.0, max_attempts=1
    )
    bus.publish_batch("documents", [0])
    wait_until(lambda: bus.tally(sub._spec).get("dead") == 1)

    bus.publish_batch("documents", [1, 2])

    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 2)


def test_event_begins_while_the_disk_takes_the_outcome_of_the_one_before(
    bus: EventBus, disk: NotingDisk
) -> None:
    called: list[int] = []
    held, synced = threading.Event(), threading.Event()

    def holds() -> None:
        held.set()
        synced.wait(120)

    def note(data: int) -> None:
        called.append(data)
        disk.before_sync = holds

    bus.subscribe("documents", mt.model("note", version="1.0.0")(note))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bus.publish, "documents", 0)
        assert held.wait(30)
        second = pool.submit(bus.publish, "documents", 1)
        try:
            wait_until(lambda: called == [0, 1], 30)
        finally:
            synced.set()
        assert {first.result(30).seq, second.result(30).seq} == {1, 2}


def test_events_are_not_lost_when_no_thread_can_be_started_for_them(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    model = mt.model("note", version="1.0.0")(called.append)
    sub = bus.subscribe("documents", model, listen=False)
    bus.publish_batch("documents", range(50))
    workers = bus._engine._workers
    start = workers.submit
    left = iter([start])

    def submit(call: Callable[[], None]) -> None:
        if (begin := next(left, None)) is None:
            raise RuntimeError("can't start new thread")
        begin(call)

    monkeypatch.setattr(workers, "submit", submit)
    sub.start()

    wait_until(lambda: bus.tally(sub._spec).get("succeeded") == 50)
    assert called == list(range(50))
    assert set(sub.invocations()["attempt"]) == {1}
    monkeypatch.undo()
