"""Direct calls of a model: a caller waits for the answer, and nothing is tried again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.broker import Delivery, Settlement
from mltrigger.delivery.listener import MOST_LEFT_BEHIND
from mltrigger.delivery.lot import Ended, Lot, Remains
from mltrigger.delivery.on_call import OnCall
from mltrigger.delivery.recorder import Recorder
from mltrigger.errors import MltriggerError
from mltrigger.store.lots import By
from mltrigger.store.outcomes import FINAL, Outcome
from mltrigger.store.unit import Invocation
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.version import ModelVersion

MOST_WAITING = 64
"""The most callers that wait for a free slot of one model."""
WAIT_S = 5.0
"""How long a caller waits for a slot."""
_NOT_RUN = ("stopped", "no_process", "retry")
"""Reasons of calls without an answer that may be repeated under the same id."""


class Refusal(MltriggerError):
    """A call that was not begun. Nothing of it is recorded.

    Parameters
    ----------
    message : str
        The cause, and the advice.
    reason : str
        A stable reason code.
    after_s : float, optional
        When to try again.
    """

    def __init__(self, message: str, reason: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.after_s = reason, after_s


class AnswerRecorder(Recorder):
    """Records attempts whose callers wait. Nothing is tried again.

    A call that did not run is ``skipped``. One that failed or was cut off is ``dead``.
    """

    def __init__(self, *given: Any, **parts: Any) -> None:
        super().__init__(*given, **parts)
        self.outcomes: dict[Delivery, Invocation] = {}
        """The recorded outcomes that nobody has fetched yet."""

    def takes_whole(self, deliveries: Sequence[Delivery], results: Sequence[Result]) -> bool:
        """Return ``False``: each outcome is fetched on its own."""
        return False

    def takes(self, delivery: Delivery, result: Result) -> bool:
        """Return ``False``, as :meth:`takes_whole`."""
        return False

    def recorded(self, rows: Sequence[Invocation]) -> None:
        """Keep final outcomes for the caller."""
        self.outcomes.update({row.delivery: row for row in rows if row.outcome in FINAL})

    def _verdict(self, delivery: Delivery, result: Result) -> tuple[Outcome, Settlement]:
        if not result.ok and (result.throttled or result.reason in _NOT_RUN):
            return "skipped", Settlement(delivery, "ack")
        return super()._verdict(delivery, result if result.ok else result._replace(permanent=True))

    def refused(
        self,
        delivery: Delivery,
        refusal: Result,
        by: By,
        batch_size: int,
        stdout: str | None = None,
    ) -> Ended:
        """Return the outcome of a delivery whose answer does not count. It does not come again."""
        final = refusal._replace(permanent=True)
        return super().refused(delivery, final, by, batch_size, stdout)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """Skip deliveries that were not begun."""
        self.skip(deliveries, "stopped")

    def interrupt(self, remains: Remains, by: By) -> None:
        """End the rest of a lot. The end of this process cuts its call off."""
        now_us, size = self._clock.now_us(), len(remains.called)
        why = "the server stopped before the model answered"
        cut = Result(reason="interrupted", error_type="InterruptedError", error=why)
        self.record(
            [self.ended(each, cut, by, remains.started_us, now_us, size) for each in remains.called]
        )
        self.release(remains.unbegun)


@dataclasses.dataclass(eq=False, slots=True)
class _Call:
    """One call: its lots that have not begun, and the action at its end."""

    lots: list[Lot]
    done: Callable[[], None]


class Answering(OnCall):
    """Calls one model for callers that wait.

    Its parameters are those of :class:`~mltrigger.delivery.listener.Listener`.
    """

    recording = AnswerRecorder

    def __init__(self, *given: Any, **parts: Any) -> None:
        super().__init__(*given, **parts)
        self._recorder: AnswerRecorder
        self._taken = self._waiting = 0
        self._under_way: dict[Lot, _Call] = {}

    def load(self) -> ModelVersion:
        """Load the model, and return its version."""
        version, _ = self.bindings()
        return version

    def take(self, events: int, wait_s: float = WAIT_S) -> None:
        """Take a slot of the model for a call with so many *events*.

        Raises
        ------
        Refusal
            When none is free within *wait_s* seconds, or the model must pause.
        """
        _, invoker = self.bindings()
        slots = self.spec.policy.max_concurrency or invoker.concurrency
        with self._changed:
            if self._waiting >= MOST_WAITING or self.leftover >= MOST_LEFT_BEHIND:
                raise self._busy(slots)
            self._waiting += 1
            try:
                free = self._changed.wait_for(
                    lambda: self._taken < slots or self._stopping.is_set(), wait_s
                )
            finally:
                self._waiting -= 1
            if self._stopping.is_set():
                raise Refusal("the server stops: call again", "stopped", 1.0)
            if not free:
                raise self._busy(slots)
            self._spend(events)
            self._taken += 1

    def give_back(self) -> None:
        """Free a slot."""
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def outcome(self, delivery: Delivery) -> Invocation | None:
        """Return the recorded outcome of a delivery, once. ``None`` if another process has it."""
        found: Invocation | None = self._recorder.outcomes.pop(delivery, None)
        return found

    def call(self, deliveries: Sequence[Delivery], done: Callable[[], None]) -> None:
        """Call the model with *deliveries* in this thread. Then call *done*, once.

        The outcomes are recorded then. *done* comes earlier than the return, from another thread,
        if the call takes too long.
        """
        self._go_on(_Call(self._lots(deliveries), done))

    def _go_on(self, call: _Call) -> None:
        lot = call.lots.pop(0)
        if self._stopping.is_set():
            lot.stop_after_current()
        self._slots.add(lot)
        with self._changed:
            self._under_way[lot] = call
        self._run(lot)

    def _finished(self, lot: Lot) -> None:
        super()._finished(lot)
        with self._changed:
            call = self._under_way.pop(lot, None)
        if call is None:
            return
        if not call.lots:
            call.done()
            return
        following = call.lots[0]
        self._submit(functools.partial(self._go_on, call), following)

    def _busy(self, slots: int) -> Refusal:
        return Refusal(
            f"model {self.spec.selector} is busy: {slots} calls at a time; try again",
            "too_many_calls",
            1.0,
        )

    def _spend(self, events: int) -> None:
        now_us = self._clock.now_us()
        if not self._pace.room(now_us):
            why = self._pace.why if self._pace.held(now_us) else "has reached max_rate_per_s"
            raise Refusal(
                f"model {self.spec.selector}: {why or 'pauses'}; try again",
                "throttled",
                max(0.1, self._pace.wait_s(now_us)),
            )
        self._pace.spend(events, now_us)
