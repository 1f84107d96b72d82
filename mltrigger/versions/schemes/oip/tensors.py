"""Tensors of the Open Inference Protocol v2, made from plain values. Nothing is sent here.

Values are checked and converted exactly. A value that does not fit fails its event alone. The error
names it: ``input 'age': 300 does not fit UINT8 (0 to 255)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.text import short
from mltrigger.versions.schemes.failures import unfit
from mltrigger.versions.schemes.oip import datatypes

_PLAIN = {bool, int, float, str}

Part = tuple[tuple[int, ...], list[Any]]
"""One tensor of one event: its shape and its values, row by row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as a model's metadata describes it. -1 in *shape* means any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str | None = None

    @classmethod
    def of(cls, given: Any) -> Tensor:
        """Return the tensor that JSON metadata describes.

        Raises
        ------
        InvalidModel
            When it describes no tensor, or a datatype that JSON cannot carry (BF16).
        """
        named = given if isinstance(given, Mapping) else {}
        name, datatype, shape = named.get("name"), named.get("datatype"), named.get("shape")
        whole = isinstance(shape, list) and all(
            type(length) is int and length >= -1 for length in shape
        )
        if (
            not isinstance(name, str)
            or not name
            or datatype not in datatypes.DATATYPES
            or not whole
        ):
            wanted = (
                "{'name': 'x', 'datatype': 'FP64', 'shape': [-1, 4]}, the datatype one of"
                f" {', '.join(datatypes.DATATYPES)}"
            )
            raise InvalidModel(f"a tensor is described as {wanted}, not {short(given, 200)}")
        parameters = named.get("parameters")
        content_type = parameters.get("content_type") if isinstance(parameters, Mapping) else None
        return cls(
            name,
            str(datatype),
            tuple(shape or ()),
            content_type if isinstance(content_type, str) else None,
        )

    @property
    def is_float(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.datatype in datatypes.FLOATS


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The way from events to the tensors of one model.

    Parameters
    ----------
    inputs : tuple of Tensor
        The inputs of the model.
    columns : tuple of str, optional
        For a single input of rows: the fields of a record that make up a row, in their order.
    batched : bool
        Whether a first dimension of any length counts the events. Otherwise each event has whole
        tensors.
    nulls : bool
        Whether a missing value of a floating-point tensor is sent as null.
    outputs : tuple of (str, str or None)
        The known outputs of the model, each name with its datatype.
    """

    inputs: tuple[Tensor, ...]
    columns: tuple[str, ...] | None = None
    batched: bool = True
    nulls: bool = False
    outputs: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        if self.columns is None:
            return
        shape = self._row_shape(self.inputs[0])
        if len(self.inputs) != 1 or len(shape) != 1 or shape[0] not in (-1, len(self.columns)):
            raise InvalidModel(
                f"option columns names {len(self.columns)} fields of a row, for a model with one"
                f" input of that many values; this one takes {self}"
            )

    def __str__(self) -> str:
        return ", ".join(
            f"{tensor.name}: {tensor.datatype}{list(tensor.shape)}" for tensor in self.inputs
        )

    @property
    def batches(self) -> bool:
        """Whether a call takes several events. The first dimension of each input must be free."""
        return (
            self.batched
            and bool(self.inputs)
            and all(tensor.shape[:1] == (-1,) for tensor in self.inputs)
        )

    def parts(self, data: Any) -> tuple[Part, ...]:
        """Return the tensors of *data*, in the order of the inputs.

        Raises
        ------
        ModelFailure
            With the reason ``invalid_input``. It names the field.
        """
        data = data.tolist() if hasattr(data, "tolist") else data
        return tuple(
            self._part(tensor, value, names) for tensor, value, names in self._values(data)
        )

    def groups(self, parts: Sequence[Any]) -> list[list[int]]:
        """Return the numbers of the events that share a call: their tensors have equal shapes.

        *parts* has the tensors of each event, or its failure. Failures are in no group.
        """
        groups: dict[Any, list[int]] = {}
        for number, part in enumerate(parts):
            if not isinstance(part, ModelFailure):
                key = tuple(shape for shape, _ in part) if self.batches else number
                groups.setdefault(key, []).append(number)
        return list(groups.values())

    def request(self, parts: Sequence[tuple[Part, ...]]) -> list[dict[str, Any]]:
        """Return the ``inputs`` of a request for events of equal shapes."""
        inputs = []
        for number, tensor in enumerate(self.inputs):
            shape, values = parts[0][number]
            if self.batches:
                shape, values = (
                    (len(parts), *shape),
                    [value for event in parts for value in event[number][1]],
                )
            one: dict[str, Any] = {
                "name": tensor.name,
                "shape": list(shape),
                "datatype": tensor.datatype,
            }
            if tensor.content_type is not None:
                one["parameters"] = {"content_type": tensor.content_type}
            inputs.append({**one, "data": values})
        return inputs

    def _row_shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tensor.shape[1:] if self.batches else tensor.shape

    def _values(self, data: Any) -> Iterator[tuple[Tensor, Any, Sequence[str] | None]]:
        """Yield each input with its value in *data* and the names of its fields."""
        if not isinstance(data, Mapping):
            if len(self.inputs) != 1:
                raise unfit(
                    f"the model takes {len(self.inputs)} inputs: an event is an object with the"
                    f" fields {self}, not {short(data)}"
                )
            yield self.inputs[0], data, self.columns
        elif self.columns is not None:
            yield self.inputs[0], [_field(data, name) for name in self.columns], self.columns
        elif (
            len(self.inputs) == 1
            and self.inputs[0].name not in data
            and len(self._row_shape(self.inputs[0])) == 1
        ):
            raise unfit(
                f"no field {self.inputs[0].name!r}: the model takes one row of values ({self});"
                " hand over such an object, or a list, or say which fields make up the row:"
                f" columns=[…]; the event has {short(', '.join(map(str, data)))}"
            )
        else:
            for tensor in self.inputs:
                yield tensor, _field(data, tensor.name), None

    def _part(self, tensor: Tensor, value: Any, names: Sequence[str] | None) -> Part:
        wanted = self._row_shape(tensor)
        value = value.tolist() if hasattr(value, "tolist") else value
        alone = wanted in ((1,), ()) and not isinstance(value, (list, tuple))
        shape, values = (wanted, [value]) if alone else flat(value, tensor.name)
        if len(shape) != len(wanted) or any(
            own not in (-1, length) for own, length in zip(wanted, shape, strict=True)
        ):
            raise unfit(
                f"input {tensor.name!r}: the shape is {list(shape)}, and the model takes"
                f" {list(wanted)} of each event"
            )
        return shape, _converted(tensor, values, self.nulls, names, shape)


def _field(data: Mapping[Any, Any], name: str) -> Any:
    if name not in data:
        raise unfit(
            f"input {name!r} is missing; the event has"
            f" {short(', '.join(map(str, data))) or 'no fields'}"
        )
    return data[name]


def flat(value: Any, name: str) -> Part:
    """Return the shape of nested lists, and their values row by row.

    Lists of different lengths are the fault of the event.
    """
    if type(value) is list and set(map(type, value)) <= _PLAIN:
        return (len(value),), value
    shape: list[int] = []
    level = [value]
    while any(isinstance(one, (list, tuple)) or hasattr(one, "tolist") for one in level):
        lists = [one.tolist() if hasattr(one, "tolist") else one for one in level]
        if not any(isinstance(one, (list, tuple)) for one in lists):
            level = lists
            break
        lengths = {len(one) if isinstance(one, (list, tuple)) else -1 for one in lists}
        if len(lengths) != 1:
            raise unfit(f"input {name!r}: lists of different lengths make no tensor")
        shape.append(lengths.pop())
        level = [
            value for one in lists for value in (one if isinstance(one, (list, tuple)) else [one])
        ]
    return tuple(shape), level


def _converted(
    tensor: Tensor,
    values: list[Any],
    nulls: bool,
    names: Sequence[str] | None,
    shape: tuple[int, ...],
) -> list[Any]:
    """Return *values* in the JSON form of the datatype."""
    if (quick := datatypes.quickly(tensor.datatype, values)) is not None:
        return quick
    convert = datatypes.converter(tensor.datatype, tensor.content_type, nulls)
    converted = []
    for number, value in enumerate(values):
        try:
            converted.append(convert(value))
        except (ValueError, ArithmeticError):
            where = repr(names[number]) if names else f"{tensor.name!r}{_place(number, shape)}"
            raise unfit(
                f"input {where}: {short(value)} does not fit"
                f" {datatypes.limits(tensor.datatype, value)}"
            ) from None
    return converted


def _place(number: int, shape: tuple[int, ...]) -> str:
    """Return the place of value *number* in *shape*: ``[1][0]``, empty for a single value."""
    if math.prod(shape) <= 1:
        return ""
    indices: list[int] = []
    for length in reversed(shape):
        number, index = divmod(number, length)
        indices.append(index)
    return "".join(f"[{index}]" for index in reversed(indices))
