"""Origins: what a subscription listens to, as people write it, and how the objects behind its events are opened."""

from __future__ import annotations

import os

from mltrigger.brokers.base import Broker, SubscriptionSpec
from mltrigger.errors import InvalidName, NameTaken
from mltrigger.names import check_topic
from mltrigger.sources import HOW_FOLDERS_ARE_WRITTEN, FolderSource, Source, described, folder_url, is_source
from mltrigger.store.registry import Registry


class Origins:
    """The topics of one bus, and the folders and buckets that are published on them.

    Parameters
    ----------
    registry, broker
        The parts.
    """

    def __init__(self, registry: Registry, broker: Broker) -> None:
        self._registry, self._broker = registry, broker

    def topic_of(self, source: str | os.PathLike[str]) -> str:
        """Return the topic of *source*; that of a folder or a bucket is made if need be."""
        url, names = self.find(source)
        if url is None:
            return names[0]
        if is_source(url) and url not in self._registry.sources().values():
            FolderSource(url).check()  # one that is known may be gone for a while: it is waited for
        return self._registry.source_topic(url, *names)

    def find(self, source: str | os.PathLike[str]) -> tuple[str | None, list[str]]:
        """Return the URL of what *source* names, ``None`` for a topic, and names that its topic may have; make nothing."""
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

    def check_same(self, name: str, topic: str, before: SubscriptionSpec | None) -> None:
        """Raise NameTaken when subscription *name*, which was *before*, would listen to another *topic* now."""
        if before is not None and before.topic != topic:
            now, asked = (described(each, self._registry.sources()) for each in (before.topic, topic))
            raise NameTaken(f"subscription {name!r} listens to {now}, not to {asked}; pass name='…' for a second one, or unsubscribe it")

    def of(self, spec: SubscriptionSpec) -> Source | None:
        """Return what opens the objects of the events of *spec*; ``None`` when they have none."""
        url = self._registry.sources().get(spec.topic)
        if url is None:
            return None
        return FolderSource(url) if is_source(url) else self._broker.source(url, spec.policy)
