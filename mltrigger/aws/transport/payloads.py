"""Bodies beyond the limit, in S3 and back, and the way from messages to events."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import re
from typing import Any

from mltrigger.aws import limits
from mltrigger.aws.admin.policies import PAYLOADS
from mltrigger.aws.faults import MISSING, code_of, explained
from mltrigger.aws.naming import S3Source
from mltrigger.aws.transport.polls import Raw
from mltrigger.aws.transport.wire import POINTER_SIZES, Message, pointer, read_pointer
from mltrigger.broker import MAX_EVENT_BYTES
from mltrigger.event.checks import MESSAGE_ATTRIBUTES
from mltrigger.event.codec import encodable
from mltrigger.event.envelopes import (
    MESSAGE_TYPE,
    Arrival,
    Item,
    Unreadable,
    message_attributes,
    understand,
)
from mltrigger.event.envelopes.sns import Layer, peel
from mltrigger.event.event import Event
from mltrigger.filters.attributes import from_message_attributes
from mltrigger.policy import DeliveryPolicy

logger = logging.getLogger("mltrigger")

EXPIRE_DAYS = 15
"""Longer than a queue keeps a message. After that nobody can ask for the body."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RULE = "mltrigger-payloads"
_MOST_BYTES = 2 * MAX_EVENT_BYTES
"""A body may be longer than its data: by base64, and by escapes in JSON."""


