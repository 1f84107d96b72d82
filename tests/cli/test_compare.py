"""Comparisons and corrections on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import mltrigger as mt
from mltrigger import cli

URL = "sqlite:///bus.db"
VERSIONS = """
import mltrigger as mt

@mt.model("ocr", version="1.0.0")
def first(page):
    return {"text": f"page {page}", "score": page}

@mt.model("ocr", version="1.1.0")
def same(page):
    return {"text": f"page {page}", "score": page + 0.001}

@mt.model("ocr", version="2.0.0")
def other(page):
    return {"text": "?", "score": page}

@mt.model("ocr", version="3.0.0")
def broken(page):
    raise mt.Reject("no page")
"""
EVENTS = 400


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose bus has answered events by one version, and replayed two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", URL)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ocr_versions.py").write_text(VERSIONS)
    with mt.connect(URL) as bus:
        sub = bus.subscribe("documents", "ocr_versions:first", emit="texts")
        for name in ("same", "other", "broken"):
            bus.register(f"ocr_versions:{name}")
        bus.fire("documents", range(EVENTS), progress=False)
        for version in ("1.1.0", "2.0.0", "3.0.0"):
            sub.replay(version, wait=True)
    return tmp_path


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_exit_status_is_that_of_the_verdict_and_its_file_promotes(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the machine of this test may be busy while one of the versions runs
    rules = ("--tolerance", "0.01", "--slow-at-most", "0.99")
    ship = run("compare", "ocr", "1.0.0", "1.1.0", *rules, "--json", "v.json", "--html", "v.html")
    said = capsys.readouterr().out

    assert ship == 0, said
    assert "SHIP" in said
    assert json.loads(Path("v.json").read_text())["word"] == "SHIP"
    assert "SHIP" in Path("v.html").read_text()
    assert run("promote", "ocr", "1.1.0", "--verdict", "v.json") == 0
    assert "on SHIP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("new", "rules", "status"),
    [
        ("1.1.0", [], 3),
        ("2.0.0", ["--field", "score", "--slow-at-most", "0.99"], 0),
        ("2.0.0", ["--field", "text", "--similar", "0.9", "--slow-at-most", "0.99"], 3),
        ("2.0.0", ["--field", "text", "--similar", "0.1", "--slow-at-most", "0.99"], 3),
        ("1.1.0", ["--tolerance", "1", "--agree-at-least", "0.9999", "--slow-at-most", "0.99"], 5),
        ("3.0.0", [], 4),
    ],
)
def test_rule_of_agreement_decides(home: Path, new: str, rules: list[str], status: int) -> None:
    assert run("compare", "ocr", "1.0.0", new, *rules) == status


def test_correction_is_shown_tried_out_and_started(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("promote", "ocr", "2.0.0")
    capsys.readouterr()

    assert run("correct", "ocr", "0") == 0
    assert "not started" in capsys.readouterr().out

    assert run("correct", "ocr", "0", "--dry-run", "--limit", "3") == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert len(rows) == 3
    assert all("page" in row and "?" in row for row in rows)
    assert last == "3 of 3 answers differ; --start corrects them"

    assert run("correct", "ocr", "0", "--start", "--limit", "5", "--why", "bad scans") == 0
    assert "waiting for a listener of 'ocr'; 0 of 5 done" in capsys.readouterr().out
    assert run("correct", "ocr", "0", "--wait-s", "0") == 1
    with mt.connect(URL) as bus:
        sub = bus.subscription("ocr").start()
        sub.correct(0).wait(30)
    capsys.readouterr()
    assert run("correct", "ocr", "0", "--wait-s", "0") == 0
    assert "5 corrected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["compare", "ocr", "1.0.0", "9.0.0"], 1, "did you mean"),
        (["compare", "ocr", "1.0.0", "1.0.0"], 1, ""),
        (["compare", "ocr", "1.0.0", "1.1.0", "--by", "tpye"], 1, "did you mean 'type'?"),
        (["compare", "ocr", "1.0.0", "1.1.0", "--similar", "2"], 1, "at most 1"),
        (["compare", "ocr", "1.0.0", "1.1.0", "--measure", "x=lower"], 1, "'x'"),
        (["compare", "ocr", "1.0.0", "1.1.0", "--html", "no/v.html"], 1, "cannot be written"),
        (
            ["compare", "ocr", "1.0.0", "1.1.0", "--similar", "1", "--tolerance", "1"],
            2,
            "not allow",
        ),
        (["correct", "ocr", "0"], 1, "answers still"),
        (["correct", "ocr", "7"], 1, "the history has 0 to 0"),
        (["correct", "ocr", "first"], 2, "invalid int value"),
        (["correct", "ocr", "0", "--limit", "0"], 1, "--limit must be at least 1"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_word_is_refused_with_advice(
    home: Path, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status

    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
