"""The surroundings of a model: the context variables of its cell, and its files."""

from __future__ import annotations

import contextvars
import decimal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.versions.describe import Model
from mltrigger.versions.running import capture
from mltrigger.versions.running import current as running
from mltrigger.versions.running.current import Running
from mltrigger.versions.running.invoke import Caller, Result, failure
from mltrigger.versions.scheme import HOLD_S

_DECIMAL = "decimal_context"
"""The name of decimal's context variable. Python does not export it."""


class Surrounded:
    """Calls one model in its surroundings. Never raises, once it is made.

    Each call has a copy of the model's context, so calls do not mix. Decimal's context and numpy's
    error state are part of it. A call fails if a file is not that of the model's version any more.

    Parameters
    ----------
    model : Model
        The model.
    make : callable
        Makes the caller that is wrapped. It loads the model in the context, too.
    """

    def __init__(self, model: Model, make: Callable[[], Caller]) -> None:
        self.model = model
        self._counts = model.context is not None and _has_arithmetic(model.context)
        self._watches = model.weights is not None and model.is_function
        around = self._around()
        self._caller = make() if around is None else around.run(make)
        self.batches, self.concurrency, self.grace_s = (
            self._caller.batches,
            self._caller.concurrency,
            self._caller.grace_s,
        )
        self.runs_here, self.usual_batch = self._caller.runs_here, self._caller.usual_batch
        self.tells_others = self._caller.tells_others

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        if self._watches and (changed := self._changed()):
            return changed
        around = self._around()
        return self._caller.one(event) if around is None else around.run(self._caller.one, event)

    def many(
        self, events: Sequence[Event], again: Callable[[], None] = lambda: None
    ) -> Sequence[Result]:
        """Call the model with a batch."""
        if self._watches and (changed := self._changed()):
            return [changed] * len(events)
        around = self._around()
        return (
            self._caller.many(events, again)
            if around is None
            else around.run(self._caller.many, events, again)
        )

    def close(self) -> None:
        """Release the resources. Idempotent."""
        self._caller.close()

    def _changed(self) -> Result | None:
        """Return the Result of an event if a file has changed, ``None`` to call the model.

        Only functions are checked. An object has read its files when it was made.
        """
        try:
            if self.model.weights is not None:
                self.model.weights.check(self.model.name)
        except InvalidModel as error:
            return failure(error)._replace(
                reason="model_unavailable",
                error_type="Changed",
                traceback=None,
                throttled=True,
                delay_s=HOLD_S,
            )
        return None

    def _around(self) -> contextvars.Context | None:
        """Return a context for the next call alone, ``None`` if the model has none.

        All calls of a turn share the context that is copied.
        """
        if self.model.context is None:
            return None
        under_way = running.current()
        if under_way is not None and under_way.around is not None and under_way.around[0] is self:
            around = under_way.around[1].copy()
        else:
            around = self.model.context.copy()
            around.run(_go_on, capture.current(), under_way)
            if under_way is not None:
                under_way.around = self, around.copy()
        if self._counts:
            around.run(_count_apart)
        if under_way is not None and under_way.trace is not None:
            around.run(under_way.trace.enter)
        return around


def _go_on(captured: Any, under_way: Running | None) -> None:
    capture.go_on(captured)
    running.go_on(under_way)


def _count_apart() -> None:
    """Give this context its own decimal settings. They are one object, which copies share."""
    decimal.setcontext(decimal.getcontext().copy())


def _has_arithmetic(context: contextvars.Context) -> bool:
    """Whether *context* holds decimal's settings. If not, each copy makes its own when needed."""
    return any(variable.name == _DECIMAL for variable in context)


def snapshot() -> contextvars.Context:
    """Return the context of this thread as it is now."""
    context = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if variable.name != _DECIMAL or _settings(value) != _settings(decimal.DefaultContext):
            context.run(variable.set, value)
    if _has_arithmetic(context):
        context.run(_count_apart)
    context.run(_settle)
    return context


def _settle() -> None:
    _go_on(None, None)
    # the model does not run on the event loop of the kernel
    if (sniffio := sys.modules.get("sniffio")) is not None:
        sniffio.current_async_library_cvar.set(None)


def arithmetic(context: contextvars.Context | None) -> dict[str, Any] | None:
    """Return the parts of *context* that can travel to another process, in JSON.

    These are decimal's context and numpy's error state.
    """
    return None if context is None else context.copy().run(_arithmetic)


def _settings(own: decimal.Context) -> dict[str, Any]:
    numbers = {
        name: getattr(own, name)
        for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    }
    return {**numbers, "traps": [signal.__name__ for signal, is_set in own.traps.items() if is_set]}


def _arithmetic() -> dict[str, Any]:
    errors: Mapping[str, str] = np.geterr() if (np := sys.modules.get("numpy")) is not None else {}
    # a function that numpy calls does not travel
    told = {kind: how for kind, how in errors.items() if how not in ("call", "log")}
    return {
        "decimal": _settings(decimal.getcontext()),
        "numpy": {k: v for k, v in told.items() if v != ("ignore" if k == "under" else "warn")},
    }


def context_of(given: Mapping[str, Any] | None) -> contextvars.Context | None:
    """Return the context that :func:`arithmetic` describes."""
    if given is None:
        return None
    context = contextvars.copy_context()
    context.run(_restore, given)
    return context


def _restore(given: Mapping[str, Any]) -> None:
    numbers = {
        **given["decimal"],
        "traps": [getattr(decimal, name) for name in given["decimal"]["traps"]],
    }
    decimal.setcontext(decimal.Context(**numbers, flags=[]))
    if given["numpy"]:
        import numpy as np

        np.seterr(**given["numpy"])
