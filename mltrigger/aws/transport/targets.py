"""Targets: the SNS topics and SQS queues to which the topics of a bus are sent."""

from __future__ import annotations

from typing import NamedTuple

from mltrigger.aws import limits
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.naming import FIFO, aws_kind
from mltrigger.store.registry import Registry


class Target(NamedTuple):
    """The target of a topic's events: an SNS topic's ARN, or the URL of somebody else's queue."""

    topic_arn: str | None
    queue_url: str | None

    @property
    def fifo(self) -> bool:
        """Whether it keeps the order of each group."""
        return (self.topic_arn or self.queue_url or "").endswith(FIFO)

    @property
    def limit(self) -> int:
        """The largest size of one message and of one call, in bytes."""
        return limits.SNS_MESSAGE.high if self.topic_arn else limits.SQS_MESSAGE.high


class Targets:
    """The targets of the topics of one bus, each found once.

    Parameters
    ----------
    resources : Resources
        Finds and makes topics and queues.
    registry : Registry
        Knows the sources of topics.
    """

    def __init__(self, resources: Resources, registry: Registry) -> None:
        self._resources, self._registry = resources, registry
        self._known: dict[str, Target] = {}

    def of(self, topic: str) -> Target:
        """Return the target of *topic*. AWS is not asked."""
        if topic not in self._known:
            source = self._registry.sources().get(topic)
            if source is not None and aws_kind(source) == "sqs":
                self._known[topic] = Target(None, self._resources.queue_url(source))
            else:
                self._known[topic] = Target(self._resources.topic_arn(topic, source), None)
        return self._known[topic]

    def discover(self, topic: str) -> None:
        """Add a topic of others to the registry, unless it is known.

        Raises
        ------
        NotFound
            There is no such topic.
        """
        if topic not in self._known and topic not in self._registry.topics():
            self._known[topic] = Target(self._resources.find_topic(topic), None)
            self._registry.topic(topic)

    def make(self, topic: str) -> Target:
        """Make *topic* on SNS, and return its target. Idempotent."""
        arn = self._resources.ensure_topic(topic, self._registry.sources().get(topic))
        self._known[topic] = Target(arn, None)
        return self._known[topic]

    def forget(self, topic: str) -> None:
        """Forget the target of a topic that was deleted."""
        self._known.pop(topic, None)
