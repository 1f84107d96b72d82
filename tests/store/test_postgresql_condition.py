"""What a bus on PostgreSQL knows of itself and its server: its name, who can open it, the doctor's
findings.
"""

from __future__ import annotations

import time

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import Child, asked, raw
from stores import SQL, url_of

import mltrigger as mt
from mltrigger.cli import main
from mltrigger.store.postgresql import condition

HOME = """
import sys
import mltrigger as mt
with mt.connect(sys.argv[1]) as bus:
    print(bus.log.home)
"""


@pytest.mark.parametrize("url", SQL, indirect=True)
def test_two_processes_have_one_home_and_two_stores_have_two(url: str) -> None:
    with mt.connect(url) as bus, mt.connect("memory://") as other:
        if bus._store.is_shared:
            assert Child(HOME, url).ends() == f"{bus.log.home}\n"

        assert bus.log.home != other.log.home


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request)


def test_home_differs_by_schema_and_holds_no_password(
    team: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hush")
    with mt.connect(team) as bus, mt.connect(postgres.dsn("postgres")) as other:
        assert bus.log.home != other.log.home
        assert "hush" not in bus.log.home
        assert str(postgres.port) in bus.log.home


def test_fire_names_the_worker_that_may_deliver_from_another_machine(team: str) -> None:
    with mt.connect(team) as bus:
        bus.subscribe("words", "builtins:len", name="length", listen=False)

        with pytest.warns(UserWarning, match="`mltrigger worker --subscription length`"):
            bus.fire("words", ["word"], timeout_s=0, progress=False)


def test_doctor_says_nothing_of_files_where_there_is_a_server(team: str) -> None:
    with mt.connect(team) as bus:
        assert bus.doctor()["check"].tolist() == ["all"]


def test_doctor_names_who_keeps_a_transaction_open(
    team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "LONG_S", 0)
    with mt.connect(team) as bus, raw(team, application_name="notes of <b>Ada") as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")

        found = bus.doctor().set_index("check").loc["open transaction"]

        assert found.severity == "warning"
        assert f"session {session.info.backend_pid} of user 'app'" in found.finding
        assert "'notes of <b>Ada' does nothing in" in found.finding
        assert "UTC" in found.finding
        assert f"pg_terminate_backend({session.info.backend_pid})" in found.advice

        session.execute("COMMIT")
        assert "open transaction" not in bus.doctor()["check"].tolist()


def test_doctor_leaves_short_transactions_alone(team: str) -> None:
    with mt.connect(team) as bus, raw(team) as session, session.transaction():
        session.execute("SELECT 1")

        assert "open transaction" not in bus.doctor()["check"].tolist()


def test_doctor_counts_the_sessions_of_the_server(
    team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(condition, "FULL", 0.0)
    with mt.connect(team) as bus:
        found = bus.doctor().set_index("check").loc["sessions"]

        assert "of 200 sessions of the server are open" in found.finding
        assert "max_connections" in found.advice


def test_doctor_works_for_a_user_who_sees_no_other_sessions(team: str) -> None:
    schema = team.partition("schema=")[2]
    with psycopg.connect(team.partition("?")[0], autocommit=True) as session:
        session.execute(f"CREATE ROLE r_{schema} LOGIN")
        session.execute(f"GRANT USAGE ON SCHEMA {schema} TO r_{schema}")
        session.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO r_{schema}")
        session.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO r_{schema}")
        try:
            with mt.connect(team.replace("app@", f"r_{schema}@")) as bus:
                assert bus.doctor()["check"].tolist() == ["all"]
        finally:
            session.execute(f"DROP OWNED BY r_{schema}; DROP ROLE r_{schema}")


def test_lane_is_not_beyond_its_limit_because_a_crash_left_a_gap_in_the_numbers(team: str) -> None:
    with mt.connect(team) as bus:
        sub = bus.subscribe("words", "builtins:len", name="length", listen=False)
        sub.shadow("builtins:sorted")
        bus.publish("words", "one")
        asked(team, "SELECT setval('event_seq', last_value + 3000000) FROM event_seq")
        bus.publish("words", "two")

        assert "2 left" in repr(sub.lanes())
        assert "lane" not in bus.doctor()["check"].tolist()


# -- a server that does not let us in ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("/test_", "/nowhere_"), "make it with CREATE DATABASE"),
        (("app@", "stranger@"), "name a user of the server"),
        (("?", "?sslmode=require&"), "name another sslmode"),
        (("?", "?sslmode=wrong&"), 'invalid sslmode value: "wrong"; correct that word'),
        (("?schema", "?shema"), "?schema=name"),
        (("postgresql://", "postgres://"), "write postgresql://user@host/database"),
        (("postgresql://app@", "postgresql:/app:hush@"), "write postgresql://user@host/database"),
    ],
)
def test_wrong_url_is_refused_at_once_with_what_to_write_instead(
    team: str, change: tuple[str, str], said: str
) -> None:
    began = time.monotonic()
    with pytest.raises(mt.StoreError) as refused:
        mt.connect(team.replace(*change, 1))

    assert said in str(refused.value)
    assert "127.0.0.1" not in str(refused.value)
    assert "hush" not in str(refused.value)
    assert time.monotonic() - began < 5


def test_command_makes_no_schema_from_a_typo(team: str, capsys: pytest.CaptureFixture[str]) -> None:
    with mt.connect(team):
        typo = f"{team[:-1]}_"

        assert main(["doctor", "--url", typo]) == 1
        assert f"no bus in the schema '{typo.partition('schema=')[2]}'" in capsys.readouterr().err
        assert main(["doctor", "--url", team]) == 0
    there = asked(team, "SELECT nspname FROM pg_namespace")
    assert (typo.partition("schema=")[2],) not in there


def test_views_show_an_outage_at_once_and_end_with_it() -> None:
    server = Postgres("-c", "fsync=off")
    try:
        with mt.connect(server.dsn("postgres")) as bus:
            sub = bus.subscribe("words", "builtins:len", name="length")
            server.end()
            began = time.monotonic()

            for shown in (repr(bus), repr(sub), bus._repr_html_(), sub._repr_html_()):
                assert "no connection to the server" in shown
                assert "start the server" in shown
            assert sub.state.startswith(("listening", "waiting for the store"))
            found = bus.doctor().set_index("check").loc["server"]
            assert found.advice.startswith("start the server")
            assert time.monotonic() - began < 10

            server.start()
            assert bus.fire("words", ["word"], progress=False).results()["output"].tolist() == [4]
            assert "1 succeeded" in repr(sub)
    finally:
        server.stop()
