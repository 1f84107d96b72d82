"""The recorder: decides the outcome of an attempt, then records, hands on and settles it.

The last three are one unit of work.
"""

from __future__ import annotations

import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence

from mltrigger.broker import Broker, Count, Delivery, Outside, Settlement, SubscriptionSpec
from mltrigger.broker.alike import Alike
from mltrigger.clock import Clock
from mltrigger.delivery.circles import OUTPUT_TYPE
from mltrigger.delivery.lineage import TREE, Descent
from mltrigger.delivery.lot import Answer, Ended, Remains
from mltrigger.delivery.observed import Observed
from mltrigger.errors import Closed, DiskFailed, InvalidEvent, MltriggerError
from mltrigger.event.event import Event
from mltrigger.policy import MAX_ABANDONED, backoff_s, charged
from mltrigger.store.log import Log
from mltrigger.store.lots import By, Succeeded
from mltrigger.store.outcomes import Outcome
from mltrigger.store.unit import Invocation, Unit
from mltrigger.versions.running.invoke import Answers, Result, failure

logger = logging.getLogger("mltrigger")

_HURRY_S = 0.2
_OUTAGE_STEP = 4
"""After an outage a delivery waits as after this many failures: up to eight seconds."""
_UNKEPT = {"result_not_serialisable": "NotEncodable", "result_too_large": "EventTooLarge"}


