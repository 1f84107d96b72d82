"""Events per second, durable and with every outcome recorded, against bare ``sqlite3`` that writes
the same facts in the leanest schema.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks import slow_disk
from benchmarks.harness import (
    Counted,
    Most,
    Options,
    Rate,
    children,
    consume,
    payloads,
    scratch,
    url,
)
from benchmarks.lean import Lean
from benchmarks.report import Report, Table, Target, median_ratio, number, spread

THREADS = 8
MODEL_BATCH = 500
BATCHES, SINGLY, PARALLEL = "publish_batch of 1,000", "publish, one by one", "publish, 8 threads"
LOTS, ONE = f"consume, batches of {MODEL_BATCH}", "consume, one event a call"
SLOW = (BATCHES, SINGLY, PARALLEL, LOTS, ONE)
"""What is measured on the slow disk, too."""
_RATIOS = {BATCHES: 0.8, LOTS: 0.8, PARALLEL: 0.4}
_RATES = {ONE: 30_000, PARALLEL: 5_000}


class Pair(NamedTuple):
    """mltrigger, and bare sqlite3 right after it."""

    ours: Rate
    bare: Rate


Found = dict[str, list[Pair]]


def run(options: Options) -> Report:
    """Measure every case in turn, as often as asked; each pair is measured back to back."""
    quiet: Found = {}
    slow: Found = {}
    with children() as here, slow_disk.slow_child() as there:
        for turn in options.rounds(40):
            _add(quiet, here.submit(measure, options.quick, None).result())
            if there is not None and turn < 2:
                _add(slow, there.submit(measure, options.quick, SLOW).result())
    return _report(quiet, slow, options)


def measure(quick: bool, names: tuple[str, ...] | None) -> dict[str, Pair]:
    """Measure each of the named cases once. Default: all."""
    found = {}
    for name, case in _cases(Options(quick)).items():
        if names is None or name in names:
            with scratch() as folder:
                found[name] = case(folder)
    return found


def _cases(options: Options) -> Mapping[str, Callable[[Path], Pair]]:
    many, singles = _sizes(options)
    return {
        BATCHES: lambda f: _publish(f, _batches(payloads(many), 1_000), 1_000),
        "publish_batch of 100": lambda f: _publish(f, _batches(payloads(many // 2), 100), 100),
        SINGLY: lambda f: _publish(f, lambda bus: _one_by_one(bus, singles), 1),
        PARALLEL: lambda f: _publish(f, lambda bus: _from_threads(bus, singles), THREADS),
        LOTS: lambda f: _consume(f, many, batch=True, batch_size=MODEL_BATCH),
        ONE: lambda f: _consume(f, many // 2),
        "consume, one a call, 4 slots": lambda f: _consume(f, many // 2, max_concurrency=4),
    }


def _sizes(options: Options) -> tuple[int, Most]:
    return options.size(40_000, 4_000), Most(options.size(2_000, 300), 1.0)


def _add(found: Found, measured: Mapping[str, Pair]) -> None:
    for name, pair in measured.items():
        found.setdefault(name, []).append(pair)


def _publish(folder: Path, publish: Callable[[mt.EventBus], int], size: int) -> Pair:
    """Publish events to one subscription that nobody listens for; then as many bare, *size* a
    commit.
    """
    with mt.connect(url(folder / "ours.db")) as bus:
        sub = bus.subscribe("documents", Counted().one, name="reader", listen=False)
        bus.publish("documents", "warm")
        cpu_s, started = time.process_time(), time.perf_counter()
        count = publish(bus)
        ours = Rate.since(count, started, cpu_s)
        assert sub.depth().visible == count + 1, "not every event waits for its subscription"
    bare = Lean(folder / "bare.db")
    done = bare.publish(payloads(count), size)
    bare.close()
    return Pair(ours, done)


def _batches(samples: Sequence[Any], size: int) -> Callable[[mt.EventBus], int]:
    """Return a function that publishes *samples*, which are made before: so are those of bare."""

    def publish(bus: mt.EventBus) -> int:
        for i in range(0, len(samples), size):
            bus.publish_batch("documents", samples[i : i + size])
        return len(samples)

    return publish


def _one_by_one(bus: mt.EventBus, most: Most) -> int:
    return most.send(lambda sample: bus.publish("documents", sample))[0]


def _from_threads(bus: mt.EventBus, most: Most) -> int:
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda _: _one_by_one(bus, most), range(THREADS)))


def _consume(folder: Path, count: int, *, batch: bool = False, **policy: Any) -> Pair:
    """Consume a backlog of *count* events; then bare, as many a commit."""
    model = Counted()
    with mt.connect(url(folder / "ours.db")) as bus:
        called = model.many if batch else model.one
        sub = bus.subscribe(
            "documents", mt.model("noop", batch=batch)(called), name="noop", listen=False, **policy
        )
        _batches(payloads(count), 1_000)(bus)
        cpu_s = time.process_time()
        seconds = consume(bus, sub, count)
        ours = Rate(count / seconds, (time.process_time() - cpu_s) / count * 1e6)
        done = sub.invocations(columns=["outcome", "received_at"])
    assert set(done["outcome"]) == {"succeeded"} and len(done) == count, "an outcome is missing"
    size = -(-count // done["received_at"].nunique()) * policy.get("max_concurrency", 1)
    bare = Lean(folder / "bare.db")
    bare.publish(payloads(count), 1_000)
    limit = bare.consume(count, size)
    bare.close()
    return Pair(ours, limit)


# -- the report ------------------------------------------------------------------------------------


def _report(quiet: Found, slow: Found, options: Options) -> Report:
    report = Report("throughput", "events per second against the limit, lean bare sqlite3")
    report.tables.append(_table("Events per second", quiet))
    if slow:
        title = f"Events per second while each sync takes {slow_disk.SLOWER_MS} ms more"
        report.tables.append(_table(title, slow))
    for name, limit in _RATIOS.items():
        ratio, rate = _ratio(quiet[name]), _median(quiet[name])
        report.targets.append(
            Target(
                f"{name}, of lean bare",
                f">= {limit:g}",
                f"{ratio:.2f} ({rate:,.0f}/s)",
                ratio >= limit,
            )
        )
    for name, least in _RATES.items():
        rate = _median(quiet[name])
        report.targets.append(Target(name, f">= {least:,}/s", f"{rate:,.0f}/s", rate >= least))
    many, singles = _sizes(options)
    report.notes += [*_notes(many, singles, len(quiet[BATCHES]), len(slow.get(BATCHES, ())))]
    return report


def _table(title: str, found: Found) -> Table:
    rows = []
    for name, pairs in found.items():
        ours, bare = zip(*pairs, strict=True)
        rows.append(
            (
                name,
                number(statistics.median(rate.per_s for rate in ours)),
                spread([rate.per_s for rate in ours]),
                number(statistics.median(rate.per_s for rate in bare)),
                f"{_ratio(pairs):.2f}",
                number(statistics.median(rate.cpu_us for rate in ours)),
                number(statistics.median(rate.cpu_us for rate in bare)),
            )
        )
    head = ("what", "mltrigger", "range", "lean bare", "ratio", "CPU us an event", "of lean bare")
    return Table(title, head, rows)


def _ratio(pairs: list[Pair]) -> float:
    return median_ratio([p.ours.per_s for p in pairs], [p.bare.per_s for p in pairs])


def _median(pairs: list[Pair]) -> float:
    return statistics.median(pair.ours.per_s for pair in pairs)


def _notes(many: int, singles: Most, rounds: int, slow_rounds: int) -> list[str]:
    return [
        (
            f"{many:,} events of 300 bytes of JSON in the largest batches, half as many elsewhere;"
            f" one by one as many as {singles.seconds:g} s allow, at most {singles.events:,} a"
            f" thread; one subscription; SQLite file on disk, durability full; {rounds}"
            " repetitions. CPU of all threads of the process."
        ),
        (
            "Consuming counts from starting the listener to the last recorded outcome, with the"
            " start of its threads. The model returns None."
        ),
        (
            "Lean bare: one thread with `sqlite3`, WAL, synchronous=FULL. Publishing: id (UUID 7),"
            " time and JSON of each event from objects, one row with its two indexes. Consuming, in"
            " one commit a lot: the lease of the lot deleted, a row of the lot, a narrow row an"
            " outcome, the count; then the next range read at the cursor and leased, and its JSON"
            " read back into objects. JSON by orjson and msgspec. Checkpoints at 8 MiB, over a log"
            " that has this size from the start. Left out: models, threads, checks, hooks, filters,"
            " retries, wake-ups, leases that end."
        ),
        (
            "Its lots are as large as mltrigger's, counted in the frame of invocations; for several"
            f" slots, theirs together. For {THREADS} threads it commits {THREADS} events at a time."
        ),
        (
            f"Slow disk: {slow_rounds} repetitions in a process whose fsync and fdatasync sleep"
            " after the real call (LD_PRELOAD)."
            if slow_rounds
            else slow_disk.MISSING
        ),
    ]
