"""The models of the storm of guilt: innocent ones, and some whose events end, stop or copy the
process that they run in.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.storm.ledger import LEDGER, append

PAGES, ROWS, TRAPS, NAPS, FORKS, FORKED = 1, 2, 3, 4, 5, 6
"""The levels of the ledger: what the calls of each model are written down under."""
STOPS = 3
"""How often one event stops a process for longer than its lease."""
_PAGE_S = 0.002
_CHILD_S = 20.0
_TRIES = 12
STORE = "MLTRIGGER_STORM_STORE"
"""The environment variable that tells a copy of a process where to connect."""


@mt.model("guilt-page", version="1.0.0")
def page(data: dict[str, Any]) -> int:
    """Innocent."""
    append("b", PAGES, data["n"])
    time.sleep(_PAGE_S)
    append("e", PAGES, data["n"])
    return int(data["n"])


@mt.model("guilt-rows", version="1.0.0", batch=True)
def rows(batch: list[dict[str, Any]]) -> list[int]:
    """Innocent, many at once."""
    for data in batch:
        append("b", ROWS, data["n"])
    time.sleep(_PAGE_S)
    for data in batch:
        append("e", ROWS, data["n"])
    return [int(data["n"]) for data in batch]


@mt.model("guilt-trap", version="1.0.0")
def trap(data: dict[str, Any]) -> None:
    """End the process: killed from outside, by itself, or by touching memory that it must not."""
    append("b", TRAPS, data["n"])
    time.sleep(0.05)
    ends = (
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: os._exit(7),
        lambda: ctypes.string_at(0),
    )
    ends[data["n"] % len(ends)]()
    time.sleep(1)  # not every thread ends at once


@mt.model("guilt-nap", version="1.0.0")
def nap(data: dict[str, Any]) -> int:
    """Stop the process, until somebody lets it go on; the first times only, until as many processes
    have begun with it.
    """
    append("b", NAPS, data["n"])
    mine = begun(NAPS, data["n"])
    # again: it goes on early when it was stopped inside a transaction
    for _ in range(_TRIES if mine <= STOPS else 0):
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.1)  # not every thread is stopped at once
        if begun(NAPS, data["n"]) >= STOPS:
            break
    append("e", NAPS, data["n"])
    return int(data["n"])


@mt.model("guilt-fork", version="1.0.0")
def fork(data: dict[str, Any]) -> str:
    """Copy the process: the copy publishes through the bus that it inherited, which must refuse,
    and through one of its own.
    """
    append("b", FORKS, data["n"])
    child = os.fork()
    if not child:
        _published_by_a_copy(data["n"])
    end_s = time.monotonic() + _CHILD_S
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hung"
        time.sleep(0.01)
    append("e", FORKS, data["n"])
    return "ended"


def _published_by_a_copy(n: int) -> None:
    """Publish one event, and write down that there is a receipt for it; the copy ends here,
    whatever happens.
    """
    try:
        try:
            sys.modules["__main__"].BUS.publish("guilt-forked", {"n": n})
            append("p", FORKED, 2 * n)
        except mt.StoreError:
            append("r", FORKED, 2 * n)
        with mt.connect(os.environ[STORE]) as bus:
            bus.publish("guilt-forked", {"n": n})
            append("p", FORKED, 2 * n + 1)
    finally:
        os._exit(0)


@mt.model("guilt-forked", version="1.0.0")
def forked(data: dict[str, Any]) -> int:
    """Innocent; its events come from copies."""
    return int(data["n"])


def begun(level: int, n: int) -> int:
    """Return how many calls with an event have begun."""
    return Path(os.environ[LEDGER]).read_text().count(f"b {level} {n:07d} ")
