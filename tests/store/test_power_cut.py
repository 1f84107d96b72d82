"""The power goes while a bus is at work: nothing that was told before is lost, nothing is damaged.

A process works on a disk that notes what is written and synced (``power_disk.py``, a VFS of apsw;
``power_shim.c`` for the SQLite of Python). Each cut leaves a random part of what was not synced.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import power_load
import pytest
from power_after import cuts, losses, put, told_by, troubles, unsynced_receipts
from power_record import Op, after_cuts, read

import mltrigger as mt

HELPERS = Path(__file__).parents[1] / "helpers"
CUTS, SAMPLE = 60, 5
"""The cuts of each life. Without ``--slow`` every fifth is tried."""
CUTS_OF_WRONG = 400
"""It is caught long before."""
EACH_GOES_ON = 5
"""The models go on after every so many cuts. After the others the file is only looked at."""
needs_apsw = pytest.mark.needs("apsw")


class Lived(NamedTuple):
    """A life until the power went: the file before it, the record, and the file as it is."""

    before: bytes
    ops: Sequence[Op]
    file: Path


class World:
    """Lets processes live on one file."""

    def __init__(self, folder: Path, before: bytes) -> None:
        self._before, self._record, self.file = before, folder / "record", folder / "bus.db"
        self.file.write_bytes(before)

    def live(self, starter: Starter, *orders: dict[str, Any]) -> Lived:
        """Let a process live for each order, at the same time, until all have ended."""
        usual = {
            "file": str(self.file),
            "record": str(self._record),
            "disk": "apsw",
            "durability": "full",
            "wrong": "",
            "fails_at": 0,
            "beside_a_keeper": False,
            "sync_s": 0.0005,
            "seed": 0,
            "environment": {
                "POWER_DATABASE": str(self.file.resolve()),
                "POWER_RECORD": str(self._record),
            },
        }
        starter([{**usual, **order} for order in orders])
        return Lived(self._before, read(self._record), self.file)


Starter = Callable[[list[dict[str, Any]]], None]


@contextlib.contextmanager
def starter_of(folder: Path, **environment: str) -> Iterator[Starter]:
    """Start the process that forks for each order."""
    process = subprocess.Popen(
        [sys.executable, str(HELPERS / "power_load.py")],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(mt.__file__).parents[1]), str(HELPERS)]),
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": str(folder),
            **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def start(orders: list[dict[str, Any]]) -> None:
        stdin.write(json.dumps(orders) + "\n")
        stdin.flush()
        assert json.loads(stdout.readline()) == [0] * len(orders)

    yield start
    process.communicate()


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with starter_of(tmp_path_factory.mktemp("t")) as start:
        yield start


@pytest.fixture
def noting_starter(tmp_path: Path) -> Iterator[Starter]:
    """Starts processes whose calls of the kernel are noted."""
    library = tmp_path / "shim.so"
    compiled = ["cc", "-O2", "-shared", "-fPIC", "-o", library, HELPERS / "power_shim.c", "-ldl"]
    subprocess.run(compiled, check=True, timeout=60)
    with starter_of(tmp_path, LD_PRELOAD=str(library)) as start:
        yield start


@pytest.fixture(scope="module")
def subscribed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with the subscriptions, and no events."""
    file = tmp_path_factory.mktemp("subscribed") / "bus.db"
    with mt.connect(f"sqlite:///{file}") as bus:
        power_load.subscribe(bus, listen=False)
    return file.read_bytes()


@pytest.fixture
def world(tmp_path: Path, subscribed: bytes) -> World:
    return World(tmp_path, subscribed)


Look = Callable[[Lived, int], dict[str, list[str]]]


@pytest.fixture
def wrong_after_cuts(tmp_path: Path, sample: Callable[[Sequence[Any], int], Sequence[Any]]) -> Look:
    """Cut the power in a life, at random places, and say what is wrong after which cut."""

    def look(lived: Lived, seed: int) -> dict[str, list[str]]:
        wrong, count = {}, len(sample(range(CUTS), SAMPLE))
        for number, (where, files, told) in enumerate(cuts(lived.before, lived.ops, count, seed)):
            put(files, tmp_path / "cut.db")
            inspect = losses if number % EACH_GOES_ON else troubles
            if found := inspect(tmp_path / "cut.db", told):
                wrong[where] = found[:5]
        return wrong

    return look


