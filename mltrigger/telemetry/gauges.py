"""How the subscriptions of a bus stand now, from its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mltrigger.broker import Depth
    from mltrigger.bus import EventBus


class Standing(NamedTuple):
    """One subscription now.

    ``backlog_s`` is the time to drain its waiting events: their number, divided by the attempts a
    second of the last five minutes. Only time with an attempt in hand counts for that rate. With no
    attempt in that time, it is the age of the oldest open event: so late it is at least.
    """

    subscription: str
    topic: str
    depth: Depth
    backlog_s: float
    listeners: int
    paused: bool


def standing(bus: EventBus) -> list[Standing]:
    """Return how each subscription of *bus* stands."""
    known = bus.log.figures.rates()
    listeners, paused = bus.registry.live_listeners(), bus.registry.paused()
    found = []
    for spec in bus.registry.subscriptions():
        depth = bus.broker.depth(spec)
        found.append(
            Standing(
                spec.name,
                spec.topic,
                depth,
                backlog_s(depth, known.get(spec.id, 0.0)),
                listeners.get(spec.id, 0),
                spec.id in paused,
            )
        )
    return found


def backlog_s(depth: Depth, rate_per_s: float) -> float:
    """Return the time to drain *depth*, see :class:`Standing`."""
    if not depth.visible:
        return 0.0
    return depth.visible / rate_per_s if rate_per_s > 0 else depth.oldest_s or 0.0
