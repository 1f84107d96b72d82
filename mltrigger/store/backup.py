"""Backups: a whole copy of a store in use, in a file of its own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mltrigger.errors import StoreError
from mltrigger.store.sqlite.files import file_lock
from mltrigger.store.transaction import Store
from mltrigger.text import card_of

_PAGES = 2_000
"""Pages of one step."""


class Backup(NamedTuple):
    """A backup: the name of its file, its number of events, and its size."""

    file: str
    events: int
    size_bytes: int

    def _repr_html_(self) -> str:
        return card_of("Backup", self)


def backup(store: Store, path: Path) -> Backup:
    """Write a copy of *store* as of now to the new file *path*, with mode 0600. Durable on return.

    The file has its name once it is whole: a killed process leaves ``….part``, which the next
    backup of that name takes over.

    Raises
    ------
    StoreError
        When the file exists or cannot be written. Nothing is left behind then.
    """
    with _new(path) as part:
        store.copy(lambda source: _copied(source, part))
        with _opened(part) as copy:
            (events,) = copy.execute("SELECT count(*) FROM event").fetchone()
    _sync(path.parent)
    return Backup(path.name, events, path.stat().st_size)


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """Yield the file to write, for this user only. Give it its name after the block."""
    if os.path.lexists(path):
        raise _existing(path)
    part = path.with_name(f"{path.name}.part")
    try:
        with file_lock(part) as handle:
            if handle is None or not _is_named(handle, part):
                raise StoreError(
                    f"another process writes the backup {path.name!r} now: wait for it, or name"
                    " another file"
                )
            try:
                os.ftruncate(handle, 0)
                _journal(part).unlink(missing_ok=True)
                yield part
                _name(part, path)
            finally:
                part.unlink(missing_ok=True)
                _journal(part).unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise StoreError(
            f"the backup {path.name!r} cannot be written ({error.strerror}): name a file in a"
            " folder that exists"
        ) from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"the backup {path.name!r} could not be written: {error}; nothing is left of it"
        ) from error


def _existing(path: Path) -> StoreError:
    return StoreError(
        f"{path.name!r} exists: name another file for the backup; nothing was changed"
    )


def _is_named(handle: int, path: Path) -> bool:
    """Whether *path* is still the file of *handle*. A process that has just ended removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def _name(part: Path, path: Path) -> None:
    """Give *part* the name *path*. A link would leave a store with two names after a kill."""
    if os.path.lexists(path):
        raise _existing(path)
    part.rename(path)


def _copied(source: sqlite3.Connection, path: Path) -> None:
    with _opened(path) as target:
        # The read holds one moment for all steps, and writers go on. Between steps Ctrl-C is heard.
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target, pages=_PAGES, progress=_hear)


def _hear(*_: int) -> None:
    """Do nothing: as this is Python, a signal is handled now."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def _sync(folder: Path) -> None:
    """Let the name of the file reach the disk too, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
