"""A process that works on one cursor with several threads and settles its ranges in pieces.

``python range_child.py FILE SEED``: it works until it is killed, and says ``at work`` first.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mltrigger.broker import Delivery, Settlement
from mltrigger.clock import Clock, SystemClock
from mltrigger.store.broker import SqlBroker
from mltrigger.store.log import Log
from mltrigger.store.registry import Registry
from mltrigger.store.sqlite.living import Living
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.unit import Invocation
from mltrigger.store.wake import SocketWakeup, Wakeup
from mltrigger.versions.running.invoke import Result

THREADS = 3
SETTLED = {
    "succeeded": Settlement("d", "ack"),  # type: ignore[arg-type]
    "failed": Settlement("d", "retry", delay_s=0.01),  # type: ignore[arg-type]
    "interrupted": Settlement("d", "release"),  # type: ignore[arg-type]
    "dead": Settlement("d", "dead_letter", reason="rejected"),  # type: ignore[arg-type]
}
HOW_OFTEN = (12, 2, 2, 1)


class Process:
    """One worker of a store, and its parts."""

    def __init__(self, store: SqliteStore, clock: Clock, wakeup: Wakeup) -> None:
        self.store, self.clock, self.wakeup = store, clock, wakeup
        self.registry = Registry(self.store, self.clock)
        self.living = Living(self.store.location)
        self.id = self.registry.join(self.living.hold)
        self.log = Log(self.store, self.clock, lambda: self.id)
        self.broker = SqlBroker(self.store, self.clock, self.wakeup, lambda: self.id)

    def work(self, chance: random.Random) -> None:
        """Claim, and settle in pieces, in any order, one thing or another."""
        spec = self.registry.subscription("reader")
        assert spec is not None
        while True:
            held = self.broker.receive(spec, chance.randint(1, 30), wait_s=0.2)
            chance.shuffle(held)
            if chance.random() < 0.2:
                self.broker.extend(held[::2], 3_000.0)
            while held:
                n = chance.randint(1, len(held))
                self.end(held[:n], chance)
                held = held[n:]
                time.sleep(chance.choice([0, 0, 0.01]))

    def end(self, held: Sequence[Delivery], chance: random.Random) -> None:
        with self.log.unit() as unit:
            if chance.random() < 0.5:
                if not self.broker.ack(held, unit):
                    raise AssertionError("a lease was lost while its process was alive")
                outcomes = ["succeeded"] * len(held)
            else:
                outcomes = chance.choices(list(SETTLED), HOW_OFTEN, k=len(held))
                pairs = zip(held, outcomes, strict=True)
                settlements = [SETTLED[o]._replace(delivery=d) for d, o in pairs]
                if self.broker.settle(settlements, unit):
                    raise AssertionError("a lease was lost while its process was alive")
            unit.record(
                [
                    Invocation(d, o, None, Result(), None, None, len(held))  # type: ignore[arg-type]
                    for d, o in zip(held, outcomes, strict=True)
                ]
            )


def of_file(file: Path) -> Process:
    """Return a worker of the store in *file*."""
    store = SqliteStore(file)
    return Process(store, SystemClock(), SocketWakeup(store.location or ""))


if __name__ == "__main__":
    process = of_file(Path(sys.argv[1]))
    for number in range(THREADS):
        chance = random.Random(f"{sys.argv[2]} {number}")
        threading.Thread(target=process.work, args=[chance], daemon=True).start()
    print("at work", flush=True)
    while True:
        time.sleep(60)
