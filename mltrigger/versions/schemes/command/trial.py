"""A program that has not answered yet: whether it cannot be loaded, or one event ends it.

A program that ends before its version ever answered could not be loaded, however long that took:
its events wait. Only one that waits when nobody asks it anything, and ends again and again at one
event while there is no other, is ended by that event.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

from mltrigger.versions.scheme import HOLD_S

EARLY_S = 0.25
"""How long a new process is watched before anything is received: what ends or writes by then does
not wait for events.
"""
_PROOF = 3
"""How often one event must have ended the program before it is at fault."""
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
    """Whether the last words of a program are that a part of it is not there."""
    return _NOT_LOADED.search(printed) is not None


class Trial:
    """What is known of a program until it answers for the first time; used from several threads."""

    def __init__(self) -> None:
        self.passed = False
        self._guard = threading.Lock()
        self._deaths: Counter[str] = Counter()
        self._since_s: float | None = None
        self._longest_s = 0.0

    @property
    def watch_s(self) -> float:
        """How long a process must have waited without being asked, until the next event is sent to
        it.
        """
        return _LONGER * self._longest_s + EARLY_S if self._longest_s else 0.0

    @property
    def delay_s(self) -> float:
        """Seconds after which to look again; the more, the longer it has not answered."""
        outage_s = 0.0 if self._since_s is None else time.monotonic() - self._since_s
        return min(HOLD_S, max(_LEAST_S, self.watch_s, _PART * outage_s))

    def deaths(self, event: str) -> int:
        """Return how often *event* has ended the program; those that have not go first."""
        return self._deaths[event]

    def answered(self) -> None:
        """Note that it has answered: from now on it can be loaded."""
        if not self.passed:
            with self._guard:
                self.passed = True
                self._deaths.clear()

    def ended(self, lived_s: float, printed: str, event: str | None = None) -> bool:
        """Note that it ended after *lived_s* seconds, asked for *event* or for nothing; return
        whether that event is at fault.
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
