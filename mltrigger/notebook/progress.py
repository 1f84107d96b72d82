"""PageBar: the progress bar in a notebook's page.

It is HTML without a widget, so a saved notebook has its last state.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from IPython.display import display

from mltrigger.text import progress

RATE_HZ = 8.0
"""How often at most the page changes."""


class PageBar:
    """Draws in the output of the cell that runs; at the end one line says what was reached."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._began_s = time.monotonic()
        self._drawn_s = -1.0
        self._state = (0, 0, "")
        self._handle: Any = None

    def draw(self, done: int, total: int, note: str) -> None:
        """Draw *done* of *total*, and *note*, which is shown at once."""
        urgent, self._state = note != self._state[2], (done, total, note)
        if urgent or time.monotonic() - self._drawn_s >= 1 / RATE_HZ:
            self._publish(None)

    @staticmethod
    def aside() -> contextlib.AbstractContextManager[None]:
        """Return a context in which others write: a page has room for both."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Leave the last state, with the time it took, in place of the bar."""
        self._publish(time.monotonic() - self._began_s)

    def _publish(self, took_s: float | None) -> None:
        text, html = progress(self._label, *self._state, took_s)
        bundle = {"text/plain": text, "text/html": html}
        self._drawn_s = time.monotonic()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
