"""A correction goes on in other processes when those that work on it are killed."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import correcting_child as child
import pytest
from shared import wait_until

import mltrigger as mt

KILLS = 4
PARTS = (range(40), range(40, 160), range(160, 200))


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return tmp_path / "pages.db"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        yield bus


def worker(tmp_path: Path, pages: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, child.__file__, f"sqlite:///{tmp_path}/bus.db", str(pages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_table_is_that_of_a_good_version_after_a_correction_under_kills(
    bus: mt.EventBus, tmp_path: Path, pages: Path
) -> None:
    sub = bus.subscribe("documents", child.good, emit="pages", lease_s=5)
    bus.subscribe("pages", child.table_at(str(pages)), corrections="take", lease_s=5)
    for part, change in zip(PARTS, (None, child.bad, child.good), strict=True):
        if change is not None:
            sub.promote(change)
        bus.publish_batch("documents", [mt.Event(n, subject=f"page-{n:03}") for n in part])
        bus.wait(progress=False)
    for name in ("ocr", "table"):
        bus.stop_listening(name)

    correction = sub.correct(sub.history()[1]).start(max_rate_per_s=12)
    random_ = random.Random(1)
    for _ in range(KILLS):
        process = worker(tmp_path, pages)
        before = correction.progress().done
        wait_until(lambda before=before: correction.progress().done > before, timeout_s=60)
        time.sleep(random_.uniform(0, 0.4))  # anywhere
        process.kill()
        process.wait()
    assert correction.state == "correcting", "the kills came too late"
    process = worker(tmp_path, pages)
    correction.start(max_rate_per_s=10_000).wait(60)
    wait_until(lambda: not bus.broker.depth(bus.spec("table")).open, timeout_s=60)
    process.kill()
    process.wait()

    with sqlite3.connect(pages) as table:
        rows = table.execute("SELECT subject, text FROM page ORDER BY subject").fetchall()
    assert rows == [(f"page-{n:03}", f"page {n}") for n in range(200)]
    differing = sum(n % child.BAD_EVERY == 0 for n in PARTS[1])
    assert correction.progress().corrected == differing
    assert bus.events("pages")["event_id"].nunique() == 200 + differing
    assert (bus.audit()["balanced"]).all()
    answers = correction.frame()
    assert len(answers) == len(PARTS[1])
    assert answers["event_id"].is_unique


def test_process_that_dies_while_it_adds_events_to_the_lane_leaves_none_behind(
    bus: mt.EventBus, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mltrigger.rollout import correcting
    from mltrigger.store import corrections

    sub = bus.subscribe("documents", child.bad)
    bus.fire("documents", range(30), progress=False)
    sub.promote(child.good)
    add, added = corrections.add, []

    def dies(*given: object) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(given)
        add(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(correcting, "_STEP", 7)
    monkeypatch.setattr(corrections, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        sub.correct(0).start()
    wait_until(lambda: sub.correct(0).progress().done == 14)
    assert sub.correct(0).state == "filling"
    monkeypatch.setattr(corrections, "add", add)

    at = sub.correct(0).start().wait(60).progress()

    assert (at.state, at.done, at.corrected) == ("done", 30, 10)
    assert (bus.audit()["balanced"]).all()
