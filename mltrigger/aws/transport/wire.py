"""Events as messages of SNS and SQS, batches for one call, and pointers to large bodies.

The format is CloudEvents' binary mode in message attributes. The body is the data: JSON text, the
text of ``text/*``, or base64 of anything else. For base64, the attribute ``ce-datacontentencoding``
says so. SQS and SNS refuse an empty body, so no data at all is sent as one line feed, which is no
base64 data.

These attributes always travel on their own, so that a filter policy of SNS sees them:
``ce-specversion``, ``ce-id``, ``ce-source``, ``ce-type``, ``ce-time``, ``ce-subject`` and
``content-type``. Extensions do as long as there is room. The rest is the JSON object ``ce-more``,
together with booleans and empty texts, which cannot be attribute values. A filter that is pushed to
SNS must therefore accept each message with ``ce-more``.

:mod:`mltrigger.event.envelopes` reads these messages.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any, Literal, NamedTuple

from mltrigger.aws import limits
from mltrigger.errors import InvalidEvent, InvalidName
from mltrigger.event.data import is_json
from mltrigger.event.event import Event
from mltrigger.text import short

Attribute = dict[str, Any]
"""A message attribute as boto3 takes it: ``DataType`` and ``StringValue``."""

GROUP = "partitionkey"
"""The extension that is the message group of a FIFO topic (CloudEvents' extension of that name)."""
ENCODING = "ce-datacontentencoding"
MORE = "ce-more"
POINTER = "software.amazon.payloadoffloading.PayloadS3Pointer"
POINTERS = (POINTER, "com.amazon.sqs.javamessaging.MessageS3Pointer")
"""Markers of the AWS extended clients: today's, and that of their first versions."""
POINTER_SIZE = "ExtendedPayloadSize"
POINTER_SIZES = (POINTER_SIZE, "SQSLargePayloadSize")

ON_THEIR_OWN = frozenset(
    {
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-time",
        "ce-subject",
        "content-type",
        ENCODING,
    }
)
"""Attributes that are never in ``ce-more``, so that a filter policy of SNS can test them."""

_UNNAMED = frozenset({"more", "datacontentencoding"})
"""Extensions whose attribute name is one of ours. They are always in ``ce-more``."""
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,15}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,2046}[A-Za-z0-9]")
"""Wider than the rules for new buckets: the alias or ARN of an access point may stand here."""


class Message(NamedTuple):
    """The message of one event.

    Attributes
    ----------
    body : str
        The data, see the module.
    attributes : dict
        In boto3's shape, by name.
    group, deduplication : str or None
        ``MessageGroupId`` and ``MessageDeduplicationId``, for a FIFO topic or queue only.
    """

    body: str
    attributes: dict[str, Attribute]
    group: str | None = None
    deduplication: str | None = None

    @property
    def size(self) -> int:
        """Size in bytes as AWS counts it, names, types and values of attributes included."""
        return limits.message_bytes(self.body, self.attributes)


def to_message(
    event: Event, raw: bytes, media_type: str | None, fifo: bool, limit: int | None
) -> Message:
    """Return the message of *event*.

    Parameters
    ----------
    raw, media_type
        The data of *event*, as :func:`mltrigger.event.data.encode_data` returns them.
    fifo
        For a FIFO topic or queue. The extension ``partitionkey`` becomes the message group. Source
        and id make the deduplication id.
    limit
        The largest size of the message in bytes. ``None`` if a large one becomes a :func:`pointer`.

    Raises
    ------
    EventTooLarge
        ``too_large``
    InvalidEvent
        AWS would refuse or lose the event: ``invalid_character`` (with its offset),
        ``invalid_attribute`` or ``missing_group_id``.
    """
    body, encoding = _body(raw, media_type)
    group = _group(event) if fifo else None
    message = Message(
        body=body,
        attributes=_attributes(event, media_type, encoding),
        group=group,
        deduplication=deduplication_id(event.source, event.id) if fifo else None,
    )
    limits.check_message(
        message.body,
        message.attributes,
        group=message.group,
        fifo=fifo,
        limit=limit,
    )
    return message


