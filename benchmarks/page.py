"""The cockpit as a page in a real browser: ``mltrigger dashboard`` in a process of its own, and Chromium."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import url

TIMES = 3
_FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"]
_TICKS_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class SeenInBrowser(NamedTuple):
    """Times in seconds, memory in MB: of the process of the server, and of the scripts of the page."""

    overview_s: list[float]
    rows_s: list[float]
    idle: float
    growth_mb: float
    page_growth_mb: float


def is_possible() -> bool:
    """Whether this machine has a browser that a program can drive."""
    return importlib.util.find_spec("playwright") is not None and _chromium() is not None


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-headless-shell")


def look(path: Path, idle_s: float, publish: Callable[[], None]) -> SeenInBrowser:
    """Open the page some times. Rest, then let *publish* fill the log twice, and read the memory.

    The first time fills caches.
    """
    from playwright.sync_api import sync_playwright

    opened = []
    with sync_playwright() as driver:
        for n in range(TIMES):
            with _served(path) as (process, address):
                browser = driver.chromium.launch(executable_path=_chromium(), args=_FLAGS)
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                opened.append(_opened(page, address))
                if n == TIMES - 1:
                    idle = _idle(process.pid, idle_s)
                    growth_mb, page_growth_mb = _growth_mb(page, process.pid, publish)
                browser.close()
    overview_s, rows_s = zip(*opened, strict=True)
    return SeenInBrowser(list(overview_s), list(rows_s), idle, growth_mb, page_growth_mb)


@contextlib.contextmanager
def _served(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "mltrigger", "dashboard", "--no-browser", "--url", url(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http\S+", process.stdout.readline())
        assert found, "the command gave no address"
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(30)


def _opened(page: Any, address: str) -> tuple[float, float]:
    """Return the seconds from the navigation to the counts, and to the first rows of the table."""
    began_s = time.perf_counter()
    page.goto(address)
    page.locator(".mlt-overview .mlt-tile dd").first.wait_for()
    overview_s = time.perf_counter() - began_s
    page.get_by_role("tab", name="Invocations").click()
    page.locator(".mlt-space .mlt-row").first.wait_for()
    return overview_s, time.perf_counter() - began_s


def _idle(pid: int, idle_s: float) -> float:
    """Return the share of a core that the process takes while its page is open."""
    time.sleep(1.0)
    before_s = _cpu_s(pid)
    time.sleep(idle_s)
    return (_cpu_s(pid) - before_s) / idle_s


def _growth_mb(page: Any, pid: int, publish: Callable[[], None]) -> tuple[float, float]:
    sizes = []
    for _ in range(2):
        publish()
        page.wait_for_timeout(3000)  # a look and an answer more
        sizes.append((_rss_mb(pid), _heap_mb(page)))
    (before, page_before), (after, page_after) = sizes
    return after - before, page_after - page_before


def _heap_mb(page: Any) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    found: int = page.evaluate("performance.memory.usedJSHeapSize")
    return found / 2**20


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
