"""Texts for the view: short, harmless, and never longer than a message can carry."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from mltrigger.clock import rounded_ms
from mltrigger.errors import StoreError
from mltrigger.text import harmless, redacted, short

HINT, TEXT, ERROR, SENTENCE = 60, 90, 160, 300
"""The most characters of the name of an event, an output, an error and an answer."""
PEEK = 400
"""The first bytes of an event or an output that are read for a hint."""
WHOLE = 20_000
"""The most characters of a whole text."""
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def now() -> str:
    """Return the present time as ISO text, in seconds."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def iso(us: int | None) -> str | None:
    """Return microseconds since 1970 as ISO text with milliseconds."""
    if us is None:
        return None
    said = datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")
    return said.replace("+00:00", "Z")


def sentence(error: BaseException, what: str = "") -> str:
    """Return *error* as one short line, without secrets and without an address."""
    said = error.plain if isinstance(error, StoreError) else str(error)
    begins = f"{what}: " if what else ""
    return short(redacted(f"{begins}{type(error).__name__}: {said}"), SENTENCE)


def bounded(text: str) -> str:
    """Return *text* without control characters. JSON stays the same JSON.

    A long text is cut, and says so.
    """
    if len(text) <= WHOLE:
        return harmless(text)
    return f"{harmless(text[:WHOLE])}… ({len(text) - WHOLE:,} more characters)"


def rounded(value: float | None) -> float | None:
    """Return milliseconds to the digits of the clock."""
    return None if value is None else rounded_ms(value)


def event_hint(subject: str | None, media_type: str | None, size: int, head: bytes | None) -> str:
    """Return a name for an event: its subject, or the beginning of its data."""
    if subject:
        return short(subject, HINT)
    if head is None:  # it may not be read
        return ""
    if media_type is not None and "json" not in media_type:
        return short(f"{media_type}, {size:,} bytes", HINT)
    return json_hint(bytes(head).decode(errors="ignore"), HINT)


def json_hint(head: str, limit: int) -> str:
    """Return JSON text for people, also if cut off: no quotes, letters instead of escapes."""
    try:
        value = json.loads(head)
    except (ValueError, RecursionError):
        pairs = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), head)
        return short(pairs.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), limit)
    return short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), limit)


def failed(error_type: str | None, error: str | None, reason: str | None) -> str:
    """Return the failure of an attempt as one text, empty without one."""
    return ": ".join(part for part in (error_type, error or reason) if part)


def plain(value: Any) -> Any:
    """Return *value* with lists for tuples and texts for keys, as JSON gives it back."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
