"""The cockpit as a page: its files, its state as a stream, and its questions.

A token for everything may steer. One that may read all subscriptions gets the read-only form.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from mltrigger.api import page
from mltrigger.api.access import Holder
from mltrigger.api.problems import Refused
from mltrigger.api.seats import Cockpit, Seat, Seats, View
from mltrigger.api.service import (
    Routes,
    Service,
    bearer,
    begin_session,
    json_object,
)

PATH = "/v1/cockpit"
BEAT_S = 2.0
"""How often a stream says that the server lives. The page takes long silence for its end."""
MOST_BYTES = 1024 * 1024 + 4096
"""The largest question with its frame."""
_GAP_S, _MOST_REST_S, _SHARE = 0.2, 3.0, 0.1
"""The shortest time between two looks, the longest, and the largest share of a processor."""
_LOOKS, _READS, _ACTS, _COMPARES = 8, 8, 32, 4
"""How many run at the same time. No kind holds up another."""


class CockpitRoutes(Routes):
    """Serves the cockpit.

    Parameters
    ----------
    service : Service
        The bus, and who may call.
    cockpit : Cockpit
        Its parts.
    """

    def __init__(self, service: Service, cockpit: Cockpit) -> None:
        super().__init__(service)
        self._cockpit, self._seats = cockpit, Seats()
        self._looks = anyio.CapacityLimiter(_LOOKS)
        self._reads = anyio.CapacityLimiter(_READS)
        self._limiters = {
            "act": anyio.CapacityLimiter(_ACTS),
            "compare": anyio.CapacityLimiter(_COMPARES),
        }

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(PATH, self._page, methods=["GET"]),
            Route(f"{PATH}/events", self._events, methods=["GET"]),
            Route(f"{PATH}/asks", self._ask, methods=["POST"]),
            Route(f"{PATH}/files/{{name}}", self._file, methods=["GET"]),
        ]

    # -- the page ----------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        sessions, token = self._service.sessions, ""
        ticket = request.query_params.get("ticket")
        if ticket and request.method == "GET":  # a HEAD must not use it up
            token = sessions.redeem(ticket, PATH) or ""
        if token:
            # Answered here, not by a redirect: after a click in another page, a browser sends the
            # cookie only with what this page asks for.
            response = HTMLResponse(page.cockpit(), headers=page.HEADERS_OF_COCKPIT)
            begin_session(request, response, sessions.begin(token))
            return response
        try:
            await self._permitted(request)
        except Refused as error:
            why = str(error) if error.status == 403 else ""
            return HTMLResponse(page.cockpit_signed_out(why), headers=page.HEADERS_OF_COCKPIT)
        return HTMLResponse(page.cockpit(), headers=page.HEADERS_OF_COCKPIT)

    async def _file(self, request: Request) -> Response:
        cockpit, name = self._cockpit, request.path_params["name"]
        if name == "view.js":
            found = cockpit.module, "text/javascript"
        elif name == "view.css":
            found = cockpit.style, "text/css"
        elif name in page.FILES:
            found = page.FILES[name]
        else:
            raise Refused(404, "not_found", "there is no such file")
        return Response(found[0], media_type=found[1], headers=page.HEADERS_OF_COCKPIT)

    # -- the state ---------------------------------------------------------------------------------

    async def _events(self, request: Request) -> Response:
        _check_origin(request)
        holder = await self._permitted(request)
        if request.method != "GET":  # a HEAD must end
            return Response(media_type="text/event-stream", headers=page.HEADERS_OF_COCKPIT)
        seat = self._seats.find(request.query_params.get("seat"), holder.digest)
        if seat is None:
            self._seats.check(holder.digest)
            view = await anyio.to_thread.run_sync(self._opened, holder, limiter=self._looks)
            seat = self._seats.add(view, holder.digest)
        return StreamingResponse(
            self._told(request, seat, holder),
            media_type="text/event-stream",
            headers={**page.HEADERS_OF_COCKPIT, "x-accel-buffering": "no"},
        )

    def _opened(self, holder: Holder) -> View:
        return self._cockpit.open(self._bus, not holder.may("administer"))

    async def _told(self, request: Request, seat: Seat, holder: Holder) -> AsyncIterator[str]:
        stream = self._seats.take(seat)
        service, said_s, is_first = self._service, time.monotonic(), True
        try:
            yield _event("seat", seat.name)
            while not await request.is_disconnected() and await service.goes_on(holder):
                if seat.stream != stream:  # the page has come back by another one
                    return
                seat.woken.clear()
                while seat.reached:
                    number, done = seat.reached.popitem()
                    yield _event("progress", {"id": number, "done": done})
                news, began_s = service.bell.next(0), time.monotonic()
                changed, spent_s = await anyio.to_thread.run_sync(
                    _looked, seat.view, limiter=self._looks
                )
                if changed or is_first:
                    yield _event("state", seat.view.state)
                    said_s, is_first = time.monotonic(), False
                elif time.monotonic() - said_s >= BEAT_S:
                    yield _event("alive", {})
                    said_s = time.monotonic()
                await asyncio.sleep(_GAP_S)
                rest_s = min(spent_s / _SHARE, _MOST_REST_S) - (time.monotonic() - began_s)
                if rest_s > 0:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(seat.woken.wait(), rest_s)
                await _first(news.within(BEAT_S), seat.woken.wait())
        finally:
            self._seats.leave(seat, stream)

    # -- the questions -----------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Response:
        _check_origin(request)
        holder = await self._permitted(request)
        if not bearer(request) and "origin" not in request.headers:
            raise Refused(403, "bad_origin", "a question must come from the page of the cockpit")
        given = await json_object(request, MOST_BYTES)
        seat = self._seats.find(given.get("seat"), holder.digest)
        if seat is None:
            raise Refused(404, "no_seat", "this page was closed: load it again")
        number, what, args = given.get("id"), given.get("what"), given.get("args", {})
        if isinstance(number, bool) or not isinstance(number, int):
            raise Refused(400, "bad_request", "id must be a whole number")
        is_done = what == "act" and isinstance(args, dict) and args.get("go")
        if is_done and not holder.may("administer"):
            raise Refused(403, "not_permitted", f"token {holder.name!r} lacks the scope administer")
        limiter = self._limiters.get(what, self._reads) if isinstance(what, str) else self._reads
        if limiter.available_tokens == 0 and limiter is not self._reads:
            raise Refused(503, "busy", "too many questions wait for an answer: try again later", 1)
        loop = asyncio.get_running_loop()

        def tell(done: int) -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(seat.reach, number, done)

        said = await anyio.to_thread.run_sync(seat.view.ask, what, args, tell, limiter=limiter)
        seat.woken.set()
        answer = json.dumps({"type": "answer", "id": number, **said})
        headers = page.HEADERS_OF_COCKPIT
        return Response(answer, media_type="application/json", headers=headers)

    async def _permitted(self, request: Request) -> Holder:
        return await self._service.permitted(request, "read")


def _check_origin(request: Request) -> None:
    """Refuse pages of other origins, also those that may call the rest of the API."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "").lower()
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise Refused(
            403, "bad_origin", f"pages of {origin[:100]!r} may not use the cockpit: open it itself"
        )


def _looked(view: View) -> tuple[bool, float]:
    """Look once. Return whether the state changed, and the seconds of work."""
    began_s = time.thread_time()
    return view.look(), time.thread_time() - began_s


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n"


async def _first(*waiting: Any) -> None:
    """Wait for the first of several."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
