"""HTTP for models: kept connections to one server, a deadline, limits, one reading of each status.

Messages name the method, scheme, host, path and status. They never hold a query, a header or a
credential.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger._version import __version__
from mltrigger.errors import ModelFailure
from mltrigger.text import short
from mltrigger.versions.running.current import trace_headers
from mltrigger.versions.scheme import Setting
from mltrigger.versions.schemes.failures import unavailable
from mltrigger.versions.schemes.http.answers import Answer, refused
from mltrigger.versions.schemes.http.broken import cause_of, is_timeout, problem_of, was_closed
from mltrigger.versions.schemes.http.reach import Busy, Reach, Turn
from mltrigger.versions.schemes.http.saying import masked
from mltrigger.versions.schemes.http.targets import from_environment
from mltrigger.versions.schemes.http.timed import Dial, Progress, open_pool
from mltrigger.versions.schemes.plain import encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

CONNECT_S = 5.0
MAX_ANSWER_MB = 16
_GATEWAY = frozenset({502, 503, 504})
"""The answers of a proxy that does not reach the server."""
_TURN_S = 1.0
_SUSPECTS = 2
"""Requests for each connection that go one at a time, after several broke off together."""
_ERROR_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """The other side, and how to treat it.

    Parameters
    ----------
    refused : callable
        Returns the failure for an answer that is not 2xx. See
        :func:`~mltrigger.versions.schemes.http.answers.refused`.
    dial : callable, optional
        Connects to the host, and no proxy is used. Default: as the environment says.
    whole_answers : bool
        Whether a 2xx answer must be read to its end. Else its status is enough.
    dies : bool
        Whether an event may end the server. Else a missing answer is a failure as any other.
    """

    refused: Callable[[str, int, Mapping[str, str], bytes], ModelFailure] = refused
    dial: Dial | None = None
    whole_answers: bool = True
    dies: bool = True


MODEL = Peer()
"""A server that runs a model."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """One request. ``where`` is its form in errors, ``secrets`` are hidden there."""

    method: str
    target: str
    body: bytes | None
    headers: Mapping[str, str]
    where: str
    secrets: list[str]


class Http:
    """A pool of connections to the one server of *url*. Thread-safe.

    Connections stay open between calls. Proxies come from the environment (``HTTP_PROXY``,
    ``HTTPS_PROXY``, ``NO_PROXY``), but not for this machine itself. Certificates come from
    ``REQUESTS_CA_BUNDLE`` or certifi, and are always verified. ``.netrc`` is not read, cookies are
    not kept, redirects are not followed.

    A server may close a kept connection just when a request is sent. Then no byte of an answer
    comes, and the call is repeated once, at once, on a new connection. Usually the server has not
    read the request. If it had, and died before its answer, the model runs twice. The promise is
    at least once, and another attempt by the listener would run it twice as well. On a new
    connection nothing is repeated here.

    An unreachable server is waited for, and no attempt is spent. See
    :mod:`mltrigger.versions.schemes.http.reach`.

    Parameters
    ----------
    url : str
        From :func:`~mltrigger.versions.schemes.http.targets.base_url`. No call goes to another
        scheme, host or port.
    setting : Setting
        ``timeout_s`` bounds the whole call, from connecting to the last byte, however slowly bytes
        come. Only the look-up of the host's name is not bounded. ``concurrency`` connections are
        kept.
    options : mapping
        The options of the address, from
        :func:`~mltrigger.versions.schemes.http.targets.checked_http`. ``headers`` are sent with
        every request. A value ``env:NAME`` or ``Bearer env:NAME`` is read from the environment each
        time. ``max_answer_mb`` bounds the body, after decompression. ``connect_timeout_s`` bounds
        the wait for one connection, within ``timeout_s``.
    peer : Peer
        The other side, and how to treat it.
    """

    def __init__(
        self,
        url: str,
        setting: Setting,
        options: Mapping[str, Any],
        *,
        peer: Peer = MODEL,
    ) -> None:
        self.url, self._peer = url, peer
        parts = urllib.parse.urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        self._timeout_s = setting.timeout_s
        self._connect_s = min(options.get("connect_timeout_s", CONNECT_S), setting.timeout_s)
        self._max_bytes = options.get("max_answer_mb", MAX_ANSWER_MB) * 1024 * 1024
        self._given: dict[str, str] = options.get("headers", {})
        self._progress = Progress()
        self._lock = threading.Lock()
        self._size = max(1, setting.concurrency)
        self._opened: tuple[HTTPConnectionPool, str] | None = None
        self._reach = Reach()

    def get(self, url: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET.

        *url* is a path (``/v2/models/ocr``) or a whole URL of the same server. The default is the
        URL of this client.
        """
        return self._call("GET", url, None, headers or {})

    def post(self, url: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a POST of *body*.

        Bytes are sent as they are, other values as JSON (:mod:`mltrigger.event.codec`).

        Raises
        ------
        ModelFailure
            For all but a 2xx answer that was read to its end. See
            :mod:`mltrigger.versions.schemes.http.answers`.
        """
        raw = body if isinstance(body, bytes) else encoded(body)
        return self._call("POST", url, raw, {"Content-Type": "application/json", **(headers or {})})

    def check(self) -> None:
        """Raise when an environment variable for a header is missing. No server is asked."""
        self._headers({})

    def close(self) -> None:
        """Close the connections. Idempotent. A later call opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()

    def _call(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        target, sent = self._target(url), self._headers(headers)
        where = f"{method} {self._origin}{target.partition('?')[0]}"
        secrets = [sent[name] for name, value in self._given.items() if value != sent.get(name)]
        request = _Request(method, target, body, sent, where, secrets)
        due = time.monotonic() + self._timeout_s
        try:
            with self._reach.turn(min(_TURN_S, 0.1 * self._timeout_s)) as turn:
                return self._answered(request, due, turn)
        except Busy:
            text = f"{where}: one request at a time, since one of several ended the server"
            raise unavailable(text, "Busy", _TURN_S) from None
        except ModelFailure as failure:
            failure.args = (masked(str(failure), secrets),)
            failure.detail = failure.detail and masked(failure.detail, secrets)
            raise
        finally:
            self._progress.begin(float("inf"))

    def _answered(self, request: _Request, due: float, turn: Turn) -> Answer:
        alive = False
        try:
            alive = self._reach.is_seen or (self._reach.is_doubtful and self._is_alive(request))
            self._progress.begin(due)
            try:
                response = self._send(request)
            except Exception as error:
                stale = not self._progress.fresh and not self._progress.answered
                if not stale or not was_closed(error):
                    raise
                response = self._send(request)
            return self._read(response, request, alive)
        except ModelFailure:
            raise
        except Exception as error:
            raise self._broken(request.where, error, alive, turn) from cause_of(error)

    def _target(self, url: str) -> str:
        if not url:
            return self._path
        if url.startswith(self._origin + "/"):
            url = url[len(self._origin) :]
        is_path = url.startswith("/") and not url.startswith("//")
        if not is_path or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"{short(url)} is no path of {self._origin}")
        return url

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers to send. The user's win, in upper or lower case."""
        given = {name: from_environment(name, value) for name, value in self._given.items()}
        taken = {name.lower() for name in given}
        ours = {
            "User-Agent": f"mltrigger/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            **headers,
            **trace_headers(),  # a span of the call, below that of the event
        }
        return {**{name: ours[name] for name in ours if name.lower() not in taken}, **given}

    def _send(self, request: _Request) -> BaseHTTPResponse:
        import urllib3

        pool, prefix = self._pool()
        left_s = self._progress.left_s()
        self._progress.fresh = False
        return pool.urlopen(
            request.method,
            prefix + request.target,
            body=request.body,
            headers=request.headers,
            timeout=urllib3.Timeout(connect=min(self._connect_s, left_s), read=left_s),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )

    def _pool(self) -> tuple[HTTPConnectionPool, str]:
        """Return the pool and the prefix of its targets. See :func:`open_pool`."""
        with self._lock:
            if self._opened is None:
                self._opened = open_pool(self._origin, self._size, self._progress, self._peer.dial)
            return self._opened

    def _is_alive(self, request: _Request) -> bool:
        """Whether the server answers at all. A HEAD of its own path changes nothing there."""
        self._progress.begin(time.monotonic() + min(self._connect_s, self._timeout_s / 2))
        try:
            response = self._send(
                dataclasses.replace(request, method="HEAD", target=self._path, body=None)
            )
        except Exception:
            return False
        try:
            return not self._is_of_a_proxy(response.status)
        finally:
            response.close()
            response.release_conn()

    def _is_of_a_proxy(self, status: int) -> bool:
        """Whether a proxy may have answered for a server that it did not reach."""
        return status in _GATEWAY and bool(self._pool()[1])

    def _read(self, response: BaseHTTPResponse, request: _Request, alive: bool) -> Answer:
        """Return a 2xx answer, read to its end. Then its connection goes back to the pool."""
        status, headers, where = response.status, response.headers, request.where
        try:
            if not self._is_of_a_proxy(status):
                self._reach.answered()
            elif not alive:
                said = self._peer.refused(where, status, headers, _beginning(response))
                delay_s = self._reach.away(silent=True)
                raise unavailable(str(said), str(said.kind), delay_s, said.detail)
            if not 200 <= status < 300:
                raise self._peer.refused(where, status, headers, _beginning(response))
            whole = self._peer.whole_answers
            body = self._body(response, where) if whole else _beginning(response)
            return Answer(status, headers, body, where, request.secrets)
        finally:
            if not response.closed:
                response.close()
            response.release_conn()

    def _body(self, response: BaseHTTPResponse, where: str) -> bytes:
        declared = response.headers.get("content-length", "")
        size = int(declared[:20]) if declared.isdecimal() else 0
        parts = []
        if size <= self._max_bytes:
            size = 0
            for part in _parts(response):
                parts.append(part)
                size += len(part)
                if size > self._max_bytes:
                    break
        if size > self._max_bytes:
            raise ModelFailure(
                f"{where} answered {response.status} with more than"
                f" max_answer_mb={self._max_bytes / 2**20:g} MiB",
                reason="model_http_error",
                whole=True,
                kind="AnswerTooLarge",
            )
        return b"".join(parts)

    def _broken(self, where: str, error: Exception, alive: bool, turn: Turn) -> ModelFailure:
        """Return the failure of a request without a whole answer.

        *alive* says that the server was there when the request was sent.
        """
        progress, (kind, problem) = self._progress, problem_of(error)
        if is_timeout(error):
            if progress.sent:
                text = f"{where}: no whole answer within timeout_s={self._timeout_s:g} s"
                return ModelFailure(text, reason="timeout", whole=True, kind="Timeout")
            kind, problem = "ConnectTimeout", f"no connection within {self._connect_s:g} s"
        text = f"{where}: {problem}"
        if not progress.sent:  # the model has not run
            return unavailable(text, kind, self._reach.away(silent=False))
        if progress.answered or not isinstance(cause_of(error), OSError):
            return ModelFailure(text, reason="model_http_error", whole=True, kind=kind)
        delay_s = self._reach.away(silent=True)
        if not alive:
            return unavailable(f"{text}; it has not answered anything yet", kind, delay_s)
        self._reach.suspect(_SUSPECTS * self._size)
        if not turn.alone:
            text += ", before it answered, with other requests under way"
            return unavailable(text, kind, delay_s)
        if not self._peer.dies:
            text += ", before it answered: it may have got the event"
            return ModelFailure(text, reason="model_http_error", whole=True, kind=kind)
        text += ", before it answered: the event may have ended the server"
        return ModelFailure(text, reason="worker_died", whole=True, kind=kind)


def _parts(response: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the body in parts, decompressed."""
    while part := response.read(_READ_BYTES, decode_content=True):
        yield part


def _beginning(response: BaseHTTPResponse) -> bytes:
    """Return the beginning of the body of an error, as far as it comes. The status is enough."""
    body = b""
    try:
        for part in _parts(response):
            body += part
            if len(body) >= _ERROR_BYTES:
                break
    except Exception:
        return body
    return body
