"""What only a browser can show: a widget that lives, one whose kernel is gone, numbers in a narrow
page, a notebook saved as HTML.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Lab
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.needs("chromium", "playwright", "jupyterlab")

SETUP = """
import os, time
import mltrigger as mt

bus = mt.use("memory://")
trouble = {"n": 0}

@mt.subscribe("pages", version="1.0.0", max_attempts=2, max_concurrency=4)
def read(page):
    if page.get("slow"):
        time.sleep(1.1)
    if page.get("bad"):
        raise mt.Reject("<b>no page</b> " + "long " * 80)
    if page.get("twice"):
        trouble["n"] += 1
        if trouble["n"] == 1:
            raise ConnectionError("refused")
    return {"text": "<img src=x onerror=alert(1)>" + "word " * 60, "n": page["n"]}

pages = [{"n": n, "slow": n % 10 == 0, "bad": n % 7 == 3, "twice": n == 5, "name": "x" * 90} for n in range(30)]
run = mt.fire("pages", pages)
"""
SHOW = "shown = read.dashboard()\nshown"
PID = "print('pid', os.getpid())"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    from browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def lab(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    from browser import Lab

    running = Lab(tmp_path_factory.mktemp("lab"), chrome)
    yield running
    running.close()


@pytest.fixture(scope="module")
def live(lab: Lab) -> Iterator[Page]:
    """A notebook with a dashboard that lives; tests leave it so."""
    page = opened(lab)
    yield page
    page.close()


def opened(lab: Lab, **options: Any) -> Page:
    from browser import menu
    from playwright.sync_api import expect

    page = lab.open(SETUP, SHOW, PID, **options)
    menu(page, "Run", "Run All Cells")
    expect(page.locator(".mtd-pill")).to_have_text("listening", timeout=60_000)
    expect(page.locator(".jp-OutputArea-output", has_text="pid ")).to_be_visible(timeout=30_000)
    return page


def pid_of(page: Page) -> int:
    """Return the process of the page's kernel, as its last cell printed it."""
    return int(page.locator(".jp-OutputArea-output", has_text="pid ").last.inner_text().split()[1])


def is_gone(page: Page) -> None:
    """Assert that the view says what it is: grey, when it was updated last, and nothing to click."""
    from playwright.sync_api import expect

    expect(page.locator(".mtd-pill")).to_have_text("kernel gone", timeout=30_000)
    expect(page.locator(".mtd-pill")).to_have_attribute("data-live", "off")
    expect(page.locator(".mltrigger-dashboard")).to_have_attribute("data-gone", "yes")
    expect(page.locator(".mtd-button")).to_be_disabled()
    expect(page.locator(".mtd-updated")).to_contain_text("last updated 20")


def cut_numbers(page: Page) -> list[str]:
    """Return the numbers of the dashboard that are not shown whole, because they are wider than
    their place or covered.
    """
    return page.evaluate(
        """() => [...document.querySelectorAll(".mtd-tile dd, .mtd-latency td, .mtd-newest td[data-head$=ms], .mtd-marks text")]
            .filter((cell) => cell.getClientRects().length)
            .filter((cell) => {
                const whole = document.createRange();
                whole.selectNodeContents(cell);
                const box = whole.getBoundingClientRect();
                const frame = cell.closest("td, svg, .mtd-tile").getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1;
            })
            .map((cell) => cell.textContent)"""
    )


def test_a_dashboard_lives_fires_and_shows_whole_texts_on_demand(live: Page) -> None:
    from playwright.sync_api import expect

    expect(live.locator('.mtd-tile[data-key="succeeded"] dd')).to_have_text("26", timeout=20_000)
    expect(live.locator('.mtd-tile[data-key="dead"] dd')).to_have_text("4")
    assert live.locator('.mtd-tile[data-key="failed"]').count() == 0
    expect(live.locator(".mtd-attempts")).to_have_text(
        "1 failed attempt (tried again, or sent again)"
    )

    live.locator(".mtd-button").click()
    expect(live.locator('.mtd-tile[data-key="succeeded"] dd')).to_have_text("27", timeout=20_000)

    live.locator(".mtd-newest .mtd-opener").first.click()
    whole = live.locator(".mtd-whole")
    expect(whole).to_contain_text("word " * 59, timeout=20_000)
    expect(whole).to_contain_text("<img src=x onerror=alert(1)>")
    expect(whole).to_contain_text("x" * 90)
    assert live.locator(".mltrigger-dashboard img").count() == 0


def test_histogram_and_table_say_the_same_of_one_version(live: Page) -> None:
    from playwright.sync_api import expect

    row = live.locator('.mtd-latency tbody tr[data-first="yes"]', has_text="model")
    expect(live.locator(".mtd-figure figcaption")).to_contain_text("Model time of 1.0.0")
    figures = row.locator("td").all_inner_texts()
    assert live.locator(".mtd-marks text").all_text_contents() == [
        f"p50 {figures[2]} ms",
        f"p99 {figures[4]} ms",
    ]
    boxes = [
        box
        for box in (mark.bounding_box() for mark in live.locator(".mtd-marks text").all())
        if box
    ]
    first, second = boxes
    apart = (
        first["x"] + first["width"] <= second["x"]
        or first["y"] + first["height"] <= second["y"] + 1
    )
    assert apart or second["y"] + second["height"] <= first["y"] + 1


