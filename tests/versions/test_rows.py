"""Events of a lot, read straight into columns: each answer is that of its event alone, read the
plain way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slow import examples

import mltrigger as mt
from mltrigger.delivery.sizing import LotSize
from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.event.batch import Batch
from mltrigger.event.event import Event
from mltrigger.event.making import restored
from mltrigger.policy import DeliveryPolicy
from mltrigger.versions.running.invoke import Result, encoded, encoded_together
from mltrigger.versions.running.predictors.rows import block
from mltrigger.versions.running.predictors.tables import Frames
from mltrigger.versions.running.thread import Invoker

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NAMES = ("age", "größe", "a b")
FLOATS = [dict.fromkeys(NAMES, number + 0.5) for number in range(3)]


class Seen:
    """Answers with what it saw: columns, dtypes, and the values of each row with their types."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict(self, given: Any) -> list[str]:
        self.calls.append(len(given))
        if not isinstance(given, pd.DataFrame):
            return [repr(each) for each in given]
        kinds = f"{list(given.columns)} {list(map(str, given.dtypes))}"
        columns = [given[name].tolist() for name in given]
        return [f"{kinds} {row!r}" for row in zip(*columns, strict=True)]


def seeing(names: Sequence[str] = NAMES) -> Invoker:
    return Invoker(mt.model(Seen(), name="seen", version="1.0.0", columns=list(names)))


def calls(invoker: Invoker) -> list[int]:
    found: list[int] = invoker.model.target.calls
    return found


def delivered(raw: str, media_type: str | None = None) -> Event:
    """Return an event as a store delivers it."""
    return restored(raw.encode(), "row", "/here", "1", NOON, None, media_type, None, {})


def kept(result: Result) -> tuple[Any, ...]:
    """Return an answer, or why there is none."""
    return result.output, result.reason, result.error


# -- the plain way and the straight way ------------------------------------------------------------

NUMBER = st.sampled_from(
    [
        "0",
        "-0",
        "-0.0",
        "1",
        "1.0",
        "1e5",
        "1E-7",
        "0.1",
        "123456789.123456789",
        "1e23",
        "5e-324",
        "1.7976931348623157e308",
        "99",
        "true",
        "false",
        "null",
    ]
    + [str(2**n + d) for n in (31, 53, 63, 64, 70) for d in (-1, 0, 1)]
    + [str(-(2**63)), str(-(2**63) - 1), "1" * 400]
)
TEXT = st.sampled_from(
    [
        '""',
        '"2026-01-01T00:00:00Z"',
        '"12:30"',
        '"NaN"',
        '"1"',
        '"Zürich"',
        '"\\u00fc\\ud83d\\ude00"',
    ]
) | st.text(max_size=4).map(json.dumps)
ODD = st.sampled_from(
    [
        *("[]", "{}", "[1, [2.5]]", '{"a": 1}', "NaN", "Infinity", "1e400", "-1e400"),
        *('{"$numberDouble": "NaN"}', '{"$numberDecimal": "1.10"}', '{"$numberDouble": 1}'),
    ]
)
KEY = st.sampled_from(
    [*map(json.dumps, NAMES), '"age"', '"gr\\u00f6\\u00dfe"', '"note"', '"$binary"', '"Age"']
)
FULL = st.tuples(*[NUMBER | TEXT] * len(NAMES)).map(
    lambda values: list(zip(map(json.dumps, NAMES), values, strict=True))
)
PAIRS = FULL | st.lists(st.tuples(KEY, NUMBER | TEXT | ODD), max_size=6)


def record(parts: tuple[list[tuple[str, str]], list[tuple[str, str]], Any]) -> str:
    """Return a record in JSON: its pairs in any order, some of them twice."""
    pairs = parts[0] + parts[1]
    return (
        "{" + ", ".join(f"{key}:{value}" for key, value in parts[2].sample(pairs, len(pairs))) + "}"
    )


EXTRA = st.lists(st.tuples(KEY, NUMBER | TEXT | ODD), max_size=2)
RECORD = st.tuples(PAIRS, EXTRA, st.randoms(use_true_random=False)).map(record)


def is_kept(raw: str) -> bool:
    """Whether a store takes *raw*: it refuses a bare NaN, and a number that no float holds."""
    try:
        codec.loads(raw)
    except InvalidEvent:
        return False
    return True


