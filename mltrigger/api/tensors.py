"""Tensors of the Open Inference Protocol v2, as a server reads and writes them.

JSON and the binary tensor extension of Triton:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.api.problems import Refused
from mltrigger.event import codec
from mltrigger.text import short
from mltrigger.versions.schemes.oip import datatypes

MOST_ROWS = 1_000
"""The most rows of one call. Each is an event."""
_CODES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_INT64 = 2**63
_EXACT = 2**53
"""The largest whole number up to which FP64 has each one."""
_MOST_DIMENSIONS = 8


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor: nested lists of *shape*, the first dimension its rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    rows: list[Any]
    content_type: str | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """A request of the protocol. ``outputs`` maps the wanted ones to whether they are binary."""

    id: str | None
    inputs: list[Tensor]
    outputs: dict[str, bool]
    binary: bool


def request_of(body: bytes, header_length: str | None) -> Request:
    """Return the request in *body*. *header_length* is the length of its JSON, if data follow.

    Raises
    ------
    Refused
        When it is none. The message names the input.
    """
    size = len(body)
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdecimal():
            raise _bad("Inference-Header-Content-Length must be a whole number")
        size = int(header_length[:18])
        if size > len(body):
            raise _bad(f"Inference-Header-Content-Length is {size}, the body has {len(body)} bytes")
    given = codec.loads(body[:size])
    if not isinstance(given, dict) or not isinstance(given.get("inputs"), list):
        raise _bad("a request is an object with a list of inputs")
    rest, inputs = body[size:], []
    for each in given["inputs"]:
        tensor, rest = _tensor(each, rest)
        inputs.append(tensor)
    if rest:
        raise _bad(f"{len(rest)} bytes follow the data of the last input")
    if len({tensor.name for tensor in inputs}) != len(inputs) or not inputs:
        raise _bad("inputs must have different names, and there must be one")
    wanted_id = given.get("id")
    parameters = _parameters(given)
    return Request(
        wanted_id if isinstance(wanted_id, str) and wanted_id else None,
        inputs,
        _outputs(given.get("outputs") or []),
        parameters.get("binary_data_output") is True,
    )


def rows_of(request: Request, schema: Mapping[str, Any] | None) -> list[Any]:
    """Return the data of each event: one row of all inputs.

    One input is a row of values, or a single value. Several inputs are an object. *schema* is the
    model's input schema: it says whether one input is a field of an object.
    """
    lengths = {len(tensor.rows) for tensor in request.inputs}
    if len(lengths) != 1:
        raise _bad("all inputs must have the same first dimension: the number of rows")
    (n,) = lengths
    kind = (schema or {}).get("type")
    fields = (schema or {}).get("properties") or {}
    only = request.inputs[0]
    if len(request.inputs) > 1 or only.name in fields:
        return [{tensor.name: _cell(tensor, i) for tensor in request.inputs} for i in range(n)]
    as_text = only.datatype == "BYTES" and kind != "array"
    as_value = kind in ("string", "number", "integer", "boolean")
    return [_cell(only, i) if as_text or as_value else only.rows[i] for i in range(n)]


def _cell(tensor: Tensor, row: int) -> Any:
    """Return the value of a row. A row of one value is that value."""
    value = tensor.rows[row]
    return value[0] if tensor.shape[1:] == (1,) else value


def _tensor(given: Any, rest: bytes) -> tuple[Tensor, bytes]:
    if not isinstance(given, dict):
        raise _bad("an input is an object with name, shape, datatype and data")
    name, shape, datatype = given.get("name"), given.get("shape"), given.get("datatype")
    if not isinstance(name, str) or not name:
        raise _bad("an input has no name")
    if datatype not in datatypes.DATATYPES:
        known = ", ".join(datatypes.DATATYPES)
        raise _bad(f"input {name[:100]!r}: datatype {short(datatype, 30)} is none of {known}")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= _MOST_DIMENSIONS
        or not all(type(length) is int and 0 <= length < _INT64 for length in shape)
    ):
        raise _bad(f"input {name[:100]!r}: shape must be a list of 1 to {_MOST_DIMENSIONS} lengths")
    if shape[0] > MOST_ROWS:
        raise Refused(413, "too_large", f"a call has at most {MOST_ROWS} rows, this has {shape[0]}")
    if 0 in shape:
        raise _bad(f"input {name[:100]!r}: shape {shape} has no values")
    count, parameters = math.prod(shape), _parameters(given)
    if "shared_memory_region" in parameters:
        raise _bad(f"input {name[:100]!r}: shared memory is not served: send the data")
    size = parameters.get("binary_data_size")
    if size is None:
        values = _flat(given.get("data"), name, datatype)
    else:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise _bad(f"input {name[:100]!r}: binary_data_size is {short(size, 30)}")
        values, rest = _unpacked(rest[:size], datatype, count, name), rest[size:]
    if len(values) != count:
        raise _bad(f"input {name[:100]!r}: shape {shape} has {count} values, not {len(values)}")
    kind = parameters.get("content_type")
    kind = kind if isinstance(kind, str) else None
    tensor = Tensor(
        name,
        datatype,
        tuple(shape),
        _nested(values, shape),
        kind,
    )
    return tensor, rest


def _unpacked(raw: bytes, datatype: str, count: int, name: str) -> list[Any]:
    if datatype == "BYTES":
        return _texts(raw, name)
    import numpy as np

    dtype = np.dtype(_CODES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _bad(
            f"input {name[:100]!r}: {count} values of {datatype} take {count * dtype.itemsize}"
            f" bytes, not {len(raw)}"
        )
    values: list[Any] = np.frombuffer(raw, dtype).tolist()
    return [_finite(value, name) for value in values] if datatype.startswith("FP") else values


def _texts(raw: bytes, name: str) -> list[Any]:
    """Return the elements of a binary tensor of BYTES: a length of four bytes before each."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at) if at + 4 <= len(raw) else (len(raw),)
        at += 4
        if at + size > len(raw):
            raise _bad(f"input {name[:100]!r}: a length goes beyond its bytes")
        found.append(_text(raw[at : at + size]))
        at += size
    return found


