"""The progress bar of one call: a line of text in a terminal, a bar of HTML in a notebook.

Only the calling thread draws it.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from mltrigger.errors import warn


class Bar:
    """Shows the number of outcomes and a note about trouble.

    Parameters
    ----------
    label : str
        The subject of the wait.
    shown : bool
        Whether to draw at all.
    """

    def __init__(self, label: str, shown: bool) -> None:
        self._label, self._shown = label, shown
        self._drawing: Any = None
        self._last: tuple[int, int, str] | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawing is not None:
            self._drawing.close()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Draw *done* of *total* and a *note*, unless that is shown already."""
        if not self._shown or (done, total, note) == self._last:
            return
        self._last = done, total, note
        if self._drawing is None:
            self._drawing = _drawing(self._label)
        self._drawing.draw(done, total, note)

    def warn(self, message: str) -> None:
        """Warn at the line of the user's code. The bar makes room for it."""
        with self._drawing.aside() if self._drawing is not None else contextlib.nullcontext():
            warn(message)


class _TextBar:
    """A tqdm bar on standard error, without tqdm's thread, which would print as well."""

    def __init__(self, label: str) -> None:
        from tqdm.std import tqdm

        class Quiet(tqdm):  # type: ignore[type-arg]
            monitor_interval = 0

        self._bar = Quiet(total=0, desc=label, unit="outcome", leave=False, dynamic_ncols=True)
        self._usual = self._bar.bar_format

    def draw(self, done: int, total: int, note: str) -> None:
        bar = self._bar
        bar.total = total
        # a note needs the bar's place
        bar.bar_format = "{desc}: {n_fmt}/{total_fmt} [{elapsed}{postfix}]" if note else self._usual
        bar.set_postfix_str(note, refresh=False)
        bar.n = done
        bar.refresh()

    def aside(self) -> Any:
        return self._bar.external_write_mode(sys.stderr)

    def close(self) -> None:
        self._bar.close()


def _drawing(label: str) -> Any:
    """Return a bar for the page of a notebook, else one of text."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        return _TextBar(label)
    from mltrigger.notebook.progress import PageBar

    return PageBar(label)
