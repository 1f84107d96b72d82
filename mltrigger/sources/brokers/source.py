"""The adapter of message brokers: the door from the core to this room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from mltrigger.broker import Feed, Feeder, Notes, Source
from mltrigger.errors import StoreError
from mltrigger.sources.brokers.client import Line, check_library
from mltrigger.sources.brokers.place import KINDS, BrokerPlace, place_of
from mltrigger.sources.brokers.reader import BrokerReader, new_name, note, noted
from mltrigger.sources.relay import Relay


class BrokerSource(Source):
    """A topic, queue or stream of a message broker as a source: each message is one event.

    Parameters
    ----------
    text : str
        The URL, such as ``kafka://broker:9092/orders?group=ml``, ``rabbitmq://broker/orders``,
        ``nats://broker/orders.new?durable=ml``, ``redis://broker/orders?group=ml``,
        ``mqtt://broker/sensors/+/temperature``. A password is written ``user:env:NAME@``.
    """

    start = "latest"

    def __init__(self, text: str) -> None:
        self._place = place_of(text)

    @property
    def url(self) -> str:
        """The canonical URL, for the registry."""
        return self._place.url

    @property
    def place(self) -> BrokerPlace:
        """The topic, queue or stream, and where it is."""
        return self._place

    def topic_names(self, others: Iterable[Any] = ()) -> list[str]:
        """Return names for the topic: that of the path, then with the broker before it."""
        slug = self._place.slug()
        return [slug, f"{self._place.kind}-{slug}"]

    def shown(self, others: Iterable[Any] = ()) -> str:
        """Return hosts and path, with the options if another source differs in them only."""
        if any(other._place.shown == self._place.shown for other in others):
            options = "&".join(f"{name}={value}" for name, value in self._place.options)
            return f"{self._place.shown}{'?' * bool(options)}{options}"
        return self._place.shown

    def feeder(self, feed: Feed) -> Feeder:
        """Return the relay of this process, one thread for each place."""
        return Relay(feed, lambda feed, topic, source: BrokerReader(feed, topic, source.place))

    def check(self) -> None:
        """Raise InvalidName if a library or the password is missing."""
        check_library(self._place.kind)
        self._place.secret()

    def attach(self, topic: str, notes: Notes, from_start: bool) -> None:
        """Let the broker remember this bus. Messages that come after the return are events.

        Raises
        ------
        StoreError
            When the broker is away. Nothing is kept then.
        """
        if noted(topic, notes) is not None:  # its reader may be under way
            return
        self.check()
        name, since_us = new_name(self._place, topic, notes), 0 if from_start else notes.now_us()
        with self._connected(name) as line:
            line.run(line.client.begin(0 if from_start else None))
        note(topic, notes, {"name": name, "since_us": since_us})

    def remove(self, topic: str, notes: Notes) -> None:
        """Let the broker forget this bus: the group, the durable consumer, the session."""
        known = noted(topic, notes)
        note(topic, notes, None)  # first: a reader elsewhere makes it no more
        if known is not None:
            with self._connected(known["name"]) as line:
                line.run(line.client.forget())

    @contextlib.contextmanager
    def _connected(self, name: str) -> Iterator[Line]:
        line = Line(self._place, name)
        try:
            line.open()
            yield line
        except StoreError as error:
            raise StoreError(f"{self._place.shown}: {error}") from None
        finally:
            line.close()

    def left_behind(self) -> str:
        """Return the things that the broker still keeps, in words."""
        group = KINDS[self._place.kind].group
        if not group:
            return ""
        name = "session" if group == "client" else f"{group}"
        return f"the {name} of this bus at {self._place.shown} stays, and messages are kept for it"
