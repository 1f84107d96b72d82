"""The listener: receive, invoke, record, settle. Each subscription delivered here has one."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from mltrigger.broker import Broker, Delivery, Outside, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.bindings import Bindings
from mltrigger.delivery.calls import Calls
from mltrigger.delivery.claims import Claims, Look, Room
from mltrigger.delivery.lineage import Descent
from mltrigger.delivery.lot import Lot
from mltrigger.delivery.observed import Observed
from mltrigger.delivery.opening import opened
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import Recorder
from mltrigger.delivery.slots import Slots
from mltrigger.delivery.states import State
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.errors import Closed, DiskFailed, InvalidModel, MltriggerError, NotFound
from mltrigger.event.event import Event
from mltrigger.store.log import Log
from mltrigger.store.unit import Unit
from mltrigger.versions.running.current import Place
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.turns import HERE

logger = logging.getLogger("mltrigger")

DRAIN_S = 25.0
"""How long ``stop()`` waits for running calls."""
MOST_LEFT_BEHIND = 32
"""Timed-out calls that may go on in a listener. With more it waits until one has ended."""
_WAITS_FOR_MODEL_S = 15.0
_NUDGE_S, _HOLD_S = 0.02, 0.25

First = Callable[[], Lot | None] | None
"""Begins deliveries that are leased already."""


class Listener:
    """Delivers one subscription to its model, in threads of this process.

    Parameters
    ----------
    spec : SubscriptionSpec
        The subscription.
    bindings : Bindings
        The versions that answer the subscription. The listener tidies and closes them.
    workers
        The threads that call the model.
    outside : Outside, optional
        The part of the broker for a service outside.
    prepare : callable
        Makes an event ready for the model. A source attaches how to open its object.
    look : callable, optional
        Takes a generation of the registry and looks for a newer one. Returns the generation that
        *bindings* hold for, or None if the subscription is not *spec* any more.
    uniform, descent, observed
        Parts of the recorder.
    """

    recording: Callable[..., Recorder] = Recorder
    claiming: type[Claims] = Claims

    def __init__(
        self,
        spec: SubscriptionSpec,
        bindings: Bindings,
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
        observed: Observed | None = None,
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.why = ""
        """The reason of a state that waits."""
        self.leftover = 0
        """How many timed-out calls go on."""
        self.bindings, self._broker, self._clock = bindings, broker, clock
        self._outside, self._workers, self._uniform = outside, workers, uniform
        self._recorder = self.recording(
            spec, broker, log, clock, uniform, descent, outside, observed
        )
        self._pace = Pace(spec.policy.max_rate_per_s)
        place = Place(spec.name, spec.topic, log.home)
        self._calls = Calls(spec, place, broker, self._recorder, clock, self._pace, prepare)
        self.slots = self._slots = Slots(spec.policy.max_concurrency or 1)
        self._stopping, self._changed = threading.Event(), self._slots.changed
        self._kept: First = None
        self._late: dict[Lot, Callable[[], None]] = {}
        self._claims = self.claiming(
            *(spec, bindings, broker, clock, self._pace, self._recorder, self._calls.size),
            *(look, self._stopping),
        )

    def start(self) -> None:
        """Begin to receive."""
        self.state = "listening"
        self._slots.open()
        self._workers.submit(self._serve)

    def begin_stop(self) -> None:
        """Receive no more. Returns at once."""
        self._stopping.set()
        self._slots.close()
        self._broker.wake(self.spec)
        for lot in self._slots.lots():
            lot.stop_after_current()
        HERE.wake()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Receive no more, release deliveries that were not begun, wait *drain_s* for the others.

        Calls that still run then are released and recorded as ``interrupted``.
        """
        end = time.monotonic() + drain_s
        self.begin_stop()
        self._recorder.give_up(end)
        for _ in range(int(max(drain_s, 5.0) / _NUDGE_S)):
            if self._slots.wait_left(_NUDGE_S):
                break
            self._broker.wake(self.spec)  # the thread may have begun to wait after the last one
        if self._outside is not None:
            self._outside.leave(self.spec)
        with self._changed:
            self._changed.wait_for(
                lambda: not self._slots.busy, timeout=max(0.0, end - time.monotonic())
            )
            left = self._slots.lots()
        for lot in left:
            if (remains := lot.close()) is not None:
                self._recorder.record(remains.answers)
                self._recorder.interrupt(remains, lot.by)
                self._finished(lot)
        self.bindings.close()
        self.state = "stopped"

    @property
    def pauses(self) -> bool:
        """Whether nothing begins for a while: the model's server is busy or not there."""
        return self._pace.held(self._clock.now_us())

    @property
    def trouble(self) -> str:
        """Why outcomes cannot be recorded now."""
        return self._recorder.trouble

    @property
    def in_flight(self) -> int:
        """How many events are leased here."""
        return sum(len(lot) for lot in self._slots.lots())

    # -- receive -----------------------------------------------------------------------------------

    def _serve(self, first: First = None) -> None:
        """Receive lots and run them in this thread, as long as no other thread receives."""
        self._slots.begin_duty()
        while (lot := self._receive(first)) is not None:
            self._run(lot)
            del lot  # a thread that waits must not keep the last batch alive
            if not self._slots.take_duty():
                return
            first, self._kept = self._kept, None

    def _serve_after(self, lot: Lot) -> None:
        """Run *lot* in this thread, then receive others if no other thread does."""
        self._run(lot)
        del lot
        self._serve_on()

    def _serve_on(self) -> None:
        if self._slots.take_duty():
            first, self._kept = self._kept, None
            self._serve(first)

    def _receive(self, first: First) -> Lot | None:
        """Receive until a lot can begin in this thread. Return ``None`` at the end.

        *first* has deliveries already. Also a listener that stops does something about them.
        """
        pause_s = 0.0
        while first is not None or not self._stopping.wait(pause_s):
            receive, first = first or self._receive_once, None
            try:
                if (lot := receive()) is not None:
                    return lot
                pause_s = 0.0
            except (NotFound, InvalidModel) as error:
                pause_s = min(_WAITS_FOR_MODEL_S, max(1.0, 1.5 * pause_s))
                self._wait_for("waiting for the model", str(error))
            except Closed:
                break
            except DiskFailed as error:  # nothing can be received or recorded any more
                self._wait_for("stopped by the store", str(error))
                break
            except (Exception, SystemExit) as error:
                logger.exception("subscription %s: receiving failed; trying again", self.spec.name)
                pause_s = min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))
                ours = isinstance(error, MltriggerError)
                why = str(error) if ours else f"{type(error).__name__}: {error}"
                self._wait_for("waiting for the store", why)
        self._slots.close()
        self._slots.leave_duty()
        return None

    def _wait_for(self, state: State, why: str) -> None:
        self.why = why  # first: a reader of the state may want the reason
        self.state = state

    def _receive_once(self) -> Lot | None:
        """Wait for room, receive deliveries and begin their calls. Return a lot for this thread."""
        HERE.wait_open(self._stopping.is_set)  # lease nothing while a suspect runs alone
        if not self._free_slots() or not self._claims.look_again():
            return None
        room = self._room()
        if room.events > 0:
            return self._begun(self._claims.receive(room), room)
        self._stopping.wait(self._pace.wait_s(self._clock.now_us()))
        return None

    def _free_slots(self) -> int:
        """Wait for a free slot. Return how many there are, 0 when stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._slots.free() > 0 or self._stopping.is_set())
            if self.leftover >= MOST_LEFT_BEHIND:
                self._wait_for(
                    "waiting for calls that hang",
                    f"{self.leftover} calls go on after timeout_s = {self.spec.policy.timeout_s:g},"
                    " in threads that cannot be stopped; isolation='process' stops such calls",
                )
                self._changed.wait_for(
                    lambda: self.leftover < MOST_LEFT_BEHIND or self._stopping.is_set()
                )
            return 0 if self._stopping.is_set() else self._slots.free()

    def _room(self, ending: int = 0) -> Room:
        """Return how much may begin now, when *ending* lots have ended."""

        def free(invoker: Caller) -> int:
            self._slots.number = self.spec.policy.max_concurrency or invoker.concurrency
            return self._slots.free(ending)

        room = self._claims.room(free, [lot.invoker for lot in self._slots.lots()])
        self._wait_for("waiting for the model" if self.pauses else "listening", self._pace.why)
        return room

    def _following(self, lot: Lot) -> Callable[[Unit], None] | None:
        """Return how to lease the next events in the commit that ends *lot*.

        ``None`` when they are received as the first ones were.
        """
        if self.leftover >= MOST_LEFT_BEHIND or not self._claims.may_follow:
            return None
        if not self._slots.take_duty(ending=1):
            return None
        try:
            # to load a newer version takes time: the answers come first
            room = self._room(ending=1) if self.bindings.is_loaded else None
        except Exception:  # this thread receives next, and meets it again
            return None
        return functools.partial(self._follow, lot, room) if room and room.events > 0 else None

    def _follow(self, lot: Lot, room: Room, unit: Unit) -> None:
        """Lease the next events in *unit*. Another thread goes on as soon as that is visible.

        It begins them, or receives. This one waits for the disk.
        """
        found = self._claims.follow(room, unit)
        first = functools.partial(self._begun, found, room) if found else None
        unit.transaction.after_visible(functools.partial(self._pass_on, lot, first))

    def _pass_on(self, lot: Lot, first: First) -> None:
        """Let another thread receive. If none can be started, this one does so later."""
        self._slots.ending(lot)
        if not self._slots.pass_duty(lambda: self._workers.submit(lambda: self._serve(first))):
            self._kept = first

    def _begun(self, deliveries: Sequence[Delivery], room: Room) -> Lot | None:
        """Begin lots of *deliveries*, and pass the duty on. Return the lot for this thread."""
        if not (deliveries := self._claims.admitted(deliveries)):
            return None
        own, *others = self._opened(deliveries, room)
        for lot in others:
            with contextlib.suppress(RuntimeError):  # it is released; the own lot goes on
                self._submit(functools.partial(self._serve_after, lot), lot)
        self._slots.yield_duty(lambda: self._workers.submit(self._serve))
        return own

    def _opened(self, deliveries: Sequence[Delivery], room: Room) -> list[Lot]:
        """Return *deliveries* as lots for the free slots. Release the rest."""
        try:
            # again: an alias may have moved meanwhile
            parts = self.bindings.parts(deliveries)
        except BaseException:
            self._recorder.release(deliveries)
            raise
        size, suspects = self._calls.size.of, self._calls.suspects
        lots, left = opened(parts, room.slots, size, suspects, self._clock.now_us())
        for lot in (each for head in lots for each in head.chain):
            self._slots.add(lot)
            if self._stopping.is_set():
                lot.stop_after_current()
        self._claims.give_back(left)
        return lots

    # -- invoke ------------------------------------------------------------------------------------

    def _submit(self, call: Callable[[], None], lot: Lot) -> None:
        """Run *call* in a thread. If none can be started, release *lot* and free its slot."""
        try:
            self._workers.submit(call)
        except RuntimeError:
            for each in lot.chain:
                self._close(each)
            raise

    def _run(self, lot: Lot) -> None:
        """Run and record a lot and those behind it. Release the rest of each. Never raises."""
        self._calls.run(lot, functools.partial(self._following, lot))
        if self._close(lot):
            self.bindings.watch()
            if lot.then is not None:
                self._run(lot.then)
        elif lot.turn is not None and lot.turn.behind:
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
        self._slots.remove(lot)

    # -- leases and timeouts, from the keeper's thread ---------------------------------------------

    def tick(self) -> bool:
        """Extend leases and end calls that take too long. Return whether anything is in flight."""
        active = self._slots.lots()
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
                self._late[lot] = functools.partial(self._calls.settle, lot)
        for lot in list(self._late):  # not here: the leases of others wait for this thread
            self._workers.submit(self._late[lot])  # raises if it cannot: the next tick tries again
            del self._late[lot]
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
            if lot.then is not None:
                self._run(lot.then)
            self._serve_on()

        self._late[lot] = record
