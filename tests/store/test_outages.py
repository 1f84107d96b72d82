"""Outages of our own: the store is locked, the disk is full, no file handle is left.

They cost time, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from audit import assert_each_event_succeeded_once, rows
from shared import Gate, is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.broker import Delivery
from mltrigger.store.sqlite import store as sqlite

ROOT = Path(mt.__file__).parents[1]
DEADLINE_S = 60.0
MOST_IN_FLIGHT = 2 * 2 * 256  # listeners x slots x the most that a slot takes


@contextlib.contextmanager
def locked(file: Path, at_least_s: float = 0.0) -> Iterator[None]:
    """Hold the write lock of the store, as somebody who looks at it with another tool; for
    *at_least_s*, if nothing else takes longer.
    """
    connection = sqlite3.connect(file, isolation_level=None, timeout=DEADLINE_S)
    connection.execute("BEGIN IMMEDIATE")
    until = time.monotonic() + at_least_s
    try:
        yield
        threading.Event().wait(max(0.0, until - time.monotonic()))
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextlib.contextmanager
def alongside(action: Callable[[], object]) -> Iterator[None]:
    """Do *action* in another thread meanwhile; leaving waits until it has ended, and raises what it
    raised.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def our_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("mltrigger")}


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


@pytest.fixture
def other(file: Path) -> Iterator[mt.EventBus]:
    """A second worker on the same file."""
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


@contextlib.contextmanager
def locked_until_waited_for(file: Path, held: threading.Event, at_least_s: float) -> Iterator[None]:
    """Hold the lock; say so through *held*, so that somebody asks for it while it is held."""
    with locked(file, at_least_s):
        held.set()
        yield


