"""``python -m benchmarks.storm.guilt``: events that end, stop and copy processes beside innocent
ones; none of these may be blamed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import scratch
from benchmarks.report import Report, Table, Target, replaced
from benchmarks.storm import ledger, suspects
from benchmarks.storm.ledger import Ledger
from benchmarks.storm.places import File, open_in
from benchmarks.storm.processes import Crowd

LEASE_S, TIMEOUT_S = 1.0, 30.0
LONGEST_STOP_S = 40.0
"""How long a process stays stopped at most, when nobody else takes its event over."""
_QUIET_S = 60.0
_LOOK_S = 0.02
RESULTS = Path(__file__).parents[1] / "RESULTS.md"
INNOCENT = ("guilt-page", "guilt-rows", "guilt-nap", "guilt-fork", "guilt-forked")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much storm: events in all; of these, events that end, stop and copy a process; processes;
    how far one clock jumps.
    """

    events: int = 5_000
    traps: int = 9
    naps: int = 6
    forks: int = 12
    workers: int = 5
    moved_s: float = 90.0

    @property
    def pages(self) -> int:
        """Events of the innocent models."""
        return self.events - self.traps - self.naps - self.forks


SMOKE = Sizes(300, 2, 1, 3, moved_s=5.0)


@dataclasses.dataclass
class Verdict:
    """What became of one storm; ``broken`` names every promise that was not kept."""

    events: int = 0
    outcomes: int = 0
    innocent_dead: int = 0
    guilty_dead: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    ends: int = 0
    stops: int = 0
    copies: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    balanced: bool = True
    integrity: str = "ok"
    seconds: float = 0.0
    broken: list[str] = dataclasses.field(default_factory=list)


class Supervised(Crowd):
    """Processes that are kept at their number; those that stopped go on when their event is in the
    hands of others, or after a while.
    """

    def __init__(self, book: Path, store: Path, *given: Any) -> None:
        self._book, self._store, self._stopped_s = book, store, dict[int, float]()
        super().__init__(*given)
        self.stops = 0

    def look(self) -> None:
        """Start what ended, let go on what was stopped for long enough, or inside a transaction."""
        super().look()
        now_s = time.monotonic()
        for pid in [one.process.pid for one in self._running]:
            if not _is_stopped(pid):
                self._stopped_s.pop(pid, None)
            elif pid not in self._stopped_s:
                self._stopped_s[pid] = now_s
                self.stops += 1
            elif (
                now_s - self._stopped_s[pid] > 1.5 * LEASE_S
                and (self._stopped_enough() or _is_locked(self._store))
            ) or now_s - self._stopped_s[pid] > LONGEST_STOP_S:
                os.kill(pid, signal.SIGCONT)

    def _stopped_enough(self) -> bool:
        """Whether the event that stops processes now has done so as often as it does."""
        book = Ledger(self._book)
        naps = [n for level, n in book.begun if level == suspects.NAPS and not book.ended[level, n]]
        return all(len(book.begun[suspects.NAPS, n]) >= suspects.STOPS for n in naps)


class Supervisor(threading.Thread):
    """Looks after crowds, in a thread of its own: whoever publishes may have to wait for a process
    that is stopped.
    """

    def __init__(self, crowds: Sequence[Supervised]) -> None:
        super().__init__(daemon=True)
        self._crowds, self._done = crowds, threading.Event()
        self.start()

    def run(self) -> None:
        """Look, until it is told to end."""
        while not self._done.wait(_LOOK_S):
            for crowd in self._crowds:
                crowd.look()

    def close(self) -> None:
        """Look no more."""
        self._done.set()
        self.join()


def storm(folder: Path, sizes: Sizes) -> Verdict:
    """Publish *sizes* events, deliver them in processes that end, stop and copy themselves, and
    judge what became of them.
    """
    path, book = folder / "guilt.db", folder / "ledger"
    book.touch()
    url = f"sqlite:///{path}"
    with mt.connect(url) as bus:
        _bind(bus)
    environment = {ledger.LEDGER: str(book), suspects.STORE: url}
    began = time.monotonic()
    crowds = [
        Supervised(
            book,
            path,
            ["-m", "benchmarks.storm.guilty", url, moved, "4"],
            environment,
            count,
            _made(folder / name),
        )
        for name, moved, count in (
            ("steady", "0", sizes.workers - 1),
            ("moved", str(sizes.moved_s), 1),
        )
    ]
    supervisor = Supervisor(crowds)
    try:
        with mt.connect(url) as bus:
            _publish(bus, sizes, book)
        _until(book, lambda: not open_in(File(path)), lambda: open_in(File(path)))
        supervisor.close()
        found = Verdict(
            seconds=time.monotonic() - began,
            stuck=open_in(File(path)),
            stops=sum(crowd.stops for crowd in crowds),
        )
        found.ends = sum(end.signum == 0 for crowd in crowds for end in crowd.ends)
        for crowd in crowds:
            crowd.close(signal.SIGTERM, 20.0)
    finally:
        supervisor.close()
        for crowd in crowds:
            crowd.abort()
    return _judged(found, path, Ledger(book), sizes)


