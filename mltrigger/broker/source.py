"""Sources: things outside that become events, such as a watched folder. One is found by its URL.

A package adds a source with an entry point of the group ``mltrigger.sources``. Its name is the
scheme of the URL, its value a :class:`Source`::

    [options.entry_points]
    mltrigger.sources =
        every = my_package.timers:Every

Then ``mt.subscribe("every://10s", model)`` works as for a folder. The topic is made. Each process
that listens feeds it. The frames show it.
"""

from __future__ import annotations

import abc
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from mltrigger.broker.endings import EndingReader, Mark, Wakes
from mltrigger.broker.values import Finding
from mltrigger.errors import InvalidName
from mltrigger.event.event import Event
from mltrigger.names import Adapters
from mltrigger.policy import DeliveryPolicy

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # one letter is a drive of Windows
_PATH = re.compile(r"\.|\.\.|~|[A-Za-z]:[\\/].*|.*[/\\*?\[{].*", re.DOTALL)

HOW_FOLDERS_ARE_WRITTEN = (
    "a folder is written file:///scans/*.png, or file:scans/*.png from the working directory"
)


class Notes(Protocol):
    """Notes of the sources in the store of the bus, and leases, for all of its processes."""

    def now_us(self) -> int:
        """Return the time of the bus."""

    def recall(self, name: str) -> Any:
        """Return the note *name*, a JSON value. ``None`` if there is none."""

    def remember(self, name: str, note: Any) -> None:
        """Keep *note*, a JSON value. Durable on return."""

    def lease(self, name: str, lease_s: float) -> bool:
        """Take or renew a lease. Return whether this bus has it for the next *lease_s* seconds."""

    def release(self, name: str) -> None:
        """Give a lease back, if this bus has it."""

    def newest(self) -> Mark:
        """Return the place of the newest attempt in the log. Later outcomes are new."""


class Feed(NamedTuple):
    """The way of a feeder into the bus.

    ``publish`` takes a topic and events. It returns when they are durable. Repeating it with the
    same ids adds nothing. ``history`` takes a topic, a source attribute and a number in the log. It
    returns (number, subject, data) of the next events with that source, oldest first. ``subjects``
    takes a type as well, and returns (number, id, subject). ``endings`` reads the outcomes of
    subscriptions, ``wakes`` tells when there are new ones. ``hand_on`` publishes events that events
    of this bus have caused, and returns how many it left out because they go in a circle.
    """

    publish: Callable[[str, Sequence[Event]], object]
    history: Callable[[str, str, int], Sequence[tuple[int, str | None, Any]]]
    subjects: Callable[[str, str, str, int], Sequence[tuple[int, str, str | None]]]
    notes: Notes
    endings: EndingReader
    wakes: Wakes
    hand_on: Callable[[str, Sequence[Event]], int]


class Status(NamedTuple):
    """The state of a source: ``connected``, ``waiting`` or ``standby``, and since when.

    ``behind`` is the number of things outside that are no events yet, if it is known. ``detail``
    says why it waits, or how far it is. ``standby``: another process reads.
    """

    state: str
    since_us: int | None
    behind: int | None = None
    detail: str = ""


class Feeder(Protocol):
    """Feeds topics of this process from all sources of one kind."""

    def feed(self, topic: str, source: Any, policies: Sequence[DeliveryPolicy]) -> None:
        """Publish new events of *source* on *topic*, in the background, from now on.

        Idempotent. *policies* are those of the topic's subscriptions. New ones replace the old.
        """

    def forget(self, topic: str) -> None:
        """Stop feeding *topic*. Idempotent."""

    def trouble(self, topic: str) -> str:
        """Return the thing that *topic* waits for, in words. Empty if it is fed."""

    def note(self, topic: str) -> str:
        """Return a remark for :meth:`Source.findings`. Empty if there is none."""

    def status(self, topic: str) -> Status | None:
        """Return the state of the source of *topic*. ``None`` if this process does not feed it."""

    def settled(self) -> bool:
        """Look now. Return whether everything that exists has been published.

        ``bus.wait`` asks this. A source that never ends answers ``True``.
        """

    def stop(self) -> None:
        """Stop feeding all topics."""


class Source(abc.ABC):
    """One source, made from its URL or path as people write it.

    The constructor takes that text, looks at nothing, and raises
    :class:`~mltrigger.errors.InvalidName` if it cannot be understood.
    """

    start: ClassVar[Literal["earliest", "latest"]] = "earliest"
    """The default ``start`` of a new subscription."""
    pauses: ClassVar[bool] = True
    """Whether nothing is taken from it while all of its subscriptions are paused."""
    follows: str = ""
    """The subscription of this bus whose outcomes are the events. Empty for things outside."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The canonical URL, for the registry. It is never shown."""

    @abc.abstractmethod
    def topic_names(self, others: Iterable[Any] = ()) -> list[str]:
        """Return names for the topic, the best first.

        *others* are the known sources of this kind. They may have taken a name.
        """

    @abc.abstractmethod
    def feeder(self, feed: Feed) -> Feeder:
        """Return a feeder for this and all other sources of this kind.

        Called once a process, when the first is listened to.
        """

    def with_options(self, options: Mapping[str, Any]) -> Source:
        """Return this source with *options* of ``subscribe``, such as ``on``.

        Raises
        ------
        InvalidName
            For an option that this kind does not have.
        """
        if given := sorted(options):
            raise InvalidName(
                f"{' and '.join(f'{name}=' for name in given)} is for a table, such as"
                " table+sqlite:///app.db#documents; leave it out here"
            )
        return self

    def check(self) -> None:  # noqa: B027 - optional
        """Raise InvalidName if the source does not exist now. Asked by the first subscription."""

    def attach(self, topic: str, notes: Notes, from_start: bool) -> None:  # noqa: B027 - optional
        """Make the resources outside that the source needs. Idempotent.

        Things that come after the return are events. *from_start*: those before, too.
        """

    def remove(self, topic: str, notes: Notes) -> None:  # noqa: B027 - optional
        """Remove the resources that :meth:`attach` made. Idempotent."""

    def left_behind(self) -> str:
        """Return the resources that stay after the last subscription, in words. Empty if none."""
        return ""

    def plan(self) -> Iterable[tuple[str, str, str, str, str, str]]:
        """Return the changes that :meth:`attach` would make, as rows of the frame ``PLAN``.

        A row lacks the first column, the name of the subscription. Changes nothing.
        """
        return ()

    def shown(self, others: Iterable[Any] = ()) -> str:
        """Return a short form for people, without secrets. It differs from that of *others*."""
        parts = urllib.parse.urlsplit(self.url)  # without user, password and query
        return f"{parts.hostname or ''}{parts.path}".strip("/")

    def prepare(self, event: Event) -> Event:
        """Return *event* ready for a model. A source with objects binds ``event.open()``."""
        return event

    def findings(self, about: str, note: str = "") -> Iterable[Finding]:
        """Return findings about the source for the doctor.

        *about* is the name of the subscription, *note* the feeder's remark.
        """
        return ()


SOURCES = Adapters(
    "source",
    "mltrigger.sources",
    {
        "file": "sources.folder.source:FolderSource",
        "every": "sources.schedule.source:ScheduleSource",
        "cron": "sources.schedule.source:ScheduleSource",
        "outcomes": "sources.outcomes.source:OutcomeSource",
        "table+sqlite": "sources.table.source:TableSource",
        "table+postgresql": "sources.table.source:TableSource",
        "kafka": "sources.brokers.source:BrokerSource",
        "rabbitmq": "sources.brokers.source:BrokerSource",
        "nats": "sources.brokers.source:BrokerSource",
        "redis": "sources.brokers.source:BrokerSource",
        "rediss": "sources.brokers.source:BrokerSource",
        "mqtt": "sources.brokers.source:BrokerSource",
        "mqtts": "sources.brokers.source:BrokerSource",
    },
    InvalidName,
)
"""The kinds of sources by their URL scheme."""


def scheme_of(source: str | os.PathLike[str]) -> str:
    """Return the URL scheme of *source* as people write it.

    A path is ``file``. The name of a topic has none: the result is empty.
    """
    if not isinstance(source, str):
        return "file" if isinstance(source, os.PathLike) else ""
    if found := _SCHEME.match(source):
        return found[1].lower()
    return "file" if _PATH.fullmatch(source) else ""


def source_at(text: str | os.PathLike[str]) -> Source | None:
    """Return the source that *text* names, by its URL or path. ``None`` for anything else.

    Raises
    ------
    InvalidName
        When the adapter of another package cannot be loaded, or refuses *text*.
    """
    scheme = scheme_of(text)
    if scheme not in SOURCES:
        return None
    found: Source = SOURCES.load(scheme)(text)
    return found


def shown(urls: Mapping[str, str]) -> dict[str, str]:
    """Return topic -> a short form of its URL that tells it from the other *urls*."""
    places = {topic: place for topic, url in urls.items() if (place := _known(url)) is not None}
    return {
        topic: urllib.parse.unquote("/".join(url.split("/")[-2:])) for topic, url in urls.items()
    } | {
        topic: place.shown(
            other for name, other in places.items() if name != topic and type(other) is type(place)
        )
        for topic, place in places.items()
    }


def followed(urls: Mapping[str, str]) -> dict[str, str]:
    """Return topic -> the subscription whose outcomes its source in *urls* publishes there."""
    places = {topic: place for topic, url in urls.items() if (place := _known(url)) is not None}
    return {topic: place.follows for topic, place in places.items() if place.follows}


def _known(url: str) -> Source | None:
    try:
        return source_at(url)
    except InvalidName:  # its package is broken: the other rows are shown all the same
        return None
