"""Effects under kills: a payment server counts, workers die, and the record says what happened.

``python -m benchmarks.effects URL`` is one of the workers. ``BANK`` is the port of the server.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Options, scratch, url
from benchmarks.report import Report, Table, Target, number

EVENTS, KILLS, WORKERS = 5_000, 60, 3
_SEED = 20_261_130
_PLAIN = 2_000
_LIMIT_S = 900.0


class Bank(http.server.ThreadingHTTPServer):
    """A payment server. It counts each request, and may kill its caller before it answers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.charges: Counter[int] = Counter()
        self.keys: dict[int, set[str]] = {}
        self.fatal: set[int] = set()
        self.guard = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that died."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Bank
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        order, key, pid = self.path.strip("/").split("/")
        with self.server.guard:
            self.server.charges[int(order)] += 1
            self.server.keys.setdefault(int(order), set()).add(key)
            is_fatal = int(order) in self.server.fatal
            self.server.fatal.discard(int(order))
        if is_fatal:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.send_response(204)
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


_line = threading.local()


def charge(order: int, idempotency_key: str) -> int:
    """Let the bank charge an order."""
    if not hasattr(_line, "bank"):
        port = int(os.environ["BANK"])
        _line.bank = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    _line.bank.request("POST", f"/{order}/{idempotency_key}/{os.getpid()}")
    _line.bank.getresponse().read()
    return order


def pay(order: int) -> Any:
    """Charge an order at most once."""
    return mt.once("charge", charge, order)


def worker(store: str) -> None:
    """Deliver orders until the process dies."""
    with mt.connect(store) as bus:
        bus.subscribe("orders", pay, start="earliest", max_concurrency=1)
        sys.stdin.read()


