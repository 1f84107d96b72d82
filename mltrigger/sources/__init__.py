"""Sources: something that already exists and becomes events. The laptop's bucket: a watched folder."""

from __future__ import annotations

from mltrigger.sources.folder.places import (
    HOW_FOLDERS_ARE_WRITTEN,
    described,
    folder_url,
    is_source,
)
from mltrigger.sources.folder.source import FolderSource
from mltrigger.sources.folder.watcher import Watcher

__all__ = [
    "HOW_FOLDERS_ARE_WRITTEN",
    "FolderSource",
    "Watcher",
    "described",
    "folder_url",
    "is_source",
]
