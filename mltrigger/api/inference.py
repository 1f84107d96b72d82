"""The Open Inference Protocol v2, so that clients of Triton, KServe and MLServer work unchanged.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger._version import __version__
from mltrigger.api import tensors
from mltrigger.api.access import Holder
from mltrigger.api.intake import Unsupported
from mltrigger.api.models import Models, check, selector_of
from mltrigger.api.publishing import source_of
from mltrigger.api.service import Routes, Service, aside, large
from mltrigger.delivery.direct import Answer
from mltrigger.errors import NotFound
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.event.ids import new_id
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion

_LENGTH = "inference-header-content-length"


class Inference(Routes):
    """Serves models in the protocol of Triton.

    Parameters
    ----------
    service : Service
        The bus, and who may call.
    models : Models
        Calls models.
    """

    def __init__(self, service: Service, models: Models) -> None:
        super().__init__(service)
        self._models = models

    def routes(self) -> list[Route]:
        """Return the routes."""
        found = [
            Route("/v2", self._server, methods=["GET"]),
            Route("/v2/health/live", self._health, methods=["GET"]),
            Route("/v2/health/ready", self._health, methods=["GET"]),
        ]
        for one in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            found += [
                Route(one, self._metadata, methods=["GET"]),
                Route(f"{one}/ready", self._ready, methods=["GET"]),
                Route(f"{one}/infer", self._infer, methods=["POST"]),
            ]
        return found

    async def _health(self, _: Request) -> Response:
        return Response(status_code=503 if self._bus.closed else 200)

    async def _server(self, request: Request) -> Response:
        await self._service.holder(request)
        return JSONResponse(
            {"name": "mltrigger", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    async def _metadata(self, request: Request) -> Response:
        _, selector = await self._asked(request)
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
        _, selector = await self._asked(request)
        version = await self._service.slowly(self._bus.direct.ready, selector)
        return JSONResponse({"name": version.name, "version": version.version, "ready": True})

    async def _infer(self, request: Request) -> Response:
        holder, selector = await self._asked(request)
        version = await aside(resolve, self._bus.registry, selector)
        if "content-encoding" in request.headers:
            raise Unsupported("send the body as it is, without content-encoding")
        body = await request.body()
        wanted, events = await large(
            body, _read, body, request.headers.get(_LENGTH), version, source_of(holder)
        )
        answers = await self._models.called(selector, events)
        for event, answer in zip(events, answers, strict=True):
            check(answer, event)
        version_ran = answers[0].version or version.version
        content, length = await large(body, _written, wanted, answers, version.name, version_ran)
        media_type = "application/json" if length is None else "application/octet-stream"
        response = Response(content, media_type=media_type)
        if length is not None:
            response.headers[_LENGTH] = str(length)
        return response

    async def _asked(self, request: Request) -> tuple[Holder, Selector]:
        """Return who asks, and the model that the path names."""
        name, version = request.path_params["name"], request.path_params.get("version", "latest")
        holder = await self._service.permitted(request, "invoke", name)
        return holder, selector_of(name, version)


def _read(
    body: bytes, header_length: str | None, version: ModelVersion, source: str
) -> tuple[tensors.Request, list[Event]]:
    wanted = tensors.request_of(body, header_length)
    return wanted, _events(wanted, version, body, source)


def _written(
    wanted: tensors.Request, answers: Sequence[Answer], name: str, version: str
) -> tuple[bytes, int | None]:
    values = [codec.loads_own((each.output or "null").encode()) for each in answers]
    outputs = tensors.outputs_of(values)
    if wanted.outputs:
        by_name = {tensor.name: tensor for tensor in outputs}
        if unknown := [each for each in wanted.outputs if each not in by_name]:
            raise NotFound.of("output", unknown[0], by_name)
        outputs = [by_name[each] for each in wanted.outputs]
    about = {"model_name": name, "model_version": version}
    if wanted.id is not None:
        about["id"] = wanted.id
    return tensors.answer_of(about, outputs, wanted)


def _events(
    wanted: tensors.Request, version: ModelVersion, body: bytes, source: str
) -> list[Event]:
    """Return one event for each row.

    The id of a request names the request for its client, and may come again with other data. So
    the ids of its events name the data, too.
    """
    rows = tensors.rows_of(wanted, _schema(version.input_schema))
    if wanted.id is None:
        first = new_id()
    else:
        first = f"{wanted.id[:200]}.{hashlib.sha256(body).hexdigest()[:16]}"
    ids = [first] if len(rows) == 1 else [f"{first}.{i}" for i in range(len(rows))]
    return [Event(row, id=each, source=source) for row, each in zip(rows, ids, strict=True)]


def _schema(text: str | None) -> Any:
    return None if text is None else json.loads(text)
