"""The judge: what became of every event, from the ledger and the tables only."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import re
import signal
from collections import Counter, defaultdict

import mltrigger as mt
from benchmarks.storm.ledger import Ledger
from benchmarks.storm.places import Reading
from benchmarks.storm.processes import End
from benchmarks.storm.run import FILED, GRACE_S, LEASE_S, LEVELS, Sizes, Storm
from mltrigger.delivery.listener import DRAIN_S

Place = tuple[int, int]
"""Where an event is delivered: (subscription id, seq)."""
OWN = "('succeeded', 'failed', 'dead', 'skipped')"
"""Outcomes that the worker itself recorded: it was not too late."""
_SETTLING_US = 100_000
"""What is written so soon after a stop may carry a time from before it."""
_ATTEMPTS = """
SELECT worker_id, attempt, outcome, reason, received_us, started_us, settled_us FROM invocation
WHERE subscription_id = ? AND seq = ? ORDER BY attempt
"""
_NOT_ORDINARY = re.compile(r"Traceback|Error|ERROR|WARNING|CRITICAL|locked|failed|Fatal")


@dataclasses.dataclass
class Verdict:
    """One storm, judged.

    ``broken`` names every promise that was not kept, ``details`` where to begin to look.
    ``served_s`` begins anew when a server is back: its end may have undone a take-over, or cut it
    off. ``served_all_s`` does not.
    """

    seed: int
    published: int = 0
    handed_on: int = 0
    outcomes: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    repeats: int = 0
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    signals: Counter[int] = dataclasses.field(default_factory=Counter)
    per_s: float = 0.0
    recovered: int = 0
    locked: int = 0
    recovery_s: float = 0.0
    served_s: float = 0.0
    served_all_s: float = 0.0
    drain_s: float = 0.0
    balanced: bool = True
    integrity: str = "ok"
    unrun: int = 0
    publisher_kills: int = 0
    publisher_in_a_batch: int = 0
    publisher_repeats: int = 0
    complaints: list[str] = dataclasses.field(default_factory=list)
    details: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)


def judge(storm: Storm, sizes: Sizes, seed: int) -> Verdict:
    """Compare what was published, begun, ended and recorded."""
    found = Verdict(seed, signals=Counter(e.signum for e in storm.ends), stuck=storm.stuck)
    found.publisher_kills, found.publisher_in_a_batch = (
        storm.publisher_kills,
        storm.publisher_in_a_batch,
    )
    ledger = Ledger(storm.ledger)
    with mt.connect(storm.place.url) as bus:
        found.balanced = bool(bus.audit()["balanced"].all())
    with storm.place.reading() as connection:
        found.integrity = storm.place.integrity(connection)
        _count(found, connection, ledger, sizes.events)
        _recovery(found, connection, ledger, storm)
    found.repeats = ledger.repeats
    found.per_s = found.outcomes / storm.seconds
    _exits(found, storm)
    found.complaints += [
        line
        for text in storm.err.values()
        for line in text.splitlines()
        if _NOT_ORDINARY.search(line)
    ]
    found.details += storm.leftovers
    _promises(found, storm)
    return found


def _count(found: Verdict, connection: Reading, ledger: Ledger, events: int) -> None:
    """Follow each number from the publisher through both levels."""
    where: dict[int, tuple[int, int]] = {}  # seq -> level, number
    seqs: dict[int, defaultdict[int, list[int]]] = {1: defaultdict(list), 2: defaultdict(list)}
    for seq, topic, data in connection.execute(
        "SELECT e.seq, t.name, e.data FROM event e JOIN topic t ON t.id = e.topic_id"
    ):
        level, n = 2 if topic == FILED else 1, json.loads(data)["n"]
        where[seq] = (level, n)
        seqs[level][n].append(seq)
    final: Counter[int] = Counter()
    succeeded: set[tuple[int, int]] = set()
    for seq, outcome, n in connection.execute(
        "SELECT seq, outcome, count(*) FROM invocation GROUP BY seq, outcome"
    ):
        found.counts[outcome] += n
        if outcome in ("succeeded", "dead", "skipped"):
            final[seq] += n
        if outcome == "succeeded":
            succeeded.add(where[seq])
    open_ = {
        seq for (seq,) in connection.execute("SELECT seq FROM waiting UNION SELECT seq FROM leased")
    }

    def lost(level: int, n: int) -> bool:
        return not any(final[seq] or seq in open_ for seq in seqs[level][n])

    found.published, found.handed_on = len(seqs[1]), len(seqs[2])
    found.outcomes = len(final)
    found.lost = sum(lost(1, n) for n in range(events)) + sum(
        lost(2, n) for level, n in succeeded if level == 1
    )
    found.doubled = sum(n - 1 for n in final.values()) + sum(
        len(s) - 1 for level in seqs.values() for s in level.values()
    )
    found.unrun = sum(not ledger.ended[place] for place in succeeded)
    found.publisher_repeats = int(
        connection.execute("SELECT coalesce(sum(times), 0) FROM repeat").fetchone()[0]
    )


def _recovery(found: Verdict, connection: Reading, ledger: Ledger, storm: Storm) -> None:
    """Find, for each lease of an ended process, when its event began again; what the process itself
    still ended needs none.
    """
    ends = storm.ends
    numbers = {
        seq: json.loads(data)["n"]
        for seq, data in connection.execute("SELECT seq, data FROM event")
    }
    levels = {
        id_: level
        for id_, name in connection.execute("SELECT id, name FROM subscription")
        for level in LEVELS
        if LEVELS[level] == name
    }
    own = connection.execute(
        f"SELECT subscription_id, seq, attempt FROM invocation WHERE outcome IN {OWN} AND "
        " coalesce(reason, '') <> 'worker_died'"
    )
    ended = set(own.fetchall())
    pids = _pids(connection, ledger, levels, numbers, ends)
    away = [(outage.down_us, outage.up_us) for outage in storm.outages]
    up = _without(_up(connection, pids, ends), [*_locked(connection, ends), *away])
    for end in ends:
        for s, seq, attempt, worker in end.held:
            if pids.get(worker) != end.pid or (s, seq, attempt) in ended:
                continue
            again_us = ledger.next_begin_us(levels[s], numbers[seq], end.at_us)
            if again_us is not None:
                found.recovered += 1
                found.recovery_s = max(found.recovery_s, (again_us - end.at_us) / 1e6)
                all_s = _covered_us(up, end.at_us, again_us) / 1e6
                found.served_all_s = max(found.served_all_s, all_s)
                returns = [up_us for _, up_us in away if end.at_us < up_us < again_us]
                cuts = [end.at_us, *sorted(returns), again_us]
                served_s = max(_covered_us(up, *part) / 1e6 for part in itertools.pairwise(cuts))
                found.served_s = max(found.served_s, served_s)
                if served_s > LEASE_S + GRACE_S:
                    found.details.append(
                        f"slow recovery from signal {end.signum}: begun after"
                        f" {(again_us - end.at_us) / 1e6:.2f} s;"
                        f" {_between(connection, (s, seq), end.at_us, again_us, storm, pids)}"
                    )
    found.locked = len(_locked(connection, ends))


def _between(
    connection: Reading, place: Place, low: int, high: int, storm: Storm, pids: dict[int, int]
) -> str:
    """Return the attempts with an event, and the ends that came meanwhile; in seconds from *low*."""

    def after(at_us: int | None) -> str:
        return "-" if at_us is None else f"{(at_us - low) / 1e6:.2f}"

    rows = connection.execute(_ATTEMPTS, place).fetchall()
    said = [
        f"{pids.get(worker)}: attempt {attempt} {outcome} {reason or ''} {'/'.join(map(after, at))}"
        for worker, attempt, outcome, reason, *at in rows
    ]
    away = [o for o in storm.outages if o.up_us > low and o.down_us < high]
    said += [f"{o.how}: {after(o.down_us)} to {after(o.up_us)}" for o in away]
    ends = [e for e in storm.ends if low <= (e.resumed_us or e.at_us) and e.at_us < high]
    said += [f"{e.pid}: signal {e.signum} {after(e.at_us)}/{after(e.resumed_us)}" for e in ends]
    return "; ".join(said)


def _up(connection: Reading, pids: dict[int, int], ends: list[End]) -> list[tuple[int, int]]:
    """Return from when to when some worker was there to take over; sorted, apart from one another."""
    spans: list[tuple[int, int]] = []
    for worker, from_us in connection.execute("SELECT id, started_us FROM worker").fetchall():
        mine = sorted((e for e in ends if e.pid == pids.get(worker)), key=lambda e: e.at_us)
        for end in mine:
            spans.append((from_us, end.at_us))
            from_us = end.resumed_us or end.at_us
    apart: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if apart and low <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], high))
        else:
            apart.append((low, high))
    return apart


def _locked(connection: Reading, ends: list[End]) -> list[tuple[int, int]]:
    """Return from when to when the store was locked by a process that was stopped in a transaction:
    nobody else could write.
    """
    rows = connection.execute(
        "SELECT received_us FROM invocation UNION SELECT settled_us FROM invocation ORDER BY 1"
    ).fetchall()
    moments = [at_us for (at_us,) in rows]
    found = []
    for end in ends:
        if end.signum == signal.SIGSTOP and end.resumed_us is not None:
            i = bisect.bisect(moments, end.at_us + _SETTLING_US)
            if i == len(moments) or moments[i] >= end.resumed_us:
                found.append((end.at_us, end.resumed_us))
    return found


def _without(spans: list[tuple[int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what is left of *spans* outside *holes*."""
    for low, high in holes:
        cut = [
            part for since, to in spans for part in ((since, min(to, low)), (max(since, high), to))
        ]
        spans = [(since, to) for since, to in cut if since < to]
    return spans


