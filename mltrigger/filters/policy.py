"""FilterPolicy: which events a subscription gets, and why one was left out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, get_args

from mltrigger.errors import InvalidFilter
from mltrigger.event.codec import MAX_DEPTH, encodable, twice
from mltrigger.filters.conditions import (
    COMPARISONS,
    OPERATORS,
    BadCondition,
    canonical,
    compile_condition,
    exact_values,
    numbers,
    shown,
)
from mltrigger.filters.match import Clause, Field, Or, explain, holds
from mltrigger.text import short

Scope = Literal["MessageAttributes", "MessageBody"]

# https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html
MAX_KEYS = 5
"""Keys of a policy. In a nested policy only the top keys count. An ``$or`` is one key."""
MAX_COMBINATIONS = 150
"""The product, over all fields, of the conditions and the level of nesting; the branches of an
``$or`` are added up.
"""
MAX_POLICY_BYTES = 256 * 1024
MAX_FIELDS = 10_000
"""Keys of the whole policy, nested ones and those of branches included; our own limit, against
mappings that contain themselves.
"""
MAX_NUMBER = 10**9
"""The largest number, of either sign, that SNS promises to compare."""
MAX_DECIMALS = 5

RESERVED = (
    frozenset(OPERATORS)
    | frozenset(COMPARISONS)
    | {
        "exact",
        "regex",
        "not-wildcard",
        "not-equals-ignore-case",
        "date-after",
        "date-on-or-after",
        "date-before",
        "date-on-or-before",
        "in-date-range",
        "ip-address-in-range",
        "ip-address-not-in-range",
    }
)
"""Names that make an ``$or`` whose objects use them an ordinary key
(``RESERVED_FIELD_NAMES_IN_OR_RELATIONSHIP`` of event-ruler).
"""


@dataclasses.dataclass(frozen=True, slots=True)
class FilterPolicy:
    """Which events a subscription gets: the filter policy of Amazon SNS. Made by :meth:`parse`.

    All keys must hold, and of each key one condition of its list
    (https://docs.aws.amazon.com/sns/latest/dg/and-or-logic.html). An empty policy is no filter. Two
    policies are equal when they say the same in the same scope.

    Attributes
    ----------
    scope : str
        ``MessageAttributes``, or ``MessageBody`` for the JSON of the event's data.
    warnings : tuple of str
        Numbers that SNS refuses and the embedded engine takes: those beyond ±1e9, or with more than
        five decimals (six are compared).

    Examples
    --------
    >>> policy = FilterPolicy.parse({"kind": ["invoice"], "pages": [{"numeric": [">", 1]}]})
    >>> policy.matches_attributes({"kind": "invoice", "pages": 3})
    True
    """

    scope: Scope
    _text: str
    warnings: tuple[str, ...] = dataclasses.field(compare=False)
    _parts: tuple[Field | Or, ...] = dataclasses.field(compare=False, repr=False)
    _ways: tuple[tuple[Field, ...], ...] = dataclasses.field(compare=False, repr=False)

    @classmethod
    def parse(
        cls, policy: Mapping[str, Any] | str, scope: Scope = "MessageAttributes"
    ) -> FilterPolicy:
        """Return *policy*, a mapping or JSON text, ready to match.

        Raises
        ------
        InvalidFilter
            With every problem: its path, the mistake and a correct form. The limits are those of
            https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html.
        """
        if scope not in get_args(Scope):
            raise InvalidFilter(
                f"invalid filter policy: the scope is one of {', '.join(get_args(Scope))}, got"
                f" {short(scope)}"
            )
        given = _load(policy)
        reader = _Reader(scope)
        parts = reader.read(given, "", "$." if scope == "MessageBody" else "", 1) if given else ()
        problems = reader.problems + _beyond_limits(given, parts)
        text = "" if problems else canonical(given)
        problems += _unfit_text(text)
        if problems:
            raise InvalidFilter("invalid filter policy: " + "; ".join(problems))
        return cls(scope, text, tuple(reader.warnings), parts, tuple(_ways(parts)))

    def to_json(self) -> str:
        """Return the policy as JSON text.

        Equal policies have the same text. :meth:`parse` makes an equal policy of it.
        """
        return self._text

    def matches_attributes(self, attributes: Mapping[str, Any]) -> bool:
        """Return whether a message with these attributes passes.

        Values are strings, numbers, bools, None or lists of these. Without any attribute only an
        empty policy passes: "``exists: false`` only matches if at least one attribute is present"
        (https://docs.aws.amazon.com/sns/latest/dg/attribute-key-matching.html).
        """
        return not self._parts or (bool(attributes) and self._holds(attributes))

    def matches_body(self, body: Any) -> bool:
        """Return whether a message with this body, parsed JSON, passes.

        The body has to be an object. Text, numbers and arrays at the top pass only an empty policy.
        SNS takes "a well-formed JSON object"
        (https://docs.aws.amazon.com/sns/latest/dg/sns-message-filtering.html).
        """
        return not self._parts or (isinstance(body, Mapping) and self._holds(body))

    def explain(self, attributes: Mapping[str, Any], body: Any) -> list[Clause]:
        """Return why a message passes or not.

        There is a clause for each field, for each ``$or``, and for each field of its branches. The
        message passes when every clause outside the branches of an ``$or`` is ok. A problem of the
        whole message has a clause with the path ``$``. Examples are a body that is no object, and
        fields that hold only in different elements of an array.
        """
        event = attributes if self.scope == "MessageAttributes" else body
        if not self._parts:
            return []
        if not isinstance(event, Mapping):
            return [
                Clause("$", "a JSON object", short(event), ok=False),
                *explain(self._parts, {}, ())[1],
            ]
        if not event and self.scope == "MessageAttributes":
            return [
                Clause("$", "at least one attribute", "nothing", ok=False),
                *explain(self._parts, {}, ())[1],
            ]
        kept = next((way for way in self._ways if holds(way, event)), None)
        each, clauses = explain(self._parts, event, frozenset(kept or ()))
        if each and kept is None:
            clauses.append(
                Clause(
                    "$", "all in the same element of an array", "only in different ones", ok=False
                )
            )
        return clauses

    def _holds(self, event: Mapping[str, Any]) -> bool:
        return any(holds(way, event) for way in self._ways)


class _Reader:
    """Reads the objects of one policy and collects their problems."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.keys = 0

    def read(
        self, rules: Mapping[str, Any], path: str, name: str, level: int
    ) -> tuple[Field | Or, ...]:
        """Return the parts of one object.

        *path* and *name* come before its keys, in the event and in messages.
        """
        if not rules:
            self.problems.append(f"{name.rstrip('.')}: an empty object; name a field of it")
        return tuple(
            part
            for key, value in rules.items()
            for part in self._read(key, value, path, name, level)
        )

    def _read(
        self, key: Any, value: Any, path: str, before: str, level: int
    ) -> Sequence[Field | Or]:
        name, self.keys = f"{before}{key}", self.keys + 1
        if self.keys > MAX_FIELDS:
            raise InvalidFilter(f"invalid filter policy: more than {MAX_FIELDS} keys in all")
        if not isinstance(key, str):
            self.problems.append(f"{before}{short(key)}: a key is a string")
        elif name.count(".") > MAX_DEPTH:
            self.problems.append(f"{short(name)}: nested deeper than {MAX_DEPTH} levels")
        elif key == "$or" and _is_or(value):
            branches = tuple(
                self.read(branch, path, f"{name}[{number}].", level)
                for number, branch in enumerate(value)
            )
            return [Or(name, "" if self.problems else canonical(value), branches)]
        elif isinstance(value, (list, tuple)):
            return [self._field(value, path + key, name, level)]
        elif not isinstance(value, Mapping):
            self.problems.append(
                f"{name}: takes a list of conditions, got {shown(value)}; write [{shown(value)}]"
            )
        elif self.scope == "MessageAttributes":
            self.problems.append(
                f'{name}: attributes are flat, a nested policy needs the scope "MessageBody"'
            )
        else:
            return self.read(value, f"{path}{key}.", f"{name}.", level + 1)
        return ()

    def _field(self, conditions: Sequence[Any], path: str, name: str, level: int) -> Field:
        if not conditions:
            self.problems.append(
                f'{name}: an empty list matches nothing; for any value write [{{"exists": true}}]'
            )
        tests = []
        for number, condition in enumerate(conditions):
            try:
                tests.append(compile_condition(condition))
            except BadCondition as error:
                self.problems.append(f"{name}[{number}]: {error}")
            else:
                self.warnings += [
                    f"{name}[{number}]: {why}"
                    for value in numbers(condition)
                    for why in _unpromised(value)
                ]
        return Field(
            path,
            name,
            "" if self.problems else canonical(conditions),
            tuple(tests),
            len(conditions) * level,
            exact_values(conditions),
        )


def _load(policy: Any) -> Mapping[str, Any]:
    if isinstance(policy, str):
        if problems := _unfit_text(policy):
            raise InvalidFilter(f"invalid filter policy: {problems[0]}")
        try:
            policy = json.loads(
                policy,
                parse_int=Decimal,
                parse_float=Decimal,
                parse_constant=_no_constant,
                object_pairs_hook=_unique,
            )
        except RecursionError as error:
            raise InvalidFilter(
                f"invalid filter policy: nested deeper than {MAX_DEPTH} levels"
            ) from error
        except (ValueError, ArithmeticError) as error:
            # the latter for exponents that no Decimal has
            raise InvalidFilter(f"invalid filter policy: not JSON: {error}") from error
    if not isinstance(policy, Mapping):
        raise InvalidFilter(
            'invalid filter policy: takes an object such as {"kind": ["invoice"]}, got'
            f" {short(policy)}"
        )
    return policy


def _unfit_text(text: str) -> list[str]:
    if not encodable(text):
        return ["not valid UTF-8: it has half of a surrogate pair"]
    size = len(text.encode())
    return [f"{size} bytes, at most {MAX_POLICY_BYTES}"] if size > MAX_POLICY_BYTES else []


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (key := twice(key for key, _ in pairs)) is not None:
        raise ValueError(f"the key {short(key)} stands twice in one object")
    return dict(pairs)


def _is_or(value: Any) -> bool:
    """Whether the value of ``$or`` makes it the operator.

    https://docs.aws.amazon.com/sns/latest/dg/and-or-logic.html
    """
    several = isinstance(value, (list, tuple)) and len(value) > 1
    return several and all(
        isinstance(branch, Mapping) and RESERVED.isdisjoint(branch) for branch in value
    )


def _unpromised(number: Decimal) -> list[str]:
    why = []
    if abs(number) > MAX_NUMBER:
        why.append(f"SNS takes numbers from -1e9 to 1e9, got {canonical(number)}")
    if number.adjusted() < -30 or len(canonical(number).partition(".")[2]) > MAX_DECIMALS:
        why.append(f"SNS compares {MAX_DECIMALS} decimals, got {canonical(number)}")
    return why


def _beyond_limits(policy: Mapping[str, Any], parts: Sequence[Field | Or]) -> list[str]:
    problems = []
    if len(policy) > MAX_KEYS:
        problems.append(f"{len(policy)} keys, at most {MAX_KEYS}")
    if (combinations := _combinations(parts)) > MAX_COMBINATIONS:
        problems.append(f"{combinations} combinations of conditions, at most {MAX_COMBINATIONS}")
    return problems


def _combinations(parts: Sequence[Field | Or]) -> int:
    return math.prod(
        part.combinations if isinstance(part, Field) else sum(map(_combinations, part.branches))
        for part in parts
    )


def _ways(parts: Sequence[Field | Or]) -> list[tuple[Field, ...]]:
    """Return the sets of fields of which one must hold as a whole.

    There are no more of them than combinations.
    """
    always = [part for part in parts if isinstance(part, Field)]
    choices = [
        [way for branch in part.branches for way in _ways(branch)]
        for part in parts
        if isinstance(part, Or)
    ]
    return [tuple(itertools.chain(always, *choice)) for choice in itertools.product(*choices)]
