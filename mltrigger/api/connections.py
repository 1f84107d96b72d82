"""Connections of the server: slow and silent ones are closed, so that others are served."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HTTP2 = b"PRI * HTTP/2"
_NO_HTTP2 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 67\r\n\r\nHTTP/2 and gRPC are not served: use HTTP/1.1, /v2/models/NAME/infer"
)


def connections(most_silent: int, head_s: float) -> type[H11Protocol]:
    """Return the class of one server's connections.

    With more than *most_silent* that wait for a request, the oldest is closed. A head must be there
    within *head_s* seconds.
    """
    fresh: dict[H11Protocol, None] = {}
    resting: dict[H11Protocol, None] = {}

    class Connection(H11Protocol):
        """One connection. It is silent until the head of a request is there."""

        _timer: asyncio.TimerHandle | None = None

        def __init__(self, *given: Any, **parts: Any) -> None:
            super().__init__(*given, **parts)
            self.access_log = False  # a line would have the ticket of a stream

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._be_silent()

        def connection_lost(self, exc: Exception | None) -> None:
            self._speak()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.cycle is None and data.startswith(_HTTP2):
                self.transport.write(_NO_HTTP2)
                self.transport.close()
                return
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._speak()
            elif self._timer is None:  # the first part of the next request
                self._be_silent()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete and not self.transport.is_closing():
                resting[self] = None
                self._make_room()

        def _be_silent(self) -> None:
            (fresh if self.cycle is None else resting)[self] = None
            self._timer = self.loop.call_later(head_s, self.transport.abort)
            self._make_room()

        def _make_room(self) -> None:
            while len(fresh) + len(resting) > most_silent:
                waiting = fresh or resting  # those that never asked anything go first
                oldest = next(iter(waiting))
                del waiting[oldest]
                oldest.transport.abort()

        def _speak(self) -> None:
            fresh.pop(self, None)
            resting.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
