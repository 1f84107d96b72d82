"""The connection to the SQLite file of an application."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mltrigger.errors import InvalidName, StoreError
from mltrigger.sources.table.place import TablePlace

_BUSY_S = 20.0
"""How long to wait for the application's own transactions."""


class SqliteFile:
    """One connection to a file that belongs to an application. It opens when it is used.

    Parameters
    ----------
    place : TablePlace
        The table in it.
    """

    def __init__(self, place: TablePlace) -> None:
        self._place = place
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        """Return the connection. Never make a file."""
        if self._connection is None:
            path = Path(self._place.database)
            try:
                status = path.stat()
            except FileNotFoundError:
                raise InvalidName(
                    f"source {self._place.shown}: there is no file {path.name}; from the working"
                    " directory it is table+sqlite:///file.db#table"
                ) from None
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw",
                uri=True,
                timeout=_BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
            # text that is not UTF-8 is data as well
            self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            self._file = (status.st_dev, status.st_ino)
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of *sql*."""
        with self.errors():
            return self.open().execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Say which database it is, when SQLite refuses something."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._place.shown}: SQLite says: {error}") from error

    @contextlib.contextmanager
    def writing(self, waits: bool = True) -> Iterator[sqlite3.Connection]:
        """Begin a write transaction, at once: so it never waits for its lock in the middle.

        Without *waits* it gives way to the application: OperationalError says so.
        """
        connection = self.open()
        if not waits:
            connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            if not waits:
                connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_S * 1000)}")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def check(self) -> None:
        """Raise StoreError when another file has the name now. It is opened anew then."""
        if self._connection is None:
            return
        status = Path(self._place.database).stat()
        if (status.st_dev, status.st_ino) != self._file:
            self.close()
            raise StoreError(f"the file {self._place.base} was replaced: it is opened again")

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
