"""AdaptiveBatch: which size it finds on curves of many shapes, and how it behaves on the way;
simulated, without a clock.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import is_settled, wait_until
from slow import examples

import mltrigger as mt
from mltrigger.delivery.batching import AdaptiveBatch
from mltrigger.errors import InvalidPolicy

Curve = Callable[[int], float]
"""Events of a call -> seconds."""
BUDGET_S, MOST = 0.1, 256
LOTS = 400
EXAMPLES = settings(max_examples=examples(20))

CURVES: dict[str, Curve] = {
    "affine": lambda n: 0.0005 + 0.0002 * n,
    "a forest: a large constant": lambda n: 0.02 + 0.00004 * n,
    "a linear model: a small one": lambda n: 0.0003 + 0.000001 * n,
    "no gain from batches": lambda n: 0.002 * n,
    "steps of 32": lambda n: 0.01 * math.ceil(n / 32),
    "falling throughput beyond 100": lambda n: 0.002 + 0.0001 * n * max(1.0, n / 100),
    "quadratic": lambda n: 0.005 + 0.00001 * n * n,
    "a dent at 16": lambda n: 0.004 + 0.0001 * n + (0.004 if 12 <= n <= 24 else 0),
}


class Rule(Protocol):
    """A way to choose batch sizes."""

    def size(self) -> int: ...

    def learn(self, count: int, seconds: float) -> None: ...


class Aimd:
    """Clipper's: 2 more while calls stay within the budget, a tenth fewer when one does not (NSDI
    2017, section 4.3).
    """

    def __init__(self, budget_s: float, most: int) -> None:
        self._budget_s, self._most, self._size = budget_s, most, 1.0

    def size(self) -> int:
        return int(self._size)

    def learn(self, count: int, seconds: float) -> None:
        self._size = (
            max(1.0, self._size * 0.9)
            if seconds > self._budget_s
            else min(self._most, self._size + 2)
        )


class Regression:
    """BentoML's: a straight line through the last calls, and the size at which it meets the budget."""

    def __init__(self, budget_s: float, most: int) -> None:
        self._budget_s, self._most, self._seen = budget_s, most, list[tuple[int, float]]()

    def size(self) -> int:
        if len(self._seen) < 3:
            return min(self._most, 2 ** len(self._seen))
        mean_n, mean_s = (sum(values) / len(self._seen) for values in zip(*self._seen, strict=True))
        spread = sum((n - mean_n) ** 2 for n, _ in self._seen)
        slope = (
            sum((n - mean_n) * (s - mean_s) for n, s in self._seen) / spread
            if spread
            else mean_s / mean_n
        )
        return (
            max(1, min(self._most, int((self._budget_s - mean_s + slope * mean_n) / slope)))
            if slope > 0
            else self._most
        )

    def learn(self, count: int, seconds: float) -> None:
        self._seen = [*self._seen, (count, seconds)][-100:]


def run(
    rule: Rule, *phases: tuple[Curve, int], noise: float = 0.0, stalls: float = 0.0, seed: int = 0
) -> Iterator[tuple[int, float]]:
    """Yield size and seconds of one full lot after the other: *phases* are curves and how many lots
    they last.
    """
    chance = random.Random(seed)
    for curve, lots in phases:
        for _ in range(lots):
            size = rule.size()
            seconds = curve(size) * math.exp(chance.gauss(0, noise)) + (
                0.5 if chance.random() < stalls else 0
            )
            rule.learn(size, seconds)
            yield size, seconds


def sizes(
    rule: Rule, *phases: tuple[Curve, int], noise: float = 0.0, stalls: float = 0.0, seed: int = 0
) -> list[int]:
    return [size for size, _ in run(rule, *phases, noise=noise, stalls=stalls, seed=seed)]


def best(curve: Curve) -> float:
    """Return the best throughput within the budget."""
    return max(n / curve(n) for n in range(1, MOST + 1) if curve(n) <= BUDGET_S or n == 1)


