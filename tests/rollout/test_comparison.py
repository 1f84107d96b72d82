"""Two frames of attempts become pairs, a verdict and frames. No row is dropped silently."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from attempt_frames import attempts, labels

import mltrigger as mt
from mltrigger.rollout.comparison import FRAME, Comparison, compare_frames
from mltrigger.rollout.comparison_page import LATENCY, SLICES

NEW = "1.1.0"


def page(n: int) -> dict[str, Any]:
    return {"text": f"page {n}", "score": n / 7}


PAGES = [page(n) for n in range(500)]


def flipped(*places: int) -> list[Any]:
    return [{"text": "?", "score": 0} if n in places else page(n) for n in range(500)]


def states(c: Comparison) -> dict[str, str]:
    table = c.frame()
    return dict(zip(table["event_id"], table["state"], strict=True))


# -- verdicts --------------------------------------------------------------------------------------


def test_equal_answers_ship() -> None:
    c = compare_frames(attempts(PAGES), attempts(PAGES, NEW))

    assert c.verdict.word == "SHIP"
    assert c.versions == ("ocr:1.0.0", "ocr:1.1.0")
    assert c.counts["pairs"] == c.counts["same"] == 500


def test_slower_version_ships_where_no_speed_is_asked_for() -> None:
    old, slow = attempts(PAGES), attempts(PAGES, NEW)
    slow["model_ms"] = old["model_ms"].max() + 1.0

    assert compare_frames(old, slow).verdict.word == "WORSE"
    c = compare_frames(old, slow, slow_at_most=None)
    assert c.verdict.word == "SHIP"
    assert "latency" not in [rule.name for rule in c.verdict.rules]


def test_495_equal_answers_of_500_do_not_ship_at_099() -> None:
    c = compare_frames(attempts(PAGES), attempts(flipped(1, 2, 3, 4, 5), NEW))

    assert c.verdict.word == "NOT YET"
    assert "at least 0.9791 shown, 0.99 wanted" in str(c.verdict)


def test_too_many_other_answers_hold() -> None:
    c = compare_frames(attempts(PAGES), attempts(flipped(*range(50)), NEW))

    assert c.verdict.word == "HOLD"


def test_no_agreement_may_be_asked_for() -> None:
    c = compare_frames(attempts(PAGES), attempts(flipped(*range(50)), NEW), agree_at_least=None)

    assert c.verdict.word == "SHIP"
    assert c.counts["flip"] == 50


def test_a_version_that_fails_more_often_is_worse() -> None:
    outcomes = ["dead" if n % 20 == 0 else "succeeded" for n in range(500)]
    c = compare_frames(attempts(PAGES), attempts(PAGES, NEW, outcomes=outcomes))

    assert c.verdict.word == "WORSE"
    assert c.counts["new_failed"] == 25


def test_a_version_that_is_right_less_often_is_worse() -> None:
    c = compare_frames(
        attempts(PAGES),
        attempts(flipped(*range(50)), NEW),
        labels=labels(PAGES),
        agree_at_least=None,
    )

    assert c.verdict.word == "WORSE"
    assert "50 newly wrong, 0 no longer, of 500 pairs" in str(c.verdict)


def test_a_better_version_ships_although_it_answers_otherwise() -> None:
    c = compare_frames(
        attempts(flipped(*range(50))),
        attempts(PAGES, NEW),
        labels=labels(PAGES),
        agree_at_least=None,
    )

    assert c.verdict.word == "SHIP"


def test_a_slower_version_is_worse() -> None:
    c = compare_frames(
        attempts(PAGES, ms=[10.0 + n % 20 for n in range(500)]),
        attempts(PAGES, NEW, ms=[20.0 + n % 20 for n in range(500)]),
    )

    assert c.verdict.word == "WORSE"
    assert "(50.0%) slower than 29.00 ms" in str(c.verdict)


def test_a_harm_in_one_slice_is_found_and_named() -> None:
    kinds = ["invoice" if n < 100 else "letter" for n in range(500)]
    outcomes = ["dead" if n < 100 and n % 5 == 0 else "succeeded" for n in range(500)]
    old = ["dead" if n >= 100 and n % 20 == 0 else "succeeded" for n in range(500)]
    c = compare_frames(
        attempts(PAGES, outcomes=old, type=kinds),
        attempts(PAGES, NEW, outcomes=outcomes, type=kinds),
        by="type",
    )

    assert c.verdict.word == "WORSE"
    assert [rule.name for rule in c.verdict.rules if rule.passed is False] == ["errors in invoice"]


def test_noise_explains_the_flips_of_a_random_model() -> None:
    rng = np.random.default_rng(1)
    old, new, again = (rng.choice(2, 2000, p=[0.8, 0.2]).tolist() for _ in range(3))

    c = compare_frames(attempts(old), attempts(new, NEW), noise=attempts(again[:1000]))

    assert compare_frames(attempts(old), attempts(new, NEW)).verdict.word == "HOLD"
    assert c.verdict.word == "NOT YET"
    assert "no difference beyond it" in str(c.verdict)
    assert c.counts["noise"] == 1000


def test_at_repeated_looks_the_verdict_says_so() -> None:
    c = compare_frames(attempts(PAGES), attempts(PAGES, NEW), repeated=True)

    assert "95% confidence at every look" in str(c)
    assert c.verdict.repeated


# -- pairs -----------------------------------------------------------------------------------------


def test_rows_without_a_partner_are_counted_and_shown() -> None:
    c = compare_frames(attempts(PAGES[:10]), attempts(PAGES[4:12], NEW, first=4))

    assert (c.counts["pairs"], c.counts["missing_new"], c.counts["missing_old"]) == (6, 4, 2)
    assert "4 missing in new, 2 missing in old" in repr(c)
    assert c.missing()["event_id"].tolist() == ["e0", "e1", "e2", "e3", "e10", "e11"]
    assert c.missing()["new_output"].tolist()[-1] == json.dumps(page(11))
    assert len(c.frame()) == 12


def test_every_pair_has_one_state() -> None:
    ok, dead, failed = "succeeded", "dead", "failed"
    old = [ok, ok, ok, dead, dead, ok, "skipped", ok]
    new = [ok, ok, dead, ok, failed, "running", ok, "abandoned"]
    c = compare_frames(
        attempts([0, 1, 2, 3, 4, 5, 6, 7], outcomes=old),
        attempts([0, 9, 2, 3, 4, 5, 6, 7], NEW, outcomes=new),
    )

    assert list(states(c).values()) == [
        "same",
        "flip",
        "new_failed",
        "old_failed",
        "both_failed",
        *["unfinished"] * 3,
    ]
    assert c.flips()["event_id"].tolist() == ["e1", "e2", "e3"]
    assert sum(c.counts[state] for state in FRAME["state"].categories) == 8


def test_a_pair_that_is_not_comparable_is_kept_with_its_error_and_counts_as_a_flip() -> None:
    c = compare_frames(
        attempts([{"label": 1}, {"label": 2}, {}]),
        attempts([{"label": 1}, {"label": 2}, {"label": 3}], NEW),
        agree=mt.agree.field("label"),
    )

    row = c.flips().iloc[0]
    assert (row["event_id"], row["state"]) == ("e2", "not_comparable")
    assert row["error"] == "LookupError: the output has no 'label'"
    assert math.isnan(row["agreement"])
    assert "agree on 2 of 3 pairs" in str(c.verdict)
    assert "1 not comparable" in repr(c)


def test_the_final_attempt_of_an_event_counts() -> None:
    old = pd.concat(
        [
            attempts([0, 0, 0], outcomes=["failed"] * 3),
            attempts([1, 1, 1], outcomes=["succeeded", "failed", "succeeded"]).assign(attempt=2),
            attempts([2, 2], outcomes=["stale", "failed"]).assign(attempt=3),
        ],
        ignore_index=True,
    )
    c = compare_frames(old, attempts([1, 1, 1], NEW))

    assert list(states(c).values()) == ["same", "old_failed", "same"]


def test_a_repeat_that_was_skipped_does_not_hide_the_answer() -> None:
    repeat = attempts([1], outcomes=["skipped"]).assign(attempt=2)
    c = compare_frames(pd.concat([attempts([1]), repeat]), attempts([1], NEW))

    assert c.frame()["state"].tolist() == ["same"]


def test_events_of_two_sources_with_the_same_id_are_two_events() -> None:
    two = {"source": ["a", "b"], "event_id": ["e1", "e1"]}
    c = compare_frames(attempts([1, 2], **two), attempts([1, 3], NEW, **two))

    assert c.frame()["state"].tolist() == ["same", "flip"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (attempts(PAGES[:3]), attempts(PAGES[:4], NEW, first=100)),
        (attempts([]), attempts(PAGES[:4], NEW)),
        (attempts(PAGES[:4]), attempts([], NEW)),
        (attempts([]), attempts([])),
    ],
)
def test_versions_without_a_common_event_are_an_error(old: Any, new: Any) -> None:
    with pytest.raises(
        mt.NothingToCompare, match="no event was answered by both versions"
    ) as error:
        compare_frames(old, new)

    assert f"{len(old)} by" in str(error.value)
    assert f"{len(new)} by" in str(error.value)


def test_a_frame_of_two_versions_is_an_error() -> None:
    mixed = pd.concat([attempts([1]), attempts([2], NEW, first=1)])

    with pytest.raises(mt.InvalidComparison, match=r"2 versions: ocr:1\.0\.0, ocr:1\.1\.0"):
        compare_frames(mixed, attempts([1], NEW))


def test_noise_of_another_version_is_an_error() -> None:
    with pytest.raises(mt.InvalidComparison, match=r"ocr:1\.0\.0 expected, got ocr:1\.1\.0"):
        compare_frames(attempts([1]), attempts([1], NEW), noise=attempts([1], NEW))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "tpye"}, "no column 'tpye'; did you mean 'type'"),
        (
            {"measures": {"confidense": "higher"}},
            "no measure 'confidense'; did you mean 'confidence'",
        ),
        ({"measures": {"cer": mt.agree.measure("lower", of=max)}}, "'cer' needs labels"),
        ({"measures": {"confidence": "up"}}, '"higher" or "lower"; got \'up\''),
        ({"labels": pd.DataFrame({"event": []})}, "no column 'event_id'"),
        ({"agree": "text"}, "a function of two outputs, got 'text'"),
        ({"confidence": 2}, "confidence must be a share"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(settings: Any, message: str) -> None:
    reported = {"measures": [{"confidence": 0.5}]}

    with pytest.raises(mt.MltriggerError) as error:
        compare_frames(attempts([1], **reported), attempts([1], NEW, **reported), **settings)

    assert message in str(error.value)


def test_a_frame_of_something_else_is_an_error() -> None:
    with pytest.raises(mt.NotFound, match="no column 'source'"):
        compare_frames(attempts([1]).drop(columns="source"), attempts([1], NEW))


# -- slices, measures, labels ----------------------------------------------------------------------


def test_slices_are_a_column_or_a_function_of_a_row() -> None:
    def parity(row: Mapping[str, Any]) -> str | None:
        n = int(row["event_id"][1:])
        return {0: "even", 1: "odd", 2: None}[n % 3]

    c = compare_frames(attempts(PAGES[:9]), attempts(flipped(1)[:9], NEW), by=parity)

    found = c.slices()
    assert found["slice"].tolist() == ["even", "odd", "(none)"]
    assert found["flips"].tolist() == [0, 1, 0]
    assert found["pairs"].tolist() == [3, 3, 3]
    assert "slice odd: 1 flips of 3 pairs" in repr(c)


def test_very_many_slices_are_all_shown_and_the_largest_are_tested() -> None:
    kinds = [str(n) if n < 300 else "rest" for n in range(500)]
    c = compare_frames(
        attempts(PAGES, type=kinds), attempts(flipped(7), NEW, type=kinds), by="type"
    )

    assert len(c.slices()) == 301
    assert c.slices()["slice"].tolist()[:2] == ["rest", "0"]
    assert c.slices()["pairs"].sum() == 500
    assert c.counts["slices_not_tested"] == 201
    assert "201 slices not tested" in repr(c)
    assert "and 291 more: .slices()" in repr(c)


def test_a_function_of_slices_that_fails_makes_a_slice_of_its_error() -> None:
    c = compare_frames(attempts([1, 2]), attempts([1, 2], NEW), by=lambda row: row["nothing"])

    assert c.slices()["slice"].tolist() == ["(KeyError)"]


def test_events_of_one_side_have_a_slice_too() -> None:
    kinds = ["a", "b", "c"]
    c = compare_frames(
        attempts([1, 2, 3], type=kinds),
        attempts([2, 3, 4], NEW, first=1, type=["b", "c", "d"]),
        by="type",
    )

    found = c.frame()
    assert found["slice"].tolist() == ["b", "c", "a", "d"]


def test_a_measure_missing_on_one_side_is_counted() -> None:
    rng = np.random.default_rng(1)
    old = [{"confidence": float(x)} for x in rng.random(100)]
    new = [{"confidence": each["confidence"] - 0.1} for each in old]
    new[0], new[1], old[2], old[3] = {"confidence": math.nan}, None, {}, {"confidence": "high"}
    new[4] = json.dumps(new[4])
    c = compare_frames(
        attempts([1] * 100, measures=old),
        attempts([1] * 100, NEW, measures=new),
        measures={"confidence": "higher"},
    )

    assert c.counts["confidence_missing_new"] == c.counts["confidence_missing_old"] == 2
    assert "mean -0.1 over 96 pairs" in str(c.verdict)
    assert "2 confidence missing old" in repr(c)
    assert c.verdict.word == "WORSE"
    table = c.frame()
    assert (table["new_confidence"] - table["old_confidence"]).count() == 96


@pytest.mark.needs("rapidfuzz")
def test_a_measure_may_be_against_labels() -> None:
    truths = [f"page {n}" for n in range(100)]
    c = compare_frames(
        attempts([text.replace("page", "pqge") for text in truths]),
        attempts(truths, NEW),
        labels=labels(truths[:60]),
        measures={"cer": mt.agree.measure("lower", of=mt.agree.character_error_rate)},
        agree_at_least=None,
    )

    assert "over 60 pairs" in str(c.verdict)
    assert c.frame()["new_cer"].sum() == 0
    assert c.frame()["old_cer"].mean() == pytest.approx(1 / 7, abs=0.02)


def test_a_measure_that_fails_on_an_event_is_counted_and_kept() -> None:
    c = compare_frames(
        attempts([1, 2, 3]),
        attempts([1, "x", 3], NEW),
        labels=labels([1, 2, 3]),
        measures={"gap": mt.agree.measure("lower", of=lambda truth, output: abs(truth - output))},
    )

    assert c.counts["gap_errors"] == 1
    assert "unsupported operand" in c.frame()["error"].tolist()[1]


def test_labels_come_late_twice_and_for_other_events() -> None:
    truths = pd.concat([labels([9, 2]), labels([1]), labels([7, 7], first=50)], ignore_index=True)
    c = compare_frames(
        attempts([1, 1, 1]), attempts([1, 2, 1], NEW), labels=truths, agree_at_least=None
    )

    assert c.counts["labelled"] == 2
    assert c.counts["labels_without_pair"] == 2
    assert "0 newly wrong, 1 no longer, of 2 pairs" in str(c.verdict)


def test_a_label_for_an_id_of_two_sources_asks_for_the_source() -> None:
    two = {"source": ["a", "b"], "event_id": ["e0", "e0"]}
    old, new = attempts([1, 1], **two), attempts([1, 2], NEW, **two)

    unclear = compare_frames(old, new, labels=labels([2]))
    clear = compare_frames(old, new, labels=labels([2]).assign(source="b"))

    assert (unclear.counts["labelled"], unclear.counts["labels_of_two_sources"]) == (0, 1)
    assert "1 labels of an id with two sources" in repr(unclear)
    assert (clear.counts["labelled"], clear.counts["labels_of_two_sources"]) == (1, 0)
    assert "0 newly wrong, 1 no longer, of 1 pair" in str(clear.verdict)


def test_a_failed_attempt_is_wrong() -> None:
    c = compare_frames(
        attempts([1, 1]),
        attempts([1, 1], NEW, outcomes=["dead", "succeeded"]),
        labels=labels([1, 1]),
    )

    assert "1 newly wrong, 0 no longer, of 2 pairs" in str(c.verdict)


# -- shown -----------------------------------------------------------------------------------------


def dtypes(table: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


def test_frames_have_the_same_columns_and_dtypes_without_rows() -> None:
    empty = compare_frames(attempts([1]), attempts([1], NEW))
    full = compare_frames(attempts([1, 2]), attempts([2, 2], NEW), by="type")

    assert list(empty.flips()) == list(FRAME)
    assert list(empty.slices()) == list(SLICES)
    assert list(empty.latency()) == list(LATENCY)
    for table in ("frame", "flips", "missing", "slices", "latency"):
        assert dtypes(getattr(empty, table)()) == dtypes(getattr(full, table)())


def test_both_latencies_are_shown() -> None:
    c = compare_frames(attempts([1] * 3, ms=[1, 2, 3]), attempts([1] * 3, NEW, ms=[4, 5, 6]))

    assert c.latency()["p50"].tolist() == [2.0, 5.0]
    assert "ocr:1.1.0: p50 5.00 ms" in repr(c)


HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


def test_the_card_and_the_page_escape_outputs_errors_and_slices(tmp_path: Path) -> None:
    def fail(one: Any, other: Any) -> bool:
        raise ValueError(HOSTILE)

    c = compare_frames(
        attempts([HOSTILE, HOSTILE]), attempts([1, 2], NEW), by=lambda row: HOSTILE, agree=fail
    )
    page = c.to_html(tmp_path / "report.html").read_text("utf-8")

    for html in (page, c._repr_html_()):
        assert "<script" not in html
        assert "\x1b" not in html
        assert "\u202e" not in html
        assert "&lt;script&gt;" in html
    assert page.startswith("<!doctype html>")
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "\x1b" not in repr(c)
    assert "NOT YET" in page or "HOLD" in page


def test_a_page_has_the_first_200_flips_and_says_so(tmp_path: Path) -> None:
    c = compare_frames(attempts(PAGES), attempts(flipped(*range(300)), NEW))

    page = c.to_html(tmp_path / "report.html").read_text()

    assert "300 flips, the first 200 of them" in page
    assert "e199" in page
    assert "e200" not in page


@pytest.mark.needs("matplotlib")
def test_a_plot_has_a_line_for_all_pairs_and_each_slice() -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    kinds = ["invoice" if n % 2 else "$letter$" for n in range(500)]
    c = compare_frames(attempts(PAGES, type=kinds), attempts(PAGES, NEW, type=kinds), by="type")

    axes = c.plot()

    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "all pairs",
        "$letter$",
        "invoice",
    ]
    assert axes.get_title(loc="left").startswith("SHIP")
    axes.figure.canvas.draw()
    assert c.plot(axes) is axes
    pyplot.close(axes.figure)


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    c = compare_frames(attempts([1]), attempts([1], NEW))

    with pytest.raises(mt.MltriggerError, match=r"a plot needs matplotlib.*'\.\[plot\]'"):
        c.plot()


def test_attempts_of_a_bus_can_be_compared() -> None:
    """NaN, tagged values and the frames as they are."""

    def old(n: int) -> dict[str, Any]:
        return {"n": n, "ratio": math.nan if n == 2 else n / 3}

    with mt.connect("memory://") as bus:
        first = bus.subscribe("numbers", old, name="first", version="1.0.0")
        second = bus.subscribe(
            "numbers", lambda n: old(n if n else 9), name="second", version="2.0.0"
        )
        bus.fire("numbers", [0, 1, 2], progress=False)
        c = compare_frames(first.invocations(), second.invocations(), agree=0.001)

    assert c.versions == ("old:1.0.0", "second:2.0.0")
    assert c.frame()["state"].tolist() == ["flip", "same", "same"]


def test_twice_as_many_pairs_do_not_take_four_times_as_long() -> None:
    def spent_s(n: int) -> float:
        outputs = [page(i) for i in range(n)]
        old, new = attempts(outputs), attempts(outputs, NEW)
        began_s = time.process_time()
        compare_frames(old, new, by="type", agree=lambda one, other: one == other)
        return time.process_time() - began_s

    spent_s(1_000)

    assert spent_s(40_000) / spent_s(10_000) < 8
