"""What a subscription needs on AWS: shown, made, found, and taken away again.

Everything may be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mltrigger.aws import naming
from mltrigger.aws.admin.buckets import Notification
from mltrigger.aws.admin.plan import Change, Part, apply, call, changes, missing
from mltrigger.aws.admin.policies import topic_policy
from mltrigger.aws.admin.pushdown import push
from mltrigger.aws.admin.queues import Queue, dead_letter_queue, work_queue
from mltrigger.aws.admin.topics import Feed, Topic
from mltrigger.aws.admin.topology import Owner
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import FIFO, Arn, S3Source
from mltrigger.broker import SubscriptionSpec
from mltrigger.errors import InvalidName, NotFound

Source = Literal["topic", "s3", "sns", "sqs"]
_NO_HANDLE = "mltrigger-preflight"
_PAGES = 10
"""Most calls, of a hundred topics each, for the names in an error message."""
_BEYOND = 11
"""More messages than a receive may ask for."""


class Place(NamedTuple):
    """Where the messages of a subscription are.

    Attributes
    ----------
    queue_url, queue_arn : str
        What is listened to.
    dead_url, dead_arn : str or None
        The dead-letter queue that SQS moves to; ``None`` when somebody else decides that, or there
        is none.
    topic_arn : str or None
        What feeds the queue; ``None`` when somebody else does.
    fifo : bool
        Whether groups keep their order.
    filtered : bool
        Whether SNS applies the whole filter to events in our wire format. What others publish, and
        what was sent before SNS knew the filter (15 minutes), comes nevertheless: the listener
        always applies it.
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


