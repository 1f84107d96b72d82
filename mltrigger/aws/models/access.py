"""Models on AWS: whose credentials call them, and how the refusals of AWS count.

A refusal is one of four things:

- AWS asks to come later. No attempt is spent.
- No event could be called: no permission, no such function, expired credentials. This is an outage.
  No attempt is spent. The listener waits for the repair.
- The event itself is refused. It is dead at once.
- Anything else is a failed attempt.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Collection, Mapping
from typing import Any

from mltrigger.aws.clients import ModelClients, model_clients
from mltrigger.aws.faults import (
    DENIED,
    EXPIRED,
    MISSING,
    THROTTLED,
    UNKNOWN_KEY,
    code_of,
    explained,
)
from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.event.data import encode_data, is_json
from mltrigger.event.event import Event
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import HOLD_S
from mltrigger.versions.schemes.http.answers import Answer, retry_after_s

OPTIONS: dict[str, type | tuple[type, ...]] = {
    "profile": str,
    "role_arn": str,
    "external_id": str,
    "endpoint_url": str,
}
"""The options of every model on AWS: the caller, and the address of an emulator."""
CONCURRENCY = 8
"""Concurrent calls if the subscription does not say."""

_ROLE = re.compile(r"arn:aws[a-zA-Z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
_UNUSABLE = (
    DENIED
    | EXPIRED
    | UNKNOWN_KEY
    | MISSING
    | frozenset(
        {
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "ProfileNotFound",
            "NoRegionError",
            "SSOTokenLoadError",
            "TokenRetrievalError",
            "UnauthorizedSSOTokenError",
            "ResourceNotFoundException",
            "ResourceNotFound",
            "MissingAuthenticationToken",
            "IncompleteSignature",
            "InvalidSignatureException",
            "OptInRequired",
            "NotAuthorized",
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ProxyConnectionError",
            "SSLError",
        }
    )
)
"""Codes that do not depend on the event: every call fails until somebody repairs it.

With the last four nothing was sent.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Region and caller of a model. ``account`` is the one that its address names."""

    region: str | None = None
    account: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    endpoint_url: str | None = None

    @classmethod
    def of(
        cls,
        address: Address,
        options: Mapping[str, Any],
        region: str | None,
        account: str | None = None,
    ) -> Access:
        """Return the access from the *options* of *address*. Raise InvalidModel if one is wrong."""
        if region is not None and not _REGION.fullmatch(region):
            raise InvalidModel(
                f"model {address.text[:200]!r}: region {region[:40]!r} is none; a region is named"
                " like eu-west-1"
            )
        given = {name: options[name] for name in OPTIONS if name in options}
        if not _ROLE.fullmatch(role := given.get("role_arn", "arn:aws:iam::123456789012:role/any")):
            raise InvalidModel(
                f"model {address.text[:200]!r}: role_arn {role[:200]!r} must be"
                " arn:aws:iam::ACCOUNT:role/NAME"
            )
        if (url := given.get("endpoint_url")) is not None:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise InvalidModel(
                    f"model {address.text[:200]!r}: endpoint_url must be http(s)://HOST[:PORT],"
                    " without a user or password"
                )
        return cls(region, account, **given)

    def clients(self, timeout_s: float, concurrency: int) -> ModelClients:
        """Return the clients. Their calls of a model give up after *timeout_s* seconds."""
        given = {name: getattr(self, name) for name in OPTIONS}
        return model_clients(
            self.region, **given, read_timeout_s=timeout_s, connections=max(1, concurrency)
        )


def failure_of(
    error: Exception, action: str, about: str, later: Collection[str] = ()
) -> ModelFailure:
    """Return the failure for *error* of *action* (such as ``lambda:InvokeFunction``) on *about*.

    The codes *later* mean throttling, too.
    """
    code, message = code_of(error), str(explained(error, action, about))
    status = status_of(error)
    if code in THROTTLED or code in later or status == 429:
        return ModelFailure(
            message,
            reason="throttled",
            throttled=True,
            whole=True,
            delay_s=retry_after_s(_metadata(error).get("HTTPHeaders", {})),
            kind=code,
        )
    if code in _UNUSABLE or (status == 404 and not code):
        return unusable(message, code)
    if code == "ReadTimeoutError":
        return ModelFailure(
            "no answer within the subscription's timeout_s; what was called may still run",
            reason="timeout",
            whole=True,
            kind="TimeoutError",
        )
    if status == 413:
        return ModelFailure(message, reason="event_too_large", permanent=True, kind=code)
    # No answer at all, a broken one, 5xx, and codes that nobody foresaw: another attempt.
    return ModelFailure(message, reason="model_http_error", whole=True, kind=code)


def unusable(message: str, code: str) -> ModelFailure:
    """Return the failure of a call that no event could make. No attempt is spent."""
    return ModelFailure(
        message, reason="model_unavailable", throttled=True, whole=True, delay_s=HOLD_S, kind=code
    )


def status_of(error: Exception) -> int:
    """Return the HTTP status of a service's answer, 0 if there was none."""
    return int(_metadata(error).get("HTTPStatusCode", 0))


def said_by(error: Exception) -> dict[str, Any]:
    """Return the whole answer of a service to a failed call."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _metadata(error: Exception) -> dict[str, Any]:
    found = said_by(error).get("ResponseMetadata")
    return found if isinstance(found, dict) else {}


# -- what goes in and comes out --------------------------------------------------------------------

_NO_LIMIT = 1 << 62


def sent(event: Event) -> tuple[bytes, str]:
    """Return the data of *event* as bytes, and their media type."""
    raw, media_type = encode_data(event, _NO_LIMIT)
    return raw, media_type or "application/json"


def listed(events: Collection[Event], json_of: Any) -> bytes:
    """Return one JSON list with *json_of* of each event."""
    return b"[" + b",".join(json_of(event) for event in events) + b"]"


def within(
    body: bytes, limit: int, what: str, advice: str = "store the object and publish its name"
) -> bytes:
    """Return *body*, or raise ModelFailure if it has more than *limit* bytes."""
    if len(body) > limit:
        message = f"{what} takes {limit:,} bytes; the event makes {len(body):,}: {advice}"
        raise ModelFailure(message, reason="event_too_large", permanent=True, kind="EventTooLarge")
    return body


def value_of(raw: bytes, media_type: str | None, where: str) -> Any:
    """Return the answer *raw* of *where* as a value: JSON, text, or bytes.

    Without a media type, JSON and text are tried.
    """
    if not raw:
        return None
    unnamed = media_type is None or media_type.partition(";")[0].strip().lower() in (
        "application/octet-stream",
        "binary/octet-stream",
    )
    if unnamed or is_json(media_type):
        try:
            return Answer(200, {"content-type": media_type or "no type"}, raw, where).json()
        except ModelFailure:
            if not unnamed:
                raise
    try:
        return raw.decode() if unnamed or (media_type or "").startswith("text/") else raw
    except UnicodeDecodeError:
        return raw
