"""The storm itself: publish, end processes at random moments, drain.

What it returns was noted on the way; nothing is judged here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mltrigger as mt
from benchmarks.storm import ledger, models
from benchmarks.storm.processes import Crowd, End, Held, Publisher, now_us, start
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


@dataclasses.dataclass(frozen=True)
class Storm:
    """What was left behind: the store, the ledger, what the processes printed, and who was ended
    when.
    """

    store: Path
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


def storm(folder: Path, sizes: Sizes, seed: int) -> Storm:
    """Publish *sizes* events to two levels of subscriptions, and end workers and the publisher
    while they work.
    """
    chance = random.Random(seed)
    path, book = folder / "storm.db", folder / "ledger"
    url = f"sqlite:///{path}"
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
        lambda: held(path),
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
        strike(crowd, sizes.signals(chance), 2 * sizes.events, book, chance)
        _drain(crowd, book, lambda: open_in(path) if publisher.done else 1)
        stuck = open_in(path)
        leftovers = left_in(path) if stuck else []
        seconds = time.monotonic() - started
        crowd.close(signal.SIGTERM, DRAIN_S)
    finally:
        crowd.abort()
        publisher.abort()
    return Storm(
        path,
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
    return Storm(path, book, crowd.ends, stuck, seconds, crowd.printed("out"), crowd.printed("err"))


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


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the store as nobody's worker: only to read."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)
    try:
        yield connection
    finally:
        connection.close()


def held(path: Path) -> Held:
    """Return all leases at this moment."""
    with reading(path) as connection:
        return connection.execute(
            "SELECT subscription_id, seq, attempt, worker_id FROM leased"
        ).fetchall()


def open_in(path: Path) -> int:
    """Return how many deliveries wait or are leased."""
    with reading(path) as connection:
        return int(
            connection.execute(
                "SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM leased)"
            ).fetchone()[0]
        )


def left_in(path: Path) -> list[str]:
    """Return what is open, a line each: for whoever looks into it."""
    with reading(path) as connection:
        connection.row_factory = sqlite3.Row
        rows = [
            (table, dict(row))
            for table in ("waiting", "leased")
            for row in connection.execute(f"SELECT * FROM {table} LIMIT 5")
        ]
        done = [
            connection.execute("SELECT * FROM invocation WHERE seq = ?", (row["seq"],)).fetchall()
            for _, row in rows
        ]
        lines = [
            f"now {now_us()}, left in {table}: {row}; {[dict(d) for d in before]}"
            for (table, row), before in zip(rows, done, strict=True)
        ]
        listening = connection.execute(
            "SELECT l.subscription_id, w.* FROM listener l JOIN worker w ON w.id = l.worker_id"
            " ORDER BY w.id DESC LIMIT 8"
        )
        return [*lines, *[f"listener {dict(row)}" for row in listening]]
