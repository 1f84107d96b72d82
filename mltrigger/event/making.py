"""Make events fast: from plain data, from stored rows, and from other events.

Nothing is checked here. To write through ``object.__setattr__`` takes three times as long as to
write a slot, and each event is made so.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from mltrigger.event.checks import is_json
from mltrigger.event.event import DEFAULT_SOURCE, DEFAULT_TYPE, Event, Rest
from mltrigger.event.ids import new_id, new_trace

_FIELDS = tuple(field.name for field in dataclasses.fields(Event))
_but_data = operator.attrgetter(*_FIELDS[1:])
_OURS = None, None, None, None
"""The last fields of an event that has none of ours."""


class _Draft:
    """An event while it is made: the same slots, open."""

    __slots__ = _FIELDS

    def __init__(self, *values: Any) -> None:
        (
            self.type,
            self.source,
            self.id,
            self.time,
            self.subject,
            self.datacontenttype,
            self.dataschema,
            self.extensions,
            self._opener,
            self._encoded,
            self._raw,
            self._rest,
        ) = values


class _Later:
    """An event of which most attributes are read later."""

    __slots__ = _FIELDS

    def __init__(self, type_: str, media_type: str | None, raw: bytes, rest: Any) -> None:
        self.type, self.datacontenttype = type_, media_type
        self._opener = self._encoded = None
        self._raw, self._rest = raw, rest


def as_event(sample: Any) -> Event:
    """Return *sample* itself when it is an Event, else an Event with *sample* as its data."""
    if isinstance(sample, Event):
        return sample
    now = datetime.now(UTC)
    draft: Any = _Draft(DEFAULT_TYPE, DEFAULT_SOURCE, new_id(), now, None, None, None, {}, *_OURS)
    draft.data = sample
    draft.__class__ = Event
    return cast(Event, draft)


def restored(
    raw: bytes | None,
    type: str,  # noqa: A002
    source: str,
    id: str,  # noqa: A002
    time: datetime,
    subject: str | None,
    datacontenttype: str | None,
    dataschema: str | None,
    extensions: Mapping[str, str | bool | int],
) -> Event:
    """Return an Event of stored attributes.

    *raw* are its encoded data, ``None`` for none. JSON is decoded at the first use.
    """
    is_text = raw is not None and is_json(datacontenttype)
    about = type, source, id, time, subject, datacontenttype, dataschema, extensions
    draft: Any = _Draft(*about, None, None, raw if is_text else None, None)
    if not is_text:
        draft.data = raw
    draft.__class__ = Event
    return cast(Event, draft)


def restored_later(raw: bytes, type: str, rest: Callable[[], Rest]) -> Event:  # noqa: A002
    """Return an Event with JSON data. Its other attributes are read at their first use."""
    draft: Any = _Later(type, None, raw, rest)
    draft.__class__ = Event
    return cast(Event, draft)


def as_delivered(event: Event) -> Event:
    """Return *event* with its data as they were delivered. A model may have changed them since."""
    if event._raw is None:
        return event
    draft: Any = _Draft(*_but_data(event))
    draft.__class__ = Event
    return cast(Event, draft)


def traced(event: Event) -> Event:
    """Return *event* as it is when it travels in a trace, else a copy that begins one."""
    if event.traceparent:
        return event
    return _changed(event, extensions={**event.extensions, "traceparent": new_trace()})


def in_trace(event: Event, context: Mapping[str, str]) -> Event:
    """Return a copy of *event* in a trace: with ``traceparent`` and ``tracestate`` of *context*."""
    return _changed(event, extensions={**event.extensions, **context})


def with_opener(event: Event, opener: Callable[[], BinaryIO]) -> Event:
    """Return a copy of *event* whose :meth:`Event.open` calls *opener*."""
    return _changed(event, _opener=opener)


def can_open(event: Event) -> bool:
    """Whether :meth:`Event.open` of *event* has an object to open."""
    return event._opener is not None


def with_data(event: Event, data: Any) -> Event:
    """Return a copy of *event* with other data."""
    return _changed(event, data=data, _encoded=None, _raw=None)


def _changed(event: Event, **changes: Any) -> Event:
    """Return a copy of *event* with other values of some fields."""
    draft: Any = _Draft(*_but_data(event))
    if event._raw is None:  # else it is decoded again at its first use
        draft.data = event.data
    for name, value in changes.items():
        setattr(draft, name, value)
    draft.__class__ = Event
    return cast(Event, draft)
