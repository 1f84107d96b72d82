"""A bus on PostgreSQL behind PgBouncer in transaction mode: no statement, setting or lock outlives a
transaction, and polling takes the place of notifications.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import Child, Proxy, pooler, raw
from shared import is_settled, outcomes, wait_until

import mltrigger as mt

pytestmark = pytest.mark.needs("pgbouncer")

SETTINGS = {
    "refuses options": (),
    "ignores options": ("ignore_startup_parameters = options",),
}


@pytest.fixture(params=SETTINGS)
def pooled(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a schema of its own behind a pooler with two sessions."""
    schema = f"test_{uuid.uuid4().hex}"
    with pooler(postgres, *SETTINGS[request.param], "default_pool_size = 2") as port:
        yield f"postgresql://app@127.0.0.1:{port}/postgres?schema={schema}"
    postgres.forget(schema)


def test_bus_behind_a_pooler_does_all_that_a_bus_does(pooled: str) -> None:
    def moody(n: int) -> int:
        if n < 0:
            raise mt.Reject("negative")
        if n == 7 and not seen:
            seen.append(n)
            raise mt.Retry(delay_s=0.1)
        return 2 * n

    seen: list[int] = []
    with mt.connect(pooled) as bus:
        sub = bus.subscribe("numbers", mt.model(moody, name="moody", version="1.0.0"))
        child = Child(
            """
            import sys
            import mltrigger as mt
            with mt.connect(sys.argv[1]) as bus:
                for n in range(10):
                    bus.publish("numbers", n)
                receipts = bus.publish_batch("numbers", list(range(10, 60)))
                print(len(receipts))
            """,
            pooled,
        )
        bad = bus.publish("numbers", -1)
        assert child.ends() == "50\n"
        wait_until(lambda: is_settled(sub) and len(outcomes(sub)) == 62)
        assert sorted(set(outcomes(sub))) == ["dead", "failed", "succeeded"]
        assert sub.dead_letters()["event_id"].tolist() == [bad.event_id]

        sub.redrive(bad.event_id, data=100)
        wait_until(lambda: outcomes(sub).count("succeeded") == 61)
        sub.pause()
        bus.publish("numbers", 5)
        assert sub.depth().visible == 1
        sub.resume()
        wait_until(lambda: outcomes(sub).count("succeeded") == 62)

        assert bus.audit()["balanced"].all()
        assert bus.wakeup.poll_s == 0.1, "nothing is heard through a pooler"
        assert bus._store.sessions.is_pooled  # type: ignore[attr-defined]


def test_others_behind_the_pooler_keep_their_settings_and_find_nothing_of_ours(
    pooled: str,
) -> None:
    address, seen, stop = pooled.partition("?")[0], set[tuple[object, ...]](), threading.Event()

    def look() -> None:
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as session:
            while not stop.is_set():
                seen.update(
                    session.execute(
                        "SELECT current_setting('search_path'), current_setting('TimeZone'),"
                        " current_setting('synchronous_commit'),"
                        " current_setting('statement_timeout'),"
                        " (SELECT count(*) FROM pg_prepared_statements),"
                        " (SELECT count(*) FROM pg_listening_channels()),"
                        " (SELECT count(*) FROM pg_locks"
                        "   WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
                    ).fetchall()
                )

    other = threading.Thread(target=look)
    other.start()
    with mt.connect(pooled) as bus:
        sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        for n in range(30):
            bus.publish("numbers", n)
        wait_until(lambda: is_settled(sub))
        bus.audit()
    stop.set()
    other.join(60)

    assert seen == {('"$user", public', "UTC", "on", "0", 0, 0, 0)}


def test_session_of_a_pooler_that_takes_the_place_of_the_server_is_known_as_such(
    postgres: Postgres, team: str
) -> None:
    """The address moves from the server to a pooler while a bus is open."""
    proxy = Proxy(postgres.port)
    url = team.replace(f":{postgres.port}/", f":{proxy.port}/")
    with pooler(postgres) as port, mt.connect(url) as bus:
        sub = bus.subscribe("numbers", mt.model(lambda n: 2 * n, name="twice", version="1.0.0"))
        bus.publish("numbers", 1)
        wait_until(lambda: is_settled(sub))
        proxy.moves(port)
        with raw(team) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'mltrigger' AND pid <> pg_backend_pid()"
            )
        bus.publish("numbers", 2)
        wait_until(lambda: is_settled(sub))
        assert bus.audit()["balanced"].all()
        wait_until(lambda: bus.wakeup.poll_s < 1)  # nobody hears notifications there
    proxy.close()
