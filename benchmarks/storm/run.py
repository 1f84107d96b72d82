"""The storm itself: publish, end processes at random moments, drain.

What it returns was noted on the way; nothing is judged here.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import mltrigger as mt
from benchmarks.storm import ledger, models
from benchmarks.storm.places import File, Place, left_in, open_in
from benchmarks.storm.processes import Crowd, End, Publisher, start
from benchmarks.storm.publisher import TOPIC

LEASE_S = 2.0
TIMEOUT_S = 1.0
GRACE_S = 2.0
"""An event of an ended worker begins again within the lease and this."""
STOP_S = 2.8
"""How long a stopped worker sleeps: longer than its lease, and than its model may take."""
DRAIN_S = 40.0
SLOTS = 3
LEVELS = {1: "storm-read", 2: "storm-file"}
FILED = "storm-texts"
_LOOK_S = 0.005
_QUIET_S = LEASE_S + GRACE_S + 1.0
_HUNG_S = 60.0
_HUEY_CONSUMER = "from huey.bin.huey_consumer import consumer_main; consumer_main()"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much storm: events of the first level (as many again on the second), processes that are
    ended, worker processes.
    """

    events: int = 10_000
    kills: int = 60
    workers: int = 4

    @property
    def batch(self) -> int:
        """Events that are published in one commit."""
        return max(50, self.events // 50)

    def signals(self, chance: random.Random) -> list[int]:
        """Return the signals in a random order: half SIGKILL, a quarter SIGTERM, a quarter SIGSTOP."""
        others = self.kills // 2
        found = (
            [signal.SIGKILL] * (self.kills - others)
            + [signal.SIGTERM] * (others - others // 2)
            + [signal.SIGSTOP] * (others // 2)
        )
        chance.shuffle(found)
        return [int(signum) for signum in found]


class Outage(NamedTuple):
    """One end of the server: how, and from when to when it did not answer."""

    how: str
    down_us: int
    up_us: int


class Killer(Protocol):
    """Ends the server of a store at random moments, and starts it again."""

    outages: list[Outage]

    def begin(self, done: Callable[[], float], calls: int) -> None:
        """Begin, spread over so many *calls* of the models. *done* returns how many there were."""

    @property
    def is_done(self) -> bool:
        """Whether all ends are over."""

    def end(self) -> None:
        """Begin no other end. Idempotent."""


@dataclasses.dataclass(frozen=True)
class Storm:
    """What was left behind: the store, the ledger, what the processes printed, and who was ended
    when.
    """

    place: Place
    ledger: Path
    ends: list[End]
    stuck: int
    seconds: float
    out: dict[int, str]
    err: dict[int, str]
    publisher_kills: int = 0
    publisher_in_a_batch: int = 0
    publisher_failed: str | None = None
    leftovers: list[str] = dataclasses.field(default_factory=list)
    outages: list[Outage] = dataclasses.field(default_factory=list)


def storm(
    folder: Path, sizes: Sizes, seed: int, place: Place | None = None, killer: Killer | None = None
) -> Storm:
    """Publish *sizes* events to two levels of subscriptions, and end workers and the publisher
    while they work.

    Parameters
    ----------
    place : Place or None
        The store. A file of SQLite without one.
    killer : Killer or None
        Ends the server of *place* meanwhile.
    """
    chance = random.Random(seed)
    place, book = place or File(folder / "storm.db"), folder / "ledger"
    url = place.url
    with mt.connect(url) as bus:
        policy = {"lease_s": LEASE_S, "timeout_s": TIMEOUT_S, "max_concurrency": SLOTS}
        bus.subscribe(TOPIC, models.read, emit=FILED, listen=False, **policy)
        bus.subscribe(FILED, models.file, listen=False, **policy)
    environment = {ledger.LEDGER: str(book)}
    started = time.monotonic()
    crowd = Crowd(
        ["-m", "mltrigger", "worker", "--url", url],
        environment,
        sizes.workers,
        folder,
        place.held,
    )
    starts = range(0, sizes.events, sizes.batch)
    strikes = chance.sample(starts[1:], min(len(starts) - 1, max(1, sizes.kills // 20)))

    def publish(first: int) -> list[str]:
        return [
            "-m",
            "benchmarks.storm.publisher",
            url,
            str(first),
            str(sizes.events),
            str(sizes.batch),
        ]

    publisher = Publisher(publish, environment, folder, strikes, chance)
    try:
        if killer is not None:
            killer.begin(lambda: ledger.length(book) / 2, 2 * sizes.events)
        strike(crowd, sizes.signals(chance), 2 * sizes.events, book, chance)
        _drain(crowd, book, lambda: left(place, publisher, killer))
        stuck = open_in(place)
        leftovers = left_in(place) if stuck else []
        seconds = time.monotonic() - started
        crowd.close(signal.SIGTERM, DRAIN_S)
    finally:
        if killer is not None:
            killer.end()
        crowd.abort()
        publisher.abort()
    return Storm(
        place,
        book,
        crowd.ends,
        stuck,
        seconds,
        crowd.printed("out"),
        crowd.printed("err"),
        publisher.kills,
        publisher.in_a_batch,
        publisher.failed,
        leftovers,
        killer.outages if killer is not None else [],
    )


def huey_storm(folder: Path, sizes: Sizes, seed: int) -> Storm:
    """Let huey's consumer do the same, first level only, and kill it; its queue is full from the
    beginning.
    """
    from huey import SqliteHuey

    chance = random.Random(seed)
    path, book = folder / "huey.db", folder / "huey-ledger"
    environment = {ledger.LEDGER: str(book), "MLTRIGGER_STORM_HUEY": str(path)}
    with (folder / "0.err").open("ab") as err:
        command = ["-c", f"from benchmarks.storm.peer import publish; publish({sizes.events})"]
        if start(command, environment, subprocess.DEVNULL, err).wait():
            raise RuntimeError(f"huey's publisher failed: {(folder / 'publisher.err').read_text()}")
    queue = SqliteHuey(filename=str(path), fsync=True)
    arguments = [
        "-c",
        _HUEY_CONSUMER,
        "benchmarks.storm.peer.huey",
        "-w",
        str(sizes.workers),
        "-k",
        "thread",
        "-n",
        "-q",
    ]
    started = time.monotonic()
    crowd = Crowd(arguments, environment, 1, folder)
    try:
        strike(crowd, [signal.SIGKILL] * sizes.kills, sizes.events, book, chance)
        stuck = _drain(crowd, book, queue.pending_count)
        seconds = time.monotonic() - started
        crowd.close(signal.SIGINT, DRAIN_S)  # its graceful end
    finally:
        crowd.abort()
        queue.storage.close()
    return Storm(
        File(path), book, crowd.ends, stuck, seconds, crowd.printed("out"), crowd.printed("err")
    )


def strike(crowd: Crowd, signals: list[int], calls: int, book: Path, chance: random.Random) -> None:
    """End processes, spread over the *calls* of the models that are expected: so there is always
    work that an end interrupts.
    """
    for i, signum in enumerate(signals):
        due = (i + chance.random()) / len(signals) * 0.95 * calls
        if not watch(crowd, book, lambda due=due: ledger.length(book) / 2 >= due, _HUNG_S):  # type: ignore[misc]
            return  # nobody works any more: judged as stuck
        time.sleep(chance.uniform(0.0, 0.02))
        watch(crowd, book, lambda signum=signum: crowd.strike(signum, chance, STOP_S), _HUNG_S)  # type: ignore[misc]


def left(place: Place, publisher: Publisher, killer: Killer | None) -> int:
    """Return how many deliveries are open, 1 at least while somebody still storms or publishes."""
    is_over = publisher.done and (killer is None or killer.is_done)
    return open_in(place) if is_over else 1


def _drain(crowd: Crowd, book: Path, left: Callable[[], int]) -> int:
    """Wait until nothing is *left*, or nothing was begun for longer than a lease; return what is
    left.
    """
    # the quiet counts while everybody is up
    watch(crowd, book, lambda: not left(), _QUIET_S, pause_s=0.05)
    return left()


def watch(
    crowd: Crowd, book: Path, done: Callable[[], bool], quiet_s: float, pause_s: float = _LOOK_S
) -> bool:
    """Keep the crowd at its number until *done*, or until the ledger has been quiet for so long;
    say which.
    """
    lines, wrote = ledger.length(book), time.monotonic()
    moved = wrote
    while not done():
        crowd.look()
        time.sleep(pause_s)
        if ledger.length(book) != lines:
            lines, wrote = ledger.length(book), time.monotonic()
        moved = max(moved, wrote) if crowd.all_up else time.monotonic()
        if time.monotonic() - moved > quiet_s or time.monotonic() - wrote > max(quiet_s, _HUNG_S):
            return False
    return True