def _covered_us(spans: list[tuple[int, int]], low: int, high: int) -> int:
    """Return how much of the time from *low* to *high* lies in *spans*."""
    return sum(max(0, min(high, to) - max(low, since)) for since, to in spans)


def _pids(
    connection: Reading,
    ledger: Ledger,
    levels: dict[int, int],
    numbers: dict[int, int],
    ends: list[End],
) -> dict[int, int]:
    """Return worker id -> pid: by the calls of the worker that the ledger has at the same time,
    else by when it started.
    """
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    rows = connection.execute(
        "SELECT worker_id, subscription_id, seq, started_us FROM invocation WHERE started_us IS NOT"
        " NULL"
    )
    for worker, s, seq, started_us in rows:
        calls = ledger.begun[levels[s], numbers[seq]]
        if calls:
            votes[worker][min(calls, key=lambda call: abs(call.at_us - started_us)).pid] += 1
    pids = {worker: counted.most_common(1)[0][0] for worker, counted in votes.items()}
    for worker, started_us in connection.execute(
        "SELECT id, started_us FROM worker ORDER BY id"
    ).fetchall():
        free = [
            e
            for e in ends
            if e.pid not in pids.values() and e.started_us < started_us < (e.exited_us or e.at_us)
        ]
        if worker not in pids and free:
            pids[worker] = max(free, key=lambda e: e.started_us).pid
    return pids


