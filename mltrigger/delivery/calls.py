"""The calls of one listener: a lot is called, recorded and settled in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from mltrigger.broker import Broker, Delivery, SubscriptionSpec
from mltrigger.broker.alike import Alike
from mltrigger.clock import Clock
from mltrigger.delivery.effects import LotEffects
from mltrigger.delivery.lineage import CHAIN, TREE
from mltrigger.delivery.lot import Ended, Lot, Remains
from mltrigger.delivery.pace import Pace
from mltrigger.delivery.recorder import Recorder
from mltrigger.delivery.sizing import RUN_AHEAD_S, LotSize
from mltrigger.delivery.suspects import Suspects
from mltrigger.event.batch import Batch
from mltrigger.event.envelopes import UNREADABLE, UNREADABLE_TYPE, UNREADABLE_WHY
from mltrigger.event.event import MAX_HOPS, Event
from mltrigger.store.lots import Succeeded
from mltrigger.store.unit import Unit
from mltrigger.versions.running.capture import Captured, captured
from mltrigger.versions.running.current import ENCODING_S, Place, Running, during
from mltrigger.versions.running.invoke import Result, outputs_of
from mltrigger.versions.running.measures import measured
from mltrigger.versions.running.turns import HERE

logger = logging.getLogger("mltrigger")

_AFTER_DEFECT_US = 1_000_000
_RUN_AHEAD_US = int(RUN_AHEAD_S * 1e6)

Following = Callable[[], Callable[[Unit], None] | None]

OUT_OF_ORDER = Result(reason="group_order")
"""The refusal of an event in an ordered group when one before it comes again first."""


class Calls:
    """Calls the model of one subscription, lot by lot.

    Parameters
    ----------
    spec, place
        The subscription, and its description for a model that runs.
    broker, recorder, clock, pace
        Parts of its listener.
    prepare : callable
        Makes an event ready for the model.
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
        self._spec, self._place, self._broker, self._recorder = spec, place, broker, recorder
        self._clock, self._pace, self._prepare = clock, pace, prepare
        self.suspects = Suspects()
        self.size = LotSize(spec.policy)

    def run(self, lot: Lot, following: Following = lambda: None) -> None:
        """Call and record one lot in this thread, until it is closed or stopped. Never raises.

        *following* returns the part of the last recording that leases the next events, if any.
        """
        behind: set[str] = set()
        try:
            with captured() as printed:
                while self._run_part(lot, printed, behind):
                    pass
        except Exception:  # a defect of ours must not cost the slot
            logger.exception("subscription %s: a lot failed outside the model", self._spec.name)
            self._pace.hold(
                self._clock.now_us() + _AFTER_DEFECT_US
            )  # its events come again at once
        self.settle(lot, following)

    def settle(self, lot: Lot, following: Following = lambda: None) -> None:
        """Record the answers that are not recorded yet."""
        if answers := lot.take(self._clock.now_us()):
            self._recorder.record(answers, following())
            if len(answers) == 1:
                lot.settled(answers[0].deliveries)
            else:
                lot.settled([d for answer in answers for d in answer.deliveries])

    def overdue(self, lot: Lot, remains: Remains) -> list[Ended]:
        """Return the outcomes of a call that did not end in time.

        Of a batch no event is blamed, unless the model has returned and its answer is too large.
        """
        now_us, size = self._clock.now_us(), len(remains.called)
        result = self._overdue_result(lot)
        self.size.timed_out(size)
        self._recorder.observed.overdue(remains.called)
        acquitted: dict[Delivery, Result] = {}
        if size > 1 and not result.permanent:
            acquitted = self.suspects.acquit(remains.called, result, size)
        return [
            self._recorder.ended(
                d, acquitted.get(d, result), lot.by, remains.started_us, now_us, size
            )
            for d in remains.called
        ]

    def _overdue_result(self, lot: Lot) -> Result:
        if lot.returned_us is not None:
            message = (
                f"the model has answered, but its answer was not written down within {ENCODING_S:g}"
                " s; it goes on in its thread"
            )
            return Result(
                reason="result_too_large", error_type="TimeoutError", error=message, permanent=True
            )
        message = (
            f"no answer within timeout_s = {self._spec.policy.timeout_s:g}; the call goes on in its"
            " thread, its answer will be ignored"
        )
        return Result(reason="timeout", error_type="TimeoutError", error=message)

    # -- one turn ----------------------------------------------------------------------------------

    def _run_part(self, lot: Lot, printed: Captured, behind: set[str]) -> bool:
        """Run the next part of a lot in one turn. Return whether there was one.

        A suspect is a part of its own. *behind* are the groups of which an event comes again.
        """
        count, alone = lot.ahead(self.suspects)
        if not count or (turn := HERE.enter(alone, lambda: lot.stopped)) is None:
            return False
        lot.turn = turn
        try:
            if alone and not self._is_held(lot, turn.proves):
                return True
            if lot.invoker.tells_others:
                self._recorder.make_durable()
            call = self._call_batch if lot.invoker.batches else self._call_each
            with during(running := self._running(lot)):
                call(lot, running, count, printed, behind)
            if alone:
                # before others begin: a death from now on is not this event's
                self.settle(lot)
        finally:
            turn.leave()
        return True

    def _is_held(self, lot: Lot, proves: bool) -> bool:
        """Note that the next delivery runs alone. Drop it if its lease is lost."""
        delivery = lot.next
        held = (
            self._broker.alone(delivery)
            if proves
            else not self._broker.extend([delivery], self._spec.policy.lease)
        )
        if not held:
            lot.drop()
        return held

    def _running(self, lot: Lot) -> Running:
        """Describe the calls of one turn for the model."""
        return Running(
            self._place,
            self._events(lot.rest[:1]),
            returned=lambda _: lot.returned(self._clock.now_us()),
            waits=lambda: self._let_others_in(lot),
            effects=LotEffects(self._recorder.effects, lot),
        )

    def _let_others_in(self, lot: Lot) -> None:
        """Let others run beside a call that waits for them. Its end proves nothing from now on."""
        turn = lot.turn
        if turn is not None and turn.is_alone:
            for delivery in lot.leased():
                if delivery.alone:
                    self._broker.alone(delivery, False)
            turn.open()

    # -- calls one by one --------------------------------------------------------------------------

    def _call_each(
        self, lot: Lot, running: Running, count: int, printed: Captured, behind: set[str]
    ) -> None:
        clock, one = self._clock.now_us, lot.invoker.one
        watched = self._recorder.observed.calls(self._spec, lot, running)
        now_us, hold_us = clock(), _RUN_AHEAD_US
        pace = self._pace_of(lot)
        while count and (delivery := lot.begin_one(now_us)) is not None:
            started_us = now_us
            if (refusal := self._refusal(delivery, behind)) is None:
                event = self._prepare(delivery.event)
                running.events = (event,)
                result = one(event) if watched is None else watched((delivery,), one, event)
                if running.measures is not None:
                    result = measured(running, running.events, [result])[0]
                now_us = clock()
                self._learn_call(pace, delivery, result, started_us, now_us)
                times_us, text = (started_us, lot.returned_us or now_us), printed.take()
                if text is None and self._recorder.takes(delivery, result):
                    lot.went_well(delivery, result.output, times_us)
                else:
                    self._ended(lot, delivery, result, times_us, text, behind)
            else:
                ended = self._recorder.refused(delivery, refusal, lot.by, 1)
                now_us = clock()
                self._keep(lot, delivery, ended, behind)
            # do not hold answers back, nor spend more time on recording than on running
            if now_us - lot.taken_us > hold_us:
                self.settle(lot)
                began_us, now_us = now_us, clock()
                hold_us = max(_RUN_AHEAD_US, 4 * (now_us - began_us))
            count -= 1
            # the rest of the lot would get the same answer
            if pace is not None and now_us < pace.held_us:
                lot.stop_after_current()
                return
            if HERE.wanted:  # a suspect waits
                return

    def _ended(
        self,
        lot: Lot,
        delivery: Delivery,
        result: Result,
        times_us: tuple[int, int],
        stdout: str | None,
        behind: set[str],
    ) -> None:
        ended = self._recorder.ended(delivery, result, lot.by, *times_us, 1, stdout)
        self._keep(lot, delivery, ended, behind)

    @staticmethod
    def _keep(lot: Lot, delivery: Delivery, ended: Ended, behind: set[str]) -> None:
        if delivery.group is not None and not ended.is_final:
            behind.add(delivery.group)
        lot.answered([ended], 1)

    def _pace_of(self, lot: Lot) -> Pace | None:
        """Return the pace that the calls of a lot set.

        A canary that is busy or away must not hold the live version. Its events wait on their own.
        """
        return None if lot.by.role == "canary" else self._pace

    def _learn_call(
        self, pace: Pace | None, delivery: Delivery, result: Result, started_us: int, now_us: int
    ) -> None:
        if not result.ok:
            if result.throttled and result.reason == "timeout":
                self.suspects.remember(delivery)
            if pace is not None and pace.heed(result, now_us):
                return
        elif pace is not None:
            pace.went_on()
        self.size.learn((now_us - started_us) / 1e6)

    # -- calls with a batch ------------------------------------------------------------------------

    def _call_batch(
        self, lot: Lot, running: Running, count: int, printed: Captured, behind: set[str]
    ) -> None:
        started_us = self._clock.now_us()
        batch = lot.begin(count, started_us)
        refusals = self._refusals(batch, behind)
        called = [d for d in batch if d not in refusals] if refusals else batch
        results: Sequence[Result] = []
        if called:
            running.events = events = self._events(called)
            given = events, lambda: lot.restart(self._clock.now_us())
            watched = self._recorder.observed.calls(self._spec, lot, running)
            many = lot.invoker.many
            results = many(*given) if watched is None else watched(called, many, *given)
            if running.measures is not None:
                results = measured(running, events, results)
        now_us, text = self._clock.now_us(), printed.take()
        finished_us, size = lot.returned_us or now_us, len(called)
        pace = self._pace_of(lot)
        if called and not refusals and self._recorder.takes_whole(called, results):
            outputs = outputs_of(results)
            well = Succeeded(called, outputs, lot.by, started_us, finished_us, None, text)
            lot.answered([well], size)
            if pace is not None:
                pace.heed(results[0], now_us)
            self._learn_batch(lot, size, now_us)
            return
        if pace is not None:
            for result in results:
                pace.heed(result, now_us)
        judged = self.suspects.acquit_late(dict(zip(called, results, strict=True)))
        answers = []
        for d in batch:
            refusal = OUT_OF_ORDER if d.group in behind else refusals.get(d)
            ended = (
                self._recorder.refused(d, refusal, lot.by, size, text)
                if refusal is not None
                else self._recorder.ended(d, judged[d], lot.by, started_us, finished_us, size, text)
            )
            text = None  # the output of a batch cannot be told apart: the first event keeps it
            if d.group is not None and not ended.is_final:
                behind.add(d.group)
            answers.append(ended)
        lot.answered(answers, len(answers))
        # a batch that was split to find a bad event does not tell how long one takes
        if called and all(r.ok for r in results):
            self._learn_batch(lot, size, now_us)

    def _learn_batch(self, lot: Lot, count: int, finished_us: int) -> None:
        spent_s = (finished_us - lot.called_us) / 1e6
        self.size.learn(spent_s / count)
        if self.size.adaptive is not None:
            self.settle(lot)
            overhead_s = (self._clock.now_us() - finished_us) / 1e6
            self.size.adaptive.learn(count, spent_s, overhead_s)

    def _events(self, called: Sequence[Delivery]) -> Sequence[Event]:
        """Return the events of *called* for the model. Those of a range are made when asked for."""
        if isinstance(called, Alike):
            return Batch(called.texts, lambda place: self._prepare(called[place].event))
        return [self._prepare(d.event) for d in called]

    def _refusals(
        self, batch: Sequence[Delivery], behind: Collection[str]
    ) -> dict[Delivery, Result]:
        if isinstance(batch, Alike) and self._spec.emit is None:
            return {}  # plain events are readable and in no group
        return {d: r for d in batch if (r := self._refusal(d, behind)) is not None}

    def _refusal(self, delivery: Delivery, behind: Collection[str]) -> Result | None:
        """Return why the model is not called with *delivery*, or None if it is."""
        if delivery.group is not None and delivery.group in behind:
            return OUT_OF_ORDER
        if delivery.event.type == UNREADABLE_TYPE and (refusal := _unread(delivery.event)):
            return refusal
        if self._spec.emit is None:
            return None
        if delivery.event.hops >= MAX_HOPS:
            return CHAIN
        descendants = self._recorder.descent.of(delivery.event.root)
        return TREE if descendants >= self._spec.policy.max_descendants else None


def _unread(event: Event) -> Result | None:
    """Return the refusal of the bytes of an unreadable message.

    A dead letter that was sent again with other data is an event like any other.
    """
    if UNREADABLE not in event.extensions or not isinstance(event.data, bytes):
        return None
    return Result(
        reason=str(event.extensions[UNREADABLE]),
        error_type="InvalidEvent",
        error=str(event.extensions.get(UNREADABLE_WHY, "")),
        permanent=True,
    )
