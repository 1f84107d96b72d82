"""From the call of ``publish`` to the start of the model at light load, in one process and across
two; and the CPU of doing nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks import dbos_peer, slow_disk
from benchmarks.harness import Options, children, payload, scratch, until, url, version_of
from benchmarks.peers import consumer
from benchmarks.report import Report, Table, Target, number, quantile

PAUSE_S = (0.010, 0.030)
"""Between two events: one every 20 ms, so that neither side keeps time with the other."""
WARM = 10
IDLE = (1, 20)
IDLE_PERCENT = 0.3
Times = list[float]
HERE = "mltrigger, in process"
ACROSS = "mltrigger, across processes"
_P50_MS = {HERE: 0.6, ACROSS: 0.9}
_P99_MS = 2.0
_MOVED_MS = 0.1
"""The median may move so much when each sync takes longer."""


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
    usual: dict[str, Times] = {}
    slow: dict[str, Times] = {}
    with children() as here, slow_disk.slow_child() as there:
        for _ in range(options.size(2, 1)):
            _add(usual, here.submit(measure, options.quick, (HERE, ACROSS)).result())
            if there is not None:
                _add(slow, there.submit(measure, options.quick, (HERE, ACROSS)).result())
            _add(usual, here.submit(measure, options.quick, None).result())
    with scratch() as folder:
        idle = _idle(folder, options.size(10, 2))
    return _report(usual, slow, idle, options.size(10, 2))


def measure(quick: bool, names: tuple[str, ...] | None) -> dict[str, Times]:
    """Measure each of the named systems once. Default: the peers."""
    count = Options(quick).size(300, 60)
    cases = _peers(count // 3) if names is None else _OURS
    found = {}
    for name, case in cases.items():
        with scratch() as folder:
            found[name] = case(folder, count)[WARM:]
    return found


def _peers(count: int) -> dict[str, Callable[[Path, int], Times]]:
    """Return the peers that are installed, each with *count* events."""
    cases: dict[str, Callable[[Path, int], Times]] = {}
    if version_of("huey") != "not installed":
        cases["huey, in process, defaults (polls from 100 ms)"] = lambda f, _: _huey_here(f, count)
        cases["huey, in process, polls each ms"] = lambda f, _: _huey_here(
            f, count, initial_delay=0.001, max_delay=0.001
        )
        cases["huey, across processes, polls each ms"] = lambda f, _: _huey_across(f, count)
    if version_of("persist-queue") != "not installed":
        cases["persist-queue, in process"] = lambda f, _: _persist_queue_here(f, count)
    if version_of("dbos") != "not installed":
        cases["DBOS, in process, polls each ms"] = lambda f, _: _dbos_here(f, count)
    return cases


def _add(found: dict[str, Times], measured: dict[str, Times]) -> None:
    for name, times in measured.items():
        found.setdefault(name, []).extend(times)


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


def _dbos_here(folder: Path, count: int) -> Times:
    with children() as child:
        return child.submit(deliver_dbos, folder / "dbos.db", count).result()


def deliver_dbos(path: Path, count: int) -> Times:
    """Deliver in this process what it publishes itself."""
    arrivals = Arrivals()
    send = dbos_peer.deliver(path, arrivals)
    send({"sent_ns": time.monotonic_ns()})  # it finds a new queue after a second
    until(lambda: len(arrivals.taken_ms) == 1, "DBOS", 0.01)
    pace(send, count)
    until(lambda: len(arrivals.taken_ms) > count + WARM, "DBOS", 0.01)
    dbos_peer.stop()
    return arrivals.taken_ms[1:]


_OURS = {HERE: _ours_here, ACROSS: _ours_across}

# -- idle ------------------------------------------------------------------------------------------


def _idle(folder: Path, seconds: float) -> dict[int, float]:
    """Return number of listeners -> percent of one core that their process uses for nothing,
    measured side by side.
    """
    with children(len(IDLE)) as pool:
        asked = {
            n: pool.submit(idle_percent, str(folder / f"idle-{n}.db"), n, seconds) for n in IDLE
        }
        return {n: answer.result() for n, answer in asked.items()}


def idle_percent(path: str, listeners: int, seconds: float) -> float:
    """Listen *listeners* times and wait; return the CPU this process used, in percent of a core."""
    with mt.connect(url(Path(path))) as bus:
        for n in range(listeners):
            bus.subscribe(f"topic-{n}", mt.model("arrivals")(Arrivals()), name=f"listener-{n}")
        time.sleep(1.0)
        cpu_s, started = time.process_time(), time.perf_counter()
        time.sleep(seconds)
        used_s, taken = time.process_time() - cpu_s, time.perf_counter() - started
    return 100 * used_s / taken


# -- the report ------------------------------------------------------------------------------------


def _report(
    usual: dict[str, Times], slow: dict[str, Times], idle: dict[int, float], seconds: float
) -> Report:
    report = Report("latency", "publish to model start at light load, and idle CPU")
    later = {f"{name}, each sync {slow_disk.SLOWER_MS} ms longer": t for name, t in slow.items()}
    rows = [
        (name, str(len(t)), *(number(quantile(t, q)) for q in (0.5, 0.95, 0.99)), number(max(t)))
        for name, t in [*usual.items(), *later.items()]
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
    for name, limit in _P50_MS.items():
        report.targets += _targets(name, limit, usual[name], slow.get(name))
    cpu = idle[max(IDLE)]
    report.targets.append(
        Target(
            f"idle CPU, listeners: {max(IDLE)}",
            f"< {IDLE_PERCENT:g} %",
            f"{cpu:.2f} %",
            cpu < IDLE_PERCENT,
        )
    )
    report.notes += [
        (
            "One event of 300 bytes every 10 to 30 ms. From just before the call of publish (with"
            " its encoding) to the first line of the model, by the monotonic clock that all"
            f" processes share; the first {WARM} of each round are left out."
        ),
        (
            "The p99 of some hundred events is the third or sixth worst of them: it shows the"
            " disk's slow moments as much as the code."
        ),
        (
            "huey with fsync=True and one consumer thread. persist-queue wakes a waiting get in the"
            " same process only; across processes one would poll, and it is not measured. DBOS"
            f" polls its queue each {dbos_peer.POLL_S * 1e3:g} ms."
        ),
        (
            "Longer syncs: in processes whose fsync and fdatasync sleep after the real call"
            " (LD_PRELOAD), publisher and listener."
            if slow
            else slow_disk.MISSING
        ),
        f"Idle: two processes side by side for {seconds:g} s, the CPU of all their threads.",
    ]
    return report


def _targets(name: str, limit: float, usual: Times, slow: Times | None) -> list[Target]:
    p50, p99 = quantile(usual, 0.5), quantile(usual, 0.99)
    targets = [
        Target(f"{name}, p50", f"< {limit:g} ms", f"{p50:.2f} ms", p50 < limit),
        Target(f"{name}, p99", f"< {_P99_MS:g} ms", f"{p99:.2f} ms", p99 < _P99_MS),
    ]
    if slow:
        moved = quantile(slow, 0.5) - p50
        what = f"{name}, p50, moved by {slow_disk.SLOWER_MS} ms more a sync"
        targets.append(Target(what, f"< {_MOVED_MS:g} ms", f"{moved:+.2f} ms", moved < _MOVED_MS))
    return targets
