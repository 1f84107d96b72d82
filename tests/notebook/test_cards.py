"""Frames as cards of a notebook; below them they are plain frames of pandas."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mltrigger as mt
from mltrigger.notebook import cards

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&"


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


@pytest.fixture
def sub(bus: mt.EventBus) -> mt.Subscription:
    """A subscription with answers, a dead letter, and harm in every text."""

    def ocr(page: dict[str, Any]) -> dict[str, Any]:
        if page["n"] == 3:
            raise ValueError(HOSTILE)
        return {"text": HOSTILE + "x" * 200, "pages": page["n"] * 1000, HOSTILE: 1}

    sub = bus.subscribe(
        "documents", mt.model(ocr, name="ocr", version="1.0.0"), max_attempts=1, emit="texts"
    )
    pages = [mt.Event({"n": n}, subject=f"page-{n} {HOSTILE}") for n in range(6)]
    bus.fire("documents", pages, progress=False)
    return sub


def framed(sub: mt.Subscription) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return each frame that has a card, with its kind."""
    bus: Any = sub.__mltrigger_bus__()
    run = bus.fire("documents", [{"n": 1}], progress=False)
    return {
        "sub.results": ("results", sub.results()),
        "run.results": ("results", run.results()),
        "dry_run": ("results", sub.dry_run()),
        "invocations": ("invocations", sub.invocations()),
        "few invocations": ("invocations", sub.invocations(limit=2)),
        "latency": ("latency", sub.latency()),
        "topics": ("topics", bus.topics()),
        "subscriptions": ("subscriptions", bus.subscriptions()),
        "models": ("models", bus.models()),
        "events": ("events", bus.events()),
        "trace": ("trace", bus.trace(run.receipts[0])),
        "audit": ("audit", bus.audit()),
        "history": ("history", sub.history().frame()),
    }


def page_of(table: Any) -> str:
    return str(table._repr_html_())


def test_every_kind_of_card_belongs_to_a_frame(sub: mt.Subscription) -> None:
    assert {kind for kind, _ in framed(sub).values()} == set(cards.CARDS)


def test_a_card_is_well_formed_and_escapes_every_text(sub: mt.Subscription) -> None:
    for kind, table in framed(sub).values():
        page = page_of(table)
        ET.fromstring(page)
        assert page == cards.html(table, kind)
        assert "<script" not in page
        assert not {"\x1b", "\u202e"} & set(page)


def test_the_frame_below_is_a_plain_one(sub: mt.Subscription) -> None:
    tables = {name: table for name, (_, table) in framed(sub).items() if name != "history"}

    for name, table in tables.items():
        assert type(table) is pd.DataFrame, name
        assert table.attrs == {}
        assert_frame_equal(pd.DataFrame(table), table)


PARTS: list[Any] = [
    lambda table: table.head(2),
    lambda table: table[table.columns[:3]],
    lambda table: table.iloc[1:],
    lambda table: table[table[table.columns[0]].notna()],
    lambda table: table.copy(),
    copy.copy,
    copy.deepcopy,
    lambda table: pickle.loads(pickle.dumps(table)),
    lambda table: table.assign(more=1),
    lambda table: table.merge(table, on=table.columns[0]),
    lambda table: pd.concat([table, table]),
    lambda table: pd.concat([table, pd.DataFrame({"other": [1]})]),
    lambda table: table.sort_values(table.columns[0]),
    lambda table: table.reset_index(),
    lambda table: table.set_index(table.columns[0]),
    lambda table: table.groupby(table.columns[0], observed=True).first(),
    lambda table: table.groupby(table.columns[0], observed=True).get_group(table.iloc[0, 0]),
    lambda table: table.query(f"{table.columns[0]} == {table.columns[0]}"),
    lambda table: table.isna(),
    lambda table: table.T,
    lambda table: table.loc[:, :].apply(lambda column: column),
]


@pytest.mark.parametrize("part", PARTS)
def test_parts_and_copies_are_plain_frames_without_a_card(sub: mt.Subscription, part: Any) -> None:
    bus: Any = sub.__mltrigger_bus__()
    receipt = bus.events()["event_id"][0]
    for table in (
        sub.results(),
        sub.dead_letters(),
        sub.history().frame(),
        bus.explain(receipt, "ocr"),
        bus.doctor(),
    ):
        if not len(table):
            continue
        made = part(table)

        assert type(made) is pd.DataFrame
        assert 'class="dataframe"' in page_of(made)
        assert "_repr_html_" not in vars(made)


@pytest.mark.needs("pyarrow")
def test_file_of_a_frame_with_a_class_of_its_own_has_a_plain_frame(sub: mt.Subscription) -> None:
    for table in (sub.dead_letters(), sub.history().frame()):
        for name in ("parquet", "feather"):
            file = io.BytesIO()
            getattr(table, f"to_{name}")(file)
            made = getattr(pd, f"read_{name}")(file)
            assert type(made) is pd.DataFrame
            assert list(made.columns) == list(table.columns)
            assert b"mltrigger.reports" not in file.getvalue()


def test_a_pickle_of_a_frame_needs_no_mltrigger(sub: mt.Subscription) -> None:
    for table in (sub.dead_letters(), sub.history().frame()):
        assert b"mltrigger.reports" not in pickle.dumps(table)
        assert_frame_equal(pickle.loads(pickle.dumps(table)), pd.DataFrame(table))
        assert type(table) is not pd.DataFrame


