"""What a bus sends to OpenTelemetry, kept by exporters in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shared import wait_until

import mltrigger as mt
from mltrigger.telemetry import Instrumentation, instrument


class Seen(NamedTuple):
    """What one bus has sent."""

    tracers: TracerProvider
    meters: MeterProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    instrumentation: Instrumentation

    def spans(self, kind: str) -> list[ReadableSpan]:
        """Return the ended spans of one type of operation."""
        found = self.exporter.get_finished_spans()
        return [s for s in found if _of(s).get("messaging.operation.type") == kind]

    def one(self, kind: str) -> ReadableSpan:
        """Return the only span of a type of operation. A settlement ends after it is visible."""
        (span,) = wait_until(lambda: self.spans(kind))
        return span

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric now."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def metrics(self) -> dict[str, list[Any]]:
        """Return the data points of all metrics now."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def _of(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def seeing(bus: mt.EventBus) -> Seen:
    """Instrument *bus* with exporters in memory."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    made = instrument(bus, tracer_provider=tracers, meter_provider=meters)
    return Seen(tracers, meters, exporter, reader, made)
