"""A process of the storm of guilt: it delivers every subscription, and its wall clock may move
while it does.
"""

from __future__ import annotations

import sys
import threading
import time
import types
from typing import Any

import mltrigger as mt
from mltrigger import clock

BUS: mt.EventBus | None = None
"""The bus that delivers here, which a fork copies."""


def main(url: str, moved_s: float, after_s: float) -> None:
    """Deliver until the end; *after_s* seconds from now the wall clock is moved by *moved_s*."""
    move_the_clock(moved_s, after_s)
    global BUS
    with mt.connect(url) as bus:
        BUS = bus
        for spec in bus.registry.subscriptions():
            bus.subscription(spec.name).start()
        print("up", flush=True)
        threading.Event().wait()


def move_the_clock(by_s: float, after_s: float) -> None:
    """Let the wall clock of the package jump once; the monotonic clock goes on."""
    began_s = time.monotonic()

    def time_ns() -> int:
        return time.time_ns() + int(by_s * 1e9 if time.monotonic() - began_s > after_s else 0)

    moved: Any = types.SimpleNamespace(time_ns=time_ns, monotonic_ns=time.monotonic_ns)
    clock.time = moved


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
