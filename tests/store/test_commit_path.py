"""The way of a commit: shared by many, visible first, durable next; a disk that fails; the log."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from shared import commit, in_threads, wait_until

import mltrigger as mt
from mltrigger.bus import EventBus
from mltrigger.clock import SystemClock
from mltrigger.store import combining, publishing
from mltrigger.store.opening import embedded
from mltrigger.store.sqlite import logkeeper
from mltrigger.store.sqlite.connections import LONGEST_LOG
from mltrigger.store.sqlite.disk import SqliteDisk
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.sqlite.wal import PRESIZED
from mltrigger.store.transaction import Transaction
from mltrigger.store.wake import SocketWakeup

ROOT = Path(mt.__file__).parents[1]
WRITERS = 8


class WatchedDisk(SqliteDisk):
    """The real disk. Calls ``before_sync`` and ``before_zeros``, which may wait or raise."""

    def __init__(self) -> None:
        self.syncs = 0
        self.before_sync: Callable[[], object] = lambda: None
        self.before_zeros: Callable[[], object] = lambda: None

    def sync(self, log: int) -> None:
        self.before_sync()
        super().sync(log)
        self.syncs += 1

    def zeros(self, log: int, end: int) -> None:
        self.before_zeros()
        super().zeros(log, end)


@pytest.fixture
def disk() -> WatchedDisk:
    return WatchedDisk()


@pytest.fixture
def store(file: Path, disk: WatchedDisk) -> Iterator[SqliteStore]:
    store = SqliteStore(file, disk=disk)
    yield store
    store.close()


@pytest.fixture
def bus(file: Path, disk: WatchedDisk) -> Iterator[EventBus]:
    parts = embedded(SqliteStore(file, disk=disk), SocketWakeup(str(file)))
    with EventBus(parts, SystemClock()) as bus:
        yield bus


def adding(name: str) -> Callable[[Transaction], str]:
    def add(transaction: Transaction) -> str:
        transaction.execute(
            "INSERT INTO topic (name, created_us) VALUES (:name, 0)", {"name": name}
        )
        return name

    return add


def topics(store: SqliteStore) -> list[str]:
    return [name for (name,) in store.read("SELECT name FROM topic ORDER BY name")]


def seen_from_outside(file: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM topic")}


def fails(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> None:
        raise error

    return fail


# -- combining -------------------------------------------------------------------------------------


def test_writers_that_wait_at_the_same_time_share_a_commit_and_a_sync(
    store: SqliteStore, disk: WatchedDisk
) -> None:
    before, results = disk.syncs, list[str]()
    threads = [
        threading.Thread(target=lambda n=n: results.append(commit(store, adding(f"{n}"))))  # type: ignore[misc]
        for n in range(WRITERS)
    ]
    with store.transaction():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(store._queue._items) == WRITERS)
    for thread in threads:
        thread.join(60)

    assert sorted(results) == topics(store) == [f"{n}" for n in range(WRITERS)]
    assert disk.syncs - before <= 2  # that of the transaction, and one for all


def all_of(transaction: Transaction, names: Sequence[str]) -> list[str]:
    return [adding(name)(transaction) for name in names]


def together(store: SqliteStore, write: Callable[[int], None], count: int = WRITERS) -> None:
    """Call *write* in *count* threads, which all wait for the lock at once."""
    threads = [threading.Thread(target=write, args=(n,)) for n in range(count)]
    with store.transaction():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(store._queue._items) == count)
    for thread in threads:
        thread.join(60)


def test_writers_of_one_action_share_one_call_and_get_their_own_results(
    store: SqliteStore, disk: WatchedDisk
) -> None:
    calls: list[Sequence[str]] = []
    results: dict[int, str] = {}

    def add(transaction: Transaction, names: Sequence[str]) -> list[str]:
        calls.append(names)
        return all_of(transaction, names)

    before = disk.syncs
    together(store, lambda n: results.update({n: store.write(add, f"{n}")}))

    assert len(calls) == 1
    assert results == {n: f"{n}" for n in range(WRITERS)}
    assert topics(store) == [f"{n}" for n in range(WRITERS)]
    assert disk.syncs - before <= 2


def test_one_that_fails_in_a_shared_call_fails_nobody_else(store: SqliteStore) -> None:
    refused: list[int] = []

    def write(n: int) -> None:
        try:
            store.write(all_of, "the same" if n < 2 else f"{n}")
        except mt.StoreError:
            refused.append(n)

    together(store, write)

    assert topics(store) == [*(f"{n}" for n in range(2, WRITERS)), "the same"]
    assert len(refused) == 1


def test_more_writers_than_one_commit_takes_are_all_stored(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combining, "MOST", 3)

    together(store, lambda n: store.write(all_of, f"{n}"))

    assert topics(store) == [f"{n}" for n in range(WRITERS)]


def test_those_of_the_last_batch_get_a_moment_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, item = combining.Queue(), lambda: combining.Item(all_of, "a")
    before, own = [item() for _ in range(3)], item()
    for each in before:
        queue.add(each)
    assert list(queue.batches(before[0])) == [before]
    for each in before:
        each.error = ZeroDivisionError()
    queue.add(own)
    monkeypatch.setattr("time.sleep", lambda _: queue.add(item()))

    (batch,) = queue.batches(own)

    assert batch[0] is own
    assert len(batch) == 3


def test_hooks_of_a_shared_call_run_once(store: SqliteStore) -> None:
    told: list[str] = []

    def add(transaction: Transaction, names: Sequence[str]) -> list[str]:
        transaction.after_visible(lambda: told.append("visible"))
        transaction.after_commit(lambda: told.append("durable"))
        return all_of(transaction, names)

    together(store, lambda n: store.write(add, f"{n}"))

    assert told == ["visible", "durable"]


def test_events_of_many_publishers_in_one_commit_have_their_own_receipts(bus: EventBus) -> None:
    bus.topic("pages")
    bus.topic("texts")
    receipts: dict[int, Any] = {}

    def publish(n: int) -> None:
        samples = [{"n": n}, mt.Event({"n": n}, id=f"{n}", subject="s")] if n % 2 else [{"n": n}]
        receipts[n] = bus.publish_batch("texts" if n < 4 else "pages", samples)

    together(bus._store, publish)  # type: ignore[arg-type]

    for n, made in receipts.items():
        archived = [bus.log.archived(receipt.seq) for receipt in made]
        assert [json.loads(each.raw) for each in archived] == [{"n": n}] * len(made)
        assert [each.event.id for each in archived] == [receipt.event_id for receipt in made]
        assert not any(receipt.duplicate for receipt in made)
    assert len({receipt.seq for made in receipts.values() for receipt in made}) == 12
    assert len(bus.events("pages")) == len(bus.events("texts")) == 6


def test_one_of_equal_events_in_one_commit_counts_and_the_others_are_repeats(
    bus: EventBus,
) -> None:
    bus.topic("pages")
    receipts: list[Any] = []

    def publish(n: int) -> None:
        about = {"subject": "s"} if n % 2 else {}
        receipts.append(bus.publish("pages", mt.Event(1, id="same", **about)))

    together(bus._store, publish)  # type: ignore[arg-type]

    assert sorted(receipt.duplicate for receipt in receipts) == [False] + [True] * (WRITERS - 1)
    assert len({receipt.seq for receipt in receipts}) == len(bus.events()) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 64, 65, 200])
def test_batch_of_any_size_is_stored_in_its_order(bus: EventBus, count: int) -> None:
    bus.topic("pages")
    statements: list[str] = []
    bus._store._connections.writer.set_trace_callback(statements.append)  # type: ignore[attr-defined]

    receipts = bus.publish_batch("pages", [{"n": n} for n in range(count)])

    assert sum(sql.lstrip().startswith("INSERT INTO event") for sql in statements) <= 5
    numbers = [receipt.seq for receipt in receipts]
    assert numbers == list(range(numbers[0], numbers[0] + count))
    assert [json.loads(bus.log.archived(seq).raw)["n"] for seq in numbers] == list(range(count))


def test_data_are_stored_as_an_event_of_them_would_be_without_one(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.topic("pages")
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "as_event", fails(AssertionError("an Event was made")))
        bus.publish_batch("pages", [{"a": "é"}])
    bus.publish_batch("pages", [mt.Event({"a": "é"})])
    sql = "SELECT topic_id, typeof(id), source_id, type_id, by_rows_us, time, subject,"
    sql += " datacontenttype, dataschema, traceparent, extensions, data FROM event"

    plain, whole = bus._store.read(sql)

    assert plain == whole


def test_large_data_are_not_copied_many_at_once(bus: EventBus) -> None:
    bus.topic("pages")
    statements: list[str] = []
    bus._store._connections.writer.set_trace_callback(statements.append)  # type: ignore[attr-defined]

    bus.publish_batch("pages", ["x" * 100_000] * 3)

    assert sum(sql.lstrip().startswith("INSERT INTO event") for sql in statements) == 3


def test_each_of_many_writers_is_stored_when_it_returns(store: SqliteStore, file: Path) -> None:
    def write(writer: int) -> None:
        for n in range(25):
            assert commit(store, adding(f"{writer}-{n}")) == f"{writer}-{n}"
            assert f"{writer}-{n}" in seen_from_outside(file)

    in_threads(write)

    assert len(topics(store)) == WRITERS * 25


def test_item_that_fails_fails_nobody_else_and_each_other_one_is_stored_once(
    store: SqliteStore,
) -> None:
    refused: list[str] = []

    def write(writer: int) -> None:
        for n in range(30):
            name = f"{writer}-{n}"

            def half(transaction: Transaction, name: str = name) -> None:
                adding(f"half of {name}")(transaction)
                raise ZeroDivisionError

            try:
                if writer == 3:
                    commit(store, half)
                elif writer == 4:
                    commit(store, adding("the same"))
                else:
                    commit(store, adding(name))
            except (ZeroDivisionError, mt.StoreError) as error:
                refused.append(type(error).__name__)

    in_threads(write)

    others = {f"{w}-{n}" for w in range(WRITERS) if w not in (3, 4) for n in range(30)}
    assert set(topics(store)) == others | {"the same"}
    assert sorted(refused) == ["StoreError"] * 29 + ["ZeroDivisionError"] * 30


def test_event_that_is_too_large_fails_its_publisher_only(bus: EventBus) -> None:
    bus.topic("pages")

    def publish(writer: int) -> None:
        for n in range(10):
            if writer == 0:
                with pytest.raises(mt.InvalidEvent):
                    bus.publish("pages", b"x" * 50_000_000, id=f"{writer}-{n}")
            else:
                bus.publish("pages", n, id=f"{writer}-{n}")

    in_threads(publish)

    expected = sorted(f"{w}-{n}" for w in range(1, WRITERS) for n in range(10))
    assert sorted(bus.events()["event_id"]) == expected


class Interrupter:
    """Raises KeyboardInterrupt in threads that have asked for it, where Ctrl-C may come."""

    def __init__(self) -> None:
        self._armed: dict[int, bool] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Interrupter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def is_interrupted(self, action: Callable[[], object]) -> bool:
        """Do *action*. Return whether it was interrupted; one interrupt may come a little late."""
        me = threading.get_ident()
        try:
            self._armed[me] = True
            action()
            self._armed.pop(me, None)
            for _ in range(1_000):
                pass
        except KeyboardInterrupt:
            return True
        return False

    def _run(self) -> None:
        chance = random.Random(0)
        while not self._over.wait(chance.uniform(0, 0.0005)):
            for thread in list(self._armed):
                if chance.random() < 0.3 and self._armed.pop(thread, False):
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
                    )


def test_interrupts_at_any_moment_lose_and_repeat_nothing_of_others(
    store: SqliteStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of them may lead. An interrupted one is stored once or not at all."""
    # Python has the id of the starting thread twice while a thread starts. An interrupt then ends
    # the new one before it says that it runs, and the start waits forever. So the keeper runs first.
    monkeypatch.setattr(logkeeper, "_IDLE_S", 600.0)
    commit(store, lambda t: [adding(f"topic {n}")(t) for n in range(2_000)])
    wait_until(lambda: commit(store, adding(f"{random.random()}")) and store._keeper._thread)
    grown = set(topics(store))
    stored: list[str] = []
    unknown: list[str] = []

    def write(writer: int) -> None:
        for n in range(120):
            name = f"{writer}-{n}"
            if writer < 4 and interrupter.is_interrupted(lambda: commit(store, adding(name))):  # noqa: B023
                unknown.append(name)
            else:
                if writer >= 4:
                    commit(store, adding(name))
                stored.append(name)

    with Interrupter() as interrupter:
        in_threads(write)
    commit(store, adding("last"))

    found = [name for name in topics(store) if name not in grown]
    assert len(found) == len(set(found))
    assert set(stored) <= set(found) <= {*stored, *unknown, "last"}
    assert len(unknown) > 20
    assert not store._lock.locked()
    assert wait_until(lambda: store._gate.is_empty)  # the keeper may be inside


