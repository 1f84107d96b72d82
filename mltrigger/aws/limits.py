"""What SQS, SNS and S3 accept, as data with its source, and the checks that are made before
anything is sent.

The limits are those of the service models of botocore 1.44 (2026) and of the pages that are named
beside them. They are checked here and not left to the service, because a refused entry of a batch
call is late, some of it is refused on delivery only (and lost), and emulators accept what AWS
refuses. Every error names the field, the limit and the value, without secrets.
"""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.errors import EventTooLarge, InvalidEvent, InvalidName, InvalidPolicy
from mltrigger.text import redacted, short

_SQS_API = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference"
_SQS_GUIDE = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide"
_SNS_API = "https://docs.aws.amazon.com/sns/latest/api"
_SNS_GUIDE = "https://docs.aws.amazon.com/sns/latest/dg"
_S3_GUIDE = "https://docs.aws.amazon.com/AmazonS3/latest/userguide"


class Limit(NamedTuple):
    """A range that AWS allows, ends included, and the document that says so."""

    name: str
    low: int
    high: int
    unit: str
    source: str


# -- sizes and counts ------------------------------------------------------------------------------

SQS_MESSAGE = Limit(
    "SQS message with its attributes", 1, 1_048_576, "bytes", f"{_SQS_API}/API_SendMessage.html"
)
SNS_MESSAGE = Limit(
    "SNS message with its attributes", 1, 262_144, "bytes", f"{_SNS_API}/API_Publish.html"
)
"""As a topic is made. Its attribute ``MaximumMessageSize`` may raise the limit to that of SQS (at
most 100 subscriptions then).
"""
SQS_BATCH = Limit(
    "messages of one SendMessageBatch together",
    1,
    1_048_576,
    "bytes",
    f"{_SQS_API}/API_SendMessageBatch.html",
)
SNS_BATCH = Limit(
    "messages of one PublishBatch together",
    1,
    262_144,
    "bytes",
    f"{_SNS_API}/API_PublishBatch.html",
)
BATCH_ENTRIES = Limit(
    "entries of one batch call", 1, 10, "entries", f"{_SQS_GUIDE}/quotas-messages.html"
)
ATTRIBUTES = Limit("message attributes", 0, 10, "attributes", f"{_SQS_GUIDE}/quotas-messages.html")
"""Of SQS. SNS takes more, and discards the message at a subscription with raw delivery
(sns-message-attributes.html).
"""
ATTRIBUTE_NAME = Limit(
    "message attribute name", 1, 256, "characters", f"{_SQS_GUIDE}/sqs-message-metadata.html"
)
ATTRIBUTE_TYPE = Limit(
    "message attribute data type", 1, 256, "characters", f"{_SQS_GUIDE}/sqs-message-metadata.html"
)
SUBJECT = Limit("SNS subject", 1, 100, "characters", f"{_SNS_API}/API_Publish.html")
GROUP_ID = Limit("MessageGroupId", 1, 128, "characters", f"{_SQS_API}/API_SendMessage.html")
DEDUPLICATION_ID = Limit(
    "MessageDeduplicationId", 1, 128, "characters", f"{_SQS_API}/API_SendMessage.html"
)
ENTRY_ID = Limit(
    "id of a batch entry", 1, 80, "characters", f"{_SQS_API}/API_SendMessageBatchRequestEntry.html"
)
QUEUE_NAME = Limit("queue name", 1, 80, "characters", f"{_SQS_API}/API_CreateQueue.html")
TOPIC_NAME = Limit("topic name", 1, 256, "characters", f"{_SNS_API}/API_CreateTopic.html")
BUCKET_NAME = Limit("bucket name", 3, 63, "characters", f"{_S3_GUIDE}/bucketnamingrules.html")
OBJECT_KEY = Limit("object key", 1, 1024, "bytes", f"{_S3_GUIDE}/object-keys.html")

# -- settings of queues and calls ------------------------------------------------------------------

