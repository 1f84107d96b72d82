"""Least-privilege policy documents of a bus on AWS, as JSON for IAM, SNS and SQS.

- :func:`publisher`: to publish on the topics of a bus.
- :func:`listener`: to deliver its subscriptions.
- :func:`queue_listener`: to listen to somebody else's queue. Four actions, one queue.
- :func:`administrator`: to subscribe, unsubscribe and redrive. It creates and deletes resources.
- :func:`trust_policy`: of a role. Who may assume it, and with which external id.
- :func:`assume_role_policy`: of the other account. It may assume that role.
- :func:`queue_policy`: of a queue. One topic may send, only by TLS.
- :func:`dead_letter_policy`: of a dead-letter queue. Only TLS.
- :func:`topic_policy`: of a topic. One bucket may publish, only by TLS.

The first four reach the resources of one bus by their names: ``<prefix>-*`` in one region of one
account. So a bus called ``acme`` also reaches ``acme-prod`` in the same account. Use prefixes such
as ``acme-dev`` and ``acme-prod`` if they must not reach each other. No document allows an action by
wildcard. Only those in :data:`WITHOUT_RESOURCE` have the resource ``*``.

Actions and the resources that each can be limited to:
https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mltrigger.aws.admin.statements import (
    EXTERNAL_ID,
    ROLE,
    TRUSTED,
    Policy,
    Scope,
    allow,
    arn_in,
    check_text,
    document,
    use_key,
)
from mltrigger.errors import InvalidName

__all__ = [
    "EXTERNAL_ID",
    "PAYLOADS",
    "QUEUE_ACTIONS",
    "TRUSTED",
    "WITHOUT_RESOURCE",
    "Policy",
    "Scope",
    "administrator",
    "assume_role_policy",
    "dead_letter_policy",
    "listen_document",
    "listener",
    "publisher",
    "queue_listener",
    "queue_policy",
    "topic_policy",
    "trust_document",
    "trust_policy",
]

PAYLOADS = "mltrigger-payloads/"
"""Prefix of the keys of bodies beyond the limit, in the payload bucket."""

WITHOUT_RESOURCE = {
    "sns:ListSubscriptions": "SNS authorises it for the whole account; it has no resource type",
    "sns:ListTopics": "SNS authorises it for the whole account; it has no resource type",
    "sqs:ListQueues": "SQS authorises it for the whole account; it has no resource type",
}
"""Actions that AWS can limit to no resource, each with the reason.

