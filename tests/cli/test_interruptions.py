"""Repairs that end half way: the audit balances, and the message says how far they came."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.reports import dead_letters
from mltrigger.store import backup, retention
from mltrigger.store.broker import SqlBroker

ROOT = Path(__file__).parents[2]
URL = "sqlite:///mltrigger.db"
DEAD = 5


def answer(page: Any) -> Any:
    raise mt.Reject("no page")


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose bus has dead letters. They are sent again one by one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    monkeypatch.setattr(dead_letters, "_BATCH", 1)
    (tmp_path / "mltrigger.db").write_bytes(blank.read_bytes())
    with mt.connect(URL) as bus:
        model = mt.model("reader", version="1.0.0")(answer)
        sub = bus.subscribe("pages", model, max_attempts=1)
        for n in range(DEAD):
            bus.publish("pages", n, id=f"page-{n}")
        wait_until(lambda: is_settled(sub))
    yield tmp_path


def run(*arguments: str) -> int:
    return cli.main(arguments)


def left() -> int:
    """Return how many dead letters there are. The audit must balance."""
    with mt.connect(URL) as bus:
        assert bus.audit()["balanced"].all()
        return len(bus.subscription("reader").dead_letters())


def failing_after(calls: int, work: Callable[..., Any], error: BaseException) -> Any:
    """Return *work*, which raises *error* after so many calls."""
    done: list[int] = []

    def called(*given: Any, **named: Any) -> Any:
        if len(done) == calls:
            raise error
        done.append(1)
        return work(*given, **named)

    return called


FULL = mt.StoreError("store mltrigger.db: database or disk is full")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, ["mltrigger: interrupted: 2 of 5 dead letters sent again; "]),
        (FULL, 1, ["mltrigger: stopped: 2 of 5 dead letters sent again; ", "disk is full"]),
    ],
    ids=["Ctrl-C", "full disk"],
)
def test_redrive_that_ends_half_way_says_how_far_it_came_and_goes_on(
    error: BaseException, status: int, said: list[str], home: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(SqlBroker, "send", failing_after(2, SqlBroker.send, error))
        assert run("redrive", "reader", "--yes") == status
    told = capsys.readouterr().err
    assert all(part in told for part in said)
    assert "the same command does the rest" in told
    assert left() == DEAD - 2

    assert run("redrive", "reader", "--yes") == 0
    assert capsys.readouterr().out == "3 dead letters sent again\n"
    assert left() == 0


def test_interrupted_discard_puts_none_away_and_says_so(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SqlBroker, "discard", failing_after(0, SqlBroker.discard, KeyboardInterrupt())
    )
    assert run("discard", "reader", "--why", "a test", "--yes") == 130
    assert "interrupted: 0 of 5 dead letters put away; " in capsys.readouterr().err
    assert left() == DEAD


def test_interrupted_prune_says_that_the_rest_is_whole(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        retention, "_delete", failing_after(0, retention._delete, KeyboardInterrupt())
    )
    assert run("retain", "--max-events", "1", "--prune", "--yes") == 130
    assert "the rest is whole; the same command goes on" in capsys.readouterr().err
    assert left() == DEAD


def test_interrupted_backup_leaves_nothing_and_is_done_again(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(backup, "_copied", failing_after(0, backup._copied, KeyboardInterrupt()))
        assert run("backup", "copy.db") == 130
    assert "interrupted: nothing is left of the backup" in capsys.readouterr().err
    assert not list(home.glob("copy.db*"))
    assert run("backup", "copy.db") == 0
    assert [file.name for file in home.glob("copy.db*")] == ["copy.db"]


KILLED = """
import os, signal
from mltrigger.cli import main
from mltrigger.store import backup
copy = backup._copied
def copied(source, path):
    copy(source, path)
    os.kill(os.getpid(), signal.SIGKILL)
backup._copied = copied
main(["backup", "copy.db"])
"""


def test_killed_backup_has_no_name_yet_and_is_taken_over(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=home, env=env, check=False).returncode
    assert not (home / "copy.db").exists()
    assert (home / "copy.db.part").exists()

    assert run("backup", "copy.db") == 0
    assert not list(home.glob("copy.db.part*"))
    with mt.connect("sqlite:///copy.db") as copy:
        assert len(copy.subscription("reader").dead_letters()) == DEAD


def test_second_backup_of_a_name_waits_for_nobody(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = backup._copied
    statuses: list[int] = []

    def slow(source: sqlite3.Connection, path: Path) -> None:
        if not statuses:
            statuses.append(run("backup", "copy.db"))
        copied(source, path)

    monkeypatch.setattr(backup, "_copied", slow)
    assert run("backup", "copy.db") == 0
    assert statuses == [1]
    assert "another process writes the backup 'copy.db' now" in capsys.readouterr().err
    with mt.connect("sqlite:///copy.db") as copy:
        assert len(copy.subscription("reader").dead_letters()) == DEAD


def test_backup_hears_ctrl_c_between_its_steps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(backup, "_PAGES", 1)
    monkeypatch.setattr(backup, "_hear", lambda *_: steps.append(1))
    assert run("backup", "copy.db") == 0
    assert len(steps) > 5
