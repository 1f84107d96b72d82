"""The OpenAPI 3.1 document of a bus: the routes, and the schemas of each model version.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger._version import __version__
from mltrigger.api import version_paths
from mltrigger.api.operations import answer, content, get, post, refusals
from mltrigger.api.shapes import PARAMETERS, SHAPES, object_of, ref
from mltrigger.event.envelopes.cloudevents import BATCH

if TYPE_CHECKING:
    from mltrigger.store.registry import Registry
    from mltrigger.versions.version import ModelVersion

Json = dict[str, Any]


def openapi(registry: Registry, may: Callable[[str, str], bool], url: str = "/") -> Json:
    """Return the document.

    Parameters
    ----------
    registry : Registry
        The models.
    may : callable
        Takes a kind of scope and a name. Returns whether the reader may know of it.
    url : str
        Where the server is.
    """
    versions = [each for each in registry.versions() if may("invoke", each.name)]
    schemas: Json = {**SHAPES, **version_paths.SHAPES}
    paths: Json = {}
    for path, item in (*_general(), *_of_versions(versions, schemas)):
        paths.setdefault(path, {}).update(item)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mltrigger",
            "version": __version__,
            "description": "Topics, subscriptions and model versions of one bus.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": PARAMETERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


class Names:
    """Names of model versions that every language takes, different in any case.

    Parameters
    ----------
    versions : iterable of ModelVersion
        All versions of the document, always in the same order.
    """

    def __init__(self, versions: Iterable[ModelVersion]) -> None:
        self._names: dict[int, str] = {}
        taken: set[str] = set()
        for version in versions:
            # 1.10.0 and 11.0.0 must differ also for generators that drop underscores
            number = re.sub(r"[^A-Za-z0-9]+", "x", version.version)
            wanted = f"{re.sub(r'[^A-Za-z0-9]+', '_', version.name)}_v{number}"
            bare, n = wanted, 1
            while wanted.replace("_", "").lower() in taken:
                n += 1
                wanted = f"{bare}_n{n}"
            taken.add(wanted.replace("_", "").lower())
            self._names[version.id] = wanted

    def of(self, version: ModelVersion) -> str:
        """Return the name of *version*."""
        return self._names[version.id]

    def schemas(self, version: ModelVersion) -> dict[str, Json]:
        """Return the schemas of a version, by their names among the components.

        Generators know no definitions inside a schema, so each becomes a component.
        """
        found: dict[str, Json] = {}
        for kind, text in (("input", version.input_schema), ("output", version.output_schema)):
            if text is not None:
                found |= _components(f"{self.of(version)}_{kind}", json.loads(text))
        return found


def _components(name: str, schema: Json) -> dict[str, Json]:
    """Return *schema* and its definitions as components, with references that fit."""
    base, moved = f"#/components/schemas/{name}", {}
    inner: Json = {}
    for place in ("$defs", "definitions"):
        for key, each in (schema.get(place) or {}).items():
            own = f"{name}_{re.sub(r'[^A-Za-z0-9]+', '_', key)}"
            moved[f"#/{place}/{key}"] = f"#/components/schemas/{own}"
            inner[own] = each
    outer = {key: each for key, each in schema.items() if key not in ("$defs", "definitions")}
    return {own: _moved(each, base, moved) for own, each in ({name: outer} | inner).items()}


def _moved(schema: Any, base: str, moved: Mapping[str, str]) -> Any:
    """Return *schema* with the references that hold where it lies now."""
    if isinstance(schema, list):
        return [_moved(each, base, moved) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            found[key] = moved.get(value, f"{base}{value[1:]}")
        elif key not in ("$schema", "$id"):
            found[key] = _moved(value, base, moved)
    return found


def _of_versions(versions: list[ModelVersion], schemas: Json) -> Iterator[tuple[str, Json]]:
    names = Names(versions)
    for version in versions:
        own = names.schemas(version)
        schemas.update(own)
        name = names.of(version)
        takes = ref(f"{name}_input") if f"{name}_input" in own else {}
        members = dict(SHAPES["Answer"]["properties"])
        if f"{name}_output" in own:
            members["output"] = ref(f"{name}_output")
        yield (
            f"/v1/models/{version.name}/versions/{version.version}/invoke",
            post(
                f"invoke_{name}",
                f"Call {version.name} {version.version}",
                takes=content(takes),
                gives={"200": answer("The recorded answer.", object_of(members))},
                parameters=["IdempotencyKey"],
                tag="models",
            ),
        )


def _general() -> Iterator[tuple[str, Json]]:
    """Yield the paths that every bus has."""
    yield from _events()
    yield from _subscriptions()
    yield from version_paths.paths()
    yield from _models()
    yield from _browsers()


def _events() -> Iterator[tuple[str, Json]]:
    published = {
        "200": answer("Published, and every outcome is there.", ref("Receipt")),
        "202": answer("Published. Its status says what becomes of it.", ref("Receipt")),
    }
    # One media type each: generators cannot choose among several. The first also takes CloudEvents.
    yield (
        "/v1/topics/{topic}/events",
        post(
            "publish",
            "Publish an event: JSON, or a CloudEvent by its media type or headers",
            takes=content({}),
            gives=published,
            parameters=["Topic", "IdempotencyKey", "Prefer"],
            tag="events",
        ),
    )
    yield (
        "/v1/topics/{topic}/batch",
        post(
            "publish_batch",
            "Publish CloudEvents, all or none",
            takes={BATCH: {"schema": {"type": "array", "items": ref("CloudEvent")}}},
            gives={
                "200": answer("Published, and every outcome is there.", ref("Receipts")),
                "202": answer("Published.", ref("Receipts")),
            },
            parameters=["Topic", "Prefer"],
            tag="events",
        ),
    )
    yield (
        "/v1/events/{id}",
        get(
            "event",
            "State and answer of every subscription",
            "EventStates",
            ["Id", "Source"],
            "events",
        ),
    )
    yield (
        "/v1/labels",
        post(
            "label",
            "Keep the truth about an event",
            takes=content(ref("Label")),
            gives={"200": answer("Kept.", ref("Labelled"))},
            tag="events",
        ),
    )
    yield (
        "/v1/events/{id}/cancel",
        post(
            "cancel",
            "End an event where it has not begun",
            gives={"200": answer("Subscriptions that had begun.", ref("Cancelled"))},
            parameters=["Id", "Source"],
            tag="events",
        ),
    )


def _subscriptions() -> Iterator[tuple[str, Json]]:
    yield (
        "/v1/subscriptions",
        get("subscriptions", "List subscriptions", "Subscriptions", [], "subscriptions"),
    )
    one = "/v1/subscriptions/{name}"
    outcomes = get(
        "outcomes",
        "Outcomes as a page, or as server-sent events",
        "Outcomes",
        ["Name", "After", "Limit", "LastEventId"],
        "subscriptions",
    )
    outcomes["get"]["responses"]["200"]["content"]["text/event-stream"] = {
        "schema": {"type": "string"}
    }
    yield f"{one}/outcomes", outcomes
    yield f"{one}/depth", get("depth", "Count open events", "Depth", ["Name"], "subscriptions")
    yield (
        f"{one}/dead-letters",
        get("dead_letters", "List dead letters", "DeadLetters", ["Name"], "subscriptions"),
    )
    for action, takes, gives, said in (
        ("redrive", "Redrive", "Changed", "Deliver dead letters again"),
        ("discard", "Discard", "Changed", "Put dead letters away"),
        ("pause", None, "Paused", "Stop delivery"),
        ("resume", None, "Paused", "Go on with delivery"),
    ):
        yield (
            f"{one}/{action}",
            post(
                action,
                said,
                takes=content(ref(takes)) if takes else None,
                gives={"200": answer("Done.", ref(gives))},
                parameters=["Name"],
                tag="subscriptions",
                optional=action == "redrive",
            ),
        )


def _models() -> Iterator[tuple[str, Json]]:
    yield "/v1/models", get("models", "List model versions", "Models", [], "models")
    for path, name, parameters in (
        ("/v1/models/{name}/invoke", "invoke", ["Model"]),
        ("/v1/models/{name}/versions/{version}/invoke", "invoke_version", ["Model", "Version"]),
    ):
        yield (
            path,
            post(
                name,
                "Call a model version and wait for its answer",
                takes=content({}),
                gives={"200": answer("The recorded answer.", ref("Answer"))},
                parameters=[*parameters, "IdempotencyKey"],
                tag="models",
            ),
        )


def _browsers() -> Iterator[tuple[str, Json]]:
    yield (
        "/v1/tickets",
        post(
            "ticket",
            "Get a ticket that opens one stream within a minute",
            takes=content(ref("TicketWanted")),
            gives={"201": answer("The ticket.", ref("Ticket"))},
            tag="browsers",
        ),
    )
    session = post(
        "begin_session",
        "Exchange the token for a cookie",
        gives={"204": {"description": "The cookie is set."}},
        tag="browsers",
    )
    session["delete"] = {
        "operationId": "end_session",
        "summary": "End the session",
        "tags": ["browsers"],
        "responses": {"204": {"description": "The session has ended."}, **refusals()},
    }
    yield "/v1/session", session
