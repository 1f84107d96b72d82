"""JSON in and out, without the silent losses of the defaults.

Values without a JSON form get a tag of MongoDB's Extended JSON v2
(https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/). NaN becomes
``{"$numberDouble": "NaN"}``, bytes ``{"$binary": {"base64": "…", "subType": "00"}}`` and a Decimal
``{"$numberDecimal": "1.10"}``. :func:`loads` turns them back.

Other values lose only their Python type:

- records: frames of pandas, polars and Arrow
- lists: numpy arrays, tensors, sparse matrices, tuples, sets
- objects: dataclasses, pydantic models
- text: datetimes (ISO 8601), paths, UUIDs
- plain values: numpy scalars, enums
- ``null``: missing values of pandas (``NA``, ``NaT``)

Values with names become objects: a row of a frame (a ``Series`` whose index is text), a named
tuple, a numpy record. A series with numbers or times for an index is a list. The index of a frame
becomes a column if it is text, has a name or several levels. So does that of a series of several
levels. Two keys that become the same text are refused.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import decimal
import functools
import json
import marshal
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import orjson

from mltrigger.errors import InvalidEvent, NotEncodable
from mltrigger.event.values import (
    MAX_BYTES,
    MAX_DEPTH,
    STRICT,
    Broken,
    TooLarge,
    encodable,
    has_names,
    plain,
    rows_of,
)

NOT_FINITE = frozenset({"non_finite_number", "number_out_of_range"})
"""Reasons of what Python's own parser reads as a float all the same: NaN, Infinity, 1e400."""

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "NOT_FINITE",
    "Broken",
    "TooLarge",
    "dumps",
    "dumps_each",
    "encodable",
    "encode",
    "has_names",
    "loads",
    "loads_each",
    "loads_own",
    "loads_untagged",
    "repeated_key",
    "rows_of",
    "twice",
    "unmarked",
]


def encode(value: Any, iterators: bool = False) -> bytes:
    """Return *value* as compact JSON, in UTF-8.

    Equal values may differ in their bytes: ``0.00001`` and ``1e-05`` are one number. So compare
    values, not bytes.

    Parameters
    ----------
    value
        Any value with a JSON form.
    iterators : bool
        Whether to read iterators, such as generators. Each is read once, up to ``MAX_BYTES`` of
        JSON.

    Raises
    ------
    NotEncodable
        With the path of the part that has no JSON form, for example ``$.model: a value of type
        'function'``.
    """
    try:
        raw = _write(value, None, _AS_GIVEN)
        if _says_all(value, raw):
            return raw
    except Exception:  # noqa: S110 - a hostile value may raise anything while it is read
        pass
    return _carefully(value, iterators)


def dumps(value: Any, iterators: bool = False) -> str:
    """Return the JSON of :func:`encode` as text."""
    return encode(value, iterators).decode()


def dumps_each(values: list[Any]) -> list[str] | None:
    """Return the JSON of each of *values*, all objects or all lists, written at once.

    Each is what :func:`dumps` returns for it alone. ``None`` if one needs more care.
    """
    begin, end = "{}" if type(values[0]) is dict else "[]"
    try:
        raw = _write(values, None, _AS_GIVEN)
        if not _says_all(values, raw):
            return None
    except Exception:  # as above
        return None
    text, between = raw.decode(), f"{end},{begin}"
    if text.count(between) != len(values) - 1:  # it is inside one, too
        return None
    return [f"{begin}{part}{end}" for part in text[2:-2].split(between)]


_write = orjson.dumps
_AS_GIVEN = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
"""Leave to us all types that both write, each in its own way."""
_EXACT = frozenset({str, int, bool, type(None)})
"""Types that orjson writes without a loss, or refuses."""
_SCALARS = _EXACT | {float}
_NESTED = frozenset({dict, list, tuple})


def _says_all(value: Any, raw: bytes) -> bool:
    """Whether *raw*, of orjson, is the JSON of *value* as we want it.

    orjson writes NaN as null, takes more than ``MAX_DEPTH`` levels, and copies its own Fragment
    unread.
    """
    kind = type(value)
    parts = value.values() if kind is dict else value if kind in _NESTED else (value,)
    if _EXACT.issuperset(map(type, parts)):
        return True
    if not _SCALARS.issuperset(map(type, parts)):
        marshal.dumps(value, 2)  # the fastest check: it raises for all but Python's own types
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _too_deep(value):
            return False
    # numbers have no "u", and one byte is found much faster than four
    return raw.find(b"u") < 0 or raw.find(b"null") < 0 or bool(loads_untagged(raw) == value)


def _carefully(value: Any, iterators: bool) -> bytes:
    try:
        made = plain(value, "$", 0, iterators)
        try:
            raw = _write(made)
        except TypeError:  # an integer beyond 64 bits
            return STRICT(made).encode()
        return raw if _says_all(made, raw) else STRICT(made).encode()
    except NotEncodable:
        raise
    except RecursionError as error:
        raise NotEncodable("$: a value whose conversion never ends") from error
    except Exception as error:
        raise NotEncodable(f"$: reading the value failed with {type(error).__name__}") from error


