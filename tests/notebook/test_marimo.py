"""The cockpit in a real marimo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import wait_until

pytestmark = pytest.mark.needs("chromium", "playwright", "marimo")

ROOT = Path(__file__).parents[2]
APP = """
import marimo

app = marimo.App()

@app.cell
def _():
    import pathlib
    import time
    import marimo as mo
    import mltrigger as mt

    bus = mt.use("memory://")

    @mt.subscribe("pages", version="1.0.0", max_attempts=1)
    def read(page):
        if page.get("bad"):
            raise mt.Reject("no text on this page")
        return {"n": page["n"]}

    mt.fire("pages", [{"n": n, "bad": n % 10 == 3} for n in range(40)], progress=False)
    return bus, mo, pathlib, read, time

@app.cell
def _(read):
    read.dashboard()
    return

@app.cell
def _(mo):
    more = mo.ui.run_button(label="More events")
    more
    return (more,)

@app.cell
def _(bus, mo, more, pathlib, time):
    if more.value:
        bus.publish_batch("pages", [{"n": n} for n in range(1000)])
        while not pathlib.Path("seen").exists():
            time.sleep(0.05)
    mo.md("the cell has ended" if more.value else "")
    return
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A notebook that runs."""
    (tmp_path / "pages.py").write_text(APP, encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "marimo", "run", "pages.py", "--headless", "--no-token"]
    with (tmp_path / "marimo.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            stdout=log,
            stderr=log,
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def answers() -> bool:
            assert process.poll() is None, (tmp_path / "marimo.log").read_text()[-2000:]
            try:
                return bool(direct.open(f"{found}/health", timeout=5).read())
            except OSError:
                return False

        try:
            wait_until(answers, timeout_s=90)
            yield found
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def test_marimo_shows_it_alive_during_a_cell_and_it_answers(address: str, tmp_path: Path) -> None:
    from browser import chromium
    from playwright.sync_api import expect

    with chromium() as chrome:
        page = chrome.new_page(viewport={"width": 1280, "height": 1100})
        page.goto(address)
        done = page.locator('.mlt-overview .mlt-tile[data-key="succeeded"] dd')
        expect(done).to_have_text("36", timeout=60_000)
        expect(page.locator(".mlt-pill")).to_have_text("listening")

        page.get_by_role("button", name="More events").click()
        expect(done).to_have_text("1,036", timeout=30_000)
        assert page.get_by_text("the cell has ended").count() == 0
        (tmp_path / "seen").touch()
        page.locator('.mlt-head [data-action="pause"]').click()
        expect(page.locator(".mlt-pill")).to_have_text("paused", timeout=30_000)

        page.get_by_role("tab", name="Invocations").click()
        page.locator('.mlt-space .mlt-row[aria-rowindex="2"]').click()
        expect(page.locator(".mlt-drawer")).to_contain_text("Payload")
