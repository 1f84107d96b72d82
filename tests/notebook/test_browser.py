"""What only a browser can show: the cockpit in a real JupyterLab and Notebook 7, one whose kernel is gone, and a
notebook saved as HTML.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browser import Lab
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.needs("chromium", "playwright", "jupyterlab", "axe_playwright_python")

HOSTILE = "<img src=x onerror=window.hit=1>"
SETUP = f"""
import os, time
import mltrigger as mt

bus = mt.use(f"sqlite:///pages-{{os.getpid()}}.db")
trouble = {{"on": False}}
HOSTILE = {HOSTILE!r}

def answer(page, word):
    if page.get("bad") or trouble["on"]:
        raise mt.Reject(HOSTILE + " no text on this page")
    return {{"text": HOSTILE, "kind": word if page["n"] % 10 == 0 else "letter", "n": page["n"]}}

def newer(page):
    return answer(page, "receipt")

@mt.subscribe("pages", version="1.0.0", max_attempts=2, max_concurrency=4)
def read(page):
    return answer(page, "invoice")

mt.register(mt.model(newer, name="read", version="2.0.0"))
run = mt.fire("pages", [{{"n": n, "bad": n % 10 == 3, "name": HOSTILE}} for n in range(40)])
"""
SHOW = "shown = read.dashboard()\nshown"
PID = "print('pid', os.getpid())"
# When the kernel has paused, by its own clock: written by the thread that did it.
LOGGED = """
paused_at, pause = [], type(read).pause

def logged(self):
    pause(self)
    paused_at.append(time.time())

type(read).pause = logged
"""
CLICKED = """() => {
    window.clicked = [];
    document.addEventListener("click", ({ target }) => {
        if (target.dataset.action === "pause") window.clicked.push(Date.now() / 1000);
    }, true);
}"""


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
    """A notebook with a cockpit that lives; tests leave it so."""
    page = opened(lab)
    yield page
    page.close()


@pytest.fixture(scope="module")
def another(lab: Lab) -> Iterator[Page]:
    """A page whose notebook each test replaces: to load JupyterLab takes ten times as long."""
    page = lab.open()
    yield page
    page.close()


def opened(lab: Lab, **options: Any) -> Page:
    from browser import menu
    from playwright.sync_api import expect

    page = lab.open(SETUP + LOGGED, SHOW, PID, **options)
    page.evaluate(CLICKED)
    menu(page, "Run", "Run All Cells")
    expect(page.locator(".mlt-pill")).to_have_text("listening", timeout=60_000)
    expect(page.locator(".jp-OutputArea-output", has_text="pid ")).to_be_visible(timeout=30_000)
    return page


def pid_of(page: Page) -> int:
    """Return the process of the page's kernel, as a cell printed it."""
    return int(page.locator(".jp-OutputArea-output", has_text="pid ").last.inner_text().split()[1])


def ran(page: Page, source: str, wait: bool = True) -> Locator:
    """Run *source* in a new cell at the end. Return the cell."""
    page.evaluate(
        """(source) => {
            const { content, sessionContext } = window.jupyterapp.shell.currentWidget;
            const cells = content.model.sharedModel;
            cells.insertCell(cells.cells.length, { cell_type: "code", source, metadata: {} });
            content.activeCellIndex = content.widgets.length - 1;
            content.deselectAll();
            window.jupyterapp.commands.execute("notebook:run-cell");
        }""",
        source,
    )
    cell = page.locator(".jp-Notebook .jp-CodeCell").last
    if wait:
        cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for(timeout=60_000)
    return cell


def printed(page: Page, expression: str) -> str:
    return ran(page, f"print({expression})").locator(".jp-OutputArea-output").inner_text().strip()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.locator(".mltrigger-cockpit").scroll_into_view_if_needed()


def tile(page: Page, key: str) -> Locator:
    return page.locator(f'.mlt-overview .mlt-tile[data-key="{key}"] dd')


def chosen_outcome(page: Page, outcome: str) -> None:
    page.locator(".mlt-filter").get_by_label("Outcome", exact=True).select_option(outcome)