def test_a_frame_is_freed_at_once(sub: mt.Subscription) -> None:
    """A card that kept its frame would keep a million rows until the collector comes."""
    table = sub.invocations()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(table)
        del table
        assert gone() is None
    finally:
        gc.enable()


def test_columns_that_were_renamed_in_place_leave_the_card(sub: mt.Subscription) -> None:
    table = sub.results()
    table.columns = pd.Index([f"c{n}" for n in range(len(table.columns))])

    assert 'class="dataframe"' in page_of(table)


def test_a_notebook_without_html_gets_none(sub: mt.Subscription) -> None:
    with pd.option_context("display.notebook_repr_html", False):
        assert sub.results()._repr_html_() is None


def test_results_show_outcomes_outputs_and_errors_and_the_rest_by_click(
    sub: mt.Subscription,
) -> None:
    page, _, rest = page_of(sub.results()).partition("<details")

    assert "6 results" in page
    assert "5 succeeded, 1 dead" in page
    for head in ("subject", "version", "outcome", "error", "text", "pages"):
        assert f">{head}<" in page
    assert "event_id" not in page and "event_id" in rest
    assert 'text-align:right;white-space:nowrap">5,000<' in page


def test_numbers_are_whole_and_on_the_right(sub: mt.Subscription) -> None:
    page = page_of(sub.latency())

    cells = re.findall(r'text-align:right;white-space:nowrap">([^<]*)<', page)
    assert len(cells) == 3 * 5
    assert all(re.fullmatch(r"[\d,]+|[\d,]+\.\d\d ms", text) for text in cells)
    assert page.count("<svg") == 3


def test_a_long_frame_shows_the_newest_and_says_how_many_there_are(bus: mt.EventBus) -> None:
    bus.topic("pages")
    bus.publish_batch("pages", range(1000))

    page = page_of(bus.events("pages"))

    assert "1,000 events, the newest 12 of them" in page
    assert page.partition("<details")[0].count("<tr>") == 13
    assert ">999<" in page and ">987<" not in page


def test_an_empty_frame_says_so(bus: mt.EventBus) -> None:
    assert "0 events" in page_of(bus.events())
    assert "0 topics" in page_of(bus.topics())


def test_the_same_frame_gives_the_same_card(sub: mt.Subscription) -> None:
    assert page_of(sub.results()) == page_of(sub.results())


def test_a_missing_value_is_an_empty_cell(bus: mt.EventBus) -> None:
    bus.topic("pages")
    trace = bus.trace(bus.publish("pages", 1))

    page = page_of(trace)
    assert "nan" not in page.lower()
    assert "<na>" not in page.lower()


def test_an_output_with_the_name_of_a_time_may_be_anything(bus: mt.EventBus) -> None:
    given = [{"took_ms": "fast"}, {"took_ms": {"a": 1}}, {"took_ms": 3.5}, {"took_ms": None}]
    sub = bus.subscribe("timed", mt.model(lambda page: page, name="timed", version="1.0.0"))
    sub.fire(given, progress=False)

    page = page_of(sub.results())

    assert ">fast<" in page and ">3.50 ms<" in page


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (12_345_678.0, "12,345,678"),
        (1_234_567.891, "1,234,567.89"),
        (0.1234567, "0.123457"),
        (2.5, "2.5"),
        (1e300, "1e+300"),
    ],
)
def test_a_large_number_keeps_its_digits(bus: mt.EventBus, number: float, said: str) -> None:
    sub = bus.subscribe("sums", mt.model(lambda page: page, name="sums", version="1.0.0"))
    sub.fire([{"total": number}, {"total": 0.5}], progress=False)

    assert f">{said}<" in page_of(sub.results())


def test_a_frame_that_was_changed_in_place_still_has_a_picture(sub: mt.Subscription) -> None:
    table = sub.invocations()
    table[0] = 1
    table["total_ms"] = "soon"
    table["settled_at"] = table["settled_at"].dt.tz_convert("Asia/Tokyo")
    at = table["settled_at"].iloc[-1].tz_convert("UTC")

    page = page_of(table)

    assert "6 attempts" in page and ">soon<" in page
    assert f"{at:%H:%M:%S} UTC" in page


def test_a_value_that_cannot_be_compared_leaves_a_plain_table(sub: mt.Subscription) -> None:
    class Never:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]

    table = sub.invocations()
    table["error"] = [Never()] * len(table)

    assert 'class="dataframe"' in page_of(table)


def test_dead_letters_that_were_changed_still_have_a_card(sub: mt.Subscription) -> None:
    letters = sub.dead_letters()
    at = letters["dead_at"].iloc[0]
    letters["dead_at"] = letters["dead_at"].dt.tz_convert("Asia/Tokyo")
    letters["data"] = [[1, 2]] * len(letters)

    page = page_of(letters)
    assert "1 dead letter" in page and "[1, 2]" in page
    assert f"{at:%H:%M:%S} UTC" in page

    letters["dead_at"], letters["attempts"] = "then", "some"
    assert "then" in page_of(letters) and "some" in page_of(letters)