class Child:
    """A process of its own that runs a Python program; its first argument is the URL of the file."""

    def __init__(self, program: str, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), f"sqlite:///{file}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        )

    def says(self, expected: str) -> None:
        """Read a line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line == expected, line + self._process.communicate(timeout=DEADLINE_S)[1]

    def ends(self) -> str:
        """Close its stdin and wait until it has ended, well; return what it printed."""
        try:
            out, err = self._process.communicate(timeout=DEADLINE_S)
        finally:
            self._process.kill()
        assert (self._process.returncode, err) == (0, ""), err
        return out

    def ends_within_s(self) -> float:
        """As :meth:`ends`; return how many seconds it took."""
        began = time.monotonic()
        self.ends()
        return time.monotonic() - began


def slowly(n: int) -> int:
    threading.Event().wait(0.01)
    return n


# -- the store is locked ---------------------------------------------------------------------------


def test_lock_of_20_s_loses_nothing_and_counts_as_nobodys_failure(
    bus: mt.EventBus, other: mt.EventBus, file: Path
) -> None:
    sub = bus.subscribe(
        "numbers", mt.model(slowly, version="1.0.0"), lease_s=2, timeout_s=1, max_concurrency=2
    )
    second = other.subscribe(
        "numbers", mt.model(slowly, version="1.0.0"), lease_s=2, timeout_s=1, max_concurrency=2
    )
    bus.publish_batch("numbers", [mt.Event(n, id=f"first-{n}") for n in range(400)])
    wait_until(lambda: len(outcomes(sub)) > 20)
    handles_before, threads_before, all_before = handles(), our_threads(), threading.active_count()
    held = threading.Event()
    receipts: list[mt.Receipt] = []

    def publish() -> None:
        held.wait()
        for n in range(3):
            receipts.extend(
                bus.publish_batch("numbers", [mt.Event(i, id=f"{n}-{i}") for i in range(10)])
            )

    with alongside(publish):
        with locked(file, at_least_s=20):
            held.set()
            asked = time.monotonic()
            assert sub.depth().in_flight <= MOST_IN_FLIGHT
            assert len(bus.events("numbers")) == 400
            assert time.monotonic() - asked < 15, "reading waits for nobody"
        assert threading.active_count() - all_before < 30
    wait_until(lambda: is_settled(sub), DEADLINE_S)

    assert not any(receipt.duplicate for receipt in receipts)
    assert_each_event_succeeded_once(file, 430, also=("abandoned", "stale"))
    assert len(outcomes(sub)) - outcomes(sub).count("succeeded") <= MOST_IN_FLIGHT
    assert (sub.state, second.state) == ("listening", "listening")
    assert our_threads() >= threads_before
    assert handles() <= handles_before + 2 * 2 * 4, (
        "more than the two files of the four readers that each bus keeps"
    )


def test_lease_that_nobody_could_extend_is_still_its_holders_when_the_store_answers(
    bus: mt.EventBus, other: mt.EventBus, file: Path, gate: Gate
) -> None:
    def patient(_: object) -> None:
        gate.wait()

    model = mt.model(patient, version="1.0.0")
    sub = bus.subscribe("numbers", model, lease_s=0.5)
    other.subscribe("numbers", model, lease_s=0.5)
    bus.publish("numbers", 1)
    assert gate.reached.wait(DEADLINE_S)

    with locked(file, at_least_s=2.2):
        pass
    began = time.monotonic()
    wait_until(
        lambda: (
            time.monotonic() - began > 1.5
            and rows(file, "SELECT until_us FROM lease")[0][0] / 1e6 > time.time()
        )
    )
    # The holder extended its lease as soon as the store answered, before the other listener looked
    # for leases that ran out.
    gate.open()
    wait_until(lambda: is_settled(sub))

    assert outcomes(sub) == ["succeeded"]


def test_lease_begins_when_the_store_answers_not_when_it_was_asked(
    bus: mt.EventBus, file: Path
) -> None:
    sub = bus.subscribe("numbers", mt.model(slowly, version="1.0.0"), lease_s=1, listen=False)
    bus.publish("numbers", 1)
    spec = bus.registry.subscription(sub.name)
    assert spec is not None

    def left_s() -> float:
        return (rows(file, "SELECT until_us FROM lease")[0][0] / 1e6) - time.time()

    delivered: list[Delivery] = []
    for ask in (
        lambda: delivered.extend(bus.broker.receive(spec, 1)),
        lambda: bus.broker.extend(delivered, 1),
    ):
        held = threading.Event()
        with (
            alongside(lambda ask=ask, held=held: held.wait() and ask()),
            locked_until_waited_for(file, held, 1.2),
        ):
            pass
        assert left_s() > 0.4


def test_publish_that_gave_up_has_stored_nothing_and_may_be_repeated(
    bus: mt.EventBus, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = bus.subscribe("numbers", mt.model(slowly, version="1.0.0"))
    monkeypatch.setattr(sqlite, "BUSY_S", 0.3)
    events = [mt.Event(n, id=str(n)) for n in range(10)]

    with locked(file):
        for _ in range(3):
            with pytest.raises(mt.StoreError, match="locked"):
                bus.publish_batch("numbers", events)
        assert len(bus.events("numbers")) == 0
    first = bus.publish_batch("numbers", events)
    again = bus.publish_batch("numbers", events)

    assert [r.duplicate for r in (*first, *again)] == [False] * 10 + [True] * 10
    wait_until(lambda: is_settled(sub))
    assert_each_event_succeeded_once(file, 10)


def test_outcome_waits_for_a_store_that_refuses_again_and_again(
    bus: mt.EventBus,
    file: Path,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def model(_: object) -> str:
        gate.wait()
        return "kept"

    monkeypatch.setattr(sqlite, "BUSY_S", 0.1)
    sub = bus.subscribe("numbers", mt.model(model, version="1.0.0"), lease_s=60, timeout_s=30)
    bus.publish("numbers", 1)
    assert gate.reached.wait(DEADLINE_S)

    with locked(file):
        gate.open()
        wait_until(lambda: caplog.text.count("recording failed; trying again") >= 3)
        assert outcomes(sub) == ["running"]
    wait_until(lambda: is_settled(sub))

    assert list(sub.invocations()["output"]) == ['"kept"']
    assert_each_event_succeeded_once(file, 1)


# -- closing while the store does not answer -------------------------------------------------------


def test_close_returns_although_the_store_is_locked_and_the_events_come_again(
    file: Path, other: mt.EventBus, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def model(n: int) -> int:
        gate.wait()
        return n

    bus = mt.connect(f"sqlite:///{file}")
    subs = [
        bus.subscribe(
            "numbers", mt.model(model, version="1.0.0"), name=f"s{n}", lease_s=2, max_concurrency=4
        )
        for n in range(4)
    ]
    bus.publish_batch("numbers", range(40))
    wait_until(lambda: sum(s.depth().in_flight for s in subs) == 16)

    with locked(file):
        gate.open()  # the answers wait to be recorded
        began = time.monotonic()
        bus.close(drain_s=1)
        took_s = time.monotonic() - began
    assert 0.9 < took_s < 1 + 5
    assert caplog.text.count("before the store answered") <= 4 * (4 + 1), (
        "once for each of the lots that ran, and each listener"
    )
    wait_until(
        lambda: (
            not {
                name
                for name in our_threads()
                if name.startswith(("mltrigger-s", "mltrigger-keeper"))
            }
        )
    )

    for n in range(4):
        again = other.subscribe(
            "numbers", mt.model(model, version="1.0.0"), name=f"s{n}", lease_s=2
        )
        wait_until(lambda again=again: is_settled(again))
    assert rows(file, "SELECT outcome, count(*) FROM invocation GROUP BY 1") == [
        ("abandoned", 16),
        ("succeeded", 160),
    ]
    assert rows(
        file,
        "SELECT count(DISTINCT seq * 10 + subscription_id) FROM invocation WHERE outcome ="
        " 'succeeded'",
    ) == [(160,)]


def test_close_waits_for_a_store_that_answers_in_time(
    file: Path, other: mt.EventBus, gate: Gate
) -> None:
    def model(n: int) -> int:
        gate.wait()
        return n

    bus = mt.connect(f"sqlite:///{file}")
    sub = bus.subscribe("numbers", mt.model(model, version="1.0.0"))
    bus.publish("numbers", 1)
    assert gate.reached.wait(DEADLINE_S)

    with alongside(lambda: bus.close(drain_s=30)), locked(file, at_least_s=0.5):
        gate.open()

    assert outcomes(other.subscription(sub.name)) == ["succeeded"]


def test_stop_returns_although_the_store_is_locked(
    bus: mt.EventBus, file: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.3)
    sub = bus.subscribe(
        "numbers", mt.model(lambda _: gate.wait(), version="1.0.0", name="waits"), lease_s=1
    )
    bus.publish_batch("numbers", range(5))
    assert gate.reached.wait(DEADLINE_S)

    with locked(file):
        began = time.monotonic()
        sub.stop(drain_s=0.2)
        assert time.monotonic() - began < 5
    assert sub.state == "stopped"
    gate.open()
    sub.start()
    wait_until(lambda: is_settled(sub))

    assert_each_event_succeeded_once(file, 5, also=("abandoned", "interrupted"))


def test_process_ends_although_the_store_is_locked(bus: mt.EventBus, file: Path) -> None:
    child = Child(
        """
        import sys
        import mltrigger as mt

        bus = mt.connect(sys.argv[1])
        for i in range(8):
            bus.subscribe("numbers", mt.model(lambda n: n, name=f"m{i}", version="1.0.0"), lease_s=2, max_concurrency=2)
        for n in range(50):
            bus.publish("numbers", n)
        print("published", flush=True)
        sys.stdin.readline()
        """,
        file,
    )
    child.says("published")

    with locked(file):
        took_s = child.ends_within_s()

    assert took_s < 1.5 + 5
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


# -- the disk is full ------------------------------------------------------------------------------

LIMITED = """
import os, resource, signal, sys, threading, time
import mltrigger as mt
import mltrigger.store.sqlite.logkeeper
import pandas  # now: importing needs file handles

