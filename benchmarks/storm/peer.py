"""huey on SQLite, as its consumer imports it: the same call, the same ledger."""

from __future__ import annotations

import os
import time

from huey import SqliteHuey

from benchmarks.storm.ledger import MODEL_S, append

FILE = "MLTRIGGER_STORM_HUEY"

huey = SqliteHuey(filename=os.environ[FILE], fsync=True)
print("up", flush=True)


@huey.task()
def read(n: int) -> int:
    """Do what the model of the storm does."""
    append("b", 1, n)
    time.sleep(MODEL_S)
    append("e", 1, n)
    return n


def publish(events: int) -> None:
    """Put the tasks into the queue."""
    for n in range(events):
        read(n)
