"""The picture of a bus: topics, subscriptions, their versions, and how many events are where."""

from __future__ import annotations

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Depth, SubscriptionSpec
from mltrigger.errors import NotFound
from mltrigger.store.glance import Published
from mltrigger.store.outcomes import FINAL
from mltrigger.text import short, visible
from mltrigger.versions.selector import Selector, resolve

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

RATE_S = 10.0
"""Rates are those of so many seconds."""
_NO_DEPTH = Depth(0, 0, 0, 0, None)


class Rates:
    """How fast counters rise.

    Parameters
    ----------
    monotonic : callable
        Returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._samples: collections.deque[tuple[float, Mapping[str, int]]] = collections.deque()

    def of(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Take *counts* as those of now. Return events a second by key."""
        now_s = self._monotonic()
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now_s - RATE_S:
            samples.popleft()
        since_s, before = samples[0] if samples else (now_s, counts)
        if not samples or now_s - samples[-1][0] >= RATE_S / 20:
            samples.append((now_s, dict(counts)))
        span_s = max(now_s - since_s, 1.0)
        return {key: round(max(0, n - before.get(key, n)) / span_s, 1) for key, n in counts.items()}


@dataclasses.dataclass(frozen=True)
class Structure:
    """All things with a name, as of one generation of the registry."""

    specs: Sequence[SubscriptionSpec]
    versions: Mapping[int, Sequence[dict[str, Any]]]
    names: Mapping[int, tuple[str, str]]
    bindings: Mapping[int, Sequence[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """One look at a bus."""

    structure: Structure
    topics: Mapping[str, int]
    tallies: Mapping[int, Mapping[str, int]]
    depths: Mapping[int, Depth]
    states: Mapping[int, str]
    rates: Mapping[str, float]

    @property
    def is_open(self) -> bool:
        """Whether anything waits or runs, or ran a moment ago. Then figures change with time."""
        return any(self.rates.values()) or any(depth.open for depth in self.depths.values())

    def drawn(self) -> dict[str, Any]:
        """Return the picture as JSON values."""
        return {
            "topics": [
                {"name": visible(name), "events": n, "per_s": self.rates.get(f"topic {name}", 0.0)}
                for name, n in self.topics.items()
            ],
            "subscriptions": [self._subscription(spec) for spec in self.structure.specs],
        }

    def _subscription(self, spec: SubscriptionSpec) -> dict[str, Any]:
        counts = self.tallies.get(spec.id, {})
        return {
            "name": visible(spec.name),
            "topic": visible(spec.topic),
            "state": self.states[spec.id],
            "versions": list(self.structure.versions.get(spec.id, ())),
            **depth_shown(self.depths.get(spec.id, _NO_DEPTH)),
            "done": sum(counts.get(outcome, 0) for outcome in FINAL),
            "per_s": self.rates.get(f"subscription {spec.name}", 0.0),
            "emits": [visible(spec.emit)] if spec.emit else [],
        }


def depth_shown(depth: Depth) -> dict[str, Any]:
    """Return the numbers of open events as JSON values, each event in one of them."""
    return {
        "waiting": depth.visible,
        "delayed": depth.delayed,
        "in_flight": depth.in_flight,
        "dead": depth.dead,
        "oldest_s": None if depth.oldest_s is None else max(0, round(depth.oldest_s)),
    }


def summed(depths: Sequence[Depth]) -> Depth:
    """Return the depth of all subscriptions together."""
    ages = [depth.oldest_s for depth in depths if depth.oldest_s is not None]
    return Depth(
        sum(depth.visible for depth in depths),
        sum(depth.delayed for depth in depths),
        sum(depth.in_flight for depth in depths),
        sum(depth.dead for depth in depths),
        max(ages, default=None),
    )


class Painter:
    """Makes pictures of one bus. Each reads counts, and no attempt.

    Parameters
    ----------
    bus : EventBus
        The bus.
    monotonic : callable
        Returns seconds, for rates.
    """

    def __init__(self, bus: EventBus, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bus, self._rates, self._published = bus, Rates(monotonic), Published(monotonic)
        self._generation = ""
        self._structure = Structure((), {}, {}, {})

    def paint(self) -> Picture:
        """Return the present picture."""
        bus, structure = self._bus, self._current()
        tallies, topics = bus.log.tallies(), bus.log.glance.topics(self._published)
        paused, live = bus.registry.paused(), bus.registry.live_listeners()
        counts = {f"topic {name}": n for name, n in topics.items()}
        for spec in structure.specs:
            ended = tallies.get(spec.id, {})
            counts[f"subscription {spec.name}"] = sum(ended.get(outcome, 0) for outcome in FINAL)
        return Picture(
            structure,
            topics,
            tallies,
            {spec.id: bus.broker.depth(spec) for spec in structure.specs},
            {
                spec.id: _state(
                    spec.id in paused, bus.listener_state(spec.name), live.get(spec.id, 0)
                )
                for spec in structure.specs
            },
            self._rates.of(counts),
        )

    def _current(self) -> Structure:
        generation = self._bus.registry.generation()
        if generation != self._generation or not self._structure.specs:
            self._structure = self._read()
            self._generation = generation
        return self._structure

    def _read(self) -> Structure:
        registry, glance = self._bus.registry, self._bus.log.glance
        specs = registry.subscriptions(None)
        canaries, lanes = glance.canaries(), registry.lanes()
        versions: dict[int, list[dict[str, Any]]] = {}
        for spec in specs:
            canary, share = canaries.get(spec.id, (None, 0.0))
            found = [_version(self._exact(spec.selector), "serving", 1.0 - share)]
            if canary is not None:
                found.append(_version(canary, "canary", share))
            versions[spec.id] = found
        for lane in lanes:
            share = float(json.loads(lane.lane or "{}").get("share") or 1.0)
            versions.setdefault(lane.parent_id, []).append(
                _version(lane.selector, lane.role, share)
            )
        return Structure(specs, versions, glance.versions(), glance.bindings())

    def _exact(self, selector: str) -> str:
        try:
            return str(resolve(self._bus.registry, Selector.parse(selector)))
        except NotFound:
            return selector


def _version(selector: str, role: str, share: float) -> dict[str, Any]:
    version = selector.partition(":")[2] or selector
    return {"version": short(version), "role": role, "share": round(share, 4)}


def _state(paused: bool, here: str, elsewhere: int) -> str:
    """Return the state of delivery in words."""
    if paused:
        return "paused"
    return "listening elsewhere" if here == "stopped" and elsewhere else short(here, 120)
