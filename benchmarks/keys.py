"""Limits that hold in all processes, against the same subscription without them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks.harness import Counted, Options, consume, payloads, scratch, url
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

BATCH = 500
LEAST = 0.9
"""The share of the rate without limits that is to be left."""
_EVERYTHING = {"filter": {"n": [{"exists": True}]}, "filter_scope": "body"}
CURSOR, ROWS = "no limit, by the cursor", "no limit, by rows"
_RATED, _KEYED = "total rate, by rows", "key with a limit, 10 keys"
_CASES: dict[str, dict[str, Any]] = {
    CURSOR: {},
    "total rate, by the cursor": {"max_rate_per_s_total": 1e6},
    ROWS: _EVERYTHING,
    _RATED: {"max_rate_per_s_total": 1e6, **_EVERYTHING},
    _KEYED: {"key": "n", "max_concurrency_per_key": 100_000},
    "priority": {"priority": "n"},
    "key and priority": {"key": "n", "priority": "text"},
    "key, each event its own": {"key": "text"},
}
_HOW = {f"batches of {BATCH}": BATCH, "one event a call": 1}


class Both(NamedTuple):
    """Events a second: published, consumed, and both one after the other."""

    published: float
    consumed: float
    both: float


Found = dict[tuple[str, str], list[Both]]


def run(options: Options) -> Report:
    """Measure every case in turn, as often as asked."""
    count, found = options.size(20_000, 2_000), Found()
    for _ in options.rounds(60):
        for how, size in _HOW.items():
            for name, policy in _CASES.items():
                with scratch() as folder:
                    n = count if size > 1 else count // 4
                    found.setdefault((how, name), []).append(_measured(folder, n, size, policy))
    return _report(found, count)


def _measured(folder: Path, count: int, size: int, policy: dict[str, Any]) -> Both:
    model, samples = Counted(), payloads(count)
    with mt.connect(url(folder / "bus.db")) as bus:
        batch = size > 1
        noop = mt.model("noop", batch=batch)(model.many if batch else model.one)
        sub = bus.subscribe("documents", noop, name="noop", listen=False, batch_size=size, **policy)
        started = time.perf_counter()
        for i in range(0, count, 1_000):
            bus.publish_batch("documents", samples[i : i + 1_000])
        published_s = time.perf_counter() - started
        consumed_s = consume(bus, sub, count)
        done = sub.invocations(columns=["outcome"])
    assert set(done["outcome"]) == {"succeeded"} and len(done) == count, "an outcome is missing"
    return Both(count / published_s, count / consumed_s, count / (published_s + consumed_s))


def _report(found: Found, count: int) -> Report:
    report = Report("keys", "limits that hold in all processes")
    for how in _HOW:
        rows, cursor = found[how, ROWS], found[how, CURSOR]
        report.tables.append(
            Table(
                f"Events a second, {how}",
                ("subscription", "both", "range", "of by rows", "of the cursor", "pub", "consume"),
                [_row(name, found[how, name], rows, cursor) for name in _CASES],
            )
        )
        for name in (_RATED, _KEYED):
            ratio = _ratio(found[how, name], rows)
            title = f"{name}, {how}, of the same by rows"
            report.targets.append(Target(title, f">= {LEAST:g}", f"{ratio:.2f}", ratio >= LEAST))
    report.notes.append(
        f"{count:,} events of 300 bytes of JSON, a quarter of them one by one; a batch of 1,000 a"
        " publish, then one listener. Both: publishing and consuming one after the other. By rows:"
        " a filter that lets everything pass. The limits are too high to be reached."
    )
    return report


def _row(name: str, each: list[Both], rows: list[Both], cursor: list[Both]) -> tuple[str, ...]:
    return (
        name,
        number(statistics.median(b.both for b in each)),
        spread([b.both for b in each]),
        f"{_ratio(each, rows):.2f}",
        f"{_ratio(each, cursor):.2f}",
        number(statistics.median(b.published for b in each)),
        number(statistics.median(b.consumed for b in each)),
    )


def _ratio(each: list[Both], of: list[Both]) -> float:
    return median_ratio([b.both for b in each], [b.both for b in of])
