"""connect: from a URL to a bus."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from mltrigger.bus import EventBus
from mltrigger.clock import Clock, SystemClock
from mltrigger.errors import NotFound, StoreError, brief
from mltrigger.names import Adapters
from mltrigger.store.opening import DEFAULT_URL, Parts, default_log, no_broker

BROKERS = Adapters(
    "broker",
    "mltrigger.brokers",
    {
        "memory": "store.opening:memory",
        "sqlite": "store.opening:sqlite",
        "postgresql": "store.opening:postgresql",
        "aws": "aws.opening:opened",
    },
    StoreError,
)
"""The openers of brokers by their URL scheme. :mod:`mltrigger.store.opening` describes one."""


@brief
def connect(url: str | None = None, *, clock: Clock | None = None, **aws: Any) -> EventBus:
    """Open a bus.

    Parameters
    ----------
    url : str, optional
        ``memory://``: in this process, forgotten at its end. ``sqlite:///file.db``: a file for any
        number of processes on this machine. Four slashes begin an absolute path.
        ``?durability=normal`` trades the last instant before a power cut for speed.
        ``postgresql://team@db/ml``: a schema of a PostgreSQL database, for any number of machines.
        The rest of the URL is libpq's. ``?schema=name`` names another schema than
        ``mltrigger_bus``.
        ``aws://eu-west-1/prefix``: SNS and SQS of that region. The names of topics and queues begin
        with the prefix. Default: ``$MLTRIGGER_URL``, else ``sqlite:///mltrigger.db`` in the working
        directory.
    clock : Clock, optional
        The clock of the bus. Tests pass ``mltrigger.testing.SimulatedClock()``.
    **aws
        For ``aws://`` only. ``log``: the URL of the store for registry and log, shared by all
        workers of the bus. Default: ``$MLTRIGGER_LOG``, else ``sqlite:///mltrigger.db``.
        ``profile`` or ``session``: the credentials, else boto3's own chain. ``role_arn``,
        ``external_id``: a role to assume, renewed before it expires. ``endpoint_url``: another
        address than that of AWS. ``bucket``: the bucket for events above 256 KiB.

    Returns
    -------
    EventBus
        Also a context manager that closes itself.

    Raises
    ------
    StoreError
        When the file is no store, belongs to another user, or was written by a newer release.
    """
    url = url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL
    return EventBus(_opened(url, aws), clock or SystemClock())


def _opened(url: str, options: dict[str, Any]) -> Parts:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in BROKERS:
        raise no_broker(url)
    opener = BROKERS.load(scheme)
    keywords = inspect.signature(opener).parameters.values()
    known = ["clock", *(p.name for p in keywords if p.kind is p.KEYWORD_ONLY)]
    for name in options:
        if name not in known:
            advice = "" if len(known) > 1 else "options such as log= belong to aws://region/prefix"
            raise NotFound.of(f"option of {scheme}:// buses", name, known, advice)
    parts: Parts = opener(url, **options)
    return parts


def existing(url: str | None) -> str | None:
    """Return *url*. Raise StoreError if its store does not exist: a typo must not make a store."""
    named = url or os.environ.get("MLTRIGGER_URL") or DEFAULT_URL
    log = default_log() if named.startswith("aws://") else named
    scheme, _, path = log.partition(":///")
    file = Path(path.partition("?")[0])
    if scheme == "sqlite" and path and not file.exists():
        beside = [
            other.name for pattern in ("*.db", "*.sqlite*") for other in file.parent.glob(pattern)
        ]
        raise StoreError.of(
            "store",
            str(file),
            [str(file.with_name(name)) for name in beside],
            "name one that is there with --url",
        )
    if scheme == "sqlite" and path and file.is_file() and not file.stat().st_size:
        raise StoreError(f"{str(file)!r} is empty, so it is no store: name another one with --url")
    if named.startswith("postgresql://"):
        from mltrigger.store.postgresql.place import check_there

        check_there(named)
    return url
