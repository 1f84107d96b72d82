"""Publishing to a topic with a thousand subscriptions, and to one with a single subscription."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks.harness import Counted, Options, Rate, payload, scratch, url
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

MANY = 1_000
BATCH = 100
PLAIN, FILTERED = "without a filter", "each with an exact value"
_BATCHES, _SINGLY = f"publish_batch of {BATCH}", "publish, one by one"
LEAST = 0.9
"""The share of the rate with one subscription that counts as the same."""
_KINDS = (PLAIN, FILTERED)


class Case(NamedTuple):
    """Subscriptions of one topic, and how it is published to."""

    kind: str
    how: str
    subscriptions: int


def run(options: Options) -> Report:
    """Make one file for each kind and number, then measure them in turn."""
    many = options.size(MANY, 100)
    found: dict[Case, list[Rate]] = {}
    with scratch() as folder:
        files = {(kind, n): folder / f"{n}-{kind[:4]}.db" for kind in _KINDS for n in (1, many)}
        for (kind, n), path in files.items():
            _subscribe(path, kind, n)
        for _ in options.rounds(20):
            for (kind, n), path in files.items():
                for how, rate in _measured(path, n, 0.2 if options.quick else 0.5).items():
                    found.setdefault(Case(kind, how, n), []).append(rate)
    return _report(found, many)


def _subscribe(path: Path, kind: str, count: int) -> None:
    with mt.connect(url(path)) as bus:
        model = mt.model("noop", version="1.0.0")(Counted().one)
        for n in range(count):
            how: dict[str, Any] = (
                {"filter": {"kind": [_kind(n)]}, "filter_scope": "body"} if kind == FILTERED else {}
            )
            bus.subscribe("documents", model, name=f"reader-{n}", listen=False, **how)


def _kind(n: int) -> str:
    return f"k{n}"


def _measured(path: Path, subscriptions: int, seconds: float) -> dict[str, Rate]:
    """Publish in batches and one by one, for about *seconds* each."""
    samples = [{**payload(n), "kind": _kind(n % subscriptions)} for n in range(BATCH)]
    with mt.connect(url(path)) as bus:
        bus.publish("documents", samples[0])
        return {
            _BATCHES: _rate(lambda: bus.publish_batch("documents", samples), BATCH, seconds),
            _SINGLY: _rate(lambda: bus.publish("documents", samples[1]), 1, seconds),
        }


def _rate(publish: Any, events: int, seconds: float) -> Rate:
    cpu_s, started, calls = time.process_time(), time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        publish()
        calls += 1
    return Rate.since(calls * events, started, cpu_s)


def _report(found: dict[Case, list[Rate]], many: int) -> Report:
    report = Report("fanout", f"publishing to {many:,} subscriptions of one topic")
    rows = []
    for case, rates in found.items():
        one = found[case._replace(subscriptions=1)]
        ratio = median_ratio([r.per_s for r in rates], [r.per_s for r in one])
        rows.append(
            (
                f"{case.how}, {case.subscriptions:,} {case.kind}",
                number(statistics.median(r.per_s for r in rates)),
                spread([r.per_s for r in rates]),
                f"{ratio:.2f}",
                number(statistics.median(r.cpu_us for r in rates)),
            )
        )
        if case.subscriptions > 1:
            title = f"{case.how}, {many:,} {case.kind}, of the same with one"
            report.targets.append(Target(title, f">= {LEAST:g}", f"{ratio:.2f}", ratio >= LEAST))
    report.tables.append(
        Table(
            "Events published a second",
            ("how, and subscriptions", "events/s", "range", "of one", "CPU us an event"),
            rows,
        )
    )
    report.notes.append(
        f"{len(next(iter(found.values())))} repetitions in turn, half a second each, at least one"
        " call. Nobody listens. With filters each"
        " subscription asks for one value of one key of the body, and each event matches one of them."
    )
    return report