class Payloads:
    """Stores bodies in a bucket and fetches them, in the format of the AWS extended clients.

    Parameters
    ----------
    clients : Clients
        S3.
    bucket : str, optional
        The bucket. Nothing is ever fetched from another one, even if a message says so.
    """

    def __init__(self, clients: Any, bucket: str | None) -> None:
        self._clients, self.bucket = (
            clients,
            None if bucket is None else limits.check_bucket_name(bucket),
        )
        self._expires = False

    def kept(self, message: Message, limit: int) -> Message:
        """Return *message*, or a pointer to its body if it has more than *limit* bytes.

        The body is then in the bucket.
        """
        if message.size <= limit or self.bucket is None:
            return message
        body = message.body.encode()
        # The same body is the same object: a repeat adds nothing.
        key = f"{PAYLOADS}{hashlib.sha256(body).hexdigest()}"
        small = pointer(message, self.bucket, key, limit)
        try:
            self._clients.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        except Exception as error:
            raise explained(error, "s3:PutObject", self.bucket) from error
        return small

    @staticmethod
    def identity(received: Raw) -> tuple[str, str] | None:
        """Return source and id of an event in our own format, ``None`` for all others.

        Its body must be in the message itself.
        """
        attributes = received.attributes
        if "ce-specversion" not in attributes or not attributes.keys().isdisjoint(POINTER_SIZES):
            return None
        source, id_ = attributes.get("ce-source", {}), attributes.get("ce-id", {})
        if not (source.get("StringValue") and id_.get("StringValue")):
            return None
        return source["StringValue"], id_["StringValue"]

    def understand(
        self, received: Raw, origin: str, policy: DeliveryPolicy, source: S3Source | None
    ) -> list[Item]:
        """Return the events of a message.

        For a *source* in a bucket, return only those whose key matches its pattern. Raise AwsError
        if S3 does not answer: the message shall come again.
        """
        whole = Arrival(
            received.body,
            received.attributes,
            received.message_id,
            origin,
            received.sent_us,
            received.group,
        )
        layer = peel(whole, policy.unwrap)
        if layer.confirmation or layer.malformed is not None:
            return understand(whole, unwrap=policy.unwrap)
        arrival = layer.arrival
        if (where := read_pointer(arrival.body, arrival.attributes)) is not None:
            body = self._fetched(*where, received)
            if isinstance(body, Unreadable):
                return [body]
            arrival = arrival._replace(body=body)
        found = understand(arrival, text=policy.input == "text", unwrap=0)
        items = [_as_published(item, layer._replace(arrival=arrival)) for item in found]
        if source is None:
            return items
        return [item for item in items if not isinstance(item, Event) or _announced(item, source)]

    def _fetched(self, bucket: str, key: str, received: Raw) -> str | Unreadable:
        """Return the body of that object, or why it is not available."""
        if bucket != self.bucket:
            return _unfetched(
                received,
                "untrusted_bucket",
                f"the body lies in bucket {bucket!r}; mt.connect(…, bucket={bucket!r}) would allow"
                " to read it there",
            )
        if not (key.startswith(PAYLOADS) or _UUID.fullmatch(key)):
            return _unfetched(
                received,
                "untrusted_key",
                f"a body lies below {PAYLOADS} or under a UUID, as the extended clients write it;"
                f" {key[:100]!r} is neither",
            )
        try:
            answer = self._clients.s3.get_object(Bucket=bucket, Key=key)
            with contextlib.closing(answer["Body"]) as stream:
                raw = stream.read(_MOST_BYTES + 1)
        except Exception as error:
            if code_of(error) in MISSING:
                message = f"the body is not in bucket {bucket!r} (any more): {key}"
                return _unfetched(received, "object_missing", message)
            raise explained(error, "s3:GetObject", bucket) from error
        if len(raw) > _MOST_BYTES:
            message = f"the body in bucket {bucket!r} has more than {_MOST_BYTES:,} bytes"
            return _unfetched(received, "too_large", message)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            message = f"the body in bucket {bucket!r} is not UTF-8 (byte {error.start})"
            return _unfetched(received, "unsupported_encoding", message)

    def let_expire(self) -> None:
        """Add our rule to those of the bucket, once, so that S3 deletes old bodies.

        Without the right to do so, they stay.
        """
        if self._expires or self.bucket is None:
            return
        self._expires = True
        try:
            rules = self._rules()
            if not any(rule.get("ID") == _RULE for rule in rules):
                ours = {
                    "ID": _RULE,
                    "Status": "Enabled",
                    "Filter": {"Prefix": PAYLOADS},
                    "Expiration": {"Days": EXPIRE_DAYS},
                }
                self._clients.s3.put_bucket_lifecycle_configuration(
                    Bucket=self.bucket, LifecycleConfiguration={"Rules": [*rules, ours]}
                )
        except Exception as error:
            logger.warning(
                "bodies below %s stay until somebody deletes them: %s",
                PAYLOADS,
                explained(error, "s3:PutLifecycle", str(self.bucket)),
            )

    def _rules(self) -> list[dict[str, Any]]:
        try:
            rules: list[dict[str, Any]] = self._clients.s3.get_bucket_lifecycle_configuration(
                Bucket=self.bucket
            )["Rules"]
        except Exception as error:
            if code_of(error) == "NoSuchLifecycleConfiguration":
                return []
            raise
        return rules


def _unfetched(received: Raw, reason: str, message: str) -> Unreadable:
    raw = received.body.encode("utf-8", "surrogatepass")
    return Unreadable(reason, message, received.message_id, raw)


def _as_published(item: Item, layer: Layer) -> Item:
    """Return a plain message as an event, with its publisher's subject and attributes."""
    if not isinstance(item, Event) or item.type != MESSAGE_TYPE:
        return item
    if layer.subject is not None:
        item = dataclasses.replace(item, subject=layer.subject)
    plain = from_message_attributes(message_attributes(layer.arrival))
    given = {
        name: value
        for name, value in plain.items()
        if encodable(f"{name}{value}") and value not in (math.inf, -math.inf)
    }
    if not given:
        return item
    return dataclasses.replace(
        item, extensions={**item.extensions, MESSAGE_ATTRIBUTES: json.dumps(given)}
    )


def _announced(event: Event, source: S3Source) -> bool:
    """Whether *event* is about an object of *source*.

    Anything else on its topic, except notifications of S3, was published on purpose.
    """
    data = event.data
    if (
        not isinstance(data, dict)
        or not event.source.endswith(f":s3:::{data.get('bucket')}")
        or not isinstance(data.get("key"), str)
    ):
        return True
    return data["bucket"] == source.bucket and source.matches(data["key"])
