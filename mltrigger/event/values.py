"""Convert Python values to JSON's: plain dicts, lists, texts and numbers.

A value without a JSON form is refused, and the error names its path. Frameworks are recognised by
the abilities of their types, and never imported. A value of theirs means that they are loaded.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import io
import json
import math
import pathlib
import sys
import uuid
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from collections.abc import Set as AbstractSet
from typing import Any

from mltrigger.errors import NotEncodable

MAX_DEPTH = 100
"""Accepted levels of nesting, in either direction. Deeper values break other people's parsers."""
MAX_BYTES = 16 * 1024 * 1024
"""Bytes of JSON that are made of a value whose size only reading it tells."""


class TooLarge(NotEncodable):
    """A value whose JSON would be longer than ``MAX_BYTES``.

    Examples: an iterator that does not end, a sparse matrix written out.
    """


class Broken(NotEncodable):
    """An iterator that raised while it was read. Its own exception is the cause."""


_END = object()


def _strict_encoder() -> Callable[[Any], str]:
    """Return a fast function from plain values to JSON text, written in C.

    It raises TypeError, ValueError or RecursionError for all other values.
    """
    plain = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    if (make := getattr(json.encoder, "c_make_encoder", None)) is None:
        return plain.encode
    # What JSONEncoder.encode makes anew at every call.
    encode = make(
        None, plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
    )
    return lambda value: "".join(encode(value, 0))


STRICT = _strict_encoder()


def plain(value: Any, path: str, depth: int, iterators: bool) -> Any:
    """Return *value* with only JSON's own types, or raise NotEncodable naming *path*."""
    if isinstance(value, enum.Enum):
        return plain(value.value, path, depth, iterators)
    if isinstance(value, str):
        return _text(value, path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$numberDouble": _float_name(value)}
    if isinstance(value, tuple) and (names := getattr(type(value), "_fields", None)):
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, (Mapping, list, tuple)):
        if isinstance(value, Iterator) and iterators and not isinstance(value, io.IOBase):
            return _read(value, path, depth, iterators)
        return plain(_converted(value, path), path, depth, iterators)
    if depth >= MAX_DEPTH:
        raise NotEncodable(
            f"{path[:40]}…: nested deeper than {MAX_DEPTH} levels (or a value that contains itself)"
        )
    if isinstance(value, Mapping):
        return _object(value.items(), path, depth, iterators)
    return [plain(v, f"{path}[{i}]", depth + 1, iterators) for i, v in enumerate(value)]


def _object(
    pairs: Iterable[tuple[Any, Any]], path: str, depth: int, iterators: bool
) -> dict[str, Any]:
    """Return the object of *pairs*.

    A key that appears twice is refused, since one value would be lost.
    """
    made: dict[str, Any] = {}
    for key, value in pairs:
        name = _key(key, path)
        if name in made:
            raise NotEncodable(
                f"{path}: two keys that become the same text {name[:40]!r}; rename one of them"
            )
        # Cut: a long name, written out again for each of many values below it, would cost its
        # length times their number.
        made[name] = plain(value, f"{path}.{name[:40]}", depth + 1, iterators)
    return made


def _read(values: Iterator[Any], path: str, depth: int, iterators: bool) -> list[Any]:
    """Return the items of an iterator, if they fit into ``MAX_BYTES``."""
    read: list[Any] = []
    size = 0
    while (value := _next(values)) is not _END:
        read.append(plain(value, f"{path}[{len(read)}]", depth + 1, iterators))
        size += len(STRICT(read[-1])) + 1
        if size > MAX_BYTES:
            raise TooLarge(
                f"{path}: an iterator that gives more than {MAX_BYTES:,} bytes of JSON, or does not"
                " end; return a list"
            )
    return read


def _next(values: Iterator[Any]) -> Any:
    try:
        return next(values, _END)
    except Exception as error:
        raise Broken(f"the iterator failed with {type(error).__name__}") from error


