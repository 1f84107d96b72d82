"""Tests that need a program or a library that not every machine has:
``@pytest.mark.needs("chromium", "torch")``.

They run where it is found. Elsewhere they are left out, and one line says which need is missing.
With ``--all`` that is a failure.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from typing import Any

import pytest

LEFT_OUT = pytest.StashKey[str]()
_LEFT_OUT = "left out"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="fail when a program or library that a test needs is missing",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if missing(item)]
    if not left_out:
        return
    config.stash[LEFT_OUT] = said = line(left_out)
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist: another one prints
        config.workeroutput[_LEFT_OUT] = said
    if config.getoption("--all"):
        left_out = items.copy()
    config.hook.pytest_deselected(items=left_out)
    kept = set(items).difference(left_out)
    items[:] = [item for item in items if item in kept]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--all") and session.config.stash.get(LEFT_OUT, ""):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the line of a process that collected the tests. All collect the same ones."""
    if said := getattr(node, "workeroutput", {}).get(_LEFT_OUT):
        node.config.stash[LEFT_OUT] = said


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if said := config.stash.get(LEFT_OUT, ""):
        advice = (
            "and so none was run. CONTRIBUTING.md says how to install them"
            if config.getoption("--all")
            else "`make test-all` runs them"
        )
        terminalreporter.write_line(f"{said}: {advice}")


def line(left_out: list[pytest.Item]) -> str:
    """Return how many tests are left out, and for want of which programs and libraries."""
    names = sorted({name for item in left_out for name in missing(item)})
    return f"{len(left_out)} tests not run, they need {', '.join(names)}"


def missing(item: pytest.Item) -> list[str]:
    """Return the programs and libraries that *item* needs and this machine has not."""
    return [name for mark in item.iter_markers("needs") for name in mark.args if not is_here(name)]


@functools.cache
def is_here(name: str) -> bool:
    """Whether *name* is a program on the path or a library that can be imported.

    ``mounts`` is the right to mount a disk in memory.
    """
    if name == "mounts":
        return _may_mount()
    if name == "chromium":
        return chromium_program() is not None
    return shutil.which(name) is not None or importlib.util.find_spec(name) is not None


def chromium_program() -> str | None:
    """Return the path of Chromium. Its shell without windows takes a third of the time."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


def _may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return mounted.returncode == 0
