"""Least-privilege policy documents of a bus on AWS: pure functions that return what IAM, SNS and
SQS take as JSON.

============================
==================================================================================================
document                      for whom ============================
==================================================================================================
:func:`publisher`             who publishes on the topics of a bus :func:`listener`              who
delivers its subscriptions :func:`queue_listener`        who listens to a queue that somebody else
owns: four actions, one queue :func:`administrator`         who subscribes and unsubscribes, hence
makes and removes topics and queues, and who redrives :func:`trust_policy`          of a role: who
may assume it, and with which external id :func:`assume_role_policy`    of the other account: that
it may assume that role :func:`queue_policy`          of a queue: one topic may send, everybody else
may not, and nothing without TLS :func:`dead_letter_policy`    of a dead-letter queue: nothing
without TLS :func:`topic_policy`          of a topic: one bucket may publish, and nothing without
TLS ============================
==================================================================================================

The first four reach the resources of one bus, which are known by their names: ``<prefix>-*`` in one
region of one account. A bus called ``acme`` therefore reaches what belongs to ``acme-prod`` in the
same account; give two buses that must not prefixes such as ``acme-dev`` and ``acme-prod``. No
document allows an action by wildcard, and none a resource ``*`` but for :data:`WITHOUT_RESOURCE`.

Actions and the resources that each can be limited to:
https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mltrigger.aws.naming import Arn, S3Source, check_prefix
from mltrigger.errors import InvalidName
from mltrigger.event.envelopes.partitions import domain_of, partition_of

Policy = dict[str, Any]
"""A policy document, as `json.dumps` takes it."""

PAYLOADS = "mltrigger-payloads/"
"""Where bodies beyond the limit lie in the payload bucket: the prefix of their keys."""

WITHOUT_RESOURCE = {
    "sns:ListSubscriptions": "SNS authorises it for the whole account; it has no resource type",
    "sns:ListTopics": "SNS authorises it for the whole account; it has no resource type",
    "sqs:ListQueues": "SQS authorises it for the whole account; it has no resource type",
}
"""The actions that AWS can limit to no resource, each with the reason; allowed on ``*`` in one
region, to an administrator only.
"""

QUEUE_ACTIONS = (
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
    "sqs:GetQueueAttributes",
)
"""What listening to a queue takes, whoever owns it."""

_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_ACCOUNT = re.compile(r"[0-9]{12}")
_CLASS = re.compile(r"\[!?\]?[^\]]*\]|\$")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+")
_ROLE_ARN = r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}"
_ROLE = re.compile(_ROLE_ARN, re.ASCII)
TRUSTED = rf"[0-9]{{12}}|arn:aws[a-z-]*:iam::[0-9]{{12}}:root|{_ROLE_ARN}"
"""Whom a role may trust: an account, by its number or its root, or one role."""
# https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
EXTERNAL_ID = r"[\w+=,.@:/-]{2,1224}"
"""What AWS STS takes as an external id."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The place of a bus, which limits what its policies reach; made by :meth:`of`.

    Parameters
    ----------
    region, account, prefix : str
        As in ``aws://region/prefix``, and the account with twelve digits.
    partition : str
        What ARNs begin with; it follows from the region.
    """

    region: str
    account: str
    prefix: str
    partition: str = "aws"

    @classmethod
    def of(cls, region: str, account: str, prefix: str) -> Scope:
        """Return the place; raise InvalidName for what cannot be a region, an account or a prefix."""
        _check("region", region, _REGION, "such as eu-west-1")
        _check("account", account, _ACCOUNT, "12 digits")
        return cls(region, account, check_prefix(prefix), partition_of(region))

    @property
    def topics(self) -> str:
        """The ARN pattern of the topics of the bus, and of the subscriptions to them."""
        return f"arn:{self.partition}:sns:{self.region}:{self.account}:{self.prefix}-*"

    @property
    def queues(self) -> str:
        """The ARN pattern of the queues of the bus, dead letters included."""
        return f"arn:{self.partition}:sqs:{self.region}:{self.account}:{self.prefix}-*"

    def bucket(self, name: str) -> str:
        """Return the ARN of the bucket of ``name``, ``bucket/prefix`` or
        ``s3://bucket/prefix/*.png``.
        """
        return f"arn:{self.partition}:s3:::{_objects(name).bucket}"

    def objects(self, name: str) -> str:
        """Return the ARN pattern of the objects of ``bucket``, ``bucket/prefix`` or
        ``s3://bucket/prefix/*.png``.
        """
        source = _objects(name)
        # IAM knows `*` and `?` only, and begins a variable by `$`: one character of any kind stands
        # for the rest.
        return f"arn:{self.partition}:s3:::{source.bucket}/{_CLASS.sub('?', source.pattern)}"


# -- what people and programs may do: IAM ----------------------------------------------------------


def publisher(
    scope: Scope, *, payload_bucket: str | None = None, key_arn: str | None = None
) -> Policy:
    """Return what publishing takes: ``sns:Publish``, which covers PublishBatch, and to ask whether
    there is such a topic of the bus.

    Parameters
    ----------
    payload_bucket : str, optional
        Where bodies beyond the limit go: adds ``s3:PutObject`` below :data:`PAYLOADS`.
    key_arn : str, optional
        The KMS key of the topics or the bucket, when they have one of their own: adds its use
        through these services only.
    """
    return _document(
        _publishing(scope, ["sns:Publish", "sns:GetTopicAttributes"], payload_bucket, key_arn)
    )


def _publishing(
    scope: Scope, actions: list[str], payload_bucket: str | None, key_arn: str | None
) -> list[Policy]:
    statements = [_allow("Publish", actions, [scope.topics])]
    services = ["sns"]
    if payload_bucket is not None:
        statements.append(
            _allow(
                "StorePayloads", ["s3:PutObject"], [scope.objects(f"{payload_bucket}/{PAYLOADS}")]
            )
        )
        services.append("s3")
    if key_arn is not None:
        statements.append(
            _use_key(scope, key_arn, ["kms:Decrypt", "kms:GenerateDataKey"], services)
        )
    return statements


def listener(
    scope: Scope,
    *,
    emits: bool = False,
    source_buckets: Iterable[str] = (),
    payload_bucket: str | None = None,
    lists_buckets: bool = False,
    key_arn: str | None = None,
) -> Policy:
    """Return what delivering the subscriptions of the bus takes, their dead-letter queues included;
    it can make nothing.

    Parameters
    ----------
    emits : bool
        Whether what the models return is published on topics of the bus: adds publishing to them.
    source_buckets : iterable of str
        What ``event.open()`` reads: ``bucket``, ``bucket/prefix`` or ``s3://bucket/prefix/*.png``,
        each limited to that pattern.
    payload_bucket : str, optional
        Where bodies beyond the limit are read from.
    lists_buckets : bool
        Whether it may list these buckets. S3 tells nobody else that an object has gone: it answers
        403, not 404, and the event is retried.
    key_arn : str, optional
        The KMS key of the queues or buckets, when they have one of their own: adds its use through
        these services only.
    """
    statements = [
        _allow("Listen", [*QUEUE_ACTIONS, "sqs:GetQueueUrl", "sqs:ListQueueTags"], [scope.queues])
    ]
    services = ["sqs"]
    read = [*source_buckets, *([] if payload_bucket is None else [f"{payload_bucket}/{PAYLOADS}"])]
    if read:
        statements.append(
            _allow("ReadObjects", ["s3:GetObject", "s3:GetObjectVersion"], map(scope.objects, read))
        )
        services.append("s3")
        if lists_buckets:
            statements.append(_allow("ListBuckets", ["s3:ListBucket"], map(scope.bucket, read)))
    if key_arn is not None:
        statements.append(_use_key(scope, key_arn, ["kms:Decrypt"], services))
    # subscribing has seen to the topic
    more = _publishing(scope, ["sns:Publish"], payload_bucket, key_arn) if emits else []
    # A statement id may occur once: the publisher's use of the key is another one than the
    # listener's.
    return _document([*statements, *({**each, "Sid": f"Emit{each['Sid']}"} for each in more)])


def queue_listener(*queue_arns: str, key_arn: str | None = None) -> Policy:
    """Return what listening to queues that somebody else owns takes: exactly :data:`QUEUE_ACTIONS`,
    on exactly these queues.

    With *key_arn* also the decryption by the KMS key of the queues, through SQS only.
    """
    if not queue_arns:
        raise InvalidName(
            "a queue listener needs at least one queue ARN, such as"
            " arn:aws:sqs:eu-west-1:123456789012:orders"
        )
    queues = [_arn("sqs", arn) for arn in queue_arns]
    document = listen_document(queue_arns)
    if key_arn is not None:
        place = Scope(queues[0].region, queues[0].account, "", queues[0].partition)
        document["Statement"].append(_use_key(place, key_arn, ["kms:Decrypt"], ["sqs"]))
    return document


def listen_document(queue_arns: Iterable[str]) -> Policy:
    """Return :func:`queue_listener`, unchecked: for a template, where the ARNs are expressions."""
    return _document([_allow("Listen", QUEUE_ACTIONS, queue_arns)])


def administrator(
    scope: Scope,
    *,
    source_buckets: Iterable[str] = (),
    source_topics: Iterable[str] = (),
    payload_bucket: str | None = None,
) -> Policy:
    """Return what ``subscribe``, ``plan``, ``doctor`` and ``unsubscribe(delete=True)`` take: all of
    the bus, and nothing beside it.

    Delivering takes :func:`listener` as well. ``redrive`` and ``discard`` go through the log and
    take nothing.

    Parameters
    ----------
    source_buckets : iterable of str
        Buckets whose notifications feed subscriptions: adds reading and writing their notification
        configuration.
    source_topics : iterable of str
        ARNs of topics that somebody else owns and that subscriptions listen to: adds subscribing to
        exactly these.
    payload_bucket : str, optional
        Where bodies beyond the limit are kept: adds reading and writing its lifecycle rules, which
        remove them when they are old.
    """
    buckets, topics = (
        [scope.bucket(name) for name in source_buckets],
        [str(_arn("sns", arn)) for arn in source_topics],
    )
    # A foreign topic may allow subscribing and not listing; our own account lists what it has
    # subscribed.
    found = ["sns:ListTopics", "sqs:ListQueues", *(["sns:ListSubscriptions"] if topics else [])]
    statements = [
        _allow(
            "Topics",
            [f"sns:{action}" for action in (*_TOPIC_ACTIONS, *_SUBSCRIPTION_ACTIONS)],
            [scope.topics],
        ),
        _allow("Queues", [f"sqs:{action}" for action in _ADMINISTERED], [scope.queues]),
        _allow("Find", found, ["*"], {"StringEquals": {"aws:RequestedRegion": scope.region}}),
    ]
    if topics:
        # SNS authorises what concerns a subscription against its topic, by its service reference
        # and its own error messages. Older pages name no resource for it: the ARN of the
        # subscription itself is reached as well.
        reached = [pattern for arn in topics for pattern in (arn, f"{arn}:*")]
        statements.append(
            _allow(
                "ForeignTopics",
                [f"sns:{action}" for action in ("GetTopicAttributes", *_SUBSCRIPTION_ACTIONS)],
                reached,
            )
        )
    if buckets:
        statements.append(
            _allow(
                "Notifications", ["s3:GetBucketNotification", "s3:PutBucketNotification"], buckets
            )
        )
    if payload_bucket is not None:
        expire = ["s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"]
        statements.append(_allow("ExpirePayloads", expire, [scope.bucket(payload_bucket)]))
    return _document(statements)


_TOPIC_ACTIONS = (
    "CreateTopic",
    "DeleteTopic",
    "GetTopicAttributes",
    "SetTopicAttributes",
    "ListTagsForResource",
    "TagResource",
)
_SUBSCRIPTION_ACTIONS = (
    "Subscribe",
    "Unsubscribe",
    "GetSubscriptionAttributes",
    "SetSubscriptionAttributes",
    "ListSubscriptionsByTopic",
)
_ADMINISTERED = (
    "CreateQueue",
    "DeleteQueue",
    "GetQueueAttributes",
    "SetQueueAttributes",
    "GetQueueUrl",
    "ListQueueTags",
    "TagQueue",
)


# -- from account to account -----------------------------------------------------------------------


def trust_policy(trusted: str, external_id: str | None) -> Policy:
    """Return the trust policy of a role: *trusted* may assume it when it names *external_id*.

    Parameters
    ----------
    trusted : str
        An account (12 digits, or the ARN of its root: every principal there that its own policies
        allow to) or the ARN of one role.
    external_id : str or None
        Agreed by both sides, so that *trusted* cannot be talked into using this role for somebody
        else (the confused deputy). ``None`` is right within one account only.
    """
    _check(
        "trusted principal",
        trusted,
        re.compile(TRUSTED, re.ASCII),
        "12 digits, or such as arn:aws:iam::123456789012:role/reader",
    )
    if external_id is not None:
        _check(
            "external id",
            external_id,
            re.compile(EXTERNAL_ID, re.ASCII),
            "2 to 1224 letters, digits or _+=,.@:/-",
        )
    return trust_document(trusted, external_id)


def trust_document(trusted: str, external_id: str | None) -> Policy:
    """Return :func:`trust_policy`, unchecked: for a template, where both are parameters with these
    patterns.
    """
    statement = {
        "Sid": "Assume",
        "Effect": "Allow",
        "Principal": {"AWS": trusted},
        "Action": "sts:AssumeRole",
    }
    return _document(
        [
            (
                statement
                if external_id is None
                else {**statement, "Condition": {"StringEquals": {"sts:ExternalId": external_id}}}
            )
        ]
    )


def assume_role_policy(role_arn: str) -> Policy:
    """Return what the other account gives to whoever listens: to assume exactly the role
    *role_arn*.
    """
    _check("role ARN", role_arn, _ROLE, "such as arn:aws:iam::123456789012:role/reader")
    return _document([_allow("Assume", ["sts:AssumeRole"], [role_arn])])


# -- what queues and topics accept: resource policies ----------------------------------------------


def queue_policy(queue_arn: str, topic_arn: str, account: str) -> Policy:
    """Return the policy of a queue that is fed by one topic.

    SNS may send to it on behalf of *topic_arn* only, and only while that topic belongs to *account*
    (which is the topic's account: another than the queue's when the topic is somebody else's).
    Nothing is accepted without TLS. Principals of the queue's own account need no statement here:
    their IAM policies decide.
    """
    send = _from_service("sns.amazonaws.com", "sqs:SendMessage", queue_arn, topic_arn, account)
    return _document([send, _tls_only("sqs:*", queue_arn)])


def dead_letter_policy(queue_arn: str) -> Policy:
    """Return the policy of a dead-letter queue: nothing without TLS.

    SQS itself moves dead letters there and needs no statement.
    """
    return _document([_tls_only("sqs:*", queue_arn)])


def topic_policy(topic_arn: str, bucket: str, account: str) -> Policy:
    """Return the policy of a topic that is fed by the notifications of one bucket.

    S3 may publish on it on behalf of *bucket* only, and only while that bucket belongs to
    *account*: the name of a bucket that was deleted is free for others. Nothing is published
    without TLS. Principals of the topic's own account need no statement here.
    """
    bucket_arn = f"{topic_arn.partition(':sns:')[0]}:s3:::{bucket}"
    publish = _from_service("s3.amazonaws.com", "sns:Publish", topic_arn, bucket_arn, account)
    # The policy of a topic takes no `sns:*`: SNS refuses actions that do not concern the topic.
    return _document([publish, _tls_only("sns:Publish", topic_arn)])


def _from_service(
    service: str, action: str, resource: str, source_arn: str, account: str
) -> Policy:
    return {
        "Sid": "MltriggerSource",
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": action,
        "Resource": resource,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": source_arn},
            "StringEquals": {"aws:SourceAccount": account},
        },
    }


def _tls_only(action: str, resource: str) -> Policy:
    return {
        "Sid": "MltriggerTlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resource,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


# -- the parts -------------------------------------------------------------------------------------


def _document(statements: Iterable[Mapping[str, Any]]) -> Policy:
    return {"Version": "2012-10-17", "Statement": [dict(statement) for statement in statements]}


def _allow(
    sid: str, actions: Iterable[str], resources: Iterable[str], condition: Policy | None = None
) -> Policy:
    statement: Policy = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(dict.fromkeys(resources)),
    }
    return statement if condition is None else {**statement, "Condition": condition}


def _use_key(scope: Scope, key_arn: str, actions: Iterable[str], services: Iterable[str]) -> Policy:
    """Allow the key's use on behalf of the principal by *services* of the region only; never
    directly.
    """
    _check(
        "key ARN",
        key_arn,
        _KEY,
        "such as arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    )
    names = [f"{service}.{scope.region}.{domain_of(scope.partition)}" for service in services]
    return _allow("UseKey", actions, [key_arn], {"StringEquals": {"kms:ViaService": names}})


def _objects(name: str) -> S3Source:
    return S3Source.parse(
        name if name.startswith("s3://") else f"s3://{name}*" if "/" in name else f"s3://{name}"
    )


def _arn(service: str, text: str) -> Arn:
    arn = Arn.parse(text)
    if arn.service != service:
        raise InvalidName(
            f"{text[:200]!r} is the ARN of something in {arn.service}; this needs one in {service}"
        )
    return arn


def _check(kind: str, value: object, rule: re.Pattern[str], example: str) -> None:
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise InvalidName(f"{kind} {str(value)[:200]!r} is not valid: {example}")
