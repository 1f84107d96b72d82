"""Whether an event costs the same with a long queue and a long log as with short ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Counted, Options, consume, payloads, scratch, succeeded, until, url
from benchmarks.report import Report, Table, Target

Costs = tuple[list[float], list[float]]
"""Microseconds an event: publishing, and consuming (claim, model, record, settle)."""
BATCH = 100
_NAME = "measured"
FLAT = 1.5
"""A ratio up to this one is taken for flat: the caches of a larger file cost something on any
database.
"""


def run(options: Options) -> Report:
    """Fill one file a size, then measure them in turn, as often as asked."""
    queues = [1_000, options.size(10_000, 3_000), options.size(100_000, 10_000)]
    logs = [1_000, options.size(100_000, 10_000)]
    with scratch() as folder:
        waiting = {size: folder / f"waiting-{size}.db" for size in queues}
        logged = {size: folder / f"logged-{size}.db" for size in logs}
        for size, path in waiting.items():
            _fill_queues(path, size)
        for size, path in logged.items():
            filled(path, size)
        waited = _measured(waiting, options, ahead=True)
        recorded = _measured(logged, options, ahead=False)
    return _report(waited, recorded)


def filled(path: Path, size: int, model: Any = None) -> tuple[float, float]:
    """Publish and really process *size* events; return the CPU of both, microseconds an event."""
    with mt.connect(url(path)) as bus:
        sub = _subscription(bus, model or Counted(), batch_size=500, listen=False)
        before, cpu_s = succeeded(bus, sub), [time.process_time()]
        for samples in _chunks(size):
            bus.publish_batch("documents", samples)
        cpu_s.append(time.process_time())
        consume(bus, sub, before + size)
        cpu_s.append(time.process_time())
    return (cpu_s[1] - cpu_s[0]) / size * 1e6, (cpu_s[2] - cpu_s[1]) / size * 1e6


def measured_of(bus: mt.EventBus) -> mt.Subscription:
    """Return the subscription of such a file."""
    return bus.subscription(_NAME)


def _fill_queues(path: Path, size: int) -> None:
    """Make a store in which *size* events wait, for the subscription that is measured and for
    another one.
    """
    with mt.connect(url(path)) as bus:
        _subscription(bus, Counted(), listen=False)
        bus.subscribe("documents", mt.model("other")(Counted().one), name="other", listen=False)
        for samples in _chunks(size):
            bus.publish_batch("documents", samples)


def _subscription(
    bus: mt.EventBus, model: Any, batch_size: int = BATCH, **options: Any
) -> mt.Subscription:
    called = mt.model(_NAME, batch=True)(model.many)
    return bus.subscribe(
        "documents", called, name=_NAME, batch_size=batch_size, timeout_s=600, **options
    )  # type: ignore[no-any-return]


def _chunks(size: int) -> Iterator[list[dict[str, Any]]]:
    for i in range(0, size, 1_000):
        yield payloads(min(1_000, size - i))


def _measured(
    files: dict[int, Path], options: Options, ahead: bool
) -> dict[int, tuple[float, float]]:
    """Return size -> (publish, consume) in microseconds an event: medians over all rounds."""
    found: dict[int, Costs] = {size: ([], []) for size in files}
    for _ in options.rounds(15):
        for size, path in files.items():
            published, consumed = _costs(path, options.size(20, 6), ahead)
            found[size][0].extend(published)
            found[size][1].extend(consumed)
    return {size: (statistics.median(p), statistics.median(c)) for size, (p, c) in found.items()}


def _costs(path: Path, batches: int, ahead: bool) -> Costs:
    """Publish *batches* and consume as many: what waits *ahead* of them, or, where nothing does,
    the batches themselves.
    """
    model = _Paced(batches + 3)
    with mt.connect(url(path)) as bus:
        sub = _subscription(bus, model, listen=False)
        before, published = succeeded(bus, sub), []
        for n in range(batches + 3):
            samples = payloads(BATCH)
            started = time.perf_counter()
            bus.publish_batch("documents", samples)
            if n >= 3:  # the first ones open files and fill caches
                published.append((time.perf_counter() - started) / BATCH * 1e6)
        sub.start()
        until(lambda: len(model.at) > batches + 2, "growth")
        sub.stop()
        assert ahead or succeeded(bus, sub) - before == (batches + 3) * BATCH, (
            "not every event was consumed"
        )
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


def _report(
    waited: dict[int, tuple[float, float]], recorded: dict[int, tuple[float, float]]
) -> Report:
    report = Report("growth", "cost of an event by what waits and what is logged")
    for what, found in (("events waiting", waited), ("rows in the log", recorded)):
        first, last = found[min(found)], found[max(found)]
        ratios = [last[i] / first[i] for i in (0, 1)]
        rows = [
            (f"{size:,}", f"{publish:.0f}", f"{consumed:.0f}")
            for size, (publish, consumed) in found.items()
        ]
        rows.append(("last over first", f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"))
        report.tables.append(
            Table(f"Microseconds an event, batches of {BATCH}", (what, "publish", "consume"), rows)
        )
        for name, ratio in zip(("publish", "consume"), ratios, strict=True):
            title = f"{name}, {max(found):,} over {min(found):,} {what}"
            report.targets.append(Target(title, f"flat (<= {FLAT})", f"{ratio:.2f}", ratio <= FLAT))
    report.notes += [
        (
            "Waiting: that many events in the queue of the measured subscription and in that of"
            " another one on the same topic; hence each publish also writes two deliveries. Log:"
            " that many events were published, processed and recorded before."
        ),
        (
            "The files are made first and measured in turn; medians over all batches of all rounds,"
            " the first three of each round left out."
        ),
    ]
    return report
