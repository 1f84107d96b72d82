"""Checks of the doctor: the keys of the events that wait for a subscription."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mltrigger.broker import Finding, SubscriptionSpec
from mltrigger.store import waits
from mltrigger.store.transaction import Store
from mltrigger.store.waits import KeyDepth
from mltrigger.text import count, short

LOOKED_AT = 10_000
"""The delayed events and retries that are looked at. What waits for its turn is only counted."""
MANY = 100
"""With fewer waiting events, a key that has most of them is worth no word."""
_MOST = 0.5


def keys(store: Store, spec: SubscriptionSpec, now_us: int) -> Iterator[Finding]:
    """Return findings about the settings of *spec*, from the keys of open events."""
    if spec.policy.key is None or store.hides_data:
        return
    with store.snapshot() as reader:
        found = waits.by_key(reader, spec.id, now_us, LOOKED_AT)
    if found:
        yield from _crowded(spec, found)
        yield from _without(spec, found)
        yield from _idle(spec, found)


def _crowded(spec: SubscriptionSpec, found: Sequence[KeyDepth]) -> Iterator[Finding]:
    waiting, first = sum(d.waiting for d in found), found[0]
    if first.key is None or len(found) < 2 or waiting < MANY or first.waiting <= waiting * _MOST:
        return
    limit = spec.policy.max_concurrency_per_key
    faster = "add workers" if limit is None else f"raise max_concurrency_per_key, now {limit}"
    yield Finding(
        "info",
        spec.name,
        "key",
        f"the {spec.policy.key} {short(first.key)} has {first.waiting:,} of {waiting:,} events that"
        " wait",
        f"none for the others: they take turns with it; {faster} to be done with it sooner;"
        ' sub.depth(by="key") shows all',
    )


def _without(spec: SubscriptionSpec, found: Sequence[KeyDepth]) -> Iterator[Finding]:
    n = sum(d.waiting + d.in_flight + d.delayed for d in found if d.key is None)
    if not n:
        return
    have = "has" if n == 1 else "have"
    yield Finding(
        "warning",
        spec.name,
        "key",
        f"{count(n, 'open event')} {have} no {spec.policy.key!r}: such events share one turn and"
        " one limit",
        f"publish them with {spec.policy.key!r}, a text or a number, or subscribe with the path"
        " that they have: key='…'",
    )


def _idle(spec: SubscriptionSpec, found: Sequence[KeyDepth]) -> Iterator[Finding]:
    limit, calls = spec.policy.max_concurrency_per_key, spec.policy.max_concurrency
    if limit is None or calls is None:
        return
    busy = [d for d in found if d.waiting or d.in_flight]
    held_up = sum(max(0, d.waiting + min(0, d.in_flight - limit)) for d in busy)
    most = sum(min(limit, d.waiting + d.in_flight) for d in busy)
    if not held_up or most >= calls:
        return
    yield Finding(
        "warning",
        spec.name,
        "max_concurrency_per_key",
        f"{count(len(busy), 'key')} with max_concurrency_per_key={limit} let {count(most, 'event')}"
        f" run: {calls - most} of max_concurrency={calls} stay idle, and {held_up:,} wait",
        f"max_concurrency_per_key={-(-calls // len(busy))} would use all, if the keys bear it; or"
        " name a finer key",
    )
