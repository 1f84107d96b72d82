"""Short forms of ids and traces: a UUID has 16 bytes, and its own trace needs none."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
UUID_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


class TextKey(str):
    """An id that is no UUID, as it is stored.

    A database that keeps only bytes in the column gets them with one or two bytes before them. The
    first one is their number. So no text has 16 bytes, as a UUID has.
    """

    __slots__ = ()

    def as_bytes(self) -> bytes:
        """Return it for a column of bytes."""
        text = self.encode()
        return b"\x02\x00" + text if len(text) == UUID_BYTES - 1 else b"\x01" + text


def id_key(event_id: str) -> bytes | TextKey:
    """Return *event_id* as it is stored: 16 bytes for a UUID in its canonical form.

    Any other text is another id, also a UUID in capitals.
    """
    if len(event_id) == 36 and _UUID(event_id):
        return bytes.fromhex(event_id.replace("-", ""))
    return TextKey(event_id)


def is_uuid(key: bytes | str) -> bool:
    """Whether a stored *key* is that of a UUID."""
    return isinstance(key, bytes) and len(key) == UUID_BYTES


def id_text(key: bytes | str) -> str:
    """Return the id of a stored *key*. In SQL it is the function ``event_id``."""
    if isinstance(key, bytes):
        if len(key) != UUID_BYTES:
            return key[key[0] :].decode()
        text = key.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return key


def trace_of(key: bytes | str) -> str:
    """Return the ``traceparent`` of an event that has none but its id, which is a UUID then.

    Raises
    ------
    TypeError
        When the id is no UUID: the store is damaged.
    """
    if isinstance(key, str) or len(key) != UUID_BYTES:
        raise TypeError(f"a trace expected for the event {key!r:.60}")
    text = key.hex()
    return f"00-{text}-{text[16:]}-01"


def trace_id(traceparent: str | None, key: bytes | str) -> str:
    """Return the trace id of a stored event. In SQL it is the function ``trace_id``."""
    if traceparent is None and isinstance(key, bytes) and len(key) == UUID_BYTES:
        return key.hex()
    return (traceparent or "")[3:35]


def time_of(published_us: int, lag_us: int, text: str | None) -> datetime:
    """Return the time of a stored event."""
    if text is not None:
        return datetime.fromisoformat(text)
    return _EPOCH + timedelta(microseconds=published_us - lag_us)


def time_key(time: datetime, published_us: int) -> tuple[int, str | None]:
    """Return ``lag_us`` of an event, and its time as text if that is not in UTC."""
    at_us = (time - _EPOCH) // _US
    return published_us - at_us, None if time.tzinfo is UTC else time.isoformat()
