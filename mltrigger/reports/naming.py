"""The ways to name an event: by its id, an Event, a Receipt, or a row of a frame.

Every call that takes an event goes through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from mltrigger.broker import Receipt
from mltrigger.errors import AmbiguousEvent, InvalidEvent, NotFound
from mltrigger.event.event import Event
from mltrigger.store.finding import Found
from mltrigger.store.log import Log
from mltrigger.text import short

_MOST = 8
FORMS = "an event id, an Event, a Receipt, or a row with event_id"


class Numbered(Protocol):
    """An event of the archive: its number and its source."""

    @property
    def seq(self) -> int:
        """The number."""

    @property
    def source(self) -> str:
        """The source."""


N = TypeVar("N", bound=Numbered)


class EventKey(NamedTuple):
    """The name of an event.

    The source is None if unknown. ``seq`` is the number in the archive, known from a Receipt.
    """

    event_id: str
    source: str | None = None
    seq: int | None = None

    def among(self, found: Iterable[N]) -> list[N]:
        """Return those of *found* that are meant.

        Raises
        ------
        AmbiguousEvent
            When they have several sources.
        """
        mine = [
            each
            for each in found
            if self.source in (None, each.source) and self.seq in (None, each.seq)
        ]
        sources = sorted({each.source for each in mine})
        if len(sources) > 1:
            raise _ambiguous(self.event_id, sources)
        return mine


def named(event: Any, source: str | None = None) -> EventKey:
    """Return the name of *event*. Nothing is looked up: the event need not exist.

    Parameters
    ----------
    event : str, Event, Receipt, or a row
        A row is a Series, a named tuple or a mapping with ``event_id``, and perhaps ``source``.
    source : str, optional
        The source of an id that two sources have.

    Raises
    ------
    InvalidEvent
        When *event* names no event, or has another source than *source*.
    """
    if source is not None and not isinstance(source, str):
        raise InvalidEvent(f"source must be the text of an event's source, got {short(source)}")
    key = _key(event)
    if key is None:
        advice = "; take one row, for example frame.iloc[0]" if hasattr(event, "columns") else ""
        raise InvalidEvent(f"give {FORMS}; got {short(event)}{advice}")
    try:
        key.event_id.encode()
    except UnicodeEncodeError:
        raise InvalidEvent(
            f"no event has the id {short(key.event_id)!r}: it holds a lone surrogate"
        ) from None
    if source is None:
        return key
    if key.source not in (None, source):
        raise InvalidEvent(
            f"event {short(key.event_id)!r} has source {short(key.source)!r}, and"
            f" source={short(source)!r} was given: leave out source="
        )
    return key._replace(source=source)


def names_event(given: Any) -> bool:
    """Return whether *given* has the form of a name: anything that :func:`named` takes."""
    return _key(given) is not None


def named_each(events: Any, source: str | None = None) -> Iterator[EventKey]:
    """Yield the names of one event or several, or of the rows of a frame with ``event_id``."""
    if hasattr(events, "columns"):
        if "event_id" not in events.columns:
            raise InvalidEvent(
                "a frame of events needs a column event_id, as sub.dead_letters() has it"
            )
        ids = events["event_id"]
        sources = events["source"] if "source" in events.columns else [None] * len(events)
        for id_, its_source in zip(ids, sources, strict=True):
            yield named({"event_id": id_, "source": its_source}, source)
    else:
        is_one = isinstance(events, (bytes, Mapping)) or names_event(events)
        for event in [events] if is_one or not isinstance(events, Iterable) else events:
            yield named(event, source)


def find(log: Log, event: Any, source: str | None = None) -> list[Found]:
    """Return the events of the archive that *event* means: one of each topic, oldest first.

    Raises
    ------
    NotFound
        When there is none. The error lists similar ids.
    AmbiguousEvent
        When several sources have the id.
    """
    key = named(event, source)
    found = log.find(key.event_id)
    return key.among(found) or _missing(log, key, found)


def unknown(key: EventKey, near: Iterable[str], sources: Iterable[str] = ()) -> NotFound:
    """Return the error about an event that is not in the archive.

    *near* are similar ids, *sources* are those that have the id.
    """
    if others := sorted(set(sources)):
        of = f" of source {short(key.source)!r}" if key.source is not None else " of this receipt"
        others_text = ", ".join(repr(short(each)) for each in others)
        return NotFound(
            f"no event {short(key.event_id)!r}{of}; that id is there from {others_text}"
        )
    similar = [repr(short(each)) for each in near]
    hint = f"did you mean {' or '.join(similar)}?" if similar else "bus.events() lists the newest"
    return NotFound(f"no event {short(key.event_id)!r}; {hint}")


def _ambiguous(event_id: str, sources: list[str]) -> AmbiguousEvent:
    listed = ", ".join(repr(short(each)) for each in sources[:_MOST])
    more = ", …" if len(sources) > _MOST else ""
    return AmbiguousEvent(
        f"event {short(event_id)!r} is there from {len(sources)} sources: {listed}{more}; say"
        f" which, source={sources[0]!r:.100}",
        sources,
    )


def _missing(log: Log, key: EventKey, found: Iterable[Found]) -> list[Found]:
    sources = [each.source for each in found]
    raise unknown(key, () if sources else log.near(key.event_id), sources)


def _key(event: Any) -> EventKey | None:
    """Return the name of *event*, None if it is none."""
    if isinstance(event, str):
        return EventKey(event)
    if isinstance(event, Receipt):
        return EventKey(event.event_id, seq=event.seq)
    if isinstance(event, Event):
        return EventKey(event.id, event.source)
    row = _row(event)
    event_id = row.get("event_id")
    if not isinstance(event_id, str):
        return None
    source = row.get("source")
    return EventKey(event_id, source if isinstance(source, str) else None)


def _row(event: Any) -> Mapping[str, Any]:
    """Return the named values of a row: of a mapping, a named tuple, or a Series."""
    if isinstance(event, Mapping):
        return event
    if isinstance(event, tuple) and hasattr(event, "_fields"):
        return dict(zip(event._fields, event, strict=True))
    if hasattr(event, "to_dict") and hasattr(event, "index") and not hasattr(event, "columns"):
        return {name: event[name] for name in ("event_id", "source") if name in event.index}
    return {}
