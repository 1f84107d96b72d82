"""HTTP for models: pooled connections to one server, with a deadline, limits, and one reading of
every status.

A message names the method, scheme, host, path and status; never a query, a header or a credential.
"""

from __future__ import annotations

import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mltrigger._version import __version__
from mltrigger.errors import ModelFailure, NotEncodable
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.scheme import Endpoint, Setting
from mltrigger.versions.schemes.http.answers import Answer, masked, refused
from mltrigger.versions.schemes.http.reach import Busy, Reach, Turn
from mltrigger.versions.schemes.http.targets import (
    base_url,
    checked_http,
    default_name,
    default_version,
    from_environment,
    http_options,
)
from mltrigger.versions.schemes.http.timed import Progress, open_pool

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool
    from urllib3.response import BaseHTTPResponse

__all__ = [
    "CONCURRENCY",
    "Answer",
    "Http",
    "HttpEndpoint",
    "base_url",
    "checked_http",
    "cloudevent_headers",
    "default_name",
    "default_version",
    "encoded",
    "http_options",
    "refused",
]

CONCURRENCY = 8
"""Calls at the same time that an HTTP endpoint takes unless the subscription says otherwise."""
CONNECT_S = 5.0
MAX_HEADER_BYTES = 16 * 1024
_GATEWAY = frozenset({502, 503, 504})
"""What proxies answer for a server that they do not reach."""
_TURN_S = 1.0
_SUSPECTS = 2
"""How many requests for each connection go one at a time after several broke off together."""
_ERROR_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
# CloudEvents 1.0.2, HTTP protocol binding, 3.1.3.2: what is not percent-encoded is printable ASCII
# but the blank, " and %.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class Http:
    """A pool of connections to the one server of *url*; used from several threads at once.

    Connections stay open between calls. Proxies come from the environment (``HTTP_PROXY``,
    ``HTTPS_PROXY``, ``NO_PROXY``), but none is asked for this machine itself. Certificates come
    from ``REQUESTS_CA_BUNDLE`` or certifi, and are always verified. Nothing is read from
    ``.netrc``, no cookie kept, no redirect followed.

    A call that finds its kept connection closed by the server, before a byte of the answer, is
    repeated once at once on a new connection. That is what happens when a server drops an idle
    connection in the moment of a request, which it then has not read. Should it have read it, and
    died before it answered, the model runs twice: the promise is at least once, and the attempt
    that the listener would make instead would run it twice as well. On a new connection nothing is
    repeated here.

    A server that cannot be reached is waited for: no attempt is spent, see
    :mod:`mltrigger.versions.schemes.http.reach`.

    Parameters
    ----------
    url : str
        As :func:`base_url` gives it. No call ever goes to another scheme, host or port.
    setting : Setting
        ``timeout_s`` is the whole time of a call, from connecting to the last byte of the body,
        also when the server sends a byte a second; only the look-up of the host's name is as slow
        as the system's. ``concurrency`` connections are kept.
    headers : mapping
        Sent with every request; a value ``env:NAME`` or ``Bearer env:NAME`` is read from the
        environment each time.
    max_answer_bytes : int
        Longest body, after decompression.
    connect_timeout_s : float
        Longest wait for one connection, within ``timeout_s``.
    any_json : bool
        Whether 403 and 404 may be about an event: see
        :func:`~mltrigger.versions.schemes.http.answers.refused`.
    """

    def __init__(
        self,
        url: str,
        setting: Setting,
        *,
        headers: Mapping[str, str] | None = None,
        max_answer_bytes: int = 16 * 1024 * 1024,
        connect_timeout_s: float = CONNECT_S,
        any_json: bool = False,
    ) -> None:
        self.url, self._any_json = url, any_json
        parts = urllib.parse.urlsplit(url)
        self._origin, self._path = (
            f"{parts.scheme}://{parts.netloc}",
            urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, "")),
        )
        self._timeout_s, self._connect_s = (
            setting.timeout_s,
            min(connect_timeout_s, setting.timeout_s),
        )
        self._max_bytes = max_answer_bytes
        self._given = dict(headers or {})
        self._progress = Progress()
        self._lock = threading.Lock()
        self._size = max(1, setting.concurrency)
        self._opened: tuple[HTTPConnectionPool, str] | None = None
        self._reach = Reach()

    @classmethod
    def of(
        cls, url: str, setting: Setting, options: Mapping[str, Any], *, any_json: bool = False
    ) -> Http:
        """Return one for *url* with the *options* that :func:`checked_http` returned."""
        return cls(
            url,
            setting,
            headers=options.get("headers"),
            max_answer_bytes=options.get("max_answer_mb", 16) * 1024 * 1024,
            connect_timeout_s=options.get("connect_timeout_s", CONNECT_S),
            any_json=any_json,
        )

    def get(self, url: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET of *url*: a path (``/v2/models/ocr``), a whole URL of the same
        server, or nothing for its own URL.
        """
        return self._call("GET", url, None, headers or {})

    def post(self, url: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a POST of *body*: bytes as they are, anything else as JSON
        (:mod:`mltrigger.event.codec`).

        Raises
        ------
        ModelFailure
            For everything but a 2xx answer that was read to its end; see
            :mod:`mltrigger.versions.schemes.http.answers`.
        """
        given: dict[str, str] = {"Content-Type": "application/json"}
        if not isinstance(body, bytes):
            body = encoded(body)
        return self._call("POST", url, body, {**given, **(headers or {})})

    def check(self) -> None:
        """Raise when a variable that a header is read from is missing; asks no server."""
        self._headers({})

    def close(self) -> None:
        """Close the connections; idempotent. A later call opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened[0].close()

    def _call(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        target = self._target(url)
        where = f"{method} {self._origin}{target.partition('?')[0]}"
        sent = self._headers(headers)
        secrets = [sent[name] for name, value in self._given.items() if value != sent.get(name)]
        due = time.monotonic() + self._timeout_s
        try:
            with self._reach.turn(min(_TURN_S, 0.1 * self._timeout_s)) as turn:
                return self._answered(method, target, body, sent, where, secrets, due, turn)
        except Busy:
            raise _unavailable(
                f"{where}: one request at a time, since one of several ended the server",
                _TURN_S,
                "Busy",
            ) from None
        except ModelFailure as failure:
            failure.args, failure.detail = (
                (masked(str(failure), secrets),),
                failure.detail and masked(failure.detail, secrets),
            )
            raise
        finally:
            self._progress.begin(float("inf"))

    def _answered(
        self,
        method: str,
        target: str,
        body: bytes | None,
        sent: Mapping[str, str],
        where: str,
        secrets: list[str],
        due: float,
        turn: Turn,
    ) -> Answer:
        alive = False
        try:
            alive = self._reach.is_seen or (self._reach.is_doubtful and self._is_alive(sent))
            self._progress.begin(due)
            try:
                response = self._send(method, target, body, sent)
            except Exception as error:
                if not self._was_stale(error):
                    raise
                response = self._send(method, target, body, sent)
            return self._read(response, where, secrets, alive)
        except ModelFailure:
            raise
        except Exception as error:
            raise self._broken(where, error, alive, turn) from _cause(error)

    def _target(self, url: str) -> str:
        if not url:
            return self._path
        if url.startswith(self._origin + "/"):
            url = url[len(self._origin) :]
        if (
            not url.startswith("/")
            or url.startswith("//")
            or not url.isascii()
            or not url.isprintable()
            or " " in url
        ):
            raise ValueError(f"{short(url)} is no path of {self._origin}")
        return url

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return what is sent: the user's headers win, whatever their case."""
        given = {name: from_environment(name, value) for name, value in self._given.items()}
        taken = {name.lower() for name in given}
        ours = {
            "User-Agent": f"mltrigger/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            **headers,
        }
        return {
            **{name: value for name, value in ours.items() if name.lower() not in taken},
            **given,
        }

    def _send(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> BaseHTTPResponse:
        import urllib3

        pool, prefix = self._pool()
        left_s = self._progress.left_s()
        self._progress.fresh = False
        return pool.urlopen(
            method,
            prefix + target,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(self._connect_s, left_s), read=left_s),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
        )

    def _pool(self) -> tuple[HTTPConnectionPool, str]:
        """Return the pool, and what stands before the path of a request: the origin, when a proxy
        takes it.
        """
        with self._lock:
            if self._opened is None:
                self._opened = open_pool(self._origin, self._size, self._progress)
            return self._opened

    def _was_stale(self, error: Exception) -> bool:
        """Whether the server had closed a kept connection: it ended before a byte of the answer."""
        progress = self._progress
        ended = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
        return not progress.fresh and not progress.answered and isinstance(_cause(error), ended)

    def _is_alive(self, headers: Mapping[str, str]) -> bool:
        """Whether the server answers anything at all: it is asked for the head of its own path,
        which changes nothing.
        """
        self._progress.begin(time.monotonic() + min(self._connect_s, self._timeout_s / 2))
        try:
            response = self._send("HEAD", self._path, None, headers)
        except Exception:
            return False
        try:
            return not self._is_of_a_proxy(response.status)
        finally:
            response.close()
            response.release_conn()

    def _is_of_a_proxy(self, status: int) -> bool:
        """Whether a proxy may have answered in the place of a server that it did not reach."""
        return status in _GATEWAY and bool(self._pool()[1])

    def _read(
        self, response: BaseHTTPResponse, where: str, secrets: list[str], alive: bool
    ) -> Answer:
        """Return the answer when it is one, read to its end; its connection goes back to the pool
        only then.
        """
        try:
            if not self._is_of_a_proxy(response.status):
                self._reach.answered()
            elif not alive:
                said = refused(where, response.status, response.headers, _beginning(response))
                raise _unavailable(
                    str(said), self._reach.away(silent=True), str(said.kind), said.detail
                )
            if not 200 <= response.status < 300:
                raise refused(
                    where,
                    response.status,
                    response.headers,
                    _beginning(response),
                    any_json=self._any_json,
                )
            return Answer(
                response.status, response.headers, self._body(response, where), where, secrets
            )
        finally:
            if not response.closed:
                response.close()
            response.release_conn()

    def _body(self, response: BaseHTTPResponse, where: str) -> bytes:
        parts, size = [], 0
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            raise self._too_large(where, response.status)
        while part := response.read(_READ_BYTES, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise self._too_large(where, response.status)
        return b"".join(parts)

    def _too_large(self, where: str, status: int) -> ModelFailure:
        return ModelFailure(
            f"{where} answered {status} with more than"
            f" max_answer_mb={self._max_bytes / 2**20:g} MiB",
            reason="model_http_error",
            whole=True,
            kind="AnswerTooLarge",
        )

    def _broken(self, where: str, error: Exception, alive: bool, turn: Turn) -> ModelFailure:
        """Return what a request without a whole answer means; *alive* says that the server was
        there when it was sent.
        """
        from urllib3 import exceptions as u3

        cause, progress = _cause(error), self._progress
        kind = next(
            (kind for kind, classes in _kinds().items() if isinstance(error, classes)),
            "ConnectionError",
        )
        # In urllib3 a refused connection is one that timed out.
        if isinstance(cause, TimeoutError) or (
            isinstance(error, u3.TimeoutError) and not isinstance(error, u3.NewConnectionError)
        ):
            if progress.sent:
                text = f"{where}: no whole answer within timeout_s={self._timeout_s:g} s"
                return ModelFailure(text, reason="timeout", whole=True, kind="Timeout")
            kind, problem = "ConnectTimeout", f"no connection within {self._connect_s:g} s"
        else:
            said = getattr(cause, "strerror", None) or (
                str(cause) if cause is not error else type(error).__name__
            )
            problem = f"{_PHRASES[kind]}: {short(said, 200)}"
        if not progress.sent:  # nothing has run
            return _unavailable(f"{where}: {problem}", self._reach.away(silent=False), kind)
        if progress.answered or not isinstance(cause, OSError):
            return ModelFailure(
                f"{where}: {problem}", reason="model_http_error", whole=True, kind=kind
            )
        delay_s = self._reach.away(silent=True)
        if not alive:
            return _unavailable(
                f"{where}: {problem}; it has not answered anything yet", delay_s, kind
            )
        self._reach.suspect(_SUSPECTS * self._size)
        if not turn.alone:
            return _unavailable(
                f"{where}: {problem}, before it answered, with other requests under way",
                delay_s,
                kind,
            )
        text = f"{where}: {problem}, before it answered: the event may have ended the server"
        return ModelFailure(text, reason="worker_died", whole=True, kind=kind)


def _unavailable(
    message: str, delay_s: float, kind: str, detail: str | None = None
) -> ModelFailure:
    """Return the failure of a request that met no server: whichever the event, and nothing has run."""
    return ModelFailure(
        message,
        reason="model_unavailable",
        throttled=True,
        delay_s=delay_s,
        whole=True,
        kind=kind,
        detail=detail,
    )


_PHRASES = {
    "ProxyError": "the proxy of the environment cannot be used",
    "TlsError": "no safe connection",
    "NameError": "the host's name cannot be resolved",
    "ConnectionError": "the connection failed",
    "BrokenAnswer": "the answer is broken",
}


def _kinds() -> dict[str, tuple[type[Exception], ...]]:
    from urllib3 import exceptions as u3

    return {
        "ProxyError": (u3.ProxyError,),
        "TlsError": (u3.SSLError,),
        "NameError": (u3.NameResolutionError,),
        "BrokenAnswer": (
            u3.DecodeError,
            u3.IncompleteRead,
            u3.InvalidHeader,
            u3.InvalidChunkLength,
        ),
    }


class HttpEndpoint(Endpoint):
    """What the endpoints of all HTTP schemes have in common: one :class:`Http`, and as many calls
    at a time as servers like.
    """

    concurrency = CONCURRENCY

    def __init__(self, http: Http) -> None:
        self.http = http

    def warm_up(self) -> None:
        """Raise at once when a variable is missing that a header is read from."""
        self.http.check()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


def cloudevent_headers(event: Event) -> dict[str, str]:
    """Return the headers of *event* in CloudEvents' binary mode, ``ce-id`` and so on, and its
    ``traceparent``; not its content type.

    Values are percent-encoded (CloudEvents 1.0.2, HTTP protocol binding, 3.1.3.2): no event adds a
    header or a line.

    Raises
    ------
    ModelFailure
        When they are longer than servers take; an event of 16 KiB of attributes needs another
        envelope.
    """
    named: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "dataschema": event.dataschema,
        **event.extensions,
    }
    headers = {
        f"ce-{name}": urllib.parse.quote(_canonical(value), safe=_SAFE)
        for name, value in named.items()
        if value is not None
    }
    if event.traceparent:
        headers["traceparent"] = event.traceparent
    if (size := sum(map(len, headers.values()))) > MAX_HEADER_BYTES:
        raise ModelFailure(
            f"the event's attributes have {size:,} bytes as headers; the limit is"
            f" {MAX_HEADER_BYTES:,}: use the option envelope='structured' or 'none'",
            reason="invalid_input",
            permanent=True,
        )
    return headers


def encoded(value: Any) -> bytes:
    """Return *value* as JSON.

    Raises
    ------
    ModelFailure
        For the event alone, when a part of it has no JSON form.
    """
    try:
        return codec.dumps(value).encode()
    except NotEncodable as error:
        raise ModelFailure(
            f"the input has no JSON form: {error}", reason="invalid_input", permanent=True
        ) from error


def _canonical(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _beginning(response: BaseHTTPResponse) -> bytes:
    """Return the beginning of an answer that is an error, as far as it comes: its status is known,
    whatever happens now.
    """
    parts: list[bytes] = []
    try:
        while sum(map(len, parts)) < _ERROR_BYTES and (
            part := response.read(_READ_BYTES, decode_content=True)
        ):
            parts.append(part)
    except Exception:
        return b"".join(parts)
    return b"".join(parts)


def _cause(error: BaseException) -> BaseException:
    """Return the error of the system below those of the library, or *error* itself."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None or isinstance(seen, OSError):
            break
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = inner or seen.__cause__ or seen.__context__
    return seen or error
