"""The operators of a filter policy: each is read once and becomes a test of one value.

The rules are those of https://docs.aws.amazon.com/sns/latest/dg/string-value-matching.html,
``…/numeric-value-matching.html`` and ``…/attribute-key-matching.html``. Where these pages are
silent, the engine of AWS decides: https://github.com/aws/event-ruler.
"""

from __future__ import annotations

import ipaddress
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

from mltrigger.errors import NotFound
from mltrigger.text import short

Test = Callable[[Any], bool]
"""Whether a text, number, bool or None of the event satisfies the condition. Never raises."""
Value = str | int | Decimal | tuple[bool | None] | None
"""A value as a key of a dictionary. ``True`` and 1 differ, 1 and 1.0 do not."""

DECIMALS = 6
"""Digits after the point that AWS compares. It promises five, event-ruler's README says six."""
MAX_DIGITS = 30
"""Digits up to which a number is written out, or made an int. Longer ones are mostly zeros."""
_CIDR = re.compile(r"[^/]+/[0-9]{1,3}")
_STEP = Decimal(1).scaleb(-DECIMALS)
_CUT = Context(prec=10**6, rounding=ROUND_DOWN)

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class BadCondition(ValueError):
    """A condition that SNS would refuse.

    :class:`~mltrigger.errors.InvalidFilter` adds its path.
    """


def absent(value: Any) -> bool:
    """``{"exists": false}``: no value satisfies it. It holds where nothing stands."""
    return False


def compile_condition(condition: Any) -> Test:
    """Return the test of one element of a list of conditions.

    Raises BadCondition with its problem.
    """
    if isinstance(condition, Mapping):
        name, operand = _single(condition, OPERATORS)
        return OPERATORS[name](operand)
    if condition is None or isinstance(condition, bool):
        return lambda value: value is condition
    if isinstance(condition, str):
        return lambda value: isinstance(value, str) and value == condition
    if (number := comparable(condition)) is not None:
        return lambda value: comparable(value) == number
    raise BadCondition(
        "a condition is a string, a number, true, false, null or an operator, got"
        f" {shown(condition)}"
    )


