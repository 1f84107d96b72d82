"""The files of the view, as a page loads them. They need no build step and no network."""

from __future__ import annotations

from pathlib import Path

_VIEW = Path(__file__).parent / "view"


def _joined(ending: str) -> str:
    """Return the files of the view as one text, in the order of their names."""
    return "\n".join(path.read_text("utf-8") for path in sorted(_VIEW.glob(f"*{ending}")))


MODULE, STYLE = _joined(".js"), _joined(".css")
"""One ES module that exports ``render``, and its style sheet."""
