"""One side of a comparison, in a process of its own, and the CPU that it and its children use.

The process says ``ready`` when everything is imported and its clients are made, begins at ``go``,
and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_END_S = 30.0
_SAYS = "says "


class Side:
    """A started process; *session* is its pid, and the number of its session."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._began_s = 0.0

    def go(self) -> None:
        """Let it begin; its CPU counts from here."""
        self._began_s = cpu_s(self._process.pid)
        self._write("go\n")

    def cpu_s(self) -> float:
        """Return the seconds of CPU since :meth:`go`, of all its threads and processes."""
        return cpu_s(self._process.pid) - self._began_s

    def result(self) -> Any:
        """Wait for what it says; what else it prints (Celery's banner) is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_SAYS):
                return json.loads(line.removeprefix(_SAYS))
        raise RuntimeError(f"the process of a side ended with {self._process.wait()}")

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it end; who has not after some time is killed, with the processes that it started."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def side(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[Side]:
    """Start ``python -m`` *arguments* from the checkout, and wait until it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    started = Side(process)
    try:
        if started.result() != "ready":
            raise RuntimeError("the process of a side began before it was told to")
        yield started
    finally:
        started.close()


def say(what: Any) -> None:
    """Tell the parent, in the process of a side: a line."""
    print(_SAYS + json.dumps(what), flush=True)


def wait_for_go() -> None:
    """Say that everything is there, and wait for the parent."""
    say("ready")
    if sys.stdin.readline() != "go\n":
        sys.exit(0)


def wait_for_end() -> None:
    """Return when the parent has closed the input, or is gone."""
    # not sys.stdin: a process that is forked meanwhile would inherit its lock, held
    while os.read(0, 4096):
        pass


def at_end(action: Callable[[], object]) -> None:
    """Call *action* in a thread when the parent has closed the input."""

    def run() -> None:
        wait_for_end()
        action()

    threading.Thread(target=run, daemon=True).start()


def cpu_s(session: int) -> float:
    """Return the CPU seconds of the processes of a session, those that it has waited for included;
    0.0 where there is no /proc.
    """
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")
