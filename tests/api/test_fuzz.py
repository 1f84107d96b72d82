"""Requests that schemathesis makes from the OpenAPI document: none ends in a 500."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
from http_client import Caller
from slow import examples

import mltrigger as mt

pytestmark = pytest.mark.xdist_group("schemathesis")  # one process imports it

OPERATIONS = [
    "publish",
    "publish_batch",
    "event",
    "cancel",
    "label",
    "subscriptions",
    "outcomes",
    "depth",
    "dead_letters",
    "redrive",
    "discard",
    "pause",
    "resume",
    "bindings",
    "promote",
    "canary",
    "rollback",
    "lanes",
    "open_lane",
    "stop_lane",
    "compare",
    "correct",
    "models",
    "invoke",
    "invoke_version",
    "invoke_pages_v1x0x0",
    "ticket",
    "begin_session",
    "end_session",
]
SCHEMA = {
    "type": "object",
    "properties": {"page": {"type": "integer", "minimum": 1}},
    "required": ["page"],
}


def document(api: Caller, bus: mt.EventBus) -> Any:
    bus.register(mt.model("pages", version="1.0.0", input_schema=SCHEMA)(lambda book: 1))
    return api.get("/v1/openapi.json").json()


def test_every_operation_is_fuzzed(api: Caller, served_bus: mt.EventBus) -> None:
    paths = document(api, served_bus)["paths"]
    found = {each["operationId"] for item in paths.values() for each in item.values()}
    others = ("invoke_double", "invoke_fails", "invoke_read")

    assert {name for name in found if not name.startswith(others)} == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_request_ends_in_a_500(
    operation: str, api: Caller, server: mt.Server, served_bus: mt.EventBus
) -> None:
    import schemathesis
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
    )

    schema = schemathesis.openapi.from_dict(document(api, served_bus))
    described = schema.find_operation_by_id(operation)

    @hypothesis.given(case=described.as_strategy())
    @hypothesis.settings(
        max_examples=examples(12), suppress_health_check=list(hypothesis.HealthCheck)
    )
    def sends(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        answer = case.call(base_url=server.url, headers=headers, timeout=20)

        assert answer.status_code != 500, answer.text
        if answer.status_code < 500:  # others say that a model failed or is busy
            checks = [content_type_conformance, response_schema_conformance]
            case.validate_response(answer, checks=checks)

    sends()
    assert api.get("/v1/health").status_code == 200
