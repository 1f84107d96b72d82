"""Where the time of an event goes, by cProfile: the rooms of mltrigger, SQLite, the disk."""

from __future__ import annotations

import cProfile
import pstats
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mltrigger as mt
from benchmarks.harness import Counted, Options, children, consume, payloads, scratch, url
from benchmarks.report import Report, Table, number
from mltrigger.delivery import threads

PACKAGE = Path(mt.__file__).parent
DISK, WAITS, SQLITE, JSON = "the disk: fdatasync", "locks", "SQLite", "JSON"
_BUILT_IN = {
    "sync": DISK,
    "acquire": WAITS,
    "sqlite3": SQLITE,
    "decode": JSON,
    "encode": JSON,
    "dumps": JSON,
    "loads": JSON,
}
"""Parts of the names of C functions. The first that fits counts."""
OTHERS, LIBRARIES = "other C functions", "other libraries"

Spent = dict[str, float]
"""Seconds by place."""


def run(options: Options) -> Report:
    """Profile each way of an event once, in a process of its own."""
    with children() as here:
        found = {
            "publish": here.submit(_publish, 1, options.size(2_000, 200)).result(),
            "publish_batch of 1,000": here.submit(
                _publish, 1_000, options.size(40_000, 4_000)
            ).result(),
            "one a call": here.submit(_consume, False, options.size(20_000, 2_000)).result(),
            "batches of 500": here.submit(_consume, True, options.size(40_000, 4_000)).result(),
        }
    report = Report("where", "where the time of an event goes, by cProfile")
    places = sorted(
        {place for spent in found.values() for place in spent},
        key=lambda place: -max(spent.get(place, 0.0) for spent in found.values()),
    )
    rows = [
        (place, *(number(spent[place]) if place in spent else "–" for spent in found.values()))
        for place in places
    ]
    all_of_it = ("all", *(number(sum(spent.values())) for spent in found.values()))
    report.tables.append(
        Table("Microseconds an event, profiled", ("where", *found), [*rows, all_of_it])
    )
    report.notes += [
        "The time inside the functions of each room, without those that they call. A profile makes"
        " Python two to three times as slow, and SQLite and the disk no slower: compare the rooms.",
        "Consuming: the threads of the listener. Waits for work and for other threads are left out."
        " Publishing: the thread that publishes; nobody listens.",
    ]
    return report


def _publish(size: int, count: int) -> Spent:
    samples = payloads(count)
    with scratch() as folder, mt.connect(url(folder / "bus.db")) as bus:
        bus.subscribe("documents", Counted().one, name="reader", listen=False)
        bus.publish("documents", "warm")
        profile = cProfile.Profile()
        with profile:
            for i in range(0, count, size):
                if size == 1:
                    bus.publish("documents", samples[i])
                else:
                    bus.publish_batch("documents", samples[i : i + size])
    return _shared_out([profile], count)


def _consume(batch: bool, count: int) -> Spent:
    model = Counted()
    with scratch() as folder, mt.connect(url(folder / "bus.db")) as bus:
        called = mt.model("noop", batch=batch)(model.many if batch else model.one)
        settings = {"batch_size": 500} if batch else {}
        sub = bus.subscribe("documents", called, name="noop", listen=False, **settings)
        bus.publish_batch("documents", payloads(count))
        with _profiled_threads() as profiles:
            consume(bus, sub, count)
        bus.close()
    spent = _shared_out(profiles, count)
    spent.pop(WAITS, None)
    return spent


@contextmanager
def _profiled_threads() -> Iterator[list[cProfile.Profile]]:
    """Profile the threads of listeners, one profile for each call of a thread."""
    profiles: list[cProfile.Profile] = []
    guard, submit = threading.Lock(), threads.ThreadWorkers.submit

    def profiling(workers: threads.ThreadWorkers, call: Callable[[], None]) -> None:
        def profiled() -> None:
            profile = cProfile.Profile()
            try:
                profile.enable()
            except ValueError:  # from Python 3.12 on one thread at a time
                call()
                return
            try:
                call()
            finally:
                profile.disable()
                with guard:
                    profiles.append(profile)

        submit(workers, profiled)

    threads.ThreadWorkers.submit = profiling  # type: ignore[method-assign]
    try:
        yield profiles
    finally:
        threads.ThreadWorkers.submit = submit  # type: ignore[method-assign]


def _shared_out(profiles: list[cProfile.Profile], count: int) -> Spent:
    """Return microseconds an event by place."""
    spent: Spent = {}
    for profile in profiles:
        for (file, _, name), (_, _, own_s, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
            place = _place(file, name)
            spent[place] = spent.get(place, 0.0) + own_s * 1e6 / count
    least = sum(spent.values()) / 200
    few = [place for place in spent if spent[place] < least and place != WAITS]
    rest = sum(spent.pop(place) for place in few)
    spent[LIBRARIES] = spent.get(LIBRARIES, 0.0) + rest
    return spent


def _place(file: str, name: str) -> str:
    if file == "~":
        return next((place for part, place in _BUILT_IN.items() if part in name), OTHERS)
    path = Path(file)
    if not path.is_relative_to(PACKAGE):
        return LIBRARIES
    room, *inner = path.relative_to(PACKAGE).with_suffix("").parts
    return f"mltrigger/{room}" + ("/sqlite" if inner[:1] == ["sqlite"] else "")
