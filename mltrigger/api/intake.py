"""Requests that publish: CloudEvents 1.0 in three forms, or plain JSON.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import EventTooLarge, InvalidEvent
from mltrigger.event import codec
from mltrigger.event.data import is_json
from mltrigger.event.envelopes.arrival import with_raw
from mltrigger.event.envelopes.cloudevents import BATCH, STRUCTURED
from mltrigger.event.event import Event

MOST_EVENTS = 10_000
"""The most events of one request."""
_BINARY = "ce-"
FILES = ("image/", "audio/", "video/", "application/pdf", "application/octet-stream")
"""The media types of bodies that are handed to a model as bytes."""


class Unsupported(Exception):  # a signal: the answer is 415
    """A media type or encoding that is not read here."""

    def __init__(self, message: str, reason: str = "unsupported_media_type") -> None:
        super().__init__(message)
        self.reason = reason


def events_of(
    headers: Mapping[str, str], body: bytes, source: str, key: str | None = None
) -> list[Event]:
    """Return the events of a request.

    Parameters
    ----------
    headers : mapping
        The headers, with names in lower case.
    body : bytes
        The whole body.
    source : str
        The source of an event without one.
    key : str, optional
        The ``Idempotency-Key``: the id of plain JSON.

    Raises
    ------
    InvalidEvent
        With every problem.
    Unsupported
        For another media type than those of CloudEvents and JSON.
    """
    media_type, charset = _content_type(headers.get("content-type", ""))
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Unsupported("send the body as it is, without content-encoding")
    if media_type == BATCH:
        given = codec.loads(_utf8(body, charset))
        if not isinstance(given, list):
            raise InvalidEvent("a batch of CloudEvents is a JSON array", "not_cloudevent")
        if len(given) > MOST_EVENTS:
            raise EventTooLarge(f"a request has at most {MOST_EVENTS} events, this {len(given)}")
        return [_structured(each) for each in given]
    if media_type == STRUCTURED:
        return [_structured(codec.loads(_utf8(body, charset)))]
    if media_type.startswith("application/cloudevents"):
        raise Unsupported(f"{media_type} is not read here: {STRUCTURED} or {BATCH}")
    context = {n[len(_BINARY) :]: v for n, v in headers.items() if n.startswith(_BINARY)}
    if context:
        return [_binary(context, headers.get("content-type"), body, charset)]
    if not is_json(media_type or None) or not media_type:
        raise Unsupported(
            f"send application/json, {STRUCTURED} or {BATCH}; or any media type with the headers"
            " ce-id, ce-source, ce-type, ce-specversion"
        )
    raw = _utf8(body, charset)
    return [with_raw(_plain(codec.loads(raw), source, key, headers), raw)]


def bytes_of(headers: Mapping[str, str], body: bytes, source: str, key: str | None = None) -> Event:
    """Return the event of a request whose body is a file, such as an image. See events_of.

    Raises
    ------
    Unsupported
        For a form or for text.
    """
    media_type, _ = _content_type(headers.get("content-type", ""))
    if not media_type.startswith(FILES):
        raise Unsupported(
            f"send application/json, {STRUCTURED}, or a file such as image/png, application/pdf or"
            " application/octet-stream"
        )
    event = _plain(body, source, key, headers)
    return dataclasses.replace(event, datacontenttype=headers["content-type"])


def _plain(data: Any, source: str, key: str | None, headers: Mapping[str, str]) -> Event:
    event = Event(data, source=source)
    if key is not None:
        event = dataclasses.replace(event, id=key.strip().strip('"'))
    if trace := headers.get("traceparent"):
        event = dataclasses.replace(event, extensions={"traceparent": trace})
    return event


def _structured(given: Any) -> Event:
    if not isinstance(given, dict):
        raise InvalidEvent("a CloudEvent is a JSON object", "not_cloudevent")
    return Event.from_attributes(given)


def _binary(
    context: Mapping[str, str], content_type: str | None, body: bytes, charset: str
) -> Event:
    if forbidden := {"data", "data_base64", "datacontenttype"} & context.keys():
        raise InvalidEvent(
            f"not a CloudEvent: ce-{min(forbidden)} is no header; the body is the data, and"
            " content-type its media type",
            "not_cloudevent",
        )
    given: dict[str, Any] = {name: _decoded(value) for name, value in context.items()}
    if content_type:
        given["datacontenttype"] = content_type
    if not body:
        return Event.from_attributes(given)
    if not is_json(content_type):
        return Event.from_attributes({**given, "data": body})
    raw = _utf8(body, charset)
    return with_raw(Event.from_attributes({**given, "data": codec.loads(raw)}), raw)


def _decoded(value: str) -> str:
    """Return the value of a header, whose other characters are percent-encoded."""
    try:
        return urllib.parse.unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidEvent(
            f"not a CloudEvent: the header value {value[:60]!r} is not percent-encoded UTF-8",
            "not_cloudevent",
        ) from None


def _content_type(text: str) -> tuple[str, str]:
    media_type, _, parameters = text.partition(";")
    charset = "utf-8"
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    return media_type.strip().lower(), charset


def _utf8(body: bytes, charset: str) -> bytes:
    """Return JSON as UTF-8."""
    if charset in ("utf-8", "utf8", "us-ascii"):
        if body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in body[:4]:
            raise Unsupported(
                "JSON is sent as UTF-8; this looks like UTF-16 or UTF-32", "unsupported_encoding"
            )
        return body
    if charset in ("utf-16", "utf-16le", "utf-16be", "utf-32", "iso-8859-1", "latin-1"):
        try:
            return body.decode(charset).encode()
        except UnicodeError:
            raise InvalidEvent(f"the body is not {charset}", "bad_encoding") from None
    raise Unsupported(
        f"charset {charset[:40]!r} is not read here: send UTF-8", "unsupported_encoding"
    )
