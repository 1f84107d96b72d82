"""The routes that read subscriptions: their outcomes as pages and streams, their dead letters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mltrigger.api import answers
from mltrigger.api.access import Holder
from mltrigger.api.problems import Refused
from mltrigger.api.service import Routes, Service, aside, whole
from mltrigger.broker import SubscriptionSpec

BEAT_S = 5.0
"""How often a silent stream says that it lives."""
_PAGE, _LOOK = 100, 100
"""The outcomes of a page, and of one look of a stream."""
_LOOKS = 8
"""How many streams look at the same time. Publishing has threads of its own."""
_SHARE = 4
"""A token has at most one stream in so many."""


class Reading(Routes):
    """Reads subscriptions."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._open: Counter[str] = Counter()
        self._looks = anyio.CapacityLimiter(_LOOKS)

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/subscriptions/{name}"
        return [
            Route("/v1/subscriptions", self._subscriptions, methods=["GET"]),
            Route(f"{one}/outcomes", self._outcomes, methods=["GET"]),
            Route(f"{one}/depth", self._depth, methods=["GET"]),
            Route(f"{one}/dead-letters", self._dead_letters, methods=["GET"]),
        ]

    async def _subscriptions(self, request: Request) -> Response:
        holder = await self._service.holder(request)
        return JSONResponse({"subscriptions": await aside(self._listed, holder)})

    def _listed(self, holder: Holder) -> list[dict[str, Any]]:
        registry = self._bus.registry
        paused = registry.paused()
        return [
            {
                "name": spec.name,
                "topic": spec.topic,
                "model": spec.selector,
                "role": spec.role,
                "emit": spec.emit,
                "paused": spec.id in paused,
            }
            for spec in registry.subscriptions(None)
            if holder.may("read", spec.name)
        ]

    async def _outcomes(self, request: Request) -> Response:
        name = request.path_params["name"]
        streams = "text/event-stream" in request.headers.get("accept", "")
        streams = streams and request.method == "GET"  # a HEAD must end
        holder = await self._service.permitted(request, "read", name, opens=streams)
        spec = await aside(self._bus.spec, name)
        after = whole(request.query_params.get("after"), "after", 0)
        if streams:
            after = whole(request.headers.get("last-event-id"), "Last-Event-ID", after)
            return self._stream(request, spec, after, holder)
        limit = whole(request.query_params.get("limit"), "limit", _PAGE)
        if not 1 <= limit <= answers.MOST_ROWS:
            raise Refused(400, "bad_request", f"limit must be 1 to {answers.MOST_ROWS}")
        rows, last = await aside(answers.page, self._bus, spec, after, limit)
        following = f"/v1/subscriptions/{answers.quoted(name)}/outcomes?after={last}&limit={limit}"
        return JSONResponse({"outcomes": rows, "cursor": last, "next": following})

    def _stream(
        self, request: Request, spec: SubscriptionSpec, after: int, holder: Holder
    ) -> Response:
        most = self._service.limits.streams
        mine = self._open[holder.digest]
        if self._open.total() >= most or mine >= max(1, most // _SHARE):
            raise Refused(503, "too_many_streams", "too many open streams: try again later", 5)
        return StreamingResponse(
            self._events(request, spec, after, holder),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _events(
        self, request: Request, spec: SubscriptionSpec, after: int, holder: Holder
    ) -> AsyncIterator[str]:
        self._open[holder.digest] += 1
        try:
            yield "retry: 1000\n\n"
            while not await request.is_disconnected() and await self._service.goes_on(holder):
                news, before = self._service.news.next(spec.id), after
                rows, after = await anyio.to_thread.run_sync(
                    answers.page, self._bus, spec, after, _LOOK, limiter=self._looks
                )
                for row in rows:
                    yield f"id: {row['cursor']}\nevent: outcome\ndata: {json.dumps(row)}\n\n"
                if after != before and not rows:
                    yield f"id: {after}\n\n"  # to go on from here after a break
                if not rows and not await news.within(BEAT_S):
                    yield ": still here\n\n"
        finally:
            self._open[holder.digest] -= 1

    async def _depth(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._service.permitted(request, "read", name)
        spec = await aside(self._bus.spec, name)
        depth = await aside(self._bus.broker.depth, spec)
        fields = ("visible", "delayed", "in_flight", "dead", "oldest_s")
        counts = {field: getattr(depth, field) for field in fields}
        # one number for programs that scale workers: what there is to do now
        return JSONResponse({"backlog": depth.visible + depth.in_flight, **counts})

    async def _dead_letters(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._service.permitted(request, "read", name)
        spec = await aside(self._bus.spec, name)
        letters = await aside(self._bus.log.dead_letters, spec.id)
        fields = ("source", "type", "subject", "reason", "attempts", "error_type", "error")
        return JSONResponse(
            {
                "dead_letters": [
                    {"id": each.event_id, **{field: getattr(each, field) for field in fields}}
                    for each in letters
                ]
            }
        )
