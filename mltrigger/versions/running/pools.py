"""An executor that may have to be made again, and the turns that calls take in it."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from mltrigger.errors import Closed, InvalidModel
from mltrigger.versions.running.turns import Turns


class Source:
    """The executor in use: somebody else's, or one that is made when it is needed."""

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
        """Return the executor; raises Closed, and whatever making one raises."""
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

    def broke(self, executor: Executor | None = None) -> None:
        """Make another one the next time; unless that has happened since *executor* broke."""
        with self._guard:
            if self.makes and self._now is not None and executor in (None, self._now):
                _shut(self._now)
                self._now = None

    def uses(self, turns: Turns) -> bool:
        """Whether *turns* are those of the executor in use; of none, when it broke meanwhile."""
        now = self._now
        return now is None or turns_in(now) is turns

    def close(self) -> None:
        """Shut down what was made here; idempotent."""
        with self._guard:
            self.closed = True
            if self.makes and self._now is not None:
                _shut(self._now)
            self._now = None


def _shut(executor: Executor) -> None:
    with contextlib.suppress(Exception):
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # Dask's knows no such argument: it cancels when it does not wait
            executor.shutdown(wait=False)


# A pool breaks as a whole, whichever subscription has called it.
_turns: weakref.WeakKeyDictionary[Executor, Turns] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def turns_in(executor: Executor) -> Turns:
    """Return the turns of all calls that are made in *executor*, of whichever subscription."""
    with _guard:
        return _turns.setdefault(executor, Turns())
