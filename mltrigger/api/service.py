"""The service behind the routes: the bus, who may call, and work beside the event loop."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mltrigger.api.access import SESSION_S, Holder, Sessions, Tokens
from mltrigger.api.news import News
from mltrigger.api.problems import Refused
from mltrigger.api.settings import Limits
from mltrigger.errors import StoreError

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

_MOST_SLOW = 64
_REFRESH_S = 1.0
_LARGE = 64 * 1024
"""The most bytes that are read in the event loop."""
_MOST_CALLS = 512
_MOST_RATES = 10_000
Given = TypeVar("Given")


class Rate:
    """A token bucket for each caller. It holds two seconds' worth, at least one.

    Parameters
    ----------
    rate_per_s : float
        The average.
    now_s : callable
        Returns monotonic seconds.
    """

    def __init__(self, rate_per_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._now_s = rate_per_s, now_s
        self._full = max(1.0, 2 * rate_per_s)
        self._left: dict[str, tuple[float, float]] = {}

    def spend(self, caller: str) -> None:
        """Count one request of *caller*. Refuse it when there are too many."""
        now_s = self._now_s()
        left, then_s = self._left.pop(caller, (self._full, now_s))
        left = min(self._full, left + (now_s - then_s) * self._rate)
        if len(self._left) >= _MOST_RATES:
            del self._left[next(iter(self._left))]
        if left < 1:
            self._left[caller] = left, now_s
            after_s = (1 - left) / self._rate
            raise Refused(429, "too_many_requests", "too many requests: try again later", after_s)
        self._left[caller] = left - 1, now_s


class Service:
    """One bus, over HTTP.

    Parameters
    ----------
    bus : EventBus
        The bus.
    tokens : Tokens
        The tokens that are accepted.
    limits : Limits
        The limits of requests.
    """

    def __init__(self, bus: EventBus, tokens: Tokens, limits: Limits) -> None:
        self.bus, self.tokens, self.limits = bus, tokens, limits
        self.sessions, self.news = Sessions(), News(bus.wakeup, bus.log.following.ended_since)
        self.bell = News(bus.wakeup, lambda _: ({0}, 0))
        self._refreshing: asyncio.Task[None] | None = None
        self._rate, self._wrong = Rate(limits.rate_per_s), Rate(5.0)
        self._slow, self._calls = anyio.CapacityLimiter(_MOST_SLOW), 0

    def start(self) -> None:
        """Begin to look for news. Call it in the event loop."""
        self.news.start()
        self.bell.start()

    def stop(self) -> None:
        """End all streams."""
        self.news.stop()
        self.bell.stop()

    # -- who may -----------------------------------------------------------------------------------

    async def holder(self, request: Request, opens: bool = False) -> Holder:
        """Return the holder of the request's token: in a header, or by a session.

        A request that *opens* a stream may have a ticket instead.
        """
        token = bearer(request) or self.sessions.token(session_of(request)) or ""
        if not token and opens and (ticket := request.query_params.get("ticket")):
            token = self.sessions.redeem(ticket, request.url.path) or ""
        if token and not self.tokens.is_fresh:
            await self.refresh()
        holder = self.tokens.holder(token) if token else None
        if holder is None:
            self.count_wrong(request)
            if token:  # it may have been made in this second
                await aside(self.tokens.refresh)
                holder = self.tokens.holder(token)
        if holder is None:
            raise Refused(
                401,
                "no_token",
                "send a token: Authorization: Bearer mlt_…; `mltrigger token create` makes one",
            )
        self._rate.spend(holder.digest)
        request.state.sees_all = holder.may("administer")
        return holder

    async def permitted(
        self, request: Request, kind: str, what: str = "", opens: bool = False
    ) -> Holder:
        """Return the holder of the request's token. Refuse one without that scope."""
        holder = await self.holder(request, opens)
        if not holder.may(kind, what):
            scope = kind if kind == "administer" else f"{kind}:{what or '*'}"
            raise Refused(403, "not_permitted", f"token {holder.name!r} lacks the scope {scope}")
        return holder

    async def goes_on(self, holder: Holder) -> bool:
        """Whether a stream of *holder* may go on: its token is valid, and the server runs."""
        if not self.tokens.is_fresh:
            await self.refresh()
        return not self.news.is_over and self.tokens.is_valid(holder)

    def count_wrong(self, request: Request) -> None:
        """Count a request that does not prove who sends it. Refuse too many of one client."""
        self._wrong.spend(request.client.host if request.client is not None else "")

    async def refresh(self) -> None:
        """Read the tokens again, in a thread. Wait a second for it, if the store is silent."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(aside(self.tokens.refresh))
        with contextlib.suppress(TimeoutError, StoreError):
            await asyncio.wait_for(asyncio.shield(self._refreshing), _REFRESH_S)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Count a call of a model while it is under way. Refuse one too many."""
        if self._calls >= _MOST_CALLS:
            raise Refused(503, "busy", "too many calls are under way: try again later", 1)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    # -- work --------------------------------------------------------------------------------------

    async def slowly(self, function: Callable[..., Given], *given: Any) -> Given:
        """Call *function* in another thread. It may take long: a model, or a wait.

        With too many of them the request is refused.
        """
        if self._slow.available_tokens == 0:
            raise Refused(503, "busy", "too many requests wait for an answer: try again later", 1)
        return await anyio.to_thread.run_sync(
            functools.partial(function, *given), limiter=self._slow
        )


