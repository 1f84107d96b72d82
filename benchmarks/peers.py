"""Beside other embedded queues on SQLite: huey, persist-queue and DBOS, with the same payload on the
same disk in the same run.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks import dbos_peer, slow_disk
from benchmarks.harness import (
    Counted,
    Most,
    Options,
    children,
    consume,
    payloads,
    quiet,
    scratch,
    until,
    url,
    version_of,
)
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

Rates = tuple[float, float]
"""Events published per second one at a time, and events consumed per second."""
BULK = "mltrigger, batches"
SINGLE = "mltrigger, one a call"
SLOTS = "mltrigger, one a call, 4 slots"
NORMAL = "mltrigger ?durability=normal, one a call"
DURABLE = "huey fsync=True, loop"
NOT_DURABLE = "huey fsync=False, loop"
PERSIST_QUEUE, DBOS = "persist-queue SQLiteAckQueue, loop", "DBOS, its queue's thread"
SLOW = (SINGLE, DURABLE, PERSIST_QUEUE, DBOS)
"""What is measured on the slow disk, too."""
_PACKAGES = ("huey", "persist-queue", "dbos")
_LEAST = {DURABLE: 1.5}
"""The ratio to reach in publishing; 1 for the others."""
Found = dict[str, list[Rates]]


def run(options: Options) -> Report:
    """Let everybody publish and consume the same events, in turn, as often as asked."""
    usual: Found = {}
    slow: Found = {}
    with children() as here, slow_disk.slow_child() as there:
        for turn in options.rounds(0):
            _add(usual, here.submit(measure, options.quick, None).result())
            if there is not None and turn < 2:
                _add(slow, there.submit(measure, options.quick, SLOW).result())
    return _report(usual, slow, _most(options))


def measure(quick: bool, names: tuple[str, ...] | None) -> dict[str, Rates]:
    """Measure each of the named systems once. Default: all."""
    quiet()
    found, most = {}, _most(Options(quick))
    for name, case in {**_OURS, **_peers()}.items():
        if names is None or name in names:
            with scratch() as folder:
                found[name] = case(folder, most)
    return found


def _most(options: Options) -> Most:
    return Most(options.size(5_000, 1_000), 0.3 if options.quick else 0.8)


def _add(found: Found, measured: dict[str, Rates]) -> None:
    for name, rates in measured.items():
        found.setdefault(name, []).append(rates)


def _peers() -> dict[str, Callable[[Path, Most], Rates]]:
    """Return the peers that are installed."""
    peers: dict[str, Callable[[Path, Most], Rates]] = {}
    if version_of("huey") != "not installed":
        peers[DURABLE] = lambda f, m: _huey(f, m, workers=0)
        peers["huey fsync=True, consumer, 4 threads"] = lambda f, m: _huey(f, m, workers=4)
        peers["huey defaults, loop"] = lambda f, m: _huey(f, m, workers=0, fsync=None)
        peers[NOT_DURABLE] = lambda f, m: _huey(f, m, workers=0, fsync=False)
    if version_of("persist-queue") != "not installed":
        peers[PERSIST_QUEUE] = _persist_queue
    if version_of("dbos") != "not installed":
        peers[DBOS] = _dbos
    return peers


def _ours(
    folder: Path, most: Most, *, batch: bool = False, durability: str = "full", **policy: Any
) -> Rates:
    model = Counted()
    called = model.many if batch else model.one
    with mt.connect(f"{url(folder / 'ours.db')}?durability={durability}") as bus:
        sub = bus.subscribe(
            "documents", mt.model("noop", batch=batch)(called), name="noop", listen=False, **policy
        )
        if batch:
            started, count = time.perf_counter(), most.events
            for i in range(0, count, 500):
                bus.publish_batch("documents", payloads(min(500, count - i)))
            published_s = time.perf_counter() - started
        else:
            count, published_s = most.send(lambda sample: bus.publish("documents", sample))
        return count / published_s, count / consume(bus, sub, count)


def _huey(folder: Path, most: Most, *, workers: int, fsync: bool | None = True) -> Rates:
    """``store_none``, so that every result is recorded; the consumer with threads, or the bare loop
    of its worker.
    """
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=fsync, store_none=True)
    count, published_s = most.send(huey.task()(Counted().one))
    started = time.perf_counter()
    if workers:
        with consumer(huey, workers):
            until(lambda: huey.storage.result_store_size() >= count, "huey", 0.01)
            consumed_s = time.perf_counter() - started
    else:
        while (found := huey.dequeue()) is not None:
            huey.execute(found)
        consumed_s = time.perf_counter() - started
    assert huey.storage.result_store_size() == count, "huey did not record every result"
    huey.storage.close()
    return count / published_s, count / consumed_s


@contextlib.contextmanager
def consumer(huey: Any, workers: int, **options: Any) -> Iterator[None]:
    """Run huey's consumer with threads in this process; it takes the signals of the process, which
    are given back.
    """
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    running = huey.create_consumer(workers=workers, worker_type="thread", periodic=False, **options)
    running.start()
    try:
        yield
    finally:
        running.stop(graceful=True)
        for number_, handler in before.items():
            signal.signal(number_, handler)


def _persist_queue(folder: Path, most: Most) -> Rates:
    """It keeps no results: ``ack`` is all that it records."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(str(folder), multithreading=True)
    model = Counted()
    count, published_s = most.send(queue.put)
    started = time.perf_counter()
    for _ in range(count):
        found = queue.get(block=False, raw=True)
        model.one(found["data"])
        queue.ack(id=found["pqid"])
    consumed_s = time.perf_counter() - started
    assert queue.acked_count() == count, "persist-queue did not ack every item"
    queue.close()
    return count / published_s, count / consumed_s


