"""Observing: one place where a tracer may watch the way of events through this process.

The core knows no tracer. Without an observer each step costs one comparison. An observer that fails
is logged once, and the delivery goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from mltrigger.broker import Delivery, SubscriptionSpec
from mltrigger.delivery.lot import Answer, Lot
from mltrigger.event.event import Event
from mltrigger.versions.running.current import Running
from mltrigger.versions.running.invoke import Result

logger = logging.getLogger("mltrigger")

T = TypeVar("T")
End = Callable[[BaseException | None], None]
"""Ends a step, with the error that ended it, if any."""
EndCall = Callable[[Sequence[Result]], None]
"""Ends a call of a model, with its results."""
Watched = Callable[..., Any]
"""Calls a function for deliveries: ``watched(deliveries, function, *given)``."""


class Observer(Protocol):
    """Watches the steps of events. It may raise: nothing but its own data is lost then.

    Methods are called in the thread of the step. A step begins and ends in the same thread.
    """

    def sending(self, topic: str, samples: Sequence[Any]) -> tuple[Sequence[Any], End]:
        """Begin to publish. Return the samples to publish, in the same order, and the end."""

    def received(self, spec: SubscriptionSpec, deliveries: Sequence[Delivery]) -> None:
        """Take note of deliveries that were leased and are about to begin."""

    def calling(
        self, spec: SubscriptionSpec, lot: Lot, running: Running, deliveries: Sequence[Delivery]
    ) -> EndCall:
        """Begin a call of a model. The observer may set ``running.trace``."""

    def overdue(self, deliveries: Sequence[Delivery]) -> None:
        """Take note that a call with *deliveries* was given up. Its end may never come."""

    def emitted(self, topic: str, delivery: Delivery, event: Event) -> Event:
        """Return the output *event* of *delivery* as it is to be published on *topic*."""

    def settling(self, spec: SubscriptionSpec, answers: Sequence[Answer]) -> End:
        """Begin to record and settle attempts."""


class Observed:
    """The place of an observer. Every part of one bus shares it. ``by`` is the observer."""

    __slots__ = ("_failed", "by")

    def __init__(self) -> None:
        self.by: Observer | None = None
        self._failed = False

    def send(self, publish: Callable[..., T], topic: str, samples: Sequence[Any], *more: Any) -> T:
        """Call ``publish(topic, samples, *more)``, and return its result."""
        if (observer := self.by) is None:
            return publish(topic, samples, *more)
        samples, end = self._safely(
            lambda: observer.sending(topic, samples), lambda: (samples, _nothing)
        )
        return self._until(end, lambda: publish(topic, samples, *more))

    def received(self, spec: SubscriptionSpec, deliveries: Sequence[Delivery]) -> None:
        """Say that *deliveries* were leased."""
        if (observer := self.by) is not None and deliveries:
            self._safely(lambda: observer.received(spec, deliveries), _nothing)

    def calls(self, spec: SubscriptionSpec, lot: Lot, running: Running) -> Watched | None:
        """Return a function that calls the model of *lot*. ``None`` if there is no observer."""
        if (observer := self.by) is None:
            return None

        def watched(deliveries: Sequence[Delivery], call: Callable[..., Any], *given: Any) -> Any:
            end: EndCall = self._safely(
                lambda: observer.calling(spec, lot, running, deliveries), lambda: _nothing
            )
            results: Sequence[Result] = ()
            try:
                found = call(*given)
                results = (found,) if isinstance(found, Result) else found
                return found
            finally:
                running.trace = None
                self._safely(lambda: end(results), _nothing)

        return watched

    def overdue(self, deliveries: Sequence[Delivery]) -> None:
        """Say that a call with *deliveries* was given up."""
        if (observer := self.by) is not None and deliveries:
            self._safely(lambda: observer.overdue(deliveries), _nothing)

    def emitted(self, topic: str, delivery: Delivery, event: Event) -> Event:
        """Return the output *event* of *delivery* as it is to be published on *topic*."""
        if (observer := self.by) is None:
            return event
        return self._safely(lambda: observer.emitted(topic, delivery, event), lambda: event)

    def settle(
        self, spec: SubscriptionSpec, answers: Sequence[Answer], record: Callable[[], T]
    ) -> T:
        """Call *record*, which records and settles *answers*."""
        if (observer := self.by) is None:
            return record()
        end: End = self._safely(lambda: observer.settling(spec, answers), lambda: _nothing)
        return self._until(end, record)

    def _until(self, end: End, step: Callable[[], T]) -> T:
        try:
            found = step()
        except BaseException as error:
            failed = error  # the name of the clause is gone when the lambda runs
            self._safely(lambda: end(failed), _nothing)
            raise
        self._safely(lambda: end(None), _nothing)
        return found

    def _safely(self, ask: Callable[[], T], otherwise: Callable[[], T]) -> T:
        try:
            return ask()
        except Exception:
            if not self._failed:
                self._failed = True
                logger.warning("an observer failed; delivery goes on without it", exc_info=True)
            return otherwise()


def _nothing(*_: object) -> None:
    """Do nothing."""
