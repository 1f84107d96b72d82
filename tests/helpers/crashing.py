"""A life of a store in phases, and a process that is killed at any statement of it.

``test_crashes.py`` says what must hold then.

Run as a program it forks a child for every order: everything is imported by then, and nothing is
open. An order is a line of JSON on stdin, its answer a line on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mltrigger as mt
from mltrigger.broker import Delivery
from mltrigger.clock import SystemClock
from mltrigger.delivery.recorder import Recorder
from mltrigger.reports.audit import audit
from mltrigger.store.sqlite import logkeeper
from mltrigger.store.sqlite.logkeeper import LogKeeper
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.thread import Invoker
from mltrigger.versions.selector import Selector, resolve

LEASE_S = 10.0
PHASE_S = 1000.0
READING = (
    "SELECT",
    "PRAGMA main.",
    "PRAGMA temp.",
    "PRAGMA query",
    "PRAGMA read",
    "PRAGMA cache_size",
    "PRAGMA wal_autocheckpoint",
    "--",
)
"""How statements begin that change nothing: killed before one, a process leaves what it leaves
before the next.
"""
connect = sqlite3.connect
BIG = "x" * 20_000
"""Data that make the file grow, so that a checkpoint has something to write at its end."""


def read_page(event: mt.Event) -> int:
    """Fail once, reject always, or answer; what to do stands in the data."""
    if event.data["do"] == "reject":
        raise mt.Reject("unreadable")
    if event.data["do"] == "fail":
        raise ValueError("the first time")
    return int(event.data["n"])


def count_words(n: int) -> int:
    return n


class Life:
    """One process on the store: opens it, and drives the parts of a bus in this thread."""

    def __init__(self, file: str | None, clock: SimulatedClock) -> None:
        self.clock = clock
        self.bus = mt.connect("memory://" if file is None else f"sqlite:///{file}", clock=clock)

    # -- the phases, in the order of a life; each may be repeated ----------------------------------

    def create(self) -> None:
        """A new file."""

    def subscribe(self) -> None:
        self.bus.subscribe(
            "texts",
            mt.model(count_words, name="count", version="1.0.0"),
            name="counter",
            listen=False,
            lease_s=LEASE_S,
        )
        self.read("earliest")
        odd = {"n": [1, 2, 3]}
        model = mt.model(read_page, name="read", version="1.0.0")
        self.bus.subscribe(
            "pages",
            model,
            name="some",
            filter=odd,
            filter_scope="body",
            listen=False,
            lease_s=LEASE_S,
        )

    def publish(self) -> None:
        does = ["ok", "fail", "reject", "reject", "ok", "ok"]
        self.bus.publish_batch("pages", [page(n, do) for n, do in enumerate(does)])

    def work(self) -> None:
        """Claim, run, record, hand on and settle, one batch of each subscription."""
        for name in ("reader", "some", "counter"):
            self.step(name, 4)

    def retry(self) -> None:
        self.drain()

    def let_go(self) -> None:
        """Claim, extend, release one, interrupt one, and leave one behind."""
        self.bus.publish_batch("pages", [page(n) for n in (10, 11, 12)])
        spec = self.bus.spec("reader")
        held = self.bus.broker.receive(spec, 3)
        self.bus.broker.extend(held, LEASE_S)
        self.recorder("reader").release(held[:1])
        with self.bus.log.unit() as unit:
            self.settle_as_interrupted(held[1:2], unit)

    def sweep(self) -> None:
        """What was left behind comes back."""
        self.clock.advance(2 * LEASE_S)
        self.drain()

    def redrive(self) -> None:
        """A dead letter is sent again with corrected data."""
        for name in ("reader", "some"):
            sub = self.bus.subscription(name)
            if "p2" in [
                letter.event_id for letter in self.bus.log.dead_letters(self.bus.spec(name).id)
            ]:
                sub.redrive("p2", data={"n": 2, "do": "ok"})
        self.drain()

    def discard(self) -> None:
        for name in ("reader", "some"):
            if "p3" in [
                letter.event_id for letter in self.bus.log.dead_letters(self.bus.spec(name).id)
            ]:
                self.bus.subscription(name).discard("p3", "of no use")

    def checkpoint(self) -> None:
        """A long log, and a checkpoint after every commit."""
        for n in (20, 21):
            self.bus.publish_batch("pages", [page(n, text=BIG)])
            self.keep_log()
            self.step("reader", 4)
            self.keep_log()

    def keep_log(self) -> None:
        logkeeper.CHECKPOINT_BYTES = logkeeper.GROWN_BYTES = 1
        self.bus._store._keeper.round()  # type: ignore[attr-defined]

    def prune(self) -> None:
        self.bus.retain(max_events=4)
        self.bus.prune()

    def unsubscribe(self) -> None:
        self.bus.publish_batch("pages", [page(n) for n in (30, 31)])
        self.bus.unsubscribe("reader")

    def subscribe_again(self) -> None:
        """From the start: what it skipped when it was unsubscribed is open again, and what it never
        saw.
        """
        self.bus.publish_batch("pages", [page(32)])
        self.read("earliest")
        self.drain()

    # -- its parts ---------------------------------------------------------------------------------

    def read(self, start: str) -> None:
        model = mt.model(read_page, name="read", version="1.0.0")
        self.bus.subscribe(
            "pages", model, name="reader", emit="texts", start=start, listen=False, lease_s=LEASE_S
        )

    def recorder(self, name: str) -> Recorder:
        return Recorder(
            self.bus.spec(name),
            self.bus.broker,
            self.bus.log,
            self.clock,
            uniform=lambda _, high: high,
        )

    def settle_as_interrupted(self, deliveries: list[Delivery], unit: Any) -> None:
        from mltrigger.broker import Settlement
        from mltrigger.store.unit import Invocation
        from mltrigger.versions.running.invoke import Result

        self.bus.broker.settle([Settlement(d, "release") for d in deliveries], unit)
        unit.record(
            [
                Invocation(d, "interrupted", None, Result(), None, None, 1, "stopped")
                for d in deliveries
            ]
        )

    def step(self, name: str, most: int) -> bool:
        """Let *name* work on one batch; whether there was one."""
        spec = self.bus.registry.subscription(name)
        deliveries = self.bus.broker.receive(spec, most) if spec is not None else []
        if spec is None or not deliveries:
            return False
        from mltrigger.store.lots import By

        version = resolve(self.bus.registry, Selector.parse(spec.selector))
        recorder, now_us = self.recorder(name), self.clock.now_us()
        recorder.record(
            [
                recorder.ended(d, called(name, d), By(version.id), now_us, now_us, 1)
                for d in deliveries
            ]
        )
        return True

    def drain(self) -> None:
        """Let all subscriptions work until nothing is left; time passes as it must."""
        for _ in range(100):
            worked = [self.step(name, 3) for name in ("reader", "some", "counter", "again")]
            if not any(worked):
                if self.bus.log.progress()[1] == 0:
                    return
                self.clock.advance(LEASE_S)
        raise AssertionError("still not idle")


PHASES: tuple[str, ...] = (
    "create",
    "subscribe",
    "publish",
    "work",
    "retry",
    "let_go",
    "sweep",
    "redrive",
    "discard",
    "checkpoint",
    "prune",
    "unsubscribe",
    "subscribe_again",
)
OPENING = ("create", "checkpoint")
"""Phases in which it may be killed while it opens the file, too."""


def page(n: int, do: str = "ok", text: str = "") -> mt.Event:
    return mt.Event({"n": n, "do": do, "text": text}, id=f"p{n}", source="/scanner", type="page")


def called(name: str, delivery: Delivery) -> Any:
    """Call the model as a listener would; what fails, fails the first time only."""
    event = delivery.event
    if name != "counter" and event.data["do"] == "fail" and delivery.failures:
        event = mt.Event(
            {**event.data, "do": "ok"}, id=event.id, source=event.source, type=event.type
        )
    target = (
        mt.model(count_words, name="count")
        if name == "counter"
        else mt.model(read_page, name="read")
    )
    return Invoker(target).one(event)


# -- what a child does -----------------------------------------------------------------------------


def live(order: dict[str, Any]) -> list[str]:
    """Live through one phase; die before statement ``kill``, or within it when ``tear`` says after
    how many bytes written.
    """
    phase = order["phase"]
    LogKeeper._ring = lambda self: None  # type: ignore[method-assign]  # its thread has no turn
    watch = Watch(order["file"], order.get("kill"), order.get("tear"))
    watch.armed = phase in OPENING
    clock = SimulatedClock()
    clock.advance(PHASE_S * (PHASES.index(phase) if phase in PHASES else 0))
    life = Life(order["file"], clock)
    watch.armed = True
    getattr(life, phase if phase in PHASES else "create")()
    watch.armed = False
    life.bus.close()
    return watch.seen


def recover(order: dict[str, Any]) -> dict[str, Any]:
    """Open what was left behind, repeat what got no answer, work until nothing is left; return the
    ledger.
    """
    phase = order["phase"]
    clock = SimulatedClock()
    clock.advance(PHASE_S * (PHASES.index(phase) if phase in PHASES else 0) + PHASE_S / 2)
    life = Life(order["file"], clock)
    getattr(life, phase if phase in PHASES else "create")()
    life.drain()
    found = ledger(order["file"], life.bus)
    life.bus.close()
    return found


def storm(order: dict[str, Any]) -> list[str]:
    """Publish to a listener with its threads, and die at one of the statements of all of them."""
    watch = Watch(order["file"], order["kill"], None)
    watch.armed = True
    listening(order["file"], None).wait(60, progress=False)
    return watch.seen


def finish(order: dict[str, Any]) -> dict[str, Any]:
    """Do the same again when every lease has run out, until nothing is left."""
    bus = listening(order["file"], Later())
    assert bus.wait(60, progress=False)
    found = ledger(order["file"], bus)
    bus.close()
    return found


class Later(SystemClock):
    """The time in an hour."""

    def now_us(self) -> int:
        return super().now_us() + 3_600_000_000


def listening(file: str, clock: Any) -> mt.EventBus:
    bus = mt.connect(f"sqlite:///{file}", clock=clock)
    bus.subscribe("texts", mt.model(count_words, name="count", version="1.0.0"), name="counter")
    model = mt.model(lambda data: data["n"], name="read", version="1.0.0")
    bus.subscribe("pages", model, name="reader", emit="texts", batch_size=1, max_concurrency=2)
    for first in range(0, 60, 20):
        bus.publish_batch("pages", [page(n) for n in range(first, first + 20)])
    return bus


class Watch:
    """Sees the statements of every connection that is opened from now on, and kills this process at
    one of them.
    """

    current: Watch | None = None

    def __init__(self, file: str, kill: int | None, tear: int | None) -> None:
        Watch.current = self
        self.file, self.kill, self.tear = file, kill, tear
        self.armed = False
        self.seen: list[str] = []

    def begins(self, sql: str) -> None:
        if not self.armed or sql.lstrip().startswith(READING):
            return
        self.seen.append(" ".join(sql.split())[:80])
        number = len(self.seen) - 1
        if number == self.kill and self.tear is not None:
            written = Path(self.file + ("-wal" if sql == "COMMIT" else ""))
            size = written.stat().st_size if written.exists() else 0
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + self.tear, size + self.tear))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills whoever writes beyond
        elif self.kill is not None and number >= self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


def ledger(file: str, bus: mt.EventBus) -> dict[str, Any]:
    """What happened, without what may differ: attempts that were cut off, and times."""
    connection = sqlite3.connect(file)
    read: Callable[[str], list[Any]] = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
    final = "i.outcome IN ('succeeded', 'dead', 'skipped')"
    named = (
        "FROM invocation i JOIN subscription s ON s.id = i.subscription_id JOIN event e ON e.seq ="
        " i.seq"
    )
    found = {
        "final": sorted(
            read(f"SELECT s.name, e.id, i.outcome, i.reason, i.output {named} WHERE {final}")
        ),
        "failed": sorted(
            read(f"SELECT s.name, e.id, count(*) {named} WHERE i.outcome = 'failed' GROUP BY 1, 2")
        ),
        "events": sorted(
            read("SELECT t.name, e.id, e.data FROM event e JOIN topic t ON t.id = e.topic_id")
        ),
        "dead": sorted(
            read("SELECT subscription_id, seq, reason, discarded_us IS NULL FROM dead_letter")
        ),
        "subscriptions": sorted(read("SELECT name, bound, filter FROM subscription")),
        "version": read("SELECT version FROM schema_version"),
    }
    wrong = {
        "integrity": [row for row in read("PRAGMA integrity_check") if row != ("ok",)],
        "foreign keys": read("PRAGMA foreign_key_check"),
        "outcomes": read(
            "SELECT DISTINCT outcome FROM invocation WHERE outcome NOT IN "
            "('succeeded', 'failed', 'dead', 'skipped', 'abandoned', 'interrupted')"
        ),
        "twice": read(
            f"SELECT seq, subscription_id FROM invocation i WHERE {final} GROUP BY 1, 2 HAVING"
            " count(*) > 1"
        ),
        # p10 is given back before it was begun: of that attempt there is no row.
        "gaps": read(
            f"SELECT s.name, e.id, count(*), max(attempt) {named} WHERE e.id <> 'p10' GROUP BY 1, 2"
            " HAVING count(*) < max(attempt)"
        ),
        "orphans": read("SELECT seq FROM invocation WHERE seq NOT IN (SELECT seq FROM event)"),
        "tallies": read(
            "SELECT subscription_id, outcome, n, c FROM (SELECT subscription_id, outcome, sum(n) AS"
            " n FROM tally GROUP BY 1, 2) LEFT JOIN (SELECT subscription_id, outcome, count(*) AS c"
            " FROM invocation GROUP BY 1, 2) USING (subscription_id, outcome) WHERE n <"
            " coalesce(c, 0)"
        ),
        "unbalanced": [
            b for b in audit(bus._store) if not b.balanced or b.missing or b.double or b.open
        ],
    }
    connection.close()
    return {
        "found": json.loads(json.dumps(found, default=bytes.decode)),
        "wrong": {name: rows for name, rows in wrong.items() if rows},
    }


ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "live": live,
    "recover": recover,
    "storm": storm,
    "finish": finish,
}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for *order*; return how it ended and what it said."""
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        with os.fdopen(sending, "w") as pipe:
            try:
                random.seed(0)
                answer = {"answer": ORDERS[order["order"]](order)}
            except BaseException as error:
                import traceback

                answer = {"error": "".join(traceback.format_exception(error))}
            json.dump(answer, pipe, default=str)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return {
        **(json.loads(text) if text else {}),
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
    }


def watched(*args: Any, **options: Any) -> sqlite3.Connection:
    connection = connect(*args, **options)
    if Watch.current is not None:
        connection.set_trace_callback(Watch.current.begins)
    return connection


def warm_up() -> None:
    """Import what is imported late, and compile what is compiled once, so that no child has to."""
    life = Life(None, SimulatedClock())
    for phase in PHASES:
        getattr(life, phase)()
    life.drain()
    audit(life.bus._store)
    life.bus.close()
    # here, because it takes longer than all that a child does
    sqlite3.connect = watched
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)
