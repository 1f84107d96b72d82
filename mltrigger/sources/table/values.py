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
    return value


def key_text(values: Sequence[Any]) -> str:
    """Return the values of a primary key as one text, the subject of an event."""
    return ",".join("" if value is None else str(as_json(value)) for value in values)


def to_key(values: Sequence[Any]) -> Key:
    """Return the values of a primary key as JSON that :func:`from_key` reads."""
    return [[base64.b64encode(v).decode()] if isinstance(v, bytes) else v for v in values]


def from_key(key: Key) -> list[Any]:
    """Return the values that :func:`to_key` wrote."""
    return [base64.b64decode(v[0]) if isinstance(v, list) else v for v in key]
