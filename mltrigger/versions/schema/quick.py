"""A quick yes for plain JSON Schemas: flat records need no validator to be seen to fit.

Whatever is not a clear yes is for jsonschema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
_NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "$defs",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
}
_KNOWN = _NOTES | {"type", "properties", "required", "items", "additionalProperties", "anyOf"}
"""Keywords of Draft 2020-12 that are understood here."""


def quick_check(schema: Any) -> Check | None:
    """Return a check that is true for values that fit *schema*, and may be false for others that
    do; ``None`` for a schema beyond it.
    """
    if schema is True:
        return _always
    if not isinstance(schema, Mapping) or schema.keys() - _KNOWN:
        return None
    checks = [
        part(schema) for part, names in _PARTS.items() if any(name in schema for name in names)
    ]
    certain = [check for check in checks if check is not None]
    if len(certain) < len(checks):
        return None
    return certain[0] if len(certain) == 1 else lambda value: all(check(value) for check in certain)


def _always(value: Any) -> bool:
    return True


def _of_type(schema: Mapping[str, Any]) -> Check:
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    kinds = frozenset(kind for name in names for kind in _TYPES[name])
    # exactly: a bool is no integer, and a subclass may be anything
    return lambda value: type(value) in kinds


def _of_fields(schema: Mapping[str, Any]) -> Check | None:
    """Return the check of an object's fields, required ones and others."""
    checks = {name: quick_check(inner) for name, inner in schema.get("properties", {}).items()}
    others = quick_check(schema.get("additionalProperties", True))
    if schema.get("additionalProperties") is False:
        others = _never
    if others is None or None in checks.values():
        return None
    known, required = (
        {name: check for name, check in checks.items() if check is not None},
        schema.get("required", ()),
    )
    rest = others

    def fits(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for name in required:
            if name not in value:
                return False
        return all(known.get(name, rest)(inner) for name, inner in value.items())

    return fits


def _never(value: Any) -> bool:
    return False


def _of_items(schema: Mapping[str, Any]) -> Check | None:
    check = quick_check(schema["items"])
    return None if check is None else lambda value: type(value) is list and all(map(check, value))


def _of_choices(schema: Mapping[str, Any]) -> Check | None:
    checks = [quick_check(inner) for inner in schema["anyOf"]]
    certain = [check for check in checks if check is not None]
    return (
        (lambda value: any(check(value) for check in certain))
        if len(certain) == len(checks)
        else None
    )


_PARTS: dict[Callable[[Mapping[str, Any]], Check | None], tuple[str, ...]] = {
    _of_type: ("type",),
    _of_fields: ("properties", "required", "additionalProperties"),
    _of_items: ("items",),
    _of_choices: ("anyOf",),
}