def assert_it_was_a_life(lived: Lived) -> None:
    """The log began anew, and there were receipts of every kind."""
    told = told_by(lived.ops)
    for kind in ("published", "outcome", "answered", "redriven", "discarded"):
        assert told[kind], kind
    assert "refused" not in told, told["refused"]
    anew = [op for op in lived.ops if op.kind == "write" and op.file == "log" and op.at == 0]
    assert len(anew) >= power_load.LEAST_TIMES_ANEW


@needs_apsw
@pytest.mark.slow(every=12)
@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_was_told_is_lost_in_a_power_cut(
    seed: int, world: World, starter: Starter, wrong_after_cuts: Look
) -> None:
    lived = world.live(starter, {"seed": seed})

    assert unsynced_receipts(lived.ops) == []
    assert wrong_after_cuts(lived, seed) == {}
    assert_it_was_a_life(lived)


@pytest.mark.needs("cc")
@pytest.mark.slow(every=4)
@pytest.mark.parametrize("seed", range(4))
def test_two_processes_with_pythons_own_sqlite_lose_nothing_either(
    seed: int, world: World, noting_starter: Starter, wrong_after_cuts: Look
) -> None:
    """Their calls of the kernel say that each receipt came after a sync of its commit."""
    orders = [{"disk": "real", "seed": seed}, {"disk": "real", "seed": 100 + seed}]

    lived = world.live(noting_starter, *orders)

    assert unsynced_receipts(lived.ops) == []
    assert wrong_after_cuts(lived, seed) == {}
    assert told_by(lived.ops)["published"]


@needs_apsw
@pytest.mark.slow(every=3)
@pytest.mark.parametrize("fails_at", [30, 75, 120])
def test_after_a_sync_that_failed_nothing_is_told_that_a_power_cut_undoes(
    fails_at: int, world: World, starter: Starter, wrong_after_cuts: Look
) -> None:
    lived = world.live(starter, {"fails_at": fails_at})

    told = told_by(lived.ops)
    assert any("failed to sync" in message for message in told["refused"]), told["refused"]
    assert wrong_after_cuts(lived, fails_at) == {}
    # without a cut all is there, and the mark that the store left does not stand in the way
    assert troubles(lived.file, told) == []


@needs_apsw
def test_a_keeper_leaves_the_log_alone_when_a_sync_failed_in_another_process(
    world: World, starter: Starter, tmp_path: Path
) -> None:
    """Else the database is newer than the log that a cut leaves, and both together are damaged."""
    lived = world.live(starter, {"beside_a_keeper": True})

    told = told_by(lived.ops)
    assert len(told["published"]) == 904
    for seed in range(CUTS // SAMPLE):
        end = [len(lived.ops)]
        for left in after_cuts(lived.before, lived.ops, end, random.Random(seed)):
            put(left.files, tmp_path / "cut.db")
            assert losses(tmp_path / "cut.db", told) == []


@needs_apsw
@pytest.mark.parametrize("wrong", ["no sync", "counted too late", "keeper"])
def test_a_store_that_syncs_wrongly_is_caught(
    wrong: str, world: World, starter: Starter, tmp_path: Path
) -> None:
    """The test above must be able to fail."""
    lived = world.live(starter, {"wrong": wrong, "sync_s": 0.004})

    # an answer may be the first loss, or an event: that depends on the cut
    kind, found = "damaged" if wrong == "keeper" else "but lost", list[str]()
    for _, files, told in cuts(lived.before, lived.ops, CUTS_OF_WRONG, 0):
        put(files, tmp_path / "cut.db")
        found += losses(tmp_path / "cut.db", told)
        if any(kind in line for line in found):
            break

    assert any(kind in line for line in found), found


@needs_apsw
def test_durability_normal_may_lose_the_newest_events_and_never_damages_the_file(
    world: World, starter: Starter, tmp_path: Path
) -> None:
    lived, lost = world.live(starter, {"durability": "normal"}), list[str]()

    for where, files, told in cuts(lived.before, lived.ops, CUTS // SAMPLE, 0):
        put(files, tmp_path / "cut.db")
        found = losses(tmp_path / "cut.db", told)
        assert all("but lost" in line or "dead again" in line for line in found), (where, found)
        lost += found

    assert lost
