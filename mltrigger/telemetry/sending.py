"""Sending: starts OpenTelemetry's SDK for a worker, as its environment variables say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from mltrigger.errors import MltriggerError, NotFound, how_to_install
from mltrigger.names import entry_points

SERVICE = "mltrigger"
_OTLP = "otlp_proto_http"


def start(environ: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """Start the SDK. Return the function that sends the rest, for the end of the process.

    Spans and metrics go by OTLP over HTTP to ``localhost:4318``. The SDK reads its own variables:
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and the others.
    ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` name another exporter, or ``none``. A
    process that has providers already keeps them.

    Raises
    ------
    MltriggerError
        When the extra ``otel`` is not installed.
    NotFound
        When an exporter is unknown.
    """
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto import http  # noqa: F401 - it must be there
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MltriggerError(f"--otel needs OpenTelemetry: {how_to_install('otel')}") from error

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return lambda: None
    given = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if given else {"service.name": SERVICE})
    tracers = TracerProvider(resource=resource)
    for exporter in _exporters("traces", environ):
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    readers = [PeriodicExportingMetricReader(each) for each in _exporters("metrics", environ)]
    meters = MeterProvider(readers, resource=resource)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)

    def end() -> None:
        tracers.shutdown()
        meters.shutdown()

    return end


def _exporters(signal: str, environ: Mapping[str, str]) -> list[Any]:
    """Return the exporters that the variable of *signal* names. Default: OTLP over HTTP."""
    named = environ.get(f"OTEL_{signal.upper()}_EXPORTER") or "otlp"
    known = entry_points(f"opentelemetry_{signal}_exporter")
    made = []
    for name in (word.strip() for word in named.split(",")):
        if name == "none":
            continue
        key = _OTLP if name == "otlp" else name
        if key not in known:
            raise NotFound.of("exporter", name, ["otlp", "none", *known])
        made.append(known[key].load()())
    return made
