"""The names in a CloudFormation template: logical ids, and names with the template's parameters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mltrigger.aws import naming
from mltrigger.errors import InvalidName
from mltrigger.names import check_name

MAX_PREFIX = 40
_PLAIN = re.compile(r"[a-z][a-z0-9]*")


class Queue(NamedTuple):
    """One subscription.

    The logical ids of its resources end in *id*. The other names are expressions of the template's
    parameters.
    """

    id: str
    subscription: str
    queue: str
    dead: str
    tag: str


class Feed(NamedTuple):
    """One topic and its subscriptions.

    *room* is the length of the longest prefix with which no name is shortened, ``None`` if a name
    is already shortened.
    """

    id: str
    topic: str
    name: str
    source: naming.S3Source | None
    fifo: bool
    subscriptions: tuple[Queue, ...]
    room: int | None


def feeds_of(prefix: str, topics: Mapping[str, Sequence[str]]) -> list[Feed]:
    """Return topics and subscriptions of the bus *prefix* with their names.

    Raises
    ------
    InvalidName
        A name is wrong, or two subscriptions would share a queue.
    """
    feeds = [_feed(prefix, topic, names) for topic, names in topics.items()]
    _check_distinct(feeds)
    return feeds


def is_single(feeds: Sequence[Feed]) -> bool:
    """Whether there is one plain topic with one subscription: its names can be parameters."""
    if len(feeds) != 1:
        return False
    (feed,) = feeds
    return len(feed.subscriptions) == 1 and not feed.source and not feed.fifo


def with_parameters(feed: Feed) -> Feed:
    """Return the only topic, with its names as parameters.

    CloudFormation refuses names that are too long, so no resource gets a wrong one.
    """
    if feed.room is None:
        return feed
    queue = "${Prefix}-${TopicName}-${SubscriptionName}"
    only = feed.subscriptions[0]._replace(
        queue=queue, dead=f"{queue}-{naming.DEAD}", tag="${SubscriptionName}"
    )
    return feed._replace(name="${Prefix}-${TopicName}", subscriptions=(only,))


def logical_id(*names: str) -> str:
    """Return the end of a logical id, which depends on *names* only.

    Otherwise an update of the stack would replace queues.
    """
    plain = "".join(
        part.capitalize() for name in names for part in re.findall(r"[A-Za-z0-9]+", name)
    )
    if all(_PLAIN.fullmatch(name) for name in names):
        return plain
    return plain[:100] + hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


def _feed(prefix: str, topic: str, subscriptions: Sequence[str]) -> Feed:
    if isinstance(subscriptions, str):
        raise InvalidName(
            f"the subscriptions of topic {topic!r} must be a list of names, got the text"
            f" {subscriptions!r}"
        )
    source = naming.S3Source.parse(topic) if topic.startswith("s3://") else None
    called = source.topic_name if source else topic
    check_name("topic", called.removesuffix(naming.FIFO))
    for name in subscriptions:
        check_name("subscription", name)
    if len(set(subscriptions)) != len(subscriptions):
        raise InvalidName(f"topic {topic!r} names a subscription twice: {', '.join(subscriptions)}")
    made = [_queue(prefix, called, name) for name in subscriptions]
    rooms = [room for _, room in made]
    return Feed(
        id=logical_id(called),
        topic=called,
        name="${Prefix}" + naming.topic_name(prefix, called)[len(prefix) :],
        source=source,
        fifo=called.endswith(naming.FIFO),
        subscriptions=tuple(queue for queue, _ in made),
        room=shortest_room(rooms),
    )


def shortest_room(rooms: Sequence[int | None]) -> int | None:
    """Return the shortest of *rooms*, at most ``MAX_PREFIX``. ``None`` if one is ``None``."""
    known = [room for room in rooms if room is not None]
    return min([MAX_PREFIX, *known]) if len(known) == len(rooms) else None


def _queue(prefix: str, topic: str, name: str) -> tuple[Queue, int | None]:
    """Return a subscription, and its room for a prefix."""
    queue, dead = naming.queue_name(prefix, topic, name), naming.dead_name(prefix, topic, name)
    rest = f"-{topic.removesuffix(naming.FIFO)}-{name}"
    if queue.removesuffix(naming.FIFO) != prefix + rest:  # shortened, for this very prefix
        return Queue(logical_id(topic, name), name, queue, dead, name), None
    at = len(prefix)
    found = Queue(
        logical_id(topic, name), name, "${Prefix}" + queue[at:], "${Prefix}" + dead[at:], name
    )
    return found, naming.MAX_QUEUE - len(dead) + len(prefix)


def _check_distinct(feeds: Sequence[Feed]) -> None:
    """Raise InvalidName if two resources would have one name.

    ``a`` of topic ``b-c`` and ``c-a`` of topic ``b`` have the same one, for example.
    """
    owners: dict[tuple[str, str], str] = {}
    for kind, name, owner in _named(feeds):
        other = owners.setdefault((kind, name), owner)
        if other is not owner:
            raise InvalidName(
                f"{other} and {owner} would share the {kind} {name!r}: rename one of them"
            )
    if not any(feed.subscriptions for feed in feeds):
        raise InvalidName(
            "a template needs at least one topic with a subscription, such as documents=reader"
        )


def _named(feeds: Sequence[Feed]) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and owner of each topic and queue."""
    for feed in feeds:
        yield "topic", feed.name, f"topic {feed.topic!r}"
        for queue in feed.subscriptions:
            owner = f"subscription {queue.subscription!r} of topic {feed.topic!r}"
            yield "queue", queue.queue, owner
            yield "queue", queue.dead, owner