class Crowd:
    """Workers in processes of their own. A dead one is replaced."""

    def __init__(self, store: str, port: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.effects", store]
        self._environment = {**os.environ, "BANK": str(port)}
        self._alive: list[subprocess.Popen[bytes]] = []
        self.deaths = 0

    def look(self) -> None:
        """Count the dead and start others."""
        living = [each for each in self._alive if each.poll() is None]
        ended = {each.returncode for each in self._alive} - {None, -signal.SIGKILL}
        assert not ended, f"a worker ended by itself: {ended}"
        self.deaths += len(self._alive) - len(living)
        new = [
            subprocess.Popen(self._command, stdin=subprocess.PIPE, env=self._environment)
            for _ in range(WORKERS - len(living))
        ]
        self._alive = living + new

    def kill_one(self, random_: random.Random) -> None:
        """Kill any worker, wherever it is."""
        random_.choice(self._alive).kill()

    def close(self) -> None:
        """End all workers."""
        for each in self._alive:
            each.kill()
            each.wait()


@contextlib.contextmanager
def _bank() -> Iterator[Bank]:
    with Bank() as bank:
        threading.Thread(target=bank.serve_forever, daemon=True).start()
        yield bank
        bank.shutdown()


def run(options: Options) -> Report:
    """Charge each order once while workers die. Then charge on a quiet machine, for the cost."""
    events, kills = options.size(EVENTS, 300), options.size(KILLS, 6)
    with scratch() as folder:
        storm = _storm(folder / "storm.db", events, kills)
        rates = {
            "an event with one effect": _rate(folder / "once.db", options.size(_PLAIN, 200), True),
            "the same event without": _rate(folder / "plain.db", options.size(_PLAIN, 200), False),
        }
    return _report(storm, rates, events)


def _storm(path: Path, events: int, kills: int) -> dict[str, int]:
    random_ = random.Random(_SEED)
    with mt.connect(url(path)) as bus, _bank() as bank:
        bus.topic("orders")
        bus.publish_batch("orders", list(range(events)))
        bank.fatal = set(random_.sample(range(events), kills // 2))  # after the charge
        aimed, any_time = len(bank.fatal), kills - kills // 2
        crowd = Crowd(url(path), bank.server_address[1])
        began_s = time.monotonic()
        try:
            while (done := _ended(bus)) < events:
                assert time.monotonic() - began_s < _LIMIT_S, f"only {done} of {events} ended"
                crowd.look()
                killed = crowd.deaths - (aimed - len(bank.fatal))
                if killed < any_time and done > events * killed / any_time * 0.9:
                    crowd.kill_one(random_)
                time.sleep(0.05)
            crowd.look()
        finally:
            crowd.close()
        sub = bus.subscription("pay")
        states = sub.effects()["state"].value_counts()
        letters = sub.dead_letters()
        charges, results = bank.charges, sub.invocations(columns=["outcome", "output"])
        paid = {int(text) for text in results.loc[results["outcome"] == "succeeded", "output"]}
        before = charges.total()
        replayed = _replayed(bus, bank.server_address[1])
        return {
            "replayed": replayed,
            "calls": charges.total() - before,
            "kills": crowd.deaths,
            "charged": len(charges),
            "twice": sum(n > 1 for n in charges.values()),
            "keys": sum(len(keys) > 1 for keys in bank.keys.values()),
            "unknown": int(states["unknown"]),
            "letters": int((letters["reason"] == "effect_unknown").sum()),
            "lost": events - len(paid) - len(letters) + len(paid - charges.keys()),
            "balanced": int(bus.audit()["balanced"].all()),
        }


def _replayed(bus: mt.EventBus, port: int) -> int:
    """Replay all orders here. Return how many got their recorded answer."""
    os.environ["BANK"] = str(port)
    sub = bus.subscribe("orders", pay, start="earliest", max_concurrency=1)
    lane = sub.replay(sub.selector, wait=True)
    return int((lane.results()["outcome"] == "succeeded").sum())


def _ended(bus: mt.EventBus) -> int:
    counts = [each for tally in bus.log.tallies().values() for each in tally.items()]
    return sum(n for outcome, n in counts if outcome in ("succeeded", "dead", "skipped"))


def _rate(path: Path, events: int, with_effect: bool) -> float:
    """Return the events a second of one thread, whose model has an effect or has none."""

    def model(order: int) -> Any:
        return mt.once("charge", abs, order) if with_effect else abs(order)

    with mt.connect(url(path)) as bus:
        bus.topic("orders")
        bus.publish_batch("orders", list(range(events)))
        began_s = time.perf_counter()
        sub = bus.subscribe("orders", model, start="earliest", max_concurrency=1)
        while sum(bus.tally(sub._spec).values()) < events:
            time.sleep(0.001)
        return events / (time.perf_counter() - began_s)


def _report(storm: dict[str, int], rates: dict[str, float], events: int) -> Report:
    report = Report("effects", f"{events:,} orders are charged while workers are killed")
    found = (
        ("workers killed", "kills"),
        ("orders that the server has charged", "charged"),
        ("orders charged twice", "twice"),
        ("orders with two keys", "keys"),
        ("orders lost: not ended, or paid without a charge", "lost"),
        ("effects that are unknown", "unknown"),
        ("dead letters that say so", "letters"),
        ("orders replayed, answered from the record", "replayed"),
        ("requests to the server during the replay", "calls"),
    )
    rows = [(what, f"{storm[name]:,}") for what, name in found]
    report.tables.append(Table("What became of the orders", ("", "number"), rows))
    rows = [(what, number(rate)) for what, rate in rates.items()]
    report.tables.append(Table("What an effect costs", ("one thread, one disk", "events/s"), rows))
    report.targets.append(
        Target("requests during a replay", "0", f"{storm['calls']}", storm["calls"] == 0)
    )
    for what, name in (("charged twice", "twice"), ("lost", "lost"), ("of two keys", "keys")):
        report.targets.append(Target(f"orders {what}", "0", f"{storm[name]}", storm[name] == 0))
    unknown, kills = storm["unknown"], storm["kills"]
    report.targets.append(
        Target("unknown effects", f"<= {kills} kills", f"{unknown}", unknown <= kills)
    )
    report.targets.append(
        Target(
            "every unknown effect is a dead letter",
            "all",
            f"{storm['letters']}",
            storm["letters"] == unknown,
        )
    )
    report.notes.append(
        f"{WORKERS} workers of one thread each. Half of the kills come from the server, after it has"
        " charged and before it answers. The others come at any time."
    )
    return report


if __name__ == "__main__":
    worker(sys.argv[1])
