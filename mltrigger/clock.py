"""Time, as a part that is passed in: microseconds since 1970, UTC."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable


class Clock(Protocol):
    """The source of time for every part of the package."""

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC. No answer is below an earlier one."""


@runtime_checkable
class Jumping(Protocol):
    """A clock that jumps, such as a simulated one. Waiting cannot see that by itself."""

    def tell(self, told: Callable[[], None]) -> None:
        """Call *told* after each jump."""


class SystemClock:
    """Wall time guarded by the monotonic clock.

    It follows the wall clock forward, as after a laptop's sleep, but never back. If someone sets
    the wall clock back, it goes on at the speed of the monotonic clock. So no lease is longer than
    agreed.
    """

    def __init__(self) -> None:
        self.boot = boot_id()
        self._correction_ns, self._led = 0, False
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_us(self) -> int:
        """Return microseconds since 1970-01-01 UTC."""
        monotonic_ns = time.monotonic_ns()
        if self._led:
            return (monotonic_ns + self._offset_ns) // 1000
        offset_ns = time.time_ns() - monotonic_ns + self._correction_ns
        if offset_ns > self._offset_ns:
            self._offset_ns = offset_ns
        return (monotonic_ns + self._offset_ns) // 1000

    @property
    def offset_us(self) -> int:
        """The lead of this clock over the monotonic one.

        All processes of the machine share the monotonic clock until it boots again.
        """
        return self._offset_ns // 1000

    def lead(self, offset_us: int) -> None:
        """Be at least *offset_us* ahead of the monotonic clock. Our wall clock no longer counts.

        The first call may set the clock back.
        """
        self._offset_ns = max(self._offset_ns, offset_us * 1000) if self._led else offset_us * 1000
        self._led = True

    def follow(self, offset_us: int) -> None:
        """Be at least *offset_us* ahead of the monotonic clock, as another process was."""
        self._offset_ns = max(self._offset_ns, offset_us * 1000)

    def adopt(self, offset_us: int) -> None:
        """Be *offset_us* ahead of the monotonic clock from now on.

        Our wall clock is wrong by the difference. Only its later moves count.
        """
        self._offset_ns = offset_us * 1000
        self._correction_ns = self._offset_ns - (time.time_ns() - time.monotonic_ns())


def boot_id() -> str:
    """Return an id of this boot of the machine, or an empty text if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - pathlib would cost its import here
            return file.read().strip()
    except OSError:
        return ""


def rounded_ms(value: float) -> float:
    """Return milliseconds with the digits of the clock, microseconds.

    Two ways to compute a value then end in the same digits.
    """
    return round(round(float(value), 6), 3)  # NumPy's own numbers round in another way
