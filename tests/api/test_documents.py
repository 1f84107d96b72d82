"""The documents: OpenAPI and AsyncAPI are valid, show each version, and a page shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from http_client import Caller

import mltrigger as mt
from mltrigger.api.access import Tokens
from mltrigger.cli import main

DATA = Path(__file__).parents[1] / "data"
INPUT = {
    "type": "object",
    "properties": {"page": {"$ref": "#/$defs/page"}},
    "required": ["page"],
    "$defs": {"page": {"type": "integer", "minimum": 1}},
}
OUTPUT = {"type": "array", "items": {"type": "string"}}


@pytest.fixture
def typed_bus(served_bus: mt.EventBus) -> mt.EventBus:
    model = mt.model("pages", version="1.0.0", input_schema=INPUT, output_schema=OUTPUT)
    served_bus.subscribe("books", model(lambda book: ["a"] * book["page"]), name="reader")
    return served_bus


def test_openapi_is_valid_and_has_the_schemas_of_each_version(
    api: Caller, typed_bus: mt.EventBus
) -> None:
    answer = api.get("/v1/openapi.json")
    document = answer.json()

    from openapi_spec_validator import OpenAPIV31SpecValidator

    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert "attachment" in answer.headers["content-disposition"]
    operation = document["paths"]["/v1/models/pages/versions/1.0.0/invoke"]["post"]
    taken = operation["requestBody"]["content"]["application/json"]["schema"]
    assert taken == {"$ref": "#/components/schemas/pages_v1x0x0_input"}
    kept = document["components"]["schemas"]["pages_v1x0x0_input"]
    assert kept["properties"]["page"]["$ref"] == "#/components/schemas/pages_v1x0x0_input_page"
    assert document["components"]["schemas"]["pages_v1x0x0_input_page"]["minimum"] == 1
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    assert len(ids) == len(set(ids))


def test_each_route_is_in_the_document(api: Caller, server: mt.Server) -> None:
    """But for those of other protocols, health, and the documents themselves."""
    paths = api.get("/v1/openapi.json").json()["paths"]
    app = server._app.gate._app  # type: ignore[attr-defined]
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, item in paths.items() for method in item}
    missing = {
        (path, method)
        for path, method in routes - described
        if not path.startswith(("/v2", "/v1/docs", "/v1/openapi", "/v1/asyncapi"))
        and path not in ("/", "/metrics", "/v1/health", "/v1/webhooks/{topic}", "/v1/events")
    }

    assert missing == set()


def test_asyncapi_is_valid_and_has_the_payloads_of_topics(
    api: Caller, typed_bus: mt.EventBus
) -> None:
    document = api.get("/v1/asyncapi.json").json()

    schema = json.loads((DATA / "asyncapi-3.0.0.json").read_text())
    jsonschema.Draft7Validator(schema).validate(document)
    payload = document["channels"]["books"]["messages"]["event"]["payload"]
    assert payload == {"$ref": "#/components/schemas/pages_v1x0x0_input"}
    assert "reader (pages:1.0.0)" in document["channels"]["books"]["description"]
    assert "double:latest" not in document["channels"]


def test_documents_show_only_what_the_token_may_use(
    server: mt.Server, typed_bus: mt.EventBus
) -> None:
    token = Tokens(typed_bus.registry).create("mine", ["invoke:double", "publish:books"])
    caller = Caller(server.url, token)

    assert "pages" not in caller.get("/v1/openapi.json").text
    assert set(caller.get("/v1/asyncapi.json").json()["channels"]) == {"books"}
    assert Caller(server.url).get("/v1/openapi.json").status_code == 401


def test_page_needs_no_network_and_escapes_what_it_shows(
    server: mt.Server, api: Caller, typed_bus: mt.EventBus
) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    schema = {"type": "object", "description": hostile}
    typed_bus.register(mt.model("hostile", version="1.0.0", input_schema=schema)(lambda x: x))
    signed_out = Caller(server.url).get("/v1/docs")
    page = api.get("/v1/docs")

    assert "hostile" not in signed_out.text
    assert hostile not in page.text
    assert "&lt;img" in page.text
    for answer in (signed_out, page):
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace(server.url, "")
        assert "https://" not in answer.text
    for name in ("page.css", "page.js"):
        assert Caller(server.url).get(f"/v1/docs/{name}").status_code == 200
    assert api.get("/v1/docs/../access.py").status_code == 404
    assert api.get("/v1/docs/%2e%2e%2faccess.py").status_code == 404


def test_documents_are_printed_for_generators(
    typed_bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{typed_bus.log.home}"
    printed: dict[str, Any] = {}
    for name in ("openapi", "asyncapi"):
        assert main(["api", name, "--url", url, "--server", "https://api.example.org"]) == 0
        printed[name] = json.loads(capsys.readouterr().out)

    assert printed["openapi"]["servers"] == [{"url": "https://api.example.org"}]
    assert printed["asyncapi"]["servers"]["http"]["host"] == "api.example.org"
