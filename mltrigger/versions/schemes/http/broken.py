"""Requests without a whole answer: the reason of the system, in words for people."""

from __future__ import annotations

import ssl

from mltrigger.text import short

_PHRASES = {
    "ProxyError": "the proxy of the environment cannot be used",
    "TlsError": "no safe connection",
    "NameError": "the host's name cannot be resolved",
    "ConnectionError": "the connection failed",
    "BrokenAnswer": "the answer is broken",
}


def cause_of(error: BaseException) -> BaseException:
    """Return the error of the system below those of the library, or *error* itself."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None or isinstance(seen, OSError):
            break
        inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = inner or seen.__cause__ or seen.__context__
    return seen or error


def was_closed(error: Exception) -> bool:
    """Whether the server had closed the connection."""
    return isinstance(cause_of(error), (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError))


def is_timeout(error: Exception) -> bool:
    """Whether a wait was too long. A refused connection is none, although urllib3 says so."""
    from urllib3 import exceptions as u3

    return isinstance(cause_of(error), TimeoutError) or (
        isinstance(error, u3.TimeoutError) and not isinstance(error, u3.NewConnectionError)
    )


def problem_of(error: Exception) -> tuple[str, str]:
    """Return the kind of *error* and the problem in words."""
    from urllib3 import exceptions as u3

    kinds: dict[str, tuple[type[Exception], ...]] = {
        "ProxyError": (u3.ProxyError,),
        "TlsError": (u3.SSLError,),
        "NameError": (u3.NameResolutionError,),
        "BrokenAnswer": (
            u3.DecodeError,
            u3.IncompleteRead,
            u3.InvalidHeader,
            u3.InvalidChunkLength,
        ),
    }
    kind = next((name for name, each in kinds.items() if isinstance(error, each)), None)
    kind, cause = kind or "ConnectionError", cause_of(error)
    said = getattr(cause, "strerror", None) or (
        str(cause) if cause is not error else type(error).__name__
    )
    return kind, f"{_PHRASES[kind]}: {short(said, 200)}"