def _exits(found: Verdict, storm: Storm) -> None:
    """Look at how processes ended that were asked to, and at those that nobody asked."""
    for end in storm.ends:
        asked = end.signum == signal.SIGTERM
        up = bool(storm.out.get(end.pid))
        if asked and end.exited_us is None:
            found.broken.append(f"a worker did not end within {DRAIN_S:g} s of SIGTERM")
        elif asked:
            found.drain_s = max(found.drain_s, ((end.exited_us or 0) - end.at_us) / 1e6)
        if asked and end.status not in (0, None) and (up or end.status != -signal.SIGTERM):
            found.complaints.append(f"a worker ended with status {end.status} after SIGTERM")
        if end.signum == 0:
            found.complaints.append(
                f"a worker ended by itself with status {end.status}:"
                f" {storm.err.get(end.pid, '')[-300:]!r}"
            )


def _promises(found: Verdict, storm: Storm) -> None:
    zero = {
        "lost": found.lost,
        "second outcomes": found.doubled,
        "stuck": found.stuck,
        "outcomes without a run": found.unrun,
    }
    found.broken += [f"{n} {what}" for what, n in zero.items() if n]
    if not found.balanced:
        found.broken.append("bus.audit() is not balanced")
    if found.integrity != "ok":
        found.broken.append(f"integrity_check: {found.integrity}")
    if found.served_s > LEASE_S + GRACE_S:
        found.broken.append(
            f"recovery took {found.served_s:.1f} s in which a worker was up, promised are"
            f" {LEASE_S + GRACE_S:g} s"
        )
    if storm.publisher_failed:
        found.broken.append(storm.publisher_failed)


@dataclasses.dataclass
class PeerVerdict:
    """One storm over huey, from the ledger and what was left in its queue."""

    seed: int
    events: int
    kills: int
    done: int
    lost: int
    stuck: int
    repeats: int
    per_s: float


def judge_peer(storm: Storm, sizes: Sizes, seed: int) -> PeerVerdict:
    """Lost is what never ended and is no longer in the queue."""
    ledger = Ledger(storm.ledger)
    done = sum(bool(ledger.ended[1, n]) for n in range(sizes.events))
    kills = sum(e.signum == signal.SIGKILL for e in storm.ends)
    return PeerVerdict(
        seed,
        sizes.events,
        kills,
        done,
        sizes.events - done - storm.stuck,
        storm.stuck,
        ledger.repeats,
        done / storm.seconds,
    )
