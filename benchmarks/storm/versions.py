"""``python -m benchmarks.storm.versions``: promotes and rollbacks while workers are killed.

Events are published all the time. Each one must have one live answer, by the version that the
ledger says. The pause of a change is the time from its commit to the first call of the new version.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import mltrigger as mt
from benchmarks.harness import filesystem, scratch
from benchmarks.report import Report, Table, Target, number, quantile, replaced
from benchmarks.storm.processes import Crowd
from benchmarks.storm.versioned import MODEL_S
from mltrigger.store.ledger import Binding, covering

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
ONE, TWO = "read:1.0.0", "read:2.0.0"
_BATCH = 50
_SKEW_US = 20_000
"""How far the clocks of two processes may differ: one may be preempted while it reads two clocks."""
_OUTCOMES = """
SELECT o.seq, o.attempt, i.outcome, l.binding, l.role, m.name || ':' || m.version, i.output,
  l.received_us, l.started_us + coalesce(o.began_us, 0)
FROM outcome o JOIN lot l ON l.id = o.lot_id
JOIN invocation i ON i.subscription_id = o.subscription_id AND i.seq = o.seq
  AND i.attempt = o.attempt
LEFT JOIN model_version m ON m.id = l.model_version_id
WHERE o.subscription_id = :s ORDER BY o.seq, o.attempt
"""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much happens."""

    events: int = 20_000
    changes: int = 100
    kills: int = 30
    workers: int = 4


@dataclasses.dataclass
class Found:
    """What became of it."""

    broken: list[str] = dataclasses.field(default_factory=list)
    pauses_ms: list[float] = dataclasses.field(default_factory=list)
    calls_ms: list[float] = dataclasses.field(default_factory=list)
    answers: dict[str, int] = dataclasses.field(default_factory=dict)
    attempts: int = 0
    abandoned: int = 0
    kills: int = 0
    changes: int = 0
    seconds: float = 0.0


def storm(folder: Path, sizes: Sizes, seed: int) -> Found:
    """Run one storm, and judge it."""
    chance, began = random.Random(seed), time.monotonic()
    url = f"sqlite:///{folder / 'bus.db'}"
    with mt.connect(url) as bus:
        bus.subscribe(
            "pages",
            mt.model("benchmarks.storm.versioned:one", name="read", version="1.0.0"),
            listen=False,
            lease_s=3.0,
            timeout_s=1.0,
        )
        bus.register(mt.model("benchmarks.storm.versioned:two", name="read", version="2.0.0"))
        arguments = ["-u", "-m", "mltrigger", "worker", "--url", url]
        crowd = Crowd(arguments, {}, sizes.workers, folder)
        publisher = threading.Thread(target=_publish, args=(bus, sizes))
        try:
            kills = _change(bus, crowd, publisher, sizes, chance)
            _drain(bus, crowd)
        finally:
            crowd.abort()
            publisher.join()
        found = _judged(bus, sizes)
    found.kills, found.changes, found.seconds = kills, sizes.changes, time.monotonic() - began
    return found


def _publish(bus: mt.EventBus, sizes: Sizes) -> None:
    """Publish as fast as the workers work: a short backlog is there all the time."""
    sub = bus.subscription("read")
    for first in range(0, sizes.events, _BATCH):
        bus.publish_batch("pages", [{"n": n} for n in range(first, first + _BATCH)])
        while sub.depth().open > 8 * _BATCH:
            time.sleep(0.02)


def _change(
    bus: mt.EventBus,
    crowd: Crowd,
    publisher: threading.Thread,
    sizes: Sizes,
    chance: random.Random,
) -> int:
    sub, killed, done = bus.subscription("read"), 0, 0
    while not crowd.all_up:
        time.sleep(0.05)
    publisher.start()
    share = sizes.events / (sizes.changes + 1)
    while done < sizes.changes:
        crowd.look()
        if bus.tally(bus.spec("read")).get("succeeded", 0) < share * (done + 1):
            if not publisher.is_alive() and not sub.depth().open:
                break
            time.sleep(0.01)
            continue
        _next(sub, done, chance)
        done += 1
        if killed < sizes.kills * done / sizes.changes:
            killed += crowd.strike(signal.SIGKILL, chance, 0.0)
    return killed


def _next(sub: mt.Subscription, done: int, chance: random.Random) -> None:
    now = sub.history()[-1].version
    if done % 2 and chance.random() < 0.5:
        sub.rollback()
    else:
        backlog = chance.choice(["new", "old"])
        sub.promote(TWO if now == ONE else ONE, backlog=backlog)  # type: ignore[arg-type]


def _drain(bus: mt.EventBus, crowd: Crowd) -> None:
    sub, until = bus.subscription("read"), time.monotonic() + 120
    while sub.depth().open and time.monotonic() < until:
        crowd.look()
        time.sleep(0.05)


