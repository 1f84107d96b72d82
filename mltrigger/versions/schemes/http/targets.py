"""What an address of an HTTP scheme and its options may say: checked once, when a model is
described; nothing here asks a server.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.names import check_model_name
from mltrigger.versions.address import Address, is_secret, looks_secret
from mltrigger.versions.scheme import HOLD_S

http_options: dict[str, type | tuple[type, ...]] = {
    "headers": dict,
    "max_answer_mb": int,
    "connect_timeout_s": (int, float),
}
"""The options that every HTTP scheme takes, and their types: ``address.checked(**http_options,
…)``.
"""

MAX_ANSWER_MB = 1024
_SHOWN = 200
# https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ENVIRONMENT = re.compile(r"(?:([A-Za-z][\w-]*) )?env:([A-Za-z_]\w*)", re.ASCII)
_OURS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "accept-encoding",
    }
)
"""Headers that say where a request ends and whom it is for; whoever could set them could send a
second one.
"""
_SECRET_PARAMETERS = frozenset({"code"})
"""Secrets by their whole name only: the key of an Azure function."""
_VERSION = re.compile(r"/versions/(\d{1,9}(?:\.\d{1,9}){0,2})(?=[/:]|$)")
_GENERIC = re.compile(
    r"|v\d+(\.\d+)*|\d+(\.\d+)*|api|invocations|predict|predictions|infer|inference|score|model|models|versions",
    re.I,
)


def base_url(address: Address, prefix: str = "") -> str:
    """Return the URL of *address* without *prefix* (``oip+``): ``http://host:port/path``, the
    scheme in lower case.

    Raises
    ------
    InvalidModel
        When it has no host, a user and password, a query parameter that looks like a secret, a
        fragment, or characters that no URL has.
    """
    text = address.text[len(prefix) :] if address.scheme.startswith(prefix) else address.text
    shown = _shown(address.text)
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise InvalidModel(
            f"model {shown!r}: a URL has no blanks, backslashes or characters beyond ASCII;"
            " percent-encode them"
        )
    try:
        parts = urllib.parse.urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise InvalidModel(
            f"model {shown!r} is no URL: {error}; write {prefix}http://host:port/path"
        ) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise InvalidModel(
            f"model {shown!r} is no URL with a host; write {prefix}http://host:port/path"
        )
    if "@" in parts.netloc:
        raise InvalidModel(
            f"model {shown!r}: an address is stored, so it must not hold a user or a password; name"
            " an environment variable: headers={'Authorization': 'env:MODEL_AUTHORIZATION'}"
        )
    if parts.fragment or text.endswith("#"):
        raise InvalidModel(
            f"model {shown!r}: what stands behind # never reaches a server; leave it out"
        )
    for name, value in urllib.parse.parse_qsl(parts.query, keep_blank_values=True):
        if is_secret(name) or name.lower() in _SECRET_PARAMETERS or looks_secret(value):
            raise InvalidModel(
                f"model {shown!r}: query parameter {name!r} looks like a secret, and an address is"
                " stored; send it as a header from an environment variable: headers={'X-Api-Key':"
                " 'env:MODEL_KEY'}"
            )
    return urllib.parse.urlunsplit(parts)


def checked_http(address: Address, **own: type | tuple[type, ...]) -> dict[str, Any]:
    """Return the options of *address*: those of every HTTP scheme and the scheme's *own*, each
    checked.

    Raises
    ------
    NotFound, InvalidModel
        For a name that is neither, and for a value that makes no sense; a secret in a header is
        one.
    """
    options = address.checked(**http_options, **own)
    shown = _shown(address.text)
    check_headers(options.get("headers", {}), shown)
    size, connect_s = options.get("max_answer_mb", 1), options.get("connect_timeout_s", 1)
    if not 1 <= size <= MAX_ANSWER_MB:
        raise InvalidModel(
            f"model {shown!r}: option max_answer_mb must be from 1 to {MAX_ANSWER_MB:,} (MiB), got"
            f" {size!r}"
        )
    if not 0 < connect_s <= 3600:
        raise InvalidModel(
            f"model {shown!r}: option connect_timeout_s must be more than 0 and at most 3,600"
            f" (seconds), got {connect_s!r}"
        )
    return options


def check_headers(headers: Mapping[Any, Any], shown: str) -> None:
    """Refuse headers that would store a secret, end a request early, or are none."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidModel(f"model {shown!r}: {name!r} is no name of a header (RFC 9110)")
        if name.lower() in _OURS:
            raise InvalidModel(
                f"model {shown!r}: header {name} is set by the connection itself; leave it out"
            )
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidModel(
                f"model {shown!r}: header {name} must be printable ASCII text, or 'env:NAME'"
            )
        if (is_secret(name) or looks_secret(value)) and not _ENVIRONMENT.fullmatch(value):
            raise InvalidModel(
                f"model {shown!r}: header {name} holds a secret, and options are stored; put it"
                f" into an environment variable and name that: headers={{{name!r}:"
                " 'env:MODEL_SECRET'} (or 'Bearer env:MODEL_SECRET')"
            )


def from_environment(name: str, value: str) -> str:
    """Return what header *name* says now: *value*, or the content of the variable that it names,
    ``env:NAME`` or ``Bearer env:NAME``.

    Raises
    ------
    ModelFailure
        When the variable is not set, or holds what no header can; never with its content. It is
        this process that cannot call the model, whichever the event: no attempt is spent.
    """
    if (found := _ENVIRONMENT.fullmatch(value)) is None:
        return value
    scheme, variable = found.groups()
    # files that are mounted as secrets end with a line break
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise _unusable(
            f"environment variable {variable} is not set; header {name} of the model is read"
            " from it"
        )
    if not secret.isascii() or not secret.isprintable():
        raise _unusable(
            f"environment variable {variable} holds characters that no header has; header {name} of"
            " the model is read from it"
        )
    return f"{scheme} {secret}" if scheme else secret


def _unusable(message: str) -> ModelFailure:
    return ModelFailure(
        message,
        reason="model_unavailable",
        throttled=True,
        whole=True,
        delay_s=HOLD_S,
        kind="MissingVariable",
    )


def default_name(url: str) -> str:
    """Return what a model at *url* is called: the last segment of the path that says something,
    else the first label of the host.
    """
    parts = urllib.parse.urlsplit(url)
    for segment in reversed(parts.path.split("/")):
        text = re.sub(r":[A-Za-z]+$", "", urllib.parse.unquote(segment))
        if not _GENERIC.fullmatch(text) and (name := default_name_of(text)):
            return name
    host = parts.hostname or ""
    label = host if re.fullmatch(r"[\d.]+|.*:.*", host) else host.partition(".")[0]
    return check_model_name(default_name_of(label) or "model")


def default_version(url: str) -> str | None:
    """Return the version that the path of *url* names, ``…/versions/2`` as ``2.0.0``; ``None`` when
    it names none.
    """
    if (found := _VERSION.search(urllib.parse.urlsplit(url).path)) is None:
        return None
    numbers = [str(int(number)) for number in found[1].split(".")]
    return ".".join([*numbers, "0", "0"][:3])


def default_name_of(text: str) -> str:
    """Return *text* as a model may be called (:func:`mltrigger.names.check_model_name`); empty when
    nothing is left.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:80]


def _shown(text: str) -> str:
    """Return an address as an error may show it: without what stands before an @ and behind a
    question mark.
    """
    return re.sub(r"//[^/?#]*@", "//***@", text.partition("?")[0][:_SHOWN])
