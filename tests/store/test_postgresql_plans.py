"""How PostgreSQL finds rows: a claim must not read what others have read long ago."""

from __future__ import annotations

import psycopg
import pytest

import mltrigger as mt
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
