"""The recorder: what becomes of an attempt, and the one unit of work that records it, hands its
output on and settles it.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mltrigger.broker import Broker, Delivery, Settlement, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.circles import OUTPUT_TYPE
from mltrigger.delivery.lineage import CHAIN, TREE, Descent
from mltrigger.delivery.lot import Remains
from mltrigger.errors import Closed, InvalidEvent, MltriggerError
from mltrigger.event.event import Event
from mltrigger.policy import MAX_ABANDONED, backoff_s, charged
from mltrigger.store.log import Log
from mltrigger.store.outcomes import Outcome
from mltrigger.store.unit import Invocation, Unit
from mltrigger.versions.running.invoke import Result, failure
from mltrigger.versions.version import ModelVersion

logger = logging.getLogger("mltrigger")

_HURRY_S = 0.2
_OUTAGE_STEP = 4
"""After an outage a delivery waits as long as after this many failures: up to eight seconds."""

_UNKEPT = {"result_not_serialisable": "NotEncodable", "result_too_large": "EventTooLarge"}

OUT_OF_ORDER = Result(reason="group_order")
"""What an event gets whose group keeps its order, when one before it has to be tried again first;
the model's answer does not count.
"""


class Ended(NamedTuple):
    """One attempt that ended: its row, what shall become of the delivery, and the event that it
    emits.
    """

    invocation: Invocation
    settlement: Settlement
    emitted: Event | None = None

    @property
    def is_final(self) -> bool:
        """Whether the delivery does not come again."""
        return self.settlement.verdict in ("ack", "dead_letter")


class Recorder:
    """Records and settles the attempts of one subscription.

    Parameters
    ----------
    spec : SubscriptionSpec
        Whose policy decides.
    broker, log, clock
        The parts.
    uniform : callable
        Chance, for the backoff.
    descent : Descent, optional
        Counts what events have led to; one for all that publish in this process.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        broker: Broker,
        log: Log,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
        descent: Descent | None = None,
    ) -> None:
        self.descent = descent or Descent(clock, log.home)
        self._spec, self._broker, self._log, self._clock, self._uniform = (
            spec,
            broker,
            log,
            clock,
            uniform,
        )
        self._give_up_s = math.inf
        self._hurry = threading.Event()

    def give_up(self, at_s: float) -> None:
        """Try nothing again after the monotonic time *at_s*: what is not recorded by then comes
        again when its lease is over.
        """
        self._give_up_s = at_s
        self._hurry.set()

    def ended(
        self,
        delivery: Delivery,
        result: Result,
        version: ModelVersion,
        started_us: int | None,
        finished_us: int,
        batch_size: int,
        stdout: str | None = None,
    ) -> Ended:
        """Return what becomes of one attempt with *result*."""
        emitted = None
        if self._spec.emit is not None and result.degraded:  # a description is no answer to hand on
            result = result._replace(
                output=None,
                error_type=_UNKEPT.get(result.reason or "", "ValueError"),
                permanent=True,
                degraded=False,
            )
        if self._spec.emit is not None and result.output is not None and result.output != "null":
            try:
                # now: a model may return the same object again, changed
                encoded = result.output.encode()
                emitted = delivery.event.emitted(
                    None, by=self._spec.name, type=OUTPUT_TYPE, encoded=encoded
                )
                self._broker.check(self._spec.emit, emitted)
            except InvalidEvent as error:  # the same output would be refused again
                emitted, result = None, failure(error)._replace(reason=error.reason, permanent=True)
            except MltriggerError as error:
                emitted, result = None, failure(error)
        outcome, settlement = self._verdict(delivery, result)
        # the model was not called, or might as well not have been
        if result is OUT_OF_ORDER or result is CHAIN or result is TREE:
            row = Invocation(
                delivery, outcome, version.id, result, None, None, batch_size, result.reason, stdout
            )
        else:
            row = Invocation(
                delivery,
                outcome,
                version.id,
                result,
                started_us,
                finished_us,
                batch_size,
                result.reason,
                stdout,
            )
        return Ended(row, settlement, emitted)

    def record(self, ended: Sequence[Ended]) -> None:
        """Record, hand on and settle in one commit; patiently.

        What lost its lease is ``stale`` if there is an outcome.
        """
        if ended:
            self._patiently(lambda: self._record(ended))

    def skip(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """End deliveries without calling the model, in one commit; patiently."""
        rows = [Invocation(d, "skipped", None, Result(), None, None, 0, reason) for d in deliveries]
        self.record([Ended(row, Settlement(row.delivery, "ack")) for row in rows])

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Make deliveries that were not begun visible again; patiently."""
        if deliveries:
            self._patiently(lambda: self._release([Settlement(d, "release") for d in deliveries]))

    def _release(self, given_back: Sequence[Settlement]) -> None:
        if lost := self._broker.settle(given_back):
            self._broker.settle_late([s for s in given_back if s.delivery in lost])

    def interrupt(self, remains: Remains[Ended], version: ModelVersion) -> None:
        """Release what a stop or the end of the process cut off, the call under way as
        ``interrupted``; it is nobody's failure.
        """
        if remains.called or remains.unbegun:
            self._patiently(lambda: self._interrupt(remains, version))

    def _interrupt(self, remains: Remains[Ended], version: ModelVersion) -> None:
        now_us, size = self._clock.now_us(), len(remains.called)
        given_back = [Settlement(d, "release") for d in [*remains.called, *remains.unbegun]]
        with self._log.unit() as unit:
            lost = self._broker.settle(given_back, unit)
            if lost:
                self._broker.settle_late([s for s in given_back if s.delivery in lost], unit)
            unit.record(
                [
                    Invocation(
                        d,
                        _or_stale("interrupted", d, lost),
                        version.id,
                        Result(),
                        remains.started_us,
                        now_us,
                        size,
                        "stopped",
                    )
                    for d in remains.called
                ]
            )

    def _record(self, ended: Sequence[Ended]) -> None:
        with self._log.unit() as unit:
            ended = self._within_bounds(ended, unit)
            # First, because it tells whose lease was lost; it takes effect with the unit, like
            # everything in it.
            lost = self._broker.settle([e.settlement for e in ended], unit)
            rows, counted = [e.invocation for e in ended], list[Delivery]()
            if lost:
                counted = self._broker.settle_late(
                    [e.settlement for e in ended if e.settlement.delivery in lost], unit
                )
                lost = [d for d in lost if d not in counted]
                rows = [
                    row._replace(outcome=_or_stale(row.outcome, row.delivery, lost)) for row in rows
                ]
            unit.record(rows, counted)
            emitted = [
                e.emitted
                for e in ended
                if e.emitted is not None and e.invocation.delivery not in lost
            ]
            if emitted and self._spec.emit is not None:
                self._broker.publish(self._spec.emit, emitted, unit)

    def _within_bounds(self, ended: Sequence[Ended], unit: Unit) -> Sequence[Ended]:
        """Count the emitted events. Those beyond the limit of their root become dead letters."""
        roots = [e.emitted.root for e in ended if e.emitted is not None]
        if not roots:
            return ended
        most = self._spec.policy.max_descendants
        room = {
            root: most - n + roots.count(root)
            for root, n in self.descent.add(unit.transaction, roots).items()
            if n > most
        }
        if not room:
            return ended
        kept = []
        for e in ended:
            if e.emitted is not None and e.emitted.root in room:
                room[e.emitted.root] -= 1
                kept.append(self._stopped(e) if room[e.emitted.root] < 0 else e)
            else:
                kept.append(e)
        return kept

    def _stopped(self, ended: Ended) -> Ended:
        delivery, answer = ended.invocation.delivery, ended.invocation.result
        outcome, settlement = self._verdict(delivery, TREE._replace(output=answer.output))
        row = ended.invocation._replace(
            outcome=outcome, reason=TREE.reason, result=TREE._replace(output=answer.output)
        )
        return Ended(row, settlement)

    def _verdict(self, delivery: Delivery, result: Result) -> tuple[Outcome, Settlement]:
        if result.ok and result is not OUT_OF_ORDER:
            return "succeeded", Settlement(delivery, "ack")
        if result is OUT_OF_ORDER or result.reason == "stopped":  # by us: nobody's failure
            return "interrupted", Settlement(delivery, "release")
        if result.reason == "no_process":  # this machine could not start one: an outage of ours
            return "interrupted", Settlement(
                delivery, "retry", delay_s=backoff_s(_OUTAGE_STEP, self._uniform), counts="nothing"
            )
        if result.throttled:  # "not now" says nothing about the event
            delay_s = (
                result.delay_s
                if result.delay_s is not None
                else backoff_s(delivery.attempt, self._uniform)
            )
            return "failed", Settlement(delivery, "retry", delay_s=delay_s, counts="nothing")
        died = result.reason == "worker_died"
        if result.permanent or (
            charged(delivery.abandoned) >= MAX_ABANDONED
            if died
            else delivery.failures + 1 >= self._spec.policy.max_attempts
        ):
            return "dead", Settlement(
                delivery,
                "dead_letter",
                reason=result.reason,
                error_type=result.error_type,
                error=result.error,
                traceback=result.traceback,
            )
        delay_s = (
            result.delay_s
            if result.delay_s is not None
            else backoff_s(delivery.failures + 1, self._uniform)
        )
        return "failed", Settlement(
            delivery, "retry", delay_s=delay_s, counts="death" if died else "failure"
        )

    def _patiently(self, action: Callable[[], object]) -> None:
        """Do *action* until the store answers: an outage of ours must neither lose an outcome nor
        count as the model's failure.

        Only one who waits for the end, see :meth:`give_up`, makes it leave the event to whoever
        gets it next.
        """
        pause_s = 0.0
        while True:
            try:
                action()
            except Exception as error:
                if isinstance(error, Closed) or time.monotonic() >= self._give_up_s:
                    logger.warning(
                        "subscription %s: stopped before the store answered (%s); events come"
                        " again",
                        self._spec.name,
                        error,
                    )
                    return
                logger.exception("subscription %s: recording failed; trying again", self._spec.name)
                pause_s = min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))
                if self._hurry.wait(pause_s):
                    pause_s = 0.0
                    time.sleep(_HURRY_S)
            else:
                return


def _or_stale(outcome: Outcome, delivery: Delivery, lost: Sequence[Delivery]) -> Outcome:
    return "stale" if delivery in lost else outcome
