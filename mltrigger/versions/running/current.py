"""The call under way in this thread or coroutine.

A model may use the bus during its call. Its events are then linked to the event of the call.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from mltrigger.event.event import Event
    from mltrigger.versions.running.effects import Effects
    from mltrigger.versions.running.measures import Measures

ENCODING_S = 60.0
"""Longest time to encode the answer of a model that has returned. It is not the model's time."""
_SHORT, _FEW = 64 * 1024, 64
_AT_ONCE = frozenset({type(None), bool, int, float})


def _nothing(*_: object) -> None:
    """Do nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """The subscription, the topic and the store for which a model is called."""

    subscription: str
    topic: str
    home: str


forks = 0
"""The number of forks between this process and the first one. A call that ends with another number
than it began with is only a copy.
"""


class Trace(NamedTuple):
    """The trace of a call: its headers, and a function that enters it.

    That function makes it current in the context in which the model runs.
    """

    headers: Mapping[str, str]
    enter: Callable[[], object] = _nothing


@dataclasses.dataclass(slots=True, eq=False)
class Running:
    """The calls of a model under way, one after the other. One object serves a whole lot.

    - ``events``: the events of the current call.
    - ``returned``: called with the answer of the model, before it is encoded.
    - ``waits``: called before the model waits for other models.
    - ``around``: the owner of a context, and the context in which its calls begin.
    - ``effects``: records the effects of the calls. ``None`` where nothing can.
    - ``batch``: the events of a model that takes several at once. A batch that failed comes again
      in parts.
    - ``measures``: the reported figures of events, since they were last taken.
    - ``forks``: the number of forks when the calls began.
    - ``trace``: the trace of the current call. ``None`` if nothing traces it.
    """

    place: Place
    events: Sequence[Event]
    returned: Callable[[object], None] = _nothing
    waits: Callable[[], None] = _nothing
    around: tuple[object, contextvars.Context] | None = None
    effects: Effects | None = None
    batch: Sequence[Event] | None = None
    measures: Measures | None = None
    forks: int = dataclasses.field(default_factory=lambda: forks)
    trace: Trace | None = None

    @property
    def event(self) -> Event:
        """The event of the call. Of a batch, it is the event with the longest chain behind it."""
        return max(self.events, key=lambda event: event.hops)


# Each thread has a context of its own. A coroutine runs in a copy of the context of the thread that
# waits for it.
_current: contextvars.ContextVar[Running | None] = contextvars.ContextVar(
    "mltrigger_running", default=None
)


def _is_copy() -> None:
    global forks
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_is_copy)


def end_copy(error: BaseException | None = None) -> NoReturn:
    """End this process, which is a copy that a model made with ``os.fork()``.

    The model is done in it. Only the original answers. A copy must not touch the threads, leases
    and files of its parent.
    """
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        with contextlib.suppress(Exception):
            traceback.print_exception(error, file=sys.__stderr__)
    os._exit(status)


current: Callable[[], Running | None] = _current.get
"""Return the call under way here, ``None`` outside of models."""


@contextlib.contextmanager
def during(running: Running | None) -> Iterator[None]:
    """Make *running* the call under way inside the block."""
    token = _current.set(running)
    try:
        yield
    finally:
        _current.reset(token)


def go_on(running: Running | None) -> None:
    """Make *running* the call under way in this context, which is a copy for it alone."""
    _current.set(running)


def model_returned(answer: object) -> None:
    """Say that the model has returned *answer*. From now on its time does not count.

    A number is not announced, since encoding it takes no time. Nor is a generator, which is still
    to run.
    """
    if (
        answer.__class__ not in _AT_ONCE
        and (running := _current.get()) is not None
        and not hasattr(answer, "__next__")
    ):
        running.returned(answer)


def trace_headers() -> Mapping[str, str]:
    """Return the headers that carry the trace of the call under way. Empty without one."""
    running = _current.get()
    return running.trace.headers if running is not None and running.trace is not None else {}


def place() -> dict[str, str]:
    """Return the :class:`Place` of the call under way for another process, and its trace."""
    running = _current.get()
    if running is None:
        return {"subscription": "", "topic": "", "home": ""}
    return {
        "subscription": running.place.subscription,
        "topic": running.place.topic,
        "home": running.place.home,
        **trace_headers(),
    }


def elsewhere(
    place: Mapping[str, str],
    events: Sequence[Event],
    returned: Callable[[object], None],
    effects: Effects | None,
) -> Running:
    """Return the call under way of another process, which told its :func:`place`."""
    own = Place(place["subscription"], place["topic"], place["home"])
    trace = {name: place[name] for name in ("traceparent", "tracestate") if name in place}
    return Running(own, events, returned, effects=effects, trace=Trace(trace))


def begin_batch(events: Sequence[Event]) -> None:
    """Say that the model is called with *events* at once."""
    if (running := _current.get()) is not None:
        running.batch = events


def is_small(answer: object) -> bool:
    """Whether encoding *answer* certainly takes no time.

    Then the end of the call need not be announced.
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
    """Say that the call waits for others from now on, so they may run beside it."""
    if (running := _current.get()) is not None:
        running.waits()
