"""A server of PostgreSQL that waits for its disk, and a schema of its own for each measurement."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))
from databases import Postgres

_SETTINGS = ("-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB")
"""All else is as PostgreSQL comes: fsync, full_page_writes and synchronous_commit are on."""
_numbers = itertools.count()


@contextlib.contextmanager
def server(*settings: str) -> Iterator[Postgres]:
    """Run a server, and remove it afterwards."""
    running = Postgres(*_SETTINGS, *settings)
    try:
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def schema(running: Postgres) -> Iterator[str]:
    """Give the name of a schema of its own, and drop it afterwards."""
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    try:
        yield name
    finally:
        running.forget(name)


@contextlib.contextmanager
def database(running: Postgres) -> Iterator[str]:
    """Make a database of its own, give its address, and drop it afterwards."""
    name = f"bench_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(running.dsn("postgres"), autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
        try:
            yield running.dsn(name)
        finally:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)")


def settled(dsn: str) -> None:
    """Write the server's cache to the disk, so that no measurement pays for the one before."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("CHECKPOINT")
