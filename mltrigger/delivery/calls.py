"""The calls of one listener: a lot is called, recorded and settled, in a thread; a suspect runs
alone in its process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from mltrigger.broker import Broker, Delivery, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.batching import AdaptiveBatch
from mltrigger.delivery.company import Company
from mltrigger.delivery.lineage import CHAIN, TREE
from mltrigger.delivery.lot import Work
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import OUT_OF_ORDER, Ended, Recorder
from mltrigger.event.event import MAX_HOPS, Event
from mltrigger.versions.running.capture import Captured, captured
from mltrigger.versions.running.current import Place, Running, during
from mltrigger.versions.running.invoke import Caller, Result
from mltrigger.versions.running.turns import HERE

logger = logging.getLogger("mltrigger")

RUN_AHEAD_S = 0.01
"""A slot leases as many events as it will start within this time, measured; one, as long as nothing
is known.
"""
_MOST_AHEAD = 256
_USUAL_BATCH, _MOST_IN_BATCH = 32, 1024
_AFTER_DEFECT_US = 1_000_000
_MOST_HELD_S = 60.0
"""A server that asks for a pause is asked again after this time at the latest."""


class Calls:
    """Calls the model of one subscription, lot by lot.

    Parameters
    ----------
    spec, place
        Whose events, and what is to be known of that while the model runs.
    broker, recorder, clock, pace
        The parts of its listener.
    prepare : callable
        What to do with an event before the model sees it.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        place: Place,
        broker: Broker,
        recorder: Recorder,
        clock: Clock,
        pace: Pace,
        prepare: Callable[[Event], Event],
    ) -> None:
        self.why = ""
        self._spec, self._broker, self._recorder, self._clock, self._pace, self._prepare = (
            spec,
            broker,
            recorder,
            clock,
            pace,
            prepare,
        )
        self._place = place
        self.company = Company()
        self._outages = 0
        self._mean_s: float | None = None
        policy = spec.policy
        self._batch = (
            AdaptiveBatch(policy.batch_budget_s, policy.batch_size or _MOST_IN_BATCH)
            if policy.adaptive
            else None
        )

    def lot(self, invoker: Caller) -> int:
        """Return how many events one slot takes at a time: unless the policy says it, what a
        quarter of the timeout is enough for.
        """
        if invoker.batches:
            if self._batch is not None:
                return self._batch.size()
            fitting = (
                _USUAL_BATCH
                if self._mean_s is None
                else int(self._spec.policy.timeout_s / 4 / max(self._mean_s, 1e-6))
            )
            return self._spec.policy.batch_size or max(1, min(_USUAL_BATCH, fitting))
        if self._mean_s is None:
            return 1
        return max(1, min(_MOST_AHEAD, int(RUN_AHEAD_S / max(self._mean_s, 1e-6))))

    def run(self, work: Work[Ended]) -> None:
        """Run one lot in this thread and record it, as far as it was not closed or stopped
        meanwhile; never raises.
        """
        behind: set[str] = set()
        try:
            with captured() as printed:
                while self._run_part(work, printed, behind):
                    pass
        except Exception:  # a defect of ours must not cost the slot
            logger.exception("subscription %s: a lot failed outside the model", self._spec.name)
            # its events come again at once
            self._pace.hold(self._clock.now_us() + _AFTER_DEFECT_US)
        self.settle(work)

    def settle(self, work: Work[Ended]) -> None:
        """Record the answers that nobody has taken for recording yet."""
        if answers := work.take(self._clock.now_us()):
            self._recorder.record(answers)
            work.settled([a.settlement.delivery for a in answers])

    def _acquitted(self, results: dict[Delivery, Result]) -> dict[Delivery, Result]:
        """Return *results* of a batch; those that took too long together prove nothing about any of
        their events.
        """
        late = [
            d
            for d, result in results.items()
            if result.reason == "timeout" and not result.permanent
        ]
        return (
            results
            if len(late) < 2
            else {**results, **self.company.acquit(late, results[late[0]], len(results))}
        )

    def timed_out(self, work: Work[Ended], count: int) -> None:
        """Learn that a call with *count* events did not end in time."""
        if self._batch is not None:
            self._batch.learn(count, self._spec.policy.timeout_s)

    def _run_part(self, work: Work[Ended], printed: Captured, behind: set[str]) -> bool:
        """Run what comes next of a lot, in one turn; return whether there was something.

        A suspect is a part of its own.
        """
        count, alone = work.ahead(
            work.invoker.runs_here, () if work.invoker.batches else self.company or ()
        )
        if not count or (turn := HERE.enter(alone, lambda: work.stopped)) is None:
            return False
        work.turn = turn
        try:
            if alone and not self._is_held(work, turn.proves):
                return True
            call = self._call_batch if work.invoker.batches else self._call_each
            with during(running := self._running(work)):
                call(work, running, count, printed, behind)
            if alone:
                # before others begin: what ends the process from now on is not this event
                self.settle(work)
        finally:
            turn.leave()
        return True

    def _is_held(self, work: Work[Ended], proves: bool) -> bool:
        """Say that the next delivery is about to run alone; drop it when somebody else has it by
        now.
        """
        delivery = work.next
        held = (
            self._broker.alone(delivery)
            if proves
            else not self._broker.extend([delivery], self._spec.policy.lease)
        )
        if not held:
            work.drop()
        return held

    def _call_each(
        self, work: Work[Ended], running: Running, count: int, printed: Captured, behind: set[str]
    ) -> None:
        now_us = self._clock.now_us()
        hold_us = RUN_AHEAD_S * 1e6
        while count and (begun := work.begin(1, now_us)):
            delivery = begun[0]
            if (result := self._refused(delivery, behind)) is None:
                event = self._prepare(delivery.event)
                running.events = (event,)
                result = work.invoker.one(event)
            started_us, now_us = now_us, self._clock.now_us()
            if result.throttled and result.reason == "timeout":
                self.company.note(delivery)
            if not self._heed(result, now_us):
                self._learn((now_us - started_us) / 1e6)
            finished_us = work.returned_us or now_us
            ended = self._recorder.ended(
                delivery, result, work.version, started_us, finished_us, 1, printed.take()
            )
            if delivery.group is not None and not ended.is_final:
                behind.add(delivery.group)
            work.answered([ended])
            # do not hold back what is done; nor spend more on recording than on running
            if now_us - work.taken_us > hold_us:
                self.settle(work)
                started_us, now_us = now_us, self._clock.now_us()
                hold_us = max(RUN_AHEAD_S * 1e6, 4 * (now_us - started_us))
            count -= 1
            if now_us < self._pace.held_us:  # the rest of the lot would only hear the same
                work.stop_after_current()
                return
            if HERE.wanted:  # a suspect waits
                return

    def _call_batch(
        self, work: Work[Ended], running: Running, count: int, printed: Captured, behind: set[str]
    ) -> None:
        started_us = self._clock.now_us()
        batch = work.begin(count, started_us)
        called = [d for d in batch if self._refused(d, behind) is None]
        events = [self._prepare(d.event) for d in called]
        results: list[Result] = []
        if called:
            running.events = events
            results = work.invoker.many(events, lambda: work.restart(self._clock.now_us()))
        now_us, text = self._clock.now_us(), printed.take()
        of = self._acquitted(dict(zip(called, results, strict=True)))
        for result in results:
            self._heed(result, now_us)
        finished_us = work.returned_us or now_us
        answers = []
        for i, d in enumerate(batch):
            result = (
                OUT_OF_ORDER
                if d.group in behind
                else of.get(d) or self._refused(d, behind) or CHAIN
            )
            # What a batch prints cannot be told apart: it is kept with the first event.
            ended = self._recorder.ended(
                d, result, work.version, started_us, finished_us, len(called), None if i else text
            )
            if d.group is not None and not ended.is_final:
                behind.add(d.group)
            answers.append(ended)
        work.answered(answers)
        # A batch that was split, to find the bad event, says nothing about how long one takes.
        if called and all(r.ok for r in results):
            self._learn_batch(work, len(called), now_us)

    def _running(self, work: Work[Ended]) -> Running:
        """Return what the model is told of its calls; one for all of a turn."""
        returned, waits = (
            lambda _: work.returned(self._clock.now_us()),
            lambda: self._let_others_in(work),
        )
        return Running(self._place, (work.next.event,), returned, waits)

    def _let_others_in(self, work: Work[Ended]) -> None:
        """Let others run beside a call that waits for them; from now on its end would prove
        nothing.
        """
        turn = work.turn
        if turn is not None and turn.is_alone:
            for delivery in work.leased():
                if delivery.alone:
                    self._broker.alone(delivery, False)
            turn.open()

    def _learn_batch(self, work: Work[Ended], count: int, finished_us: int) -> None:
        spent_s = (finished_us - work.called_us) / 1e6
        self._learn(spent_s / count)
        if self._batch is not None:
            self.settle(work)
            self._batch.learn(count, spent_s, (self._clock.now_us() - finished_us) / 1e6)

    def _learn(self, spent_s: float) -> None:
        """Follow the model's run time; a single stall of the process counts as ten times the usual,
        not as what it took.
        """
        mean_s = self._mean_s
        self._mean_s = (
            spent_s if mean_s is None else 0.8 * mean_s + 0.2 * min(spent_s, 10 * mean_s + 1e-5)
        )

    def _heed(self, result: Result, now_us: int) -> bool:
        """Begin nothing for as long as the model's server asks, or for longer each time while
        nothing can run the model.

        Return whether the model did not run at all, so that the call says nothing about its time.
        """
        if result.throttled and result.delay_s:
            self.why = result.error or ""
            self._pace.hold(now_us + int(min(result.delay_s, _MOST_HELD_S) * 1e6))
            return True
        if result.reason != "no_process":
            self._outages = 0
            return False
        if not self._pace.held(now_us):  # those that are under way meanwhile say nothing new
            self.why, self._outages = result.error or "", self._outages + 1
            self._pace.hold(now_us + int(min(2.0 ** min(self._outages, 16), _MOST_HELD_S) * 1e6))
        return True

    def _refused(self, delivery: Delivery, behind: Collection[str]) -> Result | None:
        """Return what a delivery gets without calling the model, if it does: one of its group,
        before it, has to come again first.
        """
        if delivery.group is not None and delivery.group in behind:
            return OUT_OF_ORDER
        if self._spec.emit is None:
            return None
        if delivery.event.hops >= MAX_HOPS:
            return CHAIN
        return (
            TREE
            if self._recorder.descent.of(delivery.event.root) >= self._spec.policy.max_descendants
            else None
        )
