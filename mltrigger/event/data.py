"""The data of an event as bytes, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from mltrigger.errors import EventTooLarge, InvalidEvent, warn
from mltrigger.event import codec
from mltrigger.event.checks import is_json
from mltrigger.event.event import Event
from mltrigger.text import short

__all__ = [
    "are_texts",
    "check_data",
    "decode_data",
    "encode_data",
    "encode_plain",
    "is_json",
    "json_of",
]


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
        raise _too_large(raw, limit)
    return raw, media_type


def encode_plain(values: Iterable[Any], limit: int) -> list[bytes]:
    """Return the JSON of each value, as :func:`encode_data` does for events without a media type.

    Not for ``bytes``, whose media type would be another one.
    """
    encode = codec.encode
    raws = [encode(value) for value in values]
    for raw in raws:
        if len(raw) > limit:
            raise _too_large(raw, limit)
    return raws


def _too_large(raw: bytes, limit: int) -> EventTooLarge:
    return EventTooLarge(
        f"data has {len(raw):,} bytes; max_event_bytes is {limit:,}: store the object and"
        " publish its name",
        "too_large",
    )


def decode_data(raw: bytes, media_type: str | None) -> Any:
    """Return the data that :func:`encode_data` encoded, without Python types that JSON lacks."""
    return codec.loads_own(raw) if is_json(media_type) else raw


def json_of(event: Event) -> bytes | None:
    """Return the JSON that *event* was delivered as, ``None`` if it has other data."""
    return event._raw


def check_data(raw: Any, media_type: str | None) -> bytes:
    """Return *raw* if :func:`decode_data` can decode it, without doing so where that is possible.

    This finds damaged rows before their events are delivered, at a third of the cost.

    Raises
    ------
    TypeError
        When *raw* is not bytes.
    InvalidEvent
        When it is not JSON and should be.
    """
    if not isinstance(raw, bytes):
        raise TypeError(f"bytes expected, got {raw!r:.60}")
    if is_json(media_type):
        try:
            _skip()(raw)
            if not raw.isascii():
                raw.decode()
        except Exception:  # the strict reader decides, and says why
            codec.loads(raw)
    return raw


def are_texts(raws: Sequence[bytes]) -> bool:
    """Whether each of *raws* is JSON in UTF-8, and nothing beside it. It reads all at once."""
    whole = b"[" + b",".join(raws) + b"]"
    try:
        if not whole.isascii():
            whole.decode()
        # Two damaged ones may be JSON together. So each must be as long as it was.
        return list(map(len, _parts()(whole))) == list(map(len, raws))
    except Exception:  # the strict reader decides
        return False


@functools.cache
def _parts() -> Callable[[bytes], Sequence[bytes]]:
    """Return a function that reads a list in JSON and leaves its parts as they are."""
    from msgspec import Raw
    from msgspec.json import Decoder

    return cast("Callable[[bytes], Sequence[bytes]]", Decoder(list[Raw]).decode)


@functools.cache
def _skip() -> Callable[[bytes], object]:
    """Return a function that reads JSON and makes nothing of it."""
    from msgspec import Raw
    from msgspec.json import Decoder

    return Decoder(Raw).decode