@pytest.mark.parametrize("width", [620, 900, 1280])
def test_no_number_is_cut_however_narrow_the_page_is(live: Page, width: int) -> None:
    live.set_viewport_size({"width": width, "height": 1100})
    live.wait_for_timeout(300)

    assert cut_numbers(live) == []


def test_a_kernel_that_stands_still_is_gone_until_it_goes_on(live: Page) -> None:
    from playwright.sync_api import expect

    pid = pid_of(live)
    os.kill(pid, signal.SIGSTOP)
    try:
        is_gone(live)
    finally:
        os.kill(pid, signal.SIGCONT)

    expect(live.locator(".mtd-pill")).to_have_text("listening", timeout=30_000)
    expect(live.locator(".mtd-button")).to_be_enabled()


def test_after_a_restart_and_after_the_death_of_its_kernel_a_dashboard_says_that_it_is_gone(
    lab: Lab,
) -> None:
    from browser import menu
    from playwright.sync_api import expect

    page = opened(lab)
    menu(page, "Kernel", "Restart Kernel…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    is_gone(page)

    menu(page, "Run", "Run All Cells")
    expect(page.locator(".mtd-pill")).to_have_text("listening", timeout=60_000)
    expect(page.locator(".mtd-tile[data-key=succeeded] dd")).to_have_text("26", timeout=30_000)
    os.kill(pid_of(page), signal.SIGKILL)
    is_gone(page)
    page.close()


def test_closed_bus_is_said_and_its_button_is_off(lab: Lab) -> None:
    from browser import menu
    from playwright.sync_api import expect

    page = lab.open(SETUP, SHOW, "bus.close()")
    menu(page, "Run", "Run All Cells")

    expect(page.locator(".mtd-pill")).to_have_text("bus closed", timeout=60_000)
    expect(page.locator(".mtd-pill")).to_have_attribute("data-live", "off")
    expect(page.locator(".mtd-button")).to_be_disabled()
    expect(page.locator(".mtd-updated")).to_contain_text("last updated 20")
    page.close()


def test_failed_disk_is_said_and_the_button_is_off(lab: Lab) -> None:
    from browser import menu
    from playwright.sync_api import expect

    fails = """
from mltrigger.store.sqlite.disk import SqliteDisk

def fail(*_):
    raise OSError(5, "Input/output error")

SqliteDisk.sync = fail
try:
    bus.publish("pages", {"n": 1})
except mt.DiskFailed:
    print("refused")
"""
    page = lab.open(SETUP.replace("memory://", "sqlite:///disk.db"), SHOW, fails)
    menu(page, "Run", "Run All Cells")

    expect(page.locator(".mtd-pill")).to_have_text("stopped by the store", timeout=60_000)
    expect(page.locator(".mtd-pill")).to_have_attribute("data-live", "off")
    expect(page.locator(".mtd-notice")).to_contain_text("the disk failed to sync")
    expect(page.locator(".mtd-button")).to_be_disabled()
    page.close()


def test_progress_bar_says_in_the_page_what_fails_and_leaves_its_last_state(lab: Lab) -> None:
    from browser import menu
    from playwright.sync_api import expect

    fails = """
import time
import mltrigger as mt

bus, tried = mt.use("memory://"), []

@mt.subscribe("mails", version="1.0.0", max_attempts=2)
def parse(mail):
    tried.append(mail)
    if len(tried) > 2:
        time.sleep(3)  # so that the first failure is seen
    raise ConnectionError("<b>refused</b>")

mt.fire("mails", [1, 2]).open
"""
    page = lab.open(fails)
    menu(page, "Run", "Run All Cells")

    bar = page.locator(".mltrigger-progress")
    expect(bar).to_contain_text(
        "parse fails: ConnectionError: <b>refused</b> (attempt 1 of 2", timeout=60_000
    )
    expect(bar).to_contain_text("mails: 2 of 2 outcomes in ", timeout=30_000)
    assert page.locator(".mltrigger-progress progress").count() == 0
    page.close()


@pytest.mark.parametrize("state", [False, True], ids=["without widget state", "with widget state"])
def test_a_notebook_saved_as_html_is_no_live_view(
    chrome: Browser, tmp_path: Path, state: bool
) -> None:
    import nbformat
    from browser import notebook
    from playwright.sync_api import expect

    nbformat.write(notebook(SETUP, SHOW), tmp_path / "saved.ipynb")
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "html",
        "--execute",
        f"--ExecutePreprocessor.store_widget_state={state}",
    ]
    subprocess.run(
        [*command, "saved.ipynb"], cwd=tmp_path, check=True, capture_output=True, timeout=120
    )

    page = chrome.new_page()
    page.route("http*://**", lambda route: route.abort())  # no network
    page.goto((tmp_path / "saved.html").as_uri())

    expect(page.locator(".mltrigger-progress").first).to_contain_text("30 of 30 outcomes in ")
    assert page.locator(".mtd-pill[data-live=yes], .mtd-button:enabled").count() == 0
    if not state:
        expect(page.get_by_text("static, as of 20")).to_be_visible()
        expect(page.get_by_text("Dashboard read")).to_be_visible()
    page.close()
