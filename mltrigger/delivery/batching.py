"""Find the batch size that pays, from measured run times and within a latency budget.

A batch seldom costs a straight line. A RandomForest has a large constant. Vector units like certain
sizes. Caches make throughput fall again. So no curve is fitted: each size remembers its last costs,
and the smallest size near the best throughput is used.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
import threading
from collections import deque
from typing import NamedTuple

from mltrigger.errors import InvalidPolicy

NEAR = 1.05
"""Costs within this factor of the best are as good. The smallest such size is used."""
SURELY_NEAR = 1.025
"""Within this factor a smaller size replaces the one in use."""
_KEPT, _ENOUGH = 9, 3
"""How many calls a size remembers, and how many are enough to judge it."""
_SOON, _RARELY = 8, 512
"""Full lots until a size is tried again: at first, and at most."""
_STALL = 4
"""Full lots in which a single stall keeps the size down."""
_DRIFT = 1.5
"""A change of the cost by this factor means that the model has changed."""
_ROOM = 0.95
_CLIMB, _PAYS = 8, 0.9
"""In the beginning the next call is so much larger, if an event costs less than this share."""
_LIKE = 0.1
_BEYOND = 4
"""How far beyond the best size it looks at first: curves have dents."""
_STEPS = (1.5, 2 / 3, 2, 0.5)
"""Sizes to try now and then, relative to the best one."""


class AdaptiveBatch:
    """Learns the batch size with the best throughput within a latency budget.

    It begins with 1. As long as a call eight times as large is clearly cheaper per event, it goes
    on like that. Then it doubles until throughput falls or the budget is reached, with some calls
    of each size. It uses the smallest size within 5 % of the best. It tries neighbours, less and
    less often while nothing changes. After a call beyond the budget the next lot is smaller.

    Costs are medians of the last calls: a single stall changes nothing. The first call of all does
    not count, since many models load then. Threads may share one object.

    Parameters
    ----------
    budget_s : float
        Longest run time of one call, in seconds. Batches have one event where even that is slower.
    most : int
        Largest size.
    """

    def __init__(self, budget_s: float, most: int) -> None:
        if not budget_s > 0 or most < 1:
            raise InvalidPolicy(
                f"a batch needs budget_s > 0 and most >= 1, got {budget_s!r} and {most!r}"
            )
        self._budget_s = budget_s
        self._sizes = _ladder(most)
        self._rungs = {size: _Rung() for size in self._sizes}
        self._guard = threading.Lock()
        self._cold, self._climbs = True, True
        self._step: _Step | None = None
        self._size = self._home = 1
        self._restart()

    def _restart(self) -> None:
        """Forget everything but the current size."""
        for size, rung in self._rungs.items():
            if size != self._size:
                rung.clear()
        self._home, self._reference_s = self._size, self._rungs[self._size].cost_s
        self._lots = self._since = self._probe_at = self._lift_at = 0
        self._quiet = self._penalty = _SOON
        self._ceiling = math.inf
        self._climbs, self._step = True, None

    def size(self) -> int:
        """Return how many events the next lot may have, at most eight times the size before."""
        return self._size

    def learn(self, count: int, seconds: float, overhead_s: float = 0.0) -> None:
        """Learn from one call with *count* events.

        Parameters
        ----------
        count : int
            Events of the call. Larger sizes are tried only after full calls.
        seconds : float
            Its run time. The budget limits this.
        overhead_s : float
            Other costs of the lot, such as recording it. They count for the throughput only.
        """
        if count < 1 or not seconds >= 0:
            return
        with self._guard:
            if self._cold:
                self._cold = False
                return
            size = self._nearest(count)
            rung = self._rungs[size]
            is_like = abs(count - size) <= _LIKE * count  # else it tells of neither size
            if is_like:
                rung.add(max(seconds, 1e-9) / count, max(seconds + overhead_s, 1e-9) / count)
                self._notice_change(size)
            if seconds > self._budget_s:
                self._climbs = False
                self._back_off(size, count)
            elif is_like and size == self._size and count >= size:
                if self._climbs:
                    self._climb(_Step(size, rung.run_s * size, rung.cost_s))
                if not self._climbs:
                    self._count_lot()

    def _climb(self, step: _Step) -> None:
        """Go on to a much larger size if this one is clearly cheaper. One call may show it."""
        before = self._step
        largest = self._size_within(step, before)
        pays = before is None or step.cost_s <= before.cost_s * _PAYS
        if pays and largest > step.size:
            self._step = step
            self._use(largest)
        elif pays or before is None or self._rungs[step.size].is_known:  # else it was a stall
            self._climbs = False
            if before is not None and step.cost_s > before.cost_s:
                self._use(before.size)

    def _size_within(self, step: _Step, before: _Step | None) -> int:
        """Return the largest size up to four times that of *step* that the budget allows."""
        slope_s = step.run_s / step.size
        if before is not None:
            slope_s = max(0.0, step.run_s - before.run_s) / (step.size - before.size)
        room_s = self._budget_s * _ROOM - step.run_s
        most = min(_CLIMB * step.size, self._sizes[-1])
        if slope_s * (most - step.size) > room_s:
            most = step.size + int(max(0.0, room_s) / slope_s)
        return self._sizes[bisect.bisect_right(self._sizes, most) - 1]

    def _count_lot(self) -> None:
        """Count a full lot within the budget. Move when its size is judged."""
        self._lots += 1
        if self._lots == self._lift_at:
            self._ceiling = math.inf
        if (self._lots - self._since) % _ENOUGH == 0:
            self._use(self._next())

    def _next(self) -> int:
        """Return the size to use now: a larger one, a neighbour worth a try, or the best."""
        best = self._best()
        if best != self._home:
            cost_s, before_s = self._rungs[best].cost_s, self._reference_s
            if best < self._home and cost_s * _DRIFT < before_s < math.inf:
                self._restart()  # so much cheaper in smaller lots: the model has changed
                return self._size
            self._home, self._reference_s = best, cost_s
            self._quiet, self._probe_at = _ENOUGH, self._lots + _ENOUGH
        if self._size < _BEYOND * best and self._is_largest_known(self._size):
            double = self._below(2 * self._size, above=self._size)
            if double is not None:
                return double
        if self._lots < self._probe_at:
            return best
        self._quiet = min(2 * self._quiet, _RARELY)
        self._probe_at = self._lots + self._quiet
        near = {
            size
            for step in _STEPS
            if (size := self._below(min(best * step, 2 * self._size), best if step > 1 else 0))
        }
        return min(near - {best}, key=lambda size: self._rungs[size].used_at, default=best)

    def _is_largest_known(self, size: int) -> bool:
        return not any(self._rungs[s].is_known for s in self._sizes if s > size)

    def _below(self, most: float, above: int) -> int | None:
        """Return the largest size up to *most* that is expected to fit."""
        for size in reversed(self._sizes[: bisect.bisect_right(self._sizes, most)]):
            if size <= above:
                return None
            if self._fits(size):
                return size
        return None

    def _use(self, size: int) -> None:
        self._size, self._since = size, self._lots
        self._rungs[size].used_at = self._lots

    def _back_off(self, size: int, count: int) -> None:
        """Use a smaller size at once: shortly after a stall, else longer each time."""
        rung = self._rungs[size]
        is_stall = rung.is_sure and rung.run_s * count < self._budget_s / 2
        self._ceiling = max(size, 2)
        if is_stall or 2 * count < self._size:
            self._lift_at = self._lots + _STALL
        else:
            self._lift_at = self._lots + self._penalty
            self._penalty = min(2 * self._penalty, _RARELY)
        self._use(min(self._best(), self._size))

    def _notice_change(self, size: int) -> None:
        """Begin anew when the size in use costs much more or less than before."""
        rung = self._rungs[size]
        if size != self._home or not rung.is_sure:
            return
        if math.isinf(self._reference_s):
            self._reference_s = rung.cost_s
        elif not 1 / _DRIFT < rung.cost_s / self._reference_s < _DRIFT:
            self._restart()

    def _best(self) -> int:
        """Return the smallest size near the lowest cost. The one in use wins ties."""
        costs = {
            size: rung.cost_s
            for size, rung in self._rungs.items()
            if rung.is_known and self._fits(size)
        }
        if not costs:
            return self._nearest(max(1, self._size // 2))
        lowest = min(costs.values())
        near = [size for size, cost in costs.items() if cost <= lowest * NEAR]
        if self._home in near:
            return next(s for s in near if s == self._home or costs[s] <= lowest * SURELY_NEAR)
        return near[0]

    def _fits(self, size: int) -> bool:
        return size == 1 or (size < self._ceiling and self._run_s(size) <= self._budget_s * _ROOM)

    def _run_s(self, size: int) -> float:
        """Return the run time of a call with *size* events, measured or extrapolated."""
        if self._rungs[size].is_known:
            return self._rungs[size].run_s * size
        below = [(s, s * r.run_s) for s, r in self._rungs.items() if s < size and r.is_known]
        if len(below) < 2:
            return below[0][1] if below else 0.0
        (few, few_s), (many, many_s) = below[-2:]
        return many_s + max(0.0, many_s - few_s) / (many - few) * (size - many)

    def _nearest(self, count: int) -> int:
        above = min(bisect.bisect_left(self._sizes, count), len(self._sizes) - 1)
        return min(self._sizes[max(0, above - 1) : above + 1], key=lambda size: abs(size - count))


class _Step(NamedTuple):
    """A size in the beginning: the run time of a call and the cost of an event, in seconds."""

    size: int
    run_s: float
    cost_s: float


class _Rung:
    """The last costs of an event in lots of one size. Infinite while nothing is known."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self.clear()

    def clear(self) -> None:
        self._calls.clear()
        self.run_s = self.cost_s = math.inf
        self.used_at = 0

    def add(self, run_s: float, cost_s: float) -> None:
        self._calls.append((run_s, cost_s))
        self.run_s, self.cost_s = map(statistics.median_low, zip(*self._calls, strict=True))

    @property
    def is_known(self) -> bool:
        return len(self._calls) >= _ENOUGH

    @property
    def is_sure(self) -> bool:
        return len(self._calls) > _KEPT // 2


def _ladder(most: int) -> list[int]:
    """Return 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20 … and *most*."""
    steps = (base << n for n, base in itertools.product(range(most.bit_length()), (1, 3, 5, 7)))
    return sorted({1, most, *(size for size in steps if size <= most)})
