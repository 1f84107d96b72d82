"""A worker is stopped from a signal handler, which may interrupt it anywhere."""

from __future__ import annotations

import sys
import threading
from types import FrameType, SimpleNamespace
from typing import Any

from mltrigger.worker import Stop, Worker


def test_stop_may_come_while_the_worker_is_about_to_wait() -> None:
    """A handler runs between two lines of what it interrupts: as a trace function does."""
    stop = Stop()
    worker = Worker(SimpleNamespace(registry=SimpleNamespace(subscriptions=list)), (), print, stop)  # type: ignore[arg-type]

    lines = []

    def stop_within_the_wait(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and frame.f_code.co_name == "wait":
            lines.append(frame.f_lineno)
            if len(lines) == 2:  # it holds what it waits with
                stop.set()
        return stop_within_the_wait

    def run() -> None:
        sys.settrace(stop_within_the_wait)
        worker.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=0.5)
    threading.Thread(target=stop.set, daemon=True).start()
    thread.join(timeout=5)

    assert not thread.is_alive()
