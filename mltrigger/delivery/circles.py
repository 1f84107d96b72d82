"""Circles: subscriptions whose outputs come back to them through ``emit``."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from mltrigger.broker import SubscriptionSpec
from mltrigger.event.event import MAX_HOPS

OUTPUT_TYPE = "mltrigger.output"
"""The type of events that ``emit`` makes."""
ADVICE = (
    "filter={'type': [{'anything-but': 'mltrigger.output'}]} keeps outputs out; or emit to another"
    " topic"
)
"""What to do about a circle."""


def circle_of(name: str, specs: Sequence[SubscriptionSpec]) -> str | None:
    """Return in words how the subscription *name* feeds itself through ``emit``; ``None`` when it
    does not.
    """
    return next(
        (_told(path, members) for path, members in _circles(specs, [name]) if path[0].name == name),
        None,
    )


def circles(specs: Sequence[SubscriptionSpec]) -> list[tuple[str, str]]:
    """Return the circles of ``emit`` among *specs*: a subscription in it, and the circle in words."""
    return [
        (path[0].name, _told(path, members))
        for path, members in _circles(specs, [spec.name for spec in specs])
    ]


def _circles(
    specs: Sequence[SubscriptionSpec], names: Sequence[str]
) -> list[tuple[list[SubscriptionSpec], set[str]]]:
    """Return the shortest circle through each of *names*, once for subscriptions that feed one
    another, and who these are.
    """
    listening: defaultdict[str, list[SubscriptionSpec]] = defaultdict(list)
    for spec in specs:
        listening[spec.topic].append(spec)
    fed = {
        s.name: [t for t in listening[s.emit] if not _kept_out(s, t)] if s.emit else []
        for s in specs
    }
    by_name = {spec.name: spec for spec in specs}
    found: list[tuple[list[SubscriptionSpec], set[str]]] = []
    for name in names:
        if name not in by_name or any(name in members for _, members in found):
            continue
        ways = _ways(name, fed)
        if name in ways:
            path = [by_name[name]]
            while (before := ways[path[0].name]) != name:
                path.insert(0, by_name[before])
            path = [path[-1], *path[:-1]]
            found.append((path, {other for other in ways if name in _ways(other, fed)}))
    return found


def _ways(name: str, fed: Mapping[str, Sequence[SubscriptionSpec]]) -> dict[str, str]:
    """Return whom the subscription *name* feeds, directly or through others, each with the one
    before it.
    """
    ways: dict[str, str] = {}
    queue = deque([name])
    while queue:
        now = queue.popleft()
        for other in fed[now]:
            if other.name not in ways:
                ways[other.name] = now
                queue.append(other.name)
    return ways


def _kept_out(emitting: SubscriptionSpec, spec: SubscriptionSpec) -> bool:
    """Whether the filter of *spec* certainly keeps out what *emitting* emits: it asks for type or
    source only.
    """
    known = {"type": OUTPUT_TYPE, "source": f"mltrigger/{emitting.name}"}
    policy = spec.filter
    if (
        policy is None
        or policy.scope != "MessageAttributes"
        or not set(json.loads(policy.to_json())) <= set(known)
    ):
        return False
    return not policy.matches_attributes(known)


def _told(path: Sequence[SubscriptionSpec], members: set[str]) -> str:
    steps = ", ".join(f"{spec.name!r} emits from {spec.topic!r} to {spec.emit!r}" for spec in path)
    others = sorted(members - {spec.name for spec in path})
    more = (
        f"; {', '.join(map(repr, others))} {'is' if len(others) == 1 else 'are'} in it too, so that"
        " events multiply"
        if others
        else ""
    )
    return (
        f"outputs go in a circle: {steps}{more}; it ends after {MAX_HOPS} hops or max_descendants"
        " events"
    )
