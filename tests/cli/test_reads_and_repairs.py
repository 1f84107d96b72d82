"""The commands that read a bus and repair it: the rows of the frames, in three forms, quietly ended."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.cli import output
from mltrigger.cli.reads import attempts
from mltrigger.reports import views
from mltrigger.store.attempt_log import AttemptLog
from mltrigger.store.log import DeadLetter
from mltrigger.store.matching import Matching

HOSTILE = "\x1b[31mred\x1b[0m \x9b2J \u202eevil\x07\r\n% _ ' \" 🍏 é"
ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "mltrigger"]


def answer(page: Any) -> Any:
    if page["n"] % 4 == 3:
        raise mt.Reject(f"no page: {HOSTILE}")
    if page["n"] % 8 == 6:
        raise ValueError(HOSTILE)
    return {"said": HOSTILE, "n": page["n"], "share": page["n"] / 7, "parts": [HOSTILE, 1]}


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose bus has answers and dead letters of hostile texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mltrigger.db").write_bytes(blank.read_bytes())
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    with mt.connect("sqlite:///mltrigger.db") as bus:
        model = mt.model("reader", version="1.0.0")(answer)
        sub = bus.subscribe("pages", model, key="tenant", max_attempts=1)
        for n in range(16):
            data = {"n": n, "tenant": "north" if n % 2 else "süd"}
            bus.publish("pages", data, id=f"page-{n}", subject=HOSTILE if n == 3 else None)
        wait_until(lambda: is_settled(sub))
    yield tmp_path


@pytest.fixture
def bus(home: Path) -> Iterator[mt.EventBus]:
    with mt.connect("sqlite:///mltrigger.db") as bus:
        yield bus


def run(*arguments: str) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert run(*arguments) == status, capsys.readouterr().err
    return capsys.readouterr().out


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, *arguments, "-o", "json").splitlines()]


FILTERS: list[dict[str, Any]] = [
    {},
    {"outcome": ["dead"]},
    {"outcome": ["dead", "succeeded"], "version": ["1.0.0"]},
    {"reason": ["rejected"]},
    {"key": ["north"], "outcome": ["dead"]},
    {"since": "1h"},
    {"until": "1h"},
    {"text": "PAGE-1"},
    {"text": "🍏"},
    {"role": ["all"]},
]


def options(filters: dict[str, Any]) -> list[str]:
    given = []
    for name, values in filters.items():
        for value in [values] if isinstance(values, str) else values:
            given += [f"--{name}", value]
    return given


def ids(found: list[dict[str, Any]]) -> list[Any]:
    return [row["event_id"] for row in found]


def test_filters_choose_the_rows_of_the_frames(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = bus.subscription("reader")
    for filters in FILTERS:
        given = options(filters)
        assert ids(rows(capsys, "results", "reader", *given)) == [
            *sub.results(**filters)["event_id"]
        ]
        attempts = [*sub.invocations(**filters)["event_id"]]
        assert ids(rows(capsys, "tail", "reader", "--limit", "0", *given)) == attempts
        assert ids(rows(capsys, "tail", "--limit", "2", *given)) == attempts[-2:]
        if not filters.keys() & {"outcome", "role"}:
            letters = [*sub.dead_letters(**filters)["event_id"]]
            assert ids(rows(capsys, "dead-letters", "reader", *given)) == letters


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["ls", "topics"],
        ["ls", "models"],
        ["ls", "--names"],
        ["results", "reader"],
        ["dead-letters", "reader"],
        ["tail"],
        ["audit"],
        ["explain", "page-3", "reader"],
        ["trace", "page-3"],
        ["history", "reader"],
        ["lanes", "reader"],
        ["doctor"],
        ["redrive", "reader", "--dry-run"],
        ["discard", "reader", "--why", "x", "--dry-run"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", output.FORMS)
def test_no_sign_of_a_text_moves_the_cursor(
    command: list[str], form: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(*command, "-o", form)
    shown = capsys.readouterr()

    assert status in (0, 1)
    assert not shown.err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown.out), repr(shown.out)
    if command[0] in ("results", "dead-letters", "tail"):
        assert "é" in shown.out


def test_json_keeps_types_and_csv_is_that_of_the_frame(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(row for row in rows(capsys, "results", "reader") if row["n"] == 0)
    assert (first["n"], first["share"], first["reason"]) == (0, 0.0, None)
    assert first["parts"][1] == 1
    newest = rows(capsys, "tail", "--outcome", "succeeded", "--text", "page-13")[-1]
    assert newest["output"]["n"] == 13
    assert newest["attempt"] == 1
    assert pd.Timestamp(newest["settled_at"]).tz is not None
    letter, *_ = rows(capsys, "dead-letters", "reader")
    assert json.loads(letter["data"])["n"] == 3

    table = pd.read_csv(io.StringIO(said(capsys, "results", "reader", "-o", "csv")))
    frame = bus.subscription("reader").results()
    assert list(table.columns) == list(frame.columns)
    assert table["share"].dropna().tolist() == frame["share"].dropna().tolist()


def test_table_fits_the_terminal_and_cuts_no_number() -> None:
    table = pd.DataFrame(
        {
            "number": [123456789012345, 2],
            "share": [0.12345678901234, 1.0],
            "text": ["word " * 40, "語" * 60],
            "other": ["x" * 50, None],
        }
    )
    for most in (40, 60, 80, 200):
        lines = list(output.table_lines(table, most))
        assert max(map(output.wide, lines)) <= max(most, 59), most
        assert "123456789012345" in lines[1] and "0.12345678901234" in lines[1]
    assert "…" in list(output.table_lines(table, 60))[1]
    assert "…" not in "".join(output.table_lines(table, None))
    assert list(output.table_lines(table[:0], 80))[1:] == ["(nothing)"]


def test_wrong_filter_is_one_line_and_status_1(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, near in (
        (["--outcome", "daed"], "did you mean 'dead'"),
        (["--version", "1.0"], "did you mean '1.0.0'"),
        (["--since", "yesterday"], "since must be a time"),
    ):
        assert run("results", "reader", *given) == 1
        error = capsys.readouterr().err
        assert near in error
        assert error.count("\n") == 1
    assert run("results", "raeder") == 1
    assert "did you mean 'reader'" in capsys.readouterr().err
    assert run("results", "reader", "--limit", "-1") == 2
    assert run("results", "reader", "-o", "yaml") == 2


def test_audit_fails_when_something_is_missing(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "yes" in said(capsys, "audit")
    with bus.log.unit() as unit:
        unit.transaction.execute("DELETE FROM outcome WHERE seq = 1", {})

    assert "no" in said(capsys, "audit", status=1)


# -- repairs ---------------------------------------------------------------------------------------


def test_bulk_repair_without_a_terminal_needs_yes(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = bus.subscription("reader")
    n = len(sub.dead_letters())
    for command in (["redrive", "reader"], ["discard", "reader", "--why", "a test"]):
        assert run(*command) == 1
        assert f"{n} dead letters" in capsys.readouterr().err
        assert len(sub.dead_letters()) == n
        assert run(*command, "--dry-run") == 0
        assert len(sub.dead_letters()) == n


def test_redrive_and_discard_do_those_that_match(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = bus.subscription("reader")
    errors = len(sub.dead_letters(reason="model_error"))
    others = len(sub.dead_letters()) - errors
    assert f"{errors} dead letters" in said(
        capsys, "redrive", "reader", "--reason", "model_error", "-y"
    )
    assert len(sub.dead_letters()) == others
    assert "1 dead letter sent again" in said(
        capsys, "redrive", "reader", "page-3", "--data", '{"n": 1}'
    )
    put = said(capsys, "discard", "reader", "--why", "a test", "--yes", "--key", "north")
    assert f"{others - 1} dead letters put away" in put
    assert not len(sub.dead_letters())
    assert said(capsys, "redrive", "reader") == "0 dead letters sent again\n"
    assert run("redrive", "reader", "page-99") == 1
    assert run("discard", "reader") == 2


def answered(home: Path, *arguments: str, reply: str) -> tuple[int, str]:
    """Return the status and the words of a command on a terminal that gives *reply*."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, env=env
    ) as child:
        os.close(theirs)
        os.write(ours, reply.encode())
        told = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the end of a terminal
                break
            if not part:
                break
            told += part
        status = child.wait()
    os.close(ours)
    return status, told.decode()