def _text(raw: bytes) -> Any:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _finite(value: float, name: str) -> float | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise _bad(f"input {name[:100]!r}: an infinite number has no JSON form")
    return value


def _flat(data: Any, name: str, datatype: str) -> list[Any]:
    """Return JSON data row by row. They may be nested."""
    if not isinstance(data, list):
        raise _bad(f"input {name[:100]!r}: data must be a list")
    level = data
    for _ in range(_MOST_DIMENSIONS):
        if not any(isinstance(each, list) for each in level):
            return _converted(level, name, datatype)
        if not all(isinstance(each, list) for each in level):
            break
        level = [each for inner in level for each in inner]
    raise _bad(f"input {name[:100]!r}: data are lists of different depths")


def _converted(values: list[Any], name: str, datatype: str) -> list[Any]:
    """Return values of JSON that fit *datatype*."""
    if (quick := datatypes.quickly(datatype, values)) is not None:
        return quick
    convert, found = datatypes.converter(datatype, None, nulls=True), []
    for value in values:
        try:
            found.append(convert(value))
        except (ValueError, ArithmeticError):
            limits = datatypes.limits(datatype, value)
            raise _bad(f"input {name[:100]!r}: {short(value, 60)} does not fit {limits}") from None
    return found


def _nested(values: list[Any], shape: Sequence[int]) -> list[Any]:
    for length in reversed(shape[1:]):
        values = [values[i : i + length] for i in range(0, len(values), length)]
    return values


def _outputs(given: Any) -> dict[str, bool]:
    if not isinstance(given, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in given
    ):
        raise _bad("outputs must be a list of objects with a name")
    return {each["name"]: _parameters(each).get("binary_data") is True for each in given}


