"""Lanes beside live calls: a shadow that hangs, crashes and lies, and the speed of a replay."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import mltrigger as mt
from benchmarks.harness import Options, scratch, until, url
from benchmarks.report import Report, Table, Target, number

EVENTS, PACE_S = 1_500, 0.004
REPLAYED, BATCH = 200_000, 1_000
_TIMEOUT_S = 1.0
_P99, _SPEED = 1.10, 0.8


def read_page(page: int) -> dict[str, int]:
    """Answer after about half a millisecond of work."""
    return {"page": page, "sum": sum(range(8_000))}


def misbehave(page: int) -> Any:
    """Hang, end the process, lie, or fail. Most answers are as good as those of the live version."""
    import os
    import time

    if page % 100 == 10:
        time.sleep(3600)
    if page % 100 == 30:
        os._exit(3)
    if page % 10 == 5:
        return "x" * 100_000
    if page % 10 == 6:
        return object()
    if page % 10 == 7:
        raise mt.Retry(delay_s=0.001)
    return {"page": page, "sum": sum(range(8_000))}


def run(options: Options) -> Report:
    """Measure live latencies with and without such a shadow in turns, then a replay."""
    events = options.size(EVENTS, 300)
    with scratch() as folder:
        quiet, beside, ended = [], [], 0
        for n in options.rounds(120.0):
            for has_shadow in (n % 2 == 0, n % 2 != 0):
                times, answered = _live(folder / f"{n}-{has_shadow}.db", events, has_shadow)
                (beside if has_shadow else quiet).append(times)
                ended += answered
        speeds = [
            _replayed(folder / f"replay-{n}.db", options.size(REPLAYED, 20_000))
            for n in options.rounds(60.0)
        ]
    return _report(quiet, beside, ended, speeds)


def _live(path: Path, events: int, has_shadow: bool) -> tuple[np.ndarray[Any, Any], int]:
    """Return the milliseconds from publish to answer, and how many events the shadow ended."""
    with mt.connect(url(path)) as bus:
        sub = bus.subscribe(
            "pages",
            mt.model(read_page, name="ocr", version="1.0.0"),
            isolation="process",
            timeout_s=_TIMEOUT_S,
        )
        bus.register(mt.model(misbehave, name="ocr", version="1.1.0"))
        bus.fire("pages", [-1] * 20, progress=False)  # the process has started
        shadow = sub.shadow("1.1.0") if has_shadow else None
        if shadow is not None:
            bus.fire("pages", [-1] * 20, progress=False)
            until(lambda: shadow.progress().done > 0, "the shadow")
        first = time.monotonic()
        for page in range(events):
            bus.publish("pages", page)
            time.sleep(max(0.0, first + (page + 1) * PACE_S - time.monotonic()))
        until(lambda: not sub.depth().open, "the live calls")
        found = sub.invocations(columns=["total_ms"])["total_ms"].to_numpy()[-events:]
        return found, 0 if shadow is None else shadow.progress().done


def nothing(pages: list[Any]) -> list[None]:
    """Answer a batch."""
    return [None] * len(pages)


def _replayed(path: Path, events: int) -> tuple[float, float]:
    """Return the events a second of a consume of a backlog, and of a replay of the same events."""
    with mt.connect(url(path)) as bus:
        model = mt.model(nothing, name="ocr", version="1.0.0", batch=True)
        sub = bus.subscribe("pages", model, batch_size=BATCH, listen=False)
        bus.register(mt.model(nothing, name="ocr", version="1.1.0", batch=True))
        for begin in range(0, events, 10_000):
            bus.publish_batch("pages", [{"page": n} for n in range(begin, begin + 10_000)])
        sub.start()
        until(lambda: not sub.depth().open, "the consume", 0.05)
        lane = sub.replay("1.1.0")
        until(lambda: lane.state == "done", "the replay", 0.05)
        return _rate(sub.invocations()), _rate(lane.invocations())


def _rate(attempts: Any) -> float:
    """Return the events a second, from the first one received to the last one settled."""
    took = attempts["settled_at"].max() - attempts["received_at"].min()
    return float(len(attempts) / took.total_seconds())


def _report(quiet: Any, beside: Any, ended: int, speeds: Any) -> Report:
    report = Report("lanes", "shadows and replays")
    report.tables.append(
        Table(
            f"live calls, one each {PACE_S * 1000:g} ms, milliseconds from publish to answer",
            ("", "p50", "p95", "p99", "max"),
            [
                (name, *(f"{_median(runs, q):.2f}" for q in (0.5, 0.95, 0.99, 1.0)))
                for name, runs in (("alone", quiet), ("beside the shadow", beside))
            ],
        )
    )
    report.notes.append(
        f"The shadow gets each event. Of 100 events 1 hangs, 1 ends its process, 30 are lies or"
        f" failures. It has ended {ended:,} events meanwhile."
    )
    consume, replay = (statistics.median(each[i] for each in speeds) for i in (0, 1))
    ratio = statistics.median(b / a for a, b in speeds)
    report.tables.append(
        Table(
            f"batches of {BATCH:,} through a model that does nothing, events a second",
            ("", "events/s"),
            [("consume", number(consume)), ("replay", number(replay))],
        )
    )
    p99 = statistics.median(
        np.quantile(b, 0.99) / np.quantile(a, 0.99) for a, b in zip(quiet, beside, strict=True)
    )
    report.targets += [
        Target(
            "live p99 beside a shadow that hangs, crashes and lies",
            f"at most {_P99:.2f} of the run without",
            f"{p99:.2f}",
            p99 <= _P99,
        ),
        Target(
            "replay, against a plain batch consume",
            f"at least {_SPEED}",
            f"{ratio:.2f}",
            ratio >= _SPEED,
        ),
    ]
    return report


def _median(runs: Any, q: float) -> float:
    return statistics.median(float(np.quantile(each, q)) for each in runs)