class Routes(abc.ABC):
    """Some of the routes of one service.

    Parameters
    ----------
    service : Service
        The bus, and who may call.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._bus = service, service.bus

    @abc.abstractmethod
    def routes(self) -> list[Route]:
        """Return the routes."""


async def aside(function: Callable[..., Given], *given: Any) -> Given:
    """Call *function* in another thread: it may wait for the disk."""
    return await anyio.to_thread.run_sync(functools.partial(function, *given))


async def large(body: bytes, function: Callable[..., Given], *given: Any) -> Given:
    """Call *function*, which reads *body*. A large one is read in another thread."""
    return function(*given) if len(body) <= _LARGE else await aside(function, *given)


def cookie_of(request: Request) -> str:
    """Return the name of the session's cookie. Servers of one host must not share it."""
    return f"mltrigger_session_{request.url.port or ''}"


def session_of(request: Request) -> str:
    """Return the id of the session that the cookie of a request has."""
    return request.cookies.get(cookie_of(request), "")


def begin_session(request: Request, response: Response, session: str) -> None:
    """Give the browser the cookie of a session. No script and no other site can use it."""
    response.set_cookie(
        cookie_of(request),
        session,
        max_age=int(SESSION_S),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def bearer(request: Request) -> str:
    """Return the token in the header ``Authorization``. Empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def media_type(request: Request) -> str:
    """Return the media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_object(request: Request, most_bytes: int | None = None) -> dict[str, Any]:
    """Return the JSON object of a request. An empty body is an empty object.

    The limit of the server is *most_bytes*, if that is smaller.
    """
    body = b""
    async for part in request.stream():
        body += part
        if most_bytes is not None and len(body) > most_bytes:
            raise Refused(413, "too_large", f"this body has at most {most_bytes} bytes")
    if not body.strip():
        return {}
    if media_type(request) != "application/json":
        raise Refused(415, "unsupported_media_type", "send application/json")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused(400, "bad_request", "the body must be a JSON object")
    return given


def whole(text: str | None, name: str, default: int) -> int:
    """Return the whole number that a request gives as *name*, or *default*."""
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Refused(400, "bad_request", f"{name} must be a whole number, 0 or more")
    return int(text)


def preferred_wait_s(request: Request, most_s: float) -> float:
    """Return the seconds of ``Prefer: wait`` (RFC 7240). 0 without it."""
    for part in request.headers.get("prefer", "").replace(";", ",").split(","):
        name, _, value = part.partition("=")
        if name.strip().lower() == "wait":
            try:
                return min(max(0.0, float(value.strip().strip('"'))), most_s)
            except ValueError:
                return 0.0
    return 0.0
