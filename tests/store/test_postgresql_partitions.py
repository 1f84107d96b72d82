"""Small partitions in PostgreSQL: prunes beside looks at one moment, and ends of partitions."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_of_postgres import raw
from shared import wait_until

import mltrigger as mt
from mltrigger.store.postgresql import partitions
from mltrigger.store.postgresql.store import PostgresStore
from mltrigger.store.retention import Retention, prune, surplus
from mltrigger.testing import SimulatedClock

pytest.importorskip("psycopg")


@pytest.fixture
def bus(unmade: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[mt.EventBus]:
    """A bus whose partitions have eight events each."""
    monkeypatch.setattr(partitions, "SIZE", 8)
    monkeypatch.setattr("mltrigger.store.postgresql.transaction.SIZE", 8)
    with mt.connect(unmade) as bus:
        bus.topic("numbers")
        yield bus


@pytest.fixture
def store(bus: mt.EventBus, unmade: str) -> Iterator[PostgresStore]:
    """The tables of the bus, as another process has them."""
    store = PostgresStore(*unmade.split("?schema="))
    yield store
    store.close()


@pytest.mark.parametrize("keep", [1, 4], ids=["a dropped partition", "one that is written again"])
def test_look_that_began_before_a_prune_sees_all_events(
    keep: int, bus: mt.EventBus, store: PostgresStore
) -> None:
    for n in range(20):
        bus.publish("numbers", n)
    with bus._store.snapshot() as reader:
        reader.query("SELECT count(*) FROM subscription", {})
        prune(store, SimulatedClock(), Retention(max_events=keep))
        ((seen,),) = reader.query("SELECT count(*) FROM event", {})
    assert seen == 20


def test_events_that_commit_beside_a_prune_are_young(bus: mt.EventBus, unmade: str) -> None:
    """The sequence has their numbers before others see them."""
    for n in range(3):
        bus.publish("numbers", n)
    with raw(unmade) as session:
        session.execute("SELECT setval('event_seq', 1000)")

    later_us = time.time_ns() // 1_000 + 10**9
    newest = int(bus._store.read("SELECT seq FROM event ORDER BY seq DESC LIMIT 1")[0][0])
    assert surplus(bus._store, Retention(max_age_s=1), later_us) == newest - 1


def test_prune_replaces_a_session_that_was_cut(bus: mt.EventBus, unmade: str) -> None:
    for n in range(20):
        bus.publish("numbers", n)
    bus.retain(max_events=1)
    with raw(unmade) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'mltrigger'"
        )
    assert bus._store.spans("event", 19)
    assert bus.prune().events == 19


@pytest.mark.parametrize("seed", range(2))
def test_small_partitions_keep_what_one_file_keeps(
    seed: int, unmade: str, file: Path, bus: mt.EventBus
) -> None:
    """Batches over the ends of partitions with repeats of new and old ids, and prunes between."""
    del bus  # it has made the partitions small
    with mt.connect(unmade) as one, mt.connect(f"sqlite:///{file}") as two:
        told = [story(each, random.Random(seed)) for each in (one, two)]
    assert told[0] == told[1]


def story(bus: mt.EventBus, chance: random.Random) -> list[object]:
    def judge(n: int) -> int:
        if n % 7 == 0:
            raise mt.Reject("seven")
        return n

    told: list[object] = []
    for name, more in (("fast", {}), ("slow", {}), ("odd", {"filter": {"n": [1]}})):
        model = mt.model(judge, name=name, version="1.0.0")
        bus.subscribe("numbers", model, name=name, **more)
    fast, slow = bus.subscription("fast"), bus.subscription("slow")
    slow.pause()
    last = 0
    for step in range(9):
        ids = [chance.randint(max(1, last - 30), last + 12) for _ in range(chance.randint(1, 25))]
        last = max(last, *ids)
        events = [mt.Event(n, id=f"e{n}", source="/s") for n in ids]
        if chance.random() < 0.5:
            bus.publish_batch("numbers", events)
        else:
            for event in events:
                bus.publish("numbers", event)
        if step % 4 == 3:
            slow.resume()
            wait_until(lambda: not slow.depth().open)
            slow.pause()
        wait_until(lambda: not fast.depth().open)
        if step % 3 == 2:
            bus.retain(max_events=chance.randint(1, 40))
            pruned = bus.prune()
            told.append(tuple(pruned))
        audit = bus.audit()
        told.append(audit.astype(str).values.tolist())
        told.append(sorted(bus.events("numbers", limit=1000)["event_id"]))
        told.append(len(fast.dead_letters()))
        told.append(sorted(fast.invocations()["event_id"]))
        assert audit["balanced"].all()
    return told
