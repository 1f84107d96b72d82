"""A worker is stopped from a signal handler, which may interrupt it anywhere."""

from __future__ import annotations

import signal
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


def test_signal_stops_the_worker_and_the_alarm_of_a_library_that_would_abort_its_drain() -> None:
    """Ray's own handler sets one when it is called first: 3 s later the process aborts."""
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()
    try:
        stop.on(signal.SIGTERM)
        signal.alarm(300)
        signal.raise_signal(signal.SIGTERM)
        assert (stop.is_set(), signal.alarm(0)) == (True, 0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGTERM, before)
