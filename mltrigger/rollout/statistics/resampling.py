"""Tests and intervals for numbers, from the data alone. The seed is an argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mltrigger.rollout.statistics.exact import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS = 1_000
"""More differences than this are summed in random groups of equal size."""
_CHUNK = 500


def sign_flips(
    differences: Sequence[float] | Any, seed: int = 0, times: int = 9_999, groups: int = GROUPS
) -> float:
    """Return the two-sided p-value of "paired differences are symmetric around zero".

    Their signs are flipped at random (Fisher, 1935). The p-value counts the data themselves as one
    flip, so it is never too small (Phipson and Smyth, 2010). Many differences are flipped in
    *groups*: flips of a subgroup keep the test exact (Hemerik and Goeman, 2018).
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    sums = _grouped(differences, rng, groups)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    observed, extreme = abs(sums.sum()), 0
    near = observed * (1 - 1e-12)  # the order of a sum changes its last digits
    for start in range(0, times, _CHUNK):
        signs = rng.integers(0, 2, (min(_CHUNK, times - start), len(sums)), np.int8)
        flipped = 2.0 * (signs @ sums) - sums.sum()
        extreme += int((np.abs(flipped) >= near).sum())
    return (extreme + 1) / (times + 1)


def mean_interval(
    differences: Sequence[float] | Any,
    confidence: float = 0.95,
    seed: int = 0,
    times: int = 4_999,
    groups: int = GROUPS,
) -> Interval:
    """Return the percentile bootstrap interval of the mean (Efron, 1979).

    Pairs are resampled together. Many differences are resampled in random *groups*. The means of
    groups have the same mean, and their spread gives the same standard error.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    n = len(differences)
    if n < 2:
        return Interval(-np.inf, np.inf)
    sums = _grouped(differences, rng, groups)
    means = np.concatenate(
        [
            sums[rng.integers(0, len(sums), (min(_CHUNK, times - start), len(sums)))].mean(axis=1)
            for start in range(0, times, _CHUNK)
        ]
    )
    each = (1 - confidence) / 2
    # groups differ by at most one in size
    low, high = np.quantile(means * (len(sums) / n), [each, 1 - each])
    return Interval(float(low), float(high))


def _grouped(differences: Any, rng: Any, groups: int) -> Any:
    """Return the differences, or the sums of random groups of them."""
    import numpy as np

    values = np.asarray(differences, float)
    if len(values) <= groups:
        return values
    starts = np.arange(groups) * len(values) // groups
    return np.add.reduceat(rng.permutation(values), starts)
