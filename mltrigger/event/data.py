"""The data of an event as bytes, and back."""

from __future__ import annotations

import re
from typing import Any

from mltrigger.errors import EventTooLarge, InvalidEvent, warn
from mltrigger.event import codec
from mltrigger.event.event import Event, with_data
from mltrigger.text import short

_JSON_TYPE = re.compile(r"[^/;]+/(?:[^;]+\+)?json[ \t]*(;.*)?", re.IGNORECASE)


def encode_data(event: Event, limit: int) -> tuple[bytes, str | None]:
    """Return the event's data as bytes, and their media type (``None``: JSON).

    Raises
    ------
    NotEncodable
        When a part of the data has no JSON form.
    EventTooLarge
        When there are more than *limit* bytes.
    """
    media_type: str | None
    if event._encoded is not None:
        raw, media_type = event._encoded, event.datacontenttype
    elif isinstance(event.data, (bytes, bytearray)):
        raw, media_type = bytes(event.data), event.datacontenttype or "application/octet-stream"
        if is_json(media_type):
            if not raw:
                raise InvalidEvent(
                    "data is empty: an event without data is Event(None), b'' of another media type"
                    " is kept",
                    "empty_body",
                )
            codec.loads(raw)  # it says so: then it must be, before it is kept
            raw = codec.unmarked(raw).strip(b" \t\r\n")
            if (key := codec.repeated_key(raw)) is not None:
                warn(f"data has the key {short(key)!r} twice in one object: the last value counts")
    else:
        raw, media_type = codec.encode(event.data), event.datacontenttype
        if not is_json(media_type) and isinstance(event.data, str):
            raw = event.data.encode()
        elif not is_json(media_type):
            raise InvalidEvent(
                f"data of media type {media_type!r} must be given as bytes, not"
                f" {type(event.data).__name__}"
            )
    if len(raw) > limit:
        raise EventTooLarge(
            f"data has {len(raw):,} bytes; max_event_bytes is {limit:,}: store the object and"
            " publish its name",
            "too_large",
        )
    return raw, media_type


def decode_data(raw: bytes, media_type: str | None) -> Any:
    """Return the data that :func:`encode_data` encoded, without Python types that JSON lacks."""
    return codec.loads_own(raw) if is_json(media_type) else raw


def is_json(media_type: str | None) -> bool:
    """Whether data of *media_type* is one JSON document.

    That is so for None, ``application/json`` and ``…+json``, but not for lines of JSON.
    """
    return media_type is None or _JSON_TYPE.fullmatch(media_type) is not None


def as_delivered(event: Event) -> Event:
    """Return *event* with its data as they were delivered, decoded anew.

    A model may have changed them since.
    """
    if event._raw is None or isinstance(event.data, bytes):
        return event
    return with_data(event, decode_data(event._raw, event.datacontenttype))
