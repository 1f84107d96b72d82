"""A program that has not answered yet: either it cannot be loaded, or one event ends it.

A program that ends before its version ever answered could not be loaded, however long that took.
So its events wait. An event is at fault only under three conditions: the program waits as long as
it is not asked. It ends again and again at this event. No other event is there.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

from mltrigger.versions.scheme import HOLD_S

EARLY_S = 0.25
"""Seconds for which a new process is watched before its first event. It must not end or write."""
_PROOF = 3
"""An event is at fault when it has ended the program more often than this."""
_LONGER = 1.5
_PART = 0.5
_LEAST_S = 1.0
_MOST_EVENTS = 1000
_NOT_LOADED = re.compile(
    r"ModuleNotFoundError|ImportError|No module named|Cannot find"
    r" (module|package)|ERR_MODULE_NOT_FOUND|cannot load such file|"
    r"there is no package called|Package \S+ not found|Can't locate \S+ in"
    r" @INC|ClassNotFoundException|NoClassDefFoundError|"
    r"Could not find or load main class|UnsupportedClassVersionError|cannot open shared object"
    r" file|error while loading shared libraries|"
    r"Library not loaded|GLIBC\w* not found|command not found"
)


def says_not_loaded(printed: str) -> bool:
    """Whether the last words of a program say that a part of it is missing."""
    return _NOT_LOADED.search(printed) is not None


class Trial:
    """The state of a program until its first answer. Thread-safe."""

    def __init__(self) -> None:
        self.passed = False
        self._guard = threading.Lock()
        self._deaths: Counter[str] = Counter()
        self._since_s: float | None = None
        self._longest_s = 0.0

    @property
    def watch_s(self) -> float:
        """Seconds that a process must wait without a question, before it gets an event."""
        return _LONGER * self._longest_s + EARLY_S if self._longest_s else 0.0

    @property
    def delay_s(self) -> float:
        """Seconds until the next attempt. They grow with the time without an answer."""
        outage_s = 0.0 if self._since_s is None else time.monotonic() - self._since_s
        return min(HOLD_S, max(_LEAST_S, self.watch_s, _PART * outage_s))

    def deaths(self, event: str) -> int:
        """Return how often *event* has ended the program. Events with fewer ends go first."""
        return self._deaths[event]

    def answered(self) -> None:
        """Note an answer. From now on the program counts as loaded."""
        if not self.passed:
            with self._guard:
                self.passed = True
                self._deaths.clear()

    def ended(self, lived_s: float, printed: str, event: str | None = None) -> bool:
        """Note an end after *lived_s* seconds. Return whether *event* is at fault.

        *event* is ``None`` when the program was not asked for one.
        """
        with self._guard:
            if self._since_s is None:
                self._since_s = time.monotonic()
            self._longest_s = max(self._longest_s, lived_s)
            if event is None:
                return False
            if len(self._deaths) >= _MOST_EVENTS:
                self._deaths.clear()
            self._deaths[event] += 1
            return (
                len(self._deaths) == 1
                and self._deaths[event] > _PROOF
                and not says_not_loaded(printed)
            )
