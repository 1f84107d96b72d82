"""A lot: the deliveries that one slot calls the model with.

The thread that runs a lot shares it with the keeper's thread, which watches it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import NamedTuple

from mltrigger.broker import Delivery, Settlement
from mltrigger.broker.alike import Alike
from mltrigger.delivery.suspects import Suspects
from mltrigger.event.event import Event
from mltrigger.store.lots import By, Succeeded
from mltrigger.store.unit import Invocation
from mltrigger.versions.running.current import ENCODING_S
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.turns import Turn

_ENCODING_US = int(ENCODING_S * 1e6)


class Ended(NamedTuple):
    """One ended attempt: its row in the log, its settlement and the event that it emits."""

    invocation: Invocation
    settlement: Settlement
    emitted: Event | None = None

    @property
    def deliveries(self) -> Sequence[Delivery]:
        """The delivery, alone."""
        return (self.settlement.delivery,)

    @property
    def is_final(self) -> bool:
        """Whether the delivery does not come again."""
        return self.settlement.verdict in ("ack", "dead_letter")


Answer = Ended | Succeeded
"""The answers of one event, or of a whole batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Remains:
    """The open parts of a closed lot.

    ``answers`` are not recorded yet. The model was being called with ``called``, since
    ``started_us``. It was not called with ``unbegun``.
    """

    answers: Sequence[Answer]
    called: Sequence[Delivery]
    unbegun: Sequence[Delivery]
    started_us: int | None


