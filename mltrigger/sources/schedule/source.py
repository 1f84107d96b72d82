"""The adapter of schedules: the door from the core to this room."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mltrigger.broker import Feed, Feeder, Notes, Source
from mltrigger.errors import InvalidName, NotFound
from mltrigger.sources.relay import Relay
from mltrigger.sources.schedule.reader import ScheduleReader
from mltrigger.sources.schedule.ticks import Cron, Every, Ticks

MISSED = ("one", "all", "none")
"""What to do with ticks that came while nobody listened: the newest only, each, or none."""


class ScheduleSource(Source):
    """A schedule as a source: ``every://15m`` or ``cron://0 7 * * 1-5?tz=Europe/Berlin``.

    Parameters
    ----------
    text : str
        The URL. ``?missed=`` says what becomes of ticks while nobody listened: ``one`` (the
        default) is one event for the newest, ``all`` is one for each, ``none`` is none.
    """

    start = "latest"

    def __init__(self, text: str) -> None:
        self._kind, _, rest = text.partition("://")
        self._text, _, query = rest.partition("?")
        self._text = " ".join(urllib.parse.unquote(self._text).split())
        options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        known = ["missed", "tz"] if self._kind == "cron" else ["missed"]
        for name in options:
            if name not in known:
                raise InvalidName(str(NotFound.of(f"option of {self._kind}://", name, known)))
        self._zone, self.missed = options.get("tz", "UTC"), options.get("missed", "one")
        if self.missed not in MISSED:
            raise InvalidName(str(NotFound.of("missed", self.missed, MISSED)))
        self.ticks: Ticks = (
            Every(self._text) if self._kind == "every" else Cron(self._text, self._zone)
        )

    @property
    def url(self) -> str:
        """The canonical URL, for the registry."""
        options = {"tz": self._zone} if self._kind == "cron" else {}
        if self.missed != "one":
            options["missed"] = self.missed
        query = urllib.parse.urlencode(options, safe="/")
        return f"{self._kind}://{self._text}{'?' * bool(query)}{query}"

    def topic_names(self, others: Iterable[Any] = ()) -> list[str]:
        """Return names for the topic, such as ``every-15m``."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self._text.replace("*", "x")).strip("-")
        return [f"{self._kind}-{name}"[:80]]

    def shown(self, others: Iterable[Any] = ()) -> str:
        """Return the schedule, with its time zone."""
        return self.url

    def attach(self, topic: str, notes: Notes, from_start: bool) -> None:
        """Note that ticks count from now on. A schedule that is known goes on."""
        if notes.recall(f"ticks:{topic}") is None:
            notes.remember(f"ticks:{topic}", notes.now_us())

    def remove(self, topic: str, notes: Notes) -> None:
        """Forget the last tick."""
        notes.remember(f"ticks:{topic}", None)

    def feeder(self, feed: Feed) -> Feeder:
        """Return the relay of this process, one thread for each schedule."""
        return Relay(feed, ScheduleReader)

    def next(self, now: datetime | None = None) -> datetime | None:
        """Return the next tick after *now*."""
        return next(iter(self.ticks.after(now or datetime.now(UTC))), None)
