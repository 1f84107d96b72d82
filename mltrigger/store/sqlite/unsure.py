"""After a failed sync: a mark beside the file, and the check of the next one who opens it."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mltrigger.errors import StoreError
from mltrigger.store.sqlite.disk import Connection
from mltrigger.store.sqlite.files import file_lock


class Opened(Protocol):
    """The connections of a store that was just opened."""

    location: str | None

    @property
    def writer(self) -> Connection:
        """The writing connection."""

    def checkpointing(self) -> AbstractContextManager[Connection]:
        """Hold a connection that moves the log into the database."""


def mark(location: str) -> None:
    """Leave a mark, if possible: the disk may lack some of the writes."""
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(_mark(location), flags, 0o600))


def check(opened: Opened) -> None:
    """After a mark, check the database and write all that is visible to the disk again.

    The mark stays while others use the log.

    Raises
    ------
    StoreError
        When the database is damaged.
    """
    if opened.location is None or not (left := _mark(opened.location)).exists():
        return
    found = opened.writer.execute("PRAGMA quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise StoreError(
            f"the disk failed below {Path(opened.location).name!r}, and the file is damaged"
            f" ({found[0][0]}): open a backup instead"
        )
    with file_lock(Path(opened.location + "-checkpoint")) as lock:
        if lock is not None:
            with opened.checkpointing() as driver:
                ((is_busy, _, _),) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if not is_busy:
                left.unlink(missing_ok=True)


def _mark(location: str) -> Path:
    return Path(location + "-unsure")