DELAY_S = Limit("DelaySeconds", 0, 900, "seconds", f"{_SQS_API}/API_SendMessage.html")
VISIBILITY_S = Limit(
    "VisibilityTimeout", 0, 43_200, "seconds", f"{_SQS_API}/API_ChangeMessageVisibility.html"
)
WAIT_S = Limit("WaitTimeSeconds", 0, 20, "seconds", f"{_SQS_API}/API_ReceiveMessage.html")
RETENTION_S = Limit(
    "MessageRetentionPeriod", 60, 1_209_600, "seconds", f"{_SQS_API}/API_CreateQueue.html"
)
RECEIVE_COUNT = Limit(
    "maxReceiveCount", 1, 1_000, "receives", f"{_SQS_GUIDE}/sqs-dead-letter-queues.html"
)
RECEIVE_MESSAGES = Limit(
    "MaxNumberOfMessages", 1, 10, "messages", f"{_SQS_API}/API_ReceiveMessage.html"
)
QUEUE_MESSAGE_SIZE = Limit(
    "MaximumMessageSize", 1_024, 1_048_576, "bytes", f"{_SQS_API}/API_CreateQueue.html"
)

# -- characters and names --------------------------------------------------------------------------

CHARACTERS = "#x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF"
"""What the text of a message and of its attributes may hold (API_SendMessage.html; for SNS
https://aws.amazon.com/sns/faqs/).
"""
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
PREFIXES = ("aws.", "amazon.")
"""Attribute names may not begin so, in any casing (sqs-message-metadata.html)."""
DATA_TYPES = ("String", "Number", "Binary")
"""The logical types; each may have a label after a dot. SNS knows ``String.Array`` as well."""
NUMBER_DIGITS = 38
NUMBER_EXPONENTS = (-128, 126)
"""A Number has at most 38 digits and a magnitude between 10^-128 and 10^+126
(sqs-message-metadata.html).
"""

_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DATA_TYPE = re.compile(r"(String|Number|Binary)(\..+)?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]+")
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?")
_BUCKET = re.compile(
    r"(?!xn--|sthree-|amzn-s3-demo-|\d{1,3}(?:\.\d{1,3}){3}\Z)"
    r"[a-z0-9](?:[a-z0-9-]|\.(?!\.))*[a-z0-9]"
    r"(?<!-s3alias)(?<!--ol-s3)(?<!\.mrap)(?<!--x-s3)(?<!--table-s3)"
)


