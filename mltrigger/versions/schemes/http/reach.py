"""Whether a server is there: tells an outage from a server that one event ended.

A request that was never sent has run nothing. That is an outage, as long as it lasts.

A connection may also end after the request was sent, and before a byte of the answer. Then the
model may have run, and the event may have ended the server. So this counts against the event, if
the server had answered since the last outage. If it had not, it may be a forwarded port with
nothing behind it. Such a server is asked for a sign of life (``HEAD``) before the next request.

It counts only when no other request was under way. When several break off together, nobody can
tell which one did it. Then none counts, and for a while the server gets one request at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from mltrigger.versions.scheme import HOLD_S

_LEAST_S = 1.0
_PART = 0.5
"""The next look comes after this part of the outage so far. So it is late by half at most."""


class Turn:
    """One request under way."""

    def __init__(self, reach: Reach, first: bool, number: int) -> None:
        self._reach, self._first, self._number = reach, first, number

    @property
    def alone(self) -> bool:
        """Whether no other request was under way at any time of this one."""
        return self._first and self._reach.begun == self._number


class Busy(Exception):  # internal signal
    """The server gets one request at a time now, and another is under way."""


class Reach:
    """The state of one server. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._away_since_s: float | None = None
        self._seen = False
        self._silent = False
        self.begun = 0
        self._under_way = 0
        self._one_at_a_time = 0
        self._alone = threading.Lock()

    @contextlib.contextmanager
    def turn(self, patience_s: float) -> Iterator[Turn]:
        """Begin a request, and note its end.

        Raises
        ------
        Busy
            When the server gets one at a time, and another has not ended within *patience_s*.
        """
        with contextlib.ExitStack() as stack:
            if self._one_at_a_time > 0:
                if not self._alone.acquire(timeout=patience_s):
                    raise Busy
                stack.callback(self._alone.release)
            with self._guard:
                self.begun += 1
                self._under_way += 1
                turn = Turn(self, self._under_way == 1, self.begun)
            try:
                yield turn
            finally:
                with self._guard:
                    self._under_way -= 1
                    self._one_at_a_time = max(0, self._one_at_a_time - 1)

    def suspect(self, requests: int) -> None:
        """Let the next *requests* go one at a time: one of them ends the server."""
        with self._guard:
            self._one_at_a_time = max(self._one_at_a_time, requests)

    @property
    def is_seen(self) -> bool:
        """Whether the server has answered since it was away."""
        return self._seen

    @property
    def is_doubtful(self) -> bool:
        """Whether it took a request without an answer, and has not answered since."""
        return self._silent and not self._seen

    def answered(self) -> None:
        """Note an answer."""
        if not self._seen:
            with self._guard:
                self._seen, self._silent, self._away_since_s = True, False, None

    def away(self, *, silent: bool) -> float:
        """Note a request without an answer, and return the seconds until the next look.

        *silent* says that the server took the request.
        """
        with self._guard:
            now_s = time.monotonic()
            self._seen, self._silent = False, silent
            if self._away_since_s is None:
                self._away_since_s = now_s
            return min(HOLD_S, max(_LEAST_S, _PART * (now_s - self._away_since_s)))
