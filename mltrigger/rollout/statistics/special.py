"""The incomplete beta function, in logarithms, and the roots of monotone functions."""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY = 1e-300
_EPSILON = 1e-15
_MOST_STEPS = 100_000
_STEPS = 200


def log_beta(a: float, b: float) -> float:
    """Return the logarithm of the beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def log_incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the logarithm of the regularised incomplete beta function I_x(a, b).

    It is the chance that a Beta(a, b) number is at most *x*. Small chances keep their digits:
    the logarithm goes down to any depth. The continued fraction is that of Didonato and Morris
    (1992), evaluated as Lentz (1976) does.
    """
    if x <= 0.0:
        return -math.inf
    if x >= 1.0:
        return 0.0
    front = a * math.log(x) + b * math.log1p(-x) - log_beta(a, b)
    if x < (a + 1.0) / (a + b + 2.0):
        return min(front - math.log(a) + math.log(_fraction(x, a, b)), 0.0)
    other = front - math.log(b) + math.log(_fraction(1.0 - x, b, a))
    return -math.inf if other >= 0.0 else math.log1p(-math.exp(other))


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    return math.exp(log_incomplete_beta(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _apart(1.0 - (a + b) * x / (a + 1.0))
    found = d
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d, c = 1.0 / _apart(1.0 + even * d), _apart(1.0 + even / c)
        found *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d, c = 1.0 / _apart(1.0 + odd * d), _apart(1.0 + odd / c)
        found *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            break
    return found


def _apart(value: float) -> float:
    """Keep *value* apart from zero, so that it can divide."""
    return value if abs(value) > _TINY else _TINY


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the place between *low* and *high* where an increasing *function* becomes positive.

    An end is returned if it does not cross zero. The method is that of Chandrupatla (1997): inverse
    quadratic steps where they are safe, halves elsewhere.
    """
    a, b, fa, fb, t = low, high, function(low), function(high), 0.5
    if fa > 0 or fb <= 0:
        return low if fa > 0 else high
    for _ in range(_STEPS):
        x = a + t * (b - a)
        fx = function(x)
        if (fx > 0) == (fa > 0):
            c, fc = a, fa
        else:
            c, fc, b, fb = b, fb, a, fa
        a, fa = x, fx
        best = a if abs(fa) < abs(fb) else b
        least = (4e-16 * abs(best) + 1e-15) / abs(b - c)
        if fa == 0 or least > 0.5:
            return best
        t = min(1 - least, max(least, _step(a, b, c, fa, fb, fc)))
    return (a + b) / 2


def _step(a: float, b: float, c: float, fa: float, fb: float, fc: float) -> float:
    xi, spread = (a - b) / (c - b), fc - fb
    phi = (fa - fb) / spread if spread else math.nan
    if phi * phi < xi and (1 - phi) ** 2 < 1 - xi:
        return fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return 0.5


def log_sum(terms: list[float]) -> float:
    """Return the logarithm of the sum of exponentials."""
    most = max(terms)
    if math.isinf(most):
        return most
    return most + math.log(math.fsum(math.exp(term - most) for term in terms))


def e_value(log: float) -> float:
    """Return the exponential of *log*. Too large a number becomes infinite."""
    return math.exp(log) if log < 709.0 else math.inf
