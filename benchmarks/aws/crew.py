"""The processes of a storm on SQS: a worker, and a publisher that says when a batch begins and when
it is durable.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import mltrigger as mt
from benchmarks.aws.ours import connect
from benchmarks.storm.ledger import LEDGER, length
from benchmarks.storm.publisher import TOPIC
from mltrigger.worker import Worker, stop_on_signals

AHEAD = 100
"""Events that wait at most: there is work all the time, and a server whose calls take longer the
more wait is not slowed down.
"""
_TRIES = 20


def work(prefix: str, log: str) -> None:
    """Deliver what can be imported until SIGTERM, as ``mltrigger worker`` does."""
    stopping = stop_on_signals()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with connect(prefix, log) as bus:
        worker = Worker(bus, (), lambda line: print(line, flush=True), stopping)
        print("up", flush=True)
        worker.run()


def publish(prefix: str, log: str, first: int, events: int, batch: int) -> None:
    """Publish from *first* on; the ids are the same however often a batch is repeated, by another
    process or after a refusal.
    """
    ledger = Path(os.environ[LEDGER])
    with connect(prefix, log) as bus:
        for start in range(first, events, batch):
            while length(ledger) / 4 < start - AHEAD:  # two calls an event, two lines a call
                time.sleep(0.02)
            samples = [
                mt.Event({"n": n}, id=f"page-{n:07d}")
                for n in range(start, min(start + batch, events))
            ]
            print(f"begin {start}", flush=True)
            _insist(bus, samples)
            print(f"end {start}", flush=True)


def _insist(bus: mt.EventBus, samples: list[mt.Event]) -> None:
    for left in reversed(range(_TRIES)):
        try:
            bus.publish_batch(TOPIC, samples)
        except mt.StoreError:
            if not left:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    what, prefix_, log_, *numbers = sys.argv[1:]
    if what == "work":
        work(prefix_, log_)
    else:
        publish(prefix_, log_, *map(int, numbers))
