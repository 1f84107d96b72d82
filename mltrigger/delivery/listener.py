"""The listener: receive, invoke, record, settle.

One for each subscription that is delivered in this process.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Container, Sequence
from typing import Literal

from mltrigger.broker import Broker, Delivery, Outdated, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.calls import Calls
from mltrigger.delivery.lineage import Descent
from mltrigger.delivery.lot import Work
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import Ended, Recorder
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.errors import Closed, InvalidModel, MltriggerError, NotFound
from mltrigger.event.event import Event
from mltrigger.store.log import Log
from mltrigger.versions.running.current import ENCODING_S, Place
from mltrigger.versions.running.invoke import Caller, Result
from mltrigger.versions.running.turns import HERE
from mltrigger.versions.version import ModelVersion

logger = logging.getLogger("mltrigger")

DRAIN_S = 25.0
"""How long ``stop()`` waits for calls that run."""
MOST_LEFT_BEHIND = 32
"""Calls that may go on after their timeout; with so many of them a listener begins no more until
one has ended.
"""
_WAITS_FOR_MODEL_S = 15.0
_HOLD_S = 0.25
_POLL_S = 1.0
_NUDGE_S = 0.02

State = Literal[
    "stopped",
    "listening",
    "waiting for the model",
    "waiting for the store",
    "waiting for calls that hang",
]
Resolve = Callable[[], tuple[ModelVersion, Caller]]
Look = Callable[[SubscriptionSpec, str | None], str | None]


class Listener:
    """Delivers one subscription to its model, in threads of this process.

    Parameters
    ----------
    spec : SubscriptionSpec
        What to listen for, and how.
    resolve : callable
        Returns the model version that the selector means now, and how to call it; raises NotFound
        while there is none here.
    broker, log, clock, workers
        The parts.
    prepare : callable
        What to do with an event before the model sees it: a source attaches how to open its object.
    tidy : callable
        Told which callers are in use, from time to time: what others hold can go.
    close : callable
        Ends what calling the model needs; called when nothing runs any more.
    look : callable, optional
        Looks at the registry again, if its generation is another than the one given; returns the
        generation from which on *resolve* answers, ``None`` when the subscription is not *spec* any
        more.
    uniform, descent
        Chance, for the backoff; and what counts what events have led to.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        resolve: Resolve,
        *,
        broker: Broker,
        log: Log,
        clock: Clock,
        workers: ThreadWorkers,
        prepare: Callable[[Event], Event] = lambda event: event,
        tidy: Callable[[Collection[Caller]], None] = lambda _: None,
        close: Callable[[], None] = lambda: None,
        look: Look | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        descent: Descent | None = None,
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.leftover = 0
        self._resolve, self._broker, self._clock, self._workers, self._uniform = (
            resolve,
            broker,
            clock,
            workers,
            uniform,
        )
        self._tidy, self._close, self._look = tidy, close, look
        self._generation: str | None = None
        self._outdated = look is not None
        self._recorder = Recorder(spec, broker, log, clock, uniform, descent)
        self._changed = threading.Condition()
        self._active: set[Work[Ended]] = set()
        self._stopping = threading.Event()
        self._slots = spec.policy.max_concurrency or 1
        self.why = ""
        self._pace = Pace(spec.policy.max_rate_per_s)
        place = Place(spec.name, spec.topic, log.home)
        self._calls = Calls(spec, place, broker, self._recorder, clock, self._pace, prepare)
        self._thread = threading.Thread(
            target=self._receive, name=f"mltrigger-{spec.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to receive."""
        self.state = "listening"
        self._thread.start()

    def begin_stop(self) -> None:
        """Receive no more, without waiting for anything."""
        self._stopping.set()
        self._broker.wake(self.spec)
        with self._changed:
            for work in self._active:
                work.stop_after_current()
            self._changed.notify_all()
        HERE.wake()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Receive no more; release what has not begun, wait *drain_s* for what runs, then release
        that marked ``interrupted``.
        """
        end = time.monotonic() + drain_s
        self.begin_stop()
        self._recorder.give_up(end)
        for _ in range(int(max(drain_s, 5.0) / _NUDGE_S)):
            if not self._thread.is_alive() or threading.current_thread() is self._thread:
                break
            self._thread.join(timeout=_NUDGE_S)
            # again: the first one may have come just before it began to wait
            self._broker.wake(self.spec)
        self._broker.leave(self.spec)
        with self._changed:
            self._changed.wait_for(
                lambda: not self._active, timeout=max(0.0, end - time.monotonic())
            )
            left = list(self._active)
        for work in left:
            if (remains := work.close()) is not None:
                self._recorder.record(remains.answers)
                self._recorder.interrupt(remains, work.version)
                self._finished(work)
        self._close()
        self.state = "stopped"

    def process(self, deliveries: Sequence[Delivery], until_s: float = math.inf) -> None:
        """Call the model with deliveries that somebody else has received, in this thread, and
        settle them; for a listener never started.

        What has not begun at the monotonic time *until_s* is released.
        """
        self._look_again()
        version, invoker = self._resolve()
        size = self._calls.lot(invoker) if invoker.batches else len(deliveries)
        for lot in _suspects_last(
            _lots(deliveries, 1, size, invoker.batches, self._calls.company or ())
        ):
            work: Work[Ended] = Work(lot, version, invoker, self._clock.now_us())
            timer = threading.Timer(
                min(threading.TIMEOUT_MAX, max(0.0, until_s - time.monotonic())),
                work.stop_after_current,
            )
            timer.daemon = True
            timer.start()
            self._run(work)
            timer.cancel()

    @property
    def pauses(self) -> bool:
        """Whether nothing begins for a while, because the model's server asked for it or is not
        there; it is tried again by itself.
        """
        return self._pace.held(self._clock.now_us())

    @property
    def in_flight(self) -> int:
        """How many events are leased here."""
        with self._changed:
            return sum(len(work) for work in self._active)

    # -- receive -----------------------------------------------------------------------------------

    def _receive(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                self._receive_once()
                pause_s = 0.0
            except (NotFound, InvalidModel) as error:
                self.why = str(error)  # first: whoever reads the state may want the reason
                self.state, pause_s = (
                    "waiting for the model",
                    min(_WAITS_FOR_MODEL_S, max(1.0, 1.5 * pause_s)),
                )
            except Closed:
                return
            except (Exception, SystemExit) as error:
                logger.exception("subscription %s: receiving failed; trying again", self.spec.name)
                self.why = (
                    f"{error}"
                    if isinstance(error, MltriggerError)
                    else f"{type(error).__name__}: {error}"
                )
                self.state, pause_s = (
                    "waiting for the store",
                    min(30.0, 2 * pause_s + self._uniform(0.05, 0.2)),
                )

    def _receive_once(self) -> None:
        HERE.wait_open(self._stopping.is_set)  # nothing is leased while a suspect runs alone
        free = self._free_slots()
        if not free:
            return
        if self._outdated and not self._look_again():
            return
        # before, for the size; and because what cannot be called must not be leased
        _, invoker = self._resolve()
        with self._changed:
            in_use = [work.invoker for work in self._active]
        self._tidy(in_use)
        self._slots = self.spec.policy.max_concurrency or invoker.concurrency
        size = self._calls.lot(invoker)
        most = min(free * size, self._pace.room(self._clock.now_us()))
        self.why = self._calls.why
        self.state = (
            "waiting for the model" if self._pace.held(self._clock.now_us()) else "listening"
        )
        if not most:
            self._stopping.wait(self._pace.wait_s(self._clock.now_us()))
            return
        try:
            deliveries = self._young(
                self._broker.receive(self.spec, most, _POLL_S, self._generation)
            )
        except Outdated:
            self._outdated = True
            return
        if HERE.closed:
            deliveries = self._suspects_of(deliveries)
        if not deliveries:
            return
        if self.spec.policy.batch_window_s and invoker.batches:
            deliveries += self._young(self._fill(most - len(deliveries)))
        self._pace.spend(len(deliveries), self._clock.now_us())
        try:
            # and now, for the version: an alias may have moved while nothing came
            version, invoker = self._resolve()
        except BaseException:
            self._recorder.release(deliveries)
            raise
        lots = _lots(deliveries, free, size, invoker.batches, self._calls.company or ())
        begun = 0
        try:
            for lot in _suspects_last(lots[:free]):
                begun += 1
                work: Work[Ended] = Work(lot, version, invoker, self._clock.now_us())
                if self._stopping.is_set():
                    work.stop_after_current()
                with self._changed:
                    self._active.add(work)
                self._submit(functools.partial(self._run, work), work)
        finally:
            self._recorder.release([d for lot in lots[begun:] for d in lot])

    def _look_again(self) -> bool:
        """Learn what the registry means now; return whether the subscription is still this one,
        else its listener comes.
        """
        if self._look is not None:
            found = self._look(self.spec, self._generation)
            self._generation, self._outdated = found, found is None
        if self._outdated:
            self._stopping.wait(_NUDGE_S)
        return not self._outdated

    def _suspects_of(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Give back the deliveries that would wait until a suspect has run alone.

        Those of a queue outside stay here: such a queue counts how often it is received.
        """
        waiting = [d for d in deliveries if not d.abandoned and d.message is None]
        self._recorder.release(waiting)
        return [d for d in deliveries if d not in waiting]

    def _submit(self, call: Callable[[], None], work: Work[Ended]) -> None:
        """Run *call* in a thread; when no thread can be started, give *work* back and its slot
        free.
        """
        try:
            self._workers.submit(call)
        except RuntimeError:
            if (remains := work.close()) is not None:
                self._recorder.release([*remains.called, *remains.unbegun])
            self._finished(work)
            raise

    def _young(self, deliveries: list[Delivery]) -> list[Delivery]:
        """End what is older than the policy's ``max_age_s``; return the others."""
        max_age_s = self.spec.policy.max_age_s
        if max_age_s is None:
            return deliveries
        expired = [d for d in deliveries if d.received_us - d.since_us > max_age_s * 1e6]
        self._recorder.skip(expired, "expired")
        return [d for d in deliveries if d not in expired] if expired else deliveries

    def _free_slots(self) -> int:
        """Wait for a free slot; return how many there are, 0 when stopping."""
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._active) < self._slots or self._stopping.is_set()
            )
            if self.leftover >= MOST_LEFT_BEHIND:
                self.why = (
                    f"{self.leftover} calls go on after timeout_s = {self.spec.policy.timeout_s:g},"
                    " in threads that cannot be stopped; isolation='process' stops such calls"
                )
                self.state = "waiting for calls that hang"
                self._changed.wait_for(
                    lambda: self.leftover < MOST_LEFT_BEHIND or self._stopping.is_set()
                )
            return 0 if self._stopping.is_set() else self._slots - len(self._active)

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
                # what is leased already must not be lost sight of; the next receive tells of the
                # outage
                break
        return more

    # -- invoke ------------------------------------------------------------------------------------

    def _run(self, work: Work[Ended]) -> None:
        """Run one lot in a worker thread, record it, release what was not begun; never raises."""
        self._calls.run(work)
        if (remains := work.close()) is not None:
            self._recorder.release([*remains.called, *remains.unbegun])
            self._finished(work)
        elif work.turn is not None and work.turn.behind:
            with self._changed:
                self.leftover -= 1
                self._changed.notify_all()

    def _finished(self, work: Work[Ended]) -> None:
        with self._changed:
            self._active.discard(work)
            self._changed.notify_all()

    # -- leases and timeouts, from the keeper's thread ---------------------------------------------

    def tick(self) -> bool:
        """Extend leases and end calls that ran too long; say whether there is something in flight."""
        with self._changed:
            active = list(self._active)
        now_us = self._clock.now_us()
        for work in active:
            if now_us - work.extended_us >= self.spec.policy.lease * 1e6:
                # this process was stopped or starved: that time is nobody's failure
                work.paused(now_us)
            running_s = work.running_s(now_us)
            if running_s > self.spec.policy.timeout_s + work.invoker.grace_s:
                self._time_out(work)
                continue
            if now_us - work.extended_us >= self.spec.policy.lease / 3 * 1e6:
                work.extended_us = now_us
                self._broker.extend(work.leased(), self.spec.policy.lease)
            # a slow call must not hold back the answers before it
            if work.waiting and running_s > _HOLD_S:
                self._workers.submit(functools.partial(self._calls.settle, work))
        return bool(active)

    def _time_out(self, work: Work[Ended]) -> None:
        """Record a call that did not end in time; its slot is free again, its thread stays behind."""
        remains = work.close()
        if remains is None:
            return
        with self._changed:
            self.leftover += 1
        if work.turn is not None:
            work.turn.leave_behind()
        seconds = self.spec.policy.timeout_s
        message = (
            f"no answer within timeout_s = {seconds:g}; the call goes on in its thread, its answer"
            " will be ignored"
        )
        result = Result(reason="timeout", error_type="TimeoutError", error=message)
        if work.returned_us is not None:
            message = (
                f"the model has answered, but its answer was not written down within {ENCODING_S:g}"
                " s; it goes on in its thread"
            )
            result = Result(
                reason="result_too_large", error_type="TimeoutError", error=message, permanent=True
            )
        now_us, size = self._clock.now_us(), len(remains.called)
        self._calls.timed_out(work, size)
        acquitted = (
            self._calls.company.acquit(remains.called, result, size)
            if size > 1 and not result.permanent
            else {}
        )
        late = [
            self._recorder.ended(
                d, acquitted.get(d, result), work.version, remains.started_us, now_us, size
            )
            for d in remains.called
        ]

        def record() -> None:
            self._recorder.record([*remains.answers, *late])
            self._recorder.release(remains.unbegun)
            self._finished(work)

        self._submit(record, work)  # not here: other leases are waiting for this thread


