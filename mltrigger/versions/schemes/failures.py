"""Failures that all schemes share, and batches in which one event may fail alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.errors import ModelFailure
from mltrigger.versions.scheme import HOLD_S


def unfit(message: str, kind: str | None = None) -> ModelFailure:
    """Return the failure of one event whose data the model cannot take."""
    return ModelFailure(message, reason="invalid_input", permanent=True, kind=kind)


def unavailable(
    message: str, kind: str, delay_s: float = HOLD_S, detail: str | None = None
) -> ModelFailure:
    """Return the failure of a model that cannot be called now, with any event.

    No attempt is spent. The listener calls it again after *delay_s* seconds.
    """
    return ModelFailure(
        message,
        reason="model_unavailable",
        throttled=True,
        delay_s=delay_s,
        whole=True,
        kind=kind,
        detail=detail,
    )


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *function*, or the ModelFailure of this event alone.

    A failure of the whole call is raised.
    """
    try:
        return function(*arguments)
    except ModelFailure as failure:
        if failure.whole:
            raise
        return failure


def in_one_call(parts: Sequence[Any], ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """Return the *parts* of a batch, each replaced by its output. Failures stay in their places.

    *ask* gets all good parts at once, and returns one output for each. It is not called for none.
    """
    good = [part for part in parts if not isinstance(part, ModelFailure)]
    outputs = iter(ask(good) if good else ())
    return [part if isinstance(part, ModelFailure) else next(outputs) for part in parts]
