"""The reader of one table: from the outbox, and from the table itself, into the log."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mltrigger.broker import MAX_EVENT_BYTES, Feed, Notes
from mltrigger.errors import MltriggerError, StoreError
from mltrigger.event.data import encode_data
from mltrigger.event.envelopes.arrival import with_raw
from mltrigger.event.event import Event
from mltrigger.sources.identity import bus_id
from mltrigger.sources.table.database import Change, Database, Taken
from mltrigger.text import count

TYPES = {
    "insert": "mltrigger.row.inserted",
    "update": "mltrigger.row.updated",
    "delete": "mltrigger.row.deleted",
}
EXISTING_TYPE = "mltrigger.row.existing"
"""The type of a row that was there before its trigger."""
LEFT_OUT = "leftout"
"""The extension that names columns whose values were too large for an event."""
_LONGEST_KEY = 500
_AGAIN_S = 10.0
"""How often to look whether the triggers are as they should be."""


class TableReader:
    """Publishes the changes of a table: record in the log, then delete from the outbox.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    topic : str
        The topic of the events.
    database : Database
        The table. It is used by this reader only.
    """

    def __init__(self, feed: Feed, topic: str, database: Database) -> None:
        self._feed, self._topic, self._database = feed, topic, database
        self.shown = f"table {database.place.shown}"
        self._epoch = ""
        self._old = OldRows(feed, topic, database)
        self._attached_s = 0.0

    def step(self) -> bool:
        """Publish the next changes, then the next old rows. Return whether there may be more."""
        now_s = time.monotonic()
        if not self._epoch or now_s > self._attached_s + _AGAIN_S or self._database.altered():
            self._epoch = self._attached()
            self._attached_s = now_s
        changes = self._database.read()
        if changes:
            self._feed.publish(self._topic, [self._event(change) for change in changes])
            self._database.delete(changes)
        else:
            self._database.tidy()
        if self._database.more:
            return True
        return self._old.step(self._epoch) or bool(changes)

    def _attached(self) -> str:
        """Make the missing things, unless everything was removed on purpose."""
        if self._feed.notes.recall(f"table:{self._topic}") is False:
            raise StoreError("its trigger was removed: subscribe again to make it")
        return attached(self._database, self._topic, self._feed.notes)

    def wait(self, stopped: threading.Event) -> None:
        """Wait until there may be a change, or until *stopped*."""
        self._database.wait(stopped)

    def behind(self) -> int | None:
        """Return how many changes and old rows are no events yet."""
        return self._database.waiting().rows + self._old.left()

    def detail(self) -> str:
        """Return how far the old rows are."""
        return self._old.detail()

    def close(self) -> None:
        """Close the connection."""
        self._epoch = ""
        self._database.close()

    def _event(self, change: Change) -> Event:
        # The time tells a number apart that a restored database gives again.
        return fitting(
            Event(
                change.data,
                id=f"{self._epoch}-{change.id}-{change.at_us:x}",
                source=source_of(self._topic),
                type=TYPES[change.change],
                subject=subject_of(change.key),
                time=datetime.fromtimestamp(change.at_us / 1e6, UTC),
            )
        )


class OldRows:
    """The rows that were there before the trigger: once each, by primary key.

    A row is old if no event says that it was inserted: neither in the log nor in the outbox.
    """

    def __init__(self, feed: Feed, topic: str, database: Database) -> None:
        self._feed, self._topic, self._database = feed, topic, database
        self._note: dict[str, Any] | None = None
        self._inserted: set[str] = set()
        self._seen = 0

    def step(self, epoch: str) -> bool:
        """Publish the next old rows. Return whether there may be more."""
        note = self._noted()
        if note is None or note["done"]:
            return False
        chunk, waiting = self._database.chunk(note["after"])
        self._look_into_the_log(epoch)
        old = [
            (key, data)
            for key, data in chunk.rows
            if key not in waiting and subject_of(key) not in self._inserted
        ]
        if old:
            self._feed.publish(self._topic, [self._event(*row) for row in old])
        done = not chunk.rows
        rows = note["rows"] + len(old)
        self._keep({**note, "after": chunk.after, "rows": rows, "done": done})
        if done:
            self._inserted.clear()
        return not done

    def left(self) -> int:
        """Return about how many old rows are no events yet."""
        note = self._noted()
        return 0 if note is None or note["done"] else max(1, note["of"] - note["rows"])

    def detail(self) -> str:
        """Return how far the reader is, in words. Empty if there is nothing to do."""
        note = self._noted()
        if note is None or note["done"]:
            return ""
        return f"old rows: {note['rows']:,} of about {count(note['of'], 'row')}"

    def _look_into_the_log(self, epoch: str) -> None:
        """Learn which rows the log knows as inserted since the trigger was made.

        Rows that were taken from the outbox are there.
        """
        source, type_ = source_of(self._topic), TYPES["insert"]
        while found := self._feed.subjects(self._topic, source, type_, self._seen):
            self._inserted.update(
                subject
                for _, event_id, subject in found
                if subject is not None and event_id.startswith(f"{epoch}-")
            )
            self._seen = found[-1][0]

    def _event(self, key: str, data: Mapping[str, Any]) -> Event:
        return fitting(
            Event(
                data,
                # the same row is one event, also when everything is made anew
                id=f"row-{_hash(key)}-{_hash(repr(data))}",
                source=source_of(self._topic),
                type=EXISTING_TYPE,
                subject=subject_of(key),
            )
        )

    def _noted(self) -> dict[str, Any] | None:
        if self._note is None:
            self._note = self._feed.notes.recall(f"old:{self._topic}")
        return self._note

    def _keep(self, note: dict[str, Any]) -> None:
        self._feed.notes.remember(f"old:{self._topic}", note)
        self._note = note


def begin_old_rows(database: Database, topic: str, notes: Notes) -> None:
    """Note that the rows that are there shall be read. Idempotent."""
    if notes.recall(f"old:{topic}") is None:
        rows = database.rows()
        notes.remember(f"old:{topic}", {"after": None, "rows": 0, "of": rows, "done": False})


def attached(database: Database, topic: str, notes: Notes) -> str:
    """Make the missing things for a topic of this bus. Return the epoch of the outbox.

    Raises
    ------
    StoreError
        When another bus, or another topic, takes the rows.
    """
    try:
        return database.attach(f"{bus_id(notes)}/{topic}")
    except Taken:
        shown = database.place.shown
        raise StoreError(
            f"the changes of {shown} go to another bus, or to another topic of this one; for both,"
            " add ?feed=second before the #. If that bus is gone for good, `mltrigger table drop`"
            " removes its outbox"
        ) from None


def source_of(topic: str) -> str:
    """Return the source attribute of the events of a table."""
    return f"mltrigger/tables/{topic}"


def subject_of(key: str | None) -> str | None:
    """Return the subject for a primary key. Keys that no event can have are hashed."""
    if key is None or (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
        return key
    return f"sha256:{_hash(key)}"


def fitting(event: Event) -> Event:
    """Return *event* without columns that no event can have. An extension names them.

    These are values without a JSON form, and the largest ones of a row that is too large.
    """
    try:
        return with_raw(event, encode_data(event, MAX_EVENT_BYTES)[0])  # encoded once
    except MltriggerError:
        data = dict(event.data)
        sizes = {name: _size(value) for name, value in data.items()}
        left = [name for name, size in sizes.items() if size > MAX_EVENT_BYTES]
        kept = {name: size for name, size in sizes.items() if size <= MAX_EVENT_BYTES}
        while sum(kept.values()) > MAX_EVENT_BYTES // 2:
            name = max(kept, key=lambda each: kept[each])
            kept.pop(name)
            left.append(name)
        named = ",".join(left)[:_LONGEST_KEY]
        return dataclasses.replace(
            event, data=data | dict.fromkeys(left), extensions={LEFT_OUT: named}
        )


def _size(value: Any) -> int:
    """Return the bytes of a value as JSON, more than any event has if it has no JSON form."""
    try:
        return len(encode_data(Event(value), 1 << 62)[0])
    except (MltriggerError, RecursionError):
        return 1 << 62


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
