"""Pages that live elsewhere in the repository, and links into it.

Notebooks and pages of the repository are copied into folders that git ignores, when a build begins.
A link to one of them leads to its page. A link to another file becomes the name of the file, or
leads to ``$DOCS_REPOSITORY`` where that is set. A link to a file that is not there is a warning.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

LOG = logging.getLogger(__name__)
DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
COPIED = {
    **{
        f"notebooks/{path.name}": f"tutorials/{path.name}"
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    },
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/RESULTS.md": "project/results.md",
}
"""Path in the repository -> path in the site."""
PAGES = {**COPIED, "README.md": "index.md"}
_ORIGIN = {page: source for source, page in COPIED.items()}
_LINK = re.compile(
    r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)"
)


def copy_pages(app: Any) -> None:
    """Copy the pages. One that did not change keeps its time: Sphinx reads it no second time."""
    for folder in {posixpath.dirname(page) for page in COPIED.values()}:
        (DOCS / folder).mkdir(exist_ok=True)
        for old in (DOCS / folder).iterdir():
            if f"{folder}/{old.name}" not in _ORIGIN:
                old.unlink()
    for source, page in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if not (DOCS / page).exists() or (DOCS / page).read_text(encoding="utf-8") != text:
            (DOCS / page).write_text(text, encoding="utf-8")


def lead(app: Any, docname: str, content: list[str]) -> None:
    """Let the links of a page lead to pages of the site."""
    file = next(
        (f"{docname}{end}" for end in (".md", ".ipynb") if (DOCS / f"{docname}{end}").exists()), ""
    )
    if not file:
        return
    content[0] = content[0].replace("<!-- cockpit -->", _cockpit())
    origin = _ORIGIN.get(file, f"docs/{file}")
    content[0] = _LINK.sub(lambda link: _led(link, origin, file, docname), content[0])


def _cockpit() -> str:
    """Return the pictures of the cockpit, one for each colour scheme."""
    return "".join(
        f"```{{image}} images/cockpit-{scheme}.png\n:class: only-{scheme}\n"
        ":alt: The cockpit: topics, subscriptions and versions, throughput and latency\n```\n\n"
        for scheme in ("light", "dark")
    )


def _led(link: re.Match[str], origin: str, file: str, docname: str) -> str:
    image, text, path, anchor = link[1], link[2], link[3], link[4] or ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if not (ROOT / target).exists():
        LOG.warning("%s links to %s, and there is no %s", origin, path, target, location=docname)
        return link[0]
    if image:
        return link[0]
    page = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
    if page:
        return f"[{text}]({posixpath.relpath(page, posixpath.dirname(file) or '.')}{anchor})"
    if base := os.environ.get("DOCS_REPOSITORY"):
        return f"[{text}]({base.rstrip('/')}/{target}{anchor})"
    return text if text.strip("`") == target else f"{text} (`{target}`)"


def setup(app: Any) -> dict[str, bool]:
    """Register the parts with Sphinx."""
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", lead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