def is_gone(page: Page) -> None:
    """Assert that the view says what it is: grey, when it was updated last, and nothing to click."""
    from playwright.sync_api import expect

    expect(page.locator(".mlt-pill")).to_have_text("kernel gone", timeout=30_000)
    expect(page.locator(".mlt-pill")).to_have_attribute("data-live", "off")
    expect(page.locator(".mltrigger-cockpit")).to_have_attribute("data-gone", "yes")
    expect(page.locator(".mltrigger-cockpit [data-action]:enabled")).to_have_count(0)
    expect(page.locator(".mlt-updated")).to_contain_text("last updated 20")


def axe(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=".mltrigger-cockpit").response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in found
        for node in one["nodes"]
    ]


# -- it looks --------------------------------------------------------------------------------------


def test_cockpit_lives_and_nothing_of_an_event_is_more_than_text(live: Page) -> None:
    from playwright.sync_api import expect

    expect(tile(live, "succeeded")).to_have_text("36", timeout=20_000)
    expect(tile(live, "dead")).to_have_text("4")
    found = {"overview": axe(live)}
    tab(live, "Invocations")
    chosen_outcome(live, "dead")
    expect(live.locator(".mlt-count")).to_have_text("4 attempts")
    live.locator(".mlt-space .mlt-row").first.click()
    expect(live.locator(".mlt-drawer")).to_contain_text(f"{HOSTILE} no text on this page")
    expect(live.locator(".mlt-drawer")).to_contain_text("Attempts")
    found["an attempt"] = axe(live)
    live.keyboard.press("Escape")

    assert {place: list_ for place, list_ in found.items() if list_} == {}
    assert live.evaluate("window.hit") is None
    assert live.locator(".mltrigger-cockpit img").count() == 0


@pytest.mark.parametrize("width", [620, 1280])
def test_no_number_is_cut_however_narrow_the_page_is(live: Page, width: int) -> None:
    from cockpit_page import NUMBERS, cut_texts

    live.set_viewport_size({"width": width, "height": 1100})
    tab(live, "Overview")
    live.wait_for_timeout(300)

    assert cut_texts(live, NUMBERS) == []


def test_keys_in_the_table_do_not_reach_the_notebook(live: Page) -> None:
    from playwright.sync_api import expect

    tab(live, "Invocations")
    chosen_outcome(live, "")
    expect(live.locator(".mlt-count")).to_have_text("40 attempts")
    cells = live.locator(".jp-Notebook .jp-Cell").count()
    live.locator('.mlt-space .mlt-row[aria-rowindex="2"]').focus()
    for key in ("ArrowDown", "ArrowDown", "d", "d", "x", "b"):
        live.keyboard.press(key)

    assert live.evaluate("document.activeElement.getAttribute('aria-rowindex')") == "4"
    assert live.locator(".jp-Notebook .jp-Cell").count() == cells


def test_counts_rise_while_a_cell_runs(live: Page) -> None:
    from playwright.sync_api import expect

    tab(live, "Overview")
    before = int(tile(live, "succeeded").inner_text().replace(",", ""))
    cell = ran(
        live,
        "bus.publish_batch('pages', [{'n': n} for n in range(1000)])\ntime.sleep(60)",
        wait=False,
    )
    expect(tile(live, "succeeded")).to_have_text(f"{before + 1000:,}", timeout=40_000)

    assert cell.locator(".jp-InputPrompt").inner_text() == "[*]:"
    os.kill(pid_of(live), signal.SIGINT)
    cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for(timeout=20_000)


# -- it steers -------------------------------------------------------------------------------------


def test_pause_during_a_cell_of_60_s_takes_effect_in_under_300_ms(live: Page) -> None:
    from playwright.sync_api import expect

    cell = ran(live, "time.sleep(60)", wait=False)
    expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")
    for _ in range(3):
        live.locator('.mlt-head [data-action="pause"]').click()
        expect(live.locator(".mlt-pill")).to_have_text("paused")
        live.locator('.mlt-head [data-action="resume"]').click()
        expect(live.locator(".mlt-pill")).to_have_text("listening")

    assert cell.locator(".jp-InputPrompt").inner_text() == "[*]:"
    os.kill(pid_of(live), signal.SIGINT)
    cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for(timeout=20_000)
    paused = [float(one) for one in printed(live, "*paused_at").split()]
    clicked = live.evaluate("window.clicked")
    assert len(paused) == len(clicked) == 3
    late_s = [done - click for click, done in zip(clicked, paused, strict=True)]
    assert min(late_s) < 0.3, late_s


