"""A process that publishes the events of a storm in batches, from a given one on; it says when a
batch begins and when it is durable.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import mltrigger as mt
from benchmarks.storm.ledger import LEDGER, length

TOPIC = "storm-pages"
AHEAD = 1_000
"""Events that wait at most: there is work all the time, and nothing waits long behind other work."""

REPEAT_S = 60.0
REPEATED = "repeated"
"""The first word of a line about a batch without receipts."""


def main(url: str, first: int, events: int, batch: int) -> None:
    """Publish; the ids are the same however often a batch is repeated."""
    ledger = Path(os.environ[LEDGER])
    with mt.connect(url) as bus:
        for start in range(first, events, batch):
            while length(ledger) / 4 < start - AHEAD:  # two calls an event, two lines a call
                time.sleep(0.02)
            samples = [
                mt.Event({"n": n}, id=f"page-{n:07d}")
                for n in range(start, min(start + batch, events))
            ]
            print(f"begin {start}", flush=True)
            _publish(bus, samples, REPEAT_S if url.startswith("postgresql:") else 0.0)
            print(f"end {start}", flush=True)


def _publish(bus: mt.EventBus, samples: list[mt.Event], most_s: float) -> None:
    """Publish, and repeat for some time what the store refused: its server may be away."""
    until_s = time.monotonic() + most_s
    while True:
        try:
            bus.publish_batch(TOPIC, samples)
        except mt.StoreError as error:
            if time.monotonic() > until_s:
                raise
            print(f"{REPEATED}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
