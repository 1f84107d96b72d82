"""Schemas: what an event's data and a model's output have to look like, written as a class or as
JSON Schema.

A class (a pydantic model, a dataclass, a TypedDict) is checked by pydantic, a JSON Schema by
jsonschema; neither is loaded before the first schema. Without being asked, the type hints of a
model are its schema (:func:`inferred`), as far as they say something about JSON.
"""

from __future__ import annotations

import abc
import importlib
import itertools
import json
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure, NotEncodable, how_to_install
from mltrigger.event import codec
from mltrigger.versions.schema import mismatch
from mltrigger.versions.schema.hints import (
    PLAIN,
    Hint,
    defaults_to_none,
    is_class,
    item_of,
    return_hint,
)
from mltrigger.versions.schema.quick import quick_check
from mltrigger.versions.schema.signature import first_hint

INPUT, OUTPUT = "invalid_input", "invalid_output"
_SHOWN = 200


class Schema(abc.ABC):
    """What a value has to look like.

    Attributes
    ----------
    json : mapping
        The same as a JSON Schema document, for people and for the registry.
    classes : tuple of types
        Whose objects fit without a look at them.
    """

    json: Mapping[str, Any]
    classes: tuple[type, ...] = ()

    @abc.abstractmethod
    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Return what the model gets for *value*: the value itself, or an object of the class that
        was declared.

        Raises
        ------
        ModelFailure
            Permanent, with *reason*, when the value does not fit; the message names the fields.
        """

    def accept_output(self, value: Any) -> Any:
        """Check what a model answered, in its JSON form, and return it; an object of the declared
        class is taken as it is.

        Raises
        ------
        ModelFailure
            Permanent, with the reason ``invalid_output``.
        """
        if not isinstance(value, self.classes):
            try:
                self.accept(
                    (
                        value
                        if isinstance(value, PLAIN)
                        else codec.loads_own(codec.dumps(value).encode())
                    ),
                    OUTPUT,
                )
            except NotEncodable as error:
                raise _failure(f"the output has no JSON form to check: {error}", OUTPUT) from None
        return value

    @property
    def summary(self) -> str:
        """A short text for a frame, such as ``page: integer, text?: string``."""
        return mismatch.outline(self.json)

    def __repr__(self) -> str:
        return f"Schema({self.summary!r})"

    def _refused(self, found: Iterable[mismatch.Mismatch], root: str, reason: str) -> ModelFailure:
        return _failure(mismatch.told(found, root, frozenset(mismatch.names(self.json))), reason)


def schema_of(given: Any) -> Schema:
    """Return the schema that *given* is: a pydantic model, a dataclass, a TypedDict, a type of JSON
    values, or a JSON Schema.

    Raises
    ------
    InvalidModel
        For anything else; for a JSON Schema that is none, naming the place; and when the library
        that checks it is not installed.
    """
    if isinstance(given, Schema):
        return given
    if isinstance(given, Mapping):
        return _Document(given)
    hint = Hint.of(given)
    if hint is None:
        what = (
            f"an object of {type(given).__name__}; hand over the class"
            if is_class(type(given))
            else repr(given)[:_SHOWN]
        )
        raise InvalidModel(
            "a schema is a pydantic model, a dataclass, a TypedDict or a JSON Schema (a dict), not"
            f" {what}"
        )
    return _Class(hint)


def inferred(function: Any, batch: bool) -> tuple[Schema | None, Schema | None]:
    """Return the schemas that the type hints of *function* say: of one event's data, and of one
    output.

    The argument's hint counts when it is a pydantic model, a dataclass, a TypedDict, or a type of
    JSON values (``str``, ``list[float]``, ``dict[str, Any]``, ``int | None`` …); the return's only
    when it is a class of the first three: what a model returns as ``float`` may well be numpy's.
    ``Event``, ``Any`` and what cannot be looked up say nothing; nor does anything where pydantic is
    not installed.

    Parameters
    ----------
    function
        What is called.
    batch : bool
        Whether it takes and returns a list: ``list[Page]`` says ``Page``.
    """
    takes, gives = first_hint(function), return_hint(function)
    if batch:
        takes, gives = item_of(takes), item_of(gives)
    elif defaults_to_none(function) and takes is not None:
        takes = typing.Union[takes, None]  # noqa: UP007 - a hint may be something without an operator |
    return _hinted(takes), _hinted(gives, classes_only=True)


def _hinted(hint: Any, classes_only: bool = False) -> Schema | None:
    """Return the schema of *hint*, ``None`` when there is none to be had: a hint promises nothing."""
    try:
        found = Hint.of(hint, classes_only)
        return None if found is None else _Class(found)
    except InvalidModel:
        return None


class _Class(Schema):
    """A class or a type, checked by pydantic."""

    def __init__(self, hint: Hint) -> None:
        pydantic = _library("pydantic")
        self._hint, self._error, self.classes = hint, pydantic.ValidationError, hint.classes
        try:
            self._adapter = pydantic.TypeAdapter(hint.type)
            self._adapter.rebuild(force=False, raise_errors=True)
        except Exception as error:
            # a field of a type that it does not know, a name that does not exist
            raise InvalidModel(
                f"schema {_named(hint.type)}: {str(error).partition(chr(10))[0]}"
            ) from error
        self.json = self._document(pydantic)

    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Return *value*, or the object that the class makes of it."""
        try:
            made = self._made(value)
        except self._error as error:
            raise self._refused(mismatch.of_pydantic(error, value), _root(reason), reason) from None
        except RecursionError:
            raise _failure(f"{_root(reason)}: nested too deeply to be checked", reason) from None
        return made if self._hint.own else value

    def _made(self, value: Any) -> Any:
        hint = self._hint
        if hint.own and not hint.strict:
            return self._adapter.validate_python(value)  # as the model says itself, strict or not
        if not hint.own:
            return self._adapter.validate_python(value, strict=True)
        try:  # JSON has no dates, sets or tuples: strict about what it has, and no more
            text = json.dumps(value)
        except (TypeError, ValueError):
            # bytes and decimals, which are tagged in JSON; objects of the class itself
            return self._adapter.validate_python(value, extra=hint.extra)
        return self._adapter.validate_json(text, strict=True, extra=hint.extra)

    def _document(self, pydantic: Any) -> Mapping[str, Any]:
        class Quiet(pydantic.json_schema.GenerateJsonSchema):  # type: ignore[misc]
            ignored_warning_kinds: typing.ClassVar = {"skipped-choice", "non-serializable-default"}

        try:
            found: Mapping[str, Any] = self._adapter.json_schema(schema_generator=Quiet)
        except pydantic.errors.PydanticInvalidForJsonSchema:  # it can be checked, not written down
            found = {"title": _named(self._hint.type)}
        return found


