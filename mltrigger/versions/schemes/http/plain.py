"""Data for servers that know nothing of mltrigger: plain JSON, without the tags of
:mod:`mltrigger.event.codec`; and answers, one an event.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.event import codec
from mltrigger.text import short
from mltrigger.versions.schemes.http.client import Answer, encoded


def base64_text(raw: bytes) -> Any:
    """Return bytes as MLflow's scoring server takes them: base64."""
    return base64.b64encode(raw).decode()


def base64_object(raw: bytes) -> Any:
    """Return bytes as TensorFlow Serving and KServe's first protocol take them: ``{"b64": "…"}``."""
    return {"b64": base64.b64encode(raw).decode()}


def in_utc(value: Any) -> Any:
    """Return a time in ISO 8601 as UTC without a zone, to the microsecond; anything else as it is."""
    try:
        when = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    when = when if when.utcoffset() is None else when.astimezone(dt.UTC).replace(tzinfo=None)
    return when.isoformat(timespec="microseconds")


def plain(data: Any, *, binary: Callable[[bytes], Any], nan_is_null: bool = False) -> Any:
    """Return *data* as values that JSON has: numbers for decimals, what *binary* makes of bytes.

    Parameters
    ----------
    nan_is_null : bool
        Whether the format writes a missing number as ``null``. Otherwise a NaN is refused, as
        infinity always is: neither is JSON, and no server can tell what was meant.

    Raises
    ------
    ModelFailure
        For the event alone, with the path of what has no form.
    """
    raw = encoded(data)
    return (
        json.loads(raw)
        if b'"$' not in raw
        else _plain(codec.loads_own(raw), "$", binary, nan_is_null)
    )


def plain_text(data: Any, *, binary: Callable[[bytes], Any], nan_is_null: bool = False) -> bytes:
    """Return :func:`plain` *data* as JSON."""
    raw = encoded(data)
    if b'"$' not in raw:
        return raw
    value = _plain(codec.loads_own(raw), "$", binary, nan_is_null)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def one_each(answer: Answer, found: Any, count: int, what: str, hint: str = "") -> Sequence[Any]:
    """Return what was *found* in *answer* when it is a list of *count*; no server can be asked
    again for what it left out.
    """
    if isinstance(found, list) and len(found) == count:
        return found
    got = f"{len(found):,}" if isinstance(found, list) else f"no list but {short(found)}"
    raise answer.failure(
        f"with {got} in the place of {count:,} {what}{hint}",
        reason="bad_batch_result",
        permanent=True,
        whole=True,
    )


def _plain(value: Any, path: str, binary: Callable[[bytes], Any], nan_is_null: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _plain(inner, f"{path}.{name}", binary, nan_is_null)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _plain(inner, f"{path}[{number}]", binary, nan_is_null)
            for number, inner in enumerate(value)
        ]
    if isinstance(value, bytes):
        return binary(value)
    if isinstance(value, decimal.Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) and nan_is_null:
            return None
        raise ModelFailure(
            f"the input has {value} at {short(path)}, which JSON has not: send a number or null",
            reason="invalid_input",
            permanent=True,
        )
    return value
