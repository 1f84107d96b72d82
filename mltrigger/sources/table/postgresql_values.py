"""Values of PostgreSQL, from the JSON that a trigger wrote."""

from __future__ import annotations

import json
import math
from typing import Any

_LONGEST_INT = 4_000


def loads(text: str) -> Any:
    """Return JSON. A number that no float or int of Python holds stays text."""
    return json.loads(text, parse_float=_float, parse_int=_int)


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _int(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_INT else text


def exact(text: str) -> dict[str, Any]:
    """Return a row whose numbers are text, as they are written."""
    row: dict[str, Any] = json.loads(text, parse_float=str, parse_int=str)
    return row
