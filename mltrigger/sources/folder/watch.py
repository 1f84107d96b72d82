"""One watched folder: its new and complete files.

It gets the time from its caller and publishes nothing itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mltrigger.event.event import Event
from mltrigger.sources.folder.files import entries, is_sayable, regular
from mltrigger.sources.folder.folder import Folder
from mltrigger.sources.folder.identity import Announced, Stamp

History = Callable[[int], Sequence[tuple[int, str | None, Any]]]
"""Takes a number in the log. Returns (number, subject, data) of the next events, oldest first."""
_MOST_GONE = 100_000
"""The most deleted names to remember. A disk that comes back announces nothing twice."""


class FolderWatch:
    """The known files of one source.

    A file is complete when two looks, at least ``settle_s`` apart, saw the same size, times and
    inode. Only our own monotonic clock counts. The clock of a file server may be ahead.

    Parameters
    ----------
    source : Folder
        The folder.
    topic : str
        The topic of its events.
    history : callable
        Returns earlier events of the folder, from all processes.
    settle_s : float
        The seconds that a file has to stay unchanged.
    """

    def __init__(self, source: Folder, topic: str, history: History, settle_s: float) -> None:
        self.source, self.topic, self.settle_s = source, topic, settle_s
        self._history, self._read_to = history, 0
        self._announced: dict[str, Announced] = {}
        self._known: dict[str, Stamp] = {}
        self._gone: dict[str, tuple[Stamp, Announced | None]] = {}
        self._waiting: dict[str, tuple[Stamp, float]] = {}
        self._links: set[str] = set()
        self._folders: dict[str, tuple[int, int]] = {}
        self._paths: dict[str, int] | None = None
        self.at_rest = False
        """Whether the last glance saw that nothing had changed."""

    @property
    def settled(self) -> bool:
        """Whether no file waits to be complete or published."""
        return not self._waiting

    @property
    def due_s(self) -> float | None:
        """The time when the next file can be complete."""
        return (
            min(since for _, since in self._waiting.values()) + self.settle_s
            if self._waiting
            else None
        )

    @property
    def folders(self) -> dict[str, int]:
        """The paths of the folders that were read, with their inodes."""
        if self._paths is None:  # asked for several times a second, and there may be thousands
            self._paths = {
                str(self.source.folder / below): inode
                for below, (_, inode) in self._folders.items()
            }
        return self._paths

    # -- looking -----------------------------------------------------------------------------------

    def look(self, now_s: float) -> list[Event]:
        """Look at every file. Return an event for each new and complete one.

        Raises OSError if the folder is not there.
        """
        before, self._folders, self._paths = self._folders, {}, None
        seen: set[str] = set()
        try:
            self._look_into("", now_s, seen)
        except OSError:
            self._folders, self._paths = before, None
            self._waiting.clear()
            raise
        for name in [*self._known.keys() - seen, *self._waiting.keys() - seen]:
            self._went(name)
        for name in self._announced.keys() - self._known.keys() - self._waiting.keys():
            del self._announced[name]
        return self._complete(now_s)

    def glance(self, now_s: float, touched: Iterable[str] = ()) -> list[Event]:
        """Look at files that may have changed.

        These are the files *touched*, those in folders with a new time, and those that wait.
        """
        self.at_rest = not self._waiting
        for below, state in list(self._folders.items()):
            try:
                if _state(self.source.folder / below) != state:
                    self.at_rest = False
                    self._look_into(below, now_s, None)
            except OSError:
                if not below:
                    self._waiting.clear()
                    raise
                del self._folders[below]
                self._paths = None
        names = {name for path in touched if (name := self._relative(path)) is not None}
        for name in {*names, *self._waiting, *(self._links if names else ())}:
            self._look_at(name, now_s)
        return self._complete(now_s)

    def taken(self, events: Iterable[Event]) -> None:
        """Remember that *events* were published."""
        for event in events:
            name, announced = event.subject or "", Announced.of(event.data)
            waited = self._waiting.pop(name, None)
            if announced is not None:
                self._announced[name] = announced
                if waited is not None:
                    self._known[name] = waited[0]
            self._gone.pop(name, None)

    def _look_into(self, folder: str, now_s: float, seen: set[str] | None) -> None:
        """Look at the files in *folder* and in unknown folders there.

        Without *seen* look only at new files.
        """
        unread = [folder]
        while unread:
            below = unread.pop()
            try:
                unread += self._read(below, now_s, seen)
            except OSError:  # it went or is not readable: go on with the others
                if below == folder:
                    raise
                self._folders.pop(below, None)
                self._paths = None

    def _read(self, below: str, now_s: float, seen: set[str] | None) -> list[str]:
        """Look at the files in *below* alone. Return its unknown folders."""
        self._paths = None
        # before reading: later changes are seen the next time
        self._folders[below] = _state(self.source.folder / below)
        inner = []
        for name, entry in entries(self.source.folder, below):
            if entry.is_dir(follow_symlinks=False):
                if name not in self._folders and self.source.pattern.reaches(name):
                    inner.append(name)
            elif (seen is not None or name not in self._known) and self._is_meant(name):
                found = self._status(name, entry)
                if found is not None:
                    if seen is not None:
                        seen.add(name)
                    self._notice(name, Stamp.of(found), now_s)
        return inner

    def _look_at(self, name: str, now_s: float) -> None:
        found = regular(self.source.folder, name)
        if found is None:
            self._went(name)
        else:
            self._notice(name, Stamp.of(found), now_s)

    def _is_meant(self, name: str) -> bool:
        return self.source.pattern.matches(name) and is_sayable(name)

    def _relative(self, path: str) -> str | None:
        prefix = os.path.join(self.source.folder, "")  # noqa: PTH118 - a text with its slash
        name = path.removeprefix(prefix)
        return name if path.startswith(prefix) and self._is_meant(name) else None

    def _status(self, name: str, entry: os.DirEntry[str]) -> os.stat_result | None:
        try:
            own = entry.stat(follow_symlinks=False)
        except OSError:  # gone since the folder was read
            return None
        if stat.S_ISLNK(own.st_mode):
            self._links.add(name)
        return regular(self.source.folder, name, own)

    # -- new files ---------------------------------------------------------------------------------

    def _notice(self, name: str, stamp: Stamp, now_s: float) -> None:
        if self._known.get(name) == stamp:
            self._waiting.pop(name, None)
        elif name not in self._waiting or self._waiting[name][0] != stamp:
            self._waiting[name] = (stamp, now_s)

    def _went(self, name: str) -> None:
        self._waiting.pop(name, None)
        self._links.discard(name)
        if (stamp := self._known.pop(name, None)) is not None:
            self._gone[name] = (stamp, self._announced.pop(name, None))
            if len(self._gone) > _MOST_GONE:
                del self._gone[next(iter(self._gone))]

    def _complete(self, now_s: float) -> list[Event]:
        ready = sorted(
            name for name, (_, since) in self._waiting.items() if now_s - since >= self.settle_s
        )
        if ready:
            self._catch_up()
        return [event for name in ready if (event := self._judged(name, now_s)) is not None]

    def _judged(self, name: str, now_s: float) -> Event | None:
        """Return the event of a complete file. ``None`` if its content is known."""
        stamp = self._waiting[name][0]
        gone, before = self._gone.get(name, (None, None))
        announced = self._announced.get(name) or before
        if (gone is not None and gone[:3] == stamp[:3]) or (
            gone is None and announced is not None and announced.is_surely(stamp)
        ):
            self._is_known(name, stamp, announced.etag if announced else None)
            return None
        try:
            now, etag = self.source.read(name)
        except (OSError, ValueError):  # it went, or became something else
            self._went(name)
            return None
        if now != stamp:
            self._waiting[name] = (now, now_s)
            return None
        if gone is None and announced is not None and announced.has_content_of(stamp, etag):
            self._is_known(name, stamp, etag)
            return None
        return self.source.event(name, stamp, etag, self.topic)

    def _is_known(self, name: str, stamp: Stamp, etag: str | None) -> None:
        self._known[name] = stamp
        self._announced[name] = Announced(*stamp, etag)
        self._waiting.pop(name, None)
        self._gone.pop(name, None)

    def _catch_up(self) -> None:
        """Read the new events of all processes."""
        first = self._read_to == 0
        while rows := self._history(self._read_to):
            for self._read_to, name, data in rows:
                announced = Announced.of(data)
                # Of the past, only files that exist now matter. Of newer events all matter: this
                # process may not have seen their files yet.
                if (
                    name is not None
                    and announced is not None
                    and not (first and name not in self._waiting)
                ):
                    self._announced[name] = announced


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino
