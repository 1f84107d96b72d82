"""Limits of SQS, SNS and S3 as data with their sources, and checks before anything is sent.

The limits are those of the service models of botocore 1.44 (2026) and of the pages named beside
them. They are checked here because a refusal by AWS comes late, and some come on delivery only,
when the event is lost. Emulators accept more than AWS. Every error names the field, the limit and
the value, without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.errors import EventTooLarge, InvalidEvent, InvalidName
from mltrigger.text import redacted, short

_SQS_API = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference"
_SQS_GUIDE = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide"
_SNS_API = "https://docs.aws.amazon.com/sns/latest/api"
_S3_GUIDE = "https://docs.aws.amazon.com/AmazonS3/latest/userguide"


class Limit(NamedTuple):
    """A range that AWS allows, ends included, and the page that says so."""

    name: str
    low: int
    high: int
    unit: str
    source: str


SQS_MESSAGE = Limit(
    "SQS message with its attributes", 1, 1_048_576, "bytes", f"{_SQS_API}/API_SendMessage.html"
)
"""Of one message, and of all messages of one SendMessageBatch together."""
SNS_MESSAGE = Limit(
    "SNS message with its attributes", 1, 262_144, "bytes", f"{_SNS_API}/API_Publish.html"
)
"""Of one message, and of all messages of one PublishBatch together.

The attribute ``MaximumMessageSize`` of a topic may raise it to the limit of SQS, for at most 100
subscriptions.
"""
BATCH_ENTRIES = Limit(
    "entries of one batch call", 1, 10, "entries", f"{_SQS_GUIDE}/quotas-messages.html"
)
ATTRIBUTES = Limit("message attributes", 0, 10, "attributes", f"{_SQS_GUIDE}/quotas-messages.html")
"""Of SQS. SNS takes more, but raw delivery then drops the message (sns-message-attributes.html)."""
GROUP_ID = Limit("MessageGroupId", 1, 128, "characters", f"{_SQS_API}/API_SendMessage.html")
QUEUE_NAME = Limit("queue name", 1, 80, "characters", f"{_SQS_API}/API_CreateQueue.html")
TOPIC_NAME = Limit("topic name", 1, 256, "characters", f"{_SNS_API}/API_CreateTopic.html")
BUCKET_NAME = Limit("bucket name", 3, 63, "characters", f"{_S3_GUIDE}/bucketnamingrules.html")
OBJECT_KEY = Limit("object key", 1, 1024, "bytes", f"{_S3_GUIDE}/object-keys.html")

CHARACTERS = "#x9 #xA #xD #x20-#xD7FF #xE000-#xFFFD #x10000-#x10FFFF"
"""Characters that message bodies and attributes may hold.

Sources: API_SendMessage.html, and for SNS https://aws.amazon.com/sns/faqs/.
"""
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]+")
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?")
_BUCKET = re.compile(
    r"(?!xn--|sthree-|amzn-s3-demo-|\d{1,3}(?:\.\d{1,3}){3}\Z)"
    r"[a-z0-9](?:[a-z0-9-]|\.(?!\.))*[a-z0-9]"
    r"(?<!-s3alias)(?<!--ol-s3)(?<!\.mrap)(?<!--x-s3)(?<!--table-s3)"
)


# -- messages --------------------------------------------------------------------------------------


def check_text(field: str, text: str) -> str:
    """Return *text*, or raise InvalidEvent if SQS and SNS refuse one of its characters.

    The reason is ``invalid_character``. The error gives the offset of the first such character.
    """
    # Hot path: printable text needs no look at each character.
    if text.isprintable() or (found := FORBIDDEN.search(text)) is None:
        return text
    raise InvalidEvent(
        f"{field} has U+{ord(found[0]):04X} at offset {found.start():,} of {_shown(text)}; SQS and"
        f" SNS accept only {CHARACTERS}: take it out, or publish the data as bytes of a media type"
        " that is no text, such as application/octet-stream",
        "invalid_character",
    )


def check_size(size: int, limit: int, what: str = "message") -> None:
    """Raise EventTooLarge (``too_large``) if *size* is above *limit*, both in bytes."""
    if size > limit:
        raise EventTooLarge(
            f"{what} has {size:,} bytes (body, attribute names, types and values); the limit is"
            f" {limit:,}: store the object and publish its name, or give the bus a bucket for"
            " payloads",
            "too_large",
        )


def text_bytes(text: str) -> int:
    """Return the length of *text* in bytes of UTF-8, as AWS counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def message_bytes(body: str, attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size in bytes as AWS counts it: body, and name, type and value of attributes."""
    return text_bytes(body) + sum(
        text_bytes(name) + text_bytes(attribute["DataType"]) + text_bytes(attribute["StringValue"])
        for name, attribute in attributes.items()
    )


def check_message(
    body: str,
    attributes: Mapping[str, Mapping[str, Any]],
    *,
    group: str | None,
    fifo: bool,
    limit: int | None,
) -> None:
    """Raise InvalidEvent or EventTooLarge if AWS would refuse or lose the message.

    Names, types and number of *attributes* are right by construction: only values are checked.
    *limit* is in bytes, ``None`` for no limit.
    """
    if not body:
        raise InvalidEvent(
            f"body must be text of at least 1 character ({SQS_MESSAGE.source})",
            "invalid_structure",
        )
    check_text("body", body)
    for name, attribute in attributes.items():
        check_text(f"message attribute {name!r}", attribute["StringValue"])
    if fifo and not group:
        raise InvalidEvent(
            "a FIFO topic or queue needs a MessageGroupId for each event: give the event the"
            " extension partitionkey, Event(…, extensions={'partitionkey': 'customer-17'})",
            "missing_group_id",
        )
    if group is not None:
        _check_group(group)
    if limit is not None:
        check_size(message_bytes(body, attributes), limit)


def _check_group(group: str) -> None:
    """Raise InvalidEvent unless *group* is ASCII letters, digits and punctuation."""
    if len(group) > GROUP_ID.high:
        raise InvalidEvent(
            f"{GROUP_ID.name} must have {GROUP_ID.low} to {GROUP_ID.high} characters, got"
            f" {_shown(group)} ({len(group):,} characters) ({GROUP_ID.source})",
            "invalid_attribute",
        )
    if not _ID.fullmatch(group):
        offset = match.end() if (match := _ID.match(group)) else 0
        raise InvalidEvent(
            f"{GROUP_ID.name} has U+{ord(group[offset]):04X} at offset {offset} of {_shown(group)};"
            " it takes ASCII letters, digits and punctuation, and no blanks",
            "invalid_character",
        )


# -- names -----------------------------------------------------------------------------------------


def check_queue_name(name: str) -> str:
    """Return *name*, or raise InvalidName.

    It may have letters, digits, hyphens and underscores: 80 characters, ``.fifo`` included.
    """
    return _check_name(QUEUE_NAME, name)


def check_topic_name(name: str) -> str:
    """Return *name*, or raise InvalidName.

    It may have letters, digits, hyphens and underscores: 256 characters, ``.fifo`` included.
    """
    return _check_name(TOPIC_NAME, name)


def check_bucket_name(name: str) -> str:
    """Return *name*, or raise InvalidName. The rules are those of general purpose buckets."""
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
    """Return the object *key*, or raise InvalidName unless it is 1 to 1,024 bytes of UTF-8."""
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


def _shown(value: object) -> str:
    """Return *value* on one short line, without secrets. Text is quoted and escaped."""
    if not isinstance(value, str):
        return redacted(short(value))
    text = redacted(value[:2000])
    return repr(text if len(text) <= 60 else text[:59] + "…")
