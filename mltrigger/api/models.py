"""The routes that call a model: each version of each model is an API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api.access import Holder
from mltrigger.api.intake import FILES, bytes_of, events_of
from mltrigger.api.problems import Refused
from mltrigger.api.publishing import check_is_immediate, source_of
from mltrigger.api.service import Routes, aside, large
from mltrigger.delivery.direct import Answer
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.selector import Selector

_STATUS = {
    "timeout": 504,
    "invalid_input": 422,
    "model_rejected": 422,
    "rejected": 422,
    "throttled": 503,
    "retry": 503,
    "stopped": 503,
    "no_process": 503,
}
"""The status of an answer without an output, by its reason. Any other is 502: the model failed."""
_MOST_SAID = 1_000


class Models(Routes):
    """Calls models and describes them."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/models/{name}"
        return [
            Route("/v1/models", self._models, methods=["GET"]),
            Route(f"{one}/invoke", self._invoke, methods=["POST"]),
            Route(f"{one}/versions/{{version}}/invoke", self._invoke, methods=["POST"]),
        ]

    async def _models(self, request: Request) -> Response:
        holder = await self._service.holder(request)
        return JSONResponse({"models": await aside(self._listed, holder)})

    def _listed(self, holder: Holder) -> list[dict[str, Any]]:
        aliases = self._bus.registry.aliases()
        return [
            {
                "name": each.name,
                "version": each.version,
                "description": each.description,
                "aliases": [
                    alias
                    for (name, alias), version in aliases.items()
                    if name == each.name and version == each.version
                ],
                "input_schema": _loaded(each.input_schema),
                "output_schema": _loaded(each.output_schema),
            }
            for each in self._bus.registry.versions()
            if holder.may("invoke", each.name)
        ]

    async def _invoke(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version", "latest")
        holder = await self._service.permitted(request, "invoke", name)
        body = await request.body()
        source, key = source_of(holder), request.headers.get("idempotency-key")
        headers = dict(request.headers)
        if headers.get("content-type", "").startswith(FILES) and "ce-id" not in headers:
            event = bytes_of(headers, body, source, key)
        else:
            events = await large(body, events_of, headers, body, source, key)
            if len(events) != 1:
                raise Refused(400, "bad_request", "a call takes one event, no batch")
            (event,) = events
        (answer,) = await self.called(selector_of(name, version), [event])
        return _answered(event, answer)

    async def called(self, selector: Selector, events: Sequence[Event]) -> list[Answer]:
        """Call the model that *selector* means now, see ``Direct.submit``."""
        check_is_immediate(events)
        async with self._service.call():
            return await asyncio.wrap_future(self._bus.direct.submit(selector, events))


def selector_of(name: str, version: str) -> Selector:
    """Return the selector of a path: a version such as ``1.0.0`` or ``latest``, or an alias.

    Raises
    ------
    NotFound
        When it cannot be one.
    """
    numbered = version == "latest" or version[:1].isdigit()
    return Selector.parse(f"{name}{':' if numbered else '@'}{version}")


def check(answer: Answer, event: Event) -> None:
    """Refuse an answer without an output, and say why there is none."""
    if answer.outcome == "succeeded":
        return
    reason = answer.reason or "model_error"
    said = ": ".join(filter(None, (answer.error_type, answer.error))) or f"no answer: {reason}"
    status = _STATUS.get(reason, 503 if answer.outcome == "skipped" else 502)
    more = {"id": event.id, "model": answer.model, "version": answer.version}
    raise Refused(status, reason, short(said, _MOST_SAID), 1 if status == 503 else None, more)


def _answered(event: Event, answer: Answer) -> Response:
    check(answer, event)
    return JSONResponse(
        {
            "id": event.id,
            "model": answer.model,
            "version": answer.version,
            "output": _loaded(answer.output),
            "model_ms": answer.model_ms,
        }
    )


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
