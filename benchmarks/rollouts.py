"""Statistics of rollouts, simulated: wrong verdicts among equals, and events until a harm is found."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.harness import Options
from benchmarks.report import Report, Table, Target
from mltrigger.reports import frames
from mltrigger.rollout import rules
from mltrigger.rollout.comparison import compare_frames
from mltrigger.rollout.rules import Asked, Tally
from mltrigger.rollout.statistics import always, exact
from mltrigger.rollout.statistics.concurrent import Concurrent
from mltrigger.rollout.verdict import Draft, Rule, settled

EVENTS = 2_000
LOOK = 50
BASE = 0.02
"""The share of errors of the old version."""
THRESHOLD = 20.0
_POWER = 0.8
_LONGEST = 30_000
_ASKED = Asked(repeated=True)
_RULE = Rule("harm", True, None, None, None, "")

Counts = list[list[tuple[int, int]]]
"""Two counts at each look, for each run."""


def run(options: Options) -> Report:
    """Simulate rollouts with a fixed seed. The last table times the comparison of 100,000 pairs."""
    report = Report("rollouts", "verdicts that may be watched: wrong ones among equals, and power")
    _equal(report, options.size(2_000, 200))
    _power(report, options.size(400, 100))
    _random_model(report, options.size(200, 30))
    _compare(report, options.size(100_000, 10_000))
    report.notes.append(
        "Simulated with a fixed seed: the figures of the first three tables are the same on every"
        " machine. An alarm among equals is a wrong rollback or a wrong verdict."
    )
    return report


# -- equal versions --------------------------------------------------------------------------------


def wrong(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """Return the share of rollouts of equal versions with an alarm, for each rule.

    Each rollout has 2,000 events and is looked at every 50.
    """
    shadow, canary = paired_counts(rng, runs, BASE, BASE), stream_counts(rng, runs, BASE)
    both = beside_counts(rng, runs, BASE, BASE, 0.5)
    windows = rng.random((runs, EVENTS)) < BASE
    return {
        "McNemar's test, p < 0.05, at each look": _share(
            shadow, lambda b, c: exact.mcnemar(b, c) < 0.05
        ),
        "last 200 events above 2x the base": _window(windows),
        "pairs: e-value, either direction": _share(
            shadow, lambda b, c: always.discordant(b, c) >= THRESHOLD
        ),
        "pairs: e-value, new version worse": _share(
            shadow, lambda b, c: always.discordant(b, c, "more") >= THRESHOLD
        ),
        "canary: e-value against the frozen base": _share(
            canary, lambda k, n: always.rate(k, n, BASE) >= THRESHOLD
        ),
        "canary: e-value beside the live lane": sum(
            first_alarm(blocks, 1.0) is not None for blocks in both
        )
        / runs,
        "verdict WORSE: errors and accuracy, over all and in two slices": _worse(rng, runs),
        "verdict HOLD: agreement, truly 0.99": _share(
            stream_counts(rng, runs, 0.01), lambda k, n: always.lower(k, n) > 0.01
        ),
        "verdict SHIP: agreement of 0.99 shown, truly 0.985": _share(
            stream_counts(rng, runs, 0.015), lambda k, n: always.upper(k, n) <= 0.01
        ),
        "observed agreement >= 0.99 of 500 events, truly 0.985": float(
            (rng.binomial(500, 0.015, 20_000) <= 5).mean()
        ),
    }


def _worse(rng: np.random.Generator, runs: int) -> float:
    """Return the share of runs with the word WORSE at some look: six tests, by Holm."""
    slices = [[paired_counts(rng, runs, BASE, BASE, EVENTS // 2) for _ in "ab"] for _ in "ea"]

    @functools.cache
    def harm(worse: int, better: int) -> Draft:
        return Draft(_RULE, min(1.0, 1 / always.discordant(worse, better, "more")), quiet=True)

    found = 0
    for run in range(runs):
        looks = [list(zip(one[run], other[run], strict=True)) for one, other in slices]
        found += any(
            settled(
                [
                    harm(*counts)
                    for one, other in halves
                    for counts in (one, other, (one[0] + other[0], one[1] + other[1]))
                ],
                _ASKED.confidence,
                _ASKED.repeated,
            )
            for halves in zip(*looks, strict=True)
        )
    return found / runs


def _share(runs: Counts, alarm: Callable[[int, int], bool]) -> float:
    known = functools.cache(alarm)
    return sum(any(known(*look) for look in run) for run in runs) / len(runs)


def _window(failed: Any) -> float:
    sums = np.cumsum(failed, axis=1)
    last = sums[:, 199:] - np.pad(sums[:, :-200], ((0, 0), (1, 0)))
    return float((last[:, ::LOOK] > 2 * BASE * 200).any(axis=1).mean())


def paired_counts(
    rng: np.random.Generator, runs: int, old: float, new: float, events: int = EVENTS
) -> Counts:
    """Return (newly failed, no longer failed) at each look of a shadow."""
    odds = [new * (1 - old), old * (1 - new)]
    counts = rng.multinomial(LOOK, [*odds, 1 - sum(odds)], (runs, events // LOOK))
    return [[(int(b), int(c)) for b, c, _ in run] for run in np.cumsum(counts, axis=1)]


def stream_counts(rng: np.random.Generator, runs: int, rate: float, events: int = EVENTS) -> Counts:
    """Return (failures, events) at each look of a canary."""
    failures = np.cumsum(rng.binomial(LOOK, rate, (runs, events // LOOK)), axis=1)
    return [[(int(k), LOOK * (i + 1)) for i, k in enumerate(run)] for run in failures]


def beside_counts(
    rng: np.random.Generator,
    runs: int,
    live: float,
    candidate: float,
    share: float,
    events: int = EVENTS,
) -> list[list[tuple[int, int, int, int]]]:
    """Return the blocks between looks: failures and events of the candidate and of the live lane."""
    n = rng.binomial(LOOK, share, (runs, events // LOOK))
    failures, others = rng.binomial(n, candidate), rng.binomial(LOOK - n, live)
    return [
        [(int(k), int(m), int(o), int(LOOK - m)) for k, m, o in zip(*lanes, strict=True)]
        for lanes in zip(failures, n, others, strict=True)
    ]


def first_alarm(blocks: list[tuple[int, int, int, int]], factor: float) -> int | None:
    """Return the events until the e-value of :class:`Concurrent` suffices."""
    found = Concurrent(factor)
    for i, block in enumerate(blocks):
        found = found.update(*block)
        if found.e >= THRESHOLD:
            return LOOK * (i + 1)
    return None


def _equal(report: Report, runs: int) -> None:
    found = wrong(np.random.default_rng(1), runs)
    report.tables.append(
        Table(
            f"Equal versions, {runs:,} rollouts of {EVENTS:,} events, looked at every {LOOK}",
            ("rule", "alarms"),
            [(name, f"{share:.1%}") for name, share in found.items()],
        )
    )
    ours = max(share for name, share in found.items() if "e-value" in name or "verdict" in name)
    report.targets.append(
        Target("wrong rollbacks or verdicts among equals", "<= 5 %", f"{ours:.1%}", ours <= 0.05)
    )


# -- power -----------------------------------------------------------------------------------------


def _power(report: Report, runs: int) -> None:
    rng = np.random.default_rng(2)
    rows = []
    for times in (1.5, 2.0, 3.0):
        rate = BASE * times
        shadow = stops(
            paired_counts(rng, runs, BASE, rate, _LONGEST),
            lambda b, c: always.discordant(b, c, "more"),
        )
        canary = stops(
            stream_counts(rng, runs, rate, _LONGEST), lambda k, n: always.rate(k, n, BASE)
        )
        blocks = beside_counts(rng, min(runs, 100), BASE, rate, 0.5, _LONGEST)
        beside = np.array([first_alarm(run, 1.0) or np.inf for run in blocks])
        for name, found, fixed in (
            ("shadow, pairs", shadow, fixed_pairs(rate)),
            ("canary, frozen base", canary, fixed_rate(rate)),
            ("canary of a half, beside the live lane", beside, fixed_lanes(rate)),
        ):
            needed = float(np.quantile(found, _POWER, method="higher"))
            rows.append(
                (
                    f"{name}, {times:g}x",
                    *(f"{np.mean(found <= n):.0%}" for n in (500, 1_000, 2_000, 5_000)),
                    f"{np.median(found):,.0f}",
                    f"{needed:,.0f}",
                    f"{fixed:,}",
                    f"{needed / fixed:.2f}",
                )
            )
    found_of = ("500", "1,000", "2,000", "5,000")
    report.tables.append(
        Table(
            f"A harm, base {BASE:.0%}, looked at every {LOOK}: share found within so many events;"
            " events until half and 80 % of runs are found; size of a fixed test with 80 % power",
            ("rollout", *found_of, "half", "80 %", "fixed size", "ratio"),
            rows,
        )
    )


def stops(runs: Counts, e: Callable[[int, int], float]) -> Any:
    """Return the events at which *e* first suffices, for each run. Infinity: it never does."""
    known = functools.cache(e)
    return np.array(
        [
            next(
                (LOOK * (i + 1) for i, look in enumerate(run) if known(*look) >= THRESHOLD), np.inf
            )
            for run in runs
        ]
    )


def fixed_rate(rate: float) -> int:
    """Return the size of the exact one-sided test of a rate against the base, with 80 % power."""

    def power(n: int) -> float:
        least = next(k for k in range(n + 2) if exact.tail(k, n, BASE) <= 0.05)
        return exact.tail(least, n, rate)

    return _least(power)


def fixed_pairs(rate: float) -> int:
    """Return the size of McNemar's exact one-sided test with 80 % power, by simulation."""
    rng = np.random.default_rng(3)
    odds = [rate * (1 - BASE), BASE * (1 - rate)]
    test = functools.cache(exact.mcnemar_more)

    def power(n: int) -> float:
        drawn = rng.multinomial(n, [*odds, 1 - sum(odds)], 2_000)
        return float(np.mean([test(int(b), int(c)) <= 0.05 for b, c, _ in drawn]))

    return _least(power)


