"""Event: an immutable fact, as CloudEvents 1.0 defines it.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.event.checks import (
    MESSAGE_ATTRIBUTES,
    RESERVED,
    foreign_attributes,
    from_base64,
    parse_time,
    plainly_fine,
    problems_of,
    stored_data,
    structural_problems,
)
from mltrigger.event.ids import child_span, new_id
from mltrigger.text import card, short

DEFAULT_TYPE = "mltrigger.event"
DEFAULT_SOURCE = "mltrigger"
MAX_HOPS = 16
"""Longest chain of events that cause each other. A longer one counts as a loop.

AWS Lambda's loop detection has the same limit.
"""


CORRECTS = "corrects"
"""The extension of an event that replaces another one: its source and id, as ``source#id``."""

Rest = tuple[str, str, datetime, str | None, str | None, Mapping[str, str | bool | int]]
"""The source, id, time, subject, dataschema and extensions of an event."""
LATER = ("source", "id", "time", "subject", "dataschema", "extensions")
"""The attributes that are read when needed, in the order of ``Rest``."""


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
    # the JSON that it was delivered as; its data are left out until their first use
    _raw: bytes | None = dataclasses.field(default=None, compare=False, init=False)
    # returns the attributes that are left out as well
    _rest: Callable[[], Rest] | None = dataclasses.field(default=None, compare=False, init=False)

    def __post_init__(self) -> None:
        if self.id is None:
            object.__setattr__(self, "id", new_id())
        if self.time is None:
            object.__setattr__(self, "time", datetime.now(UTC))
        if not plainly_fine(self) and (problems := list(problems_of(self))):
            raise InvalidEvent("invalid event: " + "; ".join(problems))

    if not TYPE_CHECKING:  # else every name would be an attribute

        def __getattr__(self, name: str) -> Any:
            """Read the data or attributes of a stored event at their first use."""
            if name == "data":
                object.__setattr__(self, name, stored_data(self._raw, self))
            elif name in LATER and self._rest is not None:
                for attribute, value in zip(LATER, self._rest(), strict=True):
                    object.__setattr__(self, attribute, value)
            else:
                raise AttributeError(f"Event has no attribute {name!r}", name=name, obj=self)
            return object.__getattribute__(self, name)

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

    @property
    def corrects(self) -> str | None:
        """The output that this event replaces, as ``source#id``. ``None`` if it replaces none.

        It stays the same when an answer is corrected again. So it is a key of the answer.
        """
        if self._rest is not None:  # read when needed: such an event has no extensions of its own
            return None
        value = self.extensions.get(CORRECTS)
        return value if isinstance(value, str) else None

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

    def correction(self, *, by: str, type: str, number: int, version: str, encoded: bytes) -> Event:  # noqa: A002 - the CloudEvents name
        """Return the event that replaces the output of subscription *by* for this event.

        *encoded* is the answer of *version* as JSON, in place of that of binding *number*. The same
        four give the same id every time.
        """
        made = self.emitted(None, by=by, type=type, encoded=encoded)
        return dataclasses.replace(
            made,
            id=derived_id(self, by, str(number), version),
            extensions={**made.extensions, CORRECTS: f"{made.source}#{made.id}"},
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
        return CloudEvent(
            attributes, self.data if raw else codec.loads_untagged(codec.encode(self.data))
        )

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
        data = from_base64(given["data_base64"]) if "data_base64" in given else given.get("data")
        extensions = {n: v for n, v in given.items() if n not in RESERVED}
        when = parse_time(given["time"]) if "time" in given else None
        try:
            return cls(data=data, time=when, extensions=extensions, **known)  # type: ignore[arg-type]
        except InvalidEvent as error:
            raise InvalidEvent(str(error), "not_cloudevent") from error


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


def derived_id(cause: Event, *by: str) -> str:
    """Return the id of the event that a subscription emits for *cause*.

    It depends on the cause and on *by* alone, so a repeat is recognised.
    """
    return hashlib.blake2b(
        "\n".join((cause.source, cause.id, *by)).encode(), digest_size=16
    ).hexdigest()