def _parameters(given: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = given.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


# -- answers ---------------------------------------------------------------------------------------


def outputs_of(values: Sequence[Any]) -> list[Tensor]:
    """Return the outputs of a model as tensors, one row for each of *values*.

    Objects with the same fields make one tensor a field. Values without a common type are JSON
    texts.
    """
    first = values[0]
    if isinstance(first, dict) and first:
        names = list(first)
        if all(isinstance(value, dict) and list(value) == names for value in values):
            return [_column(name, [value[name] for value in values]) for name in names]
    return [_column("output", list(values))]


def _column(name: str, values: list[Any]) -> Tensor:
    shape, level = [len(values)], values
    while level and all(isinstance(value, list) for value in level):
        if len({len(value) for value in level}) != 1:
            return _as_json(name, values)
        shape.append(len(level[0]))
        level = [each for value in level for each in value]
    datatype = _datatype(level)
    if datatype is None:
        return _as_json(name, values)
    return Tensor(name, datatype, tuple(shape), level)


def _datatype(values: list[Any]) -> str | None:
    """Return the datatype that holds all *values* exactly, if there is one."""
    types = set(map(type, values))
    if types == {bool}:
        return "BOOL"
    if types == {int} and all(-_INT64 <= value < _INT64 for value in values):
        return "INT64"
    if float in types and types <= {int, float, type(None)} and _are_exact(values):
        return "FP64"
    return "BYTES" if types in ({str}, {bytes}) else None


def _are_exact(values: list[Any]) -> bool:
    return all(not isinstance(value, int) or abs(value) <= _EXACT for value in values)


def _as_json(name: str, values: list[Any]) -> Tensor:
    texts = [codec.dumps(value) for value in values]
    return Tensor(name, "BYTES", (len(values),), texts, "application/json")


def answer_of(
    about: Mapping[str, Any], outputs: Sequence[Tensor], request: Request
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON if binary data follow."""
    described, parts = [], []
    for tensor in outputs:
        one: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        parameters: dict[str, Any] = {}
        if tensor.content_type is not None:
            parameters["content_type"] = tensor.content_type
        if request.outputs.get(tensor.name, request.binary):
            raw = _packed(tensor)
            parameters["binary_data_size"] = len(raw)
            parts.append(raw)
        else:
            one["data"] = list(map(_in_json, tensor.rows))
            if any(isinstance(value, bytes) for value in tensor.rows):
                parameters["content_type"] = "base64"
        if parameters:
            one["parameters"] = parameters
        described.append(one)
    head = json.dumps({**about, "outputs": described}, ensure_ascii=False).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def _in_json(value: Any) -> Any:
    """Return a value as JSON has it: no number for NaN and infinity, base64 for bytes."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _packed(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        raws = [v if isinstance(v, bytes) else v.encode() for v in tensor.rows]
        return b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)
    import numpy as np

    values = [math.nan if value is None else value for value in tensor.rows]
    return np.array(values, _CODES[tensor.datatype]).tobytes()


# -- metadata --------------------------------------------------------------------------------------

_DATATYPES = {"string": "BYTES", "number": "FP64", "integer": "INT64", "boolean": "BOOL"}


def described(schema: Mapping[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the tensors that a JSON Schema means, as metadata. Empty if it says too little."""
    if not schema:
        return []
    fields = schema.get("properties")
    if schema.get("type") == "object" and isinstance(fields, dict):
        found = [_described(each, field) for field, each in fields.items()]
    else:
        found = [_described(schema, name)]
    return [each for each in found if each is not None]


def _described(schema: Any, name: str) -> dict[str, Any] | None:
    shape = [-1]
    while isinstance(schema, dict) and schema.get("type") == "array":
        schema = schema.get("items")
        shape.append(-1)
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind not in _DATATYPES:
        return None
    return {"name": name, "datatype": _DATATYPES[kind], "shape": shape}


def _bad(message: str) -> Refused:
    return Refused(400, "bad_request", message)
