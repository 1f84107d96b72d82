"""A watched folder as a source: its files are events, and each event opens its own file."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from mltrigger.broker import HOW_FOLDERS_ARE_WRITTEN
from mltrigger.errors import InvalidEvent, InvalidName, ObjectMissing
from mltrigger.event.event import Event
from mltrigger.event.making import with_opener
from mltrigger.sources.folder.files import is_sayable, opened
from mltrigger.sources.folder.identity import Announced, Stamp, etag_of, event_id
from mltrigger.sources.folder.patterns import Pattern, is_wild
from mltrigger.sources.folder.places import (
    Place,
    folder_url,
    place_of,
    told_apart,
    topic_names,
)
from mltrigger.text import short
from mltrigger.versions.running import capture

FILE_TYPE = "mltrigger.file.created"


class Folder:
    """The files of one folder whose names match a pattern. Each file is one event.

    A new content is an event, also across restarts. The same content under the same name is none,
    even with other times, mode or owner. A file that went and comes back with another time is an
    event again.

    Parameters
    ----------
    text : str or path
        ``file:///folder/*.png``, ``file:scans/*.png`` relative to the working directory, or a path.
        The folder need not exist.
    """

    def __init__(self, text: str | os.PathLike[str]) -> None:
        self._place: Place = place_of(folder_url(text))

    @property
    def folder(self) -> Path:
        """The folder, without links. It is never shown whole."""
        return self._place.folder

    @property
    def pattern(self) -> Pattern:
        """The pattern of its files."""
        return self._place.pattern

    @property
    def url(self) -> str:
        """The canonical URL, for the registry. It holds an absolute path and is never shown."""
        return self._place.url

    @property
    def names(self) -> list[str]:
        """Names for a topic of this folder: its own, then with more and more of the path."""
        return list(topic_names(self.folder))

    def shown(self, others: Iterable[Folder] = ()) -> str:
        """Return the end of the path that differs from *others*, with the pattern."""
        return told_apart(self._place, [other._place for other in others])

    def check(self) -> None:
        """Raise InvalidName if there is nothing to watch now."""
        name, pattern = repr(self.folder.name[:60]), self.pattern.text
        if not self.folder.is_dir():
            raise InvalidName(
                f"source folder {name} does not exist: create it, then subscribe;"
                f" {HOW_FOLDERS_ARE_WRITTEN}"
            )
        if not is_wild(pattern) and "." not in pattern and not (self.folder / pattern).exists():
            raise InvalidName(
                f"source {pattern[:60]!r} is neither a folder nor a file in {name}: create the"
                " folder, then subscribe; or name its files with a pattern:"
                f" {HOW_FOLDERS_ARE_WRITTEN}"
            )

    # -- one file ----------------------------------------------------------------------------------

    def event(self, name: str, stamp: Stamp, etag: str | None, topic: str) -> Event:
        """Return the event that announces the file *name*."""
        data = {"name": name, **stamp._asdict(), **({"etag": etag} if etag is not None else {})}
        return Event(
            data,
            id=event_id(name, stamp, etag),
            source=source_of(topic),
            type=FILE_TYPE,
            subject=name,
            time=_time(stamp.modified_ns),
        )

    def read(self, name: str) -> tuple[Stamp, str | None]:
        """Return stamp and etag of the file *name*. An unreadable file has no etag."""
        try:
            with self._opened(name) as file:
                stamp = Stamp.of(os.fstat(file.fileno()))
                return stamp, etag_of(file, stamp)
        except PermissionError:
            return Stamp.of((self.folder / name).stat()), None

    def open(self, event: Event) -> BinaryIO:
        """Open the file that *event* announces, by its name inside this folder only.

        A link is followed only to a file inside the folder. A replaced file is opened all the same.
        Then the record of the attempt says ``etag_mismatch``.
        """
        name = event.subject or ""
        self._check_name(name)
        try:
            file = self._opened(name)
        except FileNotFoundError as error:
            raise ObjectMissing(
                error.errno, f"{error.strerror}: {name!r} in the watched folder"
            ) from None
        except OSError as error:
            raise type(error)(
                error.errno, f"{error.strerror}: {name!r} in the watched folder"
            ) from None
        try:
            if self._is_another(file, Announced.of(event.data)):
                # Into what the attempt printed: the record of this invocation says so.
                capture.echo(
                    f"etag_mismatch: file {short(name)} was replaced after the event; this is the"
                    " new one\n"
                )
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def prepare(self, event: Event) -> Event:
        """Return *event* with :meth:`~mltrigger.event.event.Event.open` bound to this folder."""
        return with_opener(event, functools.partial(self.open, event))

    def _check_name(self, name: str) -> None:
        parts = name.split("/")
        inside = self.pattern.depth is None or len(parts) - 1 <= self.pattern.depth
        if (
            not inside
            or not all(parts)
            or any(part in (".", "..") for part in parts)
            or "\x00" in name
            or not is_sayable(name)
        ):
            raise InvalidEvent(
                f"event subject {name[:100]!r} is not the name of a file in the watched folder",
                "nothing_to_open",
            )
        if not self.pattern.matches(name):
            raise InvalidEvent(
                f"file {name[:100]!r} does not match {self.pattern.text!r}, which this source"
                " announces",
                "nothing_to_open",
            )

    def _opened(self, name: str) -> BinaryIO:
        handle = opened(self.folder, name)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise InvalidEvent(f"{name!r} is not a regular file", "nothing_to_open")
        return os.fdopen(handle, "rb")

    @staticmethod
    def _is_another(file: BinaryIO, announced: Announced | None) -> bool:
        stamp = Stamp.of(os.fstat(file.fileno()))
        if announced is None or announced.is_surely(stamp):
            return False
        etag = (
            etag_of(file, stamp)
            if announced.size == stamp.size and announced.etag is not None
            else None
        )
        return not announced.has_content_of(stamp, etag)


def _time(ns: int) -> datetime:
    """Return a file's time of modification, or 1970 for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def source_of(topic: str) -> str:
    """Return the source attribute of the events of a folder."""
    return f"mltrigger/files/{topic}"
