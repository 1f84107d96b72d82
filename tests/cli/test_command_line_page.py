"""The page about the command line: its examples run, and it has every command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "command_line.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
_ENDS = re.compile(r"# ends with (\d)")
ELSEWHERE = {"demo", "tutorial", "publish", "worker", "table", "move", "serve", "token", "metrics"}
"""Commands that other pages and the README tell about."""
ELSEWHERE |= {"k8s", "postgres", "aws", "api"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the bus that the page is about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    (tmp_path / "page_models.py").write_text(
        "import mltrigger as mt\n"
        "def read(page):\n"
        "    if page['n'] % 4 == 3:\n"
        "        raise mt.Reject('no page')\n"
        "    return {'text': 'page', 'n': page['n']}\n"
        "def read_better(page):\n"
        "    return read(page)\n"
    )
    import page_models  # type: ignore[import-not-found]

    with mt.connect("sqlite:///mltrigger.db") as bus:
        better: Any = mt.model("ocr", version="1.1.0")(page_models.read_better)
        bus.register(better)
        model = mt.model("ocr", version="1.0.0")(page_models.read)
        sub = bus.subscribe("pages", model, key="tenant", max_attempts=1)
        for n in range(12):
            bus.publish("pages", {"n": n, "tenant": "north" if n > 8 else "south"}, id=f"page-{n}")
        wait_until(lambda: is_settled(sub))
        sub.replay("1.1.0", wait=True)
    program = tmp_path / "bin" / "mltrigger"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m mltrigger "$@"\n')
    program.chmod(0o755)
    return tmp_path


def status_of(line: str, home: Path) -> int:
    words = shlex.split(line, comments=True)
    if words[:1] == ["mltrigger"] and not {"|", ">"} & {*words}:
        return cli.main(words[1:])
    env = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", line], cwd=home, env=env, check=False).returncode


@pytest.mark.needs("bash", "shtab")
def test_every_example_is_done(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in BLOCKS for line in block.splitlines()]
    for line in lines:
        wanted = int(_ENDS.findall(line)[0]) if _ENDS.search(line) else 0
        assert status_of(line, home) == wanted, f"{line}\n{capfd.readouterr()}"
    assert len(lines) > 30
    assert (home / "results.csv").read_text().startswith("subject,model,version")
    with mt.connect("sqlite:///mltrigger.db") as bus:
        assert bus.subscription("ocr").history()[-1].version == "ocr:1.1.0"
        assert list(bus.subscription("ocr").dead_letters()["event_id"]) == []


def test_page_has_every_command_and_no_other() -> None:
    (commands,) = [a for a in cli._parser()._actions if a.dest == "==SUPPRESS=="]
    told = set(re.findall(r"mltrigger ([a-z][a-z0-9-]*)", PAGE))

    assert told - {"completion"} <= set(commands.choices)
    assert set(commands.choices) - ELSEWHERE - told == set()
