"""The figures of a bus in Prometheus' text format, from its log: a restart loses none.

Counters only rise, see :mod:`mltrigger.store.figures`. Labels have topic, subscription, model,
version, role, outcome and reason: no event has a label of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mltrigger.store.figures import BOUNDS_S, BUDGET_S, STAGES, Figures, Times
from mltrigger.telemetry.gauges import Standing, standing

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.bus import EventBus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_REASONS = 50
"""Reasons of one subscription that have a label of their own. The rest is ``other``."""
_WHOSE = ("topic", "subscription")
_TIMES = {
    "model": "Time of a call of a model.",
    "queue": "Wait of an event before an attempt.",
    "total": "Time from the publication of an event to the end of an attempt.",
}
_GAUGES = {
    "events_waiting": "Events that wait for a listener.",
    "events_delayed": "Events that are due later: delays and retries.",
    "events_in_flight": "Events that a listener has.",
    "dead_letters_open": "Dead letters that were neither sent again nor discarded.",
    "oldest_event_age_seconds": "Age of the oldest open event. 0 without one.",
    "backlog_seconds": (
        "Time to drain the waiting events at the rate of the last 5 minutes, of which only time"
        " with an attempt in hand counts. Without one: age of the oldest open event."
    ),
    "listeners": "Processes that listen.",
    "paused": "1 if the subscription is paused.",
}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def text(bus: EventBus, budget_s: float = BUDGET_S) -> str:
    """Return the figures of *bus* in Prometheus' text format.

    Parameters
    ----------
    budget_s : float
        How long to count new attempts into histograms. The rest is counted next time. The gauge
        ``mltrigger_histograms_behind`` says how many are left.
    """
    found = bus.log.figures.read(budget_s)
    specs = {spec.id: spec for spec in bus.registry.subscriptions(None)}
    reasons = {spec: bus.log.dead_reasons(spec.id) for spec in specs.values()}
    parts = (
        _published(found),
        _attempts(found, specs),
        _reasons(reasons),
        _now(standing(bus)),
        _times(found, specs),
        _family("histograms_behind", "gauge", "Attempts that the histograms do not have yet."),
        [_sample("histograms_behind", {}, max(0, found.behind))],
    )
    return "".join(f"{line}\n" for part in parts for line in part)


def _published(found: Figures) -> Iterator[str]:
    name = "events_published_total"
    yield from _family(name, "counter", "Events that were published.")
    for topic, n in sorted(found.published.items()):
        yield _sample(name, {"topic": topic}, n)


def _attempts(found: Figures, specs: Mapping[int, SubscriptionSpec]) -> Iterator[str]:
    name, dead = "invocations_total", "dead_letters_total"
    known = [(specs[s], counts) for s, counts in found.attempts.items() if s in specs]
    yield from _family(name, "counter", "Attempts, by their outcome.")
    for spec, counts in known:
        for outcome, n in sorted(counts.items()):
            yield _sample(name, {**_whose(spec), "role": spec.role, "outcome": outcome}, n)
    yield from _family(dead, "counter", "Events that became dead letters.")
    for spec, _ in known:
        if spec.role == "live":
            yield _sample(dead, _whose(spec), found.dead.get(spec.id, 0))


def _reasons(reasons: Mapping[SubscriptionSpec, Mapping[str, int]]) -> Iterator[str]:
    name = "dead_letters_by_reason"
    yield from _family(name, "gauge", "Open dead letters, by their reason.")
    for spec, counts in reasons.items():
        common = list(counts.items())[:MOST_REASONS]
        rest = sum(counts.values()) - sum(n for _, n in common)
        for reason, n in [*common, *([("other", rest)] if rest else [])]:
            yield _sample(name, {**_whose(spec), "reason": reason}, n)


def _now(found: Iterable[Standing]) -> Iterator[str]:
    values = [
        (dict(zip(_WHOSE, (s.topic, s.subscription), strict=True)), _values(s)) for s in found
    ]
    for name, about in _GAUGES.items():
        yield from _family(name, "gauge", about)
        for labels, each in values:
            yield _sample(name, labels, each[name])


def _values(each: Standing) -> dict[str, float]:
    depth = each.depth
    return {
        "events_waiting": depth.visible,
        "events_delayed": depth.delayed,
        "events_in_flight": depth.in_flight,
        "dead_letters_open": depth.dead,
        "oldest_event_age_seconds": depth.oldest_s or 0.0,
        "backlog_seconds": each.backlog_s,
        "listeners": each.listeners,
        "paused": int(each.paused),
    }


def _times(found: Figures, specs: Mapping[int, SubscriptionSpec]) -> Iterator[str]:
    for place, stage in enumerate(STAGES):
        name = f"{stage}_seconds"
        yield from _family(name, "histogram", _TIMES[stage])
        for (s, v), stages in sorted(found.times.items()):
            if s in specs:
                model, version = found.versions.get(v, ("", ""))
                labels = {**_whose(specs[s]), "model": model, "version": version}
                yield from _histogram(name, labels, stages[place])


def _histogram(name: str, labels: Mapping[str, str], times: Times) -> Iterator[str]:
    n = 0
    for bound, count in zip((*map(repr, BOUNDS_S), "+Inf"), times.buckets, strict=True):
        n += count
        yield _sample(f"{name}_bucket", {**labels, "le": bound}, n)
    yield _sample(f"{name}_sum", labels, times.sum_s)
    yield _sample(f"{name}_count", labels, n)


def _whose(spec: SubscriptionSpec) -> dict[str, str]:
    return {"topic": spec.topic, "subscription": spec.name}


def _family(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP mltrigger_{name} {about}", f"# TYPE mltrigger_{name} {kind}"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"mltrigger_{name}{{{inner}}} {value!r}" if inner else f"mltrigger_{name} {value!r}"


def escaped(text: str) -> str:
    """Return *text* as the value of a label."""
    return text.translate(_ESCAPES)
