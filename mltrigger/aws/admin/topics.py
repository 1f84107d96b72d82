"""Topics of ours, and the subscriptions of our queues to topics, ours or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mltrigger.aws.admin.plan import Settings, as_object, call, merged, missing
from mltrigger.aws.admin.pushdown import Pushed
from mltrigger.aws.admin.queues import TAG, Owner
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import Arn
from mltrigger.errors import NotFound

_FIFO = {"ContentBasedDeduplication": "false", "FifoThroughputScope": "MessageGroup"}
_DIFFERENT = "InvalidParameter"
"""What SNS says when a topic or subscription exists with other attributes, among much else."""


class Topic:
    """A topic of ours: a part of a plan.

    *policy* are statements that its policy shall have, beside what others have set.
    """

    kind = "topic"

    def __init__(
        self, clients: Any, arn: Arn, owner: Owner, policy: Mapping[str, Any] | None = None
    ) -> None:
        self.name, self.arn = arn.resource, arn
        self._clients, self._owner, self._policy = clients, owner, policy

    def look(self) -> Settings | None:
        """Return attributes and tags; raise NameTaken when it is not ours."""
        found = missing(
            lambda: call(
                self._clients.sns, "get_topic_attributes", self.name, TopicArn=str(self.arn)
            )
        )
        tags = None if found is None else missing(self._tags)
        if found is None or tags is None:
            return None
        self._owner.check(self.kind, self.name, tags)
        return {**found["Attributes"], **{TAG + name: value for name, value in tags.items()}}

    def wanted(self, now: Settings) -> Settings:
        """Return what it shall be."""
        wanted = {TAG + name: value for name, value in self._owner.tags.items()}
        if self._policy is not None:
            wanted["Policy"] = merged(now.get("Policy"), self._policy)
        # An emulator does not show what it does not know.
        fifo = _FIFO if self.arn.fifo else {}
        return {
            **wanted,
            **{
                name: value
                for name, value in fifo.items()
                if not (now and self._clients.endpoint) or name in now
            },
        }

    def create(self, wanted: Settings) -> None:
        """Make it. SNS gives back the one that is there if somebody else was first."""
        attributes = {name: value for name, value in wanted.items() if name in _FIFO}
        if self.arn.fifo:
            attributes["FifoTopic"] = "true"
        tags = [
            {"Key": name.removeprefix(TAG), "Value": value}
            for name, value in wanted.items()
            if name.startswith(TAG)
        ]
        try:
            call(
                self._clients.sns,
                "create_topic",
                self.name,
                Name=self.name,
                Attributes=attributes,
                Tags=tags,
            )
        except AwsError as error:
            if (
                not self._clients.endpoint
                or error.code != _DIFFERENT
                or "FifoThroughputScope" not in attributes
            ):
                raise
            attributes.pop("FifoThroughputScope")
            call(
                self._clients.sns,
                "create_topic",
                self.name,
                Name=self.name,
                Attributes=attributes,
                Tags=tags,
            )
        # Not in one call: a topic that is given a policy when it is made has no statement for its
        # own account.
        if "Policy" in wanted and (now := self.look()) is not None:
            self.change(now, {"Policy": self.wanted(now)["Policy"]})

    def change(self, now: Settings, different: Settings) -> None:
        """Set attributes and tags."""
        for name, value in different.items():
            if name.startswith(TAG):
                tags = [{"Key": name.removeprefix(TAG), "Value": value}]
                call(
                    self._clients.sns,
                    "tag_resource",
                    self.name,
                    ResourceArn=str(self.arn),
                    Tags=tags,
                )
            else:
                given = {"TopicArn": str(self.arn), "AttributeName": name, "AttributeValue": value}
                call(self._clients.sns, "set_topic_attributes", self.name, **given)

    def delete(self) -> bool:
        """Delete it if it is ours; say whether it was."""
        tags = missing(self._tags)
        if tags is None or any(tags.get(name) != value for name, value in self._owner.tags.items()):
            return False
        call(self._clients.sns, "delete_topic", self.name, TopicArn=str(self.arn))
        return True

    def _tags(self) -> dict[str, str]:
        try:
            found = call(
                self._clients.sns, "list_tags_for_resource", self.name, ResourceArn=str(self.arn)
            )
        except AwsError as error:
            if not self._clients.endpoint or error.code in DENIED | MISSING:
                raise
            return self._owner.tags  # an emulator without tags holds nobody else's topics
        return {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}


class Feed:
    """The subscription of a queue of ours to a topic: a part of a plan."""

    kind = "subscription"

    def __init__(
        self, clients: Any, topic: Arn, queue: Arn, pushed: Pushed, own_topic: bool
    ) -> None:
        self.name, self.topic, self.queue = queue.resource, topic, queue
        self.filtered = pushed.whole
        self._clients, self._pushed, self._own_topic = clients, pushed, own_topic
        self._arn: str | None = None

    def look(self) -> Settings | None:
        """Return its attributes."""
        self._arn = self.find()
        if self._arn is None:
            self._check_topic()
            return None
        found = missing(
            lambda: call(
                self._clients.sns,
                "get_subscription_attributes",
                self.name,
                SubscriptionArn=self._arn,
            )
        )
        return (
            None
            if found is None
            else {"FilterPolicyScope": "MessageAttributes", **found["Attributes"]}
        )

    def wanted(self, now: Settings) -> Settings:
        """Return raw delivery, and the filter that SNS shall apply."""
        if self._pushed.policy is not None:
            return {
                "RawMessageDelivery": "true",
                "FilterPolicy": self._pushed.policy,
                "FilterPolicyScope": self._pushed.scope,
            }
        return {
            "RawMessageDelivery": "true",
            **({"FilterPolicy": "{}"} if as_object(now.get("FilterPolicy")) else {}),
        }

    def create(self, wanted: Settings) -> None:
        """Subscribe the queue."""
        try:
            self._subscribe(wanted)
        except AwsError as error:
            if error.code != _DIFFERENT:
                raise
            # Either somebody else was first, with other attributes, or an emulator does not know an
            # operator of the filter.
            if (now := self.look()) is not None:
                self.change(now, self.wanted(now))
            elif self._clients.endpoint and self._pushed.policy is not None:
                self.filtered = False
                self._subscribe({"RawMessageDelivery": "true"})
            else:
                raise

    def change(self, now: Settings, different: Settings) -> None:
        """Set attributes; in an order in which SNS takes them and in which at no time less is
        delivered than before or after.
        """
        if different.get("FilterPolicyScope", now["FilterPolicyScope"]) != now[
            "FilterPolicyScope"
        ] and now.get("FilterPolicy"):
            self._set("FilterPolicy", "{}")  # a nested policy would be wrong in the other scope
            different = {"FilterPolicy": now["FilterPolicy"], **different}
        for name in sorted(different, reverse=True):  # the scope before the policy
            try:
                self._set(name, different[name])
            except AwsError as error:
                if name != "FilterPolicy" or error.code != _DIFFERENT or not self._clients.endpoint:
                    raise
                # an emulator that does not know an operator; on AWS it would be our mistake
                self.filtered = False
                self._set("FilterPolicy", "{}")

    def _set(self, name: str, value: str) -> None:
        given = {"SubscriptionArn": self._arn, "AttributeName": name, "AttributeValue": value}
        call(self._clients.sns, "set_subscription_attributes", self.name, **given)

    def delete(self) -> bool:
        """Unsubscribe; say whether there was a subscription."""
        if (arn := self.find()) is None:
            return False
        missing(lambda: call(self._clients.sns, "unsubscribe", self.name, SubscriptionArn=arn))
        return True

    def find(self) -> str | None:
        """Return the ARN of the subscription, ``None`` when there is none."""
        return next(
            (arn for endpoint, arn in self._subscriptions() if endpoint == str(self.queue)), None
        )

    def others(self) -> list[str]:
        """Return what else is subscribed to the topic."""
        return [endpoint for endpoint, _ in self._subscriptions() if endpoint != str(self.queue)]

    def _check_topic(self) -> None:
        """Raise NotFound when somebody else's topic is not there; who may not ask finds out by
        subscribing.
        """
        if self._own_topic:
            return
        try:
            call(
                self._clients.sns,
                "get_topic_attributes",
                self.topic.resource,
                TopicArn=str(self.topic),
            )
        except AwsError as error:
            if error.code in MISSING:
                raise self._no_topic() from error
            if error.code not in DENIED:
                raise

    def _no_topic(self) -> NotFound:
        return NotFound(
            f"no topic {str(self.topic)!r}: is the ARN right, and may this account see it?"
        )

    def _subscribe(self, wanted: Settings) -> None:
        made = call(
            self._clients.sns,
            "subscribe",
            self.name,
            TopicArn=str(self.topic),
            Protocol="sqs",
            Endpoint=str(self.queue),
            Attributes=dict(wanted),
            ReturnSubscriptionArn=True,
        )
        self._arn = str(made["SubscriptionArn"])

    def _subscriptions(self) -> Iterator[tuple[str, str]]:
        """Yield endpoint and ARN of the subscriptions of the topic; what is not confirmed has no
        ARN and is left out.
        """
        try:
            yield from self._pages("list_subscriptions_by_topic", {"TopicArn": str(self.topic)})
        except AwsError as error:
            if error.code in MISSING:
                if self._own_topic:
                    return
                raise self._no_topic() from error
            if error.code not in DENIED or self._own_topic:
                raise
            # Somebody else's topic may allow to subscribe and not to list; our own account lists
            # what is its own.
            yield from self._pages("list_subscriptions", {})

    def _pages(self, operation: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        token: dict[str, str] = {}
        while True:
            page = call(self._clients.sns, operation, self.topic.resource, **given, **token)
            for each in page.get("Subscriptions", ()):
                if each.get("TopicArn", str(self.topic)) == str(self.topic) and str(
                    each["SubscriptionArn"]
                ).startswith("arn:"):
                    yield str(each["Endpoint"]), str(each["SubscriptionArn"])
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}