def test_writer_that_gives_up_waiting_is_not_written_for(store: SqliteStore) -> None:
    """Ctrl-C while another one holds the lock."""
    with store.transaction() as transaction:
        adding("held")(transaction)
        gone = threading.Thread(target=interrupted_while_waiting, args=(store,))
        gone.start()
        gone.join(60)
    commit(store, adding("next"))

    assert topics(store) == ["held", "next"]


def interrupted_while_waiting(store: SqliteStore) -> None:
    def at_the_lock(frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_name == "_holding" and event == "line":
            raise KeyboardInterrupt
        return at_the_lock

    sys.settrace(at_the_lock)
    with contextlib.suppress(KeyboardInterrupt):
        commit(store, adding("interrupted"))
    sys.settrace(None)


# -- visible first, durable next -------------------------------------------------------------------


def test_commit_is_visible_and_its_listeners_awake_before_it_is_durable(
    store: SqliteStore, file: Path, disk: WatchedDisk
) -> None:
    order: list[str] = []
    disk.before_sync = lambda: order.append(f"sync {sorted(seen_from_outside(file))}")

    def write(transaction: Transaction) -> None:
        adding("a")(transaction)
        transaction.after_commit(lambda: order.append("durable"))
        transaction.after_visible(
            lambda: order.append(f"visible, lock held: {store._lock.locked()}")
        )

    commit(store, write)
    order.append("returned")

    assert order == ["visible, lock held: False", "sync ['a']", "durable", "returned"]


def test_others_write_while_one_waits_for_the_disk(store: SqliteStore, disk: WatchedDisk) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(60)

    disk.before_sync = wait
    waiting = threading.Thread(
        target=commit,
        args=(
            store,
            adding("a"),
        ),
    )
    waiting.start()
    assert begun.wait(60)

    with store.transaction(durable=False) as transaction:
        adding("b")(transaction)

    assert topics(store) == ["a", "b"]
    assert waiting.is_alive()
    go_on.set()
    waiting.join(60)


def test_commit_during_a_sync_is_not_counted_as_synced(
    store: SqliteStore, disk: WatchedDisk
) -> None:
    """What came after its beginning needs another sync."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(60)

    disk.before_sync = wait
    before = disk.syncs
    first = threading.Thread(
        target=commit,
        args=(
            store,
            adding("a"),
        ),
    )
    first.start()
    assert begun.wait(60)
    second = threading.Thread(
        target=commit,
        args=(
            store,
            adding("b"),
        ),
    )
    second.start()
    wait_until(lambda: topics(store) == ["a", "b"])
    go_on.set()
    first.join(60)
    second.join(60)

    assert disk.syncs - before == 2


def test_model_starts_without_waiting_for_the_disk(bus: EventBus, disk: WatchedDisk) -> None:
    called, go_on = threading.Event(), threading.Event()
    bus.subscribe("pages", mt.model(lambda data: called.set(), name="see", version="1.0.0"))
    receipts: list[object] = []
    disk.before_sync = lambda: go_on.wait(60)

    publisher = threading.Thread(target=lambda: receipts.append(bus.publish("pages", 1)))
    publisher.start()

    assert called.wait(60)
    assert receipts == []
    go_on.set()
    publisher.join(60)
    assert len(receipts) == 1


# -- a disk that fails -----------------------------------------------------------------------------


def failing_once(disk: WatchedDisk, error: OSError) -> None:
    def fail() -> None:
        disk.before_sync = lambda: None
        raise error

    disk.before_sync = fail


def test_sync_that_fails_once_is_the_end_of_the_store_and_nothing_is_acknowledged(
    store: SqliteStore, disk: WatchedDisk, file: Path
) -> None:
    commit(store, adding("before"))
    acknowledged: list[str] = []
    failing_once(disk, OSError(errno.EIO, os.strerror(errno.EIO)))
    said = (
        r"store bus\.db: the disk failed to sync .*Input/output error.*close this bus and connect"
    )

    def write(transaction: Transaction) -> None:
        adding("lost")(transaction)
        transaction.after_commit(lambda: acknowledged.append("lost"))

    with pytest.raises(mt.StoreError, match=said):
        commit(store, write)
    for call in (
        lambda: commit(store, adding("more")),
        lambda: store.read("SELECT 1"),
        lambda: store.transaction().__enter__(),
        lambda: store.transaction(durable=False).__enter__(),
        lambda: store.snapshot().__enter__(),
        lambda: store.copy(lambda _: None),
    ):
        with pytest.raises(mt.StoreError, match=said):
            call()

    assert acknowledged == []
    store.close()
    assert Path(f"{file}-unsure").exists()
    again = SqliteStore(file)
    assert "before" in topics(again)
    assert not Path(f"{file}-unsure").exists()
    again.close()


def test_all_who_wait_for_a_sync_that_fails_hear_of_it(
    store: SqliteStore, disk: WatchedDisk
) -> None:
    failed: list[str] = []

    def fail() -> None:
        threading.Event().wait(0.05)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before_sync = fail

    def write(writer: int) -> None:
        with pytest.raises(mt.StoreError, match="failed to sync"):
            commit(store, adding(f"{writer}"))
        failed.append(f"{writer}")

    in_threads(write)

    assert len(failed) == WRITERS


def test_file_that_is_damaged_after_a_failed_sync_is_not_opened(
    file: Path, disk: WatchedDisk
) -> None:
    store = SqliteStore(file, disk=disk)
    commit(store, lambda t: [adding(f"topic {n}")(t) for n in range(3_000)])
    failing_once(disk, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(mt.StoreError):
        commit(store, adding("lost"))
    store.close()
    pages = bytearray(file.read_bytes())
    pages[-2 * 4096 :] = os.urandom(2 * 4096)
    file.write_bytes(pages)

    with pytest.raises(
        mt.StoreError, match=r"'bus\.db', and the file is damaged (?s:.*)open a backup"
    ):
        SqliteStore(file)


def test_listener_of_a_store_whose_disk_failed_says_so_and_blames_no_model(
    bus: EventBus, disk: WatchedDisk, file: Path
) -> None:
    sub = bus.subscribe("pages", mt.model(len, name="see", version="1.0.0"))
    bus.publish("pages", "a", id="before")
    wait_until(lambda: sub.depth().visible + sub.depth().in_flight == 0)
    board = sub.dashboard()
    failing_once(disk, OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(mt.StoreError):
        bus.publish("pages", "b", id="lost")

    wait_until(lambda: "the disk failed to sync" in sub.state)
    assert sub.state.startswith("stopped by the store: ")
    assert "the disk failed to sync" in repr(sub) and "no events yet" not in repr(sub)
    assert "failed disk" in repr(bus)
    for shown in (sub._repr_html_(), board.to_html(), board.state["outage"]):
        assert "the disk failed to sync" in shown
    found = bus.doctor()

    assert list(found["severity"]) == ["error"]
    assert "the disk failed to sync" in found["finding"][0]
    assert "connect again" in found["advice"][0]
    bus.close()
    assert not board.refresh(), "nothing new can come"
    with mt.connect(f"sqlite:///{file}") as again:
        # one may be leased still: nobody could give it back
        ended = set(again.invocations()["outcome"].astype(str)) - {"running"}
        assert ended <= {"succeeded", "interrupted"}


def test_disk_that_is_full_in_a_sync_is_the_end_too_and_says_why(
    store: SqliteStore, disk: WatchedDisk
) -> None:
    failing_once(disk, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    with pytest.raises(mt.StoreError, match=r"found only when it was synced.*make room"):
        commit(store, adding("a"))
    with pytest.raises(mt.StoreError, match="make room"):
        commit(store, adding("b"))


def test_disk_too_full_to_make_the_log_long_is_no_failure(
    store: SqliteStore, disk: WatchedDisk, file: Path
) -> None:
    tried = threading.Event()

    def full() -> None:
        tried.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    disk.before_zeros = full
    commit(store, lambda t: [adding(f"topic {n}")(t) for n in range(5_000)])
    assert tried.wait(60)
    commit(store, adding("after"))
    disk.before_zeros = lambda: None

    log = Path(f"{file}-wal")
    assert wait_until(
        lambda: commit(store, adding(f"{random.random()}")) and log.stat().st_size >= PRESIZED
    )


# -- the log ---------------------------------------------------------------------------------------

PUBLISHES = """
import sys
import mltrigger as mt
from mltrigger.store.sqlite import logkeeper

if len(sys.argv) > 3:
    logkeeper.CHECKPOINT_BYTES = logkeeper.GROWN_BYTES = int(sys.argv[3])
bus = mt.connect(sys.argv[1])
for n in range(10**9 if sys.argv[2] == "on" else 12):
    bus.publish("pages", "x" * 3000, id=f"{sys.argv[2]}-{n}")
    print(n, flush=True)
bus.close()
"""


def publisher(file: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHES, f"sqlite:///{file}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def integrity(file: Path) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.slow(every=1)
@pytest.mark.parametrize("turn", range(3))
def test_processes_that_open_and_publish_at_once_write_no_zeros_over_a_commit(
    file: Path, turn: int
) -> None:
    """Each makes the log long as soon as it sees it."""
    mt.connect(f"sqlite:///{file}").topic("pages")
    children = [publisher(file, f"{turn}{n}", "1") for n in range(3)]
    for child in children:
        assert child.wait(60) == 0

    with mt.connect(f"sqlite:///{file}") as bus:
        assert len(bus.events()) == 3 * 12
    assert integrity(file) == [("ok",)]


def test_stores_that_open_and_write_at_once_a_hundred_times_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "GROWN_BYTES", 1)
    for turn in range(100):
        file = tmp_path / f"{turn}.db"

        def work(writer: int, file: Path = file) -> None:
            store = SqliteStore(file)
            for n in range(3):
                commit(store, adding(f"{writer}-{n}"))
            assert {f"{writer}-{n}" for n in range(3)} <= seen_from_outside(file)
            store.close()

        in_threads(work, 2)
        assert len(seen_from_outside(file)) == 6
        assert integrity(file) == [("ok",)]


def test_process_that_is_killed_in_its_checkpoints_leaves_everything_that_it_acknowledged(
    file: Path,
) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
    acknowledged = 0
    for turn in range(6):
        child = publisher(file, "on", "60000")  # a checkpoint every few events
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(30 + 17 * turn)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait(60)
        acknowledged = max(acknowledged, *(int(line) + 1 for line in lines if line.strip()))

        with mt.connect(f"sqlite:///{file}") as bus:
            ids = set(bus.events()["event_id"])
        assert {f"on-{n}" for n in range(acknowledged)} <= ids
        assert integrity(file) == [("ok",)]


def test_log_under_constant_load_stays_within_two_limits_also_after_a_reader_that_stays(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 5_000_000
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", limit)
    log, sizes = Path(f"{file}-wal"), []
    with mt.connect(f"sqlite:///{file}?durability=normal") as bus:  # as fast as it gets
        bus.topic("pages")
        for n in range(40):
            bus.publish_batch("pages", ["x" * 1_000] * 400)
            sizes.append(log.stat().st_size)
            if n % 5 == 4:  # the keeper has its turn, however busy the machine and its disk are
                wait_until(lambda: file.stat().st_size > (n - 8) * 400_000)  # noqa: B023
                wait_until(lambda: bus._store._gate.is_empty)  # type: ignore[attr-defined]
        assert max(sizes) <= 2 * limit + 1_000_000

        with bus._store.snapshot() as reader:
            before = reader.query("SELECT count(*) FROM event", {})
            for _ in range(10):
                bus.publish_batch("pages", ["x" * 1_000] * 400)
            assert reader.query("SELECT count(*) FROM event", {}) == before
        moved = 50 * 400 * 1_000
        wait_until(lambda: bus.publish("pages", "x") and file.stat().st_size > moved)
        assert log.stat().st_size <= LONGEST_LOG
    assert integrity(file) == [("ok",)]


def test_command_that_ends_at_once_pays_for_no_long_log(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
        bus.publish("pages", 1)

        assert Path(f"{file}-wal").stat().st_size < logkeeper.GROWN_BYTES
        assert not [t for t in threading.enumerate() if t.name == "mltrigger-log"]


def test_process_that_only_publishes_keeps_the_log_too_and_ends_its_keeper(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
        bus.publish_batch("pages", ["x" * 1_000] * 500)
        log = Path(f"{file}-wal")

        assert wait_until(lambda: log.stat().st_size == PRESIZED)
        bus.publish("pages", 1)
        assert log.stat().st_size == PRESIZED
    assert wait_until(lambda: not [t for t in threading.enumerate() if t.name == "mltrigger-log"])


def test_child_of_a_process_whose_keeper_is_at_work_has_a_store_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 30_000)
    monkeypatch.setattr(logkeeper, "GROWN_BYTES", 1)
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
        for n in range(15):
            bus.publish_batch("pages", ["x" * 1_000] * 40)
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    with mt.connect(f"sqlite:///{file}") as own:
                        own.publish("pages", n, id=f"child {n}")
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
        ids = set(bus.events()["event_id"])

    assert {f"child {n}" for n in range(15)} <= ids
    assert len(ids) == 15 * 41
    assert integrity(file) == [("ok",)]


def test_space_of_deleted_events_is_given_back(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
        for _ in range(12):
            bus.publish_batch("pages", ["x" * 4_000] * 500)
        with bus._store.transaction() as transaction:
            transaction.execute("DELETE FROM event WHERE seq > 100", {})
        bus._store.tidy()

        assert wait_until(lambda: 0 < file.stat().st_size < 8_000_000)
        bus.publish("pages", "after")
        assert len(bus.events()) == 101
    assert integrity(file) == [("ok",)]
