"""Little servers on loopback that models are called at: obedient, slow, lying and broken ones, and
a proxy. All real sockets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import http.server
import ipaddress
import json
import select
import socket
import ssl
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Request:
    """What a server was asked; ``headers`` as they came, repeats included."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """Return the value of the one header *name*, ``None`` when it did not come."""
        found = [value for other, value in self.headers if other.lower() == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        """Return the body as Python's own reader takes it."""
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server answers: JSON of *value*, or *body* as it is."""

    status: int = 200
    value: Any = None
    body: bytes | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def sent(self) -> bytes:
        return json.dumps(self.value).encode() if self.body is None else self.body


class ModelServer:
    """An HTTP/1.1 server that keeps connections, answers what *answer* returns, and remembers what
    it was asked.

    Parameters
    ----------
    answer : callable, list or Reply
        From a Request to a Reply (or to a value, sent as JSON); a list is used up, its last reply
        stays.
    certificate : tuple of path, optional
        Certificate and key: then it speaks TLS.
    close : bool
        Whether each answer ends its connection.
    port : int
        Where it listens; by default on a free port.
    """

    def __init__(
        self,
        answer: Any,
        certificate: tuple[Path, Path] | None = None,
        *,
        close: bool = False,
        port: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.lock = threading.Lock()
        self._answer = answer
        self.close_each = close

        class Handler(_Handler):
            owner = self

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            # The handshake is the handler's: a client that refuses the certificate must not stop
            # the server.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"
        self.port = self._server.server_port
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, request: Request) -> Reply:
        """Return the answer to *request*, which is the last of ``requests``."""
        answer = self._answer
        if isinstance(answer, list):
            with self.lock:
                answer = answer[0] if len(answer) == 1 else answer.pop(0)
        found = answer(request) if callable(answer) else answer
        return found if isinstance(found, Reply) else Reply(value=found)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: ClassVar[ModelServer]

    def setup(self) -> None:
        with self.owner.lock:
            self.owner.connections += 1
            self.number = self.owner.connections
        super().setup()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client that goes is no error of the server
            super().handle()

    def _any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        request = Request(
            self.command,
            self.path,
            tuple(self.headers.items()),
            self.rfile.read(length),
            self.number,
        )
        with self.owner.lock:
            self.owner.requests.append(request)
        reply = self.owner.reply(request)
        body = reply.sent
        self.send_response(reply.status)
        given = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **reply.headers,
        }
        if self.owner.close_each:
            given["Connection"] = "close"
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = _any  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class RawServer:
    """A server that hands every connection to *behave*, with its number from 1; what happens next
    is up to that.
    """

    def __init__(self, behave: Callable[[socket.socket, int], object]) -> None:
        self.connections = 0
        self._behave = behave
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> RawServer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.drop()
        for thread in self._threads:
            thread.join(10)

    def drop(self) -> None:
        """End all connections there are."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                connection, _ = self._listening.accept()
                self.connections += 1
                self._open.append(connection)
                thread = threading.Thread(
                    target=self._serve, args=(connection, self.connections), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            self._behave(connection, number)


def read_request(connection: socket.socket) -> bytes:
    """Return one whole request, head and body; less when the client goes."""
    got = b""
    while b"\r\n\r\n" not in got and (part := connection.recv(65536)):
        got += part
    head, _, body = got.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)) and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


def whole_answer(body: bytes = b"{}", status: str = "200 OK", more: str = "") -> bytes:
    """Return the bytes of an answer that keeps the connection."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length:"
        f" {len(body)}\r\n{more}\r\n".encode()
        + body
    )


def reset(connection: socket.socket) -> None:
    """End *connection* with a reset instead of a close."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drip(connection: socket.socket, data: bytes, every_s: float, stop: threading.Event) -> None:
    """Send *data* a byte at a time."""
    for byte in data:
        connection.sendall(bytes([byte]))
        if stop.wait(every_s):
            return


class Proxy:
    """A forward proxy: absolute URLs for http, CONNECT for https.

    It remembers the first line and the headers of each request.

    Whatever it is asked for, the port *to* of this machine answers; without one it says 502.
    """

    def __init__(self, answer: bytes | None = None, *, to: int | None = None) -> None:
        self.to = to
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self._answer = answer
        self._server = RawServer(self._serve)
        self.url = self._server.url
        self.port = self._server.port

    def __enter__(self) -> Proxy:
        self._server.__enter__()
        return self

    def __exit__(self, *given: object) -> None:
        self._server.__exit__(*given)

    def drop(self) -> None:
        """End all connections, as a proxy does with those that were idle for too long."""
        self._server.drop()

    def _serve(self, client: socket.socket, _: int) -> None:
        while asked := read_request(client):
            head, _, body = asked.partition(b"\r\n\r\n")
            line = head.partition(b"\r\n")[0].decode()
            self.asked.append(line)
            self.heads.append(head)
            if self._answer is not None:
                client.sendall(self._answer)
                return
            method, target, _ = line.split(" ")
            if method == "CONNECT":
                with socket.create_connection(("127.0.0.1", self.to or 0), 5) as server:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _pump(client, server)
                return
            if self.to is None:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            parts = urllib.parse.urlsplit(target)
            with socket.create_connection(("127.0.0.1", self.to), 5) as server:
                first = f"{method} {parts.path} HTTP/1.1\r\nConnection: close\r\n".encode()
                rest = b"\r\n".join(
                    line
                    for line in head.split(b"\r\n")[1:]
                    if not line.lower().startswith(b"connection:")
                )
                server.sendall(first + rest + b"\r\n\r\n" + body)
                while part := server.recv(65536):
                    client.sendall(part)
            return


def _pump(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [], 10)
        for source in ready:
            part = source.recv(65536)
            if not part:
                return
            (other if source is one else one).sendall(part)
        if not ready:
            return


def self_signed(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """Return a new certificate for *name* that nobody but itself has signed, and its key, as files
    in *folder*.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.DNSName("model.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@contextlib.contextmanager
def unused_port() -> Iterator[int]:
    """Yield a port of loopback that refuses connections: it is bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
