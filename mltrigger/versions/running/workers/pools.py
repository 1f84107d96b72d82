"""An executor that may have to be made again, and the turns that calls take in it."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from mltrigger.errors import Closed, InvalidModel
from mltrigger.versions.running.turns import Turn, Turns

CONCURRENCY = 4
"""Calls at the same time if an executor does not tell its number of workers."""


class Source:
    """The executor in use: one that was handed over, or one that is made when it is needed.

    Parameters
    ----------
    given : Executor, or a callable that makes one
        See ``executor=`` of ``mt.subscribe``.

    Raises
    ------
    InvalidModel
        If it is neither.
    """

    def __init__(self, given: Executor | Callable[[], Executor]) -> None:
        if not isinstance(given, Executor) and not callable(given):
            advice = (
                "hand over client.get_executor()"
                if hasattr(given, "get_executor")
                else "or a callable that makes one"
            )
            raise InvalidModel(
                f"executor= takes a concurrent.futures.Executor, not {type(given).__name__};"
                f" {advice}"
            )
        self.makes = not isinstance(given, Executor)
        self.closed = False
        self._make: Callable[[], Any] = (lambda: given) if isinstance(given, Executor) else given
        self._now: Executor | None = None
        self._guard = threading.Lock()

    def get(self) -> Executor:
        """Return the executor.

        Raises
        ------
        Closed
            After :meth:`close`.
        Exception
            Any error of the callable that makes one.
        """
        with self._guard:
            if self.closed:
                raise Closed("the executor of the model was shut down")
            if self._now is None:
                self._now = self._make()
                if not isinstance(self._now, Executor):
                    raise InvalidModel(
                        "executor= made no concurrent.futures.Executor, but a"
                        f" {type(self._now).__name__}"
                    )
            return self._now

    @property
    def workers(self) -> int:
        """The number of calls that the executor runs at once, as far as it can be told."""
        executor = self.get()
        # the pools of the standard library, loky's and Ray's below
        if isinstance(most := getattr(executor, "_max_workers", None), int):
            return max(1, most)
        with contextlib.suppress(Exception):  # Dask's has a client, which may have no workers yet
            return sum(executor._client.nthreads().values()) or CONCURRENCY  # type: ignore[attr-defined]
        return CONCURRENCY

    def turn(self, alone: bool) -> Turn:
        """Wait for a turn in the executor that is in use by then, and return it."""
        while True:
            try:
                turns = _turns_in(self.get())
            except Exception:  # the call tells the reason
                turns = Turns()
            turn = turns.entered(alone)
            now = self._now
            if not self.makes or now is None or _turns_in(now) is turns:
                return turn
            turn.leave()  # another executor was made meanwhile

    def broke(self, executor: Executor | None = None) -> None:
        """Make another executor the next time, unless that was done since *executor* broke."""
        with self._guard:
            if self.makes and self._now is not None and executor in (None, self._now):
                _shut(self._now)
                self._now = None

    def close(self) -> None:
        """Shut down an executor that was made here. Idempotent."""
        with self._guard:
            self.closed = True
            if self.makes and self._now is not None:
                _shut(self._now)
            self._now = None


def _shut(executor: Executor) -> None:
    with contextlib.suppress(Exception):
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # Dask's has no such argument: it cancels when it does not wait
            executor.shutdown(wait=False)


# A pool breaks as a whole. So the calls of all subscriptions share its turns.
_turns: weakref.WeakKeyDictionary[Executor, Turns] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def _turns_in(executor: Executor) -> Turns:
    with _guard:
        return _turns.setdefault(executor, Turns())
