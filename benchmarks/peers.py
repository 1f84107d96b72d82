"""Beside other embedded queues on SQLite: huey and persist-queue, with the same payload on the same
disk in the same run.
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
from benchmarks.harness import (
    Counted,
    Most,
    Options,
    consume,
    payloads,
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
NOT_DURABLE = "huey fsync=False, loop"


def run(options: Options) -> Report:
    """Let everybody publish and consume the same events, in turn, as often as asked."""
    most = Most(options.size(5_000, 1_000), 1.2 if not options.quick else 0.3)
    cases: dict[str, Callable[[Path, Most], Rates]] = {
        BULK: lambda f, m: _ours(f, m, batch=True, batch_size=500),
        SINGLE: _ours,
        SLOTS: lambda f, m: _ours(f, m, max_concurrency=4),
        NORMAL: lambda f, m: _ours(f, m, durability="normal"),
        **_peers(),
    }
    found: dict[str, list[Rates]] = {name: [] for name in cases}
    for _ in options.rounds(0):
        for name, case in cases.items():
            with scratch() as folder:
                found[name].append(case(folder, most))
    return _report(found, most)


def _peers() -> dict[str, Callable[[Path, Most], Rates]]:
    """Return the peers that are installed."""
    peers: dict[str, Callable[[Path, Most], Rates]] = {}
    if version_of("huey") != "not installed":
        peers["huey fsync=True, loop"] = lambda f, m: _huey(f, m, workers=0)
        peers["huey fsync=True, consumer, 4 threads"] = lambda f, m: _huey(f, m, workers=4)
        peers["huey defaults, loop"] = lambda f, m: _huey(f, m, workers=0, fsync=None)
        peers[NOT_DURABLE] = lambda f, m: _huey(f, m, workers=0, fsync=False)
    if version_of("persist-queue") != "not installed":
        peers["persist-queue SQLiteAckQueue, loop"] = _persist_queue
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


def _report(found: dict[str, list[Rates]], most: Most) -> Report:
    report = Report("peers", "events per second beside other queues on SQLite")
    rows = []
    for name, rates in found.items():
        published, consumed = zip(*rates, strict=True)
        over = [f"{_over(found, name, i):.1f}" for i in (0, 1)]
        medians = [number(statistics.median(values)) for values in (published, consumed)]
        rows.append((name, medians[0], spread(published), medians[1], spread(consumed), *over))
    head = ("system", "publish/s", "range", "consume/s", "range", "publish x", "consume x")
    report.tables.append(Table("Publish one at a time, then consume the backlog", head, rows))
    for name in [name for name in found if not name.startswith("mltrigger")]:
        for i, what in enumerate(("publish", "consume")):
            report.targets.append(
                Target(
                    f"{what}, over {name}",
                    "> 1",
                    f"{_over(found, name, i):.2f}",
                    _over(found, name, i) > 1,
                )
            )
    report.notes += [
        (
            "x: mltrigger with one event a call over the row; where nobody waits for the disk (huey"
            " with fsync=False), mltrigger with ?durability=normal over the row. mltrigger records"
            " an invocation row for each event, whatever the durability."
        ),
        (
            f"300 bytes of JSON; as many events as {most.seconds:g} s of publishing allow, at most"
            f" {most.events:,}; {len(found[SINGLE])} repetitions in turn. The first row publishes"
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
    ]
    missing = [name for name in ("huey", "persist-queue") if version_of(name) == "not installed"]
    report.notes += [f"not installed, hence not measured: {', '.join(missing)}"] if missing else []
    return report


def _over(found: dict[str, list[Rates]], name: str, i: int) -> float:
    """Return the ratio of mltrigger at the same durability over *name*, publishing (0) or consuming
    (1).
    """
    ours = found[NORMAL if name in (NORMAL, NOT_DURABLE) else SINGLE]
    return median_ratio([r[i] for r in ours], [r[i] for r in found[name]])
