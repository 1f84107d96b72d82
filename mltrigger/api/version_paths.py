"""The part of the OpenAPI document about versions in production."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mltrigger.api.operations import answer, content, get, post
from mltrigger.api.shapes import object_of, ref

Json = dict[str, Any]
_TAG = "versions"
_TEXT: Json = {"type": "string"}
_SAID: Json = {"type": "string", "minLength": 1, "maxLength": 1000}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Json = {"type": ["number", "null"]}
_WHOLE: Json = {"type": "integer"}

_BINDING = object_of(
    {
        "subscription": _TEXT,
        "number": _WHOLE,
        "kind": _TEXT,
        "version": _TEXT,
        "canary": _TEXT_OR_NULL,
        "share": {"type": "number"},
        "from_event": _WHOLE,
        "at": {"type": "string", "format": "date-time"},
        "by": _TEXT,
        "why": _TEXT_OR_NULL,
        "verdict": _TEXT_OR_NULL,
        "answered": _WHOLE,
        "by_canary": _WHOLE,
    }
)
_RULE = object_of(
    {
        "name": _TEXT,
        "passed": {"type": ["boolean", "null"]},
        "figure": _NUMBER_OR_NULL,
        "interval": {"type": ["array", "null"], "items": _NUMBER_OR_NULL},
        "needs": {"type": ["integer", "null"]},
        "text": _TEXT,
        "harm": {"type": "boolean"},
    }
)


def _taken(properties: Json, *required: str) -> Json:
    """Return a body that has these members and no others."""
    optional = tuple(name for name in properties if name not in required)
    return {**object_of(properties, optional), "additionalProperties": False}


SHAPES: Json = {
    "Binding": _BINDING,
    "Bindings": object_of({"bindings": {"type": "array", "items": ref("Binding")}}),
    "Verdict": object_of(
        {
            "word": {"enum": ["SHIP", "HOLD", "WORSE", "NOT YET"]},
            "versions": {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2},
            "pairs": _WHOLE,
            "confidence": {"type": "number"},
            "repeated": {"type": "boolean"},
            "rules": {"type": "array", "items": _RULE},
        }
    ),
    "Promote": _taken(
        {
            "version": _TEXT,
            "verdict": ref("Verdict"),
            "backlog": {"enum": ["new", "old"]},
            "force": _SAID,
            "why": _SAID,
        }
    ),
    "Guard": _taken(
        {
            "errors": _NUMBER_OR_NULL,
            "p95": _NUMBER_OR_NULL,
            "measures": {
                "type": "object",
                "additionalProperties": {"enum": ["higher", "lower"]},
            },
            "alpha": {"type": "number"},
        }
    ),
    "CanaryWanted": _taken(
        {
            "version": _TEXT,
            "steps": {"type": "array", "items": {"type": "number"}, "minItems": 1},
            "guard": ref("Guard"),
            "min_events": {"type": "integer", "minimum": 1},
            "min_s": {"type": "number", "minimum": 0},
            "then": {"enum": ["wait", "promote"]},
            "why": _SAID,
        },
        "version",
    ),
    "Rollback": _taken({"to": {"type": ["string", "integer"]}, "why": _SAID}),
}
"""Name -> JSON Schema."""


def paths() -> Iterator[tuple[str, Json]]:
    """Yield the paths about versions."""
    one = "/v1/subscriptions/{name}"
    yield (
        f"{one}/bindings",
        get(
            "bindings",
            "Which version answers from which event on, by whom and why",
            "Bindings",
            ["Name"],
            _TAG,
        ),
    )
    for action, takes, said in (
        ("promote", "Promote", "Let a version answer from now on. Default: the canary"),
        ("canary", "CanaryWanted", "Let a version answer a growing share of the events"),
        ("rollback", "Rollback", "End the canary, or go back to an earlier version"),
    ):
        yield (
            f"{one}/{action}",
            post(
                action,
                said,
                takes=content(ref(takes)),
                gives={"200": answer("The binding that holds now.", ref("Binding"))},
                parameters=["Name"],
                tag=_TAG,
                optional=action != "canary",
            ),
        )
