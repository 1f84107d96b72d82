"""Plain JSON for servers and programs that do not know mltrigger.

It has none of the tags of :mod:`mltrigger.event.codec`.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Callable
from typing import Any

from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event import codec
from mltrigger.text import short
from mltrigger.versions.schemes.failures import unfit

Binary = Callable[[bytes], Any]
"""The JSON value for bytes."""


def base64_text(raw: bytes) -> Any:
    """Return bytes as base64, the form of MLflow's scoring server."""
    return base64.b64encode(raw).decode()


def base64_object(raw: bytes) -> Any:
    """Return bytes as ``{"b64": "…"}``, the form of TensorFlow Serving and KServe v1."""
    return {"b64": base64.b64encode(raw).decode()}


def in_utc(value: Any) -> Any:
    """Return a time in ISO 8601 as UTC without a zone, with microseconds.

    Any other value is returned as it is.
    """
    try:
        when = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return without_zone(when).isoformat(timespec="microseconds")


def without_zone(when: dt.datetime) -> dt.datetime:
    """Return *when* in UTC, without a zone. A time without a zone is returned as it is."""
    return when if when.utcoffset() is None else when.astimezone(dt.UTC).replace(tzinfo=None)


def encoded(value: Any) -> bytes:
    """Return *value* as JSON, with the tags of the codec.

    Raises
    ------
    ModelFailure
        For the event alone, when a part of it has no JSON form.
    """
    try:
        return codec.encode(value)
    except NotEncodable as error:
        raise unfit(f"the input has no JSON form: {error}") from error


def dumped(value: Any) -> bytes:
    """Return the JSON of *value*, without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def loaded(text: str | bytes) -> Any:
    """Return the value of JSON. NaN and Infinity are accepted, since many servers write them.

    Raises
    ------
    InvalidEvent
        When *text* is not JSON.
    """
    try:
        return codec.loads(text)
    except InvalidEvent as error:
        if error.reason not in codec.NOT_FINITE:
            raise
        problem = error
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # it is broken in another way as well
        raise problem from None


def plain(data: Any, *, binary: Binary, nan_is_null: bool = False) -> Any:
    """Return *data* as plain JSON values.

    Decimals become floats, bytes become the result of *binary*.

    Parameters
    ----------
    nan_is_null : bool
        Whether NaN becomes ``null``. Otherwise NaN is refused. Infinity is always refused, since
        JSON has neither.

    Raises
    ------
    ModelFailure
        For the event alone, with the path of the value that has no form.
    """
    raw = encoded(data)
    if b'"$' not in raw:
        return json.loads(raw)
    return _plain(codec.loads_own(raw), "$", binary, nan_is_null)


def plain_text(data: Any, *, binary: Binary) -> bytes:
    """Return :func:`plain` *data* as JSON."""
    raw = encoded(data)
    if b'"$' not in raw:
        return raw
    return dumped(_plain(codec.loads_own(raw), "$", binary, False))


def _plain(value: Any, path: str, binary: Binary, nan_is_null: bool) -> Any:
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
        raise unfit(
            f"the input has {value} at {short(path)}, which JSON has not: send a number or null"
        )
    return value
