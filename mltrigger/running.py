"""The call that is under way in this thread, or this coroutine: what a model does through a bus is done for its event."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mltrigger.events import Event


def _nothing() -> None:
    """Nobody wants to know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a model is called: for which subscription of which topic, in which store."""

    subscription: str
    topic: str
    home: str


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """One call of a model.

    ``event`` is what it is called with; of a batch, the one that the longest chain of events has led to. ``returned`` is called when the
    model has returned, before its answer is looked at; ``waits`` before it waits for other models.
    """

    place: Place
    event: Event
    returned: Callable[[], None] = _nothing
    waits: Callable[[], None] = _nothing


# As for what is printed: each thread has a context of its own, a coroutine runs in a copy of that of the thread that waits for it.
_current: contextvars.ContextVar[Running | None] = contextvars.ContextVar("mltrigger_running", default=None)


def current() -> Running | None:
    """Return the call under way here; ``None`` outside of models."""
    return _current.get()


@contextlib.contextmanager
def during(running: Running | None) -> Iterator[None]:
    """Take what is done inside the block for done by *running*."""
    token = _current.set(running)
    try:
        yield
    finally:
        _current.reset(token)


def go_on(running: Running | None) -> None:
    """Let *running* be the call under way in this context, which is a copy for it alone."""
    _current.set(running)


def model_returned() -> None:
    """Say that the model has returned: what follows is not its time."""
    if (running := _current.get()) is not None:
        running.returned()


def about_to_wait() -> None:
    """Say that the call waits for others from now on: they may run beside it."""
    if (running := _current.get()) is not None:
        running.waits()
