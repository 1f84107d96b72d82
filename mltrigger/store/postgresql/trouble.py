"""Errors of a server, in our words: whether it will come back, and what to do."""

from __future__ import annotations

import psycopg
from psycopg import errors

_FOR_GOOD = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.InsufficientPrivilege,
    errors.DiskFull,
    errors.QueryCanceled,
)
"""Errors that no second try mends."""
_TOO_MANY = (
    "close other programs, or let the administrator raise max_connections or the role's limit: each"
    " process keeps up to eight sessions"
)
_ADVICE: dict[type[Exception], str] = {
    errors.DiskFull: "make room on the server's disk; nothing of this call was stored",
    errors.InsufficientPrivilege: "ask the owner for a role, see `mltrigger postgres roles`",
    errors.InvalidCatalogName: "make it with CREATE DATABASE, or name another one",
    errors.TooManyConnections: _TOO_MANY,
    errors.ReadOnlySqlTransaction: "name the server that leads, not its copy",
}
_ADVICE_FOR = {
    "too many c": _TOO_MANY,
    "remaining connection slots": _TOO_MANY,
    "session is read-only": _ADVICE[errors.ReadOnlySqlTransaction],
    "server is in hot standby": _ADVICE[errors.ReadOnlySqlTransaction],
    "No space left on device": _ADVICE[errors.DiskFull],
}
_WORDS_FOR_GOOD = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "certificate verify failed",
    "server does not support SSL",
    "could not translate host name",
    "invalid sslmode",
)


def is_away(error: psycopg.OperationalError) -> bool:
    """Whether the server may answer later: it restarts, or its address moves to another machine."""
    if isinstance(error, _FOR_GOOD):
        return False
    return not any(words in str(error) for words in _WORDS_FOR_GOOD)


def is_cut(error: psycopg.Error) -> bool:
    """Whether the session ended in the middle of a transaction, and another one may do the same."""
    if isinstance(error, errors.IdleInTransactionSessionTimeout):
        return True
    return isinstance(error, psycopg.OperationalError) and is_away(error)


def said(error: Exception) -> str:
    """Return the first line of *error*, without addresses, and the advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    failures = [line.rpartition("failed: ")[2].strip() for line in lines if "failed: " in line]
    text = failures[-1] if failures else lines[0]
    if "FATAL:" in text:
        text = text.partition("FATAL:")[2].strip()
    elif failures:
        text = f"no connection to the server ({text})"
    elif text.startswith("connection "):
        text = f"no connection to the server ({text.rpartition(': ')[2]})"
    advice = next((a for kind, a in _ADVICE.items() if isinstance(error, kind)), None)
    if advice is None:  # an error at the start of a session comes without a code
        advice = next((a for words, a in _ADVICE_FOR.items() if words in text), None)
    return text if advice is None else f"{text}; {advice}"
