"""An executor that may have to be made again, and the turns that calls take in it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

from mltrigger.errors import Closed, InvalidModel


class Source:
    """The executor in use: somebody else's, or one that is made when it is needed."""

    def __init__(self, given: Executor | Callable[[], Executor]) -> None:
        if not isinstance(given, Executor) and not callable(given):
            advice = "hand over client.get_executor()" if hasattr(given, "get_executor") else "or a callable that makes one"
            raise InvalidModel(f"executor= takes a concurrent.futures.Executor, not {type(given).__name__}; {advice}")
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
                    raise InvalidModel(f"executor= made no concurrent.futures.Executor, but a {type(self._now).__name__}")
            return self._now

    def broke(self, executor: Executor | None = None) -> None:
        """Make another one the next time; unless that has happened since *executor* broke."""
        with self._guard:
            if self.makes and self._now is not None and executor in (None, self._now):
                _shut(self._now)
                self._now = None

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


class Turns:
    """Many calls at once, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running, self._begun = 0, 0
        self._alone = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._running > 0 or self._alone

    @contextlib.contextmanager
    def shared(self) -> Iterator[Callable[[], bool]]:
        """Wait while a call is alone; the function that is yielded says whether another call was under way at any time since."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running, self._begun = self._running + 1, self._begun + 1
            first, number = self._running == 1, self._begun
        try:
            yield lambda: not first or self._begun != number
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no call is under way, and let none begin."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