def _lots(
    deliveries: Sequence[Delivery],
    slots: int,
    size: int,
    batches: bool,
    company: Container[Delivery],
) -> list[list[Delivery]]:
    """Share *deliveries* out: full batches, or evenly over the slots; alone what was abandoned or
    too late before, for the others' sake.
    """
    alone = [[d] for d in deliveries if d.abandoned or d in company]
    rest = [d for d in deliveries if not (d.abandoned or d in company)]
    if any(d.group is not None for d in deliveries):
        return _grouped(deliveries, slots)
    share = size if batches else max(1, min(size, -(-len(rest) // slots)))
    return alone + [rest[i : i + share] for i in range(0, len(rest), share)]


def _suspects_last(lots: list[list[Delivery]]) -> list[list[Delivery]]:
    """Let what is innocent run before the process may end."""
    return sorted(lots, key=lambda lot: len(lot) == 1 and lot[0].abandoned != 0)


def _grouped(deliveries: Sequence[Delivery], slots: int) -> list[list[Delivery]]:
    """Share *deliveries* out over *slots* so that those of one group stay together, in their order."""
    groups: dict[str | None, list[Delivery]] = {}
    for d in deliveries:
        groups.setdefault(d.group, []).append(d)
    lots: list[list[Delivery]] = [[] for _ in range(min(slots, len(groups)))]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(lots, key=len).extend(group)
    return lots
