"""Several processes share the keys of a subscription, and some of them are killed."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import time
from pathlib import Path

import keys_child
import pytest
from shared import wait_until
from stores import url_of

import mltrigger as mt

EVENTS, TENANTS, WORKERS, KILLS = 240, 4, 3, 2
ROOT = Path(mt.__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


def started(url: str, notes: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(Path(keys_child.__file__).parent)])
    program = "import keys_child; keys_child.main()"
    worker = subprocess.Popen(
        [sys.executable, "-c", program, url, str(notes)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "at work\n"
    return worker


def killed(worker: subprocess.Popen[str]) -> tuple[int, int]:
    at_ns = time.monotonic_ns()
    worker.kill()
    worker.wait()
    return worker.pid, at_ns


def most_at_once(notes: Path, ends: dict[int, int]) -> dict[str, int]:
    """Return how many events of each key ran at the same time at most."""
    lines = sorted(
        (int(at), what, int(pid), tenant, n)
        for at, what, pid, tenant, n in map(str.split, notes.read_text().splitlines())
    )
    running: dict[str, dict[tuple[int, str], int]] = collections.defaultdict(dict)
    most: dict[str, int] = collections.Counter()
    for at_ns, what, pid, tenant, n in lines:
        if what == "end":
            running[tenant].pop((pid, n), None)
            continue
        running[tenant][pid, n] = at_ns
        alive = [key for key in running[tenant] if ends.get(key[0], at_ns) >= at_ns]
        most[tenant] = max(most[tenant], len(alive))
    return most


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request)


def test_limit_of_a_key_holds_while_processes_are_killed_and_nothing_is_lost(
    url: str, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    with mt.connect(url) as bus:
        sub = bus.subscribe("work", keys_child.work, listen=False, **keys_child.POLICY)
        bus.publish_batch("work", [{"tenant": f"t{n % TENANTS}", "n": n} for n in range(EVENTS)])
        workers, ends = [started(url, notes) for _ in range(WORKERS)], dict[int, int]()
        for kill in range(1, KILLS + 1):
            share = EVENTS * kill // (KILLS + 2)
            wait_until(lambda share=share: len(sub.results(limit=share)) == share)  # type: ignore[misc]
            ends |= [killed(workers.pop(0))]
            workers.append(started(url, notes))
        wait_until(lambda: not sub.depth().open)
        for worker in workers:
            killed(worker)
        outcomes = sub.invocations()["outcome"].value_counts()
        audit = bus.audit().iloc[0]

    most = most_at_once(notes, ends)
    assert max(most.values()) == keys_child.LIMIT
    assert len(most) == TENANTS
    assert outcomes["succeeded"] == EVENTS
    assert (audit["succeeded"], audit["missing"], audit["double"], audit["open"]) == (
        EVENTS,
        0,
        0,
        0,
    )
    assert audit["balanced"]
