"""Connections of the server: slow and silent ones are closed, so that others are served."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_GRACE_S = 1.0
_FULL = 3
"""With so many times too many, even the newest are closed."""
_HTTP2 = b"PRI * HTTP/2"
_WHY = b"HTTP/2 and gRPC are not served: use HTTP/1.1, /v2/models/NAME/infer"
_NO_HTTP2 = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_WHY), _WHY)
)


@dataclasses.dataclass
class Room:
    """The connections of one server that wait for a request, and the limits of all.

    With more than *most_silent* that wait, the oldest is closed, but not in its first second: its
    request may be on the way. A head must be there within *head_s* seconds. A client that takes
    nothing of an answer for *stalled_s* is cut off.
    """

    most_silent: int
    head_s: float
    stalled_s: float
    fresh: dict[Connection, float] = dataclasses.field(default_factory=dict)
    resting: dict[Connection, float] = dataclasses.field(default_factory=dict)
    """The connections that asked nothing yet, and the others. Each since a time of the loop."""
    looks: bool = False

    def make(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the oldest connections, if too many wait."""
        while (count := len(self.fresh) + len(self.resting)) > self.most_silent:
            waiting = self.fresh or self.resting  # those that never asked anything go first
            oldest, since_s = next(iter(waiting.items()))
            left_s = since_s + _GRACE_S - loop.time()
            if left_s > 0 and count <= _FULL * self.most_silent:
                self._look_again(loop, left_s)
                return
            del waiting[oldest]
            oldest.transport.abort()

    def _look_again(self, loop: asyncio.AbstractEventLoop, after_s: float) -> None:
        if not self.looks:
            self.looks = True
            loop.call_later(after_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.looks = False
        self.make(loop)


class Connection(H11Protocol):
    """One connection. It is silent until the head of a request is there."""

    def __init__(self, *given: Any, room: Room, **parts: Any) -> None:
        super().__init__(*given, **parts)
        self.access_log = False  # a line would have the ticket of a stream
        self._room = room
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._be_silent()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._speak()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
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
        """Wait for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._room.resting[self] = self.loop.time()
            self._room.make(self.loop)

    def pause_writing(self) -> None:
        """Give the client a while to take what was written."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._room.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken some of it."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def shutdown(self) -> None:
        """Close at the end of the server. A client that takes nothing is not waited for."""
        super().shutdown()
        if self._stalled is not None:
            self.transport.abort()

    def _be_silent(self) -> None:
        waiting = self._room.fresh if self.cycle is None else self._room.resting
        waiting[self] = self.loop.time()
        self._timer = self.loop.call_later(self._room.head_s, self.transport.abort)
        self._room.make(self.loop)

    def _speak(self) -> None:
        self._room.fresh.pop(self, None)
        self._room.resting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connections(most_silent: int, head_s: float, stalled_s: float) -> Callable[..., Connection]:
    """Return the function that makes one server's connections. See :class:`Room`."""
    return functools.partial(Connection, room=Room(most_silent, head_s, stalled_s))