def _text(value: str, path: str) -> str:
    if not encodable(value):
        raise NotEncodable(
            f"{path}: text with a lone surrogate, which has no UTF-8 form; clean it with"
            " str.encode(errors='replace')"
        )
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
    if isinstance(value, type):
        raise NotEncodable(f"{path}: {_what(value)} has no JSON form")
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="python")  # pydantic
    return _scientific(value, path)


def _scientific(value: Any, path: str) -> Any:
    """Convert values of numpy, pandas and similar libraries.

    None of them is imported: a value of theirs means that they are loaded.
    """
    if (np := sys.modules.get("numpy")) is not None and isinstance(value, (np.ndarray, np.generic)):
        return _of_numpy(value, np)
    if (pd := sys.modules.get("pandas")) is not None:
        if value is pd.NA or value is pd.NaT:
            return None
        if isinstance(value, pd.DataFrame):
            return _records(value, path)
        if isinstance(value, pd.Series):
            return _of_series(value, path)
        if isinstance(value, pd.Index) or hasattr(value, "__pandas_priority__"):
            return value.tolist()
        if isinstance(value, (pd.Period, pd.Interval)):
            return str(value)
    return _of_containers(value, path)


def _of_numpy(value: Any, np: Any) -> Any:
    if value.dtype.names is not None:  # a record, or an array of them
        return {name: value[name] for name in value.dtype.names} if value.ndim == 0 else list(value)
    if value.dtype.kind in "Mm":  # .tolist() would make a bare number of nanoseconds
        text = np.asarray(value).astype(str)
        return (
            np.where(np.isnat(value), None, text).tolist()
            if value.ndim
            else None
            if np.isnat(value)
            else str(text)
        )
    return float(value) if isinstance(value, np.longdouble) else value.tolist()


def _records(frame: Any, path: str) -> Any:
    """Return the rows of a frame of pandas.

    The index is included if it is text, or has a name or several levels.
    """
    if not frame.columns.is_unique:
        return _ambiguous(frame.columns, path)
    index = frame.index
    if index.nlevels > 1 or index.name is not None or _is_text(index):
        if twice := next((name for name in index.names if name in frame.columns), None):
            raise NotEncodable(
                f"{path}: {str(twice)[:40]!r} names a column and the index; rename one of them"
            )
        frame = frame.reset_index()
    return frame.to_dict(orient="records")


def _is_text(index: Any) -> bool:
    return index.dtype.kind not in "iufbmM" and any(isinstance(label, str) for label in index)


def _of_series(value: Any, path: str) -> Any:
    """Convert a series of pandas, or another value with names.

    A row of a frame becomes an object. A series of several levels becomes its rows. Any other
    series becomes a list.
    """
    if value.index.nlevels > 1:
        return _records(value.to_frame("value" if value.name is None else value.name), path)
    if not any(isinstance(name, str) for name in value.index):
        return value.tolist()
    return (
        dict(zip(value.index, value.tolist(), strict=True))
        if value.index.is_unique
        else _ambiguous(value.index, path)
    )


def _ambiguous(names: Any, path: str) -> Any:
    twice = names[names.duplicated()][0]
    raise NotEncodable(
        f"{path}: the name {str(twice)[:40]!r} stands for two values; rename one of them, or hand"
        " over a list of the values"
    )


_ROWS, _VALUES = (
    "to_dicts",
    ("to_pylist", "as_py", "to_list", "tolist", "_asdict", "to_numpy", "numpy"),
)
"""Methods that return the content of frames, Arrow, series, tensors, arrays and SQLAlchemy rows."""


