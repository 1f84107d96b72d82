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
import decimal
import json
import marshal
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

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
    "encodable",
    "has_names",
    "loads",
    "loads_own",
    "repeated_key",
    "rows_of",
    "twice",
    "unmarked",
]


def dumps(value: Any, iterators: bool = False) -> str:
    """Return *value* as compact JSON text.

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
        # The fast way: plain JSON values, in C. Whatever it cannot take goes through plain(), which
        # also names the culprit.
        text = STRICT(value)
    except Exception:  # a hostile value may raise anything while it is read
        return _carefully(value, iterators)
    lists, objects = text.count("["), text.count("{")
    nested = lists + objects
    if (
        nested > MAX_DEPTH
        or (nested and not _says_all(value, lists, objects))
        or not (text.isascii() or encodable(text))
    ):
        return _carefully(value, iterators)
    return text


_NESTED = frozenset({dict, list, tuple})


def _says_all(value: Any, lists: int, objects: int) -> bool:
    """Whether the encoder lost nothing of *value*.

    It drops the names of tuples. It writes a key twice when two keys become one text.
    *lists* and *objects* are the most of them that its text can hold.
    """
    try:
        if lists or objects > 1:
            # the fastest check that nothing in it is of a subclass, such as a named tuple
            marshal.dumps(value, 2)
        if objects == 1 and isinstance(value, dict):
            "".join(value)  # raises for a key that is no text
        elif objects:
            _check_keys(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_keys(value: Any) -> None:
    """Raise TypeError if an object in *value* has a key that is no text.

    *value* has Python's own types only.
    """
    inside = [value]
    for each in inside:  # which grows meanwhile
        if each.__class__ is dict:
            "".join(each)
            each = each.values()
        if not _NESTED.isdisjoint(map(type, each)):
            inside += [inner for inner in each if inner.__class__ in _NESTED]


def _carefully(value: Any, iterators: bool) -> str:
    try:
        return STRICT(plain(value, "$", 0, iterators))
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
    """Return the value of JSON that :func:`dumps` wrote.

    It was checked when it was written, so only the tags are read.
    """
    text = raw.decode()
    return loads(text) if '"$' in text else _SCAN(text, 0)[0]


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


_SCAN: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
_DECODE = json.JSONDecoder(object_hook=_untag, parse_constant=_refuse, parse_float=_finite).decode


def _invalid(reason: str, message: str) -> InvalidEvent:
    return InvalidEvent(message, reason)


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in _children(parent)
            if isinstance(child, (dict, list))
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
