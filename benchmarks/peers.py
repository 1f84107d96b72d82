"""Beside other embedded queues on SQLite: huey and persist-queue, with the same payload on the same disk in the same run."""

from __future__ import annotations

import contextlib
import itertools
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Counted, Options, consume, payloads, scratch, until, url, version_of
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

Rates = tuple[float, float]
"""Events published per second one at a time, and events consumed per second."""
BULK = "mltrigger, batches"
SINGLE = "mltrigger, one a call"
SLOTS = "mltrigger, one a call, 4 slots"


def run(options: Options) -> Report:
    """Let everybody publish and consume the same events, in turn, as often as asked."""
    count = options.size(5_000, 600)
    cases: dict[str, Callable[[Path, int], Rates]] = {
        BULK: lambda f, n: _ours(f, n, batch=True, batch_size=500),
        SINGLE: _ours,
        SLOTS: lambda f, n: _ours(f, n, max_concurrency=4),
        **_peers(),
    }
    found: dict[str, list[Rates]] = {name: [] for name in cases}
    for _, (name, case) in itertools.product(range(min(3, options.repetitions)), cases.items()):
        with scratch() as folder:
            found[name].append(case(folder, count))
    return _report(found, count)


def _peers() -> dict[str, Callable[[Path, int], Rates]]:
    """Return the peers that are installed."""
    peers: dict[str, Callable[[Path, int], Rates]] = {}
    if version_of("huey") != "not installed":
        peers["huey fsync=True, loop"] = lambda f, n: _huey(f, n, workers=0)
        peers["huey fsync=True, consumer, 1 thread"] = lambda f, n: _huey(f, n, workers=1)
        peers["huey fsync=True, consumer, 4 threads"] = lambda f, n: _huey(f, n, workers=4)
        peers["huey defaults, loop"] = lambda f, n: _huey(f, n, workers=0, fsync=None)
        peers["huey fsync=False, loop (not durable)"] = lambda f, n: _huey(f, n, workers=0, fsync=False)
    if version_of("persist-queue") != "not installed":
        peers["persist-queue SQLiteAckQueue, loop"] = _persist_queue
    return peers


def _ours(folder: Path, count: int, *, batch: bool = False, **policy: Any) -> Rates:
    model = Counted(count)
    called = model.many if batch else model.one
    samples = payloads(count)
    with mt.connect(url(folder / "ours.db")) as bus:
        sub = bus.subscribe("documents", mt.model("noop", batch=batch)(called), name="noop", listen=False, **policy)
        started = time.perf_counter()
        if batch:
            for i in range(0, count, 500):
                bus.publish_batch("documents", samples[i : i + 500])
        else:
            for sample in samples:
                bus.publish("documents", sample)
        published_s = time.perf_counter() - started
        return count / published_s, count / consume(bus, sub, count)


def _huey(folder: Path, count: int, *, workers: int, fsync: bool | None = True) -> Rates:
    """``store_none``, so that every result is recorded; the consumer with threads, or the bare loop of its worker."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(folder / "huey.db"), fsync=fsync, store_none=True)
    model = Counted(count)
    task = huey.task()(model.one)
    started = time.perf_counter()
    for sample in payloads(count):
        task(sample)
    published_s = time.perf_counter() - started
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
    """Run huey's consumer with threads in this process; it takes the signals of the process, which are given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    running = huey.create_consumer(workers=workers, worker_type="thread", periodic=False, **options)
    running.start()
    try:
        yield
    finally:
        running.stop(graceful=True)
        for number_, handler in before.items():
            signal.signal(number_, handler)


def _persist_queue(folder: Path, count: int) -> Rates:
    """It keeps no results: ``ack`` is all that it records."""
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(str(folder), multithreading=True)
    model = Counted(count)
    started = time.perf_counter()
    for sample in payloads(count):
        queue.put(sample)
    published_s = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(count):
        found = queue.get(block=False, raw=True)
        model.one(found["data"])
        queue.ack(id=found["pqid"])
    consumed_s = time.perf_counter() - started
    assert queue.acked_count() == count, "persist-queue did not ack every item"
    queue.close()
    return count / published_s, count / consumed_s


def _report(found: dict[str, list[Rates]], count: int) -> Report:
    report = Report("peers", "events per second beside other queues on SQLite")
    single = found[SINGLE]
    rows = []
    for name, rates in found.items():
        published, consumed = zip(*rates, strict=True)
        ratios = [f"{median_ratio([r[i] for r in single], [r[i] for r in rates]):.1f}" for i in (0, 1)]
        rows.append((name, number(statistics.median(published)), spread(published), number(statistics.median(consumed)), spread(consumed), *ratios))
    head = ("system", "publish/s", "range", "consume/s", "range", "publish x", "consume x")
    report.tables.append(Table("Publish one at a time, then consume the backlog; x: mltrigger one a call over this row", head, rows))
    for name, rates in found.items():
        if name.startswith("mltrigger"):
            continue
        for i, what in enumerate(("publish", "consume")):
            ratio = median_ratio([r[i] for r in single], [r[i] for r in rates])
            report.targets.append(Target(f"{what}, one a call, over {name}", "> 1", f"{ratio:.2f}", ratio > 1))
    report.notes += [
        f"{count:,} events each, 300 bytes of JSON; at most 3 repetitions. mltrigger at durability full records an invocation row for each "
        "event; its first row publishes in batches of 500, which no peer here can, and calls a batch model.",
        "huey: SqliteHuey, store_none=True so that each result is stored; it deletes a task before it runs, so a kill loses what was "
        "running. With fsync=False it does not wait for the disk at all (PRAGMA synchronous=OFF); its default leaves SQLite's own, FULL "
        "in common builds. loop: its worker's dequeue and execute without polling; consumer: with threads, default polling.",
        "persist-queue: multithreading=True, auto-commit, PRAGMA synchronous as SQLite was built; it acks and records no result, hence "
        "does less per event.",
    ]
    missing = [name for name in ("huey", "persist-queue") if version_of(name) == "not installed"]
    report.notes += [f"not installed, hence not measured: {', '.join(missing)}"] if missing else []
    return report
