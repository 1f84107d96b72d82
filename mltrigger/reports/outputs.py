"""The outputs of models, as columns of a frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mltrigger.event import codec
from mltrigger.reports import frames
from mltrigger.text import harmless_value
from mltrigger.versions.running.measures import figures_of

_SIGNS = (r"\u", r"\b", r"\f")
"""The escapes of such characters in JSON."""


def columns(outputs: Sequence[str | None], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of *outputs*, which are JSON, for a frame with the columns of *schema*.

    The keys of an object become columns, ``output_<key>`` if *schema* has that name. Any other
    output stands in ``output``. Control and bidirectional characters are escaped as in every frame,
    also inside nested outputs.
    """
    there = [output for output in outputs if output is not None]
    found = _values(there)
    if dict not in set(map(type, found)):  # a million numbers need no dictionary each
        values = iter(found)
        alone = [None if output is None else next(values) for output in outputs]
        return {"output": frames.values(found if len(found) == len(outputs) else alone)}
    objects = [v if isinstance(v, dict) else {"output": v} for v in found]
    if any(key in schema for key in _keys(objects)):
        objects = [
            {f"output_{key}" if key in schema else key: v for key, v in each.items()}
            for each in objects
        ]
    keys = _keys(objects) or ["output"]
    if len(objects) < len(outputs):
        own = iter(objects)
        objects = [{} if output is None else next(own) for output in outputs]
    return {key: frames.values([one.get(key) for one in objects]) for key in keys}


def figures(measures: Sequence[str | None]) -> dict[str, list[float]]:
    """Return the columns of figures, such as ``measures.confidence``, NaN where missing."""
    if not any(measures):
        return {}
    each = [{} if text is None else figures_of(text) for text in measures]
    return {f"measures.{key}": [one.get(key, math.nan) for one in each] for key in _keys(each)}


def _values(outputs: Sequence[str]) -> list[Any]:
    """Return the values of *outputs*, which no text can harm."""
    values = codec.loads_each(outputs)
    if not _may_harm("".join(outputs)):
        return values
    return [
        harmless_value(value) if _may_harm(output) else value
        for value, output in zip(values, outputs, strict=True)
    ]


def _may_harm(output: str) -> bool:
    """Whether a text inside may have control or bidirectional characters, besides line breaks."""
    return not output.isprintable() or any(sign in output for sign in _SIGNS)


def _keys(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return the keys of all *objects*, in the order of their first appearance."""
    shapes = dict.fromkeys(map(tuple, objects))
    return list(dict.fromkeys(key for shape in shapes for key in shape))
