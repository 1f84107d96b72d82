"""``python -m benchmarks.storm``: one storm a seed, beside huey; print the verdicts, and write them
to ``RESULTS.md`` when asked.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mltrigger as mt
from benchmarks.harness import filesystem, scratch, version_of
from benchmarks.report import Report, Table, Target, number, replaced
from benchmarks.storm.judge import PeerVerdict, Verdict, judge, judge_peer
from benchmarks.storm.ledger import MODEL_S
from benchmarks.storm.run import (
    GRACE_S,
    LEASE_S,
    SLOTS,
    STOP_S,
    TIMEOUT_S,
    Sizes,
    huey_storm,
    storm,
)

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
SMOKE = Sizes(1_000, 8, 3)
PEER = Sizes(3_000, 20, 4)
PEER_SMOKE = Sizes(300, 4, 4)
EVENTS = (
    *("system, seed", "events", "ends K/T/S", "outcomes", "lost", "second outcomes", "stuck"),
    *("repeats", "events/s"),
)
"""The columns of what became of the events."""
SHOWN = 12
"""Complaints and details that are printed at most for each seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a promise was broken."""
    asked = _arguments(arguments)
    sizes = SMOKE if asked.smoke else Sizes(asked.events, asked.kills, asked.workers)
    peer = PEER_SMOKE if asked.smoke else PEER
    seeds = range(asked.first_seed, asked.first_seed + (1 if asked.smoke else asked.seeds))
    ours: list[Verdict] = []
    theirs: list[PeerVerdict] = []
    for seed in seeds:
        began = time.monotonic()
        with scratch() as folder:
            ours.append(judge(storm(folder, sizes, seed), sizes, seed))
        if len(theirs) < asked.huey_seeds and version_of("huey") != "not installed":
            with scratch() as folder:
                theirs.append(judge_peer(huey_storm(folder, peer, seed), peer, seed))
        say(ours[-1], time.monotonic() - began)
    report = report_of(ours, theirs, sizes, peer)
    print(report.text())
    broken = [f"seed {v.seed}: {what}" for v in ours for what in v.broken]
    print("\n".join(f"broken: {line}" for line in broken) or "every promise was kept")
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 1 if broken else 0


def say(found: Verdict, seconds: float) -> None:
    """Print one storm, with the first of its complaints."""
    print(
        f"seed {found.seed}: {'broken: ' + '; '.join(found.broken) if found.broken else 'kept'}"
        f" ({seconds:.0f} s)",
        flush=True,
    )
    print(
        "  "
        + "  ".join(row(found))
        + f"  recovery {found.recovery_s:.2f} s, {found.served_s:.2f} s of it served",
        flush=True,
    )
    said = [*found.details, *found.complaints]
    for line in said[:SHOWN]:
        print(f"  {line}", flush=True)
    if len(said) > SHOWN:
        print(f"  … {len(said) - SHOWN} more lines like these")


def report_of(ours: list[Verdict], theirs: list[PeerVerdict], sizes: Sizes, peer: Sizes) -> Report:
    """Return the tables, one line a seed and the totals, beside what was promised."""
    report = Report(
        "Kill storm",
        "processes end at random moments, and the ledger says what became of every event",
    )
    rows = [row(v) for v in ours] + [_peer_row(v) for v in theirs]
    if len(ours) > 1:
        rows.insert(len(ours), totals(ours))
        rows += [_peer_totals(theirs)] if theirs else []
    report.tables.append(Table("What became of the events", EVENTS, rows))
    head = (
        "seed",
        "abandoned",
        "stale",
        "interrupted",
        "failed",
        "dead",
        "recovered",
        "worst recovery s",
        "of it served",
        "store locked",
        "SIGTERM to exit s",
        "publisher kills",
        "in a batch",
        "batch found again",
        "audit",
        "integrity",
        "complaints",
    )
    report.tables.append(
        Table(
            "What the log and the ledger say of mltrigger beside that",
            head,
            [_details(v) for v in ours],
        )
    )
    report.targets += targets(ours)
    report.notes += _notes(sizes, peer, bool(theirs))
    return report


def targets(ours: Sequence[Verdict], store: str = "file") -> list[Target]:
    """Return the promises, beside what was found."""
    zeros = {
        "lost": "lost",
        "second outcomes": "doubled",
        "stuck": "stuck",
        "outcomes without a run": "unrun",
    }
    found = []
    for what, name in zeros.items():
        n = sum(getattr(v, name) for v in ours)
        found.append(Target(what, "0", str(n), n == 0))
    recovery_s, promised_s = max(v.served_s for v in ours), LEASE_S + GRACE_S
    found.append(
        Target(
            "worst recovery, served time",
            f"<= {promised_s:g} s",
            f"{recovery_s:.2f} s",
            recovery_s <= promised_s,
        )
    )
    whole = sum(v.balanced and v.integrity == "ok" for v in ours)
    found.append(
        Target(
            f"storms after which the books balance and the {store} is whole",
            str(len(ours)),
            str(whole),
            whole == len(ours),
        )
    )
    return found


def _ends(found: Verdict) -> str:
    return "/".join(str(found.signals[s]) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))


def row(v: Verdict) -> tuple[str, ...]:
    """Return the cells of :data:`EVENTS` for one storm."""
    counts = (v.outcomes, v.lost, v.doubled, v.stuck, v.repeats)
    return (
        f"mltrigger, {v.seed}",
        f"{v.published:,} + {v.handed_on:,}",
        _ends(v),
        *[f"{n:,}" for n in counts],
        number(v.per_s),
    )


def totals(all_: Sequence[Verdict]) -> tuple[str, ...]:
    """Return the sums of several storms."""
    ends = "/".join(
        str(sum(v.signals[s] for v in all_))
        for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
    )
    sums = [
        sum(getattr(v, name) for v in all_)
        for name in ("outcomes", "lost", "doubled", "stuck", "repeats")
    ]
    events = f"{sum(v.published for v in all_):,} + {sum(v.handed_on for v in all_):,}"
    return (f"mltrigger, all {len(all_)}", events, ends, *[f"{n:,}" for n in sums], "")


def _peer_row(v: PeerVerdict) -> tuple[str, ...]:
    return (
        f"huey, {v.seed}",
        f"{v.events:,}",
        f"{v.kills}/0/0",
        f"{v.done:,}",
        f"{v.lost:,}",
        "-",
        f"{v.stuck:,}",
        f"{v.repeats:,}",
        number(v.per_s),
    )


def _peer_totals(all_: list[PeerVerdict]) -> tuple[str, ...]:
    sums = {
        name: sum(getattr(v, name) for v in all_)
        for name in ("events", "kills", "done", "lost", "stuck", "repeats")
    }
    shown = [f"{sums[name]:,}" for name in ("done", "lost")]
    return (
        f"huey, all {len(all_)}",
        f"{sums['events']:,}",
        f"{sums['kills']}/0/0",
        *shown,
        "-",
        f"{sums['stuck']:,}",
        f"{sums['repeats']:,}",
        "",
    )


def _details(v: Verdict) -> tuple[str, ...]:
    counts = [
        f"{v.counts[name]:,}" for name in ("abandoned", "stale", "interrupted", "failed", "dead")
    ]
    publisher = [str(n) for n in (v.publisher_kills, v.publisher_in_a_batch, v.publisher_repeats)]
    balanced = "balanced" if v.balanced else "NOT BALANCED"
    return (
        str(v.seed),
        *counts,
        f"{v.recovered:,}",
        f"{v.recovery_s:.2f}",
        f"{v.served_s:.2f}",
        str(v.locked),
        f"{v.drain_s:.2f}",
        *publisher,
        balanced,
        v.integrity,
        str(len(v.complaints)),
    )


def _notes(sizes: Sizes, peer: Sizes, with_peer: bool) -> list[str]:
    with scratch() as folder:
        disk = filesystem(folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    command = (
        f"python -m benchmarks.storm --events {sizes.events} --kills {sizes.kills} --workers"
        f" {sizes.workers}"
    )
    notes = [
        (
            f"`{command}`; mltrigger {mt.__version__}, Python {sys.version.split()[0]}, SQLite"
            f" {sqlite3.sqlite_version}, {cores} cores, {disk}; durability full. Load at the end (1"
            f" min): {os.getloadavg()[0]:.1f}."
        ),
        (
            f"{sizes.workers} processes `python -m mltrigger worker`, two subscriptions, the second"
            f" on what the first emits, {SLOTS} slots each; a call sleeps {MODEL_S * 1e3:g} ms;"
            f" lease {LEASE_S:g} s, timeout {TIMEOUT_S:g} s. A process that has ended is started"
            " again at once."
        ),
        (
            "ends K/T/S: SIGKILL; SIGTERM, with the orderly end of all workers after the storm;"
            f" SIGSTOP with SIGCONT {STOP_S:g} s later, which is after the lease. They are spread"
            " over the calls of the models, not over time, and hit workers that are up: there is"
            f" work to interrupt. The publisher is killed too, within a batch of {sizes.batch}, and"
            " repeats it with the same ids."
        ),
        (
            "lost: no final outcome, and not open. stuck: open when nobody had begun anything for"
            " longer than a lease. repeats: calls of a model beyond the first with an event."
            " recovered: events that an ended process held and did not end itself; recovery: until"
            f" their next call begins; promised are {LEASE_S + GRACE_S:g} s (the lease and"
            f" {GRACE_S:g} s) of served time: some worker is up, and the store is not locked by a"
            " process that was stopped within a transaction (store locked: so many stops), when"
            " nobody can write. batch found again: events that the publisher repeated and that"
            " were there. complaints: lines of errors that workers printed."
        ),
    ]
    if with_peer:
        notes.append(
            f"huey {version_of('huey')}: SqliteHuey, fsync=True, its consumer with {peer.workers}"
            f" threads, SIGKILL only; fewer events ({peer.events:,}, {peer.kills} kills), one"
            " level, to keep the run short; outcomes: calls that ended. It takes a task off its"
            " queue before it runs: its documentation (consumer shutdown) says that it does not"
            " guarantee at-least-once delivery and that tasks under way are lost."
        )
    return notes


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storm",
        description="end processes while they work, and count what became of every event",
    )
    parser.add_argument("--seeds", type=int, default=5, help="storms in a row (default: 5)")
    parser.add_argument(
        "--first-seed", type=int, default=1, help="number of the first one (default: 1)"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=Sizes.events,
        help=f"events a seed, and as many again on the second level (default: {Sizes.events})",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=Sizes.kills,
        help=f"ends of workers a seed (default: {Sizes.kills})",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=Sizes.workers,
        help=f"worker processes (default: {Sizes.workers})",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help=f"one seed, {SMOKE.events:,} events, {SMOKE.kills} ends: under half a minute",
    )
    parser.add_argument(
        "--huey-seeds",
        type=int,
        default=5,
        help="for how many of the seeds huey is stormed too (default: 5)",
    )
    parser.add_argument("--write", action="store_true", help=f"write the section in {RESULTS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