class Missing(NamedTuple):
    """A permission that listening needs and that is not there."""

    action: str
    message: str


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
        """All of them: the way out of the queue before the way in, and the bucket last, so that
        nothing it announces is lost.
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
        The name of the bus: what the names of its topics and queues begin with, and what they are
        tagged with.
    offloads : bool
        Whether bodies beyond the limit may lie in S3. Then no filter on the body is pushed to SNS,
        which would not see what it asks for.
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
        """Return what :meth:`ensure` would do, without doing it; it raises what :meth:`ensure`
        would raise before its first change.
        """
        if _kind(source) == "sqs":
            return [Change("keep", "queue", self._foreign(str(source)).resource)]
        return [
            change
            for part in self._needs(spec, source).parts
            for change in changes(part, part.look())
        ]

    def ensure(self, spec: SubscriptionSpec, source: str | None = None) -> Place:
        """Make what *spec* needs, or bring it to what it shall be, and return where it is.

        Nothing of a queue that somebody else owns is made or changed. What is there of the names
        and not tagged as ours is refused before anything is made. If it is interrupted, calling it
        again goes on.

        Raises
        ------
        NameTaken
            A queue or topic of the name is somebody else's, or another notification of the bucket
            overlaps with the source.
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
        """Make the topic, for an S3 source with the bucket's permission and notification, and
        return its ARN.
        """
        arn = self._topic_arn(topic, source)
        own, notification = self._topic(arn, source)
        parts: list[Part] = [part for part in (own, notification) if part is not None]
        for part, now in [(part, part.look()) for part in parts]:
            apply(part, now)
        return str(arn)

    # -- finding -----------------------------------------------------------------------------------

    def find(self, spec: SubscriptionSpec, source: str | None = None) -> Place:
        """Return where *spec* is; raise NotFound with near names when it was not made.

        Changes nothing, and needs few permissions.

        ``filtered`` is true only when there is no filter: a listener may not be allowed to ask SNS.
        """
        if _kind(source) == "sqs":
            return self._listen_to(str(source))
        needs = self._needs(spec, source)
        if not needs.queue.exists():
            raise NotFound.of("queue", needs.queue.name, self._names(), "subscribe makes it")
        needs.queue.check()
        return self._place(needs, needs.feed.filtered and spec.filter is None)

    def find_topic(self, topic: str) -> str:
        """Return the ARN of the topic of the bus; raise NotFound with near names when nobody has
        made it.

        Who may publish only, and not ask, is given the ARN that it would have.
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
        """Return the ARN that the topic has or would have; nothing is asked but who we are."""
        return str(self._topic_arn(topic, source))

    def queue_url(self, source: str) -> str:
        """Return the URL of the queue that *source* names, an ARN or URL; only an emulator is asked
        for it.
        """
        return self._listen_to(source).queue_url

    def preflight(self, queue_url: str) -> list[Missing]:
        """Return which of the four permissions are missing that listening to a queue takes, without
        touching a message.

        AWS decides whether a caller may before it looks at what was asked: DeleteMessage and
        ChangeMessageVisibility are asked with a receipt handle that is none, ReceiveMessage for 11
        messages, which is more than there may be. Who may not, is told so; who may, is told that
        the request is wrong, and no message was received, counted or hidden. GetQueueAttributes
        reads one attribute. A permission that AWS should come to check later than the request is
        taken for given: there is no false alarm.
        """
        about = queue_url.rpartition("/")[2]
        asked: list[tuple[str, str, dict[str, Any]]] = [
            (
                "sqs:ReceiveMessage",
                "receive_message",
                {"MaxNumberOfMessages": _BEYOND, "WaitTimeSeconds": 0},
            ),
            ("sqs:DeleteMessage", "delete_message", {"ReceiptHandle": _NO_HANDLE}),
            (
                "sqs:ChangeMessageVisibility",
                "change_message_visibility",
                {"ReceiptHandle": _NO_HANDLE, "VisibilityTimeout": 30},
            ),
            ("sqs:GetQueueAttributes", "get_queue_attributes", {"AttributeNames": ["QueueArn"]}),
        ]
        found = []
        for action, operation, given in asked:
            try:
                call(self._clients.sqs, operation, about, QueueUrl=queue_url, **given)
            except AwsError as error:
                if error.code in DENIED:
                    found.append(Missing(action, str(error)))
                elif error.code in _NO_QUEUE:
                    raise NotFound(
                        f"no queue {queue_url!r}, or this account may not see it: is the URL right?"
                        f" {error}"
                    ) from error
                elif not _refused_as_meant(error.code):
                    raise
        return found

    # -- taking away -------------------------------------------------------------------------------

    def remove(self, spec: SubscriptionSpec, source: str | None = None) -> None:
        """End the SNS subscription of *spec*: nothing more comes into its queue, which stays with
        what is in it.
        """
        if _kind(source) != "sqs":
            self._needs(spec, source).feed.delete()

    def delete(
        self, spec: SubscriptionSpec, source: str | None = None, last: bool = False
    ) -> list[Change]:
        """Delete what :meth:`ensure` made for *spec*: subscription, queue and dead-letter queue,
        with what is in them.

        With *last* also the topic and the bucket's notification, unless something else is
        subscribed to the topic. What is not tagged as ours stays. Returns what was deleted.
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

    # -- what it is made of ------------------------------------------------------------------------

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
        """Return the place of a queue that somebody else owns; nothing but its URL is asked for,
        and only of an emulator.
        """
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
        """Return the names of the queues of the bus, none when they may not be listed."""
        found = self._listed(self._clients.sqs, "list_queues", QueueNamePrefix=f"{self.prefix}-")
        names = [url.rpartition("/")[2] for url in found.get("QueueUrls", ())]
        return [name for name in names if not name.removesuffix(FIFO).endswith(f"-{naming.DEAD}")]

    def _topics(self) -> list[str]:
        """Return the topics of the bus, among the first of the account; none when they may not be
        listed.
        """
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


_NO_QUEUE = MISSING - {"404"}
_AS_MEANT = (
    "Invalid",
    "ReceiptHandle",
    "OutOfRange",
    "NotInflight",
    "MessageNotInflight",
    "ValidationError",
)


def _refused_as_meant(code: str) -> bool:
    """Whether *code* says that the request is wrong, which it is on purpose."""
    return any(part in code for part in _AS_MEANT)


def _kind(source: str | None) -> Source:
    if source is None or source.startswith("file:"):  # a folder is published on a topic of the bus
        return "topic"
    kind = naming.aws_kind(source)
    if kind is None:
        raise InvalidName(
            f"source {source!r} must be s3://bucket/pattern, the ARN of a queue or topic, or a"
            " queue URL with an account of 12 digits"
        )
    return kind
