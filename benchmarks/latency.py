"""From the call of ``publish`` to the start of the model at light load, in one process and across
two; and the CPU of doing nothing.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Options, children, payload, scratch, until, url, version_of
from benchmarks.peers import consumer
from benchmarks.report import Report, Table, Target, number, quantile

PAUSE_S = (0.010, 0.030)
"""Between two events: one every 20 ms, so that neither side keeps time with the other."""
WARM = 10
Times = list[float]
_HERE = "mltrigger, in process"
_ACROSS = "mltrigger, across processes"


class Arrivals:
    """A model that notes how long each event took to arrive, in milliseconds."""

    def __init__(self) -> None:
        self.taken_ms: Times = []

    def __call__(self, data: Any) -> None:
        """Note the time since the publisher called ``publish``: one monotonic clock for all
        processes of a machine.
        """
        self.taken_ms.append((time.monotonic_ns() - data["sent_ns"]) / 1e6)


def run(options: Options) -> Report:
    """Measure everybody in turn; twice, so that no one has the quiet half."""
    count, rounds = options.size(300, 60), options.size(2, 1)
    cases: dict[str, Callable[[Path], Times]] = {
        _HERE: lambda f: _ours_here(f, count),
        _ACROSS: lambda f: _ours_across(f, count),
    }
    peers = count // 2
    if version_of("huey") != "not installed":
        cases["huey, in process, defaults (polls from 100 ms)"] = lambda f: _huey_here(f, peers)
        cases["huey, in process, polls each ms"] = lambda f: _huey_here(
            f, peers, initial_delay=0.001, max_delay=0.001
        )
        cases["huey, across processes, polls each ms"] = lambda f: _huey_across(f, peers)
    if version_of("persist-queue") != "not installed":
        cases["persist-queue, in process"] = lambda f: _persist_queue_here(f, peers)
    found: dict[str, Times] = {name: [] for name in cases}
    for _, (name, case) in itertools.product(range(rounds), cases.items()):
        with scratch() as folder:
            found[name] += case(folder)[WARM:]
    with scratch() as folder:
        idle = _idle(folder, options.size(10, 2))
    return _report(found, idle, options.size(10, 2))


# -- everybody -------------------------------------------------------------------------------------


def pace(send: Callable[[dict[str, Any]], object], count: int) -> None:
    """Send *count* events, one every 20 ms with jitter, each with the instant at which it was sent."""
    for n in range(count + WARM):
        time.sleep(random.uniform(*PAUSE_S))
        send({**payload(n), "sent_ns": time.monotonic_ns()})


def _ours_here(folder: Path, count: int) -> Times:
    arrivals = Arrivals()
    with mt.connect(url(folder / "ours.db")) as bus:
        bus.subscribe("documents", mt.model("arrivals")(arrivals))
        pace(lambda data: bus.publish("documents", data), count)
        until(lambda: len(arrivals.taken_ms) >= count + WARM, "in process")
    return arrivals.taken_ms


def _ours_across(folder: Path, count: int) -> Times:
    arrivals = Arrivals()
    with mt.connect(url(folder / "ours.db")) as bus, children() as child:
        bus.subscribe("documents", mt.model("arrivals")(arrivals))
        child.submit(publish_ours, str(folder / "ours.db"), count).result()
        until(lambda: len(arrivals.taken_ms) >= count + WARM, "across processes")
    return arrivals.taken_ms


def publish_ours(path: str, count: int) -> None:
    """Publish from this process."""
    with mt.connect(url(Path(path))) as bus:
        pace(lambda data: bus.publish("documents", data), count)


def _huey(path: str, arrivals: Arrivals) -> tuple[Any, Any]:
    from huey import SqliteHuey

    huey = SqliteHuey(filename=path, fsync=True, store_none=True)

    def arrive(data: Any) -> None:
        arrivals(data)

    return huey, huey.task(name="arrive")(arrive)


def _huey_here(folder: Path, count: int, **polling: Any) -> Times:
    arrivals = Arrivals()
    huey, task = _huey(str(folder / "huey.db"), arrivals)
    with consumer(huey, 1, **polling):
        pace(task, count)
        until(lambda: len(arrivals.taken_ms) >= count + WARM, "huey in process", 0.01)
    return arrivals.taken_ms


def _huey_across(folder: Path, count: int) -> Times:
    arrivals = Arrivals()
    huey, _ = _huey(str(folder / "huey.db"), arrivals)
    with children() as child, consumer(huey, 1, initial_delay=0.001, max_delay=0.001):
        child.submit(publish_huey, str(folder / "huey.db"), count).result()
        until(lambda: len(arrivals.taken_ms) >= count + WARM, "huey across processes", 0.01)
    return arrivals.taken_ms


def publish_huey(path: str, count: int) -> None:
    """Publish from this process."""
    pace(_huey(path, Arrivals())[1], count)


def _persist_queue_here(folder: Path, count: int) -> Times:
    from persistqueue import SQLiteAckQueue

    queue, arrivals = SQLiteAckQueue(str(folder), multithreading=True), Arrivals()

    def receive() -> None:
        for _ in range(count + WARM):
            found = queue.get(raw=True)
            arrivals(found["data"])
            queue.ack(id=found["pqid"])

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    pace(queue.put, count)
    thread.join(timeout=30)
    queue.close()
    return arrivals.taken_ms


# -- idle ------------------------------------------------------------------------------------------


def _idle(folder: Path, seconds: float) -> dict[int, float]:
    """Return number of listeners -> percent of one core that their process uses for nothing,
    measured side by side.
    """
    with children(2) as pool:
        asked = {
            n: pool.submit(idle_percent, str(folder / f"idle-{n}.db"), n, seconds) for n in (1, 20)
        }
        return {n: answer.result() for n, answer in asked.items()}


def idle_percent(path: str, listeners: int, seconds: float) -> float:
    """Listen *listeners* times and wait; return the CPU this process used, in percent of a core."""
    with mt.connect(url(Path(path))) as bus:
        for n in range(listeners):
            bus.subscribe(f"topic-{n}", mt.model("arrivals")(Arrivals()), name=f"listener-{n}")
        time.sleep(1.0)
        before, started = os.times(), time.perf_counter()
        time.sleep(seconds)
        after, taken = os.times(), time.perf_counter() - started
    return 100 * (after.user + after.system - before.user - before.system) / taken


def _report(found: dict[str, Times], idle: dict[int, float], seconds: float) -> Report:
    report = Report("latency", "publish to model start at light load, and idle CPU")
    rows = [
        (name, str(len(t)), *(number(quantile(t, q)) for q in (0.5, 0.95, 0.99)), number(max(t)))
        for name, t in found.items()
    ]
    report.tables.append(
        Table("Milliseconds", ("what", "events", "p50", "p95", "p99", "max"), rows)
    )
    report.tables.append(
        Table(
            "Idle CPU, percent of one core",
            ("listeners", "%"),
            [(str(n), f"{cpu:.2f}") for n, cpu in idle.items()],
        )
    )
    for name, limit in ((_HERE, 2.0), (_ACROSS, 3.0)):
        p50, p99 = quantile(found[name], 0.5), quantile(found[name], 0.99)
        report.targets.append(
            Target(f"{name}, p50", f"< {limit:g} ms", f"{p50:.2f} ms", p50 < limit)
        )
        report.targets.append(Target(f"{name}, p99", "< 10 ms", f"{p99:.2f} ms", p99 < 10))
    report.targets += [
        Target(f"idle CPU, listeners: {n}", "< 1 %", f"{cpu:.2f} %", cpu < 1)
        for n, cpu in idle.items()
    ]
    report.notes += [
        (
            "One event of 300 bytes every 10 to 30 ms. From just before the call of publish (with"
            " encoding and the durable commit) to the first line of the model, by the monotonic"
            f" clock that all processes share; the first {WARM} of each round are left out."
        ),
        (
            "The p99 of some hundred events is the third or sixth worst of them: it shows the"
            " disk's slow moments as much as the code."
        ),
        (
            "huey with fsync=True and one consumer thread. persist-queue wakes a waiting get in the"
            " same process only; across processes one would poll, and it is not measured."
        ),
        f"Idle: two processes side by side for {seconds:g} s, by os.times (steps of 10 ms).",
    ]
    return report
