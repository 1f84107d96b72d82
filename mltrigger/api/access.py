"""Access: tokens with scopes, kept as hashes, and sessions of browsers."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from mltrigger.errors import InvalidName, NameTaken, NotFound
from mltrigger.names import check_name

KINDS = ("publish", "read", "invoke", "administer")
"""The things that a token may permit."""
PREFIX = "mlt_"
SESSION_S, TICKET_S = 8 * 3600.0, 60.0
"""How long a session of a browser lasts, and a ticket for one stream."""
MOST_SESSIONS = 10_000
_KEY = "token:"
_WHAT = re.compile(r"\*|[A-Za-z0-9_.:@+-]+")
_OF = {"publish": "topic", "read": "subscription", "invoke": "model"}
_FRESH_S = 1.0


class Settings(Protocol):
    """The part of a registry that keeps tokens."""

    def settings(self, prefix: str) -> dict[str, Any]:
        """Return the settings whose names begin so."""

    def set_setting(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a setting."""

    def drop_setting(self, name: str) -> bool:
        """Delete a setting. Return whether it was there."""


class Holder(NamedTuple):
    """The holder of a token: its name, and its scopes such as ``publish:documents``."""

    name: str
    scopes: tuple[str, ...]
    digest: str = ""

    def may(self, kind: str, what: str = "") -> bool:
        """Whether a scope permits *kind* for the topic, subscription or model *what*."""
        if "administer" in self.scopes:
            return True
        return kind != "administer" and not {f"{kind}:*", f"{kind}:{what}"}.isdisjoint(self.scopes)

    def may_see(self, subscription: str) -> bool:
        """Whether a scope permits to see the state of one known event for *subscription*.

        Who may call a model may ask for a call by its id. Their subscription is a selector.
        """
        model = re.split("[:@]", subscription)[0]
        direct = model != subscription and self.may("invoke", model)
        return direct or self.may("read", subscription)


class Kept(NamedTuple):
    """A token as ``mltrigger token list`` shows it. ``made_s`` counts seconds since 1970."""

    name: str
    scopes: tuple[str, ...]
    made_s: int


