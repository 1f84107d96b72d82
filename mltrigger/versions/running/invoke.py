"""How a model is called: one event or a batch in, one Result an event out, whatever the model does."""

from __future__ import annotations

import hashlib
import os
import re
import traceback as tracebacks
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mltrigger.errors import InvalidEvent, ModelFailure, NotEncodable, ObjectMissing, Reject, Retry
from mltrigger.event import codec
from mltrigger.event.event import Event, as_delivered
from mltrigger.text import redacted
from mltrigger.versions.describe import Model
from mltrigger.versions.running import current as running
from mltrigger.versions.running.advice import with_advice
from mltrigger.versions.running.current import end_copy, model_returned
from mltrigger.versions.running.feeding import feed_of
from mltrigger.versions.running.feeds import Groups, alike
from mltrigger.versions.schema.schema import Schema

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
MAX_TEXT = 16 * 1024
"""Characters of an error message or a traceback that are kept."""


class Result(NamedTuple):
    """What one call of a model made of one event.

    ``output`` is JSON text, ``None`` when the call failed. ``degraded`` says that it is only the
    beginning of what the model answered, which was too long: ``reason`` says so. ``permanent``
    failures are not tried again; ``delay_s`` is what the model asked for with ``mt.Retry``, or its
    server with ``Retry-After``; ``throttled`` ones only mean "not now", and spend no attempt.
    """

    output: str | None = None
    reason: str | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    permanent: bool = False
    delay_s: float | None = None
    degraded: bool = False
    throttled: bool = False

    @property
    def ok(self) -> bool:
        """Whether the model answered and the answer can be kept."""
        return self.error_type is None


class Caller(Protocol):
    """How a model is called by one listener; never raises.

    In a thread: :class:`Invoker`; elsewhere ``ProcessInvoker`` and its like.

    ``batches`` says whether the model takes several events at once; ``concurrency`` how many calls
    at the same time it is made for; ``runs_here`` whether the model runs in this process, and ends
    it when it crashes; ``grace_s`` how much longer than its timeout a call is waited for: where a
    call is stopped from inside, that takes a moment.
    """

    model: Model
    batches: bool
    concurrency: int
    grace_s: float
    runs_here: bool

    def one(self, event: Event) -> Result:
        """Call the model with one event."""

    def many(self, events: Sequence[Event], again: Callable[[], None] = ...) -> list[Result]:
        """Call the model with a batch; one bad event fails alone.

        *again* is told when the model is called once more to find it.
        """

    def close(self) -> None:
        """Let go of what calling needs; idempotent."""


OUR_REASONS = frozenset({"stopped", "no_process", "worker_died", "group_order"})
"""What only we may say of an attempt: it decides whether it counts."""
_KINDS = {"invalid_input": "InvalidInput", "invalid_output": "InvalidOutput"}
_SHOWN = 1000
_BETWEEN = (
    __file__,
    *(f"models{os.sep}{name}.py" for name in ("asynchronous", "feeds", "nets")),
    f"concurrent{os.sep}futures{os.sep}_base.py",
)
"""Files between the caller and the model: their frames say nothing about it."""
_FOLDER = re.compile(r'File "[^"\n]*[/\\\\]')


