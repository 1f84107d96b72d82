"""The cockpit on a long log: how soon it is there, its pages, and its cost when nothing happens."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mltrigger as mt
from benchmarks import page
from benchmarks.harness import Options, children, consume, payloads, scratch, succeeded, until, url
from benchmarks.report import Report, Table, Target, number

BATCH, LOT, BAD = 1_000, 500, 100
OPEN_S, IDLE, GROWTH_MB = 2.0, 0.05, 20.0
"""The targets: seconds until the first state and page, share of a core, memory for 100,000 more."""
_NAME = "measured"
_PAGES: Mapping[str, Mapping[str, Any]] = {
    "the newest 100": {},
    "100 dead ones": {"outcome": "dead"},
    "a text that no attempt has": {"text": "no such text"},
}


class Seen(NamedTuple):
    """What one process saw. Times in seconds, memory in MB."""

    open_s: float
    pages_s: dict[str, float]
    idle: float
    growth_mb: float


class Sorted:
    """A batch model that answers with a number, and one that fails."""

    def many(self, batch: list[Any]) -> list[float]:
        """Take a batch."""
        return [0.5] * len(batch)

    def bad(self, data: Any) -> None:
        """Take none."""
        raise mt.Reject("no text on this page")


def run(options: Options) -> Report:
    """Fill one file, and open the cockpit on it in other processes."""
    size, more = options.size(1_000_000, 20_000), options.size(100_000, 5_000)
    idle_s = 2.0 if options.quick else 20.0
    found = []
    with scratch() as folder:
        path = folder / "log.db"
        _fill(path, size)
        for n in range(3):
            with children() as child:
                given = str(path), idle_s, more if n == 2 else 0
                found.append(child.submit(look, *given).result())
        seen = _in_browser(path, idle_s, more) if page.is_possible() else None
    report = _report(size, more, idle_s, found)
    if seen is not None:
        _add_browser(report, seen, more)
    return report


def _in_browser(path: Path, idle_s: float, more: int) -> page.SeenInBrowser:
    """Open the page, and publish *more* events in this process beside it."""
    with mt.connect(url(path)) as bus:
        model = mt.model(_NAME, batch=True)(Sorted().many)
        sub = bus.subscribe("documents", model, name=_NAME, batch_size=LOT)
        return page.look(path, idle_s, lambda: _publish(bus, sub, more))


def _fill(path: Path, size: int) -> None:
    with mt.connect(url(path)) as bus:
        model = mt.model(_NAME, batch=True)(Sorted().many)
        sub = bus.subscribe("documents", model, name=_NAME, batch_size=LOT, listen=False)
        for at in range(0, size, BATCH):
            bus.publish_batch("documents", payloads(BATCH))
            if at % (100 * BATCH) == 0:
                consume(bus, sub, at + BATCH)
        consume(bus, sub, size)
        bad = bus.subscribe("scans", mt.model("bad")(Sorted().bad), name="bad", max_attempts=1)
        bad.fire(payloads(BAD), progress=False)


def look(path: str, idle_s: float, more: int) -> Seen:
    """Open the cockpit, ask for pages, rest, then publish *more* events beside it."""
    from mltrigger.notebook.cockpit.widget import Dashboard

    with mt.connect(url(Path(path))) as bus:
        began_s = time.perf_counter()
        dashboard = bus.dashboard()
        ask = _asking(dashboard)
        ask({})
        open_s = time.perf_counter() - began_s
        pages_s = {}
        for name, wanted in _PAGES.items():
            began_s = time.perf_counter()
            ask(wanted)
            pages_s[name] = time.perf_counter() - began_s
        time.sleep(0.5)
        before_s = time.process_time()
        time.sleep(idle_s)
        idle = (time.process_time() - before_s) / idle_s
        growth_mb = _growth_mb(bus, more) if more else 0.0
        assert isinstance(dashboard, Dashboard)
        dashboard.close()
    return Seen(open_s, pages_s, idle, growth_mb)


def _asking(dashboard: Any) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that asks for a page as the view does, and waits for it."""
    came = threading.Event()
    dashboard.send = lambda message, *_: came.set() if message.get("type") == "answer" else None

    def ask(wanted: Mapping[str, Any]) -> None:
        came.clear()
        asked = {"filter": dict(wanted), "before": None, "limit": 100}
        content = {"type": "ask", "id": 1, "what": "rows", "args": asked}
        data = {"method": "custom", "content": content}
        dashboard._handle_msg({"content": {"data": data}, "buffers": []})
        assert came.wait(30), "no answer"

    return ask


