"""Queues of ours as parts of a plan: look, compare, create, change, delete."""

from __future__ import annotations

from collections.abc import Mapping
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
from mltrigger.aws.admin.policies import dead_letter_policy, queue_policy
from mltrigger.aws.admin.topology import Owner
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.aws.naming import Arn
from mltrigger.errors import NameTaken
from mltrigger.policy import DeliveryPolicy

_OPTIONAL = topology.FIFO_ONLY | {
    "SqsManagedSseEnabled",
    "RedriveAllowPolicy",
    "MaximumMessageSize",
    "Policy",
}
"""Settings that an emulator may not know. Everything works without them. AWS must take them."""
_REGIONAL = frozenset({"MaximumMessageSize"})
"""Settings that a region of AWS may refuse: 1 MiB came in 2025, not everywhere at once.

The region's own limit then holds.
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
"""Codes for a setting that the service does not know."""
_GONE_S = 60


class Queue:
    """A queue of ours: a part of a plan.

    Parameters
    ----------
    clients : Clients
    arn : Arn
        Its place and name.
    owner : Owner
    kind : str
        ``queue`` or ``dead-letter queue``.
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
        """Its URL. Raise AwsError if it does not exist."""
        if self._url is None:
            found = call(self._clients.sqs, "get_queue_url", self.name, QueueName=self.name)
            self._url = str(found["QueueUrl"])
        return self._url

    def exists(self) -> bool:
        """Whether a queue of this name exists, ours or not."""
        return missing(lambda: self.url) is not None

    def look(self) -> Settings | None:
        """Return attributes and tags, ``None`` if there is no such queue.

        Raise NameTaken if it is not ours.
        """
        self._url = None
        if not self.exists():
            return None
        tags = missing(self._tags)
        found = missing(lambda: self._call("get_queue_attributes", AttributeNames=["All"]))
        if tags is None or found is None:  # deleted meanwhile
            return None
        self._owner.check(self.kind, self.name, tags)
        return {**found["Attributes"], **tag_settings(tags)}

    def is_ours(self) -> bool:
        """Whether it exists and has our tags."""
        tags = missing(self._tags) if self.exists() else None
        try:
            self._owner.check(self.kind, self.name, tags or {})
        except NameTaken:
            return False
        return True

    def check(self) -> None:
        """Raise NameTaken if it is not ours. Without the right to read tags, it counts as ours."""
        try:
            self._owner.check(self.kind, self.name, self._tags())
        except AwsError as error:
            if error.code not in DENIED:
                raise

    def wanted(self, now: Settings) -> Settings:
        """Return the wanted settings.

        An encryption key of somebody else and a longer retention stay.
        """
        wanted = {**self._settings, "Policy": merged(now.get("Policy"), self._policy)}
        if now.get("KmsMasterKeyId"):
            wanted.pop("SqsManagedSseEnabled", None)
        # A shorter retention would delete waiting messages.
        wanted["MessageRetentionPeriod"] = str(
            max(int(now.get("MessageRetentionPeriod") or 0), int(wanted["MessageRetentionPeriod"]))
        )
        if now and self._clients.endpoint:  # an emulator does not show settings it does not know
            wanted = {
                name: value
                for name, value in wanted.items()
                if name in now or name not in _OPTIONAL
            }
        return {**wanted, **tag_settings(self._owner.tags)}

    def create(self, wanted: Settings) -> None:
        """Create it with all attributes and tags in one call, so that it is never unprotected."""
        attributes, tags = parted(wanted)
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
        attributes, tags = parted(different)
        emulated = bool(self._clients.endpoint)
        if tags:
            self._try("tag_queue", emulated, Tags=tags)
        lax = emulated or bool(_REGIONAL & attributes.keys())
        if attributes and not self._try("set_queue_attributes", lax, Attributes=attributes):
            # One by one: an unknown setting must not block the others.
            for name, value in attributes.items():
                lax = emulated or name in _REGIONAL
                self._try("set_queue_attributes", lax, Attributes={name: value})

    def delete(self) -> bool:
        """Delete it with its messages if it is ours. Return whether it was."""
        if not self.is_ours():
            return False
        missing(lambda: self._call("delete_queue"))
        self._url = None
        return True

    def _call(self, operation: str, **given: Any) -> Any:
        return call(self._clients.sqs, operation, self.name, QueueUrl=self.url, **given)

    def _create(self, attributes: Settings, tags: Mapping[str, str]) -> None:
        given = {"QueueName": self.name, "Attributes": dict(attributes), "tags": dict(tags)}
        self._url = str(call(self._clients.sqs, "create_queue", self.name, **given)["QueueUrl"])

    def _tags(self) -> dict[str, str]:
        try:
            return dict(self._call("list_queue_tags").get("Tags") or {})
        except AwsError as error:
            if not self._clients.endpoint or error.code in DENIED | MISSING:
                raise
            return self._owner.tags  # an emulator without tags has no queues of others

    def _try(self, operation: str, lax: bool, **given: Any) -> bool:
        """Call *operation* and return ``True``.

        If *lax*, return ``False`` when the service does not know the settings.
        """
        try:
            self._call(operation, **given)
        except AwsError as error:
            if not lax or not _unfit(error):
                raise
            return False
        return True


def work_queue(
    clients: Any, arn: Arn, dead: Arn, owner: Owner, topic: Arn, policy: DeliveryPolicy
) -> Queue:
    """Return the queue *arn*, which gets messages of *topic* and has the dead letters *dead*."""
    settings = topology.work_queue(
        fifo=arn.fifo,
        lease_s=topology.visibility_s(policy),
        dead_arn=str(dead),
        receives=topology.max_receives(policy),
    )
    statements = queue_policy(str(arn), str(topic), topic.account)
    return Queue(clients, arn, owner, "queue", topology.as_text(settings), statements)


def dead_letter_queue(clients: Any, arn: Arn, source: Arn, owner: Owner) -> Queue:
    """Return the dead-letter queue *arn*, which takes from the queue *source* only."""
    settings = topology.dead_letter_queue(fifo=arn.fifo, source_arn=str(source))
    statements = dead_letter_policy(str(arn))
    return Queue(clients, arn, owner, "dead-letter queue", topology.as_text(settings), statements)


def receives_of(settings: Settings) -> int:
    """Return the receives after which SQS moves a message out of the queue, 0 for never."""
    return int(as_object(settings.get("RedrivePolicy")).get("maxReceiveCount", 0))


def _unfit(error: AwsError) -> bool:
    return error.code.removeprefix("AWS.SimpleQueueService.") in _UNFIT
