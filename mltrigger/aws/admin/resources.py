"""The AWS resources of a subscription: plan, make, find, delete. Each step is idempotent."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mltrigger.aws import naming
from mltrigger.aws.admin.buckets import Notification
from mltrigger.aws.admin.plan import Change, Part, apply, call, changes, missing
from mltrigger.aws.admin.policies import topic_policy
from mltrigger.aws.admin.preflight import Missing, preflight
from mltrigger.aws.admin.pushdown import push
from mltrigger.aws.admin.queues import Queue, dead_letter_queue, work_queue
from mltrigger.aws.admin.topics import Feed, Topic
from mltrigger.aws.admin.topology import Owner
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import FIFO, Arn, S3Source
from mltrigger.broker import SOURCES, SubscriptionSpec, scheme_of
from mltrigger.errors import InvalidName, NotFound

Source = Literal["topic", "s3", "sns", "sqs"]
_PAGES = 10
"""The most calls, of a hundred topics each, for the names in an error message."""


class Place(NamedTuple):
    """The queue of a subscription, and its surroundings.

    Attributes
    ----------
    queue_url, queue_arn : str
        The queue that is listened to.
    dead_url, dead_arn : str or None
        Its dead-letter queue. ``None`` if there is none, or somebody else decides that.
    topic_arn : str or None
        The topic that feeds the queue. ``None`` if somebody else does.
    fifo : bool
        Whether groups keep their order.
    filtered : bool
        Whether SNS applies the whole filter to events in our wire format. Messages of other
        publishers, and those sent in the first 15 minutes of a filter, still come. So the listener
        always applies the filter.
    owned : bool
        Whether the queue is ours, to make and to remove.
    """

    queue_url: str
    queue_arn: str
    dead_url: str | None
    dead_arn: str | None
    topic_arn: str | None
    fifo: bool
    filtered: bool
    owned: bool


class _Needs(NamedTuple):
    """The parts of one subscription, in the order in which they are made."""

    kind: Source
    topic: Arn
    own_topic: Topic | None
    dead: Queue
    queue: Queue
    feed: Feed
    notification: Notification | None

    @property
    def parts(self) -> list[Part]:
        """All parts: the way out of the queue first, then the way in, and the bucket last.

        In this order no announced object is lost.
        """
        found: list[Part | None] = [
            self.own_topic,
            self.dead,
            self.queue,
            self.feed,
            self.notification,
        ]
        return [part for part in found if part is not None]


class Resources:
    """Topics, queues and subscriptions of one bus.

    Parameters
    ----------
    clients : Clients
        Clients of one account and region.
    prefix : str
        The name of the bus. Names and tags of its topics and queues begin with it.
    offloads : bool
        Whether bodies beyond the limit may lie in S3. Then no filter on the body is pushed to SNS,
        which cannot see such bodies.
    pause : callable
        Waits for some seconds.

    A `source` is ``None`` for a topic of the bus, else ``s3://…``, the ARN of a topic, or the ARN
    or URL of a queue. Errors of AWS are :class:`~mltrigger.aws.faults.AwsError`.
    """

    def __init__(
        self,
        clients: Any,
        prefix: str,
        *,
        offloads: bool = True,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.prefix = naming.check_prefix(prefix)
        self._clients, self._offloads, self._pause = clients, offloads, pause

    # -- making ------------------------------------------------------------------------------------

    def plan(self, spec: SubscriptionSpec, source: str | None = None) -> list[Change]:
        """Return the changes that :meth:`ensure` would make. Change nothing.

        Raise the same errors as :meth:`ensure` before its first change.
        """
        if _kind(source) == "sqs":
            return [Change("keep", "queue", self._foreign(str(source)).resource)]
        return [
            change
            for part in self._needs(spec, source).parts
            for change in changes(part, part.look())
        ]

    def ensure(self, spec: SubscriptionSpec, source: str | None = None) -> Place:
        """Make or change the resources of *spec*. Return its place.

        A queue of somebody else is never made or changed. A resource with our name but without our
        tags is refused before anything is made. After an interruption, call it again.

        Raises
        ------
        NameTaken
            A queue or topic of this name belongs to somebody else, or another notification of the
            bucket overlaps with the source.
        NotFound
            The bucket, or the queue or topic of somebody else, does not exist.
        InvalidName
            The source cannot be listened to from this bus.
        """
        if _kind(source) == "sqs":
            return self._listen_to(str(source))
        needs = self._needs(spec, source)
        for part, now in [(part, part.look()) for part in needs.parts]:
            apply(part, now)
        return self._place(needs, needs.feed.filtered)

    def ensure_topic(self, topic: str, source: str | None = None) -> str:
        """Make the topic and return its ARN.

        For an S3 source, also set the topic's policy and the bucket's notification.
        """
        arn = self._topic_arn(topic, source)
        own, notification = self._topic(arn, source)
        parts: list[Part] = [part for part in (own, notification) if part is not None]
        for part, now in [(part, part.look()) for part in parts]:
            apply(part, now)
        return str(arn)

    # -- finding -----------------------------------------------------------------------------------

    def find(self, spec: SubscriptionSpec, source: str | None = None) -> Place:
        """Return the place of *spec*. Raise NotFound with near names if it was not made.

        It changes nothing and needs few permissions. ``filtered`` is true only if there is no
        filter: a listener may not be allowed to ask SNS.
        """
        if _kind(source) == "sqs":
            return self._listen_to(str(source))
        needs = self._needs(spec, source)
        if not needs.queue.exists():
            raise NotFound.of("queue", needs.queue.name, self._names(), "subscribe makes it")
        needs.queue.check()
        return self._place(needs, needs.feed.filtered and spec.filter is None)

    def find_topic(self, topic: str) -> str:
        """Return the ARN of a topic of the bus. Raise NotFound with near names if there is none.

        Without the right to ask, return the ARN that it would have.
        """
        arn = self._topic_arn(topic, None)
        try:
            call(self._clients.sns, "get_topic_attributes", arn.resource, TopicArn=str(arn))
        except AwsError as error:
            if error.code in MISSING:
                raise NotFound.of(
                    "topic", topic, self._topics(), f"subscribe or bus.topic({topic!r}) makes it"
                ) from error
            if error.code not in DENIED:
                raise
        return str(arn)

    def topic_arn(self, topic: str, source: str | None = None) -> str:
        """Return the ARN that the topic has or would have. At most the account is asked for."""
        return str(self._topic_arn(topic, source))

    def queue_url(self, source: str) -> str:
        """Return the URL of the queue *source*, an ARN or URL. Only an emulator is asked for it."""
        return self._listen_to(source).queue_url

    def preflight(self, queue_url: str) -> list[Missing]:
        """Return the missing permissions of the four that listening to a queue needs.

        No message is touched, see :func:`~mltrigger.aws.admin.preflight.preflight`.
        """
        return preflight(self._clients, queue_url)

    # -- deleting ----------------------------------------------------------------------------------

    def remove(self, spec: SubscriptionSpec, source: str | None = None) -> None:
        """End the SNS subscription of *spec*. Its queue stays, with its messages."""
        if _kind(source) != "sqs":
            self._needs(spec, source).feed.delete()

    def delete(
        self, spec: SubscriptionSpec, source: str | None = None, last: bool = False
    ) -> list[Change]:
        """Delete the resources that :meth:`ensure` made for *spec*, messages included.

        They are the subscription, the queue and the dead-letter queue. With *last* also the topic
        and the bucket's notification, unless the topic has other subscribers. Resources without our
        tags stay.
        """
        if _kind(source) == "sqs":
            return []
        needs = self._needs(spec, source)
        gone: list[Part] = []
        if needs.feed.delete():
            gone.append(needs.feed)
        gone += [queue for queue in (needs.queue, needs.dead) if queue.delete()]
        if last and needs.own_topic is not None and not needs.feed.others():
            if needs.notification is not None and needs.notification.delete():
                gone.append(needs.notification)
            if needs.own_topic.delete():
                gone.append(needs.own_topic)
        return [Change("delete", part.kind, part.name) for part in gone]

    # -- its parts ---------------------------------------------------------------------------------

    def _needs(self, spec: SubscriptionSpec, source: str | None) -> _Needs:
        topic = self._topic_arn(spec.topic, source)
        own, notification = self._topic(topic, source)
        named = spec.topic.removesuffix(FIFO) + (FIFO if topic.fifo else "")
        arn = self._arn("sqs", naming.queue_name(self.prefix, named, spec.name))
        dead = self._arn("sqs", naming.dead_name(self.prefix, named, spec.name))
        owner = Owner(self.prefix, spec.name)
        pushed = push(spec.filter, own=_kind(source) == "topic", offloads=self._offloads)
        return _Needs(
            kind=_kind(source),
            topic=topic,
            own_topic=own,
            dead=dead_letter_queue(self._clients, dead, arn, owner),
            queue=work_queue(self._clients, arn, dead, owner, topic, spec.policy),
            feed=Feed(self._clients, topic, arn, pushed, own is not None),
            notification=notification,
        )

    def _topic(self, arn: Arn, source: str | None) -> tuple[Topic | None, Notification | None]:
        kind, owner = _kind(source), Owner(self.prefix)
        if kind == "sns":
            return None, None
        if kind == "topic":
            return Topic(self._clients, arn, owner), None
        objects = S3Source.parse(str(source))
        policy = topic_policy(str(arn), objects.bucket, self._clients.account)
        return Topic(self._clients, arn, owner, policy), Notification(
            self._clients, objects, arn, self._pause
        )

    def _topic_arn(self, topic: str, source: str | None) -> Arn:
        kind = _kind(source)
        if kind == "sqs":
            raise InvalidName(
                f"source {source!r} is a queue: nothing publishes to it through a topic of ours"
            )
        if kind == "sns":
            return self._here(Arn.parse(str(source)), str(source))
        if kind == "s3" and topic.endswith(FIFO):
            raise InvalidName(
                f"topic {topic!r} cannot have the source {source!r}: S3 announces nothing to FIFO"
                " topics"
            )
        return self._arn("sns", naming.topic_name(self.prefix, topic))

    def _arn(self, service: str, name: str) -> Arn:
        return Arn(
            self._clients.partition, service, self._clients.region, self._clients.account, name
        )

    def _foreign(self, source: str) -> Arn:
        return self._here(naming.queue_arn(source, self._clients.region), source)

    def _here(self, arn: Arn, source: str) -> Arn:
        if arn.region != self._clients.region and not self._clients.endpoint:
            raise InvalidName(
                f"source {source!r} is in {arn.region}, this bus in {self._clients.region}:"
                f" mt.connect('aws://{arn.region}/{self.prefix}')"
            )
        return arn

    def _listen_to(self, source: str) -> Place:
        """Return the place of a queue of somebody else. Only an emulator is asked, for the URL."""
        arn = self._foreign(source)
        url = source
        if source.startswith("arn:"):
            url = naming.queue_url(arn)
            if self._clients.endpoint:
                given = {"QueueName": arn.resource, "QueueOwnerAWSAccountId": arn.account}
                found = missing(
                    lambda: call(self._clients.sqs, "get_queue_url", arn.resource, **given)
                )
                if found is None:
                    raise NotFound(f"no queue {source!r}: is the ARN right?")
                url = str(found["QueueUrl"])
        return Place(url, str(arn), None, None, None, arn.fifo, filtered=False, owned=False)

    def _place(self, needs: _Needs, filtered: bool) -> Place:
        dead = needs.dead.exists()
        return Place(
            queue_url=needs.queue.url,
            queue_arn=str(needs.queue.arn),
            dead_url=needs.dead.url if dead else None,
            dead_arn=str(needs.dead.arn) if dead else None,
            topic_arn=str(needs.topic),
            fifo=needs.queue.arn.fifo,
            filtered=filtered,
            owned=True,
        )

    def _names(self) -> list[str]:
        """Return the names of the bus's queues, none if they may not be listed."""
        found = self._listed(self._clients.sqs, "list_queues", QueueNamePrefix=f"{self.prefix}-")
        names = [url.rpartition("/")[2] for url in found.get("QueueUrls", ())]
        return [name for name in names if not name.removesuffix(FIFO).endswith(f"-{naming.DEAD}")]

    def _topics(self) -> list[str]:
        """Return topics of the bus among the first of the account, none if it may not list them."""
        names: list[str] = []
        page: dict[str, Any] = {"NextToken": None}
        for _ in range(_PAGES):
            if "NextToken" not in page:
                break
            page = self._listed(
                self._clients.sns,
                "list_topics",
                **({"NextToken": page["NextToken"]} if page["NextToken"] else {}),
            )
            names += [each["TopicArn"].rpartition(":")[2] for each in page.get("Topics", ())]
        return [
            name.removeprefix(f"{self.prefix}-")
            for name in names
            if name.startswith(f"{self.prefix}-")
        ]

    def _listed(self, client: Any, operation: str, **given: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = call(client, operation, self.prefix, **given)
        except AwsError as error:
            if error.code not in DENIED:
                raise
            return {}
        return found


def _kind(source: str | None) -> Source:
    if source is None or scheme_of(source) in SOURCES:
        return "topic"  # a feeder publishes folders, tables and the like on a topic of the bus
    kind = naming.aws_kind(source)
    if kind is None:
        raise InvalidName(
            f"source {source!r} must be s3://bucket/pattern, the ARN of a queue or topic, or a"
            " queue URL with an account of 12 digits"
        )
    return kind
