"""Backups: a whole copy of a store in use, in a file of its own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mltrigger.errors import StoreError
from mltrigger.store.transaction import Store
from mltrigger.text import card_of


class Backup(NamedTuple):
    """A backup: the name of its file, its number of events, and its size."""

    file: str
    events: int
    size_bytes: int

    def _repr_html_(self) -> str:
        return card_of("Backup", self)


def backup(store: Store, path: Path) -> Backup:
    """Write a copy of *store* as of now to the new file *path*, with mode 0600. Durable on return.

    Raises
    ------
    StoreError
        When the file exists or cannot be written. Nothing is left behind then.
    """
    with _new(path):
        store.copy(lambda source: _copied(source, path))
        with _opened(path) as copy:
            (events,) = copy.execute("SELECT count(*) FROM event").fetchone()
        _sync(path.parent)
        return Backup(path.name, events, path.stat().st_size)


@contextlib.contextmanager
def _new(path: Path) -> Iterator[None]:
    """Make the file for this user only. Remove it when the block raises."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise StoreError(
            f"{path.name!r} exists: name another file for the backup; nothing was changed"
        ) from None
    except OSError as error:
        raise StoreError(
            f"the backup {path.name!r} cannot be written ({error.strerror}): name a file in a"
            " folder that exists"
        ) from error
    os.close(handle)
    try:
        yield
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, (sqlite3.Error, OSError)):
            raise StoreError(
                f"the backup {path.name!r} could not be written: {error}; nothing is left of it"
            ) from error
        raise


def _copied(source: sqlite3.Connection, path: Path) -> None:
    with _opened(path) as target:
        # in one step: all of it is of one moment, and writers go on
        source.backup(target)


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