class Invoker:
    """Calls one model in this thread; never raises.

    Parameters
    ----------
    model : Model
        What to call: Python here; :mod:`mltrigger.versions.running.feeding` says what a fitted
        object gets. An object of a class is made now.
    """

    concurrency = 1
    grace_s = 0.0
    runs_here = True
    _ours = False
    """Whether what it calls is ours, and may bear our own reasons."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batches = model.batches
        self._takes, self._gives = model.schemas()
        self._call, self._input = self._parts(model)
        self._feed = feed_of(model, self._call) if model.kind == "predictor" else None

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
            # SystemExit in a model is a failed model, not the end of the listener
            if running.forks != began:
                end_copy(error)
            return self._failed(error)

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Call the model with a batch; when a call as a whole fails, halve it, so that one bad
        event fails alone.

        A predictor is called once for all events that are alike. Each call may take as long as one
        may: *again* is told before every further one.
        """
        results: list[Result | None] = [None] * len(events)
        groups: Groups = {}
        read = None if self._feed is None else self._feed.part
        for number, event in enumerate(events):
            try:
                value = self._checked(event)
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
            for number, result in zip(
                numbers,
                self._halved(key, parts, [events[number] for number in numbers], again),
                strict=True,
            ):
                results[number] = result
        return results  # type: ignore[return-value]

    def close(self) -> None:
        """Nothing is held."""

    def _parts(self, model: Model) -> tuple[Callable[[Any], Any], Callable[[Event], Any]]:
        """Return what is called, and what of an event it is called with."""
        return model.loaded(), _event if model.wants_event else _data

    def _checked(self, event: Event) -> Any:
        if self._takes is None:
            return self._input(event)
        accepted = self._takes.accept(event.data)
        # What wants the whole event gets that; and a predictor gets records, which become a
        # DataFrame.
        return (
            accepted
            if self._input is _data and self.model.kind != "predictor"
            else self._input(event)
        )

    def _encoded(self, value: Any) -> Result:
        return encoded(value) if self._gives is None else _conforming(value, self._gives)

    def _failed(self, error: BaseException) -> Result:
        result = failure(error)
        return (
            result._replace(reason="model_error")
            if result.reason in OUR_REASONS and not self._ours
            else result
        )

    def _halved(
        self,
        key: Hashable,
        inputs: Sequence[Any],
        events: Sequence[Event],
        again: Callable[[], None],
    ) -> list[Result]:
        began = running.forks
        try:
            answer = self._call(inputs) if self._feed is None else self._feed.call(key, inputs)
            if running.forks != began:
                end_copy()
            model_returned(answer)
            outputs = _one_each(answer, len(events))
        except BaseException as error:
            if running.forks != began:
                end_copy(error)
            if (
                len(events) == 1
                or isinstance(error, _WrongLength)
                or (isinstance(error, ModelFailure) and error.whole)
            ):
                return [self._failed(error)] * len(events)
            middle = len(events) // 2
            return [
                result
                for half in (events[:middle], events[middle:])
                for result in self._once_more(key, half, again)
            ]
        return [
            self._failed(o) if isinstance(o, BaseException) else self._encoded(o) for o in outputs
        ]

    def _once_more(
        self, key: Hashable, events: Sequence[Event], again: Callable[[], None]
    ) -> list[Result]:
        """Call the model with a part of a batch that failed; it gets their data anew, since it may
        have changed them.
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


def _event(event: Event) -> Any:
    return event


def _data(event: Event) -> Any:
    return event.data


class _WrongLength(ValueError):
    """A batch model that returned more or fewer outputs than it was given inputs."""


def failure(error: BaseException) -> Result:
    """Return the Result of *error*, its text and traceback bounded; never raises, whatever *error*
    does when it is looked at.
    """
    try:
        return _failure(error)
    except BaseException:
        return Result(
            reason="model_error",
            error_type="Exception",
            error="<an exception that cannot be looked at>",
        )


def _failure(error: BaseException) -> Result:
    text = _text_of(error)
    if isinstance(error, ModelFailure):
        return _reported(error, text)
    trace = _traceback_of(error) if text is not None else None
    reason, permanent, delay_s = "model_error", False, None
    if isinstance(error, Retry):
        reason, delay_s = "retry", error.delay_s
    elif isinstance(error, Reject):
        reason, permanent = "rejected", True
    elif isinstance(error, ObjectMissing):
        reason = "object_missing"
    elif isinstance(error, InvalidEvent) and error.reason == "object_too_large":
        reason, permanent = error.reason, True
    elif isinstance(error, _WrongLength):
        reason, permanent = "bad_batch_result", True
    name = type(error).__qualname__ if not isinstance(error, _WrongLength) else "ValueError"
    message = redacted(_bounded(with_advice(text))) if text is not None else f"<unprintable {name}>"
    return Result(
        reason=reason,
        error_type=name[:200],
        error=message,
        traceback=trace,
        permanent=permanent,
        delay_s=delay_s,
    )


def _reported(error: ModelFailure, text: str | None) -> Result:
    """Return the Result of what was said elsewhere: our own stack says nothing about it."""
    message, detail = (
        redacted(_bounded(text or "")),
        error.detail and redacted(_bounded(_FOLDER.sub('File "', error.detail))),
    )
    kind = (error.kind or _KINDS.get(error.reason) or type(error).__qualname__)[:200]
    return Result(
        None,
        error.reason,
        kind,
        message,
        detail or None,
        error.permanent,
        error.delay_s,
        throttled=error.throttled,
    )


def _conforming(value: Any, schema: Schema) -> Result:
    """Return the Result of *value*, whose JSON form must be what *schema* says of outputs."""
    try:
        if isinstance(value, Iterator):  # it can be read once: to be checked and to be kept
            value = codec.loads_own(codec.dumps(value, iterators=True).encode())
        schema.accept_output(value)
    except NotEncodable as error:
        return _unkept(error)
    except BaseException as error:
        return failure(error)
    return encoded(value)


def encoded(value: Any) -> Result:
    """Return the Result of what a model answered: its JSON, or why it cannot be kept; never raises.

    The model has run and running it again would give the same: an answer that has no JSON form is
    not worth a retry. Of one that is too long the beginning is kept, its size and its hash.
    """
    try:
        text = codec.dumps(value, iterators=True)
        if (
            len(text) * 4 <= MAX_OUTPUT_BYTES
            or (size := len(raw := text.encode())) <= MAX_OUTPUT_BYTES
        ):
            return Result(output=text)
    except BaseException as problem:  # a hostile __iter__, __repr__ or property of the value
        return _unkept(problem)
    described = {
        "truncated": text[:_SHOWN],
        "bytes": size,
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    error = f"the output has {size:,} bytes of JSON; max_output_bytes is {MAX_OUTPUT_BYTES:,}"
    return Result(
        output=codec.dumps(described), reason="result_too_large", error=error, degraded=True
    )


def _unkept(problem: BaseException) -> Result:
    """Return the Result of an answer that has no JSON form: it is lost, and that is no success."""
    # a generator is a part of the model
    if isinstance(problem, codec.Broken) and problem.__cause__ is not None:
        return failure(problem.__cause__)
    text = redacted(_bounded(_text_of(problem) or type(problem).__qualname__))
    if isinstance(problem, codec.TooLarge):
        return Result(
            reason="result_too_large",
            error_type="EventTooLarge",
            error=f"the answer is too large: {text}",
            permanent=True,
        )
    error = f"the model ran, and its answer cannot be kept: {text}"
    return Result(
        reason="result_not_serialisable", error_type="NotEncodable", error=error, permanent=True
    )


def _one_each(outputs: Any, count: int) -> Sequence[Any]:
    """Return *outputs* as a sequence of *count*, one an event; a frame gives its rows, an array its
    first axis.

    A tuple of lists is refused whatever its length: ``return labels, scores`` would be right or
    wrong by the number of events.
    """
    if isinstance(outputs, tuple) and (
        hasattr(outputs, "_fields") or any(isinstance(o, list) or _is_array(o) for o in outputs)
    ):
        raise _WrongLength(
            "a batch model returns a list with one output an event, not a tuple of several results:"
            " list(zip(labels, scores))"
        )
    if (rows := codec.rows_of(outputs, indexed=True)) is not None:
        outputs = rows
    elif callable(getattr(type(outputs), "toarray", None)):  # sparse: written out row by row
        outputs = list(outputs.tocsr()) if outputs.ndim == 2 else outputs.toarray().tolist()
    elif getattr(getattr(outputs, "dtype", None), "names", None):
        outputs = list(outputs)
    elif (
        listed := next((name for name in ("tolist", "to_list") if hasattr(outputs, name)), None)
    ) is not None:
        outputs = getattr(outputs, listed)()
    if isinstance(outputs, (str, bytes, Mapping, set, frozenset)) or not hasattr(
        outputs, "__len__"
    ):
        raise _WrongLength(
            f"a batch model returns a list with one output an event, not {type(outputs).__name__}"
        )
    answers: list[Any] = list(outputs)
    if len(answers) != count:
        raise _WrongLength(
            f"a batch model returns one output an event: {count} events went in, {len(answers)}"
            " outputs came out"
        )
    return answers


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _traceback_of(error: BaseException) -> str | None:
    """Return the traceback as text, from the model on; without absolute paths, since it is shown in
    notebooks.
    """
    try:
        lines = tracebacks.TracebackException(type(error), error, error.__traceback__, compact=True)
        lines.stack = tracebacks.StackSummary.from_list(
            [f for f in lines.stack if not f.filename.endswith(_BETWEEN)]
        )
        return redacted(_bounded(_FOLDER.sub('File "', "".join(lines.format()))))
    except BaseException:  # a hostile __notes__ or __cause__
        return None


def _text_of(error: BaseException) -> str | None:
    try:
        return str(error)
    except BaseException:  # a hostile __str__
        return None


def _bounded(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return (
        text
        if len(text) <= MAX_TEXT
        else f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT:,} more characters)"
    )
