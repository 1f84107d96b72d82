"""Work: a lot of deliveries in one slot, shared between the thread that runs it and the one that
watches it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Container, Sequence
from typing import Generic, TypeVar

from mltrigger.broker import Delivery
from mltrigger.versions.running.current import ENCODING_S
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.turns import Turn
from mltrigger.versions.version import ModelVersion

Answer = TypeVar("Answer")
UNLIKELY = 5
"""Attempts of an event, some of them abandoned, after which it is a suspect although its model runs
elsewhere.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Remains(Generic[Answer]):
    """What a closed work leaves: answers nobody has recorded, deliveries the model was being called
    with, and those it was not.
    """

    answers: Sequence[Answer]
    called: Sequence[Delivery]
    unbegun: Sequence[Delivery]
    started_us: int | None


class Work(Generic[Answer]):
    """A lot under way.

    Whoever closes it (its runner at the end, or the watcher after a timeout) settles what remains;
    once.
    """

    def __init__(
        self, deliveries: Sequence[Delivery], version: ModelVersion, invoker: Caller, now_us: int
    ) -> None:
        self.version = version
        self.invoker = invoker
        self.extended_us = self.taken_us = now_us
        self.started_us: int | None = None
        self.called_us = now_us  # as started_us, and kept when the call has ended
        self.returned_us: int | None = None
        self.turn: Turn | None = None
        self._deliveries = list(deliveries)
        self._begun = 0  # the model was called with these
        self._ended = 0  # it has answered for these
        self._answers: list[Answer] = []
        self._unsettled = {d.seq: d for d in deliveries}
        self._closed = False
        self._stop = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many deliveries are not settled."""
        return len(self._unsettled)

    def ahead(self, apart: bool, company: Container[Delivery] = ()) -> tuple[int, bool]:
        """Return how many deliveries come next in one turn, and whether they have to be alone; 0 at
        the end, or when closed or stopped.

        *apart* says that a suspect is called on its own: one that may have ended the process it ran
        in. Of a model that runs elsewhere that is unlikely (it kills its parent, its answer needs
        too much memory): suspicion takes more attempts. So is what had *company*.
        """
        rest = () if self.stopped else self._deliveries[self._begun :]
        if not rest:
            return 0, False
        clean = next(
            (
                i
                for i, d in enumerate(rest)
                if (d.abandoned and (apart or d.attempt > UNLIKELY)) or d in company
            ),
            len(rest),
        )
        return (clean, False) if clean else (1, True)

    @property
    def next(self) -> Delivery:
        """The delivery that comes next."""
        return self._deliveries[self._begun]

    def drop(self) -> None:
        """Leave the next delivery out: somebody else has it."""
        with self._lock:
            dropped = self._deliveries.pop(self._begun)
            self._unsettled.pop(dropped.seq, None)

    def begin(self, count: int, now_us: int) -> Sequence[Delivery]:
        """Return the next *count* deliveries to call the model with; none at the end, or when the
        work was closed or stopped.
        """
        with self._lock:
            if self._closed or self._stop:
                return ()
            called = self._deliveries[self._begun : self._begun + count]
            self._begun += len(called)
            self.started_us = now_us if called else None
            self.called_us, self.returned_us = now_us, None
            return called

    def restart(self, now_us: int) -> None:
        """Count the run time of the current call from now on."""
        with self._lock:
            if self.started_us is not None:
                self.started_us, self.returned_us = now_us, None

    def paused(self, now_us: int) -> None:
        """Count nothing of the time in which this process was stopped."""
        with self._lock:
            if self.started_us is not None:
                self.started_us = (
                    now_us if self.returned_us is None else now_us + int(ENCODING_S * 1e6)
                )

    def returned(self, now_us: int) -> None:
        """Count the run time of the current call no longer: the model has returned.

        Its answer has ``ENCODING_S`` until it is there.
        """
        if self.started_us is not None:
            self.returned_us, self.started_us = now_us, now_us + int(ENCODING_S * 1e6)

    def answered(self, answers: Sequence[Answer]) -> None:
        """Keep *answers* of the current call until they are recorded; forget them when the work was
        closed meanwhile.
        """
        with self._lock:
            if not self._closed:
                self._answers += answers
                self._ended += len(answers)
                self.started_us = None

    def take(self, now_us: int) -> list[Answer]:
        """Return the answers that nobody has taken for recording yet."""
        with self._lock:
            answers, self._answers = self._answers, []
            self.taken_us = now_us
            return answers

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Say that *deliveries* are settled; their leases need not be held any longer."""
        with self._lock:
            for delivery in deliveries:
                self._unsettled.pop(delivery.seq, None)

    def leased(self) -> list[Delivery]:
        """Return what is not settled: its lease must be held, also while its outcome waits for the
        store.
        """
        with self._lock:
            return list(self._unsettled.values())

    def stop_after_current(self) -> None:
        """Begin nothing more."""
        with self._lock:
            self._stop = True

    def close(self) -> Remains[Answer] | None:
        """Close the work and return what remains; ``None`` when it was closed before."""
        with self._lock:
            if self._closed:
                return None
            self._closed = True
            answers, self._answers = self._answers, []
            started_us = self.started_us if self.returned_us is None else self.called_us
            return Remains(
                answers,
                self._deliveries[self._ended : self._begun],
                self._deliveries[self._begun :],
                started_us,
            )

    @property
    def stopped(self) -> bool:
        """Whether nothing more is begun."""
        return self._stop or self._closed

    @property
    def waiting(self) -> bool:
        """Whether there are answers that nobody has taken."""
        return bool(self._answers)

    def running_s(self, now_us: int) -> float:
        """Return for how many seconds the current call has been running; 0 between calls."""
        started_us = self.started_us
        return 0.0 if started_us is None else (now_us - started_us) / 1e6
