"""The contract of a call: events in, one :class:`Result` per event out, and never an exception."""

from __future__ import annotations

import hashlib
import os
import re
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, overload

from mltrigger.errors import InvalidEvent, ModelFailure, NotEncodable, ObjectMissing, Reject, Retry
from mltrigger.event import codec
from mltrigger.event.event import Event
from mltrigger.text import redacted
from mltrigger.versions.describe import Model
from mltrigger.versions.running.advice import with_advice
from mltrigger.versions.schema.schema import Schema

USUAL_BATCH, WIDE_BATCH = 32, 2048
"""The most events of a batch: of any model, and of one that computes by column."""
MAX_OUTPUT_BYTES = 16 * 1024 * 1024
MAX_TEXT = 16 * 1024
"""Longest error message or traceback that is kept, in characters."""


class Result(NamedTuple):
    """The result of one call of a model for one event.

    - ``output`` is JSON text, ``None`` if the call failed.
    - ``degraded``: the answer was too long, and ``output`` is only its beginning.
    - ``permanent``: the failure is not tried again.
    - ``delay_s``: seconds until the next try, as ``mt.Retry`` or ``Retry-After`` of a server asks.
    - ``throttled``: the failure only means "not now". It spends no attempt.
    - ``measures``: the figures that the model reported, as JSON.
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
    measures: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the model answered and the answer can be kept."""
        return self.error_type is None


class Answers(Sequence[Result]):
    """The results of a batch that went well. ``outputs`` is all that they hold."""

    __slots__ = ("outputs",)

    def __init__(self, outputs: Sequence[str | None]) -> None:
        self.outputs = outputs

    def __len__(self) -> int:
        return len(self.outputs)

    @overload
    def __getitem__(self, place: int) -> Result: ...
    @overload
    def __getitem__(self, place: slice) -> Answers: ...

    def __getitem__(self, place: int | slice) -> Result | Answers:
        if isinstance(place, slice):
            return Answers(self.outputs[place])
        return Result(self.outputs[place])


def outputs_of(results: Sequence[Result]) -> Sequence[str | None]:
    """Return the output of each of *results*."""
    return results.outputs if isinstance(results, Answers) else [r.output for r in results]


class Caller(Protocol):
    """Calls the model of one listener. Never raises.

    ``Invoker`` does so in a thread, ``AsyncInvoker`` on an event loop, ``WorkerInvoker`` in other
    processes, ``RemoteInvoker`` at an address.

    - ``batches``: the model takes several events at once.
    - ``usual_batch``: the most events of a batch, unless the policy says another number.
    - ``concurrency``: the number of calls at the same time.
    - ``runs_here``: the model runs in this process, and its crash ends this process.
    - ``tells_others``: the model is at an address. An event is durable before it goes there.
    - ``grace_s``: seconds to wait beyond the timeout, for a caller that stops a late call itself.
    """

    model: Model
    batches: bool
    usual_batch: int
    concurrency: int
    grace_s: float
    runs_here: bool
    tells_others: bool

    def one(self, event: Event) -> Result:
        """Call the model with one event."""

    def many(self, events: Sequence[Event], again: Callable[[], None] = ...) -> Sequence[Result]:
        """Call the model with a batch. One bad event fails alone.

        *again* is told before the model is called once more to find it.
        """

    def close(self) -> None:
        """Release the resources. Idempotent."""


OUR_REASONS = frozenset({"stopped", "no_process", "worker_died", "group_order"})
"""Reasons that only our own code may give: they decide whether an attempt counts."""
_KINDS = {"invalid_input": "InvalidInput", "invalid_output": "InvalidOutput"}
_SHOWN = 1000
_OURS = f"{os.path.dirname(__file__)}{os.sep}"  # noqa: PTH120 - compared with names of frames
_FUTURES = f"concurrent{os.sep}futures{os.sep}_base.py"
_FOLDER = re.compile(r'File "[^"\n]*[/\\\\]')


class WrongLength(ValueError):
    """A batch model returned another number of outputs than it was given inputs."""


