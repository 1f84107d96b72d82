"""The gate: each request passes it before any route sees it.

It refuses foreign hosts and origins, bodies that are too large or too slow, and hides defects.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mltrigger.api.problems import Refused, problem
from mltrigger.api.settings import HEAD_BYTES, Limits

logger = logging.getLogger("mltrigger")


class Gate:
    """An ASGI application around another one.

    Parameters
    ----------
    app : ASGI application
        Gets the requests that pass.
    hosts : iterable of str
        The names in the header ``Host`` that are allowed, without a port.
    origins : iterable of str
        The origins of pages elsewhere that may call, such as ``https://app.example.org``.
    limits : Limits
        The limits of bodies.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str], origins: Iterable[str], limits: Limits
    ) -> None:
        self._app, self._limits = app, limits
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, _Body(receive, scope, self._limits), sending)
        except Refused as error:
            await self._answer(problem(error), began, scope, receive, send)
        except Exception as error:
            logger.exception("HTTP: %s %s failed", scope["method"], scope["path"][:200])
            await self._answer(problem(error), began, scope, receive, send)

    async def _answer(
        self, response: Response, began: bool, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not began:
            response.headers["connection"] = "close"  # a rest of the body may follow
            await response(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES:
            raise Refused(431, "too_large", f"the head of a request has at most {HEAD_BYTES} bytes")
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host.rpartition(":")[0].rstrip("0123456789:") and host[-1:].isdigit():
            name = host.rpartition(":")[0]
        else:
            name = host
        if name not in self._hosts:
            raise Refused(
                403,
                "bad_host",
                f"host {host[:100]!r} is not served here: name it when the server starts",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            own = {f"http://{host}", f"https://{host}"}
            if origin.lower() not in own:
                raise Refused(
                    403,
                    "bad_origin",
                    f"pages of {origin[:100]!r} may not call: name it when the server starts",
                )
        if headers.get("content-type", "").startswith("application/grpc"):
            raise Refused(415, "no_grpc", "gRPC is not served: use HTTP, /v2/models/NAME/infer")
        length = headers.get("content-length", "")
        if length and "transfer-encoding" in headers:  # two lengths: a proxy may read another one
            raise Refused(400, "bad_request", "send Content-Length or Transfer-Encoding, not both")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise _too_large(self._limits)


class _Body:
    """Receives the body of one request, within the limits."""

    def __init__(self, receive: Receive, scope: Scope, limits: Limits) -> None:
        self._receive, self._scope, self._limits = receive, scope, limits
        self._bytes, self._end_s, self._is_whole = 0, time.monotonic() + limits.body_s, False

    async def __call__(self) -> Message:
        if self._is_whole:  # the next message says that the client has gone
            return await self._receive()
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.0, self._end_s - time.monotonic())
            ):
                message = await self._receive()
        except TimeoutError:
            raise Refused(
                408, "too_slow", f"the body did not arrive within {self._limits.body_s:g} s"
            ) from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.body_bytes:
            raise _too_large(self._limits)
        self._is_whole = not message.get("more_body", False)
        return message


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413,
        "too_large",
        f"a body has at most {limits.body_bytes} bytes: put larger objects into a bucket or folder",
    )
