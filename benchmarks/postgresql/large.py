"""The part ``postgresql-large``: a worker's start, claims and retention on a long log."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from long_logs import lengthen

import mltrigger as mt
from benchmarks.harness import Counted, Options, children, payload, payloads, quiet, until
from benchmarks.postgresql.clients import BATCH, address, subscribed
from benchmarks.postgresql.servers import Postgres, schema, server, settled
from benchmarks.report import Report, Table, Target, number, quantile, spread

PRUNES = 2
DATA_BYTES = 100
_TIDY = "VACUUM (ANALYZE)"
"""Autovacuum does it on a server that lives for longer than this one."""


class Pruned(NamedTuple):
    """A prune: the seconds that it took, and for which the processors worked."""

    by: str
    took_s: float
    cpu_s: float
    events: int


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


def _prunes(running: Postgres, name: str, rows: int, pruned: int) -> list[Pruned]:
    """Return what each of some prunes took, by the age and by the number of events."""
    found = []
    with mt.connect(address(running.dsn("postgres"), name)) as bus:
        for n in range(1, PRUNES + 1):
            for by in ("age", "number"):
                left = rows - (2 * n - (by == "age")) * pruned
                bus.retain(
                    **({"max_events": left} if by == "number" else _age(running, name, left))
                )
                cpu_s, began_s = _cpu_s(running), time.perf_counter()
                gone = bus.prune()
                took_s = time.perf_counter() - began_s
                found.append(Pruned(by, took_s, _cpu_s(running) - cpu_s, gone.events))
    return found


def _age(running: Postgres, name: str, left: int) -> dict[str, float]:
    """Return the retention that keeps the newest *left* events, or a few more."""
    sql = (
        f"SELECT extract(epoch FROM clock_timestamp()) - published_us / 1e6 FROM {name}.event"
        f" WHERE seq >= (SELECT max(seq) FROM {name}.event) - %s ORDER BY seq LIMIT 1"
    )
    with psycopg.connect(running.dsn("postgres")) as session:
        ((age_s,),) = session.execute(sql, [left]).fetchall()
    return {"max_age_s": float(age_s)}


def _cpu_s(running: Postgres) -> float:
    """Return the time that the processors have worked for the server and for this process."""
    assert running.process is not None
    ticks, first = 0, running.process.pid
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, words = int(stat.parent.name), stat.read_text().rpartition(") ")[2].split()
            if pid == first:
                ticks += sum(map(int, words[11:15]))  # with those that have ended
            elif int(words[1]) == first:
                ticks += sum(map(int, words[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def _report(
    rows: int,
    pruned: int,
    filled_s: float,
    starts: list[list[float]],
    claims: list[list[float]],
    prunes: list[Pruned],
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
            ("by", "seconds", "of the processors", "events gone"),
            [(p.by, number(p.took_s), number(p.cpu_s), f"{p.events:,}") for p in prunes],
        )
    )
    for what, found in (("start of a worker", starts[1]), ("claim, p99", claims[1])):
        ms = quantile(found, 0.99)
        report.targets.append(
            Target(f"{what}, {rows:,} answered events", "< 100 ms", f"{ms:.1f} ms", ms < 100)
        )
    for by in ("age", "number"):
        slowest = max(p.took_s for p in prunes if p.by == by)
        report.targets.append(
            Target(f"prune {pruned:,} events by {by}", "< 1 s", f"{slowest:.2f} s", slowest < 1)
        )
    report.notes.append(
        f"The server made the log in {filled_s:.0f} s: events of {DATA_BYTES} bytes, lots of 1,000."
        " A start: connect, subscribe again, until the model has an event that waited; the modules"
        " are loaded. The log has been vacuumed and analyzed. The processors' time is that of the"
        " server and of this process: on a busy machine it tells more than the seconds. A retention"
        " by number counts all events first."
    )
    return report
