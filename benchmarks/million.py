"""A log of a million events: what they cost as it grows, its size, its frames, and pruning it."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks.growth import FLAT
from benchmarks.harness import (
    Options,
    children,
    consume,
    payload,
    payloads,
    scratch,
    until,
    url,
    version_of,
)
from benchmarks.report import Report, Table, Target, number, quantile

STEPS, BATCH, LOT = 10, 1_000, 500
_NAME = "measured"
BYTES = 430
READ_S = {False: 4.0, True: 2.5}
"""The whole frame: without and with pyarrow."""
SINCE_MS, AGGREGATE_S = 30.0, 0.3
PRUNE_US, WAIT_MS = 10.0, 20.0
RECENT = 1_000
_FRAMES = ("invocations()", "results()")
_SINCE, _AUDIT, _LATENCY = f"invocations(since=…), {RECENT:,} rows", "audit()", "latency()"
_MOMENT_S = 0.05
"""Where pruning is quicker, the publishes of this time count."""


class Taken(NamedTuple):
    """Seconds of wall time, and of CPU."""

    wall_s: float
    cpu_s: float


Answers = dict[str, Taken]


class Step(NamedTuple):
    """Microseconds of CPU an event while the log grew to *size*."""

    size: int
    publish_us: float
    consume_us: float


class Pruning(NamedTuple):
    """The cost of pruning, and how long each publish of another process took in milliseconds."""

    events: int
    taken: Taken
    beside_ms: list[float]
    alone_ms: list[float]


class Scored:
    """A batch model that answers with a number."""

    def many(self, batch: list[Any]) -> list[float]:
        """Take a batch."""
        return [0.5] * len(batch)


def run(options: Options) -> Report:
    """Fill one file, read it in other processes, then prune it."""
    size = 10_000_000 if options.long else options.size(1_000_000, 20_000)
    with scratch() as folder:
        path = folder / "log.db"
        steps = [_step(path, n, size // STEPS) for n in range(1, STEPS + 1)]
        bytes_ = sum(file.stat().st_size for file in folder.iterdir()) / size
        read = {}
        for arrow in (False, True):
            if not arrow or version_of("pyarrow") != "not installed":
                with children() as child:
                    read[arrow] = child.submit(read_all, str(path), arrow, size).result()
        pruned = _pruning(path, size // STEPS)
    return _report(size, steps, bytes_, read, pruned)


def _step(path: Path, n: int, count: int) -> Step:
    """Publish and really process *count* more events."""
    with mt.connect(url(path)) as bus:
        model = mt.model(_NAME, batch=True)(Scored().many)
        sub = bus.subscribe("documents", model, name=_NAME, batch_size=LOT, listen=False)
        cpu_s = [time.process_time()]
        for _ in range(0, count, BATCH):
            bus.publish_batch("documents", payloads(BATCH))
        cpu_s.append(time.process_time())
        consume(bus, sub, n * count)
        cpu_s.append(time.process_time())
    publish_us, consume_us = ((b - a) / count * 1e6 for a, b in itertools.pairwise(cpu_s))
    return Step(n * count, publish_us, consume_us)


def read_all(path: str, arrow: bool, size: int) -> Answers:
    """Return the seconds of each question; without *arrow* pandas finds no pyarrow."""
    if not arrow:
        assert "pandas" not in sys.modules, "pandas knows already whether there is pyarrow"
        sys.modules["pyarrow"] = None  # type: ignore[assignment]
    with mt.connect(url(Path(path))) as bus:
        sub = bus.subscription(_NAME)
        newest = sub.invocations(limit=RECENT)
        since = newest["received_at"].iloc[0]
        questions: dict[str, Callable[[], Any]] = {
            _FRAMES[0]: sub.invocations,
            _FRAMES[1]: sub.results,
            f"invocations(limit={RECENT:,})": lambda: sub.invocations(limit=RECENT),
            _SINCE: lambda: sub.invocations(since=since),
            "invocations(columns=[outcome, model_ms])": lambda: sub.invocations(
                columns=["outcome", "model_ms"]
            ),
            _AUDIT: bus.audit,
            _LATENCY: sub.latency,
            "repr of the subscription": lambda: repr(sub),
        }
        found = {name: _taken(ask) for name, ask in questions.items()}
        assert len(sub.invocations(columns=["outcome"])) == size, "a row is missing"
        assert len(sub.invocations(since=since)) >= RECENT, "a new row is missing"
        assert bus.audit()["balanced"].all(), "the books do not balance"
    return found


def _taken(ask: Callable[[], Any]) -> Taken:
    """Return the medians of three; a slow one is asked once."""
    taken: list[Taken] = []
    while len(taken) < 3 and sum(one.wall_s for one in taken) < 3:
        cpu_s, started = time.process_time(), time.perf_counter()
        ask()
        taken.append(Taken(time.perf_counter() - started, time.process_time() - cpu_s))
    return Taken(*map(statistics.median, zip(*taken, strict=True)))


def _pruning(path: Path, count: int) -> Pruning:
    """Prune *count* events alone, then as many while another process publishes one by one."""
    with mt.connect(url(path)) as bus, children() as child:
        size = int(bus.topics()["events"].sum())
        events, taken, _ = _prune(bus, size - count)
        writing = child.submit(publish_until, str(path), str(path.with_name("stop")))
        until(path.with_name("begun").exists, "the other writer", 0.01)
        began = time.monotonic()
        time.sleep(1.0)
        alone = _Window(began, time.monotonic())
        others, _, beside = _prune(bus, size - 2 * count)
        time.sleep(_MOMENT_S)
        path.with_name("stop").touch()
        published = writing.result()
    if min(events, others) < count // 2:
        raise RuntimeError(f"only {events} and {others} events were pruned")
    return Pruning(
        events,
        taken,
        beside.of(published),
        alone.of(published),
    )


class _Window(NamedTuple):
    """A time by the monotonic clock."""

    began: float
    ended: float

    def of(self, published: list[tuple[float, float]]) -> list[float]:
        """Return how long those publishes took that were under way in it."""
        last = max(self.ended, self.began + _MOMENT_S)
        return [ms for at, ms in published if at <= last and at + ms / 1e3 >= self.began]


def _prune(bus: mt.EventBus, keep: int) -> tuple[int, Taken, _Window]:
    bus.retain(max_events=keep)
    cpu_s, started = time.process_time(), time.monotonic()
    pruned = bus.prune()
    ended, used_s = time.monotonic(), time.process_time() - cpu_s
    return pruned.events, Taken(ended - started, used_s), _Window(started, ended)


def publish_until(path: str, stop: str) -> list[tuple[float, float]]:
    """Publish every two milliseconds; return when each began, and how many milliseconds it took."""
    published: list[tuple[float, float]] = []
    with mt.connect(url(Path(path))) as bus:
        for n in range(10):
            bus.publish("documents", payload(n))
        Path(stop).with_name("begun").touch()
        while not Path(stop).exists():
            started = time.monotonic()
            bus.publish("documents", payload(len(published)))
            published.append((started, (time.monotonic() - started) * 1e3))
            time.sleep(0.002)
    return published


# -- the report ------------------------------------------------------------------------------------


def _report(
    size: int, steps: list[Step], bytes_: float, read: dict[bool, Answers], pruned: Pruning
) -> Report:
    report = Report("million", f"a log of {size:,} events: growth, size, frames, pruning")
    report.tables += [_growth(steps), _reads(size, read), _pruned(pruned)]
    for i, what in ((1, "publish"), (2, "consume")):
        ratio = steps[-1][i] / steps[0][i]
        title = f"{what}, CPU of the last tenth over the first, {size:,} events"
        report.targets.append(Target(title, f"flat (<= {FLAT})", f"{ratio:.2f}", ratio <= FLAT))
    report.targets.append(
        Target(
            "bytes of the file, an event of 300 with its outcome",
            f"<= {BYTES}",
            f"{bytes_:.0f}",
            bytes_ <= BYTES,
        )
    )
    report.targets += [target for arrow in read for target in _read(size, arrow, read[arrow])]
    us, cpu_us = (seconds / pruned.events * 1e6 for seconds in pruned.taken)
    longest = max(pruned.beside_ms)
    report.targets += [
        Target("prune, an event", f"< {PRUNE_US:g} us", f"{us:.1f} us", us < PRUNE_US),
        Target(
            "prune, the longest publish beside it",
            f"< {WAIT_MS:g} ms",
            f"{longest:.1f} ms",
            longest < WAIT_MS,
        ),
    ]
    report.notes += [
        (
            f"Published in batches of {BATCH:,} and consumed in batches of {LOT} by a model that returns"
            f" 0.5, a tenth at a time. Bytes: all files after closing, {bytes_:.0f} an event."
        ),
        (
            "Each set of questions in a fresh process, pandas loaded before; medians of 3, those"
            " that take seconds once. Without pyarrow: its import fails."
        ),
        (
            f"Pruning: {pruned.events:,} events alone, {cpu_us:.1f} us of CPU each; then as many while another process publishes"
            " one every 2 ms: each publish waits for the lock and for the disk. A second of the same"
            " without pruning stands beside it."
        ),
    ]
    return report


def _read(size: int, arrow: bool, found: Answers) -> list[Target]:
    how = f"{size:,} rows, {_how(arrow)}"
    limits = dict.fromkeys(_FRAMES, READ_S[arrow])
    limits |= {_SINCE: SINCE_MS / 1e3, _AUDIT: AGGREGATE_S, _LATENCY: AGGREGATE_S}
    return [
        Target(f"{name}, {how}", f"< {_time(limit)}", _time(wall_s), wall_s < limit)
        for name, limit in limits.items()
        for wall_s in (found[name].wall_s,)
    ]


def _how(arrow: bool) -> str:
    return "with pyarrow" if arrow else "without pyarrow"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"


def _growth(steps: list[Step]) -> Table:
    rows = [(f"{s.size:,}", number(s.publish_us), number(s.consume_us)) for s in steps]
    return Table("CPU an event while the log grows, us", ("to events", "publish", "consume"), rows)


def _reads(size: int, read: dict[bool, Answers]) -> Table:
    rows = [
        (name, *(f"{s * 1e3:,.1f}" for found in read.values() for s in found[name]))
        for name in read[False]
    ]
    head = ("question", *(text for arrow in read for text in (_how(arrow), "CPU")))
    return Table(f"Questions over {size:,} invocations, milliseconds", head, rows)


def _pruned(pruned: Pruning) -> Table:
    rows = [
        (name, str(len(ms)), number(quantile(ms, 0.5)), number(quantile(ms, 0.99)), number(max(ms)))
        for name, ms in (("alone", pruned.alone_ms), ("beside prune()", pruned.beside_ms))
    ]
    head = ("publishing one by one", "events", "p50", "p99", "max")
    return Table("Another process while events are pruned, milliseconds", head, rows)