def test_dead_event_is_opened_edited_and_redriven(live: Page) -> None:
    from playwright.sync_api import expect

    tab(live, "Invocations")
    chosen_outcome(live, "dead")
    live.locator('.mlt-space .mlt-row[aria-rowindex="2"]').click()
    live.locator('.mlt-drawer [data-action="redrive"]').click()
    dialog = live.get_by_role("dialog")
    dialog.get_by_label("Payload").fill('{"n": 5000}')
    expect(dialog.locator("code")).to_contain_text('"n": 5000')
    dialog.get_by_role("button", name="Redrive", exact=True).click()
    dialog.wait_for(state="detached")

    expect(live.locator(".mlt-foot code")).to_contain_text("sub.redrive(")
    tab(live, "Overview")
    expect(tile(live, "dead")).to_have_text("3", timeout=20_000)
    assert "5000" in printed(live, "read.results().n.max()")


def test_bulk_redrive_of_500(live: Page) -> None:
    from playwright.sync_api import expect

    ran(live, "for letter in list(read.dead_letters().event_id): read.discard(letter, 'old')")
    ran(
        live,
        "trouble['on'] = True\nmt.fire('pages', [{'n': n} for n in range(500)]).open\ntrouble['on'] = False",
    )
    tab(live, "Overview")
    before = int(tile(live, "succeeded").inner_text().replace(",", ""))
    tab(live, "Invocations")
    chosen_outcome(live, "dead")
    live.get_by_role("button", name="Redrive all").click()
    dialog = live.get_by_role("dialog", name="Redrive all")
    expect(dialog.locator(".mlt-number-line")).to_have_text("500 events", timeout=20_000)
    dialog.get_by_role("button", name="Redrive 500 events").click()
    dialog.wait_for(state="detached")

    tab(live, "Overview")
    expect(tile(live, "succeeded")).to_have_text(re.compile(rf"^{before + 500:,}$"), timeout=60_000)


def test_comparison_is_read_and_promoted(live: Page) -> None:
    from playwright.sync_api import expect

    ran(live, "read.replay('2.0.0', limit=300, wait=True)")
    tab(live, "Compare")
    live.locator(".mlt-compare").get_by_label("Old version").select_option("1.0.0")
    live.locator(".mlt-compare").get_by_label("New version").select_option("2.0.0")
    live.get_by_role("button", name="Compare", exact=True).click()
    expect(live.locator(".mlt-verdict").first).to_be_visible(timeout=30_000)
    flip = live.locator(".mlt-flip").first
    assert flip.locator("del").all_text_contents() == ["invoice"]
    assert flip.locator("ins").all_text_contents() == ["receipt"]
    assert axe(live) == []
    live.get_by_role("button", name="Promote 2.0.0").click()
    dialog = live.get_by_role("dialog", name="Promote")
    assert dialog.locator(".mlt-verdict").inner_text() != ""
    dialog.get_by_label("Against the verdict, because").fill("read and accepted")
    dialog.get_by_role("button", name="Promote", exact=True).click()
    dialog.wait_for(state="detached", timeout=30_000)

    assert "2.0.0" in printed(live, "read.history()[-1].version")
    tab(live, "Versions")
    expect(live.locator(".mlt-versions table")).to_contain_text("2.0.0", timeout=10_000)