def _of_containers(value: Any, path: str) -> Any:
    """Return the content of a container.

    Containers are tensors, sparse matrices, frames, and Python's own sequences and views.
    """
    kind = type(value)  # not the value, which may say yes to any name
    if _has_keys(kind):
        names = list(value.keys())
        return (
            {name: value[name] for name in names}
            if len(set(names)) == len(names)
            else _ambiguous(names, path)
        )
    if callable(getattr(kind, "toarray", None)):
        if math.prod(value.shape) * 2 > MAX_BYTES:
            raise TooLarge(
                f"{path}: a sparse matrix of {math.prod(value.shape):,} values; return the part of"
                " it that matters"
            )
        return value.toarray().tolist()
    if getattr(value, "is_sparse", None) is True and callable(getattr(kind, "to_dense", None)):
        return value.to_dense().tolist()
    for name in (_ROWS, *_VALUES):
        if callable(getattr(kind, name, None)):
            return getattr(value, name)()
    if isinstance(
        value, (Sequence, KeysView, ValuesView, ItemsView, AbstractSet, collections.deque)
    ):
        if len(value) * 2 > MAX_BYTES:
            raise TooLarge(f"{path}: {len(value):,} values; return the part of them that matters")
        return list(value)
    raise NotEncodable(
        f"{path}: {_what(value)} has no JSON form; use plain values, numpy, pandas, dataclasses or"
        " pydantic models"
    )


def rows_of(value: Any, indexed: bool = False) -> list[Any] | None:
    """Return the rows of a frame or an array of records, else ``None``.

    Parameters
    ----------
    indexed : bool
        Whether the index of a pandas frame is part of its rows, if it is meaningful.
    """
    if (
        hasattr(value, "columns")
        and hasattr(value, "to_dict")
        and not callable(getattr(type(value), _ROWS, None))
    ):
        if indexed and hasattr(value, "reset_index"):
            return list(_records(value, "$"))
        return (
            list(value.to_dict(orient="records"))
            if value.columns.is_unique
            else _ambiguous(value.columns, "$")
        )
    for name in (_ROWS, "to_pylist"):
        if callable(getattr(type(value), name, None)):
            return list(getattr(value, name)())
    return None


def has_names(value: Any) -> bool:
    """Whether *value* is one thing with named parts, although it can be iterated.

    Examples: a row of a frame, a named tuple, a record.
    """
    pd, kind = sys.modules.get("pandas"), type(value)
    if pd is not None and isinstance(value, pd.Series):
        return any(isinstance(name, str) for name in value.index)
    if (
        isinstance(value, Mapping)
        or hasattr(kind, "_fields")
        or callable(getattr(kind, "_asdict", None))
        or _has_keys(kind)
    ):
        return True
    np = sys.modules.get("numpy")
    # the first: an object of pydantic
    return hasattr(kind, "model_fields") or (np is not None and isinstance(value, np.void))


def _has_keys(kind: type) -> bool:
    """Whether objects of *kind* are read by name, as a row of ``sqlite3`` is."""
    return callable(getattr(kind, "keys", None)) and callable(getattr(kind, "__getitem__", None))


def _what(value: Any) -> str:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns about it later, from nowhere in particular
        return "a coroutine (the model is async and was not awaited)"
    if inspect.isgenerator(value):
        return "a generator (hand over list(…) instead)"
    if isinstance(value, Iterator):
        return f"an iterator of type {type(value).__qualname__!r} (hand over list(…) instead)"
    return f"a value of type {type(value).__qualname__!r}"


def _key(key: Any, path: str) -> str:
    """Return *key* as JSON's encoder writes it.

    Text, numbers, truth values and None have a text form.
    """
    if isinstance(key, str):
        return _text(key, path)
    if key is None or isinstance(key, (bool, float)):
        return STRICT(key)
    if isinstance(key, enum.Enum) or not hasattr(key, "__index__"):
        raise NotEncodable(
            f"{path}: a key of type {type(key).__qualname__!r}; JSON objects have text keys"
        )
    return str(int(key))


def _float_name(value: float) -> str:
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


def encodable(text: str) -> bool:
    """Whether *text* has a UTF-8 form. A lone surrogate has none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
