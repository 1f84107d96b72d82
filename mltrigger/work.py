"""Work: a lot of deliveries in one slot, shared between the thread that runs it and the one that watches it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mltrigger.brokers.base import Delivery
from mltrigger.models.invoke import Invoker
from mltrigger.models.version import ModelVersion


class Work:
    """A lot under way. Whoever closes it (its runner at the end, or the watcher after a timeout) settles what is open; once."""

    def __init__(self, deliveries: Sequence[Delivery], version: ModelVersion, invoker: Invoker, now_us: int) -> None:
        self.deliveries = list(deliveries)
        self.version = version
        self.invoker = invoker
        self.extended_us = self.recorded_us = now_us
        self.started_us: int | None = None
        self._begun = 0  # the model was called with these
        self._ended = 0  # the model has answered for these, or was given up
        self._recorded = 0  # these are settled: their lease need not be held any longer
        self._closed = False
        self._stop = False
        self._lock = threading.Lock()

    def begin(self, now_us: int) -> Delivery | None:
        """Return the next delivery to call the model with; ``None`` at the end, or when the work was closed or stopped."""
        with self._lock:
            if self._closed or self._stop or self._begun == len(self.deliveries):
                self.started_us = None
                return None
            self._begun += 1
            self.started_us = now_us
            return self.deliveries[self._begun - 1]

    def begin_all(self, now_us: int) -> list[Delivery]:
        """Return all deliveries, for one call."""
        with self._lock:
            if self._closed or self._stop:
                return []
            self._begun = len(self.deliveries)
            self.started_us = now_us
            return self.deliveries

    def end(self, count: int) -> bool:
        """Claim the next *count* deliveries for recording; ``False`` when somebody else has closed the work meanwhile."""
        with self._lock:
            if self._closed:
                return False
            self._ended += count
            self.started_us = None
            return True

    def recorded(self, now_us: int) -> None:
        """Say that everything that ended is settled."""
        with self._lock:
            self._recorded = self._ended
            self.recorded_us = now_us

    def close(self) -> list[Delivery] | None:
        """Close the work and return what has not ended; ``None`` when it was closed before."""
        with self._lock:
            if self._closed:
                return None
            self._closed = True
            return self.deliveries[self._ended :]

    def stop_after_current(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._stop = True

    def has_begun(self, delivery: Delivery) -> bool:
        """Whether the model was called with *delivery*."""
        return any(d is delivery for d in self.deliveries[: self._begun])

    def leased(self) -> list[Delivery]:
        """Return what is not settled: its lease must be held, also while its outcome waits for the store."""
        with self._lock:
            return self.deliveries[self._recorded :]

    @property
    def calling(self) -> int:
        """How many events the current call has."""
        return self._begun - self._ended

    def running_s(self, now_us: int) -> float:
        """Return for how many seconds the current call has been running; 0 between calls."""
        started_us = self.started_us
        return 0.0 if started_us is None else (now_us - started_us) / 1e6
