"""Every error that mltrigger raises, and the two signals that a model raises on purpose.

::

    MltriggerError
    ├── InvalidEvent (ValueError)         an event that cannot be published as it is
    │   └── EventTooLarge
    ├── NotEncodable (TypeError)          a value that has no JSON form; names the part
    ├── InvalidPolicy (ValueError)        a delivery setting that makes no sense
    ├── InvalidFilter (ValueError)        a filter policy that SNS would refuse; lists every problem
    ├── InvalidSignature (ValueError)     a webhook whose signature does not fit, or is too old
    ├── InvalidName (ValueError)          a name with characters that some broker refuses
    ├── InvalidModel (TypeError)          something that cannot be called as a model
    ├── NotFound (LookupError)            a wrong name; lists the near ones
    ├── AmbiguousEvent (LookupError)      an id that events of several sources have
    ├── VersionConflict (ValueError)      other code under a released version
    ├── NameTaken (ValueError)            a subscription of that name listens elsewhere
    ├── InvalidComparison (ValueError)    a comparison whose settings or rows make no sense
    │   └── NothingToCompare              not one pair
    ├── InvalidCorrection (ValueError)    answers that cannot be corrected, or not yet
    ├── BindingConflict (RuntimeError)    a change of versions that another one stands in the way of
    ├── NotShipped (RuntimeError)         a verdict that does not allow a new version
    ├── ObjectMissing (FileNotFoundError) the object that an event announces has gone
    ├── StoreError (RuntimeError)         the database: wrong file, newer schema, locked, full
    │   └── DiskFailed                    a sync failed; nothing more is read or written
    ├── Closed (RuntimeError)             the bus was closed
    ├── OutsideCall (RuntimeError)        mt.once or mt.report where no call of a model runs
    ├── InvalidReport (ValueError)        figures that mt.report cannot keep
    ├── EffectUnknown (ModelFailure)      unknown whether an effect happened
    ├── EffectMissing (ModelFailure)      an effect that the recording does not have
    └── Circular (ModelFailure)           a model waits for itself, or feeds itself without end

    Retry, Reject, ModelFailure           signals: raised inside a model, never logged as errors
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, Self, TypeVar, cast

MAX_DELAY_S = 14 * 24 * 3600
"""The longest delay of a retry: as long as SQS keeps a message."""


_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Drop the warnings of this package within the block. No cell of a notebook would show them."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def warn(message: str) -> None:
    """Warn at the line of user code that called into this package."""
    if _silent.get():
        return
    frame, level = sys._getframe(1), 2
    while (
        frame.f_back is not None
        and frame.f_globals.get("__name__", "").partition(".")[0] == __package__
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def how_to_install(extra: str) -> str:
    """Return how to install an *extra*: from a checkout, since no index has the package."""
    return f"in a checkout of mltrigger, pip install -e '.[{extra}]'"


class MltriggerError(Exception):
    """Base of every error of this package."""

    @property
    def plain(self) -> str:
        """The message without its advice, for callers with other advice."""
        return str(self).removesuffix(self._advice)

    _advice = ""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], advice: str = "") -> Self:
        """Build the message "no *kind* *name*" with near names, or all if they are few."""
        names = sorted({str(name) for name in known})
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif names:
            shown = ", ".join(map(repr, names[:24]))
            hint = f"known: {shown}{', …' if len(names) > 24 else ''}"
        else:
            hint = "there is none yet"
        advised = f"; {advice}" if advice else ""
        error = cls(f"no {kind} {name!r}; {hint}{advised}")
        error._advice = advised
        return error


class InvalidEvent(MltriggerError, ValueError):
    """An event that breaks the rules of CloudEvents 1.0. The message lists every problem at once.

    Attributes
    ----------
    reason : str
        A stable reason code, such as ``malformed_json`` or ``too_large``.
    """

    def __init__(self, message: str, reason: str = "invalid_event") -> None:
        super().__init__(message)
        self.reason = reason


class EventTooLarge(InvalidEvent):
    """An event with more data than the named limit of the broker."""


class NotEncodable(MltriggerError, TypeError):
    """A value without a JSON form. The message has the path, such as ``$.scores[3]``."""


class InvalidPolicy(MltriggerError, ValueError):
    """A delivery setting out of range, or in conflict with another."""


class InvalidFilter(MltriggerError, ValueError):
    """A filter policy that breaks the rules of SNS. The message lists all problems with paths.

    Attributes
    ----------
    reason : str
        The stable reason code, ``bad_filter_policy``.
    """

    reason = "bad_filter_policy"


class InvalidSignature(MltriggerError, ValueError):
    """A webhook with a missing or wrong signature, or one that is too old or too new.

    Attributes
    ----------
    reason : str
        A stable reason code, such as ``wrong_signature``. See
        :func:`mltrigger.event.signatures.verify`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvalidName(MltriggerError, ValueError):
    """A topic, subscription or model name with characters that some broker refuses."""


class InvalidModel(MltriggerError, TypeError):
    """An object that is no model: not callable, no ``predict``, or a wrong signature."""


class NotFound(MltriggerError, LookupError):
    """A name that does not exist. The message lists near names."""


