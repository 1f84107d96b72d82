"""The cost of telemetry: events a second without an observer, with spans that are dropped, and with
spans and metrics of the SDK.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import mltrigger as mt
from benchmarks.harness import Counted, Options, children, consume, payloads, scratch, url
from benchmarks.report import Report, Table, Target, median_ratio, number, spread
from mltrigger.telemetry import instrument, prometheus_text

BATCH = 500
OFF, UNSAMPLED, ON = "off", "on, no span sampled", "on, every span sampled"
LOTS, ONE, PUBLISH = (
    f"consume, batches of {BATCH}",
    "consume, one event a call",
    "publish, one by one",
)
READ_S = 1.0


class _Dropped(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def run(options: Options) -> Report:
    """Measure every case with each kind of telemetry in turn, then the text for Prometheus."""
    found: dict[str, dict[str, list[float]]] = {}
    with children() as here:
        for _ in options.rounds(30):
            for case, rates in here.submit(measure, options.quick).result().items():
                for kind, rate in rates.items():
                    found.setdefault(case, {}).setdefault(kind, []).append(rate)
        size = options.size(1_000_000, 20_000)
        reads = here.submit(_reads, size).result()
    return _report(found, reads, size)


def measure(quick: bool) -> dict[str, dict[str, float]]:
    """Return the events a second of each case, by the kind of telemetry."""
    options, cases = Options(quick), {LOTS: _lots, ONE: _one, PUBLISH: _publish}
    found: dict[str, dict[str, float]] = {}
    for name, case in cases.items():
        for kind in (OFF, UNSAMPLED, ON):
            with scratch() as folder:
                found.setdefault(name, {})[kind] = _with(folder, kind, case, options)
    return found


def _with(
    folder: Path, kind: str, case: Callable[[mt.EventBus, Options], float], options: Options
) -> float:
    with mt.connect(url(folder / "ours.db")) as bus:
        if kind == OFF:
            return case(bus, options)
        tracers = TracerProvider(sampler=ALWAYS_ON if kind == ON else ALWAYS_OFF)
        tracers.add_span_processor(BatchSpanProcessor(_Dropped()))
        meters = MeterProvider([InMemoryMetricReader()])
        with instrument(bus, tracer_provider=tracers, meter_provider=meters):
            rate = case(bus, options)
        tracers.shutdown()
        return rate


def _lots(bus: mt.EventBus, options: Options) -> float:
    return _consumed(bus, options.size(40_000, 4_000), True)


def _one(bus: mt.EventBus, options: Options) -> float:
    return _consumed(bus, options.size(20_000, 2_000), False)


def _consumed(bus: mt.EventBus, count: int, batch: bool) -> float:
    model = Counted()
    called = mt.model("noop", batch=batch)(model.many if batch else model.one)
    more = {"batch_size": BATCH} if batch else {}
    sub = bus.subscribe("documents", called, name="noop", listen=False, **more)
    samples = payloads(count)
    for i in range(0, count, 1_000):
        bus.publish_batch("documents", samples[i : i + 1_000])
    return count / consume(bus, sub, count)


def _publish(bus: mt.EventBus, options: Options) -> float:
    bus.topic("documents")
    samples = payloads(options.size(1_000, 100))
    began_s = time.perf_counter()
    for sample in samples:
        bus.publish("documents", sample)
    return len(samples) / (time.perf_counter() - began_s)


def _reads(size: int) -> dict[str, float]:
    """Return the seconds of three readings of a log of *size* attempts."""
    with scratch() as folder, mt.connect(url(folder / "ours.db")) as bus:
        _consumed(bus, size, True)
        found = {}
        for name, budget_s in (("the first", 0.5), ("all the rest", math.inf), ("the next", 0.5)):
            began_s = time.perf_counter()
            prometheus_text(bus, budget_s)
            found[name] = time.perf_counter() - began_s
        return found


def _report(found: dict[str, dict[str, list[float]]], reads: dict[str, float], size: int) -> Report:
    report = Report("telemetry", "events per second with and without OpenTelemetry")
    rows = [
        (
            case,
            kind,
            number(statistics.median(rates)),
            spread(rates),
            f"{median_ratio(rates, kinds[OFF]):.2f}",
        )
        for case, kinds in found.items()
        for kind, rates in kinds.items()
    ]
    head = ("what", "telemetry", "events/s", "range", "of that without")
    report.tables.append(Table("Events per second", head, rows))
    title = f"Figures for Prometheus of a log with {size:,} attempts"
    shown = [(name, f"{seconds:.3f}") for name, seconds in reads.items()]
    report.tables.append(Table(title, ("reading", "seconds"), shown))
    for name in ("the first", "the next"):
        report.targets.append(
            Target(
                f"{name} reading of `mltrigger metrics`, {size:,} attempts",
                f"< {READ_S:g} s",
                f"{reads[name]:.2f} s",
                reads[name] < READ_S,
            )
        )
    report.notes.append(
        "Spans go to an exporter that drops them; metrics have a reader in memory. Events of a"
        " backlog were published in batches of 1,000, which have no spans of their own."
    )
    return report
