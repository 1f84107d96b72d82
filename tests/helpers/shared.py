"""Shared steps of tests: wait for a condition, hold a model, let a subscription finish."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

import mltrigger as mt
from mltrigger.store.transaction import Store, Transaction
from mltrigger.testing import SimulatedClock

T = TypeVar("T")


def wait_until(look: Callable[[], T], timeout_s: float = 60.0) -> T:
    """Return what *look* returns as soon as it is true; fail when *timeout_s* have passed before.

    It looks for a quarter of the time at most: the processor is for those it waits for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began_s = time.monotonic()
        if found := look():
            return found
        now_s = time.monotonic()
        assert now_s < deadline, f"still not so after {timeout_s:g} s: {found!r}"
        time.sleep(min(max(0.002, 3 * (now_s - began_s)), 0.1))


def in_threads(run: Callable[[int], None], count: int = 8) -> None:
    """Call *run* with each number below *count* at the same time, each in a thread of its own."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def guarded(number: int) -> None:
        try:
            start.wait()
            run(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def commit(store: Store, action: Callable[[Transaction], T]) -> T:
    """Call *action* with a transaction, in one commit with others who write at the same time."""
    return store.write(_each, action)


def _each(transaction: Transaction, actions: Sequence[Callable[[Transaction], T]]) -> list[T]:
    return [action(transaction) for action in actions]


def ended(pid: int) -> bool:
    """Whether process *pid* runs no more; an orphan that nobody has waited for yet has ended, too."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # gone in between; or a system without /proc
        return Path("/proc/self").exists()


def is_settled(sub: mt.Subscription) -> bool:
    """Whether *sub* has nothing left to do."""
    depth = sub.depth()
    return not (depth.visible or depth.delayed or depth.in_flight)


def settle(bus: mt.EventBus, clock: SimulatedClock, sub: mt.Subscription) -> None:
    """Let *sub* work until nothing is left.

    Time passes only while nothing runs, so that nothing ever times out.
    """
    spec = bus.registry.subscription(sub.name)

    def look() -> bool:
        depth = sub.depth()
        # for as long as the clock stands still
        held = sub.state.startswith("waiting for the model")
        if not depth.in_flight and (held or (depth.delayed and not depth.visible)):
            clock.advance(s=1)
            bus.broker.wake(spec)
        return not (depth.visible or depth.delayed or depth.in_flight)

    wait_until(look)


def outcomes(sub: mt.Subscription) -> list[str]:
    """Return the outcomes of all attempts, oldest first."""
    return list(sub.invocations(columns=["outcome"])["outcome"])


class Gate:
    """A model waits here until the test opens it; it opens by itself at the end, so that no thread
    is left behind.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        self.reached.set()
        assert self._opened.wait(60), "nobody opened the gate"


in_memory = pytest.mark.parametrize("url", ["memory"], indirect=True)
"""For a test with many parameters whose claim has nothing to do with the broker."""
