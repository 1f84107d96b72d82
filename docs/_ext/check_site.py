"""Look at a built site: links and anchors lead somewhere, and nothing is fetched from outside.

::

    python docs/_ext/check_site.py docs/_build/html
"""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

FETCHED = {
    ("script", "src"),
    ("img", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("audio", "src"),
    ("object", "data"),
    ("embed", "src"),
}
OUTSIDE = ("http:", "https:", "//")


class Page(HTMLParser):
    """The links, anchors and files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self._is_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what *tag* leads to, fetches, or is."""
        given = {name: value or "" for name, value in attrs}
        self._is_style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if given.get("rel") in ("canonical", "next", "prev", "index", "search"):
            return
        self.fetched += [value for name, value in given.items() if (tag, name) in FETCHED]

    def handle_data(self, data: str) -> None:
        """Note imports of a style sheet inside the page."""
        if self._is_style and "@import" in data:
            self.fetched.append("https: @import")


def complaints(site: Path) -> Iterator[str]:
    """Yield a line for everything that is wrong with *site*."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    if not pages:
        yield f"{site}: there is no page"
    for path, page in sorted(pages.items()):
        name = path.relative_to(site.resolve())
        for file in page.fetched:
            if file.startswith(OUTSIDE):
                yield f"{name}: fetches {file}"
        for link in [*page.links, *page.fetched]:
            if not (
                link.startswith(OUTSIDE) or link.startswith(("mailto:", "data:", "javascript:"))
            ):
                yield from (f"{name}: {link} {why}" for why in _broken(path, link, pages))
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        if "@import" in text or "url(http" in text or "url(//" in text:
            yield f"{sheet.relative_to(site)}: fetches from outside"


def _broken(path: Path, link: str, pages: dict[Path, Page]) -> Iterator[str]:
    parts = urllib.parse.urlsplit(link)
    target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    anchor = urllib.parse.unquote(parts.fragment)
    if not target.exists():
        yield "is not there"
    elif anchor and target in pages and anchor not in pages[target].anchors:
        yield "has no such anchor"


if __name__ == "__main__":
    found = list(complaints(Path(sys.argv[1])))
    print("\n".join(found) or "links, anchors and files of the site are whole")
    sys.exit(bool(found))