RAW = (RECORD | NUMBER | TEXT | ODD).filter(is_kept)
TYPE = st.sampled_from([None, None, None, "application/json", "application/x+json", "text/plain"])


@given(st.lists(st.tuples(RAW, TYPE), min_size=1, max_size=20))
@settings(max_examples=examples(100), suppress_health_check=list(HealthCheck))
def test_an_answer_is_that_of_the_event_alone_read_the_plain_way(
    lot: list[tuple[str, str | None]],
) -> None:
    invoker = seeing()
    alone = [kept(invoker.one(plainly_read(raw, media_type))) for raw, media_type in lot]

    together = invoker.many([delivered(raw, media_type) for raw, media_type in lot])

    assert [kept(result) for result in together] == alone


def plainly_read(raw: str, media_type: str | None) -> Event:
    if media_type == "text/plain":
        return Event(raw.encode(), datacontenttype=media_type)
    return Event(codec.loads_own(raw.encode()))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 300])
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 64, 65])
def test_floats_are_one_call_of_any_shape(count: int, width: int) -> None:
    names = [f"c{number}" for number in range(width)]
    rows = np.random.default_rng(0).normal(size=(count, width)).tolist()
    invoker = seeing(names)

    results = invoker.many(
        [
            delivered(json.dumps(dict(zip(reversed(names), reversed(row), strict=True))))
            for row in rows
        ]
    )

    kinds = f"{names} {['float64'] * width}"
    assert [codec.loads(r.output or "") for r in results] == [f"{kinds} {tuple(r)!r}" for r in rows]
    assert calls(invoker) == [count]


@pytest.mark.parametrize(
    "values",
    [
        [(1.0, 2)],
        [(1.0,), (None,)],
        [(1.0,), (2**70,)],
        [(2**70,), (1.0,)],
        [(1.0,), (2**40,)],
        [(1.0,), ("8 letter",)],
    ],
)
def test_rows_with_other_values_than_floats_are_no_block(values: list[tuple[Any, ...]]) -> None:
    assert block(values) is None


@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_a_block_has_every_bit_of_the_floats(count: int, width: int, data: st.DataObject) -> None:
    row = st.tuples(*[st.floats()] * width)
    rows = data.draw(st.lists(row, min_size=count, max_size=count))

    made = block(rows)

    assert made.tobytes() == np.array(rows, float).tobytes()
    assert made.flags.f_contiguous


def test_events_that_are_read_in_either_way_share_a_call() -> None:
    invoker = seeing()
    lot = [
        delivered(json.dumps(FLOATS[0])),
        Event(FLOATS[1]),
        delivered("[1]"),
        delivered(json.dumps({**FLOATS[2], "note": [1]})),
    ]

    answers = [kept(result) for result in invoker.many(lot)]

    assert calls(invoker) == [3, 1]
    assert answers == [kept(invoker.one(event)) for event in lot]


def test_a_row_that_is_read_later_than_its_neighbours_gets_its_own_answer() -> None:
    invoker = seeing()
    tagged = json.dumps({**FLOATS[1], "age": {"$numberDouble": "NaN"}})
    raws = [json.dumps(FLOATS[0]), tagged, json.dumps(FLOATS[2])]
    events = [delivered(raw) for raw in raws]
    texts = [raw.encode() for raw in raws]

    alone = [kept(invoker.one(event)) for event in events]

    for lot in (events, Batch(texts, events.__getitem__)):
        assert [kept(result) for result in invoker.many(lot)] == alone
    assert calls(invoker)[3:] == [3, 3]


def test_a_row_that_fails_is_found_and_gets_its_data_as_they_were_delivered() -> None:
    class Picky(Seen):
        def predict(self, given: Any) -> list[str]:
            if (given["age"] < 0).any():
                given["age"] = 7.0
                raise ValueError("negative")
            return super().predict(given)

    invoker = Invoker(mt.model(Picky(), name="picky", version="1.0.0", columns=list(NAMES)))
    rows = [*FLOATS, {**FLOATS[0], "age": -1.5}, *FLOATS]

    results = invoker.many([delivered(json.dumps(row)) for row in rows])

    alone = [kept(invoker.one(Event(row))) for row in rows]
    assert [kept(result) for result in results] == alone
    assert [result.reason for result in results] == [None] * 3 + ["model_error"] + [None] * 3


