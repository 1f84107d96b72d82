"""Sample sizes: how many more events decide."""

from __future__ import annotations

import math
from collections.abc import Callable

MOST = 1e6
"""More events than this are never promised."""
_CLOSE = 0.005


def more(gap: Callable[[float], float], n: float) -> int | None:
    """Return how many events more than *n* close a *gap*, ``None`` if no number does.

    *gap* is a function of the number of events, at the present rates. It is closed at zero or
    below, and closes once. The answer is a root, accurate to half a percent of all events.
    """
    if n > 0 and gap(n) <= 0:
        return 0
    low, high = max(n, 1.0), max(2.0 * n, 32.0)
    while gap(high) > 0:
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > max(_CLOSE * low, 0.5):
        middle = (low + high) / 2
        if gap(middle) > 0:
            low = middle
        else:
            high = middle
    return math.ceil(high - n)


def needed(n: int) -> str:
    """Return a number of events in words, with two digits: ``about 340 more events needed``."""
    if n < 10:
        return f"{n} more event{'' if n == 1 else 's'} needed"
    unit = 10 ** (len(str(n)) - 2)
    return f"about {-(-n // unit) * unit:,} more events needed"