def exact(value: Any) -> Decimal | None:
    """Return the exact form of the number *value*: 300, 300.0 and 3e2 become one.

    Returns ``None`` if it is no finite number.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return Decimal(float.__repr__(value)) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    return Decimal(value) if isinstance(value, int) else None


def comparable(value: Any) -> int | Decimal | None:
    """Return the number *value* as AWS compares it.

    It is exact and cut after ``DECIMALS`` digits. Whole numbers become the faster int.
    """
    if type(value) is int:
        return value
    number = exact(value)
    if number is None or number.adjusted() > MAX_DIGITS:
        return number
    whole = int(number)
    return whole if whole == number else number.quantize(_STEP, context=_CUT)


def value_key(value: Any) -> Value:
    """Return a key that is equal for values that an exact condition takes for the same."""
    if isinstance(value, str):
        return value
    return (value,) if value is None or isinstance(value, bool) else comparable(value)


def exact_values(conditions: Sequence[Any]) -> tuple[Value, ...] | None:
    """Return the keys of the values that *conditions* name, ``None`` if one is an operator."""
    if any(isinstance(condition, Mapping) for condition in conditions):
        return None
    return tuple(map(value_key, conditions))


def numbers(condition: Any) -> Iterator[Decimal]:
    """Yield every number of a condition that :func:`compile_condition` has taken."""
    if isinstance(condition, Mapping):
        condition = list(condition.values())
    if isinstance(condition, (list, tuple)):
        for part in condition:
            yield from numbers(part)
    elif (number := exact(condition)) is not None:
        yield number


def canonical(value: Any) -> str:
    """Return *value*, of JSON types, as JSON text that is the same for equal values.

    Keys are sorted. Numbers are as short as they can be without loss.
    """
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value))
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    if (number := exact(value)) is None:
        return json.dumps(value, ensure_ascii=False)
    if not number:
        return "0"
    if abs(number.adjusted()) > MAX_DIGITS:
        return str(number)
    plain = format(number, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def shown(value: Any) -> str:
    """Return *value* on one short line, a string in quotes."""
    return short(json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value)


# -- the operators ---------------------------------------------------------------------------------


def _single(condition: Mapping[Any, Any], known: Mapping[str, Any]) -> tuple[str, Any]:
    if len(condition) != 1:
        raise BadCondition(
            f"one operator an object, got {len(condition)}; for one or the other write two elements"
            " of the list"
        )
    name, operand = next(iter(condition.items()))
    if name not in known:
        raise BadCondition(NotFound.of("operator", str(name), known))
    return name, operand


def _string(name: str, operand: Any) -> str:
    if not isinstance(operand, str):
        raise BadCondition(f"{name} takes a string, got {shown(operand)}")
    return operand


def _prefix(operand: Any) -> Test:
    prefix = _string("prefix", operand)
    return lambda value: isinstance(value, str) and value.startswith(prefix)


def _suffix(operand: Any) -> Test:
    suffix = _string("suffix", operand)
    return lambda value: isinstance(value, str) and value.endswith(suffix)


def _equals_ignore_case(operand: Any) -> Test:
    spelled = re.compile(
        "".join(map(_either_case, _string("equals-ignore-case", operand)))
    ).fullmatch
    return lambda value: isinstance(value, str) and spelled(value) is not None


def _either_case(character: str) -> str:
    """Return the pattern of one character in either case.

    AWS compares character by character, so ``ß`` is never ``ss``.
    """
    # the engine of AWS reads UTF-16, where these are two characters without a case
    if character > "\uffff":
        return re.escape(character)
    return (
        "(?:"
        + "|".join(re.escape(form) for form in sorted({character.lower(), character.upper()}))
        + ")"
    )


def _wildcard(operand: Any) -> Test:
    first, *middle = _literals(_string("wildcard", operand))
    if not middle:
        return lambda value: isinstance(value, str) and value == first
    last = middle.pop()

    def test(value: Any) -> bool:
        if (
            not isinstance(value, str)
            or len(value) < len(first) + len(last)
            or not (value.startswith(first) and value.endswith(last))
        ):
            return False
        at, end = len(first), len(value) - len(last)
        # the leftmost place is always the best one, so nothing is ever tried twice
        for literal in middle:
            at = value.find(literal, at, end)
            if at < 0:
                return False
            at += len(literal)
        return True

    return test


def _literals(pattern: str) -> list[str]:
    r"""Return the texts between the stars of *pattern*. ``\*`` is a star, ``\\`` a backslash."""
    pieces: list[list[str]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            pieces.append([])
            continue
        if character == "\\":
            character = next(characters, "")
            if character not in ("*", "\\"):
                raise BadCondition(
                    "wildcard takes a backslash only before '*' or another backslash, got"
                    f" {shown(pattern)}"
                )
        pieces[-1].append(character)
    literals = ["".join(piece) for piece in pieces]
    if "" in literals[1:-1]:
        raise BadCondition(
            f"wildcard takes no two '*' in a row, got {shown(pattern)}; one of them says the same"
        )
    return literals


def _anything_but(operand: Any) -> Test:
    if isinstance(operand, Mapping):
        name, operand = _single(operand, _NEGATABLE)
        read = _NEGATABLE[name]
    else:
        name, read = "", compile_condition
    values = operand if isinstance(operand, (list, tuple)) else [operand]
    kinds = {
        str if isinstance(v, str) else Decimal if exact(v) is not None else None for v in values
    }
    if name and (kinds != {str} or "" in values):
        raise BadCondition(
            f"anything-but with {name} takes a string that is not empty, or a list of them, got"
            f" {shown(operand)}"
        )
    if kinds not in ({str}, {Decimal}):
        raise BadCondition(
            "anything-but takes strings or numbers, one or a list of one kind, got"
            f" {shown(operand)}"
        )
    kept_out = [read(value) for value in values]
    return lambda value: not any(test(value) for test in kept_out)


def _numeric(operand: Any) -> Test:
    if (
        not isinstance(operand, (list, tuple))
        or len(operand) not in (2, 4)
        or not all(isinstance(s, str) for s in operand[::2])
    ):
        raise BadCondition(
            'numeric takes [comparison, number], or a range such as [">", 0, "<=", 5], got'
            f" {shown(operand)}"
        )
    signs, bounds = (
        operand[::2],
        [number for part in operand[1::2] if (number := comparable(part)) is not None],
    )
    if wrong := [sign for sign in signs if sign not in COMPARISONS]:
        raise BadCondition(f"numeric knows {', '.join(COMPARISONS)}, got {shown(wrong[0])}")
    if len(bounds) != len(signs):
        raise BadCondition(f"numeric compares with numbers, got {shown(operand)}")
    if len(signs) == 2 and not (
        signs[0] in (">", ">=") and signs[1] in ("<", "<=") and bounds[0] < bounds[1]
    ):
        raise BadCondition(
            "a numeric range starts with > or >=, ends with < or <= and has its lower end first,"
            f" got {shown(operand)}"
        )
    checks = [(COMPARISONS[sign], bound) for sign, bound in zip(signs, bounds, strict=True)]

    def test(value: Any) -> bool:
        number = comparable(value)
        return number is not None and all(compare(number, bound) for compare, bound in checks)

    return test


def _cidr(operand: Any) -> Test:
    try:
        network = ipaddress.ip_network(_string("cidr", operand), strict=False)
    except ValueError:
        network = None
    if network is None or not _CIDR.fullmatch(operand) or network.num_addresses == 1:
        raise BadCondition(
            f"cidr takes a range such as 10.0.0.0/24 or 2001:db8::/32, got {shown(operand)}; one"
            " address is written as a string"
        )

    def test(value: Any) -> bool:
        try:
            return isinstance(value, str) and ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _exists(operand: Any) -> Test:
    if not isinstance(operand, bool):
        raise BadCondition(f"exists takes true or false, got {shown(operand)}")
    # "The key must have a non-null and non-empty value."
    return (
        (lambda value: value is not None and not (isinstance(value, str) and not value))
        if operand
        else absent
    )


_NEGATABLE: dict[str, Callable[[Any], Test]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
}
OPERATORS: dict[str, Callable[[Any], Test]] = {
    **_NEGATABLE,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "cidr": _cidr,
    "exists": _exists,
}
