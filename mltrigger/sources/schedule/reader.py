"""The reader of one schedule: it publishes the ticks that have come."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime
from typing import Any

from mltrigger.broker import Feed
from mltrigger.event.event import Event

TYPE = "mltrigger.tick"
LATE_S = 60.0
"""A tick that is older when it is seen was missed."""
_MOST = 500
_LOOK_S = 0.25
"""How often to look at the clock: it may jump."""


class ScheduleReader:
    """Publishes one event a tick. The id of an event is its time, so a repeat is known.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    topic : str
        The topic of the events.
    source : ScheduleSource
        The schedule: its ``ticks``, and what becomes of ``missed`` ones.
    """

    def __init__(self, feed: Feed, topic: str, source: Any) -> None:
        self._feed, self._topic, self._source = feed, topic, source
        self._note, self.shown = f"ticks:{topic}", f"schedule {source.shown()}"
        self._next: datetime | None = None

    def step(self) -> bool:
        """Publish the ticks that have come. Return whether there may be more."""
        now = self._now()
        if self._next is not None and now < self._next:
            return False
        noted = self._feed.notes.recall(self._note)
        last = now if noted is None else datetime.fromtimestamp(noted / 1e6, UTC)
        newest = self._all(last, now) if self._source.missed == "all" else self._one(last, now)
        if newest is not None or noted is None:
            self._feed.notes.remember(self._note, _us(newest or now))
        self._next = next(iter(self._source.ticks.after(newest or last)), None)
        return newest is not None and self._next is not None and self._next <= now

    def _all(self, last: datetime, now: datetime) -> datetime | None:
        """Publish each tick, some at once. Return the newest of them."""
        ticks = itertools.takewhile(lambda tick: tick <= now, self._source.ticks.after(last))
        due = list(itertools.islice(ticks, _MOST))
        if due:
            self._feed.publish(self._topic, [self._event(tick, 0) for tick in due])
        return due[-1] if due else None

    def _one(self, last: datetime, now: datetime) -> datetime | None:
        """Publish the newest tick, unless nobody wants missed ones. Return it."""
        count, newest = self._source.ticks.newest(last, now)
        if newest is None:
            return None
        is_late = (now - newest).total_seconds() > LATE_S
        if not (is_late and self._source.missed == "none"):
            self._feed.publish(self._topic, [self._event(newest, count - 1)])
        found: datetime = newest
        return found

    def _event(self, tick: datetime, missed: int) -> Event:
        utc = tick.astimezone(UTC)
        return Event(
            {"at": tick.isoformat(), "missed": missed},
            id=utc.strftime("%Y%m%dT%H%M%SZ"),
            source=f"mltrigger/ticks/{self._topic}",
            type=TYPE,
            subject=tick.isoformat(),
            time=utc,
        )

    def wait(self, stopped: threading.Event) -> None:
        """Wait until the next tick, in short steps, since the clock may jump."""
        until = self._next
        left_s = _LOOK_S if until is None else (until - self._now()).total_seconds()
        stopped.wait(max(0.0, min(_LOOK_S, left_s)))

    def behind(self) -> int | None:
        """Return nothing: time never ends."""
        return None

    def detail(self) -> str:
        """Return when the next tick comes."""
        return "" if self._next is None else f"next: {self._next.isoformat()}"

    def close(self) -> None:
        """Read the last tick again with the next step."""
        self._next = None

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._feed.notes.now_us() / 1e6, UTC)


def _us(time: datetime) -> int:
    return round(time.timestamp() * 1e6)
