"""A pool of connections that keep to a deadline: all that is sent and received in one call, headers
and body, however slowly it comes.

A socket's own timeout begins anew with every byte, so that a server which sends one byte a second
is never too slow for it. Here each wait is as long as what is left of the call.
"""

from __future__ import annotations

import functools
import http.client
import io
import math
import pathlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from mltrigger.versions.schemes.http.loopback import is_loopback_url

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

_PART_BYTES = 256 * 1024


class Progress(threading.local):
    """How far the call of this thread is.

    ``due`` is when it must end, ``fresh`` whether its connection is new. ``sent`` says whether a
    byte of the request went to a server that was connected, through TLS and proxy; ``answered``
    whether a byte of the answer has come.
    """

    due: float = math.inf
    fresh: bool = False
    sent: bool = False
    answered: bool = False

    def begin(self, due: float) -> None:
        """Begin a call that ends at *due* by the monotonic clock."""
        self.due, self.fresh, self.sent, self.answered = due, False, False, False

    def left_s(self) -> float:
        """Return how many seconds are left, always more than zero; raise TimeoutError when there
        are none.
        """
        left = self.due - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return left

    def wait(self, connection: socket.socket) -> None:
        """Let the next wait of *connection* last as long as there is time."""
        connection.settimeout(None if self.due == math.inf else self.left_s())


def _timed(connection: type, progress: Progress) -> type:
    """Return a subclass of *connection*, which is some HTTPConnection of the standard library, that
    keeps to the deadline of *progress*.
    """
    answer = functools.partial(_Answer, progress)
    return type(
        "TimedConnection",
        (_Timed, connection),
        {"progress": progress, "response_class": staticmethod(answer)},
    )


class _Timed(http.client.HTTPConnection):
    progress: Progress
    _connecting = False

    def connect(self) -> None:
        self.progress.fresh = self._connecting = True
        try:
            super().connect()  # what it sends, a proxy is asked for
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
    """What a socket receives, each wait no longer than what is left of the call."""

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
            # to http.client the end of everything is the end of the headers as well
            raise ConnectionAbortedError("the answer ended before its headers did")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def open_pool(origin: str, size: int, progress: Progress) -> tuple[HTTPConnectionPool, str]:
    """Return a pool for *origin*, through the proxy that the environment names for it, and the
    prefix of its targets.

    No proxy stands before this machine itself, whatever the environment says.
    """
    import requests
    import urllib3
    from requests.utils import (
        DEFAULT_CA_BUNDLE_PATH,
        get_auth_from_url,
        prepend_scheme_if_needed,
        select_proxy,
    )

    settings = requests.Session().merge_environment_settings(origin, {}, None, True, None)
    verify = settings["verify"] if isinstance(settings["verify"], str) else DEFAULT_CA_BUNDLE_PATH
    given: dict[str, Any] = {"maxsize": size, "block": False}
    if origin.startswith("https"):
        given |= {
            "cert_reqs": "CERT_REQUIRED",
            "ca_cert_dir" if pathlib.Path(verify).is_dir() else "ca_certs": verify,
        }
    proxy = None if is_loopback_url(origin) else select_proxy(origin, settings["proxies"])
    if not proxy:
        pool = urllib3.PoolManager(1, **given).connection_from_url(origin)
        prefix = ""
    elif proxy.lower().startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        pool, prefix = (
            SOCKSProxyManager(proxy, num_pools=1, **given).connection_from_url(origin),
            "",
        )
    else:
        proxy = prepend_scheme_if_needed(proxy, "http")  # type: ignore[no-untyped-call]
        user, password = get_auth_from_url(proxy)
        proxy_headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else {}
        pool = urllib3.ProxyManager(
            proxy, 1, proxy_headers=proxy_headers, **given
        ).connection_from_url(origin)
        prefix = origin if origin.startswith("http:") else ""
    pool.ConnectionCls = _timed(pool.ConnectionCls, progress)
    return pool, prefix
