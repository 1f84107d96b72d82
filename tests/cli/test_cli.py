"""The command line: what it lists, what it refuses, and its exit statuses."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mltrigger as mt
from mltrigger import cli

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()


@pytest.fixture
def home(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose bus, ``bus.db``, has a topic and a subscription."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    with mt.connect("sqlite:///bus.db") as bus:
        bus.subscribe("documents", abs, name="reader", listen=False)
    return tmp_path


def run(
    *arguments: str, given: bytes | None = None, monkeypatch: pytest.MonkeyPatch | None = None
) -> int:
    """Return the exit status of the command line with *arguments*; *given* is its standard input."""
    if given is not None and monkeypatch is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0

    said = capsys.readouterr()
    assert all(
        re.search(rf"^ +{name} ", said.out, re.MULTILINE)
        for name in ("demo", "tutorial", "publish", "worker", "doctor", "aws")
    )
    assert said.err == ""


def test_exit_statuses_are_documented_in_the_help_and_in_the_readme(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--help") == 0

    assert "exit status: 0 done, 1 refused" in capsys.readouterr().out
    assert "Exit status: 0 done, 1 refused" in PAGE


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["workr"], "did you mean worker?"),
        (["aws", "polices"], "did you mean policies?"),
        (["worker", "--subscripton", "reader"], "did you mean --subscription"),
        (["publish", "documents", "1", "--tpye", "x"], "did you mean --type"),
        (["worker", "--until"], "did you mean --until-idle"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_mistyped_command_or_option_is_wrong_usage_and_names_the_near_ones(
    arguments: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2

    assert near in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["worker"], ["worker", "--until-idle"], ["doctor"], ["publish", "documents", "1"]],
    ids=" ".join,
)
def test_a_mistyped_store_is_refused_with_the_near_one_and_none_is_made(
    home: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--url", "sqlite:///buss.db") == 1

    assert "no store 'buss.db'; did you mean 'bus.db'?" in capsys.readouterr().err
    assert not (home / "buss.db").exists()


def test_a_store_in_another_folder_is_named_with_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", "--url", "sqlite:///elsewhere/bus.db") == 1

    assert "no store 'elsewhere/bus.db'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["worker", "doctor"])
def test_a_mistyped_subscription_is_refused_with_the_near_one(
    home: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--url", "sqlite:///bus.db", "--subscription", "raeder") == 1

    assert "no subscription 'raeder'; did you mean 'reader'?" in capsys.readouterr().err


def test_a_mistyped_topic_is_refused_in_the_words_of_the_command_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("publish", "document", "1", "--url", "sqlite:///bus.db") == 1

    said = capsys.readouterr().err
    assert "no topic 'document'; did you mean 'documents'?; --create makes it" in said
    assert "bus." not in said


def test_publish_may_make_a_store_when_it_is_asked_to_create(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("publish", "pages", "1", "--create", "--url", "sqlite:///new.db") == 0
    assert (home / "new.db").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"caf\xe9", "not UTF-8 (byte 0xe9 at position 3)"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b"", "standard input is empty"),
        (b" \n", "standard input is empty"),
        (b'{"a": 1}\n{"a": 2}\n', "2 JSON values, one a line"),
        (b"hello", 'quote it as JSON ("hello")'),
    ],
    ids=["latin-1", "utf-16", "nothing", "blanks", "json lines", "text"],
)
def test_input_that_is_not_one_json_value_is_refused_with_the_reason(
    home: Path,
    given: bytes,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        run(
            "publish",
            "documents",
            "-",
            "--url",
            "sqlite:///bus.db",
            given=given,
            monkeypatch=monkeypatch,
        )
        == 1
    )

    message = capsys.readouterr().err
    assert said in message
    assert message.isprintable() or message.rstrip("\n").isprintable()


def test_a_byte_order_mark_before_the_input_is_no_part_of_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = b'\xef\xbb\xbf{"page": 7}'

    assert (
        run(
            "publish",
            "documents",
            "-",
            "--url",
            "sqlite:///bus.db",
            given=given,
            monkeypatch=monkeypatch,
        )
        == 0
    )
    with mt.connect("sqlite:///bus.db") as bus:
        assert bus.events()["data"].tolist() == ['{"page":7}']


@pytest.mark.parametrize(
    ("argument", "said"),
    [("@page.json", "publish TOPIC - < page.json"), ("caf\udce9", "not UTF-8")],
)
def test_an_argument_that_is_no_json_is_refused_with_what_to_write(
    home: Path, argument: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("publish", "documents", argument, "--url", "sqlite:///bus.db") == 1

    assert said in capsys.readouterr().err


def test_what_a_published_event_loses_is_said_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run("publish", "documents", '{"a": 1, "a": 2}', "--id", "x", "--url", "sqlite:///bus.db")
        == 0
    )
    assert (
        capsys.readouterr().err
        == "mltrigger: the data has the key 'a' twice in one object: the last value counts\n"
    )

    assert run("publish", "documents", "3", "--id", "x", "--url", "sqlite:///bus.db") == 0
    assert capsys.readouterr().err.startswith(
        "mltrigger: event 'x' was published before with other data: the first stays"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["publish", "documents", "1", "--url", ""],
            "argument --url: it is empty; leave the option out for the default",
        ),
        (["doctor", "--url", " "], "argument --url: it is empty"),
        (
            ["worker", "--until-idle", "--drain-s", "-5"],
            "argument --drain-s: '-5' is no number of seconds",
        ),
        (
            ["worker", "--until-idle", "--drain-s", "nan"],
            "argument --drain-s: 'nan' is no number of seconds",
        ),
        (["worker", "--until-idle", "--drain-s", "soon"], "argument --drain-s: "),
    ],
)
def test_an_option_without_a_sensible_value_is_wrong_usage(
    home: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not (home / "mltrigger.db").exists()


def test_the_tutorial_is_refused_where_its_folder_is_a_file(home: Path) -> None:
    with pytest.raises(
        mt.MltriggerError,
        match=r"cannot be copied to 'bus\.db': File exists; name another folder, --folder",
    ):
        cli.copy_notebooks(Path("bus.db"))


def test_doctor_finds_nothing_to_change_on_a_healthy_bus(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect("sqlite:///bus.db") as bus:
        bus.unsubscribe("reader")

    assert run("doctor", "--url", "sqlite:///bus.db") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ok      bus: all: nothing to change" in lines
    assert {line.split()[0] for line in lines} == {"ok"}


@pytest.mark.parametrize("command", ["demo", "tutorial"])
def test_a_missing_extra_is_told_with_a_command_that_can_work(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)

    assert run(command) == 1
    assert f"in a checkout of mltrigger, pip install -e '.[{command}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("user", "options"), [(0, ["--no-browser", "--allow-root"]), (1000, ["--no-browser"])]
)
def test_the_tutorial_starts_for_every_user_root_as_well(
    user: int, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's only user is root, and JupyterLab ends at once without the option."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(cli, "_missing", lambda *modules: [])
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: started.append(command) or subprocess.CompletedProcess(command, 0),
    )

    assert run("tutorial", "--no-browser", "--folder", str(tmp_path / "notebooks")) == 0
    assert [command[4:] for command in started] == [options]


def test_label_keeps_the_truth_about_an_event(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ("--url", "sqlite:///bus.db")
    assert run("label", "e-1", '{"text": "a"}', "--by", "ann", *url) == 0
    assert run("label", "e-1", "plain", "--text", "--at", "2026-11-30T12:00Z", *url) == 0
    assert "1 label kept" in capsys.readouterr().out

    with mt.connect("sqlite:///bus.db") as bus:
        found = bus.labels()
    assert found["truth"].tolist() == ['{"text":"a"}', '"plain"']
    assert found["by"].tolist()[0] == "ann"
    assert str(found["at"][1]) == "2026-11-30 12:00:00+00:00"


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (("e-1", "plain"), 1, "quote it as JSON"),
        (("e-1", "1", "--at", "noon"), 2, "--at"),
        (("e-1", "1", "--at", "2026-11-30T12:00"), 1, "is naive"),
    ],
)
def test_bad_label_is_refused(
    home: Path,
    given: tuple[str, ...],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("label", *given, "--url", "sqlite:///bus.db") == status
    assert said in capsys.readouterr().err