def loads(text: str | bytes) -> Any:
    """Return the value of JSON *text*, read strictly.

    Numbers must follow RFC 8259, text must be UTF-8, and levels are at most ``MAX_DEPTH``.
    One byte order mark at the start is skipped, as RFC 8259 allows.

    Raises
    ------
    InvalidEvent
        Its ``reason`` attribute is ``malformed_json``, ``non_finite_number``,
        ``number_out_of_range``, ``nesting_too_deep``, ``invalid_unicode`` or
        ``unsupported_encoding``.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid(
                "unsupported_encoding", f"data is not UTF-8 (byte {error.start})"
            ) from error
    text = unmarked(text)
    try:
        value = _DECODE(text)
    except json.JSONDecodeError as error:
        raise _invalid(
            "malformed_json", f"data is not JSON: {error.msg} at character {error.pos}"
        ) from error
    except RecursionError as error:
        raise _invalid(
            "nesting_too_deep", f"data is nested deeper than {MAX_DEPTH} levels"
        ) from error
    except _Number as error:
        raise _invalid(
            "non_finite_number", f"data holds {error}, which is not a JSON number (RFC 8259)"
        ) from error
    except _TooLarge as error:
        raise _invalid(
            "number_out_of_range",
            f"data holds {error}, beyond the largest float, 1.8e308: send it as a text",
        ) from error
    except ValueError as error:
        raise _invalid(
            "number_out_of_range", f"data holds a number that Python refuses: {error}"
        ) from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        raise _invalid("nesting_too_deep", f"data is nested deeper than {MAX_DEPTH} levels")
    if not encodable(text) or ("\\u" in text and _has_lone_surrogate(value)):
        raise _invalid("invalid_unicode", "data holds a lone surrogate, which has no UTF-8 form")
    return value


def loads_each(texts: Sequence[str]) -> list[Any]:
    """Return the value of :func:`loads` for each of *texts*, much sooner if they are many."""
    read = _reader()
    if not _needs_care("".join(texts), max(map(len, texts), default=0)):
        with contextlib.suppress(Exception):  # one of them is only for the strict reader
            return list(map(read, texts))
    return [_loads_soon(text, read) for text in texts]


def _loads_soon(text: str, read: Callable[[str], Any]) -> Any:
    if not _needs_care(text, len(text)):
        with contextlib.suppress(Exception):
            return read(text)
    return loads(text)


def _needs_care(text: str, longest: int) -> bool:
    """Whether *text* may have a tag, or too many levels. Its longest part has that length."""
    return (
        '"$' in text
        or r"\u0024" in text
        or (longest > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH)
    )


Raw = TypeVar("Raw", str, bytes)


def unmarked(raw: Raw) -> Raw:
    """Return text without the byte order mark that Windows tools write before it."""
    return raw.removeprefix("\ufeff") if isinstance(raw, str) else raw.removeprefix(codecs.BOM_UTF8)


def repeated_key(raw: bytes) -> str | None:
    """Return a key that stands twice in one object, or ``None``.

    *text* is JSON that :func:`loads` accepts.
    """
    repeated: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        if not repeated and (key := twice(key for key, _ in pairs)) is not None:
            repeated.append(key)

    json.loads(raw, object_pairs_hook=look)
    return repeated[0] if repeated else None


def twice(keys: Iterable[str]) -> str | None:
    """Return the first repeated key of *keys*, or ``None``.

    Takes one look at each: any sender may send many.
    """
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def loads_own(raw: bytes) -> Any:
    """Return the value of JSON that :func:`encode` wrote, or that :func:`loads` took before."""
    # one byte is found much faster than two
    if raw.find(b"$") < 0 or raw.find(b'"$') < 0:
        try:
            return _reader()(raw)
        except Exception:  # noqa: S110 - a mark of byte order, an integer of 400 digits
            pass
    return loads(raw)


def loads_untagged(raw: bytes) -> Any:
    """Return the value of such JSON as other languages read it: a tag stays an object."""
    try:
        return _reader()(raw)
    except Exception:  # as above
        return json.loads(raw)


@functools.cache
def _reader() -> Callable[[bytes | str], Any]:
    """Import the reader when it is first used, since that takes 10 ms."""
    from msgspec.json import Decoder

    return Decoder().decode


class _Number(Exception):  # internal signal
    """A literal that is no JSON number."""


class _TooLarge(Exception):  # internal signal
    """A JSON number that no float can hold."""


def _refuse(literal: str) -> float:
    raise _Number(literal)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _TooLarge(text[:40])
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
        if (
            isinstance(binary, dict)
            and len(binary) == 2
            and binary.get("subType") == "00"
            and isinstance(binary.get("base64"), str)
        ):
            return base64.b64decode(binary["base64"], validate=True)
    except (ValueError, decimal.InvalidOperation):
        return value  # only looks like a tag: somebody else's data
    return value


_DECODE = json.JSONDecoder(object_hook=_untag, parse_constant=_refuse, parse_float=_finite).decode


def _invalid(reason: str, message: str) -> InvalidEvent:
    return InvalidEvent(message, reason)


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()


def _too_deep(value: Any) -> bool:
    level: list[Iterable[Any]] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child.values() if type(child) is dict else child
            for parts in level
            if not _NESTED.isdisjoint(map(type, parts))  # most hold no others
            for child in parts
            if type(child) in _NESTED
        ]
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
