"""The ledger: who began and ended which call, a line each, appended by the model itself.

What a killed process wrote is there.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

LEDGER = "MLTRIGGER_STORM_LEDGER"
"""The environment variable that tells a model where the ledger is; set in the processes of a storm
only.
"""
LINE_BYTES = 43
MODEL_S = 0.004
"""How long the model of a storm takes."""


class Call(NamedTuple):
    """A line: one call of the model at *level* with event *n* has begun or ended."""

    what: str
    level: int
    n: int
    pid: int
    at_us: int


def append(what: str, level: int, n: int) -> None:
    """Write a line; one system call, so that a kill leaves it whole or not at all.

    Closed at once: a fork may follow.
    """
    line = f"{what} {level} {n:07d} {os.getpid():012d} {time.time_ns() // 1000:017d}\n".encode()
    assert len(line) == LINE_BYTES
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def length(path: Path) -> int:
    """Return the number of lines."""
    return path.stat().st_size // LINE_BYTES if path.exists() else 0


class Ledger:
    """What the ledger at *path* says."""

    def __init__(self, path: Path) -> None:
        words = (
            (line.split() for line in path.read_text().splitlines()) if path.exists() else iter(())
        )
        self.calls = [
            Call(what, int(level), int(n), int(pid), int(at_us))
            for what, level, n, pid, at_us in words
        ]
        self.begun: defaultdict[tuple[int, int], list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.what == "b":
                self.begun[call.level, call.n].append(call)
        self.ended = Counter((call.level, call.n) for call in self.calls if call.what == "e")

    @property
    def repeats(self) -> int:
        """How many calls were not the first with their event."""
        return sum(len(calls) - 1 for calls in self.begun.values())

    def next_begin_us(self, level: int, n: int, after_us: int) -> int | None:
        """Return when the next call with an event began; ``None`` if there was none."""
        return min(
            (call.at_us for call in self.begun[level, n] if call.at_us > after_us), default=None
        )
