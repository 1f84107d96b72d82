"""``python -m benchmarks.aws.storm``: kill workers while SQS throttles, fails and resets; print
what became of every event.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import mltrigger as mt
from benchmarks.aws.crew import AHEAD
from benchmarks.aws.faults import Faults, Proxy, proxy
from benchmarks.aws.server import FAUXQS, REGION, Server, environment, fauxqs, moto, session
from benchmarks.harness import scratch, version_of
from benchmarks.report import Report, Table, Target, number, replaced
from benchmarks.storm import models
from benchmarks.storm.ledger import LEDGER, MODEL_S, Ledger
from benchmarks.storm.places import File
from benchmarks.storm.processes import Crowd, Publisher
from benchmarks.storm.publisher import TOPIC
from benchmarks.storm.run import FILED, strike, watch

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
PREFIX = "storm"
LEASE_S = 3.0
TIMEOUT_S = 1.0
SLOTS = 3
QUIET_S = 30.0
"""Open events that nobody has begun for so long are stuck: ten leases, and longer than what was not
confirmed waits to be sent again.
"""
DRAIN_S = 40.0
SHOWN = 12
SERVERS = {"fauxqs": fauxqs, "moto": moto}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much storm: events of the first level (as many again on the second), kills of workers,
    worker processes.
    """

    events: int = 2_000
    kills: int = 20
    workers: int = 3

    @property
    def batch(self) -> int:
        """Events in one call of ``publish_batch``."""
        return min(50, max(20, self.events // 40))


SMOKE = Sizes(200, 3, 3)


@dataclasses.dataclass
class Verdict:
    """One storm, judged from the log and the ledger.

    ``broken`` names every promise that was not kept.
    """

    seed: int
    published: int = 0
    handed_on: int = 0
    outcomes: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    unrun: int = 0
    repeats: int = 0
    kills: int = 0
    publisher_kills: int = 0
    per_s: float = 0.0
    drain_s: float = 0.0
    balanced: bool = True
    integrity: str = "ok"
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    fired: Counter[str] = dataclasses.field(default_factory=Counter)
    calls: Counter[str] = dataclasses.field(default_factory=Counter)
    left: dict[str, int] = dataclasses.field(default_factory=dict)
    complaints: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)


class Groups(Crowd):
    """A crowd of which one is ended with all the processes that it started."""

    def strike(self, signum: int, chance: random.Random, stop_s: float) -> bool:
        """End one and its group; say whether there was one."""
        struck = super().strike(signum, chance, stop_s)
        if struck:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.ends[-1].pid, signum)
        return struck


def storm(
    folder: Path, server: Server, sizes: Sizes, seed: int, faults: Faults | None = None
) -> Verdict:
    """Publish to two levels of subscriptions behind a proxy that fails; kill workers and the
    publisher; judge what is left.
    """
    chance = random.Random(seed)
    log, book = folder / "log.db", folder / "ledger"
    prefix = f"{PREFIX}-{seed}"
    bus = mt.connect(
        f"aws://{REGION}/{prefix}",
        endpoint_url=server.url,
        session=session(),
        log=f"sqlite:///{log}",
    )
    with bus:
        policy = {"lease_s": LEASE_S, "timeout_s": TIMEOUT_S, "max_concurrency": SLOTS}
        bus.subscribe(TOPIC, models.read, emit=FILED, listen=False, **policy)
        bus.subscribe(FILED, models.file, listen=False, **policy)
    with proxy(server.url, faults or Faults(), chance) as between:
        found, crowd, publisher = (
            Verdict(seed),
            *_start(folder, log, prefix, between, sizes, chance),
        )
        started = time.monotonic()
        try:
            strike(crowd, [signal.SIGKILL] * sizes.kills, 2 * sizes.events, book, chance)
            watch(crowd, book, lambda: publisher.done and not _open(log), QUIET_S, pause_s=0.05)
            found.stuck, seconds = _open(log), time.monotonic() - started
            began = time.monotonic()
            crowd.close(signal.SIGTERM, DRAIN_S)
            found.drain_s = time.monotonic() - began
        finally:
            crowd.abort()
            publisher.abort()
    found.fired, found.calls = between.fired, between.seen
    found.left = {
        queue: count for queue, count in server.left().items() if queue.startswith(f"{prefix}-")
    }
    _judge(found, log, Ledger(book), sizes)
    found.per_s = found.outcomes / seconds
    _processes(found, crowd, publisher)
    _promises(found, sizes)
    return found


