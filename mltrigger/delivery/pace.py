"""The pace of one listener: a rate limit and pauses. Time is an argument."""

from __future__ import annotations

import math

from mltrigger.versions.running.invoke import Result

BURST_S = 1.0
"""Seconds' worth of events that may begin at once after a quiet time."""
_NO_LIMIT = 1 << 30
_MOST_HELD_S = 60.0
"""The longest pause that a server gets at a time. Then it is asked again."""


class Pace:
    """Allows *rate_per_s* events a second on average.

    This is a token bucket. It holds ``BURST_S`` seconds' worth of events, at least one (the "leaky
    bucket as a meter", ITU-T I.371).
    """

    def __init__(self, rate_per_s: float | None) -> None:
        self._rate = rate_per_s
        self._tokens = self._full = max(1.0, BURST_S * rate_per_s) if rate_per_s else 0.0
        self._filled_us: int | None = None
        self.held_us = 0
        """Nothing begins before this time."""
        self.why = ""
        """The reason of the last pause."""
        self._outages = 0

    def hold(self, until_us: int) -> None:
        """Let nothing begin before *until_us*. A shorter hold changes nothing."""
        self.held_us = max(self.held_us, until_us)

    def heed(self, result: Result, now_us: int) -> bool:
        """Pause as long as *result* asks for. Return whether the model did not run.

        A server may ask for a pause. When nothing can run the model, each pause is longer.
        """
        if result.throttled and result.delay_s:
            self.why = result.error or ""
            self.hold(now_us + int(min(result.delay_s, _MOST_HELD_S) * 1e6))
            return True
        if result.reason != "no_process":
            self.went_on()
            return False
        if not self.held(now_us):  # calls under way during a pause say nothing new
            self._outages += 1
            self.why = result.error or ""
            self.hold(now_us + int(min(2.0 ** min(self._outages, 16), _MOST_HELD_S) * 1e6))
        return True

    def went_on(self) -> None:
        """Take note that the model ran. The next outage begins with a short pause."""
        self._outages = 0

    def held(self, now_us: int) -> bool:
        """Whether :meth:`hold` is in force."""
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
        """Subtract *count* events that begin now."""
        if self._rate is not None:
            self._fill(self._rate, now_us)
            self._tokens -= count

    def wait_s(self, now_us: int) -> float:
        """Return the seconds until another event may begin, 0 if one may begin now.

        At most one second, so that a waiting thread notices a stop.
        """
        if self.held(now_us):
            wait_s = (self.held_us - now_us) / 1e6
        elif self._rate is None or self.room(now_us) >= 1:
            return 0.0
        else:
            wait_s = (1 - self._tokens) / self._rate
        return min(1.0, math.ceil(wait_s * 1000) / 1000)

    def _fill(self, rate: float, now_us: int) -> None:
        if self._filled_us is not None:
            self._tokens = min(self._full, self._tokens + (now_us - self._filled_us) / 1e6 * rate)
        self._filled_us = now_us
