"""Schemas made of a class or a type. Pydantic checks them."""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.versions.schema.base import INPUT, OUTPUT, Schema, failure, library
from mltrigger.versions.schema.hints import Hint
from mltrigger.versions.schema.mismatch import Mismatch, cut

_SHOWN = 200
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
"""Pydantic's kinds of errors, in the words of JSON Schema. Other kinds keep pydantic's words."""


class ClassSchema(Schema):
    """A class or a type, checked by pydantic."""

    hint: Hint

    def __init__(self, hint: Hint) -> None:
        pydantic = library("pydantic")
        self.hint, self.classes = hint, hint.classes
        self._error = pydantic.ValidationError
        try:
            self._adapter = pydantic.TypeAdapter(hint.type)
            self._adapter.rebuild(force=False, raise_errors=True)
        except Exception as error:
            # A field has a type that pydantic does not know, or a name that does not exist.
            raise InvalidModel(
                f"schema {self._name}: {str(error).partition(chr(10))[0]}"
            ) from error
        self.json = self._document(pydantic)

    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Return *value*, or the object that the class makes of it."""
        root = "output" if reason == OUTPUT else "data"
        try:
            made = self._made(value)
        except self._error as error:
            raise failure(self.words(_mismatches(error, value), root), reason) from None
        except RecursionError:
            raise failure(f"{root}: nested too deeply to be checked", reason) from None
        return made if self.hint.own else value

    def _made(self, value: Any) -> Any:
        hint = self.hint
        if hint.own and not hint.strict:  # the class says itself whether it is strict
            return self._adapter.validate_python(value)
        if not hint.own:
            return self._adapter.validate_python(value, strict=True)
        try:  # JSON has no dates, sets or tuples: be strict only about its own types
            text = json.dumps(value)
        except (TypeError, ValueError):
            # It holds bytes or decimals, which are tagged in JSON, or objects of the class itself.
            return self._adapter.validate_python(value, extra=hint.extra)
        return self._adapter.validate_json(text, strict=True, extra=hint.extra)

    def _document(self, pydantic: Any) -> Mapping[str, Any]:
        class Quiet(pydantic.json_schema.GenerateJsonSchema):  # type: ignore[misc]
            ignored_warning_kinds: typing.ClassVar = {"skipped-choice", "non-serializable-default"}

        try:
            found: Mapping[str, Any] = self._adapter.json_schema(schema_generator=Quiet)
        except pydantic.errors.PydanticInvalidForJsonSchema:  # pydantic can check it all the same
            found = {"title": self._name}
        return found

    @property
    def _name(self) -> str:
        return str(getattr(self.hint.type, "__name__", self.hint.type))[:_SHOWN]


def _mismatches(error: Any, data: Any) -> Iterator[Mismatch]:
    """Yield the mismatches of a ``pydantic.ValidationError`` about *data*, in its order.

    Of the branches of a union only the one that got further counts.
    """
    found = [
        mismatch
        for each in error.errors(include_url=False)
        if (mismatch := _mismatch(each, tuple(_inside(each, data))))
    ]
    within = {m.path[:length] for m in found for length in range(len(m.path))}
    yield from (m for m in found if m.path not in within)


def _mismatch(found: Mapping[str, Any], path: tuple[str | int, ...]) -> Mismatch:
    kind, context, message = found["type"], found.get("ctx", {}), found["msg"]
    if kind == "missing":
        return Mismatch(path, "missing")
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return Mismatch(path, "not allowed")
    if kind in _EXPECTED:
        return Mismatch(path, _EXPECTED[kind], found["input"])
    if kind in ("literal_error", "enum"):
        return Mismatch(path, f"expected {cut(str(context.get('expected')))}", found["input"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = context.get("expected_tags")
        among = f" to be one of {cut(tags)}" if tags else ""
        return Mismatch(path, f"expected {context['discriminator']}{among}")
    if kind in ("value_error", "assertion_error") or kind not in _own_kinds():
        # The user's words may repeat the data.
        return Mismatch(path, "refused", quoted=str(context.get("error") or message))
    # A parser adds words behind a comma that may repeat the data.
    own = message.partition(",")[0] if "error" in context else message
    words = own.removeprefix("Input ").removeprefix("should be ")
    return Mismatch(path, cut(f"expected {words}" if words != own else own), found["input"])


@functools.cache
def _own_kinds() -> frozenset[str]:
    from pydantic_core.core_schema import ErrorType

    return frozenset(typing.get_args(ErrorType))


def _inside(found: Mapping[str, Any], data: Any) -> Iterator[str | int]:
    """Yield the parts of an error's location that are places in *data*.

    Pydantic names the branches of unions among them.
    """
    location: Sequence[str | int] = found["loc"]
    for i, part in enumerate(location):
        if found["type"] == "missing" and i == len(location) - 1:
            yield part
        elif (
            part in data
            if isinstance(data, Mapping)
            else isinstance(part, int) and isinstance(data, (list, tuple)) and part < len(data)
        ):
            data = data[part]
            yield part