mltrigger.store.sqlite.logkeeper.CHECKPOINT_BYTES = 200_000
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1].removeprefix("sqlite:///")


@mt.model("slow", version="1.0.0")
def slow(text):
    time.sleep(0.005)
    return text[:10]


def handles():
    return len(os.listdir("/proc/self/fd"))


def threads():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("mltrigger") and "worker" not in t.name and t.name != "mltrigger-log")


def until(look):
    end = time.monotonic() + 40
    while not look():
        assert time.monotonic() < end, "too late"
        time.sleep(0.005)


def attempt(batch):
    events = [mt.Event("y" * 2_000, id=f"{batch}-{n}") for n in range(5)]
    try:
        bus.publish_batch("texts", events)
    except mt.StoreError:
        return False
    return True


def settled():
    depth = sub.depth()
    return not (depth.visible or depth.delayed or depth.in_flight)


bus = mt.connect(sys.argv[1])
sub = bus.subscribe("texts", slow, lease_s=2, timeout_s=1, max_concurrency=2)
sub.depth()
assert attempt("before")
until(lambda: sub.depth().visible < 5)
"""


def test_full_disk_refuses_whole_batches_and_everything_is_delivered_when_there_is_room_again(
    file: Path,
) -> None:
    child = Child(
        LIMITED
        + """
