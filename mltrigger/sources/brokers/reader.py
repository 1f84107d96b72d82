"""The reader of one place: record in the log, then acknowledge."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from mltrigger.broker import Feed, Notes
from mltrigger.errors import MltriggerError, StoreError
from mltrigger.event.event import Event
from mltrigger.sources.brokers.client import CONNECT_S, Line
from mltrigger.sources.brokers.messages import Message, events_of, unreadable
from mltrigger.sources.brokers.place import KINDS, BrokerPlace
from mltrigger.sources.identity import bus_id

_LOOK_S = 0.01
"""How long a step waits for messages. The wait between steps is longer."""
_WAIT_S = 0.5


class BrokerReader:
    """Publishes the messages of one place.

    Parameters
    ----------
    feed : Feed
        The way into the bus.
    topic : str
        The topic of the events.
    place : BrokerPlace
        The topic, queue or stream of the broker.
    """

    def __init__(self, feed: Feed, topic: str, place: BrokerPlace) -> None:
        self._feed, self._topic, self._place = feed, topic, place
        self.shown = place.shown
        self._line: Line | None = None
        self._taken: list[Message] = []
        self._guard = threading.Lock()

    def step(self) -> bool:
        """Publish the next messages, then acknowledge them. Return whether there may be more."""
        with self._guard:
            line = self._opened()
            self._taken = self._taken or line.run(line.client.take(_LOOK_S))
            if not self._taken:
                return False
            self._publish(self._taken)
            line.run(line.client.acknowledge(self._taken))
            self._taken = []
            return True

    def _publish(self, taken: list[Message]) -> None:
        form = self._place.option("data", "json")
        events = [event for each in taken for event in events_of(each, self.shown, form)]
        try:
            self._feed.publish(self._topic, events)
        except StoreError:
            raise
        except MltriggerError:  # one that the bus cannot take does not stop the others
            for event in events:
                self._publish_one(event)

    def _publish_one(self, event: Event) -> None:
        try:
            self._feed.publish(self._topic, [event])
        except StoreError:
            raise
        except MltriggerError as error:
            raw = event._encoded or (event.data if isinstance(event.data, bytes) else b"")
            reason = getattr(error, "reason", None) or "invalid_event"
            self._feed.publish(
                self._topic, [unreadable(reason, str(error), event.id, raw, self.shown)]
            )

    def wait(self, stopped: threading.Event) -> None:
        """Wait for the next message, half a second or so."""
        with self._guard:
            if self._line is not None and not self._taken:
                self._taken = self._line.run(self._line.client.take(_WAIT_S))

    def behind(self) -> int | None:
        """Return how many messages are not acknowledged. ``None`` if the broker does not say."""
        with self._guard:
            line = self._opened()
            return line.run(line.client.behind())

    def detail(self) -> str:
        """Return nothing: the number behind says it."""
        return ""

    def close(self) -> None:
        """Close the connection. Messages without an acknowledgement come again."""
        with self._guard:
            taken, self._taken = self._taken, []
            line, self._line = self._line, None
            if line is not None:
                with contextlib.suppress(StoreError):
                    if taken:
                        line.run(line.client.give_back(taken), CONNECT_S)
                line.close()

    def _opened(self) -> Line:
        if self._line is None:
            known = noted(self._topic, self._feed.notes)
            if known is None:
                raise StoreError("it was unsubscribed elsewhere: subscribe again")
            self._line = line = Line(self._place, known["name"])
            line.open()
            line.run(line.client.begin(known["since_us"]))
            line.run(line.client.listen())
        return self._line


def noted(topic: str, notes: Notes) -> Any:
    """Return the note of the source of *topic*: ``name`` and ``since_us``. ``None`` if it is new.

    The broker remembers the reader under the name. Messages count since that time.
    """
    return notes.recall(f"broker:{topic}")


def note(topic: str, notes: Notes, kept: dict[str, Any] | None) -> None:
    """Keep the note of the source of *topic*. ``None`` forgets it."""
    notes.remember(f"broker:{topic}", kept)


def new_name(place: BrokerPlace, topic: str, notes: Notes) -> str:
    """Return a name for a reader: that of the URL, or a new one.

    A broker may remember an earlier subscription of this bus.
    """
    group = KINDS[place.kind].group
    own = f"mltrigger-{bus_id(notes)}-{topic}-{notes.now_us():x}"
    return (place.option(group) if group else "") or own
