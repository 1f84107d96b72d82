"""Events per second, durable and with every outcome recorded, against bare ``sqlite3`` doing the same rows and the same commits."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.bare import Bare, Written
from benchmarks.harness import Counted, Options, consume, payloads, scratch, url
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

Pair = tuple[float, float]
"""Events per second of mltrigger, and of bare sqlite3 right after it."""
THREADS = 8
MODEL_BATCH = 500


def run(options: Options) -> Report:
    """Measure every case in turn, as often as asked; each pair is measured back to back."""
    few, many = options.size(2_000, 300), options.size(20_000, 3_000)
    cases: dict[str, Callable[[Path], Pair]] = {
        "publish_batch of 1,000": lambda f: _publish(f, many, _in_batches(1_000), 1_000),
        "publish_batch of 100": lambda f: _publish(f, many // 2, _in_batches(100), 100),
        "publish, one by one": lambda f: _publish(f, few, _one_by_one, 1),
        f"publish, {THREADS} threads": lambda f: _publish(f, few, _from_threads, THREADS),
        f"consume, batches of {MODEL_BATCH}": lambda f: _consume(f, many, batch=True, batch_size=MODEL_BATCH),
        "consume, one event a call": lambda f: _consume(f, many // 2),
        "consume, one a call, 4 slots": lambda f: _consume(f, many // 2, max_concurrency=4),
    }
    found: dict[str, list[Pair]] = {name: [] for name in cases}
    for _, (name, case) in itertools.product(range(options.repetitions), cases.items()):
        with scratch() as folder:
            found[name].append(case(folder))
    return _report(found, few, many)


def _publish(folder: Path, count: int, publish: Callable[[mt.EventBus, list[Any]], object], size: int) -> Pair:
    """Publish *count* events to one subscription that nobody listens for; then the same rows bare, *size* a commit."""
    samples = payloads(count)
    with mt.connect(url(folder / "ours.db")) as bus:
        bus.subscribe("documents", Counted().one, name="reader", listen=False)
        bus.publish("documents", "warm")
        started = time.perf_counter()
        publish(bus, samples)
        ours_s = time.perf_counter() - started
        written = Written(folder / "ours.db")
    assert len(written.events) == len(written.ready) == count + 1, "not every event was written"
    bare = Bare(folder / "bare.db", written)
    bare_s = bare.publish(size)
    bare.close()
    return count / ours_s, (count + 1) / bare_s


def _in_batches(size: int) -> Callable[[mt.EventBus, list[Any]], object]:
    def publish(bus: mt.EventBus, samples: list[Any]) -> None:
        for i in range(0, len(samples), size):
            bus.publish_batch("documents", samples[i : i + size])

    return publish


def _one_by_one(bus: mt.EventBus, samples: list[Any]) -> None:
    for sample in samples:
        bus.publish("documents", sample)


def _from_threads(bus: mt.EventBus, samples: list[Any]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda share: _one_by_one(bus, share), [samples[i::THREADS] for i in range(THREADS)]))


def _consume(folder: Path, count: int, *, batch: bool = False, **policy: Any) -> Pair:
    """Consume a backlog of *count* events; then the same claims and outcomes bare."""
    model = Counted()
    with mt.connect(url(folder / "ours.db")) as bus:
        called = model.many if batch else model.one
        sub = bus.subscribe("documents", mt.model("noop", batch=batch)(called), name="noop", listen=False, **policy)
        _in_batches(1_000)(bus, payloads(count))
        backlog = Written(folder / "ours.db")
        ours_s = consume(bus, sub, count)
        done = Written(folder / "ours.db")
    assert len(done.invocations) == count and not done.ready, "not every outcome was recorded"
    claim = -(-count // done.distinct("received_us"))
    settle = min(claim, -(-count // done.distinct("settled_us")) * policy.get("max_concurrency", 1))  # slots may share a commit
    bare = Bare(folder / "bare.db", backlog)
    bare.publish(1_000)
    bare_s = bare.consume(claim, settle, done.invocations)
    bare.close()
    return count / ours_s, count / bare_s


def _report(found: dict[str, list[Pair]], few: int, many: int) -> Report:
    report = Report("throughput", "events per second against the limit, bare sqlite3")
    rows, ratios = [], {}
    for name, pairs in found.items():
        ours, bare = zip(*pairs, strict=True)
        ratios[name] = median_ratio(ours, bare)
        rows.append((name, number(statistics.median(ours)), spread(ours), number(statistics.median(bare)), f"{ratios[name]:.2f}"))
    report.tables.append(Table("Events per second", ("what", "mltrigger", "range", "bare sqlite3", "ratio"), rows))
    batch, one = (statistics.median(o for o, _ in found[name]) for name in list(found)[4:6])
    report.targets += [
        Target("consume, no-op batch model", ">= 20,000/s", f"{batch:,.0f}/s", batch >= 20_000),
        Target("consume, one event a call", ">= 5,000/s", f"{one:,.0f}/s", one >= 5_000),
        *[Target(f"{name}, over bare sqlite3", ">= 0.50", f"{ratio:.2f}", ratio >= 0.5) for name, ratio in ratios.items()],
    ]
    report.notes += [
        f"{many:,} events of 300 bytes of JSON in batches, half as many one event a call and in batches of 100, {few:,} one by one; one "
        f"subscription; SQLite file on disk, durability full.",
        "Consuming counts from starting the listener to the last recorded outcome, with the start of its threads.",
        "Bare sqlite3 writes the rows that mltrigger wrote just before, made ready beforehand: no JSON, objects, model or threads. Its "
        "commits are as large as mltrigger's: measured from the log; for several slots, as large as group commit can make them.",
    ]
    return report
