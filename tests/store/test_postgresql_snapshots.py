"""Looks at one moment in PostgreSQL: nothing that is done beside them changes what they see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import mltrigger as mt
from mltrigger.store.postgresql import partitions
from mltrigger.store.postgresql.store import PostgresStore
from mltrigger.store.retention import Retention, prune

pytest.importorskip("psycopg")


@pytest.fixture
def bus(team: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[mt.EventBus]:
    """A bus whose partitions have eight events each."""
    monkeypatch.setattr(partitions, "SIZE", 8)
    monkeypatch.setattr("mltrigger.store.postgresql.transaction.SIZE", 8)
    with mt.connect(team) as bus:
        bus.topic("numbers")
        yield bus


@pytest.fixture
def store(bus: mt.EventBus, team: str) -> Iterator[PostgresStore]:
    """The tables of the bus, as another process has them."""
    store = PostgresStore(*team.split("?schema="))
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
        prune(store, mt.testing.SimulatedClock(), Retention(max_events=keep))
        ((seen,),) = reader.query("SELECT count(*) FROM event", {})
    assert seen == 20
