"""Who gets the events of a topic, kept from one publish to the next."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.errors import NotFound
from mltrigger.event.codec import loads_untagged
from mltrigger.event.data import is_json
from mltrigger.event.event import Event, attributes_of
from mltrigger.filters import FilterPolicy
from mltrigger.filters.index import FilterIndex
from mltrigger.names import is_topic
from mltrigger.store.placing import Placing, placing_of
from mltrigger.store.registry import filter_of
from mltrigger.store.transaction import Transaction

_NOW = """
SELECT (SELECT value FROM setting WHERE name = 'generation'),
  (SELECT coalesce(max(seq), 0) FROM event)
"""
_TOPIC = """
SELECT t.id, s.id, s.name, s.filter, s.filter_scope, s.outside, s.role, s.policy
FROM topic t
LEFT JOIN subscription s ON s.topic_id = t.id AND s.bound = 1 AND s.role IN ('live', 'shadow')
WHERE t.name = :name ORDER BY s.id
"""


class Bound(NamedTuple):
    """A subscription of the topic, and its filter if it has one."""

    id: int
    name: str
    policy: FilterPolicy | None
    outside: bool
    is_lane: bool = False
    """Whether it is a shadow. It has a cursor, and filters what it claims."""
    placing: Placing | None = None
    """Finds the key and the priority of an event, ``None`` for a subscription without both."""

    @property
    def by_rows(self) -> bool:
        """Whether each of its events is a row, instead of a place behind its cursor."""
        has_own = self.policy is not None or self.placing is not None
        return not self.is_lane and (self.outside or has_own)


class Topic(NamedTuple):
    """A topic, and its bound subscriptions: all, and those that go by rows."""

    id: int
    name: str
    bound: Sequence[Bound]
    by_rows: Sequence[Bound]
    names: tuple[str, ...]
    """The names of all of them."""
    filters: FilterIndex | None
    """Finds which of *by_rows* get an event, ``None`` if all do."""

    free: Sequence[Bound]
    """Those that do not go by rows."""
    places: bool = False
    """Whether one has a key or a priority."""

    @property
    def reads_attributes(self) -> bool:
        """Whether a filter, a key or a priority asks for attributes."""
        filters = self.filters is not None and self.filters.reads_attributes
        return filters or any(b.placing.reads_attributes for b in self.by_rows if b.placing)

    def bound_of(self, to: Sequence[Bound]) -> Sequence[Bound]:
        """Return all that get an event which passes the filters of *to*, in their order."""
        if len(to) == len(self.by_rows):
            return self.bound
        return sorted([*self.free, *to]) if self.free else to


class Topics:
    """The topics that this process has published to, as of a generation of the registry."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, Topic]] = {}

    def now(self, transaction: Transaction) -> tuple[str | None, int]:
        """Return the generation of the registry, and the number of the newest event of the log."""
        ((generation, newest),) = transaction.query(_NOW, {})
        return generation, newest

    def of(self, transaction: Transaction, name: str, generation: str | None) -> Topic:
        """Return topic *name* as of *generation*.

        Raises
        ------
        NotFound
            When there is no such topic.
        """
        known = self._known.get(name)
        if known is not None and known[0] == generation:
            return known[1]
        topic = _read(transaction, name)
        # A transaction that is rolled back must leave nothing behind.
        keep = functools.partial(self._known.__setitem__, name, (generation, topic))
        transaction.after_visible(keep)
        return topic


def _read(transaction: Transaction, name: str) -> Topic:
    rows = transaction.query(_TOPIC, {"name": name}) if is_topic(name) else []
    if not rows:
        names = transaction.query("SELECT name FROM topic", {})
        known = [other for (other,) in names if is_topic(other)]
        raise NotFound.of(
            "topic",
            name,
            known,
            "subscribe to it or call bus.topic(…) to make it; bus.topics() lists all",
        )
    bound = []
    for _, number, subscription, filter_text, scope, outside, role, settings in rows:
        if number is not None:
            policy = filter_of(filter_text, scope, "subscription", number)
            by = None if outside or role != "live" else placing_of(settings, number)
            bound.append(Bound(number, subscription, policy, bool(outside), role == "shadow", by))
    by_rows = [b for b in bound if b.by_rows]
    filters = [b.policy for b in by_rows]
    index = FilterIndex(filters) if any(filters) else None
    free = [b for b in bound if not b.by_rows]
    listed = tuple(b.name for b in bound if not b.is_lane)
    places = any(b.placing is not None for b in by_rows)
    return Topic(rows[0][0], name, bound, by_rows, listed, index, free, places)


class Seen:
    """An event as filters see it, parsed once, and only when a filter asks.

    Parameters
    ----------
    event, raw, media_type
        The event, its data as bytes, and their media type. ``None`` for an event of which no filter
        asks for attributes.
    """

    __slots__ = ("_attributes", "_body", "_event", "_media_type", "_raw")

    def __init__(self, event: Event | None, raw: bytes, media_type: str | None) -> None:
        self._event, self._raw, self._media_type = event, raw, media_type
        self._attributes: dict[str, Any] | None = None
        self._body: Any = self

    @property
    def attributes(self) -> dict[str, Any]:
        """The context attributes by name."""
        if self._attributes is None:
            self._attributes = attributes_of(self._event) if self._event is not None else {}
        return self._attributes

    @property
    def body(self) -> Any:
        """The data as plain JSON, as a subscriber in another language reads it.

        ``None`` for other data, which never matches.
        """
        if self._body is self:  # not read so far
            self._body = loads_untagged(self._raw) if is_json(self._media_type) else None
        return self._body

    def passes(self, policy: FilterPolicy | None) -> bool:
        """Whether a subscription with this filter gets the event."""
        if policy is None:
            return True
        return (
            policy.matches_attributes(self.attributes)
            if policy.scope == "MessageAttributes"
            else policy.matches_body(self.body)
        )