class Tokens:
    """The tokens of a bus.

    Parameters
    ----------
    settings : Settings
        Keeps their hashes. A token has 256 random bits, so a plain hash tells nothing of it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, Holder] = {}
        self._read_s = -_FRESH_S
        self._passing: dict[str, Holder] = {}

    def create(self, name: str, scopes: Iterable[str]) -> str:
        """Make a token and return it. It is shown once and kept nowhere.

        Raises
        ------
        NameTaken
            When there is a token of that name.
        InvalidName
            For a wrong name or scope.
        """
        check_name("token", name)
        given = tuple(dict.fromkeys(map(_checked, scopes)))
        if not given:
            raise InvalidName(
                "a token needs a scope: publish:TOPIC, read:SUBSCRIPTION, invoke:MODEL or"
                " administer"
            )
        if name in self._kept():
            raise NameTaken(f"token {name!r} exists: revoke it first, or choose another name")
        token = PREFIX + secrets.token_urlsafe(32)
        kept = {"hash": _hash(token), "scopes": list(given), "made_s": int(time.time())}
        self._settings.set_setting(_KEY + name, kept)
        return token

    def passing(self, name: str, scopes: Iterable[str]) -> str:
        """Make a token that lives as long as this process, and return it."""
        token = PREFIX + secrets.token_urlsafe(32)
        digest = _hash(token)
        # a new mapping: another thread may look through the old one
        holder = Holder(name, tuple(map(_checked, scopes)), digest)
        self._passing = {**self._passing, digest: holder}
        return token

    def end_passing(self) -> None:
        """Refuse all tokens that were to live as long as this process."""
        self._passing = {}

    def list(self) -> list[Kept]:
        """Return all kept tokens, the oldest first."""
        found = [
            Kept(name, tuple(each["scopes"]), int(each["made_s"]))
            for name, each in self._kept().items()
        ]
        return sorted(found, key=lambda kept: (kept.made_s, kept.name))

    def revoke(self, name: str) -> None:
        """Refuse a token from now on. Other processes follow within a second."""
        if not self._settings.drop_setting(_KEY + name):
            raise NotFound.of("token", name, self._kept())

    @property
    def is_fresh(self) -> bool:
        """Whether the store was read within a second."""
        return time.monotonic() - self._read_s < _FRESH_S

    def refresh(self) -> None:
        """Read the tokens of the store."""
        self._known = {
            each["hash"]: Holder(name, tuple(each["scopes"]), each["hash"])
            for name, each in self._kept().items()
        }
        self._read_s = time.monotonic()

    def holder(self, token: str) -> Holder | None:
        """Return the holder of *token*, as it was at the last refresh. ``None`` if unknown."""
        wanted, found = _hash(token), None
        for known in (self._passing, self._known):
            for digest, holder in known.items():
                if hmac.compare_digest(digest, wanted):
                    found = holder
        return found

    def is_valid(self, holder: Holder) -> bool:
        """Whether the token of *holder* was there at the last refresh."""
        return holder.digest in self._passing or holder.digest in self._known

    def _kept(self) -> dict[str, Any]:
        found = self._settings.settings(_KEY)
        return {name.removeprefix(_KEY): value for name, value in found.items()}


class Sessions:
    """Sessions and tickets of browsers, in memory. Their ids are no tokens.

    Parameters
    ----------
    now_s : callable
        Returns monotonic seconds.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._open: dict[str, tuple[str, float]] = {}
        self._tickets: dict[str, tuple[str, str, float]] = {}

    def begin(self, token: str) -> str:
        """Return the id of a new session of the holder of *token*."""
        self._forget()
        session = secrets.token_urlsafe(32)
        self._open[_hash(session)] = (token, self._now_s() + SESSION_S)
        return session

    def token(self, session: str) -> str | None:
        """Return the token of a session. ``None`` when it has ended."""
        token, until_s = self._open.get(_hash(session), ("", 0.0))
        return token if until_s > self._now_s() else None

    def end(self, session: str) -> None:
        """End a session. Idempotent."""
        self._open.pop(_hash(session), None)

    def ticket(self, token: str, path: str, for_s: float = TICKET_S) -> str:
        """Return a ticket that opens *path* once, within *for_s* seconds."""
        self._forget()
        ticket = secrets.token_urlsafe(32)
        self._tickets[_hash(ticket)] = (token, path, self._now_s() + for_s)
        return ticket

    def redeem(self, ticket: str, path: str) -> str | None:
        """Return the token behind a ticket for *path*. It is used up."""
        token, opens, until_s = self._tickets.pop(_hash(ticket), ("", "", 0.0))
        return token if until_s > self._now_s() and opens == path else None

    def _forget(self) -> None:
        """Forget ended ones, and the oldest when there are too many."""
        now_s = self._now_s()
        both: tuple[dict[str, Any], ...] = self._open, self._tickets
        for kept in both:  # another thread may add to it meanwhile
            for key in [key for key, value in list(kept.items()) if value[-1] <= now_s]:
                kept.pop(key, None)
            for key in list(kept)[: max(0, len(kept) + 1 - MOST_SESSIONS)]:
                kept.pop(key, None)


def _checked(scope: str) -> str:
    kind, _, what = scope.partition(":")
    if kind not in KINDS:
        raise InvalidName(str(NotFound.of("scope", kind, KINDS)))
    if kind == "administer":
        if what:
            raise InvalidName("the scope administer names nothing: it permits everything")
        return scope
    if not _WHAT.fullmatch(what or "*"):
        raise InvalidName(f"scope {scope[:100]!r}: name one {_OF[kind]}, or * for all")
    return f"{kind}:{what or '*'}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
