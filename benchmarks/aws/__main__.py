"""``python -m benchmarks.aws``: mltrigger on SQS beside a bare boto3 loop and Celery; write it to
``RESULTS.md`` when asked.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mltrigger as mt
from benchmarks.aws import bare, ours, peers
from benchmarks.aws.count import Drained, Published, drain, latencies, published
from benchmarks.aws.server import FAUXQS, Server, fauxqs
from benchmarks.harness import PAYLOAD_BYTES, scratch, version_of
from benchmarks.latency import WARM
from benchmarks.report import (
    Report,
    Table,
    Target,
    median_ratio,
    number,
    quantile,
    replaced,
    spread,
)

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
LIMIT = "bare loop, bodies only"
BARE = {
    LIMIT: (1,),
    "bare loop, all attributes": (1, "attributes"),
    "bare loop, 4 threads": (4, "attributes"),
}
OURS = {
    "batch": "mltrigger, batches of 100",
    "one": "mltrigger, one a call",
    "slots": "mltrigger, one a call, 4 slots",
}
TUNED, DEFAULT = "Celery, tuned", "Celery, defaults"
FEW = 40
"""Messages for a worker that takes seconds for them."""

Drains = dict[str, list[Drained]]
Publishes = dict[str, list[Published]]


class Sizes:
    """How much to do: backlogs, repetitions, events one by one."""

    def __init__(self, quick: bool, backlogs: Sequence[int] | None) -> None:
        self.quick = quick
        self.backlogs = list(backlogs or ([300] if quick else [2_000, 10_000]))
        self.repetitions = 1 if quick else 3
        self.singles = 40 if quick else 300
        self.rounds = 1 if quick else 2
        self.within_s = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    asked = _arguments(arguments)
    with fauxqs() as server:
        report = run(server, Sizes(asked.quick, asked.events))
    print(report.text())
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 0


def run(server: Server, sizes: Sizes) -> Report:
    """Measure everybody in turn."""
    names = (f"bench{n}" for n in itertools.count())
    backlogs: dict[int, Drains] = {}
    sent: Publishes = {}
    for events in sizes.backlogs:
        found = backlogs[events] = {}
        for turn in range(sizes.repetitions):
            _say(f"backlog of {events:,}, {turn + 1} of {sizes.repetitions}")
            _backlog(server, next(names), events, turn, sizes, found, sent)
            if events == min(sizes.backlogs) and version_of("celery") != "not installed":
                _celery(server, next(names), events, sizes, found, sent)
    return _report(backlogs, sent, _latency(server, names, sizes), sizes)


def _backlog(
    server: Server,
    prefix: str,
    events: int,
    turn: int,
    sizes: Sizes,
    found: Drains,
    sent: Publishes,
) -> None:
    """Publish once; the queues of all sides get the very same messages.

    Each time another one is the first to empty its queue.
    """
    queues: dict[str, str] = {}

    def twins() -> None:
        queues.update(
            (name, ours.twin(server, prefix, f"{prefix}-{i}")) for i, name in enumerate(BARE)
        )

    with scratch() as folder:
        log = str(folder / "log.db")
        publish = ours.arguments("publish", prefix, log, events, *OURS)
        sent.setdefault("mltrigger, publish_batch", []).append(
            published(server, publish, events, twins)
        )
        sides = {name: bare.arguments("drain", queues[name], *how) for name, how in BARE.items()}
        sides |= {shown: ours.arguments("drain", prefix, log, name) for name, shown in OURS.items()}
        order = list(sides)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            found.setdefault(name, []).append(drain(server, sides[name], events, sizes.within_s))


def _celery(
    server: Server, queue: str, events: int, sizes: Sizes, found: Drains, sent: Publishes
) -> None:
    for name, count in ((TUNED, events), (DEFAULT, FEW)):
        place, kind = f"{queue}-{count}", "tuned" if name == TUNED else "default"
        done = published(server, peers.arguments("publish", place, count), count)
        if name == TUNED:
            sent.setdefault("Celery, apply_async", []).append(done)
        found.setdefault(name, []).append(
            drain(server, peers.arguments("drain", place, kind), count, sizes.within_s)
        )


def _latency(server: Server, names: Iterator[str], sizes: Sizes) -> dict[str, list[float]]:
    """Send events one by one and note how long they take; twice, so that no one has the quiet half."""
    count, found = sizes.singles, dict[str, list[float]]()

    def of_bare() -> list[float]:
        topic, queue = bare.pair(server, next(names))
        return latencies(
            server,
            bare.arguments("poll", queue, count + WARM),
            bare.arguments("send", topic, count),
        )

    def of_ours() -> list[float]:
        with scratch() as folder:
            place = (next(names), str(folder / "log.db"))
            return latencies(
                server,
                ours.arguments("poll", *place, count + WARM),
                ours.arguments("send", *place, count),
            )

    def of_celery() -> list[float]:
        queue = next(names)
        return latencies(
            server,
            peers.arguments("poll", queue, count + WARM),
            peers.arguments("send", queue, count),
        )

    cases: dict[str, Callable[[], list[float]]] = {"bare long poll": of_bare, "mltrigger": of_ours}
    if version_of("celery") != "not installed":
        cases[TUNED] = of_celery
    for _, (name, case) in itertools.product(range(sizes.rounds), cases.items()):
        _say(f"latency of {name}")
        found.setdefault(name, []).extend(case()[WARM:])
    return found


# -- the report ------------------------------------------------------------------------------------


def _report(
    backlogs: dict[int, Drains], sent: Publishes, taken_ms: dict[str, list[float]], sizes: Sizes
) -> Report:
    report = Report("AWS", "SNS and SQS, beside a bare boto3 loop and Celery on one server")
    for events, found in backlogs.items():
        report.tables.append(_drained(events, found))
        report.targets += _targets(events, found)
    rows = [
        (
            name,
            number(statistics.median(p.per_s for p in all_)),
            f"{statistics.median(p.requests_per_event for p in all_):.3f}",
        )
        for name, all_ in sent.items()
    ]
    report.tables.append(Table("Publishing", ("what", "events/s", "API requests an event"), rows))
    requests = statistics.median(p.requests_per_event for p in sent["mltrigger, publish_batch"])
    report.targets.append(
        Target(
            "API requests an event, publishing in batches",
            "<= 0.1",
            f"{requests:.3f}",
            requests <= 0.1,
        )
    )
    rows_ms = [
        (name, str(len(t)), *(number(quantile(t, q)) for q in (0.5, 0.95, 0.99)), number(max(t)))
        for name, t in taken_ms.items()
    ]
    report.tables.append(
        Table(
            "Publish to start, milliseconds",
            ("what", "events", "p50", "p95", "p99", "max"),
            rows_ms,
        )
    )
    report.notes += _notes(sizes, min(map(len, backlogs[min(backlogs)].values())))
    return report


def _drained(events: int, found: Drains) -> Table:
    rows = []
    for name, all_ in found.items():
        rates, few = [d.per_s for d in all_], all_[0].events < events
        rows.append(
            (
                f"{name} ({all_[0].events} events)" if few else name,
                number(statistics.median(rates)),
                spread(rates),
                f"{median_ratio(rates, [d.per_s for d in found[LIMIT]]):.2f}",
                f"{statistics.median(d.requests_per_event for d in all_):.3f}",
                f"{statistics.median(d.cpu_s_per_1000 for d in all_):.2f}",
            )
        )
    return Table(
        f"Emptying a backlog of {events:,} events",
        ("what", "events/s", "range", "of the bare loop", "API requests an event", "CPU s/1,000"),
        rows,
    )


def _targets(events: int, found: Drains) -> list[Target]:
    limit, targets = [d.per_s for d in found[LIMIT]], []
    for name in OURS.values():
        ratio = median_ratio([d.per_s for d in found[name]], limit)
        requests = statistics.median(d.requests_per_event for d in found[name])
        where = f"{name}, backlog of {events:,}"
        targets.append(Target(f"{where}: of the bare loop", ">= 0.9", f"{ratio:.2f}", ratio >= 0.9))
        targets.append(
            Target(
                f"{where}: API requests an event", "<= 0.22", f"{requests:.3f}", requests <= 0.22
            )
        )
    return targets


def _notes(sizes: Sizes, repetitions: int) -> list[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        (
            f"`python -m benchmarks.aws`; fauxqs {FAUXQS} on loopback as a process of its own,"
            f" {cores} cores shared with it; boto3 {version_of('boto3')}, mltrigger"
            f" {mt.__version__}, Celery {version_of('celery')}, kombu {version_of('kombu')}, Python"
            f" {sys.version.split()[0]}. Load at the end (1 min):"
            f" {os.getloadavg()[0]:.1f}.{' Quick: small and noisy.' if sizes.quick else ''}"
        ),
        (
            f"{PAYLOAD_BYTES} bytes of JSON an event. mltrigger publishes each backlog once to a"
            " topic; its own queues and those of the bare loops are subscribed to it and get the"
            " very same messages. Each side empties its queue in a process of its own, one after"
            f" the other, each time beginning with another one; {repetitions} repetitions, medians,"
            " ratios within a repetition."
        ),
        (
            "Events per second, requests and CPU from the arrival of the first ReceiveMessage to"
            " the answer of the last delete, by the server's clock and log, for everybody; all"
            " requests count, empty receives too. CPU of all threads and processes of a side."
        ),
        (
            "Bare loop: receive 10, json.loads, a function that does nothing, delete the 10 in one"
            " call; no log. Bodies only is the limit that the targets are measured by; an event"
            " needs the attributes too. mltrigger records the outcome of each event durably"
            " (SQLite, FULL) before it deletes the message."
        ),
        (
            "Celery: kombu's SQS transport. Tuned: acks_late, results ignored, prefetch 100, long"
            f" polls without pauses, solo pool (of its pools the fastest here). Defaults: {FEW}"
            " events only, for its pauses. It sends each task in a request of its own."
        ),
        (
            f"Publishing: mltrigger in batches to one topic with {len(OURS) + len(BARE)} queues,"
            " durably in its log first; Celery to one. Compare the requests, not the rates."
        ),
        (
            "Publish to start: one event every 10 to 30 ms, sender and receiver in two processes,"
            f" the first {WARM} left out; bare and mltrigger through SNS to SQS, Celery to SQS;"
            " mltrigger with its durable commit before sending and its lease after receiving."
        ),
    ]


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws",
        description="mltrigger on SQS beside a bare boto3 loop and Celery",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, one repetition: for a smoke test; the figures are noisy",
    )
    parser.add_argument(
        "--events",
        type=int,
        action="append",
        help="size of a backlog (may be repeated; default: 2000 and 10000)",
    )
    parser.add_argument("--write", action="store_true", help=f"write the section in {RESULTS.name}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
