"""Find the envelope of a message, and read it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mltrigger.errors import InvalidEvent, warn
from mltrigger.event import codec
from mltrigger.event.checks import RESERVED
from mltrigger.event.envelopes import cloudevents, s3
from mltrigger.event.envelopes.arrival import (
    Arrival,
    Attribute,
    Ignored,
    Item,
    Unreadable,
    as_subject,
    is_of_transport,
    read_attributes,
    sent_at,
    stated,
    with_group,
    with_raw,
)
from mltrigger.event.envelopes.sns import CONFIRMATION_TYPE as SNS_CONFIRMATION_TYPE
from mltrigger.event.envelopes.sns import Layer, peel
from mltrigger.event.event import Event
from mltrigger.text import short

MESSAGE_TYPE = "mltrigger.message"
"""The type of a message without an envelope."""
EMPTY_TYPE = "mltrigger.empty"
IGNORED_TYPES = (SNS_CONFIRMATION_TYPE, s3.TEST_TYPE, EMPTY_TYPE)
"""The types of arrivals that are no events."""
"""The type of an envelope that holds no events."""
EVENTBRIDGE_KEYS = frozenset(
    {"version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"}
)
"""Every event of EventBridge has all of them
(https://docs.aws.amazon.com/eventbridge/latest/ref/events-structure.html).
"""

_EXTENSION = re.compile(r"[a-z0-9]{1,60}")
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)
_POINTERS = (
    "software.amazon.payloadoffloading.PayloadS3Pointer",
    "com.amazon.sqs.javamessaging.MessageS3Pointer",
)
_SEPARATORS = re.compile(r"[-_.]")
_NOT_THEIRS = RESERVED | {"hops", "causationid", "rootid", "awaitedby"}
"""Names of CloudEvents' own, and of extensions that decide how an event is handled here, which a
foreign attribute must not.
"""


def understand(arrival: Arrival, *, text: bool = False, unwrap: int = 1) -> list[Item]:
    """Return the content of the message: at least one item. Bad content never raises.

    Parameters
    ----------
    arrival
        The message. Events in it keep their own id. The others get the message's id, never an
        invented one.
    text
        Whether a body without an envelope is delivered as the ``str`` that it is, not as JSON.
    unwrap
        How many envelopes of SNS to take off. The rest is data.
    """
    raw = arrival.body.encode("utf-8", "surrogatepass")
    layer = peel(arrival, unwrap)
    if layer.confirmation:
        return [Ignored("sns_confirmation", layer.arrival.message_id, raw, SNS_CONFIRMATION_TYPE)]
    if layer.malformed is not None:
        return [Unreadable("malformed_envelope", layer.malformed, layer.arrival.message_id, raw)]
    try:
        return _read(layer, text, raw)
    except InvalidEvent as error:
        return [Unreadable(error.reason, str(error), layer.arrival.message_id, raw)]


def _read(layer: Layer, text: bool, raw: bytes) -> list[Item]:
    arrival = layer.arrival
    attributes = read_attributes(arrival.attributes)
    declared = cloudevents.media_type(attributes)
    if (found := cloudevents.context(attributes)) is not None:
        return [cloudevents.binary(found, declared, arrival)]
    try:
        body = _json(arrival.body)
    except InvalidEvent:
        if text and not _is_cloudevents(declared):
            return [_plain(_text(arrival.body), attributes, layer)]
        raise
    if (items := _enveloped(body, declared, arrival, raw)) is not None:
        return items
    if _is_pointer(body, attributes):
        raise InvalidEvent(
            "the body is in S3 and was not fetched: let the listener read the bucket that it names",
            "payload_in_s3",
        )
    if text:
        return [_plain(_text(arrival.body), attributes, layer)]
    data = codec.unmarked(arrival.body).encode()
    if (key := codec.repeated_key(data)) is not None:
        warn(f"data has the key {short(key)!r} twice in one object: the last value counts")
    return [with_raw(_plain(body, attributes, layer), data)]


def _enveloped(body: Any, declared: str | None, arrival: Arrival, raw: bytes) -> list[Item] | None:
    """Return the content of *body* if it is an envelope. Return ``None`` if it is data."""
    if s3.is_test(body):
        return [Ignored("s3_test_event", arrival.message_id, raw, s3.TEST_TYPE)]
    if body == {"Records": []}:
        return [Ignored("no_records", arrival.message_id, raw, EMPTY_TYPE)]
    if (records := s3.records(body)) is not None:
        return _each(records, s3.of_record, arrival, raw)
    if _is_eventbridge(body):
        return [
            s3.of_eventbridge(body, arrival)
            if s3.is_from_eventbridge(body)
            else _of_eventbridge(body, arrival)
        ]
    if _means(declared, cloudevents.BATCH):
        if not isinstance(body, list):
            raise InvalidEvent(
                f"a batch of CloudEvents is a JSON array, not {short(body)}", "not_cloudevent"
            )
        return _each(body, cloudevents.structured, arrival, raw) or [
            Ignored("empty_batch", arrival.message_id, raw, EMPTY_TYPE)
        ]
    if _means(declared, cloudevents.STRUCTURED) or cloudevents.claims(body):
        return [cloudevents.structured(body, arrival)]
    if isinstance(body, list) and body and all(map(cloudevents.claims, body)):
        return _each(body, cloudevents.structured, arrival, raw)
    return None


def _each(
    parts: list[Any], read: Callable[[Any, Arrival], Event], arrival: Arrival, raw: bytes
) -> list[Item]:
    """Read every part on its own: one that is bad does not spoil its neighbours."""

    def item(number: int, part: Any) -> Item:
        try:
            return read(part, arrival)
        except InvalidEvent as error:
            if len(parts) == 1:
                return Unreadable(error.reason, str(error), arrival.message_id, raw)
            return Unreadable(
                error.reason,
                str(error),
                f"{arrival.message_id}#{number}",
                raw,
                codec.encode(part),
            )

    return [item(number, part) for number, part in enumerate(parts, 1)]


# -- EventBridge -----------------------------------------------------------------------------------


def _is_eventbridge(body: Any) -> bool:
    texts = EVENTBRIDGE_KEYS - {"resources", "detail"}
    return (
        isinstance(body, dict)
        and body.keys() >= EVENTBRIDGE_KEYS
        and all(isinstance(body[name], str) for name in texts)
        and isinstance(body["resources"], list)
        and body["version"].isdecimal()
    )


def _of_eventbridge(body: Mapping[str, Any], arrival: Arrival) -> Event:
    """Return the event of EventBridge: the detail is the data, the first resource the subject."""
    resources = [resource for resource in body["resources"] if isinstance(resource, str)]
    extensions = {"account": body["account"], "region": body["region"]}
    if len(resources) > 1:
        extensions["resources"] = json.dumps(resources, ensure_ascii=False)
    if isinstance(replay := body.get("replay-name"), str):
        extensions["replayname"] = replay
    return Event(
        body["detail"],
        id=body["id"],
        source=body["source"],
        type=body["detail-type"],
        time=stated(body["time"], arrival),  # type: ignore[arg-type]  # None: now
        subject=as_subject(resources[0]) if resources else None,
        extensions=with_group(extensions, arrival),
    )


# -- what comes in no envelope ---------------------------------------------------------------------


def _plain(data: Any, attributes: Mapping[str, Attribute], layer: Layer) -> Event:
    theirs = dict(_extensions(attributes))
    try:
        return _message(data, theirs, layer)
    except InvalidEvent:
        # one of them has a meaning in CloudEvents, and not this value: a traceparent
        return _message(
            data, {name: value for name, value in theirs.items() if _fits(name, value)}, layer
        )


def plain(data: Any, arrival: Arrival, media_type: str | None = None) -> Event:
    """Return the event of a message without an envelope, whose *data* are known.

    Raises
    ------
    InvalidEvent
        When *media_type* is none.
    """
    event = _plain(data, read_attributes(arrival.attributes), Layer(arrival))
    return dataclasses.replace(event, datacontenttype=media_type)


def _message(data: Any, extensions: Mapping[str, Any], layer: Layer) -> Event:
    arrival = layer.arrival
    return Event(
        data,
        id=arrival.message_id,
        source=arrival.origin,
        type=MESSAGE_TYPE,
        time=sent_at(arrival),  # type: ignore[arg-type]  # None: now
        subject=layer.subject,
        extensions=with_group(extensions, arrival),
    )


def _json(body: str) -> Any:
    if not codec.unmarked(body):
        raise InvalidEvent(
            "the body is empty: send JSON, or let the subscription say input='text'", "empty_body"
        )
    return codec.loads(body)


def _text(body: str) -> str:
    if not codec.encodable(body):
        raise InvalidEvent(
            "the body holds a lone surrogate, which has no UTF-8 form", "invalid_unicode"
        )
    return body


def _extensions(attributes: Mapping[str, Attribute]) -> Iterator[tuple[str, str | int]]:
    """Yield the attributes of a plain message whose names can become extensions.

    The name counts in lower case and without separators. A whole number of 32 bits stays one. Bytes
    become base64, as CloudEvents writes them. Every other value becomes its text. Of names that
    become the same, an original lower-case name wins. Otherwise the last in alphabetical order
    wins.
    """
    for name in sorted(attributes, key=lambda n: (_EXTENSION.fullmatch(n) is not None, n)):
        plain = _SEPARATORS.sub("", name).lower()
        if _EXTENSION.fullmatch(plain) and plain not in _NOT_THEIRS and not is_of_transport(name):
            yield plain, _scalar(attributes[name])


def _scalar(attribute: Attribute) -> str | int:
    if (
        attribute.kind.startswith("Number")
        and _INTEGER.fullmatch(attribute.text)
        and -(2**31) <= int(attribute.text) < 2**31
    ):
        return int(attribute.text)
    return attribute.text


def _fits(name: str, value: str | int) -> bool:
    try:
        Event(extensions={name: value})
    except InvalidEvent:
        return False
    return True


def _is_pointer(body: Any, attributes: Mapping[str, Attribute]) -> bool:
    return (
        isinstance(body, list)
        and len(body) == 2
        and body[0] in _POINTERS
        and any(map(is_of_transport, attributes))
    )


def _is_cloudevents(declared: str | None) -> bool:
    return _means(declared, cloudevents.STRUCTURED) or _means(declared, cloudevents.BATCH)


def _means(declared: str | None, media_type: str) -> bool:
    return declared is not None and declared.partition(";")[0].strip().lower() == media_type
