"""A bad version answers the middle of a stream. Its answers are corrected while workers are killed.

``python -m benchmarks.corrections URL`` is one of the workers. ``PAGES`` is the table downstream.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mltrigger as mt
from benchmarks.harness import Options, scratch, url
from benchmarks.report import Report, Table, Target, number

EVENTS, BAD, KILLS, WORKERS = 20_000, 6_000, 20, 2
_SEED = 20_261_130
_LIMIT_S = 900.0
_BATCH = 50
_TABLE = """
CREATE TABLE page (subject TEXT PRIMARY KEY, body TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID
"""
_KEEP = """
INSERT INTO page VALUES (?, ?, ?) ON CONFLICT (subject) DO UPDATE
SET body = excluded.body, at = excluded.at WHERE excluded.at > page.at
"""


def answer(n: int) -> dict[str, Any]:
    """Return the right answer."""
    return {"page": n, "text": f"page {n}", "words": n % 7}


@mt.model("ocr", version="1.0.0", batch=True)
def good(documents: list[int]) -> list[Any]:
    """Answer well."""
    return [answer(n) for n in documents]


@mt.model("ocr", version="1.1.0", batch=True)
def bad(documents: list[int]) -> list[Any]:
    """Answer every second document well. Its keys have another order."""
    return [
        dict(reversed(answer(n).items())) if n % 2 else {**answer(n), "text": "?"}
        for n in documents
    ]


@mt.model("table", version="1.0.0", batch=True)
def keep(pages: list[mt.Event]) -> list[Any]:
    """Write the newest answer of each subject. The same ones again change nothing."""
    with sqlite3.connect(os.environ["PAGES"], timeout=60) as table:
        table.executemany(
            _KEEP,
            [(p.subject, json.dumps(p.data, sort_keys=True), p.time.timestamp()) for p in pages],
        )
    return [None] * len(pages)


def worker(store: str) -> None:
    """Deliver until the process dies."""
    with mt.connect(store) as bus:
        for each in (good, bad, keep):
            bus.register(each)
        for name in ("ocr", "table"):
            bus.listen(bus.spec(name))
        sys.stdin.read()


class Crowd:
    """Workers in processes of their own. A dead one is replaced."""

    def __init__(self, store: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.corrections", store]
        self._alive: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def look(self) -> None:
        """Start others for the dead."""
        self._alive = [each for each in self._alive if each.poll() is None]
        self._alive += [
            subprocess.Popen(self._command, stdin=subprocess.PIPE)
            for _ in range(WORKERS - len(self._alive))
        ]

    def kill_one(self, random_: random.Random) -> None:
        """Kill any worker, wherever it is."""
        random_.choice(self._alive).kill()
        self.kills += 1

    def close(self) -> None:
        """End all workers."""
        for each in self._alive:
            each.kill()
            each.wait()


def run(options: Options) -> Report:
    """Answer, correct under kills, and compare the table with that of a good version."""
    events, wrong = options.size(EVENTS, 600), options.size(BAD, 180)
    with scratch() as folder:
        os.environ["PAGES"] = str(folder / "pages.db")
        found = _storm(folder, events, wrong, options.size(KILLS, 4))
        os.environ["PAGES"] = str(folder / "quiet.db")
        rate = _quiet(folder, options.size(BAD, 180))
    return _report(found, rate, events, wrong)


def _storm(folder: Path, events: int, wrong: int, kills: int) -> dict[str, int]:
    random_, first = random.Random(_SEED), (events - wrong) // 2
    with mt.connect(url(folder / "bus.db")) as bus:
        sub = _served(
            bus, [range(first), range(first, first + wrong), range(first + wrong, events)]
        )
        sub.stop()
        bus.stop_listening("table")
        crowd = Crowd(url(folder / "bus.db"))
        correction = sub.correct(sub.history()[1])
        began_s = time.monotonic()
        try:
            crowd.look()
            # slow enough for the kills to come while it goes on
            correction.start(max_rate_per_s=max(50.0, wrong / 40))
            while not _is_over(bus, correction):
                assert time.monotonic() - began_s < _LIMIT_S, f"{correction!r}"
                if crowd.kills < kills:
                    crowd.kill_one(random_)
                time.sleep(random_.uniform(0.5, 1.5))
                crowd.look()
        finally:
            crowd.close()
        at, audit = correction.progress(), bus.audit()
        return {
            "kills": crowd.kills,
            "answers": at.answers,
            "differing": sum(n % 2 == 0 for n in range(first, first + wrong)),
            "corrected": at.corrected,
            "events": _corrections(bus),
            "same": at.same,
            "equal": int(_rows(folder) == _wanted(events)),
            "balanced": int(audit["balanced"].all()),
        }


def _served(bus: mt.EventBus, parts: list[range]) -> mt.Subscription:
    with sqlite3.connect(os.environ["PAGES"]) as table:
        table.execute("PRAGMA journal_mode = WAL")
        table.execute(_TABLE)
    sub = bus.subscribe("documents", good, emit="pages", batch_size=_BATCH)
    bus.subscribe("pages", keep, corrections="take", batch_size=_BATCH)
    changes = (lambda: None, lambda: sub.promote(bad), lambda: sub.rollback())
    for part, change in zip(parts, changes, strict=True):
        change()
        bus.publish_batch("documents", [mt.Event(n, subject=f"page-{n}") for n in part])
        bus.wait(timeout_s=_LIMIT_S)
    return sub


def _is_over(bus: mt.EventBus, correction: Any) -> bool:
    return correction.state == "done" and not bus.broker.depth(bus.spec("table")).open


def _rows(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "pages.db") as table:
        return table.execute("SELECT subject, body FROM page ORDER BY subject").fetchall()


def _wanted(events: int) -> list[tuple[str, str]]:
    each = ((f"page-{n}", json.dumps(answer(n), sort_keys=True)) for n in range(events))
    return sorted(each)


def _corrections(bus: mt.EventBus) -> int:
    return sum('"corrects"' in (e.extensions or "") for e in bus.log.events("pages"))


def _quiet(folder: Path, events: int) -> float:
    """Return the events a second of a correction in one process."""
    with mt.connect(url(folder / "quiet-bus.db")) as bus:
        sub = _served(bus, [range(0), range(events), range(events, events + 1)])
        began_s = time.perf_counter()
        sub.correct(1).start().wait(_LIMIT_S)
        return events / (time.perf_counter() - began_s)


def _report(found: dict[str, int], rate: float, events: int, wrong: int) -> Report:
    report = Report(
        "corrections", f"{events:,} events, {wrong:,} of a bad version, corrected under kills"
    )
    said = (
        ("workers killed during the correction", "kills"),
        ("answers of the bad version", "answers"),
        ("differing answers", "differing"),
        ("answers corrected", "corrected"),
        ("answers that were the same", "same"),
        ("corrections on the topic", "events"),
    )
    rows = [(what, f"{found[name]:,}") for what, name in said]
    report.tables.append(Table("What became of the answers", ("", "number"), rows))
    quiet = [("a correction in one process, half of the answers differ", number(rate))]
    report.tables.append(Table("How fast", ("no kills", "events/s"), quiet))
    report.targets.append(
        Target(
            "the table is that of a good version, byte for byte",
            "equal",
            "equal" if found["equal"] else "different",
            bool(found["equal"]),
        )
    )
    for what, name in (("answers corrected", "corrected"), ("corrections published", "events")):
        n = found["differing"]
        report.targets.append(Target(what, f"{n:,}", f"{found[name]:,}", found[name] == n))
    balanced = bool(found["balanced"])
    report.targets.append(Target("bus.audit()", "balanced", str(balanced), balanced))
    report.notes.append(
        f"{WORKERS} workers that call both models. The table keeps the newest answer of a subject."
    )
    return report


if __name__ == "__main__":
    worker(sys.argv[1])
