"""Topics of ours, and the SNS subscriptions of our queues, as parts of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mltrigger.aws.admin import topology
from mltrigger.aws.admin.plan import (
    Settings,
    as_object,
    call,
    merged,
    missing,
    parted,
    tag_settings,
)
from mltrigger.aws.admin.pushdown import Pushed
from mltrigger.aws.admin.topology import Owner
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import Arn
from mltrigger.errors import NotFound

_DIFFERENT = "InvalidParameter"
"""SNS' code when a topic or subscription exists with other attributes, among other cases."""


class Topic:
    """A topic of ours: a part of a plan.

    *policy* has the statements that its policy shall have beside those of others.
    """

    kind = "topic"

    def __init__(
        self, clients: Any, arn: Arn, owner: Owner, policy: Mapping[str, Any] | None = None
    ) -> None:
        self.name, self.arn = arn.resource, arn
        self._clients, self._owner, self._policy = clients, owner, policy

    def look(self) -> Settings | None:
        """Return attributes and tags, ``None`` if there is no such topic.

        Raise NameTaken if it is not ours.
        """
        found = missing(lambda: self._call("get_topic_attributes", TopicArn=str(self.arn)))
        tags = None if found is None else missing(self._tags)
        if found is None or tags is None:
            return None
        self._owner.check(self.kind, self.name, tags)
        return {**found["Attributes"], **tag_settings(tags)}

    def wanted(self, now: Settings) -> Settings:
        """Return the wanted settings."""
        wanted = tag_settings(self._owner.tags)
        if self._policy is not None:
            wanted["Policy"] = merged(now.get("Policy"), self._policy)
        for name, value in topology.as_text(topology.topic(fifo=self.arn.fifo)).items():
            # An emulator does not show settings it does not know.
            if name in now or not (now and self._clients.endpoint):
                wanted[name] = value
        return wanted

    def create(self, wanted: Settings) -> None:
        """Create it. If somebody else was first, SNS returns the existing topic."""
        attributes, tags = parted(wanted)
        policy = attributes.pop("Policy", None)
        if self.arn.fifo:
            attributes["FifoTopic"] = "true"
        given = {"Name": self.name, "Attributes": attributes, "Tags": _as_list(tags)}
        try:
            self._call("create_topic", **given)
        except AwsError as error:
            known = self._clients.endpoint and error.code == _DIFFERENT
            if not known or attributes.pop("FifoThroughputScope", None) is None:
                raise
            self._call("create_topic", **given)
        # In a second call: a topic created with a policy has no statement for its own account.
        if policy is not None and (now := self.look()) is not None:
            self.change(now, {"Policy": self.wanted(now)["Policy"]})

    def change(self, now: Settings, different: Settings) -> None:
        """Set attributes and tags."""
        attributes, tags = parted(different)
        if tags:
            self._call("tag_resource", ResourceArn=str(self.arn), Tags=_as_list(tags))
        for name, value in attributes.items():
            given = {"TopicArn": str(self.arn), "AttributeName": name, "AttributeValue": value}
            self._call("set_topic_attributes", **given)

    def delete(self) -> bool:
        """Delete it if it is ours. Return whether it was."""
        tags = missing(self._tags)
        if tags is None or any(tags.get(name) != value for name, value in self._owner.tags.items()):
            return False
        self._call("delete_topic", TopicArn=str(self.arn))
        return True

    def _call(self, operation: str, **given: Any) -> Any:
        return call(self._clients.sns, operation, self.name, **given)

    def _tags(self) -> dict[str, str]:
        try:
            found = self._call("list_tags_for_resource", ResourceArn=str(self.arn))
        except AwsError as error:
            if not self._clients.endpoint or error.code in DENIED | MISSING:
                raise
            return self._owner.tags  # an emulator without tags has no topics of others
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
        """Return its attributes, ``None`` if there is no such subscription."""
        self._arn = arn = self.find()
        if arn is None:
            self._check_topic()
            return None
        found = missing(lambda: self._call("get_subscription_attributes", SubscriptionArn=arn))
        if found is None:
            return None
        return {"FilterPolicyScope": "MessageAttributes", **found["Attributes"]}

    def wanted(self, now: Settings) -> Settings:
        """Return raw delivery, and the filter for SNS."""
        wanted = topology.as_text(topology.feed())
        if self._pushed.policy is not None:
            wanted["FilterPolicy"] = self._pushed.policy
            wanted["FilterPolicyScope"] = self._pushed.scope
        elif as_object(now.get("FilterPolicy")):
            wanted["FilterPolicy"] = "{}"
        return wanted

    def create(self, wanted: Settings) -> None:
        """Subscribe the queue."""
        try:
            self._subscribe(wanted)
        except AwsError as error:
            if error.code != _DIFFERENT:
                raise
            # Somebody else was first with other attributes, or an emulator does not know an
            # operator of the filter.
            if (now := self.look()) is not None:
                self.change(now, self.wanted(now))
            elif self._clients.endpoint and self._pushed.policy is not None:
                self.filtered = False
                self._subscribe(topology.as_text(topology.feed()))
            else:
                raise

    def change(self, now: Settings, different: Settings) -> None:
        """Set attributes, in an order that SNS accepts.

        At no time is less delivered than before or after.
        """
        scope = now["FilterPolicyScope"]
        if different.get("FilterPolicyScope", scope) != scope and now.get("FilterPolicy"):
            self._set("FilterPolicy", "{}")  # a nested policy is wrong in the other scope
            different = {"FilterPolicy": now["FilterPolicy"], **different}
        for name in sorted(different, reverse=True):  # the scope before the policy
            try:
                self._set(name, different[name])
            except AwsError as error:
                if name != "FilterPolicy" or error.code != _DIFFERENT or not self._clients.endpoint:
                    raise
                # An emulator does not know the operator. On AWS it would be our mistake.
                self.filtered = False
                self._set("FilterPolicy", "{}")

    def delete(self) -> bool:
        """Unsubscribe the queue. Return whether it was subscribed."""
        if (arn := self.find()) is None:
            return False
        missing(lambda: self._call("unsubscribe", SubscriptionArn=arn))
        return True

    def find(self) -> str | None:
        """Return the ARN of the subscription, ``None`` if there is none."""
        return next(
            (arn for endpoint, arn in self._subscriptions() if endpoint == str(self.queue)), None
        )

    def others(self) -> list[str]:
        """Return the other subscribers of the topic."""
        return [endpoint for endpoint, _ in self._subscriptions() if endpoint != str(self.queue)]

    def _call(self, operation: str, **given: Any) -> Any:
        return call(self._clients.sns, operation, self.name, **given)

    def _set(self, name: str, value: str) -> None:
        given = {"SubscriptionArn": self._arn, "AttributeName": name, "AttributeValue": value}
        self._call("set_subscription_attributes", **given)

    def _check_topic(self) -> None:
        """Raise NotFound if somebody else's topic does not exist.

        Without the right to ask, subscribing finds it out.
        """
        if self._own_topic:
            return
        arn = str(self.topic)
        try:
            call(self._clients.sns, "get_topic_attributes", self.topic.resource, TopicArn=arn)
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
        made = self._call(
            "subscribe",
            TopicArn=str(self.topic),
            Protocol="sqs",
            Endpoint=str(self.queue),
            Attributes=dict(wanted),
            ReturnSubscriptionArn=True,
        )
        self._arn = str(made["SubscriptionArn"])

    def _subscriptions(self) -> Iterator[tuple[str, str]]:
        """Yield endpoint and ARN of the topic's subscriptions.

        Unconfirmed ones have no ARN and are left out.
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
            # Somebody else's topic may allow subscribing but not listing. Our own account lists
            # its own subscriptions.
            yield from self._pages("list_subscriptions", {})

    def _pages(self, operation: str, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        token: dict[str, str] = {}
        while True:
            page = call(self._clients.sns, operation, self.topic.resource, **given, **token)
            for each in page.get("Subscriptions", ()):
                arn, topic = str(each["SubscriptionArn"]), each.get("TopicArn", str(self.topic))
                if topic == str(self.topic) and arn.startswith("arn:"):
                    yield str(each["Endpoint"]), arn
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": name, "Value": value} for name, value in tags.items()]
