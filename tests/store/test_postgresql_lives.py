"""Crashes of a PostgreSQL server between a visible commit and a durable one: no number is given twice,
and no process goes on with things that are gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases import Postgres
from faults_of_postgres import asked
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.broker import Settlement
from mltrigger.store.postgresql import store as module


@pytest.fixture(scope="module")
def durable() -> Iterator[Postgres]:
    """A server that keeps commits from its disk until somebody flushes, and that tests may kill."""
    server = Postgres("-c", "wal_writer_delay=10s")
    yield server
    server.stop()


@pytest.fixture
def url(durable: Postgres, request: pytest.FixtureRequest) -> str:
    return f"{durable.dsn('postgres')}?schema=t{abs(hash(request.node.name)):x}"


def twice(n: int) -> int:
    return 2 * n


def kill(server: Postgres) -> None:
    server.end()
    server.start()


def opened(url: str) -> module.PostgresStore:
    return module.PostgresStore(url.partition("?")[0], url.partition("schema=")[2])


NUMBERS = """
SELECT (SELECT last_value FROM event_seq), (SELECT coalesce(last_value, 0) FROM lot_seq),
  (SELECT max(next_lease) FROM cursor), (SELECT value::bigint FROM setting WHERE name = 'generation')
"""


def test_no_number_is_given_twice_after_a_crash_and_a_lost_lease_settles_nothing(
    durable: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims, and an event of a topic and a source that nobody had before, are visible. The
    server is killed before they are on its disk.
    """
    model = mt.model(twice, name="twice", version="1.0.0")
    with mt.connect(url) as bus, mt.connect(url) as other:
        bus.subscribe("numbers", model, listen=False)
        bus.publish_batch("numbers", [1, 2, 3])
        bus._store.make_durable()
        on_disk = asked(url, NUMBERS)[0]

        spec = bus.registry.subscription("twice")
        lost = other.broker.receive(spec, 2)
        monkeypatch.setattr(
            bus._store, "_await", lambda *_, **__: None
        )  # nobody waits for the disk
        bus.topic("another")
        ghost = bus.publish("numbers", mt.Event(4, source="/ghost", id="ghost"))
        bus.publish("another", 5)
        visible = asked(url, NUMBERS)[0]
        assert all(a <= b for a, b in zip(on_disk, visible, strict=True))
        assert (visible[0], visible[2]) > (on_disk[0], on_disk[2])
        kill(durable)
        monkeypatch.undo()

        assert asked(url, "SELECT id FROM event WHERE id = event_key('ghost')") == []
        assert not [t for t in bus.topics()["topic"] if t == "another"], "the disk had it already"
        # a source that takes the number of the lost one
        other.publish("numbers", mt.Event(6, source="/other", id="other"))
        again = bus.publish("numbers", mt.Event(4, source="/ghost", id="ghost"))
        now = asked(url, NUMBERS)[0]
        assert all(a > b for a, b in zip(now, visible, strict=True)), (now, visible)
        with pytest.raises(mt.NotFound):
            bus.publish("another", 5)

        acks = [Settlement(delivery, "ack") for delivery in lost]
        assert len(acks) == 2 and other.broker.settle(acks) == list(lost)
        sub = bus.subscribe("numbers", model)
        wait_until(lambda: is_settled(sub))
        found = sub.invocations()
        balance = bus.audit().iloc[0]
        sources = sorted(found["source"].astype(str).unique())
    assert len(found) == 5 and set(found["outcome"]) == {"succeeded"}
    assert "/ghost" in sources and "/other" in sources
    assert balance["balanced"]
    assert ghost.event_id == again.event_id


def test_nothing_leaves_the_process_that_a_crash_may_have_undone(
    durable: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = opened(url), opened(url)
    try:
        before = reader.version()
        monkeypatch.setattr(writer, "_await", lambda *_, **__: None)
        with writer.transaction() as transaction:
            sql = "INSERT INTO topic (name, created_us) VALUES ('ghost', 1)"
            transaction.execute(sql, {})
        assert reader.read("SELECT name FROM topic") == [("ghost",)]
        visible = reader.version()
        kill(durable)

        with pytest.raises(mt.StoreError, match="read them again"):
            reader.make_durable()
        assert reader.read("SELECT name FROM topic") == []
        reader.make_durable()
        with writer.transaction():
            pass
        reader.make_durable()
        assert len({before, visible, reader.version()}) == 3
    finally:
        reader.close()
        writer.close()
