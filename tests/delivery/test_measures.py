"""Figures that models report: kept with each attempt, shown in frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import Gate, in_memory, outcomes, wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock


def measures(sub: mt.Subscription) -> list[Any]:
    return list(sub.invocations(columns=["measures"])["measures"])


def subscribed(bus: mt.EventBus, model: Callable[..., Any], **options: Any) -> mt.Subscription:
    return bus.subscribe("pages", mt.model("read", version="1.0.0")(model), **options)


# -- where they stand ------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_figures_stand_beside_the_attempt_and_in_columns_of_results(
    isolation: Any, bus: mt.EventBus
) -> None:
    def read(page: int) -> dict[str, int]:
        mt.report(confidence=page / 10, lines=page)
        return {"page": page}

    sub = subscribed(bus, read, isolation=isolation)
    run = bus.fire("pages", [1, 2], progress=False)

    assert measures(sub) == [{"confidence": 0.1, "lines": 1.0}, {"confidence": 0.2, "lines": 2.0}]
    for table in (sub.results(), run.results()):
        assert table["page"].tolist() == [1, 2]
        assert table["measures.confidence"].tolist() == [0.1, 0.2]
        assert table["measures.lines"].dtype == "float64"
        shown = [name for name in table if name in ("page", "event_id") or "." in name]
        assert shown == ["page", "measures.confidence", "measures.lines", "event_id"]


def test_coroutines_and_executors_of_threads_report(bus: mt.EventBus) -> None:
    async def read(page: int) -> None:
        mt.report(confidence=page)

    def write(page: int) -> None:
        mt.report(confidence=page)

    with ThreadPoolExecutor(2) as executor:
        one = subscribed(bus, read)
        other = bus.subscribe("pages", write, executor=executor)
        bus.fire("pages", [1, 2, 3], progress=False)
        wait_until(lambda: len(outcomes(other)) == 3)

    for sub in (one, other):
        assert sorted(each["confidence"] for each in measures(sub)) == [1, 2, 3]


def test_failed_attempts_keep_their_figures(bus: mt.EventBus, clock: SimulatedClock) -> None:
    def read(page: int) -> None:
        mt.report(confidence=0.1)
        raise mt.Reject("too blurred")

    sub = subscribed(bus, read)
    bus.fire("pages", [1], progress=False)

    assert outcomes(sub) == ["dead"]
    assert measures(sub) == [{"confidence": 0.1}]
    assert sub.results()["measures.confidence"].tolist() == [0.1]


@in_memory
def test_later_reports_add_and_replace(bus: mt.EventBus) -> None:
    def read(page: int) -> None:
        mt.report(confidence=0.1, lines=3)
        mt.report(confidence=0.2)
        if page == 2:
            mt.report()

    sub = subscribed(bus, read)
    bus.fire("pages", [1, 2], progress=False)

    assert measures(sub) == [{"confidence": 0.2, "lines": 3.0}] * 2


@in_memory
def test_events_without_a_report_have_none(bus: mt.EventBus) -> None:
    def read(page: int) -> int:
        if page == 2:
            mt.report(confidence=0.5)
        return page

    sub = subscribed(bus, read)
    bus.fire("pages", [1, 2, 3], progress=False)

    assert measures(sub) == [None, {"confidence": 0.5}, None]
    found = sub.results()["measures.confidence"].tolist()
    assert [math.isnan(each) for each in found] == [True, False, True]


@in_memory
def test_a_model_that_reports_nothing_has_no_columns_for_it(bus: mt.EventBus) -> None:
    sub = subscribed(bus, lambda page: page)
    bus.fire("pages", [1], progress=False)

    assert not [name for name in sub.results() if name.startswith("measures")]
    assert measures(sub) == [None]


def test_answers_of_a_model_that_reports_nothing_are_recorded_by_column(bus: mt.EventBus) -> None:
    """A detail is a row for each attempt, which plain answers do not have."""
    subscribed(bus, lambda pages: pages, batch=True, batch_size=64)
    bus.fire("pages", list(range(200)), progress=False)

    assert bus._store.read("SELECT count(*) FROM detail") == [(0,)]


@in_memory
def test_output_with_the_name_of_a_figure_is_written_apart(bus: mt.EventBus) -> None:
    def read(page: int) -> dict[str, Any]:
        mt.report(confidence=0.5)
        return {"measures.confidence": "of the output", "measures": 1}

    sub = subscribed(bus, read)
    bus.fire("pages", [1], progress=False)

    row = sub.results().iloc[0]
    assert row["measures.confidence"] == 0.5
    assert row["output_measures.confidence"] == "of the output"
    assert row["measures"] == 1


def test_frame_by_columns_and_by_rows_shows_the_same(bus: mt.EventBus) -> None:
    def read(page: int) -> None:
        if page % 2:
            mt.report(confidence=page, missing=float("nan"))

    sub = subscribed(bus, read)
    bus.fire("pages", list(range(6)), progress=False)

    by_columns, by_rows = sub.invocations(), sub.invocations(limit=6)
    assert str(by_columns["measures"].tolist()) == str(by_rows["measures"].tolist())
    assert str(sub.results().to_dict()) == str(sub.results(limit=6).to_dict())
    assert by_columns["measures"].dtype == by_rows["measures"].dtype == object


@in_memory
def test_dry_run_shows_figures(bus: mt.EventBus) -> None:
    def read(page: int) -> None:
        mt.report(confidence=0.25)
        raise mt.Reject("too blurred")

    sub = subscribed(bus, read)
    bus.fire("pages", [1], progress=False)

    assert sub.dry_run()["measures.confidence"].tolist() == [0.25]


@in_memory
def test_files_take_the_column(bus: mt.EventBus, tmp_path: Path) -> None:
    sub = subscribed(bus, lambda page: mt.report(confidence=0.5))
    bus.fire("pages", [1], progress=False)
    table = sub.invocations()

    assert "confidence" in (mt.to_csv(table) or "")
    mt.to_excel(table, tmp_path / "table.xlsx")


@in_memory
@pytest.mark.needs("pyarrow")
def test_feather_takes_the_column(bus: mt.EventBus, tmp_path: Path) -> None:
    sub = subscribed(bus, lambda page: mt.report(confidence=0.5))
    bus.fire("pages", [1], progress=False)

    mt.to_feather(sub.invocations(), tmp_path / "table.feather")


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["thread", "process"])
@in_memory
def test_batch_reports_a_list(isolation: Any, bus: mt.EventBus) -> None:
    def read(pages: list[int]) -> list[int]:
        mt.report(confidence=np.array(pages) / 2, n=[len(pages)] * len(pages))
        return pages

    sub = subscribed(bus, read, batch=True, batch_size=8, isolation=isolation)
    bus.fire("pages", [1, 2, 3], progress=False)

    assert [each["confidence"] for each in measures(sub)] == [0.5, 1.0, 1.5]


@in_memory
def test_batch_that_is_split_keeps_the_figures_of_each_event(bus: mt.EventBus) -> None:
    def read(pages: list[int]) -> list[int]:
        mt.report(page=pages, size=[len(pages)] * len(pages))
        if 3 in pages:
            raise ValueError("a bad page")
        return pages

    sub = subscribed(bus, read, batch=True, batch_size=8, max_attempts=1)
    run = bus.fire("pages", [1, 2, 3, 4], progress=False)

    assert run.results()["outcome"].tolist() == ["succeeded", "succeeded", "dead", "succeeded"]
    assert [each["page"] for each in measures(sub)] == [1, 2, 3, 4]
    assert [each["size"] for each in measures(sub)] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("value", "got"), [(0.5, "0.5"), ([1.0, 2.0, 3.0], "3 values"), ("ab", "ab"), ({}, "{}")]
)
@in_memory
def test_batch_refuses_anything_but_a_number_for_each_event(
    value: Any, got: str, bus: mt.EventBus
) -> None:
    def read(pages: list[int]) -> list[int]:
        mt.report(confidence=value)
        return pages

    sub = subscribed(bus, read, batch=True, batch_size=8, max_attempts=1)
    bus.fire("pages", [1, 2], progress=False)

    (first, _) = sub.invocations()["error"]
    assert "in a batch of 1 events takes a list of 1 numbers, one each" in first
    assert f"got {got}" in first


# -- limits ----------------------------------------------------------------------------------------


@in_memory
def test_numbers_of_all_kinds_are_figures(bus: mt.EventBus) -> None:
    given = {"a": 1, "b": True, "c": np.float32(0.5), "d": Decimal("0.25"), "e": float("nan")}

    sub = subscribed(bus, lambda _: mt.report(**given))
    bus.fire("pages", [1], progress=False)

    (found,) = measures(sub)
    assert math.isnan(found.pop("e"))
    assert found == {"a": 1.0, "b": 1.0, "c": 0.5, "d": 0.25}


@pytest.mark.parametrize(
    "value", ["0.9", b"1", None, [1.0], {}, math.inf, -math.inf, 10**400, 1j, np.ones(3)]
)
@in_memory
def test_anything_else_is_refused(value: Any, bus: mt.EventBus) -> None:
    def read(_: object) -> None:
        mt.report(good=1.0)
        mt.report(fine=2.0, confidence=value)

    sub = subscribed(bus, read, max_attempts=1)
    bus.fire("pages", [1], progress=False)

    row = sub.invocations().iloc[0]
    assert row["error_type"] == "InvalidReport"
    assert "mt.report(confidence=" in row["error"]
    assert row["measures"] == {"good": 1.0}


@in_memory
def test_twenty_five_figures_are_kept_and_more_are_refused(bus: mt.EventBus) -> None:
    def read(n: int) -> None:
        mt.report(**{f"{i:0100}": i for i in range(min(n, 25))})
        if n > 25:
            mt.report(more=1.0)

    sub = subscribed(bus, read, max_attempts=1)
    bus.fire("pages", [25, 26], progress=False)

    assert outcomes(sub) == ["succeeded", "dead"]
    assert [len(each) for each in measures(sub)] == [25, 25]
    assert "keeps at most 25 figures of an event, these are 26" in sub.invocations()["error"][1]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101])
@in_memory
def test_bad_names_are_refused(name: str, bus: mt.EventBus) -> None:
    sub = subscribed(bus, lambda _: mt.report(**{name: 1.0}), max_attempts=1)
    bus.fire("pages", [1], progress=False)

    assert "the name of a figure has 1 to 100" in sub.invocations()["error"][0]


def test_outside_of_a_call_it_is_refused() -> None:
    with pytest.raises(mt.OutsideCall, match="outside of a model's call"):
        mt.report(confidence=1.0)


@in_memory
def test_report_of_a_call_that_was_given_up_reaches_nobody(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def read(page: int) -> None:
        if page == 1:
            gate.wait()
        mt.report(page=page)

    sub = subscribed(bus, read, timeout_s=5.0, max_attempts=1)
    bus.publish("pages", 1)
    wait_until(gate.reached.is_set)
    clock.advance(s=6)
    wait_until(lambda: outcomes(sub) == ["dead"])
    gate.open()
    bus.fire("pages", [2], progress=False)

    assert measures(sub) == [None, {"page": 2.0}]
