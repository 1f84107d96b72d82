"""Circles: subscriptions that feed themselves, through ``emit`` or by their outcomes."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from mltrigger.broker import SubscriptionSpec
from mltrigger.event.event import MAX_HOPS
from mltrigger.store.outcomes import FINAL

OUTPUT_TYPE = "mltrigger.output"
"""The type of events that ``emit`` makes."""
OUTCOMES_OF = "mltrigger/outcomes/"
"""The beginning of the source of events that are outcomes. The subscription follows."""
OUTCOME_TYPE = "mltrigger.outcome."
"""The beginning of the type of events that are outcomes. The outcome follows."""
ADVICE = (
    "filter={'type': [{'anything-but': 'mltrigger.output'}]} keeps outputs out, {'anything-but':"
    " {'prefix': 'mltrigger.outcome.'}} outcomes; or use another topic"
)
"""How to end a circle."""


def circle_of(
    name: str, specs: Sequence[SubscriptionSpec], followed: Mapping[str, str]
) -> str | None:
    """Describe how the subscription *name* feeds itself, None if it does not.

    *followed*: topic -> the subscription whose outcomes are published there.
    """
    for path, members in _circles(specs, followed, [name]):
        return _told(path, members)
    return None


def circles(
    specs: Sequence[SubscriptionSpec], followed: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return each circle among *specs*: one of its subscriptions, and a description."""
    return [
        (path[0].name, _told(path, members))
        for path, members in _circles(specs, followed, [spec.name for spec in specs])
    ]


def _circles(
    specs: Sequence[SubscriptionSpec], followed: Mapping[str, str], names: Sequence[str]
) -> list[tuple[list[SubscriptionSpec], set[str]]]:
    """Return the shortest circle through each of *names*, and all subscriptions that feed it.

    Subscriptions that feed one another have one circle.
    """
    listening: defaultdict[str, list[SubscriptionSpec]] = defaultdict(list)
    for spec in specs:
        listening[spec.topic].append(spec)
    fed = {
        s.name: [t.name for t in listening[s.emit] if not _keeps_out(t, s)] if s.emit else []
        for s in specs
    }
    for topic, name in followed.items():
        if name in fed:
            fed[name] += [t.name for t in listening[topic] if not _keeps_outcomes_out(t, name)]
    by_name = {spec.name: spec for spec in specs}
    found: list[tuple[list[SubscriptionSpec], set[str]]] = []
    for name in names:
        if name not in by_name or any(name in members for _, members in found):
            continue
        feeder = _reached(name, fed)
        if name in feeder:
            path = [name]
            while (before := feeder[path[0]]) != name:
                path.insert(0, before)
            path = [path[-1], *path[:-1]]
            members = {other for other in feeder if name in _reached(other, fed)}
            found.append(([by_name[step] for step in path], members))
    return found


def _reached(name: str, fed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the subscriptions that *name* feeds, directly or not, each with its feeder."""
    feeder: dict[str, str] = {}
    queue = deque([name])
    while queue:
        now = queue.popleft()
        for other in fed[now]:
            if other not in feeder:
                feeder[other] = now
                queue.append(other)
    return feeder


def _keeps_out(spec: SubscriptionSpec, emitting: SubscriptionSpec) -> bool:
    """Whether the filter of *spec* surely keeps out the outputs of *emitting*.

    Only the type and the source of an output are known.
    """
    return _is_kept_out(spec, OUTPUT_TYPE, f"mltrigger/{emitting.name}")


def _keeps_outcomes_out(spec: SubscriptionSpec, name: str) -> bool:
    """Whether the filter of *spec* surely keeps out all outcomes of the subscription *name*."""
    source = f"{OUTCOMES_OF}{name}"
    return all(_is_kept_out(spec, f"{OUTCOME_TYPE}{outcome}", source) for outcome in FINAL)


def _is_kept_out(spec: SubscriptionSpec, type_: str, source: str) -> bool:
    known = {"type": type_, "source": source}
    policy = spec.filter
    if policy is None or policy.scope != "MessageAttributes":
        return False
    asked = set(json.loads(policy.to_json()))
    return asked <= set(known) and not policy.matches_attributes(known)


def _told(path: Sequence[SubscriptionSpec], members: set[str]) -> str:
    steps = ", ".join(
        f"{spec.name!r} emits from {spec.topic!r} to {spec.emit!r}"
        if spec.emit == after.topic
        else f"the outcomes of {spec.name!r} go to {after.name!r}"
        for spec, after in zip(path, [*path[1:], path[0]], strict=True)
    )
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
