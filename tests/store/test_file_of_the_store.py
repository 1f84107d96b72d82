"""The store's file has a life of its own: it is removed, moved, replaced, forked around, held by
others. No receipt is for nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.store import backup
from mltrigger.store.sqlite import connections, files, forks, logkeeper
from mltrigger.store.sqlite import store as sqlite
from mltrigger.store.sqlite.wal import Wal
from mltrigger.versions.selector import Selector, resolve

ROOT = Path(mt.__file__).parents[1]
FILES = ("bus.db", "bus.db-wal", "bus.db-shm")


def run(program: str, *given: object) -> str:
    """Run *program* in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, given)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.fixture
def home(file: Path) -> Path:
    """A folder that holds nothing but a store."""
    home = file.parent / "home"
    home.mkdir()
    file.rename(home / "bus.db")
    return home


def connected(home: Path, **more: Any) -> mt.EventBus:
    return mt.connect(f"sqlite:///{home / 'bus.db'}", **more)


# -- removed, moved, replaced ----------------------------------------------------------------------


def file_removed(home: Path) -> None:
    (home / "bus.db").unlink()


def all_files_removed(home: Path) -> None:
    for name in FILES:
        (home / name).unlink()


def log_removed(home: Path) -> None:
    (home / "bus.db-wal").unlink()


def index_removed(home: Path) -> None:
    (home / "bus.db-shm").unlink()


def folder_removed(home: Path) -> None:
    shutil.rmtree(home)


def folder_moved(home: Path) -> None:
    home.rename(home.parent / "elsewhere")


def file_moved(home: Path) -> None:
    (home / "bus.db").rename(home / "other.db")


def file_replaced_by_a_copy(home: Path) -> None:
    shutil.copy(home / "bus.db", home / "copy.db")
    (home / "copy.db").replace(home / "bus.db")


def folder_replaced(home: Path) -> None:
    home.rename(home.parent / "before")
    shutil.copytree(home.parent / "before", home)


ACCIDENTS = [
    file_removed,
    all_files_removed,
    log_removed,
    index_removed,
    folder_removed,
    folder_moved,
    file_moved,
    file_replaced_by_a_copy,
    folder_replaced,
]


@pytest.mark.parametrize("happens", ACCIDENTS)
def test_nothing_gets_a_receipt_after_the_file_is_gone(
    home: Path, happens: Callable[[Path], None]
) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        bus.publish("documents", 1)
        happens(home)

        for call in (
            lambda: bus.publish("documents", 2),
            lambda: bus.topic("pages"),
            lambda: bus.fire("documents", [3], progress=False),
        ):
            with pytest.raises(
                mt.StoreError,
                match=r"was removed or replaced while it was open.*put it back, or close this bus",
            ) as refused:
                call()
            assert str(home.parent) not in str(refused.value)


