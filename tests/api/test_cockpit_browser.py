"""The cockpit as a page of a server, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from shared import is_settled, wait_until

import mltrigger as mt
from mltrigger.notebook.cockpit import hosted

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.needs("chromium", "playwright", "axe_playwright_python")

HOSTILE = "<img src=x onerror=window.hit=1>"
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    from browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def server(served_bus: mt.EventBus) -> Iterator[mt.Server]:
    sub = served_bus.subscription("ocr")
    for text in ("one", HOSTILE):
        served_bus.publish("documents", {"text": text}, subject=text)
    wait_until(lambda: is_settled(sub))
    with mt.serve(served_bus, cockpit=hosted.cockpit()) as server:
        yield server


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    """A page that must say nothing in its console and raise no error."""
    said: list[str] = []
    page = chrome.new_page(viewport={"width": 1100, "height": 1000})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    page.close()
    assert said == []


def violations(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    # axe's own script is not of this origin's files: it comes in beside the policy of the page
    return [one["id"] for one in Axe().run(page).response["violations"]]


def test_page_shows_counts_and_pauses_a_subscription(
    page: Page, server: mt.Server, served_bus: mt.EventBus
) -> None:
    from playwright.sync_api import expect

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.cockpit_url())
    page.get_by_label("Subscription").first.select_option("ocr")
    expect(page.locator(".mlt-tile", has_text="succeeded")).to_contain_text("2")
    page.get_by_role("button", name="Pause").click()
    wait_until(lambda: served_bus.subscription("ocr").state == "paused")
    expect(page.locator(".mlt-pill")).to_have_text("paused")
    page.get_by_role("tab", name="Invocations").click()
    expect(page.locator(".mlt-row").filter(has_text=HOSTILE)).to_be_visible()

    assert violations(page) == []
    assert page.evaluate("window.hit") is None
    assert page.url == f"{server.url}/v1/cockpit"  # without the ticket
    assert all(url.startswith(server.url) for url in asked)
    page.reload()  # by its cookie
    expect(page.locator(".mlt-pill")).to_have_text("bus open")


def test_read_only_page_has_no_action(page: Page, server: mt.Server) -> None:
    from playwright.sync_api import expect

    page.goto(server.cockpit_url(read_only=True))
    page.get_by_label("Subscription").first.select_option("ocr")

    expect(page.locator(".mlt-pill")).to_contain_text("read-only")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()


def test_token_opens_the_page_and_the_end_of_the_server_is_said(
    chrome: Browser, server: mt.Server
) -> None:
    from playwright.sync_api import expect

    page = chrome.new_page()
    page.goto(f"{server.url}/v1/cockpit")
    assert violations(page) == []
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button").click()
    expect(page.locator(".mlt-pill")).to_have_text("bus open")
    server.stop()
    page.get_by_role("tab", name="Invocations").click()  # a question that nobody answers
    expect(page.locator(".mlt-pill")).to_have_text("server gone", timeout=2_000)

    expect(page.locator("#said")).to_contain_text("The server does not answer")
    expect(page.locator(".mlt-pill")).to_contain_text("server gone", timeout=10_000)
    page.close()


def test_two_pages_follow_each_other_and_ask_for_a_token_after_a_restart(
    chrome: Browser, server: mt.Server, served_bus: mt.EventBus
) -> None:
    from playwright.sync_api import expect

    with chrome.new_context() as context:
        one, other = context.new_page(), context.new_page()
        one.goto(server.cockpit_url())
        other.goto(f"{server.url}/v1/cockpit")
        for page in (one, other):
            page.get_by_label("Subscription").first.select_option("ocr")
        one.get_by_role("button", name="Pause").click()
        expect(other.locator(".mlt-pill")).to_have_text("paused")
        other.get_by_role("button", name="Resume").click()
        expect(one.locator(".mlt-pill")).to_have_text("listening")
        other.close()
        server.stop()
        expect(one.locator(".mlt-pill")).to_have_text("server gone", timeout=20_000)
        with mt.serve(
            served_bus, port=int(server.url.rpartition(":")[2]), cockpit=hosted.cockpit()
        ) as again:
            one.get_by_label("Token").fill(again.token, timeout=30_000)
            one.get_by_role("button").click()
            expect(one.locator(".mlt-pill")).to_have_text("bus open")


def test_unseen_page_leaves_and_comes_back_as_it_was(
    page: Page, server: mt.Server, served_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    looks: list[float] = []
    look = hosted.Hosted.look
    monkeypatch.setattr(
        hosted.Hosted, "look", lambda self: looks.append(time.monotonic()) or look(self)
    )
    page.clock.install()
    page.goto(server.cockpit_url())
    page.get_by_label("Subscription").first.select_option("ocr")
    expect(page.locator(".mlt-pill")).to_have_text("listening")
    page.evaluate(HIDE, True)
    page.clock.run_for(12_000)
    wait_until(lambda: time.monotonic() - looks[-1] > 1.5)  # with a page there is one each second
    served_bus.subscription("ocr").pause()
    page.evaluate(HIDE, False)

    expect(page.locator(".mlt-pill")).to_have_text("paused")
