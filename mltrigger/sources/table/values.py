"""Values of a row as JSON has them, and keys as text."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

from mltrigger.sources.table.database import Key


def as_json(value: Any) -> Any:
    """Return a value of SQLite as JSON has it: bytes as base64, infinity as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str) and not value.isascii():
        return _raw(value).decode("utf-8", "replace")
    return value


def key_text(values: Sequence[Any]) -> str:
    """Return the values of a primary key as one text, the subject of an event.

    Different keys have different texts: a comma inside a value is ``%2C``, a per cent sign ``%25``.
    """
    return ",".join(map(_part, values))


def to_key(values: Sequence[Any]) -> Key:
    """Return the values of a primary key as JSON that :func:`from_key` reads."""
    return [_kept(value) for value in values]


def from_key(key: Key) -> tuple[list[Any], list[str]]:
    """Return the values that :func:`to_key` wrote, and the SQL that stands for each."""
    values, places = [], []
    for value in key:
        if not isinstance(value, list):
            values.append(value)
            places.append("?")
            continue
        kind, text = value
        values.append(base64.b64decode(text))
        places.append("CAST(? AS TEXT)" if kind == "text" else "?")
    return values, places


def _part(value: Any) -> str:
    if value is None:
        return "%00"
    if isinstance(value, bytes):
        return f"%{base64.b64encode(value).decode()}"
    text = value if isinstance(value, str) else str(value)
    if "%" in text or "," in text:
        text = text.replace("%", "%25").replace(",", "%2C")
    return text


def _kept(value: Any) -> Any:
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, str) and not value.isascii():
        return ["text", base64.b64encode(_raw(value)).decode()]
    return value


def _raw(text: str) -> bytes:
    """Return the bytes of a text that came from SQLite: it need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")
