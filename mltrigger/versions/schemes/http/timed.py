"""A pool of connections with a deadline over the whole call, headers and body.

A socket's own timeout starts again with every byte. So a server that sends one byte a second is
never too slow for it. Here each wait is as long as the rest of the call.

No library has such a deadline as fast. In urllib3 ``Timeout(total=0.5)`` bounds the connection and
each read. A body of 40 bytes, one every 0.1 s, took 3.9 s. The timeouts of requests, niquests and
httpx are for each read, too. With httpcore a network backend could hold the deadline, but httpcore
does not decode bodies.

CPU time of a call to a JSON endpoint on loopback, in microseconds: http.client 296, urllib3 630,
httpcore with such a backend 682, httpx 1,086, requests 1,582. With this pool and all checks of an
endpoint it is 815. libcurl has such a deadline, ``CURLOPT_TIMEOUT_MS``: pycurl takes 179. The
server of this measure is in ``benchmarks/models/calls.py``.

Sources: https://urllib3.readthedocs.io/en/stable/reference/urllib3.util.html#urllib3.util.Timeout
https://www.encode.io/httpcore/network-backends/ https://curl.se/libcurl/c/CURLOPT_TIMEOUT_MS.html
"""

from __future__ import annotations

import functools
import http.client
import io
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mltrigger.versions.schemes.http.loopback import is_loopback_url

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

Dial = Callable[[str, int, "float | None"], socket.socket]
"""Connects to a host and a port, within some seconds. Raises OSError."""
_PART_BYTES = 256 * 1024


class Progress(threading.local):
    """The progress of the call in this thread.

    Attributes
    ----------
    due : float
        The deadline, by the monotonic clock.
    fresh : bool
        Whether the connection is new.
    sent : bool
        Whether a byte of the request went to the connected server, behind TLS and proxies.
    answered : bool
        Whether a byte of the answer has come.
    """

    due: float = math.inf
    fresh: bool = False
    sent: bool = False
    answered: bool = False

    def begin(self, due: float) -> None:
        """Begin a call with the deadline *due*, by the monotonic clock."""
        self.due, self.fresh, self.sent, self.answered = due, False, False, False

    def left_s(self) -> float:
        """Return the seconds left, always more than 0. Raise TimeoutError when there are none."""
        left = self.due - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return left

    def wait(self, connection: socket.socket) -> None:
        """Let the next wait of *connection* end with the call."""
        connection.settimeout(None if self.due == math.inf else self.left_s())


class _Timed(http.client.HTTPConnection):
    progress: Progress
    _connecting = False

    def connect(self) -> None:
        self.progress.fresh = self._connecting = True
        try:
            super().connect()  # this may send a request to a proxy
        finally:
            self._connecting = False

    def send(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray)):
            super().send(data)
            return
        if self.sock is None:
            self.connect()
        self.progress.sent = self.progress.sent or not self._connecting
        rest = memoryview(data)
        while rest:
            self.progress.wait(self.sock)
            rest = rest[self.sock.send(rest[:_PART_BYTES]) :]


class _Answer(http.client.HTTPResponse):
    def __init__(self, progress: Progress, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self._reader = _Reader(self.fp.detach(), sock, progress)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        self._reader.in_head = True
        super().begin()
        self._reader.in_head = False


class _Reader(io.RawIOBase):
    """The bytes from a socket. Each wait ends with the call."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, progress: Progress) -> None:
        self._raw, self._socket, self._progress = raw, sock, progress
        self.in_head = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._progress.wait(self._socket)
        count: int | None = self._raw.readinto(buffer)
        if count:
            self._progress.answered = True
        elif self.in_head and self._progress.answered:
            # http.client takes the end of the connection for the end of the headers.
            raise ConnectionAbortedError("the answer ended before its headers did")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Dialled:
    """Connects by a function of ours. TLS still checks the name of the host."""

    dial: Dial

    def _new_conn(self: Any) -> socket.socket:
        from urllib3 import exceptions as u3

        try:
            found: socket.socket = self.dial(self._dns_host, self.port, self.timeout)
        except socket.gaierror as error:
            raise u3.NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise u3.ConnectTimeoutError(self, f"no connection to {self.host}") from error
        except OSError as error:
            raise u3.NewConnectionError(self, f"no connection: {error}") from error
        return found


def open_pool(
    origin: str, size: int, progress: Progress, dial: Dial | None = None
) -> tuple[HTTPConnectionPool, str]:
    """Return a pool for *origin* that keeps to the deadline, and the prefix of its targets.

    Proxies and certificates come from the environment, as requests reads it. This machine itself
    is never asked through a proxy, and nothing is with *dial*, which connects. The prefix is the
    origin, where a proxy needs whole URLs.
    """
    import requests
    import requests.adapters

    request = requests.Request("GET", origin).prepare()
    settings = requests.Session().merge_environment_settings(origin, {}, None, True, None)
    direct = dial is not None or is_loopback_url(origin)
    proxies = {} if direct else settings["proxies"]
    adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=size)
    pool: Any = adapter.get_connection_with_tls_context(request, settings["verify"], proxies)
    adapter.cert_verify(pool, origin, settings["verify"], None)  # type: ignore[no-untyped-call]
    answer = functools.partial(_Answer, progress)
    named: dict[str, Any] = {"progress": progress, "response_class": staticmethod(answer)}
    bases: tuple[type, ...] = (_Timed, pool.ConnectionCls)
    if dial is not None:
        named["dial"], bases = staticmethod(dial), (_Timed, _Dialled, pool.ConnectionCls)
    pool.ConnectionCls = type("TimedConnection", bases, named)
    needs_url = adapter.request_url(request, proxies).startswith("http")
    return pool, origin if needs_url else ""
