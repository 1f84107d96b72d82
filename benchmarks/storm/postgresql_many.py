"""``python -m benchmarks.storm.postgresql_many``: workers of several machines on one log in
PostgreSQL.

The machines are network namespaces with a bridge between them, as root on Linux. Elsewhere they are
groups of processes that speak TCP with the server. The report says which.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

import mltrigger as mt
from benchmarks.harness import Counted, payloads, quiet
from benchmarks.postgresql.clients import BATCH, address, subscribed
from benchmarks.postgresql.servers import Postgres, server
from benchmarks.report import Report, Table, Target, number, replaced

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "RESULTS.md"
NETWORK, BRIDGE = "10.214.77", "mltbr0"
SCHEMA = "many"
_STUCK_S = 120.0
"""No new outcome for so long: something is stuck."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A place where workers run: words before their command, and the address of the server."""

    name: str
    prefix: Sequence[str]
    host: str


@dataclasses.dataclass(frozen=True)
class Found:
    """The state of the log at the end."""

    published: int
    outcomes: int
    events_with_outcome: int
    open: int
    by_worker: Counter[int]
    published_s: float
    all_s: float
    places: str

    @property
    def broken(self) -> list[str]:
        """The promises that were not kept."""
        complaints = {
            "lost": self.published - self.events_with_outcome,
            "with a second outcome": self.outcomes - self.events_with_outcome,
            "still open": self.open,
        }
        return [f"{n:,} events {what}" for what, n in complaints.items() if n]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 when a promise was broken."""
    asked = _arguments(arguments)
    quiet()
    if asked.worker:
        return _work(asked.worker)
    found = storm(asked.events, asked.workers, asked.machines)
    report = report_of(found, asked.workers)
    print(report.text())
    print("\n".join(f"broken: {line}" for line in found.broken) or "every promise was kept")
    if asked.write:
        RESULTS.write_text(replaced(RESULTS.read_text(), report))
        print(f"written: {RESULTS.name}")
    return 1 if found.broken else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm.postgresql_many")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def storm(events: int, workers: int, count: int) -> Found:
    """Publish *events* while *workers* on so many machines consume them."""
    with server("-c", "listen_addresses=*") as running, machines(count) as (places, which):
        _let_in(running)
        dsn = running.dsn("postgres")
        with mt.connect(address(dsn, SCHEMA)) as bus:
            sub = subscribed(bus, Counted().many, batch_size=BATCH)
            crowd = [_start(running, places[n % len(places)]) for n in range(workers)]
            try:
                _wait(lambda: _listening(dsn) == workers)
                began_s, samples = time.monotonic(), payloads(BATCH)
                for at in range(0, events, BATCH):
                    bus.publish_batch("documents", samples[: min(BATCH, events - at)])
                published_s = time.monotonic() - began_s
                ended = sum(bus.tally(sub._spec).values())
                last_s = time.monotonic()
                while ended < events and time.monotonic() - last_s < _STUCK_S:
                    time.sleep(0.2)
                    before, ended = ended, sum(bus.tally(sub._spec).values())
                    last_s = time.monotonic() if ended > before else last_s
                all_s = time.monotonic() - began_s
            finally:
                for worker in crowd:
                    _end(worker)
        return _judged(dsn, published_s, all_s, which)


def _let_in(running: Postgres) -> None:
    """Let the other machines connect."""
    with (running.data / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {NETWORK}.0/24 trust\n")
    with psycopg.connect(running.dsn("postgres"), autocommit=True) as session:
        session.execute("SELECT pg_reload_conf()")


def _listening(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as session:
        row = session.execute(f"SELECT count(DISTINCT worker_id) FROM {SCHEMA}.listener").fetchone()
    return int(row[0]) if row else 0


def _wait(done: object, most_s: float = 120.0) -> None:
    until_s = time.monotonic() + most_s
    while not done():  # type: ignore[operator]
        if time.monotonic() > until_s:
            raise TimeoutError("not all workers have come")
        time.sleep(0.2)


def _judged(dsn: str, published_s: float, all_s: float, which: str) -> Found:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"SET search_path TO {SCHEMA}")

        def one(sql: str) -> int:
            row = session.execute(sql).fetchone()
            return int(row[0]) if row else 0

        rows = session.execute("SELECT worker_id, sum(n) FROM lot GROUP BY worker_id").fetchall()
        return Found(
            one("SELECT count(*) FROM event"),
            one("SELECT count(*) FROM outcome"),
            one("SELECT count(DISTINCT seq) FROM outcome"),
            one("SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM leased)"),
            Counter({worker: int(n) for worker, n in rows}),
            published_s,
            all_s,
            which,
        )


# -- machines --------------------------------------------------------------------------------------


@contextlib.contextmanager
def machines(count: int) -> Iterator[tuple[list[Machine], str]]:
    """Make *count* machines, and remove them afterwards. Say of which kind they are."""
    names = [f"mlt-{os.getpid()}-{n}" for n in range(count)]
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(_remove, names)
            _make(names)
        except (OSError, subprocess.CalledProcessError):
            local = [Machine(name, (), "127.0.0.1") for name in names]
            yield local, f"{count} groups of processes over TCP (no network namespaces here)"
            return
        apart = [Machine(n, ("ip", "netns", "exec", n), f"{NETWORK}.1") for n in names]
        yield apart, f"{count} network namespaces, with a bridge"


def _make(names: Sequence[str]) -> None:
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for n, name in enumerate(names):
        here, there = f"mltv{n}", f"mltw{n}"
        _ip("netns", "add", name)
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        _ip("link", "set", here, "master", BRIDGE, "up")
        _ip("link", "set", there, "netns", name)
        _ip("-n", name, "addr", "add", f"{NETWORK}.{n + 10}/24", "dev", there)
        _ip("-n", name, "link", "set", there, "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _remove(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            _ip("netns", "del", name)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        _ip("link", "del", BRIDGE)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# -- workers ---------------------------------------------------------------------------------------


def _start(running: Postgres, machine: Machine) -> subprocess.Popen[bytes]:
    dsn = f"postgresql://app@{machine.host}:{running.port}/postgres"
    return subprocess.Popen(
        [
            *machine.prefix,
            *(sys.executable, "-m", "benchmarks.storm.postgresql_many"),
            *("--worker", address(dsn, SCHEMA)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _end(worker: subprocess.Popen[bytes]) -> None:
    assert worker.stdin is not None
    worker.stdin.close()
    try:
        worker.wait(60)
    except subprocess.TimeoutExpired:
        worker.kill()


def _work(url: str) -> int:
    """Consume until the input ends."""
    with mt.connect(url) as bus:
        sub = subscribed(bus, Counted().many, batch_size=BATCH)
        sub.start()
        sys.stdin.buffer.read()
        sub.stop()
    return 0


# -- the report ------------------------------------------------------------------------------------


def report_of(found: Found, workers: int) -> Report:
    """Return the figures, beside the promises."""
    report = Report("PostgreSQL, many machines", "workers on several machines share one log")
    shares = [found.by_worker[w] / max(1, found.outcomes) * 100 for w in found.by_worker]
    row = (
        found.places,
        f"{found.published:,}",
        f"{found.outcomes:,}",
        str(found.published - found.events_with_outcome),
        str(found.outcomes - found.events_with_outcome),
        str(found.open),
        number(found.published / found.published_s),
        number(found.outcomes / found.all_s),
        f"{min(shares, default=0):.0f}-{max(shares, default=0):.0f} %",
    )
    head = (
        *("machines", "events", "outcomes", "lost", "second outcomes", "stuck"),
        *("published/s", "ended/s", "share of a worker"),
    )
    report.tables.append(Table(f"{workers} workers", head, [row]))
    report.targets.append(
        Target(
            f"{found.published:,} events: none lost, none twice, none stuck",
            "0",
            "; ".join(found.broken) or "0",
            not found.broken,
        )
    )
    report.notes.append(
        f"One publisher, publish_batch of {BATCH:,}, while the workers consume through a no-op"
        f" batch model; {len(found.by_worker)} of {workers} workers took part. Ended/s: from the"
        " first publish to the last outcome. Server and workers share one machine of"
        f" {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
        " cores."
    )
    return report


if __name__ == "__main__":
    sys.exit(main())
