"""Whether an event costs the same with a long queue as with a short one.

``million`` asks the same of a long log.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Counted, Options, payloads, scratch, until, url
from benchmarks.report import Report, Table, Target

Costs = tuple[list[float], list[float]]
"""Microseconds an event: publishing, and consuming (claim, model, record, settle)."""
BATCH = 100
FLAT = 1.5
"""A ratio up to this one is taken for flat: the caches of a larger file cost something on any
database.
"""


def run(options: Options) -> Report:
    """Fill one file a size, then measure them in turn, as often as asked."""
    sizes = [1_000, options.size(10_000, 3_000), options.size(100_000, 10_000)]
    with scratch() as folder:
        files = {size: folder / f"waiting-{size}.db" for size in sizes}
        for size, path in files.items():
            _fill_queues(path, size)
        return _report(_measured(files, options))


def _fill_queues(path: Path, size: int) -> None:
    """Make a store in which *size* events wait, for the subscription that is measured and for
    another one.
    """
    with mt.connect(url(path)) as bus:
        _subscription(bus, Counted())
        bus.subscribe("documents", mt.model("other")(Counted().one), name="other", listen=False)
        for samples in _chunks(size):
            bus.publish_batch("documents", samples)


def _subscription(bus: mt.EventBus, model: Any) -> mt.Subscription:
    called = mt.model("measured", batch=True)(model.many)
    return bus.subscribe(
        "documents", called, name="measured", batch_size=BATCH, timeout_s=600, listen=False
    )


def _chunks(size: int) -> Iterator[list[dict[str, Any]]]:
    for i in range(0, size, 1_000):
        yield payloads(min(1_000, size - i))


def _measured(files: dict[int, Path], options: Options) -> dict[int, tuple[float, float]]:
    """Return size -> (publish, consume) in microseconds an event: medians over all rounds."""
    found: dict[int, Costs] = {size: ([], []) for size in files}
    for _ in options.rounds(15):
        for size, path in files.items():
            published, consumed = _costs(path, options.size(20, 6))
            found[size][0].extend(published)
            found[size][1].extend(consumed)
    return {size: (statistics.median(p), statistics.median(c)) for size, (p, c) in found.items()}


def _costs(path: Path, batches: int) -> Costs:
    """Publish *batches* and consume as many of those that wait ahead of them."""
    model = _Paced(batches + 3)
    with mt.connect(url(path)) as bus:
        sub = _subscription(bus, model)
        published = []
        for n in range(batches + 3):
            samples = payloads(BATCH)
            started = time.perf_counter()
            bus.publish_batch("documents", samples)
            if n >= 3:  # the first ones open files and fill caches
                published.append((time.perf_counter() - started) / BATCH * 1e6)
        sub.start()
        until(lambda: len(model.at) > batches + 2, "growth")
        sub.stop()
    steps = zip(model.at[2:], model.at[3:], strict=False)
    return published, [(later - earlier) / BATCH * 1e6 for earlier, later in steps]


class _Paced:
    """A batch model that notes when it was called; after the last measured call it holds on until
    its listener is stopped.
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.at: list[float] = []

    def many(self, batch: list[Any]) -> list[None]:
        """Take a batch."""
        self.at.append(time.perf_counter())
        if len(self.at) >= self.calls:
            time.sleep(0.05)  # until the listener is told to stop: the queue shall not run empty
        return [None] * len(batch)


def _report(found: dict[int, tuple[float, float]]) -> Report:
    report = Report("growth", "cost of an event by how many wait")
    first, last = found[min(found)], found[max(found)]
    ratios = [last[i] / first[i] for i in (0, 1)]
    rows = [(f"{size:,}", *(f"{cost:.0f}" for cost in costs)) for size, costs in found.items()]
    rows.append(("last over first", *(f"{ratio:.2f}" for ratio in ratios)))
    report.tables.append(
        Table(
            f"Microseconds an event, batches of {BATCH}",
            ("events waiting", "publish", "consume"),
            rows,
        )
    )
    for name, ratio in zip(("publish", "consume"), ratios, strict=True):
        title = f"{name}, {max(found):,} over {min(found):,} events waiting"
        report.targets.append(Target(title, f"flat (<= {FLAT})", f"{ratio:.2f}", ratio <= FLAT))
    report.notes += [
        (
            "That many events wait for the measured subscription and for another one on the same"
            " topic."
        ),
        (
            "The files are made first and measured in turn; medians over all batches of all rounds,"
            " the first three of each round left out."
        ),
    ]
    return report
