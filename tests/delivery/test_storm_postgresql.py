"""The kill storm on PostgreSQL, small: what `make storm-postgresql-kills` does with 6,000 events, 20
ends of workers and 10 ends of the server.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.storm.judge import Verdict
from benchmarks.storm.outages import WAYS
from benchmarks.storm.postgresql import SMOKE, SMOKE_SERVER_KILLS, Found, report_of, storm
from benchmarks.storm.run import Outage, Sizes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


@pytest.mark.slow(every=1)
def test_nothing_is_lost_twice_or_stuck_when_workers_and_the_server_are_killed(
    tmp_path: Path, sample: Callable[[Sequence[str], int], Sequence[str]]
) -> None:
    ways = sample([*WAYS], 2)
    sizes = SMOKE if len(ways) == SMOKE_SERVER_KILLS else Sizes(200, 3, 2)

    found = storm(tmp_path, sizes, seed=1, server_kills=len(ways))

    verdict = found.verdict
    assert verdict.broken == []
    assert (verdict.published, verdict.handed_on) == (sizes.events, sizes.events)
    assert (verdict.outcomes, verdict.lost, verdict.doubled) == (2 * sizes.events, 0, 0)
    assert (verdict.stuck, verdict.unrun, found.unseen) == (0, 0, 0)
    assert (verdict.balanced, verdict.integrity) == (True, "ok")
    assert [outage.how for outage in found.outages] == [*WAYS][: len(ways)]
    assert sum(verdict.signals.values()) >= sizes.kills + 1
    assert verdict.publisher_kills == 1


def test_report_has_a_cell_for_each_column() -> None:
    outages = [Outage(how, 1_000_000, 3_000_000) for how in WAYS]
    found = [Found(Verdict(seed), outages, [0.1] * len(outages)) for seed in (1, 2)]

    report = report_of(found, SMOKE, SMOKE_SERVER_KILLS, "ext4")

    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert "mltrigger, all 2" in report.text()


def test_report_of_a_storm_that_nothing_survived_can_be_written() -> None:
    report = report_of([Found(Verdict(1, lost=7), [])], SMOKE, SMOKE_SERVER_KILLS, "ext4")

    assert "not reached" in report.text()
