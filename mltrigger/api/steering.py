"""The routes that change something: dead letters, pauses, labels, sessions of browsers."""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mltrigger.api.problems import Refused
from mltrigger.api.service import (
    Routes,
    aside,
    bearer,
    begin_session,
    cookie_of,
    json_object,
    session_of,
)

Handler = Callable[[Request], Awaitable[Response]]
_MOST_LABELS = 1_000


class Steering(Routes):
    """Steers subscriptions, and lets browsers in."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/subscriptions/{name}"
        return [
            Route(f"{one}/redrive", self._redrive, methods=["POST"]),
            Route(f"{one}/discard", self._discard, methods=["POST"]),
            Route(f"{one}/pause", self._pausing(True), methods=["POST"]),
            Route(f"{one}/resume", self._pausing(False), methods=["POST"]),
            Route("/v1/labels", self._label, methods=["POST"]),
            Route("/v1/session", self._begin_session, methods=["POST"]),
            Route("/v1/session", self._end_session, methods=["DELETE"]),
            Route("/v1/tickets", self._ticket, methods=["POST"]),
        ]

    async def _redrive(self, request: Request) -> Response:
        await self._service.permitted(request, "administer")
        sub = await aside(self._bus.subscription, request.path_params["name"])
        given = await json_object(request)
        redrive = functools.partial(sub.redrive, source=_source(given))
        return JSONResponse({"events": int(await aside(redrive, _ids(given.get("events"))))})

    async def _discard(self, request: Request) -> Response:
        await self._service.permitted(request, "administer")
        sub = await aside(self._bus.subscription, request.path_params["name"])
        given = await json_object(request)
        chosen, reason = _ids(given.get("events")), given.get("reason")
        if not isinstance(reason, str) or not reason or chosen is None:
            raise Refused(400, "bad_request", 'send {"events": ["ID"], "reason": "why"}')
        discard = functools.partial(sub.discard, source=_source(given))
        return JSONResponse({"events": int(await aside(discard, chosen, reason))})

    def _pausing(self, paused: bool) -> Handler:
        async def handler(request: Request) -> Response:
            await self._service.permitted(request, "administer")
            sub = await aside(self._bus.subscription, request.path_params["name"])
            await aside(sub.pause if paused else sub.resume)
            return JSONResponse({"paused": paused})

        return handler

    async def _label(self, request: Request) -> Response:
        holder = await self._service.permitted(request, "administer")
        given = await json_object(request)
        many = given.get("labels", [given])
        if not isinstance(many, list) or len(many) > _MOST_LABELS:
            raise Refused(400, "bad_request", f"labels must be a list of up to {_MOST_LABELS:,}")
        rows = [_label(each) for each in many]
        return JSONResponse({"labels": int(await aside(self._label_all, rows, holder.name))})

    def _label_all(self, rows: list[dict[str, Any]], by: str) -> int:
        return self._bus.label_batch(rows, by=by)

    # -- browsers ----------------------------------------------------------------------------------

    async def _begin_session(self, request: Request) -> Response:
        token = await self._token(request)
        response = Response(status_code=204)
        begin_session(request, response, self._service.sessions.begin(token))
        return response

    async def _end_session(self, request: Request) -> Response:
        self._service.sessions.end(session_of(request))
        response = Response(status_code=204)
        response.delete_cookie(cookie_of(request), path="/", httponly=True, samesite="strict")
        return response

    async def _ticket(self, request: Request) -> Response:
        token, path = await self._token(request), (await json_object(request)).get("path")
        if not isinstance(path, str) or not path.startswith("/v1/"):
            raise Refused(400, "bad_request", 'send {"path": "/v1/subscriptions/NAME/outcomes"}')
        where = urllib.parse.urlsplit(path)
        ticket = self._service.sessions.ticket(token, urllib.parse.unquote(where.path))
        query = "&".join(filter(None, (where.query, f"ticket={ticket}")))
        return JSONResponse({"ticket": ticket, "url": f"{where.path}?{query}"}, 201)

    async def _token(self, request: Request) -> str:
        """Return the token in the header. A session cannot prolong itself."""
        if not bearer(request):
            raise Refused(401, "no_token", "send the token: Authorization: Bearer mlt_…")
        await self._service.holder(request)
        return bearer(request)


def _label(given: Any) -> dict[str, Any]:
    """Return one label as a row."""
    if (
        not isinstance(given, dict)
        or not isinstance(given.get("event"), str)
        or given.get("truth") is None
        or not all(
            isinstance(given.get(name), (str, type(None))) for name in ("source", "at", "by")
        )
    ):
        raise Refused(400, "bad_request", 'send {"event": "ID", "truth": …}, truth as JSON')
    row = {"event_id": given["event"], "truth": given["truth"]}
    row |= {name: given[name] for name in ("source", "by") if given.get(name)}
    try:
        at = given.get("at")
        return {**row, "at": datetime.fromisoformat(at)} if at else row
    except ValueError:
        raise Refused(400, "bad_request", "at must be a time, as 2026-11-30T12:00Z") from None


def _source(given: Mapping[str, Any]) -> str | None:
    source = given.get("source")
    if source is not None and not isinstance(source, str):
        raise Refused(400, "bad_request", "source must be a text")
    return source


def _ids(given: Any) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise Refused(400, "bad_request", "events must be a list of ids")
    return given
