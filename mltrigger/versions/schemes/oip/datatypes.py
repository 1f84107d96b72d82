"""The datatypes of the Open Inference Protocol v2. Values are checked and converted exactly."""

from __future__ import annotations

import base64
import binascii
import decimal
import math
from collections.abc import Callable
from types import NoneType
from typing import Any

from mltrigger.event.codec import encodable

INTEGERS = {
    f"{sign}INT{bits}": (0 if sign else -(2 ** (bits - 1)), 2 ** (bits - (not sign)) - 1)
    for sign in ("U", "")
    for bits in (8, 16, 32, 64)
}
FLOATS = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}
_LARGEST_READ = {"FP16": 65520.0, "FP32": 3.4028236e38, "FP64": math.inf}
"""The largest numbers that are read. They are a little larger, since servers round."""
DATATYPES = ("BOOL", *INTEGERS, *FLOATS, "BYTES")
"""https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#tensor-data-types"""


_PYTHON: dict[str, type] = {"BOOL": bool, "BYTES": str}


def quickly(datatype: str, values: list[Any]) -> list[Any] | None:
    """Return the values if all are plain numbers that fit, else ``None``.

    Most are, and a check of each value takes ten times as long.
    """
    types = set(map(type, values))
    if datatype in INTEGERS and types == {int}:
        low, high = INTEGERS[datatype]
        return values if low <= min(values) and max(values) <= high else None
    if datatype in FLOATS and types and types <= {int, float}:
        try:
            numbers = values if types == {float} else list(map(float, values))
        except OverflowError:
            return None
        # NaN hides from min and max, but not from a sum.
        fine = (
            -FLOATS[datatype] <= min(numbers)
            and max(numbers) <= FLOATS[datatype]
            and sum(numbers) == sum(numbers)
        )
        return numbers if fine else None
    return None


def converter(datatype: str, content_type: str | None, nulls: bool) -> Callable[[Any], Any]:
    """Return a function from a value to its JSON.

    It raises ValueError or ArithmeticError when the value does not fit.
    """
    if datatype in INTEGERS:
        low, high = INTEGERS[datatype]
        return lambda value: _integer(value, low, high)
    if datatype in FLOATS:
        return lambda value: _number(value, FLOATS[datatype], nulls)
    return _truth if datatype == "BOOL" else lambda value: _text(value, content_type)


def limits(datatype: str, value: Any) -> str:
    """Return the limits of *datatype* in words, for an error about *value*."""
    if datatype in INTEGERS:
        low, high = INTEGERS[datatype]
        return f"{datatype} ({low} to {high})"
    if datatype in FLOATS:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        advice = "; the option missing='null' sends null for missing values" if missing else ""
        return f"{datatype} (a finite number up to {FLOATS[datatype]:.6g}){advice}"
    return (
        "BOOL (true or false)"
        if datatype == "BOOL"
        else "BYTES (text; bytes where the content type of the tensor is base64)"
    )


def _integer(value: Any, low: int, high: int) -> int:
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    # JSON has one kind of number: 3.0 is 3.
    if isinstance(value, (float, decimal.Decimal)) and value % 1 == 0:
        number = int(value)
    if number is None or not low <= number <= high:
        raise ValueError
    return number


def _number(value: Any, largest: float, nulls: bool) -> float | None:
    if nulls and (value is None or value != value):
        return None
    if (
        not isinstance(value, (int, float, decimal.Decimal))
        or isinstance(value, bool)
        or not -largest <= value <= largest
    ):
        raise ValueError
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - one class for all values that do not fit
    return value


def _text(value: Any, content_type: str | None) -> str:
    if isinstance(value, str) and encodable(value):
        return value
    if isinstance(value, (bytes, bytearray)) and content_type == "base64":
        return base64.b64encode(value).decode()
    raise ValueError


class Unfit(ValueError):
    """A value of an answer that is not of its datatype."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"{value!r} does not fit")
        self.value = value


def read(datatype: str, content_type: str | None, values: list[Any]) -> list[Any]:
    """Return the *values* of an answer in their datatype.

    Null is NaN among floating-point numbers. Base64 is bytes.

    Raises
    ------
    Unfit
        With the first value that is of another type or out of range.
    """
    types = set(map(type, values))
    if datatype in INTEGERS:
        low, high = INTEGERS[datatype]
        if types == {int} and low <= min(values) and max(values) <= high:
            return values
        return [_read_integer(value, low, high) for value in values]
    wanted = {int, float, NoneType} if datatype in FLOATS else {_PYTHON[datatype]}
    if not types <= wanted:
        raise Unfit(next(value for value in values if type(value) not in wanted))
    if datatype in FLOATS:
        return [_read_number(value, _LARGEST_READ[datatype]) for value in values]
    if datatype == "BYTES" and content_type == "base64":
        return [unpacked(value) for value in values]
    return values


def _read_number(value: Any, largest: float) -> Any:
    if value is None:
        return math.nan
    if -largest <= value <= largest or not math.isfinite(value):
        return value
    raise Unfit(value)


def _read_integer(value: Any, low: int, high: int) -> int:
    try:
        return _integer(value, low, high)
    except (ValueError, ArithmeticError):
        raise Unfit(value) from None


def unpacked(value: Any) -> Any:
    """Return the bytes of base64 text. Any other value is returned as it is."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return value
