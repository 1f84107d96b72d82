"""Short forms of what events repeat: a UUID as 16 bytes, its trace as nothing at all."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def id_key(event_id: str) -> bytes | str:
    """Return *event_id* as it is stored: 16 bytes for a UUID in its canonical form.

    Any other text is another id, also a UUID in capitals.
    """
    if len(event_id) == 36 and _UUID(event_id):
        return bytes.fromhex(event_id.replace("-", ""))
    return event_id


def id_text(key: bytes | str) -> str:
    """Return the id of a stored *key*. In SQL it is the function ``event_id``."""
    if isinstance(key, bytes):
        text = key.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return key


def trace_of(key: bytes) -> str:
    """Return the ``traceparent`` of an event that has none but its id."""
    text = key.hex()
    return f"00-{text}-{text[16:]}-01"


def trace_id(traceparent: str | None, key: bytes | str) -> str:
    """Return the trace id of a stored event. In SQL it is the function ``trace_id``."""
    return (
        key.hex() if traceparent is None and isinstance(key, bytes) else (traceparent or "")[3:35]
    )


def time_of(published_us: int, lag_us: int, text: str | None) -> datetime:
    """Return the time of a stored event."""
    if text is not None:
        return datetime.fromisoformat(text)
    return _EPOCH + timedelta(microseconds=published_us - lag_us)


def time_key(time: datetime, published_us: int) -> tuple[int, str | None]:
    """Return ``lag_us`` of an event, and its time as text if that is not in UTC."""
    at_us = (time - _EPOCH) // _US
    return published_us - at_us, None if time.tzinfo is UTC else time.isoformat()
