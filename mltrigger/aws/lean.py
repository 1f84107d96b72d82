"""The frequent calls of SQS without overhead: a signed request on a pooled connection.

boto3 spends most of a millisecond of CPU on a call of SQS. This spends a tenth of that. Everything
unusual is left to boto3: an answer without success, a broken connection, a proxy, a client
certificate, a hook in the client (a test's stub, a tracer). So boto3's retries, errors and
configuration hold for every call.

The protocol is that of the service model: JSON 1.0
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html),
signed by Signature Version 4
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mltrigger.versions.schemes.http.loopback import is_loopback

_EVENTS = (
    "provide-client-params",
    "before-parameter-build",
    "before-call",
    "request-created",
    "before-sign",
    "choose-signer",
    "before-send",
    "response-received",
    "needs-retry",
    "before-parse",
    "after-call",
    "after-call-error",
)
_ANSWER_S = 40.0
"""A long poll takes up to 20 s."""
_CONNECT_S = 5.0
_LOOK_S = 1.0
_LINE = 65_536
_MOST_BYTES = 64 * 1024 * 1024
_IDLE = 8
_CONTENT_TYPE = "application/x-amz-json-1.0"


class _Unusual(Exception):  # internal signal
    """A case for boto3."""


class _Unreadable(Exception):  # internal signal
    """An answer of a successful call that cannot be read."""


class LeanSqs:
    """The client of SQS, with three lean calls.

    Parameters
    ----------
    client : botocore client
        Makes all other calls, and these too in unusual cases.
    credentials : callable
        Returns the current access key, secret key and token.
    cafile : str
        The certificates that boto3 would trust.
    """

    def __init__(
        self,
        client: Any,
        credentials: Callable[[], tuple[str, str, str | None] | None],
        cafile: str,
    ) -> None:
        self._client, self._credentials, self._cafile = client, credentials, cafile
        endpoint = urllib.parse.urlsplit(client.meta.endpoint_url)
        self._tls = endpoint.scheme == "https"
        self._host, self._port = endpoint.hostname or "", endpoint.port
        self._path = endpoint.path or "/"
        self._netloc = endpoint.netloc
        self._idle: deque[_Connection] = deque(maxlen=_IDLE)
        self._plain: tuple[float, bool] = (0.0, False)
        self._usable = True

    def receive_message(self, **given: Any) -> dict[str, Any]:
        """Call ``receive_message``, as the client does."""
        return self._call("ReceiveMessage", self._client.receive_message, given)

    def delete_message_batch(self, **given: Any) -> dict[str, Any]:
        """Call ``delete_message_batch``, as the client does."""
        return self._call("DeleteMessageBatch", self._client.delete_message_batch, given)

    def change_message_visibility_batch(self, **given: Any) -> dict[str, Any]:
        """Call ``change_message_visibility_batch``, as the client does."""
        return self._call(
            "ChangeMessageVisibilityBatch", self._client.change_message_visibility_batch, given
        )

    def _call(
        self, action: str, usual: Callable[..., dict[str, Any]], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if not self._is_plain():
            return usual(**given)
        try:
            raw = self._request(action, json.dumps(given).encode())
        except _Unreadable:
            # The call had an effect, but its answer is lost: never use this path again.
            self._usable = False
            return usual(**given)
        except (_Unusual, OSError, ValueError):
            return usual(**given)
        try:
            return _decoded(raw)
        except (_Unusual, ValueError):
            self._usable = False
            return usual(**given)

    def _is_plain(self) -> bool:
        """Whether there is no configuration or hook that only boto3 can honour."""
        if not self._usable:
            return False
        now_s = time.monotonic()
        if now_s - self._plain[0] > _LOOK_S:
            self._plain = (now_s, not _proxied(self._host, self._tls) and not self._is_hooked())
        return self._plain[1]

    def _is_hooked(self) -> bool:
        events = self._client.meta.events
        emitter = getattr(events, "_emitter", events)
        config = self._client.meta.config
        if (
            getattr(config, "proxies", None)
            or getattr(config, "client_cert", None)
            or not hasattr(emitter, "_handlers")
        ):
            return True
        return any(
            not str(getattr(handler, "__module__", "")).startswith("botocore.")
            for action in ("ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
            for event in _EVENTS
            for handler in emitter._handlers.prefix_search(f"{event}.sqs.{action}") or ()
        )

    def _request(self, action: str, body: bytes) -> bytes:
        found = self._credentials()
        if found is None:
            raise _Unusual
        target = f"AmazonSQS.{action}"
        headers = signed(
            found,
            self._client.meta.region_name,
            self._netloc,
            self._path,
            target,
            body,
            datetime.now(UTC),
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection = self._connection()
        try:
            raw, stays = connection.exchange(
                f"POST {self._path} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode(
                    "ascii"
                )
                + body
            )
        except BaseException:
            connection.close()
            raise
        if stays:
            self._idle.append(connection)
        else:
            connection.close()
        return raw

    def _connection(self) -> _Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return _Connection(
                self._host,
                self._port or (443 if self._tls else 80),
                _context(self._cafile) if self._tls else None,
            )


class _Connection:
    """One connection, with the part of HTTP/1.1 (RFC 9112) that SQS answers need."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        plain = socket.create_connection((host, port), timeout=_CONNECT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = (
            plain if context is None else context.wrap_socket(plain, server_hostname=host)
        )
        self._socket.settimeout(_ANSWER_S)
        self._file = self._socket.makefile("rb")

    def exchange(self, request: bytes) -> tuple[bytes, bool]:
        """Send a request. Return the body of a 200, and whether the connection stays open."""
        self._socket.sendall(request)
        status = self._file.readline(_LINE)
        if not status.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise _Unusual
        try:
            return self._body(status.startswith(b"HTTP/1.1"))
        except ValueError as error:
            raise _Unreadable from error

    def _body(self, stays: bool) -> tuple[bytes, bool]:
        length, chunked = None, False
        while (line := self._file.readline(_LINE)) not in (b"\r\n", b"\n"):
            name, colon, value = line.partition(b":")
            if not colon or not line.endswith(b"\n"):
                raise _Unreadable
            name, value = name.lower(), value.strip().lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                stays = value != b"close"
            elif name == b"transfer-encoding":
                chunked = value == b"chunked"
            elif name == b"content-encoding":
                raise _Unreadable
        body = b"".join(self._chunks()) if chunked else self._file.read(_allowed(length))
        if not chunked and len(body) != length:
            raise _Unreadable
        return body, stays

    def _chunks(self) -> Iterator[bytes]:
        while size := _allowed(int(self._file.readline(_LINE).partition(b";")[0], 16)):
            chunk = self._file.read(size)
            if len(chunk) != size or self._file.readline(_LINE) not in (b"\r\n", b"\n"):
                raise _Unreadable
            yield chunk
        while self._file.readline(_LINE) not in (b"\r\n", b"\n", b""):
            pass

    def close(self) -> None:
        """Close the connection. Never raise."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._socket.close()


def _allowed(length: int | None) -> int:
    if length is None or not 0 <= length <= _MOST_BYTES:
        raise _Unreadable
    return length


def signed(
    credentials: tuple[str, str, str | None],
    region: str,
    netloc: str,
    path: str,
    target: str,
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """Return the headers of a POST, signed for SQS."""
    access, secret, token = credentials
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"content-type": _CONTENT_TYPE, "host": netloc, "x-amz-date": stamp}
    if token:
        headers["x-amz-security-token"] = token
    headers["x-amz-target"] = target
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"POST\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{stamp[:8]}/{region}/sqs/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(_key(secret, stamp[:8], region), text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names},"
        f" Signature={signature}"
    )
    return headers


@functools.lru_cache(maxsize=8)
def _key(secret: str, day: str, region: str) -> bytes:
    """Return the signing key of one day."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, "sqs", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


@functools.lru_cache(maxsize=4)
def _context(cafile: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=cafile)


def _proxied(host: str, tls: bool) -> bool:
    if is_loopback(host):
        return False
    return bool(
        urllib.request.getproxies().get("https" if tls else "http")
    ) and not urllib.request.proxy_bypass(host)


def _decoded(raw: bytes) -> dict[str, Any]:
    """Return an answer as boto3 does, with its bytes decoded."""
    answer = json.loads(raw) if raw else {}
    if not isinstance(answer, dict):
        raise _Unusual
    if b"BinaryValue" in raw:
        for message in answer.get("Messages", ()):
            for attribute in message.get("MessageAttributes", {}).values():
                if isinstance(attribute.get("BinaryValue"), str):
                    attribute["BinaryValue"] = base64.b64decode(attribute["BinaryValue"])
    return answer
