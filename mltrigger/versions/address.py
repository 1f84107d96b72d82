"""Address: a model that runs elsewhere, or is no Python, and the options to reach it.

The user decides both once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from mltrigger.errors import InvalidModel, NotFound
from mltrigger.text import redacted

_SHOWN = 200
_SECRET_WORDS = frozenset(
    {
        "token",
        "key",
        "apikey",
        "password",
        "passwd",
        "pwd",
        "signature",
        "sig",
        "secret",
        "credential",
        "credentials",
        "auth",
        "authorization",
        "cookie",
        "bearer",
        "jwt",
        "session",
    }
)
_NO_SECRETS = frozenset({"prompt_cache_key"})
"""Members of requests that have the name of a secret and are none."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FIELD = re.compile(r"\{[^\W\d][\w.-]*\}")
"""A field of a template. Its value is in the event."""
_OTHERWISE = frozenset({"env", "headers", "tracking_uri", "registry_uri", "endpoint_url"})
"""Options that their scheme checks in its own words."""


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Address:
    """The place of a model, ``oip+http://host/v2/models/ocr``, and the options of its scheme.

    An event never changes either.

    Parameters
    ----------
    text : str
        As the user wrote it, without secrets. Options name secrets by environment variables.
    given : str
        The options as canonical JSON. So an address can be compared, kept and sent to a process.
    """

    text: str
    given: str = "{}"

    @classmethod
    def of(cls, text: str, options: Mapping[str, Any]) -> Address:
        """Return an address with *options*, which must have a JSON form."""
        try:
            return cls(
                text, json.dumps(dict(options), sort_keys=True, allow_nan=False, ensure_ascii=False)
            )
        except (TypeError, ValueError) as error:
            raise InvalidModel(
                f"model {text[:_SHOWN]!r}: its options must have a JSON form: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"Address({self.text[:_SHOWN]!r})"

    @property
    def scheme(self) -> str:
        """The part before the first colon: ``oip+http``, ``command``, ``arn``."""
        return self.text.partition(":")[0].lower()

    @property
    def rest(self) -> str:
        """The part behind the first colon."""
        return self.text.partition(":")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The options, as a new dict."""
        options: dict[str, Any] = json.loads(self.given)
        return options

    def checked(self, **known: type | tuple[type, ...]) -> dict[str, Any]:
        """Return the options if each is among *known*, name -> type.

        Raises
        ------
        NotFound
            For an unknown name. The error lists the near ones.
        InvalidModel
            For a value of another type, and for a secret in the address or an option. Both are
            stored.
        """
        options = self.options
        shown = redacted(self.text)[:_SHOWN]
        for name, value in options.items():
            if name not in known:
                raise NotFound.of(f"option of {self.scheme}: models", name, known)
            kind = known[name]
            kinds = kind if isinstance(kind, tuple) else (kind,)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                got = type(value).__name__ if is_secret(name) else repr(value)
                raise InvalidModel(f"model {shown!r}: option {name} must be {wanted}, got {got}")
        self._refuse_secrets(options, shown)
        return options

    def digest(self, content: str = "") -> str:
        """Return 12 hexadecimal digits for the address, its options and the visible *content*."""
        parts = json.dumps([self.text, self.options, content], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def _refuse_secrets(self, options: Mapping[str, Any], shown: str) -> None:
        advice = (
            "and it would be stored; have it read from an environment variable where the model is"
            " called"
        )
        # In pieces: a host or a model may well be called secret or token, with a port or verb
        # behind it.
        if any(
            looks_secret(piece) for piece in re.split(r"[/:?&=\s]", urllib.parse.unquote(self.text))
        ):
            raise InvalidModel(f"model {shown!r}: the address holds a key or a token, {advice}")
        for option, value in options.items():
            if (
                option not in _OTHERWISE
                and (found := next(_secrets(option, value), None)) is not None
            ):
                raise InvalidModel(
                    f"model {shown!r}: option {option} holds a password, a key or a token at"
                    f" {found}, {advice}"
                )


def is_secret(name: str) -> bool:
    """Whether *name* is probably that of a secret: ``X-Api-Key``, ``sig``, ``accessToken``."""
    return (
        not _SECRET_WORDS.isdisjoint(word.lower() for word in _WORD.findall(name))
        or "apikey" in name.lower()
    )


def looks_secret(text: str) -> bool:
    """Whether *text* contains a secret's form or ``password=…``. Template fields do not count."""
    text = _FIELD.sub("None", text)
    return redacted(text) != text


def _secrets(where: str, value: Any) -> Iterator[str]:
    """Yield the paths of probable secrets in *value*, which stands at *where*."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            named = isinstance(inner, str) and is_secret(name) and name not in _NO_SECRETS
            if (
                (named and inner and not _FIELD.fullmatch(inner))
                or looks_secret(name)
                or (not isinstance(inner, (Mapping, list)) and looks_secret(f"{name}={inner}"))
            ):
                yield f"{where}.{redacted(name)[:_SHOWN]}"
            yield from _secrets(f"{where}.{name}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _secrets(f"{where}[{number}]", inner)
    elif isinstance(value, str) and looks_secret(value):
        yield where
