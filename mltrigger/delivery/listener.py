"""The listener: receive, invoke, record, settle. Each subscription delivered here has one."""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from mltrigger.broker import Broker, Delivery, Outdated, Outside, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.calls import Calls
from mltrigger.delivery.lineage import Descent
from mltrigger.delivery.lot import Lot, shared_out, suspects_last
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import Recorder
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.errors import Closed, DiskFailed, InvalidModel, MltriggerError, NotFound
from mltrigger.event.event import Event
from mltrigger.store.log import Log
from mltrigger.versions.running.current import Place
from mltrigger.versions.running.placement import Placement
from mltrigger.versions.running.turns import HERE

logger = logging.getLogger("mltrigger")

DRAIN_S = 25.0
"""How long ``stop()`` waits for running calls."""
MOST_LEFT_BEHIND = 32
"""Timed-out calls that may go on in a listener. With more it waits until one has ended."""
_WAITS_FOR_MODEL_S = 15.0
_POLL_S, _NUDGE_S, _HOLD_S = 60.0, 0.02, 0.25

Waits = Literal["waiting for the model", "waiting for the store", "waiting for calls that hang"]
State = Literal["stopped", "listening"] | Waits
Look = Callable[[SubscriptionSpec, str | None], str | None]


class _Room(NamedTuple):
    """How much may begin now: free slots, events in a lot and events in all."""

    slots: int
    size: int
    events: int
    batches: bool


