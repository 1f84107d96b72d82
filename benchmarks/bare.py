"""The limit: what ``sqlite3`` alone does for the very rows that mltrigger wrote, in the same
tables, with the same commits.

Everything is prepared outside the measured time: the schema is copied from mltrigger's file, the
rows are read back from it, and the statements run over ready-made tuples. No JSON, no objects, no
model, no threads: only SQLite.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mltrigger.store import sqlite as store

Row = tuple[Any, ...]
CHECKPOINT_CHANGES: int = getattr(store, "CHECKPOINT_CHANGES", 20_000)
_CLAIM = """
SELECT r.*, e.* FROM ready r JOIN event e ON e.seq = r.seq
WHERE r.subscription_id = ? AND r.visible_us <= ? ORDER BY r.visible_us, r.seq LIMIT ?
"""


class Written:
    """What mltrigger left in its file: schema and rows."""

    def __init__(self, path: Path) -> None:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        made = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        )
        self.schema = [sql for (sql,) in made]
        tables = ("lease", "ready", "invocation")
        self.columns = {
            table: [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }
        self.events: list[Row] = connection.execute("SELECT * FROM event ORDER BY seq").fetchall()
        self.ready: list[Row] = connection.execute(
            "SELECT * FROM ready ORDER BY subscription_id, visible_us, seq"
        ).fetchall()
        self.invocations: list[Row] = connection.execute(
            "SELECT * FROM invocation ORDER BY seq"
        ).fetchall()
        self.topics: list[Row] = connection.execute("SELECT * FROM topic").fetchall()
        connection.close()

    def keys(self) -> list[Row]:
        """Return the primary key of what is ready, in the order of the claims."""
        index = [
            self.columns["ready"].index(name) for name in ("subscription_id", "visible_us", "seq")
        ]
        return [tuple(row[i] for i in index) for row in self.ready]

    def distinct(self, column: str) -> int:
        """Return how many different values a column of the invocations has: one instant a claim,
        one a record.
        """
        index = self.columns["invocation"].index(column)
        return len({row[index] for row in self.invocations})


class Bare:
    """One connection to an own file with mltrigger's schema."""

    def __init__(self, path: Path, written: Written) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        for pragma in (
            "journal_mode=WAL",
            "wal_autocheckpoint=0",
            "cache_size=-32768",
            "synchronous=FULL",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        for statement in written.schema:
            self._db.execute(statement)
        self._fill("topic", written.topics)
        self._written = written
        self._checkpoint_at = CHECKPOINT_CHANGES

    def close(self) -> None:
        self._db.close()

    def publish(self, size: int) -> float:
        """Insert every event with its delivery, *size* events a commit at FULL; return the seconds."""
        events, ready = self._written.events, self._written.ready
        started = time.perf_counter()
        for i in range(0, len(events), size):
            self._db.execute("BEGIN IMMEDIATE")
            self._fill("event", events[i : i + size])
            self._fill("ready", ready[i : i + size])
            self._commit()
        return time.perf_counter() - started

    def consume(self, claim: int, settle: int, invocations: Sequence[Row]) -> float:
        """Claim *claim* events a commit at NORMAL and settle *settle* a commit at FULL, until none
        is left; return the seconds.
        """
        keys, leases = self._written.keys(), self._leases()
        claimed = settled = 0
        started = time.perf_counter()
        while settled < len(keys):
            while claimed < len(keys) and claimed - settled < settle:
                claimed += self._claim(claim, keys, leases, claimed)
            end = min(settled + settle, claimed)
            self._settle(keys[settled:end], invocations[settled:end])
            settled = end
        return time.perf_counter() - started

    def _claim(self, size: int, keys: Sequence[Row], leases: Sequence[Row], at: int) -> int:
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        found = len(self._db.execute(_CLAIM, (keys[0][0], 2**62, size)).fetchall())
        self._db.executemany(
            "DELETE FROM ready WHERE subscription_id = ? AND visible_us = ? AND seq = ?",
            keys[at : at + found],
        )
        self._fill("lease", leases[at : at + found])
        self._commit()
        return found

    def _settle(self, keys: Sequence[Row], invocations: Sequence[Row]) -> None:
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "DELETE FROM lease WHERE subscription_id = ? AND seq = ? AND attempt = 1",
            [(k[0], k[2]) for k in keys],
        )
        self._fill("invocation", invocations)
        self._db.execute(
            "INSERT INTO tally (subscription_id, worker_id, outcome, n) VALUES (?, 1, 'succeeded',"
            " ?) ON CONFLICT (subscription_id, worker_id, outcome) DO UPDATE SET n = n +"
            " excluded.n",
            (keys[0][0], len(keys)),
        )
        self._commit()

    def _leases(self) -> list[Row]:
        """Return one lease a delivery, as wide as mltrigger's own."""
        known = {"attempt": 1, "until_us": 2 * 10**15, "received_us": 10**15, "worker_id": 1}
        ready = [
            dict(zip(self._written.columns["ready"], row, strict=True))
            for row in self._written.ready
        ]
        return [
            tuple({**row, **known}.get(name, 0) for name in self._written.columns["lease"])
            for row in ready
        ]

    def _fill(self, table: str, rows: Sequence[Row]) -> None:
        if rows:
            self._db.executemany(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows
            )

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        # as often as mltrigger moves its write-ahead log
        if self._db.total_changes >= self._checkpoint_at:
            self._checkpoint_at = self._db.total_changes + CHECKPOINT_CHANGES
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
