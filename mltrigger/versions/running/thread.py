"""A model in a thread of this process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.event.batch import Batch, texts_of
from mltrigger.event.codec import loads_own
from mltrigger.event.event import Event
from mltrigger.event.making import as_delivered
from mltrigger.versions.describe import Model
from mltrigger.versions.running import current as running
from mltrigger.versions.running.current import end_copy, model_returned
from mltrigger.versions.running.invoke import (
    OUR_REASONS,
    USUAL_BATCH,
    WIDE_BATCH,
    Result,
    WrongLength,
    conforming,
    encoded,
    encoded_together,
    failure,
    one_each,
)
from mltrigger.versions.running.predictors.feeding import feed_of
from mltrigger.versions.running.predictors.feeds import Groups, alike


class Invoker:
    """Calls one model in this thread. Never raises, once it is made.

    Parameters
    ----------
    model : Model
        A model in Python. A class makes its object now. For the input of a fitted object see
        :mod:`mltrigger.versions.running.predictors.feeding`.
    """

    concurrency = 1
    grace_s = 0.0
    runs_here = True
    tells_others = False
    _ours = False
    """Whether our own code is called, which may report the reasons in ``OUR_REASONS``."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batches = model.batches
        self._takes, self._gives = model.schemas()
        self._call, self._input = self._parts(model)
        self._feed = feed_of(model, self._call) if model.kind == "predictor" else None
        is_wide = self._feed is not None and self._feed.wide
        self.usual_batch = WIDE_BATCH if is_wide else USUAL_BATCH

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        if self.batches:
            return self.many([event])[0]
        began = running.forks
        try:
            answer = self._call(self._checked(event))
            if running.forks != began:
                end_copy()
            model_returned(answer)
            return self._encoded(answer)
        except BaseException as error:
            # SystemExit in a model is a failed model, not the end of the listener.
            if running.forks != began:
                end_copy(error)
            return self._failed(error)

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> Sequence[Result]:
        """Call the model with a batch. If the call fails, halve the batch.

        So one bad event fails alone. A predictor is called once for all events that are alike. Each
        call has the time of one call: *again* is told before every further one.
        """
        results: list[Result | None] = [None] * len(events)
        groups: Groups = {}
        rest: Sequence[int] = range(len(events))
        value_of = self._reader(events)
        if self._feed is not None and self._takes is None:
            rest = self._feed.gather(texts_of(events), groups)
        read = None if self._feed is None else self._feed.part
        for number in rest:
            try:
                value = value_of(number)
                key, part = (None, value) if read is None else read(value)
                numbers, parts = groups.get(key) or groups.setdefault(key, ([], []))
            except BaseException as error:
                results[number] = failure(error)
            else:
                numbers.append(number)
                parts.append(part)
        for turn, (key, numbers, parts) in enumerate(alike(self._feed, groups)):
            if turn:
                again()
            whole = numbers == list(range(len(events)))  # those read later come last
            called = events if whole else [events[number] for number in numbers]
            answers = self._halved(key, parts, called, again)
            if whole:
                return answers
            for number, result in zip(numbers, answers, strict=True):
                results[number] = result
        return results  # type: ignore[return-value]

    def close(self) -> None:
        """Do nothing: a thread holds no resources."""

    def _parts(self, model: Model) -> tuple[Callable[[Any], Any], Callable[[Event], Any]]:
        """Return the function to call, and the function that takes its input from an event."""
        return model.loaded(), _event if model.wants_event else _data

    def _reader(self, events: Sequence[Event]) -> Callable[[int], Any]:
        """Return a function that reads the input of one of *events*."""
        if isinstance(events, Batch) and self._input is _data:
            texts = events.texts  # the model needs no events
            return lambda number: self._accepted(loads_own(texts[number]))
        return lambda number: self._checked(events[number])

    def _checked(self, event: Event) -> Any:
        if self._input is _data:
            return self._accepted(event.data)
        if self._takes is not None:
            self._takes.accept(event.data)
        return self._input(event)

    def _accepted(self, data: Any) -> Any:
        """Return the input of a model that takes no events."""
        if self._takes is None:
            return data
        accepted = self._takes.accept(data)
        # A predictor gets records, which become a DataFrame.
        return data if self.model.kind == "predictor" else accepted

    def _encoded(self, value: Any) -> Result:
        return encoded(value) if self._gives is None else conforming(value, self._gives)

    def _results(self, outputs: Sequence[Any]) -> Sequence[Result]:
        if self._gives is None and (results := encoded_together(outputs)) is not None:
            return results
        return [
            self._failed(o) if isinstance(o, BaseException) else self._encoded(o) for o in outputs
        ]

    def _failed(self, error: BaseException) -> Result:
        result = failure(error)
        return (
            result._replace(reason="model_error")
            if result.reason in OUR_REASONS and not (self._ours or isinstance(error, OwnFailure))
            else result
        )

    def _halved(
        self,
        key: Hashable,
        inputs: Sequence[Any],
        events: Sequence[Event],
        again: Callable[[], None],
    ) -> Sequence[Result]:
        began = running.forks
        running.begin_batch(events)
        try:
            answer = self._call(inputs) if self._feed is None else self._feed.call(key, inputs)
            if running.forks != began:
                end_copy()
            model_returned(answer)
            outputs = one_each(answer, len(events))
        except BaseException as error:
            if running.forks != began:
                end_copy(error)
            whole = isinstance(error, WrongLength) or (
                isinstance(error, ModelFailure) and error.whole
            )
            if len(events) == 1 or whole:
                return [self._failed(error)] * len(events)
            middle = len(events) // 2
            first = self._once_more(key, events[:middle], again)
            return [*first, *self._once_more(key, events[middle:], again)]
        return self._results(outputs)

    def _once_more(
        self, key: Hashable, events: Sequence[Event], again: Callable[[], None]
    ) -> Sequence[Result]:
        """Call the model with a part of a batch that failed.

        It gets their data anew, since it may have changed them.
        """
        again()
        try:
            values = [self._checked(as_delivered(event)) for event in events]
            inputs = (
                values if self._feed is None else [self._feed.part(value)[1] for value in values]
            )
        except BaseException as error:
            return [self._failed(error)] * len(events)
        return self._halved(key, inputs, events, again)


class OwnFailure(ModelFailure):
    """A failure of our own code. It may have one of ``OUR_REASONS``."""


def _event(event: Event) -> Any:
    return event


def _data(event: Event) -> Any:
    return event.data
