"""The AsyncAPI 3 document of a bus: its topics, and the payloads of their events.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mltrigger._version import __version__
from mltrigger.api.openapi import Names
from mltrigger.errors import NotFound
from mltrigger.versions.selector import Selector, resolve

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.store.registry import Registry

Json = dict[str, Any]


def asyncapi(registry: Registry, may: Callable[[str, str], bool], host: str) -> Json:
    """Return the document.

    Parameters
    ----------
    registry : Registry
        The topics, subscriptions and models.
    may : callable
        Takes a kind of scope and a name. Returns whether the reader may know of it.
    host : str
        Where the server is, such as ``127.0.0.1:8000``.
    """
    specs, names = registry.subscriptions(), Names(registry.versions())
    channels: Json = {}
    operations: Json = {}
    schemas: Json = {}
    for topic in registry.topics():
        if may("publish", topic) and re.fullmatch(r"[A-Za-z0-9_.-]+", topic):
            mine = [spec for spec in specs if spec.topic == topic]
            channels[topic] = _channel(topic, _payload(registry, mine, names, schemas), mine)
            operations[f"publish_{topic}"] = {
                "action": "receive",  # the server receives what a client publishes
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": f"POST /v1/topics/{topic}/events",
            }
    for spec in specs:
        if may("read", spec.name):
            name = f"{spec.name}-outcomes"
            channels[name] = {
                "address": f"/v1/subscriptions/{spec.name}/outcomes",
                "description": f"The outcomes of {spec.selector}, as server-sent events.",
                "messages": {"outcome": {"payload": {"type": "object"}}},
            }
            operations[f"stream_{spec.name}"] = {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
            }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "mltrigger", "version": __version__},
        "servers": {"http": {"host": host, "protocol": "http"}},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"schemas": schemas},
    }


def _channel(topic: str, payload: Json, specs: list[SubscriptionSpec]) -> Json:
    to = ", ".join(f"{spec.name} ({spec.selector})" for spec in specs) or "nobody yet"
    return {
        "address": topic,
        "description": f"Delivered to: {to}.",
        "messages": {"event": {"contentType": "application/json", "payload": payload}},
    }


def _payload(
    registry: Registry, specs: list[SubscriptionSpec], names: Names, schemas: Json
) -> Json:
    """Return the schema of a topic's data: that of the models that take it."""
    found: dict[str, None] = {}
    for spec in specs:
        try:
            version = resolve(registry, Selector.parse(spec.selector))
        except NotFound:
            continue
        schemas |= names.schemas(version)
        if version.input_schema is not None:
            found[f"{names.of(version)}_input"] = None
    refs = [{"$ref": f"#/components/schemas/{name}"} for name in found]
    return refs[0] if len(refs) == 1 else {"anyOf": refs} if refs else {}
