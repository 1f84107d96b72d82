"""The tables of a bus on PostgreSQL under an analyst's open transaction, and after rollbacks."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults_of_postgres import asked, raw, sessions
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store.postgresql import partitions

CHANGES = 3_000
FEW = 8


@contextlib.contextmanager
def analyst(url: str) -> Iterator[None]:
    """Hold a snapshot of the whole database, as a notebook does that was left open."""
    with raw(url) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT count(*) FROM event")
        yield
        session.execute("ROLLBACK")


def changed(url: str, sql: str) -> None:
    with raw(url) as session:
        session.execute(sql)


def blocks(url: str, sql: str) -> int:
    """Return how many blocks a query looks at."""
    ((plan,),) = asked(url, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}")
    found: Any = json.loads(plan) if isinstance(plan, str) else plan
    return int(found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"])


def test_hot_rows_are_found_at_once_although_an_open_snapshot_keeps_all_their_versions(
    team: str,
) -> None:
    with mt.connect(team) as bus:
        sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        bus.publish("numbers", 1)
        wait_until(lambda: is_settled(sub))
        number = bus.registry.subscription("same").id
        cursor = f"SELECT next_lease FROM cursor WHERE subscription_id = {number}"
        tally = f"SELECT n FROM tally WHERE subscription_id = {number} AND outcome = 'succeeded'"
        ((lease,),), ((n,),) = asked(team, cursor), asked(team, tally)
        before = blocks(team, cursor), blocks(team, tally)

        with analyst(team):
            changed(
                team,
                f"DO $$ BEGIN FOR i IN 1..{CHANGES} LOOP"
                "  UPDATE cursor SET next_lease = next_lease + 1"
                f" WHERE subscription_id = {number};"
                "  INSERT INTO tally (subscription_id, worker_id, outcome, n)"
                f"  SELECT {number}, worker_id, outcome, 1 FROM tally"
                f"  WHERE subscription_id = {number} AND outcome = 'succeeded';"
                " END LOOP; END $$",
            )

            assert blocks(team, cursor) <= before[0] + FEW
            assert blocks(team, tally) <= before[1] + FEW
            bus.publish("numbers", 2)
            wait_until(lambda: is_settled(sub))
        assert asked(team, cursor)[0][0] > lease + CHANGES
        assert asked(team, tally) == [(n + CHANGES + 1,)]


def work(url: str, name: str) -> float:
    """Return the seconds that the processors have worked for a bus, here and in the server."""
    ticks = 0
    for pid in sessions(url, name):
        with contextlib.suppress(FileNotFoundError):  # an idle session that was closed
            ticks += sum(
                map(int, Path(f"/proc/{pid}/stat").read_text().split(") ")[1].split()[11:13])
            )
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


@pytest.mark.slow
def test_open_snapshot_of_a_minute_costs_less_than_15_percent_of_the_throughput(team: str) -> None:
    """The last half of that minute is compared with the time after it. A busy machine does not
    matter: the time of the processors is measured.
    """
    handled = [0]

    def count(n: int) -> int:
        handled[0] += 1
        return n

    with mt.connect(f"{team}&application_name=mlt_minute") as bus:
        sub = bus.subscribe("numbers", mt.model(count, name="count", version="1.0.0"))
        stop = threading.Event()

        def publish() -> None:
            while not stop.is_set():
                bus.publish("numbers", 1)

        def cost(seconds: float) -> float:
            """Return the milliseconds of the processors for an event."""
            n, done_s = handled[0], work(team, "mlt_minute")
            threading.Event().wait(seconds)
            return (work(team, "mlt_minute") - done_s) / (handled[0] - n) * 1e3

        publisher = threading.Thread(target=publish)
        publisher.start()
        wait_until(lambda: handled[0] > 500)
        with analyst(team):
            held = [cost(15) for _ in range(4)]
        free = [cost(10) for _ in range(3)]
        stop.set()
        publisher.join()
        wait_until(lambda: is_settled(sub))

    loss = 1 - min(free) / min(held[2:])
    print(f"an open snapshot of a minute costs {loss:.1%} of the throughput")
    assert loss < 0.15, (held, free)


def test_partition_that_a_rollback_has_undone_is_made_again(
    team: str,
) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        near = partitions.SIZE // 2 - 2
        asked(team, f"SELECT setval('event_seq', {near})")
        with pytest.raises(ZeroDivisionError), bus.log.unit() as unit:
            bus.broker.publish("numbers", list(range(4)), unit)
            raise ZeroDivisionError

        bus.publish_batch("numbers", list(range(4)))

        assert len(bus.events("numbers")) == 4
        made = "SELECT count(*) FROM pg_class WHERE relname = 'event_1' AND relkind = 'r'"
        assert asked(team, made)[0][0] >= 1


def test_events_without_a_partition_that_a_crash_has_undone_are_stored_all_the_same(
    team: str,
) -> None:
    """A pooler hides the crash: the process believes that the partition is there."""
    with mt.connect(team) as bus:
        bus.topic("numbers")
        bus.publish("numbers", 1)
        asked(team, f"SELECT setval('event_seq', {partitions.SIZE - 1})")
        bus._store._partitions._made["event"] = 9  # type: ignore[attr-defined]

        receipt = bus.publish("numbers", 2)

        assert (receipt.seq, receipt.duplicate) == (partitions.SIZE, False)
        assert len(bus.events("numbers")) == 2
