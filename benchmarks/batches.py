"""A model in batches: mltrigger beside ``predict`` on the same records as dicts and as JSON.

``python -m benchmarks.models`` has more of it, and MLServer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Options, Rate, scratch
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

SIZE = 4_096
DICTS, JSON = "predict on dicts", "predict on JSON"
SLOW_JSON = "predict on JSON, by json.loads"
FIXED, ADAPTIVE = f"mltrigger, batches of {SIZE:,}", 'mltrigger, batch="adaptive"'
LEAST = {
    ("RandomForest", DICTS): 0.7,
    ("LogisticRegression", DICTS): 0.3,
    ("LogisticRegression", JSON): 0.7,
}
"""The share of each limit to reach, in batches of the best size."""


def run(options: Options) -> Report:
    """Measure each model in turn: its limits, then mltrigger."""
    from benchmarks.models.rows import KINDS, trained

    count = options.size(4, 1) * SIZE
    models = {kind: trained(kind) for kind in KINDS}
    found: dict[str, dict[str, list[Rate]]] = {kind: {} for kind in KINDS}
    for _ in options.rounds(30):
        for kind, model in models.items():
            for name, speed in _measured(model, count).items():
                found[kind].setdefault(name, []).append(speed)
    return _report(found, count)


def _measured(model: Any, count: int) -> dict[str, Rate]:
    import msgspec
    import pandas as pd

    import mltrigger as mt
    from benchmarks.models.rows import direct, direct_json, json_lines, rows, through

    given = rows(count)
    expected = model.predict(pd.DataFrame.from_records(given)).tolist()
    described = mt.model(model, name="scored", version="1.0.0")

    found = {}
    lines, decode = json_lines(given), msgspec.json.Decoder().decode
    limits: dict[str, Callable[[], float]] = {
        DICTS: lambda: direct(model, given, SIZE),
        JSON: lambda: direct_json(model, lines, SIZE, decode),
        SLOW_JSON: lambda: direct_json(model, lines, SIZE),
    }
    for name, limit in limits.items():
        cpu_s = time.process_time()
        per_s = limit()
        found[name] = Rate(per_s, (time.process_time() - cpu_s) / count * 1e6)
    for name, how in ((FIXED, {"batch_size": SIZE}), (ADAPTIVE, {"batch": "adaptive"})):
        with scratch() as folder:
            done = through(folder, described, given, expected, **how)
        found[name] = Rate(done.per_s, done.cpu_us)
    return found


def _report(found: dict[str, dict[str, list[Rate]]], count: int) -> Report:
    report = Report("batches", "a model of scikit-learn in batches, beside predict alone")
    for kind, ways in found.items():
        report.tables.append(_table(kind, ways))
        for limit in (DICTS, JSON):
            least = LEAST.get((kind, limit))
            if least is not None:
                ratio = _ratio(ways, FIXED, limit)
                title = f"{kind}, {FIXED}, of {limit}"
                report.targets.append(
                    Target(title, f">= {least:g}", f"{ratio:.2f}", ratio >= least)
                )
    rounds = len(next(iter(found.values()))[DICTS])
    report.notes += [
        (
            f"{count:,} rows of 10 numbers, predict in batches of {SIZE:,} everywhere but in"
            f" adaptive; {rounds} repetitions in turn. RandomForestClassifier with 100 trees,"
            " LogisticRegression."
        ),
        (
            "On dicts: DataFrame.from_records, predict, tolist. On JSON: msgspec reads each record"
            " first, or json.loads. Nothing is received, recorded or acknowledged."
        ),
        (
            "mltrigger: a backlog of events, one a row, on SQLite with durability full; from"
            " starting the listener to the last recorded outcome; the answers are compared."
            " Adaptive begins with one row a call and learns within its figure."
        ),
    ]
    return report


def _table(kind: str, ways: dict[str, list[Rate]]) -> Table:
    rows = [
        (
            name,
            number(statistics.median(s.per_s for s in speeds)),
            spread([s.per_s for s in speeds]),
            f"{_ratio(ways, name, DICTS):.2f}",
            f"{_ratio(ways, name, JSON):.2f}",
            number(statistics.median(s.cpu_us for s in speeds)),
        )
        for name, speeds in ways.items()
    ]
    head = ("what", "rows/s", "range", f"of {DICTS}", f"of {JSON}", "CPU us a row")
    return Table(f"{kind}, rows a second", head, rows)


def _ratio(ways: dict[str, list[Rate]], name: str, limit: str) -> float:
    return median_ratio([s.per_s for s in ways[name]], [s.per_s for s in ways[limit]])