def _judged(bus: mt.EventBus, sizes: Sizes) -> Found:
    found, spec = Found(), bus.spec("read")
    rows = bus.rollout.ledger.rows(spec.id)
    with bus.log._store.snapshot() as reader:
        attempts = reader.query(_OUTCOMES, {"s": spec.id})
    answered: dict[int, int] = {}
    starts: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for seq, attempt, outcome, binding, _, version, output, received_us, started_us in attempts:
        found.attempts += 1
        found.abandoned += outcome == "abandoned"
        first.setdefault(seq, binding)
        if started_us is not None:
            starts.setdefault(binding, []).append(started_us)
        if outcome != "succeeded":
            continue
        answered[seq] = answered.get(seq, 0) + 1
        found.answers[version] = found.answers.get(version, 0) + 1
        row: Binding = rows[binding]
        if version != row.answers or output.strip('"') != row.answers.partition(":")[2]:
            found.broken.append(f"event {seq}: {output} by {version}, binding {binding} says other")
        known = [b for b in rows if b.made_us + _SKEW_US <= received_us]
        if attempt == 1 and covering(known or rows[:1], seq).number > binding:
            late_us = received_us - rows[binding + 1].made_us
            found.broken.append(
                f"event {seq}: a listener did not know binding {binding + 1}, {late_us} us old"
            )
    for seq, n in answered.items():
        if n != 1:
            found.broken.append(f"event {seq}: {n} answers")
    if len(answered) != sizes.events:
        found.broken.append(f"{sizes.events - len(answered)} events have no answer")
    if not bus.audit()["balanced"].all():
        found.broken.append("the audit does not balance")
    counted = sum(b.answered for b in bus.subscription("read").history())
    if counted != sizes.events:
        found.broken.append(f"history() counts {counted} answers")
    took = bus.invocations(columns=["model_ms"])["model_ms"].dropna()
    found.calls_ms = list(took)
    found.pauses_ms = _pauses(rows, starts)
    return found


def _pauses(rows: Sequence[Binding], starts: dict[int, list[int]]) -> list[float]:
    """Return the time from each change to the next call of any worker.

    Retries of the version before it count as calls too: they are work.
    """
    every = sorted(at for each in starts.values() for at in each)
    pauses = []
    for row in rows[1:]:
        place = bisect.bisect_left(every, row.made_us)
        if place < len(every):
            pauses.append((every[place] - row.made_us) / 1000)
    return pauses


def report_of(found: Sequence[Found], sizes: Sizes) -> Report:
    """Return the section of ``RESULTS.md``."""
    report = Report(
        "Storm of versions",
        f"{sizes.changes} promotes and rollbacks under {sizes.events:,} events,"
        f" {sizes.workers} workers, {sizes.kills} of them killed",
    )
    rows, pauses, longest = [], [], 0.0
    for n, one in enumerate(found):
        pauses += one.pauses_ms
        longest = max(longest, *one.calls_ms)
        rows.append(
            [
                str(n),
                *(f"{one.answers.get(v, 0):,}" for v in (ONE, TWO)),
                f"{one.abandoned}",
                f"{one.kills}",
                f"{number(quantile(one.pauses_ms, 0.5))} / {number(max(one.pauses_ms))}",
                number(max(one.calls_ms)),
                f"{len(one.broken)}",
            ]
        )
    columns = (
        "seed",
        ONE,
        TWO,
        "abandoned",
        "kills",
        "pause ms p50 / max",
        "longest call",
        "broken",
    )
    report.tables.append(
        Table("Each event has one answer, by the version of its binding", columns, rows)
    )
    wrong = sum(len(one.broken) for one in found)
    report.targets += [
        Target(
            "events without one answer by the version that history says", "0", str(wrong), not wrong
        ),
        Target(
            "median pause of a change, in longest calls",
            "at most 1",
            f"{quantile(pauses, 0.5) / longest:.2f}",
            quantile(pauses, 0.5) <= longest,
        ),
        Target(
            "longest pause of a change, in longest calls",
            "at most 1",
            f"{max(pauses) / longest:.2f}",
            max(pauses) <= longest,
        ),
    ]
    report.notes += [
        "`python -m benchmarks.storm.versions --write`. The pause is the time from the commit of a"
        " change to the next call of any worker, with kills in between. A call takes"
        f" {MODEL_S * 1000:g} ms.",
    ]
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm.versions")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a small one")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    asked = parser.parse_args(arguments)
    sizes = Sizes(1_000, 10, 3, 2) if asked.smoke else Sizes()
    found = []
    for seed in range(1 if asked.smoke else asked.seeds):
        with scratch() as folder:
            print(f"seed {seed} on {filesystem(folder)}", flush=True)
            found.append(storm(folder, sizes, seed))
        for line in found[-1].broken[:12]:
            print(f"  broken: {line}", flush=True)
        print(f"  {found[-1].seconds:.0f} s, {found[-1].attempts:,} attempts", flush=True)
    report = report_of(found, sizes)
    print(report.text())
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
    return int(any(one.broken for one in found))


if __name__ == "__main__":
    sys.exit(main())
