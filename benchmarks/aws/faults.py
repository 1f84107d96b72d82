"""A proxy on loopback that fails as AWS does: throttling, 500 after the call was applied,
connections that are reset, slow answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 60.0
_AFTER = {
    "DeleteMessageBatch": 0.10,
    "DeleteMessage": 0.10,
    "ChangeMessageVisibilityBatch": 0.05,
    "ChangeMessageVisibility": 0.05,
    "PublishBatch": 0.05,
    "Publish": 0.05,
    "SendMessageBatch": 0.05,
    "SendMessage": 0.05,
    "ReceiveMessage": 0.02,
}


@dataclasses.dataclass(frozen=True)
class Faults:
    """How often what happens, as shares of all calls; ``after`` by the action: 500 although the
    server did what it was asked.
    """

    throttled: float = 0.05
    unavailable: float = 0.01
    reset_before: float = 0.01
    reset_after: float = 0.01
    slow: float = 0.03
    slow_s: tuple[float, float] = (0.05, 0.5)
    after: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(_AFTER))


CALM = Faults(0, 0, 0, 0, 0, after={})
"""No faults."""


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to the server at *target*, but for *faults*; ``fired`` counts those by
    kind, ``seen`` the calls by action.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: str, faults: Faults, chance: random.Random) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.faults = urlsplit(target).netloc, faults
        self.fired: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self._chance, self._guard = chance, threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def fate(self, action: str) -> tuple[str, float]:
        """Return what happens to a call, and how many seconds it is late."""
        faults = self.faults
        with self._guard:
            self.seen[action] += 1
            late_s = (
                self._chance.uniform(*faults.slow_s) if self._chance.random() < faults.slow else 0.0
            )
            dice, kind = self._chance.random(), "passed"
            shares = {
                "throttled": faults.throttled,
                "unavailable": faults.unavailable,
                "reset before": faults.reset_before,
                "reset after": faults.reset_after,
                f"500 after {action}": faults.after.get(action, 0.0),
            }
            for name, share in shares.items():
                if dice < share:
                    kind = name
                    break
                dice -= share
            self.fired.update([kind] if kind != "passed" else [])
            self.fired.update(["slow"] if late_s else [])
        return kind, late_s

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection; one that shall be reset without a farewell."""
        with contextlib.suppress(OSError):
            if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) != struct.pack(
                "ii", 1, 0
            ):
                request.shutdown(socket.SHUT_WR)
        self.close_request(request)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer in one packet

    def _call(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind, late_s = self.server.fate(_action(self.headers, body))
        time.sleep(late_s)
        if kind in ("throttled", "unavailable"):
            self._refuse(kind)
        elif kind == "reset before":
            self._reset()
        else:
            status, headers, answer = self._passed_on(body)
            if kind == "reset after":
                self._reset()
            elif kind.startswith("500"):
                self._answer(500, {"Content-Type": "text/plain"}, b"")
            else:
                self._answer(status, headers, answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _call  # noqa: N815  (the names that the base class calls)

    def setup(self) -> None:
        """Take a connection of its own to the server for each one of a client."""
        super().setup()
        self._upstream = http.client.HTTPConnection(self.server.target, timeout=_TIMEOUT_S)

    def finish(self) -> None:
        """Leave the server's connection too."""
        self._upstream.close()
        super().finish()

    def _passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self._upstream.request(self.command, self.path, body, dict(self.headers))
        answer = self._upstream.getresponse()
        own = ("connection", "keep-alive", "transfer-encoding", "content-length")
        return (
            answer.status,
            {name: value for name, value in answer.getheaders() if name.lower() not in own},
            answer.read(),
        )

    def _refuse(self, kind: str) -> None:
        throttled = kind == "throttled"
        code, status = ("ThrottlingException", 400) if throttled else ("ServiceUnavailable", 503)
        if "X-Amz-Target" in self.headers:
            text = f'{{"__type": "com.amazonaws.sqs#{code}", "message": "Rate exceeded"}}'
            self._answer(status, {"Content-Type": "application/x-amz-json-1.0"}, text.encode())
        else:
            code = "Throttling" if throttled else code
            kind = "Sender" if throttled else "Receiver"
            text = (
                f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>Rate"
                " exceeded</Message></Error></ErrorResponse>"
            )
            self._answer(status, {"Content-Type": "text/xml"}, text.encode())

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def _action(headers: Any, body: bytes) -> str:
    """Return what is asked: SQS says it in a header, SNS and STS in the form."""
    target = headers.get("X-Amz-Target")
    if target:
        return str(target).rpartition(".")[2]
    found = re.search(rb"(?:^|&)Action=(\w+)", body)
    return found[1].decode() if found else "S3"


@contextlib.contextmanager
def proxy(target: str, faults: Faults, chance: random.Random) -> Iterator[Proxy]:
    """Run a proxy in front of *target* until the block ends."""
    server = Proxy(target, faults, chance)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