def _start(
    folder: Path, log: Path, prefix: str, between: Proxy, sizes: Sizes, chance: random.Random
) -> tuple[Groups, Publisher]:
    place = [prefix, str(log)]
    around = {**environment(between.url), LEDGER: str(folder / "ledger")}
    crowd = Groups(["-m", "benchmarks.aws.crew", "work", *place], around, sizes.workers, folder)
    starts = range(0, sizes.events, sizes.batch)
    strikes = chance.sample(starts[1:], min(len(starts) - 1, max(1, sizes.kills // 10)))

    def publish(first: int) -> list[str]:
        return [
            "-m",
            "benchmarks.aws.crew",
            "publish",
            *place,
            str(first),
            str(sizes.events),
            str(sizes.batch),
        ]

    return crowd, Publisher(publish, around, folder, strikes, chance)


def _open(log: Path) -> int:
    """Return how many deliveries wait, are leased, or are not sent yet."""
    with File(log).reading() as connection:
        counts = (
            "(SELECT count(*) FROM waiting) + (SELECT count(*) FROM lease) + (SELECT count(*) FROM"
            " unsent)"
        )
        return int(connection.execute(f"SELECT {counts}").fetchone()[0])


# -- judging ---------------------------------------------------------------------------------------


def _judge(found: Verdict, log: Path, ledger: Ledger, sizes: Sizes) -> None:
    """Follow each number from the publisher through both levels, in the log; compare with the
    ledger.
    """
    with mt.connect(f"sqlite:///{log}") as bus:
        found.balanced = bool(bus.audit()["balanced"].all())
    with File(log).reading() as connection:
        found.integrity = "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
        _count(found, connection, ledger, sizes.events)
    found.repeats = ledger.repeats


def _count(found: Verdict, connection: sqlite3.Connection, ledger: Ledger, events: int) -> None:
    where: dict[int, tuple[int, int]] = {}
    seqs: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for seq, topic, data in connection.execute(
        "SELECT e.seq, t.name, e.data FROM event e JOIN topic t ON t.id = e.topic_id"
    ):
        where[seq] = (2 if topic == FILED else 1, json.loads(data)["n"])
        seqs[where[seq]].append(seq)
    final: Counter[int] = Counter()
    succeeded: set[tuple[int, int]] = set()
    for seq, outcome, n in connection.execute(
        "SELECT seq, outcome, count(*) FROM invocation GROUP BY seq, outcome"
    ):
        found.counts[outcome] += n
        final[seq] += n if outcome in ("succeeded", "dead", "skipped") else 0
        succeeded |= {where[seq]} if outcome == "succeeded" else set()
    open_ = {
        seq for (seq,) in connection.execute("SELECT seq FROM waiting UNION SELECT seq FROM leased")
    }
    due = [(1, n) for n in range(events)] + [(2, n) for level, n in succeeded if level == 1]
    found.lost = sum(not any(final[seq] or seq in open_ for seq in seqs[place]) for place in due)
    found.published, found.handed_on = (
        sum(level == wanted for level, _ in seqs) for wanted in (1, 2)
    )
    found.outcomes = sum(n > 0 for n in final.values())
    found.doubled = sum(n - 1 for n in final.values() if n) + sum(
        len(same) - 1 for same in seqs.values() if same
    )
    found.unrun = sum(not ledger.ended[place] for place in succeeded)


def _processes(found: Verdict, crowd: Crowd, publisher: Publisher) -> None:
    found.kills = sum(end.signum == signal.SIGKILL for end in crowd.ends)
    found.publisher_kills = publisher.kills
    printed = crowd.printed("err")
    said = [line for text in printed.values() for line in text.splitlines() if line.strip()]
    found.complaints += [
        line for line in said if "Traceback" in line or " ERROR " in line or " CRITICAL " in line
    ]
    found.counts["warnings"] = sum(" WARNING " in line for line in said)
    found.broken += [
        f"a worker ended by itself with status {e.status}: {_last(printed, e.pid)}"
        for e in crowd.ends
        if e.signum == 0
    ]
    for end in crowd.ends:
        if end.signum == signal.SIGTERM and end.status != 0:
            found.broken.append(f"a worker ended with status {end.status} after SIGTERM")
    found.broken += [f"{publisher.failed}: {_last(printed, 0)}"] if publisher.failed else []


def _last(printed: dict[int, str], pid: int) -> str:
    """Return the last line that a process printed."""
    return printed.get(pid, "").strip().rpartition("\n")[2][:300]


def _promises(found: Verdict, sizes: Sizes) -> None:
    zero = {
        "lost": found.lost,
        "second outcomes": found.doubled,
        "stuck": found.stuck,
        "outcomes without a run": found.unrun,
    }
    found.broken += [f"{n} {what}" for what, n in zero.items() if n]
    found.broken += [] if found.balanced else ["bus.audit() is not balanced"]
    found.broken += [] if found.integrity == "ok" else [f"integrity_check: {found.integrity}"]
    found.broken += (
        []
        if found.kills >= sizes.kills
        else [f"{found.kills} of {sizes.kills} kills: nobody worked any more"]
    )


# -- the report ------------------------------------------------------------------------------------


def report_of(all_: Sequence[Verdict], sizes: Sizes, kind: str) -> Report:
    """Return the tables, one line a seed, beside what was promised."""
    report = Report(
        "Kill storm on SQS",
        "workers are killed while the service fails, and the log and a ledger say what became of"
        " every event",
    )
    head = (
        "seed",
        "events",
        "kills",
        "outcomes",
        "lost",
        "second outcomes",
        "stuck",
        "repeats",
        "events/s",
        "abandoned",
        "failed",
        "dead",
        "audit",
        "integrity",
        "faults",
        "calls",
        "complaints",
        "left in SQS",
    )
    report.tables.append(Table("What became of the events", head, [_row(v) for v in all_]))
    fired = sum((v.fired for v in all_), Counter[str]())
    calls = sum((v.calls for v in all_), Counter[str]())
    report.tables.append(
        Table(
            "Faults that fired",
            ("kind", "times"),
            [(kind_, f"{n:,}") for kind_, n in fired.most_common()],
        )
    )
    report.tables.append(
        Table(
            "API calls",
            ("action", "calls"),
            [(action, f"{n:,}") for action, n in calls.most_common()],
        )
    )
    zeros = {
        "lost": "lost",
        "second outcomes": "doubled",
        "stuck": "stuck",
        "outcomes without a run": "unrun",
    }
    for what, name in zeros.items():
        n = sum(getattr(v, name) for v in all_)
        report.targets.append(Target(what, "0", str(n), n == 0))
    whole = sum(v.balanced and v.integrity == "ok" for v in all_)
    report.targets.append(
        Target(
            "storms after which the books balance and the log is whole",
            str(len(all_)),
            str(whole),
            whole == len(all_),
        )
    )
    report.notes += _notes(sizes, kind)
    return report


def _row(v: Verdict) -> tuple[str, ...]:
    counts = [f"{n:,}" for n in (v.outcomes, v.lost, v.doubled, v.stuck, v.repeats)]
    own = [f"{v.counts[name]:,}" for name in ("abandoned", "failed", "dead")]
    said = (
        "balanced" if v.balanced else "NOT BALANCED",
        v.integrity,
        f"{v.fired.total():,}",
        f"{v.calls.total():,}",
    )
    kills = f"{v.kills} + {v.publisher_kills}"
    events = f"{v.published:,} + {v.handed_on:,}"
    return (
        str(v.seed),
        events,
        kills,
        *counts,
        number(v.per_s),
        *own,
        *said,
        str(len(v.complaints)),
        str(sum(v.left.values())),
    )


def _notes(sizes: Sizes, kind: str) -> list[str]:
    server = f"fauxqs {FAUXQS}" if kind == "fauxqs" else f"moto {version_of('moto')}"
    faults = Faults()
    after = ", ".join(
        f"{share:.0%} of {action}"
        for action, share in faults.after.items()
        if action.endswith("Batch") or action[:7] == "Receive"
    )
    return [
        (
            f"`python -m benchmarks.aws.storm --events {sizes.events} --kills {sizes.kills}"
            f" --workers {sizes.workers}`; {server} behind our proxy; mltrigger {mt.__version__},"
            f" boto3 {version_of('boto3')}, Python {sys.version.split()[0]}, SQLite"
            f" {sqlite3.sqlite_version}."
        ),
        (
            f"Faults, as shares of all calls: throttled {faults.throttled:.0%}, 503"
            f" {faults.unavailable:.0%}, connection reset before the call {faults.reset_before:.0%}"
            f" and after it {faults.reset_after:.0%}, {faults.slow_s[0]:g} to {faults.slow_s[1]:g}"
            f" s late {faults.slow:.0%}; 500 after the server applied the call: {after}. They go on"
            " until the end."
        ),
        (
            f"{sizes.workers} workers that share one log (SQLite, durability full), two"
            f" subscriptions, the second on what the first emits, {SLOTS} slots each; a call sleeps"
            f" {MODEL_S * 1e3:g} ms; lease {LEASE_S:g} s. Events are published in batches of"
            f" {sizes.batch}, at most some {AHEAD} ahead."
        ),
        (
            "kills: SIGKILL of the process group of a random worker, spread over the calls of the"
            " models, and of the publisher within a batch, which another one repeats with the same"
            " ids. lost: no final outcome, and not open. stuck: open, or not sent, when nobody had"
            f" begun anything for {QUIET_S:g} s. repeats: calls of a model beyond the first with an"
            " event. complaints: errors and tracebacks that workers printed. left in SQS: messages"
            " that are still in queues at the end: their outcomes are recorded, and who receives"
            " them deletes them."
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a promise was broken."""
    asked = _arguments(arguments)
    sizes = SMOKE if asked.smoke else Sizes(asked.events, asked.kills, asked.workers)
    found: list[Verdict] = []
    with SERVERS[asked.server]() as server:
        for seed in range(asked.first_seed, asked.first_seed + (1 if asked.smoke else asked.seeds)):
            with scratch() as folder:
                found.append(storm(folder, server, sizes, seed))
            _say(found[-1])
    report = report_of(found, sizes, asked.server)
    print(report.text())
    broken = [f"seed {v.seed}: {what}" for v in found for what in v.broken]
    print("\n".join(f"broken: {line}" for line in broken) or "every promise was kept")
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 1 if broken else 0


def _say(found: Verdict) -> None:
    print(
        f"seed {found.seed}: {'broken: ' + '; '.join(found.broken) if found.broken else 'kept'}",
        flush=True,
    )
    for line in found.complaints[:SHOWN]:
        print(f"  {line}", flush=True)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws.storm",
        description="kill workers while SQS fails; count every event",
    )
    parser.add_argument("--seeds", type=int, default=1, help="storms in a row (default: 1)")
    parser.add_argument(
        "--first-seed", type=int, default=1, help="number of the first one (default: 1)"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=Sizes.events,
        help=f"events a seed, and as many again handed on (default: {Sizes.events})",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=Sizes.kills,
        help=f"SIGKILLs of workers a seed (default: {Sizes.kills})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=Sizes.workers,
        help=f"worker processes (default: {Sizes.workers})",
    )
    parser.add_argument(
        "--server",
        choices=list(SERVERS),
        default="fauxqs",
        help="behind the proxy (default: fauxqs)",
    )
    parser.add_argument(
        "--smoke", action="store_true", help=f"one seed, {SMOKE.events} events, {SMOKE.kills} kills"
    )
    parser.add_argument("--write", action="store_true", help=f"write the section in {RESULTS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
