"""A worker of a subscription with a key. It notes when each event begins and ends.

``python -c 'import keys_child; keys_child.main()' URL NOTES``: it works until it is killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mltrigger as mt

LIMIT = 2
POLICY: dict[str, Any] = {
    "name": "line",
    "key": "tenant",
    "max_concurrency_per_key": LIMIT,
    "max_concurrency": 4,
    "timeout_s": 20.0,
    "max_attempts": 100,
}
notes = Path(os.devnull)


def note(what: str, data: dict[str, Any]) -> None:
    """Append one line, in one write."""
    line = f"{time.monotonic_ns()} {what} {os.getpid()} {data['tenant']} {data['n']}\n"
    file = os.open(notes, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


@mt.model("work", version="1.0.0")
def work(data: dict[str, Any]) -> int:
    """Take a moment, and fail now and then."""
    note("begin", data)
    try:
        threading.Event().wait(0.002 + data["n"] % 7 / 1_000)
        if data["n"] % 11 == 0 and time.monotonic_ns() % 2:
            raise mt.Retry(delay_s=0.01)
        return int(data["n"])
    finally:
        note("end", data)


def main() -> None:
    """Deliver until the process ends."""
    global notes
    notes = Path(sys.argv[2])
    with mt.connect(sys.argv[1]) as bus:
        bus.subscribe("work", work, **POLICY)
        print("at work", flush=True)
        threading.Event().wait()
