"""The life of a bus until the power goes: publishers, listeners, failures, redrives, direct calls.

Each life notes in a record what the disk did and what it was told. ``test_power_cut.py`` then makes
files of the record, and opens them with the same models.

Run as a program it forks for each order: everything is imported by then, and nothing is open. A line
of JSON on stdin has the orders of processes that live at the same time. A line on stdout has their
exit codes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from power_record import Record

import mltrigger as mt
from mltrigger import policy
from mltrigger.clock import SystemClock
from mltrigger.store.opening import embedded
from mltrigger.store.sqlite import logkeeper, wal
from mltrigger.store.sqlite.durable import SharedSync
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.wake import SocketWakeup
from mltrigger.versions.selector import Selector

PUBLISHERS, SINGLE, BATCHES = 3, 20, 6
SIZES = (30, 300, 6_000)
LOG_BYTES = 96 * 1024
"""The log begins anew after so much."""
LEAST_TIMES_ANEW = 4
DEADLINE_S = 60.0
HEALED = "POWER_HEALED"
"""Set in the process that goes on after the cut: what failed before succeeds there."""


# -- the models ------------------------------------------------------------------------------------


def count_pages(batch: list[dict[str, Any]]) -> list[int]:
    return [data["n"] for data in batch]


def echo(n: int) -> int:
    return n


def read_hard(data: dict[str, Any]) -> int:
    """Answer, fail always, or reject."""
    if data["do"] == "reject" and HEALED not in os.environ:
        raise mt.Reject("unreadable")
    if data["do"] == "fail" and HEALED not in os.environ:
        raise ValueError("again")
    return int(data["n"])


def subscribe(bus: mt.EventBus, listen: bool = True) -> None:
    """Subscribe all models, and deliver in this process if it is to *listen*."""
    counter = mt.model(count_pages, name="count", version="1.0.0", batch=True)
    bus.subscribe("pages", counter, name="counter", emit="texts", batch_size=20, listen=listen)
    words = mt.model(echo, name="echo", version="1.0.0")
    bus.subscribe("texts", words, name="echo", listen=listen)
    hard = mt.model(read_hard, name="hard", version="1.0.0")
    bus.subscribe("hard", hard, name="hard", max_attempts=2, listen=listen)


# -- the load --------------------------------------------------------------------------------------


class Load:
    """What one process does on a bus. Each receipt is noted as soon as it is there."""

    def __init__(self, bus: mt.EventBus, other: mt.EventBus, record: Record, seed: int) -> None:
        self.bus, self.other, self.record, self._seed = bus, other, record, seed
        self._ended, self._number = threading.Event(), 0

    def run(self) -> None:
        """Return when all was published and answered, or refused."""
        works = [self.publish_batches, self.emit, self.publish_beside, self.fire, self.call]
        threads = self._start(*works, *[self.publish_each] * PUBLISHERS)
        reviving = self._start(self.revive)
        for thread in threads:
            thread.join(DEADLINE_S)
        self._ended.set()
        for thread in reviving:
            thread.join(DEADLINE_S)
        assert not any(thread.is_alive() for thread in (*threads, *reviving))

    def _start(self, *works: Callable[[int], None]) -> list[threading.Thread]:
        threads = []
        for work in works:
            self._number += 1
            args = (work, self._number)
            threads.append(threading.Thread(target=self._quietly, args=args, daemon=True))
            threads[-1].start()
        return threads

    def _quietly(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except mt.MltriggerError as error:
            self.record.receipt("refused", str(error))

    def _samples(self, number: int, count: int) -> Sequence[tuple[str, mt.Event]]:
        chance = random.Random(f"{self._seed}-{number}")
        return [
            (
                "hard" if chance.random() < 0.2 else "pages",
                mt.Event(
                    {
                        "n": n,
                        "do": chance.choice(("ok", "fail", "reject")),
                        "text": "x" * chance.choice(SIZES),
                    },
                    id=f"e{os.getpid()}-{number}-{n}.",
                    source="/load",
                    type="page",
                ),
            )
            for n in range(count)
        ]

    def _more(self, n: int, least: int) -> bool:
        return n < least or 0 < self.record.begun_anew < LEAST_TIMES_ANEW

    def publish_each(self, number: int) -> None:
        """Publish one by one."""
        for topic, event in self._samples(number, 10_000):
            if not self._more(event.data["n"], SINGLE):
                return
            self.bus.publish(topic, event)
            self.record.receipt("published", topic, event.id)

    def publish_beside(self, number: int) -> None:
        """Publish through another store on the same file."""
        for topic, event in self._samples(number, SINGLE):
            self.other.publish(topic, event)
            self.record.receipt("published", topic, event.id)

    def publish_batches(self, number: int) -> None:
        """Publish many in one commit."""
        samples = [event for _, event in self._samples(number, BATCHES * 20)]
        for at in range(0, len(samples), 20):
            for receipt in self.bus.publish_batch("pages", samples[at : at + 20]):
                self.record.receipt("published", "pages", receipt.event_id)

    def emit(self, number: int) -> None:
        """Publish within a unit of work. What waits for its commit is told afterwards."""
        for topic, event in self._samples(number, SINGLE):
            told = ("published", topic, event.id)
            with self.bus.log.unit() as unit:
                self.bus.broker.publish(topic, [event], unit)
                unit.after_commit(lambda told=told: self.record.receipt(*told))

    def fire(self, number: int) -> None:
        """Publish and wait for the outcomes."""
        for n in range(6):
            run = self.bus.fire(
                "pages",
                [{"n": n, "text": "", "do": "ok"}] * 2,
                progress=False,
                timeout_s=DEADLINE_S,
            )
            for name, event_id, outcome in run.invocations()[
                ["subscription", "event_id", "outcome"]
            ].itertuples(index=False):
                if outcome == "succeeded":
                    self.record.receipt("outcome", name, event_id)

    def call(self, number: int) -> None:
        """Call a model directly, and wait for the answer."""
        for n in range(10):
            event = mt.Event(n, id=f"call-{os.getpid()}-{n}", source="/load", type="call")
            calls = self.bus.direct.submit(Selector.parse("echo:1.0.0"), [event])
            (answer,) = calls.result(DEADLINE_S)
            assert answer.outcome == "succeeded", answer
            self.record.receipt("answered", event.id)

    def revive(self, number: int) -> None:
        """Send dead letters again with other data, or put them away."""
        hard = self.bus.subscription("hard")
        while not self._ended.wait(0.02):
            for n, event_id in enumerate(hard.dead_letters()["event_id"]):
                if n % 2:
                    hard.discard(event_id, "of no use")
                    self.record.receipt("discarded", event_id)
                else:
                    hard.redrive(event_id, data={"n": n, "do": "ok"})
                    self.record.receipt("redriven", event_id)


def fail_beside_a_keeper(bus: mt.EventBus, other: mt.EventBus, disk: Any, record: Record) -> None:
    """A sync of *bus* fails. The keeper of *other* looks at the log before it hears of that."""
    chance = random.Random(0)

    def publish(count: int) -> None:
        # such ids change pages everywhere in the index
        ids = [f"{chance.random()}".ljust(60, "-") for _ in range(count)]
        events = [mt.Event({"n": 0, "text": "x" * 300}, id=id_, source="/load") for id_ in ids]
        for receipt in bus.publish_batch("pages", events):
            record.receipt("published", "pages", receipt.event_id)

    publish(900)
    other.publish("pages", {"n": 0})
    other._store._keeper.round()  # type: ignore[attr-defined]
    publish(4)
    disk.fail_next()
    with contextlib.suppress(mt.StoreError):
        publish(60)
    with contextlib.suppress(OSError):
        other._store._keeper.round()  # type: ignore[attr-defined]


# -- the process -----------------------------------------------------------------------------------


def small_log() -> None:
    """Let the log begin anew soon, and failures be tried again at once."""
    wal.PRESIZED = logkeeper.PRESIZED = 2 * LOG_BYTES
    logkeeper.GROWN_BYTES = LOG_BYTES // 4
    logkeeper.CHECKPOINT_BYTES = LOG_BYTES
    policy.BACKOFF_BASE_S = 0.02


def counted_too_late(self: SharedSync) -> None:
    """Sync, then take for durable what was written meanwhile. It is wrong."""
    self._sync()
    self._synced = self._written


def opener(order: dict[str, Any], record: Record) -> Callable[[], mt.EventBus]:
    """Return a function that opens a bus on the disk of the *order*."""
    file, durability = Path(order["file"]), order["durability"]
    if order["disk"] == "real":
        return lambda: mt.connect(f"sqlite:///{file}?durability={durability}")
    from power_disk import PowerDisk

    disk = PowerDisk(record, order["wrong"], order["fails_at"], order["sync_s"])

    def connect() -> mt.EventBus:
        store = SqliteStore(file, durability, disk=disk)
        return mt.EventBus(embedded(store, SocketWakeup(store.location or "")), SystemClock())

    return connect


def live(order: dict[str, Any]) -> None:
    """Live until the load has ended. Then the process ends at once, as if the power had gone."""
    os.environ.update(order["environment"])
    small_log()
    if order["wrong"] == "counted too late":
        SharedSync._bring = counted_too_late  # type: ignore[method-assign]
    record = Record(Path(order["record"]))
    connect = opener(order, record)
    bus = connect()
    if order["beside_a_keeper"]:
        # it is moved in each round, and never made long, which would need a sync
        logkeeper.CHECKPOINT_BYTES, logkeeper.GROWN_BYTES = 8 * 1024, 1 << 30
        fail_beside_a_keeper(bus, connect(), bus._store._connections._disk, record)  # type: ignore[attr-defined]
        return
    subscribe(bus)
    Load(bus, connect(), record, order["seed"]).run()


def forked(order: dict[str, Any]) -> int:
    """Do *order* in a fork. Return its process."""
    if child := os.fork():
        return child
    try:
        live(order)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    import pandas  # noqa: F401 - each fork needs it, and it takes long
    import power_load  # the models belong to the module of this name, also where others import it

    for line in sys.stdin:
        children = [power_load.forked(order) for order in json.loads(line)]
        print(
            [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True
        )
