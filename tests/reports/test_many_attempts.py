"""Frames of all attempts are read by columns and lots. They say the same as single attempts do."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.store import retention
from mltrigger.testing import SimulatedClock

FEW = 10_000
"""A limit up to this one is read row by row."""
BY_COLUMNS = pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
"""The stores that hand over very many attempts by columns."""


@pytest.fixture(params=["python", pytest.param("pyarrow", marks=pytest.mark.needs("pyarrow"))])
def strings(request: pytest.FixtureRequest) -> Iterator[None]:
    with pd.option_context("mode.string_storage", request.param):
        yield


@pytest.fixture
def lived(bus: mt.EventBus) -> mt.EventBus:
    """A bus with attempts of all kinds: in lots and alone, of two topics, with odd texts."""

    def even(numbers: list[int]) -> list[object]:
        return [mt.Reject("odd \x1b[31m") if n % 2 else {"n": n, "é": "x" * n} for n in numbers]

    def talks(n: int) -> int | None:
        print("said", n)
        if n % 7 == 0:
            raise ValueError(f"no {n}")
        return None if n % 3 else n

    subs = [
        bus.subscribe("numbers", mt.model("even", batch=True)(even), name="even", batch_size=16),
        bus.subscribe("numbers", talks, name="talks", max_attempts=1),
        bus.subscribe("others", talks, name="some", filter={"subject": ["yes"]}, max_attempts=1),
    ]
    bus.publish_batch("numbers", range(100))
    bus.publish("numbers", 2000, id="page-ü", source="/é", type="odd")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bus.publish("numbers", 3, extensions={"traceparent": trace})
    for n in range(10):
        bus.publish("others", n, subject="yes" if n % 2 else "no")
    wait_until(lambda: all(map(is_settled, subs)))
    for sub in subs:
        sub.stop()
    bus.publish("numbers", 4)
    bus.broker.receive(bus.spec("talks"), 10)  # it runs now
    return bus


@pytest.mark.usefixtures("strings")
def test_columns_and_rows_make_the_same_frame(lived: mt.EventBus) -> None:
    for name in (None, "even", "talks", "some"):
        assert_frame_equal(lived.invocations(name), lived.invocations(name, limit=FEW))
    for column in lived.invocations():
        assert_frame_equal(
            lived.invocations(columns=[column]), lived.invocations(columns=[column], limit=FEW)
        )
    assert (lived.invocations()["outcome"] == "running").sum() == 1


@pytest.mark.usefixtures("strings")
@BY_COLUMNS
def test_columns_and_rows_make_the_same_results(
    lived: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    subs = [lived.subscription(name) for name in ("even", "talks", "some")]
    by_rows = [sub.results(limit=FEW) for sub in subs]
    monkeypatch.setattr(lived.log, "matched", None)  # there is no other way now

    for sub, expected in zip(subs, by_rows, strict=True):
        assert_frame_equal(sub.results(), expected)
    assert set(by_rows[2]["subject"]) == {"yes"}
    assert by_rows[1]["error"].str.startswith("ValueError: no ").any()
    assert {"n", "é"} < set(by_rows[0])


@pytest.mark.usefixtures("strings")
@BY_COLUMNS
def test_more_results_than_are_read_by_rows_are_the_newest_ones(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keyed(numbers: list[int]) -> list[dict[str, int]]:
        return [{"old" if n < 5 else "new": n} for n in numbers]

    monkeypatch.setattr("mltrigger.reports.views._FEW", 3)
    sub = bus.subscribe("numbers", mt.model("keyed", batch=True)(keyed), batch_size=4)
    bus.publish_batch("numbers", range(10))
    wait_until(lambda: is_settled(sub))
    expected = [sub.results(limit=n) for n in (1, 2, 3)]
    monkeypatch.setattr("mltrigger.reports.views._FEW", 0)
    monkeypatch.setattr(bus.log, "matched", None)

    for n, newest in enumerate(expected, 1):
        assert_frame_equal(sub.results(limit=n), newest)
    assert "old" not in sub.results(limit=5)
    assert len(sub.results(limit=100)) == 10


@BY_COLUMNS
def test_a_subject_with_any_sign_is_read(bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    by_rows, found = bus.log.matched, []
    sub = bus.subscribe("texts", lambda event: event, name="texts")
    for n, subject in enumerate(["é\u202e", None, "null", "\x1e", "a\x1fb"]):
        bus.publish("texts", n, subject=subject)
        wait_until(lambda: is_settled(sub))
        expected, read = sub.results(limit=FEW), list[object]()
        monkeypatch.setattr(
            bus.log, "matched", lambda *a, r=read, **k: r.append(a) or by_rows(*a, **k)
        )
        assert_frame_equal(sub.results(), expected)
        found.append(len(read))
        monkeypatch.setattr(bus.log, "matched", by_rows)
    assert found == [0, 0, 0, 1, 1], "only a sign that separates texts needs a look at each row"


def test_since_takes_the_attempts_received_since_then(lived: mt.EventBus) -> None:
    every = lived.invocations("even")
    for at in (every["received_at"].iloc[40], every["received_at"].max()):
        for since in (at, at + timedelta(microseconds=1)):
            expected = every[every["received_at"] >= since].reset_index(drop=True)
            assert_frame_equal(lived.invocations("even", since=since.to_pydatetime()), expected)


def test_an_output_with_any_sign_is_read(bus: mt.EventBus) -> None:
    texts = ["\x1e", "a\x1fb", "\x00", "", "\u2028", "x" * 5_000, None]
    sub = bus.subscribe("texts", lambda n: texts[n], name="texts")
    bus.publish_batch("texts", range(len(texts)))
    wait_until(lambda: is_settled(sub))

    assert_frame_equal(sub.invocations(), sub.invocations(limit=FEW))


def test_latency_is_that_of_the_attempts_in_large_lots_and_in_small_ones(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    many = mt.model("many", batch=True)(lambda numbers: [None] * len(numbers))
    large = bus.subscribe("numbers", many, name="large", batch_size=256, listen=False)
    small = bus.subscribe("numbers", abs, name="small", listen=False)
    for n in (300, 1_000, 700):
        bus.publish_batch("numbers", range(n))
        clock.advance(s=n)
    for sub in (large, small):
        sub.start()
    wait_until(lambda: is_settled(large) and is_settled(small))

    for sub in (large, small):
        table, attempts = sub.latency().set_index("stage"), sub.invocations()
        for stage in ("queue", "model", "total"):
            found = attempts[f"{stage}_ms"].to_numpy()
            assert table.loc[stage, "count"] == len(found) == 2_000
            assert table.loc[stage, "max_ms"] == pytest.approx(found.max(), abs=0.001)
            for q in (50, 95, 99):
                expected = np.quantile(found, q / 100)
                assert table.loc[stage, f"p{q}_ms"] == pytest.approx(expected, abs=0.001)
        assert attempts["queue_ms"].nunique() >= 3


def test_pruning_leaves_nothing_of_old_attempts_but_the_newest_lot(tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe("numbers", abs)
        bus.publish_batch("numbers", range(50))
        wait_until(lambda: is_settled(sub))
        sub.stop()
        bus.topic("others")
        bus.publish("others", 1)
        bus.retain(max_events=1)

        assert bus.prune() == (50, 50, 0)

    with sqlite3.connect(file) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("event", "outcome", "detail", "lot")
        ]
    connection.close()
    assert counts == [1, 0, 0, 1]


@BY_COLUMNS  # elsewhere parts of the log leave at once
def test_pruning_leaves_others_time_to_write(bus: mt.EventBus) -> None:
    held: list[tuple[float, float]] = []

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(bus._store, name)

        @contextlib.contextmanager
        def transaction(self, durable: bool = True) -> Iterator[object]:
            assert durable, "the next sync of another one would wait for all of this"
            with bus._store.transaction(durable) as transaction:
                began_s = time.monotonic()
                yield transaction
                held.append((began_s, time.monotonic()))

    bus.topic("numbers")
    bus.publish_batch("numbers", range(3_000))
    retention.prune(Noting(), bus._clock, retention.Retention(max_events=1))  # type: ignore[arg-type]

    pauses = [(b - a, c - b) for (a, b), (c, _) in itertools.pairwise(held)]
    assert len(bus.events()) == 1
    assert len(pauses) >= 3
    assert all(pause_s >= held_s / 3 for held_s, pause_s in pauses[:-1])


def test_doctor_names_the_subscription_that_holds_old_events(bus: mt.EventBus) -> None:
    fast = bus.subscribe("numbers", abs, name="fast")
    slow = bus.subscribe("numbers", abs, name="slow", listen=False)
    slow.pause()
    bus.publish_batch("numbers", range(10))
    wait_until(lambda: is_settled(fast))
    bus.retain(max_events=4)

    assert bus.prune() == (0, 0, 6)
    found = bus.doctor()
    found = found[found["check"] == "retention"]
    assert found["about"].tolist() == ["slow"]
    assert "6 events" in found["finding"].iloc[0]

    slow.resume()
    slow.start()
    wait_until(lambda: is_settled(slow))
    assert bus.prune() == (6, 12, 0)
    assert "retention" not in bus.doctor()["check"].tolist()
