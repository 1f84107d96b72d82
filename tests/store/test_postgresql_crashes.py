"""A PostgreSQL server that restarts, crashes, loses sessions, fills its disk, or moves its clock:
nothing that has a receipt is lost, nothing is final twice, and all go on by themselves.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import (
    Child,
    Proxy,
    asked,
    backend,
    fast,
    immediate,
    locked,
    postmaster,
    raw,
)
from shared import in_threads, is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.store.postgresql import store as module

HELPERS = Path(__file__).parents[1] / "helpers"
Sample = Callable[[list[Any], int], list[Any]]


@pytest.fixture(scope="module")
def durable() -> Iterator[Postgres]:
    """A server that waits for its disk, and that tests may kill."""
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def url(durable: Postgres, request: pytest.FixtureRequest) -> str:
    if durable.process is None or durable.process.poll() is not None:
        durable.start()
    return f"{durable.dsn('postgres')}?schema=t{abs(hash(request.node.name)):x}"[:120]


def twice(n: int) -> int:
    return 2 * n


# -- kills in the middle of commits --------------------------------------------------------------

PUBLISHES = """
import itertools, json, sys, threading, time
import mltrigger as mt

bus, who = mt.connect(sys.argv[1]), sys.argv[2]
stop, wrong = threading.Event(), []

def publish(thread):
    for n in itertools.count():
        if stop.is_set():
            return
        events = [mt.Event(n, id=f"{who}-{thread}-{n}-{k}") for k in range(1 + n % 3)]
        while True:
            try:
                receipts = bus.publish_batch("numbers", events)
                break
            except mt.StoreError as error:
                wrong.append(str(error))
                time.sleep(0.05)
        for receipt in receipts:
            sys.stdout.write(f"{receipt.event_id}\\n")
        sys.stdout.flush()

threads = [threading.Thread(target=publish, args=(n,)) for n in range(3)]
for thread in threads:
    thread.start()
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
bus.close()
print("errors", json.dumps(wrong[:3]))
"""
WORKS = """
import sys
import mltrigger as mt

