"""The shapes of requests and answers, as JSON Schemas for the documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def ref(name: str) -> Json:
    """Return a reference to the shape *name*."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Mapping[str, Any], optional: tuple[str, ...] = ()) -> Json:
    """Return an object that has all *properties* but the *optional* ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _nullable(kind: str) -> Json:
    return {"type": [kind, "null"]}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}
_YES: Json = {"type": "boolean"}
_TIME: Json = {"type": ["string", "null"], "format": "date-time"}

_ATTEMPT: Json = {
    "event_id": _TEXT,
    "source": _TEXT,
    "type": _TEXT,
    "subject": _nullable("string"),
    "subscription": _TEXT,
    "model": _nullable("string"),
    "version": _nullable("string"),
    "role": _TEXT,
    "attempt": _WHOLE,
    "outcome": _TEXT,
    "reason": _nullable("string"),
    "published_at": _TIME,
    "settled_at": _TIME,
    "model_ms": _nullable("number"),
    "total_ms": _nullable("number"),
    "output": {},
    "error_type": _nullable("string"),
    "error": _nullable("string"),
}
_STATE = object_of(
    {"subscription": _TEXT, "state": _TEXT, **_ATTEMPT},
    tuple(name for name in _ATTEMPT if name != "subscription"),
)
_RECEIPT: Json = {
    "id": _TEXT,
    "topic": _TEXT,
    "duplicate": _YES,
    "subscriptions": _list(_TEXT),
    "status": _TEXT,
    "differs": _YES,
    "outcomes": _list(ref("State")),
}

SHAPES: Json = {
    "CloudEvent": {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "subject": _TEXT,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": _TEXT,
            "dataschema": _TEXT,
            "data": {},
            "data_base64": _TEXT,
        },
        "required": ["specversion", "id", "source", "type"],
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
    },
    "Receipt": object_of(_RECEIPT, ("differs", "outcomes")),
    "Receipts": object_of({"receipts": _list(ref("Receipt"))}),
    "State": _STATE,
    "EventStates": object_of(
        {
            "id": _TEXT,
            "events": _list(
                object_of(
                    {
                        "topic": _TEXT,
                        "source": _TEXT,
                        "type": _TEXT,
                        "subscriptions": _list(ref("State")),
                    }
                )
            ),
        }
    ),
    "Cancelled": object_of({"begun": _list(_TEXT)}),
    "Subscriptions": object_of(
        {
            "subscriptions": _list(
                object_of(
                    {
                        "name": _TEXT,
                        "topic": _TEXT,
                        "model": _TEXT,
                        "role": _TEXT,
                        "emit": _nullable("string"),
                        "paused": _YES,
                    }
                )
            )
        }
    ),
    "Outcome": object_of({"cursor": _WHOLE, **_ATTEMPT}),
    "Outcomes": object_of({"outcomes": _list(ref("Outcome")), "cursor": _WHOLE, "next": _TEXT}),
    "Depth": object_of(
        {
            **dict.fromkeys(("backlog", "visible", "delayed", "in_flight", "dead"), _WHOLE),
            "oldest_s": _nullable("number"),
        }
    ),
    "DeadLetters": object_of(
        {
            "dead_letters": _list(
                object_of(
                    {
                        "id": _TEXT,
                        "source": _TEXT,
                        "type": _TEXT,
                        "subject": _nullable("string"),
                        "reason": _TEXT,
                        "attempts": _WHOLE,
                        "error_type": _nullable("string"),
                        "error": _nullable("string"),
                    }
                )
            )
        }
    ),
    "Redrive": object_of({"events": _list(_TEXT), "source": _TEXT}, ("events", "source")),
    "Discard": object_of(
        {"events": _list(_TEXT), "reason": {"type": "string", "minLength": 1}, "source": _TEXT},
        ("source",),
    ),
    "Changed": object_of({"events": _WHOLE}),
    "Label": object_of(
        {"event": _TEXT, "truth": {}, "source": _TEXT, "at": _TEXT, "by": _TEXT},
        ("source", "at", "by"),
    ),
    "Labelled": object_of({"labels": _WHOLE}),
    "Paused": object_of({"paused": _YES}),
    "Models": object_of(
        {
            "models": _list(
                object_of(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "description": _nullable("string"),
                        "aliases": _list(_TEXT),
                        "input_schema": {},
                        "output_schema": {},
                    }
                )
            )
        }
    ),
    "Answer": object_of(
        {
            "id": _TEXT,
            "model": _TEXT,
            "version": _TEXT,
            "output": {},
            "model_ms": _nullable("number"),
        }
    ),
    "TicketWanted": object_of({"path": {"type": "string", "pattern": "^/v1/"}}),
    "Ticket": object_of({"ticket": _TEXT, "url": _TEXT}),
    "Problem": object_of(
        {"type": _TEXT, "status": _WHOLE, "reason": _TEXT, "detail": _TEXT}, ("type",)
    ),
}
"""Name -> JSON Schema."""


def _in_path(name: str, example: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT, "example": example}


def _in(place: str, name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": place, "schema": schema, "description": description}


PARAMETERS: Json = {
    "Topic": _in_path("topic", "documents"),
    "Id": _in_path("id", "b7c9"),
    "Name": _in_path("name", "ocr"),
    "Lane": _in_path("lane", "ocr~replay-7"),
    "Model": _in_path("name", "ocr"),
    "Version": _in_path("version", "1.0.0"),
    "Source": _in("query", "source", _TEXT, "The source of an id that two sources have."),
    "IdempotencyKey": _in(
        "header", "Idempotency-Key", _TEXT, "The id of the event. A repeat changes nothing."
    ),
    "Prefer": _in("header", "Prefer", _TEXT, "wait=10 answers with the outcomes (RFC 7240)."),
    "After": _in(
        "query", "after", {"type": "integer", "minimum": 0}, "The cursor of the page before."
    ),
    "Limit": _in(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": 1000},
        "The most outcomes of a page.",
    ),
    "LastEventId": _in("header", "Last-Event-ID", _TEXT, "Where a stream goes on."),
}
"""Name -> parameter of the OpenAPI document."""
