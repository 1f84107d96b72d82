"""The outputs of models, as columns of a frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mltrigger.event import codec
from mltrigger.reports import frames
from mltrigger.text import harmless_value


def columns(outputs: Sequence[str | None], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of *outputs*, which are JSON, for a frame with the columns of *schema*.

    The keys of an object become columns, ``output_<key>`` if *schema* has that name. Any other
    output stands in ``output``. Control and bidirectional characters are escaped as in every frame,
    also inside nested outputs.
    """
    there = [output for output in outputs if output is not None]
    found = _values(there)
    if dict not in set(map(type, found)):  # of very many outputs, no object each is wanted
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
        each = iter(objects)
        objects = [{} if output is None else next(each) for output in outputs]
    return {key: frames.values([one.get(key) for one in objects]) for key in keys}


def _values(outputs: Sequence[str]) -> list[Any]:
    """Return the values of *outputs*, which no text can harm."""
    values, whole = codec.loads_each(outputs), "".join(outputs)
    if "\\" not in whole and whole.isprintable():
        return values
    return [
        harmless_value(value) if "\\" in output or not output.isprintable() else value
        for value, output in zip(values, outputs, strict=True)
    ]


def _keys(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return the keys of all *objects*, in the order of their first appearance."""
    shapes = dict.fromkeys(map(tuple, objects))
    return list(dict.fromkeys(key for shape in shapes for key in shape))