bus = mt.connect(sys.argv[1])
sub = bus.subscribe("numbers", mt.model(lambda n: 2 * n, name="twice", version="1.0.0"), lease_s=3, timeout_s=2)
print("listening", flush=True)
sys.stdin.readline()
state = sub.state
bus.close()
print(state)
"""


KILLS = (
    *(backend, fast, immediate, postmaster),
    *(postmaster, backend, fast, immediate),
    *(immediate, postmaster, backend, fast),
)
"""Three of them without ``--slow``: every fourth."""


def test_server_that_is_killed_in_the_middle_of_commits_loses_nothing_that_has_a_receipt(
    durable: Postgres, url: str, sample: Sample
) -> None:
    kills = sample(KILLS, 4)
    with mt.connect(url) as bus:
        bus.topic("numbers")
    workers = [Child(WORKS, url) for _ in range(2)]
    for worker in workers:
        worker.says("listening")
    publishers = [Child(PUBLISHES, url, name) for name in "ab"]
    receipts: list[list[str]] = [[], []]

    def collect(n: int) -> None:
        stdout = publishers[n].process.stdout
        assert stdout is not None
        receipts[n].extend(line.strip() for line in stdout)

    readers = [threading.Thread(target=collect, args=(n,)) for n in range(2)]
    for reader in readers:
        reader.start()
    chance = random.Random(len(kills))
    for kill in kills:
        before = [len(got) for got in receipts]
        wait_until(lambda b=before: all(len(r) > n + 10 for r, n in zip(receipts, b, strict=True)))
        threading.Event().wait(chance.uniform(0, 0.3))
        kill(durable)
    before = [len(got) for got in receipts]
    wait_until(lambda: all(len(r) > n + 10 for r, n in zip(receipts, before, strict=True)))
    for publisher in publishers:
        publisher.tell()
    for reader, publisher in zip(readers, publishers, strict=True):
        reader.join(60)
        assert publisher.process.wait(timeout=60) == 0
        assert publisher.process.stderr is not None
        assert publisher.process.stderr.read() == ""

    with mt.connect(url) as bus:
        sub = bus.subscription("twice")
        wait_until(lambda: is_settled(sub), 60)
        balance = bus.audit().iloc[0]
    assert [worker.ends() for worker in workers] == ["listening\n"] * 2
    confirmed = {line for got in receipts for line in got if not line.startswith("errors")}
    there = asked(
        url,
        "SELECT event_id(e.id), (SELECT count(*) FROM final f WHERE f.seq = e.seq) FROM event e",
    )
    assert confirmed <= {event_id for event_id, _ in there}, "a receipt, and no event"
    assert {n for _, n in there} == {1}
    assert len({event_id for event_id, _ in there}) == len(there)
    assert balance["balanced"]
    assert (balance["open"], balance["missing"], balance["double"]) == (0, 0, 0)
    print(f"{len(kills)} kills, {len(there)} events")


def has_crashed(url: str) -> bool:
    """Whether the server is back, and no process has begun its new life."""
    try:
        return asked(url, "SELECT value FROM life") == []
    except psycopg.OperationalError:
        return False


def test_commits_that_a_crash_has_undone_are_noticed_although_later_ones_are_there(
    durable: Postgres, url: str
) -> None:
    """One is lost before its flush, one during the flush of another. A third one comes after the
    crash, and leaves a later mark.
    """
    store = module.PostgresStore(url.partition("?")[0], url.partition("schema=")[2])
    failed: dict[str, str] = {}

    def write(name: str) -> None:
        try:
            with store.transaction() as transaction:
                sql = "INSERT INTO topic (name, created_us) VALUES (:name, 1)"
                transaction.execute(sql, {"name": name})
        except mt.StoreError as error:
            failed[name] = str(error).partition(": ")[2]

    def begun(name: str) -> threading.Thread:
        thread = threading.Thread(target=write, args=(name,))
        thread.start()
        wait_until(lambda: asked(url, "SELECT 1 FROM topic WHERE name = %s", name))
        return thread

    write("first")
    flush, real = store._flush, store._flush._flush
    went_on = threading.Event()

    def late(up_to: int) -> None:  # when the server has crashed, and another has written
        assert went_on.wait(60)
        real(up_to)

    flush._flush = late  # type: ignore[method-assign]
    # the process that writes the log unasked: stopped, so that it flushes nothing, then killed
    ((writer,),) = asked(url, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
    os.kill(writer, signal.SIGSTOP)
    threads = [begun("lost"), begun("lost too")]
    os.kill(writer, signal.SIGKILL)
    wait_until(lambda: has_crashed(url))
    assert asked(url, "SELECT name FROM topic") == [("first",)], "the disk had it already"
    threads.append(threading.Thread(target=write, args=("kept",)))
    threads[-1].start()
    threads[-1].join(1)  # it may wait for the flush itself, as the first one of a new life
    went_on.set()
    for thread in threads:
        thread.join(60)
    store.close()

    told = (
        "the server ended before this was on its disk, and nothing of it is there; call again, with"
        " the same ids"
    )
    assert failed == {"lost": told, "lost too": told}
    assert asked(url, "SELECT name FROM topic ORDER BY name") == [("first",), ("kept",)]


def test_all_who_wait_for_a_server_that_is_away_give_up_at_the_same_time(
    durable: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mt.connect(url) as bus:
        bus.topic("numbers")
        monkeypatch.setattr(module, "BUSY_S", 1.0)
        durable.end()
        took_s: list[float] = []

        def fail(n: int) -> None:
            began = time.monotonic()
            with pytest.raises(mt.StoreError, match="no connection to the server"):
                bus.publish("numbers", n)
            with pytest.raises(mt.StoreError), bus._store.transaction():
                pass
            with pytest.raises(mt.StoreError):
                bus._store.make_durable()
            took_s.append(time.monotonic() - began)

        in_threads(fail, 12)
        durable.start()
        monkeypatch.undo()

        assert max(took_s) < 3 * 4
        assert bus.publish("numbers", 1).seq >= 1


READS: dict[str, Callable[[mt.EventBus], Any]] = {
    "invocations": lambda bus: bus.invocations(),
    "events": lambda bus: bus.events(),
    "audit": lambda bus: bus.audit(),
    "topics": lambda bus: bus.topics(),
    "trace": lambda bus: bus.trace("e1"),
    "explain": lambda bus: bus.explain("e1", "keyed"),
    "results": lambda bus: bus.subscription("keyed").results(),
    "depth": lambda bus: bus.subscription("keyed").depth(),
    "depth by key": lambda bus: bus.subscription("keyed").depth(by="key"),
}


def test_reads_without_a_server_end_with_one_sentence_under_a_short_traceback(
    durable: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mt.connect(url) as bus:
        model = mt.model(twice, name="keyed", version="1.0.0")
        bus.subscribe("numbers", model, key="tenant", listen=False)
        bus.publish("numbers", {"tenant": "a"}, id="e1")
        sub = bus.subscription("keyed")
        monkeypatch.setattr(bus, "subscription", lambda name: sub)  # it reads, too
        monkeypatch.setattr(module, "BUSY_S", 0.05)
        durable.end()
        lines: dict[str, list[str]] = {}
        for name, read in READS.items():
            with pytest.raises(mt.StoreError, match="no connection to the server") as raised:
                read(bus)
            lines[name] = traceback.format_exception(raised.value)
            assert raised.value.__cause__ is not None
            assert raised.value.__cause__.__traceback__ is None
            assert raised.value.__cause__.__cause__ is None
        durable.start()

        assert {n for n, text in lines.items() if len("".join(text).splitlines()) > 20} == set()
        assert {n for n, text in lines.items() if "start the server" not in text[-1]} == set()


def test_server_that_only_reads_is_refused_with_advice(
    durable: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.1)

    with pytest.raises(mt.StoreError, match=r"read-only.*name the server that leads"):
        mt.connect(f"{url}&options=-c%20default_transaction_read_only%3Don")


# -- a cut around COMMIT -------------------------------------------------------------------------


@pytest.fixture
def proxied(durable: Postgres, url: str) -> Iterator[tuple[str, Proxy]]:
    proxy = Proxy(durable.port)
    yield url.replace(f":{durable.port}/", f":{proxy.port}/"), proxy
    proxy.close()


@pytest.mark.parametrize("where", ["before", "after"])
def test_publish_whose_session_is_cut_at_its_commit_has_a_receipt_and_one_event(
    proxied: tuple[str, Proxy], url: str, where: str
) -> None:
    address, proxy = proxied
    with mt.connect(address) as bus:
        bus.topic("numbers")
        for n in range(5):
            proxy.cut(where, lambda data: b"INSERT INTO mark" in data)

            receipt = bus.publish("numbers", mt.Event(n, id=f"e{n}"))

            assert (receipt.event_id, receipt.duplicate) == (f"e{n}", False)
        assert proxy.cuts == 5
        assert asked(url, "SELECT count(*) FROM event") == [(5,)]
        assert asked(url, "SELECT count(*) FROM repeat") == [(0,)]


@pytest.mark.parametrize("where", ["before", "after"])
def test_outcomes_whose_sessions_are_cut_at_their_commits_are_there_exactly_once(
    proxied: tuple[str, Proxy], url: str, where: str
) -> None:
    address, proxy = proxied
    with mt.connect(address) as bus, mt.connect(url) as other:
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"), lease_s=2, timeout_s=1)
        for n in range(4):
            proxy.cut(where, lambda data: b"INSERT INTO outcome" in data)
            other.publish("numbers", n)
            wait_until(lambda n=n: outcomes(sub).count("succeeded") == n + 1)
        wait_until(lambda: is_settled(sub))

        assert proxy.cuts == 4
        assert sorted(sub.results()["output"]) == [0, 2, 4, 6]
        balance = bus.audit().iloc[0]
        assert balance["balanced"]
        assert (balance["succeeded"], balance["double"]) == (4, 0)
        assert sub.state == "listening"


# -- several hosts -------------------------------------------------------------------------------


def test_bus_of_several_hosts_follows_the_one_that_leads(durable: Postgres, url: str) -> None:
    second = Postgres("-c", "fsync=off", "-c", "default_transaction_read_only=on")
    try:
        hosts = f"127.0.0.1:{second.port},127.0.0.1:1,127.0.0.1:{durable.port}"
        address = url.replace(f"127.0.0.1:{durable.port}", hosts)
        with mt.connect(address) as bus:
            sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
            bus.publish("numbers", 1)
            wait_until(lambda: outcomes(sub) == ["succeeded"])

            durable.end()
            threading.Timer(0.5, durable.start).start()
            receipt = bus.publish("numbers", 2)

            assert not receipt.duplicate
            wait_until(lambda: outcomes(sub) == ["succeeded"] * 2)
    finally:
        second.stop()


# -- the disk ------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Postgres, Path]]:
    """A server with little room for tables: a disk in memory, of 8 MB more than it needs."""
    server = Postgres("-c", "max_wal_size=64MB", "-c", "autovacuum=off")
    server.end()
    log, disk = server.data / "pg_wal", server.data / "base"
    for folder, size in ((disk, "64m"),):
        kept = server.home / f"kept-{folder.name}"
        shutil.move(folder, kept)
        folder.mkdir(mode=0o700)
        if server.user is not None:
            os.chown(folder, server.user, server.user)
        options = f"size={size},mode=0700,uid={server.user or os.getuid()}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
    assert log.is_dir()
    try:
        server.start()
        yield server, disk
    finally:
        if server.process is not None and server.process.poll() is None:
            server.end()
        subprocess.run(["umount", str(disk)], check=False)
        server.stop()


@pytest.mark.needs("mounts")
def test_full_disk_of_the_server_is_named_and_nothing_is_stored_until_there_is_room(
    small: tuple[Postgres, Path],
) -> None:
    server, disk = small
    url = server.dsn("postgres")
    with mt.connect(url) as bus:
        sub = bus.subscribe("texts", mt.model(len, name="length", version="1.0.0"))
        bus.publish("texts", "short")
        wait_until(lambda: outcomes(sub) == ["succeeded"])
        ballast = disk / "ballast"
        room = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(room - 3_000_000))
        refused, stored = [], [1]
        for n in range(200):
            events = [
                mt.Event(random.Random(n).randbytes(60_000).hex(), id=f"{n}-{k}") for k in range(3)
            ]
            try:
                bus.publish_batch("texts", events)
                stored.append(3)
            except mt.StoreError as error:
                refused.append((events, str(error)))
                if len(refused) == 3:
                    break

        assert len(refused) == 3
        assert all("server's disk; nothing of this call was stored" in said for _, said in refused)
        assert len(bus.events("texts")) == sum(stored)
        ballast.unlink()
        for events, _ in refused:
            assert [r.duplicate for r in bus.publish_batch("texts", events)] == [False] * 3
        wait_until(lambda: is_settled(sub))
        assert bus.audit()["balanced"].all()
        assert sub.state == "listening"


# -- clocks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wall_clock(durable: Postgres) -> Path:
    library = durable.home / "wall_clock.so"  # where the user of the server may read it
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-o", library, HELPERS / "wall_clock.c", "-ldl"],
        check=True,
    )
    return library


CLOCKED = """
import json, sys, time
import mltrigger as mt