class Listener:
    """Delivers one subscription to its model, in threads of this process.

    Parameters
    ----------
    spec : SubscriptionSpec
        The subscription.
    placement : Placement
        Resolves the selector to a model version, and says how to call it. The listener tidies it,
        and closes it at the end.
    workers
        The threads that call the model.
    outside : Outside, optional
        The part of the broker for a service outside.
    prepare : callable
        Makes an event ready for the model. A source attaches how to open its object.
    look : callable, optional
        Takes a generation of the registry and looks for a newer one. Returns the generation that
        *placement* resolves for, or None if the subscription is not *spec* any more.
    uniform : callable
        Returns a random number between two bounds, for the backoff.
    descent : Descent, optional
        Counts the descendants of events.
    """

    recording: type[Recorder] = Recorder

    def __init__(
        self,
        spec: SubscriptionSpec,
        placement: Placement,
        *,
        broker: Broker,
        log: Log,
        clock: Clock,
        workers: ThreadWorkers,
        outside: Outside | None = None,
        prepare: Callable[[Event], Event] = lambda event: event,
        look: Look | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        descent: Descent | None = None,
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.why = ""
        """The reason of a state that waits."""
        self.leftover = 0
        """How many timed-out calls go on."""
        self._placement, self._broker, self._clock = placement, broker, clock
        self._outside, self._changed = outside, threading.Condition()
        self._workers, self._uniform, self._look = workers, uniform, look
        self._generation: str | None = None
        self._outdated = look is not None
        self._recorder = self.recording(spec, broker, log, clock, uniform, descent, outside)
        self._pace = Pace(spec.policy.max_rate_per_s)
        place = Place(spec.name, spec.topic, log.home)
        self._calls = Calls(spec, place, broker, self._recorder, clock, self._pace, prepare)
        self._active: set[Lot] = set()
        self._slots = spec.policy.max_concurrency or 1
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._receive, name=f"mltrigger-{spec.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to receive."""
        self.state = "listening"
        self._thread.start()

    def begin_stop(self) -> None:
        """Receive no more. Returns at once."""
        self._stopping.set()
        self._broker.wake(self.spec)
        with self._changed:
            for lot in self._active:
                lot.stop_after_current()
            self._changed.notify_all()
        HERE.wake()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Receive no more, release deliveries that were not begun, wait *drain_s* for the others.

        Calls that still run then are released and recorded as ``interrupted``.
        """
        end = time.monotonic() + drain_s
        self.begin_stop()
        self._recorder.give_up(end)
        for _ in range(int(max(drain_s, 5.0) / _NUDGE_S)):
            if not self._thread.is_alive() or threading.current_thread() is self._thread:
                break
            self._thread.join(timeout=_NUDGE_S)
            self._broker.wake(self.spec)  # the thread may have begun to wait after the last one
        if self._outside is not None:
            self._outside.leave(self.spec)
        with self._changed:
            self._changed.wait_for(
                lambda: not self._active, timeout=max(0.0, end - time.monotonic())
            )
            left = list(self._active)
        for lot in left:
            if (remains := lot.close()) is not None:
                self._recorder.record(remains.answers)
                self._recorder.interrupt(remains, lot.version)
                self._finished(lot)
        self._placement.close()
        self.state = "stopped"

    @property
    def pauses(self) -> bool:
        """Whether nothing begins for a while, because the model's server is busy or not there.

        The listener tries again by itself.
        """
        return self._pace.held(self._clock.now_us())

    @property
    def in_flight(self) -> int:
        """How many events are leased here."""
        with self._changed:
            return sum(len(lot) for lot in self._active)

    # -- receive -----------------------------------------------------------------------------------

    def _receive(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                self._receive_once()
                pause_s = 0.0
            except (NotFound, InvalidModel) as error:
                pause_s = min(_WAITS_FOR_MODEL_S, max(1.0, 1.5 * pause_s))
                self._wait_for("waiting for the model", str(error))
            except Closed:
                return
            except DiskFailed as error:  # nothing can be received or recorded any more
                self._wait_for("waiting for the store", str(error))
                return
            except (Exception, SystemExit) as error:
                logger.exception("subscription %s: receiving failed; trying again", self.spec.name)
                pause_s = min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))
                ours = isinstance(error, MltriggerError)
                why = str(error) if ours else f"{type(error).__name__}: {error}"
                self._wait_for("waiting for the store", why)

    def _wait_for(self, state: State, why: str) -> None:
        self.why = why  # first: a reader of the state may want the reason
        self.state = state

    def _receive_once(self) -> None:
        """Wait for room, receive deliveries and begin their calls."""
        HERE.wait_open(self._stopping.is_set)  # lease nothing while a suspect runs alone
        slots = self._free_slots()
        if not slots or (self._outdated and not self._look_again()):
            return
        room = self._room(slots)
        if not room.events:
            self._stopping.wait(self._pace.wait_s(self._clock.now_us()))
        elif deliveries := self._received(room):
            self._begin(deliveries, room)

    def _free_slots(self) -> int:
        """Wait for a free slot. Return how many there are, 0 when stopping."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._active) < self._slots or self._stopping.is_set()
            )
            if self.leftover >= MOST_LEFT_BEHIND:
                self._wait_for(
                    "waiting for calls that hang",
                    f"{self.leftover} calls go on after timeout_s = {self.spec.policy.timeout_s:g},"
                    " in threads that cannot be stopped; isolation='process' stops such calls",
                )
                self._changed.wait_for(
                    lambda: self.leftover < MOST_LEFT_BEHIND or self._stopping.is_set()
                )
            return 0 if self._stopping.is_set() else self._slots - len(self._active)

    def _look_again(self) -> bool:
        """Ask the registry for changes. Return False if another listener will take over."""
        if self._look is not None:
            found = self._look(self.spec, self._generation)
            self._generation, self._outdated = found, found is None
        if self._outdated:
            self._stopping.wait(_NUDGE_S)
        return not self._outdated

    def _room(self, slots: int) -> _Room:
        """Return how much may begin now. Raises, and leases nothing, if the model is not there."""
        _, invoker = self._placement()
        with self._changed:
            in_use = [lot.invoker for lot in self._active]
        self._placement.tidy(in_use)
        self._slots = self.spec.policy.max_concurrency or invoker.concurrency
        size, now_us = self._calls.size.of(invoker), self._clock.now_us()
        is_held = self._pace.held(now_us)
        self._wait_for("waiting for the model" if is_held else "listening", self._pace.why)
        return _Room(slots, size, min(slots * size, self._pace.room(now_us)), invoker.batches)

    def _received(self, room: _Room) -> Sequence[Delivery]:
        """Receive as much as there is room for. Skip expired deliveries."""
        try:
            deliveries = self._young(
                self._broker.receive(self.spec, room.events, _POLL_S, self._generation)
            )
        except Outdated:
            self._outdated = True
            return []
        if HERE.closed:
            # A suspect is to run alone: release the others instead of letting them wait. Those of a
            # queue outside stay, since such a queue counts how often it is received.
            waiting = [d for d in deliveries if not d.abandoned and d.message is None]
            self._recorder.release(waiting)
            deliveries = [d for d in deliveries if d not in waiting]
        if deliveries and room.batches and self.spec.policy.batch_window_s:
            more = self._young(self._fill(room.events - len(deliveries)))
            deliveries = [*deliveries, *more] if more else deliveries
        return deliveries

    def _begin(self, deliveries: Sequence[Delivery], room: _Room) -> None:
        """Begin the calls of *deliveries*, one lot in each free slot. Release the rest."""
        self._pace.spend(len(deliveries), self._clock.now_us())
        try:
            version, invoker = self._placement()  # again: an alias may have moved meanwhile
        except BaseException:
            self._recorder.release(deliveries)
            raise
        if not room.batches:  # each is asked for on its own
            deliveries = list(deliveries)
        lots = shared_out(deliveries, room.slots, room.size, room.batches, self._calls.suspects)
        waiting = suspects_last(lots[: room.slots]) + lots[room.slots :]
        try:
            for _ in range(min(room.slots, len(lots))):
                lot = Lot(waiting.pop(0), version, invoker, self._clock.now_us())
                if self._stopping.is_set():
                    lot.stop_after_current()
                with self._changed:
                    self._active.add(lot)
                self._submit(functools.partial(self._run, lot), lot)
        finally:
            self._recorder.release([d for rest in waiting for d in rest])

    def _young(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """End deliveries older than the policy's ``max_age_s``, return the others."""
        max_age_s = self.spec.policy.max_age_s
        if max_age_s is None:
            return deliveries
        expired = [d for d in deliveries if d.received_us - d.since_us > max_age_s * 1e6]
        self._recorder.skip(expired, "expired")
        return [d for d in deliveries if d not in expired] if expired else deliveries

    def _fill(self, room: int) -> list[Delivery]:
        """Receive more until there is no *room*, or the batch window is over."""
        end_us = self._clock.now_us() + int(self.spec.policy.batch_window_s * 1e6)
        more: list[Delivery] = []
        while (
            len(more) < room
            and not self._stopping.is_set()
            and (left_us := end_us - self._clock.now_us()) > 0
        ):
            try:
                more += self._broker.receive(
                    self.spec, room - len(more), left_us / 1e6, self._generation
                )
            except (MltriggerError, Outdated):
                break  # keep track of what is leased; the next receive meets the same outage
        return more

    # -- invoke ------------------------------------------------------------------------------------

    def _submit(self, call: Callable[[], None], lot: Lot) -> None:
        """Run *call* in a thread. If none can be started, release *lot* and free its slot."""
        try:
            self._workers.submit(call)
        except RuntimeError:
            self._close(lot)
            raise

    def _run(self, lot: Lot) -> None:
        """Run and record one lot, release deliveries that were not begun. Never raises."""
        self._calls.run(lot)
        if not self._close(lot) and lot.turn is not None and lot.turn.behind:
            with self._changed:
                self.leftover -= 1
                self._changed.notify_all()

    def _close(self, lot: Lot) -> bool:
        """Close a lot and release its rest. Return False if it was closed before."""
        if (remains := lot.close()) is None:
            return False
        self._recorder.release([*remains.called, *remains.unbegun])
        self._finished(lot)
        return True

    def _finished(self, lot: Lot) -> None:
        with self._changed:
            self._active.discard(lot)
            self._changed.notify_all()

    # -- leases and timeouts, from the keeper's thread ---------------------------------------------

    def tick(self) -> bool:
        """Extend leases and end calls that take too long. Return whether anything is in flight."""
        if not self._active:
            return False
        with self._changed:
            active = list(self._active)
        now_us, lease_s = self._clock.now_us(), self.spec.policy.lease
        for lot in active:
            since_extended_s = (now_us - lot.extended_us) / 1e6
            if since_extended_s >= lease_s:
                lot.paused(now_us)  # this process was stopped or starved: no model's failure
            running_s = lot.running_s(now_us)
            if running_s > self.spec.policy.timeout_s + lot.invoker.grace_s:
                self._time_out(lot)
                continue
            if since_extended_s >= lease_s / 3:
                lot.extended_us = now_us
                self._broker.extend(lot.leased(), lease_s)
            # a slow call must not hold back the answers before it
            if lot.waiting and running_s > _HOLD_S:
                self._workers.submit(functools.partial(self._calls.settle, lot))
        return bool(active)

    def _time_out(self, lot: Lot) -> None:
        """End a call that took too long. Its slot is free again, its thread is left behind."""
        if (remains := lot.close()) is None:
            return
        with self._changed:
            self.leftover += 1
        if lot.turn is not None:
            lot.turn.leave_behind()
        late = self._calls.overdue(lot, remains)

        def record() -> None:
            self._recorder.record([*remains.answers, *late])
            self._recorder.release(remains.unbegun)
            self._finished(lot)

        self._submit(record, lot)  # not here: the leases of others wait for this thread