class AmbiguousEvent(MltriggerError, LookupError):
    """An event id that several sources have. The message lists them.

    Attributes
    ----------
    sources : tuple of str
        The sources. Give one of them as ``source=``.
    """

    def __init__(self, message: str, sources: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.sources = tuple(sources)


class VersionConflict(MltriggerError, ValueError):
    """Other code under a registered version. Released versions are immutable."""


class NameTaken(MltriggerError, ValueError):
    """A subscription of that name exists and listens to another topic."""


class InvalidComparison(MltriggerError, ValueError):
    """A setting of a comparison that makes no sense, or rows that it cannot read."""


class NothingToCompare(InvalidComparison):
    """No event was answered by both versions. The message counts the events of each side."""


class InvalidCorrection(MltriggerError, ValueError):
    """Answers that cannot be corrected: their binding answers still, or is of another one."""


class BindingConflict(MltriggerError, RuntimeError):
    """A change of versions that another one stands in the way of, such as a canary under way."""


class NotShipped(MltriggerError, RuntimeError):
    """A version that no verdict allows to answer. The message has the arithmetic.

    Attributes
    ----------
    verdict : mltrigger.rollout.verdict.Verdict
        The verdict, with each rule.
    """

    def __init__(self, message: str, verdict: Any) -> None:
        super().__init__(message)
        self.verdict = verdict


class ObjectMissing(MltriggerError, FileNotFoundError):
    """The object of an event does not exist (any more)."""


class StoreError(MltriggerError, RuntimeError):
    """The database cannot be used or did not answer. The message names the file and a remedy."""


class DiskFailed(StoreError):
    """A sync of the store's log failed. Nothing is read or written any more. Connect again."""


class Closed(MltriggerError, RuntimeError):
    """The bus was closed. Connect again."""


class Retry(Exception):  # a signal, not an error
    """Raised by a model on purpose: try this event again after *delay_s* seconds.

    Parameters
    ----------
    delay_s : float, optional
        Seconds until the next attempt. Default: the backoff of the policy.
    reason : str, optional
        Shown in the invocation frame.
    """

    def __init__(self, delay_s: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        if delay_s is not None and not 0 <= delay_s <= MAX_DELAY_S:
            raise ValueError(
                f"delay_s must be from 0 to {MAX_DELAY_S} seconds (14 days), got {delay_s!r}"
            )
        self.delay_s = delay_s


class Reject(Exception):  # a signal, not an error
    """Raised by a model on purpose: this event can never succeed. It is dead at once."""

    def __init__(self, reason: str = "rejected by the model") -> None:
        super().__init__(reason)


class ModelFailure(Exception):  # a signal, not an error
    """The failure of a model that is a server, a program or a file.

    Parameters
    ----------
    message : str
        The failure in words for people. Its record is shortened and without secrets.
    reason : str
        A stable reason code, such as ``model_http_error`` or ``invalid_input``.
    permanent : bool
        Whether a retry is useless. The event is dead at once.
    delay_s : float, optional
        Seconds until a retry makes sense, if the other side said so.
    throttled : bool
        Whether it only means "not now". It spends no attempt, and the listener holds back.
    whole : bool
        Whether the call failed as a whole. The batch is not split to find a bad event.
    kind : str, optional
        The shown type of the error, such as ``HTTP 503``.
    detail : str, optional
        More text, shown with tracebacks: the end of stderr, a remote traceback, an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "model_error",
        permanent: bool = False,
        delay_s: float | None = None,
        throttled: bool = False,
        whole: bool = False,
        kind: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason, self.permanent, self.throttled, self.whole = (
            reason,
            permanent,
            throttled,
            whole,
        )
        self.delay_s = None if delay_s is None else min(max(0.0, delay_s), float(MAX_DELAY_S))
        self.kind, self.detail = kind, detail


class Circular(MltriggerError, ModelFailure):
    """A model asked for a circle: waiting for itself, or events that cause each other without end.

    Attributes
    ----------
    reason : str
        ``waits_for_itself``, ``recursion_limit`` or ``too_many_descendants``.
    """


class OutsideCall(MltriggerError, RuntimeError):
    """``mt.once`` or ``mt.report`` was called where no call of a model runs."""


class InvalidReport(MltriggerError, ValueError):
    """Figures that ``mt.report`` cannot keep: too many, no numbers, or of another length."""


class EffectUnknown(MltriggerError, ModelFailure):
    """An effect was begun, and its end was not recorded. It may have happened.

    The event becomes a dead letter, reason ``effect_unknown``. A function of ``mt.once`` may raise
    it, too. Then its effect stays ``unknown``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="effect_unknown", permanent=True)


class EffectMissing(MltriggerError, ModelFailure):
    """A shadow or replay asked for an effect that the recording does not have.

    Parameters
    ----------
    message : str
        The effect.
    permanent : bool
        Whether the recording is complete. Else the event is tried again.
    """

    def __init__(self, message: str, permanent: bool = True) -> None:
        super().__init__(message, reason="effect_missing", permanent=permanent)


F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def brief(function: F) -> F:
    """Let errors of this package leave *function* without inner frames: the message is enough.

    Other exceptions keep their traceback, and so does the cause of an error.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # IPython and pytest leave this frame out
        try:
            return function(*args, **kwargs)
        except MltriggerError as error:
            raise error.with_traceback(None)  # noqa: B904 - the same error, not another one

    return cast(F, called)


def brief_errors(cls: C) -> C:
    """Make every public method of *cls* :func:`brief`."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(cls, name, brief(method))
    return cls
