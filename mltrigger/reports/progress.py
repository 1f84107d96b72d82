"""Progress: how far a long call is, for the face that shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_heard: ContextVar[Callable[[int], None] | None] = ContextVar("heard", default=None)


@contextlib.contextmanager
def heard(tell: Callable[[int], None]) -> Iterator[None]:
    """Call *tell* with the number of events that are done, after each part of a call."""
    token = _heard.set(tell)
    try:
        yield
    finally:
        _heard.reset(token)


def reached(done: int) -> None:
    """Say that *done* events are done. The thread of the call says it between two commits."""
    if (tell := _heard.get()) is not None:
        tell(done)