def _named(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint))[:_SHOWN]


# -- JSON Schema -----------------------------------------------------------------------------------

_EXAMPLE = "{'properties': {'page': {'type': 'integer'}}, 'required': ['page']}"
_ANNOTATIONS = {
    "$schema",
    "$id",
    "$anchor",
    "$comment",
    "$defs",
    "$vocabulary",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
}
"""Keywords that say nothing about what is valid."""


class _Document(Schema):
    """A JSON Schema, checked by jsonschema: Draft 2020-12 unless its ``$schema`` names another;
    formats are notes, not rules.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        jsonschema = _library("jsonschema")
        self._best = jsonschema.exceptions.best_match
        try:
            self.json = json.loads(json.dumps(dict(given), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidModel(
                f"a JSON Schema has a JSON form, such as {_EXAMPLE}: {error}"
            ) from error
        kind = (
            jsonschema.validators.validator_for(self.json, default=None)
            if "$schema" in self.json
            else jsonschema.Draft202012Validator
        )
        if kind is None:
            raise InvalidModel(
                f"schema: $schema is {str(self.json['$schema'])[:_SHOWN]!r}; leave it out for Draft"
                " 2020-12"
            )
        if self.json and not self.json.keys() & (kind.VALIDATORS.keys() | _ANNOTATIONS):
            unknown = ", ".join(map(repr, list(self.json)[:5]))[:_SHOWN]
            raise InvalidModel(
                f"schema: none of {unknown} is a keyword of JSON Schema; write fields as in"
                f" {_EXAMPLE}"
            )
        try:
            kind.check_schema(self.json)
        except jsonschema.SchemaError as error:
            raise InvalidModel(f"not a JSON Schema: {self._told([error])}") from error
        # only what comes with the library: nothing is ever fetched
        registry = _library("jsonschema_specifications").REGISTRY
        _check_references(self.json, kind, registry)
        self._validator = kind(self.json, registry=registry)
        plain = {name: value for name, value in self.json.items() if name not in ("$schema", "$id")}
        self._quick = quick_check(plain) if kind is jsonschema.Draft202012Validator else None
        try:
            next(self._validator.iter_errors(None), None)
        except RecursionError:
            raise InvalidModel("schema: its $ref refers to itself without end") from None

    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Return *value*."""
        # jsonschema takes 0.1 ms for a record of ten fields
        if self._quick is not None and self._quick(value):
            return value
        try:
            found = list(
                itertools.islice(self._validator.iter_errors(value), mismatch.MAX_NAMED + 1)
            )
        except RecursionError:
            raise _failure("$: nested too deeply to be checked", reason) from None
        except Exception as error:  # NaN has no multiples, a Decimal is not added to a float
            raise _failure(
                f"$: the value cannot be checked against the schema ({type(error).__name__})",
                reason,
            ) from error
        if found:
            raise _failure(self._told(found), reason)
        return value

    def _told(self, found: Iterable[Any]) -> str:
        return mismatch.told(
            mismatch.of_jsonschema(found, self._best), "$", frozenset(mismatch.names(self.json))
        )


