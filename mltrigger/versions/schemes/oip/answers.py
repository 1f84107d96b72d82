"""Answers of the Open Inference Protocol v2, read and checked.

Every output must have data, of its datatype and shape.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.text import short
from mltrigger.versions.schemes.http.answers import Answer
from mltrigger.versions.schemes.http.saying import said_in
from mltrigger.versions.schemes.oip import datatypes
from mltrigger.versions.schemes.oip.tensors import Tensor, flat

Wanted = Collection[tuple[str, str | None]]
"""Outputs that an answer must have: each name with its datatype, if the metadata tell it."""


def outputs(answer: Answer, count: int | None, wanted: Wanted = ()) -> list[dict[str, Any]]:
    """Return the outputs of each event, name -> value.

    A value of one element is a scalar, others are nested lists. In a tensor of floating-point
    numbers null is NaN, which JSON does not have. Text of the content type ``base64`` is bytes.

    Parameters
    ----------
    answer : Answer
        The answer of the server.
    count : int, optional
        The number of events, which the first dimension counts. ``None`` when the tensors are those
        of one event.
    wanted : collection
        The outputs of the model, as its metadata or its user say.

    Raises
    ------
    ModelFailure
        ``bad_model_response``, when an output, its data or values are missing, or data are not of
        their datatype or shape.
    """
    found: list[dict[str, Any]] = [{} for _ in range(1 if count is None else count)]
    datatypes_of: dict[str, str] = {}
    for given in _listed(answer):
        tensor = _tensor(answer, given)
        if tensor.name in datatypes_of:
            raise answer.failure(f"with output {tensor.name!r} twice", whole=True)
        datatypes_of[tensor.name] = tensor.datatype
        if count is not None and tensor.shape[:1] != (count,):
            problem = (
                f"output {tensor.name!r} of the shape {list(tensor.shape)} for {count} events; a"
                " batch model answers one row an event"
            )
            raise answer.failure(f"with {problem}", permanent=True, whole=True)
        for event, row in zip(found, _rows(answer, tensor, given, count), strict=True):
            event[tensor.name] = row
    _check(answer, datatypes_of, wanted)
    return found


def _listed(answer: Answer) -> list[Any]:
    value = answer.json()
    given = value.get("outputs") if isinstance(value, Mapping) else None
    if isinstance(given, list) and given:
        return given
    said = said_in(value) if isinstance(value, Mapping) and "outputs" not in value else None
    if said is not None:
        raise answer.failure(f"with an error: {said}", reason="model_http_error")
    raise answer.failure(f"without outputs: {short(value, 200)}")


def _tensor(answer: Answer, given: Any) -> Tensor:
    try:
        tensor = Tensor.of(given)
    except InvalidModel as error:
        raise answer.failure(f"with something that is no output: {error}") from None
    if -1 in tensor.shape:
        raise answer.failure(
            f"with output {tensor.name!r} of the shape {list(tensor.shape)}, whose lengths nobody"
            " knows"
        )
    return tensor


def _check(answer: Answer, datatypes_of: Mapping[str, str], wanted: Wanted) -> None:
    """Raise when a *wanted* output is missing, or of another kind."""
    for name, datatype in wanted:
        if name not in datatypes_of:
            there = ", ".join(map(repr, datatypes_of))
            raise answer.failure(
                f"without output {name!r}, which the model has; there is {short(there, 200)}; the"
                " option outputs=[…] says which are wanted",
                whole=True,
            )
        if datatype is not None and _kind(datatype) != _kind(datatypes_of[name]):
            raise answer.failure(
                f"with output {name!r} as {datatypes_of[name]}; its metadata say {datatype}",
                whole=True,
            )


def _kind(datatype: str) -> str:
    return datatype if datatype in ("BOOL", "BYTES") else "number"


def _rows(answer: Answer, tensor: Tensor, given: Mapping[str, Any], count: int | None) -> list[Any]:
    """Return one value for each event."""
    values, events = _values(answer, tensor, given.get("data")), count or 1
    shape = tensor.shape if count is None else tensor.shape[1:]
    if not (size := math.prod(shape)):
        return [[]] * events
    starts = range(0, size * events, size)
    return [_nested(values[start : start + size], shape) for start in starts]


def _values(answer: Answer, tensor: Tensor, data: Any) -> list[Any]:
    what = f"output {tensor.name!r}"
    if data is None:
        raise answer.failure(f"with {what} without data", whole=True)
    try:
        shape, values = flat(data, tensor.name)
    except ModelFailure:
        raise answer.failure(f"with {what} in lists of different lengths", whole=True) from None
    if len(values) != math.prod(tensor.shape) or (len(shape) > 1 and shape != tensor.shape):
        raise answer.failure(
            f"with {len(values):,} values in {what} of the shape {list(tensor.shape)}", whole=True
        )
    try:
        return datatypes.read(tensor.datatype, tensor.content_type, values)
    except datatypes.Unfit as error:
        raise answer.failure(
            f"with {short(error.value)} in {what}, which is {tensor.datatype}"
        ) from None


def _nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    if len(values) == 1:
        return values[0]
    for length in reversed(shape[1:]):
        values = [values[start : start + length] for start in range(0, len(values), length)]
    return values
