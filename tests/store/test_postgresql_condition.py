"""What a bus on PostgreSQL knows of itself and its server: its name, who can open it, the doctor's
findings.
"""

from __future__ import annotations

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import Child, raw
from stores import SQL, url_of

import mltrigger as mt
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


def test_doctor_works_for_a_user_who_sees_no_other_sessions(team: str, postgres: Postgres) -> None:
    schema = team.partition("schema=")[2]
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
        mt.connect(team).close()
        session.execute(f"CREATE ROLE r_{schema} LOGIN")
        session.execute(f"GRANT USAGE ON SCHEMA {schema} TO r_{schema}")
        session.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO r_{schema}")
        session.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO r_{schema}")
        try:
            with mt.connect(team.replace("app@", f"r_{schema}@")) as bus:
                assert bus.doctor()["check"].tolist() == ["all"]
        finally:
            session.execute(f"DROP OWNED BY r_{schema}; DROP ROLE r_{schema}")
