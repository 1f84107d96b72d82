"""``mltrigger dashboard``: one address, a browser, and nothing left at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from http_client import Caller

import mltrigger as mt
from mltrigger import cli
from mltrigger.api.access import Tokens

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+)(/v1/cockpit\?ticket=\S+)")


@pytest.fixture
def url(file: Path) -> str:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
    return f"sqlite:///{file}"


@pytest.mark.parametrize("read_only", [False, True])
def test_browser_opens_the_address_and_ctrl_c_ends_it(
    read_only: bool,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[str] = []

    def look(address: str) -> bool:
        where, path = _parts(address)
        with Caller(where) as caller:
            assert 'id="cockpit"' in caller.get(path).text
            state = next(s for s in caller.follow("/v1/cockpit/events") if s.event == "state")
            assert state.data["read_only"] is read_only
        seen.append(address)
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", look)
    options = ["--read-only"] if read_only else []

    assert cli.main(["dashboard", "--url", url, *options]) == 130
    (line,) = capsys.readouterr().out.splitlines()
    assert seen[0] in line
    with mt.connect(url) as bus:
        assert Tokens(bus.registry).list() == []


def test_interrupt_ends_the_command_and_its_address(url: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "mltrigger", "dashboard", "--no-browser", "--url", url],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        where, path = _parts(child.stdout.readline())
        with Caller(where) as caller:
            assert caller.get(path).status_code == 200
            assert 'id="cockpit"' not in Caller(where).get(path).text
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30) == ("", "")
        assert child.returncode == 130
    with pytest.raises(OSError, match="refused"):
        Caller(where).get(path)


def test_missing_bus_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["dashboard", "--no-browser", "--url", f"sqlite:///{tmp_path}/no.db"]) == 1
    assert capsys.readouterr().err.startswith("mltrigger: ")


def _parts(text: str) -> tuple[str, str]:
    found = ADDRESS.search(text)
    assert found is not None, text
    return found[1], found[2]
