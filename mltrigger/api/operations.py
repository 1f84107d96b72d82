"""The parts of which the OpenAPI document describes requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mltrigger.api.shapes import ref

Json = dict[str, Any]
_JSON = "application/json"
_PROBLEM = "application/problem+json"


def get(name: str, summary: str, gives: str, parameters: list[str], tag: str) -> Json:
    """Return a request that reads. It answers with the shape *gives*."""
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "tags": [tag],
            "parameters": [parameter(each) for each in parameters],
            "responses": {"200": answer("Found.", ref(gives)), **refusals()},
        }
    }


def post(
    name: str,
    summary: str,
    *,
    gives: Json,
    tag: str,
    takes: Json | None = None,
    parameters: list[str] | None = None,
    optional: bool = False,
) -> Json:
    """Return a request that changes something.

    Parameters
    ----------
    name, summary, tag
        Its id, its title, and its group.
    gives : dict
        The answers by status.
    takes : dict, optional
        The content of the body.
    parameters : list of str, optional
        Names among the parameters.
    optional : bool
        Whether the body may be left out.
    """
    operation: Json = {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "parameters": [parameter(each) for each in parameters or ()],
        "responses": {**gives, **refusals()},
    }
    if takes is not None:
        operation["requestBody"] = {"required": not optional, "content": takes}
    return {"post": operation}


def content(schema: Mapping[str, Any]) -> Json:
    """Return JSON of *schema*, as the content of a body."""
    return {_JSON: {"schema": dict(schema)}}


def answer(description: str, schema: Mapping[str, Any]) -> Json:
    """Return an answer with JSON of *schema*."""
    return {"description": description, "content": content(schema)}


def refusals() -> Json:
    """Return the answers of requests that are refused."""
    refusal = {"description": "Refused.", "content": {_PROBLEM: {"schema": ref("Problem")}}}
    return {"4XX": refusal, "5XX": refusal}


def parameter(name: str) -> Json:
    """Return a reference to the parameter *name*."""
    return {"$ref": f"#/components/parameters/{name}"}
