"""PageBar: the progress bar in the page of a notebook.

It is HTML without a widget, so a saved notebook keeps its last state.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from IPython.display import display

from mltrigger.text import progress

RATE_HZ = 8.0
"""The shortest time between two changes of the page."""


class PageBar:
    """Draws in the output of the running cell. At the end one line gives the result."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._began_s = time.monotonic()
        self._drawn_s = -1.0
        self._state = (0, 0, "")
        self._handle: Any = None

    def draw(self, done: int, total: int, note: str) -> None:
        """Draw *done* of *total*. A new *note* is shown at once."""
        urgent, self._state = note != self._state[2], (done, total, note)
        if urgent or time.monotonic() - self._drawn_s >= 1 / RATE_HZ:
            self._publish(None)

    @staticmethod
    def aside() -> contextlib.AbstractContextManager[None]:
        """Return a context in which others may write. A page has room for both."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Replace the bar by its last state and the time it took."""
        self._publish(time.monotonic() - self._began_s)

    def _publish(self, took_s: float | None) -> None:
        text, html = progress(self._label, *self._state, took_s)
        bundle = {"text/plain": text, "text/html": html}
        self._drawn_s = time.monotonic()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
