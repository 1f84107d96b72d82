"""Sources: something that already exists and becomes events. The laptop's bucket: a watched folder."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import logging
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from mltrigger.errors import InvalidEvent, InvalidName, MltriggerError, ObjectMissing
from mltrigger.events import Event, with_opener

logger = logging.getLogger("mltrigger")

FILE_TYPE = "mltrigger.file.created"
SETTLE_S = 0.3
"""A file is taken for complete when it has not changed for this long; one that is moved into the folder whole is old enough at once."""
POLL_S = 0.2
_LOOK_ANYWAY_S = 2.0


def is_source(name: str) -> bool:
    """Whether *name* is the URL of something that exists, rather than a topic."""
    return name.startswith("file:")


class Source(Protocol):
    """Something that exists and becomes events: a folder, a bucket."""

    def prepare(self, event: Event) -> Event:
        """Return *event* ready for a model: bound to how its object is opened."""


def prepared_by(source: Source | None) -> Callable[[Event], Event]:
    """Return what makes an event ready for a model: of *source*, or of none, where there is nothing to do."""
    return source.prepare if source is not None else lambda event: event


class FolderSource:
    """The files of one folder whose names match a pattern, each an event; once, also across restarts.

    Parameters
    ----------
    url : str
        ``file:///folder/*.png``, or ``file:scans/*.png`` relative to the working directory.

    An event's id derives from name, size and time of modification: looking again, or from another process, repeats ids and changes
    nothing, while a file that was replaced is a new event.
    """

    def __init__(self, url: str) -> None:
        # Not urlsplit: in a pattern "?" stands for one character, and "#" is good in a file name.
        scheme, _, rest = url.partition(":")
        host, slash, absolute = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        path = Path(urllib.parse.unquote(slash + absolute))
        if scheme != "file" or host not in ("", "localhost") or not path.name:
            raise InvalidName(f"source {url[:100]!r} must be file:///folder/pattern, for example file:///scans/*.png")
        folder, pattern = (path, "*") if url.endswith("/") or path.is_dir() else (path.parent, path.name)
        if not folder.is_dir():
            raise InvalidName(f"source folder {folder.name!r} does not exist: create it, then subscribe")
        self.folder = folder.resolve()
        self.pattern = pattern
        self.settled = False
        self._seen: dict[str, tuple[int, int]] = {}
        self._looked = (-1, 0.0)

    @property
    def url(self) -> str:
        """The canonical URL, for the registry; it holds an absolute path and is never shown."""
        return f"{self.folder.as_uri()}/{urllib.parse.quote(self.pattern, safe='*?[]!')}"

    @property
    def topic_name(self) -> str:
        """The name for the topic of this source: the folder's, with what SNS refuses replaced."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.folder.name).strip("-")[:80] or "files"

    def look(self, topic: str, now_s: float | None = None) -> list[Event]:
        """Return an event for each complete file that this object has not returned yet."""
        now_s = time.time() if now_s is None else now_s
        # Entries appear and vanish with the folder's own modification time; only files rewritten in place need a look at each.
        changed_ns = self.folder.stat().st_mtime_ns
        if changed_ns == self._looked[0] and now_s - self._looked[1] < _LOOK_ANYWAY_S:
            return []
        events, unsettled = [], False
        with os.scandir(self.folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                found = self._file(entry)
                if found is None or self._seen.get(_shown(entry.name)) == (found.st_mtime_ns, found.st_size):
                    continue
                if now_s - found.st_mtime < SETTLE_S and now_s >= found.st_mtime:
                    unsettled = True
                    continue
                events.append(self._event(entry.name, found, topic))
        self._looked = (-1 if unsettled else changed_ns, now_s)
        self.settled = not unsettled
        return events

    def taken(self, events: Sequence[Event]) -> None:
        """Remember that *events* were published."""
        for event in events:
            self._seen[event.data["name"]] = (event.data["modified_ns"], event.data["size"])

    def open(self, event: Event) -> BinaryIO:
        """Open the file that *event* announces: by its name inside this folder, never through a link, never elsewhere."""
        name = event.subject or ""
        if not name or name.startswith(".") or "/" in name or "\\" in name or "\x00" in name:
            raise InvalidEvent(f"event subject {name[:100]!r} is not the name of a file in the watched folder", "nothing_to_open")
        if not fnmatch.fnmatchcase(name, self.pattern):
            raise InvalidEvent(f"file {name[:100]!r} does not match {self.pattern!r}, which this source announces", "nothing_to_open")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            handle = os.open(self.folder / name, flags)
        except FileNotFoundError as error:
            raise ObjectMissing(error.errno, f"{error.strerror}: {name!r} in the watched folder") from None
        except OSError as error:
            raise type(error)(error.errno, f"{error.strerror}: {name!r} in the watched folder") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InvalidEvent(f"{name!r} is not a regular file", "nothing_to_open")
        return os.fdopen(handle, "rb")

    def prepare(self, event: Event) -> Event:
        """Return *event* with :meth:`~mltrigger.events.Event.open` bound to this folder."""
        return with_opener(event, functools.partial(self.open, event))

    def _file(self, entry: os.DirEntry[str]) -> os.stat_result | None:
        if not fnmatch.fnmatchcase(entry.name, self.pattern) or entry.name.startswith(".") or not _openable(entry.name):
            return None
        with contextlib.suppress(OSError):  # gone since the folder was read
            found = entry.stat(follow_symlinks=False)
            return found if stat.S_ISREG(found.st_mode) else None
        return None

    @staticmethod
    def _event(name: str, found: os.stat_result, topic: str) -> Event:
        shown = _shown(name)
        identity = f"{shown}\n{found.st_size}\n{found.st_mtime_ns}"
        return Event(
            {"name": shown, "size": found.st_size, "modified_ns": found.st_mtime_ns},
            id=hashlib.blake2b(identity.encode(), digest_size=16).hexdigest(),
            source=f"mltrigger/files/{topic}",
            type=FILE_TYPE,
            subject=shown,
            time=datetime.fromtimestamp(found.st_mtime, UTC),
        )


def _openable(name: str) -> bool:
    """Whether an event can carry the name back: no backslash, and UTF-8."""
    return "\\" not in name and _shown(name) == name


def _shown(name: str) -> str:
    """Return a file name as text; bytes that are not UTF-8 are written as ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class Watcher:
    """Looks at the sources of this process and publishes what is new, from one thread.

    Parameters
    ----------
    publish : callable
        Takes a topic and events; returns when they are durable.
    """

    def __init__(self, publish: Callable[[str, Sequence[Event]], object]) -> None:
        self._publish = publish
        self._sources: dict[str, FolderSource] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, topic: str, source: FolderSource) -> None:
        """Watch *source* for *topic*; idempotent."""
        self._sources.setdefault(topic, source)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="mltrigger-watcher", daemon=True)
            self._thread.start()

    def look(self) -> None:
        """Publish what is new now."""
        with self._guard:
            for topic, source in list(self._sources.items()):
                if events := source.look(topic):
                    self._publish(topic, events)
                    source.taken(events)

    def settled(self) -> bool:
        """Look now; return whether everything that is there has been published."""
        self.look()
        return all(source.settled for source in self._sources.values())

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _loop(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.look()
            except (OSError, MltriggerError):
                logger.exception("watched folder: looking failed; trying again")
                self._stop.wait(2.0)
