"""The seam of this room: one database with a table, its triggers and its outbox."""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Finding
from mltrigger.sources.table.place import TablePlace

LIMIT = 1_000_000
"""The most rows that wait in an outbox. After that the trigger writes none."""
BATCH_ROWS, BATCH_BYTES = 500, 8_000_000
"""The most rows to take at once, and about the most bytes."""

Key = list[Any]
"""The values of a primary key, as JSON has them."""


class Change(NamedTuple):
    """One row of the outbox: a committed change of one row of the table.

    ``id`` rises, but later ids may be seen first. ``key`` is the text of the primary key. ``last``:
    the outbox was full after this row, so that changes after it were not kept.
    """

    id: int
    change: str
    at_us: int
    key: str | None
    data: dict[str, Any]
    last: bool = False


class Chunk(NamedTuple):
    """Rows that are there: (text of the key, data). ``after`` is the last key, to go on from."""

    rows: list[tuple[str, dict[str, Any]]]
    after: Key | None


class Waiting(NamedTuple):
    """The rows in the outbox: their number, the oldest one's age in seconds, whether it is full."""

    rows: int
    oldest_s: float | None
    full: bool


class Taken(Exception):  # a signal: the source makes its error of it
    """Another bus, or another topic, takes the rows of this feed."""


class Database(abc.ABC):
    """One connection to the database of a table. One thread at a time uses it."""

    def __init__(self, place: TablePlace) -> None:
        self.place = place
        self.more = False
        """Whether the last :meth:`read` left something."""

    # -- make and remove ---------------------------------------------------------------------------

    @abc.abstractmethod
    def statements(self) -> list[str]:
        """Return the SQL that makes everything, for the database's owner."""

    @abc.abstractmethod
    def removal(self) -> list[str]:
        """Return the SQL that removes exactly that."""

    @abc.abstractmethod
    def grants(self, role: str | None = None) -> list[str]:
        """Return the SQL of the least privileges of the *role* that reads. Empty without roles."""

    def owner(self) -> str:
        """Return the role that shall run :meth:`statements`. Empty without roles."""
        return ""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise InvalidName unless table and columns exist."""

    @abc.abstractmethod
    def installed(self) -> bool:
        """Whether the triggers are there as :meth:`statements` makes them."""

    @abc.abstractmethod
    def attach(self, owner: str) -> str:
        """Make everything that is missing, for *owner*: a topic of a bus. Idempotent.

        Return the epoch: a text that changes when the outbox is made anew. Raises Taken.
        """

    def altered(self) -> bool:
        """Whether the schema has changed since :meth:`attach`, if that costs little to know."""
        return False

    @abc.abstractmethod
    def remove(self) -> None:
        """Remove everything that :meth:`attach` made. Idempotent."""

    # -- read --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def read(self) -> list[Change]:
        """Return the next committed changes, oldest first."""

    @abc.abstractmethod
    def delete(self, changes: Sequence[Change]) -> None:
        """Delete these rows of the outbox, now or soon: a repeat is known by its id."""

    def tidy(self, at_end: bool = False) -> None:  # noqa: B027 - optional
        """Do the work that :meth:`delete` has put off, if it disturbs nobody, or *at_end*."""

    def unreadable(self) -> int:
        """Return how many rows have no value in their primary key."""
        return 0

    @abc.abstractmethod
    def keys(self) -> list[str]:
        """Return the primary key's columns. Empty without a key."""

    @abc.abstractmethod
    def chunk(self, after: Key | None) -> tuple[Chunk, set[str]]:
        """Return the next rows of the table by primary key, and the keys inserted in the outbox.

        Both as of one moment.
        """

    @abc.abstractmethod
    def rows(self) -> int:
        """Return about how many rows the table has."""

    @abc.abstractmethod
    def waiting(self) -> Waiting:
        """Return the number and age of the rows in the outbox."""

    @abc.abstractmethod
    def wait(self, stopped: threading.Event) -> None:
        """Wait until there may be a change, at most a second, or until *stopped*."""

    @abc.abstractmethod
    def findings(self, about: str) -> Iterator[Finding]:
        """Yield findings about the trigger and rows that are no events."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection. The next call opens it again."""
