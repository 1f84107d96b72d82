"""The kill storm, small: what `make storm` does with 10,000 events and 60 ends of processes a seed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from benchmarks.report import Report, kept, replaced
from benchmarks.storm import guilt
from benchmarks.storm.__main__ import PEER_SMOKE, SMOKE, report_of
from benchmarks.storm.judge import PeerVerdict, Verdict, judge
from benchmarks.storm.run import storm
from mltrigger.policy import MAX_ABANDONED

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """What became of 1,000 events on two levels while eight workers and a publisher were ended."""
    return judge(storm(tmp_path_factory.mktemp("storm"), SMOKE, seed=1), SMOKE, seed=1)


def test_storm_loses_nothing_records_nothing_twice_and_leaves_nothing_behind(
    verdict: Verdict,
) -> None:
    assert (verdict.lost, verdict.doubled, verdict.stuck, verdict.unrun) == (0, 0, 0, 0)
    assert (verdict.published, verdict.outcomes) == (SMOKE.events, SMOKE.events + verdict.handed_on)


def test_books_balance_after_a_storm_and_the_file_is_whole(verdict: Verdict) -> None:
    assert (verdict.balanced, verdict.integrity) == (True, "ok")


def test_storm_was_one(verdict: Verdict) -> None:
    assert sum(verdict.signals.values()) == SMOKE.kills + SMOKE.workers
    assert {signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP} <= set(verdict.signals)
    assert verdict.publisher_kills == 1


def test_workers_say_nothing_of_errors_in_a_storm(verdict: Verdict) -> None:
    assert verdict.complaints == []


# -- the storm of guilt ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_innocent_events_are_never_blamed_for_what_others_do_to_their_process(
    tmp_path: Path,
) -> None:
    """What `make storm-guilt` does with 5,000 events: some end, stop or fork their process, and a
    clock jumps.
    """
    found = guilt.storm(tmp_path, guilt.SMOKE)

    # How many processes are stopped is a matter of the machine; that some are is enough here.
    assert [promise for promise in found.broken if "stopped" not in promise] == []
    assert found.stops
    assert (found.innocent_dead, found.guilty_dead, found.lost, found.doubled, found.stuck) == (
        0,
        guilt.SMOKE.traps,
        0,
        0,
        0,
    )
    assert found.ends >= guilt.SMOKE.traps * MAX_ABANDONED
    assert all(
        len(row) == len(table.columns)
        for table in guilt.report_of([found], guilt.SMOKE).tables
        for row in table.rows
    )


def test_report_has_a_cell_for_each_column() -> None:
    ours, theirs = (
        [Verdict(1), Verdict(2)],
        [PeerVerdict(seed, 300, 4, 293, 7, 0, 0, 50.0) for seed in (1, 2)],
    )

    report = report_of(ours, theirs, SMOKE, PEER_SMOKE)

    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert "mltrigger, all 2" in report.text()
    assert "huey, all 2" in report.text()


# -- where it is written ---------------------------------------------------------------------------

OLD = """# Results

Head.

## speed: how fast

- fast

## storm: old

- old
"""


def test_section_is_written_in_its_place_and_leaves_the_others_alone() -> None:
    written = replaced(OLD, Report("storm", "new", notes=["new"]))

    assert "## speed: how fast\n\n- fast\n" in written
    assert written.startswith("# Results\n\nHead.\n")
    assert "old" not in written
    assert "## storm: new" in written


def test_sections_of_other_commands_stay_when_the_rest_is_written_again() -> None:
    written = kept(OLD, "# Results\n\nHead.\n\n## speed: faster\n\n- faster\n")

    assert "how fast" not in written
    assert written.count("## ") == 2
    assert written.endswith("## storm: old\n\n- old\n")
