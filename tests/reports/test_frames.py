"""DataFrames: the same columns and dtypes whatever happened, nothing included."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mltrigger as mt
from mltrigger.notebook.charts import quantile
from mltrigger.reports import frames, quantiles
from mltrigger.store.outcomes import OUTCOMES, ROLES

SCHEMAS = {
    name: schema
    for name, schema in vars(frames).items()
    if name.isupper() and isinstance(schema, dict)
}
# fmt: off
DESIGNED = [
    "event_id", "source", "type", "topic", "subscription", "model", "version", "role", "attempt", "outcome", "reason", "published_at",
    "received_at", "started_at", "finished_at", "settled_at", "queue_ms", "model_ms", "total_ms", "batch_size", "worker", "trace_id",
    "output", "error_type", "error", "stdout", "measures",
]
# fmt: on
TIME = pd.DatetimeTZDtype("us", "UTC")


def dtypes(table: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in table.dtypes.items()}


def expected(schema: dict[str, Any]) -> dict[str, str]:
    return {
        name: str(pd.Series(dtype=frames.dtype_of(dtype)).dtype) for name, dtype in schema.items()
    }


def sample(dtype: Any) -> Any:
    """Return a value as the store gives it for a column of *dtype*."""
    if isinstance(dtype, frames.OneOf):
        return dtype.categories[0]
    return {
        "str": "text",
        "Int64": 2**62,
        "float64": 1.5,
        "bool": True,
        "boolean": True,
        "object": b"raw",
        frames.TIME: 1_790_000_000_123_456,
        frames.FIGURES: '{"confidence":0.5}',
    }[dtype]


# -- the schemas -----------------------------------------------------------------------------------


def test_the_invocation_frame_has_the_columns_of_the_design() -> None:
    assert list(frames.INVOCATIONS) == DESIGNED


def test_the_invocation_frame_has_the_dtypes_of_the_design() -> None:
    table = frames.frame([], frames.INVOCATIONS)

    assert {c for c in table if c.endswith("_at")} == {c for c in table if table[c].dtype == TIME}
    assert {c for c in table if c.endswith("_ms")} == {
        c for c in table if table[c].dtype == "float64"
    }
    assert {c for c in table if isinstance(table[c].dtype, pd.CategoricalDtype)} == {
        "role",
        "outcome",
    }
    assert {c for c in table if table[c].dtype == "Int64"} == {"attempt", "batch_size"}
    assert (
        list(table["role"].cat.categories)
        == ["live", "shadow", "canary", "replay", "correction", "direct"]
        == list(ROLES)
    )
    assert set(table["outcome"].cat.categories) >= {*OUTCOMES}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_frame_has_its_columns_and_dtypes_with_and_without_rows(name: str) -> None:
    schema = SCHEMAS[name]
    row = tuple(sample(dtype) for dtype in schema.values())

    for rows in ([], [row], [row] * 3):
        table = frames.frame(iter(rows), schema)
        assert list(table.columns) == list(schema)
        assert dtypes(table) == expected(schema)
        assert len(table) == len(rows)
        assert isinstance(table.index, pd.RangeIndex)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_the_store_does_not_know_is_missing_and_changes_no_dtype(name: str) -> None:
    schema = SCHEMAS[name]
    nothing = tuple(False if dtype == "bool" else None for dtype in schema.values())
    something = tuple(sample(dtype) for dtype in schema.values())

    for rows in ([nothing], [nothing, something], [something, nothing]):
        table = frames.frame(rows, schema)
        assert dtypes(table) == expected(schema)
        missing = table.iloc[rows.index(nothing)].drop(
            [c for c, dtype in schema.items() if dtype == "bool"]
        )
        assert missing.isna().all()


def test_values_come_through_exactly() -> None:
    table = frames.frame(
        [("text", 2**62, 1.5, True, 1_790_000_000_123_456)],
        {"a": "str", "b": "Int64", "c": "float64", "d": "bool", "e": frames.TIME},
    )

    assert table.iloc[0].tolist() == [
        "text",
        2**62,
        1.5,
        True,
        pd.Timestamp("2026-09-21T14:13:20.123456Z"),
    ]


@pytest.mark.parametrize(
    ("us", "at"),
    [
        (-62_135_596_800_000_000, "0001-01-01T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (0, "1970-01-01T00:00:00+00:00"),
        (253_402_214_400_000_000, "9999-12-31T00:00:00+00:00"),
    ],
)
def test_instants_reach_from_year_1_to_9999(us: int, at: str) -> None:
    """BI-056: nanoseconds would end in 2262."""
    table = frames.frame([(us,), (None,)], {"at": frames.TIME})

    assert table["at"].dtype == TIME
    assert table["at"][0].isoformat() == at
    assert table["at"].isna().tolist() == [False, True]


def test_text_stays_text() -> None:
    text = ["<b>", "=1+1", "", "nan", "None", "1"]

    assert frames.frame([(t,) for t in text], {"text": "str"})["text"].tolist() == text


def test_text_that_would_move_the_cursor_is_escaped_in_every_column_that_nobody_has_checked() -> (
    None
):
    table = frames.frame([("a\x00b", "\u202e\n"), (None, "c")], {"text": "str", "reason": "str"})

    assert table["text"].tolist()[0] == "a\\u0000b"
    assert table["reason"].tolist() == ["\\u202e\n", "c"]


# -- latency ---------------------------------------------------------------------------------------


def times(rows: list[tuple[str | None, float | None, float | None, float | None]]) -> pd.DataFrame:
    schema = {
        name: frames.INVOCATIONS[name] for name in ("version", "queue_ms", "model_ms", "total_ms")
    }
    return frames.frame(rows, schema)


def test_quantiles_are_those_of_the_rows() -> None:
    table = quantiles.latency(
        times([("1.0.0", float(i), i * 10.0, i * 11.0) for i in range(1, 101)])
    )

    assert dtypes(table) == expected(frames.LATENCY)
    assert table["stage"].tolist() == ["queue", "model", "total"]
    assert table["version"].tolist() == ["1.0.0"] * 3
    assert table["count"].tolist() == [100] * 3
    assert table["p50_ms"].tolist() == pytest.approx([50.5, 505, 555.5])
    assert table["p95_ms"].tolist() == pytest.approx([95.05, 950.5, 1045.55])
    assert table["p99_ms"].tolist() == pytest.approx([99.01, 990.1, 1089.11])
    assert table["max_ms"].tolist() == [100, 1000, 1100]


def test_row_that_stands_for_many_attempts_counts_for_each_of_them() -> None:
    rows = [("1.0.0", float(i * 37 % 11), i * 0.5, 30.0 - i) for i in range(12)]
    n = [1, 40, 3, 1, 1, 250, 2, 7, 1, 19, 1, 5]
    every = [row for row, times_ in zip(rows, n, strict=True) for _ in range(times_)]

    table = quantiles.latency(times(rows).assign(n=n))

    assert_frame_equal(table, quantiles.latency(times(every)))
    assert table["p95_ms"].tolist() == [
        round(float(np.quantile([row[i] for row in every], 0.95)), 3) for i in (1, 2, 3)
    ]


def test_one_measurement_is_all_of_its_quantiles() -> None:
    assert quantiles.latency(times([("1.0.0", 0.0, 7.5, 7.5)])).iloc[1, 2:].tolist() == [
        1,
        7.5,
        7.5,
        7.5,
        7.5,
    ]


def test_latency_has_the_digits_that_the_clock_has() -> None:
    table = quantiles.latency(
        times([("1.0.0", 1.0 / 3, 8310.42101, 2.0 / 3), ("1.0.0", 0.1, 0.0004, 1e6 / 7)])
    )

    figures = table[["p50_ms", "p95_ms", "p99_ms", "max_ms"]]
    assert figures.equals(figures.round(3))
    assert table["max_ms"].tolist() == [0.333, 8310.421, 142857.143]


def test_latency_and_the_dashboard_round_in_the_same_way() -> None:
    for half in range(1, 400, 2):
        values = [half * 0.5 / 1000 + 13.0, half * 0.5 / 1000 + 13.001]
        table = quantiles.latency(times([("1.0.0", value, value, value) for value in values]))
        assert table["p50_ms"].tolist() == [quantile(values, 0.5)] * 3


def test_each_version_has_its_own_latency() -> None:
    table = quantiles.latency(
        times([("2.0.0", 1.0, 2.0, 3.0), ("1.0.0", 10.0, 20.0, 30.0), ("2.0.0", 3.0, 4.0, 5.0)])
    )

    assert table[table["stage"] == "model"][["version", "count", "max_ms"]].values.tolist() == [
        ["1.0.0", 1, 20.0],
        ["2.0.0", 2, 4.0],
    ]


def test_attempts_that_never_ended_have_no_latency() -> None:
    table = quantiles.latency(
        times([("1.0.0", 1.0, None, None), (None, 1.0, 1.0, 1.0), ("1.0.0", 1.0, 5.0, 6.0)])
    )

    assert table["count"].tolist() == [1, 1, 1]


def test_without_measurements_the_latency_frame_is_empty() -> None:
    for rows in ([], [("1.0.0", None, None, None)]):
        table = quantiles.latency(times(rows))
        assert len(table) == 0
        assert dtypes(table) == expected(frames.LATENCY)


# -- the frames of a bus ---------------------------------------------------------------------------


@pytest.fixture
def memory_bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


def worked(bus: mt.EventBus) -> tuple[mt.Subscription, mt.Run]:
    """Let something happen: two answers, handed on, and a dead letter."""

    def read(page: int) -> Any:
        if page == 13:
            raise mt.Reject("unlucky")
        print("page", page)
        return {"page": page, "outcome": "mine"}

    def check(page: Any) -> None: ...

    bus.subscribe("checked", check)
    sub = bus.subscribe("pages", read, emit="checked")
    return sub, bus.fire("pages", [1, 13, 2], timeout_s=30, progress=False)


def all_frames(
    bus: mt.EventBus, sub: mt.Subscription, event_id: str | None
) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    found = {
        "invocations": (bus.invocations(), frames.INVOCATIONS),
        "invocations of one": (sub.invocations(), frames.INVOCATIONS),
        "no newest invocations": (sub.invocations(limit=0), frames.INVOCATIONS),
        "latency": (bus.latency(), frames.LATENCY),
        "latency of one": (sub.latency(), frames.LATENCY),
        "dead letters": (sub.dead_letters(), frames.DEAD_LETTERS),
        "skipped": (sub.skipped(), frames.SKIPPED),
        "audit": (bus.audit(), frames.AUDIT),
        "doctor": (bus.doctor(), frames.DOCTOR),
        "explain": (bus.explain({}, sub.name), frames.EXPLAIN),
        "events": (bus.events(), frames.EVENTS),
        "models": (bus.models(), frames.MODELS),
        "subscriptions": (bus.subscriptions(), frames.SUBSCRIPTIONS),
        "topics": (bus.topics(), frames.TOPICS),
    }
    return found if event_id is None else {**found, "trace": (bus.trace(event_id), frames.TRACE)}


def test_every_frame_of_a_bus_is_typed_before_anything_happened(memory_bus: mt.EventBus) -> None:
    def read(page: int) -> int:
        return page

    sub = memory_bus.subscribe("pages", read, listen=False)

    for name, (table, schema) in all_frames(memory_bus, sub, None).items():
        assert dtypes(table) == expected(schema), name


def test_every_frame_of_a_bus_is_typed_when_something_happened(memory_bus: mt.EventBus) -> None:
    sub, run = worked(memory_bus)

    for name, (table, schema) in all_frames(memory_bus, sub, run.receipts[0].event_id).items():
        assert dtypes(table) == expected(schema), name
        assert len(table) or name in ("no newest invocations", "skipped"), name


def test_a_row_of_the_invocation_frame_is_whole(memory_bus: mt.EventBus) -> None:
    sub, run = worked(memory_bus)
    row = sub.invocations().set_index("event_id").loc[run.receipts[0].event_id]

    assert (row["topic"], row["subscription"], row["model"], row["role"], row["attempt"]) == (
        "pages",
        "read",
        "read",
        "live",
        1,
    )
    assert (row["outcome"], row["output"], row["stdout"]) == (
        "succeeded",
        '{"page":1,"outcome":"mine"}',
        "page 1\n",
    )
    assert (
        row["published_at"]
        <= row["received_at"]
        <= row["started_at"]
        <= row["finished_at"]
        <= row["settled_at"]
    )
    assert row["model_ms"] == pytest.approx(
        (row["finished_at"] - row["started_at"]).total_seconds() * 1000
    )
    assert row["total_ms"] == pytest.approx(
        (row["finished_at"] - row["published_at"]).total_seconds() * 1000
    )
    assert row[["reason", "error_type", "error"]].isna().all()
    assert len(row["trace_id"]) == 32


def test_only_the_columns_that_are_asked_for_are_there_and_typed(memory_bus: mt.EventBus) -> None:
    sub, _ = worked(memory_bus)
    wanted = ["outcome", "event_id", "total_ms"]

    for table in (sub.invocations(columns=wanted), sub.invocations(columns=wanted, limit=0)):
        assert list(table.columns) == wanted
        assert dtypes(table) == {name: expected(frames.INVOCATIONS)[name] for name in wanted}


def test_results_begin_with_their_own_columns_and_never_lose_one_of_the_output(
    memory_bus: mt.EventBus,
) -> None:
    _, run = worked(memory_bus)
    table = run.results()

    facts = [name for name in frames.RESULTS if name not in frames.KEY]
    assert list(table.columns) == [*facts, "page", "output_outcome", *frames.KEY]
    assert dtypes(table[[*frames.RESULTS]]) == expected(frames.RESULTS)
    assert table["event_id"].tolist() == [receipt.event_id for receipt in run.receipts]
    assert table["sample"].tolist() == [0, 1, 2]
    assert table["outcome"].tolist() == ["succeeded", "dead", "succeeded"]
    assert table["output_outcome"].tolist()[::2] == ["mine", "mine"]


def test_event_times_beyond_what_pandas_knows_are_shown_as_they_are(
    memory_bus: mt.EventBus,
) -> None:
    """BI-056."""
    memory_bus.topic("pages")
    extremes = [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(2999, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, timezone(timedelta(hours=-14))),
    ]
    for at in extremes:
        memory_bus.publish("pages", 1, time=at)

    assert [datetime.fromisoformat(t) for t in memory_bus.events()["time"]] == extremes


def test_a_frame_is_the_readers_own(memory_bus: mt.EventBus) -> None:
    sub, _ = worked(memory_bus)
    table = sub.invocations()
    table["outcome"] = "changed"

    assert set(sub.invocations()["outcome"]) == {"succeeded", "dead"}
