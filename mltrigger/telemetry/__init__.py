"""Telemetry: OpenTelemetry spans and metrics of a bus, and its figures for Prometheus.

    import mltrigger.telemetry

    mltrigger.telemetry.instrument(bus)          # extra otel
    print(mltrigger.telemetry.prometheus_text(bus))

Nothing of it is loaded or measured unless it is asked for.
"""

from __future__ import annotations

from mltrigger.telemetry.instrumenting import Instrumentation, instrument
from mltrigger.telemetry.prometheus import text as prometheus_text

__all__ = ["Instrumentation", "instrument", "prometheus_text"]
