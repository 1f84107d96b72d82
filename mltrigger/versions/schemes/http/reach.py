"""Whether a server is there: what tells an outage from a server that one event ended.

A request of which nothing was sent has run nothing: that is an outage, for as long as it lasts.
When a connection ends after the request was sent, and before a byte of the answer, the model may
have run, and the event may have ended it. So such an end counts against its event when the server
was seen alive before: it had answered since the last outage. A server that has not, such as a
forwarded port with nobody behind it, is asked for a sign of life (``HEAD``) before the next
request.

It counts only when the event was alone there. When several requests broke off together, nobody can
tell which of them did it: none counts, and for a while the server gets one at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from mltrigger.versions.scheme import HOLD_S

_LEAST_S = 1.0
_PART = 0.5
"""The part of an outage so far after which a server is looked for again: it is found at most half
as late again as it came back.
"""


class Turn:
    """One request under way; ``alone`` says that no other has been since it began."""

    def __init__(self, reach: Reach, first: bool, number: int) -> None:
        self._reach, self._first, self._number = reach, first, number

    @property
    def alone(self) -> bool:
        """Whether no other request was under way at any time of this one."""
        return self._first and self._reach.begun == self._number


class Busy(Exception):  # internal signal
    """The server gets one request at a time now, and another is under way."""


class Reach:
    """What is known of one server; used from several threads at once."""

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
        """Let a request begin, and note its end.

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
        """Let the next *requests* go one at a time: it is one of these that ends the server."""
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
        """Note that it answers."""
        if not self._seen:
            with self._guard:
                self._seen, self._silent, self._away_since_s = True, False, None

    def away(self, *, silent: bool) -> float:
        """Note that it does not answer, *silent* when it took the request; return the seconds after
        which to look again.
        """
        with self._guard:
            now_s = time.monotonic()
            self._seen, self._silent = False, silent
            if self._away_since_s is None:
                self._away_since_s = now_s
            return min(HOLD_S, max(_LEAST_S, _PART * (now_s - self._away_since_s)))
