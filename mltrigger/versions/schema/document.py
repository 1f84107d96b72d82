"""Schemas given as JSON Schema. The library jsonschema-rs checks them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.versions.schema.base import INPUT, Schema, failure, library
from mltrigger.versions.schema.mismatch import Mismatch, as_json, cut
from mltrigger.versions.schema.outline import referred

_SHOWN = 200
_EXAMPLE = "{'properties': {'page': {'type': 'integer'}}, 'required': ['page']}"
_DEFAULT = "https://json-schema.org/draft/2020-12/schema"
_DIALECTS = {
    _DEFAULT: "Draft202012Validator",
    "https://json-schema.org/draft/2019-09/schema": "Draft201909Validator",
    "http://json-schema.org/draft-07/schema": "Draft7Validator",
    "http://json-schema.org/draft-06/schema": "Draft6Validator",
    "http://json-schema.org/draft-04/schema": "Draft4Validator",
}
_KEYWORDS = frozenset(
    """
    $schema $id id $anchor $comment $defs $vocabulary $ref $dynamicRef $dynamicAnchor $recursiveRef
    $recursiveAnchor definitions title description default examples deprecated readOnly writeOnly
    contentEncoding contentMediaType contentSchema type enum const format
    multipleOf minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength pattern
    items prefixItems additionalItems unevaluatedItems contains minContains maxContains minItems
    maxItems uniqueItems properties patternProperties additionalProperties unevaluatedProperties
    propertyNames minProperties maxProperties required dependencies dependentRequired
    dependentSchemas allOf anyOf oneOf not if then else
    """.split()  # noqa: SIM905 - sixty lines otherwise
)
"""The keywords of all dialects."""
_LIMITS = {
    "minimum": "expected at least {}",
    "maximum": "expected at most {}",
    "exclusiveMinimum": "expected more than {}",
    "exclusiveMaximum": "expected less than {}",
    "multipleOf": "expected a multiple of {}",
    "pattern": "expected text that matches {}",
    "minLength": "expected at least {} characters",
    "maxLength": "expected at most {} characters",
    "minItems": "expected at least {} items",
    "maxItems": "expected at most {} items",
    "minProperties": "expected at least {} fields",
    "maxProperties": "expected at most {} fields",
    "const": "expected {}",
    "contains": "expected an item as the schema says",
}
"""Keywords in words. Their values come from the schema, not from the data."""


class DocumentSchema(Schema):
    """A JSON Schema: Draft 2020-12 unless its ``$schema`` names another.

    Formats are notes, not rules. Nothing is ever fetched. Patterns are those of ECMA 262.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        checker = library("jsonschema_rs")
        try:
            self.json = json.loads(json.dumps(dict(given), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidModel(
                f"a JSON Schema has a JSON form, such as {_EXAMPLE}: {error}"
            ) from error
        dialect = str(self.json.get("$schema", _DEFAULT)).rstrip("#")
        if dialect not in _DIALECTS:
            raise InvalidModel(
                f"schema: $schema is {dialect[:_SHOWN]!r}; leave it out for Draft 2020-12"
            )
        if self.json and _KEYWORDS.isdisjoint(self.json):
            unknown = ", ".join(map(repr, list(self.json)[:5]))[:_SHOWN]
            raise InvalidModel(
                f"schema: none of {unknown} is a keyword of JSON Schema; write fields as in"
                f" {_EXAMPLE}"
            )
        make = getattr(checker, _DIALECTS[dialect])
        try:
            self._validator = make(self.json, validate_formats=False, offline=True)
        except checker.ValidationError as error:
            raise InvalidModel(self._why_invalid(error)) from None
        if _is_endless(self.json):
            raise InvalidModel("schema: its $ref refers to itself without end")

    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Return *value*."""
        try:
            # Also the guard against deep data, which would overflow the library's stack.
            values = _stand_ins(value) if _is_foreign(value) else (value,)
            if all(map(self._validator.is_valid, values)):
                return value
            errors = next(filter(None, (list(self._validator.iter_errors(v)) for v in values)))
        except RecursionError:
            raise failure("$: nested too deeply to be checked", reason) from None
        except ValueError as error:  # a key that is no text, a text without UTF-8 form
            raise failure(
                f"$: the value cannot be checked against the schema ({type(error).__name__})",
                reason,
            ) from error
        raise failure(self.words(_mismatches(errors, value), "$"), reason)

    def _why_invalid(self, error: Any) -> str:
        """Return the reason why the library refuses the schema itself."""
        if error.kind.name != "$ref":
            return f"not a JSON Schema: {self.words(_mismatches([error], self.json), '$')}"
        named = re.search(r"'([^']*)'", error.message)
        reference = named[1] if named else error.message
        return (
            f"schema: {reference[:_SHOWN]!r} is not in the document, and nothing is ever fetched;"
            " put it below $defs and refer to '#/$defs/…'"
        )


def _is_endless(document: Mapping[str, Any]) -> bool:
    """Whether following the ``$ref`` of the document comes back to where it was."""
    seen: set[str] = set()
    schema = document
    while isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            return True
        seen.add(reference)
        schema = referred(pointer := {"$ref": reference}, document)
        if schema is pointer:  # an anchor, or a document of JSON Schema itself
            return False
    return False


# -- values that JSON does not have ----------------------------------------------------------------

_PLAIN = (str, int, bool, type(None))
_HUGE = 1.7976931348623157e308
_WITH_PART = 562949953421311.94
"""A large number that is not an integer."""
_OTHERS = (None, False, "")


def _is_foreign(value: Any) -> bool:
    """Whether *value* has a part that the library takes for something else, or refuses.

    A loop, since a call for each part would take longer than the check itself.
    """
    kind = type(value)
    for part in value.values() if kind is dict else value if kind is list else (value,):
        kind = type(part)
        if kind is float:
            if part - part != 0.0:  # NaN, or an infinity
                return True
        elif kind is dict or kind is list:
            if _is_foreign(part):
                return True
        elif kind not in _PLAIN:
            return True
    return False


def _stand_ins(value: Any) -> tuple[Any, ...]:
    """Return copies of *value* without its foreign parts. It fits if all of them do.

    A NaN is a number that fits no limit, an infinity one beyond every limit. Bytes, and objects of
    other types, fit only a schema that says nothing about their type.
    """
    return tuple(_stand_in(value, number) for number in range(3))


def _stand_in(value: Any, number: int) -> Any:
    if isinstance(value, dict):
        return {name: _stand_in(inner, number) for name, inner in value.items()}
    if isinstance(value, list):
        return [_stand_in(inner, number) for inner in value]
    if isinstance(value, float):
        if math.isnan(value):
            return (0.1234567891011, _HUGE, -_HUGE)[number]
        return (
            value if math.isfinite(value) else math.copysign((_HUGE, _WITH_PART)[number % 2], value)
        )
    return value if isinstance(value, (*_PLAIN, Decimal)) else _OTHERS[number]


# -- words -----------------------------------------------------------------------------------------


def _mismatches(errors: Iterable[Any], data: Any) -> Iterator[Mismatch]:
    """Yield the mismatches of the library's *errors* about *data*."""
    for error in errors:
        yield from _of_one(error, data)


def _of_one(error: Any, data: Any) -> Iterator[Mismatch]:
    keyword, limit = error.kind.name, error.kind.value
    path = tuple(error.instance_path)
    if keyword in ("anyOf", "oneOf"):
        yield from _of_alternatives(error, limit or (), data)
    elif keyword == "required":
        yield Mismatch((*path, limit), "missing")
    elif keyword in ("additionalProperties", "unevaluatedProperties"):
        yield from (Mismatch((*path, name), "not allowed") for name in limit)
    elif keyword == "falseSchema":
        yield Mismatch(path, "not allowed")
    elif keyword == "uniqueItems":
        yield Mismatch(path, "expected items that all differ")
    else:
        yield Mismatch(path, _wrong(keyword, limit), _at(path, data))


def _of_alternatives(
    error: Any, branches: Sequence[Sequence[Any]], data: Any
) -> Iterator[Mismatch]:
    """Yield the mismatches of the branch that got furthest, or of all if none got anywhere."""
    path = error.instance_path
    simple = {
        number
        for number, branch in enumerate(branches)
        if all(e.instance_path == path and e.kind.name in ("type", "enum", "const") for e in branch)
    }
    if branches and len(simple) == len(branches):
        for branch in branches:
            yield from _mismatches(branch, data)
        return
    depths = {
        number: max(len(e.instance_path) for e in branch)
        for number, branch in enumerate(branches)
        if number not in simple
    }
    furthest = [number for number in depths if depths[number] == max(depths.values())]
    if len(furthest) == 1:
        yield from _mismatches(branches[furthest[0]], data)
    else:
        yield Mismatch(tuple(path), _wrong(error.kind.name, None), _at(path, data))


def _at(path: Sequence[str | int], data: Any) -> Any:
    for part in path:
        data = data[part]
    return data


def _wrong(keyword: str, limit: Any) -> str:
    if keyword == "type":
        return f"expected {' or '.join(limit)}"
    if keyword == "enum":
        return f"expected {cut(' or '.join(map(as_json, limit[:10])))}"
    if keyword == "format":
        return f"expected a valid {cut(limit)}"
    if keyword in _LIMITS:
        return _LIMITS[keyword].format(cut(as_json(limit)))
    return f"does not fit {keyword!r} of the schema"
