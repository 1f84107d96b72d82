"""One received message, and the results of reading it."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mltrigger.errors import InvalidEvent
from mltrigger.event.checks import parse_time
from mltrigger.event.codec import encodable, unmarked
from mltrigger.event.event import Event

UNREADABLE_TYPE = "mltrigger.unreadable"
"""The type of the event that keeps the raw bytes of an unreadable message."""
UNREADABLE = "unreadable"
"""The extension of such an event with the reason code. No model is called with its bytes."""
UNREADABLE_WHY = "unreadablewhy"
"""The extension with the reason in words."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POINTER_SIZES = frozenset({"extendedpayloadsize", "sqslargepayloadsize"})
"""Attributes of the extended client, lower-cased: about the transport, not about the event."""


class Arrival(NamedTuple):
    """One message as a queue or a Lambda function received it.

    Attributes
    ----------
    body : str
        The body. Bodies that the extended client keeps in S3 must be fetched before.
    attributes : mapping
        Its message attributes, in one of three spellings: of SQS (``DataType``, ``StringValue``),
        of Lambda (``dataType``, ``stringValue``) or of a notification (``Type``, ``Value``).
    message_id : str
        The id of an event without its own.
    origin : str
        The ARN of the queue: the ``source`` of an event without one.
    sent_us : int, optional
        ``SentTimestamp``, in microseconds since 1970: the time of an event without one.
    group : str, optional
        ``MessageGroupId``: the extension ``partitionkey`` of an event without one.
    """

    body: str
    attributes: Mapping[str, Mapping[str, Any]]
    message_id: str
    origin: str
    sent_us: int | None = None
    group: str | None = None


class Unreadable(NamedTuple):
    """An unreadable message. It becomes a dead letter with the raw bytes of the whole body.

    ``id`` is the id of the message. If only the second of several events is unreadable, ``id`` ends
    in ``#2`` and ``part`` is that event alone.
    """

    reason: str
    message: str
    id: str
    raw: bytes
    part: bytes | None = None


class Ignored(NamedTuple):
    """A message without an event, such as ``s3_test_event``. ``type`` names its kind.

    It is acked with one row in the log, and no model is called.
    """

    reason: str
    id: str
    raw: bytes
    type: str


Item = Event | Unreadable | Ignored
"""The content of a message: each item is an event, or the reason why it is none."""


class Attribute(NamedTuple):
    """One message attribute: its type, and its text or bytes.

    The type keeps its suffix, as in ``Binary.png``.
    """

    kind: str
    value: str | bytes

    @property
    def text(self) -> str:
        """The value as CloudEvents writes it: bytes as base64."""
        return self.value if isinstance(self.value, str) else base64.b64encode(self.value).decode()


def read_attributes(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Attribute]:
    """Return message attributes of any of the three spellings by name.

    Attributes without a value are left out.
    """
    found = {}
    for name, entry in given.items():
        if (attribute := _attribute(entry)) is not None:
            found[name] = attribute
    return found


def message_attributes(arrival: Arrival) -> dict[str, dict[str, Any]]:
    """Return the attributes of an unwrapped message in the spelling of SQS.

    Those of the extended client are left out. For filters,
    :func:`mltrigger.filters.attributes.from_message_attributes` turns them into plain values under
    the publisher's names. For events of type ``mltrigger.message`` they come before the event's
    own, as in SNS. For every other event its own come first.
    """
    return {
        name: {
            "DataType": attribute.kind,
            "StringValue" if isinstance(attribute.value, str) else "BinaryValue": attribute.value,
        }
        for name, attribute in read_attributes(arrival.attributes).items()
        if not is_of_transport(name)
    }


def is_of_transport(name: str) -> bool:
    """Whether a message attribute says something about the transport only."""
    return name.lower() in _POINTER_SIZES


def sent_at(arrival: Arrival) -> datetime | None:
    """Return when the message was sent, if that is known."""
    try:
        return None if arrival.sent_us is None else _EPOCH + timedelta(microseconds=arrival.sent_us)
    except OverflowError:
        return None


def stated(time: Any, arrival: Arrival) -> datetime | None:
    """Return the *time* that an envelope states, or when the message was sent if it states none."""
    try:
        return parse_time(time)
    except InvalidEvent:
        return sent_at(arrival)


def with_group(extensions: Mapping[str, Any], arrival: Arrival) -> dict[str, Any]:
    """Return *extensions* with the message's group as ``partitionkey``, if it has none."""
    group = {"partitionkey": arrival.group} if arrival.group and encodable(arrival.group) else {}
    return {**group, **extensions}


def with_raw(event: Event, raw: bytes) -> Event:
    """Return *event* with the JSON that it was made from, to be kept and sent on.

    :func:`mltrigger.event.codec.loads` has just read that JSON.
    """
    # in place: nobody else has it yet, and a copy would be checked once more
    object.__setattr__(event, "_encoded", unmarked(raw).lstrip())
    return event


def as_subject(text: str) -> str | None:
    """Return *text* as a subject that every transport takes.

    Unprintable characters are escaped, as ``\\x1b`` or ``\\u202e``. Spaces of any kind stay: they
    occur in names of files, and no transport refuses them.
    """
    if text.isprintable():
        return text or None
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text
    )


def _attribute(entry: Any) -> Attribute | None:
    # The spelling of SQS first: this is done ten times for each event of our own.
    if entry.__class__ is dict and (kind := entry.get("DataType")) in ("String", "Number"):
        value = entry.get("StringValue")
        if value.__class__ is str:
            return Attribute(kind, value)
    if not isinstance(entry, Mapping):
        return None
    kind = str(_first(entry, "DataType", "dataType", "Type") or "String")
    value = _first(entry, "StringValue", "stringValue", "Value")
    if kind.startswith("Binary"):
        return _binary(kind, _first(entry, "BinaryValue", "binaryValue", "Value"))
    return None if value is None else Attribute(kind, str(value))


def _binary(kind: str, value: Any) -> Attribute | None:
    """Return the bytes of a binary attribute. Lambda and SNS send them as base64."""
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error):
            value = value.encode("utf-8", "surrogatepass")
    return Attribute(kind, bytes(value)) if isinstance(value, (bytes, bytearray)) else None


def _first(entry: Mapping[str, Any], *names: str) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)