def _bind(bus: mt.EventBus) -> None:
    policy: dict[str, Any] = {"lease_s": LEASE_S, "timeout_s": TIMEOUT_S, "listen": False}
    bus.subscribe("guilt-pages", suspects.page, max_concurrency=3, **policy)
    bus.subscribe("guilt-pages", suspects.rows, batch_size=8, **policy)
    bus.subscribe("guilt-traps", suspects.trap, **policy)
    bus.subscribe("guilt-naps", suspects.nap, **policy)
    bus.subscribe("guilt-forks", suspects.fork, **policy)
    bus.subscribe("guilt-forked", suspects.forked, **policy)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _publish(bus: mt.EventBus, sizes: Sizes, book: Path) -> None:
    """Publish a part of everything at a time, so that guilty and innocent events are under way
    together; one that stops processes alone.
    """
    parts = max(sizes.traps, sizes.naps, sizes.forks)
    for part in range(parts):
        numbers = range(part * sizes.pages // parts, (part + 1) * sizes.pages // parts)
        for first in range(numbers.start, numbers.stop, 50):
            samples = [
                mt.Event({"n": n}, id=f"page-{n}")
                for n in numbers[first - numbers.start : first - numbers.start + 50]
            ]
            bus.publish_batch("guilt-pages", samples)
        for topic, count in (
            ("guilt-traps", sizes.traps),
            ("guilt-forks", sizes.forks),
            ("guilt-naps", sizes.naps),
        ):
            if part < count:
                bus.publish(topic, {"n": part}, id=f"{topic}-{part}")
        done = part * (2 * sizes.pages) // parts
        _until(book, lambda done=done: ledger.length(book) / 2 >= 0.8 * done, lambda: 0)  # type: ignore[misc]
        naps = min(part + 1, sizes.naps)  # one at a time: each of them stops most of the processes
        _until(book, lambda naps=naps: _ended(book, suspects.NAPS) >= naps, lambda: 0)  # type: ignore[misc]


def _until(book: Path, done: Callable[[], bool], left: Callable[[], int]) -> None:
    """Wait until *done*, or until nothing has moved for long."""
    seen, moved = (0, 0), time.monotonic()
    while not done():
        time.sleep(_LOOK_S)
        now = (ledger.length(book), left())
        if now != seen:
            seen, moved = now, time.monotonic()
        if time.monotonic() - moved > _QUIET_S:
            return


def _ended(book: Path, level: int) -> int:
    return sum(ended_level == level for ended_level, _ in Ledger(book).ended)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _is_locked(path: Path) -> bool:
    """Whether nobody can write: a process may have been stopped inside a transaction."""
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


# -- what became of it -----------------------------------------------------------------------------


def _judged(found: Verdict, path: Path, book: Ledger, sizes: Sizes) -> Verdict:
    with mt.connect(f"sqlite:///{path}") as bus:
        found.balanced = bool(bus.audit()["balanced"].all())
        names = {spec.id: spec.name for spec in bus.registry.subscriptions()}
    with File(path).reading() as connection:
        found.integrity = "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
        final: Counter[tuple[str, int]] = Counter()
        for number, seq, outcome, reason in connection.execute(
            "SELECT subscription_id, seq, outcome, reason FROM invocation"
        ):
            found.counts[outcome] += 1
            if outcome in ("succeeded", "dead", "skipped"):
                final[names[number], seq] += 1
            if outcome == "dead":
                found.innocent_dead += names[number] in INNOCENT
                found.guilty_dead += names[number] == "guilt-trap" and reason == "worker_died"
        published = connection.execute(
            "SELECT s.name, e.seq FROM event e JOIN subscription s ON s.topic_id = e.topic_id"
        ).fetchall()  # every subscription gets every event of its topic
        (found.events,) = connection.execute("SELECT count(*) FROM event").fetchone()
        (receipts,) = connection.execute(
            "SELECT count(*) FROM event e JOIN topic t ON t.id = e.topic_id WHERE t.name ="
            " 'guilt-forked'"
        ).fetchone()
    found.outcomes, found.doubled = len(final), sum(n > 1 for n in final.values())
    found.lost = sum(key not in final for key in published)
    promised = sum(call.what == "p" for call in book.calls)
    found.copies = sum(call.what in "pr" and call.n % 2 == 0 for call in book.calls)
    found.lost += max(0, promised - receipts)
    stopped = min(len(book.begun[suspects.NAPS, n]) for n in range(sizes.naps)) if sizes.naps else 0
    _promises(found, sizes, stopped)
    return found


def _promises(found: Verdict, sizes: Sizes, stopped: int) -> None:
    promises = {
        f"{found.innocent_dead} innocent dead letters": not found.innocent_dead,
        f"{found.lost} lost": not found.lost,
        f"{found.doubled} recorded twice": not found.doubled,
        f"{found.stuck} stuck": not found.stuck,
        f"{found.guilty_dead} of {sizes.traps} events that end processes were found out": (
            found.guilty_dead == sizes.traps
        ),
        "the books do not balance": found.balanced,
        f"the file is damaged: {found.integrity}": found.integrity == "ok",
        f"an event stopped {stopped} processes only, not {suspects.STOPS}": (
            stopped >= min(suspects.STOPS, sizes.naps * suspects.STOPS)
        ),
        f"{found.copies} copies, {sizes.forks} wanted": found.copies >= sizes.forks,
    }
    found.broken = [what for what, kept in promises.items() if not kept]


def report_of(found: Sequence[Verdict], sizes: Sizes) -> Report:
    """Return the figures of the storms, a line each."""
    report = Report(
        "Storm of guilt",
        "events end, stop and copy processes beside innocent ones: none of these is blamed",
    )
    head = (
        "storm",
        "events",
        "outcomes",
        "innocent dead",
        "guilty dead",
        "lost",
        "recorded twice",
        "stuck",
        "processes ended",
        "stopped",
        "copied",
        "abandoned",
        "stale",
        "s",
    )
    rows = [
        (
            str(n),
            f"{v.events:,}",
            f"{v.outcomes:,}",
            str(v.innocent_dead),
            str(v.guilty_dead),
            str(v.lost),
            str(v.doubled),
            str(v.stuck),
            str(v.ends),
            str(v.stops),
            str(v.copies),
            str(v.counts["abandoned"]),
            str(v.counts["stale"]),
            f"{v.seconds:.0f}",
        )
        for n, v in enumerate(found, 1)
    ]
    report.tables.append(Table("What became of the events", head, rows))
    for what, name in (
        ("innocent dead letters", "innocent_dead"),
        ("lost", "lost"),
        ("recorded twice", "doubled"),
        ("stuck", "stuck"),
    ):
        n = sum(getattr(v, name) for v in found)
        report.targets.append(Target(what, "0", str(n), n == 0))
    report.notes.append(
        f"`python -m benchmarks.storm.guilt --events {sizes.events}`: {sizes.workers} processes,"
        f" six subscriptions each; lease {LEASE_S:g} s. {sizes.traps} events end their process (a"
        f" kill, an exit, a wild pointer), {sizes.naps} stop {suspects.STOPS} processes for longer"
        f" than the lease, {sizes.forks} fork theirs while it delivers; the wall clock of one"
        f" process jumps by {sizes.moved_s:g} s. A process that has ended is started again at once."
    )
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm.guilt", description=__doc__)
    parser.add_argument(
        "--events", type=int, default=Sizes.events, help=f"events (default: {Sizes.events:,})"
    )
    parser.add_argument("--storms", type=int, default=1, help="storms in a row (default: 1)")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE.events} events")
    parser.add_argument("--write", action="store_true", help=f"write the section in {RESULTS.name}")
    asked = parser.parse_args(arguments)
    sizes = SMOKE if asked.smoke else Sizes(asked.events)
    found = []
    for _ in range(asked.storms):
        with scratch() as folder:
            found.append(storm(folder, sizes))
    report = report_of(found, sizes)
    print(report.text())
    broken = [what for v in found for what in v.broken]
    print("\n".join(f"broken: {what}" for what in broken) or "every promise was kept")
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
