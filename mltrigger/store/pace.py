"""The pace of a subscription in all processes: the row that its claims lock, and its total rate."""

from __future__ import annotations

import math
from typing import NamedTuple

from mltrigger.store.transaction import Reader, Transaction

BURST_US = 1_000_000.0
"""The time whose events may begin at once after a quiet time."""
MAKE = "INSERT INTO pace (subscription_id) VALUES (:s) ON CONFLICT DO NOTHING"
# An update, so that claims of other processes wait here.
_LOCK = "UPDATE pace SET turn = turn WHERE subscription_id = :s RETURNING turn, paid_us"
_READ = "SELECT turn, paid_us FROM pace WHERE subscription_id = :s"
_WRITE = "UPDATE pace SET turn = :turn, paid_us = :paid_us WHERE subscription_id = :s"


class Pace(NamedTuple):
    """The last turn of a subscription, and the time up to which its total rate is used up.

    A token bucket (the "generic cell rate algorithm", ITU-T I.371). It holds one second's worth of
    events, at least one.
    """

    rate_per_s: float | None
    turn: int = 0
    paid_us: int = 0

    @property
    def _step_us(self) -> float:
        return 1e6 / (self.rate_per_s or 1.0)

    def _paid(self, now_us: int) -> float:
        """Return the time up to which the rate is used up, now at the earliest.

        A time far ahead is of a much slower rate before, or of a clock that was set back since. It
        does not count.
        """
        longest_us = max(BURST_US, self._step_us)
        is_ours = self.paid_us <= now_us + 2 * longest_us + BURST_US  # clocks differ a little
        return max(self.paid_us, now_us) if is_ours else now_us

    def room(self, most: int, now_us: int) -> int:
        """Return how many of *most* events may begin now."""
        if self.rate_per_s is None:
            return most
        left_us = now_us + max(BURST_US, self._step_us) - self._paid(now_us)
        return max(0, min(most, int(left_us / self._step_us + 1e-6)))

    def next_us(self, now_us: int) -> int:
        """Return when another event may begin, now at the earliest."""
        if self.rate_per_s is None:
            return now_us
        step_us = self._step_us
        return max(now_us, math.ceil(self._paid(now_us) + step_us - max(BURST_US, step_us)))

    def spent(self, n: int, now_us: int) -> Pace:
        """Return the pace after *n* events that begin now."""
        if self.rate_per_s is None or n == 0:
            return self
        return self._replace(paid_us=round(self._paid(now_us) + n * self._step_us))


def locked(transaction: Transaction, subscription_id: int, rate_per_s: float | None) -> Pace:
    """Return the pace of a subscription. Other claims wait until *transaction* ends."""
    of = {"s": subscription_id}
    rows = transaction.query(_LOCK, of)
    if not rows:
        transaction.execute(MAKE, of)
        rows = transaction.query(_LOCK, of)
    return Pace(rate_per_s, *rows[0])


def read(reader: Reader, subscription_id: int, rate_per_s: float | None) -> Pace:
    """Return the pace of a subscription, for a look."""
    rows = reader.query(_READ, {"s": subscription_id})
    return Pace(rate_per_s, *rows[0]) if rows else Pace(rate_per_s)


def keep(transaction: Transaction, subscription_id: int, before: Pace, after: Pace) -> None:
    """Write the pace of a subscription, if it has changed."""
    if after != before:
        transaction.execute_many(_WRITE, [(after.turn, after.paid_us, subscription_id)])
