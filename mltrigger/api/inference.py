"""The Open Inference Protocol v2, so that clients of Triton, KServe and MLServer work unchanged.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger._version import __version__
from mltrigger.api import tensors
from mltrigger.api.models import Models, check, selector_of
from mltrigger.api.problems import problem
from mltrigger.api.service import Service, aside
from mltrigger.errors import NotFound
from mltrigger.event.event import Event
from mltrigger.event.ids import new_id
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

_LENGTH = "inference-header-content-length"
Handler = Callable[[Request], Awaitable[Response]]


class Inference:
    """Serves models in the protocol of Triton.

    Parameters
    ----------
    service : Service
        The bus, and who may call.
    models : Models
        Calls models.
    """

    def __init__(self, service: Service, models: Models) -> None:
        self._service, self._bus, self._models = service, service.bus, models

    def routes(self) -> list[Route]:
        """Return the routes."""
        found = [
            Route("/v2", _as_protocol(self._server), methods=["GET"]),
            Route("/v2/health/live", self._health, methods=["GET"]),
            Route("/v2/health/ready", self._health, methods=["GET"]),
        ]
        for one in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            found += [
                Route(one, _as_protocol(self._metadata), methods=["GET"]),
                Route(f"{one}/ready", _as_protocol(self._ready), methods=["GET"]),
                Route(f"{one}/infer", _as_protocol(self._infer), methods=["POST"]),
            ]
        return found

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200)

    async def _server(self, request: Request) -> Response:
        self._service.holder(request)
        return JSONResponse(
            {"name": "mltrigger", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def _metadata(self, request: Request) -> Response:
        selector = self._selector(request)
        return JSONResponse(await aside(self._described, selector))

    def _described(self, selector: Selector) -> dict[str, Any]:
        version = resolve(self._bus.registry, selector)
        return {
            "name": version.name,
            "versions": [each.version for each in self._bus.registry.versions(version.name)],
            "platform": "mltrigger",
            "inputs": tensors.described(_schema(version.input_schema), "input"),
            "outputs": tensors.described(_schema(version.output_schema), "output"),
        }

    async def _ready(self, request: Request) -> Response:
        version = await self._service.slowly(self._bus.direct.ready, self._selector(request))
        return JSONResponse({"name": version.name, "version": version.version, "ready": True})

    async def _infer(self, request: Request) -> Response:
        selector = self._selector(request)
        version = await aside(resolve, self._bus.registry, selector)
        body = await request.body()
        wanted = tensors.request_of(body, request.headers.get(_LENGTH))
        events = _events(wanted, version, body)
        answers = await self._models.called(selector, events)
        for event, answer in zip(events, answers, strict=True):
            check(answer, event)
        outputs = tensors.outputs_of([json.loads(each.output or "null") for each in answers])
        if wanted.outputs:
            by_name = {tensor.name: tensor for tensor in outputs}
            if unknown := [name for name in wanted.outputs if name not in by_name]:
                raise NotFound.of("output", unknown[0], by_name)
            outputs = [by_name[name] for name in wanted.outputs]
        about: dict[str, Any] = {
            "model_name": version.name,
            "model_version": answers[0].version or version.version,
            **({"id": wanted.id} if wanted.id is not None else {}),
        }
        content, length = tensors.answer_of(about, outputs, wanted)
        media_type = "application/json" if length is None else "application/octet-stream"
        response = Response(content, media_type=media_type)
        if length is not None:
            response.headers[_LENGTH] = str(length)
        return response

    def _selector(self, request: Request) -> Selector:
        name, version = request.path_params["name"], request.path_params.get("version", "latest")
        self._service.permitted(request, "invoke", name)
        return selector_of(name, version)


def _events(wanted: tensors.Request, version: ModelVersion, body: bytes) -> list[Event]:
    """Return one event for each row.

    The id of a request names the request for its client, and may come again with other data. So
    the ids of its events name the data, too.
    """
    rows = tensors.rows_of(wanted, _schema(version.input_schema))
    if wanted.id is None:
        first = new_id()
    else:
        first = f"{wanted.id[:200]}.{hashlib.sha256(body).hexdigest()[:16]}"
    source = f"/v2/models/{version.name}"
    ids = [first] if len(rows) == 1 else [f"{first}.{i}" for i in range(len(rows))]
    return [Event(row, id=each, source=source) for row, each in zip(rows, ids, strict=True)]


def _schema(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _as_protocol(handler: Handler) -> Handler:
    """Return *handler* with errors in the protocol's form: ``{"error": "…"}``."""

    @functools.wraps(handler)
    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            response = problem(error)
            if response.status_code == 500:
                raise
            said = json.loads(bytes(response.body))
            content = {"error": said["detail"], "reason": said["reason"]}
            again = JSONResponse(content, response.status_code)
            for name in ("retry-after", "www-authenticate"):
                if name in response.headers:
                    again.headers[name] = response.headers[name]
            return again

    return wrapped
