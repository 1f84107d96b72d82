"""Event: an immutable fact, as CloudEvents 1.0 defines it.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.event.checks import (
    MESSAGE_ATTRIBUTES,
    RESERVED,
    foreign_attributes,
    parse_time,
    plainly_fine,
    problems_of,
    structural_problems,
)
from mltrigger.event.ids import child_span, new_id, new_trace
from mltrigger.text import card, short

DEFAULT_TYPE = "mltrigger.event"
DEFAULT_SOURCE = "mltrigger"
MAX_HOPS = 16
"""Longest chain of events that cause each other. A longer one counts as a loop.

AWS Lambda's loop detection has the same limit.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=True)
class Event:
    """An immutable fact with an identity (``source`` + ``id``) and data.

    ``Event(data)`` is enough. The other attributes have defaults.

    Parameters
    ----------
    data
        Anything with a JSON form (see :mod:`mltrigger.event.codec`), or ``bytes`` with their
        *datacontenttype*.
    type, source, subject : str
        What happened, where, and to what. *source* is a URI reference.
    id : str, optional
        Unique within *source*. A second event with the same id is never processed. Default: a new
        UUIDv7.
    time : datetime, optional
        When it happened, with a timezone. Default: now. Never used to decide a delivery.
    extensions : mapping
        Further CloudEvents attributes. Names have lower-case letters and digits. Values are
        ``str``, ``bool`` or 32-bit ``int``.

    Raises
    ------
    InvalidEvent
        With every problem at once.
    """

    data: Any = dataclasses.field(default=None, kw_only=False)
    type: str = DEFAULT_TYPE
    source: str = DEFAULT_SOURCE
    id: str = None  # type: ignore[assignment]  # filled in below: always a str afterwards
    time: datetime = None  # type: ignore[assignment]  # likewise
    subject: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | bool | int] = dataclasses.field(default_factory=dict)
    _opener: Callable[[], BinaryIO] | None = dataclasses.field(default=None, compare=False)
    _encoded: bytes | None = dataclasses.field(default=None, compare=False)
    # what it was delivered as
    _raw: bytes | None = dataclasses.field(default=None, compare=False, init=False)

    def __post_init__(self) -> None:
        if self.id is None:
            object.__setattr__(self, "id", new_id())
        if self.time is None:
            object.__setattr__(self, "time", datetime.now(UTC))
        if not plainly_fine(self) and (problems := list(problems_of(self))):
            raise InvalidEvent("invalid event: " + "; ".join(problems))

    def __repr__(self) -> str:
        subject = f", subject={short(self.subject)!r}" if self.subject else ""
        return f"Event({short(self.type)!r}{subject}, data={short(self.data)})"

    def _repr_html_(self) -> str:
        facts = [
            ("source", self.source),
            ("subject", self.subject or "–"),
            ("data", short(self.data, 200)),
        ]
        return card(f"Event {self.type}", facts)

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context that this event travels in, if it has been published."""
        value = self.extensions.get("traceparent")
        return value if isinstance(value, str) else None

    @property
    def hops(self) -> int:
        """How many events caused one another before this one."""
        return hops_of(self.extensions)

    @property
    def root(self) -> str:
        """The id of the event that began the chain: its own if nothing caused it."""
        return str(
            self.extensions.get("rootid")
            or (self.extensions.get("causationid") if self.hops == 1 else None)
            or self.id
        )

    def led_to(self, hops: int = 0) -> dict[str, str | int]:
        """Return the extensions of an event that this one has caused.

        *hops* is the length of that event's own chain. The root is the first cause.
        """
        hops = max(hops, self.hops + 1)
        return {"causationid": self.id, "hops": hops, **({"rootid": self.root} if hops > 1 else {})}

    def open(self) -> BinaryIO:
        """Open the object that this event announces, for reading, from the event's own source only.

        Raises
        ------
        InvalidEvent
            When the event comes from a source without objects (a plain topic).
        FileNotFoundError
            When the object has gone since.
        """
        if self._opener is None:
            raise InvalidEvent(
                "this event announces no object; only events of a file or bucket source can be"
                " opened",
                "nothing_to_open",
            )
        return self._opener()

    def emitted(self, data: Any, *, by: str, type: str, encoded: bytes | None = None) -> Event:  # noqa: A002 - the CloudEvents name
        """Return the event that subscription *by* makes of this one.

        The same cause gives the same id every time. *encoded* is the JSON of the data when the
        model returned it. It is published as it is.
        """
        return Event(
            _encoded=encoded,
            data=data,
            id=derived_id(self, by),
            type=type,
            source=f"{DEFAULT_SOURCE}/{by}",
            subject=self.subject,
            extensions={
                **({"traceparent": child_span(self.traceparent)} if self.traceparent else {}),
                **(
                    {"partitionkey": self.extensions["partitionkey"]}
                    if "partitionkey" in self.extensions
                    else {}
                ),
                **self.led_to(),
            },
        )

    def to_json(self) -> str:
        """Return the event in CloudEvents' JSON format, structured mode."""
        from cloudevents.core.formats.json import JSONFormat

        return JSONFormat().write(self.to_cloudevent()).decode()

    def to_cloudevent(self) -> Any:
        """Return the event as the ``CloudEvent`` of the ``cloudevents`` SDK."""
        from cloudevents.core.v1.event import CloudEvent

        optional = {
            "subject": self.subject,
            "dataschema": self.dataschema,
            "datacontenttype": self.datacontenttype,
        }
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            **{name: value for name, value in optional.items() if value is not None},
            **self.extensions,
        }
        raw = isinstance(self.data, bytes)
        return CloudEvent(attributes, self.data if raw else _json_tree(self.data))

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Return the event of CloudEvents JSON *text*, in structured mode.

        This is stricter than the SDK. The SDK invents a missing ``id``, which would hide repeats.
        It also accepts a missing ``specversion``, times without seconds and media types without a
        slash.
        """
        given = codec.loads(text)
        if not isinstance(given, dict):
            raise InvalidEvent("a CloudEvent is a JSON object", "not_cloudevent")
        return cls.from_attributes(given)

    @classmethod
    def from_attributes(cls, given: Mapping[str, Any]) -> Event:
        """Return the event of the JSON members *given*.

        Raises InvalidEvent with every problem.
        """
        # null means unset
        given = {
            name: value for name, value in given.items() if value is not None or name == "data"
        }
        problems = list(structural_problems(given))
        if problems:
            raise InvalidEvent("not a CloudEvent: " + "; ".join(problems), "not_cloudevent")
        known = {
            n: given[n]
            for n in ("id", "source", "type", "subject", "datacontenttype", "dataschema")
            if n in given
        }
        data = _base64(given["data_base64"]) if "data_base64" in given else given.get("data")
        extensions = {n: v for n, v in given.items() if n not in RESERVED}
        when = parse_time(given["time"]) if "time" in given else None
        try:
            return cls(data=data, time=when, extensions=extensions, **known)  # type: ignore[arg-type]
        except InvalidEvent as error:
            raise InvalidEvent(str(error), "not_cloudevent") from error


def as_event(sample: Any) -> Event:
    """Return *sample* itself when it is an Event, else an Event with *sample* as its data."""
    if isinstance(sample, Event):
        return sample
    # nothing but data was given: nothing to check
    now = datetime.now(UTC)
    return _made(sample, DEFAULT_TYPE, DEFAULT_SOURCE, new_id(), now, None, None, None, {}, *_OURS)


def attributes_of(event: Event) -> dict[str, Any]:
    """Return the context attributes by name.

    Filters on attributes see them, and they travel as message attributes.
    """
    own = {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat(),
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
    }
    named = {
        **{name: value for name, value in own.items() if value is not None},
        **event.extensions,
    }
    foreign = named.pop(MESSAGE_ATTRIBUTES, None)
    # earlier releases took any text
    return named if foreign is None else {**named, **(foreign_attributes(foreign) or {})}


def hops_of(extensions: Mapping[str, Any]) -> int:
    """Return how many causes an event with these *extensions* has in its chain.

    Returns 0 if that is no count.
    """
    hops = extensions.get("hops")
    return hops if type(hops) is int and hops >= 0 else 0


def restored(
    data: Any,
    type: str,  # noqa: A002
    source: str,
    id: str,  # noqa: A002
    time: str,
    subject: str | None,
    datacontenttype: str | None,
    dataschema: str | None,
    extensions: Mapping[str, str | bool | int],
    raw: bytes | None = None,
) -> Event:
    """Return an Event of stored attributes, without checking them again.

    *data* were decoded from *raw*.
    """
    when = datetime.fromisoformat(time)
    about = subject, datacontenttype, dataschema
    return _made(data, type, source, id, when, *about, extensions, None, None, raw)


def traced(event: Event) -> Event:
    """Return *event* as it is when it travels in a trace, else a copy that begins one."""
    if event.traceparent:
        return event
    return _changed(event, extensions={**event.extensions, "traceparent": new_trace()})


def with_opener(event: Event, opener: Callable[[], BinaryIO]) -> Event:
    """Return a copy of *event* whose :meth:`Event.open` calls *opener*."""
    return _changed(event, _opener=opener)


def can_open(event: Event) -> bool:
    """Whether :meth:`Event.open` of *event* has an object to open."""
    return event._opener is not None


def with_data(event: Event, data: Any) -> Event:
    """Return a copy of *event* with other data."""
    return _changed(event, data=data, _encoded=None, _raw=None)


_FIELDS = tuple(field.name for field in dataclasses.fields(Event))
_values_of = operator.attrgetter(*_FIELDS)
_OURS = None, None, None
"""The last three fields of an event that has none of ours."""


class _Draft:
    """An event while it is made: the same slots, open.

    To write through ``object.__setattr__`` takes three times as long, and this is a hot path.
    """

    __slots__ = _FIELDS

    def __init__(self, *values: Any) -> None:
        (
            self.data,
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
        ) = values


def _made(*values: Any) -> Event:
    """Return the event with these values of ``_FIELDS``, unchecked."""
    draft: Any = _Draft(*values)
    draft.__class__ = Event
    return cast(Event, draft)


def _changed(event: Event, **changes: Any) -> Event:
    """Return a copy of *event* with other values of some fields, unchecked."""
    draft: Any = _Draft(*_values_of(event))
    for name, value in changes.items():
        setattr(draft, name, value)
    draft.__class__ = Event
    return cast(Event, draft)


def derived_id(cause: Event, subscription: str) -> str:
    """Return the id of the event that *subscription* emits for *cause*.

    It depends on both alone, so a repeat is recognised.
    """
    return hashlib.blake2b(
        f"{cause.source}\n{cause.id}\n{subscription}".encode(), digest_size=16
    ).hexdigest()


def _base64(text: Any) -> bytes:
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"data_base64 is not base64: {error}", "not_cloudevent") from error


def _json_tree(data: Any) -> Any:
    """Return *data* as plain JSON values with tags, as other languages see it."""
    return codec.loads_untagged(codec.encode(data))
