"""How the suite itself is run: what is missing on a machine is said, and another time and zone
change nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
NEEDY = """
import pytest

@pytest.mark.needs("no_such_program", "sys")
def test_that_needs_much(): ...

def test_that_needs_nothing(): ...
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_needy.py").write_text(NEEDY)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "needs",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(HELPERS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


SEVERAL = ("-p", "xdist", "-n", "2")
"""`make test` runs the tests in several processes."""


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_one_line_says_what_a_test_that_is_left_out_needs(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run(tmp_path, *options)

    assert done.returncode == 0
    said = "1 tests not run, they need no_such_program: `make test-all` runs them"
    assert done.stdout.splitlines().count(said) == 1
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("options", [(), SEVERAL])
def test_when_all_are_asked_for_a_missing_program_is_a_failure(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = run(tmp_path, "--all", *options)

    assert done.returncode != 0
    assert "they need no_such_program" in done.stdout + done.stderr


ASK = """
import threading, time
began = time.monotonic()
threading.Event().wait(0.05)
print(int(time.time()), time.monotonic() - began, time.strftime("%z"))
"""


@pytest.mark.needs("cc")
def test_the_clock_of_make_test_later_moves_the_time_of_day_and_no_wait(tmp_path: Path) -> None:
    library = tmp_path / "wall_clock.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", library, HELPERS / "wall_clock.c", "-ldl"],
        check=True,
    )
    later = {"LD_PRELOAD": str(library), "AHEAD_S": str(400 * 86400), "TZ": "Pacific/Chatham"}

    here = {
        name: value for name, value in os.environ.items() if name != "LD_PRELOAD"
    }  # the suite itself may run with a clock that is ahead

    def asked(environment: dict[str, str]) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    before, _, _ = asked(here)
    now, waited_s, zone = asked(here | later)
    assert 399.9 < (int(now) - int(before)) / 86400 < 400.1
    assert 0.05 <= float(waited_s) < 5
    assert zone in ("+1245", "+1345")
