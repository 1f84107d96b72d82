"""A schema, and what does not fit it, in words: the first three fields with their paths, never more
than 100 characters of the data.
"""

from __future__ import annotations

import functools
import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

MAX_NAMED = 3
"""Mismatches that a message names; of the others it only says that there are more."""
MAX_DATA = 100
"""Characters of the data that a message repeats at most, in all."""
_KEY, _VALUE, _OWN_NAME, _OWN_TEXT = 24, 40, 80, 100
_OUTLINE = 200
_DEEP = 12
_NOTHING = object()

_KINDS = {
    "integer": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "number": ("float_type", "float_parsing", "decimal_type", "decimal_parsing"),
    "finite number": ("finite_number",),
    "string": ("string_type", "string_sub_type", "string_unicode"),
    "boolean": ("bool_type", "bool_parsing"),
    "null": ("none_required",),
    "array": ("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"),
    "object": (
        "dict_type",
        "mapping_type",
        "model_type",
        "model_attributes_type",
        "dataclass_type",
        "dataclass_exact_type",
    ),
}
_EXPECTED = {kind: f"expected {word}" for word, kinds in _KINDS.items() for kind in kinds}
"""pydantic's kinds of errors, in the words of JSON Schema; the rest keeps pydantic's."""
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
"""Keywords of JSON Schema, in words; the value of the keyword is the user's own, not the data's."""


class Mismatch(NamedTuple):
    """One thing that does not fit: where it is, what is wrong, and the value; *quoted* is text that
    may repeat the data.
    """

    path: tuple[str | int, ...]
    wrong: str
    value: Any = _NOTHING
    quoted: str = ""


class _Budget:
    """How many characters of the data may still be repeated."""

    def __init__(self) -> None:
        self._left = MAX_DATA

    def take(self, text: str, most: int) -> str:
        """Return the beginning of *text*, of at most *most* characters."""
        cut = text[: min(most, self._left)]
        self._left -= len(cut)
        return cut


def told(mismatches: Iterable[Mismatch], root: str, names: frozenset[str]) -> str:
    """Return the message for *mismatches*; *names* are the fields that the schema knows, *root* is
    what holds them, such as ``$``.
    """
    by_path: dict[tuple[str | int, ...], list[Mismatch]] = {}
    more = False
    for found in mismatches:
        if found.path not in by_path and len(by_path) == MAX_NAMED:
            more = True
            break
        by_path.setdefault(found.path, []).append(found)
    budget = _Budget()
    lines = [
        f"{_path(path, root, names, budget)}: {_line(found, budget)}"
        for path, found in by_path.items()
    ]
    return "; ".join(lines) + ("; and more" if more else "")


def _line(found: Sequence[Mismatch], budget: _Budget) -> str:
    """Return one line for what is wrong at one place: the branches of a union are one expectation."""
    wrongs = list(dict.fromkeys(m.wrong for m in found))
    if all(wrong.startswith("expected ") for wrong in wrongs):
        wrongs = ["expected " + " or ".join(wrong.removeprefix("expected ") for wrong in wrongs)]
    text = ", ".join(wrongs[:MAX_NAMED])
    if found[0].quoted:
        text += f": {_beginning(found[0].quoted, budget, _OWN_TEXT)}"
    return text if found[0].value is _NOTHING else f"{text}, got {_shown(found[0].value, budget)}"


def _beginning(text: str, budget: _Budget, most: int) -> str:
    cut = budget.take(text, most)
    return cut if len(cut) == len(text) else cut + "…"


