"""Locks that end with their process: a worker that died is told from one that is slow, forked or
stopped, and workers that nobody can know of are not judged.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.store.sqlite.living import Living

Holder = Callable[..., subprocess.Popen[str]]

HOLDS = """
import os, subprocess, sys, threading
from mltrigger.store.sqlite.living import Living

living = Living(sys.argv[1])
assert living.hold(7) is not None
{then}
print("holds", flush=True)
threading.Event().wait()
"""


@pytest.fixture
def location(tmp_path: Path) -> str:
    return str(tmp_path / "bus.db")


@pytest.fixture
def living(location: str) -> Iterator[Living]:
    """The lock of worker 1 in this process."""
    living = Living(location)
    assert living.hold(1) is not None
    yield living
    living.close()


@pytest.fixture
def holder(location: str) -> Iterator[Holder]:
    """Start a process that holds the lock of worker 7, and does something else *then*."""
    started: list[subprocess.Popen[str]] = []

    def start(then: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS.format(then=then), location],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(mt.__file__).parents[1])},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_worker_is_gone_once_its_process_was_killed_and_not_before(
    living: Living, holder: Holder
) -> None:
    process = holder()
    assert living.gone([7]) == set()

    process.kill()
    process.wait()

    assert living.gone([7]) == {7}


def test_stopped_process_keeps_its_lock(living: Living, holder: Holder) -> None:
    process = holder()
    os.kill(process.pid, signal.SIGSTOP)
    stat_file = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat_file.read_text().rpartition(")")[2].split()[0] == "T")

    assert living.gone([7]) == set()


@pytest.mark.parametrize(
    "then",
    [
        "if os.fork() == 0: threading.Event().wait()",
        (
            "import multiprocessing\n"
            "multiprocessing.get_context('fork').Process(target=threading.Event().wait).start()"
        ),
        "subprocess.Popen(['sleep', '600'], close_fds=False)",
    ],
    ids=["fork", "multiprocessing", "program"],
)
def test_child_that_lives_on_does_not_keep_the_lock_of_its_dead_parent(
    living: Living, holder: Holder, then: str
) -> None:
    process = holder(f"{then}\nchildren = open('/proc/self/task/%d/children' % os.getpid()).read()")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    assert living.gone([7]) == set()

    process.kill()
    process.wait()
    wait_until(lambda: living.gone([7]) == {7})  # the child may be about to close it

    os.kill(int(children[0]), signal.SIGKILL)  # it has lived until now


def test_process_that_forked_keeps_its_lock(living: Living, location: str) -> None:
    child = os.fork()
    if child == 0:
        living.close()
        os._exit(len(living.gone([1, 2])))
    _, status = os.waitpid(child, 0)

    other = Living(location)
    other.hold(2)
    assert status == 0  # a child judges nobody
    assert other.gone([1]) == set()
    other.close()


def test_lock_survives_whatever_this_process_does_with_the_file(
    living: Living, location: str, tmp_path: Path
) -> None:
    other = Living(location)
    other.hold(2)

    for path in tmp_path.iterdir():
        path.read_bytes()  # opens and closes it: POSIX locks would be gone
    shutil.copytree(tmp_path, tmp_path.parent / "copy")

    assert (living.gone([2]), other.gone([1])) == (set(), set())
    other.close()


def test_worker_that_gave_its_lock_up_is_gone(living: Living, location: str) -> None:
    other = Living(location)
    other.hold(2)

    other.close()
    other.close()

    assert living.gone([1, 2]) == {2}
    assert other.gone([1]) == set()  # closed, it judges nobody


def test_lock_lies_in_one_private_file_for_all_workers_for_ever(
    living: Living, location: str, tmp_path: Path
) -> None:
    for number in range(2, 50):
        other = Living(location)
        other.hold(number)
        other.close()

    (path,) = tmp_path.iterdir()
    assert path.name == "bus.db-alive"
    assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (0, 0o600)


def test_process_without_a_worker_can_judge_too(location: str, holder: Holder) -> None:
    process, judge = holder(), Living(location)
    assert judge.place is not None
    assert judge.gone([7]) == set()

    process.kill()
    process.wait()

    assert judge.gone([7]) == {7}
    judge.close()


# -- who must not be judged ------------------------------------------------------------------------


def test_boots_of_machines_and_removed_files_have_places_of_their_own(
    living: Living, location: str
) -> None:
    elsewhere = Living(location, boot="another machine")
    elsewhere.hold(2)
    Path(location + "-alive").unlink()
    later = Living(location)
    later.hold(3)

    assert None not in {living.place, elsewhere.place, later.place}
    assert len({living.place, elsewhere.place, later.place}) == 3
    for each in (elsewhere, later):
        each.close()


def link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("made", [link, folder, pipe])
def test_file_that_is_none_of_ours_gives_no_lock(
    location: str, made: Callable[[Path], None]
) -> None:
    made(Path(location + "-alive"))
    living = Living(location)

    assert (living.hold(1), living.place) == (None, None)
    assert living.gone([2]) == set()


@pytest.mark.parametrize(
    "kind", [None, "", "network"], ids=["in memory", "no boot id", "network file system"]
)
def test_no_lock_where_it_cannot_be_trusted(
    location: str, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "network":
        monkeypatch.setattr("mltrigger.store.sqlite.living.network_filesystem", lambda _: "9p")
    living = Living(None if kind is None else location, boot="" if kind == "" else "boot")

    assert living.hold(1) is None
    assert living.gone([2]) == set()
