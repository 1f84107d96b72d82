"""Direct calls: the model of a selector is called at once, and the call is an event of the log.

Each selector has a subscription of role ``direct``, and a topic of the same name. The colon or
``@`` in it keeps both apart from those of users.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from mltrigger.broker import Outdated, SubscriptionSpec
from mltrigger.delivery.answering import Answering, Refusal
from mltrigger.delivery.engine import Engine
from mltrigger.errors import MltriggerError, NotFound
from mltrigger.event.event import Event
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.broker import SqlBroker
from mltrigger.store.direct import Begun
from mltrigger.store.log import Log
from mltrigger.store.outcomes import FINAL
from mltrigger.store.registry import Registry
from mltrigger.store.unit import Invocation
from mltrigger.store.wake import Wakeup
from mltrigger.versions.selector import Selector, resolve
from mltrigger.versions.version import ModelVersion


class Answer(NamedTuple):
    """The recorded answer to one event of a call. ``output`` is JSON."""

    seq: int
    model: str | None
    version: str | None
    outcome: str
    reason: str | None
    output: str | None
    error_type: str | None
    error: str | None
    attempt: int
    model_ms: float | None


class _Ready(NamedTuple):
    """A listener, and the generation of the registry that it was made for."""

    generation: str
    listener: Answering


class Direct:
    """Calls models for callers that wait, and records each call.

    Parameters
    ----------
    broker : SqlBroker
        The broker in the store of the log. Direct calls need no queue outside.
    engine : Engine
        Makes the listeners.
    registry, log, wakeup
        Those of the bus.
    forget : callable
        Makes the resolver of versions ask the registry again.
    """

    def __init__(
        self,
        broker: SqlBroker,
        engine: Engine,
        registry: Registry,
        log: Log,
        wakeup: Wakeup,
        forget: Callable[[], None],
    ) -> None:
        self._broker, self._engine, self._registry = broker, engine, registry
        self._log, self._wakeup, self._forget = log, wakeup, forget
        self._ready: dict[str, _Ready] = {}
        self._guard = threading.Lock()

    def submit(self, selector: Selector, events: Sequence[Event]) -> Future[list[Answer]]:
        """Call the model that *selector* means now, in a thread.

        The answers are in the order of *events*. An event that was sent before has its recorded
        answer. One that was skipped runs now.

        Raises
        ------
        NotFound
            When there is no such version. The future has this error, and those below.
        Refusal
            When the model has no room, is paused, or another call with that id takes too long.
        IdTaken
            When an event has other data than before.
        InvalidModel
            When the model cannot be loaded here.
        """
        answers: Future[list[Answer]] = Future()
        self._engine.run(functools.partial(self._call, selector, events, answers))
        return answers

    def _call(
        self, selector: Selector, events: Sequence[Event], answers: Future[list[Answer]]
    ) -> None:
        if not answers.set_running_or_notify_cancel():
            return  # its caller has gone
        try:
            known = self._known(selector, events)
            if known is not None:
                answers.set_result(known)
                return
            listener, begun = self._begun(selector, events)
        except BaseException as error:
            answers.set_exception(error)
            return
        done = functools.partial(self._answer, listener, begun, answers)
        if begun.deliveries:
            listener.call(begun.deliveries, done)
        else:
            done()

    def _known(self, selector: Selector, events: Sequence[Event]) -> list[Answer] | None:
        """Return the answers of a call that was sent before. It needs no slot of the model.

        ``None`` if an event is new, or may run now.
        """
        _, listener = self._listener(selector, fresh=False)
        seqs = self._broker.begun(listener.spec, events)
        if seqs is None:
            return None
        found = self._answers(listener.spec, seqs)
        return [found[seq] for seq in seqs]

    def _begun(self, selector: Selector, events: Sequence[Event]) -> tuple[Answering, Begun]:
        """Take a slot, and record the beginning."""
        fresh = False
        while True:
            ready = self._listener(selector, fresh)
            listener, fresh = ready.listener, True
            try:
                listener.take(len(events))
            except Refusal:
                if self._ready.get(str(selector)) is ready:
                    raise
                continue  # another listener took over meanwhile
            try:
                return listener, self._broker.begin(listener.spec, events, ready.generation)
            except Outdated:
                listener.give_back()
            except BaseException:
                listener.give_back()
                raise

    def _answer(self, listener: Answering, begun: Begun, answers: Future[list[Answer]]) -> None:
        listener.give_back()
        try:
            rows = [row for row in map(listener.outcome, begun.deliveries) if row is not None]
            found = dict(self._remembered(listener, rows))
            if not found.keys() >= set(begun.seqs):
                found = self._answers(listener.spec, begun.seqs)
            answers.set_result([found[seq] for seq in begun.seqs])
        except BaseException as error:
            answers.set_exception(error)

    def _remembered(
        self, listener: Answering, rows: Sequence[Invocation]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the answers that are known without the log: those of the version that is loaded."""
        with contextlib.suppress(MltriggerError):  # the selector means another one by now
            version = listener.load()
            for row in rows:
                if row.by is None or row.by.version_id == version.id:
                    yield row.delivery.seq, _answered(row, version)

    def ready(self, selector: Selector) -> ModelVersion:
        """Load the model that *selector* means now. Return its version.

        Raises
        ------
        NotFound, InvalidModel
            When it cannot be called here.
        """
        return self._listener(selector, fresh=True).listener.load()

    def _listener(self, selector: Selector, fresh: bool) -> _Ready:
        """Return the listener of *selector*. A *fresh* one knows all changes of the registry."""
        ready = self._ready.get(str(selector))
        if ready is not None and not fresh:
            return ready
        with self._guard:
            generation = self._registry.generation()
            ready = self._ready.get(str(selector))
            if ready is not None and ready.generation == generation:
                return ready
            self._forget()
            resolve(self._registry, selector)
            alike = self._alike(selector)
            spec = self._bound(selector, alike.policy if alike is not None else DeliveryPolicy())
            generation = self._registry.generation()
            if ready is not None and ready.listener.spec == spec:
                listener = ready.listener
            else:
                listener = self._engine.answering(
                    spec, self._broker, alike.name if alike is not None else ""
                )
                if ready is not None:
                    self._engine.let_go(ready.listener)
            self._ready[str(selector)] = ready = _Ready(generation, listener)
            return ready

    def _alike(self, selector: Selector) -> SubscriptionSpec | None:
        """Return the subscription whose settings hold: of this selector, else of this model."""
        specs = self._registry.subscriptions()
        same = [spec for spec in specs if spec.selector == str(selector)]
        model = [spec for spec in specs if Selector.parse(spec.selector).name == selector.name]
        return next(iter([*same, *model]), None)

    def _bound(self, selector: Selector, policy: DeliveryPolicy) -> SubscriptionSpec:
        name = str(selector)
        once = dataclasses.replace(policy, max_attempts=1)
        before = self._registry.subscription(name)
        if before is None or before.policy != once:
            self._broker.bind(SubscriptionSpec(name, name, name, once, role="direct"))
        bound = self._registry.subscription(name)
        if bound is None:  # unsubscribed in this moment
            raise NotFound(f"calls of {name} were unsubscribed: call again")
        return bound

    def _answers(self, spec: SubscriptionSpec, seqs: Sequence[int]) -> dict[int, Answer]:
        """Return the recorded answers. Wait for those that another call brings."""
        end_s = time.monotonic() + spec.policy.timeout_s
        while True:
            seen = self._wakeup.generation("done")
            rows = self._log.invocations(
                Answer._fields,
                subscription_id=spec.id,
                seqs=(min(seqs), max(seqs)),
                outcomes=FINAL,
                running=False,
            )
            found = {answer.seq: answer for answer in map(Answer._make, rows)}
            left_s = end_s - time.monotonic()
            if found.keys() >= set(seqs):
                return found
            if left_s <= 0:
                raise Refusal(
                    "another call with this id has no answer yet: ask again", "in_progress", 1.0
                )
            self._wakeup.wait("done", seen, min(left_s, self._wakeup.poll_s))


def _answered(row: Invocation, version: ModelVersion) -> Answer:
    result, ran = row.result, row.by is not None
    took_ms = (
        (row.finished_us - row.started_us) / 1000
        if row.started_us is not None and row.finished_us is not None
        else None
    )
    return Answer(
        row.delivery.seq,
        version.name if ran else None,
        version.version if ran else None,
        row.outcome,
        row.reason,
        result.output,
        result.error_type,
        result.error,
        row.delivery.attempt,
        took_ms,
    )
