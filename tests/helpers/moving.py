"""A file with everything in it that a move takes along, and a process that moves it until it dies.

Run as a program it moves a file, and kills itself at one of the steps of a move. Without a number
it prints how many steps there are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from shared import wait_until

import mltrigger as mt
from mltrigger.clock import Clock
from mltrigger.reports.audit import balances
from mltrigger.store import move as moving
from mltrigger.store.move import Move, Part
from mltrigger.store.opening import store_at
from mltrigger.store.postgresql.destination import Destination
from mltrigger.store.sqlite import fence
from mltrigger.testing import SimulatedClock

HOUR_S = 3600.0
IDS = ("page-1", "exactly-15-char", "Seite ü 日本", "0" * 16)
"""Ids that are no UUIDs."""


def stamp(n: int) -> str:
    return f"press {n}"


@mt.model("read", version="1.0.0")
def read(event: mt.Event) -> dict[str, Any]:
    """Do what the data say."""
    do = event.data["do"]
    print("reading", event.data["n"])
    if do == "reject":
        raise mt.Reject("unreadable")
    if do == "later":
        raise mt.Retry(HOUR_S, "not yet")
    return {"n": event.data["n"], "by": mt.once("stamp", stamp, event.data["n"])}


@mt.model("read", version="1.1.0")
def reread(event: mt.Event) -> dict[str, Any]:
    """Answer everything."""
    return {"n": event.data["n"], "by": "reread"}


@mt.model("count", version="1.0.0")
def count(read: dict[str, Any]) -> int:
    return int(read["n"])


def models(bus: mt.EventBus) -> None:
    """Let *bus* know the models, as a worker does that has imported them."""
    for model in (read, reread, count):
        bus.register(model)


def fill(url: str, clock: SimulatedClock) -> None:
    """Leave answered, failed, delayed, dead, filtered, paused and waiting events, and versions."""
    with mt.connect(url, clock=clock) as bus:
        reader = bus.subscribe("pages", read, name="reader", emit="texts", listen=False)
        bus.subscribe(
            "pages", read, name="odd", filter={"odd": [True]}, filter_scope="body", listen=False
        )
        bus.subscribe("pages", count, name="fair", key="n", max_concurrency_per_key=1, listen=False)
        bus.subscribe("pages", count, name="held", listen=False).pause()
        bus.subscribe("texts", count, name="counter", listen=False)
        for n, event_id in enumerate(IDS):
            bus.publish("pages", page(n), id=event_id)
        bus.publish_batch("pages", [page(n) for n in range(4, 12)])
        bus.publish("pages", page(12, "reject"), id="dead")
        bus.publish("pages", page(13, "later"), id="again")
        bus.publish("pages", page(14), id="delayed", delay_s=HOUR_S)
        bus.label("page-1", {"n": 0})
        bus.label("unknown so far", {"n": 1}, source="elsewhere")
        for name in ("reader", "odd", "counter", "fair"):
            sub = bus.subscription(name)
            sub.start()
            wait_until(lambda sub=sub: not (sub.depth().visible or sub.depth().in_flight))
            sub.stop()
        reader.shadow(reread)
        reader.promote(reread, why="it reads all")
        bus.publish("pages", page(15), id="waiting")


def page(n: int, do: str = "ok") -> dict[str, Any]:
    return {"n": n, "do": do, "odd": n % 2 == 1}


def frames(bus: mt.EventBus) -> dict[str, pd.DataFrame]:
    """Return every frame about the log of *bus*."""
    found = {"audit": bus.audit(), "events": bus.events(), "labels": bus.labels()}
    for name in ("reader", "odd", "held", "counter", "fair"):
        sub = bus.subscription(name)
        found |= {
            f"{name} results": sub.results(),
            f"{name} invocations": sub.invocations(),
            f"{name} dead letters": pd.DataFrame(sub.dead_letters()),
            f"{name} history": pd.DataFrame([vars_of(b) for b in sub.history()]),
            f"{name} effects": sub.effects(),
            f"{name} lanes": pd.DataFrame([lane.facts() for lane in sub.lanes()]),
            f"{name} latency": sub.latency(),
            f"{name} skipped": sub.skipped(),
        }
    return found


def frames_at(url: str, clock: SimulatedClock) -> dict[str, pd.DataFrame]:
    """Return every frame about the log at *url*."""
    with mt.connect(url, clock=clock) as bus:
        return frames(bus)


def assert_equal(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    """Compare the frames of two logs."""
    assert found.keys() == expected.keys()
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, obj=name)


def takes_work(url: str) -> bool:
    """Whether the bus at *url* takes an event. One that has no events yet does not count."""
    try:
        with mt.connect(url) as bus:
            if not len(bus.events(limit=1)):
                return False
            bus.publish("texts", {"n": 1})
    except mt.StoreError:
        return False
    return True


def move(
    file: Path, url: str, clock: Clock | None = None, wait_s: float = 0.0, undo: bool = False
) -> list[Part]:
    """Move *file* to *url*, or take that back."""
    store, wakeup = store_at(f"sqlite:///{file}")
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        stack.callback(wakeup.close)
        there = stack.enter_context(contextlib.closing(Destination(url)))
        moved = Move(store, there, clock, sleep=lambda _: None)
        if undo:
            moved.undo()
            return []
        return moved.run(wait_s, lambda _: None, lambda: compare(store, there))


def vars_of(binding: Any) -> dict[str, str]:
    return {"binding": repr(binding)}


def steps() -> list[tuple[Any, str]]:
    """Return the functions of a move before and behind which it may be killed."""
    return [
        (fence, "put_up"),
        (Move, "_fence"),
        (Destination, "begin"),
        (Destination, "_go_on"),
        (Destination, "_copy"),
        (Destination, "add"),
        (Destination, "finish"),
    ]


def each_step(step: Callable[[], None], change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let moves go in very small commits, and call *step* before and behind each step."""

    def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            step()
            made = function(*args, **kwargs)
            step()
            return made

        return stepped

    change(moving, "_FIRST_ROWS", 3)
    change(moving, "MOST_ROWS", 7)
    for place, name in steps():
        change(place, name, stepping(getattr(place, name)))


def main(source: str, destination: str, kill: int = -1) -> None:
    """Move in very small commits. Die at step *kill*."""
    passed = 0

    def step() -> None:
        nonlocal passed
        if passed == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    each_step(step)
    store, wakeup = store_at(source)
    there = Destination(destination)
    Move(store, there).run(10.0, lambda _: None, lambda: compare(store, there))
    for each in (there, wakeup, store):
        each.close()
    print(passed)


def compare(store: Any, there: Destination) -> None:
    with store.snapshot() as before, there.snapshot() as after:
        assert balances(before) == balances(after)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