def fixed_lanes(rate: float) -> int:
    """Return the size of both lanes for the one-sided test of two rates, with 80 % power."""
    spread = rate * (1 - rate) + BASE * (1 - BASE)
    normal = statistics.NormalDist()
    return round(
        2 * (normal.inv_cdf(0.95) + normal.inv_cdf(_POWER)) ** 2 * spread / (rate - BASE) ** 2
    )


def _least(power: Callable[[int], float]) -> int:
    low, high = 10, _LONGEST
    while high - low > max(10, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= _POWER else (middle, high)
    return high


# -- a random model, and the time of a comparison --------------------------------------------------


def random_model(rng: np.random.Generator, runs: int) -> dict[str, float]:
    """Compare a model that disagrees with itself on 20 % with itself: shares of what is said."""
    said = []
    for _ in range(runs):
        found, noise = int(rng.binomial(2_000, 0.2)), int(rng.binomial(1_000, 0.2))
        rule = rules.agreement(Tally(found, 2_000), Tally(noise, 1_000), Asked()).rule
        alone = rules.agreement(Tally(found, 2_000), None, Asked()).rule
        said.append((alone.passed is False, rule.passed is False, "no difference" in rule.text))
    names = ("refused without noise runs", "refused with 1,000 noise runs", '"no difference"')
    return dict(zip(names, np.mean(said, axis=0).tolist(), strict=True))


def _random_model(report: Report, runs: int) -> None:
    found = random_model(np.random.default_rng(4), runs)
    report.tables.append(
        Table(
            f"A model against itself, 20 % of its answers random, {runs} times 2,000 pairs",
            ("verdict", "share"),
            [(name, f"{share:.1%}") for name, share in found.items()],
        )
    )
    share = found['"no difference"']
    report.targets.append(
        Target(
            'a random model against itself: "no difference"',
            ">= 95 %",
            f"{share:.1%}",
            share >= 0.95,
        )
    )


def _compare(report: Report, pairs: int) -> None:
    rng = np.random.default_rng(5)
    old, new = (_attempts(rng, pairs, version) for version in ("1.0.0", "1.1.0"))
    settings: dict[str, dict[str, Any]] = {
        "equality": {},
        "equality, slices, a measure": {"by": "type", "measures": {"confidence": "higher"}},
        "a function": {"agree": lambda one, other: one["text"] == other["text"]},
    }
    taken = {}
    for name, setting in settings.items():
        seconds = []
        for _ in range(3):
            began_s = time.perf_counter()
            compare_frames(old, new, **setting)
            seconds.append(time.perf_counter() - began_s)
        taken[name] = min(seconds)
    report.tables.append(
        Table(
            f"Comparing {pairs:,} pairs of 60-byte outputs, the best of 3",
            ("agreement", "s"),
            [(name, f"{seconds:.2f}") for name, seconds in taken.items()],
        )
    )
    most = max(taken.values())
    report.targets.append(Target(f"compare {pairs:,} pairs", "< 2 s", f"{most:.2f} s", most < 2))


def _attempts(rng: np.random.Generator, n: int, version: str) -> pd.DataFrame:
    """Return attempts as ``invocations()`` does. Two versions disagree on some."""
    facts: dict[str, list[Any]] = {
        "event_id": [f"01a22b1e-498c-77e1-ad88-{i:012d}" for i in range(n)],
        "source": ["mltrigger"] * n,
        "type": [("invoice", "letter", "form")[i % 3] for i in range(n)],
        "model": ["ocr"] * n,
        "version": [version] * n,
        "attempt": [1] * n,
        "outcome": ["succeeded"] * n,
        "model_ms": rng.gamma(4, 5, n).tolist(),
        "output": [
            json.dumps({"text": f"page {i} of a document {i if x < 0.005 else 0}", "pages": i})
            for i, x in enumerate(rng.random(n))
        ],
    }
    rows = zip(*(facts.get(name, [None] * n) for name in frames.INVOCATIONS), strict=True)
    table = frames.frame(rows, frames.INVOCATIONS)
    return table.assign(measures=[{"confidence": x} for x in rng.random(n).tolist()])
