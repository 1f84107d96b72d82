"""The checks of an event's attributes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidEvent, StoreError
from mltrigger.event import codec
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.event.event import Event

MESSAGE_ATTRIBUTES = "messageattributes"
"""The extension that holds a publisher's message attributes, as a JSON object.

Such a publisher does not use CloudEvents. Its names may not be names of extensions. A filter sees
the attributes under these names.
"""
_EXTENSION = re.compile(r"[a-z0-9]{1,60}")
RESERVED = frozenset(
    {
        "id",
        "source",
        "type",
        "time",
        "subject",
        "specversion",
        "datacontenttype",
        "dataschema",
        "data",
        "data_base64",
    }
)
# RFC 3339, date-time: seconds and a full offset are required; the SDK's parser takes ISO 8601 at
# large.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_JSON_TYPE = re.compile(r"[^/;]+/(?:[^;]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+[ \t]*(;[ -~]*)?", re.ASCII)
# https://www.w3.org/TR/trace-context-1/#traceparent-header
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@functools.lru_cache
def is_json(media_type: str | None) -> bool:
    """Whether data of *media_type* is one JSON document.

    That is so for None, ``application/json`` and ``…+json``, but not for lines of JSON.
    """
    return media_type is None or _JSON_TYPE.fullmatch(media_type) is not None


def stored_data(raw: bytes, event: Event) -> Any:
    """Return the data of a stored event, decoded from their JSON."""
    try:
        return codec.loads_own(raw)
    except Exception as error:
        said = f"{type(error).__name__}: {short(str(error))}"
        raise StoreError(
            f"the store is damaged: the data of event {short(event.id)!r} cannot be read ({said})"
        ) from error


def from_base64(text: Any) -> bytes:
    """Return the bytes of ``data_base64``."""
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"data_base64 is not base64: {error}", "not_cloudevent") from error


def parse_time(text: Any) -> datetime:
    """Return the instant of RFC 3339 *text*.

    A leap second becomes the last microsecond before it.
    """
    if not isinstance(text, str) or not (match := _RFC3339.fullmatch(text)):
        raise InvalidEvent(
            f"time {short(text)} is not RFC 3339 (2026-11-23T09:30:00Z)", "not_cloudevent"
        )
    if match[1] == "60":
        text = f"{text[:17]}59.999999{match[3]}"
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise InvalidEvent(f"time {text!r}: {error}", "not_cloudevent") from error


def foreign_attributes(text: Any) -> dict[str, Any] | None:
    """Return the extension ``messageattributes`` as plain JSON values by name.

    Returns ``None`` if it cannot be read.
    """
    if not isinstance(text, str):
        return None
    try:
        codec.loads(text)  # strict, so that every reader can read published text
        value = json.loads(text)
    except (InvalidEvent, ValueError):
        return None
    return value if isinstance(value, dict) else None


def plainly_fine(event: Event) -> bool:
    """Return whether the event is an ordinary one.

    Most events need no closer look, and publishing is a hot path.
    """
    return (
        event.subject is event.datacontenttype is event.dataschema is None
        and event.extensions.__class__ is dict
        and not event.extensions
        and event.source.__class__ is event.type.__class__ is event.id.__class__ is str
        and 0 < len(event.id) < 1024
        and 0 < len(event.source) < 1024
        and 0 < len(event.type) < 1024
        and f"{event.id}{event.source}{event.type}".isprintable()
        and not (event.id.isspace() or event.source.isspace() or event.type.isspace())
        and event.time.__class__ is datetime
        and event.time.tzinfo is UTC
    )


def problems_of(event: Event) -> Iterable[str]:
    """Yield every problem of the attributes of *event*."""
    for name in ("id", "source", "type"):
        value = getattr(event, name)
        if not isinstance(value, str) or not value.strip():
            yield f"{name} must be a non-empty str, got {short(value)}"
        elif len(value) > 1024 or not value.isprintable():
            yield f"{name} must have at most 1,024 printable characters"
    for name in ("subject", "datacontenttype", "dataschema"):
        value = getattr(event, name)
        if value is not None and (not isinstance(value, str) or not value):
            yield f"{name} must be a non-empty str or left out, got {short(value)}"
        elif value is not None and not codec.encodable(value):
            yield f"{name} holds a lone surrogate, which has no UTF-8 form"
    if isinstance(event.datacontenttype, str) and not _MEDIA_TYPE.fullmatch(event.datacontenttype):
        yield (
            f"datacontenttype {short(event.datacontenttype)} is not a media type (RFC 2046), such"
            " as application/json"
        )
    # NaT is a datetime, and not equal to itself
    if not isinstance(event.time, datetime) or event.time != event.time:
        yield f"time must be a datetime, got {short(event.time)}"
    elif event.time.utcoffset() is None:
        yield (
            f"time {event.time.isoformat()} is naive; give its zone: time.replace(tzinfo=UTC) or"
            " datetime.now(UTC)"
        )
    if event.extensions or not isinstance(event.extensions, Mapping):
        yield from _extension_problems(event.extensions)


def _extension_problems(extensions: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(extensions, Mapping):
        yield f"extensions must be a mapping, got {type(extensions).__name__}"
        return
    for name, value in extensions.items():
        if not isinstance(name, str) or not _EXTENSION.fullmatch(name) or name in RESERVED:
            yield (
                f"extension name {short(name)} must be lower-case letters and digits, and none of"
                " CloudEvents' own"
            )
        elif not isinstance(value, (str, bool, int)) or (
            isinstance(value, int) and not -(2**31) <= value < 2**31
        ):
            yield f"extension {name} must be a str, bool or 32-bit int, got {short(value)}"
        elif isinstance(value, str) and not codec.encodable(value):
            yield f"extension {name} holds a lone surrogate, which has no UTF-8 form"
        elif name == "traceparent" and not (
            isinstance(value, str) and _TRACEPARENT.fullmatch(value)
        ):
            yield f"extension traceparent {short(value)} is not a W3C trace context"
        elif name == "hops" and (
            isinstance(value, bool) or not isinstance(value, int) or value < 0
        ):
            yield f"extension hops must be a count, got {short(value)}"
        elif name in ("causationid", "rootid") and not isinstance(value, str):
            yield f"extension {name} must be the id of an event, a str, got {short(value)}"
        elif name == MESSAGE_ATTRIBUTES and foreign_attributes(value) is None:
            yield (
                f"extension {MESSAGE_ATTRIBUTES} must be the text of a JSON object, such as"
                f' {{"kind": "invoice"}}, got {short(value)}'
            )


def structural_problems(given: Mapping[str, Any]) -> Iterable[str]:
    """Yield the problems of JSON members that keep them from being an event."""
    if given.get("specversion") != "1.0":
        yield f"specversion must be '1.0', got {short(given.get('specversion'))}"
    for name in ("id", "source", "type"):
        if name not in given:
            yield f"{name} is missing"
    if "data" in given and "data_base64" in given:
        yield "data and data_base64 exclude each other"
    for name in ("id", "source", "type", "subject", "datacontenttype", "dataschema", "time"):
        if name in given and not isinstance(given[name], str):
            yield f"{name} must be text, got {short(given[name])}"
