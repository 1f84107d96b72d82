"""The command ``mltrigger move``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mltrigger as mt
from mltrigger import cli
from mltrigger.store.postgresql.place import parts_of


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a bus that has answered three events."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(blank, tmp_path / "bus.db")
    with mt.connect("sqlite:///bus.db") as bus:
        bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
        bus.fire("numbers", [1, 2, 3], progress=False)
    return tmp_path


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, with one blank between words."""
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).split())


def test_a_move_shows_progress_and_both_sides(
    home: Path, team: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = team.replace("app@", "app:hunter2@")

    assert run("move", "sqlite:///bus.db", url) == 0

    shown = said(capsys)
    assert "event 3 of 3 rows" in shown
    assert "table source destination" in shown
    assert "event 3 3" in shown
    balance = "same: 3 published, 0 sent, 0 filtered = 3 succeeded, 0 dead, 0 skipped, 0 open"
    assert f"audit source {balance}: balanced audit destination {balance}: balanced" in shown
    assert "rows/s; connect to postgresql://127.0.0.1:" in shown
    assert "hunter2" not in shown

    assert run("move", "sqlite:///bus.db", team) == 0
    assert "done: all was there before" in said(capsys)
    assert run("publish", "numbers", "4", "--url", "sqlite:///bus.db") == 1
    assert "this store was moved to postgresql://127.0.0.1:" in said(capsys)


def test_a_move_whose_reader_has_gone_is_done_all_the_same(
    home: Path, team: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "mltrigger", "move", "sqlite:///bus.db", team]
    reads, writes = os.pipe()
    os.close(reads)
    env = {**os.environ, "PYTHONPATH": str(Path(mt.__file__).parents[1])}
    done = subprocess.run(command, env=env, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)

    assert (done.returncode, done.stderr) == (0, b"")
    assert run("publish", "numbers", "4", "--url", "sqlite:///bus.db") == 1
    assert "this store was moved to" in said(capsys)


def test_a_dry_run_says_how_it_would_go_and_changes_nothing(
    home: Path, unmade: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (home / "bus.db").read_bytes()

    assert run("move", "sqlite:///bus.db", unmade, "--dry-run") == 0

    shown = said(capsys)
    assert "from bus.db: SQLite 3." in shown
    assert "PostgreSQL 1" in shown
    assert "event 3 0" in shown
    assert "bytes: about 1 s nothing was changed" in shown
    assert (home / "bus.db").read_bytes() == before
    with pytest.raises(mt.StoreError, match="no schema"):
        from mltrigger.store.postgresql.upgrade import upgrade

        upgrade(unmade)
    assert run("publish", "numbers", "4", "--url", "sqlite:///bus.db") == 0


def test_a_dry_run_names_what_would_be_refused(
    home: Path, team: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect("sqlite:///bus.db") as bus:
        bus.label("x" * 3_000, 1)
    with mt.connect(team) as bus:
        bus.topic("mine")

    assert run("move", "sqlite:///bus.db", team, "--dry-run") == 1
    shown = said(capsys)
    assert "error: 1 rows of label have a longer event_id than PostgreSQL keeps" in shown
    assert "is not empty (topic 1)" in shown

    assert run("move", "sqlite:///bus.db", team) == 1
    assert run("publish", "numbers", "4", "--url", "sqlite:///bus.db") == 0


def test_a_move_is_taken_back_before_it_is_done_only(
    home: Path, team: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("move", "sqlite:///bus.db", team, "--undo") == 1
    assert "nothing to undo" in said(capsys)
    assert run("move", "sqlite:///bus.db", team, "--undo", "--dry-run") == 2


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("postgresql://h/a", "postgresql://h/b", "pg_dump and pg_restore"),
        ("memory://", "postgresql://h/b", "ends with its process"),
        ("sqlite:///bus.db", "sqlite:///b.db", "write mltrigger move sqlite:///"),
        ("sqlite:///nowhere.db", "postgresql://h/b", "no store 'nowhere.db'"),
        ("sqlite:///bus.db", "postgresql://u:hunter2@127.0.0.1:1/b", "store PostgreSQL: "),
        ("sqlite:///bus.db", "postgresql://h/b?schema=A b", "is no name of a schema"),
    ],
)
def test_what_cannot_move_is_refused_with_advice(
    source: str,
    destination: str,
    words: str,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("move", source, destination) == 1
    shown = said(capsys)
    assert words in shown
    assert "hunter2" not in shown


def test_a_backup_of_postgresql_names_pg_dump(team: str, tmp_path: Path) -> None:
    with mt.connect(team) as bus:
        schema = parts_of(team)[1]
        with pytest.raises(mt.StoreError, match=f"call pg_dump --schema={schema} for a backup"):
            bus.backup(tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []
