"""Notifications of a bus on PostgreSQL: few of them, and none is relied upon."""

from __future__ import annotations

import time

from faults_of_postgres import Child, asked, raw
from shared import in_threads, is_settled, wait_until

import mltrigger as mt

PUBLISHES = """
import sys, threading, time
import mltrigger as mt

bus = mt.connect(sys.argv[1])
bus.publish("numbers", 0)
print("ready", flush=True)
sys.stdin.readline()
until, counts = time.monotonic() + 1.5, [1] + 8 * [0]

def publish(k):
    while time.monotonic() < until:
        bus.publish("numbers", k)
        counts[k] += 1

threads = [threading.Thread(target=publish, args=(k,)) for k in range(1, 9)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
bus.close()
print(sum(counts))
"""

LISTENERS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SENDERS = """
SELECT 1 FROM pg_stat_activity
WHERE application_name = 'mlt_sends' AND query LIKE '%%pg_notify%%'
"""


def notifications(team: str, channel: str) -> tuple[int, int, float]:
    """Let two processes publish. Return their events, their notifications, and the seconds."""
    with raw(team) as session:
        session.execute(f"LISTEN {channel}")
        began = time.monotonic()
        publishers = [Child(PUBLISHES, team) for _ in range(2)]
        for publisher in publishers:
            publisher.says("ready")
        for publisher in publishers:
            publisher.tell()
        published = sum(int(publisher.ends()) for publisher in publishers)
        took_s = time.monotonic() - began
        session.execute("SELECT 1")
        heard = len(list(session.notifies(timeout=0.5)))
    assert asked(team, "SELECT count(*) FROM event") == [(published,)]
    return published, heard, took_s


def test_sixteen_publishers_in_two_processes_send_few_notifications(team: str) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        bus.wakeup.generation("done")  # somebody listens
        wait_until(lambda: asked(team, LISTENERS) == [(1,)])

        published, heard, took_s = notifications(team, bus.wakeup._channel)  # type: ignore[attr-defined]

    assert 2 <= heard <= 2 * (100 * took_s + 5)
    assert heard < published


def test_publishers_send_no_notification_while_no_process_listens(team: str) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        channel = bus.wakeup._channel  # type: ignore[attr-defined]

    _, heard, _ = notifications(team, channel)

    # two that ask at the same moment may take each other for one that listens
    assert heard <= 10


def test_process_that_only_publishes_has_no_session_that_listens(team: str) -> None:
    with mt.connect(f"{team}&application_name=mlt_sends") as bus:
        bus.topic("numbers")
        bus.publish("numbers", 1)
        wait_until(lambda: asked(team, SENDERS))

        assert asked(team, LISTENERS) == [(0,)]


def test_events_are_found_although_every_notification_is_lost(team: str) -> None:
    with mt.connect(team) as bus, mt.connect(team) as other:
        sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        other.publish("numbers", 0)
        wait_until(lambda: is_settled(sub))
        waits = []
        with raw(team) as owner:
            for n in range(5):
                # all that listen, of both buses; a new one takes its time
                owner.execute(
                    "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%'"
                )
                began = time.monotonic()
                other.publish("numbers", n)
                wait_until(lambda n=n: len(sub.results()) == n + 2)
                waits.append(time.monotonic() - began)

        assert sorted(waits)[2] < 3, waits
        assert bus.audit()["balanced"].all()


def test_session_that_listens_comes_back_by_itself(team: str) -> None:
    listening = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
        " AND application_name = 'mlt_back'"
    )
    with mt.connect(f"{team}&application_name=mlt_back") as bus:
        bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        ((first,),) = wait_until(lambda: asked(team, listening))
        asked(team, "SELECT pg_terminate_backend(%s, 2000)", first)

        ((second,),) = wait_until(lambda: asked(team, listening))

        assert second != first


def test_process_holds_one_session_that_listens_whatever_number_of_threads_waits(
    team: str,
) -> None:
    with mt.connect(f"{team}&application_name=mlt_one") as bus:
        in_threads(
            lambda n: bus.subscribe(
                f"t{n}", mt.model(lambda n: n, name=f"m{n}", version="1.0.0"), max_concurrency=2
            ),
            8,
        )
        found = wait_until(
            lambda: asked(
                team,
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
                " AND application_name = 'mlt_one' HAVING count(*) > 0",
            )
        )

        assert found == [(1,)]