def test_events_of_ever_other_shapes_are_not_all_remembered() -> None:
    names = [f"c{place}" for place in range(16)]
    feed = seeing(names)._feed
    assert isinstance(feed, Frames)

    for number in range(2**15):
        feed.part({name: 0.5 if number >> place & 1 else None for place, name in enumerate(names)})

    assert sum(len(plan.shapes) for plan in feed._plans.values()) <= 10_000
    assert len(feed._shapes) <= 10_000


def test_a_column_with_the_name_of_a_tag_is_read_as_ever() -> None:
    invoker = seeing(["$numberDouble"])
    raw = '{"$numberDouble": "NaN"}'

    assert kept(invoker.many([delivered(raw)])[0]) == kept(invoker.one(plainly_read(raw, None)))


# -- answers that are encoded together --------------------------------------------------------------

LEAVES = st.sampled_from(
    [0.5, float("nan"), 2**70, None, "},{", "],[", 'a"b', {}, [], {"a": [1]}, [[]]]
)
ANSWERS: st.SearchStrategy[list[Any]] = (
    st.lists(st.floats())
    | st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none())
    | st.lists(st.integers())
    | st.lists(st.booleans())
    | st.lists(st.none())
    | st.lists(st.text(st.characters(exclude_categories=[])))
    | st.lists(st.dictionaries(st.text(), LEAVES))
    | st.lists(st.lists(LEAVES))
    | st.lists(st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, "1", "", None, 2**70, [], {}]))
)


@given(ANSWERS)
@settings(max_examples=examples(100))
@example([0.1, float("nan"), 1e-7, float("inf"), 1e16])
def test_answers_encoded_together_are_those_encoded_one_by_one(answers: list[Any]) -> None:
    together = encoded_together(answers)

    assert together is None or list(together) == [encoded(answer) for answer in answers]


@pytest.mark.parametrize(
    "answers",
    [
        [{"a": 0.5, "b": None}, {}],
        [[1, 2], []],
        ["a", "b", "a"],
        [1, 2, 1],
        [True, False],
        [None, None],
        [0.0, -0.0, 1e16, 1e-7],
        [0.5, None],
    ],
)
def test_answers_of_most_models_are_encoded_together(answers: list[Any]) -> None:
    together = encoded_together(answers)

    assert together is not None
    assert list(together) == [encoded(answer) for answer in answers]


# -- how many at a time ----------------------------------------------------------------------------


@functools.cache
def caller(kind: str) -> Invoker:
    if kind == "frames":
        return seeing()
    return Invoker(mt.model(lambda rows: rows, name="rows", version="1.0.0", batch=True))


def size(kind: str, mean_s: float | None, **policy: Any) -> int:
    """Return how many events a lot may have after calls that took *mean_s* an event."""
    lots = LotSize(DeliveryPolicy(**policy))
    if mean_s is not None:
        lots.learn(mean_s)
    return lots.of(caller(kind))


@pytest.mark.parametrize(
    ("kind", "mean_s", "policy", "most"),
    [
        ("frames", None, {}, 32),
        ("frames", 0.00001, {}, 2048),
        ("frames", 0.001, {}, 250),
        ("frames", 0.001, {"batch_budget_s": 0.5}, 500),
        ("frames", 0.001, {"timeout_s": 0.4}, 100),
        ("frames", 0.1, {}, 32),
        ("frames", 10.0, {}, 1),
        ("frames", 0.00001, {"batch_window_s": 1.0}, 32),
        ("frames", 0.00001, {"batch_size": 64}, 64),
        ("lists", 0.00001, {}, 32),
    ],
)
def test_models_that_take_frames_get_as_many_rows_as_the_budget_allows(
    kind: str, mean_s: float | None, policy: dict[str, Any], most: int
) -> None:
    assert size(kind, mean_s, **policy) == most


def test_large_lots_reach_a_model_that_takes_frames() -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "rows",
            mt.model(Seen(), name="seen", version="1.0.0", columns=list(NAMES)),
            batch_budget_s=60,
            timeout_s=300,
            listen=False,
        )
        bus.publish_batch("rows", FLOATS * 1000)
        sub.start()
        assert bus.wait(timeout_s=60, progress=False)

        done = sub.invocations()
    assert set(done["outcome"].astype(str)) == {"succeeded"}
    assert done["batch_size"].max() > 32