def share(curve: Curve, used: list[int]) -> float:
    """Return the throughput of lots of the sizes *used*, as a share of the best."""
    return sum(used) / sum(map(curve, used)) / best(curve)


def adaptive() -> AdaptiveBatch:
    return AdaptiveBatch(BUDGET_S, MOST)


curves = st.one_of(
    st.builds(lambda c, a: lambda n: c + a * n, st.floats(0, 0.05), st.floats(1e-6, 0.01)),
    st.builds(
        lambda c, w: lambda n: c * math.ceil(n / w), st.floats(1e-4, 0.05), st.integers(1, 100)
    ),
    st.builds(
        lambda c, a, q: lambda n: c + a * n + q * n * n,
        st.floats(1e-4, 0.05),
        st.floats(1e-6, 1e-3),
        st.floats(1e-8, 1e-4),
    ),
    st.builds(
        lambda values: lambda n: values[n % len(values)],
        st.lists(st.floats(0, 1), min_size=1, max_size=50),
    ),
)


# -- bounds ----------------------------------------------------------------------------------------


@EXAMPLES
@given(curve=curves, most=st.integers(1, 500), full=st.lists(st.floats(0, 1.5), max_size=200))
def test_a_size_is_from_one_to_the_most_and_at_most_eight_times_the_one_before(
    curve: Curve, most: int, full: list[float]
) -> None:
    rule, before = AdaptiveBatch(BUDGET_S, most), 1
    for part in full:
        assert 1 <= rule.size() <= min(most, 8 * before)
        before = rule.size()
        rule.learn(count := int(before * part), curve(count))


@EXAMPLES
@given(calls=st.lists(st.tuples(st.integers(-5, 2000), st.floats()), max_size=100))
def test_no_report_can_break_it(calls: list[tuple[int, float]]) -> None:
    rule = adaptive()
    for count, seconds in calls:
        rule.learn(count, seconds)
        assert 1 <= rule.size() <= MOST


@EXAMPLES
@given(part=st.floats(0.1, 0.85))
def test_nothing_larger_is_tried_while_lots_are_not_full(part: float) -> None:
    rule = adaptive()
    sizes(rule, (CURVES["a forest: a large constant"], 12))
    reached = rule.size()
    for _ in range(100):
        rule.learn(max(1, int(rule.size() * part)), 0.001)

    assert reached >= 8 and rule.size() <= reached


def test_a_larger_size_is_tried_after_at_most_three_full_lots_in_the_beginning() -> None:
    found = sizes(adaptive(), (lambda n: 0.001, 28))

    assert (found[0], found[-1]) == (1, MOST)


def test_one_call_of_a_size_is_enough_while_an_event_gets_clearly_cheaper() -> None:
    found = sizes(adaptive(), (CURVES["a linear model: a small one"], 6))

    assert found == [1, 1, 8, 64, MOST, MOST]


def test_a_stall_in_the_beginning_does_not_hold_it_back() -> None:
    rule, curve = adaptive(), CURVES["a linear model: a small one"]
    assert sizes(rule, (curve, 2)) == [1, 1]
    rule.learn(8, 0.05)

    assert sizes(rule, (curve, 4)) == [8, 64, MOST, MOST]


@pytest.mark.parametrize("call_s", [0.005, 0.0005])
def test_the_way_to_the_best_size_costs_little(call_s: float) -> None:
    rule, left, spent_s = AdaptiveBatch(0.25, 4_096), 30_000, 0.0
    while left > 0:
        size = min(rule.size(), left)
        seconds = call_s + call_s / 500 * size
        rule.learn(size, seconds)
        left, spent_s = left - size, spent_s + seconds

    assert 30_000 * (call_s / 500 + call_s / 4_096) >= 0.85 * spent_s


