"""What every part shares: sizes, payloads, scratch folders, child processes, and the facts of the
machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import multiprocessing
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks.report import Table, quantile

PAYLOAD_BYTES = 300
WAIT_S = 120.0
"""A measurement that takes longer than this has hung."""


class Rate(NamedTuple):
    """Events a second, and microseconds of CPU of all threads of this process an event."""

    per_s: float
    cpu_us: float

    @classmethod
    def since(cls, count: int, started: float, cpu_s: float) -> Rate:
        """Return the rate of *count* events since these readings of the two clocks."""
        used_s = time.process_time() - cpu_s
        return cls(count / (time.perf_counter() - started), used_s / count * 1e6)


class Options:
    """How much to do."""

    def __init__(self, quick: bool = False, long: bool = False) -> None:
        self.quick, self.long = quick, long
        self.repetitions = 2 if quick else 5

    def rounds(self, budget_s: float) -> Iterator[int]:
        """Count the repetitions; on a slow machine, those after the third are left out once
        *budget_s* is over.
        """
        started = time.perf_counter()
        for n in range(self.repetitions):
            if n < 3 or time.perf_counter() - started < budget_s:
                yield n

    def size(self, full: int, quick: int) -> int:
        """Return the size of a measurement."""
        return quick if self.quick else full


class Most:
    """How many events to send one at a time, and how long at most: a slow disk shall not make a
    slow benchmark.
    """

    def __init__(self, events: int, seconds: float) -> None:
        self.events, self.seconds = events, seconds

    def send(self, send: Callable[[Any], object]) -> tuple[int, float]:
        """Send events one at a time; return how many there were, and how many seconds they took."""
        samples, started, sent = payloads(self.events), time.perf_counter(), 0
        for sample in samples:
            send(sample)
            sent += 1
            if time.perf_counter() - started > self.seconds:
                break
        return sent, time.perf_counter() - started


def payload(n: int) -> dict[str, Any]:
    """Return data whose compact JSON has 300 bytes."""
    text = f"{n:08d} "
    return {"n": n % 10, "text": (text * 40)[: PAYLOAD_BYTES - len('{"n":0,"text":""}')]}


def payloads(count: int) -> list[dict[str, Any]]:
    """Return *count* different samples."""
    return [payload(n) for n in range(count)]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a folder on a real disk, and remove it afterwards: a commit in memory would measure
    nothing.
    """
    places = [Path(tempfile.gettempdir()), Path.cwd()]
    on_disk = [place for place in places if filesystem(place) not in ("tmpfs", "ramfs")]
    if not on_disk:
        raise SystemExit(
            "neither $TMPDIR nor the current directory is on a disk: set TMPDIR to a folder that is"
        )
    with tempfile.TemporaryDirectory(prefix="mltrigger-bench-", dir=on_disk[0]) as folder:
        yield Path(folder)


def filesystem(path: Path) -> str:
    """Return the type of the file system of *path*; ``unknown`` where there is no /proc."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(where, kind) for where, kind in found if path.resolve().is_relative_to(where)]
    return max(above, key=lambda mount: len(mount[0]))[1] if above else "unknown"


def url(path: Path) -> str:
    """Return the URL of the store at *path*, at the default durability (full)."""
    return f"sqlite:///{path.resolve()}"


def until(done: Callable[[], bool], what: str, pause_s: float = 0.001) -> None:
    """Wait until *done*; looking costs the measured threads a little, so it is not done more often
    than needed.
    """
    end = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not done after {WAIT_S:g} s")
        time.sleep(pause_s)


class Counted:
    """A model that does nothing but count, one event or a batch a call."""

    def __init__(self) -> None:
        self.seen = 0  # racing threads may lose one: what counts is the log

    def one(self, data: Any) -> None:
        """Take one event."""
        self.seen += 1

    def many(self, batch: list[Any]) -> list[None]:
        """Take a batch."""
        self.seen += len(batch)
        return [None] * len(batch)


def consume(bus: mt.EventBus, sub: mt.Subscription, expected: int) -> float:
    """Start *sub* on its backlog and return the seconds until the last of *expected* outcomes is
    recorded.
    """
    started = time.perf_counter()
    sub.start()
    until(lambda: succeeded(bus, sub) >= expected, "consuming", 0.005)
    seconds = time.perf_counter() - started
    sub.stop()
    return seconds


def succeeded(bus: mt.EventBus, sub: mt.Subscription) -> int:
    """Return how many events of *sub* have a recorded success; its cost does not depend on how
    many.
    """
    return bus.tally(sub._spec).get("succeeded", 0)


@contextlib.contextmanager
def children(count: int = 1) -> Iterator[ProcessPoolExecutor]:
    """Run functions in other processes that share nothing with this one."""
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def quiet() -> None:
    """Keep the loggers of peers off the terminal."""
    logging.getLogger("huey").setLevel(logging.CRITICAL)
    logging.getLogger("persistqueue").setLevel(logging.CRITICAL)
    logging.getLogger("dbos").setLevel(logging.CRITICAL)
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)


def version_of(package: str) -> str:
    """Return the installed version of *package*, ``not installed`` if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def facts(options: Options) -> Table:
    """Return what the figures depend on; no names and no paths."""
    with scratch() as folder:
        syncs = disk_ms(folder)
        kind = filesystem(folder)
    packages = ("pandas", "orjson", "msgspec", "huey", "persist-queue", "dbos", "procrastinate")
    rows = [
        ("cores", str(_cores())),
        (
            "load before the run (1 min)",
            f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        ),
        ("system", f"{platform.system()} {platform.machine()}"),
        (
            "disk",
            (
                f"{kind}, fdatasync of 4 KiB p50 {quantile(syncs, 0.5):.2f} ms, p99"
                f" {quantile(syncs, 0.99):.2f} ms"
            ),
        ),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", sqlite3.sqlite_version),
        ("mltrigger", mt.__version__),
        *[(name, version_of(name)) for name in packages],
        (
            "sizes",
            (
                "quick: smaller and noisier than a full run"
                if options.quick
                else "long"
                if options.long
                else "full"
            ),
        ),
        (
            "repetitions",
            (
                f"{options.repetitions} (3 on a slow machine) of each pair, interleaved A B A B;"
                " medians, ratios pairwise"
            ),
        ),
    ]
    return Table("Machine and versions", ("fact", "value"), rows)


def disk_ms(folder: Path, times: int = 200) -> list[float]:
    """Return how long each of some appends took to reach the disk, in milliseconds."""
    sync = getattr(os, "fdatasync", os.fsync)
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            sync(file.fileno())
            taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
