"""The listener: receive, invoke, record, settle. One for each subscription that is delivered in this process."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from mltrigger.brokers.base import Broker, Delivery, Settlement, SubscriptionSpec
from mltrigger.capture import Captured, captured
from mltrigger.clock import Clock
from mltrigger.errors import Closed, MltriggerError, NotFound
from mltrigger.events import MAX_HOPS, Event
from mltrigger.models.invoke import Invoker, Result, failure
from mltrigger.models.version import ModelVersion
from mltrigger.policy import backoff_s
from mltrigger.store.log import Invocation, Log
from mltrigger.work import Work
from mltrigger.workers import ThreadWorkers

logger = logging.getLogger("mltrigger")

DRAIN_S = 25.0
"""How long ``stop()`` waits for calls that run."""
RUN_AHEAD_S = 0.005
"""A slot leases as many events as it will start within this time, measured; one, as long as nothing is known."""
_MOST_AHEAD = 64
_POLL_S = 1.0

State = Literal["stopped", "listening", "waiting for the model", "waiting for the store"]
Resolve = Callable[[], tuple[ModelVersion, Invoker]]


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """One attempt that ended, ready to be recorded and settled."""

    delivery: Delivery
    result: Result
    started_us: int | None = None
    finished_us: int | None = None
    batch_size: int = 1
    stdout: str | None = None
    emitted: Event | None = None


class Listener:
    """Delivers one subscription to its model, in threads of this process.

    Parameters
    ----------
    spec : SubscriptionSpec
        What to listen for, and how.
    resolve : callable
        Returns the model version that the selector means now, and how to call it; raises NotFound while there is none here.
    broker, log, clock, workers
        The parts.
    prepare : callable
        What to do with an event before the model sees it: a source attaches how to open its object.
    uniform : callable
        Chance, for the backoff.
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
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.spec = spec
        self.state: State = "stopped"
        self.leftover = 0
        self._resolve, self._broker, self._log, self._clock, self._workers, self._uniform = (
            resolve,
            broker,
            log,
            clock,
            workers,
            uniform,
        )
        self._prepare = prepare
        self._changed = threading.Condition()
        self._active: set[Work] = set()
        self._stopping = threading.Event()
        self._mean_s: float | None = None
        self._thread = threading.Thread(target=self._receive, name=f"mltrigger-{spec.name}", daemon=True)

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

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Receive no more; release what has not begun, wait *drain_s* for what runs, then release that marked ``interrupted``."""
        self.begin_stop()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=max(drain_s, 5.0))
        with self._changed:
            self._changed.wait_for(lambda: not self._active, timeout=drain_s)
            left = list(self._active)
        for work in left:
            if (open_ := work.close()) is not None:
                self._interrupt(work, open_)
                self._finished(work)
        self.state = "stopped"

    @property
    def in_flight(self) -> int:
        """How many events are leased here."""
        with self._changed:
            return sum(len(work.deliveries) for work in self._active)

    # -- receive --------------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                self._receive_once()
                pause_s = 0.0
            except NotFound:
                self.state, pause_s = "waiting for the model", 1.0
            except Closed:
                return
            except Exception:
                logger.exception("subscription %s: receiving failed; trying again", self.spec.name)
                self.state, pause_s = "waiting for the store", min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))

    def _receive_once(self) -> None:
        free = self._free_slots()
        if not free:
            return
        version, invoker = self._resolve()
        self.state = "listening"
        size = self._lot(invoker)
        deliveries = self._broker.receive(self.spec, free * size, _POLL_S)
        if deliveries and self.spec.policy.batch_window_s and invoker.batches:
            deliveries += self._fill(free * size - len(deliveries))
        lots = _lots(deliveries, free, size, invoker.batches)
        for lot in lots[:free]:
            work = Work(lot, version, invoker, self._clock.now_us())
            if self._stopping.is_set():
                work.stop_after_current()
            with self._changed:
                self._active.add(work)
            self._workers.submit(lambda work=work: self._run(work))  # type: ignore[misc]
        if rest := [d for lot in lots[free:] for d in lot]:
            self._broker.settle([Settlement(d, "release") for d in rest])

    def _free_slots(self) -> int:
        """Wait for a free slot; return how many there are, 0 when stopping."""
        most = self.spec.policy.max_concurrency
        with self._changed:
            self._changed.wait_for(lambda: len(self._active) < most or self._stopping.is_set())
            return 0 if self._stopping.is_set() else most - len(self._active)

    def _lot(self, invoker: Invoker) -> int:
        """Return how many events one slot takes at a time."""
        if invoker.batches:
            return self.spec.policy.batch_size or 32
        if self._mean_s is None:
            return 1
        return max(1, min(_MOST_AHEAD, int(RUN_AHEAD_S / max(self._mean_s, 1e-6))))

    def _fill(self, room: int) -> list[Delivery]:
        """Receive more until there is no *room*, or the batch window is over."""
        end_us = self._clock.now_us() + int(self.spec.policy.batch_window_s * 1e6)
        more: list[Delivery] = []
        while len(more) < room and not self._stopping.is_set() and (left_us := end_us - self._clock.now_us()) > 0:
            more += self._broker.receive(self.spec, room - len(more), left_us / 1e6)
        return more

    # -- invoke ---------------------------------------------------------------------------------------------------------------

    def _run(self, work: Work) -> None:
        """Run one lot in a worker thread, and record it; never raises."""
        ended: list[Ended] = []
        with captured() as printed:
            if work.invoker.batches:
                ended = self._call_batch(work, printed)
            else:
                while (delivery := work.begin(self._clock.now_us())) is not None:
                    ended.append(self._call_one(work, delivery, printed))
                    if work.recorded_us + RUN_AHEAD_S * 1e6 < self._clock.now_us():  # a slow one: do not hold the others back
                        self._settle(work, ended)
                        ended = []
        self._settle(work, ended)
        if (unstarted := work.close()) is not None:
            if unstarted:
                self._patiently(lambda: self._broker.settle([Settlement(d, "release") for d in unstarted]))
            self._finished(work)

    def _call_one(self, work: Work, delivery: Delivery, printed: Captured) -> Ended:
        if self._loops(delivery):
            return Ended(delivery, _LOOP)
        started_us = self._clock.now_us()
        result = work.invoker.one(self._prepare(delivery.event))
        finished_us = self._clock.now_us()
        spent_s = (finished_us - started_us) / 1e6
        self._mean_s = spent_s if self._mean_s is None else 0.8 * self._mean_s + 0.2 * spent_s
        return self._ended(delivery, result, started_us, finished_us, 1, printed.take())

    def _call_batch(self, work: Work, printed: Captured) -> list[Ended]:
        batch = work.begin_all(self._clock.now_us())
        called = [d for d in batch if not self._loops(d)]
        started_us = self._clock.now_us()
        results = work.invoker.many([self._prepare(d.event) for d in called]) if called else []
        finished_us, text = self._clock.now_us(), printed.take()
        ended = [
            self._ended(d, r, started_us, finished_us, len(called), None if i else text)  # printed once, kept with the first
            for i, (d, r) in enumerate(zip(called, results, strict=True))
        ]
        return ended + [Ended(d, _LOOP) for d in batch if self._loops(d)]

    def _loops(self, delivery: Delivery) -> bool:
        return self.spec.emit is not None and delivery.event.hops >= MAX_HOPS

    def _ended(self, delivery: Delivery, result: Result, started_us: int, finished_us: int, size: int, text: str | None) -> Ended:
        emitted = None
        if self.spec.emit is not None and result.ok and result.value is not None:
            try:
                emitted = delivery.event.emitted(result.value, by=self.spec.name, type="mltrigger.output")
            except MltriggerError as error:
                result = failure(error)
        return Ended(delivery, result, started_us, finished_us, size, text, emitted)

    # -- record and settle ----------------------------------------------------------------------------------------------------

    def _settle(self, work: Work, ended: Sequence[Ended]) -> None:
        if ended and work.end(len(ended)):
            self._patiently(lambda: self._record(ended, work.version))
            work.recorded(self._clock.now_us())

    def _record(self, ended: Sequence[Ended], version: ModelVersion) -> None:
        """Record, hand on and settle in one unit of work. What lost its lease meanwhile only leaves a ``stale`` row."""
        settlements = [self._verdict(e) for e in ended]
        with self._log.unit() as unit:
            # First, because it tells whose lease was lost; it takes effect with the unit, like everything in it.
            lost = self._broker.settle(settlements, unit)
            held = [e for e in ended if e.delivery not in lost] if lost else ended
            unit.record([_invocation(e, s, version, e.delivery in lost) for e, s in zip(ended, settlements, strict=True)])
            emitted = [e.emitted for e in held if e.emitted is not None]
            if emitted and self.spec.emit is not None:
                self._broker.publish(self.spec.emit, emitted, unit)

    def _verdict(self, ended: Ended) -> Settlement:
        delivery, result = ended.delivery, ended.result
        if result.ok:
            return Settlement(delivery, "ack")
        if result.permanent or delivery.failures + 1 >= self.spec.policy.max_attempts:
            return Settlement(
                delivery,
                "dead_letter",
                reason=result.reason,
                error_type=result.error_type,
                error=result.error,
                traceback=result.traceback,
            )
        delay_s = result.delay_s if result.delay_s is not None else backoff_s(delivery.failures + 1, self._uniform)
        return Settlement(delivery, "retry", delay_s=delay_s)

    def _interrupt(self, work: Work, open_: Sequence[Delivery]) -> None:
        """Release what a stop or the end of the process cut off; it is nobody's failure."""
        begun = [d for d in open_ if work.has_begun(d)]
        now_us = self._clock.now_us()
        cut = Result(reason="stopped")
        with self._log.unit() as unit:
            lost = self._broker.settle([Settlement(d, "release") for d in open_], unit)
            rows = [
                Invocation(
                    d,
                    "stale" if d in lost else "interrupted",
                    work.version.id,
                    cut,
                    work.started_us,
                    now_us,
                    len(begun),
                    "stopped",
                )
                for d in begun
            ]
            unit.record(rows)

    def _patiently(self, action: Callable[[], object]) -> None:
        """Do *action* until the store answers: an outage of ours must neither lose an outcome nor count as the model's failure."""
        pause_s = 0.0
        while True:
            try:
                action()
            except Closed:
                return
            except Exception:
                logger.exception("subscription %s: recording failed; trying again", self.spec.name)
                self.state = "waiting for the store"
                pause_s = min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))
                threading.Event().wait(pause_s)
            else:
                return

    def _finished(self, work: Work) -> None:
        with self._changed:
            self._active.discard(work)
            self._changed.notify_all()

    # -- leases and timeouts, from the keeper's thread ------------------------------------------------------------------------

    def tick(self) -> bool:
        """Extend leases and end calls that ran too long; say whether there is something in flight."""
        with self._changed:
            active = list(self._active)
        now_us = self._clock.now_us()
        for work in active:
            if work.running_s(now_us) > self.spec.policy.timeout_s:
                self._time_out(work)
            elif now_us - work.extended_us >= self.spec.policy.lease / 3 * 1e6:
                work.extended_us = now_us
                self._broker.extend(work.leased(), self.spec.policy.lease)
        return bool(active)

    def _time_out(self, work: Work) -> None:
        """Record a call that did not end in time; its slot is free again, its thread stays behind."""
        started_us, size = work.started_us, work.calling
        open_ = work.close()
        if open_ is None:
            return
        self.leftover += 1
        seconds = self.spec.policy.timeout_s
        message = f"no answer within timeout_s = {seconds:g}; the call goes on in its thread, its answer will be ignored"
        result = Result(reason="timeout", error_type="TimeoutError", error=message)
        now_us = self._clock.now_us()
        late = [Ended(d, result, started_us, now_us, size) for d in open_ if work.has_begun(d)]
        rest = [Settlement(d, "release") for d in open_ if not work.has_begun(d)]

        def record() -> None:
            self._patiently(lambda: self._record(late, work.version))
            self._patiently(lambda: self._broker.settle(rest))
            self._finished(work)

        self._workers.submit(record)  # not here: other leases are waiting for this thread


_LOOP = Result(
    reason="recursion_limit",
    error_type="RecursionError",
    error=f"the event is the {MAX_HOPS}th of a chain in which each caused the next: a topic feeds itself through emit=",
    permanent=True,
)


def _lots(deliveries: Sequence[Delivery], slots: int, size: int, batches: bool) -> list[list[Delivery]]:
    """Share *deliveries* out: full batches, or evenly over the slots; alone what was abandoned before, so that it harms nobody else."""
    alone = [[d] for d in deliveries if d.abandoned]
    rest = [d for d in deliveries if not d.abandoned]
    share = size if batches else max(1, min(size, -(-len(rest) // slots)))
    return alone + [rest[i : i + share] for i in range(0, len(rest), share)]


def _invocation(ended: Ended, settlement: Settlement, version: ModelVersion, stale: bool) -> Invocation:
    outcome = {"ack": "succeeded", "retry": "failed", "dead_letter": "dead"}[settlement.verdict]
    return Invocation(
        ended.delivery,
        "stale" if stale else outcome,  # type: ignore[arg-type]
        version.id,
        ended.result,
        ended.started_us,
        ended.finished_us,
        ended.batch_size,
        ended.result.reason,
        ended.stdout,
    )
