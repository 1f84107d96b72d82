"""Tables as sources: the cost of the trigger, and a storm of transactions and killed relays."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Options, scratch, url
from benchmarks.report import Report, Table, Target

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from databases import Postgres
from databases import Table as AppTable

_THREADS = {"sqlite": 1, "postgresql": 50}
"""Concurrent transactions. SQLite has one writer: more of them sleep for a while and try again."""
_RELAY = """
import sys
import mltrigger as mt
bus = mt.connect(sys.argv[1])
bus.listen(bus.spec("ocr"))
print("ready", flush=True)
sys.stdin.read()
"""


def run(options: Options) -> Report:
    """Measure both databases, each with and without the trigger, in turn."""
    report = Report("tables", "what a trigger costs the application, and what a storm loses")
    server = Postgres()
    try:
        with scratch() as folder:
            sqlite = AppTable(f"sqlite:///{folder}/app.db")
            sqlite.run("PRAGMA journal_mode = WAL")
            rows = [
                _cost(report, sqlite, folder, options),
                _cost(report, _on(server), folder, options),
            ]
            report.tables.append(
                Table(
                    "Inserts, microseconds each; one a transaction by so many threads, and 20,000"
                    " in one",
                    ("database", "threads", "bare", "with trigger", "ratio", "bulk ratio"),
                    rows,
                )
            )
            _storm(report, _on(server), folder, options)
    finally:
        server.stop()
    report.notes.append(
        "The ratio of a bulk is higher, since the row is written twice and nothing else is done."
    )
    return report


def _on(server: Postgres) -> AppTable:
    name = f"app{random.randrange(10**9)}"
    import psycopg

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return AppTable(server.dsn(name))


def _cost(report: Report, table: AppTable, folder: Path, options: Options) -> list[str]:
    threads, each = _THREADS[table.kind], options.size(60, 20)
    if threads == 1:
        each *= 10
    alone: list[float] = []
    bulk: list[float] = []
    times: dict[bool, list[float]] = {False: [], True: []}
    with mt.connect(url(folder / f"{table.kind}.db")) as bus:
        for _ in options.rounds(60.0):
            took = {}
            for triggered in (False, True):
                if triggered:
                    sub = bus.subscribe(table.source(), nothing, name="ocr", listen=False)
                took[triggered] = (_inserted(table, threads, each), _bulk(table))
                if triggered:
                    sub.unsubscribe(delete=True)
                times[triggered].append(took[triggered][0])
                table.run("DELETE FROM documents")
            alone.append(took[True][0] / took[False][0])
            bulk.append(took[True][1] / took[False][1])
    ratio = statistics.median(alone)
    report.targets.append(
        Target(f"insert with trigger, {table.kind}", "<= 1.3", f"{ratio:.2f}", ratio <= 1.3)
    )
    bare, triggered_us = (statistics.median(times[key]) * 1e6 for key in (False, True))
    return [
        table.kind,
        str(threads),
        f"{bare:,.0f}",
        f"{triggered_us:,.0f}",
        f"{ratio:.2f}",
        f"{statistics.median(bulk):.1f}",
    ]


def nothing(row: dict[str, Any]) -> None:
    """Do nothing."""


def _inserted(table: AppTable, threads: int, each: int) -> float:
    """Return the seconds an insert took, one a transaction, by many threads."""
    sql = "INSERT INTO documents (path, score) VALUES (?, 0.5)"

    def write() -> None:
        connection = table.connection()
        for n in range(each):
            table.of(connection, sql, f"scans/{n}.png")
        connection.close()

    return _together([write] * threads) / (threads * each)


def _bulk(table: AppTable) -> float:
    """Return the seconds that 20,000 rows took in one statement."""
    series = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        " INSERT INTO documents (path) SELECT 'scans/' || i FROM n"
    )
    began_s = time.perf_counter()
    table.run(series)
    return time.perf_counter() - began_s


def _together(actions: list[Callable[[], None]]) -> float:
    threads = [threading.Thread(target=action) for action in actions]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began_s


def _storm(report: Report, table: AppTable, folder: Path, options: Options) -> None:
    """Insert in 50 concurrent transactions, roll back a third, kill the relay again and again."""
    writers, rows, kills = 50, options.size(300, 30), options.size(20, 4)
    address, committed = url(folder / "storm.db"), set[str]()
    with mt.connect(address) as bus:
        # the model of the relays, too: one may call it before it is killed
        bus.subscribe(table.source(), path_of, name="ocr", listen=False, timeout_s=2)

    def write(writer: int) -> None:
        connection = table.connection()
        for n in range(rows):
            table.of(connection, "BEGIN")
            table.of(connection, "INSERT INTO documents (path) VALUES (?)", f"{writer}-{n}")
            table.of(connection, "COMMIT" if n % 3 else "ROLLBACK")
            if n % 3:
                committed.add(f"{writer}-{n}")
        connection.close()

    def kill() -> None:
        for n in range(kills):
            with subprocess.Popen(
                [sys.executable, "-c", _RELAY, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as relay:
                if relay.stdout is not None:
                    relay.stdout.readline()
                time.sleep(0.1 * (n % 5))
                relay.kill()

    writing = [lambda writer=writer: write(writer) for writer in range(writers)]
    _together([*writing, kill])
    with mt.connect(address) as bus:
        sub = bus.subscribe(table.source(), path_of, name="ocr", timeout_s=2)
        bus.wait(300, progress=False)
        seen = list(sub.results()["output"])
        events = len(bus.events())
    report.tables.append(
        Table(
            "A storm on PostgreSQL",
            ("inserted", "committed", "events", "missing", "twice", "kills"),
            [
                [
                    f"{writers * rows:,}",
                    f"{len(committed):,}",
                    f"{events:,}",
                    str(len(committed - set(seen))),
                    str(len(seen) - len(set(seen))),
                    str(kills),
                ]
            ],
        )
    )
    exact = sorted(seen) == sorted(committed) and events == len(committed)
    report.targets.append(
        Target("events == committed rows", "exact", "exact" if exact else "not exact", exact)
    )


def path_of(row: dict[str, Any]) -> Any:
    """Return the path of a row."""
    return row["path"]
