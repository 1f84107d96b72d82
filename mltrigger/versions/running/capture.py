"""Captures the prints of a model for its invocation. They do not appear in the current cell."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mltrigger.text import redacted

MAX_STDOUT = 64 * 1024
"""Characters of printed text that are kept per attempt. The rest is counted."""

# Each thread has a context of its own. A coroutine runs in a copy of the context of the thread that
# waits for it.
_current: contextvars.ContextVar[Captured | None] = contextvars.ContextVar(
    "mltrigger_captured", default=None
)
_guard = threading.Lock()


class Captured:
    """The text that one thread or its coroutine printed since the last :meth:`take`."""

    __slots__ = ("_parts", "_room", "_spilt")

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._parts: list[str] = []
        self._room = MAX_STDOUT
        self._spilt = 0

    def write(self, text: str) -> None:
        """Keep *text* as far as there is room."""
        kept = text[: self._room]
        if kept:
            self._parts.append(kept)
            self._room -= len(kept)
        self._spilt += len(text) - len(kept)

    def take(self) -> str | None:
        """Return the text and forget it. Return ``None`` if nothing was printed."""
        if not self._parts:
            return None
        text = "".join(self._parts).encode("utf-8", "backslashreplace").decode()
        if self._spilt:
            text += f"… ({self._spilt:,} more characters)"
        self._reset()
        return redacted(text)


class _Stream:
    """Replaces ``sys.stdout`` or ``sys.stderr``.

    A thread that captures writes to its own buffer, all others write as before.
    """

    def __init__(self, original: Any) -> None:
        self._original = original

    def write(self, text: str) -> int:
        captured = _current.get()
        if captured is None:
            return int(self._original.write(text) or 0)
        captured.write(str(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if _current.get() is None:
            self._original.flush()

    def close(self) -> None:
        if _current.get() is None:  # a model must not close it
            self._original.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def current() -> Captured | None:
    """Return the buffer that captures the prints of this thread."""
    return _current.get()


def go_on(captured: Captured | None) -> None:
    """Let *captured* capture in this context, too. ``None`` ends capturing here."""
    _current.set(captured)


@contextlib.contextmanager
def captured() -> Iterator[Captured]:
    """Capture the prints of this thread to stdout and stderr inside the block."""
    for name in ("stdout", "stderr"):
        # Checked every time: a test runner or a notebook may have replaced the stream since.
        if not isinstance(getattr(sys, name), _Stream):
            with _guard:
                current = getattr(sys, name)
                if current is not None and not isinstance(current, _Stream):
                    setattr(sys, name, _Stream(current))
    text = Captured()
    token = _current.set(text)
    try:
        yield text
    finally:
        _current.reset(token)


def echo(text: str) -> None:
    """Print *text* of a model elsewhere in this thread, where the listener captures it."""
    if text and sys.stdout is not None:
        # the stream may be closed or have another encoding
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text)
