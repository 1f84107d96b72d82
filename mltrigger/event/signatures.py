"""Signatures of Standard Webhooks: who sent a body, and when.

A request carries three headers: ``webhook-id``, ``webhook-timestamp`` (seconds since 1970) and
``webhook-signature``. The last is a list, divided by blanks, of ``v1,`` and the base64 of
HMAC-SHA256 over ``id.timestamp.body``. While a secret is replaced, there is one signature for each.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mltrigger.errors import InvalidSignature

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
"""The headers, in lower case."""
TOLERANCE_S = 300.0
"""The largest difference between the timestamp and the clock here, in both directions."""
LEAST_BYTES = 16
"""A shorter secret could be guessed. The specification advises 24 to 64."""
_PREFIX = "whsec_"
_VERSION = "v1"
_SECONDS = re.compile(r"\d{1,12}", re.ASCII)
_MOST_SIGNATURES = 32
"""More signatures than any rotation needs. A sender must not buy work with a long header."""


class Signed(NamedTuple):
    """A request whose signature fits. ``id`` names the message: a repeat has the same one."""

    id: str
    timestamp_s: int


def key_of(secret: str) -> bytes:
    """Return the bytes of a *secret*: base64, with or without ``whsec_`` before it.

    Raises
    ------
    InvalidSignature
        When it is no base64, or has fewer than 16 bytes. The reason is ``invalid_secret``. The
        message never holds the secret.
    """
    text = secret.strip().removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSignature(
            f"the secret of the webhook is no base64; the form is {_PREFIX}…: make one with"
            ' `echo "whsec_$(openssl rand -base64 32)"`',
            "invalid_secret",
        ) from None
    if len(key) < LEAST_BYTES:
        raise InvalidSignature(
            f"the secret of the webhook has {len(key)} bytes, at least {LEAST_BYTES} are needed:"
            ' make one with `echo "whsec_$(openssl rand -base64 32)"`',
            "invalid_secret",
        )
    return key


def sign(secret: str, id: str, timestamp_s: int, body: bytes) -> str:  # noqa: A002 - the header's name
    """Return the signature of one request, ``v1,<base64>``.

    Parameters
    ----------
    secret : str
        See :func:`key_of`.
    id : str
        The value of ``webhook-id``, as it is sent.
    timestamp_s : int
        The value of ``webhook-timestamp``: seconds since 1970.
    body : bytes
        The body as it is sent.
    """
    return (
        f"{_VERSION},{base64.b64encode(_mac(key_of(secret), id, str(timestamp_s), body)).decode()}"
    )


def headers_of(secrets: Sequence[str], id: str, timestamp_s: int, body: bytes) -> dict[str, str]:  # noqa: A002
    """Return the three headers of one request, with one signature for each of *secrets*."""
    return {
        ID: id,
        TIMESTAMP: str(timestamp_s),
        SIGNATURE: " ".join(sign(secret, id, timestamp_s, body) for secret in secrets),
    }


def verify(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now_s: float,
    tolerance_s: float = TOLERANCE_S,
) -> Signed:
    """Check that one of *secrets* signed the request, and return its id and time.

    A receiver that must not act twice keeps the ids for twice *tolerance_s*.

    Parameters
    ----------
    secrets : sequence of str
        All that are valid now: two while one is replaced.
    headers : mapping
        The headers of the request. Their names may be in upper or lower case.
    body : bytes
        The body as it came, before anything reads it.
    now_s : float
        The time here, in seconds since 1970.

    Raises
    ------
    InvalidSignature
        With the reason ``missing_header``, ``malformed_header``, ``too_old``, ``too_new``,
        ``wrong_signature``, or ``invalid_secret`` for a secret of ours.
    """
    keys = [key_of(secret) for secret in secrets]
    found = _headers(headers)
    _check_time(found[TIMESTAMP], now_s, tolerance_s)
    macs = [_mac(key, found[ID], found[TIMESTAMP], body) for key in keys]
    given = list(_signatures(found[SIGNATURE]))
    # Each is compared with each, so that the time does not tell which one fits.
    fitting = [hmac.compare_digest(mac, other) for mac in macs for other in given]
    if not any(fitting):
        raise InvalidSignature(
            f"none of the signatures in {SIGNATURE} fits: compare the secrets of both sides, and"
            " sign the body as it is sent",
            "wrong_signature",
        )
    return Signed(found[ID], int(found[TIMESTAMP]))


def _mac(key: bytes, id: str, timestamp: str, body: bytes) -> bytes:  # noqa: A002
    return hmac.digest(
        key, f"{id}.{timestamp}.".encode("utf-8", "surrogateescape") + body, hashlib.sha256
    )


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        if (lower := name.lower()) in (ID, TIMESTAMP, SIGNATURE):
            if lower in found:
                raise InvalidSignature(
                    f"header {lower} came twice: send it once", "malformed_header"
                )
            found[lower] = value
    if missing := [name for name in (ID, TIMESTAMP, SIGNATURE) if not found.get(name)]:
        raise InvalidSignature(
            f"no header {' and '.join(missing)}: a webhook is signed as"
            " https://www.standardwebhooks.com says",
            "missing_header",
        )
    return found


def _check_time(text: str, now_s: float, tolerance_s: float) -> None:
    if not _SECONDS.fullmatch(text):
        raise InvalidSignature(
            f"header {TIMESTAMP} must be whole seconds since 1970", "malformed_header"
        )
    late_s = now_s - int(text)
    if abs(late_s) > tolerance_s:
        age, reason = ("old", "too_old") if late_s > 0 else ("new", "too_new")
        raise InvalidSignature(
            f"the request is too {age}: its {TIMESTAMP} differs by {abs(late_s):,.0f} s from the"
            f" clock here, {tolerance_s:g} s are allowed; sign anew when sending again",
            reason,
        )


def _signatures(text: str) -> Iterator[bytes]:
    """Yield the signatures of our version. Others are of a version that we do not know."""
    for each in text.split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]:
        version, _, signature = each.partition(",")
        if version == _VERSION:
            try:
                yield base64.b64decode(signature, validate=True)
            except (binascii.Error, ValueError):
                continue
