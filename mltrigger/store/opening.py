"""Opening: from a URL to the parts of a bus, for the embedded brokers.

A package adds a broker with an entry point of the group ``mltrigger.brokers``. Its name is the
scheme of the URL. Its value is a function like :func:`sqlite` here: it takes the URL and the
options of ``mt.connect`` that it knows, by keyword, and returns :class:`Parts`.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mltrigger.broker import Broker, Outside
from mltrigger.clock import Clock
from mltrigger.errors import NotFound, StoreError
from mltrigger.store.broker import SqlBroker
from mltrigger.store.registry import Registry
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.transaction import Store
from mltrigger.store.wake import SocketWakeup, Wakeup

DEFAULT_URL = "sqlite:///mltrigger.db"
STORES = (
    "memory://",
    "sqlite:///mltrigger.db",
    "sqlite:////absolute/path.db",
    "postgresql://user@host/database",
)
FORMS = (*STORES, "aws://region/prefix")
"""The forms of URLs, for error messages."""

BrokerOf = Callable[[Registry, Clock, Callable[[], int]], tuple[Broker, Outside | None]]


class Parts(NamedTuple):
    """The parts of a bus that its URL decides.

    ``store`` keeps the log and the registry. ``wakeup`` wakes listeners. ``description`` is the
    name of the bus in a repr. ``broker_of`` takes the registry, the clock and a function that
    returns the number of this process. It returns the broker, and its part for a service outside.
    """

    store: Store
    wakeup: Wakeup
    description: str
    broker_of: BrokerOf


def memory(url: str) -> Parts:
    """Open ``memory://``: a store in this process, forgotten at its end."""
    return embedded(*store_at(url))


def sqlite(url: str) -> Parts:
    """Open ``sqlite:///file.db``: a file for any number of processes on this machine."""
    return embedded(*store_at(url))


def postgresql(url: str) -> Parts:
    """Open ``postgresql://team@db/ml``: a schema of a database, for any number of machines."""
    return embedded(*store_at(url))


def embedded(store: Store, wakeup: Wakeup) -> Parts:
    """Return the parts of a bus whose events lie in *store* itself."""
    return Parts(
        store,
        wakeup,
        store.description,
        lambda _, clock, worker_id: (SqlBroker(store, clock, wakeup, worker_id), None),
    )


def store_at(url: str) -> tuple[Store, Wakeup]:
    """Open the store at *url*, and its wakeup.

    ``?durability=normal`` trades the last instant before a power cut for speed. ``?schema=`` names
    the schema of a PostgreSQL database.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "postgresql":
        from mltrigger.store.postgresql.place import store_of

        return store_of(url)
    path, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name != "durability":
            raise NotFound.of("option in the URL", name, ["durability"])
    if scheme == "memory" and not path:
        return SqliteStore(None), Wakeup()
    if scheme != "sqlite" or not path.startswith("/") or len(path) < 2:
        raise no_broker(url)
    store = SqliteStore(Path(path[1:]), options.get("durability", "full"))
    return store, SocketWakeup(store.location or "")


def no_broker(url: str) -> StoreError:
    """Return the error for an unknown *url*. It may hold a password, so it is not shown."""
    scheme = url.partition("://")[0]
    named = "://" in url and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme)
    begins = f"a URL that begins with {scheme!r}" if named else "that URL"
    if url.startswith("postgres"):
        return StoreError(f"no broker for {begins}: write postgresql://user@host/database")
    return StoreError(f"no broker for {begins}; known forms: {', '.join(FORMS)}")


def default_log() -> str:
    """Return the URL of the log of a bus whose events lie in a service outside."""
    return os.environ.get("MLTRIGGER_LOG") or DEFAULT_URL