def within(limit: Limit, value: int) -> int:
    """Return *value*, or raise InvalidPolicy when the setting is not in the range of *limit*."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not limit.low <= value <= limit.high
    ):
        raise InvalidPolicy(
            f"{limit.name} must be from {limit.low:,} to {limit.high:,} {limit.unit}, got"
            f" {_shown(value)} ({limit.source})"
        )
    return value


def check_text(field: str, text: str) -> str:
    """Return *text*, or raise InvalidEvent (``invalid_character``) with the offset of the first
    character that SQS and SNS refuse.
    """
    # What is printable is never forbidden, and it is known without looking at each character twice:
    # this is a hot path.
    if text.isprintable() or (found := FORBIDDEN.search(text)) is None:
        return text
    raise InvalidEvent(
        f"{field} has U+{ord(found[0]):04X} at offset {found.start():,} of {_shown(text)}; SQS and"
        f" SNS accept only {CHARACTERS}: take it out, or publish the data as bytes of a media type"
        " that is no text, such as application/octet-stream",
        "invalid_character",
    )


def check_body(body: str) -> str:
    """Return *body*, or raise InvalidEvent when it is empty (``invalid_structure``) or holds a
    forbidden character.
    """
    if not isinstance(body, str) or not body:
        raise InvalidEvent(
            f"body must be text of at least 1 character, got {_shown(body)} ({SQS_MESSAGE.source})",
            "invalid_structure",
        )
    return check_text("body", body)


def check_size(size: int, limit: int, what: str = "message") -> None:
    """Raise EventTooLarge (``too_large``) when *what* has more than *limit* bytes."""
    if size > limit:
        raise EventTooLarge(
            f"{what} has {size:,} bytes (body, attribute names, types and values); the limit is"
            f" {limit:,}: store the object and publish its name, or give the bus a bucket for"
            " payloads",
            "too_large",
        )


def text_bytes(text: str) -> int:
    """Return the length of *text* as AWS counts it: in UTF-8, not in characters."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def message_bytes(body: str, attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size of a message as AWS counts it: the body and every attribute's name, type and
    value.
    """
    size = text_bytes(body)
    for name, attribute in attributes.items():
        value = attribute["StringValue"] if "StringValue" in attribute else attribute["BinaryValue"]
        size += (
            text_bytes(name)
            + text_bytes(attribute["DataType"])
            + (text_bytes(value) if isinstance(value, str) else len(value))
        )
    return size


def check_message(
    body: str,
    attributes: Mapping[str, Mapping[str, Any]],
    *,
    group: str | None,
    deduplication: str | None,
    fifo: bool,
    limit: int | None,
) -> None:
    """Raise InvalidEvent or EventTooLarge when the message breaks any rule; ``None`` as *limit*
    leaves the size unchecked.
    """
    check_body(body)
    check_attributes(attributes)
    if fifo and not group:
        raise InvalidEvent(
            "a FIFO topic or queue needs a MessageGroupId for each event: give the event the"
            " extension partitionkey, Event(…, extensions={'partitionkey': 'customer-17'})",
            "missing_group_id",
        )
    for id_limit, value in ((GROUP_ID, group), (DEDUPLICATION_ID, deduplication)):
        if value is not None:
            check_id(id_limit, value)
    if limit is not None:
        check_size(message_bytes(body, attributes), limit)


# -- attributes ------------------------------------------------------------------------------------


def check_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InvalidEvent when the message attributes, in boto3's shape, are too many or one of them
    is not acceptable.
    """
    if len(attributes) > ATTRIBUTES.high:
        raise InvalidEvent(
            f"{len(attributes)} message attributes; SQS takes at most {ATTRIBUTES.high}, and SNS"
            " drops such a message at raw delivery",
            "invalid_attribute",
        )
    for name, attribute in attributes.items():
        check_attribute(name, attribute)


def check_attribute(name: str, attribute: Mapping[str, Any]) -> None:
    """Raise InvalidEvent (``invalid_attribute`` or ``invalid_character``) when SQS or SNS would
    refuse the attribute *name*.
    """
    check_attribute_name(name)
    kind, text = attribute.get("DataType"), attribute.get("StringValue")
    if (
        kind == "String"
        and len(attribute) == 2
        and isinstance(text, str)
        and text
        and text.isprintable()
    ):
        return  # what nearly every attribute is
    field = f"message attribute {name!r}"
    if (
        not isinstance(kind, str)
        or len(kind) > ATTRIBUTE_TYPE.high
        or not (match := _DATA_TYPE.fullmatch(kind))
    ):
        raise _attribute(
            f"{field}: DataType must be one of {', '.join(DATA_TYPES)}, with a label after a dot if"
            f" need be, in at most {ATTRIBUTE_TYPE.high} characters, got {_shown(kind)}"
        )
    check_text(f"{field}: DataType", kind)
    slot = "BinaryValue" if match[1] == "Binary" else "StringValue"
    if set(attribute) != {"DataType", slot}:
        raise _attribute(
            f"{field}: DataType {kind} takes {slot} and nothing else, got"
            f" {_shown(', '.join(sorted(map(str, attribute))))}"
        )
    value = attribute[slot]
    if not isinstance(value, str if slot == "StringValue" else (bytes, bytearray)) or not value:
        raise _attribute(f"{field}: {slot} must not be empty, got {_shown(value)}")
    if isinstance(value, str):
        check_text(field, value)
        if match[1] == "Number":
            _check_number(field, value)
        elif kind == "String.Array":
            _check_array(field, value)


def check_attribute_name(name: str) -> str:
    """Return *name*, or raise InvalidEvent (``invalid_attribute``) when no message attribute may be
    called so.
    """
    if (
        not isinstance(name, str)
        or len(name) > ATTRIBUTE_NAME.high
        or not _ATTRIBUTE_NAME.fullmatch(name)
    ):
        raise _attribute(
            f"message attribute name {_shown(name)} must be 1 to {ATTRIBUTE_NAME.high} letters,"
            " digits, '_', '-' and '.', with no dot at either end and no two dots in a row"
        )
    if name.lower().startswith(PREFIXES):
        raise _attribute(
            f"message attribute name {_shown(name)} begins with a prefix that AWS keeps for itself"
            " (AWS. or Amazon.)"
        )
    return name


