"""The stores that are stormed, as somebody sees them who only reads: a file, or a server."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.storm.processes import Held, now_us

HELD = "SELECT subscription_id, seq, attempt, worker_id FROM leased"
"""All leases."""


class Reading(Protocol):
    """A connection that only reads. Parameters are ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any:
        """Run *sql*, and return its cursor."""


class Place(Protocol):
    """A store."""

    @property
    def url(self) -> str:
        """As ``mt.connect`` takes it."""

    def reading(self) -> contextlib.AbstractContextManager[Reading]:
        """Open it as nobody's worker."""

    def held(self) -> Held:
        """Return all leases at this moment."""

    def integrity(self, reading: Reading) -> str:
        """Return ``ok``, or what is damaged."""


@dataclasses.dataclass(frozen=True)
class File:
    """A file of SQLite."""

    path: Path

    @property
    def url(self) -> str:
        """As ``mt.connect`` takes it."""
        return f"sqlite:///{self.path}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Open the store as nobody's worker: only to read."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10.0)
        try:
            yield connection
        finally:
            connection.close()

    def held(self) -> Held:
        """Return all leases at this moment."""
        with self.reading() as connection:
            return connection.execute(HELD).fetchall()

    def integrity(self, reading: Reading) -> str:
        """Return ``ok``, or what is damaged."""
        return "; ".join(row[0] for row in reading.execute("PRAGMA integrity_check"))


def open_in(place: Place) -> int:
    """Return how many deliveries wait or are leased."""
    with place.reading() as connection:
        return int(
            connection.execute(
                "SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM leased)"
            ).fetchone()[0]
        )


def left_in(place: Place) -> list[str]:
    """Return what is open, a line each: for whoever looks into it."""
    with place.reading() as connection:

        def rows(sql: str, *parameters: object) -> list[dict[str, Any]]:
            cursor = connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

        lines = [
            f"now {now_us()}, left in {table}: {row};"
            f" {rows('SELECT * FROM invocation WHERE seq = ?', row['seq'])}"
            for table in ("waiting", "leased")
            for row in rows(f"SELECT * FROM {table} LIMIT 5")
        ]
        listening = rows(
            "SELECT l.subscription_id, w.* FROM listener l JOIN worker w ON w.id = l.worker_id"
            " ORDER BY w.id DESC LIMIT 8"
        )
        return [*lines, *[f"listener {row}" for row in listening]]
