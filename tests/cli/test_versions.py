"""Versions on the command line: history, promote, canary, rollback."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import mltrigger as mt
from mltrigger import cli
from mltrigger.rollout.verdict import Draft, Rule, Verdict

URL = "sqlite:///bus.db"
VERSIONS = """
import mltrigger as mt

@mt.model("ocr", version="3.0.0")
def third(page):
    return 3
"""


def answers(version: str) -> mt.Model:
    """A version that answers with its number."""
    return mt.model("ocr", version=version)(lambda page: version)


def verdict(passed: bool, old: str = "ocr:1.0.0", new: str = "ocr:2.0.0") -> Verdict:
    """A verdict with one rule."""
    rule = Rule("agreement", passed, 0.9, (0.8, 0.95), None, "90 of 100 pairs agree")
    return Verdict.of([Draft(rule)], (old, new), 100)


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a bus whose subscription ``ocr`` has answered two events."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MLTRIGGER_URL", URL)
    with mt.connect(URL) as bus:
        bus.subscribe("documents", answers("1.0.0"))
        bus.register(answers("2.0.0"))
        bus.fire("documents", [1, 2], progress=False)
    return tmp_path


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def bindings() -> list[tuple[str, str, str | None]]:
    """The ledger of the bus."""
    with mt.connect(URL) as bus:
        return [(b.kind, b.version, b.canary) for b in bus.subscription("ocr").history()]


def test_history_shows_each_binding_on_one_line_with_its_reason(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("promote", "ocr", "2.0.0", "--why", "better scans") == 0
    capsys.readouterr()

    assert run("history", "ocr") == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("0 bind ocr:1.0.0, from event 0 on, 2 answered")
    assert second.startswith("1 promote ocr:2.0.0, from event 3 on, 0 answered: better scans")


def test_promoted_version_answers_the_next_events(home: Path) -> None:
    assert run("promote", "ocr", "2.0.0") == 0

    with mt.connect(URL) as bus:
        bus.register(answers("2.0.0"))
        bus.subscription("ocr").start()
        fired = bus.fire("documents", [3], progress=False)
        assert list(fired.results()["output"]) == ["2.0.0"]


def test_promote_again_says_that_the_version_answers_already(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("promote", "ocr", "1.0.0") == 0

    assert "ocr:1.0.0 answers 'ocr' already" in capsys.readouterr().out
    assert len(bindings()) == 1


def test_model_beside_the_notebook_is_promoted_by_its_import_path(home: Path) -> None:
    (home / "versions_beside.py").write_text(VERSIONS)

    assert run("promote", "ocr", "versions_beside:third") == 0

    assert bindings()[-1] == ("promote", "ocr:3.0.0", None)


def test_verdict_that_is_not_ship_is_printed_with_its_arithmetic(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("verdict.json").write_text(verdict(passed=False).to_json())

    assert run("promote", "ocr", "2.0.0", "--verdict", "verdict.json") == 3

    said = capsys.readouterr().err
    assert "HOLD: ocr:1.0.0 -> ocr:2.0.0" in said
    assert "90 of 100 pairs agree" in said
    assert "--force REASON promotes it all the same" in said
    assert len(bindings()) == 1

    forced = ("--verdict", "verdict.json", "--force", "the old one is on fire")
    assert run("promote", "ocr", "2.0.0", *forced) == 0
    assert "forced: the old one is on fire" in capsys.readouterr().out


def test_verdict_comes_from_standard_input_and_is_kept(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.TextIOWrapper(io.BytesIO(verdict(passed=True).to_json().encode()))
    monkeypatch.setattr(sys, "stdin", given)

    assert run("promote", "ocr", "2.0.0", "--verdict", "-") == 0

    assert "on SHIP" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no verdict of a comparison"),
        ("[]", "no verdict of a comparison"),
        ('{"word": "SHIP"}', "there is no member 'rules'"),
        (verdict(passed=False).to_json().replace("HOLD", "SHIP"), "HOLD follows from its rules"),
        (verdict(passed=True, new="ocr:7.0.0").to_json(), "the verdict is about"),
    ],
    ids=["empty", "a list", "not whole", "a forged word", "another version"],
)
def test_wrong_verdict_is_refused(
    home: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("verdict.json").write_text(text)

    assert run("promote", "ocr", "2.0.0", "--verdict", "verdict.json") == 1

    assert said in capsys.readouterr().err
    assert len(bindings()) == 1


def test_canary_begins_is_shown_and_is_promoted_without_its_name(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ("--step", "0.1", "--step", "0.5", "--errors", "off", "--p95", "2")
    assert run("canary", "ocr", "2.0.0", *rules, "--min-events", "5") == 0
    assert "0.1 of the events, step 1 of 2" in capsys.readouterr().out

    assert run("canary", "ocr") == 0
    shown = capsys.readouterr().out
    assert "2 times the live p95" in shown
    assert "errors:" not in shown

    assert run("promote", "ocr") == 0
    assert bindings() == [
        ("bind", "ocr:1.0.0", None),
        ("canary", "ocr:1.0.0", "ocr:2.0.0"),
        ("promote", "ocr:2.0.0", None),
    ]


def test_rollback_ends_the_canary_or_goes_to_a_version_or_a_number(home: Path) -> None:
    run("canary", "ocr", "2.0.0")
    assert run("rollback", "ocr", "--why", "too slow") == 0
    run("promote", "ocr", "2.0.0")
    assert run("rollback", "ocr", "--to", "1.0.0") == 0
    assert run("rollback", "ocr", "--to", "3") == 0

    assert [version for kind, version, _ in bindings() if kind == "rollback"] == [
        "ocr:1.0.0",
        "ocr:1.0.0",
        "ocr:2.0.0",
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["history", "orc"], 1, "no subscription 'orc'; did you mean 'ocr'?"),
        (["promote", "ocr"], 1, "no canary to promote: name the version"),
        (["promote", "ocr", "2.0.1"], 1, "did you mean 'ocr:2.0.0'"),
        (["promote", "ocr", "2.0.0", "--backlog", "neu"], 2, "did you mean new?"),
        (["promote", "ocr", "2.0.0", "--forse", "x"], 2, "did you mean --force"),
        (["promote", "ocr", "2.0.0", "--verdict", "nowhere.json"], 1, "cannot be read"),
        (["canary", "ocr"], 1, "has no canary"),
        (["canary", "ocr", "1.0.0"], 1, "answers 'ocr' already"),
        (["canary", "ocr", "2.0.0", "--step", "2"], 1, "write shares from 0 to 1"),
        (["canary", "ocr", "2.0.0", "--errors", "0.5"], 2, "write a number from 1 on, or off"),
        (["canary", "ocr", "2.0.0", "--measure", "x"], 2, "NAME=higher or NAME=lower"),
        (["canary", "ocr", "2.0.0", "--measure", "x=up"], 1, "'higher' or 'lower'"),
        (["canary", "ocr", "2.0.0", "--measure", "x=lower"], 1, "the measure 'x'"),
        (["rollback", "ocr"], 1, "there is nothing to go back to"),
        (["rollback", "ocr", "--to", "9"], 1, "no binding 9 of 'ocr': the history has 0 to 0"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_wrong_word_is_refused_with_advice_and_changes_nothing(
    home: Path, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == status

    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len(bindings()) == 1
