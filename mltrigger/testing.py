"""Helpers for tests of your own subscriptions, and for ours: time that is told, not waited for."""

from __future__ import annotations

import threading

_START_US = 1_790_000_000_000_000


class SimulatedClock:
    """A clock that stands still until it is told to advance.

    Pass it to ``mt.connect("memory://", clock=…)``: leases expire and delays end when the test says so, in no time at all.
    """

    def __init__(self, start_us: int = _START_US) -> None:
        self._now_us = start_us
        self._guard = threading.Lock()

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC."""
        return self._now_us

    def advance(self, s: float) -> None:
        """Let *s* seconds pass."""
        with self._guard:
            self._now_us += int(s * 1e6)