bus = mt.connect(sys.argv[1])
receipt = bus.publish("numbers", 1)
bus.publish("numbers", mt.Event(2, id="later"), delay_s=0.5)
print(json.dumps(time.time()))
bus.close()
"""


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("ahead_s", [400 * 86_400, -400 * 86_400])
def test_wall_clock_of_a_machine_does_not_matter(url: str, wall_clock: Path, ahead_s: int) -> None:
    with mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
        child = Child(CLOCKED, url, LD_PRELOAD=str(wall_clock), AHEAD_S=str(ahead_s))

        its_time_s = json.loads(child.ends())

        assert abs(its_time_s - time.time() - ahead_s) < 600
        wait_until(lambda: is_settled(sub) and len(sub.results()) == 2, 20)
        ((server_us, least, most),) = asked(
            url,
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,"
            " min(published_us), max(published_us) FROM event",
        )
        assert server_us - 60_000_000 < least <= most <= server_us


@pytest.mark.needs("gcc")
def test_delays_end_and_nothing_waits_for_ever_after_the_clock_of_the_server_is_set_back(
    durable: Postgres, url: str, wall_clock: Path
) -> None:
    with mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
        bus.publish("numbers", 1)
        wait_until(lambda: outcomes(sub) == ["succeeded"])
        bus.publish("numbers", 2, delay_s=2)

        durable.end()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LD_PRELOAD", str(wall_clock))
            environment.setenv("AHEAD_S", "-86400")
            durable.start()
        try:
            ((server_s,),) = asked(url, "SELECT extract(epoch FROM clock_timestamp())::bigint")
            assert server_s < time.time() - 80_000
            bus.publish("numbers", 3)
            wait_until(lambda: outcomes(sub) == ["succeeded"] * 3, 30)
            with mt.connect(url) as later:  # it follows the others, not the clock of the server
                later.publish("numbers", 4)
                later.publish("numbers", 5, delay_s=0.3)
                wait_until(lambda: outcomes(sub) == ["succeeded"] * 5, 30)
            published = [us for (us,) in asked(url, "SELECT published_us FROM event ORDER BY seq")]
            assert published == sorted(published)
        finally:
            immediate(durable)
        bus.publish("numbers", 6)
        wait_until(lambda: outcomes(sub) == ["succeeded"] * 6, 30)


# -- order ---------------------------------------------------------------------------------------

DAWDLES = """
import random, sys, time
import psycopg

