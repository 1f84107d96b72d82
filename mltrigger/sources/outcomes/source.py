"""The adapter of outcomes: the door from the core to this room."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mltrigger.broker import Feed, Feeder, Notes, Source
from mltrigger.errors import InvalidName
from mltrigger.names import check_name
from mltrigger.sources.identity import bus_id
from mltrigger.sources.outcomes.reader import OutcomeReader, begin, begin_old, forget
from mltrigger.sources.relay import Relay

_DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*[:@][A-Za-z0-9_.+-]+")


class OutcomeSource(Source):
    """The final outcomes of a subscription of the same bus: ``outcomes://ocr``.

    Parameters
    ----------
    text : str
        The URL, with the name of the subscription.
    """

    start = "latest"

    def __init__(self, text: str) -> None:
        scheme, _, rest = text.partition("://")
        name = rest.removesuffix("/")
        if scheme.lower() != "outcomes" or not name or "?" in name or "/" in name:
            raise InvalidName(
                f"{text[:100]!r} is written outcomes://NAME, with the name of a subscription;"
                " filter={'type': ['mltrigger.outcome.dead']} chooses outcomes"
            )
        # Direct calls of a model have a subscription, too: its selector.
        self.follows = name if _DIRECT.fullmatch(name) else check_name("subscription", name)

    @property
    def url(self) -> str:
        """The canonical URL, for the registry."""
        return f"outcomes://{self.follows}"

    def topic_names(self, others: Iterable[Any] = ()) -> list[str]:
        """Return names for the topic, such as ``outcomes-ocr``."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", self.follows)
        return [f"outcomes-{name}"[:76]]  # a number may follow

    def shown(self, others: Iterable[Any] = ()) -> str:
        """Return the URL."""
        return self.url

    def attach(self, topic: str, notes: Notes, from_start: bool) -> None:
        """Note that outcomes count from now on, or all of them. One that is known goes on."""
        bus_id(notes)  # now, by one process: the ids of events are made of it
        begin(topic, notes, from_start)
        if from_start:
            begin_old(topic, notes)

    def remove(self, topic: str, notes: Notes) -> None:
        """Forget how far the outcomes were read."""
        forget(topic, notes)

    def left_behind(self) -> str:
        """Return the notes that stay, in words."""
        return (
            f"outcomes of {self.follows!r} from now on are delivered when they are subscribed again"
        )

    def feeder(self, feed: Feed) -> Feeder:
        """Return the relay of this process, one thread for each subscription."""
        return Relay(feed, OutcomeReader)