Only an administrator may call them, in one region.
"""

QUEUE_ACTIONS = (
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility",
    "sqs:GetQueueAttributes",
)
"""The actions that listening to a queue needs, no matter who owns it."""

# -- what people and programs may do: IAM ----------------------------------------------------------


def publisher(
    scope: Scope, *, payload_bucket: str | None = None, key_arn: str | None = None
) -> Policy:
    """Return the policy to publish, and to ask whether a topic of the bus exists.

    ``sns:Publish`` covers PublishBatch.

    Parameters
    ----------
    payload_bucket : str, optional
        The bucket for bodies beyond the limit. Adds ``s3:PutObject`` below :data:`PAYLOADS`.
    key_arn : str, optional
        The KMS key of the topics or the bucket, if they have one. Adds its use through these
        services only.
    """
    return document(
        _publishing(scope, ["sns:Publish", "sns:GetTopicAttributes"], payload_bucket, key_arn)
    )


def _publishing(
    scope: Scope, actions: list[str], payload_bucket: str | None, key_arn: str | None
) -> list[Policy]:
    statements = [allow("Publish", actions, [scope.topics])]
    services = ["sns"]
    if payload_bucket is not None:
        statements.append(
            allow(
                "StorePayloads", ["s3:PutObject"], [scope.objects(f"{payload_bucket}/{PAYLOADS}")]
            )
        )
        services.append("s3")
    if key_arn is not None:
        statements.append(use_key(scope, key_arn, ["kms:Decrypt", "kms:GenerateDataKey"], services))
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
    """Return the policy to deliver the subscriptions of the bus, dead-letter queues included.

    It can create nothing.

    Parameters
    ----------
    emits : bool
        Whether outputs of the models are published on topics of the bus. Adds publishing to them.
    source_buckets : iterable of str
        Objects that ``event.open()`` reads: ``bucket``, ``bucket/prefix`` or
        ``s3://bucket/prefix/*.png``, each limited to that pattern.
    payload_bucket : str, optional
        The bucket for bodies beyond the limit.
    lists_buckets : bool
        Whether it may list these buckets. Without it S3 answers 403, not 404, for a deleted object,
        and the event is retried.
    key_arn : str, optional
        The KMS key of the queues or buckets, if they have one. Adds its use through these services
        only.
    """
    statements = [
        allow("Listen", [*QUEUE_ACTIONS, "sqs:GetQueueUrl", "sqs:ListQueueTags"], [scope.queues])
    ]
    services = ["sqs"]
    read = [*source_buckets, *([] if payload_bucket is None else [f"{payload_bucket}/{PAYLOADS}"])]
    if read:
        statements.append(
            allow("ReadObjects", ["s3:GetObject", "s3:GetObjectVersion"], map(scope.objects, read))
        )
        services.append("s3")
        if lists_buckets:
            statements.append(allow("ListBuckets", ["s3:ListBucket"], map(scope.bucket, read)))
    if key_arn is not None:
        statements.append(use_key(scope, key_arn, ["kms:Decrypt"], services))
    # Subscribing has made the topic.
    more = _publishing(scope, ["sns:Publish"], payload_bucket, key_arn) if emits else []
    # Statement ids must differ: publisher and listener both have a statement for the key.
    return document([*statements, *({**each, "Sid": f"Emit{each['Sid']}"} for each in more)])


def queue_listener(*queue_arns: str, key_arn: str | None = None) -> Policy:
    """Return the policy to listen to queues of somebody else: :data:`QUEUE_ACTIONS` on them.

    With *key_arn* also the decryption by the KMS key of the queues, through SQS only.
    """
    if not queue_arns:
        raise InvalidName(
            "a queue listener needs at least one queue ARN, such as"
            " arn:aws:sqs:eu-west-1:123456789012:orders"
        )
    queues = [arn_in("sqs", arn) for arn in queue_arns]
    policy = listen_document(queue_arns)
    if key_arn is not None:
        place = Scope(queues[0].region, queues[0].account, "", queues[0].partition)
        policy["Statement"].append(use_key(place, key_arn, ["kms:Decrypt"], ["sqs"]))
    return policy


def listen_document(queue_arns: Iterable[str]) -> Policy:
    """Return :func:`queue_listener`, unchecked: in a template the ARNs are expressions."""
    return document([allow("Listen", QUEUE_ACTIONS, queue_arns)])


def administrator(
    scope: Scope,
    *,
    source_buckets: Iterable[str] = (),
    source_topics: Iterable[str] = (),
    payload_bucket: str | None = None,
) -> Policy:
    """Return the policy for ``subscribe``, ``plan``, ``doctor`` and ``unsubscribe(delete=True)``.

    It covers the whole bus, and nothing beside it. Delivering needs :func:`listener` as well.
    ``redrive`` and ``discard`` use the log and need no permission.

    Parameters
    ----------
    source_buckets : iterable of str
        Buckets whose notifications feed subscriptions. Adds reading and writing their notification
        configuration.
    source_topics : iterable of str
        ARNs of somebody else's topics that subscriptions listen to. Adds subscribing to exactly
        these.
    payload_bucket : str, optional
        The bucket for bodies beyond the limit. Adds reading and writing its lifecycle rules, which
        delete old ones.
    """
    buckets, topics = (
        [scope.bucket(name) for name in source_buckets],
        [str(arn_in("sns", arn)) for arn in source_topics],
    )
    # A foreign topic may allow subscribing but not listing. Our account lists its subscriptions.
    found = ["sns:ListTopics", "sqs:ListQueues", *(["sns:ListSubscriptions"] if topics else [])]
    statements = [
        allow(
            "Topics",
            [f"sns:{action}" for action in (*_TOPIC_ACTIONS, *_SUBSCRIPTION_ACTIONS)],
            [scope.topics],
        ),
        allow("Queues", [f"sqs:{action}" for action in _ADMINISTERED], [scope.queues]),
        allow("Find", found, ["*"], {"StringEquals": {"aws:RequestedRegion": scope.region}}),
    ]
    if topics:
        # By its service reference and error messages, SNS authorises subscription calls against
        # the topic. Older pages name no resource: so the subscription's own ARN is allowed too.
        reached = [pattern for arn in topics for pattern in (arn, f"{arn}:*")]
        statements.append(
            allow(
                "ForeignTopics",
                [f"sns:{action}" for action in ("GetTopicAttributes", *_SUBSCRIPTION_ACTIONS)],
                reached,
            )
        )
    if buckets:
        statements.append(
            allow(
                "Notifications", ["s3:GetBucketNotification", "s3:PutBucketNotification"], buckets
            )
        )
    if payload_bucket is not None:
        expire = ["s3:GetLifecycleConfiguration", "s3:PutLifecycleConfiguration"]
        statements.append(allow("ExpirePayloads", expire, [scope.bucket(payload_bucket)]))
    return document(statements)


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
    """Return the trust policy of a role: *trusted* may assume it with *external_id*.

    Parameters
    ----------
    trusted : str
        The ARN of one role, or an account: 12 digits, or the ARN of its root. An account stands for
        every principal that its own policies allow.
    external_id : str or None
        Agreed by both sides. It keeps others from misusing *trusted* to reach this role (the
        confused deputy). ``None`` is right within one account only.
    """
    check_text(
        "trusted principal",
        trusted,
        re.compile(TRUSTED, re.ASCII),
        "12 digits, or such as arn:aws:iam::123456789012:role/reader",
    )
    if external_id is not None:
        check_text(
            "external id",
            external_id,
            re.compile(EXTERNAL_ID, re.ASCII),
            "2 to 1224 letters, digits or _+=,.@:/-",
        )
    return trust_document(trusted, external_id)


def trust_document(trusted: str, external_id: str | None) -> Policy:
    """Return :func:`trust_policy`, unchecked: in a template both are parameters with patterns."""
    statement: Policy = {
        "Sid": "Assume",
        "Effect": "Allow",
        "Principal": {"AWS": trusted},
        "Action": "sts:AssumeRole",
    }
    if external_id is not None:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return document([statement])


def assume_role_policy(role_arn: str) -> Policy:
    """Return the policy that the other account gives its listener: to assume *role_arn*."""
    check_text("role ARN", role_arn, ROLE, "such as arn:aws:iam::123456789012:role/reader")
    return document([allow("Assume", ["sts:AssumeRole"], [role_arn])])


# -- what queues and topics accept: resource policies ----------------------------------------------


def queue_policy(queue_arn: str, topic_arn: str, account: str) -> Policy:
    """Return the policy of a queue that one topic feeds.

    SNS may send to it for *topic_arn* only, and only while that topic belongs to *account*, which
    may differ from the queue's. Nothing is accepted without TLS. Principals of the queue's own
    account need no statement here: their IAM policies decide.
    """
    send = _from_service("sns.amazonaws.com", "sqs:SendMessage", queue_arn, topic_arn, account)
    return document([send, _tls_only("sqs:*", queue_arn)])


def dead_letter_policy(queue_arn: str) -> Policy:
    """Return the policy of a dead-letter queue: nothing without TLS.

    SQS itself moves dead letters there and needs no statement.
    """
    return document([_tls_only("sqs:*", queue_arn)])


def topic_policy(topic_arn: str, bucket: str, account: str) -> Policy:
    """Return the policy of a topic that the notifications of one bucket feed.

    S3 may publish for *bucket* only, and only while that bucket belongs to *account*: the name of a
    deleted bucket is free for others. Nothing is published without TLS. Principals of the topic's
    own account need no statement here.
    """
    bucket_arn = f"{topic_arn.partition(':sns:')[0]}:s3:::{bucket}"
    publish = _from_service("s3.amazonaws.com", "sns:Publish", topic_arn, bucket_arn, account)
    # SNS refuses `sns:*` in the policy of a topic: it has actions that do not concern topics.
    return document([publish, _tls_only("sns:Publish", topic_arn)])


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
