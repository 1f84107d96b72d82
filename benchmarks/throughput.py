"""Events per second, durable and with every outcome recorded, against bare ``sqlite3`` doing the
same rows and the same commits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.bare import Bare, Written
from benchmarks.harness import Counted, Most, Options, consume, payloads, scratch, url
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

Pair = tuple[float, float]
"""Events per second of mltrigger, and of bare sqlite3 right after it."""
THREADS = 8
MODEL_BATCH = 500


def run(options: Options) -> Report:
    """Measure every case in turn, as often as asked; each pair is measured back to back."""
    many, singles = options.size(20_000, 3_000), Most(options.size(2_000, 300), 1.0)
    cases: dict[str, Callable[[Path], Pair]] = {
        "publish_batch of 1,000": lambda f: _publish(
            f, lambda bus: _in_batches(bus, many, 1_000), 1_000
        ),
        "publish_batch of 100": lambda f: _publish(
            f, lambda bus: _in_batches(bus, many // 2, 100), 100
        ),
        "publish, one by one": lambda f: _publish(f, lambda bus: _one_by_one(bus, singles), 1),
        f"publish, {THREADS} threads": lambda f: _publish(
            f, lambda bus: _from_threads(bus, singles), THREADS
        ),
        f"consume, batches of {MODEL_BATCH}": lambda f: _consume(
            f, many, batch=True, batch_size=MODEL_BATCH
        ),
        "consume, one event a call": lambda f: _consume(f, many // 2),
        "consume, one a call, 4 slots": lambda f: _consume(f, many // 2, max_concurrency=4),
    }
    found: dict[str, list[Pair]] = {name: [] for name in cases}
    for _ in options.rounds(60):
        for name, case in cases.items():
            with scratch() as folder:
                found[name].append(case(folder))
    return _report(found, singles, many)


def _publish(folder: Path, publish: Callable[[mt.EventBus], tuple[int, float]], size: int) -> Pair:
    """Publish events to one subscription that nobody listens for; then the same rows bare, *size* a
    commit.
    """
    with mt.connect(url(folder / "ours.db")) as bus:
        bus.subscribe("documents", Counted().one, name="reader", listen=False)
        bus.publish("documents", "warm")
        count, ours_s = publish(bus)
        written = Written(folder / "ours.db")
    assert len(written.events) == len(written.ready) == count + 1, "not every event was written"
    bare = Bare(folder / "bare.db", written)
    bare_s = bare.publish(size)
    bare.close()
    return count / ours_s, (count + 1) / bare_s


def _in_batches(bus: mt.EventBus, count: int, size: int) -> tuple[int, float]:
    samples, started = payloads(count), time.perf_counter()
    for i in range(0, count, size):
        bus.publish_batch("documents", samples[i : i + size])
    return count, time.perf_counter() - started


def _one_by_one(bus: mt.EventBus, most: Most) -> tuple[int, float]:
    return most.send(lambda sample: bus.publish("documents", sample))


def _from_threads(bus: mt.EventBus, most: Most) -> tuple[int, float]:
    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        sent = list(pool.map(lambda _: _one_by_one(bus, most), range(THREADS)))
        return sum(count for count, _ in sent), time.perf_counter() - started


def _consume(folder: Path, count: int, *, batch: bool = False, **policy: Any) -> Pair:
    """Consume a backlog of *count* events; then the same claims and outcomes bare."""
    model = Counted()
    with mt.connect(url(folder / "ours.db")) as bus:
        called = model.many if batch else model.one
        sub = bus.subscribe(
            "documents", mt.model("noop", batch=batch)(called), name="noop", listen=False, **policy
        )
        _in_batches(bus, count, 1_000)
        backlog = Written(folder / "ours.db")
        ours_s = consume(bus, sub, count)
        done = Written(folder / "ours.db")
    assert len(done.invocations) == count and not done.ready, "not every outcome was recorded"
    claim = -(-count // done.distinct("received_us"))
    # slots may share a commit
    settle = min(claim, -(-count // done.distinct("settled_us")) * policy.get("max_concurrency", 1))
    bare = Bare(folder / "bare.db", backlog)
    bare.publish(1_000)
    bare_s = bare.consume(claim, settle, done.invocations)
    bare.close()
    return count / ours_s, count / bare_s


def _report(found: dict[str, list[Pair]], singles: Most, many: int) -> Report:
    report = Report("throughput", "events per second against the limit, bare sqlite3")
    rows, ratios = [], {}
    for name, pairs in found.items():
        ours, bare = zip(*pairs, strict=True)
        ratios[name] = median_ratio(ours, bare)
        rows.append(
            (
                name,
                number(statistics.median(ours)),
                spread(ours),
                number(statistics.median(bare)),
                f"{ratios[name]:.2f}",
            )
        )
    report.tables.append(
        Table("Events per second", ("what", "mltrigger", "range", "bare sqlite3", "ratio"), rows)
    )
    batch, one = (statistics.median(o for o, _ in found[name]) for name in list(found)[4:6])
    report.targets += [
        Target("consume, no-op batch model", ">= 20,000/s", f"{batch:,.0f}/s", batch >= 20_000),
        Target("consume, one event a call", ">= 5,000/s", f"{one:,.0f}/s", one >= 5_000),
        *[
            Target(f"{name}, over bare sqlite3", ">= 0.5", f"{ratio:.3f}", ratio >= 0.5)
            for name, ratio in ratios.items()
        ],
    ]
    report.notes += [
        (
            f"{many:,} events of 300 bytes of JSON in the largest batches, half as many elsewhere;"
            f" one by one as many as {singles.seconds:g} s allow, at most {singles.events:,} a"
            " thread; one subscription; SQLite file on disk, durability full;"
            f" {min(map(len, found.values()))} repetitions."
        ),
        (
            "Consuming counts from starting the listener to the last recorded outcome, with the"
            " start of its threads."
        ),
        (
            "Bare sqlite3 writes the rows that mltrigger wrote just before, made ready beforehand:"
            " no JSON, objects, model or threads. Its commits are as large as mltrigger's: measured"
            " from the log; for several slots, as large as group commit can make them."
        ),
    ]
    return report
