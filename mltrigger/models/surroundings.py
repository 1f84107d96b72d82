"""What a model finds around it when it is called: the context variables of the cell that handed it over, and its files."""

from __future__ import annotations

import contextvars
import decimal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mltrigger import capture, running
from mltrigger.errors import InvalidModel
from mltrigger.events import Event
from mltrigger.models.describe import Model
from mltrigger.models.invoke import Caller, Result, failure
from mltrigger.models.schemes.base import HOLD_S
from mltrigger.running import Running

T = TypeVar("T")


class Surrounded:
    """Calls one model as another caller does, each time in a copy of the model's context, and while its files are those of its version.

    Never raises once it is made. Decimal's context and numpy's error state are part of the context; a copy keeps calls apart.

    Parameters
    ----------
    model : Model
        What is called.
    make : callable
        Makes the caller; what the model does while it is loaded happens in the context, too.
    """

    def __init__(self, model: Model, make: Callable[[], Caller]) -> None:
        self.model = model
        self._caller = self._run(make)
        self.batches, self.concurrency, self.grace_s = self._caller.batches, self._caller.concurrency, self._caller.grace_s
        self.runs_here = self._caller.runs_here

    def one(self, event: Event) -> Result:
        """Call the model with one event."""
        return self._changed() or self._run(lambda: self._caller.one(event))

    def many(self, events: Sequence[Event], again: Callable[[], None] = lambda: None) -> list[Result]:
        """Call the model with a batch."""
        if changed := self._changed():
            return [changed] * len(events)
        return self._run(lambda: self._caller.many(events, again))

    def close(self) -> None:
        """Let go of what calling needs; idempotent."""
        self._caller.close()

    def _changed(self) -> Result | None:
        """Return the Result of an event that is not called since a file has changed; an object has read its files when it was made."""
        if self.model.weights is None or not self.model.is_function:
            return None
        try:
            self.model.weights.check(self.model.name)
        except InvalidModel as error:
            return failure(error)._replace(reason="model_unavailable", error_type="Changed", traceback=None, throttled=True, delay_s=HOLD_S)
        return None

    def _run(self, call: Callable[[], T]) -> T:
        context = self.model.context
        return call() if context is None else context.copy().run(_apart, call, capture.current(), running.current())


def _apart(call: Callable[[], T], captured: Any, under_way: Running | None) -> T:
    capture.go_on(captured)
    running.go_on(under_way)
    decimal.setcontext(decimal.getcontext().copy())
    return call()


def snapshot() -> contextvars.Context:
    """Return the context of this thread as it is now."""
    context = contextvars.copy_context()
    context.run(_settle)
    return context


def _settle() -> None:
    decimal.setcontext(decimal.getcontext().copy())  # the object itself can be changed later
    capture.go_on(None)
    running.go_on(None)
    if (sniffio := sys.modules.get("sniffio")) is not None:  # the model is not called on the loop of the kernel
        sniffio.current_async_library_cvar.set(None)


def arithmetic(context: contextvars.Context | None) -> dict[str, Any] | None:
    """Return what of *context* can travel to another process, in JSON: decimal's context and numpy's error state."""
    return None if context is None else context.run(_arithmetic)


def _arithmetic() -> dict[str, Any]:
    own = decimal.getcontext()
    numbers = {name: getattr(own, name) for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")}
    traps = [signal.__name__ for signal, is_set in own.traps.items() if is_set]
    errors: Mapping[str, str] = np.geterr() if (np := sys.modules.get("numpy")) is not None else {}
    told = {kind: how for kind, how in errors.items() if how not in ("call", "log")}  # whom to call does not travel
    return {"decimal": {**numbers, "traps": traps}, "numpy": {k: v for k, v in told.items() if v != ("ignore" if k == "under" else "warn")}}


def context_of(given: Mapping[str, Any] | None) -> contextvars.Context | None:
    """Return the context that :func:`arithmetic` describes."""
    if given is None:
        return None
    context = contextvars.copy_context()
    context.run(_restore, given)
    return context


def _restore(given: Mapping[str, Any]) -> None:
    numbers = {**given["decimal"], "traps": [getattr(decimal, name) for name in given["decimal"]["traps"]]}
    decimal.setcontext(decimal.Context(**numbers, flags=[]))
    if given["numpy"]:
        import numpy as np

        np.seterr(**given["numpy"])
