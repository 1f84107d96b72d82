"""JSON in and out, without the silent losses of the defaults.

What JSON cannot say is tagged as MongoDB's Extended JSON v2 does (https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/):
a NaN is written ``{"$numberDouble": "NaN"}``, bytes ``{"$binary": {"base64": "…", "subType": "00"}}`` and a Decimal
``{"$numberDecimal": "1.10"}``; :func:`loads` turns them back. What has a natural JSON form loses only its Python type: numpy
scalars and arrays, pandas frames (records) and series (list), datetimes (ISO 8601), dataclasses and pydantic models (objects),
tuples and sets (lists), paths, UUIDs and enums. Missing values of pandas (``NA``, ``NaT``) are ``null``.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mltrigger.errors import InvalidEvent, NotEncodable

MAX_DEPTH = 100
"""Levels of nesting that are accepted in either direction; deeper values break other people's parsers."""


def dumps(value: Any) -> str:
    """Return *value* as compact JSON text.

    Raises
    ------
    NotEncodable
        With the path of the part that has no JSON form, for example ``$.model: a value of type 'function'``.
    """
    try:
        # The fast way: plain JSON values, in C. Whatever it cannot take goes through _plain, which also names the culprit.
        text = _STRICT(value)
    except Exception:  # a hostile value may raise anything while it is read
        return _carefully(value)
    if text.count("[") + text.count("{") > MAX_DEPTH or not (text.isascii() or encodable(text)):
        return _carefully(value)
    return text


def _carefully(value: Any) -> str:
    try:
        return _STRICT(_plain(value, "$", 0))
    except NotEncodable:
        raise
    except RecursionError as error:
        raise NotEncodable("$: a value whose conversion never ends") from error
    except Exception as error:
        raise NotEncodable(f"$: reading the value failed with {type(error).__name__}") from error


def loads(text: str | bytes) -> Any:
    """Return the value of JSON *text*, strictly: RFC 8259 numbers only, UTF-8 only, at most ``MAX_DEPTH`` levels.

    Raises
    ------
    InvalidEvent
        Whose ``reason`` attribute is the reason code: ``malformed_json``, ``non_finite_number``, ``number_out_of_range``,
        ``nesting_too_deep``, ``invalid_unicode`` or ``unsupported_encoding``.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid("unsupported_encoding", f"data is not UTF-8 (byte {error.start})") from error
    try:
        value = _DECODE(text)
    except json.JSONDecodeError as error:
        raise _invalid("malformed_json", f"data is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _invalid("nesting_too_deep", f"data is nested deeper than {MAX_DEPTH} levels") from error
    except _Number as error:
        raise _invalid("non_finite_number", f"data holds {error}, which is not a JSON number (RFC 8259)") from error
    except ValueError as error:
        raise _invalid("number_out_of_range", f"data holds a number that Python refuses: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        raise _invalid("nesting_too_deep", f"data is nested deeper than {MAX_DEPTH} levels")
    if not encodable(text) or ("\\u" in text and _has_lone_surrogate(value)):
        raise _invalid("invalid_unicode", "data holds a lone surrogate, which has no UTF-8 form")
    return value


def repeated_key(raw: bytes) -> str | None:
    """Return a key that stands twice in one object of JSON that :func:`loads` accepts; ``None`` when there is none."""
    repeated: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        if not repeated and (key := twice(key for key, _ in pairs)) is not None:
            repeated.append(key)

    json.loads(raw, object_pairs_hook=look)
    return repeated[0] if repeated else None


def twice(keys: Iterable[str]) -> str | None:
    """Return the first of *keys* that was there before; ``None`` when all differ. Takes one look at each: any sender may send many."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def loads_own(raw: bytes) -> Any:
    """Return the value of JSON that :func:`dumps` wrote: strict when it was written, so there is nothing to check but the tags."""
    text = raw.decode()
    return loads(text) if '"$' in text else _SCAN(text, 0)[0]


class _Number(Exception):  # internal signal
    """A literal or an overflow that is no JSON number."""


def _refuse(literal: str) -> float:
    raise _Number(literal)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Number(text[:40])
    return value


def _untag(value: dict[str, Any]) -> Any:
    if len(value) != 1:
        return value
    if (text := value.get("$numberDouble")) in ("NaN", "Infinity", "-Infinity"):
        return float(text)
    try:
        if isinstance(number := value.get("$numberDecimal"), str):
            return decimal.Decimal(number)
        binary = value.get("$binary")
        if isinstance(binary, dict) and len(binary) == 2 and binary.get("subType") == "00" and isinstance(binary.get("base64"), str):
            return base64.b64decode(binary["base64"], validate=True)
    except (ValueError, decimal.InvalidOperation):
        return value  # only looks like a tag: somebody else's data
    return value


