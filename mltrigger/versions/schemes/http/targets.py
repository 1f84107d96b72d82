"""Addresses and options of the HTTP schemes, checked when a model is described.

No server is asked here.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.names import check_model_name
from mltrigger.versions.address import Address, is_secret, looks_secret
from mltrigger.versions.scheme import Description
from mltrigger.versions.schemes.failures import unavailable
from mltrigger.versions.schemes.options import model_name

_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "headers": dict,
    "max_answer_mb": int,
    "connect_timeout_s": (int, float),
}
"""The options of every HTTP scheme, and their types."""

MAX_ANSWER_MB = 1024
_SHOWN = 200
# https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ENVIRONMENT = re.compile(r"(?:([A-Za-z][\w-]*) )?env:([A-Za-z_]\w*)", re.ASCII)
_OURS = re.compile(
    r"connection|content-length|expect|host|keep-alive|te|trailer|transfer-encoding|upgrade"
    r"|accept-encoding",
    re.IGNORECASE,
)
"""Headers about the connection itself. A user who sets them could smuggle in a second request."""
_SECRET_PARAMETERS = frozenset({"code"})
"""Secret by its whole name only: the key of an Azure function."""
_VERSION = re.compile(r"/versions/(\d{1,9}(?:\.\d{1,9}){0,2})(?=[/:]|$)")
_GENERIC = re.compile(
    r"|v\d+(\.\d+)*|\d+(\.\d+)*|api|invocations|predict|predictions|infer|inference|score|model|models|versions",
    re.I,
)


def base_url(address: Address, prefix: str = "") -> str:
    """Return the URL of *address* without *prefix* (``oip+``): ``http://host:port/path``.

    Its scheme is in lower case.

    Raises
    ------
    InvalidModel
        When it has no host, a user, a password, a fragment or characters that no URL has. Also when
        a query parameter looks like a secret.
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
            f"model {shown!r}: the part behind # never reaches a server; leave it out"
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
    """Return the checked options of *address*: those of every HTTP scheme, and *own*.

    Raises
    ------
    NotFound
        For an unknown name.
    InvalidModel
        For a value of no sense, and for a secret in a header.
    """
    options = address.checked(**_OPTIONS, **own)
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
    """Refuse headers that are invalid, store a secret, or could end a request early."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidModel(f"model {shown!r}: {name!r} is no name of a header (RFC 9110)")
        if _OURS.fullmatch(name):
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
    """Return *value*, with ``env:NAME`` replaced by the content of that environment variable.

    ``Bearer env:NAME`` is replaced as well.

    Raises
    ------
    ModelFailure
        When the variable is not set, or holds characters that no header can have. No attempt is
        spent, since no event can help. The message never has the content.
    """
    if (found := _ENVIRONMENT.fullmatch(value)) is None:
        return value
    scheme, variable = found.groups()
    # Files that are mounted as secrets end with a line break.
    secret = os.environ.get(variable, "").strip()
    problem = "" if secret else "is not set"
    if not secret.isascii() or not secret.isprintable():
        problem = "holds characters that no header has"
    if problem:
        text = f"environment variable {variable} {problem}; header {name} of the model is read"
        raise unavailable(f"{text} from it", "MissingVariable")
    return f"{scheme} {secret}" if scheme else secret


def described(url: str, protocol: str) -> Description:
    """Return the description of a model at *url*."""
    about = f"{protocol}: {url.partition('?')[0]}"[:200]
    return Description(default_name(url), default_version(url), about=about)


def default_name(url: str) -> str:
    """Return a name for the model at *url*.

    It is the last segment of the path that is not a general word, else the first label of the host.
    """
    parts = urllib.parse.urlsplit(url)
    for segment in reversed(parts.path.split("/")):
        text = re.sub(r":[A-Za-z]+$", "", urllib.parse.unquote(segment))
        if not _GENERIC.fullmatch(text) and (name := model_name(text)):
            return name
    host = parts.hostname or ""
    label = host if re.fullmatch(r"[\d.]+|.*:.*", host) else host.partition(".")[0]
    return check_model_name(model_name(label, "model"))


def default_version(url: str) -> str | None:
    """Return the version in the path of *url*, if any: ``…/versions/2`` is ``2.0.0``."""
    if (found := _VERSION.search(urllib.parse.urlsplit(url).path)) is None:
        return None
    numbers = [str(int(number)) for number in found[1].split(".")]
    return ".".join([*numbers, "0", "0"][:3])


def _shown(text: str) -> str:
    """Return an address as errors show it: without user, password and query."""
    return re.sub(r"//[^/?#]*@", "//***@", text.partition("?")[0][:_SHOWN])
