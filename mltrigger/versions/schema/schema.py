"""Schemas of a model's input and output, made of a class, of type hints or of a JSON Schema.

Pydantic checks a class (a pydantic model, a dataclass, a TypedDict), jsonschema-rs a JSON Schema.
Neither is loaded before the first schema. The type hints of a model are its schema unless it has
another (:func:`inferred`).
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.versions.schema.base import INPUT, OUTPUT, Schema
from mltrigger.versions.schema.classes import ClassSchema
from mltrigger.versions.schema.document import DocumentSchema
from mltrigger.versions.schema.hints import (
    Hint,
    defaults_to_none,
    is_class,
    item_of,
    return_hint,
)
from mltrigger.versions.schema.signature import first_hint

__all__ = ["INPUT", "OUTPUT", "Schema", "inferred", "schema_of"]

_SHOWN = 200


def schema_of(given: Any) -> Schema:
    """Return the schema that *given* is.

    Parameters
    ----------
    given
        A pydantic model, a dataclass, a TypedDict, a type of JSON values, or a JSON Schema.

    Raises
    ------
    InvalidModel
        For anything else. For an invalid JSON Schema it names the place. Also when the library
        that checks it is not installed.
    """
    if isinstance(given, Schema):
        return given
    if isinstance(given, Mapping):
        return DocumentSchema(given)
    if (hint := Hint.of(given)) is not None:
        return ClassSchema(hint)
    what = repr(given)[:_SHOWN]
    if is_class(type(given)):
        what = f"an object of {type(given).__name__}; hand over the class"
    raise InvalidModel(
        "a schema is a pydantic model, a dataclass, a TypedDict or a JSON Schema (a dict), not"
        f" {what}"
    )


def inferred(function: Any, batch: bool) -> tuple[Schema | None, Schema | None]:
    """Return the schemas that the type hints of *function* say.

    The argument's hint counts when it is a pydantic model, a dataclass, a TypedDict, or a type of
    JSON values (``str``, ``list[float]``, ``dict[str, Any]``, ``int | None`` …). The return's hint
    counts only when it is one of the first three: a model that returns ``float`` may well return
    numpy's. ``Event``, ``Any`` and unknown names say nothing. Without pydantic no hint does.

    Parameters
    ----------
    function
        The function that is called.
    batch : bool
        Whether it takes and returns a list: ``list[Page]`` says ``Page``.

    Returns
    -------
    tuple
        The schema of one event's data, and that of one output.
    """
    takes, gives = first_hint(function), return_hint(function)
    if batch:
        takes, gives = item_of(takes), item_of(gives)
    elif defaults_to_none(function) and takes is not None:
        takes = typing.Union[takes, None]  # noqa: UP007 - a hint may be something without an operator |
    return _hinted(takes), _hinted(gives, classes_only=True)


def _hinted(hint: Any, classes_only: bool = False) -> Schema | None:
    """Return the schema of *hint*, or ``None``: a hint promises nothing."""
    try:
        found = Hint.of(hint, classes_only)
        return None if found is None else ClassSchema(found)
    except InvalidModel:
        return None
