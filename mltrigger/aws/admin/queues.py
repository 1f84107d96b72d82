"""The queue of a subscription and its dead-letter queue: what they shall be, and how they become
so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.aws.admin.plan import Settings, as_object, call, merged, missing
from mltrigger.aws.admin.policies import dead_letter_policy, queue_policy
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import Arn
from mltrigger.errors import NameTaken
from mltrigger.policy import DeliveryPolicy

TAG_BUS = "mltrigger:bus"
TAG_SUBSCRIPTION = "mltrigger:subscription"
TAG = "tag "
"""What the name of a setting begins with that is a tag."""

RETENTION_S = 10 * 24 * 3600
DEAD_RETENTION_S = 14 * 24 * 3600
"""Longer than in the queue: a dead letter keeps the time it was sent, so that one that waited long
would be gone at once.
"""
MAX_MESSAGE_BYTES = 1024 * 1024
POLL_S = 20
MIN_LEASE_S, MAX_LEASE_S = 30, 12 * 3600
SPARE_RECEIVES = 500
"""Receives beyond our own attempts after which SQS takes a message away: the net for events that
kill their worker uncounted.
"""
MAX_RECEIVES = 1000

_FIFO = {
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}
# What an emulator may not know; everything works without it. On AWS it has to be.
_OPTIONAL = frozenset(
    {"SqsManagedSseEnabled", "RedriveAllowPolicy", "MaximumMessageSize", "Policy", *_FIFO}
)
_REGIONAL = frozenset({"MaximumMessageSize"})
"""What may be refused on AWS as well: 1 MiB came in 2025 and not everywhere at once; else the
region's own limit holds.
"""
_UNFIT = frozenset(
    {
        "InvalidAttributeName",
        "InvalidAttributeValue",
        "InvalidParameterValue",
        "InvalidParameter",
        "UnsupportedOperation",
        "InvalidAction",
        "NotImplemented",
        "501",
        "InternalError",
        "InternalFailure",
    }
)
_GONE_S = 60


class Owner(NamedTuple):
    """Whose a queue or topic is: the bus, and the subscription if it is one's."""

    bus: str
    subscription: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The tags that say so."""
        return {
            TAG_BUS: self.bus,
            **({} if self.subscription is None else {TAG_SUBSCRIPTION: self.subscription}),
        }

    def check(self, kind: str, name: str, tags: Mapping[str, str]) -> None:
        """Raise NameTaken when the *tags* of a thing say that it belongs to somebody else, or to
        nobody.
        """
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
        if (
            self.subscription is not None
            and subscription is not None
            and subscription != self.subscription
        ):
            raise NameTaken(
                f"{kind} {name!r} belongs to the subscription {subscription!r}, not to"
                f" {self.subscription!r}: choose another name for it"
            )


class Queue:
    """A queue of ours: a part of a plan.

    Parameters
    ----------
    clients : Clients
    arn : Arn
        Where and what it is called.
    owner : Owner
    settings : mapping
        The attributes that it shall have, without the policy.
    policy : mapping
        The statements that its policy shall have.
    """

    def __init__(
        self,
        clients: Any,
        arn: Arn,
        owner: Owner,
        kind: str,
        settings: Mapping[str, str],
        policy: Mapping[str, Any],
    ) -> None:
        self.kind, self.name, self.arn = kind, arn.resource, arn
        self._clients, self._owner, self._settings, self._policy = clients, owner, settings, policy
        self._url: str | None = None

    @property
    def url(self) -> str:
        """Its URL; it has to exist."""
        if self._url is None:
            self._url = str(
                call(self._clients.sqs, "get_queue_url", self.name, QueueName=self.name)["QueueUrl"]
            )
        return self._url

    def exists(self) -> bool:
        """Return whether there is a queue of this name, whoever made it."""
        return missing(lambda: self.url) is not None

    def look(self) -> Settings | None:
        """Return attributes and tags; raise NameTaken when it is not ours."""
        self._url = None
        if not self.exists():
            return None
        tags = missing(self._tags)
        found = missing(
            lambda: call(
                self._clients.sqs,
                "get_queue_attributes",
                self.name,
                QueueUrl=self.url,
                AttributeNames=["All"],
            )
        )
        if tags is None or found is None:  # deleted meanwhile
            return None
        self._owner.check(self.kind, self.name, tags)
        return {**found["Attributes"], **{TAG + name: value for name, value in tags.items()}}

    def is_ours(self) -> bool:
        """Return whether it exists and is tagged as ours."""
        tags = missing(self._tags) if self.exists() else None
        try:
            self._owner.check(self.kind, self.name, tags or {})
        except NameTaken:
            return False
        return True

    def check(self) -> None:
        """Raise NameTaken when it is not ours; whoever may not read tags is believed."""
        try:
            self._owner.check(self.kind, self.name, self._tags())
        except AwsError as error:
            if error.code not in DENIED:
                raise

    def wanted(self, now: Settings) -> Settings:
        """Return what it shall be; another key of encryption and a longer retention that somebody
        set are kept.
        """
        wanted = {**self._settings, "Policy": merged(now.get("Policy"), self._policy)}
        if now.get("KmsMasterKeyId"):
            wanted.pop("SqsManagedSseEnabled", None)
        # Shortening it would delete what waits.
        wanted["MessageRetentionPeriod"] = str(
            max(int(now.get("MessageRetentionPeriod") or 0), int(wanted["MessageRetentionPeriod"]))
        )
        if now and self._clients.endpoint:  # it does not show what it does not know
            wanted = {
                name: value
                for name, value in wanted.items()
                if name in now or name not in _OPTIONAL
            }
        return {**wanted, **{TAG + name: value for name, value in self._owner.tags.items()}}

    def create(self, wanted: Settings) -> None:
        """Make it with all its attributes and tags at once, so that it never exists unprotected or
        untagged.
        """
        attributes, tags = _parted(wanted)
        if self.arn.fifo:
            attributes["FifoQueue"] = "true"
        try:
            self._create(attributes, tags)
        except AwsError as error:
            if error.code.endswith("QueueDeletedRecently"):
                raise AwsError(
                    f"queue {self.name!r} was deleted less than {_GONE_S} seconds ago, and SQS"
                    f" gives no name again before: repeat the call in {_GONE_S} seconds; it goes on"
                    " where it stopped",
                    error.code,
                ) from error
            if not _unfit(error):
                raise
            left_out = _OPTIONAL if self._clients.endpoint else _REGIONAL
            self._create(
                {name: value for name, value in attributes.items() if name not in left_out}, tags
            )

    def change(self, now: Settings, different: Settings) -> None:
        """Set attributes and tags."""
        attributes, tags = _parted(different)
        if tags:
            self._try("tag_queue", self._clients.endpoint, Tags=tags)
        lax = self._clients.endpoint or bool(_REGIONAL & attributes.keys())
        if attributes and not self._try("set_queue_attributes", lax, Attributes=attributes):
            # what it does not know must not keep it from the rest
            for name, value in attributes.items():
                self._try(
                    "set_queue_attributes",
                    self._clients.endpoint or name in _REGIONAL,
                    Attributes={name: value},
                )

    def delete(self) -> bool:
        """Delete it if it is ours, with what is in it; say whether it was."""
        if not self.is_ours():
            return False
        missing(lambda: call(self._clients.sqs, "delete_queue", self.name, QueueUrl=self.url))
        self._url = None
        return True

    def _create(self, attributes: Mapping[str, str], tags: Mapping[str, str]) -> None:
        made = call(
            self._clients.sqs,
            "create_queue",
            self.name,
            QueueName=self.name,
            Attributes=dict(attributes),
            tags=dict(tags),
        )
        self._url = str(made["QueueUrl"])

    def _tags(self) -> dict[str, str]:
        try:
            tags = call(self._clients.sqs, "list_queue_tags", self.name, QueueUrl=self.url).get(
                "Tags"
            )
        except AwsError as error:
            if not self._clients.endpoint or error.code in DENIED | MISSING:
                raise
            return self._owner.tags  # an emulator without tags holds nobody else's queues
        return dict(tags or {})

    def _try(self, operation: str, lax: bool, **given: Any) -> bool:
        """Return whether it was done; when *lax*, what the service does not know is left, else it
        is raised.
        """
        try:
            call(self._clients.sqs, operation, self.name, QueueUrl=self.url, **given)
        except AwsError as error:
            if not lax or not _unfit(error):
                raise
            return False
        return True


def work_queue(
    clients: Any, arn: Arn, dead: Arn, owner: Owner, topic: Arn, policy: DeliveryPolicy
) -> Queue:
    """Return the queue *arn* that *topic* feeds and that hands its dead letters on to *dead*."""
    lease = min(max(math.ceil(policy.lease), MIN_LEASE_S), MAX_LEASE_S)
    redrive = {
        "deadLetterTargetArn": str(dead),
        "maxReceiveCount": min(policy.max_attempts + SPARE_RECEIVES, MAX_RECEIVES),
    }
    settings = {
        **_common(arn, RETENTION_S),
        "VisibilityTimeout": str(lease),
        "ReceiveMessageWaitTimeSeconds": str(POLL_S),
        "RedrivePolicy": json.dumps(redrive),
    }
    return Queue(
        clients, arn, owner, "queue", settings, queue_policy(str(arn), str(topic), topic.account)
    )


def dead_letter_queue(clients: Any, arn: Arn, source: Arn, owner: Owner) -> Queue:
    """Return the dead-letter queue *arn*, which takes from the queue *source* only."""
    allow = {"redrivePermission": "byQueue", "sourceQueueArns": [str(source)]}
    settings = {**_common(arn, DEAD_RETENTION_S), "RedriveAllowPolicy": json.dumps(allow)}
    return Queue(clients, arn, owner, "dead-letter queue", settings, dead_letter_policy(str(arn)))


def receives_of(settings: Settings) -> int:
    """Return after how many receives SQS takes a message away from the queue of these *settings*; 0
    for never.
    """
    return int(as_object(settings.get("RedrivePolicy")).get("maxReceiveCount", 0))


def _unfit(error: AwsError) -> bool:
    return error.code.removeprefix("AWS.SimpleQueueService.") in _UNFIT


def _common(arn: Arn, retention_s: int) -> dict[str, str]:
    return {
        "MessageRetentionPeriod": str(retention_s),
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "SqsManagedSseEnabled": "true",
        **(_FIFO if arn.fifo else {}),
    }


def _parted(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Return attributes, and tags."""
    tags = {
        name.removeprefix(TAG): value for name, value in settings.items() if name.startswith(TAG)
    }
    return {name: value for name, value in settings.items() if not name.startswith(TAG)}, tags
