"""Lineage: the chain and the tree of events that one event has caused.

Topics may feed themselves. A warning says so when they are bound, and limits end it when they run.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mltrigger.broker import Broker, Receipt, SubscriptionSpec, followed
from mltrigger.clock import Clock
from mltrigger.delivery.circles import ADVICE, circle_of
from mltrigger.delivery.observed import Observed
from mltrigger.errors import Circular, warn
from mltrigger.event.data import encode_data
from mltrigger.event.event import MAX_HOPS, Event
from mltrigger.event.ids import child_span
from mltrigger.event.making import as_event
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.log import Log
from mltrigger.store.registry import Registry
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Transaction
from mltrigger.versions.running.current import Running, current
from mltrigger.versions.running.invoke import Result

AWAITED = "awaitedby"
"""The extension with the subscriptions whose models wait for the event."""
FEW = 16
"""Descendants that a process counts in memory. Most events have no more."""
_MOST_ROOTS, _MOST_STORES = 50_000, 100
_COUNT = """
INSERT INTO descent (root, n, counted_us) VALUES (:root, :n, :now)
ON CONFLICT (root) DO UPDATE SET n = descent.n + excluded.n, counted_us = excluded.counted_us
"""
_COUNTED = "SELECT n FROM descent WHERE root = :root"

CHAIN = Result(
    reason="recursion_limit",
    error_type="RecursionError",
    error=(
        f"the event is the {MAX_HOPS}th of a chain in which each caused the next: a topic feeds"
        " itself; doctor() names the circle"
    ),
    permanent=True,
)
"""The refusal of an event at the end of a chain. The model is not called."""
TREE = Result(
    reason="too_many_descendants",
    error_type="RecursionError",
    error=(
        "the event that began it has led to max_descendants others: a topic may feed itself"
        " (doctor() names circles); else raise it"
    ),
    permanent=True,
)
"""The refusal of an event whose output would be one too many."""


class _Counts:
    """The descendants of the events of one store, as this process counted them."""

    def __init__(self) -> None:
        self.few: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.guard = threading.Lock()


_of_files: dict[tuple[str, int], _Counts] = {}


def _counts_of(home: str) -> _Counts:
    """Return the counts of the store *home*.

    All buses on one file share them: a model may connect at every call.
    """
    try:
        key = home, os.stat(home).st_ino  # noqa: PTH116 - no path where the store is in memory
    except OSError:
        return _Counts()
    while len(_of_files) >= _MOST_STORES and key not in _of_files:
        _of_files.pop(next(iter(_of_files)), None)
    return _of_files.setdefault(key, _Counts())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_of_files.clear)  # another thread may have held a lock


class Descent:
    """Counts the descendants of events: a few in memory, more of them exactly in the store.

    Parameters
    ----------
    clock : Clock
        Dates the counts, so that old ones can be deleted.
    home : str, optional
        The store of the events, see :attr:`Log.home`.
    """

    def __init__(self, clock: Clock, home: str = "") -> None:
        counts = _counts_of(home)
        self._clock, self._guard = clock, counts.guard
        self._few, self._known = counts.few, counts.known

    def add(self, transaction: Transaction, roots: Iterable[str]) -> dict[str, int]:
        """Count one descendant for each of *roots*. Return root -> count for roots above a few."""
        totals: dict[str, int] = {}
        for root, n in Counter(roots).items():
            if (unsaved := self._unsaved(root, n)) is None:
                continue
            transaction.execute(_COUNT, {"root": root, "n": unsaved, "now": self._clock.now_us()})
            totals[root] = int(transaction.query(_COUNTED, {"root": root})[0][0])
        with self._guard:
            self._known.update(totals)
        return totals

    def of(self, root: str) -> int:
        """Return how many descendants *root* had at the last count, 0 for a few."""
        return self._known.get(root, 0)

    def _unsaved(self, root: str, n: int) -> int | None:
        """Return how many to add in the store, None while there are few."""
        with self._guard:
            if root in self._known:
                return n
            for counts in (self._few, self._known):
                while len(counts) >= _MOST_ROOTS:
                    counts.pop(next(iter(counts)))
            count = self._few.pop(root, 0) + n
            if count > FEW:
                self._known[root] = 0
                return count
            self._few[root] = count
            return None


class Lineage:
    """Publishes for a bus. Events that a model publishes are caused by the model's event."""

    def __init__(
        self, broker: Broker, registry: Registry, log: Log, clock: Clock, observed: Observed
    ) -> None:
        self.descent, self._observed = Descent(clock, log.home), observed
        self._broker, self._registry, self._log = broker, registry, log
        self._told: set[tuple[str, str]] = set()

    def publish(self, topic: str, samples: Sequence[Any], awaited: bool = False) -> list[Receipt]:
        """Publish Events and data. With *awaited* the caller waits for their outcomes.

        Raises
        ------
        Circular
            When the chain or the tree of events is too large, or a model would wait for itself.
        """
        return self._observed.send(self._publish, topic, samples, awaited)

    def _publish(self, topic: str, samples: Sequence[Any], awaited: bool) -> list[Receipt]:
        running = current()
        if running is not None and samples:
            events = [as_event(sample) for sample in samples]
            at_home = running.place.home == self._log.home
            if awaited and at_home:
                self._check_fire(topic, events, running)
            if at_home and running.place.topic == topic:
                self._tell(topic, running.place.subscription)
            samples = self._inherited(topic, events, running, at_home, awaited)
        return self._broker.publish(topic, samples)

    def hand_on(self, topic: str, events: Sequence[Event]) -> int:
        """Publish *events* that others have caused. Return how many were left out.

        One event leads to at most so many on *topic* as any subscription allows in
        ``max_descendants``. They are counted apart from those that models make: to follow the
        outcomes of a model must not keep it from working.
        """
        policies = [spec.policy for spec in self._registry.subscriptions()]
        most = max(policy.max_descendants for policy in [*policies, DeliveryPolicy()])
        roots = [f"{topic}:{event.root}" for event in events]
        with self._log.unit() as unit:
            totals = self.descent.add(unit.transaction, roots)
            room = {root: most - n + roots.count(root) for root, n in totals.items() if n > most}
            kept = []
            for event, root in zip(events, roots, strict=True):
                if root in room:
                    room[root] -= 1
                if room.get(root, 0) >= 0:
                    kept.append(event)
            if kept:
                self._observed.send(self._broker.publish, topic, kept, unit)
        return len(events) - len(kept)

    def check_wait(self) -> None:
        """Raise Circular inside a model of this bus. Its own event is open until it returns."""
        running = current()
        if running is not None and running.place.home == self._log.home:
            raise Circular(
                f"the model of {running.place.subscription!r} would wait for itself: bus.wait()"
                " returns when no event is open, and its own is; bus.fire(…) waits for the events"
                " that it publishes",
                reason="waits_for_itself",
                permanent=True,
            )

    def warn_of_circle(self, spec: SubscriptionSpec) -> None:
        """Warn when the outputs or outcomes of a subscription come back to it."""
        sources = followed(self._registry.sources())
        if (spec.emit is not None or sources) and (
            circle := circle_of(spec.name, self._registry.subscriptions(), sources)
        ):
            warn(f"{circle}: {ADVICE}")

    def _tell(self, topic: str, subscription: str) -> None:
        if (subscription, topic) not in self._told:
            self._told.add((subscription, topic))
            warn(
                f"the model of {subscription!r} publishes to {topic!r}, the topic that it listens"
                f" to: each event causes the next, until {MAX_HOPS} hops or max_descendants events"
            )

    def _inherited(
        self, topic: str, events: Sequence[Event], running: Running, at_home: bool, awaited: bool
    ) -> Sequence[Event]:
        cause = running.event
        if cause.hops >= MAX_HOPS:
            raise Circular(
                f"not published to {topic!r}: {CHAIN.error}",
                reason="recursion_limit",
                permanent=True,
            )
        spec = self._registry.subscription(running.place.subscription) if at_home else None
        self._check_tree(
            topic,
            cause.root,
            len(events),
            (spec.policy if spec else DeliveryPolicy()).max_descendants,
        )
        more = (
            {AWAITED: ",".join([*awaiting(cause), running.place.subscription])}
            if awaited and at_home
            else {}
        )
        return [_caused(event, cause, more) for event in events]

    def _check_tree(self, topic: str, root: str, n: int, most: int) -> None:
        with self._log.unit() as unit:
            total = self.descent.add(unit.transaction, [root] * n).get(root, 0)
        if total > most:
            raise Circular(
                f"not published to {topic!r}: with these {n:,} the event {root!r} would have led to"
                f" {total:,} others, max_descendants is {most:,}: a topic may feed itself; doctor()"
                " names circles. Else raise that setting of the subscription",
                reason="too_many_descendants",
                permanent=True,
            )

    def _check_fire(self, topic: str, events: Sequence[Event], running: Running) -> None:
        """Raise Circular if a model would wait for itself, directly or through others."""
        own = running.place.subscription
        for spec in self._registry.subscriptions():
            if (
                spec.topic == topic
                and spec.name in (own, *awaiting(running.event))
                and any(_passes(spec, event) for event in events)
            ):
                chain = (
                    ""
                    if spec.name == own
                    else f", and the model of {spec.name!r} waits for this very event"
                )
                raise Circular(
                    f"the model of {own!r} would wait for itself: it fires on {topic!r}, which"
                    f" {spec.name!r} listens to{chain}; nothing was published. bus.publish(…) does"
                    " not wait",
                    reason="waits_for_itself",
                    permanent=True,
                )


def _caused(event: Event, cause: Event, more: Mapping[str, str]) -> Event:
    """Return *event* as caused by *cause*. It keeps its own trace, and a longer chain."""
    trace = {"traceparent": child_span(cause.traceparent)} if cause.traceparent else {}
    return dataclasses.replace(
        event, extensions={**trace, **event.extensions, **cause.led_to(event.hops), **more}
    )


def awaiting(event: Event) -> list[str]:
    """Return the subscriptions whose models wait for *event*."""
    return [name for name in str(event.extensions.get(AWAITED, "")).split(",") if name]


def _passes(spec: SubscriptionSpec, event: Event) -> bool:
    return spec.filter is None or Seen(event, *encode_data(event, 1 << 62)).passes(spec.filter)
