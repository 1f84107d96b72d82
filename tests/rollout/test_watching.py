"""E-values and confidence sequences stay valid however often somebody looks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from mltrigger.rollout.statistics import always, exact
from mltrigger.rollout.statistics.always import Stream
from mltrigger.rollout.statistics.concurrent import Concurrent

LOOKS = range(50, 2001, 50)


def allowed(runs: int, rate: float = 0.05) -> float:
    """Return how many errors *runs* may have: three standard deviations above the rate."""
    return runs * rate + 3 * math.sqrt(runs * rate * (1 - rate))


def discordant_counts(runs: int, share: float = 0.1) -> list[list[tuple[int, int]]]:
    """Return the discordant counts of equal versions at each look, for each run."""
    rng = np.random.default_rng(1)
    ends = np.array(LOOKS) - 1
    kinds = rng.choice(3, (runs, 2000), p=[share / 2, share / 2, 1 - share])
    more, fewer = (np.cumsum(kinds == kind, axis=1)[:, ends] for kind in (0, 1))
    return [
        list(zip(m.tolist(), f.tolist(), strict=True)) for m, f in zip(more, fewer, strict=True)
    ]


def test_looking_at_mcnemars_test_often_declares_a_winner_among_equals() -> None:
    """The reason for e-values: 25.8 % of runs."""
    p = functools.cache(exact.mcnemar)
    found = [any(p(*look) < 0.05 for look in run) for run in discordant_counts(1000)]

    assert 0.2 < np.mean(found) < 0.32


def test_looking_at_the_e_value_often_does_not() -> None:
    e = functools.cache(always.discordant)
    found = [any(e(*look) >= 20 for look in run) for run in discordant_counts(1000)]

    assert np.mean(found) < 0.05


@pytest.mark.parametrize("direction", ["more", "fewer"])
def test_the_e_value_of_one_direction_is_valid_too(direction: str) -> None:
    e = functools.cache(lambda b, c: always.discordant(b, c, direction))  # type: ignore[arg-type]
    found = [any(e(*look) >= 20 for look in run) for run in discordant_counts(1000)]

    assert np.mean(found) < 0.05


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_e_value_of_discordant_pairs_is_its_integral(b: int, c: int) -> None:
    both = scipy.special.beta(b + 1, c + 1) * 2.0 ** (b + c)
    more = 2 * scipy.integrate.quad(lambda p: p**b * (1 - p) ** c, 0.5, 1)[0] * 2.0 ** (b + c)

    assert always.discordant(b, c) == pytest.approx(both)
    assert always.discordant(b, c, "more") == pytest.approx(more, rel=1e-5)
    assert always.discordant(b, c, "fewer") == pytest.approx(always.discordant(c, b, "more"))


def stops(
    rate: float, n: int, e: Callable[[int, int], float], runs: int = 400, each: int = 10
) -> list[int | None]:
    """Return for each run the number of events at which *e* reaches 20."""
    failures = np.cumsum(np.random.default_rng(2).random((runs, n)) < rate, axis=1)
    known = functools.cache(e)
    return [
        next((m for m in range(each, n + 1, each) if known(int(run[m - 1]), m) >= 20), None)
        for run in failures
    ]


@pytest.mark.parametrize("rate", [0.01, 0.02, 0.03])
def test_a_rate_within_the_factor_is_no_alarm(rate: float) -> None:
    found = stops(rate, 2000, lambda k, n: always.rate(k, n, 0.02, 1.5))

    assert sum(stop is not None for stop in found) <= allowed(400)


@pytest.mark.parametrize(("rate", "n"), [(0.06, 1500), (0.1, 300), (0.5, 30)])
def test_small_and_large_harms_are_found(rate: float, n: int) -> None:
    found = stops(rate, n, lambda k, n: always.rate(k, n, 0.02, 1.5))

    assert sum(stop is not None for stop in found) >= 0.95 * 400


@given(st.integers(0, 200), st.integers(0, 2000), st.floats(0.001, 0.4))
def test_a_lower_base_is_never_less_evidence(k: int, rest: int, base: float) -> None:
    """So the upper bound of an estimated base is safe."""
    lower = always.rate(k, k + rest, base)

    assert lower >= always.rate(k, k + rest, base * 1.1) * (1 - 1e-9)


def test_a_base_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="give the upper bound of its rate"):
        always.rate(1, 100, 0.0)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_a_confidence_sequence_holds_at_every_look(rate: float) -> None:
    misses = stops(rate, 1500, lambda k, n: 20.0 * (always.upper(k, n) < rate), 200, 50)

    assert sum(stop is not None for stop in misses) <= allowed(200)


def test_a_confidence_sequence_holds_for_partial_agreement() -> None:
    """The mean of numbers between 0 and 1, not of yes and no."""
    values = np.random.default_rng(4).beta(2, 38, (200, 1000))
    sums = np.cumsum(values, axis=1)
    missed = [
        any(always.upper(float(run[n - 1]), n) < 0.05 for n in range(50, 1001, 50)) for run in sums
    ]

    assert sum(missed) <= allowed(200)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_confidence_sequence_is_wider_than_an_interval(count: tuple[int, int]) -> None:
    k, n = count
    low, high = always.sequence(k, n)
    exact_low, exact_high = exact.interval(k, n)

    assert low <= exact_low + 1e-9
    assert exact_high - 1e-9 <= high


def test_450_events_without_a_disagreement_show_099_at_every_look() -> None:
    assert always.lower(450, 450) >= 0.99 > always.lower(440, 440)


# -- differences of numbers ------------------------------------------------------------------------


def test_equal_numbers_are_no_alarm_at_any_look() -> None:
    differences = np.random.default_rng(6).standard_t(3, (400, 1000)) * 7
    sums, squares = np.cumsum(differences, axis=1), np.cumsum(differences**2, axis=1)
    found = [
        any(always.positive(sums[i, n], squares[i, n]) >= 20 for n in range(9, 1000, 10))
        for i in range(400)
    ]

    assert sum(found) <= allowed(400)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_difference_is_found_at_every_scale(scale: float) -> None:
    differences = np.random.default_rng(7).normal(0.5, 1.0, 200) * scale

    assert always.positive(differences.sum(), (differences**2).sum()) >= 20
    assert always.positive(-differences.sum(), (differences**2).sum()) < 1
    low, high = always.centre(200, differences.sum(), (differences**2).sum())
    assert 0 < low < 0.5 * scale < high < scale


# -- two lanes at the same time --------------------------------------------------------------------


def watched(
    live: float, candidate: float, share: float = 0.1, factor: float = 1.5, events: int = 6000
) -> int | None:
    """Return the events until the evidence suffices, looked at each 50. The live rate drifts."""
    found, rng = Concurrent(factor), _RNG
    for at in range(50, events + 1, 50):
        drift = 1 + (at // 1000) % 4
        n = int(rng.binomial(50, share))
        failures = int(rng.binomial(n, candidate * drift))
        found = found.update(failures, n, int(rng.binomial(50 - n, live * drift)), 50 - n)
        if found.e >= 20:
            return at
    return None


_RNG = np.random.default_rng(8)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_candidate_within_the_factor_is_no_alarm_while_the_base_drifts(share: float) -> None:
    alarms = [watched(0.02, 0.0295, share) for _ in range(100)]

    assert sum(alarm is not None for alarm in alarms) <= allowed(100)


def test_a_candidate_that_fails_five_times_as_often_is_found() -> None:
    alarms = [watched(0.02, 0.1) for _ in range(20)]

    assert all(alarm is not None for alarm in alarms)


def test_the_evidence_of_one_block_is_a_ratio_of_hypergeometric_chances() -> None:
    found = Concurrent(1.5).update(6, 50, 9, 450)

    null = scipy.stats.nchypergeom_fisher(500, 15, 50, 1.5)
    ratios = [
        scipy.stats.nchypergeom_fisher(500, 15, 50, 1.5 * effect).pmf(6) / null.pmf(6)
        for effect in always.EFFECTS
    ]
    assert found.e == pytest.approx(np.mean(ratios))


def test_blocks_of_several_processes_add_up() -> None:
    one, other = Concurrent(1.5).update(3, 20, 4, 180), Concurrent(1.5).update(1, 30, 2, 270)

    together = Concurrent(1.5).update(3, 20, 4, 180).update(1, 30, 2, 270)

    assert (one + other).e == pytest.approx(together.e)
    assert (one + other).candidate == (4, 50)
    assert (one + other).live == (6, 450)


def test_a_block_of_one_lane_says_nothing() -> None:
    assert Concurrent(1.0).update(5, 50, 0, 0).e == pytest.approx(1.0)


def test_evidence_of_different_factors_is_not_added() -> None:
    with pytest.raises(ValueError, match=r"1\.5 and 2\.0"):
        Concurrent(1.5) + Concurrent(2.0)


def test_a_state_comes_back_from_json() -> None:
    stream = Stream().update(3, 50).update(1, 10)
    both = Concurrent(1.5).update(3, 20, 4, 180)

    assert Stream.from_json(stream.to_json()) == stream == Stream(4, 60)
    assert Concurrent.from_json(both.to_json()) == both


def test_a_stream_is_a_function_of_its_counts() -> None:
    stream = Stream().update(3, 50).update(9, 50)

    assert stream.against(0.02, 1.5) == always.rate(12, 100, 0.02, 1.5) > 20
    assert stream.bounds() == always.sequence(12, 100)
    with pytest.raises(ValueError, match="from 0 to the total"):
        stream.update(3, 2)
