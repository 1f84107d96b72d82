"""Turns: many calls at once, or one call alone.

The death of a process proves something about a call only if no other call ran beside it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

_LOOK_S = 0.05
"""Interval in which a waiting call looks whether it was stopped or may begin."""
_CLOSED_S = 1.0
"""Time in which a call that waits to be alone keeps others from beginning. It doubles each time."""
_LEAST_S, _MOST_S = 0.05, 1.0
"""Limits of the time in which others may begin after a call that was alone. It took that long."""


class Turn:
    """The permission of one call to run, made by :meth:`Turns.enter`."""

    __slots__ = ("_began_s", "_first", "_number", "_turns", "behind", "is_alone", "proves")

    def __init__(self, turns: Turns, is_alone: bool) -> None:
        self._turns, self.is_alone = turns, is_alone
        self.proves, self.behind = False, False
        self._first, self._number, self._began_s = True, 0, 0.0

    @property
    def had_company(self) -> bool:
        """Whether another call was under way at any time since this one began."""
        return not self._first or self._turns._begun != self._number

    def open(self) -> None:
        """Let others begin beside this call, since it waits for them."""
        self._turns._open(self)

    def leave_behind(self) -> None:
        """Let others begin. Nobody waits for this call any more. Idempotent.

        It goes on until :meth:`leave`.
        """
        self._turns._leave(self, behind=True)

    def leave(self) -> None:
        """End the turn. Idempotent, from any thread."""
        self._turns._leave(self, behind=False)


class Turns:
    """Decides which calls may run now.

    A call that wants to be alone waits until nothing runs. Meanwhile it keeps others from
    beginning.

    Nobody waits for ever. A call under way may itself wait for another call, if its model fires
    events. So a call that waits to be alone lets others begin from time to time. It keeps them
    waiting for longer each time. After a call that was alone, the calls that it kept waiting come
    first.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._running: set[Turn] = set()
        self._behind: set[Turn] = set()
        self._queue: deque[Turn] = deque()
        self.wanted = False
        """Whether a call waits to be alone."""
        self._alone: Turn | None = None
        self._begun = 0
        self._since_s = 0.0
        self._kept_waiting = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._running)

    @property
    def left_behind(self) -> int:
        """The number of calls that go on although nobody waits for them."""
        return len(self._behind)

    @property
    def closed(self) -> bool:
        """Whether an ordinary call would have to wait now."""
        return self._alone is not None or (bool(self._queue) and self._is_closing(time.monotonic()))

    def enter(
        self, alone: bool = False, stopped: Callable[[], bool] = lambda: False
    ) -> Turn | None:
        """Wait for a turn and return it. Return ``None`` if *stopped* says so first."""
        turn = Turn(self, alone)
        with self._changed:
            if not (self._waited_alone(turn, stopped) if alone else self._waited_open(stopped)):
                return None
            self._begun += 1
            turn._first, turn._number, turn._began_s = (
                not self._running,
                self._begun,
                time.monotonic(),
            )
            turn.proves = alone and not self._behind
            self._alone = turn if alone else None
            self._running.add(turn)
        return turn

    def entered(self, alone: bool = False) -> Turn:
        """Wait for a turn without a limit, and return it."""
        turn = self.enter(alone)
        assert turn is not None  # noqa: S101 - nothing stops it
        return turn

    def wait_open(self, stopped: Callable[[], bool]) -> None:
        """Wait until an ordinary call may begin, or *stopped* says so."""
        if self.closed:
            with self._changed:
                self._waited_open(stopped)

    def wake(self) -> None:
        """Let waiting calls look whether they were stopped."""
        with self._changed:
            self._changed.notify_all()

    def _waited_open(self, stopped: Callable[[], bool]) -> bool:
        while self.closed:
            self._kept_waiting = True
            if stopped():
                return False
            self._changed.wait(_LOOK_S)
        return True

    def _waited_alone(self, turn: Turn, stopped: Callable[[], bool]) -> bool:
        if not self._queue:
            self._since_s = max(self._since_s, time.monotonic())
        self._queue.append(turn)
        self.wanted = True
        try:
            while self._queue[0] is not turn or self._running or time.monotonic() < self._since_s:
                if stopped():
                    return False
                self._changed.wait(_LOOK_S)
            return True
        finally:
            self._queue.remove(turn)
            self.wanted = bool(self._queue)
            self._since_s = max(self._since_s, time.monotonic())
            self._changed.notify_all()

    def _is_closing(self, now_s: float) -> bool:
        """Whether the first call that waits to be alone keeps others waiting now.

        It does so for 1 s of 2, then for 2 s of 4, 4 s of 8, and so on.
        """
        passed_s, closed_s = now_s - self._since_s, _CLOSED_S
        while passed_s >= 2 * closed_s:
            passed_s -= 2 * closed_s
            closed_s *= 2
        return 0 <= passed_s < closed_s

    def _open(self, turn: Turn) -> None:
        with self._changed:
            if self._alone is turn:
                self._alone, turn.proves = None, False
                self._changed.notify_all()

    def _leave(self, turn: Turn, behind: bool) -> None:
        with self._changed:
            self._behind.discard(turn)
            if behind:
                self._behind.add(turn)
                turn.behind = True
            if turn in self._running:
                self._running.discard(turn)
                if self._alone is turn:
                    self._alone = None
                    self._make_room(time.monotonic() - turn._began_s)
            self._changed.notify_all()

    def _make_room(self, took_s: float) -> None:
        if self._kept_waiting:
            self._since_s = time.monotonic() + min(_MOST_S, max(_LEAST_S, took_s))
            self._kept_waiting = False


# The process dies as a whole, so all buses in it share these turns.
HERE = Turns()
"""The turns of all models that are called in this process."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HERE._reset)
