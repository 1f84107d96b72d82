"""A process that reads a broker, or sends to one, and is killed at the worst moment.

``python broker_child.py acknowledge|send URL-of-the-bus SOURCE [EMIT]``: it dies when it would
acknowledge what it has recorded, or send what it has committed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import mltrigger as mt
from mltrigger.sources.brokers.client import client_class


def seen(data: Any) -> Any:
    """Return the number in the data."""
    return data["n"]


async def die(*_: Any) -> None:
    """End this process as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    when, bus_url, source, *emit = sys.argv[1:]
    setattr(client_class((emit or [source])[0].partition(":")[0]), when, die)
    bus = mt.connect(bus_url)
    to = emit[0] if emit else None
    bus.subscribe(source, "broker_child:seen", name="seen", emit=to, timeout_s=1)
    if to is not None:
        outlet = bus.registry.subscription("seen").emit
        bus.subscribe(outlet, to, name=outlet, timeout_s=1)  # its lease ends soon
        bus.publish(source, mt.Event({"n": 1}, id="first"))
    threading.Event().wait()
