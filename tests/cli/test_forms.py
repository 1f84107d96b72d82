"""The three forms of commands about versions: the rows of Python, whole and the same in each."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mltrigger as mt
from mltrigger import cli
from mltrigger.cli.versions.rows import RULES, VERDICTS
from mltrigger.rollout.verdict import Verdict

ROOT = Path(__file__).parents[2]
URL = "sqlite:///bus.db"
BIG = 2**53 + 1
HOSTILE = "page é語🍏 \x1b[31m \u202e"
VERSIONS = f"""
import mltrigger as mt

@mt.model("ocr", version="1.0.0")
def first(page):
    if page == 5:
        raise mt.Reject({HOSTILE!r})
    return {{"text": {HOSTILE!r}, "n": None if page % 2 else {BIG}, "share": page / 7}}

@mt.model("ocr", version="2.0.0")
def other(page):
    return {{"text": "?", "n": page, "share": page / 7}}
"""


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose bus has answered by one version, and replayed another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", URL)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ocr_versions.py").write_text(VERSIONS)
    with mt.connect(URL) as bus:
        sub = bus.subscribe("documents", "ocr_versions:first", emit="texts", max_attempts=1)
        bus.register("ocr_versions:other")
        for n in range(12):
            bus.publish("documents", n, id=f"page-{n}")
        sub.replay("2.0.0", wait=True)
    yield tmp_path
    sys.modules.pop("ocr_versions", None)


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    run(*arguments)
    shown = capsys.readouterr()
    assert not shown.err
    return shown.out


def objects(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def table(text: str) -> tuple[list[str], list[dict[str, str]]]:
    found = csv.DictReader(io.StringIO(text))
    return list(found.fieldnames or ()), list(found)


def in_csv(value: Any) -> str:
    """Return a value of JSON as CSV has it."""
    return "" if value is None else str(value)


def columns(frame: pd.DataFrame) -> list[str]:
    return [*map(str, frame.columns)]


def test_new_lanes_and_bindings_are_rows_of_their_frames(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect(URL) as bus:
        sub = bus.subscription("ocr")
        lanes, history = columns(sub.lanes().frame()), columns(sub.history().frame())
    for command, wanted in (
        (["shadow", "ocr", "2.0.0", "--share", "0.3"], lanes),
        (["replay", "ocr", "2.0.0", "--limit", "3"], lanes),
        (["canary", "ocr", "2.0.0"], lanes),
        (["rollback", "ocr"], history),
        (["promote", "ocr", "2.0.0"], history),
    ):
        (row,) = objects(said(capsys, *command, "-o", "json"))
        assert list(row) == wanted, command
    assert row["at"].endswith("Z") and len(row["at"]) == len("2026-11-30T12:00:00.000000Z")
    names, (again,) = table(said(capsys, "promote", "ocr", "2.0.0", "-o", "csv"))
    assert names == history
    assert again == {name: in_csv(value) for name, value in row.items()}
    names, _ = table(said(capsys, "shadow", "ocr", "2.0.0", "-o", "csv"))
    assert names == lanes


def test_guard_of_a_canary_is_its_progress(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("canary", "ocr", "2.0.0", "--p95", "off")
    (rule,) = objects(said(capsys, "canary", "ocr", "-o", "json"))
    assert (rule["rule"], rule["e"]) == ("errors", 1.0)
    names, (row,) = table(said(capsys, "canary", "ocr", "-o", "csv"))
    assert names == ["rule", "e", "limit", "detail"]
    assert row == {name: in_csv(value) for name, value in rule.items()}


def test_verdict_as_json_is_that_of_python_and_promotes(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("compare", "ocr", "1.0.0", "2.0.0", "--slow-at-most", "0.99")
    text = said(capsys, *command, "-o", "json")
    names, rules = table(said(capsys, *command, "-o", "csv"))

    verdict = Verdict.from_json(text)
    assert len(text.splitlines()) == 1
    assert names == list(RULES)
    assert [rule["rule"] for rule in rules] == [rule.name for rule in verdict.rules]
    for row, rule in zip(rules, json.loads(text)["rules"], strict=True):
        assert row["needs"] == in_csv(rule["needs"])
        assert [row["low"], row["high"]] == [*map(in_csv, rule["interval"] or [None, None])]
        assert row["verdict"] == verdict.word
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    status = run("promote", "ocr", "2.0.0", "--verdict", "-", "-o", "json")
    assert status == VERDICTS[verdict.word] != 0
    assert f"{verdict.word}: ocr:1.0.0 -> ocr:2.0.0" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["flips", "frame", "missing", "slices", "latency"])
def test_rows_of_a_comparison_are_those_of_python(
    part: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect(URL) as bus:
        frame = getattr(bus.subscription("ocr").compare("1.0.0", "2.0.0"), part)()
    command = ("compare", "ocr", "1.0.0", "2.0.0", "--rows", part)
    names, rows = table(said(capsys, *command, "-o", "csv"))
    found = objects(said(capsys, *command, "-o", "json"))

    assert names == columns(frame)
    assert len(rows) == len(found) == len(frame)
    for row, line in zip(rows, found, strict=True):
        assert row == {name: in_csv(value) for name, value in line.items()}
    assert said(capsys, *command)


def test_correction_is_its_progress_and_its_rows(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("promote", "ocr", "2.0.0")
    (progress,) = objects(said(capsys, "correct", "ocr", "0", "-o", "json"))
    assert (progress["state"], progress["answers"], progress["left"]) == ("not started", 12, 12)
    names, (row,) = table(said(capsys, "correct", "ocr", "0", "-o", "csv"))
    assert row == {name: in_csv(value) for name, value in progress.items()}
    tried = objects(said(capsys, "correct", "ocr", "0", "--dry-run", "-o", "json"))
    assert [row["event_id"] for row in tried] == [f"page-{n}" for n in range(12)]
    names, given = table(said(capsys, "correct", "ocr", "0", "--rows", "-o", "csv"))
    assert (names, given) == (list(tried[0]), [])
    assert "(nothing)" in said(capsys, "correct", "ocr", "0", "--rows")


def test_repairs_and_names_have_the_forms_too(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert objects(said(capsys, "ls", "--names", "-o", "json")) == [{"name": "ocr"}]
    assert said(capsys, "ls", "models", "--names", "-o", "csv") == "name\nocr\n"
    (sent,) = objects(said(capsys, "redrive", "ocr", "page-5", "-o", "json"))
    assert sent == {"subscription": "ocr", "sent": 1}
    _, (away,) = table(said(capsys, "discard", "ocr", "--why", "x", "--yes", "-o", "csv"))
    assert away == {"subscription": "ocr", "discarded": "0"}


def test_numbers_and_times_are_the_same_in_each_form(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["results", "ocr"], ["tail", "ocr"], ["dead-letters", "ocr"], ["ls", "topics"]):
        _, rows = table(said(capsys, *command, "-o", "csv"))
        lines = objects(said(capsys, *command, "-o", "json"))
        for row, line in zip(rows, lines, strict=True):
            for name, value in line.items():
                if isinstance(value, (int, float)) or name.endswith("_at"):
                    assert row[name] == in_csv(value), name
    text = said(capsys, "results", "ocr", "-o", "csv")
    assert [row["n"] for row in table(text)[1]][:4] == [str(BIG), "", str(BIG), ""]
    line = objects(said(capsys, "tail", "ocr", "--limit", "1", "-o", "json"))[0]
    shown = said(capsys, "tail", "ocr", "--limit", "1")
    assert line["settled_at"] in shown
    assert f"{line['total_ms']:.3f}" in shown


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "settings",
    [PLAIN, {"PYTHONIOENCODING": "latin-1"}, {"COLUMNS": "40", "NO_COLOR": "1", "TERM": "dumb"}],
    ids=["no locale", "latin 1", "narrow"],
)
def test_bytes_of_json_and_csv_depend_on_no_locale_and_no_terminal(
    settings: dict[str, str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("json", "csv"):
        command = ("dead-letters", "ocr", "-o", form)
        wanted = said(capsys, *command)
        child = subprocess.run(
            [sys.executable, "-m", "mltrigger", *command],
            cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
            capture_output=True, check=False,
        )  # fmt: skip
        assert (child.returncode, child.stderr) == (0, b"")
        assert child.stdout.decode() == wanted
        assert "é語🍏" in wanted


def test_full_disk_and_a_closed_output_are_said_without_a_traceback(home: Path) -> None:
    def status(line: str) -> tuple[int, str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PY": sys.executable}
        child = subprocess.run(
            ["sh", "-c", f"$PY -m mltrigger {line}"],
            cwd=home, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return child.returncode, child.stderr

    full = "mltrigger: the output cannot be written: No space left on device\n"
    assert status("results ocr -o json >/dev/full") == (1, full)
    assert status("pause ocr >/dev/full") == (1, full)
    assert status("ls >&-") == (0, "")


def test_empty_file_is_no_store_and_stays_empty(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.db").touch()
    for command in (["ls"], ["tail"], ["audit"], ["pause", "ocr"]):
        assert run(*command, "--url", "sqlite:///empty.db") == 1
        assert "'empty.db' is empty, so it is no store" in capsys.readouterr().err
    assert Path("empty.db").stat().st_size == 0


def test_a_dash_is_no_file_of_a_comparison(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "ocr", "1.0.0", "2.0.0", "--json", "-") == 1
    assert "-o json prints the verdict" in capsys.readouterr().err
    assert not (home / "-").exists()