class Lot:
    """Deliveries under way, with the version and the caller that they run with.

    Two threads may close it: its runner at the end, the keeper after a timeout. The first one
    settles the rest.
    """

    def __init__(
        self, deliveries: Sequence[Delivery], by: By, invoker: Caller, now_us: int
    ) -> None:
        self.by = by
        self.invoker = invoker
        self.extended_us = self.taken_us = now_us
        self.started_us: int | None = None
        self.called_us = now_us  # like started_us, but kept after the call
        self.returned_us: int | None = None
        self.turn: Turn | None = None
        self.then: Lot | None = None
        """The lot of another version that follows in the same slot."""
        self._deliveries = deliveries
        self._begun = 0  # deliveries that the model was called with
        self._ended = 0  # deliveries that it has answered
        self._answers: list[Answer] = []
        self._well: Succeeded | None = None  # the last of them, if it takes more calls
        self._unsettled: dict[int, Delivery] | None = None  # as long as nothing is settled
        self._closed = False
        self._stop = False
        self._lock = threading.Lock()

    @property
    def chain(self) -> list[Lot]:
        """The lot itself, and those that follow it in its slot."""
        return [self, *(self.then.chain if self.then is not None else ())]

    def __len__(self) -> int:
        """Return how many deliveries are not settled."""
        return len(self._deliveries if self._unsettled is None else self._unsettled)

    def ahead(self, suspects: Suspects) -> tuple[int, bool]:
        """Return how many deliveries the next turn takes, and whether it must be alone.

        The number is 0 at the end, or when the lot was closed or stopped.
        """
        rest = () if self.stopped else self.rest
        if not rest:
            return 0, False
        count = suspects.together(rest, self.invoker.runs_here, self.invoker.batches)
        return (count, False) if count else (1, True)

    @property
    def next(self) -> Delivery:
        """The first delivery that was not begun."""
        return self._deliveries[self._begun]

    @property
    def rest(self) -> Sequence[Delivery]:
        """The deliveries that were not begun."""
        return self._deliveries[self._begun :]

    def calling(self) -> Sequence[Delivery]:
        """Return the deliveries that the model is being called with. None if the lot is closed."""
        with self._lock:
            return () if self._closed else self._deliveries[self._ended : self._begun]

    def drop(self) -> None:
        """Remove the next delivery, since another listener has it."""
        with self._lock:
            left = self._open()
            self._deliveries = list(self._deliveries)
            left.pop(self._deliveries.pop(self._begun).seq, None)

    def begin(self, count: int, now_us: int) -> Sequence[Delivery]:
        """Begin a call with the next *count* deliveries and return them.

        Returns none at the end, or when the lot was closed or stopped.
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
        """Measure the run time of the current call from now on."""
        with self._lock:
            if self.started_us is not None:
                self.started_us, self.returned_us = now_us, None

    def paused(self, now_us: int) -> None:
        """Do not count the time in which this process was stopped."""
        with self._lock:
            if self.started_us is not None:
                self.started_us = now_us if self.returned_us is None else now_us + _ENCODING_US

    def returned(self, now_us: int) -> None:
        """End the run time of the current call: the model has returned.

        Its answer has ``ENCODING_S`` seconds more to be encoded.
        """
        if self.started_us is not None:
            self.returned_us, self.started_us = now_us, now_us + _ENCODING_US

    def answered(self, answers: Sequence[Answer], count: int) -> None:
        """Keep the *answers* of *count* events for recording. Forget them if the lot is closed."""
        with self._lock:
            if not self._closed:
                self._answers += answers
                self._well = None
                self._ended += count
                self.started_us = None

    def begin_one(self, now_us: int) -> Delivery | None:
        """Begin a call with the next delivery, like :meth:`begin`."""
        with self._lock:
            at = self._begun
            if self._closed or self._stop or at == len(self._deliveries):
                return None
            self._begun = at + 1
            self.started_us = self.called_us = now_us
            self.returned_us = None
            return self._deliveries[at]

    def went_well(self, delivery: Delivery, output: str | None, times_us: tuple[int, int]) -> None:
        """Keep the answer of one call that went well, like :meth:`answered`."""
        with self._lock:
            if self._closed:
                return
            if (well := self._well) is None:
                well = self._well = Succeeded([], [], self.by, *times_us, [])
                self._answers.append(well)
            well.add(delivery, output, times_us)
            self._ended += 1
            self.started_us = None

    def take(self, now_us: int) -> list[Answer]:
        """Take the answers that are not recorded yet."""
        with self._lock:
            answers, self._answers, self._well = self._answers, [], None
            self.taken_us = now_us
            return answers

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Mark *deliveries* as settled. Their leases can be dropped."""
        with self._lock:
            if len(deliveries) == len(self):
                self._unsettled = {}
                return
            left = self._open()
            for delivery in deliveries:
                left.pop(delivery.seq, None)

    def _open(self) -> dict[int, Delivery]:
        """Return the deliveries that are not settled, by the numbers of their events."""
        if self._unsettled is None:
            self._unsettled = {d.seq: d for d in self._deliveries}
        return self._unsettled

    def leased(self) -> Sequence[Delivery]:
        """Return the deliveries whose leases must be held: all that are not settled."""
        with self._lock:
            left = self._unsettled
            return self._deliveries if left is None else list(left.values())

    def stop_after_current(self) -> None:
        """Begin no further call."""
        with self._lock:
            self._stop = True

    def close(self) -> Remains | None:
        """Close the lot and return the open parts, or None if it was closed before."""
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
        """Whether no further call begins."""
        return self._stop or self._closed

    @property
    def waiting(self) -> bool:
        """Whether answers wait for recording."""
        return bool(self._answers)

    def running_s(self, now_us: int) -> float:
        """Return the run time of the current call in seconds, 0 between calls."""
        started_us = self.started_us
        return 0.0 if started_us is None else (now_us - started_us) / 1e6


def shared_out(
    deliveries: Sequence[Delivery], slots: int, size: int, batches: bool, suspects: Suspects
) -> list[Sequence[Delivery]]:
    """Share *deliveries* out into lots of at most *size*.

    Batches are filled one after the other. Single calls are spread evenly over the *slots*. A
    suspect gets its own lot. An ordered group stays together, in its order.
    """
    if not isinstance(deliveries, Alike) and any(d.group is not None for d in deliveries):
        return _grouped(deliveries, slots)
    own, rest = suspects.split(deliveries)
    share = size if batches else max(1, min(size, -(-len(rest) // slots)))
    return [*([d] for d in own), *(rest[i : i + share] for i in range(0, len(rest), share))]


def suspects_last(lots: Sequence[Sequence[Delivery]]) -> list[Sequence[Delivery]]:
    """Return *lots* with suspects at the end. Innocent events run before the process may die."""
    return sorted(lots, key=lambda lot: len(lot) == 1 and lot[0].abandoned != 0)


def _grouped(deliveries: Sequence[Delivery], slots: int) -> list[Sequence[Delivery]]:
    groups: dict[str | None, list[Delivery]] = {}
    for d in deliveries:
        groups.setdefault(d.group, []).append(d)
    lots: list[list[Delivery]] = [[] for _ in range(min(slots, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(lots, key=len).extend(group)
    return list(lots)
