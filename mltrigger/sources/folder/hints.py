"""Hints of the operating system about changed folders. They only save looking.

A missed hint does no harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("mltrigger")

_STEP_MS = 50
_APART_S = 1.0
"""The shortest time between two new beginnings. Folders may come and go faster."""
_NEVER_MS = 3_600_000
"""The interval of watchfiles' own polling, which is not wanted. We look at a lower cost."""


class Hints:
    """Watches folders through ``watchfiles`` (inotify, kqueue, FSEvents).

    Links and inner folders are left out. ``trouble`` is the reason for no hints, or empty.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._native: Any = None
        self._covered: Mapping[str, int] = {}
        self._again_s = 0.0

    def cover(self, folders: Mapping[str, int]) -> bool:
        """Watch exactly these *folders*, paths with their inodes.

        Return whether hints may have been missed.
        """
        if folders == self._covered or time.monotonic() < self._again_s:
            return False
        self._again_s = time.monotonic() + _APART_S
        before, self._covered = self._native, dict(folders)
        self._native = self._watching(folders)
        if before is not None:
            before.close()
        return True

    def wait(self, timeout_s: float, stop: threading.Event) -> set[str] | None:
        """Wait for a change, at most *timeout_s*. Return the changed paths.

        ``None`` if the system cannot name them.
        """
        if self._native is None:
            stop.wait(timeout_s)
            return set()
        try:
            found = self._native.watch(_STEP_MS, _STEP_MS, max(1, int(timeout_s * 1000)), stop)
        except Exception:  # it cannot say the name of a file that is not UTF-8
            self._covered = {}  # and goes on failing, until it begins anew
            stop.wait(_STEP_MS / 1000)
            return None
        return {path for _, path in found} if isinstance(found, set) else set()

    def close(self) -> None:
        """Watch no more."""
        if self._native is not None:
            self._native.close()
            self._native = None

    def _watching(self, folders: Iterable[str]) -> Any:
        if not (paths := list(folders)):
            return None
        try:
            from watchfiles._rust_notify import RustNotify

            native = RustNotify(paths, False, False, _NEVER_MS, False, True)
        except ImportError:
            self.trouble = "the package watchfiles is not installed"
        except Exception as error:  # inotify's limits above all
            self.trouble = _in_short(error, paths)
            logger.info("watched folders: no hints from the system: %s", self.trouble)
        else:
            self.trouble = ""
            return native
        return None


def _in_short(error: Exception, paths: Iterable[str]) -> str:
    """Return the text of *error* without the paths."""
    text = str(error)
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, Path(path).name)
    return text.partition(" about [")[0][:200]
