"""Pictures of the cockpit in a real JupyterLab, light and dark:
``python tests/helpers/cockpit_shots.py docs/images``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import Lab, chromium, menu

SETUP = """
import random, time
import mltrigger as mt

bus = mt.use("sqlite:///scans.db")
chance = random.Random(7)

@mt.subscribe("scans", version="1.0.0", emit="pages", max_concurrency=4)
def split(scan):
    time.sleep(chance.uniform(0.001, 0.004))
    return scan

@mt.subscribe("pages", version="1.4.0", emit="documents", max_attempts=2, max_concurrency=8)
def ocr(page):
    time.sleep(chance.lognormvariate(-4.2, 0.5))
    if page["n"] % 61 == 7:
        raise mt.Reject("no text on this page")
    return {"kind": "invoice" if page["n"] % 3 else "receipt", "total": f"1,{page['n'] % 900 + 100}.00 EUR", "n": page["n"]}

def ocr_next(page):
    time.sleep(chance.lognormvariate(-4.6, 0.4))
    return {"kind": "invoice" if page["n"] % 3 or page["n"] % 2 else "letter", "total": f"1,{page['n'] % 900 + 100}.00 EUR", "n": page["n"]}

mt.register(mt.model(ocr_next, name="ocr", version="1.5.0"))

@mt.subscribe("documents", version="2.0.0", max_concurrency=4)
def classify(document):
    time.sleep(chance.uniform(0.002, 0.008))
    return {"class": document["kind"]}

@mt.subscribe("documents", version="1.0.0")
def archive(document):
    return {"kept": True}

ocr.shadow("1.5.0")
"""
TRAFFIC = """
n = 0
for step in range(90):
    lot = chance.randint(6, 26)
    bus.publish_batch("scans", [{"n": n + i, "file": f"scans/2026/{n + i:05}.png"} for i in range(lot)])
    n += lot
    time.sleep(0.25)
time.sleep(2)
archive.pause()
bus.publish_batch("scans", [{"n": n + i, "file": f"scans/2026/{n + i:05}.png"} for i in range(24)])
time.sleep(2)
print("traffic is over")
"""


def shoot(folder: Path) -> None:
    """Write a picture of each tab, in both themes, to *folder*."""
    with chromium() as browser, tempfile.TemporaryDirectory() as home:
        lab = Lab(Path(home), browser)
        page = lab.open(SETUP, "ocr.dashboard()", TRAFFIC, width=1180)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.set_viewport_size({"width": 1180, "height": 1500})
        menu(page, "Run", "Run All Cells")
        page.get_by_text("traffic is over", exact=True).wait_for(timeout=120_000)
        cockpit = page.locator(".mltrigger-cockpit")
        for theme, name in (("JupyterLab Light", "light"), ("JupyterLab Dark", "dark")):
            page.evaluate(
                "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })",
                theme,
            )
            page.wait_for_timeout(2500)
            for tab in ("Overview", "Invocations", "Compare"):
                page.get_by_role("tab", name=tab, exact=True).click()
                cockpit.evaluate("node => node.scrollIntoView()")
                if tab == "Invocations":
                    page.get_by_label("Outcome", exact=True).select_option("dead")
                    page.wait_for_timeout(800)
                    page.locator('.mlt-space .mlt-row[aria-rowindex="2"]').click()
                    page.locator(".mlt-lanes").wait_for()
                if tab == "Compare":
                    page.get_by_role("button", name="Compare", exact=True).click()
                    page.locator(".mlt-flip").first.wait_for(timeout=30_000)
                page.wait_for_timeout(800)
                part = "" if tab == "Overview" else f"-{tab.lower()}"
                box = cockpit.bounding_box()
                assert box is not None
                page.screenshot(
                    path=folder / f"cockpit{part}-{name}.png",
                    clip={**box, "height": min(box["height"], 1120)},
                )
                if tab == "Invocations":
                    page.get_by_role("button", name="Close").click()
        lab.close()


if __name__ == "__main__":
    shoot(Path(sys.argv[1]))