class Recorder:
    """Records and settles the attempts of one subscription.

    Parameters
    ----------
    spec : SubscriptionSpec
        Its policy decides about retries. Its ``emit`` names the topic for outputs.
    uniform : callable
        Returns a random number between two bounds, for the backoff.
    descent : Descent, optional
        Counts the descendants of events. All publishers of a process share it.
    outside : Outside, optional
        Checks an output before its outcome is recorded.
    observed : Observed, optional
        Tells an observer.
    """

    durable = True
    """Whether a record is on the disk before anything else happens."""

    def __init__(
        self,
        spec: SubscriptionSpec,
        broker: Broker,
        log: Log,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
        descent: Descent | None = None,
        outside: Outside | None = None,
        observed: Observed | None = None,
    ) -> None:
        self.descent = descent or Descent(clock, log.home)
        self._outside, self.observed = outside, observed or Observed()
        self._spec, self._broker, self._log, self._clock = spec, broker, log, clock
        self._uniform, self.effects = uniform, log.effects
        self._hands_nothing_on, self._publish = spec.emit is None, broker.publish
        self.trouble = ""
        """Why nothing can be recorded now."""
        self._give_up_s, self._hurry = math.inf, threading.Event()

    def give_up(self, at_s: float) -> None:
        """Try nothing again after the monotonic time *at_s*.

        Attempts that are not recorded by then come again when their leases end.
        """
        self._give_up_s = at_s
        self._hurry.set()

    # -- the outcome of an attempt -----------------------------------------------------------------

    def ended(
        self,
        delivery: Delivery,
        result: Result,
        by: By,
        started_us: int | None,
        finished_us: int,
        batch_size: int,
        stdout: str | None = None,
    ) -> Ended:
        """Return the outcome of a call with *result*, and the event to emit."""
        emitted = None
        if self._spec.emit is not None:
            result, emitted = self._handed_on(delivery, result, self._spec.emit)
        outcome, settlement = self._verdict(delivery, result)
        row = Invocation(
            delivery,
            outcome,
            by,
            result,
            started_us,
            finished_us,
            batch_size,
            result.reason,
            stdout,
        )
        return Ended(row, settlement, emitted)

    def refused(
        self,
        delivery: Delivery,
        refusal: Result,
        by: By,
        batch_size: int,
        stdout: str | None = None,
    ) -> Ended:
        """Return the outcome of a delivery whose answer does not count, if it was called at all.

        A permanent *refusal* makes it a dead letter. Any other gives it back.
        """
        if refusal.permanent:
            outcome, settlement = self._verdict(delivery, refusal)
        else:
            outcome, settlement = "interrupted", Settlement(delivery, "release")
        row = Invocation(
            delivery,
            outcome,
            by,
            refusal,
            None,
            None,
            batch_size,
            refusal.reason,
            stdout,
        )
        return Ended(row, settlement)

    def _handed_on(
        self, delivery: Delivery, result: Result, topic: str
    ) -> tuple[Result, Event | None]:
        """Return *result* and the event to emit. An output that cannot be emitted is a failure."""
        if result.degraded:  # it holds a description of the output, not the output
            error_type = _UNKEPT.get(result.reason or "", "ValueError")
            result = result._replace(
                output=None, error_type=error_type, permanent=True, degraded=False
            )
        if self._is_silent(result):
            return result, None
        try:
            # encoded now: a model may return the same object again, changed
            event = self._output(delivery, (result.output or "null").encode())
            if self._outside is not None:
                self._outside.check(topic, event)
        except InvalidEvent as error:  # permanent: the same output would be refused again
            return failure(error)._replace(reason=error.reason, permanent=True), None
        except MltriggerError as error:
            return failure(error), None
        return result, self.observed.emitted(topic, delivery, event)

    def _is_silent(self, result: Result) -> bool:
        """Whether a result leads to no event."""
        return result.output is None or result.output == "null"

    def _output(self, delivery: Delivery, encoded: bytes) -> Event:
        return delivery.event.emitted(None, by=self._spec.name, type=OUTPUT_TYPE, encoded=encoded)

    def _verdict(self, delivery: Delivery, result: Result) -> tuple[Outcome, Settlement]:
        if result.ok:
            return "succeeded", Settlement(delivery, "ack")
        if result.reason == "stopped":  # by this process
            return "interrupted", Settlement(delivery, "release")
        if result.reason == "no_process":  # an outage here: nothing could run the model
            delay_s = backoff_s(_OUTAGE_STEP, self._uniform)
            return "interrupted", Settlement(delivery, "retry", delay_s, counts="nothing")
        if result.throttled:  # "not now" says nothing about the event
            delay_s = self._delay_s(result, delivery.attempt)
            return "failed", Settlement(delivery, "retry", delay_s, counts="nothing")
        died = result.reason == "worker_died"
        if result.permanent or self._is_last(delivery, died):
            return "dead", Settlement(
                delivery,
                "dead_letter",
                reason=result.reason,
                error_type=result.error_type,
                error=result.error,
                traceback=result.traceback,
            )
        delay_s = self._delay_s(result, delivery.failures + 1)
        counts: Count = "death" if died else "failure"
        return "failed", Settlement(delivery, "retry", delay_s, counts)

    def _is_last(self, delivery: Delivery, died: bool) -> bool:
        if died:
            return charged(delivery.abandoned) >= MAX_ABANDONED
        return delivery.failures + 1 >= self._spec.policy.max_attempts

    def _delay_s(self, result: Result, step: int) -> float:
        return backoff_s(step, self._uniform) if result.delay_s is None else result.delay_s

    # -- units of work -----------------------------------------------------------------------------

    def takes_whole(self, deliveries: Sequence[Delivery], results: Sequence[Result]) -> bool:
        """Whether a batch can be recorded as a whole: all went well, and nothing is handed on."""
        return (
            self._spec.emit is None
            and (isinstance(results, Answers) or all(map(_is_plain, results)))
            and (
                isinstance(deliveries, Alike)
                or all(d.group is None and not d.alone for d in deliveries)
            )
        )

    def takes(self, delivery: Delivery, result: Result) -> bool:
        """Whether the answer of one call can be recorded with others, as :meth:`takes_whole`."""
        return (
            self._hands_nothing_on
            and result.error_type is None
            and result.reason is None
            and result.measures is None
            and delivery.group is None
            and not delivery.alone
        )

    def record(
        self, answers: Sequence[Answer], following: Callable[[Unit], None] | None = None
    ) -> None:
        """Record, hand on and settle attempts in one commit. Try until the store answers.

        An attempt that lost its lease becomes ``stale`` if the event has an outcome. *following*
        does more in the same commit. A try after an error goes without it.
        """
        if answers:
            once = [following] if following is not None else []
            write = functools.partial(self._record, answers, once)
            self.observed.settle(self._spec, answers, lambda: self._patiently(write))

    def make_durable(self) -> None:
        """Return when all that is visible is durable, since an event is about to leave."""
        self._log.make_durable()

    def skip(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """End deliveries as ``skipped`` without a call of the model, like :meth:`record`."""
        rows = [Invocation(d, "skipped", None, Result(), None, None, 0, reason) for d in deliveries]
        self.record([Ended(row, Settlement(row.delivery, "ack")) for row in rows])

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Make deliveries that were not begun visible again. Try until the store answers."""
        if deliveries:
            self._patiently(lambda: self._settle([Settlement(d, "release") for d in deliveries]))

    def interrupt(self, remains: Remains, by: By) -> None:
        """Release the rest of a lot at the end of the listener.

        The call under way is recorded as ``interrupted``. It spends no attempt.
        """
        if remains.called or remains.unbegun:
            self._patiently(lambda: self._interrupt(remains, by))

    def _record(self, answers: Sequence[Answer], once: list[Callable[[Unit], None]]) -> None:
        rows, following = list[Invocation](), once.pop() if once else None
        with self._log.unit(self.durable) as unit:
            ended: list[Ended] = []
            for answer in answers:  # in their order, which is that of the log
                if isinstance(answer, Ended):
                    ended.append(answer)
                elif self._broker.ack(answer.deliveries, unit):
                    rows += self._record_ended(ended, unit)
                    ended = []
                    unit.record_well(answer)
                else:  # a lease was lost
                    ended += self._one_by_one(answer)
            rows += self._record_ended(ended, unit)
            if following is not None:
                following(unit)
        self.recorded(rows)

    def _record_ended(self, ended: list[Ended], unit: Unit) -> list[Invocation]:
        if not ended:
            return []
        ended = self._within_bounds(ended, unit)
        # Settle first: the broker tells who lost a lease. All of it takes effect at the commit.
        lost, counted = self._settle([e.settlement for e in ended], unit)
        rows = [_or_stale(e.invocation, lost) for e in ended]
        unit.record(rows, counted, self._spec.role)
        if self._spec.emit is not None:
            emitted = [e.emitted for e in ended if e.invocation.delivery not in lost]
            if events := [event for event in emitted if event is not None]:
                self.observed.send(self._publish, self._spec.emit, events, unit)
        return rows

    def _one_by_one(self, well: Succeeded) -> list[Ended]:
        size, text, ended = len(well.deliveries), well.stdout, []
        whole = [(well.started_us, well.finished_us)] * size
        for d, output, times_us in zip(
            well.deliveries, well.outputs, well.times or whole, strict=True
        ):
            batch_size = size if well.times is None else 1
            result = Result(output)
            ended.append(self.ended(d, result, well.by, *times_us, batch_size, text))
            text = None
        return ended

    def recorded(self, rows: Sequence[Invocation]) -> None:
        """Take note of *rows*, which are durable now."""

    def _interrupt(self, remains: Remains, by: By) -> None:
        now_us, size, started_us = self._clock.now_us(), len(remains.called), remains.started_us
        given_back = [Settlement(d, "release") for d in [*remains.called, *remains.unbegun]]
        rows = [
            Invocation(d, "interrupted", by, Result(), started_us, now_us, size, "stopped")
            for d in remains.called
        ]
        with self._log.unit(self.durable) as unit:
            lost, _ = self._settle(given_back, unit)
            unit.record([_or_stale(row, lost) for row in rows], (), self._spec.role)

    def _settle(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> tuple[list[Delivery], list[Delivery]]:
        """Settle, also late answers. Return lost deliveries, and late ones that count."""
        lost = self._broker.settle(settlements, unit)
        if not lost:
            return lost, []
        counted = self._broker.settle_late([s for s in settlements if s.delivery in lost], unit)
        return [d for d in lost if d not in counted], counted

    def _within_bounds(self, ended: list[Ended], unit: Unit) -> list[Ended]:
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
                if room[e.emitted.root] < 0:
                    e = self._one_too_many(e)
            kept.append(e)
        return kept

    def _one_too_many(self, ended: Ended) -> Ended:
        row = ended.invocation
        result = TREE._replace(output=row.result.output)
        outcome, settlement = self._verdict(row.delivery, result)
        return Ended(row._replace(outcome=outcome, reason=result.reason, result=result), settlement)

    def _patiently(self, action: Callable[[], object]) -> None:
        """Repeat *action* until the store answers.

        An outage of the store neither loses an outcome nor counts as a failure of the model. Only
        :meth:`give_up` ends it. The next listener gets the events then.
        """
        pause_s = 0.0
        while True:
            try:
                action()
            except Exception as error:
                if isinstance(error, (Closed, DiskFailed)) or time.monotonic() >= self._give_up_s:
                    logger.warning(
                        "subscription %s: stopped before the store answered (%s); events come"
                        " again",
                        self._spec.name,
                        error,
                    )
                    return
                logger.exception("subscription %s: recording failed; trying again", self._spec.name)
                self.trouble = str(error) or type(error).__name__
                pause_s = min(30.0, 2 * pause_s + self._uniform(0.05, 0.2))
                if self._hurry.wait(pause_s):
                    pause_s = 0.0
                    time.sleep(_HURRY_S)
            else:
                self.trouble = ""
                return


def _is_plain(result: Result) -> bool:
    return result.error_type is None and result.reason is None and result.measures is None


def _or_stale(row: Invocation, lost: Sequence[Delivery]) -> Invocation:
    return row._replace(outcome="stale") if row.delivery in lost else row