@pytest.mark.parametrize("happens", ACCIDENTS)
def test_loss_is_seen_too_when_the_folder_was_calm_before(
    home: Path, happens: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.store.sqlite.place._COARSEST_S", 0.05)
    with connected(home) as bus:
        bus.topic("documents")
        wait_until(lambda: bus.publish("documents", 1) and bus._store._connections._place._is_calm)  # type: ignore[attr-defined]
        happens(home)

        with pytest.raises(mt.StoreError, match="was removed or replaced"):
            bus.publish("documents", 2)


@pytest.mark.parametrize("happens", ACCIDENTS)
def test_doctor_has_one_error_about_a_file_that_is_gone(
    home: Path, happens: Callable[[Path], None]
) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        happens(home)

        (row,) = bus.doctor().to_dict("records")

    assert (row["severity"], row["about"], row["check"]) == ("error", "bus", "file")
    assert "was removed or replaced" in row["finding"]
    assert str(home.parent) not in json.dumps(row)


@pytest.mark.parametrize(
    "happens",
    [
        file_removed,
        all_files_removed,
        folder_removed,
        folder_moved,
        file_moved,
        file_replaced_by_a_copy,
    ],
)
def test_what_is_read_of_a_file_that_is_gone_is_an_error_not_its_ghost(
    home: Path, happens: Callable[[Path], None]
) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        happens(home)

        for call in (bus.topics, bus.events, bus.audit, bus.subscriptions):
            with pytest.raises(mt.StoreError, match="was removed or replaced"):
                call()


def test_store_that_is_moved_back_goes_on_with_everything(home: Path) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        bus.publish("documents", 1, id="before")
        folder_moved(home)
        with pytest.raises(mt.StoreError):
            bus.publish("documents", 2, id="meanwhile")
        (home.parent / "elsewhere").rename(home)

        bus.publish("documents", 3, id="after")
        bus.publish("documents", 2, id="meanwhile")

    with connected(home) as bus:
        assert set(bus.events()["event_id"]) == {"before", "meanwhile", "after"}


def test_listener_holds_while_the_file_is_gone_and_the_model_is_not_blamed(home: Path) -> None:
    called: list[int] = []
    with connected(home) as bus:
        sub = bus.subscribe("documents", mt.model(called.append, name="note", version="1.0.0"))
        bus.fire("documents", [1], progress=False)
        folder_moved(home)
        with pytest.raises(mt.StoreError):
            bus.publish("documents", 2, id="meanwhile")
        wait_until(lambda: bus._engine.state("note").startswith("waiting for the store"))
        (home.parent / "elsewhere").rename(home)

        bus.publish("documents", 2, id="meanwhile")
        assert bus.wait(timeout_s=60, progress=False)

        assert set(sub.invocations()["outcome"].astype(str)) == {"succeeded"}
        assert called == [1, 2]


def test_bus_of_a_file_that_is_gone_can_be_closed_and_a_new_one_opened(home: Path) -> None:
    bus = connected(home)
    bus.subscribe("documents", mt.model(str.upper, name="shout"))
    all_files_removed(home)
    bus.close()

    with connected(home) as again:
        assert again.topics().empty
        again.topic("documents")
        assert again.publish("documents", "a").seq == 1


def test_log_that_its_last_process_removes_meanwhile_is_no_reason_not_to_open(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stat = home / "bus.db-wal", Path.stat
    log.touch()

    def looked_at(path: Path, **how: Any) -> os.stat_result:
        found = stat(path, **how)
        if path == log:
            log.unlink()
        return found

    monkeypatch.setattr(Path, "stat", looked_at)
    with connected(home) as bus:
        bus.topic("scans")
        assert bus.publish("scans", 1).seq == 1


def test_file_that_its_last_process_makes_shorter_meanwhile_was_not_cut_off(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(home) as bus:
        bus.topic("scans")
        bus.publish_batch("scans", ["x" * 3_000] * 500)
        bus.retain(max_events=1)
        bus.prune()
    database, stat, sizes = home / "bus.db", Path.stat, list[int]()

    def looked_at(path: Path, **how: Any) -> os.stat_result:
        if path.name == "bus.db-wal" and not sizes:  # its header has been read
            sizes.append(stat(database).st_size)
            with contextlib.closing(sqlite3.connect(database)) as last:
                last.execute("VACUUM")
            sizes.append(stat(database).st_size)
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", looked_at)
    with connected(home) as bus:
        assert len(bus.events()) == 1
    assert sizes[1] < sizes[0]


# -- overwritten and cut off, under the same name --------------------------------------------------


def overwritten_by_its_backup(home: Path) -> None:
    shutil.copyfile(home.parent / "backup.db", home / "bus.db")


def overwritten_by_something_else(home: Path) -> None:
    size = (home / "bus.db").stat().st_size
    (home / "bus.db").write_bytes(b"x" * size)


def cut_off(home: Path) -> None:
    os.truncate(home / "bus.db", (home / "bus.db").stat().st_size - 4096)


def emptied(home: Path) -> None:
    os.truncate(home / "bus.db", 0)


@pytest.mark.parametrize(
    "happens", [overwritten_by_its_backup, overwritten_by_something_else, cut_off, emptied]
)
@pytest.mark.parametrize("is_calm", [False, True])
def test_nothing_gets_a_receipt_after_the_file_is_overwritten_or_cut_off(
    home: Path, happens: Callable[[Path], None], is_calm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        bus.publish_batch("documents", range(10))
        bus.backup(home.parent / "backup.db")
        bus.publish_batch("documents", ["x" * 100] * 1000)
    if is_calm:
        monkeypatch.setattr("mltrigger.store.sqlite.place._COARSEST_S", 0.05)
    with connected(home) as bus:
        bus.publish("documents", 1)
        if is_calm:
            wait_until(
                lambda: bus.publish("documents", 1) and bus._store._connections._place._is_calm
            )  # type: ignore[attr-defined]
        happens(home)

        for call in (
            lambda: bus.publish("documents", 2),
            lambda: bus.topic("pages"),
            bus.events,
            bus.audit,
        ):
            with pytest.raises(
                mt.StoreError,
                match=r"bus\.db was overwritten or cut off while it was open.*close this bus",
            ):
                call()
        (row,) = bus.doctor().to_dict("records")

    assert (row["severity"], row["check"]) == ("error", "file")


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.topic("pages"),
        lambda bus: bus.register(len, name="length"),
        lambda bus: bus.publish_batch("documents", ["x" * 3000] * 3000),
        lambda bus: bus.subscription("reader").pause(),
        lambda bus: bus.subscription("reader").unsubscribe(),
    ],
    ids=["topic", "register", "publish_batch", "pause", "unsubscribe"],
)
def test_the_first_call_that_reads_a_damaged_page_says_that_the_file_was_overwritten(
    home: Path, call: Callable[[mt.Bus], object]
) -> None:
    with connected(home) as bus:
        bus.subscribe("documents", len, name="reader")
        bus.publish_batch("documents", ["x" * 100] * 1000)
    with connected(home) as bus:
        bus.publish("documents", 1)
        overwritten_by_something_else(home)

        with pytest.raises(mt.StoreError, match=r"bus\.db was overwritten or cut off"):
            call(bus)


def test_file_that_others_write_to_is_not_taken_for_overwritten(home: Path) -> None:
    """Each process moves the log in at its end, and a repair by hand makes the file shorter."""
    other = (
        "import mltrigger as mt, sys; b = mt.connect(sys.argv[1]); b.publish_batch('documents',"
        " range(3000)); b.close()"
    )
    with connected(home) as bus:
        bus.topic("documents")
        for _ in range(3):
            run(other, f"sqlite:///{home / 'bus.db'}")
            bus.publish("documents", 1)
            with contextlib.closing(sqlite3.connect(home / "bus.db")) as tool:
                tool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            bus.publish("documents", 2)
        with contextlib.closing(sqlite3.connect(home / "bus.db")) as tool:
            tool.execute("CREATE TABLE filling AS SELECT * FROM event")
            tool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            bus.publish("documents", 3)
            tool.execute("DROP TABLE filling")
            tool.execute("VACUUM")
            tool.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        bus.publish("documents", 4)

        assert len(bus.events()) == 3 * 3002 + 2


def test_file_whose_free_pages_leave_it_after_its_header_said_so_is_not_taken_for_cut_off(
    home: Path,
) -> None:
    """A checkpoint moves a part of the log, and a later one the rest. The last one cuts the file."""
    with (
        connected(home) as bus,
        contextlib.closing(sqlite3.connect(home / "bus.db", isolation_level=None)) as tool,
        contextlib.closing(sqlite3.connect(home / "bus.db", isolation_level=None)) as reader,
    ):
        bus.topic("documents")
        bus.publish("documents", 0)
        tool.execute("PRAGMA wal_autocheckpoint=0")
        tool.execute("CREATE TABLE filling AS SELECT zeroblob(1000000) AS data")
        tool.execute("PRAGMA wal_checkpoint(PASSIVE)")
        bus.publish("documents", 1)
        whole = (home / "bus.db").stat().st_size
        tool.executescript("BEGIN; DROP TABLE filling; PRAGMA incremental_vacuum(1000); COMMIT")
        ((cleared,),) = tool.execute("PRAGMA user_version").fetchall()
        tool.execute(f"PRAGMA user_version={cleared + 1}")
        reader.executescript("BEGIN; SELECT count(*) FROM event")
        reader.execute("SELECT count(*) FROM event").fetchall()
        bus.publish("documents", 2)
        tool.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert (home / "bus.db").stat().st_size == whole
        bus.publish("documents", 3)
        reader.execute("ROLLBACK")
        tool.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert (home / "bus.db").stat().st_size < whole - 900_000

        bus.publish("documents", 4)

        assert len(bus.events()) == 5


def test_file_with_two_names_is_refused_since_each_would_have_a_log_of_its_own(home: Path) -> None:
    with connected(home) as bus:
        bus.topic("documents")
        bus.publish("documents", 1)
        (home / "other.db").hardlink_to(home / "bus.db")

        for name in ("other.db", "bus.db"):
            with pytest.raises(
                mt.StoreError, match=r"has several names \(hard links\).*bus\.backup"
            ):
                mt.connect(f"sqlite:///{home / name}")
        (home / "other.db").unlink()

        with connected(home) as again:
            assert len(again.events()) == 1


def test_file_that_is_mounted_alone_is_refused_since_its_log_would_stay_behind(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = home.parent / "mounts"
    mounts.write_text(f"overlay / overlay rw 0 0\n/dev/sda1 {home / 'bus.db'} ext4 rw 0 0\n")
    monkeypatch.setattr(files, "is_mount", functools.partial(files.is_mount, mounts=str(mounts)))

    with pytest.raises(mt.StoreError, match=r"is mounted as a single file.*mount its folder"):
        connected(home)
    mounts.write_text(f"overlay / overlay rw 0 0\n/dev/sda1 {home} ext4 rw 0 0\n")
    connected(home).close()


# -- forked ----------------------------------------------------------------------------------------


def child_of(action: Callable[[], object]) -> Callable[[], str]:
    """Fork, do *action* in the child, and return a function that waits for the repr of what it
    returned or raised.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            text = repr(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)

    def ends() -> str:
        with os.fdopen(read) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return said

    return ends


PUBLISHES = (
    "import sys, mltrigger as mt\nwith mt.connect('sqlite:///' + sys.argv[1]) as bus:"
    " bus.publish('jobs', 0, id=sys.argv[2])"
)


def publishing_child(file: Path, go: Any, opened: Any) -> Callable[[], str]:
    def act() -> list[str]:
        with mt.connect(f"sqlite:///{file}") as own:
            receipts = [own.publish("jobs", n, id=f"early-{n}").event_id for n in range(5)]
            opened.set()
            assert go.wait(60)
            return receipts + [own.publish("jobs", n, id=f"late-{n}").event_id for n in range(5)]

    return child_of(act)


@pytest.mark.parametrize("parent_closes", [True, False])
def test_what_a_forked_child_publishes_is_kept_whoever_closes_the_store_meanwhile(
    file: Path, parent_closes: bool
) -> None:
    go, opened = (
        multiprocessing.get_context("fork").Event(),
        multiprocessing.get_context("fork").Event(),
    )
    bus = mt.connect(f"sqlite:///{file}")
    bus.topic("jobs")
    ends = publishing_child(file, go, opened)
    assert opened.wait(60)
    if parent_closes:
        bus.close()
    for n in range(3):
        run(PUBLISHES, file, f"third-{n}")
    go.set()

    receipts = eval(ends())

    assert len(receipts) == 10
    bus.close()
    with mt.connect(f"sqlite:///{file}") as bus:
        assert set(bus.events()["event_id"]) == {*receipts, *(f"third-{n}" for n in range(3))}


def test_child_that_is_forked_while_threads_publish_and_listen_has_a_bus_of_its_own(
    file: Path,
) -> None:
    stop = threading.Event()
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("readings", mt.model(len, name="size", version="1.0.0"), listen=True)
        bus.topic("jobs")

        def publish() -> None:
            while not stop.is_set():
                bus.publish_batch("readings", ["a"] * 20)

        threads = [threading.Thread(target=publish) for _ in range(3)]
        for thread in threads:
            thread.start()

        def act() -> str:
            with mt.connect(f"sqlite:///{file}") as own:
                return own.publish("jobs", 1).event_id

        ids = [eval(child_of(act)()) for _ in range(6)]
        stop.set()
        for thread in threads:
            thread.join(60)
        assert bus.wait(timeout_s=60, progress=False)

        assert set(ids) == set(bus.events("jobs")["event_id"])
        assert bus.audit()["balanced"].all()
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_parent_goes_on_where_it_was_after_a_fork(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe("documents", mt.model(str.upper, name="shout"))
        for n in range(4):
            assert child_of(lambda: 1)() == "1"
            assert list(bus.fire("documents", [f"a{n}"], progress=False).results()["output"]) == [
                f"A{n}"
            ]

        assert len(sub.invocations()) == 4


def test_fork_inside_a_transaction_is_not_held_up_for_ever_and_the_child_is_told_to_be_spawned(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 0.05)
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("jobs")
        with bus.log.unit() as unit:
            unit.transaction.execute(
                "INSERT INTO topic (name, created_us) VALUES ('inside', 0)", {}
            )
            said = child_of(lambda: mt.connect(f"sqlite:///{file}"))()
            in_memory = child_of(lambda: mt.connect("memory://"))()
        bus.publish("jobs", 1)

        assert said.startswith(
            "StoreError: this process was forked while another thread was at work"
        )
        assert "spawn" in said
        assert in_memory == said
        assert set(bus.topics()["topic"]) == {"jobs", "inside"}
        assert child_of(lambda: mt.connect(f"sqlite:///{file}").publish("jobs", 2).seq)() == "2"


def test_child_that_is_refused_and_ends_as_programs_do_undoes_nothing_of_its_parent(
    file: Path,
) -> None:
    program = f"""
import os, sys
import mltrigger as mt
from mltrigger.store.sqlite import forks
forks.PATIENCE_S = 0.05
bus = mt.connect("sqlite:///{file}")
bus.topic("jobs")
with bus.log.unit() as unit:
    unit.transaction.execute("INSERT INTO topic (name, created_us) VALUES ('inside', 0)", {{}})
    child = os.fork()
    if not child:
        sys.exit(0)
    os.waitpid(child, 0)
    for n in range(50):
        unit.transaction.execute("INSERT INTO topic (name, created_us) VALUES (:n, 0)", {{"n": str(n)}})
print(len(bus.topics()))
bus.close()
"""
    assert run(program).strip() == "52"
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM topic").fetchall() == [(52,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


HOLDS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holds", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_program(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the write lock of the store."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_fork_does_not_wait_for_a_writer_who_waits_for_another_program(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 600.0)
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("jobs")
        thread = threading.Thread(target=lambda: bus.publish("jobs", 1, id="patient"))
        with held_by_another_program(file):
            thread.start()
            wait_until(bus._store._lock.locked)  # type: ignore[attr-defined]
            begun = child_of(
                lambda: mt.connect(f"sqlite:///{file}").publish("jobs", 2, id="child").event_id
            )
            assert bus.events().empty
        thread.join(60)

        assert begun() == "'child'"
        assert set(bus.events()["event_id"]) == {"patient", "child"}


def test_child_whose_parent_had_the_file_open_with_another_tool_is_told_to_be_spawned(
    file: Path,
) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("jobs")
        stranger = sqlite3.connect(file)
        assert stranger.execute("SELECT name FROM topic").fetchall() == [("jobs",)]

        said = child_of(lambda: mt.connect(f"sqlite:///{file}"))()

        assert said.startswith(
            "StoreError: this process was forked while its parent had the file of the store open"
        )
        assert (
            child_of(lambda: len(mt.connect(f"sqlite:///{file.parent / 'another.db'}").topics()))()
            == "0"
        )
        stranger.close()


def test_bus_in_memory_stays_with_the_parent(file: Path) -> None:
    with mt.connect("memory://") as bus, mt.connect(f"sqlite:///{file}") as other:
        bus.topic("jobs")
        other.topic("jobs")
        bus.publish("jobs", 1)

        assert child_of(lambda: bus.publish("jobs", 2))().startswith(
            "StoreError: this bus was opened before a fork"
        )
        assert child_of(lambda: len(mt.connect("memory://").topics()))() == "0"
        assert len(bus.events()) == 1


# -- held by others --------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux names who holds a lock")
def test_program_that_holds_the_write_lock_is_named_with_how_long_was_waited(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.2)
    with mt.connect(f"sqlite:///{file}") as bus, held_by_another_program(file) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        wait_until(lambda: " T " in Path(f"/proc/{holder.pid}/stat").read_text())
        said = (
            rf"process {holder.pid} \(python.*, stopped\) holds its write lock; waited 0\.[2-9] s\."
            r" Let it go on or end it"
        )

        with pytest.raises(mt.StoreError, match=said):
            bus.topic("documents")
        with pytest.raises(mt.StoreError, match=said) as refused:
            connected(file.parent)
        found = bus.doctor().set_index("check").loc["write lock"]

    assert "name another file" not in str(refused.value)
    assert found["severity"] == "error"
    assert f"process {holder.pid} is stopped" in found["finding"]
    assert f"kill -CONT {holder.pid}" in found["advice"]


def test_lock_of_a_program_that_nobody_can_name_is_still_said(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    monkeypatch.setattr("mltrigger.store.sqlite.place._LOCKS", "/nowhere")
    with (
        held_by_another_program(file),
        pytest.raises(mt.StoreError, match="another program holds its write lock"),
    ):
        connected(file.parent)


# -- the write-ahead log ---------------------------------------------------------------------------


def test_log_of_large_events_stays_below_its_limits(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 3_000_000)
    monkeypatch.setattr(logkeeper, "_LOOK_S", 0.0)
    log, sizes = file.with_name("bus.db-wal"), []
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        for n in range(1, 21):
            bus.publish("scans", b"\x07" * 1_000_000)
            sizes.append(log.stat().st_size)
            if n % 3 == 0:
                wait_until(lambda n=n: file.stat().st_size > (n - 2) * 1_000_000)  # type: ignore[misc]
                wait_until(lambda: bus._store._gate.is_empty)  # type: ignore[attr-defined]

        assert max(sizes) < 2 * 3_000_000 + 1_100_000
        assert len(bus.events()) == 20


def test_log_that_grew_unseen_is_moved_before_its_keeper_rests(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 3_000_000)
    monkeypatch.setattr(logkeeper, "_LOOK_S", 0.0)
    monkeypatch.setattr(logkeeper, "_IDLE_S", 0.2)
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        bus.publish("scans", b"\x07" * 1_000_000)
        monkeypatch.setattr(logkeeper, "_LOOK_S", 3600.0)  # the next commit is the last that looks
        for _ in range(3):
            bus.publish("scans", b"\x07" * 1_000_000)

        wait_until(lambda: file.stat().st_size > 3_000_000)


def test_log_that_a_reader_keeps_from_beginning_anew_does_so_after_it_and_is_cut(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 1_000_000)
    monkeypatch.setattr(connections, "LONGEST_LOG", 5_000_000)
    log = file.with_name("bus.db-wal")
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        with bus._store.snapshot() as reader:
            before = reader.query("SELECT count(*) FROM event", {})
            for _ in range(7):
                bus.publish("scans", b"\x07" * 1_000_000)
            assert log.stat().st_size > 7_000_000
            assert reader.query("SELECT count(*) FROM event", {}) == before

        assert wait_until(
            lambda: bus.publish("scans", b"\x08" * 400_000) and log.stat().st_size <= 5_000_000
        )
        assert bus.events()["topic"].eq("scans").all()
        assert bus._store.read("PRAGMA integrity_check") == [("ok",)]


def test_pages_are_given_back_many_in_one_commit_and_the_log_stays_short(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "FREE_PAGES", 0)
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(logkeeper, "_HOLD_S", 60.0)  # only their number ends a commit
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        bus.publish_batch("scans", ["x" * 3_000] * 2_000)
        wait_until(lambda: bus.publish("scans", "last") and file.stat().st_size > 6_000_000)
        whole = file.stat().st_size
        ((before,),) = bus._store.read("PRAGMA user_version")
        bus.retain(max_events=1)
        bus.prune()

        assert wait_until(lambda: file.stat().st_size < whole / 10)
        ((after,),) = bus._store.read("PRAGMA user_version")
        assert after - before < 20
        assert bus._store.read("PRAGMA integrity_check") == [("ok",)]
        assert bus.events()["data"].tolist() == ['"last"']


def test_giving_pages_back_goes_on_after_each_checkpoint_that_it_needs(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "FREE_PAGES", 0)
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(logkeeper, "_HOLD_S", 0.0)
    lengths = []
    with mt.connect(f"sqlite:///{file}") as bus:
        keeper = bus._store._keeper  # type: ignore[attr-defined]
        checkpoint = keeper._checkpoint

        def noted(wal: Wal) -> object:
            salts = wal.salts()
            lengths.append(next(n for n in itertools.count(1) if not wal.reaches(n, salts)))
            return checkpoint(wal)

        bus.topic("scans")
        bus.publish_batch("scans", ["x" * 3_000] * 1_000)
        wait_until(lambda: bus.publish("scans", "last") and file.stat().st_size > 3_000_000)
        whole = file.stat().st_size
        monkeypatch.setattr(keeper, "_checkpoint", noted)
        bus.retain(max_events=1)
        bus.prune()
        lengths.clear()

        assert wait_until(lambda: file.stat().st_size < whole / 10)
        assert bus._store.read("PRAGMA integrity_check") == [("ok",)]
    assert len(lengths) > 5
    assert max(lengths[2:]) < 4 * 100_000 / 4_096


def test_fork_does_not_wait_until_all_pages_are_given_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "FREE_PAGES", 0)
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 1_000_000_000)  # no length ends it
    monkeypatch.setattr(logkeeper, "GROWN_BYTES", logkeeper.PRESIZED)
    monkeypatch.setattr(logkeeper, "_HOLD_S", 0.0)
    gate = forks.gate()
    fork = threading.Thread(target=gate.shut, args=(60,))
    with mt.connect(f"sqlite:///{file}") as bus:
        keeper, sync = bus._store._keeper, bus._store._connections.sync  # type: ignore[attr-defined]
        force = sync.force
        monkeypatch.setattr(keeper, "_ring", lambda: None)  # rounds are made here only
        bus.topic("scans")
        bus.publish_batch("scans", ["x" * 3_000] * 1_000)
        bus.retain(max_events=1)
        bus.prune()

        def forced() -> None:
            force()
            if fork.ident is None and keeper._tidies:
                fork.start()
                wait_until(lambda: gate._forks)

        monkeypatch.setattr(sync, "force", forced)
        keeper.round()
        fork.join(60)
        gate.open()

        assert bus._store.read("PRAGMA freelist_count")[0][0] > 500
        monkeypatch.setattr(logkeeper, "_HOLD_S", 60.0)
        bus.publish("scans", 1)
        keeper.round()
        assert bus._store.read("PRAGMA freelist_count")[0][0] < 50


def test_fork_does_not_wait_for_a_keeper_who_waits_for_a_writer_who_waits_for_the_fork(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, passes, gate = logkeeper._pass, list[object](), forks.gate()
    store = sqlite.SqliteStore(file)
    keeper = threading.Thread(target=store._keeper._try)
    with contextlib.closing(store):
        store._keeper.stop()  # one round is made here
        write(store)
        monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
        monkeypatch.setattr(logkeeper, "GROWN_BYTES", logkeeper.PRESIZED)
        monkeypatch.setattr(logkeeper, "_pass", lambda driver: passes.append(0) or move(driver))
        with store._lock:  # of the writer
            keeper.start()
            assert wait_until(lambda: passes)
            gate.shut(3.0)
            is_empty = gate.is_empty
            gate.open()
        keeper.join(60)

    assert is_empty


def test_fork_waits_for_a_sync_and_the_next_one_opens_the_log_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, gate = list[int](), forks.gate()
    with contextlib.closing(sqlite.SqliteStore(file)) as store:
        store._keeper.stop()
        sync = store._connections.sync
        force = sync.force
        monkeypatch.setattr(sync, "force", lambda: inside.append(len(gate._inside)) or force())
        before = len(gate._inside)
        store.make_durable()
        store._connections.let_go()  # as a fork does
        store.make_durable()

    assert inside == [before + 1] * 2


def test_reader_in_memory_waits_for_writers_where_no_fork_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, gate = list[int](), forks.gate()

    class Noting:
        def __enter__(self) -> None:
            inside.append(len(gate._inside))

        def __exit__(self, *_: object) -> None:
            pass

    before = len(gate._inside)
    with contextlib.closing(sqlite.SqliteStore()) as store, monkeypatch.context() as patch:
        patch.setattr(store, "_lock", Noting())
        assert store.read("SELECT 1") == [(1,)]

    assert inside == [before]


def test_database_is_synced_beside_writers_before_the_log_is_moved_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(logkeeper, "_LOOK_S", 0.0)
    steps: list[tuple[str, bool]] = []

    def is_free() -> bool:
        return bool(bus._store._owner != threading.get_ident())  # type: ignore[attr-defined]

    def noting(name: str, called: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: object) -> Any:
            steps.append((name, is_free()))
            return called(*given)

        return noted

    monkeypatch.setattr(logkeeper, "_pass", noting("move", logkeeper._pass))
    monkeypatch.setattr(connections, "sync_file", noting("sync", connections.sync_file))
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        bus.publish("scans", b"\x07" * 1_000_000)
        wait_until(lambda: ("move", False) in steps)  # nobody else writes meanwhile

    end = steps.index(("move", False))
    assert steps[: end + 1] == [("move", True), ("sync", True), ("move", False)]


def test_sync_of_the_database_that_fails_poisons_the_store(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("scans")
        bus.publish("scans", 1)
        monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 1)
        monkeypatch.setattr(connections, "sync_file", fails)
        with pytest.raises(OSError, match="Input/output error"):
            bus._store._keeper.round()  # type: ignore[attr-defined]

        with pytest.raises(mt.StoreError, match="the disk failed to sync"):
            bus.publish("scans", 2)


def write(store: sqlite.SqliteStore) -> None:
    """Make the log longer by 400 kB."""
    with store.transaction() as transaction:
        value = {"value": f"{random.random()}" + "x" * 400_000}
        transaction.execute("INSERT OR REPLACE INTO setting VALUES ('long', :value)", value)


def test_sync_that_fails_in_the_last_pass_poisons_the_store(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite.SqliteStore(file)
    move = logkeeper._pass

    def fails(driver: Any) -> Any:
        if not store._lock.locked():
            return move(driver)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    with contextlib.closing(store):
        store._keeper.stop()  # rounds are made here only
        write(store)
        monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
        monkeypatch.setattr(logkeeper, "GROWN_BYTES", logkeeper.PRESIZED)  # it is long enough
        monkeypatch.setattr(logkeeper, "_pass", fails)
        with pytest.raises(mt.StoreError, match="disk I/O error"):
            store._keeper.round()

        assert store.lost() is not None
        with pytest.raises(mt.StoreError, match="the disk failed to sync"), store.transaction():
            pass


def test_log_whose_last_pass_had_no_turn_is_moved_again_only_when_it_has_grown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass beside writers that finds nothing left to do can damage the database."""
    move, passes = logkeeper._pass, list[tuple[int, int]]()
    store = sqlite.SqliteStore(file, sleep=lambda _: None)

    def noted(driver: Any) -> tuple[int, int]:
        passes.append(move(driver))
        return passes[-1]

    with contextlib.closing(store), contextlib.closing(sqlite3.connect(file)) as other:
        store._keeper.stop()  # rounds are made here only
        write(store)
        monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 100_000)
        monkeypatch.setattr(logkeeper, "GROWN_BYTES", logkeeper.PRESIZED)  # it is long enough
        monkeypatch.setattr(logkeeper, "_pass", noted)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(mt.StoreError, match="database is locked"):
            store._keeper.round()
        store._keeper.round()

        assert len(passes) == 1
        assert passes[0][0] == passes[0][1] > 0
        other.execute("ROLLBACK")
        write(store)
        store._keeper.round()
        assert len(passes) > 1


def test_writer_that_waits_for_another_process_looks_soon_and_often(file: Path) -> None:
    """SQLite's own steps grow to 100 ms. A process that writes a lot would shut others out."""
    slept: list[tuple[float, float]] = []

    def sleep(seconds: float) -> None:
        slept.append((seconds, time.monotonic() - began_s))
        if len(slept) == 5:
            other.execute("ROLLBACK")

    store = sqlite.SqliteStore(file, sleep=sleep)
    with contextlib.closing(store), contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        began_s = time.monotonic()
        with store.transaction():
            pass

    assert len(slept) == 5
    assert all(seconds <= max(0.002, waited_s / 4) for seconds, waited_s in slept), slept


# -- backups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
def test_backup_of_a_live_store_has_all_of_it_and_is_private(url: str, tmp_path: Path) -> None:
    with mt.connect(url) as bus:
        bus.subscribe("documents", mt.model(str.upper, name="shout", version="1.0.0"))
        bus.fire("documents", ["a", "b"], progress=False)
        bus.publish_batch("documents", ["x"] * 300)

        made = bus.backup(tmp_path / "copy.db")
        bus.publish("documents", "later")

    file = tmp_path / "copy.db"
    assert (made.file, made.events, made.size_bytes) == ("copy.db", 302, file.stat().st_size)
    assert str(tmp_path) not in repr(made) + made._repr_html_()
    assert file.stat().st_mode & 0o777 == 0o600
    with mt.connect(f"sqlite:///{file}") as copy:
        assert len(copy.events()) == 302
        assert list(copy.subscriptions()["subscription"]) == ["shout"]
        assert copy.audit()["balanced"].all()
        assert copy.publish("documents", "goes on").seq == 303


@pytest.mark.parametrize("pages", [3, 2_000])
def test_backup_is_of_one_moment_while_others_publish(
    pages: int, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", pages)
    stop = threading.Event()
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("jobs")

        def publish() -> None:
            while not stop.is_set():
                bus.publish_batch("jobs", [b"x" * 5_000] * 10)

        threads = [threading.Thread(target=publish) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(bus.log.events(limit=1)))
        made = [bus.backup(tmp_path / f"copy{n}.db") for n in range(3)]
        stop.set()
        for thread in threads:
            thread.join(60)
        total = len(bus.events())

    counts = []
    for n in range(3):
        with mt.connect(f"sqlite:///{tmp_path}/copy{n}.db") as copy:
            assert copy._store.read("PRAGMA integrity_check") == [("ok",)]
            counts.append(len(copy.events()))
    assert counts == [m.events for m in made] == sorted(counts)
    assert all(count % 10 == 0 for count in counts)
    assert counts[-1] <= total


@pytest.mark.parametrize("there", ["file", "store", "folder", "link"])
def test_backup_overwrites_nothing(file: Path, tmp_path: Path, there: str) -> None:
    target = file if there == "store" else tmp_path / "target.db"
    match there:
        case "file":
            target.write_text("mine")
        case "folder":
            target.mkdir()
        case "link":
            target.symlink_to(tmp_path / "nowhere.db")
    with (
        mt.connect(f"sqlite:///{file}") as bus,
        pytest.raises(mt.StoreError, match=f"'{target.name}' exists: name another file") as refused,
    ):
        bus.backup(target)

    assert str(tmp_path) not in str(refused.value)
    assert not (tmp_path / "nowhere.db").exists()
    assert there != "file" or target.read_text() == "mine"


def test_backup_that_fails_leaves_nothing_and_says_why(home: Path, tmp_path: Path) -> None:
    with connected(home) as bus:
        bus.topic("jobs")
        with pytest.raises(
            mt.StoreError,
            match=r"'copy\.db' cannot be written .*name a file in a folder that exists",
        ):
            bus.backup(tmp_path / "missing" / "copy.db")
        all_files_removed(home)
        with pytest.raises(mt.StoreError, match="was removed or replaced"):
            bus.backup(tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


# -- damaged rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE schema_version SET version = 'abc'",
        "UPDATE schema_version SET version = -1",
        "UPDATE schema_version SET version = 0",
        "UPDATE schema_version SET version = 1.5",
        "UPDATE schema_version SET version = x'ff'",
        "DELETE FROM schema_version",
        "INSERT INTO schema_version SELECT version FROM schema_version",
    ],
)
def test_damaged_schema_version_is_said_and_nothing_is_changed(file: Path, damage: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(damage)
    connection.close()
    before = file.read_bytes()

    with pytest.raises(
        mt.StoreError,
        match=r"'bus\.db': the store is damaged: its table schema_version must hold one row",
    ):
        connected(file.parent)

    assert file.read_bytes() == before


def reads(bus: mt.EventBus) -> dict[str, Callable[[], object]]:
    return {
        "publish": lambda: bus.publish("pages", 1, type="page"),
        "repeat": lambda: bus.publish("pages", 2, id="p1", source="/here"),
        "receive": lambda: bus.broker.receive(bus.spec("read"), 10),
        "subscriptions": bus.subscriptions,
        "events": bus.events,
        "models": bus.models,
        "topics": bus.topics,
        "invocations": bus.invocations,
        "audit": bus.audit,
        "doctor": bus.doctor,
        "prune": bus.prune,
        "explain": lambda: bus.explain("p1", "read"),
        "depth": lambda: bus.subscription("read").depth(),
        "resolve": lambda: resolve(bus.registry, Selector.parse("read@live")),
    }


@pytest.fixture
def lived(file: Path) -> Path:
    """A store with a row in each of its tables that anybody reads."""
    with connected(file.parent) as bus:
        bus.subscribe(
            "pages",
            mt.model("builtins:len", name="read", version="1.0.0"),
            filter={"type": ["page"]},
            listen=False,
        )
        bus.alias("read", "live", "1.0.0")
        bus.retain(max_events=1_000)
        bus.publish(
            "pages", "text", id="p1", source="/here", type="page", extensions={"tenant": "a"}
        )
    return file


@pytest.mark.parametrize(
    ("table", "damage", "named", "words"),
    [
        (
            "subscription",
            "policy = '{'",
            "row 1 ('read')",
            ["receive", "subscriptions", "doctor", "depth"],
        ),
        ("subscription", "policy = '[1]'", "row 1 ('read')", ["receive", "subscriptions"]),
        ("subscription", 'policy = \'{"timeout_s": "long"}\'', "row 1 ('read')", ["receive"]),
        ("subscription", "policy = x'ff'", "row 1 ('read')", ["receive"]),
        ("subscription", "selector = '??'", "row 1 ('read')", ["receive", "subscriptions"]),
        ("subscription", "filter = '{'", "row 1", ["publish", "receive", "subscriptions", "depth"]),
        ("subscription", "filter_scope = 'Nowhere'", "row 1", ["publish", "receive"]),
        ("revision", "filter = '[]'", "row 1", ["audit", "explain"]),
        ("revision", "subscription_id = 7", "row of subscription 1", ["audit", "explain"]),
        ("revision", "from_seq = 'x'", "row 1", ["audit", "explain"]),
        ("event", "extensions = '{'", "row 1", ["receive", "audit"]),
        ("event", "extensions = '{'", "row 'p1'", ["events"]),
        ("event", "time = 'noon'", "row 1", ["receive", "audit"]),
        ("event", "data = 'text'", "row 'p1'", ["events"]),
        ("event", "data = 5", "row 1", ["receive", "audit"]),
        ("event", "data = x'7b'", "row 1", ["receive"]),
        ("event", "data = x'22ff22'", "row 1", ["receive"]),
        ("model_version", "version = 'new'", "row 1", ["resolve", "models", "doctor"]),
        ("model_version", "options = '{'", "row 1", ["resolve", "models"]),
        ("model_version", "input_schema = '5'", "row 1", ["models"]),
        ("model_alias", "version = 'new'", "row 'read'@'live'", ["resolve", "models"]),
        ("model_alias", "follows = '{'", "row 'read'@'live'", ["resolve"]),
        ("setting", "value = '{' WHERE name = 'retention'", "row 'retention'", ["prune", "doctor"]),
        (
            "setting",
            "value = '{\"max_events\": -1}' WHERE name = 'retention'",
            "row 'retention'",
            ["prune"],
        ),
    ],
)
def test_damaged_row_is_a_store_error_that_names_it(
    lived: Path, table: str, damage: str, named: str, words: list[str]
) -> None:
    with sqlite3.connect(lived) as connection:
        connection.execute(f"UPDATE {table} SET {damage}")
    connection.close()

    with connected(lived.parent) as bus:
        for word in words:
            with pytest.raises(
                mt.StoreError,
                match=(
                    rf"the store is damaged: {re.escape(named)}.* of its table {table} cannot be"
                    r" read \("
                ),
            ):
                reads(bus)[word]()


@pytest.mark.parametrize(
    ("table", "column"),
    [("name", "text"), ("event", "published_us"), ("topic", "name"), ("model_version", "name")],
)
def test_frame_with_a_value_of_another_kind_names_row_and_column(
    lived: Path, table: str, column: str
) -> None:
    with sqlite3.connect(lived) as connection:
        connection.execute(f"UPDATE {table} SET {column} = CAST(x'ff' || rowid AS BLOB)")
    connection.close()

    with (
        connected(lived.parent) as bus,
        pytest.raises(mt.StoreError, match="the store is damaged: row "),
    ):
        (bus.models if table == "model_version" else bus.events)()


def test_events_beside_a_damaged_one_are_leased_to_nobody_and_lose_no_attempt(lived: Path) -> None:
    with connected(lived.parent) as bus:
        bus.publish("pages", "other", id="p2", source="/here", type="page")
        with sqlite3.connect(lived) as connection:
            connection.execute("UPDATE event SET time = 'noon' WHERE id = 'p1'")
        connection.close()
        sub = bus.subscription("read").start()
        wait_until(
            lambda: sub.state.startswith(
                "waiting for the store: the store is damaged: row 1 of its table event"
            )
        )
        assert (
            "nothing can be received: the store is damaged: row 1"
            in bus.doctor().set_index("check").loc["store", "finding"]
        )

        with sqlite3.connect(lived) as connection:
            connection.execute(
                "UPDATE event SET time = '2026-01-01T00:00:00+00:00' WHERE id = 'p1'"
            )
        connection.close()
        assert bus.wait(timeout_s=60, progress=False)

        assert list(sub.invocations()["outcome"].astype(str)) == ["succeeded"] * 2
        assert list(sub.invocations()["attempt"]) == [1, 1]