@pytest.mark.parametrize(("budget_s", "most"), [(0, 10), (-1, 10), (math.nan, 10), (0.1, 0)])
def test_limits_that_make_no_sense_are_refused(budget_s: float, most: int) -> None:
    with pytest.raises(InvalidPolicy, match="budget_s > 0 and most >= 1"):
        AdaptiveBatch(budget_s, most)


# -- what it finds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("noise", "at_least"), [(0.0, 0.95), (0.1, 0.88)])
@pytest.mark.parametrize("seed", range(3))
def test_it_comes_near_the_best_throughput_within_the_budget(
    name: str, noise: float, at_least: float, seed: int
) -> None:
    used = sizes(adaptive(), (CURVES[name], LOTS), noise=noise, seed=seed)

    assert share(CURVES[name], used[100:]) >= at_least


@EXAMPLES
@given(constant=st.floats(0, 0.05), slope=st.floats(1e-6, 0.02))
def test_on_an_affine_curve_it_settles_near_the_best(constant: float, slope: float) -> None:
    def curve(n: int) -> float:
        return constant + slope * n

    used = sizes(adaptive(), (curve, LOTS))

    # rungs are up to a quarter apart: the budget may allow that much more than the last one below
    assert share(curve, used[-50:]) >= 0.85
    assert sum(map(curve, used[100:])) / len(used[100:]) <= BUDGET_S or max(used[100:]) == 1


@pytest.mark.parametrize(
    ("name", "smallest"), [("no gain from batches", 1), ("steps of 32", 32), ("affine", 80)]
)
def test_of_sizes_that_are_as_good_it_takes_the_smallest(name: str, smallest: int) -> None:
    used = sizes(adaptive(), (CURVES[name], LOTS))[100:]

    assert max(set(used), key=used.count) == smallest


def test_what_a_lot_costs_besides_counts_for_the_throughput_and_not_for_the_budget() -> None:
    rule = adaptive()
    for _ in range(200):
        rule.learn(rule.size(), 0.0001 * rule.size(), overhead_s=0.5)

    assert rule.size() == MOST


def test_where_one_event_is_too_slow_for_the_budget_batches_have_one() -> None:
    assert set(sizes(adaptive(), (lambda n: 0.2 * n, 50))) == {1}


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_it_is_as_good_as_clippers_and_bentomls_rules_and_better_where_their_assumption_fails(
    noise: float,
) -> None:
    rules: dict[str, Callable[[], Rule]] = {
        "ours": adaptive,
        "aimd": lambda: Aimd(BUDGET_S, MOST),
        "regression": lambda: Regression(BUDGET_S, MOST),
    }
    got = {
        (name, who): share(curve, sizes(rule(), (curve, LOTS), noise=noise))
        for name, curve in CURVES.items()
        for who, rule in rules.items()
    }

    assert all(
        got[name, "ours"] >= max(got[name, "aimd"], got[name, "regression"]) - 0.1
        for name in CURVES
    )
    for name in ("falling throughput beyond 100", "quadratic"):
        assert got[name, "ours"] > 1.5 * max(got[name, "aimd"], got[name, "regression"])


# -- the budget ------------------------------------------------------------------------------------


@EXAMPLES
@given(curve=curves, seed=st.integers(0, 100))
def test_after_a_call_beyond_the_budget_the_next_one_is_smaller(curve: Curve, seed: int) -> None:
    rule = adaptive()
    calls = list(run(rule, (curve, 200), noise=0.05, seed=seed))

    for (size, seconds), (following, _) in itertools.pairwise(calls[1:]):
        assert following < size or seconds <= BUDGET_S or size == 1


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("noise", "most_often"), [(0.0, 2), (0.1, 6)])
def test_the_budget_is_exceeded_a_few_times_only(name: str, noise: float, most_often: int) -> None:
    took = [seconds for _, seconds in run(adaptive(), (CURVES[name], LOTS), noise=noise)]

    assert sum(seconds > BUDGET_S for seconds in took[1:]) <= most_often


