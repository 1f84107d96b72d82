"""The call that is under way in this thread, or this coroutine: what a model does through a bus is
done for its event.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mltrigger.event.event import Event

ENCODING_S = 60.0
"""How long the answer of a model that has returned may take until it is there: writing it down is
not the model's time.
"""
_SHORT, _FEW = 64 * 1024, 64
_AT_ONCE = frozenset({type(None), bool, int, float})


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a model is called: for which subscription of which topic, in which store."""

    subscription: str
    topic: str
    home: str


@dataclasses.dataclass(slots=True, eq=False)
class Running:
    """One call of a model after the other; made once for all of a lot.

    ``events`` are those that it is called with. ``returned`` is called with what the model has
    returned, before that is written down; ``waits`` before it waits for other models. ``around`` is
    the context that its calls begin in, kept by whoever made it.
    """

    place: Place
    events: Sequence[Event]
    returned: Callable[[object], None] = _nothing
    waits: Callable[[], None] = _nothing
    around: tuple[object, contextvars.Context] | None = None

    @property
    def event(self) -> Event:
        """The event that the model works on; of a batch, the one that the longest chain of events
        has led to.
        """
        return max(self.events, key=lambda event: event.hops)


# As for what is printed: each thread has a context of its own, a coroutine runs in a copy of that
# of the thread that waits for it.
_current: contextvars.ContextVar[Running | None] = contextvars.ContextVar(
    "mltrigger_running", default=None
)


forks = 0
"""How many forks lie between this process and the first: a call that ends with another number than
it began with is only a copy of it.
"""


def _is_copy() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_is_copy)


def end_copy(error: BaseException | None = None) -> NoReturn:
    """End this process as a program would end: it is the copy that a model has made with
    ``os.fork()``, and the model is done in it.

    Only the original answers; threads, leases and files of its parent are none of a copy's
    business.
    """
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        with contextlib.suppress(Exception):
            traceback.print_exception(error, file=sys.__stderr__)
    os._exit(status)


current: Callable[[], Running | None] = _current.get
"""Return the call under way here; ``None`` outside of models."""


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


def model_returned(answer: object) -> None:
    """Say that the model has returned *answer*: what follows is not its time, unless the answer is
    still to be made.

    Of a number nobody hears: it is written down in no time.
    """
    if (
        answer.__class__ not in _AT_ONCE
        and (running := _current.get()) is not None
        and not hasattr(answer, "__next__")
    ):
        running.returned(answer)


def place() -> dict[str, str]:
    """Return where the call under way is, as it is told to another process."""
    running = _current.get()
    if running is None:
        return {"subscription": "", "topic": "", "home": ""}
    return {
        "subscription": running.place.subscription,
        "topic": running.place.topic,
        "home": running.place.home,
    }


def elsewhere(
    place: Mapping[str, str], event: Event, returned: Callable[[object], None]
) -> Running:
    """Return the call under way of which another process has told its :func:`place`."""
    return Running(Place(**place), (event,), returned)


def is_small(answer: object) -> bool:
    """Whether *answer* is certainly written down in no time: then nobody needs to hear that the
    model has returned.
    """
    if isinstance(answer, (str, bytes)):
        return len(answer) <= _SHORT
    if isinstance(answer, (list, tuple)):
        return len(answer) <= _FEW and all(_is_scalar(part) for part in answer)
    if isinstance(answer, dict):
        return len(answer) <= _FEW and all(_is_scalar(part) for part in answer.values())
    return _is_scalar(answer)


def _is_scalar(part: object) -> bool:
    return (
        part is None
        or isinstance(part, (bool, int, float))
        or (isinstance(part, str) and len(part) <= 1000)
    )


def about_to_wait() -> None:
    """Say that the call waits for others from now on: they may run beside it."""
    if (running := _current.get()) is not None:
        running.waits()
