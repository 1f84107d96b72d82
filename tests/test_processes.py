"""Real processes on one file: they wake each other, one may be killed at any time, and nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import is_settled, outcomes, wait_until

import mltrigger as mt

ROOT = Path(mt.__file__).parents[1]
DEADLINE_S = 60.0

Start = Callable[..., subprocess.Popen[str]]

SQUARE = """
import sys, time
import mltrigger as mt

@mt.model("square", version="1.0.0")
def square(n):
    time.sleep(0.001)
    return n * n

bus = mt.connect(sys.argv[1])
sub = bus.subscribe("numbers", square, lease_s=1.0, timeout_s=20)
print("listening", flush=True)
"""


@pytest.fixture
def start(file: Path) -> Iterator[Start]:
    """Start a Python program whose first argument is the URL of the test's file; it never outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), f"sqlite:///{file}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


def says(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line == expected, f"said {line!r}, and on stderr: {process.stderr.read() if process.stderr and not line else ''}"


def ends(process: subprocess.Popen[str]) -> str:
    """Let *process* end; return what it printed."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, "")
    return out


def ledger(file: Path, sql: str) -> list[tuple[int, ...]]:
    connection = sqlite3.connect(file)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# -- waking -------------------------------------------------------------------------------------------------------------------


def test_event_published_by_another_process_reaches_a_listener_here_at_once(bus: mt.EventBus, start: Start) -> None:
    publisher = start("""
        import sys
        import mltrigger as mt
        with mt.connect(sys.argv[1]) as bus:
            for line in sys.stdin:
                bus.publish("numbers", int(line))
                print("published", line.strip(), flush=True)
    """)
    sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same"))
    assert publisher.stdin is not None

    for n in range(20):
        publisher.stdin.write(f"{n}\n")
        publisher.stdin.flush()
        says(publisher, f"published {n}")
        wait_until(lambda n=n: len(outcomes(sub)) > n)

    # Without a wake-up a listener looks once a second: half of the events would wait for more than half a second.
    assert sub.invocations()["queue_ms"].median() < 100


def test_fire_waits_for_a_subscription_that_is_delivered_by_another_process(bus: mt.EventBus, start: Start) -> None:
    worker = start(SQUARE + "sys.stdin.read()\nbus.close()\n")
    says(worker, "listening")

    began = time.monotonic()
    run = bus.fire("numbers", [1, 2, 3], progress=False, timeout_s=DEADLINE_S)

    assert list(run.results()["output"]) == [1, 4, 9]
    assert time.monotonic() - began < DEADLINE_S / 2
    assert ends(worker) == ""


def test_model_of_a_module_is_found_by_every_process(bus: mt.EventBus, start: Start) -> None:
    worker = start("""
        import sys
        import mltrigger as mt
        from mltrigger.models.digest import digest_of
        bus = mt.connect(sys.argv[1])
        bus.subscribe("modules", mt.model(digest_of, name="digest", version="1.0.0"), listen=False)
        print("registered", flush=True)
        sys.stdin.read()
        bus.close()
    """)
    says(worker, "registered")

    sub = bus.subscription("digest").start()

    assert list(bus.fire("modules", "text", progress=False).results()["outcome"]) == ["succeeded"]
    assert sub.state == "listening"
    ends(worker)


# -- ending -------------------------------------------------------------------------------------------------------------------


def test_work_of_a_killed_process_is_finished_by_another_exactly_once(bus: mt.EventBus, file: Path, start: Start) -> None:
    first = start(SQUARE + "sys.stdin.read()\n")
    says(first, "listening")
    bus.publish_batch("numbers", range(1_000))
    sub = bus.subscription("square")

    wait_until(lambda: bus.log.tallies().get(1, {}).get("succeeded", 0) > 150)
    first.send_signal(signal.SIGKILL)
    first.wait(DEADLINE_S)
    done_by_the_first = bus.log.tallies()[1]["succeeded"]
    assert done_by_the_first < 1_000
    second = start(SQUARE + "sys.stdin.read()\nbus.close()\n")
    says(second, "listening")
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    ends(second)

    final = "SELECT count(*) AS n FROM invocation WHERE outcome IN ('succeeded', 'dead', 'skipped') GROUP BY seq, subscription_id"
    assert ledger(file, f"SELECT count(*), min(n), max(n) FROM ({final})") == [(1_000, 1, 1)]
    assert ledger(file, "SELECT count(*) FROM invocation WHERE outcome = 'succeeded'") == [(1_000,)]
    assert ledger(file, "SELECT count(*) FROM invocation WHERE outcome NOT IN ('succeeded', 'abandoned')") == [(0,)]
    assert ledger(file, "PRAGMA integrity_check") == [("ok",)]
    rows = sub.invocations()
    assert sorted(int(output) for output in rows["output"].dropna()) == [n * n for n in range(1_000)]
    succeeded = rows[rows["outcome"] == "succeeded"]
    assert succeeded["worker"].nunique() == 2
    assert bus.log.tallies()[1]["succeeded"] == 1_000


def test_process_that_its_event_kills_is_survived_and_the_event_is_dead_after_three_attempts(bus: mt.EventBus, start: Start) -> None:
    killer = """
        import os, sys
        import mltrigger as mt

        @mt.model("fragile", version="1.0.0")
        def fragile(wanted):
            if wanted == "kill":
                os._exit(7)
            return wanted

        bus = mt.connect(sys.argv[1])
        bus.subscribe("orders", fragile, lease_s=0.2)
        print("listening", flush=True)
        sys.stdin.read()
        bus.close()
    """
    worker = start(killer)
    says(worker, "listening")
    bus.publish("orders", "kill")
    sub = bus.subscription("fragile")
    for _ in range(2):
        assert worker.wait(DEADLINE_S) == 7
        worker = start(killer)
        says(worker, "listening")
    assert worker.wait(DEADLINE_S) == 7

    last = start(killer)
    says(last, "listening")
    wait_until(lambda: is_settled(sub), DEADLINE_S)
    run = bus.fire("orders", "harmless", progress=False)

    assert list(run.results()["outcome"]) == ["succeeded"]
    assert outcomes(sub) == ["abandoned", "abandoned", "dead", "succeeded"]
    assert list(sub.dead_letters()["reason"]) == ["worker_died"]
    ends(last)


def test_process_that_ends_releases_what_it_has_leased(bus: mt.EventBus, start: Start) -> None:
    worker = start("""
        import sys, time
        import mltrigger as mt

        @mt.model("slow", version="1.0.0")
        def slow(n):
            print("began", flush=True, file=sys.__stdout__)
            time.sleep(3600)

        bus = mt.connect(sys.argv[1])
        bus.subscribe("numbers", slow, lease_s=3600)
        print("listening", flush=True)
        sys.stdin.readline()
    """)
    says(worker, "listening")
    bus.publish("numbers", 1)
    says(worker, "began")

    ends(worker)  # without closing the bus: as a kernel that is shut down

    sub = bus.subscription("slow")
    assert (sub.depth().visible, sub.depth().in_flight) == (1, 0)
    assert outcomes(sub) == ["interrupted"]


def test_process_that_is_gone_is_not_taken_for_a_live_listener(bus: mt.EventBus, start: Start) -> None:
    worker = start(SQUARE + "sys.stdin.read()\nbus.close()\n")
    says(worker, "listening")
    assert list(bus.subscriptions()["listeners"]) == [1]

    ends(worker)

    assert list(bus.subscriptions()["listeners"]) == [0]


# -- opening ------------------------------------------------------------------------------------------------------------------


def test_processes_that_open_a_new_file_at_the_same_time_share_it(tmp_path: Path, start: Start) -> None:
    program = """
        import sys
        import mltrigger as mt
        from mltrigger.store.sqlite import SqliteStore
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(5):
            with mt.connect(f"sqlite:///{sys.argv[2]}/{i}.db") as bus:
                bus.subscribe("numbers", mt.model(abs, name="abs"), listen=False)
                bus.publish_batch("numbers", range(3))
    """
    processes = [start(program, str(tmp_path)) for _ in range(4)]
    for process in processes:
        says(process, "ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        ends(process)

    for i in range(5):
        with mt.connect(f"sqlite:///{tmp_path}/{i}.db") as bus:
            assert (len(bus.events()), len(bus.subscriptions()), len(bus.models())) == (12, 1, 1)
        assert ledger(tmp_path / f"{i}.db", "PRAGMA integrity_check") == [("ok",)]


def test_processes_that_publish_the_same_events_add_each_once(bus: mt.EventBus, start: Start) -> None:
    bus.topic("numbers")
    program = """
        import sys
        import mltrigger as mt
        with mt.connect(sys.argv[1]) as bus:
            receipts = [bus.publish("numbers", n, id=f"n-{n}") for n in range(50)]
            print(sum(not r.duplicate for r in receipts))
    """

    added = [int(ends(process)) for process in [start(program) for _ in range(3)]]

    assert sum(added) == 50
    assert len(bus.events("numbers")) == 50
