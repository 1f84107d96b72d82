"""connect: from a URL to a bus."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from mltrigger.brokers.wake import SocketWakeup, Wakeup
from mltrigger.bus import EventBus
from mltrigger.clock import Clock, SystemClock
from mltrigger.errors import NotFound, StoreError
from mltrigger.store.sqlite import SqliteStore

DEFAULT_URL = "sqlite:///mltrigger.db"
_SCHEMES = ("memory://", "sqlite:///mltrigger.db", "sqlite:////absolute/path.db")


def connect(url: str | None = None, *, clock: Clock | None = None) -> EventBus:
    """Open a bus.

    Parameters
    ----------
    url : str, optional
        ``memory://`` (this process, forgotten at its end) or ``sqlite:///file.db`` (relative; four slashes for an absolute path; any
        number of processes on this machine). ``?durability=normal`` trades the last instant before a power cut for speed. Default:
        ``$MLTRIGGER_URL``, else ``sqlite:///mltrigger.db`` in the working directory.
    clock : Clock, optional
        What time it is; tests pass ``mltrigger.testing.SimulatedClock()``.

    Returns
    -------
    EventBus
        Also a context manager that closes itself.

    Raises
    ------
    StoreError
        When the file is not a store, belongs to somebody else, or was written by a newer release.
    """
    url = url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name != "durability":
            raise NotFound.of("option in the URL", name, ["durability"])
    if scheme == "memory" and not path:
        return EventBus(SqliteStore(None), clock or SystemClock(), Wakeup())
    if scheme == "sqlite" and path.startswith("/") and len(path) > 1:
        store = SqliteStore(Path(path[1:]), options.get("durability", "full"))
        return EventBus(store, clock or SystemClock(), SocketWakeup(store.location or ""))
    # Without a scheme it may be anything, a password included: it is not repeated.
    begins = f"a URL that begins with {scheme!r}" if "://" in url and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme) else "that URL"
    raise StoreError(f"no broker for {begins}; known forms: {', '.join(_SCHEMES)}")


def existing(url: str | None) -> str | None:
    """Return *url*, or raise StoreError when it names a file that is not there: who only looks must not make one."""
    _, _, path = (url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL).partition(":///")
    if path and not Path(path.partition("?")[0]).exists():
        raise StoreError(f"there is no store {Path(path.partition('?')[0]).name!r} here: name another one with --url")
    return url