@EXAMPLES
@given(curve=curves)
def test_what_is_too_slow_is_tried_again_ever_more_rarely(curve: Curve) -> None:
    took = [seconds for size, seconds in run(adaptive(), (curve, 1000)) if size > 1]

    assert sum(seconds > BUDGET_S for seconds in took) <= 40


# -- what may happen on the way --------------------------------------------------------------------


def test_the_first_call_of_a_model_that_loads_does_not_count() -> None:
    rule, curve = adaptive(), CURVES["affine"]
    rule.learn(1, 30.0)

    assert sizes(rule, (curve, 100)) == sizes(adaptive(), (curve, 101))[1:]


@pytest.mark.parametrize(
    "name", ["affine", "steps of 32", "quadratic", "a forest: a large constant"]
)
@pytest.mark.parametrize("stall_s", [0.05, 3.0])
def test_a_single_stall_is_forgotten_within_some_lots(name: str, stall_s: float) -> None:
    rule, curve = adaptive(), CURVES[name]
    before = sizes(rule, (curve, LOTS))[-50:]
    rule.learn(rule.size(), stall_s)
    after = sizes(rule, (curve, 40))

    assert share(curve, after[20:]) >= 0.9 * share(curve, before)


def test_stalls_now_and_then_cost_little_more_than_their_own_time() -> None:
    curve = CURVES["affine"]

    assert share(curve, sizes(adaptive(), (curve, 1000), stalls=0.02, seed=1)) >= 0.85


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CURVES["affine"], lambda n: 3 * CURVES["affine"](n)),
        (CURVES["affine"], lambda n: 20 * CURVES["affine"](n)),
        (lambda n: 20 * CURVES["affine"](n), CURVES["affine"]),
        (lambda n: 0.0001 + 0.0005 * n, lambda n: 0.02 + 0.0005 * n),
        (CURVES["quadratic"], CURVES["affine"]),
        (CURVES["affine"], CURVES["quadratic"]),
    ],
    ids=["slower", "much slower", "much faster", "a larger constant", "straight now", "curved now"],
)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_model_that_changes_is_followed(before: Curve, after: Curve, noise: float) -> None:
    used = sizes(adaptive(), (before, 300), (after, 300), noise=noise, seed=3)

    assert share(after, used[400:]) >= 0.85


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("noise", "changes"), [(0.0, 6), (0.1, 100)])
def test_once_settled_it_rests(name: str, noise: float, changes: int) -> None:
    used = sizes(adaptive(), (CURVES[name], 600), noise=noise, seed=2)[200:]

    assert sum(a != b for a, b in itertools.pairwise(used)) <= changes


def test_threads_may_share_it() -> None:
    rule, errors = adaptive(), list[BaseException]()

    def work(seed: int) -> None:
        try:
            sizes(rule, (CURVES["affine"], 2000), noise=0.1, seed=seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert share(CURVES["affine"], sizes(rule, (CURVES["affine"], 100))) >= 0.9


def test_through_a_bus_batches_grow_and_every_event_is_answered_once() -> None:
    seen = list[int]()

    @mt.model("scores", version="1.0.0", batch=True)
    def scores(numbers: list[int]) -> list[int]:
        seen.append(len(numbers))
        time.sleep(0.002)  # what a call costs, however many events are in it: it pays to have many
        return [2 * number for number in numbers]

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", scores, batch="adaptive", batch_size=64, listen=False)
        bus.publish_batch("numbers", list(range(1_000)))
        sub.start()
        wait_until(lambda: is_settled(sub))
        outputs = list(sub.invocations(columns=["output"])["output"])

    assert sorted(map(int, outputs)) == [2 * number for number in range(1_000)]
    assert (seen[0], max(seen)) == (1, 64)
    largest = list(itertools.accumulate(seen, max))
    assert all(size <= 8 * most for most, size in zip(largest, seen[1:], strict=False))
