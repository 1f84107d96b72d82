"""How PostgreSQL finds rows: a claim must not read what others have read long ago."""

from __future__ import annotations

import psycopg
import pytest
from faults_of_postgres import asked, schema_of, sessions
from long_logs import lengthen
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store import bulk
from mltrigger.store.postgresql.dialect import translated
from mltrigger.store.postgresql.place import parts_of
from mltrigger.store.queue import CLAIM_RANGE


@pytest.fixture
def long_topic(team: str) -> str:
    """A log of 4,000 events of one topic, which the server knows nothing about yet."""
    with mt.connect(team) as bus:
        bus.topic("pages")
        for _ in range(4):
            bus.publish_batch("pages", [{"n": n} for n in range(1_000)])
    return team


@pytest.mark.parametrize("analyzed", [False, True])
def test_claim_reads_no_events_but_those_that_it_leases(long_topic: str, analyzed: bool) -> None:
    conninfo, schema = parts_of(long_topic)
    given = {"t": 1, "next": 2_001, "last": 2**63 - 1, "n": 10}
    with psycopg.connect(conninfo, autocommit=True, cursor_factory=psycopg.ClientCursor) as session:
        session.execute(f'SET search_path TO "{schema}"')
        if analyzed:
            session.execute("ANALYZE event")
        explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {translated(CLAIM_RANGE)}"
        (((plan,),),) = session.execute(explained, given).fetchall()
    nodes = [plan["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    assert all(node["Actual Rows"] <= 10 for node in nodes)
    assert not any(node.get("Rows Removed by Filter") for node in nodes)


@pytest.mark.parametrize("wanted", [set(), {"event_id", "subject", "queue_ms", "output"}])
def test_columns_of_attempts_come_in_one_order(wanted: set[str]) -> None:
    """They come by several statements. The server may choose another way for each."""
    sql = bulk._Reading(None, wanted, 1)._sql  # type: ignore[arg-type]
    others = [bulk._OUTCOMES.format(columns="1"), bulk._KEYS]

    for each in map(translated, [sql, *others]):
        assert " ORDER BY seq, attempt LIMIT 1000000000) AS o" in each
        assert "FROM outcome o" not in each


_READ = """
SELECT coalesce(sum(seq_tup_read), 0), coalesce(sum(idx_tup_fetch), 0) FROM pg_stat_user_tables
WHERE schemaname = %s AND relname ~ '^(event|outcome|detail|lot)_'
"""


def rows_read(url: str) -> tuple[int, int]:
    """Return how many rows of the log were read one after the other, and by an index.

    The server counts those of a session at its end.
    """
    wait_until(lambda: not sessions(url, "mltrigger"))
    ((in_order, by_index),) = asked(url, _READ, schema_of(url))
    return int(in_order), int(by_index)


def work(url: str) -> None:
    """Be a new worker: subscribe again, and answer a few new events.

    Another subscription has a topic where nothing happens. All events of the other topic are behind
    its cursor.
    """
    with mt.connect(url) as bus:
        bus.subscribe("quiet", mt.model(lambda n: n, name="quiet", version="1.0.0"))
        same = mt.model(lambda batch: batch, name="same", version="1.0.0", batch=True)
        sub = bus.subscribe("pages", same, batch_size=1000)
        for n in range(10):
            bus.publish("pages", {"n": n})
        wait_until(lambda: is_settled(sub))


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [False, True])
def test_worker_that_starts_and_claims_reads_nothing_of_a_long_log(
    team: str, analyzed: bool
) -> None:
    work(team)
    lengthen(team, 300_000, data_bytes=10)
    if analyzed:
        with psycopg.connect(parts_of(team)[0], autocommit=True) as session:
            session.execute("VACUUM (ANALYZE)")
    before = rows_read(team)

    work(team)

    in_order, by_index = (after - b for after, b in zip(rows_read(team), before, strict=True))
    assert in_order < 2_000
    assert by_index < 5_000
    assert asked(team, "SELECT count(*) FROM final") == [(300_020,)]
