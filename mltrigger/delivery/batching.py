"""The batch size that pays: learned from how long calls of a model take, within a latency budget.

What a batch costs is seldom a straight line: a RandomForest has a large constant, vector units like
certain sizes, caches make throughput fall again. So nothing is fitted: sizes form a ladder (1, 2, 3
… 8, 10, 12 …), each rung remembers what an event cost there lately, and the smallest rung whose
throughput is about the best is used. Where to look next is decided by what was measured, never by a
clock.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import math
import threading
from collections.abc import Iterator

from mltrigger.errors import InvalidPolicy

NEAR = 1.05
"""Costs within this factor of the best count as the best: of those, the smallest size is used."""
_KEPT, _ENOUGH = 9, 3
"""Calls of one size that are remembered; calls that are enough to judge it."""
_SOON, _RARELY = 8, 512
"""Full lots until something is tried again: at first, and at most."""
_STALL = 4
_DRIFT = 1.5
_ROOM = 0.95
_LIKE = 0.1


class AdaptiveBatch:
    """Learns the batch size with the best throughput among those whose calls stay within
    *budget_s*; may be used from several threads.

    It begins with 1 and doubles while lots are full and calls stay within the budget, until
    throughput falls; then it settles on the smallest size within some 5 % of the best and tries a
    neighbour now and then, ever less often while nothing changes. A call that exceeds the budget
    sends it to a smaller size at once. Estimates are medians of the last calls, so that a single
    stall changes nothing, and a model that becomes slower or faster is followed after a few calls.
    The first call of all is not counted: a model often loads then.

    Parameters
    ----------
    budget_s : float
        Longest run of one call, in seconds. One event alone may take longer; then batches have one.
    most : int
        Largest size.
    """

    def __init__(self, budget_s: float, most: int) -> None:
        if not budget_s > 0 or most < 1:
            raise InvalidPolicy(
                f"a batch needs budget_s > 0 and most >= 1, got {budget_s!r} and {most!r}"
            )
        self._budget_s = budget_s
        self._sizes = list(_ladder(most))
        self._rungs = [_Rung() for _ in self._sizes]
        self._guard = threading.Lock()
        self._cold = True
        self._home = self._asked = 0
        self._reference = math.inf
        self._climbing = True
        self._lots, self._quiet = 0, _SOON
        self._direction = 0
        self._ceiling = self._failed = len(self._sizes)
        self._barred, self._stalled, self._penalty = 0, False, _SOON

    def size(self) -> int:
        """Return how many events the next lot may have; at most twice what it was before."""
        return self._sizes[self._asked]

    def learn(self, count: int, seconds: float, overhead_s: float = 0.0) -> None:
        """Say that a call with *count* events took *seconds*.

        Parameters
        ----------
        count : int
            Events of the call. Larger sizes are only tried after calls that were full.
        seconds : float
            Its run time, which the budget is for.
        overhead_s : float
            What the lot cost besides, such as recording it: it counts for the throughput, not for
            the budget.
        """
        if count < 1 or not seconds >= 0:
            return
        with self._guard:
            if self._cold:
                self._cold = False
                return
            rung = self._nearest(count)
            # a lot between two rungs tells of neither
            tells = abs(count - self._sizes[rung]) <= _LIKE * count
            if tells:
                self._rungs[rung].add(
                    max(seconds, 1e-9) / count, max(seconds + overhead_s, 1e-9) / count
                )
                self._follow(rung)
            if seconds > self._budget_s:
                self._retreat(rung, count)
            elif tells and rung == self._asked and count >= self._sizes[rung]:
                self._step()

    # -- one full lot within the budget ------------------------------------------------------------

    def _step(self) -> None:
        self._lots += 1
        if self._barred:
            self._barred -= 1
            if not self._barred:
                self._lift()
                return
        if self._climbing:
            if self._lots >= _ENOUGH:
                self._climb()
        elif self._asked != self._home:
            if self._lots >= _ENOUGH:
                self._settle()
        elif self._lots % _ENOUGH == 0 and self._choice() != self._home:
            self._settle()
        elif self._lots >= self._quiet:
            self._go(self._neighbour())

    def _climb(self) -> None:
        """Double, as long as throughput rises, and two rungs beyond: curves have dents."""
        cheapest = min(range(len(self._rungs)), key=lambda k: self._rungs[k].cost_s)
        higher = self._within(self._sizes[self._asked] * 2)
        if higher > self._asked and self._sizes[self._asked] < 4 * self._sizes[cheapest]:
            self._go(higher)
            return
        self._climbing, self._quiet = False, _ENOUGH
        self._settle()

    def _settle(self) -> None:
        """Use the size that was found best; look again the later, the less there was to gain, and
        first where it became better.
        """
        chosen, probed = self._choice(), self._asked != self._home
        if (
            chosen != self._home
            and self._rungs[chosen].cost_s * NEAR < self._rungs[self._home].cost_s
        ):
            self._quiet = _ENOUGH
        elif probed:
            self._quiet, self._direction = min(2 * self._quiet, _RARELY), self._direction + 1
        if chosen >= self._failed:
            self._penalty, self._failed = _SOON, len(self._sizes)
        self._home, self._reference = chosen, self._rungs[chosen].cost_s
        self._go(chosen)

    def _go(self, rung: int) -> None:
        double = 2 * self._sizes[self._asked]
        while self._sizes[rung] > double:
            rung -= 1
        self._asked, self._lots = rung, 0

    def _neighbour(self) -> int:
        """Return the next rung to try: half as large again, two thirds, the double, the half in
        turn; the one in use when there is none.
        """
        size = self._sizes[self._home]
        for turn in range(self._direction, self._direction + 4):
            wanted = size * (1.5, 2 / 3, 2.0, 0.5)[turn % 4]
            rung = self._within(wanted) if wanted > size else self._nearest(wanted)
            if rung != self._home:
                self._direction = turn
                return rung
        return self._home

    # -- a call that took too long -----------------------------------------------------------------

    def _retreat(self, rung: int, count: int) -> None:
        """Go back at once: for a moment when it was not the size (a stall of what is known to be
        fast, a small lot), else ever longer.
        """
        known = self._rungs[rung]
        fast = len(known) > _KEPT // 2 and known.run_s * count < self._budget_s / 2
        self._stalled = fast or 2 * count < self._sizes[self._asked]
        self._ceiling, self._barred = max(1, rung), _STALL if self._stalled else self._penalty
        self._climbing = False
        if not self._stalled:
            self._failed, self._penalty = self._ceiling, min(2 * self._penalty, _RARELY)
            self._home, self._quiet = self._choice(), _ENOUGH
            self._reference = self._rungs[self._home].cost_s
        self._asked, self._lots = min(self._choice(), self._asked), 0

    def _lift(self) -> None:
        """Allow again what took too long; what is known of it is too old to be believed."""
        if not self._stalled:
            for rung in self._rungs[self._ceiling :]:
                rung.clear()
            # else throughput fell before the budget did
            self._climbing = not any(rung.known for rung in self._rungs[self._home + 1 :])
        self._ceiling = len(self._sizes)
        self._settle()

    # -- what is known -----------------------------------------------------------------------------

    def _choice(self) -> int:
        """Return the smallest rung within some percent of the cheapest; the one in use has the
        benefit of the doubt.
        """
        costs = {
            k: self._rungs[k].cost_s
            for k in range(self._ceiling)
            if self._rungs[k].known and self._fits(k)
        }
        if not costs:
            return min(self._ceiling - 1, self._nearest(max(1, self._sizes[self._asked] // 2)))
        best = min(costs.values())
        if self._home in costs and self._rungs[self._home].hopeful_s <= best * NEAR:
            return next(
                k
                for k, cost in costs.items()
                if k == self._home or (k < self._home and cost <= best * (1 + NEAR) / 2)
            )
        return next(k for k, cost in costs.items() if cost <= best * NEAR)

    def _within(self, size: float) -> int:
        """Return the highest rung up to *size* that is expected to stay within the budget; the one
        in use when there is none above.
        """
        rungs = range(self._asked + 1, self._ceiling)
        return max(
            (k for k in rungs if self._sizes[k] <= size and self._fits(k)), default=self._asked
        )

    def _fits(self, rung: int) -> bool:
        return rung == 0 or self._run_s(rung) <= self._budget_s * _ROOM

    def _run_s(self, rung: int) -> float:
        """Return how long a call at *rung* takes: as measured, else on the line through the two
        highest that were measured below.
        """
        size = self._sizes[rung]
        if self._rungs[rung].known:
            return self._rungs[rung].run_s * size
        below = [
            (self._sizes[k], self._rungs[k].run_s * self._sizes[k])
            for k in range(rung)
            if self._rungs[k].known
        ][-2:]
        if len(below) < 2:
            return below[0][1] if below else 0.0
        (few, few_s), (many, many_s) = below
        return many_s + max(0.0, many_s - few_s) / (many - few) * (size - many)

    def _follow(self, rung: int) -> None:
        """When the size in use costs another amount than it did, the model has changed: what is
        known of other sizes is worth nothing.
        """
        known = self._rungs[rung]
        if rung != self._home or len(known) <= _KEPT // 2:
            return
        if math.isinf(self._reference):
            self._reference = known.cost_s
        change = known.cost_s / self._reference
        if not 1 / _DRIFT < change < _DRIFT:
            for other in self._rungs:
                if other is not known:
                    other.clear()
            self._reference, self._climbing, self._quiet = known.cost_s, True, _ENOUGH

    def _nearest(self, count: float) -> int:
        above = min(bisect.bisect_left(self._sizes, count), len(self._sizes) - 1)
        return (
            above - 1
            if above and count - self._sizes[above - 1] <= self._sizes[above] - count
            else above
        )


class _Rung:
    """What an event cost lately in lots of one size: run time, and all in all; infinite while
    nothing is known.

    ``hopeful_s`` is the cost if the last calls had bad luck: the more they differ, the lower.
    """

    def __init__(self) -> None:
        self._runs: collections.deque[float] = collections.deque(maxlen=_KEPT)
        self._costs: collections.deque[float] = collections.deque(maxlen=_KEPT)
        self.clear()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run_s: float, cost_s: float) -> None:
        self._runs.append(run_s)
        self._costs.append(cost_s)
        self.known = len(self._runs) >= _ENOUGH
        self.run_s, self.cost_s = _quantile(self._runs, 2), _quantile(self._costs, 2)
        self.hopeful_s = (self.cost_s + _quantile(self._costs, 4)) / 2

    def clear(self) -> None:
        self._runs.clear()
        self._costs.clear()
        self.known, self.run_s, self.cost_s, self.hopeful_s = False, math.inf, math.inf, math.inf


def _quantile(values: collections.deque[float], part: int) -> float:
    """Return the value below which a *part*-th of *values* lies."""
    return sorted(values)[(len(values) - 1) // part]


def _ladder(most: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20 … and *most*: near the budget a finer step
    is worth having.
    """
    sizes = {
        1,
        most,
        *(base << n for n, base in itertools.product(range(most.bit_length()), (1, 3, 5, 7))),
    }
    yield from sorted(size for size in sizes if size <= most)
