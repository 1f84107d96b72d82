"""The observer of OpenTelemetry: spans and metrics of what one bus does in this process.

- ``send`` publishes. A batch has a ``create`` span for each event, up to ``MOST_LINKS`` events.
- ``receive`` leases events, ``process`` is one call of a model, ``settle`` records and settles.
- Each links to the creation of its events. An event alone is also the parent of its ``process``.

Spans have names, numbers, ids and reason codes. They have no data, no output and no error text.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from mltrigger.delivery.lot import Ended
from mltrigger.event.making import as_event, in_trace
from mltrigger.telemetry import conventions as c
from mltrigger.telemetry.asking import Asking
from mltrigger.telemetry.contexts import below, context_of, headers_of, links
from mltrigger.versions.running.current import Trace
from mltrigger.versions.running.invoke import Answers

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from mltrigger.broker import Delivery, SubscriptionSpec
    from mltrigger.delivery.lot import Answer, Lot
    from mltrigger.delivery.observed import End, EndCall
    from mltrigger.event.event import Event
    from mltrigger.telemetry.instruments import Instruments
    from mltrigger.versions.running.current import Running
    from mltrigger.versions.running.invoke import Result

_LONG_AGO_NS = 60 * 10**9
_MOST_WAITS = 32
Attributes = dict[str, Any]


class _Call(NamedTuple):
    """A call of a model that has not ended."""

    span: Span
    asking: Asking | None
    began_s: float
    attributes: Attributes


class _Last(threading.local):
    """The last call in this thread whose outputs are events.

    It has the numbers of the deliveries as objects: a thread that waits must not keep them alive.
    """

    context: SpanContext | None = None
    deliveries: frozenset[int] = frozenset()


class Observing:
    """Makes spans and metrics of the steps of one bus.

    Parameters
    ----------
    tracer : Tracer
        Makes the spans.
    instruments : Instruments
        The metrics.
    version_of : callable
        Returns the name and version of the model version with a number.
    now_us : callable
        Returns the time of the bus.
    doubled : bool
        Whether older names are written as well.
    """

    def __init__(
        self,
        tracer: Tracer,
        instruments: Instruments,
        version_of: Callable[[int | None], tuple[str, str] | None],
        now_us: Callable[[], int],
        doubled: bool = False,
    ) -> None:
        self._tracer, self._to = tracer, instruments
        self._version_of, self._now_us, self._doubled = version_of, now_us, doubled
        self._open: dict[int, _Call] = {}
        self._last = _Last()

    # -- publish -----------------------------------------------------------------------------------

    def sending(self, topic: str, samples: Sequence[Any]) -> tuple[Sequence[Any], End]:
        """Begin to publish. The events get the context of their creation, if they have none.

        More than ``MOST_LINKS`` events stay as they are. Each begins a trace of its own then.
        """
        began_s, samples = time.perf_counter(), list(samples)
        attributes = {**c.operation("send", "publish", self._doubled), c.DESTINATION: topic}
        own: Sequence[SpanContext | None] = ()
        if len(samples) <= c.MOST_LINKS:
            samples = [as_event(sample) for sample in samples]
            own = [context_of(event) for event in samples]
        if len(samples) > 1:
            samples = (
                [
                    event if known else self._created(topic, event)
                    for event, known in zip(samples, own, strict=True)
                ]
                if own
                else samples
            )
        span = self._send_span(topic, samples, own, attributes)
        if len(samples) == 1 and own[0] is None:
            samples = [in_trace(samples[0], headers_of(span.get_span_context()))]

        def end(error: BaseException | None) -> None:
            shared = {**attributes, **_error(error)}
            self._to.sent.add(len(samples), shared)
            self._to.operation.record(time.perf_counter() - began_s, shared)
            _end(span, shared.get(c.ERROR))

        return samples, end

    def _send_span(
        self,
        topic: str,
        samples: Sequence[Any],
        own: Sequence[SpanContext | None],
        attributes: Attributes,
    ) -> Span:
        alone = own[0] if len(own) == 1 else None
        more: Attributes = {}
        if len(samples) == 1:
            more = {c.MESSAGE_ID: samples[0].id}
        else:
            more = {c.MESSAGES: len(samples)}
            if not own:
                more[c.LINKS_CUT] = len(samples)
        ambient = trace.get_current_span().get_span_context().is_valid
        return self._tracer.start_span(
            f"publish {topic}",
            contexts.get_current() if ambient else below(alone),
            SpanKind.PRODUCER if len(samples) == 1 and alone is None else SpanKind.CLIENT,
            {**attributes, **more},
            links(samples) if own else (),
        )

    def _created(self, topic: str, event: Event, parent: Any = None, *linked: Any) -> Event:
        span = self._tracer.start_span(
            f"create {topic}",
            parent,
            SpanKind.PRODUCER,
            {
                **c.operation("create", "create", self._doubled),
                c.DESTINATION: topic,
                c.MESSAGE_ID: event.id,
            },
            linked,
        )
        span.end()
        return in_trace(event, headers_of(span.get_span_context()))

    def emitted(self, topic: str, delivery: Delivery, event: Event) -> Event:
        """Return the output *event*, created below the call that made it.

        The output of one event of a batch goes on with the trace of that event.
        """
        last, cause = self._last, context_of(delivery.event)
        context = last.context if id(delivery) in last.deliveries else None
        if context is not None and len(last.deliveries) == 1:
            return self._created(topic, event, below(context))
        linked = [trace.Link(context)] if context is not None else []
        return self._created(topic, event, below(cause), *linked)

    # -- deliver -----------------------------------------------------------------------------------

    def received(self, spec: SubscriptionSpec, deliveries: Sequence[Delivery]) -> None:
        """Make a span of a claim. It begins at the lease: the wait for an event does not count."""
        now_ns, began_ns = time.time_ns(), deliveries[0].received_us * 1000
        attributes = {**c.operation("receive", "lease", self._doubled), **_whose(spec)}
        span = self._tracer.start_span(
            f"lease {spec.topic}",
            contexts.Context(),
            SpanKind.CLIENT,
            {**attributes, **_counted(deliveries)},
            _linked(deliveries),
            began_ns if 0 < now_ns - began_ns < _LONG_AGO_NS else now_ns,
        )
        span.end()
        self._to.consumed.add(len(deliveries), attributes)

    def calling(
        self, spec: SubscriptionSpec, lot: Lot, running: Running, deliveries: Sequence[Delivery]
    ) -> EndCall:
        """Begin the span of a call. It is the current one in the model and in its requests."""
        name, version = self._version_of(lot.by.version_id) or (lot.invoker.model.name, "")
        attributes: Attributes = {
            **c.operation("process", "process", self._doubled),
            **_whose(spec),
            c.MODEL: name,
            c.VERSION: version,
            c.ROLE: lot.by.role,
        }
        one = deliveries[0] if len(deliveries) == 1 else None
        more = {c.ATTEMPT: one.attempt} if one is not None else {}
        span = self._tracer.start_span(
            f"process {spec.topic}",
            below(context_of(one.event) if one is not None else None),
            SpanKind.CONSUMER,
            {**attributes, **_counted(deliveries), **more},
            _linked(deliveries),
        )
        asking = Asking.of(self._tracer, self._to, lot.invoker.model, span)
        current = span if asking is None else asking.span
        within = trace.set_span_in_context(current)
        token = contexts.attach(within)
        headers = headers_of(current.get_span_context())
        running.trace = Trace(headers, lambda: contexts.attach(within))
        self._waited(spec, deliveries)
        key = id(deliveries[0])
        self._open[key] = _Call(span, asking, time.perf_counter(), attributes)
        if spec.emit is not None:
            self._last.context = span.get_span_context()
            self._last.deliveries = frozenset(map(id, deliveries))

        def end(results: Sequence[Result]) -> None:
            contexts.detach(token)
            if (call := self._open.pop(key, None)) is not None:
                self._end_call(call, results)

        return end

    def _waited(self, spec: SubscriptionSpec, deliveries: Sequence[Delivery]) -> None:
        """Measure the waits of deliveries: of a large batch, those of some at equal distances."""
        now_us, whose, step = self._now_us(), _whose(spec), -(-len(deliveries) // _MOST_WAITS)
        for place in range(0, len(deliveries), step):
            wait_us = max(0, now_us - deliveries[place].visible_us)
            self._to.wait.record(wait_us / 1e6, whose)

    def _end_call(self, call: _Call, results: Sequence[Result]) -> None:
        failed = [] if isinstance(results, Answers) else [r for r in results if not r.ok]
        reason = failed[0].reason or "model_error" if failed else None
        if call.asking is not None:
            call.asking.end(results, reason)
        if failed and len(results) > 1:
            call.span.set_attribute(c.FAILED, len(failed))
        self._ended(call, reason)

    def _ended(self, call: _Call, reason: str | None) -> None:
        shared = {**call.attributes, c.ERROR: reason} if reason else call.attributes
        self._to.process.record(time.perf_counter() - call.began_s, shared)
        _end(call.span, reason)

    def overdue(self, deliveries: Sequence[Delivery]) -> None:
        """End the span of a call that was given up, as ``timeout``."""
        if (call := self._open.pop(id(deliveries[0]), None)) is not None:
            if call.asking is not None:
                call.asking.end((), "timeout")
            self._ended(call, "timeout")

    # -- settle ------------------------------------------------------------------------------------

    def settling(self, spec: SubscriptionSpec, answers: Sequence[Answer]) -> End:
        """Begin the span of a record and settlement. A dead letter makes it an error."""
        began_s, verdicts = time.perf_counter(), Counter[str]()
        dead = [
            a for a in answers if isinstance(a, Ended) and a.settlement.verdict == "dead_letter"
        ]
        for answer in answers:
            verdict = answer.settlement.verdict if isinstance(answer, Ended) else "ack"
            verdicts[verdict] += len(answer.deliveries)
        name = next(iter(verdicts)) if len(verdicts) == 1 else "settle"
        attributes = {**c.operation("settle", name, self._doubled), **_whose(spec)}
        settled = [d for answer in answers for d in answer.deliveries[: c.MOST_LINKS]]
        counts = {f"mltrigger.settled.{verdict}": n for verdict, n in verdicts.items()}
        total = sum(verdicts.values())
        span = self._tracer.start_span(
            f"{name} {spec.topic}",
            contexts.Context(),
            SpanKind.CLIENT,
            {**attributes, **_counted(settled, total), **(counts if len(counts) > 1 else {})},
            _linked(settled),
        )

        def end(error: BaseException | None) -> None:
            shared = {**attributes, **_error(error)}
            self._to.operation.record(time.perf_counter() - began_s, shared)
            reason = shared.get(c.ERROR)
            if error is None:
                for answer in dead:
                    reason = answer.settlement.reason or "dead_letter"
                    self._to.dead.add(1, {**_whose(spec), **self._by(answer), c.REASON: reason})
            _end(span, reason)

        return end

    def _by(self, answer: Ended) -> Attributes:
        by = answer.invocation.by
        found = self._version_of(by.version_id) if by is not None else None
        return {c.MODEL: found[0], c.VERSION: found[1]} if found else {}


def _whose(spec: SubscriptionSpec) -> Attributes:
    return {c.DESTINATION: spec.topic, c.SUBSCRIPTION: spec.name}


def _counted(deliveries: Sequence[Delivery], total: int = 0) -> Attributes:
    """Return how many events a span has, or the id of its only one."""
    total = total or len(deliveries)
    if total == 1:
        return {c.MESSAGE_ID: deliveries[0].event.id}
    cut = total - c.MOST_LINKS
    return {c.MESSAGES: total, **({c.LINKS_CUT: cut} if cut > 0 else {})}


def _linked(deliveries: Sequence[Delivery]) -> list[trace.Link]:
    return links(d.event for d in deliveries[: c.MOST_LINKS])


def _error(error: BaseException | None) -> Attributes:
    return {} if error is None else {c.ERROR: type(error).__name__}


def _end(span: Span, reason: str | None) -> None:
    if reason is not None:
        span.set_attribute(c.ERROR, reason)
        span.set_status(Status(StatusCode.ERROR, reason))
    span.end()