def test_recorded_clicks_become_a_cell_that_runs(live: Page) -> None:
    from playwright.sync_api import expect

    cells = live.locator(".jp-Notebook .jp-Cell").count()
    live.get_by_role("button", name="Record clicks").click()
    live.locator('.mlt-head [data-action="pause"]').click()
    live.locator('.mlt-head [data-action="resume"]').click()
    live.get_by_role("button", name="Stop recording and write the cell (2 actions)").click()

    expect(live.locator(".jp-Notebook .jp-Cell")).to_have_count(cells + 1)
    source = live.evaluate(
        """() => { const { widgets } = window.jupyterapp.shell.currentWidget.content;
            return widgets.map((cell) => cell.model.sharedModel.source).find((text) => text.includes("sub.pause()")); }"""
    )
    assert source.index("sub.pause()") < source.index("sub.resume()")
    before = len(printed(live, "*paused_at").split())
    ran(live, source)
    assert len(printed(live, "*paused_at").split()) == before + 1


@pytest.mark.needs("notebook")
def test_notebook_7_shows_it_alive_leaves_it_its_keys_and_pauses_during_a_cell(lab: Lab) -> None:
    from playwright.sync_api import expect

    page = opened(lab, front="notebooks")

    expect(tile(page, "succeeded")).to_have_text("36", timeout=20_000)
    test_keys_in_the_table_do_not_reach_the_notebook(page)
    test_counts_rise_while_a_cell_runs(page)
    test_pause_during_a_cell_of_60_s_takes_effect_in_under_300_ms(page)
    test_recorded_clicks_become_a_cell_that_runs(page)
    page.close()


# -- its life --------------------------------------------------------------------------------------


def test_a_kernel_that_stands_still_is_gone_until_it_goes_on(live: Page) -> None:
    from playwright.sync_api import expect

    pid = pid_of(live)
    os.kill(pid, signal.SIGSTOP)
    try:
        is_gone(live)
    finally:
        os.kill(pid, signal.SIGCONT)

    expect(live.locator(".mlt-pill")).to_have_text("listening", timeout=30_000)
    expect(live.locator('.mlt-head [data-action="fire"]')).to_be_enabled()


def test_after_a_restart_and_after_the_death_of_its_kernel_a_cockpit_says_that_it_is_gone(
    lab: Lab, another: Page
) -> None:
    from browser import menu
    from playwright.sync_api import expect

    page = opened(lab, page=another)
    menu(page, "Kernel", "Restart Kernel…")
    page.get_by_role("button", name="Confirm Kernel Restart").click()
    is_gone(page)

    menu(page, "Run", "Run All Cells")
    expect(page.locator(".mlt-pill")).to_have_text("listening", timeout=60_000)
    expect(tile(page, "succeeded")).to_have_text("36", timeout=30_000)
    os.kill(pid_of(page), signal.SIGKILL)
    is_gone(page)
    page.get_by_role("dialog").get_by_role("button", name="Ok").click()


def test_closed_bus_and_failed_disk_are_said_and_nothing_can_be_clicked(
    lab: Lab, another: Page
) -> None:
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
    for last, word in (("bus.close()", "bus closed"), (fails, "bus stopped by the store")):
        page = lab.open(SETUP, SHOW, last, page=another)
        menu(page, "Run", "Run All Cells")

        expect(page.locator(".mlt-pill")).to_have_text(word, timeout=60_000)
        expect(page.locator(".mlt-pill")).to_have_attribute("data-live", "off")
        expect(page.locator(".mltrigger-cockpit [data-action]:enabled")).to_have_count(0)
        expect(page.locator(".mlt-updated")).to_contain_text("last updated 20")


def test_progress_bar_says_in_the_page_what_fails_and_leaves_its_last_state(
    lab: Lab, another: Page
) -> None:
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
    page = lab.open(fails, page=another)
    menu(page, "Run", "Run All Cells")

    bar = page.locator(".mltrigger-progress")
    expect(bar).to_contain_text(
        "parse fails: ConnectionError: <b>refused</b> (attempt 1 of 2", timeout=60_000
    )
    expect(bar).to_contain_text("mails: 2 of 2 outcomes in ", timeout=30_000)
    assert page.locator(".mltrigger-progress progress").count() == 0


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

    expect(page.locator(".mltrigger-progress").first).to_contain_text("40 of 40 outcomes in ")
    assert page.locator(".mlt-pill[data-live=yes], [data-action]:enabled").count() == 0
    if not state:
        expect(page.get_by_text("static, as of 20")).to_be_visible()
        expect(page.get_by_text("Dashboard read")).to_be_visible()
    page.close()
