"""Completion: the script is run by a real bash, which offers commands, options and names."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mltrigger as mt
from mltrigger import cli

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("shtab")

# As readline does: the words of the line, and which one the cursor is at.
_ASK = """
source ./script
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"
COMP_LINE="${COMP_LINE//' : '/:}"
COMP_LINE="${COMP_LINE//' = '/=}"
COMP_POINT=${#COMP_LINE}
name="$(complete -p mltrigger | sed -E 's/.*-F ([^ ]+).*/\\1/')"
"$name" mltrigger "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    with mt.connect("sqlite:///mltrigger.db") as bus:
        bus.subscribe("documents", abs, name="reader", listen=False)
        bus.subscribe("documents", abs, name="ranker", listen=False)
    program = tmp_path / "bin" / "mltrigger"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m mltrigger "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.mark.needs("bash")
def test_bash_completes_commands_options_choices_and_names(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", "bash"]) == 0
    (home / "script").write_text(capsys.readouterr().out)
    env = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}

    def offered(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in ("mltrigger", *words))
        done = subprocess.run(
            ["bash", "-c", _ASK % line],
            cwd=home,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr, done.stderr
        return set(done.stdout.split())

    assert {"redrive", "resume", "results", "retain", "replay"} <= offered("re")
    assert offered("dead") == {"dead-letters"}
    assert {"--outcome", "--output"} <= offered("results", "--out")
    assert {"table", "json", "csv"} <= offered("results", "-o", "")
    assert offered("results", "r") >= {"reader", "ranker"}
    assert offered("pause", "rea") == {"reader"}
    assert "documents" in offered("publish", "doc")
    with mt.connect("sqlite:///other.db") as bus:
        bus.subscribe("pages", abs, name="reviewer", listen=False)
    # bash divides a word at each colon
    for url in (("--url", "sqlite", ":", "///other.db"), ("--url", "=", "sqlite:///other.db")):
        assert offered("pause", *url, "re") == {"reviewer"}


@pytest.mark.needs("bash")
def test_names_of_a_hostile_store_run_no_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", "bash"]) == 0
    (home / "script").write_text(capsys.readouterr().out)
    env = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    for n, name in enumerate(("$(touch ran)", "`touch ran`", "$(touch${IFS}ran)", "*", "-n")):
        with contextlib.closing(sqlite3.connect(home / "mltrigger.db")) as store, store:
            store.execute("UPDATE subscription SET name = ? WHERE id = 1 + ?", (name, n % 2))
        done = subprocess.run(
            ["bash", "-c", _ASK % "mltrigger pause ''"],
            cwd=home, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not (home / "ran").exists(), name
        assert not {"$(touch", "*", "script"} & {*done.stdout.split()}


def test_zsh_has_a_script_with_the_names(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert cli.main(["completion", "zsh"]) == 0

    script = capsys.readouterr().out
    assert script.startswith("#compdef mltrigger")
    assert "_mltrigger_subscriptions" in script
    assert "dead-letters" in script


@pytest.mark.needs("zsh")
def test_zsh_reads_its_script(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    (home / "_mltrigger").write_text(capsys.readouterr().out)

    assert subprocess.run(["zsh", "-n", home / "_mltrigger"], check=False).returncode == 0


class Shell:
    """A shell on a terminal, in which a user presses TAB."""

    def __init__(self, home: Path, *command: str) -> None:
        env = {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}
        self._ours, theirs = pty.openpty()
        self._child = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=home,
            env={**env, "LC_ALL": "C.UTF-8"}, start_new_session=True, close_fds=True,
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys: str, until: str) -> str:
        """Type *keys*. Return what is shown up to *until*."""
        os.write(self._ours, keys.encode())
        shown, end_s = "", time.monotonic() + 60
        while until not in shown and time.monotonic() < end_s:
            if select.select([self._ours], [], [], 1)[0]:
                shown += os.read(self._ours, 65536).decode(errors="replace")
        assert until in shown, shown
        return shown

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._ours)


BASH = 'bind "set enable-bracketed-paste off"; eval "$(mltrigger completion bash)"'
ZSH = "unsetopt beep; fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u"


@pytest.mark.parametrize(
    ("command", "begin"),
    [
        pytest.param(("bash", "--norc", "-i"), BASH, marks=pytest.mark.needs("bash")),
        pytest.param(("zsh", "-f", "-i"), ZSH, marks=pytest.mark.needs("zsh")),
    ],
    ids=["bash", "zsh"],
)
def test_a_terminal_completes_and_runs_nothing_of_a_hostile_store(
    command: tuple[str, ...], begin: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    (home / "_mltrigger").write_text(capsys.readouterr().out)
    (home / "verdict one.json").touch()
    with mt.connect("sqlite:///other.db") as bus:
        for name in ("reviewer", "evil0", "evil1", "evil2"):
            bus.subscribe("pages", abs, name=name, listen=False)
    with contextlib.closing(sqlite3.connect(home / "other.db")) as store, store:
        for n, name in enumerate(("$(touch ran)", "`touch ran`", "quo'te\"d $(touch ran)")):
            store.execute("UPDATE subscription SET name = ? WHERE name = ?", (name, f"evil{n}"))

    shell = Shell(home, *command)
    try:
        shell.type(f"{begin}; echo rea''dy\n", "ready")
        for keys, wanted in (
            ("mltrigger dead\t", "dead-letters"),
            ("mltrigger table s\t", "table sql"),
            ("mltrigger pause rea\t", "reader"),
            ("mltrigger results reader -o j\t", "-o json"),
            ("mltrigger compare reader 1 2 --rows fl\t", "--rows flips"),
            ("mltrigger promote reader --verdict verd\t", "verdict\\ one.json"),
            ("mltrigger pause --url sqlite:///other.db rev\t", "reviewer"),
            ("mltrigger pause --url sqlite:///other.db \t\t", "reviewer"),
            ("mltrigger pause --url sqlite:///other.db '$\t", "'"),
        ):
            shell.type(keys, wanted)
            shell.type("\x15 echo do''ne\n", "done")
    finally:
        shell.close()
    assert not (home / "ran").exists()


def test_names_are_read_without_a_bus(home: Path) -> None:
    code = (
        "import sys; from mltrigger.cli import main; status = main(['ls', '--names']);"
        "print(*sorted(set(sys.modules) & {'mltrigger.bus', 'pandas', 'numpy', 'boto3'}), status)"
    )

    def told() -> str:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=home, env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert told() == "ranker\nreader\n0\n"
    with mt.connect("sqlite:///mltrigger.db") as bus:  # somebody has the file open
        bus.subscribe("documents", abs, name="scribe", listen=False)
        bus.subscription("ranker").unsubscribe()
        assert told() == "reader\nscribe\n0\n"
    (home / "mltrigger.db").write_bytes(b"no store" * 1000)
    assert cli.main(["ls", "--names"]) == 1