def failure(error: BaseException) -> Result:
    """Return the Result of *error*, with a bounded text and traceback.

    Never raises, not even if the methods of *error* do.
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
    elif isinstance(error, WrongLength):
        reason, permanent = "bad_batch_result", True
    name = type(error).__qualname__ if not isinstance(error, WrongLength) else "ValueError"
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
    """Return the Result of a failure in another process. Our own traceback does not help."""
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


def conforming(value: Any, schema: Schema) -> Result:
    """Return the Result of an answer whose JSON form must fit *schema*."""
    try:
        if isinstance(value, Iterator):  # it can be read only once: to check and to keep it
            value = codec.loads_own(codec.dumps(value, iterators=True).encode())
        schema.accept_output(value)
    except NotEncodable as error:
        return _unkept(error)
    except BaseException as error:
        return failure(error)
    return encoded(value)


def encoded(value: Any) -> Result:
    """Return the Result of an answer: its JSON, or the reason why it cannot be kept. Never raises.

    An answer without a JSON form is not worth a retry, since the model would give the same again.
    Of an answer that is too long, the beginning, the size and the hash are kept.
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


def encoded_together(values: Sequence[Any]) -> Sequence[Result] | None:
    """Return the Result of each of *values* as :func:`encoded` does, ``None`` for other values.

    Equal labels are encoded once. Numbers with a fraction are encoded all at once, and so are
    objects or lists.
    """
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= _LABELS:
        results = {value: encoded(value) for value in set(values)}
        if all(result.ok and result.reason is None for result in results.values()):
            outputs = {value: result.output for value, result in results.items()}
            return Answers([outputs[value] for value in values])
        return [results[value] for value in values]
    if kinds in _NESTED and (texts := codec.dumps_each(list(values))) is not None:
        longest = max(map(len, texts))
        return Answers(texts) if longest * 4 <= MAX_OUTPUT_BYTES else None
    if not kinds or not kinds <= _FRACTIONS:
        return None
    text = codec.dumps(list(values))
    # one that is not finite is an object, and might change how the others are written
    return None if "{" in text else Answers(text[1:-1].split(","))


_NESTED = ({dict}, {list})
_LABELS, _FRACTIONS = frozenset({str, int, bool, type(None)}), frozenset({float, type(None)})


def _unkept(problem: BaseException) -> Result:
    """Return the Result of an answer without a JSON form. It is lost, so the call has failed."""
    # a generator is part of the model: its error is the model's
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


def one_each(outputs: Any, count: int) -> Sequence[Any]:
    """Return *outputs* as a sequence with one output per event.

    A frame gives its rows, an array its first axis. A tuple of lists is refused at any length:
    otherwise ``return labels, scores`` would be right for two events and wrong for three.

    Raises
    ------
    WrongLength
        If there are not *count* outputs.
    """
    if isinstance(outputs, tuple) and (
        hasattr(outputs, "_fields") or any(isinstance(o, list) or _is_array(o) for o in outputs)
    ):
        raise WrongLength(
            "a batch model returns a list with one output an event, not a tuple of several results:"
            " list(zip(labels, scores))"
        )
    if (rows := codec.rows_of(outputs, indexed=True)) is not None:
        outputs = rows
    elif callable(getattr(type(outputs), "toarray", None)):  # sparse: written out row by row
        outputs = list(outputs.tocsr()) if outputs.ndim == 2 else outputs.toarray().tolist()
    elif getattr(getattr(outputs, "dtype", None), "names", None):
        outputs = list(outputs)
    elif hasattr(outputs, "tolist"):
        outputs = outputs.tolist()
    elif hasattr(outputs, "to_list"):
        outputs = outputs.to_list()
    if isinstance(outputs, (str, bytes, Mapping, set, frozenset)) or not hasattr(
        outputs, "__len__"
    ):
        raise WrongLength(
            f"a batch model returns a list with one output an event, not {type(outputs).__name__}"
        )
    answers: list[Any] = list(outputs)
    if len(answers) != count:
        raise WrongLength(
            f"a batch model returns one output an event: {count} events went in, {len(answers)}"
            " outputs came out"
        )
    return answers


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _traceback_of(error: BaseException) -> str | None:
    """Return the traceback as text, beginning in the model.

    It has no absolute paths, since notebooks show it.
    """
    try:
        lines = tracebacks.TracebackException(type(error), error, error.__traceback__, compact=True)
        lines.stack = tracebacks.StackSummary.from_list(
            [
                f
                for f in lines.stack
                if not f.filename.startswith(_OURS) and not f.filename.endswith(_FUTURES)
            ]
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
