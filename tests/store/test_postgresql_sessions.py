"""The sessions of a bus on PostgreSQL: limits of an administrator, stopped and forked processes,
Ctrl-C, too many of them, and their end.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import Child, asked, locked, raw, schema_of, sessions
from shared import in_threads, is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.store.postgresql import store as module
from mltrigger.urls import existing

PAUSED_S = 5
"""The server ends the transaction of a stopped process after so long."""


def twice(n: int) -> int:
    return 2 * n


def named(url: str) -> tuple[str, str]:
    """Return *url* with a program's name of its own, and the name."""
    name = f"mlt_{uuid.uuid4().hex[:12]}"
    return f"{url}&application_name={name}", name


# -- limits of time ------------------------------------------------------------------------------


@pytest.fixture
def hurried(postgres: Postgres, unmade: str) -> Iterator[str]:
    """The URL of a user whose administrator lets nothing take long, and no transaction write."""
    role, schema = f"r{uuid.uuid4().hex[:12]}", schema_of(unmade)
    limits = {
        "statement_timeout": "200ms",
        "lock_timeout": "100ms",
        "idle_in_transaction_session_timeout": "1s",
        "idle_session_timeout": "300ms",
        "transaction_timeout": "500ms",
        "default_transaction_isolation": "serializable",
        "standard_conforming_strings": "off",
        "synchronous_commit": "off",
    }
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE ROLE {role} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {role}")
        for name, value in limits.items():
            session.execute(f"ALTER ROLE {role} SET {name} TO '{value}'")
    yield unmade.replace("app@", f"{role}@")
    postgres.forget(schema)
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
        session.execute(f"DROP ROLE {role}")


def test_limits_of_an_administrator_do_not_end_a_writer_that_waits_for_another(
    hurried: str,
) -> None:
    with mt.connect(hurried) as bus:
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
        bus.publish("numbers", 1)
        receipts: list[mt.Receipt] = []
        waiting = threading.Thread(target=lambda: receipts.append(bus.publish("numbers", 2)))
        as_owner = hurried.replace(hurried.split("@")[0], "postgresql://app")

        with locked(as_owner):
            waiting.start()
            waiting.join(1.2)
            assert waiting.is_alive()
        waiting.join(20)
        bus.publish("numbers", 3)
        wait_until(lambda: is_settled(sub))

        assert [receipt.duplicate for receipt in receipts] == [False]
        assert sorted(sub.results()["output"]) == [2, 4, 6]
        assert bus.audit()["balanced"].all()
        assert bus._store.sessions.open().execute("SHOW transaction_timeout").fetchone() == ("0",)  # type: ignore[attr-defined]


# -- a stopped process ---------------------------------------------------------------------------

STOPPED = """
import sys
import mltrigger as mt

bus = mt.connect(sys.argv[1])
store = bus._store
with store.transaction() as transaction:
    transaction.query("SELECT 1", {})
    print("inside", flush=True)
    sys.stdin.readline()
    try:
        transaction.execute("INSERT INTO topic (name, created_us) VALUES ('late', 1)", {})
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


def test_writers_wait_only_a_few_seconds_for_a_stopped_process_and_it_writes_nothing_late(
    team: str,
) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        stopped = Child(STOPPED, team)
        stopped.says("inside")
        stopped.signal(signal.SIGSTOP)
        began = time.monotonic()

        receipt = bus.publish("numbers", 1)

        assert 1 < time.monotonic() - began < PAUSED_S + 10
        stopped.signal(signal.SIGCONT)
        stopped.tell()
        assert stopped.says() != ""
        _, err = stopped.process.communicate(timeout=60)
        assert "StoreError" in err
        assert asked(team, "SELECT name FROM topic") == [("numbers",)]
        assert bus.events("numbers")["event_id"].tolist() == [receipt.event_id]


def test_publish_of_a_process_that_was_stopped_is_repeated_by_itself(team: str) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        ended: list[int] = []
        real = bus._store._transaction  # type: ignore[attr-defined]

        def slowly() -> object:
            if not ended:  # as a pause does: the server ends the session in the meantime
                ended.append(bus._store._writer.info.backend_pid)  # type: ignore[attr-defined]
                asked(team, "SELECT pg_terminate_backend(%s, 5000)", ended[0])
            return real()

        bus._store._transaction = slowly  # type: ignore[attr-defined]

        receipt = bus.publish("numbers", 1)

        assert ended
        assert not receipt.duplicate
        assert len(bus.events("numbers")) == 1


# -- forks and Ctrl-C ----------------------------------------------------------------------------

FORKS = """
import multiprocessing, os, sys, threading
import mltrigger as mt

bus = mt.connect(sys.argv[1])
sub = bus.subscribe("numbers", mt.model(lambda n: 2 * n, name="twice", version="1.0.0"))
bus.publish("numbers", 0)
bus.events("numbers")  # a child of a process that imports pandas would wait for it for ever
stop = threading.Event()

def busy():
    while not stop.is_set():
        bus.publish("numbers", 1)
        len(bus.events("numbers", limit=3))

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()

def in_child(n):
    bus.publish("numbers", n)
    assert len(bus.events("numbers"))
    assert bus.subscription("twice").depth() is not None

children = []
for n in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            in_child(100 + n)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(pid)
process = multiprocessing.get_context("fork").Process(target=in_child, args=(200,))
process.start()
codes = [os.waitpid(pid, 0)[1] for pid in children]
process.join()
stop.set()
for thread in threads:
    thread.join()
