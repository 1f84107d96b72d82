"""A move whose server or whose own process is killed: the same call goes on, and nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import moving
import psycopg
import pytest
from databases import Postgres
from faults_of_postgres import ROOT, asked, backend, immediate, postmaster
from moving import assert_equal, frames_at, move, takes_work
from shared import wait_until

import mltrigger as mt
from mltrigger.store.move import Part
from mltrigger.testing import SimulatedClock


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that has everything in it."""
    path = tmp_path_factory.mktemp("filled") / "bus.db"
    moving.fill(f"sqlite:///{path}", SimulatedClock())
    return path


@pytest.fixture(scope="module")
def hasty() -> Iterator[Postgres]:
    """A server whose administrator lets commits return before they are on the disk."""
    server = Postgres("-c", "synchronous_commit=off", "-c", "wal_writer_delay=10s")
    yield server
    server.stop()


@pytest.fixture
def url(hasty: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    if hasty.process is None or hasty.process.poll() is not None:
        hasty.start()
    schema = f"t{abs(hash(request.node.name)):x}"
    yield f"{hasty.dsn('postgres')}?schema={schema}"
    hasty.forget(schema)


KILLS = (backend, postmaster, immediate)
POINTS = (0, 1, 3, 4, 5, 6, 7, 8, 9, 12, 41, 96, 150, 203, -9, -8, -7, -6, -5, -4, -3, -2, -1)
"""Steps of a move: the first ones, some in the middle, and the last ones."""


def moved(file: Path, url: str, step: Callable[[], None]) -> list[Part]:
    """Move *file* in very small commits, with a call of *step* before and behind each step."""
    with pytest.MonkeyPatch.context() as patch:
        moving.each_step(step, patch.setattr)
        return move(file, url)


@pytest.mark.slow(every=8)
@pytest.mark.parametrize("point", POINTS)
def test_a_move_whose_server_is_killed_goes_on_and_no_row_comes_twice(
    point: int, filled: Path, tmp_path: Path, hasty: Postgres, url: str
) -> None:
    clock, passed = SimulatedClock(), list[int]()
    file, whole = (Path(shutil.copy(filled, tmp_path / f"{n}.db")) for n in ("bus", "whole"))
    before = frames_at(f"sqlite:///{file}", clock)
    if point < 0:
        other = f"{url}_whole"
        moved(whole, other, lambda: passed.append(1))
        hasty.forget(other.partition("schema=")[2])
        point += len(passed)
        passed.clear()

    def step() -> None:
        if len(passed) == point:
            KILLS[point % 3](hasty)
        passed.append(1)

    at_work = 0
    try:
        moved(file, url, step)
    except mt.StoreError as error:
        at_work = sum(map(takes_work, (f"sqlite:///{file}", url)))
        assert at_work <= 1
        if not at_work:
            assert "call the same command again" in str(error)
        move(file, url)
    assert len(passed) > point

    if not at_work:
        assert_equal(frames_at(url, clock), before)
    assert not takes_work(f"sqlite:///{file}")
    assert takes_work(url)
    with mt.connect(url) as bus:
        assert bus.audit()["balanced"].all()


def test_a_finished_move_is_on_the_disk_of_a_server_that_ends_at_once(
    filled: Path, tmp_path: Path, hasty: Postgres, url: str
) -> None:
    """The file takes no work any more. A commit that a crash undoes would leave no log at all."""
    clock, file = SimulatedClock(), Path(shutil.copy(filled, tmp_path / "bus.db"))
    before = frames_at(f"sqlite:///{file}", clock)

    move(file, url)
    immediate(hasty)

    assert_equal(frames_at(url, clock), before)


COUNT = 30_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with answered events and with some that wait."""
    path = tmp_path_factory.mktemp("large") / "bus.db"
    with mt.connect(f"sqlite:///{path}") as bus:
        bus.topic("texts")
        double = mt.model(
            lambda numbers: [2 * n for n in numbers], name="double", version="1.0.0", batch=True
        )
        sub = bus.subscribe("numbers", double, batch_size=1000)
        for at in range(0, COUNT, 1000):
            bus.publish_batch("numbers", list(range(at, at + 1000)))
        wait_until(lambda: not sub.depth().open)
        sub.stop()
        bus.publish_batch("numbers", list(range(COUNT, COUNT + 1000)))
    return path


def begun(file: Path, url: str) -> subprocess.Popen[str]:
    """Begin the command of a move in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mltrigger", "move", f"sqlite:///{file}", url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def copied(url: str) -> int:
    """Return how many events have been copied. While the server is away there are none."""
    try:
        return int(asked(url, "SELECT count(*) FROM event")[0][0])
    except psycopg.Error:
        return 0


@pytest.mark.slow(every=2)
@pytest.mark.parametrize("seed", range(2))
def test_the_command_that_is_killed_and_whose_server_is_killed_goes_on_each_time(
    seed: int, large: Path, tmp_path: Path, hasty: Postgres, url: str
) -> None:
    file, chance = Path(shutil.copy(large, tmp_path / "bus.db")), random.Random(seed)
    ends = [("mover", None), ("backend", backend), ("mover", None), ("server", postmaster)]

    for who, kill in ends:
        mover, before = begun(file, url), copied(url)
        wait_until(lambda b=before, m=mover: copied(url) > b or m.poll() is not None)
        threading.Event().wait(chance.uniform(0, 0.2))
        if kill is None:
            mover.kill()
        else:
            kill(hasty)
        said, _ = mover.communicate(timeout=60)
        if mover.returncode == 0:
            break
        if kill is None:
            assert mover.returncode == -signal.SIGKILL, (who, said)
        else:
            assert "call the same command again" in said
        assert not takes_work(f"sqlite:///{file}")
        assert not takes_work(url)
    last = begun(file, url)
    said, _ = last.communicate(timeout=100)

    assert last.returncode == 0, said
    assert takes_work(url)
    with mt.connect(url) as bus:
        sub = bus.subscription("double")
        (balance,) = bus.audit().itertuples()
        answered = sub.results()["output"].dropna()
        assert balance.balanced
        assert (balance.published, balance.succeeded, balance.open) == (COUNT + 1000, COUNT, 1000)
        assert sorted(answered) == [2 * n for n in range(COUNT)]
