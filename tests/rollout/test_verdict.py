"""The word of a verdict, and the arithmetic of its rules."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mltrigger as mt
from mltrigger.rollout import rules
from mltrigger.rollout.agree import measure
from mltrigger.rollout.rules import Asked, Discordant, Tally
from mltrigger.rollout.statistics import exact
from mltrigger.rollout.verdict import Draft, Rule, Verdict

VERSIONS = ("ocr:1.0.0", "ocr:1.1.0")


def of(*drafts: Draft, **settings: Any) -> Verdict:
    return Verdict.of(drafts, VERSIONS, 500, **settings)


def agreement(against: float, total: int, noise: Tally | None = None, **asked: Any) -> Rule:
    graded = against != int(against)
    return rules.agreement(Tally(against, total, graded), noise, Asked(**asked)).rule


# -- agreement -------------------------------------------------------------------------------------


def test_495_of_500_are_not_enough_for_099() -> None:
    rule = agreement(5, 500)

    assert rule.passed is None
    assert rule.interval is not None
    assert round(rule.interval[0], 3) == 0.979
    assert "agree on 495 of 500 pairs (99.00%): at least 0.9791 shown, 0.99 wanted" in rule.text


@pytest.mark.parametrize(("n", "against"), [(300, 0), (480, 1), (1050, 5)])
def test_agreement_is_shown_by_its_lower_bound(n: int, against: int) -> None:
    assert agreement(against, n).passed is True
    assert agreement(against, n, confidence=0.99).passed is None


def test_too_little_agreement_is_decided_by_its_upper_bound() -> None:
    assert agreement(8, 500).passed is None
    assert agreement(15, 500).passed is False
    assert of(Draft(agreement(15, 500))).word == "HOLD"


def test_the_needed_events_are_those_that_decide() -> None:
    rule = agreement(1, 300)

    assert rule.needs is not None
    n = 300 + rule.needs
    assert exact.upper(n / 300, n) <= 0.01 < exact.upper(n * 0.98 / 300, n * 0.98)
    assert re.search(r"; about [\d,]+ more events needed$", rule.text)


def test_without_a_pair_300_events_are_needed() -> None:
    assert agreement(0, 0).needs == pytest.approx(299, abs=2)


def test_a_rate_at_the_limit_needs_more_events_than_anyone_has() -> None:
    rule = agreement(100, 10_000)

    assert (rule.passed, rule.needs) == (None, None)
    assert "more than 1,000,000 events would be needed" in rule.text


def test_looking_repeatedly_costs_events() -> None:
    assert agreement(0, 300, repeated=True).passed is None
    assert agreement(0, 460, repeated=True).passed is True


def test_partial_agreement_has_a_bound_for_numbers() -> None:
    assert agreement(0.5, 400).passed is None
    assert agreement(0.5, 800).passed is True


def test_noise_is_subtracted_by_its_bound() -> None:
    """21 % beside 20 % shows no difference, and no agreement within 1 % either."""
    alone = agreement(420, 2000)
    beside = agreement(420, 2000, Tally(200, 1000))
    much = agreement(20_100, 100_000, Tally(20_000, 100_000))

    assert alone.passed is False
    assert beside.passed is None
    assert "no difference beyond it" in beside.text
    assert much.passed is True


def test_a_difference_beyond_noise_is_one() -> None:
    rule = agreement(800, 2000, Tally(200, 1000))

    assert rule.passed is False
    assert "(20.00%), a difference beyond it" in rule.text


def test_a_random_model_against_itself_is_not_refused() -> None:
    rng = np.random.default_rng(1)
    found = [
        agreement(int(rng.binomial(2000, 0.2)), 2000, Tally(int(rng.binomial(1000, 0.2)), 1000))
        for _ in range(50)
    ]

    assert [rule for rule in found if rule.passed is False] == []
    assert sum("no difference beyond it" in rule.text for rule in found) >= 48


# -- errors, accuracy, latency ---------------------------------------------------------------------


def errors(worse: int, better: int, total: int, **asked: Any) -> Draft:
    return rules.paired("errors", "failed", Discordant(worse, better, total), Asked(**asked))


def test_no_more_errors_must_be_shown() -> None:
    few, enough = errors(0, 0, 100), errors(0, 0, 400)

    assert few.rule.passed is None
    assert few.rule.needs == pytest.approx(268, abs=3)
    assert enough.rule.passed is True
    assert "0 newly failed, 0 no longer, of 400 pairs" in enough.rule.text


def test_significantly_more_errors_are_worse() -> None:
    verdict = of(errors(20, 3, 500))

    assert verdict.word == "WORSE"
    assert f"p = {exact.mcnemar_more(20, 3):.2g}" in verdict.rules[0].text


def test_fewer_errors_are_shown_to_be_no_more() -> None:
    assert of(errors(3, 20, 500)).word == "SHIP"


def test_versions_that_fail_at_random_are_not_worse() -> None:
    assert errors(100, 100, 20_000).rule.passed is True


def test_a_harm_at_repeated_looks_is_an_e_value() -> None:
    assert of(errors(9, 2, 500)).word == "WORSE"
    assert of(errors(9, 2, 500, repeated=True), repeated=True).word == "NOT YET"
    worse = of(errors(20, 2, 500, repeated=True), repeated=True)
    assert worse.word == "WORSE"
    assert re.search(r"A significant harm: e = [\d,.]+$", worse.rules[0].text)


def test_twice_as_many_slow_calls_are_allowed_and_not_more() -> None:
    asked = Asked()

    assert of(rules.latency(25, 500, 30.0, asked)).word == "SHIP"
    assert of(rules.latency(45, 500, 30.0, asked)).word == "NOT YET"
    assert of(rules.latency(80, 500, 30.0, asked)).word == "WORSE"
    assert "(16.0%) slower than 30.00 ms" in rules.latency(80, 500, 30.0, asked).rule.text


# -- numbers ---------------------------------------------------------------------------------------

DIFFERENCES = np.random.default_rng(2).normal(0.0, 1.0, 400)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("better", "shift", "word"),
    [("higher", -0.5, "WORSE"), ("higher", 0.5, "SHIP"), ("lower", 0.5, "WORSE")],
)
def test_a_measure_is_worse_in_one_direction(
    better: Any, shift: float, word: str, repeated: bool
) -> None:
    draft = rules.numbers("m", measure(better), DIFFERENCES + shift, Asked(repeated=repeated))

    assert of(draft, repeated=repeated).word == word
    assert draft.rule.interval is not None
    assert draft.rule.interval[0] < shift < draft.rule.interval[1]


def test_a_measure_with_a_tolerance_must_be_shown() -> None:
    balanced = DIFFERENCES - DIFFERENCES.mean()

    wide = rules.numbers("m", measure("higher", within=0.2), balanced, Asked()).rule
    tight = rules.numbers("m", measure("higher", within=0.05), balanced, Asked()).rule

    assert wide.passed is True
    assert tight.passed is None
    assert tight.needs == pytest.approx((1.645 * DIFFERENCES.std() / 0.05) ** 2 - 400, rel=0.15)


def test_a_measure_of_one_pair_shows_nothing() -> None:
    rule = rules.numbers("m", measure("higher"), np.array([1.0]), Asked()).rule

    assert (rule.passed, rule.needs) == (None, 1)


# -- the word --------------------------------------------------------------------------------------


def rule(passed: bool | None, harm: bool = False, needs: int | None = None) -> Draft:
    return Draft(Rule("r", passed, None, None, needs, "text", harm))


@pytest.mark.parametrize(
    ("drafts", "word"),
    [
        ([], "NOT YET"),
        ([rule(True)], "SHIP"),
        ([rule(True), rule(None)], "NOT YET"),
        ([rule(None), rule(False)], "HOLD"),
        ([rule(False), rule(False, harm=True)], "WORSE"),
    ],
)
def test_the_word_follows_from_the_rules(drafts: list[Draft], word: str) -> None:
    assert of(*drafts).word == word


def test_the_events_needed_are_those_of_the_rule_that_needs_most() -> None:
    assert of(rule(None, needs=30), rule(None, needs=340), rule(True)).needs == 340
    assert of(rule(None, needs=30), rule(None)).needs is None
    assert of(rule(None, needs=338)).summary.endswith(", about 340 more events needed")


def test_harms_are_corrected_for_their_number() -> None:
    """0.02 alone is significant, among three tests it is not."""
    one, quiet = Draft(rule(True).rule, 0.02), Draft(rule(True).rule, 0.5, quiet=True)

    assert of(one).word == "WORSE"
    assert of(one, quiet, quiet).word == "SHIP"
    worse = of(Draft(rule(True).rule, 0.01), quiet, quiet)
    assert worse.word == "WORSE"
    assert "p = 0.03 (Holm over 3 tests)" in worse.rules[0].text


def test_a_slice_is_named_only_when_it_is_harmed() -> None:
    calm = Draft(Rule("errors in a", None, None, None, None, "text"), 0.5, quiet=True)
    harmed = Draft(Rule("errors in b", None, None, None, None, "text"), 1e-6, quiet=True)

    verdict = of(rule(True), calm, harmed)

    assert [found.name for found in verdict.rules] == ["r", "errors in b"]
    assert verdict.word == "WORSE"


def test_a_verdict_names_the_clearest_slices_and_counts_the_others() -> None:
    drafts = [
        Draft(Rule(f"errors in {n}", None, None, None, None, ""), 1e-9 * (n + 1), quiet=True)
        for n in range(40)
    ]

    rules = of(*drafts[::-1]).rules

    assert [found.name for found in rules] == [
        *(f"errors in {n}" for n in range(9, -1, -1)),
        "other slices",
    ]
    assert rules[-1].text == "30 more rules of slices with a significant harm"


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_count_has_a_rule(one: int, other: int, same: int, repeated: bool) -> None:
    asked, total = Asked(repeated=repeated), one + other + same
    drafts = [
        rules.agreement(Tally(one, total), None, asked),
        rules.agreement(Tally(one, total), Tally(other, other + same), asked),
        rules.paired("errors", "failed", Discordant(one, other, total), asked),
        rules.latency(one, total, 5.0, asked),
    ]

    for draft in drafts:
        interval = draft.rule.interval
        if draft.rule.figure is not None and interval is not None and draft is not drafts[1]:
            assert interval[0] - 1e-9 <= draft.rule.figure <= interval[1] + 1e-9
        assert draft.p is None or 0 <= draft.p <= 1
        assert draft.rule.needs is None or draft.rule.passed is None


def test_a_verdict_comes_back_from_short_json() -> None:
    given = of(
        Draft(agreement(1, 300)),
        errors(20, 3, 500),
        Draft(Rule("m", None, math.nan, (-math.inf, 1.0), None, "é <b>", False)),
    )

    text = given.to_json()
    back = Verdict.from_json(text)

    assert (back.word, back.versions, back.pairs) == (given.word, VERSIONS, 500)
    assert [r.text for r in back.rules] == [r.text for r in given.rules]
    assert back.rules[2].interval == (-math.inf, 1.0)
    assert back.rules[2].figure is None
    assert Verdict.from_json(back.to_json()) == back
    assert len(text) < 1500
    assert "NaN" not in text


def test_a_verdict_shows_its_arithmetic_and_escapes_it() -> None:
    verdict = Verdict.of(
        [Draft(Rule("<i>", None, None, None, None, "<script>"))], ("a:1", "<b>:2"), 3
    )

    assert str(verdict).splitlines() == [
        "NOT YET: a:1 -> <b>:2, 3 pairs, 95% confidence for one look",
        "  open    <i>  <script>",
    ]
    assert "<script>" not in verdict._repr_html_()
    assert "&lt;script&gt;" in verdict._repr_html_()
    assert "&lt;b&gt;:2" in verdict._repr_html_()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"agree_at_least": 1}, "1 cannot be shown by any number of events"),
        ({"agree_at_least": 99}, "agree_at_least must be a share between 0 and 1, got 99"),
        ({"confidence": 95}, "confidence must be a share"),
        ({"within": 0}, "within must be a share"),
        ({"slow_at_most": math.nan}, "slow_at_most must be a share"),
        ({"confidence": None}, "confidence must be a share"),
    ],
)
def test_a_requirement_that_makes_no_sense_is_refused(asked: Any, message: str) -> None:
    with pytest.raises(mt.InvalidComparison) as error:
        Asked(**asked)

    assert message in str(error.value)


def test_a_verdict_goes_with_the_error_that_refuses_a_version() -> None:
    verdict = of(rule(False))

    error = mt.NotShipped("HOLD", verdict)

    assert error.verdict is verdict
    assert isinstance(error, mt.MltriggerError)
