"""The limit: bare ``sqlite3`` that writes the same facts in the leanest schema.

It has an event, a cursor, a leased range, a lot, an outcome and a count. Publishing makes ids and
JSON from objects, and consuming reads the JSON back, as mltrigger does. Each publish and each
settlement is on the disk when its commit returns. A settlement and the next claim are one commit.
Left out: threads, hooks, filters, retries, wake-ups, models and every check.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
import uuid_utils

from benchmarks.harness import Rate

_SCHEMA = """
CREATE TABLE event(seq INTEGER PRIMARY KEY, topic INT NOT NULL, id BLOB NOT NULL,
  source INT NOT NULL, type INT NOT NULL, published_us INT NOT NULL, more TEXT,
  data BLOB NOT NULL, UNIQUE(id, source, topic));
CREATE INDEX event_topic ON event(topic);
CREATE TABLE cursor(subscription INTEGER PRIMARY KEY, next_seq INT NOT NULL,
  next_lease INT NOT NULL);
CREATE TABLE lease(subscription INT, number INT, low INT, high INT, attempt INT, open INT,
  received_us INT, until_us INT, worker INT, PRIMARY KEY(subscription, number)) WITHOUT ROWID;
CREATE TABLE lot(id INTEGER PRIMARY KEY, subscription INT, low INT, high INT, model_version INT,
  received_us INT, started_us INT, finished_us INT, settled_us INT, batch_size INT, worker INT);
CREATE TABLE outcome(subscription INT, seq INT, attempt INT, lot INT, outcome INT, output BLOB,
  PRIMARY KEY(subscription, seq, attempt)) WITHOUT ROWID;
CREATE TABLE tally(subscription INT, worker INT, outcome INT, n INT,
  PRIMARY KEY(subscription, worker, outcome)) WITHOUT ROWID;
INSERT INTO cursor VALUES(1, 1, 1);
"""
_PUBLISH = """
INSERT INTO event(topic, id, source, type, published_us, data) VALUES(1, ?, 1, 1, ?, ?)
ON CONFLICT DO NOTHING
"""
_NEXT = """
SELECT seq, data, published_us FROM event INDEXED BY event_topic
WHERE topic = 1 AND seq >= ? ORDER BY seq LIMIT ?
"""
_COUNTED = """
INSERT INTO tally VALUES(1, 1, 1, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n
"""
LOG_PAGES = 2_048
"""The write-ahead log begins anew after 8 MiB, and has that size from the start."""
_LEASE_US = 120_000_000
_decode = msgspec.json.Decoder().decode


class _Lot(NamedTuple):
    """A leased range with its answers."""

    number: int
    low: int
    high: int
    times: tuple[int, int, int]
    seqs: list[int]


class Lean:
    """One connection to a file of its own, durable with each commit."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        for pragma in ("journal_mode=WAL", "wal_autocheckpoint=0", "cache_size=-32768"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.executescript(_SCHEMA)
        self._lengthen_log()
        self._db.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}").fetchall()

    def close(self) -> None:
        self._db.close()

    def publish(self, samples: Sequence[Any], size: int) -> Rate:
        """Insert *samples*, *size* a commit."""
        cpu_s, started = time.process_time(), time.perf_counter()
        for i in range(0, len(samples), size):
            now = _now_us()
            rows = [
                (uuid_utils.uuid7().bytes, now, orjson.dumps(sample))
                for sample in samples[i : i + size]
            ]
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_PUBLISH, rows)
            self._db.execute("COMMIT")
        return Rate.since(len(samples), started, cpu_s)

    def consume(self, count: int, size: int) -> Rate:
        """Lease, read and settle *count* waiting events, *size* a commit."""
        cpu_s, started = time.process_time(), time.perf_counter()
        held, settled = None, 0
        while settled < count:
            self._db.execute("BEGIN IMMEDIATE")
            if held is not None:
                settled += self._settle(held)
            received, found = _now_us(), self._claim(size)
            self._db.execute("COMMIT")
            held = None
            if found:
                number, rows = found
                begun = _now_us()
                for _, data, _ in rows:
                    _decode(data)
                times = (received, begun, _now_us())
                held = _Lot(number, rows[0][0], rows[-1][0], times, [row[0] for row in rows])
        return Rate.since(count, started, cpu_s)

    def _claim(self, size: int) -> tuple[int, list[Any]] | None:
        ((low, number),) = self._db.execute(
            "SELECT next_seq, next_lease FROM cursor WHERE subscription = 1"
        ).fetchall()
        rows, now = self._db.execute(_NEXT, (low, size)).fetchall(), _now_us()
        if not rows:
            return None
        high = rows[-1][0]
        self._db.execute(
            "UPDATE cursor SET next_seq = ?, next_lease = ? WHERE subscription = 1",
            (high + 1, number + 1),
        )
        self._db.execute(
            "INSERT INTO lease VALUES(1, ?, ?, ?, 1, ?, ?, ?, 1)",
            (number, low, high, len(rows), now, now + _LEASE_US),
        )
        return number, rows

    def _settle(self, lot: _Lot) -> int:
        fence = self._db.execute(
            "DELETE FROM lease WHERE subscription = 1 AND number = ?", (lot.number,)
        )
        assert fence.rowcount == 1, "the lease was lost"
        number = self._db.execute(
            "INSERT INTO lot VALUES(NULL, 1, ?, ?, 1, ?, ?, ?, ?, ?, 1)",
            (lot.low, lot.high, *lot.times, _now_us(), len(lot.seqs)),
        ).lastrowid
        self._db.executemany(
            "INSERT INTO outcome VALUES(1, ?, 1, ?, 1, NULL)", [(seq, number) for seq in lot.seqs]
        )
        self._db.execute(_COUNTED, (len(lot.seqs),))
        return len(lot.seqs)

    def _lengthen_log(self) -> None:
        """Fill the log once, so that the measured commits write over it."""
        self._db.execute("PRAGMA synchronous=OFF").fetchall()
        for _ in range(LOG_PAGES):
            self._db.execute("UPDATE cursor SET next_seq = 1")
        self._db.execute("PRAGMA synchronous=FULL").fetchall()
        self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()


def _now_us() -> int:
    return time.time_ns() // 1_000
