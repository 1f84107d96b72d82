"""Endings: the final outcomes of a subscription, as a source reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Ending(NamedTuple):
    """The final outcome of one event for one subscription.

    ``number`` is that of the attempt in the log, ``seq`` that of the event. ``extensions`` and
    ``output`` are JSON. Times are microseconds since 1970.
    """

    number: int
    seq: int
    event_id: str
    source: str
    type: str
    time: str
    subject: str | None
    topic: str
    traceparent: str
    extensions: str | None
    model: str | None
    version: str | None
    outcome: str
    reason: str | None
    attempt: int
    published_us: int
    received_us: int
    started_us: int | None
    finished_us: int | None
    settled_us: int
    output: str | None
    error_type: str | None
    error: str | None


class Mark(NamedTuple):
    """A place in the log: all endings up to attempt ``number`` were read.

    The other members tell that attempt from a later one with the same number. SQLite gives the
    number of a deleted attempt again, if it was the newest.
    """

    number: int = 0
    seq: int = 0
    subscription_id: int = 0
    attempt: int = 0
    outcome: str = ""
    settled_us: int = 0


class Endings(NamedTuple):
    """Some endings, oldest first, and the place up to which the log was read.

    ``more`` says that the log goes on after it.
    """

    found: Sequence[Ending]
    read_to: Mark
    more: bool


class EndingReader(Protocol):
    """Reads the endings of subscriptions, in the order in which they were recorded."""

    def read(self, subscription: str, after: Mark, most: int, until: int | None = None) -> Endings:
        """Return the next endings after *after*, at most *most*, up to number *until*.

        An ending may come twice. None is left out, unless it was taken back or pruned before.
        """

    def count(self, subscription: str, after: Mark, until: int | None = None) -> int:
        """Return how many endings come after *after*, up to number *until*."""


class Wakes(Protocol):
    """Tells of changes in the store, from all processes of this machine.

    The key for new outcomes is ``done``.
    """

    def generation(self, key: str) -> int:
        """Return a number that rises with every wake-up of *key*. Take it before looking."""

    def wait(self, key: str, seen: int, timeout_s: float) -> bool:
        """Wait at most *timeout_s* for a wake-up of *key* since *seen*. Return whether it came."""