free = resource.getrlimit(resource.RLIMIT_FSIZE)
room = max(os.path.getsize(path), os.path.getsize(path + "-wal")) + 150_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, free[1]))
before = threads()
refused, stored, end = [], ["before"], time.monotonic() + 1.5
for batch in range(100_000):
    if time.monotonic() > end:
        break
    (stored if attempt(batch) else refused).append(str(batch))
    time.sleep(0.02)
assert refused and len(stored) > 1
there = [id for (id,) in bus._store.read("SELECT id FROM event")]
assert sorted(there) == sorted(f"{batch}-{n}" for batch in stored for n in range(5)), "a part of a batch was stored"

resource.setrlimit(resource.RLIMIT_FSIZE, free)
assert all(attempt(batch) for batch in refused + stored), "with the same ids"
until(settled)
assert sub.state == "listening" and threads() == before, (sub.state, threads(), before)
bus.close()
print(5 * len(refused + stored), flush=True)
""",
        file,
    )

    events = int(child.ends())

    assert_each_event_succeeded_once(file, events, also=("abandoned", "stale"))


# -- no file handle is left ------------------------------------------------------------------------


def test_process_without_file_handles_goes_on_when_there_are_some_again(file: Path) -> None:
    child = Child(
        LIMITED
        + """
free = resource.getrlimit(resource.RLIMIT_NOFILE)
before = threads()
many = handles()
errors, start = [], threading.Barrier(12)


def look():
    start.wait()
    for _ in range(100):
        try:
            bus._store.read("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT sum(i) FROM n")
        except Exception as error:
            errors.append(error)


resource.setrlimit(resource.RLIMIT_NOFILE, (many, free[1]))
readers = [threading.Thread(target=look) for _ in range(11)]
[r.start() for r in readers]
start.wait()
stored, end = ["before"], time.monotonic() + 1
for batch in range(100_000):
    if time.monotonic() > end:
        break
    assert attempt(batch), "writing needs no new handle, not even to tidy up"
    stored.append(str(batch))
    time.sleep(0.05)
[r.join() for r in readers]
assert errors, "there were handles enough"
assert {type(e) for e in errors} == {mt.StoreError}, {repr(e) for e in errors}

resource.setrlimit(resource.RLIMIT_NOFILE, free)
assert handles() <= many + 1, (many, handles())
assert attempt("after")
until(settled)
assert sub.state == "listening" and threads() == before, (sub.state, threads(), before)
bus.close()
print(5 * (len(stored) + 1), flush=True)
""",
        file,
    )

    events = int(child.ends())

    assert_each_event_succeeded_once(file, events)


# -- a store that is open twice --------------------------------------------------------------------


def test_store_that_is_opened_again_here_stays_open_for_other_processes(
    bus: mt.EventBus, file: Path
) -> None:
    sub = bus.subscribe("numbers", mt.model(slowly, version="1.0.0"), listen=False)
    # as a cell does that runs again: it must not cost the locks of the bus that stays open
    mt.connect(f"sqlite:///{file}").close()

    # a process that closes the store as its last one removes the write-ahead log
    for n in range(3):
        Child(
            "import sys, mltrigger as mt\nwith mt.connect(sys.argv[1]) as bus:"
            f" bus.publish('numbers', {n})",
            file,
        ).ends()
        bus.publish("numbers", -n)

    assert len(bus.events("numbers")) == sub.depth().visible == 6
    assert rows(file, "SELECT count(*) FROM event") == [(6,)]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
