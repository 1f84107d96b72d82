"""The page of documents and the stream of outcomes, in a real browser."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shared import wait_until

import mltrigger as mt

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.needs("chromium", "playwright")

SIGN_IN = """async (token) => (await fetch("/v1/session", {
    method: "POST", headers: {Authorization: `Bearer ${token}`}})).status"""
OPEN = """async ([path, token]) => {
    let where = path;
    if (token) {
        const answer = await fetch("/v1/tickets", {method: "POST", body: JSON.stringify({path}),
            headers: {Authorization: `Bearer ${token}`, "Content-Type": "application/json"}});
        where = (await answer.json()).url;
    }
    window.got = [];
    const stream = new EventSource(where);
    stream.addEventListener("outcome", (event) => window.got.push(JSON.parse(event.data)));
    await new Promise((done, failed) => { stream.onopen = done; stream.onerror = failed; });
}"""


@pytest.fixture
def page(server: mt.Server) -> Iterator[Page]:
    from browser import chromium

    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{server.url}/v1/docs")
        yield page


def test_token_opens_the_documents_and_no_network_is_needed(
    page: Page, server: mt.Server, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.reload()
    page.get_by_label("Token").fill("mlt_wrong")
    page.get_by_role("button").click()
    expect(page.get_by_role("status")).to_contain_text("send a token")
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button").click()
    page.get_by_text("/v1/models/double/versions/1.0.0/invoke").click()
    expect(page.get_by_text('"operationId": "invoke_double_v1x0x0"')).to_be_visible()
    expect(page.get_by_role("link", name="asyncapi.json")).to_be_visible()
    page.screenshot(path=tmp_path / "docs.png", full_page=True)

    assert all(url.startswith(server.url) for url in asked)
    assert all(server.token not in url for url in asked)
    assert [text for text in said if "401" not in text] == []


@pytest.mark.parametrize("way", ["ticket", "cookie"])
def test_insert_into_a_table_reaches_an_event_source(
    way: str, page: Page, server: mt.Server, served_bus: mt.EventBus, tmp_path: Path
) -> None:
    app = sqlite3.connect(tmp_path / "app.db")
    app.execute("CREATE TABLE scans (id INTEGER PRIMARY KEY, path TEXT)")

    def ocr(row: dict[str, Any]) -> dict[str, Any]:
        return {"text": f"text of {row['path']}"}

    served_bus.subscribe(f"table+sqlite:///{tmp_path}/app.db#scans", ocr, name="reader")
    if way == "cookie":
        assert page.evaluate(SIGN_IN, server.token) == 204
    token = server.token if way == "ticket" else None
    page.evaluate(OPEN, ["/v1/subscriptions/reader/outcomes", token])

    app.execute("INSERT INTO scans (path) VALUES ('a.png')")
    app.commit()
    app.close()

    (outcome,) = wait_until(lambda: page.evaluate("window.got"))
    assert outcome["output"] == {"text": "text of a.png"}
    assert server.token not in page.evaluate("document.cookie")
