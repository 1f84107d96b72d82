"""The instruments of OpenTelemetry's metrics. No attribute of theirs names an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from mltrigger.telemetry import conventions as c

if TYPE_CHECKING:
    from mltrigger.telemetry.gauges import Standing


class Instruments:
    """Counters and histograms of what goes through this process.

    Parameters
    ----------
    meter : Meter
        Makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        count, seconds = meter.create_counter, self._seconds(meter)
        self.sent = count(c.SENT, "{message}", "Events that were handed over for publishing.")
        self.consumed = count(c.CONSUMED, "{message}", "Events that were leased.")
        self.dead = count(c.DEAD_LETTERS, "{event}", "Events that became dead letters.")
        self.operation = seconds(c.OPERATION_DURATION, "Time to publish or to settle.")
        self.process = seconds(c.PROCESS_DURATION, "Time of a call of a model.")
        self.wait = seconds(c.WAIT, "Time between the visibility of an event and its call.")
        self.asked = seconds(c.GEN_DURATION, "Time of a request to a generative model.")
        self.tokens = meter.create_histogram(
            c.GEN_TOKENS,
            "{token}",
            "Tokens of a request to a generative model.",
            explicit_bucket_boundaries_advisory=c.TOKENS,
        )

    @staticmethod
    def _seconds(meter: Meter) -> Callable[[str, str], Histogram]:
        def made(name: str, about: str) -> Histogram:
            return meter.create_histogram(
                name, "s", about, explicit_bucket_boundaries_advisory=c.DURATIONS_S
            )

        return made


def observe(meter: Meter, standing: Callable[[], Iterable[Standing]]) -> None:
    """Make gauges of the log: *standing* is read at each collection."""

    def gauge(name: str, unit: str, about: str, value: Callable[[Standing], float]) -> None:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(each), _whose(each)) for each in standing()]

        meter.create_observable_gauge(name, [read], unit, about)

    gauge(c.BACKLOG, "s", "Time to drain the waiting events at the recent rate.", _backlog_s)
    gauge(c.OLDEST, "s", "Age of the oldest open event.", lambda each: each.depth.oldest_s or 0.0)
    gauge(c.WAITING, "{event}", "Events that wait.", lambda each: each.depth.visible)
    gauge(c.OPEN_DEAD_LETTERS, "{event}", "Open dead letters.", lambda each: each.depth.dead)


def _backlog_s(each: Standing) -> float:
    return each.backlog_s


def _whose(each: Standing) -> Mapping[str, str]:
    return {c.DESTINATION: each.topic, c.SUBSCRIPTION: each.subscription}
