"""From publish to the recorded end, one event a call: mltrigger, DBOS and Procrastinate.

Each runs in a process of its own, with its worker in it. All commits wait for the disk.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks import dbos_peer
from benchmarks.harness import payload, quiet, until, version_of

WARM = 10
_LOOK_S = 0.02
OURS, PROCRASTINATE = "mltrigger", "Procrastinate"
DBOS = {"DBOS, polling each 1 ms": 0.001, "DBOS, polling each 50 ms": 0.05}
"""Its queue is polled, and each poll costs: so often, or so seldom."""


class EndToEnd(NamedTuple):
    """Events a second from the first call to the last recorded end, and latencies at light load."""

    per_s: float
    start_ms: list[float]


class _Arrivals:
    """A model that notes how long each event took to arrive."""

    def __init__(self) -> None:
        self.taken_ms: list[float] = []

    def __call__(self, data: Any) -> None:
        self.taken_ms.append((time.monotonic_ns() - data["sent_ns"]) / 1e6)


def installed() -> dict[str, Callable[[str, int], EndToEnd]]:
    """Return those that are installed. Each takes the address of a database, and a number."""
    found: dict[str, Callable[[str, int], EndToEnd]] = {OURS: ours}
    if version_of("dbos") != "not installed":
        for name, poll_s in DBOS.items():
            found[name] = functools.partial(dbos, poll_s=poll_s)
    if version_of("procrastinate") != "not installed":
        found[PROCRASTINATE] = procrastinate
    return found


def ours(dsn: str, count: int) -> EndToEnd:
    """Publish to a model of this process."""
    quiet()
    arrivals = _Arrivals()
    with mt.connect(dsn) as bus:
        sub = bus.subscribe("documents", mt.model("noop")(arrivals))
        return _measured(
            lambda data: bus.publish("documents", data),
            lambda: bus.tally(sub._spec).get("succeeded", 0),
            arrivals,
            count,
        )


def dbos(dsn: str, count: int, poll_s: float) -> EndToEnd:
    """Enqueue workflows for the queue of this process, which polls."""
    arrivals = _Arrivals()
    send = dbos_peer.deliver(dsn, arrivals, poll_s)
    try:
        return _measured(send, dbos_peer.completed, arrivals, count)
    finally:
        dbos_peer.stop()


def procrastinate(dsn: str, count: int) -> EndToEnd:
    """Defer jobs for a worker of this process, which is woken by NOTIFY."""
    import procrastinate as library
    import psycopg

    quiet()
    arrivals = _Arrivals()
    sender = library.App(connector=library.SyncPsycopgConnector(conninfo=dsn))
    receiver = library.App(connector=library.PsycopgConnector(conninfo=dsn))

    async def noop(data: Any) -> None:
        arrivals(data)

    task = sender.task(queue="documents", name="noop")(noop)
    receiver.task(queue="documents", name="noop")(noop)
    with sender.open(), psycopg.connect(dsn, autocommit=True) as session:
        sender.schema_manager.apply_schema()
        stop = _worker(receiver)

        def succeeded() -> int:
            found = session.execute(
                "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
            ).fetchone()
            assert found is not None
            return int(found[0])

        try:
            return _measured(lambda data: task.defer(data=data), succeeded, arrivals, count)
        finally:
            stop()


def _worker(app: Any) -> Callable[[], None]:
    """Run the worker of *app* in a thread. Return a function that ends it."""
    loop = asyncio.new_event_loop()
    running: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(install_signal_handlers=False)

    def run() -> None:
        running.append(loop.create_task(work()))
        try:
            loop.run_until_complete(running[0])
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(running[0].cancel)
        thread.join(30)

    return stop


def _measured(
    send: Callable[[Any], object], recorded: Callable[[], int], arrivals: _Arrivals, count: int
) -> EndToEnd:
    """Send a third of the events one at a time, each after the last one has arrived. Then all."""
    few = max(WARM, count // 3)
    for n in range(WARM + few):
        send({**payload(n), "sent_ns": time.monotonic_ns()})
        until(lambda n=n: len(arrivals.taken_ms) > n, "an event")  # type: ignore[misc]
    before = WARM + few
    until(lambda: recorded() >= before, "the first events", _LOOK_S)
    start_ms, began_s = arrivals.taken_ms[WARM:], time.monotonic()
    for n in range(count):
        send({**payload(n), "sent_ns": time.monotonic_ns()})
    until(lambda: recorded() >= before + count, "all events", _LOOK_S)
    return EndToEnd(count / (time.monotonic() - began_s), start_ms)
