"""A small part of ``python -m benchmarks --only rollouts``: equal versions, watched."""

from __future__ import annotations

import numpy as np

from benchmarks import rollouts
from mltrigger.rollout.statistics import always


def test_equal_versions_are_rarely_refused_however_often_somebody_looks() -> None:
    found = rollouts.wrong(np.random.default_rng(1), 200)

    ours = {name: share for name, share in found.items() if "e-value" in name or "verdict" in name}
    assert len(ours) == 7
    assert {name: share for name, share in ours.items() if share > 0.05} == {}
    assert found["McNemar's test, p < 0.05, at each look"] > 0.1
    assert found["last 200 events above 2x the base"] > 0.2
    assert found["observed agreement >= 0.99 of 500 events, truly 0.985"] > 0.2


def test_three_times_the_errors_are_found_within_twice_the_events_of_a_fixed_test() -> None:
    counts = rollouts.stream_counts(np.random.default_rng(2), 100, 0.06, 2_000)
    found = rollouts.stops(counts, lambda k, n: always.rate(k, n, rollouts.BASE))

    assert np.quantile(found, 0.8) <= 2 * rollouts.fixed_rate(0.06) + rollouts.LOOK


def test_a_random_model_against_itself_shows_no_difference() -> None:
    found = rollouts.random_model(np.random.default_rng(4), 20)

    assert found == {
        "refused without noise runs": 1.0,
        "refused with 1,000 noise runs": 0.0,
        '"no difference"': 1.0,
    }
