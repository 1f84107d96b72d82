"""An upgrade of the schema in PostgreSQL: by its owner, alone, and older workers are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from databases import Postgres
from shared import in_threads, wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.store import tables
from mltrigger.store.postgresql.place import parts_of
from mltrigger.store.postgresql.upgrade import upgrade

NEXT = tables.VERSION + 1
STEP = {
    tables.VERSION: ["ALTER TABLE event ADD COLUMN colour text", "CREATE TABLE shade (n bigint)"]
}


@pytest.fixture
def server(team: str) -> Iterator[psycopg.Connection]:
    """A session beside the bus, which has made its schema."""
    mt.connect(team).close()
    address, schema = parts_of(team)
    with psycopg.connect(address, autocommit=True) as session:
        session.execute(f"SET search_path TO {schema}")
        yield session


@pytest.fixture
def role(server: psycopg.Connection, team: str) -> Iterator[str]:
    """The URL of a role that may use the schema, and does not own it."""
    name = f"role_{parts_of(team)[1]}"[:60]
    server.execute(f"CREATE ROLE {name} LOGIN")
    server.execute(f"GRANT USAGE ON SCHEMA {parts_of(team)[1]} TO {name}")
    server.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {parts_of(team)[1]} TO {name}")
    yield team.replace("app@", f"{name}@")
    server.execute(f"DROP OWNED BY {name}")
    server.execute(f"DROP ROLE {name}")


def version(server: psycopg.Connection) -> int:
    ((found,),) = server.execute("SELECT version FROM schema_version").fetchall()
    return int(found)


def test_steps_run_in_one_transaction_and_what_they_make_belongs_to_the_owner(
    team: str, server: psycopg.Connection
) -> None:
    assert upgrade(team, STEP, NEXT) == (tables.VERSION, NEXT, "app")

    assert version(server) == NEXT
    assert server.execute("SELECT colour FROM event").fetchall() == []
    assert upgrade(team, STEP, NEXT) == (NEXT, NEXT, "app")  # again: nothing to do


def test_a_step_that_fails_changes_nothing(team: str, server: psycopg.Connection) -> None:
    wrong = {tables.VERSION: [*STEP[tables.VERSION], "ALTER TABLE nowhere ADD COLUMN n bigint"]}

    with pytest.raises(mt.StoreError, match=r"nowhere.*nothing was changed"):
        upgrade(team, wrong, NEXT)

    assert version(server) == tables.VERSION
    assert server.execute("SELECT to_regclass('shade')").fetchone() == (None,)
    with pytest.raises(mt.StoreError, match=f"no way from schema version {tables.VERSION} to"):
        upgrade(team, {}, NEXT)


def test_a_worker_that_runs_is_refused_from_the_upgrade_on(team: str) -> None:
    with mt.connect(team) as bus:
        bus.topic("numbers")
        bus.publish("numbers", 1)

        upgrade(team, STEP, NEXT)

        with pytest.raises(mt.StoreError, match=f"has schema version {NEXT}.*upgrade mltrigger"):
            bus.publish("numbers", 2)
        with pytest.raises(mt.StoreError, match=f"has schema version {NEXT}.*upgrade mltrigger"):
            mt.connect(team)


def test_a_listener_that_runs_begins_nothing_more(team: str, server: psycopg.Connection) -> None:
    called: list[int] = []
    with mt.connect(team) as bus:
        sub = bus.subscribe("numbers", mt.model(called.append, name="m", version="1.0.0"))
        bus.fire("numbers", [1], progress=False)
        upgrade(team, STEP, NEXT)
        # as a publisher of the new release has left it
        server.execute(
            "INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, data)"
            " SELECT 2, topic_id, id || id, source_id, type_id, published_us, lag_us, data"
            " FROM event"
        )
        bus.broker.wake(bus.spec("m"))
        wait_until(lambda: "schema version" in sub.state)

    assert called == [1]


def test_a_writer_that_waits_for_the_upgrade_finds_the_new_version(
    team: str, server: psycopg.Connection
) -> None:
    """It has asked for the lock before the version has changed."""
    schema = parts_of(team)[1]
    with mt.connect(team) as bus:
        with server.transaction():
            server.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('mltrigger ' || %s, 0))", [schema]
            )
            refused: list[str] = []

            def write() -> None:
                with pytest.raises(mt.StoreError) as error:
                    bus.topic("numbers")
                refused.append(str(error.value))

            writer = threading.Thread(target=write)
            writer.start()
            wait_until(
                lambda: server.execute(
                    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                ).fetchone()
            )
            server.execute("UPDATE schema_version SET version = %s", [NEXT])
        writer.join(60)

    assert f"has schema version {NEXT}" in refused[0]


def test_only_the_owner_upgrades(team: str, role: str, server: psycopg.Connection) -> None:
    with pytest.raises(mt.StoreError, match=r"belongs to the role 'app', and this is 'role_"):
        upgrade(role, STEP, NEXT)

    assert version(server) == tables.VERSION


def test_a_member_of_the_owner_upgrades_as_the_owner(
    team: str, role: str, server: psycopg.Connection
) -> None:
    member = role.partition("://")[2].partition("@")[0]
    server.execute(f"GRANT app TO {member}")

    assert upgrade(role, STEP, NEXT).owner == "app"

    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'shade' AND schemaname = %s"
    assert server.execute(owner, [parts_of(team)[1]]).fetchone() == ("app",)


def test_a_long_read_ends_the_upgrade_and_not_the_writers(
    team: str, server: psycopg.Connection
) -> None:
    with mt.connect(team) as bus:
        with server.transaction():
            server.execute("SELECT count(*) FROM event")
            with pytest.raises(mt.StoreError, match="somebody has read a table of it"):
                upgrade(team, STEP, NEXT, patience_s=0.05)
        bus.topic("numbers")

    assert version(server) == tables.VERSION


def test_two_upgrades_at_once_are_one(team: str, server: psycopg.Connection) -> None:
    found: list[tuple[int, int]] = []

    in_threads(lambda _: found.append(upgrade(team, STEP, NEXT)[:2]), 4)

    assert sorted(found) == [(tables.VERSION, NEXT), *[(NEXT, NEXT)] * 3]


def test_a_schema_that_is_not_there_is_not_made(unmade: str, postgres: Postgres) -> None:
    with pytest.raises(mt.StoreError, match="has no schema 'test_"):
        upgrade(unmade)

    with psycopg.connect(postgres.dsn("postgres")) as session:
        found = session.execute(
            "SELECT 1 FROM pg_namespace WHERE nspname = %s", [parts_of(unmade)[1]]
        )
        assert found.fetchone() is None


def test_the_command_says_that_there_is_nothing_to_do(
    team: str, server: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["postgres", "upgrade", team]) == 0
    assert f"schema version {tables.VERSION} is that of this release" in capsys.readouterr().out

    assert cli.main(["postgres", "upgrade", "sqlite:///bus.db"]) == 1
    assert "only a schema of PostgreSQL" in capsys.readouterr().err


def test_an_older_schema_names_the_command(team: str, server: psycopg.Connection) -> None:
    server.execute("UPDATE schema_version SET version = version - 1")

    with pytest.raises(mt.StoreError, match="its owner calls `mltrigger postgres upgrade`"):
        mt.connect(team)