address, schema, who = sys.argv[1:]
chance = random.Random(int(who))
with psycopg.connect(address, autocommit=True, options=f"-c search_path={schema}") as session:
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(25):
        with session.transaction():
            if chance.random() < 0.5:
                session.execute("SELECT pg_current_xact_id()")
            session.execute("SELECT pg_advisory_xact_lock(hashtextextended('mltrigger ' || %s, 0))", [schema])
            session.execute(
                "INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, data)"
                " VALUES (nextval('event_seq'), 1, event_key(%s), 1, 1, 1, 0, '1')",
                [f"{who}-{n}"],
            )
            time.sleep(chance.random() * 0.004)
"""


def test_cursor_passes_no_event_of_writers_that_commit_late(url: str) -> None:
    with mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        bus.publish("numbers", 0)
        schema = url.partition("schema=")[2]
        writers = [Child(DAWDLES, url.partition("?")[0], schema, str(n)) for n in range(4)]
        for writer in writers:
            writer.says("ready")
        with raw(url) as stranger, stranger.transaction():
            stranger.execute("SELECT pg_current_xact_id()")
            for writer in writers:
                writer.tell()
            for n in range(30):
                bus.publish("numbers", n)
            for writer in writers:
                writer.ends()
            wait_until(lambda: is_settled(sub) and len(outcomes(sub)) == 131)

        assert bus.audit()["balanced"].all()
        assert outcomes(sub) == ["succeeded"] * 131


def test_event_of_a_transaction_that_commits_late_is_not_passed_by(url: str) -> None:
    with mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        bus.publish("numbers", 0)
        wait_until(lambda: is_settled(sub))
        receipts: list[mt.Receipt] = []
        later = threading.Thread(target=lambda: receipts.append(bus.publish("numbers", 1)))
        with locked(url) as session:
            session.execute(
                "INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us,"
                " data) VALUES (nextval('event_seq'), 1, event_key('late'), 1, 1, 1, 0, '1')"
            )
            later.start()
            later.join(0.5)
            assert later.is_alive(), "a later number would be visible before an earlier one"
        later.join(30)

        assert [receipt.seq for receipt in receipts] == [3]
        wait_until(lambda: len(outcomes(sub)) == 3)
