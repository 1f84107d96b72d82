"""The part of the OpenAPI document about versions in production."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mltrigger.api.operations import answer, content, get, parameter, post, refusals
from mltrigger.api.shapes import object_of, ref

Json = dict[str, Any]
_TAG = "versions"
_TEXT: Json = {"type": "string"}
_SAID: Json = {"type": "string", "minLength": 1, "maxLength": 1000}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_NUMBER_OR_NULL: Json = {"type": ["number", "null"]}
_WHOLE: Json = {"type": "integer"}
_WHOLE_OR_NULL: Json = {"type": ["integer", "null"]}

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
        "needs": _WHOLE_OR_NULL,
        "text": _TEXT,
        "harm": {"type": "boolean"},
    }
)
_NUMBER: Json = {"type": "number"}
_NUMBERS = ("tolerance", "similar", "same_set", "agree_at_least", "confidence", "within")
_COMPARE: Json = {
    **dict.fromkeys(("old", "new", "field", "by", "since"), _TEXT),
    **dict.fromkeys((*_NUMBERS, "slow_at_most"), _NUMBER),
}


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
    "Lane": object_of(
        {
            "lane": _TEXT,
            "role": _TEXT,
            "version": _TEXT,
            "state": _TEXT,
            "share": {"type": "number"},
            "total": _WHOLE_OR_NULL,
            "done": _WHOLE,
            "failed": _WHOLE,
            "remaining": _WHOLE_OR_NULL,
            "rate_per_s": _NUMBER_OR_NULL,
            "effects": _TEXT_OR_NULL,
            "opened_at": {"type": ["string", "null"], "format": "date-time"},
            "by": _TEXT_OR_NULL,
            "why": _TEXT_OR_NULL,
        }
    ),
    "Lanes": object_of({"lanes": {"type": "array", "items": ref("Lane")}}),
    "LaneWanted": _taken(
        {
            "role": {"enum": ["shadow", "replay"]},
            "version": _TEXT,
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "since": _TEXT,
            "until": _TEXT,
            "limit": {"type": "integer", "minimum": 1},
            "effects": {"enum": ["recorded", "live"]},
            "concurrency": {"type": "integer", "minimum": 1},
            "max_rate_per_s": {"type": "number", "exclusiveMinimum": 0},
            "why": _SAID,
        },
        "role",
        "version",
    ),
    "Compared": object_of(
        {
            "summary": _TEXT,
            "counts": {"type": "object", "additionalProperties": _WHOLE},
            "verdict": ref("Verdict"),
        }
    ),
    "Correct": _taken(
        {
            "binding": _WHOLE,
            "limit": {"type": "integer", "minimum": 1},
            "max_rate_per_s": {"type": "number", "exclusiveMinimum": 0},
            "why": _SAID,
        },
        "binding",
    ),
    "Correction": object_of(
        {
            "state": _TEXT,
            **dict.fromkeys(
                ("answers", "done", "open", "corrected", "same", "dead", "skipped", "left"), _WHOLE
            ),
        }
    ),
    "Rollback": _taken({"to": {"type": ["string", "integer"]}, "why": _SAID}),
}
"""Name -> JSON Schema."""


_ONE = "/v1/subscriptions/{name}"


def paths() -> Iterator[tuple[str, Json]]:
    """Yield the paths about versions."""
    yield from _bindings()
    yield from _lanes()


def _bindings() -> Iterator[tuple[str, Json]]:
    yield (
        f"{_ONE}/bindings",
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
            f"{_ONE}/{action}",
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


def _lanes() -> Iterator[tuple[str, Json]]:
    lanes = get("lanes", "The live lane, a canary, shadows, replays", "Lanes", ["Name"], _TAG)
    opened = post(
        "open_lane",
        "Open a shadow of live events, or a replay of recorded ones",
        takes=content(ref("LaneWanted")),
        gives={"200": answer("The lane. The same request again finds it.", ref("Lane"))},
        parameters=["Name"],
        tag=_TAG,
    )
    yield f"{_ONE}/lanes", {**lanes, **opened}
    stopped = {
        "operationId": "stop_lane",
        "summary": "Begin no more calls in a lane. Rollback ends a canary",
        "tags": [_TAG],
        "parameters": [parameter("Name"), parameter("Lane")],
        "responses": {"200": answer("The lane.", ref("Lane")), **refusals()},
    }
    yield f"{_ONE}/lanes/{{lane}}", {"delete": stopped}
    compared = get("compare", "Compare two versions: the verdict", "Compared", ["Name"], _TAG)
    compared["get"]["parameters"] += [
        {"name": name, "in": "query", "required": name in ("old", "new"), "schema": schema}
        for name, schema in _COMPARE.items()
    ]
    yield f"{_ONE}/compare", compared
    yield (
        f"{_ONE}/correct",
        post(
            "correct",
            "Give the answers of a past binding again, and publish corrections",
            takes=content(ref("Correct")),
            gives={"200": answer("How far it is. A repeat goes on.", ref("Correction"))},
            parameters=["Name"],
            tag=_TAG,
        ),
    )
