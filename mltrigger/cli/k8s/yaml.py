"""A writer of YAML for manifests: mappings, lists, texts, numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*", re.ASCII)
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"}
"""Texts that some parser takes for something else."""


def dumped(value: Mapping[str, Any]) -> str:
    """Return *value* as a document in block style. Keys keep their order."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _under(f"{_scalar(key)}:", each, "" if _is_list(each) else "  ")
    else:
        for each in value:
            first, *others = list(_lines(each)) if _is_inner(each) else [_scalar(each)]
            yield f"- {first}"
            yield from (f"  {line}" for line in others)


def _under(head: str, value: Any, indent: str) -> Iterator[str]:
    if not _is_inner(value):
        yield f"{head} {_scalar(value)}"
        return
    yield head
    yield from (f"{indent}{line}" for line in _lines(value))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_inner(value: Any) -> bool:
    """Whether *value* has lines of its own. Empty ones are written as ``{}`` and ``[]``."""
    return bool(value) and (isinstance(value, Mapping) or _is_list(value))


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{}"
    if _is_list(value):
        return "[]"
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} has no place in a manifest")
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    number = ord(character)
    if 0x20 <= number < 0x7F:
        return character
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
