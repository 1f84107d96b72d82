"""A JSON Schema in a few words, and the fields that it knows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MOST = 200
"""Characters of an outline."""


def names(document: Any) -> Iterator[str]:
    """Yield the names of all fields that a JSON Schema mentions."""
    inner: Any = document if isinstance(document, list) else ()
    if isinstance(document, Mapping):
        if isinstance(fields := document.get("properties"), Mapping):
            yield from fields
        if isinstance(required := document.get("required"), list):
            yield from (name for name in required if isinstance(name, str))
        inner = document.values()
    for part in inner:
        yield from names(part)


def outline(document: Mapping[str, Any]) -> str:
    """Return a JSON Schema as a short text for a frame: ``page: integer, text?: string``."""
    text = _fields(document, document) or _kind(document, document)
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def referred(schema: Any, document: Mapping[str, Any]) -> Any:
    """Return the target of a ``$ref`` to ``#/$defs/…``.

    A schema without one, or with a target elsewhere, is returned itself.
    """
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if not reference:
        return schema
    found: Any = document
    for part in filter(None, str(reference).removeprefix("#").split("/")):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else schema


def _fields(schema: Any, document: Mapping[str, Any]) -> str:
    """Return ``page: integer, text?: string`` for the schema of an object, else an empty text."""
    schema = referred(schema, document)
    fields = schema.get("properties")
    if not isinstance(fields, Mapping):
        return ""
    required = schema.get("required", ())
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_kind(inner, document)}"
        for name, inner in fields.items()
    )


def _kind(schema: Any, document: Mapping[str, Any]) -> str:
    """Return the kind of value that a schema describes, in one word or a few."""
    if not isinstance(schema, Mapping):
        return "anything" if schema else "nothing"
    if reference := schema.get("$ref"):
        return str(reference).rpartition("/")[2] or "object"
    kinds = schema.get("type")
    if kinds == "array" and isinstance(schema.get("items"), Mapping):
        return f"array of {_kind(schema['items'], document)}"
    if isinstance(kinds, str):
        return kinds
    if isinstance(kinds, list):
        return " or ".join(map(str, kinds))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(choices, list):
            return " or ".join(dict.fromkeys(_kind(choice, document) for choice in choices))
    values = schema.get("enum", [schema["const"]] if "const" in schema else ())
    return " or ".join(json.dumps(value, ensure_ascii=False) for value in values[:10]) or "anything"
