"""CloudEvents 1.0 in messages: binary mode, structured mode and batches.

Binary mode is in message attributes. Our own wire format is one of its forms.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.event.data import is_json
from mltrigger.event.envelopes.arrival import Arrival, Attribute, sent_at, with_group, with_raw
from mltrigger.event.event import Event
from mltrigger.text import short

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MORE = "more"
"""The attribute (``ce-more``) in which our own events carry, as JSON, what has no attribute of its
own.
"""
ENCODING = "datacontentencoding"

# The transports' bindings for HTTP, Kafka and AMQP, in this order; SQS has none of its own and
# takes no colon in names.
_PREFIXED = re.compile(r"(?:ce[-_]|cloudevents[:_])(.+)", re.IGNORECASE | re.DOTALL)
_REQUIRED = frozenset({"id", "source", "type"})
_TEXT = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype"}
)
_ALONE = (_TEXT - {"dataschema"}) | {"data"}
"""Names that are never in ``ce-more``."""
_EXTENSION = re.compile(r"[a-z0-9]{1,60}")
_INTEGER = re.compile(r"[+-]?\d{1,40}", re.ASCII)


def context(attributes: Mapping[str, Attribute]) -> dict[str, Attribute] | None:
    """Return the context attributes of a message in binary mode, without their prefix.

    Returns ``None`` for any other message. A message is in binary mode if it has
    ``ce-specversion``, or two of id, source and type. In the second case the third may be missing.
    """
    found = {}
    for name, attribute in attributes.items():
        if name.startswith("ce-") and name.islower():  # ours
            found[name[3:]] = attribute
        elif prefixed := _PREFIXED.match(name):
            found[prefixed[1].lower()] = attribute
    return found if "specversion" in found or len(_REQUIRED & found.keys()) > 1 else None


def media_type(attributes: Mapping[str, Attribute]) -> str | None:
    """Return the media type of a body, as its ``content-type`` says."""
    if (attribute := attributes.get("content-type")) is None:
        attribute = next(
            (attribute for name, attribute in attributes.items() if name.lower() == "content-type"),
            None,
        )
    return None if attribute is None else attribute.text


def binary(found: Mapping[str, Attribute], content_type: str | None, arrival: Arrival) -> Event:
    """Return the event of a message in binary mode: context in the attributes, data in the body.

    The attributes are plain text. SQS takes all of Unicode, so nothing is percent-encoded as in
    HTTP headers.

    Raises
    ------
    InvalidEvent
        If the attributes are not those of CloudEvents, or the body does not fit the media type.
    """
    if forbidden := {"data", "data_base64"} & found.keys():
        raise InvalidEvent(
            f"not a CloudEvent: {min(forbidden)} is an attribute; in binary mode the data is the"
            " body",
            "not_cloudevent",
        )
    given: dict[str, Any] = {
        n: a.value if a.kind == "String" else _value(n, a) for n, a in found.items()
    }
    encoded = isinstance(given.get(ENCODING), str) and given[ENCODING].lower() == "base64"
    if encoded:
        del given[ENCODING]
    if MORE in given:
        given = {**_more(given.pop(MORE)), **given}
    if content_type is not None:
        given["datacontenttype"] = content_type
    raw = _decoded(arrival.body) if encoded else _encoded(arrival.body)
    if not is_json(given.get("datacontenttype")):
        return Event.from_attributes({**_completed(given, arrival), "data": raw})
    return with_raw(
        Event.from_attributes({**_completed(given, arrival), "data": codec.loads(raw)}), raw
    )


def claims(value: Any) -> bool:
    """Whether a JSON value claims to be a CloudEvent in structured mode.

    It does so with a specversion and two of id, source and type.
    """
    return isinstance(value, dict) and "specversion" in value and len(_REQUIRED & value.keys()) > 1


def structured(given: Any, arrival: Arrival) -> Event:
    """Return the event of CloudEvents JSON.

    Its data are those that other brokers deliver: bytes, unless they are JSON.

    Raises
    ------
    InvalidEvent
        With every problem, and the reason ``not_cloudevent``.
    """
    if not isinstance(given, dict):
        raise InvalidEvent(f"a CloudEvent is a JSON object, not {short(given)}", "not_cloudevent")
    event = Event.from_attributes(_completed(given, arrival))
    declared, data = event.datacontenttype, event.data
    if is_json(declared):
        bytes_of_json = declared is not None and "data_base64" in given
        return (
            with_raw(dataclasses.replace(event, data=codec.loads(data)), data)
            if bytes_of_json
            else event
        )
    if data is None:
        return dataclasses.replace(event, data=b"")
    if isinstance(data, str):
        return dataclasses.replace(event, data=data.encode())
    if not isinstance(data, bytes):
        raise InvalidEvent(
            f"not a CloudEvent: data of media type {declared!r} must be text or data_base64",
            "not_cloudevent",
        )
    return event


def _completed(given: Mapping[str, Any], arrival: Arrival) -> dict[str, Any]:
    """Return *given*, completed with facts from the message."""
    # null means unset
    given = {name: value for name, value in given.items() if value is not None or name == "data"}
    if "time" not in given and (sent := sent_at(arrival)) is not None:
        given["time"] = sent.isoformat()
    return with_group(given, arrival) if arrival.group else given


def _value(name: str, attribute: Attribute) -> Any:
    """Return the value of an attribute.

    It is a number only if the publisher declared one, and never for CloudEvents' own attributes.
    """
    if name in _TEXT or not attribute.kind.startswith("Number"):
        return attribute.text
    return (
        int(attribute.text)
        if _INTEGER.fullmatch(attribute.text)
        else _refused_number(attribute.text)
    )


def _refused_number(text: str) -> float | str:
    """Return a number that is no integer in a form that CloudEvents refuses.

    Text that is no number at all stays text.
    """
    try:
        return float(text)
    except ValueError:
        return text


def _more(text: Any) -> dict[str, Any]:
    """Return the content of ``ce-more``.

    For other publishers it is an extension like any other, and returned as one.
    """
    try:
        inner = codec.loads(text) if isinstance(text, str) else None
    except InvalidEvent:
        inner = None
    if isinstance(inner, dict) and all(
        _may_be_in_more(name, value) for name, value in inner.items()
    ):
        return inner
    return {MORE: text}


def _may_be_in_more(name: str, value: Any) -> bool:
    return (
        _EXTENSION.fullmatch(name) is not None
        and name not in _ALONE
        and isinstance(value, (str, bool, int))
    )


def _encoded(body: str) -> bytes:
    try:
        return body.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            "the body holds a lone surrogate, which has no UTF-8 form", "invalid_unicode"
        ) from error


def _decoded(body: str) -> bytes:
    try:
        # no data at all is one line feed: SQS takes no empty body
        return base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidEvent(
            f"not a CloudEvent: the body is not base64, as ce-{ENCODING} says: {error}",
            "not_cloudevent",
        ) from error