def deduplication_id(source: str, id: str) -> str:  # noqa: A002 - the CloudEvents name
    """Return the ``MessageDeduplicationId`` of an event. It is the same for every repeat."""
    return hashlib.sha256(f"{source}\n{id}".encode()).hexdigest()


# -- the body --------------------------------------------------------------------------------------


def _body(raw: bytes, media_type: str | None) -> tuple[str, str | None]:
    """Return *raw* as text, and its encoding if there is one."""
    if is_json(media_type):
        try:
            return escaped(raw.decode()), None
        except UnicodeDecodeError as error:
            raise InvalidEvent(
                f"data is not UTF-8 (byte {error.start})", "unsupported_encoding"
            ) from error
    if raw and (text := _text(raw, media_type or "")) is not None:
        return limits.check_text("data", text), None
    return base64.b64encode(raw).decode() or "\n", "base64"


def escaped(text: str) -> str:
    r"""Return JSON *text* with each character that SQS refuses as an escape. Its meaning stays.

    In JSON such a character can only stand in a string, where ``\uFFFE`` means the same.
    """
    return (
        text
        if text.isprintable()
        else limits.FORBIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    )


def _text(raw: bytes, media_type: str) -> str | None:
    """Return ``text/*`` data in UTF-8 as text, ``None`` for all others: their bytes must stay."""
    if not media_type.lower().startswith("text/"):
        return None
    if (charset := _CHARSET.search(media_type)) and charset[1].lower() not in _UTF8:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


# -- the attributes --------------------------------------------------------------------------------


def _attributes(event: Event, media_type: str | None, encoding: str | None) -> dict[str, Attribute]:
    own = {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": event.source,
        "ce-type": event.type,
        "ce-time": _time(event),
        "ce-subject": event.subject,
        "content-type": media_type,
        ENCODING: encoding,
        "ce-dataschema": event.dataschema,
    }
    attributes = {name: _string(value) for name, value in own.items() if value is not None}
    more: dict[str, Any] = {}
    for name, value in event.extensions.items():
        if isinstance(value, str):
            # also in ce-more: a filter must read the same everywhere
            limits.check_text(f"extension {name}", value)
        if isinstance(value, bool) or value == "" or name in _UNNAMED:
            more[name] = value
        elif isinstance(value, str):
            attributes[f"ce-{name}"] = _string(value)
        else:
            attributes[f"ce-{name}"] = {"DataType": "Number", "StringValue": str(int(value))}
    return _fitted(attributes, more, limits.ATTRIBUTES.high)


def _fitted(
    attributes: dict[str, Attribute], more: dict[str, Any], room: int
) -> dict[str, Attribute]:
    """Return at most *room* attributes. The rest goes to *more*.

    The last extension goes first, ``ce-dataschema`` last.
    """
    movable = [name for name in attributes if name not in ON_THEIR_OWN]
    while movable and len(attributes) + bool(more) > room:
        name = movable.pop()
        more[name.removeprefix("ce-")] = _value(attributes[name])
        attributes = {other: attribute for other, attribute in attributes.items() if other != name}
    if more:
        attributes = {
            **attributes,
            MORE: _string(escaped(json.dumps(more, ensure_ascii=False, separators=(",", ":")))),
        }
    return attributes


def _string(value: str) -> Attribute:
    # as plain str: a str enumeration would be sent under its name
    return {"DataType": "String", "StringValue": str.__str__(value)}


def _value(attribute: Attribute) -> str | int:
    return (
        int(attribute["StringValue"])
        if attribute["DataType"] == "Number"
        else str(attribute["StringValue"])
    )


def _time(event: Event) -> str:
    """Return the event's time as RFC 3339, which has no offsets with seconds (local mean time)."""
    offset = event.time.utcoffset()
    if offset is None or offset.total_seconds() % 60 == 0:
        return event.time.isoformat()
    try:
        return event.time.astimezone(UTC).isoformat()
    except OverflowError as error:
        raise InvalidEvent(
            f"time {event.time.isoformat()} has no form in UTC", "invalid_attribute"
        ) from error


def _group(event: Event) -> str | None:
    value = event.extensions.get(GROUP)
    return str.__str__(value) if isinstance(value, str) else None if value is None else str(value)


# -- bodies beyond the limit -----------------------------------------------------------------------


