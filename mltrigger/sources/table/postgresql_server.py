"""The connection to a PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mltrigger.errors import StoreError, how_to_install
from mltrigger.sources.table.place import TablePlace
from mltrigger.sources.table.postgresql_sql import SETTINGS

if TYPE_CHECKING:
    import psycopg

LOCK_S, _CONNECT_S = 5, 10
"""How long to wait for the lock of a table, and for a connection."""


class Server:
    """One connection to the server of a table. It opens when it is used.

    Parameters
    ----------
    place : TablePlace
        The table there.
    """

    def __init__(self, place: TablePlace) -> None:
        self._place = place
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None and not self._connection.closed

    def open(self) -> psycopg.Connection[Any]:
        """Return the connection. Each statement is committed alone."""
        if self._connection is None or self._connection.closed:
            self._connection = connected(self._place.database)
        return self._connection

    def query(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Return the rows of *sql*."""
        with self._errors():
            return self.open().execute(sql.encode(), parameters).fetchall()

    def execute(self, sql: str) -> None:
        """Run *sql*."""
        with self._errors():
            self.open().execute(sql.encode())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the statements of the block in one transaction."""
        with self._errors(), self.open().transaction():
            yield

    def is_timeout(self, error: Exception) -> bool:
        """Whether a statement was ended because it took too long."""
        import psycopg

        return isinstance(error, psycopg.errors.QueryCanceled)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn a refusal of the server into an error with advice."""
        import psycopg

        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreError(
                f"{self._place.shown}: {_first_line(error)}. `mltrigger table sql` prints the SQL"
                " for the owner of the table, and the least privileges of this role"
            ) from error
        except psycopg.errors.DataError as error:
            raise StoreError(f"{self._place.shown}: {_first_line(error)}") from error
        except psycopg.errors.LockNotAvailable as error:
            raise StoreError(
                f"{self._place.shown} is locked for longer than {LOCK_S} s: end the transaction"
                " that holds it, then try again"
            ) from error


def connected(url: str) -> psycopg.Connection[Any]:
    """Return a connection. The password comes from the environment, never from *url*."""
    try:
        import psycopg
    except ImportError as error:
        raise StoreError(
            f"a table of PostgreSQL needs psycopg: {how_to_install('postgres')}"
        ) from error
    parts = urllib.parse.urlsplit(url)
    user, _, rest = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    host = f"{name}@{rest}" if name else rest
    given: dict[str, Any] = {}
    if password:
        variable = password.removeprefix("env:")
        if variable not in os.environ:
            raise StoreError(f"the variable {variable!r} with the password is not set: set it")
        given["password"] = os.environ[variable]
    try:
        return psycopg.connect(
            f"postgresql://{host}{parts.path}{'?' * bool(parts.query)}{parts.query}",
            autocommit=True,
            connect_timeout=_CONNECT_S,
            application_name="mltrigger",
            options=" ".join(f"-c {name}={value}" for name, value in SETTINGS.items()),
            **given,
        )
    except psycopg.Error as error:
        raise StoreError(f"PostgreSQL does not answer: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    """Return why there is no connection, without addresses."""
    said = re.sub(r"^.* failed: |\s*Is the server running.*", "", _first_line(error))
    return re.sub(r"\s*Multiple connection attempts failed.*", "", said)


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip().split(" DETAIL:")[0][:300]
