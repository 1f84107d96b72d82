"""The topology of a bus on AWS: the settings of each topic, queue and subscription.

``subscribe``, ``plan`` and ``doctor`` make and compare these settings by API calls. The
CloudFormation template declares the same ones. CloudFormation and the APIs use the same names of
settings. Names of resources are in :mod:`mltrigger.aws.naming`, resource policies in
:mod:`mltrigger.aws.admin.policies`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.aws.naming import S3Source
from mltrigger.errors import NameTaken
from mltrigger.policy import DeliveryPolicy

Properties = dict[str, Any]
"""Settings by name. Values are plain Python values, or expressions of a template."""

TAG_BUS = "mltrigger:bus"
TAG_SUBSCRIPTION = "mltrigger:subscription"
RETENTION_S = 10 * 24 * 3600
DEAD_RETENTION_S = 14 * 24 * 3600
"""Longer than that of the queue, because a message keeps its age when it moves."""
MAX_MESSAGE_BYTES = 1024 * 1024
POLL_S = 20
MIN_LEASE_S, MAX_LEASE_S = 30, 12 * 3600
LEASE_FACTOR = 6
"""A lease is six times the timeout, as AWS advises for a function behind a queue.

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
"""
SPARE_RECEIVES = 500
"""Receives beyond our own attempts before SQS moves a message to the dead letters.

They catch events that kill their worker before the attempt is recorded.
"""
MAX_RECEIVES = 1000
ANNOUNCED = ("s3:ObjectCreated:*",)
"""The events of a bucket that its notification sends."""


class Owner(NamedTuple):
    """The owner of a queue or topic: the bus, and the subscription if there is one."""

    bus: str
    subscription: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tags that name the owner."""
        of_subscription = {} if self.subscription is None else {TAG_SUBSCRIPTION: self.subscription}
        return {TAG_BUS: self.bus, **of_subscription}

    def check(self, kind: str, name: str, tags: Mapping[str, str]) -> None:
        """Raise NameTaken if *tags* name another owner, or none."""
        bus, subscription = tags.get(TAG_BUS), tags.get(TAG_SUBSCRIPTION)
        if bus is None:
            raise NameTaken(
                f"{kind} {name!r} exists and has no tag {TAG_BUS!r}: it was not made by mltrigger."
                " Connect with another prefix, or listen to it by its ARN; if it is yours to give,"
                f" tag it {TAG_BUS}={self.bus}"
            )
        if bus != self.bus:
            raise NameTaken(
                f"{kind} {name!r} belongs to the bus {bus!r}, not to {self.bus!r}: connect with"
                " another prefix"
            )
        if None not in (self.subscription, subscription) and subscription != self.subscription:
            raise NameTaken(
                f"{kind} {name!r} belongs to the subscription {subscription!r}, not to"
                f" {self.subscription!r}: choose another name for it"
            )


def default_lease_s(policy: DeliveryPolicy) -> float:
    """Return the lease of a subscription that asks for none, in seconds."""
    return min(
        MAX_LEASE_S, max(MIN_LEASE_S, LEASE_FACTOR * policy.timeout_s + policy.batch_window_s)
    )


def visibility_s(policy: DeliveryPolicy) -> int:
    """Return the visibility timeout of the queue, in seconds: the lease, as SQS allows it."""
    return min(max(math.ceil(policy.lease), MIN_LEASE_S), MAX_LEASE_S)


def max_receives(policy: DeliveryPolicy) -> int:
    """Return the number of receives after which SQS moves a message to the dead letters."""
    return min(policy.max_attempts + SPARE_RECEIVES, MAX_RECEIVES)


def topic(*, fifo: bool) -> Properties:
    """Return the settings of a topic."""
    return (
        {"ContentBasedDeduplication": False, "FifoThroughputScope": "MessageGroup"} if fifo else {}
    )


def work_queue(*, fifo: bool, lease_s: Any, dead_arn: Any, receives: Any) -> Properties:
    """Return the settings of a subscription's queue, whose dead letters go to *dead_arn*."""
    return {
        **_queue(RETENTION_S, fifo=fifo),
        "VisibilityTimeout": lease_s,
        "ReceiveMessageWaitTimeSeconds": POLL_S,
        "RedrivePolicy": {"deadLetterTargetArn": dead_arn, "maxReceiveCount": receives},
    }


def dead_letter_queue(*, fifo: bool, source_arn: Any) -> Properties:
    """Return the settings of a dead-letter queue, which takes from the queue *source_arn* only."""
    allow = {"redrivePermission": "byQueue", "sourceQueueArns": [source_arn]}
    return {**_queue(DEAD_RETENTION_S, fifo=fifo), "RedriveAllowPolicy": allow}


def _queue(retention_s: int, *, fifo: bool) -> Properties:
    return {
        "MessageRetentionPeriod": retention_s,
        "MaximumMessageSize": MAX_MESSAGE_BYTES,
        "SqsManagedSseEnabled": True,
        **(_FIFO_QUEUE if fifo else {}),
    }


_FIFO_QUEUE: Properties = {
    "ContentBasedDeduplication": False,
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}
FIFO_ONLY = frozenset({*_FIFO_QUEUE, *topic(fifo=True)})
"""Settings that only FIFO queues and topics have."""


def feed() -> Properties:
    """Return the settings of the subscription of a queue to its topic, without the filter."""
    return {"RawMessageDelivery": True}


def key_rules(source: S3Source) -> list[dict[str, str]]:
    """Return the rules by which the bucket's notification filters object keys."""
    ends = (("prefix", source.prefix), ("suffix", source.suffix))
    return [{"Name": name, "Value": value} for name, value in ends if value]


def as_text(properties: Properties) -> dict[str, str]:
    """Return *properties* as the APIs take them: every value is text."""
    return {name: _text(value) for name, value in properties.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
