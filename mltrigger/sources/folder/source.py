"""The adapter of watched folders: the door from the core to this room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mltrigger.broker import Feed, Feeder, Finding, Source
from mltrigger.sources.folder.census import findings
from mltrigger.sources.folder.folder import Folder, source_of
from mltrigger.sources.folder.watcher import Watcher


class FolderSource(Folder, Source):
    """A watched folder as a source: ``file:///scans/*.png``, or a path."""

    pauses = False  # a file may go before it is an event: its name is noted all the same

    def topic_names(self, others: Iterable[Folder] = ()) -> list[str]:
        """Return names for the topic: the folder's own, then with more of the path.

        Another folder may have taken a short one. Patterns of one folder share its topic's name.
        """
        known = any(other.folder == self.folder for other in others)
        return self.names[:1] if known else self.names

    def feeder(self, feed: Feed) -> Feeder:
        """Return the watcher of this process, one thread for all folders."""
        return Watcher(
            feed.publish, lambda topic, after: feed.history(topic, source_of(topic), after)
        )

    def findings(self, about: str, note: str = "") -> Iterator[Finding]:
        """Yield findings about files that are no events, and about the folder itself."""
        return findings(about, self, note)
