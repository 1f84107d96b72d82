"""connect: from a URL to a bus."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mltrigger.bus import EventBus
from mltrigger.clock import Clock, SystemClock
from mltrigger.errors import NotFound, StoreError, brief
from mltrigger.store.registry import Registry
from mltrigger.store.sqlite import SqliteStore
from mltrigger.store.wake import SocketWakeup, Wakeup

DEFAULT_URL = "sqlite:///mltrigger.db"
_SCHEMES = (
    "memory://",
    "sqlite:///mltrigger.db",
    "sqlite:////absolute/path.db",
    "aws://region/prefix",
)
_AWS_OPTIONS = ("log", "profile", "session", "role_arn", "external_id", "endpoint_url", "bucket")


@brief
def connect(url: str | None = None, *, clock: Clock | None = None, **aws: Any) -> EventBus:
    """Open a bus.

    Parameters
    ----------
    url : str, optional
        ``memory://`` (this process, forgotten at its end) or ``sqlite:///file.db`` (relative; four
        slashes for an absolute path; any number of processes on this machine).
        ``?durability=normal`` trades the last instant before a power cut for speed.
        ``aws://eu-west-1/prefix``: SNS and SQS of that region; the names of all topics and queues
        begin with the prefix. Default: ``$MLTRIGGER_URL``, else ``sqlite:///mltrigger.db`` in the
        working directory.
    clock : Clock, optional
        What time it is; tests pass ``mltrigger.testing.SimulatedClock()``.
    **aws
        For ``aws://`` only. ``log``: the URL of the store for registry and log (default
        ``$MLTRIGGER_LOG``, else ``sqlite:///mltrigger.db``; who shares the work shares the log).
        ``profile`` or ``session``: whose credentials, else boto3's own chain. ``role_arn``,
        ``external_id``: a role to assume, renewed before it expires. ``endpoint_url``: another
        address than AWS'. ``bucket``: where events beyond 256 KiB go.

    Returns
    -------
    EventBus
        Also a context manager that closes itself.

    Raises
    ------
    StoreError
        When the file is not a store, belongs to somebody else, or was written by a newer release.
    """
    for name in aws:
        if name not in _AWS_OPTIONS:
            raise NotFound.of("option of connect", name, _AWS_OPTIONS)
    url = url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL
    scheme, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name != "durability" or scheme == "aws":
            raise NotFound.of("option in the URL", name, ["durability"])
    if scheme == "aws":
        return _connect_aws(path, clock or SystemClock(), **aws)
    if aws:
        raise NotFound.of(
            f"option of {scheme}:// buses",
            next(iter(aws)),
            ["clock"],
            "it belongs to aws://region/prefix",
        )
    if scheme == "memory" and not path:
        return EventBus(SqliteStore(None), clock or SystemClock(), Wakeup())
    if scheme == "sqlite" and path.startswith("/") and len(path) > 1:
        store, wakeup = _sqlite(path, options)
        return EventBus(store, clock or SystemClock(), wakeup)
    # Without a scheme it may be anything, a password included: it is not repeated.
    begins = (
        f"a URL that begins with {scheme!r}"
        if "://" in url and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme)
        else "that URL"
    )
    raise StoreError(f"no broker for {begins}; known forms: {', '.join(_SCHEMES)}")


def _sqlite(path: str, options: Mapping[str, str]) -> tuple[SqliteStore, Wakeup]:
    store = SqliteStore(Path(path[1:]), options.get("durability", "full"))
    return store, SocketWakeup(store.location or "")


def _connect_aws(
    where: str,
    clock: Clock,
    *,
    log: str | None = None,
    bucket: str | None = None,
    **credentials: Any,
) -> EventBus:
    region, _, prefix = where.partition("/")
    if not re.fullmatch(r"[a-z]{2,}(-[a-z]+)+-\d", region) or not prefix:
        raise StoreError(
            "an AWS URL is aws://region/prefix, for example aws://eu-west-1/acme: topics and queues"
            " are called acme-…"
        )
    from mltrigger.aws.admin.resources import Resources
    from mltrigger.aws.clients import Clients, open_session
    from mltrigger.aws.transport.broker import AwsBroker

    endpoint_url = credentials.get("endpoint_url")
    clients = Clients(open_session(region, **credentials), region, endpoint_url)
    resources = Resources(clients, prefix, offloads=bucket is not None)
    scheme, _, path = (log or _default_log()).partition("://")
    if scheme == "memory":
        store, wakeup = SqliteStore(None), Wakeup()
    elif scheme == "sqlite" and path.startswith("/") and len(path) > 1:
        store, wakeup = _sqlite(
            path.partition("?")[0], dict(urllib.parse.parse_qsl(path.partition("?")[2]))
        )
    else:
        raise StoreError(f"log= must be the URL of a store: {', '.join(_SCHEMES[:2])}")

    def broker_of(registry: Registry, worker_id: Callable[[], int]) -> AwsBroker:
        return AwsBroker(clients, resources, store, registry, clock, wakeup, worker_id, bucket)

    return EventBus(store, clock, wakeup, broker_of, f"aws://{region}/{prefix}")


def _default_log() -> str:
    return os.environ.get("MLTRIGGER_LOG") or DEFAULT_URL


def existing(url: str | None) -> str | None:
    """Return *url*, or raise StoreError when it names a file that is not there: a mistyped name
    must not make a store.
    """
    named = url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL
    _, _, path = (_default_log() if named.startswith("aws://") else named).partition(":///")
    file = Path(path.partition("?")[0])
    if path and not file.exists():
        beside = [
            other.name for pattern in ("*.db", "*.sqlite*") for other in file.parent.glob(pattern)
        ]
        raise StoreError.of(
            "store",
            str(file),
            [str(file.with_name(name)) for name in beside],
            "name one that is there with --url",
        )
    return url
