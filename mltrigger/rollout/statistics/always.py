"""E-values and confidence sequences: valid at every look, so a user may stop at any time.

An e-value of 20 is as rare as a p-value of 0.05: under its hypothesis the largest one ever seen
reaches 20 in at most 5 % of all streams (Ville, 1939). All are functions of counts, so they can be
computed from a store at any time. Ramdas, Grünwald, Vovk and Shafer (2023) survey the field.

A count may be a sum of numbers between 0 and 1. The bounds hold for their mean: each likelihood
ratio is convex in the number, so its mean is largest for yes and no (Hoeffding, 1963).
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal

from mltrigger.rollout.statistics.exact import Interval, two_sided
from mltrigger.rollout.statistics.special import (
    e_value,
    log_beta,
    log_incomplete_beta,
    log_sum,
    root,
)

EFFECTS = (1.2, 1.5, 2.0, 3.0, 4.5, 7.0, 12.0, 25.0)
"""Odds ratios that are mixed with equal weights. A small and a large harm are both found."""
SCALES = tuple(10.0**power for power in range(-6, 7))
"""Scales of differences that are mixed with equal weights."""


def discordant(
    more: float, fewer: float, direction: Literal["both", "more", "fewer"] = "both"
) -> float:
    """Return the e-value of two discordant counts against "both are equally likely".

    The share of *more* has a Beta(1, 1) prior: the beta-binomial of Robbins (1970). *direction*
    cuts the prior to one side, against "at most" or "at least equally likely".
    """
    log = log_beta(more + 1, fewer + 1) + (more + fewer) * math.log(2.0)
    if direction == "more":
        log += math.log(2.0) + log_incomplete_beta(0.5, fewer + 1, more + 1)
    elif direction == "fewer":
        log += math.log(2.0) + log_incomplete_beta(0.5, more + 1, fewer + 1)
    return e_value(log)


def rate(count: float, total: float, base: float, factor: float = 1.0) -> float:
    """Return the e-value of a stream against "its rate is at most *factor* times *base*".

    The base is a frozen number between 0 and 1. The mixture of likelihood ratios over
    :data:`EFFECTS` is a test martingale (Robbins, 1970). It only falls at lower rates.
    """
    limit = base * factor
    if not limit > 0.0:
        raise ValueError(
            f"base and factor must be positive, got {base!r} and {factor!r}: for a base of 0, give"
            " the upper bound of its rate"
        )
    if limit >= 1.0:
        return 1.0
    odds = limit / (1.0 - limit)
    logs = [
        count * math.log(effect) - total * math.log((1.0 + effect * odds) / (1.0 + odds))
        for effect in EFFECTS
    ]
    return e_value(log_sum(logs) - math.log(len(logs)))


def _log_against(count: float, total: float, limit: float) -> float:
    """Return the logarithm of an e-value against "the rate is at least *limit*".

    Rates below the limit have a uniform prior.
    """
    rest = total - count
    evidence = log_beta(count + 1, rest + 1) + log_incomplete_beta(limit, count + 1, rest + 1)
    here = (count * math.log(limit) if count else 0.0) + rest * math.log1p(-limit)
    return evidence - math.log(limit) - here


def upper(count: float, total: float, confidence: float = 0.95) -> float:
    """Return the upper bound of a confidence sequence of a rate.

    It holds at all times together. Each limit is tested by a mixture over the rates below it
    (Robbins, 1970). Waudby-Smith and Ramdas (2024) do so for numbers between 0 and 1.
    """
    if not total or count >= total:
        return 1.0
    least = count / total
    alpha = math.log(1.0 / (1.0 - confidence))
    return root(
        lambda limit: _log_against(count, total, limit) - alpha, max(least, 1e-300), 1.0 - 1e-16
    )


def lower(count: float, total: float, confidence: float = 0.95) -> float:
    """Return the lower bound of a confidence sequence of a rate."""
    return 1.0 - upper(total - count, total, confidence)


def sequence(count: float, total: float, confidence: float = 0.95) -> Interval:
    """Return the two-sided confidence sequence of a rate, at its present place."""
    return two_sided(upper, count, total, confidence)


def positive(total: float, squares: float) -> float:
    """Return the e-value of differences against "symmetric around zero, or below".

    *total* is their sum, *squares* the sum of their squares. exp(λ·total - λ²·squares/2) falls in
    the mean for symmetric differences (de la Peña, 1999). λ has a half-normal prior on each of
    :data:`SCALES`. It is the always-valid form of the test that flips signs.
    """
    logs = []
    for scale in SCALES:
        wide = 1.0 + squares / scale**2
        z = total / scale / math.sqrt(wide)
        tail = math.erfc(-z / math.sqrt(2.0))  # twice the normal distribution
        if z > -37.0:
            logs.append(z * z / 2 - math.log(wide) / 2 + math.log(tail))
    return e_value(log_sum(logs) - math.log(len(SCALES))) if logs else 0.0


def centre(n: int, total: float, squares: float, confidence: float = 0.95) -> Interval:
    """Return a confidence sequence of the centre of symmetric differences."""
    if not n:
        return Interval(-math.inf, math.inf)
    wanted = 2.0 / (1.0 - confidence)

    def high(total: float) -> float:
        """Return the largest centre that the evidence from below does not exclude."""
        mean, spread = total / n, math.sqrt(max(squares / n, 1e-300))

        def excess(shift: float) -> float:
            moved = n * shift - total
            return positive(moved, squares - 2 * shift * total + n * shift * shift) - wanted

        far = spread
        while excess(mean + far) <= 0:
            far *= 2
            if far > 1e3 * spread:
                return math.inf
        return root(excess, mean, mean + far)

    return Interval(-high(-total), high(total))


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """Yes and no, counted: *failures* among *total*.

    Each method is valid at every look. Counts of several processes may be added in any order.
    """

    failures: int = 0
    total: int = 0

    def update(self, failures: int, total: int) -> Stream:
        """Return the stream with so many more failures and events."""
        if not 0 <= failures <= total:
            raise ValueError(f"failures are from 0 to the total, got {failures} of {total}")
        return Stream(self.failures + failures, self.total + total)

    def against(self, base: float, factor: float = 1.0) -> float:
        """Return the e-value of :func:`rate` for this stream."""
        return rate(self.failures, self.total, base, factor)

    def bounds(self, confidence: float = 0.95) -> Interval:
        """Return the confidence sequence of the rate."""
        return sequence(self.failures, self.total, confidence)

    def to_json(self) -> str:
        """Return the two counts as JSON text."""
        return json.dumps([self.failures, self.total])

    @classmethod
    def from_json(cls, text: str) -> Stream:
        """Return the stream of :meth:`to_json`."""
        return cls(*json.loads(text))
