"""Instrumenting: from a bus to its spans and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mltrigger._version import __version__
from mltrigger.errors import MltriggerError, how_to_install
from mltrigger.telemetry.gauges import Standing, standing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from mltrigger.bus import EventBus

SCOPE = "mltrigger"
_FRESH_S = 1.0
"""Gauges of one collection share a reading of the log."""


class Instrumentation:
    """The telemetry of one bus, until :meth:`stop`. Also a context manager."""

    def __init__(self, bus: EventBus) -> None:
        self._bus: EventBus | None = bus
        self._read: tuple[float, list[Standing]] = (-_FRESH_S, [])

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Make no more spans and metrics. Idempotent. The providers stay as they are."""
        if self._bus is not None:
            self._bus.observed.by = None
            self._bus = None

    def standing(self) -> Iterable[Standing]:
        """Return how the subscriptions stand, read within a second. Empty after the end."""
        bus = self._bus
        if bus is None or bus.closed:
            return []
        if time.monotonic() - self._read[0] >= _FRESH_S:
            self._read = time.monotonic(), standing(bus)
        return self._read[1]


def instrument(
    bus: EventBus,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Instrumentation:
    """Make spans and metrics of all that *bus* does in this process, from now on.

    It needs the extra ``otel``. Again: the later call replaces the earlier one.

    Parameters
    ----------
    bus : EventBus
        The bus. Its other processes are not instrumented.
    tracer_provider, meter_provider : optional
        Where they go. Default: the providers of this process, as OpenTelemetry's API has them.

    Raises
    ------
    MltriggerError
        When OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import metrics, trace
    except ImportError as error:
        raise MltriggerError(f"spans need OpenTelemetry: {how_to_install('otel')}") from error
    from mltrigger.telemetry.conventions import is_doubled
    from mltrigger.telemetry.instruments import Instruments, observe
    from mltrigger.telemetry.observer import Observing

    meter = metrics.get_meter(SCOPE, __version__, meter_provider)
    tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
    made = Instrumentation(bus)
    observe(meter, made.standing)
    versions = Versions(bus)
    bus.observed.by = Observing(
        tracer, Instruments(meter), versions.of, bus.log.now_us, is_doubled()
    )
    return made


class Versions:
    """The names of model versions by their numbers, read once."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._known: dict[int, tuple[str, str]] = {}

    def of(self, number: int | None) -> tuple[str, str] | None:
        """Return the name and version of a model version. ``None`` for an unknown one."""
        if number is None:
            return None
        if number not in self._known:
            found = self._bus.registry.versions()
            self._known = {each.id: (each.name, each.version) for each in found}
        return self._known.get(number)
