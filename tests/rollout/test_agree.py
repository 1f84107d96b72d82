"""When two outputs agree."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest

import mltrigger as mt
from mltrigger.rollout.agree import rule, same
from mltrigger.rollout.agreement import judge

NAN = math.nan


@pytest.mark.parametrize(
    ("one", "other", "agrees"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (0, False, False),
        (NAN, NAN, True),
        (NAN, 0.0, False),
        (NAN, None, False),
        ({"a": [1, NAN]}, {"a": [1.0, NAN]}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, 2], [2, 1], False),
        ([], {}, False),
        ("1", 1, False),
        (None, None, True),
        (2**53, 2**53 + 1, False),
    ],
)
def test_values_are_equal_as_json_values(one: Any, other: Any, agrees: bool) -> None:
    assert same(one, other) is same(other, one) is agrees


@pytest.mark.parametrize(
    ("agree", "one", "other", "agrees"),
    [
        (0.1, 1.0, 1.05, True),
        (0.1, 1.0, 1.2, False),
        (0.1, {"score": [1, 2]}, {"score": [1.05, 2.0]}, True),
        (0.1, "a", "b", False),
        (0.1, True, 1, False),
        (0.1, math.inf, math.inf, True),
        (0.1, math.inf, -math.inf, False),
        (mt.agree.within(rel=0.01), 1000, 1009, True),
        (mt.agree.within(abs=1, rel=0.01), 0, 1, True),
        (mt.agree.within(rel=0.01), 0, 1, False),
        (mt.agree.within(rel=0.01), math.inf, 5, False),
        (mt.agree.same_set(), ["a", "b", "a"], ["b", "a"], True),
        (mt.agree.same_set(), [], [], True),
        (mt.agree.same_set(), [1], [True], False),
        (mt.agree.same_set(), [1, NAN], [NAN, 1.0], True),
        (mt.agree.same_set(), [{"a": [1]}], [{"a": [1.0]}], True),
        (mt.agree.same_set(at_least=0.5), ["a", "b", "c"], ["a", "b", "d"], True),
        (mt.agree.same_set(at_least=0.6), ["a", "b", "c"], ["a", "b", "d"], False),
        (mt.agree.field("label"), {"label": "cat", "p": 0.9}, {"label": "cat", "p": 0.8}, True),
        (mt.agree.field("p", 0.05), {"p": 0.9}, {"p": 0.8}, False),
        (mt.agree.field("boxes[0].x", 1), {"boxes": [{"x": 3}]}, {"boxes": [{"x": 4}]}, True),
        (mt.agree.field("[-1]"), [1, 2], [3, 2], True),
    ],
)
def test_a_rule_decides(agree: Any, one: Any, other: Any, agrees: bool) -> None:
    assert rule(agree)(one, other) is agrees


@pytest.mark.needs("rapidfuzz")
def test_similar_texts_agree_from_a_part_on() -> None:
    agree = mt.agree.similar(at_least=0.9)

    assert agree("0123456789", "0123456780")
    assert agree("", "")
    assert not agree("0123456789", "0123456700")


@pytest.mark.needs("rapidfuzz")
@pytest.mark.parametrize(
    ("rate", "truth", "text", "expected"),
    [
        (mt.agree.character_error_rate, "kitten", "sitting", 3 / 6),
        (mt.agree.character_error_rate, "abc", "abc", 0.0),
        (mt.agree.character_error_rate, "", "ab", 2.0),
        (mt.agree.character_error_rate, "a", "bcd", 3.0),
        (mt.agree.word_error_rate, "the cat sat", "the  cat sat down", 1 / 3),
        (mt.agree.word_error_rate, "", "", 0.0),
    ],
)
def test_error_rates_are_distances_over_the_length_of_the_truth(
    rate: Any, truth: str, text: str, expected: float
) -> None:
    assert rate(truth, text) == pytest.approx(expected)


def test_a_pair_on_which_the_rule_fails_is_not_comparable_and_keeps_the_error() -> None:
    def label(one: Any, other: Any) -> bool:
        return bool(one["label"] == other["label"])

    found = judge(['{"label":1}', "{}", '{"label":2}'], ['{"label":1}'] * 3, label)

    assert found.scores == [1.0, pytest.approx(NAN, nan_ok=True), 0.0]
    assert found.errors == {1: "KeyError: 'label'"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (1.5, "agree returns True, False or a number from 0 to 1, got 1.5"),
        (NAN, "agree returns True, False or a number from 0 to 1, got nan"),
        (None, "TypeError"),
        ("yes", "could not convert string to float"),
    ],
)
def test_an_answer_that_is_no_agreement_is_not_comparable(answer: Any, error: str) -> None:
    found = judge(["1"], ["1"], lambda one, other: answer)

    assert error in found.errors[0]
    assert math.isnan(found.scores[0])


def test_a_function_may_agree_in_part() -> None:
    found = judge(["1", "2"], ["1", "4"], lambda one, other: one / other)

    assert found.scores == [1.0, 0.5]
    assert found.graded


@pytest.mark.parametrize(
    ("agree", "one", "error"),
    [
        (mt.agree.same_set(), '"ab"', "same_set compares lists, got str"),
        (mt.agree.field("label"), '{"text":"x"}', "the output has no 'label'"),
        (mt.agree.field("boxes[0]"), '{"boxes":[]}', "the output has no 'boxes[0]'"),
        (mt.agree.field("a.b"), "3", "the output has no 'a.b'"),
        (None, "{broken", "data is not JSON"),
    ],
)
def test_outputs_of_another_form_are_not_comparable(agree: Any, one: str, error: str) -> None:
    found = judge([one, "1"], ["[]", "1"], rule(agree))

    assert error in found.errors[0]


def test_outputs_with_equal_text_agree_without_being_read() -> None:
    assert judge(["{broken", None], ["{broken", None], rule(0.1)).scores == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rule(True), "got True"),
        (lambda: rule("exact"), "a rule of mt.agree or a function of two outputs, got 'exact'"),
        (lambda: rule(-1), "abs must be a number of at least 0, got -1"),
        (lambda: mt.agree.within(rel=NAN), "rel must be a number of at least 0"),
        (lambda: mt.agree.same_set(at_least=2), "above 0 and at most 1, got 2"),
        (lambda: mt.agree.field(""), 'a path is written "label"'),
        (lambda: mt.agree.field("a[x]"), 'a path is written "label"'),
        (lambda: mt.agree.measure("up"), 'say which direction is better, "higher" or "lower"'),
        (lambda: mt.agree.measure("lower", within=0), "within must be a positive number"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(mt.InvalidComparison) as error:
        make()

    assert message in str(error.value)


def test_a_missing_library_is_an_error_at_once_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rapidfuzz"):
            raise ModuleNotFoundError("no rapidfuzz", name="rapidfuzz")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(mt.MltriggerError, match=r"rapidfuzz: .*'\.\[compare\]'"):
        mt.agree.similar()
    with pytest.raises(mt.MltriggerError, match="rapidfuzz"):
        judge(['"a"'], ['"b"'], lambda one, other: mt.agree.character_error_rate(one, other) < 0.1)
