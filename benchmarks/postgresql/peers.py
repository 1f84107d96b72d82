"""From publish to the recorded end: mltrigger, DBOS and Procrastinate.

Events come one by one, or many at once by the call that each system has for that. The model gets
one event a call. Each system runs in a process of its own, with its worker in it. All commits wait for the disk.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
    """Events a second from the first call to the last recorded end, and latencies at light load.

    ``many_per_s`` is the same for events that are sent together.
    """

    per_s: float
    many_per_s: float
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
            lambda samples: bus.publish_batch("documents", samples),
            lambda: bus.tally(sub._spec).get("succeeded", 0),
            arrivals,
            count,
        )


def dbos(dsn: str, count: int, poll_s: float) -> EndToEnd:
    """Enqueue workflows for the queue of this process, which polls."""
    arrivals = _Arrivals()
    send = dbos_peer.deliver(dsn, arrivals, poll_s)
    try:
        together = functools.partial(dbos_peer.send_together, dsn)
        return _measured(send, together, dbos_peer.completed, arrivals, count)
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
            return _measured(
                lambda data: task.defer(data=data),
                lambda samples: task.batch_defer(*({"data": data} for data in samples)),
                succeeded,
                arrivals,
                count,
            )
        finally:
            stop()


def _worker(app: Any) -> Callable[[], None]:
    """Run the worker of *app* in a thread. Return a function that ends it."""
    loop = asyncio.new_event_loop()
    running: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with app.open_async():
            await app.run_worker_async(install_signal_handlers=False, concurrency=16)

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
    send: Callable[[Any], object],
    send_together: Callable[[Sequence[Any]], object],
    recorded: Callable[[], int],
    arrivals: _Arrivals,
    count: int,
) -> EndToEnd:
    """Send a third of the events one at a time, each after the last one has arrived.

    Then send all of them without a pause. At last send some ten times as many together.
    """
    sent = 0

    def samples(n: int) -> Iterator[Any]:
        nonlocal sent
        for _ in range(n):
            sent += 1
            yield {**payload(sent), "sent_ns": time.monotonic_ns()}

    def ended() -> None:
        until(lambda: len(arrivals.taken_ms) >= sent, "arrivals", _LOOK_S / 4)
        until(lambda: recorded() >= sent, "records", _LOOK_S / 4)  # a look may cost a lot

    for sample in samples(WARM + max(WARM, count // 3)):
        send(sample)
        until(lambda: len(arrivals.taken_ms) >= sent, "an event")
    ended()
    start_ms, began_s = arrivals.taken_ms[WARM:], time.monotonic()
    for sample in samples(count):
        send(sample)
    ended()
    per_s, many, began_s = count / (time.monotonic() - began_s), 10 * count, time.monotonic()
    send_together(list(samples(many)))
    ended()
    return EndToEnd(per_s, many / (time.monotonic() - began_s), start_ms)
