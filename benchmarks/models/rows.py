"""The models, their rows, and two ways to call them: directly, and through mltrigger on SQLite with
durability full.
"""

from __future__ import annotations

import collections
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import mltrigger as mt
from benchmarks.harness import consume, url

FEATURES = 10
COLUMNS = [f"f{i}" for i in range(FEATURES)]
KINDS = ("RandomForest", "LogisticRegression")
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
Row = dict[str, float]


class Consumed(NamedTuple):
    """Rows a second through mltrigger, the CPU of a row in microseconds, and how many were in a call
    at the end (the median of the last tenth).
    """

    per_s: float
    cpu_us: float
    size: float


@functools.cache
def data(count: int = 2_000) -> tuple[Any, Any]:
    """Return what the models are trained on: features that interact, and two classes."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(count, FEATURES))
    return features, (features[:, 0] * features[:, 1] + features[:, 2] > 0).astype(int)


def trained(kind: str) -> Any:
    """Return a fitted model of scikit-learn, with its default settings, that knows the names of its
    columns.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    features, classes = data()
    model = (
        RandomForestClassifier(100, random_state=0) if kind == KINDS[0] else LogisticRegression()
    )
    return model.fit(pd.DataFrame(features, columns=COLUMNS), classes)


def rows(count: int) -> list[Row]:
    """Return *count* records, as they would come in events."""
    features = np.random.default_rng(1).normal(size=(count, FEATURES)).round(4)
    return pd.DataFrame(features, columns=COLUMNS).to_dict(orient="records")


# -- directly: the limit ---------------------------------------------------------------------------


def best_size(model: Any, sizes: Sequence[int] = SIZES) -> int:
    """Return the size whose batches, made of records, give the most rows a second; of those within
    2 %, the smallest.
    """
    per_s = {size: max(direct(model, rows(size), size) for _ in range(5)) for size in sizes}
    return min(size for size, rate in per_s.items() if rate >= 0.98 * max(per_s.values()))


def direct(model: Any, given: Sequence[Row], size: int) -> float:
    """Return the rows a second of ``predict`` on DataFrames of *size* records, with making them."""
    started = time.perf_counter()
    for i in range(0, len(given), size):
        model.predict(pd.DataFrame.from_records(given[i : i + size])).tolist()
    return len(given) / (time.perf_counter() - started)


def json_lines(given: Sequence[Row]) -> list[bytes]:
    """Return *given* as compact JSON, as the log keeps it."""
    return [json.dumps(row, separators=(",", ":")).encode() for row in given]


def direct_json(
    model: Any, lines: Sequence[bytes], size: int, read: Callable[[bytes], Row] = json.loads
) -> float:
    """Return the rows a second of ``predict`` on records that *read* decodes first."""
    started = time.perf_counter()
    for i in range(0, len(lines), size):
        records = [read(line) for line in lines[i : i + size]]
        model.predict(pd.DataFrame.from_records(records)).tolist()
    return len(lines) / (time.perf_counter() - started)


def direct_ready(model: Any, given: Sequence[Row], size: int) -> float:
    """Return the rows a second of ``predict`` on DataFrames that were made before."""
    frames = [pd.DataFrame.from_records(given[i : i + size]) for i in range(0, len(given), size)]
    started = time.perf_counter()
    for frame in frames:
        model.predict(frame)
    return len(given) / (time.perf_counter() - started)


# -- through mltrigger -----------------------------------------------------------------------------


def through(
    folder: Path,
    model: Any,
    given: Sequence[Row],
    expected: Sequence[int] | None = None,
    **how: Any,
) -> Consumed:
    """Consume a backlog of *given* rows, each an event with an outcome of its own; check the
    answers against *expected*.
    """
    with mt.connect(url(folder / "ours.db")) as bus:
        sub = bus.subscribe("rows", model, name="reader", listen=False, **how)
        for i in range(0, len(given), 1_000):
            bus.publish_batch("rows", list(given[i : i + 1_000]))
        cpu_s = time.process_time()
        seconds = consume(bus, sub, len(given))
        used_s = time.process_time() - cpu_s
        done = sub.invocations(columns=["outcome", "batch_size", "output"])
    if len(done) != len(given) or set(done["outcome"]) != {"succeeded"}:
        raise RuntimeError(
            f"not every row was answered once: {collections.Counter(done['outcome'])}"
        )
    if expected is not None and collections.Counter(
        map(float, done["output"])
    ) != collections.Counter(map(float, expected)):
        raise RuntimeError("other answers than the model gives directly")
    last = list(done["batch_size"])
    size = statistics.median(last[-max(1, len(last) // 10) :])
    return Consumed(len(given) / seconds, used_s / len(given) * 1e6, size)