def pointer(message: Message, bucket: str, key: str, limit: int | None = None) -> Message:
    """Return the message that points to the body of *message*, as the AWS extended clients do.

    The object must hold ``message.body`` in UTF-8. The attributes stay, so that filters see the
    same.

    Raises
    ------
    EventTooLarge
        The attributes alone have more than *limit* bytes.
    InvalidName
        There can be no such bucket or key.
    """
    if not _BUCKET.fullmatch(bucket):
        raise InvalidName(
            f"bucket {short(bucket)!r} must be the name of a bucket, or the alias or ARN of an"
            " access point"
        )
    where = {"s3BucketName": bucket, "s3Key": limits.check_key(key)}
    attributes = dict(message.attributes)
    more = json.loads(attributes.pop(MORE)["StringValue"]) if MORE in attributes else {}
    size = {
        POINTER_SIZE: {"DataType": "Number", "StringValue": str(limits.text_bytes(message.body))}
    }
    fitted = _fitted(attributes, more, limits.ATTRIBUTES.high - len(size))
    small = message._replace(
        body=json.dumps([POINTER, where], separators=(",", ":")), attributes={**fitted, **size}
    )
    if limit is not None:
        limits.check_size(small.size, limit, "message without its data")
    return small


def read_pointer(body: str, attributes: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the bucket and key that a message points to, ``None`` if it is not exactly a pointer.

    Every sender to the queue can write a pointer. Fetch from buckets that the receiver was told of,
    and from no other.
    """
    if not any(_says_size(attributes[name]) for name in POINTER_SIZES if name in attributes):
        return None
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    match given:
        case [marker, {"s3BucketName": str() as bucket, "s3Key": str() as key, **rest}]:
            if marker in POINTERS and not rest and _BUCKET.fullmatch(bucket):
                with contextlib.suppress(InvalidName):
                    return bucket, limits.check_key(key)
    return None


def _says_size(attribute: Mapping[str, Any]) -> bool:
    """Whether *attribute* counts bytes, in the spelling of SQS, Lambda or an SNS notification."""
    kind = attribute.get("DataType") or attribute.get("dataType") or attribute.get("Type")
    value = attribute.get("StringValue") or attribute.get("stringValue") or attribute.get("Value")
    return (
        isinstance(kind, str)
        and kind.partition(".")[0] == "Number"
        and isinstance(value, str)
        and bool(_COUNT.fullmatch(value))
    )


# -- calls -----------------------------------------------------------------------------------------


def batches(messages: Sequence[Message], limit: int) -> list[list[int]]:
    """Return the indexes of *messages* in order, grouped by call.

    A call has at most 10 messages and *limit* bytes together. It never has two messages of one
    ordered group: a call may refuse one entry and take the next, which would then overtake.

    Raises
    ------
    EventTooLarge
        One message alone has more than *limit* bytes.
    """
    groups: list[list[int]] = []
    total = 0
    for index, message in enumerate(messages):
        size = message.size
        limits.check_size(size, limit, f"message {index}")
        behind = (
            groups
            and message.group is not None
            and any(messages[i].group == message.group for i in groups[-1])
        )
        if (
            not groups
            or behind
            or len(groups[-1]) == limits.BATCH_ENTRIES.high
            or total + size > limit
        ):
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += size
    return groups


def entries(
    messages: Sequence[Message],
    service: Literal["sns", "sqs"],
    indexes: Iterable[int] | None = None,
) -> list[dict[str, Any]]:
    """Return the entries of one ``PublishBatch`` (``"sns"``) or ``SendMessageBatch`` (``"sqs"``).

    They have boto3's shape. The ``Id`` of an entry is the index of its message in *messages*:
    ``int(failed["Id"])`` leads back to it. *indexes* is one group of :func:`batches`, by default
    all.
    """
    body = "Message" if service == "sns" else "MessageBody"
    chosen = range(len(messages)) if indexes is None else indexes
    return [_entry(str(index), messages[index], body) for index in chosen]


def _entry(entry_id: str, message: Message, body: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "Id": entry_id,
        body: message.body,
        "MessageAttributes": message.attributes,
    }
    if message.group is not None:
        entry["MessageGroupId"] = message.group
    if message.deduplication is not None:
        entry["MessageDeduplicationId"] = message.deduplication
    return entry
