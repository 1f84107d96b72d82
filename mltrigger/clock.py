"""Time, as a part that is passed in: microseconds since 1970, UTC."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What every part of the package asks for the time."""

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC; never less than an earlier answer."""


class SystemClock:
    """Wall time guarded by the monotonic clock.

    It follows the wall clock forward (a laptop that woke up), but never back: when somebody sets the wall clock back, it
    goes on at the speed of the monotonic clock. A lease is therefore never longer than it was meant to be.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC."""
        monotonic_ns = time.monotonic_ns()
        offset_ns = time.time_ns() - monotonic_ns
        if offset_ns > self._offset_ns:
            self._offset_ns = offset_ns
        return (monotonic_ns + self._offset_ns) // 1000
