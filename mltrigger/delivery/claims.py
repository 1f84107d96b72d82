"""Claims: the events that a listener leases, and the limits of each claim."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from mltrigger.broker import Broker, Delivery, Outdated, SubscriptionSpec
from mltrigger.broker.alike import Alike
from mltrigger.clock import Clock
from mltrigger.delivery.bindings import Bindings
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import Recorder
from mltrigger.delivery.sizing import LotSize
from mltrigger.errors import MltriggerError
from mltrigger.store.unit import Unit
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.turns import HERE

Look = Callable[[SubscriptionSpec, str | None], str | None]
"""Takes a generation of the registry and looks for a newer one.

Returns the generation that versions are resolved for, or ``None`` if the subscription has changed.
"""
_POLL_S, _NUDGE_S = 60.0, 0.02
_FEW = 4
"""How many events a slot leases if not all of the last ones could begin."""


class Room(NamedTuple):
    """How much may begin now: free slots, events in a lot and events in all."""

    slots: int
    size: int
    events: int
    batches: bool


class Claims:
    """Leases the events of one listener.

    Parameters
    ----------
    spec, bindings, broker, clock, pace, recorder, size
        Parts of the listener.
    look : callable, optional
        Looks for a newer registry.
    stopping : threading.Event
        Set when nothing is to be leased any more.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        bindings: Bindings,
        broker: Broker,
        clock: Clock,
        pace: Pace,
        recorder: Recorder,
        size: LotSize,
        look: Look | None,
        stopping: threading.Event,
    ) -> None:
        self._spec, self._bindings, self._broker, self._clock = spec, bindings, broker, clock
        self._pace, self._recorder, self._size = pace, recorder, size
        self._look, self._stopping = look, stopping
        self._generation: str | None = None
        self._outdated = look is not None
        self._are_few = False

    def look_anew(self) -> bool:
        """Ask the registry for changes, as at the first time."""
        self._outdated = self._look is not None
        return self.look_again()

    def look_again(self) -> bool:
        """Ask the registry for changes if need be. Return False if another listener takes over."""
        if self._outdated and self._look is not None:
            found = self._look(self._spec, self._generation)
            if found is not None:
                self._bindings.refresh()  # after the generation: at least as new
            self._generation, self._outdated = found, found is None
            if self._outdated:
                self._stopping.wait(_NUDGE_S)
        return not self._outdated

    def room(self, slots: Callable[[Caller], int], in_use: Collection[Caller]) -> Room:
        """Return how much may begin now. Raises, and leases nothing, if the model is not there."""
        _, invoker = self._bindings()
        self._bindings.tidy(in_use)
        size, free = self._size.of(invoker), slots(invoker)
        most = free * (min(size, _FEW) if self._are_few else size)
        most = min(most, self._pace.room(self._clock.now_us()))
        return Room(free, size, most, invoker.batches)

    @property
    def poll_s(self) -> float:
        """The longest wait for an event."""
        return _POLL_S

    def receive(self, room: Room) -> Sequence[Delivery]:
        """Receive as much as there is room for. Wait for the first event."""
        try:
            found = self._broker.receive(self._spec, room.events, self.poll_s, self._generation)
        except Outdated:
            self._outdated = True
            return []
        if found and room.batches and self._spec.policy.batch_window_s:
            found = self._young(found)
            more = self._fill(room.events - len(found))
            found = [*found, *more] if more else found
        return found

    @property
    def may_follow(self) -> bool:
        """Whether a claim may be part of another commit. Nothing has to be looked at before it."""
        window_s = self._spec.policy.batch_window_s
        return not (self._outdated or HERE.closed or HERE.wanted or window_s)

    def follow(self, room: Room, unit: Unit) -> Sequence[Delivery]:
        """Lease the next events in *unit*."""
        try:
            return self._broker.receive(self._spec, room.events, 0.0, self._generation, unit)
        except Outdated:
            self._outdated = True
            return []

    def admitted(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries that may begin. Skip expired ones, and release those that wait."""
        found = self.answered(self._young(deliveries))
        if HERE.closed:
            # A suspect is to run alone: release the others instead of letting them wait. Those of a
            # queue outside stay, since such a queue counts how often it is received.
            waiting = [d for d in found if not d.abandoned and d.message is None]
            self._recorder.release(waiting)
            found = [d for d in found if d not in waiting]
        if found:
            self._pace.spend(len(found), self._clock.now_us())
            self._recorder.observed.received(self._spec, found)
        return found

    def answered(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """End corrections of other models' outputs unless the policy takes them."""
        if self._spec.policy.corrections == "take" or isinstance(deliveries, Alike):
            return deliveries  # alike are plain events: they have no extensions
        corrections = [d for d in deliveries if d.event.corrects is not None]
        if not corrections:
            return deliveries
        self._recorder.skip(corrections, "correction")
        return [d for d in deliveries if d not in corrections]

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Release deliveries for which there was no slot. Lease few until there are none.

        A lot whose events are called alone would be leased anew for each of them.
        """
        self._are_few = bool(deliveries)
        self._recorder.release(deliveries)

    def _young(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """End deliveries older than the policy's ``max_age_s``, return the others."""
        max_age_s = self._spec.policy.max_age_s
        if max_age_s is None:
            return deliveries
        expired = [d for d in deliveries if d.received_us - d.since_us > max_age_s * 1e6]
        self._recorder.skip(expired, "expired")
        return [d for d in deliveries if d not in expired] if expired else deliveries

    def _fill(self, room: int) -> list[Delivery]:
        """Receive more until there is no *room*, or the batch window is over."""
        end_us = self._clock.now_us() + int(self._spec.policy.batch_window_s * 1e6)
        more: list[Delivery] = []
        while (
            len(more) < room
            and not self._stopping.is_set()
            and (left_us := end_us - self._clock.now_us()) > 0
        ):
            try:
                more += self._broker.receive(
                    self._spec, room - len(more), left_us / 1e6, self._generation
                )
            except (MltriggerError, Outdated):
                break  # keep track of what is leased; the next receive meets the same outage
        return more