def _growth_mb(bus: mt.EventBus, more: int) -> float:
    """Return how much memory the process takes more after *more* events that it was shown.

    As many come before: caches fill once.
    """
    model = mt.model(_NAME, batch=True)(Sorted().many)
    sub = bus.subscribe("documents", model, name=_NAME, batch_size=LOT)
    sizes = []
    for _ in range(2):
        _publish(bus, sub, more)
        sizes.append(_rss_mb())
    return sizes[1] - sizes[0]


def _publish(bus: mt.EventBus, sub: mt.Subscription, more: int) -> None:
    """Publish *more* events, and wait until all have ended."""
    expected = succeeded(bus, sub) + -(-more // BATCH) * BATCH
    for _ in range(0, more, BATCH):
        bus.publish_batch("documents", payloads(BATCH))
    until(lambda: succeeded(bus, sub) >= expected, "events", 0.05)


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _report(size: int, more: int, idle_s: float, found: list[Seen]) -> Report:
    report = Report("cockpit", f"the cockpit on a log of {size:,} invocations")
    rows = [("opened, with the first page", f"{statistics.median(s.open_s for s in found):.3f}")]
    rows += [
        (f"page: {name}", f"{statistics.median(s.pages_s[name] for s in found):.3f}")
        for name in _PAGES
    ]
    report.tables.append(Table("Seconds, median of 3 processes", ("what", "s"), rows))
    open_s = max(s.open_s for s in found)
    idle = max(s.idle for s in found)
    growth_mb = found[-1].growth_mb
    report.targets += [
        Target(
            "opened, with the first page", f"< {OPEN_S:g} s", f"{open_s:.2f} s", open_s < OPEN_S
        ),
        Target("a core, when nothing happens", f"< {IDLE:.0%}", f"{idle:.2%}", idle < IDLE),
        Target(
            f"memory for {more:,} events more",
            f"< {GROWTH_MB:g} MB",
            f"{growth_mb:.1f} MB",
            growth_mb < GROWTH_MB,
        ),
    ]
    report.notes += [
        (
            f"SQLite. {number(BAD)} of the attempts are dead. The first figures are without a browser:"
            " the messages of the view come from the process itself. Drawing is not in them."
        ),
        (
            f"Nothing happens for {idle_s:g} s: the whole process, with its bus. A text is looked for"
            " within a limit of time, and the page says back to when it has looked."
        ),
    ]
    return report


def _add_browser(report: Report, seen: page.SeenInBrowser, more: int) -> None:
    """Add the figures of the page in Chromium."""
    times = {"counts of the overview": seen.overview_s, "first rows of the table": seen.rows_s}
    rows = [
        (name, f"{statistics.median(found):.2f}", f"{max(found):.2f}")
        for name, found in times.items()
    ]
    title = "The page in Chromium, seconds after the navigation"
    report.tables.append(Table(title, ("what is seen", "median of 3", "most"), rows))
    opened_s, limit_mb = statistics.median(seen.rows_s), GROWTH_MB
    report.targets += [
        Target("page: first rows seen", f"< {OPEN_S:g} s", f"{opened_s:.2f} s", opened_s < OPEN_S),
        Target(
            "page: a core, when nothing happens",
            f"< {IDLE:.0%}",
            f"{seen.idle:.2%}",
            seen.idle < IDLE,
        ),
        Target(
            f"page: memory for {more:,} events more",
            f"< {limit_mb:g} MB",
            f"{seen.growth_mb:.1f} MB, in the browser {seen.page_growth_mb:.1f} MB",
            max(seen.growth_mb, seen.page_growth_mb) < limit_mb,
        ),
    ]
    report.notes.append(
        "The page is that of `mltrigger dashboard` on the same log, each time with a new process and"
        " a new browser. The share of a core and the memory are those of that process, the table open."
    )
