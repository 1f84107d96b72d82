"""Errors of a server, in our words. Each says whether it passes, and the next step."""

from __future__ import annotations

import psycopg
from psycopg import errors

from mltrigger.store.postgresql.sessions import Sessions

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
_START = "start the server, or correct host and port in the URL"
_USER = "name a user of the server in the URL, and leave the password to .pgpass or to PGPASSWORD"
_DATABASE = "make it with CREATE DATABASE, or name another one in the URL"
_TLS = "name another sslmode in the URL, or let the administrator turn TLS on"
_ADVICE: dict[type[Exception], str] = {
    errors.DiskFull: "make room on the server's disk; nothing of this call was stored",
    errors.InsufficientPrivilege: "ask the owner for a role, see `mltrigger postgres roles`",
    errors.InvalidCatalogName: _DATABASE,
    errors.TooManyConnections: _TOO_MANY,
    errors.ReadOnlySqlTransaction: "name the server that leads, not its copy",
}
_ADVICE_FOR = {
    "too many c": _TOO_MANY,
    "remaining connection slots": _TOO_MANY,
    "session is read-only": _ADVICE[errors.ReadOnlySqlTransaction],
    "server is in hot standby": _ADVICE[errors.ReadOnlySqlTransaction],
    "No space left on device": _ADVICE[errors.DiskFull],
    "password authentication failed": _USER,
    "no password supplied": _USER,
    'role "': _USER,
    'database "': _DATABASE,
    "no pg_hba.conf entry": "let the administrator add one for this user, database and machine",
    "server does not support SSL": _TLS,
    "certificate verify failed": "name the server's root certificate with sslrootcert",
    "invalid ": "correct that word of the URL",
    "no connection to the server": _START,
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
    "invalid integer value",
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


def lost(sessions: Sessions) -> tuple[str, str] | None:
    """Return why no session can be opened, and the advice. ``None`` if one can."""
    try:
        sessions.open().close()
    except psycopg.Error as error:
        text, advice = told(error)
        return text, advice or "repair the server: its own log says more"
    return None


def said(error: Exception) -> str:
    """Return the first line of *error*, without addresses, and the advice."""
    text, advice = told(error)
    return f"{text}; {advice}" if advice else text


def told(error: Exception) -> tuple[str, str]:
    """Return the first line of *error*, without addresses, and the advice, which may be empty."""
    text = _first_line(error)
    found = [advice for kind, advice in _ADVICE.items() if isinstance(error, kind)]
    if isinstance(error, errors.OperationalError) and not found:
        # an error at the start of a session comes without a code
        found = [advice for words, advice in _ADVICE_FOR.items() if words in text]
    return text, found[0] if found else ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    failures = [line.rpartition("failed: ")[2].strip() for line in lines if "failed: " in line]
    text = failures[-1] if failures else lines[0].removeprefix("connection is bad: ")
    if "FATAL:" in text:
        return text.partition("FATAL:")[2].strip()
    if text.startswith("failed to resolve host"):
        return "no connection to the server (no machine has the name of its host)"
    if text.startswith("invalid "):
        return text
    if failures:
        return f"no connection to the server ({text})"
    if text.startswith("connection "):
        return f"no connection to the server ({text.rpartition(': ')[2]})"
    return text
