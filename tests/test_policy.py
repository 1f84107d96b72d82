"""DeliveryPolicy and the arithmetic of retries."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from mltrigger.errors import InvalidPolicy
from mltrigger.policy import BACKOFF_CAP_S, DeliveryPolicy, backoff_s

RANGES = {
    "timeout_s": (0.001, 12 * 3600),
    "lease_s": (0.05, 12 * 3600),
    "batch_window_s": (0, 300),
    "max_attempts": (1, 1000),
    "batch_size": (1, 10_000),
    "max_concurrency": (1, 1000),
}
WHOLE = ["max_attempts", "batch_size", "max_concurrency"]
# So that the lease is never the shorter one.
LONG = {"timeout_s": 400.0}


def highest(low: float, high: float) -> float:
    return high


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("end", [0, 1])
def test_a_setting_reaches_both_ends_of_its_range(name: str, end: int) -> None:
    value = RANGES[name][end]

    assert getattr(DeliveryPolicy(**{**LONG, name: value}), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_a_setting_beyond_its_range_is_refused_with_range_and_value(name: str) -> None:
    low, high = RANGES[name]
    for value in (low - 1, high + 1, -1, math.nan, math.inf, -math.inf):
        with pytest.raises(
            InvalidPolicy, match=f"{name} must be .*from {low:g} to {high:g}, got {value!r}"
        ):
            DeliveryPolicy(**{name: value})


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["5", True, [5], 5j])
def test_a_setting_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidPolicy, match=f"{name} must be"):
        DeliveryPolicy(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_is_a_whole_number(name: str) -> None:
    with pytest.raises(InvalidPolicy, match=f"{name} must be a whole number"):
        DeliveryPolicy(**{name: 2.0})


@pytest.mark.parametrize("name", ["timeout_s", "batch_window_s", "max_attempts"])
def test_only_lease_batch_size_and_concurrency_may_be_left_to_their_defaults_with_none(
    name: str,
) -> None:
    with pytest.raises(InvalidPolicy, match=f"{name} must be .*got None"):
        DeliveryPolicy(**{name: None})
    assert DeliveryPolicy(lease_s=None, batch_size=None, max_concurrency=None) == DeliveryPolicy()


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        DeliveryPolicy(
            timeout_s=-1,
            max_attempts=0,
            batch_size=0,
            max_concurrency=0,
            batch_window_s=-1,
            lease_s=0,
        )

    assert all(name in str(caught.value) for name in RANGES)
    assert isinstance(caught.value, ValueError)


def test_the_lease_is_twice_the_timeout_unless_it_is_given() -> None:
    assert DeliveryPolicy().lease == 120
    assert DeliveryPolicy(timeout_s=7).lease == 14
    assert DeliveryPolicy(timeout_s=7, lease_s=3).lease == 3


def test_a_lease_shorter_than_the_batch_window_is_refused() -> None:
    with pytest.raises(
        InvalidPolicy, match=r"lease_s \(2\) must be longer than batch_window_s \(5\)"
    ):
        DeliveryPolicy(timeout_s=1, batch_window_s=5)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timeout", "timeout_s"),
        ("max_attempt", "max_attempts"),
        ("batchsize", "batch_size"),
        ("lease", "lease_s"),
    ],
)
def test_an_unknown_setting_lists_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(
        InvalidPolicy, match=f"no delivery setting '{name}'; did you mean .*'{near}'"
    ):
        DeliveryPolicy.of({name: 1})


def test_a_setting_that_is_near_to_none_lists_them_all() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        DeliveryPolicy.of({"zzz": 1})

    assert all(name in str(caught.value) for name in RANGES)


def test_a_policy_of_settings_has_them() -> None:
    assert DeliveryPolicy.of({"timeout_s": 5, "max_attempts": 2}) == DeliveryPolicy(
        timeout_s=5, max_attempts=2
    )
    assert DeliveryPolicy.of({}) == DeliveryPolicy()


@pytest.mark.parametrize(
    "policy",
    [
        DeliveryPolicy(),
        DeliveryPolicy(
            timeout_s=1.5,
            lease_s=9,
            max_attempts=2,
            batch_size=32,
            batch_window_s=0.25,
            max_concurrency=4,
        ),
    ],
)
def test_a_policy_survives_its_json_form(policy: DeliveryPolicy) -> None:
    assert DeliveryPolicy.from_json(policy.to_json()) == policy


def test_settings_of_a_newer_release_are_ignored() -> None:
    newer = {**json.loads(DeliveryPolicy(max_attempts=2).to_json()), "colour": 9}

    assert DeliveryPolicy.from_json(json.dumps(newer)) == DeliveryPolicy(max_attempts=2)


def test_a_policy_of_an_older_release_gets_the_defaults() -> None:
    assert DeliveryPolicy.from_json('{"max_attempts": 2}') == DeliveryPolicy(max_attempts=2)


def test_a_policy_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DeliveryPolicy().timeout_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("failures", "most_s"),
    [(1, 1), (2, 2), (3, 4), (4, 8), (10, 512), (11, 900), (12, 900), (1000, 900), (10**9, 900)],
)
def test_backoff_doubles_with_every_failure_up_to_its_cap(failures: int, most_s: float) -> None:
    assert backoff_s(failures, highest) == most_s


def test_backoff_is_fully_jittered() -> None:
    asked: list[tuple[float, float]] = []

    def third(low: float, high: float) -> float:
        asked.append((low, high))
        return low + (high - low) / 3

    assert backoff_s(4, third) == pytest.approx(8 / 3)
    assert asked == [(0.0, 8.0)]


def test_real_chance_stays_within_the_bounds() -> None:
    drawn = [backoff_s(20) for _ in range(1000)]

    assert 0 <= min(drawn) < max(drawn) <= BACKOFF_CAP_S
    assert len(set(drawn)) > 900


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_concurrency_per_key": 2}, "needs a key: name its path in the data"),
        ({"key": "a", "max_concurrency_per_key": 0}, "a whole number from 1"),
        ({"key": "a", "max_concurrency_per_key": 1.5}, "a whole number from 1"),
        ({"max_rate_per_s_total": 0}, "max_rate_per_s_total must be from 0.001"),
        ({"max_rate_per_s_total": True}, "max_rate_per_s_total must be from 0.001"),
        ({"key": ""}, "key must be a path such as 'order.tenant'"),
        ({"key": "a..b"}, "key must be a path such as 'order.tenant'"),
        ({"key": 7}, "key must be a path such as 'order.tenant'"),
        ({"priority": "x" * 500}, "priority must be a path such as 'order.tenant'"),
    ],
)
def test_key_and_limits_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidPolicy, match=said):
        DeliveryPolicy(**settings)


def test_policy_with_a_key_comes_back_from_the_registry_and_shows_it() -> None:
    policy = DeliveryPolicy(
        key="order.tenant", max_concurrency_per_key=2, max_rate_per_s_total=0.5, priority="size"
    )

    assert DeliveryPolicy.from_json(policy.to_json()) == policy
    assert "key='order.tenant', max_concurrency_per_key=2" in repr(policy)
    assert "order.tenant" in policy._repr_html_()
