"""Sources: something that already exists and becomes events. The laptop's bucket: a watched folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mltrigger.events import Event
from mltrigger.sources.folder import FolderSource
from mltrigger.sources.places import HOW_FOLDERS_ARE_WRITTEN, described, folder_url, is_source
from mltrigger.sources.watcher import Watcher

__all__ = ["HOW_FOLDERS_ARE_WRITTEN", "FolderSource", "Source", "Watcher", "described", "folder_url", "is_source", "prepared_by"]


class Source(Protocol):
    """Something that exists and becomes events: a folder, a bucket."""

    def prepare(self, event: Event) -> Event:
        """Return *event* ready for a model: bound to how its object is opened."""


def prepared_by(source: Source | None) -> Callable[[Event], Event]:
    """Return what makes an event ready for a model: of *source*, or of none, where there is nothing to do."""
    return source.prepare if source is not None else lambda event: event