def _check_references(document: Mapping[str, Any], kind: Any, registry: Any) -> None:
    """Check that everything that *document* refers to lies in it, or is one of JSON Schema's own
    documents.
    """
    referencing = _library("referencing.jsonschema")
    specification = referencing.specification_with(kind.META_SCHEMA["$schema"])
    root = specification.create_resource(document)
    waiting = [(root, registry.resolver_with_root(root))]
    while waiting:
        resource, resolver = waiting.pop()
        for keyword in ("$ref", "$dynamicRef"):
            reference = (
                resource.contents.get(keyword) if isinstance(resource.contents, Mapping) else None
            )
            try:
                if isinstance(reference, str):
                    resolver.lookup(reference)
            except Exception as error:
                raise InvalidModel(
                    f"schema: {keyword} {str(reference)[:_SHOWN]!r} is not in the document, and"
                    " none is ever fetched; put what it means below $defs and refer to '#/$defs/…'"
                ) from error
        waiting += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]


# -- what both share -------------------------------------------------------------------------------


def _library(name: str) -> Any:
    # Where it is installed, as beside JupyterLab, jsonschema imports rfc3987_syntax for a format
    # that is not checked here; that one builds a parser first, for five seconds.
    slow = "rfc3987_syntax"
    hidden = name == "jsonschema" and not {name, slow} & sys.modules.keys()
    try:
        if hidden:
            sys.modules[slow] = None  # type: ignore[assignment]
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidModel(
            f"a schema needs {name.partition('.')[0]}: {how_to_install('schema')}"
        ) from error
    finally:
        if hidden:
            del sys.modules[slow]


def _failure(message: str, reason: str) -> ModelFailure:
    return ModelFailure(
        message,
        reason=reason,
        permanent=True,
        kind="InvalidInput" if reason == INPUT else "InvalidOutput",
    )


def _root(reason: str) -> str:
    return "output" if reason == OUTPUT else "data"
