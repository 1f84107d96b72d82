"""Probes over HTTP: ``/livez`` and ``/readyz`` of a worker."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mltrigger.errors import MltriggerError
from mltrigger.text import one_line, redacted

_SLOW_S = 5.0
"""How long a client may take to ask."""
_MOST, _LONG = 20, 300
"""How many reasons an answer has, and how long each may be."""

Reasons = Callable[[], list[str]]


class Probes:
    """Answers the probes. Before :meth:`follow` the process lives, and is not ready."""

    def __init__(self) -> None:
        self._lifeless: Reasons = list
        self._unready: Reasons = lambda: ["it starts"]

    def follow(self, lifeless: Reasons, unready: Reasons) -> None:
        """Ask these two from now on. Each returns its reasons, none if all is well."""
        self._lifeless, self._unready = lifeless, unready

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the body for *path*."""
        checks = {"/livez": self._lifeless, "/readyz": self._unready}
        check = checks.get(path.partition("?")[0])
        if check is None:
            return 404, {"status": "not found", "paths": sorted(checks)}
        try:
            reasons = check()
        except Exception as error:  # a probe must be answered
            reasons = [f"{type(error).__name__}: {error}"]
        if not reasons:
            return 200, {"status": "ok"}
        shown = [one_line(redacted(reason))[:_LONG] for reason in reasons[:_MOST]]
        return 503, {"status": "unavailable", "reasons": shown}


@contextlib.contextmanager
def serving(host: str, port: int, probes: Probes) -> Iterator[int]:
    """Answer probes in a thread. Yield the port.

    Raises
    ------
    MltriggerError
        If the address is taken.
    """
    try:
        server = _Server(host, port, probes)
    except OSError as error:
        raise MltriggerError(
            f"--health {host}:{port} cannot be opened: {error.strerror or error}; name another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="mltrigger-health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, probes: Probes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.probes = probes
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind. Look up no name for the address, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no error of the worker."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SLOW_S
    server_version, sys_version = "mltrigger", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        status, said = self.server.probes.answer(self.path)
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a probe comes every few seconds."""