def _dbos(folder: Path, most: Most) -> Rates:
    """It is slower than the others: fewer events, so that the round does not wait for it."""
    fewer = Most(most.events // 10, most.seconds / 2)
    with children() as child:
        return child.submit(dbos_peer.rates, folder / "dbos.db", fewer).result()


_OURS: dict[str, Callable[[Path, Most], Rates]] = {
    BULK: lambda f, m: _ours(f, m, batch=True, batch_size=500),
    SINGLE: _ours,
    SLOTS: lambda f, m: _ours(f, m, max_concurrency=4),
    NORMAL: lambda f, m: _ours(f, m, durability="normal"),
}


def _report(usual: Found, slow: Found, most: Most) -> Report:
    report = Report("peers", "events per second beside other queues on SQLite")
    report.tables.append(_table("Publish one at a time, then consume the backlog", usual))
    if slow:
        title = f"The same while each sync takes {slow_disk.SLOWER_MS} ms more"
        report.tables.append(_table(title, slow))
    for name in [name for name in usual if not name.startswith("mltrigger")]:
        for i, what in enumerate(("publish", "consume")):
            ratio, least = _over(usual, name, i), _LEAST.get(name, 1) if i == 0 else 1
            wanted = f">= {least:g}" if least > 1 else "> 1"
            report.targets.append(
                Target(f"{what}, over {name}", wanted, f"{ratio:.2f}", ratio > 1 and ratio >= least)
            )
    report.notes += _notes(usual, slow, most)
    return report


def _table(title: str, found: Found) -> Table:
    rows = []
    for name, rates in found.items():
        published, consumed = zip(*rates, strict=True)
        over = [f"{_over(found, name, i):.1f}" for i in (0, 1)]
        medians = [number(statistics.median(values)) for values in (published, consumed)]
        rows.append((name, medians[0], spread(published), medians[1], spread(consumed), *over))
    head = ("system", "publish/s", "range", "consume/s", "range", "publish x", "consume x")
    return Table(title, head, rows)


def _notes(usual: Found, slow: Found, most: Most) -> list[str]:
    missing = [name for name in _PACKAGES if version_of(name) == "not installed"]
    return [
        (
            "x: mltrigger with one event a call over the row; where nobody waits for the disk (huey"
            " with fsync=False), mltrigger with ?durability=normal over the row. mltrigger records"
            " an invocation row for each event, whatever the durability."
        ),
        (
            f"300 bytes of JSON; as many events as {most.seconds:g} s of publishing allow, at most"
            f" {most.events:,}; {len(usual[SINGLE])} repetitions in turn. The first row publishes"
            " in batches of 500, which no peer here can, and calls a batch model."
        ),
        (
            "huey: SqliteHuey, store_none=True so that each result is stored; it deletes a task"
            " before it runs, so a kill loses what was running. fsync=False is PRAGMA"
            " synchronous=OFF; the default leaves SQLite's own, FULL in common builds. loop: its"
            " worker's dequeue and execute without polling; consumer: with threads, default"
            " polling."
        ),
        (
            "persist-queue: multithreading=True, auto-commit, PRAGMA synchronous as SQLite was"
            " built; it acks and records no result, hence does less per event."
        ),
        (
            "DBOS: SQLite as it opens it (rollback journal, synchronous=FULL), a workflow without"
            " steps an event, enqueued by its client, then a queue without limits of concurrency,"
            f" polled each {dbos_peer.POLL_S * 1e3:g} ms; from the launch to the last status"
            " SUCCESS; half of the time, a tenth of the events."
        ),
        (
            f"Slow disk: {len(slow[SINGLE])} repetitions, for everybody with LD_PRELOAD. There the"
            " sync is all: one a publish."
            if slow
            else slow_disk.MISSING
        ),
        *([f"not installed, hence not measured: {', '.join(missing)}"] if missing else []),
    ]


def _over(found: Found, name: str, i: int) -> float:
    """Return the ratio of mltrigger at the same durability over *name*, publishing (0) or consuming
    (1).
    """
    ours = found[NORMAL if name in (NORMAL, NOT_DURABLE) else SINGLE]
    return median_ratio([r[i] for r in ours], [r[i] for r in found[name]])