def _path(path: Sequence[str | int], root: str, names: frozenset[str], budget: _Budget) -> str:
    """Return ``page.items[3]``, with *root* before it where it begins with ``$``, or is alone; what
    the schema does not name is data.
    """
    text = root if root.startswith("$") or not path else ""
    for part in path if len(path) <= _DEEP else (*path[: _DEEP // 2], "…", *path[-_DEEP // 2 :]):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part[:_OWN_NAME] if part in names else _beginning(part, budget, _KEY)
            text += f".{name}" if text else name
    return text


def _shown(value: Any, budget: _Budget) -> str:
    """Return *value* as a person says it: short values as they are in JSON, others by their kind."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        cut = budget.take(value, _VALUE)
        return repr(cut) if len(cut) == len(value) else repr(cut) + "…"
    if isinstance(value, (int, float)) and not (
        isinstance(value, int) and value.bit_length() > 1024
    ):
        return _beginning(repr(value), budget, _VALUE)
    if isinstance(value, int):
        return f"an integer of {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    if isinstance(value, (Mapping, list, tuple)):
        return f"{'an object' if isinstance(value, Mapping) else 'an array'} of {len(value):,}"
    return type(value).__qualname__[:_KEY]


# -- pydantic --------------------------------------------------------------------------------------


def of_pydantic(error: Any, data: Any) -> Iterator[Mismatch]:
    """Yield the mismatches of a ``pydantic.ValidationError`` about *data*, in its order; of a
    union's branches, what got further.
    """
    found = list(_of_pydantic(error, data))
    within = {m.path[:length] for m in found for length in range(len(m.path))}
    yield from (m for m in found if m.path not in within)


def _of_pydantic(error: Any, data: Any) -> Iterator[Mismatch]:
    for found in error.errors(include_url=False):
        kind, context, message = found["type"], found.get("ctx", {}), found["msg"]
        path = tuple(_inside(found["loc"], data, kind == "missing"))
        if kind == "missing":
            yield Mismatch(path, "missing")
        elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
            yield Mismatch(path, "not allowed")
        elif kind in _EXPECTED:
            yield Mismatch(path, _EXPECTED[kind], found["input"])
        elif kind in ("literal_error", "enum"):
            yield Mismatch(path, f"expected {_cut(str(context.get('expected')))}", found["input"])
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            tags = context.get("expected_tags")
            yield Mismatch(
                path,
                f"expected {context['discriminator']}"
                + (f" to be one of {_cut(tags)}" if tags else ""),
            )
        elif kind in ("value_error", "assertion_error") or kind not in _own_kinds():
            # the user's words may repeat the data
            yield Mismatch(path, "refused", quoted=str(context.get("error") or message))
        else:
            yield Mismatch(path, _in_words(message, "error" in context), found["input"])


@functools.cache
def _own_kinds() -> frozenset[str]:
    from pydantic_core.core_schema import ErrorType

    return frozenset(typing.get_args(ErrorType))


def _in_words(message: str, quotes: bool) -> str:
    """Return pydantic's own *message*; what a parser adds behind a comma may repeat the data."""
    message = message.partition(",")[0] if quotes else message
    words = message.removeprefix("Input ").removeprefix("should be ")
    return _cut(f"expected {words}" if words != message else message)


def _inside(location: Sequence[str | int], data: Any, missing: bool) -> Iterator[str | int]:
    """Yield what of *location* is a place in *data*: pydantic names the branches of unions among
    them.
    """
    for i, part in enumerate(location):
        if missing and i == len(location) - 1:
            yield part
        elif (
            part in data
            if isinstance(data, Mapping)
            else isinstance(part, int) and isinstance(data, (list, tuple)) and part < len(data)
        ):
            data = data[part]
            yield part


# -- JSON Schema -----------------------------------------------------------------------------------


def of_jsonschema(errors: Iterable[Any], best_match: Any) -> Iterator[Mismatch]:
    """Yield the mismatches of ``jsonschema``'s *errors*; of alternatives, those of the one that
    fits best.
    """
    for error in errors:
        alternatives = [
            _wrong(inner)
            for inner in error.context or ()
            if inner.validator in ("type", "enum", "const") and not inner.relative_path
        ]
        if alternatives and len(alternatives) == len(error.context):
            yield from (
                Mismatch(tuple(error.absolute_path), wrong, error.instance)
                for wrong in alternatives
            )
        else:
            yield from _of_one(best_match([error]) if error.context else error)


def _of_one(error: Any) -> Iterator[Mismatch]:
    path, keyword, value, limit = (
        tuple(error.absolute_path),
        error.validator,
        error.instance,
        error.validator_value,
    )
    if keyword == "required":
        yield from (Mismatch((*path, name), "missing") for name in limit if name not in value)
    elif keyword == "dependentRequired":
        wanted = {name for given, names in limit.items() if given in value for name in names}
        yield from (
            Mismatch((*path, name), "missing") for name in sorted(wanted) if name not in value
        )
    elif (
        keyword == "additionalProperties"
        and isinstance(value, Mapping)
        and not error.schema.get("patternProperties")
    ):
        known = error.schema.get("properties", {})
        yield from (Mismatch((*path, name), "not allowed") for name in value if name not in known)
    elif keyword is None:  # the schema false
        yield Mismatch(path, "not allowed")
    elif keyword == "uniqueItems":
        yield Mismatch(path, "expected items that all differ")
    else:
        yield Mismatch(path, _wrong(error), value)


def _wrong(error: Any) -> str:
    keyword, limit = error.validator, error.validator_value
    if keyword == "type":
        return f"expected {limit if isinstance(limit, str) else ' or '.join(limit)}"
    if keyword == "enum":
        return f"expected {_cut(' or '.join(map(_json, limit[:10])))}"
    if keyword == "format":
        return f"expected a valid {_cut(limit)}"
    return (
        _LIMITS[keyword].format(_cut(_json(limit)))
        if keyword in _LIMITS
        else f"does not fit {keyword!r} of the schema"
    )


def _json(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _cut(text: str) -> str:
    return text if len(text) <= _OWN_TEXT else text[:_OWN_TEXT] + "…"


# -- the schema itself -----------------------------------------------------------------------------


def names(document: Any) -> Iterator[str]:
    """Yield the names of fields that a JSON Schema knows."""
    if isinstance(document, Mapping):
        yield from (
            document.get("properties", {})
            if isinstance(document.get("properties"), Mapping)
            else ()
        )
        yield from (
            (name for name in document.get("required", ()) if isinstance(name, str))
            if isinstance(document.get("required"), list)
            else ()
        )
    for inner in (
        document.values()
        if isinstance(document, Mapping)
        else document
        if isinstance(document, list)
        else ()
    ):
        yield from names(inner)


def outline(document: Mapping[str, Any]) -> str:
    """Return what a JSON Schema says, for a frame: ``page: integer, text?: string``."""
    text = _fields(document, document) or _kind(document, document)
    return text if len(text) <= _OUTLINE else text[: _OUTLINE - 1] + "…"


def _meant(schema: Any, document: Mapping[str, Any]) -> Any:
    """Return what a ``$ref`` to ``#/$defs/…`` means; the schema itself where there is none."""
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    found: Any = document
    for part in str(reference).removeprefix("#/").split("/") if reference else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if reference and isinstance(found, Mapping) else schema


def _fields(schema: Any, document: Mapping[str, Any]) -> str:
    """Return ``page: integer, text?: string`` for the schema of an object; an empty text for
    others.
    """
    schema = _meant(schema, document)
    fields = schema.get("properties")
    if not isinstance(fields, Mapping):
        return ""
    required = schema.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_kind(inner, document)}"
        for name, inner in fields.items()
    )


def _kind(schema: Any, document: Mapping[str, Any]) -> str:
    """Return what kind of value a schema describes, in one word or a few."""
    if not isinstance(schema, Mapping):
        return "anything" if schema else "nothing"
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2] or "object"
    kinds = schema.get("type")
    if kinds == "array":
        return (
            f"array of {_kind(schema['items'], document)}"
            if isinstance(schema.get("items"), Mapping)
            else "array"
        )
    if isinstance(kinds, str):
        return kinds
    if isinstance(kinds, list):
        return " or ".join(map(str, kinds))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(choices, list):
            return " or ".join(dict.fromkeys(_kind(choice, document) for choice in choices))
    values = schema.get("enum", [schema["const"]] if "const" in schema else ())
    return " or ".join(json.dumps(value, ensure_ascii=False) for value in values[:10]) or "anything"