def _check_number(field: str, text: str) -> None:
    if not _NUMBER.fullmatch(text):
        raise _attribute(
            f"{field}: DataType Number takes a number such as 17 or -1.5e3, got {_shown(text)}"
        )
    try:
        digits, exponent = _magnitude(text)
    except decimal.InvalidOperation:  # an exponent beyond any computer's
        digits, exponent = 0, NUMBER_EXPONENTS[1] + 1
    low, high = NUMBER_EXPONENTS
    if digits > NUMBER_DIGITS or not low <= exponent <= high:
        raise _attribute(
            f"{field}: a Number has at most {NUMBER_DIGITS} digits between 10^{low} and 10^+{high},"
            f" got {_shown(text)}"
        )


def _magnitude(text: str) -> tuple[int, int]:
    """Return the number of significant digits, and the exponent of the first; nothing for zero."""
    number = decimal.Decimal(text)
    significant = "".join(map(str, number.as_tuple().digits)).strip("0")
    return (len(significant), number.adjusted()) if significant else (0, 0)


def _check_array(field: str, text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or any(isinstance(item, (list, dict)) for item in value):
        raise _attribute(
            f"{field}: String.Array takes the JSON of an array of texts, numbers, true, false and"
            f" null, got {_shown(text)}"
        )


# -- subjects, ids, names --------------------------------------------------------------------------


def check_subject(subject: str) -> str:
    """Return *subject* of an SNS notification, or raise InvalidEvent (``invalid_subject``).

    The document says "less than 100 characters"; the service takes 100 and refuses 101.
    """
    bad = not isinstance(subject, str) or not SUBJECT.low <= len(subject) <= SUBJECT.high
    if (
        bad
        or not subject.strip()
        or any(
            c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or FORBIDDEN.match(c)
            for c in subject
        )
    ):
        size = (
            f"{len(subject):,} characters" if isinstance(subject, str) else type(subject).__name__
        )
        raise InvalidEvent(
            f"subject must be 1 to {SUBJECT.high} characters without line breaks and control"
            f" characters, got {_shown(subject)} ({size})",
            "invalid_subject",
        )
    return subject


def check_id(limit: Limit, value: str) -> str:
    """Return *value* as a ``GROUP_ID`` or ``DEDUPLICATION_ID``: ASCII letters, digits and
    punctuation, no blanks.
    """
    if not isinstance(value, str) or not limit.low <= len(value) <= limit.high:
        size = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
        raise _attribute(
            f"{limit.name} must have {limit.low} to {limit.high} characters, got {_shown(value)}"
            f" ({size})"
        )
    if not _ID.fullmatch(value):
        offset = match.end() if (match := _ID.match(value)) else 0
        raise InvalidEvent(
            f"{limit.name} has U+{ord(value[offset]):04X} at offset {offset} of {_shown(value)}; it"
            " takes ASCII letters, digits and punctuation, and no blanks",
            "invalid_character",
        )
    return value


def check_queue_name(name: str) -> str:
    """Return *name*, or raise InvalidName: letters, digits, hyphens and underscores, 80 characters
    with ``.fifo``.
    """
    return _check_name(QUEUE_NAME, name)


def check_topic_name(name: str) -> str:
    """Return *name*, or raise InvalidName: letters, digits, hyphens and underscores, 256 characters
    with ``.fifo``.
    """
    return _check_name(TOPIC_NAME, name)


def check_bucket_name(name: str) -> str:
    """Return *name*, or raise InvalidName: the rules of general purpose buckets."""
    if (
        not isinstance(name, str)
        or not BUCKET_NAME.low <= len(name) <= BUCKET_NAME.high
        or not _BUCKET.fullmatch(name)
    ):
        raise InvalidName(
            f"bucket name {_shown(name)} must be {BUCKET_NAME.low} to {BUCKET_NAME.high} lower-case"
            " letters, digits, '-' and single '.', with a letter or digit at both ends, and none"
            f" of the reserved prefixes and suffixes ({BUCKET_NAME.source})"
        )
    return name


def check_key(key: str) -> str:
    """Return the object *key*, or raise InvalidName when it is empty, no UTF-8, or longer than
    1,024 bytes.
    """
    if (
        not isinstance(key, str)
        or not OBJECT_KEY.low <= text_bytes(key) <= OBJECT_KEY.high
        or any("\ud800" <= c <= "\udfff" for c in key)
    ):
        raise InvalidName(
            f"object key {_shown(key)} must be {OBJECT_KEY.low} to {OBJECT_KEY.high:,} bytes of"
            " UTF-8"
        )
    return key


def _check_name(limit: Limit, name: str) -> str:
    if not isinstance(name, str) or len(name) > limit.high or not _NAME.fullmatch(name):
        size = f"{len(name):,} characters" if isinstance(name, str) else type(name).__name__
        raise InvalidName(
            f"{limit.name} {_shown(name)} ({size}) must be {limit.low} to {limit.high} letters,"
            " digits, '-' or '_', '.fifo' at the end of a FIFO one included"
        )
    return name


# -- calls -----------------------------------------------------------------------------------------


def check_batch(ids: Sequence[str], sizes: Iterable[int], limit: int) -> None:
    """Raise InvalidEvent or EventTooLarge when a batch call of entries *ids* with *sizes* in bytes
    would be refused as a whole.
    """
    if not BATCH_ENTRIES.low <= len(ids) <= BATCH_ENTRIES.high:
        raise InvalidEvent(
            f"a batch call takes 1 to {BATCH_ENTRIES.high} entries, got {len(ids)}",
            "invalid_structure",
        )
    for entry_id in ids:
        if (
            not isinstance(entry_id, str)
            or len(entry_id) > ENTRY_ID.high
            or not _ENTRY_ID.fullmatch(entry_id)
        ):
            raise InvalidEvent(
                f"{ENTRY_ID.name} must be 1 to {ENTRY_ID.high} letters, digits, '-' or '_', got"
                f" {_shown(entry_id)}",
                "invalid_structure",
            )
    if len(set(ids)) != len(ids):
        raise InvalidEvent(
            f"the ids of a batch call must differ, got {_shown(', '.join(ids))}",
            "invalid_structure",
        )
    check_size(sum(sizes), limit, "batch call")


def check_structure(message: str) -> dict[str, Any]:
    """Return the messages by protocol of an SNS *message* with ``MessageStructure=json``.

    Raises
    ------
    InvalidEvent
        ``invalid_structure`` when it is no JSON object with a text under ``default``, or has a key
        twice; ``invalid_character`` when a text has a character that no delivery could carry.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(given := dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return given

    def refuse(literal: str) -> None:
        raise ValueError(f"{literal} is not JSON")

    try:
        given = json.loads(message, object_pairs_hook=once, parse_constant=refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise _structure(f"a JSON object, and this is not: {_shown(error)}", message) from error
    if not isinstance(given, dict) or not isinstance(given.get("default"), str):
        raise _structure("a JSON object with a text under 'default'", message)
    for protocol, text in given.items():
        if isinstance(text, str):
            check_text(f"message for {_shown(protocol)}", text)
    return given


def _structure(what: str, message: object) -> InvalidEvent:
    return InvalidEvent(
        f"Message with MessageStructure=json must be {what}; got {_shown(message)}",
        "invalid_structure",
    )


def _attribute(message: str) -> InvalidEvent:
    return InvalidEvent(f"{message} ({ATTRIBUTE_NAME.source})", "invalid_attribute")


def _shown(value: object) -> str:
    """Return *value* in one short line, secrets taken out first; escaped and quoted when it is
    text.
    """
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    if not isinstance(value, str):
        return redacted(short(value))
    text = redacted(value[:2000])
    return repr(text if len(text) <= 60 else text[:59] + "…")