def test_terminal_is_asked_with_the_number(home: Path, bus: mt.EventBus) -> None:
    sub = bus.subscription("reader")
    n = len(sub.dead_letters())

    status, told = answered(home, "redrive", "reader", reply="n\n")
    assert (status, len(sub.dead_letters())) == (1, n)
    assert f"deliver {n} dead letters again of 'reader'? [y/N]" in told

    status, _ = answered(home, "redrive", "reader", reply="y\n")
    assert (status, len(sub.dead_letters())) == (0, 0)


def test_pause_resume_alias_retain_and_backup(
    home: Path, bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = bus.subscription("reader")
    said(capsys, "pause", "reader")
    assert sub.state == "paused"
    said(capsys, "resume", "reader")
    assert sub.state != "paused"
    said(capsys, "alias", "reader", "champion", "1.0.0")
    assert bus.models()["aliases"].tolist() == ["champion"]
    assert "any age" in said(capsys, "retain")
    said(capsys, "retain", "--max-age", "30d", "--max-events", "1000")
    assert bus.registry.retention().max_age_s == 30 * 86_400
    assert "deleted" in said(capsys, "retain", "--max-events", "10", "--prune", "--yes")
    said(capsys, "retain", "--forever")
    assert bus.registry.retention().max_events is None
    said(capsys, "backup", "copy.db")
    with mt.connect("sqlite:///copy.db") as copy:
        assert len(copy.subscription("reader").results()) == len(sub.results())
    assert run("backup", "copy.db") == 1


# -- pipes and signals -----------------------------------------------------------------------------


def started(home: Path, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.Popen([*PROGRAM, *arguments], cwd=home, env=env, text=True, **streams)


def test_closed_pipe_ends_quietly(home: Path) -> None:
    for command in (["tail", "--limit", "0"], ["results", "reader", "-o", "json"]):
        reads, writes = os.pipe()
        os.close(reads)
        with started(home, *command, stdout=writes) as child:
            os.close(writes)
            _, error = child.communicate(timeout=60)
        assert (child.returncode, error) == (0, "")


def test_wrong_audit_is_wrong_also_where_its_reader_has_gone(home: Path, bus: mt.EventBus) -> None:
    with bus.log.unit() as unit:
        unit.transaction.execute("DELETE FROM outcome WHERE seq = 1", {})
    reads, writes = os.pipe()
    os.close(reads)
    with started(home, "audit", stdout=writes) as child:
        os.close(writes)
        _, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (1, "")


def test_tail_follows_survives_an_outage_and_ends_by_an_interrupt(
    home: Path, bus: mt.EventBus
) -> None:
    sub = bus.subscribe(
        "pages", mt.model("reader", version="1.0.0")(answer), key="tenant", max_attempts=1
    )
    follow = ("tail", "reader", "-f", "--limit", "1", "-o", "json", "--outcome", "succeeded")
    with started(home, *follow) as child:
        assert child.stdout is not None and child.stderr is not None
        assert json.loads(child.stdout.readline())["outcome"] == "succeeded"
        bus.publish("pages", {"n": 3}, id="new-dead")
        bus.publish("pages", {"n": 1}, id="new-1")
        assert json.loads(child.stdout.readline())["event_id"] == "new-1"
        sub.stop()
        bus.close()
        for name in home.glob("mltrigger.db*"):
            name.rename(home / f"away-{name.name}")
        assert "waiting for the store" in child.stderr.readline()
        for name in home.glob("away-*"):
            name.rename(home / name.name.removeprefix("away-"))
        assert "there again" in child.stderr.readline()
        with mt.connect("sqlite:///mltrigger.db") as again:
            again.subscribe(
                "pages", mt.model("reader", version="1.0.0")(answer), key="tenant", max_attempts=1
            )
            again.publish("pages", {"n": 2}, id="new-2")
            assert json.loads(child.stdout.readline())["event_id"] == "new-2"
        child.send_signal(signal.SIGINT)
        _, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (130, "")


def test_deletion_of_events_is_asked_for(
    home: Path, bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("retain", "--max-events", "10") == 1
    assert "delete up to 6 events with all outcomes: say --yes" in capsys.readouterr().err
    assert (bus.registry.retention().max_events, len(bus.events())) == (None, 16)
    bus.retain(max_events=12)
    assert run("retain", "--prune") == 1
    assert "delete up to 4 events" in capsys.readouterr().err

    status, told = answered(home, "retain", "--max-events", "10", "--prune", reply="n\n")
    assert (status, bus.registry.retention().max_events, len(bus.events())) == (1, 12, 16)
    assert "delete up to 6 events with all outcomes? [y/N]" in told

    status, _ = answered(home, "retain", "--max-events", "10", "--prune", reply="y\n")
    assert (status, len(bus.events())) == (0, 10 + 1)  # a dead letter stays
    assert run("retain", "--forever", "--max-age", "3d") == 1
    assert "leave it out, or the limits" in capsys.readouterr().err


def test_dead_letters_that_are_named_and_do_not_match_are_an_error(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    sub = bus.subscription("reader")
    before = len(sub.dead_letters())
    for filters in (["--reason", "timeout"], ["--text", "page-7"], ["--key", "nobody"]):
        assert run("discard", "reader", "page-3", "--why", "a test", *filters) == 1
        assert "the filters leave out 'page-3': give" in capsys.readouterr().err
    assert said(capsys, "redrive", "reader", "--source", "/nowhere", "--reason", "timeout") == (
        "0 dead letters sent again\n"
    )
    assert len(sub.dead_letters()) == before
    said(capsys, "discard", "reader", "page-3", "--why", "a test", "--reason", "rejected")
    assert len(sub.dead_letters()) == before - 1


def test_tail_shows_once_an_attempt_that_is_recorded_during_a_look(
    home: Path, bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mt.model("reader", version="1.0.0")(answer)
    sub = bus.subscribe("pages", model, key="tenant", max_attempts=1)
    look, wanted = AttemptLog.newest_row, Matching(bus.spec("reader").id)
    late = iter(["late-1", "late-2"])

    def slow(log: AttemptLog) -> int:
        row = look(log)
        if (event_id := next(late, None)) is not None:
            bus.publish("pages", {"n": 1}, id=event_id)
            wait_until(lambda: is_settled(sub))
        return row

    monkeypatch.setattr(AttemptLog, "newest_row", slow)
    table, last = views.newest(bus.log, wanted, 3)
    assert list(table["event_id"])[-1] == "late-1"
    given = argparse.Namespace(url="sqlite:///mltrigger.db", name="reader", form="json")
    bus.publish("pages", {"n": 1}, id="new-1")
    wait_until(lambda: is_settled(sub))
    follow = attempts._followed(given, last)
    shown = [json.loads(line)["event_id"] for line in next(follow)]
    bus.publish("pages", {"n": 1}, id="new-2")
    shown += [json.loads(line)["event_id"] for line in next(follow)]
    follow.close()
    assert shown == ["new-1", "late-2", "new-2"]


def test_commands_that_read_import_no_file_of_the_working_directory(home: Path) -> None:
    trap = 'open("imported", "w").close(); raise ImportError'
    for name in ("pandas", "numpy", "sqlite3", "difflib", "psycopg"):
        (home / f"{name}.py").write_text(trap)
    code = "import sys; from mltrigger.cli import main; sys.exit(main(sys.argv[1:]))"
    for command in (["ls", "--names"], ["results", "reader"], ["tail"], ["audit"], ["ls"]):
        child = subprocess.run(
            [sys.executable, "-P", "-c", code, *command],
            cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        )  # fmt: skip
        assert (child.returncode, child.stderr) == (0, b"")
    assert not (home / "imported").exists()


def test_newest_dead_letters_are_read_without_the_data_of_the_others(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ids(rows(capsys, "dead-letters", "reader"))
    read: list[int] = []
    make = DeadLetter._make
    monkeypatch.setattr(DeadLetter, "_make", lambda row: read.append(row[0]) or make(row))
    for n in (1, 2, len(whole), 99):
        read.clear()
        assert ids(rows(capsys, "dead-letters", "reader", "--limit", str(n))) == whole[-n:]
        assert len(read) == min(n, len(whole))
    assert (
        ids(rows(capsys, "dead-letters", "reader", "--limit", "2", "--reason", "rejected"))
        == (ids(rows(capsys, "dead-letters", "reader", "--reason", "rejected"))[-2:])
    )


def test_wrong_time_of_a_label_is_said_in_plain_words(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("label", "page-1", "1", "--at", "noon") == 2
    assert "'noon' is no time: write it as 2026-11-30T12:00Z" in capsys.readouterr().err


def test_csv_of_hostile_texts_has_the_rows_of_the_frame(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "dead-letters", "reader", "-o", "csv")
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == len(rows(capsys, "dead-letters", "reader"))
