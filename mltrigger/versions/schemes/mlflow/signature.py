"""Signatures of MLflow: as JSON Schemas, from events to a model's input, from answers to outputs.

https://mlflow.org/docs/latest/ml/model/signatures/
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.text import short
from mltrigger.versions.schemes.failures import unfit
from mltrigger.versions.schemes.oip import datatypes
from mltrigger.versions.schemes.oip.tensors import Layout, Tensor
from mltrigger.versions.schemes.plain import without_zone

_SCALARS = {
    "boolean": ("BOOL", "bool", "boolean"),
    "integer": ("INT32", "int32", "integer"),
    "long": ("INT64", "int64", "integer"),
    "float": ("FP32", "float32", "number"),
    "double": ("FP64", "float64", "number"),
    "string": ("BYTES", "str", "string"),
}
"""MLflow's type -> types of the Open Inference Protocol, of pandas, of JSON Schema."""
_WHOLE = ("integer", "long")
_ABSENT: Any = object()
"""The missing value of an optional column of integers, since MLflow has no null for them."""
_DTYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
    "str": "BYTES",
    "object": "BYTES",
    "string": "BYTES",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column, or one tensor, of a signature."""

    name: str | int | None
    type: Mapping[str, Any]
    required: bool = True

    @property
    def tensor(self) -> Tensor | None:
        """The tensor, ``None`` for a column."""
        spec = self.type.get("tensor-spec")
        if spec is None:
            return None
        dtype = str(spec["dtype"])
        datatype = _DTYPES.get(
            dtype.rstrip("0123456789") if dtype.startswith("str") else dtype, dtype.upper()
        )
        return Tensor("" if self.name is None else str(self.name), datatype, tuple(spec["shape"]))


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model. Either is ``None`` when it is not described.

    Parameters
    ----------
    inputs, outputs : tuple of Column, optional
        As the model's signature lists them.
    hinted : bool
        Whether they come from the type hints of a Python model. Such a model takes a list, and
        checks it itself.
    """

    inputs: tuple[Column, ...] | None = None
    outputs: tuple[Column, ...] | None = None
    hinted: bool = False

    @classmethod
    def of(cls, mlmodel: Mapping[str, Any]) -> Signature:
        """Return the signature in the content of an ``MLmodel`` file."""
        found = mlmodel.get("signature") or {}
        takes, gives = (_columns(found.get(side)) for side in ("inputs", "outputs"))
        return cls(takes, gives, bool(mlmodel.get("is_signature_from_type_hint")))

    def schemas(self) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return the JSON Schemas of one event's data and of one output.

        MLflow checks no outputs, so any part of one may be null.
        """
        return (
            None if self.inputs is None else _schema(self.inputs, nullable=False),
            None if self.outputs is None else _schema(self.outputs, nullable=True),
        )

    def rows(self, data: Any) -> Any:
        """Return one event's *data* as its part of an input, converted exactly.

        Raises
        ------
        ModelFailure
            With the reason ``invalid_input``. It names the field.
        """
        if self.inputs is None or self.hinted:
            return data
        if self._layout is not None:
            return self._layout.parts(data)
        return [
            _converted(column, value)
            for column, value in zip(self.inputs, self._values(data), strict=True)
        ]

    def key(self, row: Any) -> Any:
        """Return the key of a row of :meth:`rows`.

        Rows with different keys have different columns or dtypes, and share no call.
        """
        if self.inputs is None or self.hinted or self._layout is not None:
            return None
        kinds = [column.type.get("type") for column in self.inputs]
        return tuple(
            [
                value is _ABSENT or (value is None and kind == "boolean")
                for kind, value in zip(kinds, row, strict=True)
            ]
        )

    def frame(self, rows: Sequence[Any]) -> Any:
        """Return the input for *rows*: a DataFrame, an array, arrays by name, or a list."""
        import numpy as np
        import pandas as pd

        if self.inputs is None or self.hinted:
            return list(rows)
        if self._layout is None:
            here = [number for number in range(len(self.inputs)) if rows[0][number] is not _ABSENT]
            columns = {
                _label(self.inputs, number): _series(
                    [row[number] for row in rows], self.inputs[number]
                )
                for number in here
            }
            return pd.DataFrame(columns, index=range(len(rows)))
        arrays = {}
        for number, column in enumerate(self.inputs):
            dtype = column.type["tensor-spec"]["dtype"]
            values = [np.array(row[number][1], dtype=dtype).reshape(row[number][0]) for row in rows]
            arrays[column.name] = np.stack(values) if self._layout.batches else values[0]
        return next(iter(arrays.values())) if list(arrays) == [None] else arrays

    @property
    def batches(self) -> bool:
        """Whether a call takes several events. The first dimension of each tensor must be free."""
        return self._layout is None or self._layout.batches

    @property
    def _layout(self) -> Layout | None:
        tensors = [column.tensor for column in self.inputs or ()]
        return (
            Layout(tuple(t for t in tensors if t is not None), nulls=True)
            if tensors and all(tensors)
            else None
        )

    def _values(self, data: Any) -> list[Any]:
        """Return one value for each column."""
        columns = self.inputs or ()
        names = [str(column.name) for column in columns]
        if isinstance(data, Mapping) and columns[0].name is not None:
            for column, name in zip(columns, names, strict=True):
                if name not in data and column.required:
                    raise unfit(
                        f"column {name!r} is missing; the event has"
                        f" {short(', '.join(map(str, data))) or 'no fields'}"
                    )
            absent = [_ABSENT if column.type.get("type") in _WHOLE else None for column in columns]
            return [data.get(name, nothing) for name, nothing in zip(names, absent, strict=True)]
        if all(isinstance(column.name, str) for column in columns):
            raise unfit(
                f"the model takes a record with the columns {', '.join(names)}, not {short(data)}"
            )
        values = [data] if len(columns) == 1 and not isinstance(data, (list, tuple)) else data
        if not isinstance(values, (list, tuple)) or len(values) != len(columns):
            raise unfit(f"the model takes a row of {len(columns)} values, not {short(data)}")
        return list(values)


def outputs(signature: Signature, answer: Any, count: int) -> list[Any]:
    """Return the *answer* of a model for *count* events as one output an event.

    Named columns become objects, also when the model returned bare rows. Without names a DataFrame
    becomes its values. Without a signature a DataFrame becomes records, and an array its rows.
    Arrays by name become one object for each event.
    """
    columns = signature.outputs or ()
    named = bool(columns) and all(isinstance(column.name, str) for column in columns)
    if hasattr(answer, "to_dict") and hasattr(answer, "columns"):
        if not columns or named:
            rows = answer.to_dict(orient="records")
        elif len(answer.columns) == 1:
            rows = [row[0] for row in answer.to_numpy().tolist()]
        else:
            rows = answer.to_numpy().tolist()
    elif (
        isinstance(answer, Mapping)
        and answer
        and all(getattr(value, "shape", ())[:1] == (count,) for value in answer.values())
    ):
        listed = {name: value.tolist() for name, value in answer.items()}
        rows = [
            {name: values[number] for name, values in listed.items()} for number in range(count)
        ]
    else:
        rows = answer.tolist() if hasattr(answer, "tolist") else answer
        rows = list(rows) if isinstance(rows, tuple) else rows
        rows = [rows] if count == 1 and not isinstance(rows, list) else rows
        if named and columns[0].tensor is None and isinstance(rows, list):
            rows = [_named(row, [column.name for column in columns]) for row in rows]
    if not isinstance(rows, list) or len(rows) != count:
        got = f"{len(rows):,} outputs" if isinstance(rows, list) else short(rows)
        raise ModelFailure(
            f"a model answers one output an event: {count:,} events went in, {got} came out",
            reason="bad_batch_result",
            permanent=True,
            whole=True,
        )
    return rows


def _named(row: Any, names: Sequence[Any]) -> Any:
    if isinstance(row, Mapping):
        return row
    values = row if isinstance(row, list) else [row]
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else row


def _columns(text: Any) -> tuple[Column, ...] | None:
    found = json.loads(text) if isinstance(text, str) else text
    if not found:
        return None
    columns = tuple(Column(each.get("name"), each, each.get("required", True)) for each in found)
    known = all(
        column.tensor is None or column.tensor.datatype in datatypes.DATATYPES for column in columns
    )
    return columns if known else None  # complex numbers and the like: left to MLflow


def _label(columns: Sequence[Column], number: int) -> str | int:
    name = columns[number].name
    return number if name is None else name


def _series(values: list[Any], column: Column) -> Any:
    import pandas as pd

    kind = column.type.get("type")
    if kind == "datetime":
        return pd.Series(values, dtype="datetime64[ns]")
    dtype = _SCALARS[str(kind)][1] if kind in _SCALARS else "object"
    if dtype == "bool" and None in values:
        dtype = "object"
    return pd.Series(values, dtype=dtype)


def _converted(column: Column, value: Any) -> Any:
    """Return *value* in the type of the column."""
    kind = column.type.get("type")
    if value is _ABSENT:
        return value
    if value is None and not column.required:
        if kind in _WHOLE:
            raise unfit(
                f"column {str(column.name)!r}: MLflow has no null of the type {kind}; leave the"
                " field out, or log the model with the type double for it"
            )
        return None
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        if kind in ("float", "double") and isinstance(value, float) and math.isnan(value):
            return value
        if kind in _SCALARS:
            return datatypes.converter(_SCALARS[kind][0], None, nulls=False)(value)
        if kind == "binary":
            return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
        if kind == "datetime":
            return _naive(value)
    except (TypeError, ValueError, ArithmeticError, binascii.Error):
        limits = {"binary": "binary (bytes or base64)", "datetime": "datetime (ISO 8601)"}.get(
            str(kind), str(kind)
        )
        raise unfit(
            f"column {'' if column.name is None else repr(str(column.name))}: {short(value)} does"
            f" not fit {limits}"
        ) from None
    return value


def _naive(value: Any) -> dt.datetime:
    """Return a time in the form of MLflow: in UTC, without a zone."""
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time())
    return without_zone(
        value if isinstance(value, dt.datetime) else dt.datetime.fromisoformat(value)
    )


def _schema(columns: Sequence[Column], nullable: bool) -> dict[str, Any]:
    """Return the JSON Schema of one row of *columns*."""
    if all(isinstance(column.name, str) for column in columns):
        named = {str(column.name): _of_column(column, nullable) for column in columns}
        required = [str(column.name) for column in columns if column.required]
        return {"type": "object", "properties": named, "required": required}
    parts = [_of_column(column, nullable) for column in columns]
    if len(parts) == 1:
        return parts[0]
    return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}


def _of_column(column: Column, nullable: bool) -> dict[str, Any]:
    spec = column.type.get("tensor-spec")
    schema = _of_type(column.type, nullable) if spec is None else _of_tensor(spec, nullable)
    # MLflow refuses a null in columns of integers.
    optional = not column.required and column.type.get("type") not in _WHOLE
    return _or_null(schema) if nullable or optional else schema


def _of_type(type_: Any, nullable: bool) -> dict[str, Any]:
    """Return the JSON Schema of an MLflow type. A type that JSON lacks, such as bytes, is any."""
    if isinstance(type_, str):
        type_ = {"type": type_}
    kind = type_.get("type")
    if kind in _SCALARS:
        return {"type": _SCALARS[kind][2]}
    if kind == "array":
        return {"type": "array", "items": _inner(type_["items"], nullable)}
    if kind == "map":
        return {"type": "object", "additionalProperties": _inner(type_["values"], nullable)}
    if kind == "object":
        properties = {name: _inner(inner, nullable) for name, inner in type_["properties"].items()}
        required = [
            name for name, inner in type_["properties"].items() if inner.get("required", True)
        ]
        return {"type": "object", "properties": properties, "required": required}
    return {"type": "string"} if kind == "datetime" else {}


def _inner(type_: Any, nullable: bool) -> dict[str, Any]:
    optional = isinstance(type_, Mapping) and not type_.get("required", True)
    schema = _of_type(type_, nullable)
    return _or_null(schema) if nullable or optional else schema


def _of_tensor(spec: Mapping[str, Any], nullable: bool) -> dict[str, Any]:
    """Return the JSON Schema of one event's part of a tensor.

    The first dimension counts events if it is free.
    """
    dtype = str(spec["dtype"])
    known = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "s": "string"}.get(
        dtype[:1]
    )
    schema: dict[str, Any] = {"type": known} if known else {}
    if nullable or known == "number":  # a gap is a NaN
        schema = _or_null(schema)
    shape = list(spec["shape"])
    for length in reversed(shape[1:] if shape[:1] == [-1] else shape):
        limits = {} if length == -1 else {"minItems": length, "maxItems": length}
        schema = {"type": "array", "items": schema, **limits}
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema:
        return schema
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, *(["null"] if "null" not in kinds else [])]}
