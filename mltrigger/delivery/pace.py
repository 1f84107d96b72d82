"""The pace of one listener: a rate limit as a token bucket, with time as an argument."""

from __future__ import annotations

import math

BURST_S = 1.0
"""How many seconds' worth of events may begin at once after a quiet time."""
_NO_LIMIT = 1 << 30


class Pace:
    """Allows *rate_per_s* events a second on average.

    The bucket holds ``BURST_S`` seconds' worth, at least one event (the "leaky bucket as a meter",
    ITU-T I.371).
    """

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate = rate_per_s
        self._full = max(1.0, BURST_S * rate_per_s) if rate_per_s else 0.0
        self._tokens = self._full
        self._filled_us: int | None = None
        self.held_us = 0
        """Nothing begins before."""

    def hold(self, until_us: int) -> None:
        """Let nothing begin before *until_us*: a server asked for it."""
        self.held_us = max(self.held_us, until_us)

    def held(self, now_us: int) -> bool:
        """Whether :meth:`hold` still holds."""
        return now_us < self.held_us

    def room(self, now_us: int) -> int:
        """Return how many events may begin now."""
        if self.held(now_us):
            return 0
        if self._rate is None:
            return _NO_LIMIT
        self._fill(self._rate, now_us)
        return int(self._tokens)

    def spend(self, count: int, now_us: int) -> None:
        """Say that *count* events begin now."""
        if self._rate is not None:
            self._fill(self._rate, now_us)
            self._tokens -= count

    def wait_s(self, now_us: int) -> float:
        """Return the seconds until another event may begin; 0 when one may begin now."""
        if self.held(now_us):
            return min(1.0, math.ceil((self.held_us - now_us) / 1000) / 1000)
        if self._rate is None or self.room(now_us) >= 1:
            return 0.0
        # not longer, so that a stop is noticed
        return min(1.0, math.ceil((1 - self._tokens) / self._rate * 1000) / 1000)

    def _fill(self, rate: float, now_us: int) -> None:
        if self._filled_us is not None:
            self._tokens = min(self._full, self._tokens + (now_us - self._filled_us) / 1e6 * rate)
        self._filled_us = now_us
