"""Webhooks out: each event is posted to somebody's address, signed as Standard Webhooks say."""

from __future__ import annotations

import re
import socket
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel, InvalidSignature, ModelFailure, NotFound
from mltrigger.event import signatures
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, unavailable
from mltrigger.versions.schemes.http.answers import refused
from mltrigger.versions.schemes.http.client import Http, Peer
from mltrigger.versions.schemes.http.endpoint import (
    HttpEndpoint,
    as_header,
    cloudevent_headers,
    raw_data,
    structured,
)
from mltrigger.versions.schemes.http.loopback import is_loopback
from mltrigger.versions.schemes.http.saying import masked, without_mark
from mltrigger.versions.schemes.http.targets import base_url, checked_http, from_environment
from mltrigger.versions.schemes.options import check_choice, check_names, model_name
from mltrigger.versions.schemes.webhook.public import Dial, Resolve, is_public

PREFIX = "webhook+"
ENVELOPES = ("structured", "binary", "none")
UNSIGNED = "none"
_ENVIRONMENT = re.compile(r"env:[A-Za-z_]\w*", re.ASCII)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?")
_PORTS = {"http": 80, "https": 443}
_SAID = 1_000
_OWN = frozenset({signatures.ID, signatures.TIMESTAMP, signatures.SIGNATURE})


class Webhook(Scheme):
    """``webhook+https://partner.example/hook``: POSTs each event, signed.

    The three headers of Standard Webhooks are sent: ``webhook-id`` is the id of the event, and the
    same in each attempt. ``webhook-timestamp`` is the time of the attempt. ``webhook-signature``
    has one signature for each secret. Any 2xx answer is a delivery. Its status and the beginning of
    its body are the output.

    408, 425, 429, 5xx and broken connections are tried again. ``Retry-After`` is honoured. Other
    4xx answers are dead at once. So are redirects, which are never followed, and 410, with the
    reason ``gone``. No attempt is spent while the receiver cannot be reached.

    The address must be public, and HTTPS. The name is resolved, and the connection goes to the
    checked address. A proxy of the environment is not used.

    Options
    -------
    secret : str
        ``env:NAME``: the environment variable with the secret, ``whsec_`` and base64. ``none``
        sends without a signature.
    secrets : list of str
        Several, while one is replaced.
    envelope : str
        ``structured`` (default): the whole event as ``application/cloudevents+json``. ``binary``:
        the data, with the attributes as headers. ``none``: the data only.
    allow : list of str
        ``["hooks.internal:8080"]``: hosts that may have any address, and HTTP without TLS
        (``webhook+http://``). Without a port it is that of the scheme.
    headers : dict
        More headers. A secret is written ``env:NAME`` or ``Bearer env:NAME``.
    connect_timeout_s : float
        Longest wait for a connection, within the timeout of a call. Default: 5 s.

    Parameters
    ----------
    resolve : callable
        Resolves names, as ``socket.getaddrinfo``.
    now_s : callable
        Returns the time, in seconds since 1970.
    """

    def __init__(
        self, resolve: Resolve = socket.getaddrinfo, now_s: Callable[[], float] = time.time
    ) -> None:
        self._resolve, self._now_s = resolve, now_s

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url = base_url(address, PREFIX)
        options = _options(address)
        shown = f"{PREFIX}{url.partition('?')[0]}"[:200]
        check_choice(shown, options, "envelope", ENVELOPES)
        check_names(shown, options, "allow")
        _check_secrets(options, shown)
        _check_place(url, options, shown)
        parts = urllib.parse.urlsplit(url)
        name = model_name(f"{parts.hostname}{parts.path}", "webhook")
        return Description(name, about=f"webhook: {url.partition('?')[0]}"[:200])

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        url, options = base_url(address, PREFIX), address.options
        dial = Dial(_is_allowed(url, options.get("allow", ())), self._resolve)
        peer = Peer(refused=refused_by_receiver, dial=dial, whole_answers=False, dies=False)
        return _WebhookEndpoint(Http(url, setting, options, peer=peer), options, self._now_s)


