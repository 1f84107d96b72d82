"""The reader of the outcomes of one subscription: from the log, by number, onto a topic."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from mltrigger.broker import Ending, Endings, Feed, Mark, Notes
from mltrigger.errors import EventTooLarge
from mltrigger.event.event import MAX_HOPS
from mltrigger.sources.identity import bus_id
from mltrigger.sources.outcomes.event import event_of, hops_of
from mltrigger.text import count

logger = logging.getLogger("mltrigger")

_MOST = 500
"""The outcomes of one step."""
_UNKEPT = 5_000
"""The attempts of others that are read again after a restart, at most."""
_REST_S = 0.02
"""The pause after a look that found nothing: outcomes of others wake this reader, too."""
_LOOK_S, _LOOKS = 0.25, 4
"""A stop is noticed after the first. After all of them, the log is read without a wake-up."""


class OutcomeReader:
    """Publishes one event for each final outcome. The same outcome has the same id every time.

    Two notes say how far it is. ``outcomes:<topic>`` is the place up to which all outcomes were
    read. ``old-outcomes:<topic>`` has the place ``after`` which old ones are read that somebody
    asked for, and the number ``until`` which.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    topic : str
        The topic of the events.
    source : OutcomeSource
        The subscription that it ``follows``.
    """

    def __init__(self, feed: Feed, topic: str, source: Any) -> None:
        self._feed, self._topic, self._name = feed, topic, source.follows
        self.shown = f"outcomes of {self._name!r}"
        self._bus, self._seen, self._left_out = "", -1, 0
        self._kept: Mark | None = None
        self._after, self._rests = Mark(), False

    def step(self) -> bool:
        """Publish the next outcomes, then the next old ones. Return whether there may be more."""
        self._seen = self._feed.wakes.generation("done")  # before the look
        self._begin()
        endings = self._feed.endings.read(self._name, self._after, _MOST)
        self._publish(endings)
        self._after, self._rests = endings.read_to, not endings.found
        kept = self._kept.number if self._kept is not None else 0
        if endings.found or not 0 <= self._after.number - kept <= _UNKEPT:
            self._feed.notes.remember(_new(self._topic), list(self._after))
            self._kept = self._after
        return bool(endings.found) or endings.more or self._old_step()

    def _begin(self) -> None:
        """Go on where this process was, or where another one was since then."""
        self._bus = self._bus or bus_id(self._feed.notes)
        noted = _noted(self._topic, self._feed.notes)
        if noted != self._kept:
            self._after = self._kept = noted

    def _old_step(self) -> bool:
        """Publish the next old outcomes. Return whether there may be more."""
        note = _old_note(self._topic, self._feed.notes)
        if note is None:
            return False
        endings = self._feed.endings.read(self._name, note.after, _MOST, note.until)
        self._publish(endings)
        note = note._replace(after=endings.read_to) if endings.more else _Old(first=note.first)
        self._feed.notes.remember(_old(self._topic), list(note))
        return endings.more

    def wait(self, stopped: threading.Event) -> None:
        """Wait until an outcome is recorded in any process, a second at most."""
        if self._rests:
            stopped.wait(_REST_S)
        for _ in range(_LOOKS):
            if stopped.is_set() or self._feed.wakes.wait("done", self._seen, _LOOK_S):
                return

    def behind(self) -> int | None:
        """Return how many outcomes are no events yet."""
        noted, note = (
            _noted(self._topic, self._feed.notes),
            _old_note(self._topic, self._feed.notes),
        )
        after = self._after if noted == self._kept else noted
        behind = self._feed.endings.count(self._name, after)
        if note is not None:
            behind += self._feed.endings.count(self._name, note.after, note.until)
        return behind

    def detail(self) -> str:
        """Return how many outcomes were left out since the start. Empty if there were none."""
        if not self._left_out:
            return ""
        return f"{count(self._left_out, 'outcome')} left out: they go in a circle"

    def close(self) -> None:
        """Read the notes again with the next step."""
        self._kept = None

    def _publish(self, endings: Endings) -> None:
        """Publish *endings*, but for those at the end of a chain in which each caused the next."""
        kept = [ending for ending in endings.found if hops_of(ending) < MAX_HOPS]
        left_out = len(endings.found) - len(kept)
        if kept:
            left_out += self._handed_on(kept)
        if left_out and not self._left_out:
            logger.warning(
                "topic %s: outcomes of %s were left out, since they go in a circle; doctor() names"
                " it",
                self._topic,
                self._name,
            )
        self._left_out += left_out

    def _handed_on(self, endings: Sequence[Ending], fits: bool = True) -> int:
        """Publish *endings*. If one is too large for the broker, it goes without its output."""
        events = [event_of(ending, self._name, self._bus, fits) for ending in endings]
        try:
            return self._feed.hand_on(self._topic, events)
        except EventTooLarge:
            if not fits:
                raise
            if len(endings) == 1:
                return self._handed_on(endings, fits=False)
            return sum(self._handed_on([ending]) for ending in endings)


class _Old(NamedTuple):
    """Old outcomes to read: those after a place, up to a number. ``first``: the oldest new one."""

    after: Mark = Mark()
    until: int = 0
    first: int = 0


def begin(topic: str, notes: Notes, from_start: bool) -> None:
    """Note where the outcomes begin. Idempotent."""
    if notes.recall(_new(topic)) is None:
        first = Mark() if from_start else notes.newest()
        notes.remember(_old(topic), list(_Old(first=first.number)))
        notes.remember(_new(topic), list(first))


def begin_old(topic: str, notes: Notes) -> None:
    """Note that the outcomes before the first one shall be read. Idempotent."""
    *_, first = notes.recall(_old(topic))
    if first > 0:
        notes.remember(_old(topic), list(_Old(until=first)))


def forget(topic: str, notes: Notes) -> None:
    """Forget where the outcomes begin, and how far they were read."""
    notes.remember(_new(topic), None)
    notes.remember(_old(topic), None)


def _noted(topic: str, notes: Notes) -> Mark:
    noted = notes.recall(_new(topic))
    return notes.newest() if noted is None else Mark(*noted)


def _old_note(topic: str, notes: Notes) -> _Old | None:
    """Return the old outcomes that are left to read, ``None`` if there are none."""
    noted = notes.recall(_old(topic))
    if noted is None:
        return None
    after, until, first = noted
    return _Old(Mark(*after), until, first) if until else None


def _new(topic: str) -> str:
    return f"outcomes:{topic}"


def _old(topic: str) -> str:
    return f"old-outcomes:{topic}"
