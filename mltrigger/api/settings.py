"""The settings of a server, as values."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from mltrigger.errors import InvalidName
from mltrigger.event.signatures import key_of

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""The hosts that are allowed by default."""
HEAD_BYTES = 32 * 1024
"""The most bytes of a request's headers and address."""
_VARIABLE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one server.

    ``body_bytes`` of one request. ``head_s`` and ``body_s``: how long a head and a body may take to
    arrive. ``rate_per_s``: the requests of one token. ``streams``: open streams of one server.
    ``wait_s``: the longest ``Prefer: wait``.
    """

    body_bytes: int = 16 * 1024 * 1024
    head_s: float = 10.0
    body_s: float = 30.0
    rate_per_s: float = 2_000.0
    streams: int = 100
    wait_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Doors:
    """Who may knock: ``hosts`` by which the server is called, ``origins`` of pages elsewhere."""

    hosts: Sequence[str] = LOOPBACK
    origins: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Hooks:
    """The secrets of webhooks by topic, and the senders that may ask for permission.

    A repr shows no secret.
    """

    secrets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False)
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, webhooks: Mapping[str, str | Sequence[str]], origins: Sequence[str]) -> Hooks:
        """Return the hooks of secrets that are written ``env:NAME``.

        Raises
        ------
        InvalidName
            When one is written in full, or its variable is not set.
        InvalidSignature
            When one is no secret of Standard Webhooks.
        """
        secrets = {
            topic: tuple(map(_secret, [given] if isinstance(given, str) else given))
            for topic, given in webhooks.items()
        }
        return cls(secrets, frozenset(origin.lower() for origin in origins))


def _secret(given: str) -> str:
    found = _VARIABLE.fullmatch(given)
    if found is None:
        raise InvalidName(
            "the secret of a webhook is named by an environment variable: webhooks={'documents':"
            " 'env:DOCUMENTS_SECRET'}"
        )
    secret = os.environ.get(found[1], "")
    if not secret:
        raise InvalidName(f"the environment variable {found[1]} is not set: it has the secret")
    key_of(secret)
    return secret
