"""Roles of a bus in PostgreSQL: each may do its work, and nothing else."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from cockpit import Front, Refused
from databases import Postgres
from shared import is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.cli import main
from mltrigger.store import tables
from mltrigger.store.postgresql.roles import (
    DEFINING,
    OWN,
    SEQUENCES,
    TABLES,
    VIEWS,
    columns_of,
    roles_sql,
)

pytest.importorskip("mltrigger.store.postgresql.place")
psycopg = pytest.importorskip("psycopg")

SCHEMA = "team_bus"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    server = Postgres("-c", "fsync=off")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def admin(server: Postgres) -> Iterator[mt.EventBus]:
    """A bus with the roles, and its administrator. Each role has a user of its name."""
    with mt.connect(_url(server, "app")):
        pass
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        for _ in range(2):
            session.execute(roles_sql(columns_of(tables.CREATE), SCHEMA, "acme"))
        for role in ("publisher", "worker", "analyst", "administrator"):
            session.execute(f"CREATE ROLE {role} LOGIN IN ROLE acme_{role}")
        session.execute("CREATE ROLE stranger LOGIN")
    with mt.connect(_url(server, "administrator")) as bus:
        yield bus


@pytest.fixture
def connect(server: Postgres, admin: mt.EventBus) -> Iterator[Callable[[str], mt.EventBus]]:
    opened: list[mt.EventBus] = []

    def as_(role: str) -> mt.EventBus:
        opened.append(mt.connect(_url(server, role)))
        return opened[-1]

    yield as_
    for bus in opened:
        bus.close(0)


def _url(server: Postgres, user: str) -> str:
    return f"{server.dsn('postgres').replace('app@', f'{user}@')}?schema={SCHEMA}"


def refused(server: Postgres, role: str, sql: str) -> bool:
    """Whether the server forbids *sql*."""
    with psycopg.connect(server.dsn("postgres").replace("app@", f"{role}@")) as session:
        try:
            session.execute(f"SET search_path TO {SCHEMA}; {sql}")
        except psycopg.errors.InsufficientPrivilege:
            return True
        return False


def judged(page: Any) -> Any:
    if page == {"page": 0}:
        raise ValueError("no such page")
    return page


def test_publisher_publishes_and_worker_delivers(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus]
) -> None:
    topic = "pages"
    sub = admin.subscribe(topic, judged, name="judge", listen=False, max_attempts=1, emit="answers")
    large = admin.subscribe(
        topic, judged, name="large", listen=False, filter={"page": [{"numeric": [">", 2]}]},
        filter_scope="body",
    )  # fmt: skip
    publisher, worker = connect("publisher"), connect("worker")
    publisher.publish(topic, {"page": 0}, id="first")
    assert publisher.publish(topic, {"page": 0}, id="first").duplicate
    publisher.publish_batch(topic, [{"page": n} for n in range(1, 5)])
    publisher.publish(topic, {"page": 9}, delay_s=0.2)
    with pytest.raises(mt.MltriggerError, match="postgres roles"):
        publisher.topic("another")

    _deliver(worker, "judge", "large")

    wait_until(lambda: is_settled(sub) and is_settled(large), timeout_s=60)
    assert sorted(outcomes(sub)) == ["dead", *["succeeded"] * 5]
    assert outcomes(large) == ["succeeded"] * 3
    assert admin.audit()["balanced"].all()


def _deliver(worker: mt.EventBus, *names: str) -> None:
    for name in names:
        worker.listen(worker.spec(name))


def seldom(n: int) -> int:
    """Fail once for each event, and have an effect."""
    mt.once("seen", str, n)
    if n not in SEEN:
        SEEN.add(n)
        raise mt.Retry(0.01)
    return n


SEEN: set[int] = set()


def test_worker_retries_records_effects_runs_lanes_and_prunes(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus]
) -> None:
    sub = admin.subscribe("numbers", seldom, name="seldom", listen=False)
    other = admin.register(seldom, name="seldom", version="2.0.0")
    publisher, worker = connect("publisher"), connect("worker")
    publisher.publish_batch("numbers", range(3))
    _deliver(worker, "seldom")
    wait_until(lambda: is_settled(sub), timeout_s=60)
    assert outcomes(sub).count("succeeded") == 3 and outcomes(sub).count("failed") == 3
    assert len(sub.effects()) == 3

    lane = sub.replay(other.version)
    assert lane.wait(60)
    admin.retain(max_events=1)
    assert worker.prune().events >= 2
    admin.retain()
    worker.close()
    assert admin.audit()["balanced"].all()


def test_analyst_reads_frames(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus], server: Postgres
) -> None:
    sub = admin.subscribe("read", judged, name="read", listen=False)
    connect("publisher").publish_batch("read", range(2))
    _deliver(connect("worker"), "read")
    wait_until(lambda: is_settled(sub), timeout_s=60)

    found = connect("analyst").subscription("read")

    assert found.invocations()["outcome"].tolist() == ["succeeded"] * 2
    assert (found.depth().open, len(found.latency()) > 0) == (0, True)
    assert len(found.invocations(text="É")) == 0  # compared here, without a look at the data
    with pytest.raises(mt.MltriggerError, match="postgres roles"):
        found.pause()


def test_analyst_opens_a_dashboard_that_only_looks_and_says_why(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus]
) -> None:
    sub = admin.subscribe(
        "watched", judged, name="watched", version="1.0.0", max_attempts=1, key="page"
    )
    sub.fire([mt.Event({"page": n}, subject=f"{n}.png") for n in range(3)], progress=False)
    analyst = connect("analyst")

    for widget in (analyst.dashboard(), analyst.subscription("watched").dashboard()):
        front = Front(widget)
        state = front.state
        assert (state["read_only"], state["outage"]) == (True, "")
        assert "may only read" in state["read_only_why"]
        assert not any(each["enabled"] for each in state["controls"].values())
        front.ask("choose", subscription="watched")
        assert front.state["counts"] == {"succeeded": 2, "dead": 1}
        assert front.state["latency"]["table"][0]["count"] == 3
        (row,) = front.rows(outcome="dead", subscription="watched")
        assert (row["event"], row["key"], "no such page" in row["error"]) == ("0.png", "", True)
        found = front.ask("row", seq=row["seq"], attempt=1, subscription="watched")
        assert (found["payload"], found["editable"]) == ("", False)
        assert "may not read the data" in found["hidden"]
        assert "ValueError" in found["traceback"]
        assert [step["subscription"] for step in found["trace"]] == ["watched"]
        assert found["explain"]
        with pytest.raises(Refused, match="read-only"):
            front.act("pause", subscription="watched")
        with pytest.raises(Refused, match="may not read the data"):
            front.rows(subscription="watched", key="1")
        assert "0.png" in widget.to_html()
        widget.close()
    assert not Front(admin.dashboard()).state["read_only"]
    admin.unsubscribe("watched")


def test_analyst_audits_without_a_look_at_the_data_of_events(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus]
) -> None:
    plain = admin.subscribe("audited", judged, name="audited", listen=False)
    large = admin.subscribe(
        "audited", judged, name="audited-large", listen=False, max_attempts=1,
        filter={"page": [{"numeric": [">", 2]}]}, filter_scope="body",
    )  # fmt: skip
    connect("publisher").publish_batch("audited", [{"page": n} for n in range(1, 7)])
    _deliver(connect("worker"), "audited", "audited-large")
    wait_until(lambda: is_settled(plain) and is_settled(large), timeout_s=60)
    connect("publisher").publish("audited", {"page": 9}, delay_s=600)

    with pytest.warns(UserWarning, match=r"audit of .*'audited-large'.* trusts filters"):
        found = connect("analyst").audit()

    pd.testing.assert_frame_equal(found, admin.audit())
    row = found.set_index("subscription").loc["audited-large"]
    assert (row["published"], row["filtered"], row["succeeded"], row["open"]) == (7, 2, 4, 1)
    assert row["balanced"]


def test_analyst_finds_a_lost_event_where_there_is_no_filter(
    admin: mt.EventBus, connect: Callable[[str], mt.EventBus], server: Postgres
) -> None:
    sub = admin.subscribe("holes", judged, name="holes", listen=False)
    connect("publisher").publish_batch("holes", range(3))
    _deliver(connect("worker"), "holes")
    wait_until(lambda: is_settled(sub), timeout_s=60)
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as session:
        session.execute(f"SET search_path TO {SCHEMA}")
        mine = "subscription_id = (SELECT id FROM subscription WHERE name = 'holes')"
        last = f"SELECT max(seq) FROM outcome WHERE {mine}"
        session.execute(f"DELETE FROM outcome WHERE {mine} AND seq = ({last})")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other subscriptions
        found = connect("analyst").audit().set_index("subscription").loc["holes"]

    assert (found["missing"], found["balanced"], found["succeeded"]) == (1, False, 2)
    admin.unsubscribe("holes", delete=True)


@pytest.mark.parametrize(
    ("role", "sql"),
    [
        ("publisher", "DELETE FROM event"),
        ("publisher", "SELECT output FROM invocation"),
        ("publisher", "UPDATE subscription SET paused = 1"),
        ("publisher", "INSERT INTO topic (name, created_us) VALUES ('x', 0)"),
        ("worker", "INSERT INTO topic (name, created_us) VALUES ('x', 0)"),
        ("worker", "UPDATE model_version SET import_path = 'os:system'"),
        ("worker", "UPDATE schema_version SET version = 0"),
        ("worker", "CREATE TABLE mine (n integer)"),
        ("analyst", "SELECT data FROM event"),
        ("analyst", "SELECT * FROM event"),
        ("analyst", "SELECT answer FROM effect"),
        ("analyst", "INSERT INTO name (text) VALUES ('x')"),
        ("analyst", "DELETE FROM outcome"),
        ("stranger", "SELECT seq FROM team_bus.event"),
        ("stranger", "SELECT team_bus.event_key('a')"),
    ],
)
def test_role_may_do_nothing_else(
    role: str, sql: str, server: Postgres, admin: mt.EventBus
) -> None:
    assert refused(server, role, sql)


@pytest.mark.parametrize("table", [*VIEWS, "subscription", "tally", "dead_letter"])
def test_analyst_reads_the_views(table: str, server: Postgres, admin: mt.EventBus) -> None:
    assert not refused(server, "analyst", f"SELECT * FROM {table}")
    assert not refused(server, "analyst", "SELECT id, subject, published_us FROM event")


def test_only_workers_shed_partitions(server: Postgres, admin: mt.EventBus) -> None:
    """They go by a function with the rights of the owner."""
    with psycopg.connect(server.dsn("postgres")) as session:
        definers = session.execute(
            "SELECT p.oid, p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname = %s AND p.prosecdef",
            [SCHEMA],
        ).fetchall()
        found = {
            (name, role)
            for oid, name in definers
            for role in ("publisher", "worker", "analyst", "stranger")
            if session.execute(
                "SELECT has_function_privilege(%s, %s::oid, 'EXECUTE')", [role, oid]
            ).fetchone()[0]
        }
    assert {role for name, role in found if name not in DEFINING} <= {"worker"}
    assert {role for _, role in found} <= {"worker", "publisher"}


_TRAP = """
CREATE TEMPORARY TABLE {table} ({columns});
CREATE TEMPORARY TABLE caught (who text);
GRANT ALL ON {table}, caught TO PUBLIC;
CREATE FUNCTION pg_temp.catch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO pg_temp.caught VALUES (current_user); RETURN NEW; END $$;
CREATE TRIGGER catch BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pg_temp.catch()
"""


@pytest.mark.parametrize(
    ("table", "columns", "sql"),
    [
        (
            "tally_version",
            "subscription_id bigint, worker_id bigint, outcome text, number bigint, n bigint",
            "INSERT INTO tally (subscription_id, worker_id, outcome, n) VALUES (1, 1, 'trap', 1)",
        ),
        (
            "cursor_version",
            "subscription_id bigint, number bigint, a bigint, b bigint, c bigint",
            "UPDATE cursor SET next_seq = next_seq",
        ),
    ],
    ids=["tally", "cursor"],
)
def test_worker_runs_nothing_as_the_owner_by_a_temporary_table(
    table: str, columns: str, sql: str, server: Postgres, admin: mt.EventBus
) -> None:
    """A session may have tables that no other sees. The functions of the owner look past them."""
    admin.subscribe("traps", mt.model(judged, name="trap", version="1.0.0"), listen=False)
    with psycopg.connect(server.dsn("postgres").replace("app@", "worker@")) as session:
        session.execute("SET search_path TO pg_temp")
        session.execute(_TRAP.format(table=table, columns=columns))
        session.execute(f"SET LOCAL search_path TO {SCHEMA}, pg_temp")
        assert session.execute(sql).rowcount >= 1
        assert session.execute("SELECT who FROM caught").fetchall() == []
        session.rollback()


def test_numbers_go_on_from_a_later_one_after_a_crash_alone(
    server: Postgres, admin: mt.EventBus
) -> None:
    """A publisher may say that there was a crash. Nothing happens if there was none."""
    with psycopg.connect(server.dsn("postgres").replace("app@", "publisher@")) as session:
        session.execute(f"SET search_path TO {SCHEMA}")
        before = session.execute("SELECT last_value FROM event_seq").fetchall()
        session.execute("SELECT renew_life()")
        assert session.execute("SELECT last_value FROM event_seq").fetchall() == before
        assert session.execute("SELECT count(*) FROM life").fetchall() == [(1,)]


def test_every_function_of_the_owner_looks_into_the_schema_first(
    server: Postgres, admin: mt.EventBus
) -> None:
    with psycopg.connect(server.dsn("postgres")) as session:
        paths = session.execute(
            "SELECT proname, (SELECT word FROM unnest(proconfig) word WHERE word LIKE %s)"
            " FROM pg_proc WHERE prosecdef AND pronamespace = %s::regnamespace",
            ["search_path=%", SCHEMA],
        ).fetchall()
    assert len(paths) >= 5
    assert {path for _, path in paths} == {f"search_path={SCHEMA}, pg_temp"}


def test_administrator_owns_everything(server: Postgres, admin: mt.EventBus) -> None:
    with psycopg.connect(server.dsn("postgres")) as session:
        owners = session.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace ="
            " %s::regnamespace UNION SELECT pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE pronamespace = %s::regnamespace",
            [SCHEMA, SCHEMA],
        ).fetchall()
    assert owners == [("acme_administrator",)]


def test_every_table_and_view_has_its_rights(server: Postgres, admin: mt.EventBus) -> None:
    made = re.findall(r"CREATE (?:TABLE|VIEW) (\w+)", tables.CREATE)
    assert sorted([*TABLES, *VIEWS]) == sorted(made)
    with psycopg.connect(server.dsn("postgres")) as session:
        there = session.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace"
            " AND (relkind IN ('r', 'p') AND NOT relispartition OR relkind = 'S' AND NOT EXISTS"
            " (SELECT FROM pg_depend d WHERE d.objid = pg_class.oid AND d.deptype IN ('a', 'i')))",
            [SCHEMA],
        ).fetchall()
    assert {name for (name,) in there} <= {*TABLES, *OWN, *SEQUENCES}


def test_columns_are_those_of_the_tables() -> None:
    columns = columns_of(tables.CREATE)
    assert columns["topic"] == ("id", "name", "created_us")
    assert columns["event"][-2:] == ("extensions", "data")
    hidden = {name: rights.hidden for name, rights in TABLES.items() if rights.hidden}
    assert all(set(those) < set(columns[name]) for name, those in hidden.items())


def test_command_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["postgres", "roles", "--schema", "team", "--prefix", 'o"k']) == 0
    assert capsys.readouterr().out.startswith('-- Roles of the bus in the schema "team"')
    assert main(["postgres", "roles", "--schema", ""]) == 1
    assert main(["postgres", "roles", "--prefix", "x" * 60]) == 1
