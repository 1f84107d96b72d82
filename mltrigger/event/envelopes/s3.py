"""S3 messages about objects: notifications (SQS, SNS) and EventBridge.

Both make the same event of the same change.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html and
…/ev-events.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from mltrigger.errors import InvalidEvent
from mltrigger.event.envelopes.arrival import Arrival, as_subject, stated, with_group
from mltrigger.event.envelopes.partitions import partition_of
from mltrigger.event.event import Event
from mltrigger.text import short

TYPE_PREFIX = "com.amazonaws.s3."
TEST_TYPE = f"{TYPE_PREFIX}TestEvent"
"""The type of the test message that S3 sends once, when a notification is set up."""
SEQUENCER_DIGITS = 32
"""Width of the extension ``sequencer``; those of S3 have 16 to 20 hexadecimal digits."""

_SEQUENCER = re.compile(rf"[0-9A-Fa-f]{{1,{SEQUENCER_DIGITS}}}")
_NAME = re.compile(r"[A-Za-z0-9]+(:[A-Za-z0-9]+)?")
_BUCKET_ARN = re.compile(r"arn:aws[a-z0-9-]*:s3:::(.+)")
_ENVELOPE = frozenset(
    {"version", "event-version", "bucket", "object", "request-id", "requester", "source-ip-address"}
)

# The names of notifications for what EventBridge calls otherwise, so that a filter on the type need
# not know which way an event came. A second name is what a member of the detail turns it into.
_NAMES = {
    "Object Created": "ObjectCreated",
    "Object Deleted": "ObjectRemoved:Delete",
    "Object Restore Initiated": "ObjectRestore:Post",
    "Object Restore Completed": "ObjectRestore:Completed",
    "Object Restore Expired": "ObjectRestore:Delete",
    "Object Tags Added": "ObjectTagging:Put",
    "Object Tags Deleted": "ObjectTagging:Delete",
    "Object ACL Updated": "ObjectAcl:Put",
    "Object Storage Class Changed": "LifecycleTransition",
    "Object Access Tier Changed": "IntelligentTiering",
}
_REASONS = {
    "PutObject": "ObjectCreated:Put",
    "POST Object": "ObjectCreated:Post",
    "CopyObject": "ObjectCreated:Copy",
    "CompleteMultipartUpload": "ObjectCreated:CompleteMultipartUpload",
}


class _Change(NamedTuple):
    """One change of one object, from either service.

    ``moment`` distinguishes changes without a sequencer.
    """

    bucket: str
    key: str
    event_name: str
    size: int | None
    etag: str | None
    version_id: str | None
    sequencer: str | None
    event_time: str | None
    region: str | None
    arn: str | None
    details: dict[str, Any] | None
    moment: str


def is_test(body: Any) -> bool:
    """Whether *body* is the test message that S3 sends when a notification is set up."""
    return (
        isinstance(body, dict)
        and body.get("Service") == "Amazon S3"
        and body.get("Event") == "s3:TestEvent"
        and "Records" not in body
    )


def records(body: Any) -> list[Any] | None:
    """Return the records of a notification of S3 or a compatible service.

    Returns ``None`` for any other body.
    """
    found = body.get("Records") if isinstance(body, dict) else None
    return (
        found if isinstance(found, list) and any(_is_record(record) for record in found) else None
    )


def is_from_eventbridge(body: Mapping[str, Any]) -> bool:
    """Whether an event of EventBridge tells of a change of an object."""
    return (
        body["source"] == "aws.s3"
        and body["detail-type"] in _NAMES
        and isinstance(body["detail"], dict)
    )


def of_record(record: Any, arrival: Arrival) -> Event:
    """Return the event of one record of a notification.

    Raises
    ------
    InvalidEvent
        ``unsupported_event_version``, ``invalid_key_encoding``, or ``invalid_s3_record`` when it
        does not name bucket, object and change.
    """
    if not _is_record(record):
        raise InvalidEvent(
            f"record {short(record)!r} is not one of S3, as its neighbours are", "invalid_s3_record"
        )
    _check_version(record.get("eventVersion"), "2")
    bucket, thing = _named(record["s3"], "bucket"), _named(record["s3"], "object")
    change = _change(bucket, thing, _text(record.get("eventName")), _key(thing.get("key")))
    extra = {name: value for name, value in record.items() if name.endswith("EventData")}
    when = _text(record.get("eventTime"))
    return _event(
        change._replace(
            etag=_text(thing.get("eTag")),
            version_id=_text(thing.get("versionId")),
            event_time=when,
            region=_text(record.get("awsRegion")),
            details=extra or None,
            moment=when or arrival.message_id,
        ),
        arrival,
    )


def of_eventbridge(body: Mapping[str, Any], arrival: Arrival) -> Event:
    """Return the event of a message for which :func:`is_from_eventbridge` is true.

    Its keys are not percent-encoded.

    Raises
    ------
    InvalidEvent
        As :func:`of_record`.
    """
    detail = body["detail"]
    _check_version(detail.get("event-version", "1.0"), "1")
    bucket, thing = _named(detail, "bucket"), _named(detail, "object")
    change = _change(bucket, thing, _name(body["detail-type"], detail), thing.get("key"))
    arn = next((a for a in body["resources"] if isinstance(a, str)), None)
    return _event(
        change._replace(
            etag=_text(thing.get("etag")),
            version_id=_text(thing.get("version-id")),
            event_time=body["time"],
            region=body["region"],
            arn=arn,
            details={name: value for name, value in detail.items() if name not in _ENVELOPE}
            or None,
            moment=body["id"],
        ),
        arrival,
    )


def _is_record(record: Any) -> bool:
    source = record.get("eventSource") if isinstance(record, dict) else None
    return isinstance(source, str) and source.endswith(":s3") and isinstance(record.get("s3"), dict)


def _check_version(version: Any, major: str) -> None:
    """Compare the major version only: "Applications should ignore new fields"."""
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise InvalidEvent(
            f"eventVersion {short(version)} is not supported; supported: {major}.x",
            "unsupported_event_version",
        )


def _named(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = parent.get(name)
    if not isinstance(found, Mapping):
        raise InvalidEvent(f"the record of S3 has no {name}", "invalid_s3_record")
    return found


def _change(
    bucket: Mapping[str, Any], thing: Mapping[str, Any], event_name: str | None, key: Any
) -> _Change:
    """Return the change that both kinds of message describe.

    It is refused if it does not name the changed object and the kind of change.
    """
    name = _text(bucket.get("name"))
    event_name = (event_name or "").removeprefix("s3:")
    if not name or not name.isprintable():
        raise InvalidEvent(
            f"bucket name {short(bucket.get('name'))!r} is none", "invalid_s3_record"
        )
    if not isinstance(key, str) or not key:
        raise InvalidEvent(f"object key {short(key)!r} is none", "invalid_s3_record")
    if not _NAME.fullmatch(event_name):
        raise InvalidEvent(
            f"event name {short(event_name)!r} is none of S3, such as ObjectCreated:Put",
            "invalid_s3_record",
        )
    size = thing.get("size")
    whole = isinstance(size, int) and not isinstance(size, bool)
    return _Change(
        name,
        key,
        event_name,
        size=size if whole else None,
        etag=None,
        version_id=None,
        sequencer=_text(thing.get("sequencer")),
        event_time=None,
        region=None,
        arn=_text(bucket.get("arn")),
        details=None,
        moment="",
    )


def _key(encoded: Any) -> Any:
    """Return a key as it is in the bucket, decoded once.

    ``urlDecodedKey`` is not needed for it: where it differs, it is wrong.
    """
    try:
        return unquote_plus(encoded, errors="strict") if isinstance(encoded, str) else encoded
    except UnicodeDecodeError as error:
        raise InvalidEvent(
            f"object key {short(encoded)!r} is not UTF-8 once it is decoded", "invalid_key_encoding"
        ) from error


def _name(detail_type: str, detail: Mapping[str, Any]) -> str:
    """Return the name that notifications have for an event of EventBridge."""
    name, reason, deletion = _NAMES[detail_type], detail.get("reason"), detail.get("deletion-type")
    if name == "ObjectCreated":
        return _REASONS.get(reason, name) if isinstance(reason, str) else name
    if name != "ObjectRemoved:Delete":
        return name
    family = "LifecycleExpiration" if reason == "Lifecycle Expiration" else "ObjectRemoved"
    return f"{family}:{'DeleteMarkerCreated' if deletion == 'Delete Marker Created' else 'Delete'}"


def _event(change: _Change, arrival: Arrival) -> Event:
    sequencer = change.sequencer or ""
    order = sequencer.upper().zfill(SEQUENCER_DIGITS) if _SEQUENCER.fullmatch(sequencer) else None
    return Event(
        {
            "bucket": change.bucket,
            "key": change.key,
            "size": change.size,
            "etag": change.etag.strip('"') if change.etag else None,
            "version_id": change.version_id,
            "sequencer": change.sequencer,
            "event_name": change.event_name,
            "event_time": change.event_time,
            "region": change.region,
            "details": change.details,
        },
        id=_identity(change, order),
        source=_source(change),
        type=TYPE_PREFIX + change.event_name.replace(":", "."),
        subject=as_subject(change.key),
        time=stated(change.event_time, arrival),  # type: ignore[arg-type]  # None: now
        extensions=with_group({"sequencer": order} if order else {}, arrival),
    )


def _identity(change: _Change, order: str | None) -> str:
    """Return the id. One change always has the same id, however often it is reported.

    Changes without a sequencer (tags, access lists, restores) may happen twice to one version.
    Their time distinguishes them.
    """
    parts = (
        change.bucket,
        change.key,
        change.version_id or "",
        order or change.sequencer or f"at {change.moment}",
        change.event_name,
    )
    return hashlib.blake2b("\n".join(map(repr, parts)).encode(), digest_size=16).hexdigest()


def _source(change: _Change) -> str:
    arn = _BUCKET_ARN.fullmatch(change.arn or "")
    if arn and arn[1] == change.bucket and change.arn:
        return change.arn
    return f"arn:{partition_of(change.region or '')}:s3:::{change.bucket}"


def _text(value: Any) -> str | None:
    """Return a non-empty text, else ``None``.

    Services compatible with S3 leave fields empty.
    """
    return value if isinstance(value, str) and value else None
