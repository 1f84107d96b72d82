"""The routes that describe the API: OpenAPI, AsyncAPI, and a page that shows both."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mltrigger.api import page
from mltrigger.api.access import Holder
from mltrigger.api.asyncapi import asyncapi
from mltrigger.api.openapi import openapi
from mltrigger.api.problems import Refused
from mltrigger.api.service import Routes, aside


class Documents(Routes):
    """Describes the API, as far as a token may use it."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self._home, methods=["GET"]),
            Route("/v1/health", self._health, methods=["GET"]),
            Route("/v1/openapi.json", self._openapi, methods=["GET"]),
            Route("/v1/asyncapi.json", self._asyncapi, methods=["GET"]),
            Route("/v1/docs", self._page, methods=["GET"]),
            Route("/v1/docs/{name}", self._file, methods=["GET"]),
        ]

    async def _home(self, _: Request) -> Response:
        return RedirectResponse("/v1/docs")

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _openapi(self, request: Request) -> Response:
        holder = await self._service.holder(request)
        return _download(await aside(self._described, request, holder), "openapi.json")

    async def _asyncapi(self, request: Request) -> Response:
        holder = await self._service.holder(request)
        return _download(await aside(self._topics, request, holder), "asyncapi.json")

    async def _page(self, request: Request) -> Response:
        try:
            holder = await self._service.holder(request)
        except Refused:
            return HTMLResponse(page.signed_out(), headers=page.HEADERS)
        described = await aside(self._described, request, holder)
        topics = await aside(self._topics, request, holder)
        return HTMLResponse(page.documents(described, topics), headers=page.HEADERS)

    async def _file(self, request: Request) -> Response:
        found = page.FILES.get(request.path_params["name"])
        if found is None:
            raise Refused(404, "not_found", "there is no such file")
        text, media_type = found
        return Response(text, media_type=media_type, headers=page.HEADERS)

    def _described(self, request: Request, holder: Holder) -> dict[str, Any]:
        return openapi(self._bus.registry, holder.may, str(request.base_url).rstrip("/"))

    def _topics(self, request: Request, holder: Holder) -> dict[str, Any]:
        return asyncapi(self._bus.registry, holder.may, request.url.netloc)


def _download(document: dict[str, Any], name: str) -> Response:
    return Response(
        json.dumps(document, indent=2, ensure_ascii=False),
        media_type="application/json",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )
