"""The adapter of tables: the door from the core to this room."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mltrigger.broker import Feed, Feeder, Finding, Notes, Source
from mltrigger.errors import InvalidName
from mltrigger.sources.relay import Relay
from mltrigger.sources.table.database import Database
from mltrigger.sources.table.place import TablePlace, place_of, topic_names, with_options
from mltrigger.sources.table.reader import TableReader, attached, begin_old_rows
from mltrigger.text import count, one_line, redacted, short

_DATABASES = {
    "sqlite": "sqlite:SqliteTable",
    "postgresql": "postgresql:PostgresTable",
}


class TableSource(Source):
    """A table of a database as a source: each committed change is one event.

    Parameters
    ----------
    text : str
        ``table+sqlite:///app.db#documents`` or
        ``table+postgresql://app@host/app#public.documents``.
    """

    start = "latest"

    def __init__(self, text: str) -> None:
        self._place = place_of(text)

    @property
    def url(self) -> str:
        """The canonical URL, for the registry. It holds an absolute path and is never shown."""
        return self._place.url

    @property
    def place(self) -> TablePlace:
        """The table, and the changes and columns that are events."""
        return self._place

    def topic_names(self, others: Iterable[Any] = ()) -> list[str]:
        """Return names for the topic: that of the table, then with more before it."""
        return topic_names(self._place)

    def shown(self, others: Iterable[Any] = ()) -> str:
        """Return database and table, with the changes if another source differs in them only."""
        shown = self._place.shown
        if any(other._place.shown == shown for other in others):
            fields = f" of {', '.join(self._place.fields)}" if self._place.fields else ""
            return f"{shown} ({', '.join(self._place.on)}{fields})"
        return shown

    def with_options(self, options: Mapping[str, Any]) -> TableSource:
        """Return this table with other changes or columns."""
        made = TableSource.__new__(TableSource)
        made._place = with_options(self._place, options)
        return made

    def feeder(self, feed: Feed) -> Feeder:
        """Return the relay of this process, one thread for each table."""
        return Relay(
            feed, lambda feed, topic, source: TableReader(feed, topic, database_of(source.place))
        )

    def check(self) -> None:
        """Raise InvalidName unless table and columns exist."""
        with _opened(self._place) as database:
            database.check()

    def attach(self, topic: str, notes: Notes, from_start: bool) -> None:
        """Make the outbox and the triggers. Idempotent."""
        with _opened(self._place) as database:
            if from_start and not database.keys():
                raise InvalidName(
                    f"table {self._place.shown} has no primary key, so its old rows cannot be read"
                    " once each: leave out start='earliest', or give it a key"
                )
            if from_start and (unreadable := database.unreadable()):
                raise InvalidName(
                    f"{count(unreadable, 'row')} of {self._place.shown} have NULL in the primary"
                    " key, so they cannot be read once each: fill it, or leave out start='earliest'"
                )
            notes.remember(f"table:{topic}", True)
            attached(database, topic, notes)
            if from_start:
                begin_old_rows(database, topic, notes)

    def remove(self, topic: str, notes: Notes) -> None:
        """Remove the outbox and the triggers."""
        notes.remember(f"table:{topic}", False)  # first: a relay elsewhere makes it no more
        with _opened(self._place) as database:
            database.remove()
        notes.remember(f"old:{topic}", None)

    def left_behind(self) -> str:
        """Return the trigger that stays, in words."""
        return f"the trigger of table {self._place.shown} stays, and its outbox fills"

    def plan(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Yield the SQL that would be run."""
        with _opened(self._place) as database:
            action = "keep" if database.installed() else "create"
            for statement in database.statements():
                yield action, "sql", self._place.shown, "statement", "", statement

    def findings(self, about: str, note: str = "") -> Iterator[Finding]:
        """Yield findings about the trigger, the outbox, and rows that are no events."""
        try:
            with _opened(self._place) as database:
                yield from database.findings(about)
        except Exception as error:  # a server that is away is a finding
            yield Finding(
                "error",
                about,
                "table",
                f"{self._place.shown} cannot be looked at: {_why(error)}",
                "it is tried again by itself",
            )


def database_of(place: TablePlace) -> Database:
    """Return a connection to the database of *place*. It opens when it is used."""
    module, _, name = _DATABASES[place.kind].partition(":")
    found: Database = getattr(importlib.import_module(f"mltrigger.sources.table.{module}"), name)(
        place
    )
    return found


class _opened:  # noqa: N801 - used as a function
    """A database for one look or change, closed at the end."""

    def __init__(self, place: TablePlace) -> None:
        self._database = database_of(place)

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


def _why(error: Exception) -> str:
    return short(one_line(redacted(str(error) or type(error).__name__)), 200)
