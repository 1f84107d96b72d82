"""A page with the view of the cockpit and a kernel in JavaScript. No Python answers, no server runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
VIEW = ROOT / "mltrigger" / "notebook" / "cockpit" / "view"
FAKE = ROOT / "tests" / "data" / "cockpit" / "fake_kernel.js"
NUMBERS = (
    ".mlt-tile dd, .mlt-number, .mlt-cell-queue, .mlt-cell-model, .mlt-cell-total, .mlt-cell-started,"
    " .mlt-node-facts, .mlt-lane-said, .mlt-plot text, .mlt-count"
)
"""Where the cockpit shows numbers."""
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>cockpit</title>
<style>body {{ margin: 0; padding: 8px; font-family: system-ui, sans-serif; background: {background}; color-scheme: light dark; }}
h1 {{ color: light-dark(#444, #ccc); font-size: 14px; }}
{css}</style></head><body><main><h1>Notebook</h1><div id="cell"></div></main>
<script type="module">
import cockpit from "./view.mjs";
import {{ FakeKernel }} from "./fake_kernel.js";
window.fake = new FakeKernel({options});
window.stop = cockpit.render({{ model: window.fake, el: document.getElementById("cell") }});
</script></body></html>"""


def joined(kind: str) -> str:
    """Return the files of the view as the widget gets them."""
    return "\n".join(path.read_text("utf-8") for path in sorted(VIEW.glob(f"*.{kind}")))


def open_page(
    browser: Browser, *, width: int = 1100, scheme: str = "light", **options: Any
) -> Page:
    """Open the cockpit in a page of *width* pixels. *options* are those of the kernel."""
    page = browser.new_page(
        viewport={"width": width, "height": 1000},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    html = _PAGE.format(
        css=joined("css"),
        options=json.dumps(options).replace("<", "\\u003c"),
        background="#101216" if scheme == "dark" else "#fff",
    )
    served = {
        "": ("text/html", html),
        "view.mjs": ("text/javascript", joined("js")),
        "fake_kernel.js": ("text/javascript", FAKE.read_text("utf-8")),
    }

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix("http://cockpit.test/")
        if name in served:
            kind, body = served[name]
            route.fulfill(content_type=f"{kind}; charset=utf-8", body=body)
        else:
            route.abort()

    page.route("**/*", answer)
    page.goto("http://cockpit.test/")
    page.locator(".mltrigger-cockpit .mlt-title").wait_for()
    return page


def cut_texts(page: Page, selector: str) -> list[str]:
    """Return the texts of *selector* that are wider than their place."""
    return page.evaluate(
        """(selector) => [...document.querySelectorAll(selector)]
            .filter((cell) => cell.getClientRects().length && cell.textContent.trim())
            .filter((cell) => {
                const whole = document.createRange();
                whole.selectNodeContents(cell);
                const box = whole.getBoundingClientRect();
                const frame = (cell.closest(".mlt-row, .mlt-tile, td, th, svg, .mlt-node, li") ?? cell).getBoundingClientRect();
                const out = box.left < frame.left - 1 || box.right > frame.right + 1;
                const cut = getComputedStyle(cell).overflow !== "visible" && cell.scrollWidth > cell.clientWidth + 1;
                return out || cut;
            })
            .map((cell) => cell.textContent)""",
        selector,
    )
