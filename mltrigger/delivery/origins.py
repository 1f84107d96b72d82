"""Origins: the thing that a subscription listens to, from the text that people write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mltrigger.broker import (
    HOW_FOLDERS_ARE_WRITTEN,
    SOURCES,
    Broker,
    Notes,
    Outside,
    Prepare,
    Source,
    SubscriptionSpec,
    scheme_of,
    shown,
    source_at,
)
from mltrigger.errors import InvalidName, NameTaken, NotFound, StoreError, warn
from mltrigger.names import check_topic
from mltrigger.store.registry import Registry
from mltrigger.text import short


class Origin(NamedTuple):
    """The thing behind a text.

    ``url`` is that of a source, ``None`` for a topic. ``names`` are those that the topic may have.
    ``topic`` is the known topic, if there is one. ``start`` is the default of a new subscription.
    """

    url: str | None
    names: list[str]
    topic: str | None
    start: str = "latest"


class Origins:
    """The topics of one bus, and the sources that are published on them."""

    def __init__(
        self, registry: Registry, broker: Broker, notes: Notes, outside: Outside | None = None
    ) -> None:
        self._registry, self._ordered = registry, broker.ordered
        self._notes, self._outside = notes, outside

    def find(
        self,
        text: str | os.PathLike[str],
        check: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> Origin:
        """Return the origin that *text* names, with the *options* of sources. Make nothing.

        With *check* a new source must exist. A known one may be gone for a while.
        """
        source, given = source_at(text), {n: v for n, v in (options or {}).items() if v is not None}
        if source is None and given:
            raise InvalidName(
                f"{' and '.join(f'{name}=' for name in sorted(given))} is for a table, such as"
                f" table+sqlite:///app.db#documents, not for {short(str(text))}"
            )
        if source is not None:
            source = source.with_options(given) if given else source
            known = self._registry.sources()
            topic = next((topic for topic, url in known.items() if url == source.url), None)
            if topic is None and check:
                self._check(source)
            others = [o for url in known.values() if type(o := source_at(url)) is type(source)]
            return Origin(source.url, source.topic_names(others), topic, source.start)
        located = self._located(str(text))
        if located is not None:
            url, name = located
            known = self._registry.sources()
            return Origin(url, [name], next((t for t, u in known.items() if u == url), None))
        try:
            name = check_topic(text, self._ordered)
        except InvalidName as error:
            raise InvalidName(f"{error}; {HOW_FOLDERS_ARE_WRITTEN}") from None
        return Origin(None, [name], name)

    def _check(self, source: Source) -> None:
        """Raise an error unless the new *source* exists, here or outside."""
        name = source.follows
        if name and self._registry.subscription(name) is None:
            known = [spec.name for spec in self._registry.subscriptions(None)]
            raise NotFound.of("subscription", name, known, "subscribe it first, then its outcomes")
        source.check()

    def _located(self, text: str) -> tuple[str, str] | None:
        if self._outside is not None:
            return self._outside.locate(text)
        if "://" in text or scheme_of(text) == "arn":
            raise InvalidName(
                f"{short(text)} is listened to from a bus on AWS: bus ="
                " mt.connect('aws://region/prefix'), then bus.subscribe(…); here a source is the"
                " name of a topic or a folder, file:///scans/*.png"
            )
        return None

    def plan(self, spec: SubscriptionSpec, url: str | None) -> Iterable[tuple[Any, ...]]:
        """Return the changes outside that binding *spec* to the source *url* would make."""
        if url is not None and (source := source_at(url)) is not None:
            yield from source.plan()
        if self._outside is not None:
            yield from self._outside.plan(spec, url)

    def attach(self, topic: str, from_start: bool, known: bool) -> None:
        """Make the resources outside that the source of *topic* needs. Idempotent.

        A *known* source may be away: then its feeder does it later.
        """
        if (source := self.at(topic)) is None:
            return
        try:
            source.attach(topic, self._notes, from_start)
        except (StoreError, OSError, InvalidName) as error:
            if not known or from_start:
                raise
            warn(f"{error}; it is waited for")

    def detach(self, topic: str, delete: bool) -> None:
        """Remove with *delete* the resources of a source without subscriptions. Else warn."""
        source = self.at(topic)
        if source is None or any(s.topic == topic for s in self._registry.subscriptions()):
            return
        if delete:
            source.remove(topic, self._notes)
        elif left := source.left_behind():
            warn(f"{left}: unsubscribe(delete=True) removes it")

    def topic_of(self, origin: Origin) -> str:
        """Return the topic of *origin*. Make it for a new source."""
        if origin.url is None:
            return origin.names[0]
        return self._registry.source_topic(origin.url, *origin.names)

    def check_same(self, name: str, origin: Origin, before: SubscriptionSpec | None) -> None:
        """Raise NameTaken if subscription *name* was *before* and *origin* is another one."""
        if before is None or before.topic == origin.topic:
            return
        sources = self._registry.sources()
        wanted = (*origin.names, *(f"{origin.names[0]}-{n}" for n in range(2, len(sources) + 3)))
        topic = origin.topic or next(each for each in wanted if each not in sources)
        sources = {**sources, topic: origin.url} if origin.url is not None else sources
        now, asked = (_described(each, sources) for each in (before.topic, topic))
        raise NameTaken(
            f"subscription {name!r} listens to {now}, not to {asked}; pass name='…' for a second"
            " one, or unsubscribe it"
        )

    def source(self, spec: SubscriptionSpec) -> Source | None:
        """Return the source of *spec*. ``None`` if this process cannot feed it."""
        return self.at(spec.topic)

    def at(self, topic: str) -> Source | None:
        """Return the source of *topic*. ``None`` if this process cannot feed it."""
        url = self._registry.sources().get(topic)
        return source_at(url) if url is not None else None

    def prepare(self, spec: SubscriptionSpec) -> Prepare:
        """Return the function that makes events of *spec* ready for a model."""
        url, prepare = self._registry.sources().get(spec.topic), None
        if url is not None and (source := source_at(url)) is not None:
            return source.prepare
        if url is not None and self._outside is not None:
            prepare = self._outside.prepare(url, spec.policy)
        return prepare or (lambda event: event)


def _described(topic: str, urls: dict[str, str]) -> str:
    """Return *topic* for an error, with its source if this process can feed it."""
    scheme = scheme_of(urls.get(topic, ""))
    return f"{topic!r} ({scheme}:{shown(urls)[topic]})" if scheme in SOURCES else repr(topic)