class _WebhookEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any], now_s: Callable[[], float]) -> None:
        super().__init__(http)
        self._named, self._now_s = _named(options), now_s
        self._envelope = options.get("envelope", ENVELOPES[0])

    def warm_up(self) -> None:
        """Raise when an environment variable is missing, or holds no secret."""
        super().warm_up()
        self._secrets()

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        if len(events) == 1:
            return [self._one(events[0])]
        return [attempt(self._one, event) for event in events]

    def _one(self, event: Event) -> dict[str, Any]:
        secrets, headers = self._secrets(), {}
        if self._envelope == "structured":
            body, kind = structured(event), "application/cloudevents+json; charset=utf-8"
        else:
            body, kind = raw_data(event)
        if self._envelope == "binary":
            headers = cloudevent_headers(event)
        elif event.traceparent:
            headers = {"traceparent": event.traceparent}
        signed = signatures.headers_of(secrets, as_header(event.id), int(self._now_s()), body)
        sent = {name: value for name, value in signed.items() if value}
        answer = self.http.post("", body, {**headers, **sent, "Content-Type": kind})
        text = without_mark(answer.body).decode("utf-8", "replace")
        said = masked(text, answer.secrets)[:_SAID]  # hidden first: a cut could leave half of one
        return {"status": answer.status, "answer": said or None}

    def _secrets(self) -> list[str]:
        """Return the secrets, as the environment has them now."""
        found = []
        for name in self._named:
            secret = from_environment(signatures.SIGNATURE, name)
            try:
                signatures.key_of(secret)
            except InvalidSignature as error:
                variable = name.partition(":")[2]
                raise unavailable(
                    f"environment variable {variable}: {error}", "InvalidSecret"
                ) from None
            found.append(secret)
        return found


def refused_by_receiver(
    where: str, status: int, headers: Mapping[str, str], body: bytes
) -> ModelFailure:
    """Return the failure for an answer that is not 2xx. A receiver means each event by it."""
    failure = refused(where, status, headers, body, any_json=True)
    text, reason = str(failure), failure.reason
    if status == 410:
        text += "; the receiver wants no more: unsubscribe, or register its new address"
        reason = "gone"
    elif status in (401, 405, 407):
        reason = "model_rejected"
    else:
        return failure
    return ModelFailure(
        text, reason=reason, permanent=True, kind=failure.kind, detail=failure.detail
    )


def _options(address: Address) -> dict[str, Any]:
    own: dict[str, type | tuple[type, ...]] = {
        "secret": str,
        "secrets": list,
        "envelope": str,
        "allow": list,
    }
    options = checked_http(address, **own)
    if "max_answer_mb" in options:
        known = [*own, "headers", "connect_timeout_s"]
        raise NotFound.of(f"option of {address.scheme}: models", "max_answer_mb", known)
    return options


def _named(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the secrets, ``env:NAME``."""
    given = [options["secret"]] if "secret" in options else options.get("secrets", [])
    return [name for name in given if name != UNSIGNED]


def _check_secrets(options: Mapping[str, Any], shown: str) -> None:
    if ("secret" in options) == ("secrets" in options):
        raise InvalidModel(
            f"model {shown!r}: name the environment variable with the secret that signs:"
            " secret='env:HOOK_SECRET', or several in secrets=[…] while one is replaced;"
            " secret='none' sends without a signature"
        )
    if options.get("secrets") == []:
        raise InvalidModel(f"model {shown!r}: option secrets is empty; secret='none' does not sign")
    for name in options.get("secrets", [options.get("secret")]):
        is_named = isinstance(name, str) and _ENVIRONMENT.fullmatch(name)
        if not is_named and (name != UNSIGNED or "secrets" in options):
            raise InvalidModel(
                f"model {shown!r}: a secret is written env:NAME, the name of an environment"
                " variable, since options are stored"
            )
    for name in options.get("headers", {}):
        if name.lower() in _OWN:
            raise InvalidModel(
                f"model {shown!r}: header {name} is that of the signature; leave it out"
            )


def _check_place(url: str, options: Mapping[str, Any], shown: str) -> None:
    """Refuse an address that is not HTTPS, or surely not public, unless it is allowed."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    for allowed in options.get("allow", ()):
        if _HOST.fullmatch(allowed) is None:
            raise InvalidModel(
                f"model {shown!r}: option allow has hosts such as 'hooks.internal:8080', got"
                f" {short(allowed)!r}"
            )
    if _is_allowed(url, options.get("allow", ())):
        return
    advice = f"if that is meant, name it: allow=['{_bracketed(host)}:{port}']"
    if parts.scheme != "https":
        raise InvalidModel(f"model {shown!r}: a webhook goes over https; {advice}")
    if _is_odd_number(host):
        raise InvalidModel(
            f"model {shown!r}: the host is a number; write its name, or its address in the usual"
            " form"
        )
    if is_loopback(host) or (_is_address(host) and not is_public(host)):
        raise InvalidModel(
            f"model {shown!r}: {host} is no public address, and a webhook goes to no other;"
            f" {advice}"
        )


def _is_allowed(url: str, allow: Sequence[str]) -> bool:
    """Whether *allow* names the host and the port of *url*."""
    parts = urllib.parse.urlsplit(url)
    usual = _PORTS[parts.scheme]
    for each in allow:
        if found := _HOST.fullmatch(each):
            host, port = found[1].strip("[]").lower(), int(found[2] or usual)
            if (host, port) == (parts.hostname, parts.port or usual):
                return True
    return False


def _is_address(host: str) -> bool:
    return ":" in host or (host[-1:].isdigit() and "." in host)


def _is_odd_number(host: str) -> bool:
    """Whether the C library takes *host* for an address, although it does not look like one."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host)) != host
    except OSError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
