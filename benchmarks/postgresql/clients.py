"""One client, in a process of its own: mltrigger or bare psycopg, publishing or consuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import mltrigger as mt
from benchmarks.harness import Counted, payloads, quiet, succeeded, until
from benchmarks.latency import pace
from benchmarks.postgresql.bare import Bare, How
from mltrigger.bus import EventBus
from mltrigger.clock import SystemClock
from mltrigger.store.opening import embedded, store_at
from mltrigger.store.wake import Wakeup

BATCH = 1_000
LOOK_S = 0.02
Who = Literal["mltrigger", "silent", "locked", "free"]
"""``silent``: mltrigger without wake-ups. ``locked``, ``free``: bare, with and without the lock."""
Done = tuple[int, float, float]
"""The number of events, and the monotonic time of the begin and the end."""


class Silent(Wakeup):
    """Says nothing to anybody."""

    def notify(self, keys: Iterable[str]) -> None:
        """Do nothing."""


def connected(url: str, who: Who = "mltrigger") -> mt.EventBus:
    """Return a bus, without wake-ups if it is silent."""
    if who == "silent":
        store, _ = store_at(url)
        return EventBus(embedded(store, Silent()), SystemClock())
    return mt.connect(url)


def subscribed(bus: mt.EventBus, model: Any, name: str = "noop", **policy: Any) -> mt.Subscription:
    """Subscribe *model*, without a listener."""
    return bus.subscribe(
        "documents", mt.model(name, **_kind(policy))(model), listen=False, **policy
    )


def _kind(policy: dict[str, Any]) -> dict[str, bool]:
    return {"batch": "batch_size" in policy}


def address(dsn: str, schema: str) -> str:
    """Return the URL of a bus in *schema*."""
    return f"{dsn}?schema={schema}"


def publish(who: Who, dsn: str, schema: str, size: int, seconds: float, begin_s: float) -> Done:
    """Publish *size* events a commit from the monotonic time *begin_s* on, for some seconds."""
    quiet()
    samples = payloads(size)
    if who in ("locked", "free"):
        client = Bare(dsn, schema, locked=who == "locked")
        return _repeated(lambda: client.publish(samples), size, seconds, begin_s)
    with connected(address(dsn, schema), who) as bus:
        bus.publish("documents", "warm")
        if size == 1:
            (sample,) = samples
            return _repeated(lambda: bus.publish("documents", sample), 1, seconds, begin_s)
        return _repeated(lambda: bus.publish_batch("documents", samples), size, seconds, begin_s)


def _repeated(send: Callable[[], object], size: int, seconds: float, begin_s: float) -> Done:
    time.sleep(max(0.0, begin_s - time.monotonic()))
    count, begun_s = 0, time.monotonic()
    while time.monotonic() - begun_s < seconds:
        send()
        count += size
    return count, begun_s, time.monotonic()


def consume(dsn: str, schema: str, expected: int, begin_s: float) -> Done:
    """Consume the backlog of mltrigger with others. Return when all of it is recorded."""
    quiet()
    model = Counted()
    with connected(address(dsn, schema)) as bus:
        sub = subscribed(bus, model.many, batch_size=BATCH)
        time.sleep(max(0.0, begin_s - time.monotonic()))
        begun_s = time.monotonic()
        sub.start()
        until(lambda: succeeded(bus, sub) >= expected, "consuming", LOOK_S)
        ended_s = time.monotonic()
        sub.stop()
    return model.seen, begun_s, ended_s


def consume_bare(how: How, dsn: str, schema: str, number: int, begin_s: float) -> Done:
    """Consume the backlog of bare psycopg with others."""
    client = Bare(dsn, schema, locked=how == "cursor", number=number)
    time.sleep(max(0.0, begin_s - time.monotonic()))
    begun_s = time.monotonic()
    done = client.consume(how, BATCH)
    return done, begun_s, time.monotonic()


def paced(url: str, count: int) -> None:
    """Publish *count* events, one every 20 ms, each with the instant at which it was sent."""
    with mt.connect(url) as bus:
        pace(lambda data: bus.publish("documents", data), count)