def _strict_encoder() -> Callable[[Any], str]:
    """Return a function from plain values to JSON text, in C; it raises TypeError, ValueError or RecursionError for all others."""
    plain = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    if (make := getattr(json.encoder, "c_make_encoder", None)) is None:
        return plain.encode
    # What JSONEncoder.encode makes anew at every call.
    encode = make(None, plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(encode(value, 0))


_STRICT = _strict_encoder()
_SCAN: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
_DECODE = json.JSONDecoder(object_hook=_untag, parse_constant=_refuse, parse_float=_finite).decode


def _invalid(reason: str, message: str) -> InvalidEvent:
    return InvalidEvent(message, reason)


def _plain(value: Any, path: str, depth: int) -> Any:
    """Return *value* with only JSON's own types, or raise NotEncodable naming *path*."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, depth)
    if isinstance(value, str):
        return _text(value, path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$numberDouble": _float_name(value)}
    if not isinstance(value, (Mapping, list, tuple)):
        return _plain(_converted(value, path), path, depth)
    if depth >= MAX_DEPTH:
        raise NotEncodable(f"{path[:40]}…: nested deeper than {MAX_DEPTH} levels (or a value that contains itself)")
    if isinstance(value, Mapping):
        return {_key(k, path): _plain(v, f"{path}.{k}", depth + 1) for k, v in value.items()}
    return [_plain(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]


def _text(value: str, path: str) -> str:
    if not encodable(value):
        raise NotEncodable(f"{path}: text with a lone surrogate, which has no UTF-8 form; clean it with str.encode(errors='replace')")
    return str(value)


def _converted(value: Any, path: str) -> Any:
    """Return one step from *value* towards JSON's own types."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$binary": {"base64": base64.b64encode(bytes(value)).decode(), "subType": "00"}}
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return None if value != value else value.isoformat()  # NaT is not equal to itself
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return {"$numberDecimal": str(value)}
    if isinstance(value, (uuid.UUID, pathlib.PurePath)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)) and not isinstance(value, type):
        return dump(mode="python")  # pydantic
    return _scientific(value, path)


def _scientific(value: Any, path: str) -> Any:
    """Convert numpy and pandas values without importing either: a value of theirs means that they are loaded."""
    if (np := sys.modules.get("numpy")) is not None and isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind in "Mm":  # .tolist() would make a bare number of nanoseconds
            text = np.asarray(value).astype(str)
            return np.where(np.isnat(value), None, text).tolist() if value.ndim else None if np.isnat(value) else str(text)
        return float(value) if isinstance(value, np.longdouble) else value.tolist()
    if (pd := sys.modules.get("pandas")) is not None:
        if value is pd.NA or value is pd.NaT:
            return None
        if isinstance(value, pd.DataFrame):
            return value.to_dict(orient="records")
        if isinstance(value, (pd.Series, pd.Index)) or hasattr(value, "__pandas_priority__"):
            return value.tolist()
        if isinstance(value, (pd.Period, pd.Interval)):
            return str(value)
    raise NotEncodable(f"{path}: {_what(value)} has no JSON form; use plain values, numpy, pandas, dataclasses or pydantic models")


def _what(value: Any) -> str:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns about it later, from nowhere in particular
        return "a coroutine (the model is async and was not awaited)"
    if inspect.isgenerator(value):
        return "a generator (return list(…) instead)"
    return f"a value of type {type(value).__qualname__!r}"


def _key(key: Any, path: str) -> str:
    """Return *key* as JSON's encoder writes it; text, numbers, truth values and None have a text form."""
    if isinstance(key, str):
        return _text(key, path)
    if key is None or isinstance(key, (bool, float)):
        return _STRICT(key)
    if isinstance(key, enum.Enum) or not hasattr(key, "__index__"):
        raise NotEncodable(f"{path}: a key of type {type(key).__qualname__!r}; JSON objects have text keys")
    return str(int(key))


def _float_name(value: float) -> str:
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _has_lone_surrogate(value: Any) -> bool:
    level = [value]
    while level:
        if any(isinstance(v, str) and not encodable(v) for v in level):
            return True
        level = [child for parent in level for child in _children(parent)]
    return False


def encodable(text: str) -> bool:
    """Whether *text* has a UTF-8 form; a lone surrogate has none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
