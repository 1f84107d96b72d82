"""Lanes on the command line: shadow, replay, lanes."""

from __future__ import annotations

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
    return 1

@mt.model("ocr", version="2.0.0")
def second(page):
    return 2
"""


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two versions, and a bus that has answered three events."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", URL)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ocr_versions.py").write_text(VERSIONS)
    with mt.connect(URL) as bus:
        bus.subscribe("documents", "ocr_versions:first")
        bus.register("ocr_versions:second")
        bus.fire("documents", [1, 2, 3], progress=False)
    return tmp_path


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_replay_is_done_by_a_worker_and_listed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", "ocr", "2.0.0", "--limit", "2", "--why", "a look") == 0
    assert "replay ocr:2.0.0, waiting for a listener" in capsys.readouterr().out

    with mt.connect(URL) as bus:
        sub = bus.subscription("ocr").start()
        lane = sub.lanes()[-1].wait()
        assert list(lane.results()["output"]) == [2, 2]
    capsys.readouterr()

    assert run("lanes", "ocr") == 0
    live, replay = capsys.readouterr().out.splitlines()
    assert live.startswith("ocr  live ocr:1.0.0, ")
    assert "replay ocr:2.0.0, done, 2 of 2 done" in replay
    assert replay.endswith(": a look")


def test_shadow_is_stopped_and_started_by_its_name(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("shadow", "ocr", "2.0.0", "--share", "0.5", "--max-rate-per-s", "10") == 0
    name = capsys.readouterr().out.split()[0]

    assert run("lanes", "ocr", "--stop", name) == 0
    assert "shadow ocr:2.0.0, stopped" in capsys.readouterr().out
    assert run("lanes", "ocr", "--start", name) == 0
    assert "shadow ocr:2.0.0, waiting for a listener" in capsys.readouterr().out


def test_replay_that_is_not_done_in_time_is_a_failure(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", "ocr", "2.0.0", "--wait-s", "0") == 1

    assert "events left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["lanes", "orc"], 1, "did you mean 'ocr'?"),
        (["lanes", "ocr", "--stop", "ocr~shadow"], 1, "no lane 'ocr~shadow'"),
        (["lanes", "ocr", "--stop", "ocr"], 1, "the live lane of 'ocr' is the subscription"),
        (["lanes", "ocr", "--stop", "a", "--start", "a"], 2, "not allowed with"),
        (["shadow", "ocr", "9.9.9"], 1, "did you mean"),
        (["shadow", "ocr", "2.0.0", "--share", "0"], 1, "write a share above 0"),
        (["shadow", "ocr", "2.0.0", "--effects", "liv"], 2, "did you mean live?"),
        (["shadow", "ocr", "2.0.0", "--concurrency", "0"], 1, "concurrency"),
        (["replay", "ocr", "2.0.0", "--since", "yesterday"], 1, "since"),
        (["replay", "ocr", "2.0.0", "--until", "1000d"], 1, "no event of 'documents' is recorded"),
        (["replay", "ocr", "2.0.0", "--limit", "0"], 1, "a whole number of at least 1"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_word_is_refused_with_advice_and_opens_nothing(
    home: Path, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status

    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    with mt.connect(URL) as bus:
        assert len(bus.subscription("ocr").lanes()) == 1
