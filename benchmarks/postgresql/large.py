"""The part ``postgresql-large``: a worker's start, claims and retention on a long log."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
from long_logs import lengthen

import mltrigger as mt
from benchmarks.harness import Counted, Options, children, payload, payloads, quiet, until
from benchmarks.postgresql.clients import BATCH, address, subscribed
from benchmarks.postgresql.servers import Postgres, schema, server, settled
from benchmarks.report import Report, Table, Target, number, quantile, spread

PRUNES = 3
DATA_BYTES = 100
_TIDY = "VACUUM (ANALYZE)"
"""Autovacuum does it on a server that lives for longer than this one."""


def run(options: Options) -> Report:
    """Measure an empty log and a long one in turn on one server."""
    quiet()
    rows, pruned = options.size(10_000_000, 1_000_000), options.size(1_000_000, 100_000)
    with (
        server("-c", "max_wal_size=16GB") as running,
        schema(running) as few,
        schema(running) as many,
    ):
        for name in (few, many):
            _begin(running, name)
        began_s = time.perf_counter()
        lengthen(address(running.dsn("postgres"), many), rows, DATA_BYTES)
        filled_s = time.perf_counter() - began_s
        with psycopg.connect(running.dsn("postgres"), autocommit=True) as session:
            session.execute(_TIDY)
        settled(running.dsn("postgres"))
        starts: dict[str, list[float]] = {few: [], many: []}
        claims: dict[str, list[float]] = {few: [], many: []}
        for _ in options.rounds(60):
            for name in (few, many):
                starts[name] += _starts(running, name, options.size(10, 3))
        for name in (few, many):  # their leases stay
            claims[name] += _claims(running, name, options.size(1000, 100))
        prunes = _prunes(running, many, rows, pruned)
    return _report(
        rows, pruned, filled_s, [starts[few], starts[many]], [claims[few], claims[many]], prunes
    )


def _begin(running: Postgres, name: str) -> None:
    """Make a log with a few answered events, so that there is one of everything."""
    with mt.connect(address(running.dsn("postgres"), name)) as bus:
        sub = subscribed(bus, Counted().many, batch_size=BATCH)
        bus.publish_batch("documents", payloads(BATCH))
        sub.start()
        until(lambda: not sub.depth().open, "the first events")
        sub.stop()


def _starts(running: Postgres, name: str, count: int) -> list[float]:
    """Return how long new workers took until their model had an event that waited, in ms.

    Their process has loaded its modules. Then each connects, subscribes, and gets the event.
    """
    url = address(running.dsn("postgres"), name)
    with children() as child:
        child.submit(start, url).result()
        return [child.submit(start, url).result() for _ in range(count)]


def start(url: str) -> float:
    """Publish an event, be a new worker, and return the ms until the model has the event."""
    with mt.connect(url) as bus:
        bus.publish("documents", payload(0))
    called = threading.Event()

    def model(batch: list[Any]) -> list[None]:
        called.set()
        return [None] * len(batch)

    began_s = time.perf_counter()
    with mt.connect(url) as bus:
        sub = bus.subscribe("documents", mt.model("noop", batch=True)(model), batch_size=BATCH)
        called.wait(60)
        took_ms = (time.perf_counter() - began_s) * 1e3
        until(lambda: not sub.depth().open, "the new event")
    return took_ms


def _claims(running: Postgres, name: str, count: int) -> list[float]:
    """Return how long claims of one event took, in ms."""
    taken = []
    with mt.connect(address(running.dsn("postgres"), name)) as bus:
        sub = subscribed(bus, Counted().many, batch_size=BATCH)
        spec = bus.spec(sub.name)
        bus.publish_batch("documents", payloads(count))
        for _ in range(count):
            began_s = time.perf_counter()
            assert len(bus.broker.receive(spec, 1)) == 1
            taken.append((time.perf_counter() - began_s) * 1e3)
    return taken


def _prunes(running: Postgres, name: str, rows: int, pruned: int) -> list[tuple[float, int]]:
    """Return the seconds and the events of each of some prunes."""
    found = []
    with mt.connect(address(running.dsn("postgres"), name)) as bus:
        for n in range(1, PRUNES + 1):
            bus.retain(max_events=rows - n * pruned)
            began_s = time.perf_counter()
            gone = bus.prune()
            found.append((time.perf_counter() - began_s, gone.events))
    return found


def _report(
    rows: int,
    pruned: int,
    filled_s: float,
    starts: list[list[float]],
    claims: list[list[float]],
    prunes: list[tuple[float, int]],
) -> Report:
    report = Report("postgresql-large", f"a bus on PostgreSQL with {rows:,} answered events")
    lines = []
    for what, (few, many) in (("start of a worker", starts), ("claim of an event", claims)):
        for size, found in ((f"{BATCH:,}", few), (f"{rows:,}", many)):
            p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
            lines.append((f"{what}, {size} events", f"{p50:.1f}", f"{p99:.1f}", spread(found)))
    report.tables.append(Table("Milliseconds", ("what", "p50", "p99", "range"), lines))
    report.tables.append(
        Table(
            f"Prune {pruned:,} events",
            ("time", "seconds", "events gone"),
            [(str(n), number(s), f"{gone:,}") for n, (s, gone) in enumerate(prunes, 1)],
        )
    )
    for what, found in (("start of a worker", starts[1]), ("claim, p99", claims[1])):
        ms = quantile(found, 0.99)
        report.targets.append(
            Target(f"{what}, {rows:,} answered events", "< 100 ms", f"{ms:.1f} ms", ms < 100)
        )
    slowest = max(s for s, _ in prunes)
    report.targets.append(
        Target(f"prune {pruned:,} events", "< 1 s", f"{slowest:.2f} s", slowest < 1)
    )
    report.notes.append(
        f"The server made the log in {filled_s:.0f} s: events of {DATA_BYTES} bytes, lots of 1,000."
        " A start: connect, subscribe again, until the model has an event that waited; the modules"
        " are loaded. The log has been vacuumed and analyzed."
    )
    return report
