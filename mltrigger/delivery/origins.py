"""Origins: what a subscription listens to, as people write it, and how the objects behind its
events are opened.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from mltrigger.broker import Broker, Source, SubscriptionSpec
from mltrigger.errors import InvalidName, NameTaken
from mltrigger.names import check_topic
from mltrigger.sources import (
    HOW_FOLDERS_ARE_WRITTEN,
    FolderSource,
    described,
    folder_url,
    is_source,
)
from mltrigger.store.registry import Registry


class Origin(NamedTuple):
    """What a source names: its *url*, ``None`` for a topic; the *names* that its topic may have;
    and its *topic*, once there is one.
    """

    url: str | None
    names: list[str]
    topic: str | None


class Origins:
    """The topics of one bus, and the folders and buckets that are published on them.

    Parameters
    ----------
    registry, broker
        The parts.
    """

    def __init__(self, registry: Registry, broker: Broker) -> None:
        self._registry, self._broker = registry, broker

    def found(self, source: str | os.PathLike[str]) -> Origin:
        """Return what *source* names, once it was looked at; make nothing."""
        url, names = self.find(source)
        topic = (
            names[0]
            if url is None
            else next((t for t, known in self._registry.sources().items() if known == url), None)
        )
        if url is not None and topic is None and is_source(url):
            FolderSource(url).check()  # one that is known may be gone for a while: it is waited for
        return Origin(url, names, topic)

    def topic_of(self, origin: Origin) -> str:
        """Return the topic of *origin*; that of a folder or a bucket is made if need be."""
        return (
            self._registry.source_topic(origin.url, *origin.names)
            if origin.url is not None
            else origin.names[0]
        )

    def find(self, source: str | os.PathLike[str]) -> tuple[str | None, list[str]]:
        """Return the URL of what *source* names, ``None`` for a topic, and names that its topic may
        have; make nothing.
        """
        if is_source(source):
            folder = FolderSource(folder_url(source))
            return folder.url, folder.topic_names(self._registry.sources().values())
        located = self._broker.locate(str(source))
        if located is not None:
            return located[0], [located[1]]
        try:
            return None, [check_topic(source, self._broker.ordered)]
        except InvalidName as error:
            raise InvalidName(f"{error}; {HOW_FOLDERS_ARE_WRITTEN}") from None

    def check_same(self, name: str, origin: Origin, before: SubscriptionSpec | None) -> None:
        """Raise NameTaken when subscription *name*, which was *before*, would listen to another
        *origin* now.
        """
        if before is not None and before.topic != origin.topic:
            sources = self._registry.sources()
            wanted = (
                *origin.names,
                *(f"{origin.names[0]}-{n}" for n in range(2, len(sources) + 3)),
            )
            topic = origin.topic or next(each for each in wanted if each not in sources)
            sources = {**sources, topic: origin.url} if origin.url is not None else sources
            now, asked = (described(each, sources) for each in (before.topic, topic))
            raise NameTaken(
                f"subscription {name!r} listens to {now}, not to {asked}; pass name='…' for a"
                " second one, or unsubscribe it"
            )

    def of(self, spec: SubscriptionSpec) -> Source | None:
        """Return what opens the objects of the events of *spec*; ``None`` when they have none."""
        url = self._registry.sources().get(spec.topic)
        if url is None:
            return None
        return FolderSource(url) if is_source(url) else self._broker.source(url, spec.policy)
