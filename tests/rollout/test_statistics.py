"""Exact tests, resampling and sample sizes, against scipy, statsmodels and known figures."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy  # it imports its parts when a test first asks for one
from hypothesis import given
from hypothesis import strategies as st

from mltrigger.rollout.statistics import exact, resampling, sizes, special

# It takes long to import: the process of the frameworks does so anyway.
uses_statsmodels = pytest.mark.xdist_group("frameworks")

counts = st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.5, 5_000), st.floats(0.5, 5_000))
def test_the_incomplete_beta_function_is_that_of_scipy(x: float, a: float, b: float) -> None:
    found = special.log_incomplete_beta(x, a, b)

    expected = scipy.special.betainc(a, b, x)
    if expected > 1e-290:
        assert found == pytest.approx(math.log(expected), rel=1e-7, abs=1e-7)
    else:
        assert found < -600


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_are_those_of_scipy(count: tuple[int, int], confidence: float) -> None:
    k, n = count
    expected = scipy.stats.binomtest(k, n).proportion_ci(confidence, "exact")

    assert exact.interval(k, n, confidence) == pytest.approx(expected, abs=1e-9)


@given(counts)
def test_one_sided_bounds_are_those_of_scipy(count: tuple[int, int]) -> None:
    k, n = count
    low = scipy.stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, "exact").low
    high = scipy.stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact").high

    assert (exact.lower(k, n), exact.upper(k, n)) == pytest.approx((low, high), abs=1e-9)


def test_495_of_500_show_0979_and_not_099() -> None:
    assert round(exact.lower(495, 500), 3) == 0.979


@pytest.mark.parametrize(("n", "against"), [(300, 0), (480, 1), (1050, 5)])
def test_so_many_events_show_an_agreement_of_099(n: int, against: int) -> None:
    assert exact.lower(n - against, n) >= 0.99
    assert exact.lower(n - 10 - against, n - 10) < 0.99


@uses_statsmodels
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_that_of_statsmodels(b: int, c: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    expected = mcnemar([[5, b], [c, 5]], exact=True).pvalue

    assert exact.mcnemar(b, c) == pytest.approx(expected if b + c else 1.0)


@given(st.integers(0, 300), st.integers(1, 300))
def test_one_sided_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    expected = scipy.stats.binomtest(b, b + c, 0.5, alternative="greater").pvalue

    assert exact.mcnemar_more(b, c) == pytest.approx(expected)


@uses_statsmodels
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    assert exact.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_the_net_share_is_covered_by_its_interval() -> None:
    """95 % are promised. Sharing the error makes it more."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(300):
        more, fewer, _same = rng.multinomial(400, [0.06, 0.02, 0.92])
        low, high = exact.net(int(more), int(fewer), 400)
        missed += not low <= 0.04 <= high

    assert missed <= 15


@pytest.mark.parametrize("count", [-1, 11])
def test_a_count_outside_of_its_total_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to its total, got {count} of 10"):
        exact.lower(count, 10)


# -- resampling ------------------------------------------------------------------------------------


def normal(n: int, mean: float) -> np.ndarray:
    return np.random.default_rng(5).normal(mean, 1.0, n)


def test_the_sign_flip_test_is_that_of_scipy() -> None:
    differences = normal(60, 0.25)
    expected = scipy.stats.permutation_test(
        (differences, np.zeros(60)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=9_999,
        rng=np.random.default_rng(1),
    ).pvalue

    assert resampling.sign_flips(differences) == pytest.approx(expected, abs=0.01)


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    differences = normal(200, 0.25)
    expected = scipy.stats.bootstrap(
        (differences,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval

    assert resampling.mean_interval(differences) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("n", [20_000, 20_001, 20_999])
def test_many_differences_give_the_interval_of_the_normal_distribution(n: int) -> None:
    differences = normal(n, 0.02)
    half = 1.96 * differences.std() / math.sqrt(n)

    low, high = resampling.mean_interval(differences)

    assert low == pytest.approx(differences.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(differences.mean() + half, abs=0.1 * half)
    z = differences.mean() / differences.std() * math.sqrt(n)
    assert resampling.sign_flips(differences) == pytest.approx(
        2 * scipy.stats.norm.sf(abs(z)), abs=0.01
    )


def test_the_same_seed_gives_the_same_figures() -> None:
    differences = normal(3_000, 0.02)

    assert resampling.sign_flips(differences, 7) == resampling.sign_flips(differences, 7)
    assert resampling.mean_interval(differences, 0.95, 7) == resampling.mean_interval(
        differences, 0.95, 7
    )
    assert resampling.mean_interval(differences, 0.95, 7) != resampling.mean_interval(
        differences, 0.95, 8
    )


def test_differences_without_a_difference_are_no_evidence() -> None:
    assert resampling.sign_flips(np.zeros(50)) == 1.0


def test_equal_versions_are_rarely_called_different() -> None:
    rng = np.random.default_rng(3)
    found = [
        resampling.sign_flips(rng.standard_t(3, 40), seed, times=399) <= 0.05 for seed in range(400)
    ]

    assert sum(found) <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


# -- sizes -----------------------------------------------------------------------------------------


def test_a_size_is_the_least_that_closes_the_gap() -> None:
    asked: list[float] = []

    def gap(n: float) -> float:
        asked.append(n)
        return exact.upper(0, n) - 0.01

    assert 299 - 100 <= (sizes.more(gap, 100) or 0) <= 302 - 100
    assert len(asked) < 25


def test_a_gap_that_is_closed_needs_nothing() -> None:
    assert sizes.more(lambda n: exact.upper(0, n) - 0.01, 300) == 0


def test_a_gap_that_never_closes_has_no_size() -> None:
    assert sizes.more(lambda n: 1.0, 100) is None


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (1, "1 more event needed"),
        (3, "3 more events needed"),
        (338, "about 340 more events needed"),
        (12_345, "about 13,000 more events needed"),
    ],
)
def test_a_size_has_two_digits(n: int, text: str) -> None:
    assert sizes.needed(n) == text


def test_counting_needs_no_numpy() -> None:
    """A listener that watches a canary computes e-values at each settle."""
    program = (
        "import sys; from mltrigger.rollout import verdict; from mltrigger.rollout.statistics"
        " import always, concurrent; assert 'numpy' not in sys.modules"
    )

    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