bus.publish("numbers", 300)
found = {event for event in bus.events("numbers", limit=None)["data"]}
print(codes, process.exitcode, {"100", "101", "102", "103", "200", "300"} <= found, flush=True)
bus.close()
"""


def test_forked_children_of_a_busy_process_publish_and_read_beside_it(team: str) -> None:
    child = Child(FORKS, team)

    assert child.ends() == "[0, 0, 0, 0] 0 True\n"

    with mt.connect(team) as bus:
        wait_until(lambda: bus.subscription("twice").depth().in_flight == 0)
        assert bus.audit()["balanced"].all()


INTERRUPTED = """
import random, signal, sys, time
import pandas  # an import that is interrupted stays half done
import mltrigger as mt

bus = mt.connect(sys.argv[1])
bus.topic("numbers")
published, interrupted = [], 0
chance = random.Random(7)

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
for n in range(60):
    event = mt.Event(n, id=f"e{n}")
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.012))
    try:
        bus.publish("numbers", event)
        len(bus.events("numbers"))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    receipt = bus.publish("numbers", event)
found = bus.events("numbers")["event_id"].tolist()
print(sorted(found) == sorted(f"e{n}" for n in range(60)), interrupted > 5, flush=True)
bus.close()
"""


def test_interrupt_at_any_moment_leaves_a_usable_bus_and_no_event_twice(team: str) -> None:
    assert Child(INTERRUPTED, team).ends() == "True True\n"


def test_interrupt_while_it_waits_for_another_writer_comes_at_once(team: str) -> None:
    child = Child(
        """
        import sys
        import mltrigger as mt

        bus = mt.connect(sys.argv[1])
        bus.topic("numbers")
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            bus.publish("numbers", mt.Event(1, id="one"))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        sys.stdin.readline()
        print(bus.publish("numbers", mt.Event(1, id="one")).duplicate, flush=True)
        bus.close()
        """,
        team,
    )
    child.says("ready")
    with locked(team):
        child.tell()
        wait_until(
            lambda: asked(
                team,
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND wait_event = 'advisory' AND query LIKE %s",
                "%pg_advisory_xact_lock%",
            )
        )
        child.signal(signal.SIGINT)
        child.says("interrupted")
    child.tell()

    assert child.ends() == "False\n"


# -- how many ------------------------------------------------------------------------------------


def test_process_keeps_at_most_eight_sessions_however_many_threads_it_has(team: str) -> None:
    url, name = named(team)
    with mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"), max_concurrency=4)

        def both(n: int) -> None:
            for _ in range(5):
                bus.publish("numbers", n)
                bus.events("numbers", limit=1)

        in_threads(both, 16)
        wait_until(lambda: is_settled(sub))

        assert 3 <= len(sessions(team, name)) <= 8


def test_full_server_is_waited_for_and_an_error_says_what_to_do(
    postgres: Postgres, unmade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"r{uuid.uuid4().hex[:12]}"
    url = unmade.replace("app@", f"{role}@")
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 8")
        owner.execute(f"CREATE SCHEMA {schema_of(unmade)} AUTHORIZATION {role}")
        taken = [psycopg.connect(url.partition("?")[0]) for _ in range(8)]
        monkeypatch.setattr(module, "BUSY_S", 0.3)

        with pytest.raises(mt.StoreError, match=r"too many connections.*max_connections"):
            mt.connect(url)

        monkeypatch.setattr(module, "BUSY_S", 30.0)
        later = threading.Timer(0.5, lambda: [session.close() for session in taken])
        later.start()
        with mt.connect(url) as bus:
            bus.topic("numbers")
        later.join()
        owner.execute(f"DROP SCHEMA {schema_of(unmade)} CASCADE; DROP ROLE {role}")


# -- the end -------------------------------------------------------------------------------------


def ours() -> set[threading.Thread]:
    """Return the threads of mltrigger. A test before may have left some that end just now."""
    return {t for t in threading.enumerate() if t.name.startswith("mltrigger")}


def test_closed_bus_has_neither_sessions_nor_threads(team: str) -> None:
    before, (url, name) = ours(), named(team)
    bus = mt.connect(url)
    sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
    bus.publish("numbers", 1)
    wait_until(lambda: outcomes(sub) == ["succeeded"])
    assert sessions(team, name)

    bus.close()

    wait_until(lambda: sessions(team, name) == [], 5)
    assert ours() <= before


def test_bus_without_its_server_closes_soon_and_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = Postgres("-c", "fsync=off")
    try:
        before = ours()
        bus = mt.connect(server.dsn("postgres"))
        sub = bus.subscribe("numbers", mt.model(twice, version="1.0.0"))
        bus.publish("numbers", 1)
        wait_until(lambda: outcomes(sub) == ["succeeded"])
        server.end()
        began = time.monotonic()

        bus.close(drain_s=0.5)

        assert time.monotonic() - began < 8
        wait_until(lambda: ours() <= before, 5)
        assert capfd.readouterr() == ("", "")
    finally:
        server.stop()


def test_session_that_is_closed_between_two_calls_is_replaced(team: str) -> None:
    url, name = named(team)
    with mt.connect(url) as bus:
        bus.topic("numbers")
        for n in range(5):
            bus.publish("numbers", n)
            assert len(bus.events("numbers")) == n + 1
            with raw(team) as owner:
                for pid in sessions(team, name):
                    owner.execute("SELECT pg_terminate_backend(%s, 2000)", [pid])

        assert len(bus.events("numbers")) == 5


def test_url_without_a_host_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """``postgresql:///ml`` is a database of this machine."""
    monkeypatch.delenv("MLTRIGGER_LOG", raising=False)
    assert existing("postgresql:///ml") == "postgresql:///ml"
    monkeypatch.setenv("MLTRIGGER_LOG", "postgresql:///ml?schema=a")
    assert existing("aws://eu-west-1/a") == "aws://eu-west-1/a"
