"""Exact tests and intervals for counts. They hold for one look at the data.

Counts may be fractions: sample sizes are found as roots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.rollout.statistics.special import incomplete_beta, log_incomplete_beta, root

_NOTHING = 1e-12
"""Sums of fractions miss their total by such a part."""

Bound = Callable[[float, float, float], float]
"""A function of (count, total, confidence) that returns a bound of the rate."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def lower(count: float, total: float, confidence: float = 0.95) -> float:
    """Return the one-sided lower bound of a rate (Clopper and Pearson, 1934).

    495 of 500 show a rate of at least 0.979, not 0.99.
    """
    _checked(count, total, confidence)
    if count <= _NOTHING * total:
        return 0.0
    count, alpha = min(count, total), 1.0 - confidence
    return root(lambda p: incomplete_beta(p, count, total - count + 1) - alpha, 0.0, 1.0)


def upper(count: float, total: float, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of a rate (Clopper and Pearson, 1934)."""
    return 1.0 - lower(total - count, total, confidence)


def interval(count: float, total: float, confidence: float = 0.95) -> Interval:
    """Return the two-sided interval of a rate (Clopper and Pearson, 1934)."""
    return two_sided(upper, count, total, confidence)


def two_sided(bound: Bound, count: float, total: float, confidence: float) -> Interval:
    """Return the interval between a lower and an upper bound. *bound* gives upper bounds."""
    each = (1.0 + confidence) / 2
    return Interval(1.0 - bound(total - count, total, each), bound(count, total, each))


def tail(count: float, total: float, rate: float) -> float:
    """Return the chance of *count* or more among *total* at that *rate* (binomial test)."""
    return 1.0 if count <= 0 else incomplete_beta(rate, count, total - count + 1)


def mcnemar(one: float, other: float) -> float:
    """Return the exact two-sided p-value of two discordant counts (McNemar, 1947).

    Pairs on which both sides do the same say nothing about a difference.
    """
    few, many = sorted((one, other))
    return min(1.0, 2.0 * math.exp(log_incomplete_beta(0.5, many, few + 1))) if many else 1.0


def mcnemar_more(more: float, fewer: float) -> float:
    """Return the one-sided p-value of McNemar's exact test: *more* is the larger side."""
    return tail(more, more + fewer, 0.5)


def net_upper(
    more: float, fewer: float, total: float, confidence: float = 0.95, bound: Bound = upper
) -> float:
    """Return an upper bound of (more - fewer) / total, for discordant pairs among *total*.

    Two bounds share the error: the share of discordant pairs, and the part of *more* in them
    (Bonferroni). The result is conservative for every size. *bound* gives upper bounds of rates.
    """
    discordant, each = more + fewer, (1.0 + confidence) / 2
    lean = 2.0 * (bound(more, discordant, each) if discordant else 1.0) - 1.0
    share = bound(discordant, total, each)
    if lean < 0:
        share = 1.0 - bound(total - discordant, total, each)
    return lean * share


def net(
    more: float, fewer: float, total: float, confidence: float = 0.95, bound: Bound = upper
) -> Interval:
    """Return the two-sided interval of :func:`net_upper`."""
    each = (1.0 + confidence) / 2
    return Interval(
        -net_upper(fewer, more, total, each, bound), net_upper(more, fewer, total, each, bound)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, by the step-down method of Holm (1979)."""
    adjusted, least = [1.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def _checked(count: float, total: float, confidence: float) -> None:
    if not -_NOTHING * total <= count <= total * (1 + _NOTHING):
        raise ValueError(f"a count is from 0 to its total, got {count!r} of {total!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}")
