"""A CloudFormation template of a bus: what ``subscribe`` would make, for those who want it reviewed
and deployed as a stack.

The names are those of :mod:`mltrigger.aws.naming`, the statements those of
:mod:`mltrigger.aws.admin.policies`, and the settings the defaults of ``subscribe``, so that
``mt.connect("aws://region/prefix")`` finds the stack's topics and queues and has nothing to change.

What a stack leaves behind when it is deleted: its dead-letter queues, because they hold what nobody
has dealt with (``Retain``). The rest goes with it. Before the same stack is made again, its
dead-letter queues have to be imported or deleted: their names are taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.aws import naming
from mltrigger.aws.admin import policies, queues
from mltrigger.errors import InvalidName, InvalidPolicy, MltriggerError
from mltrigger.names import check_name
from mltrigger.policy import DeliveryPolicy

MAX_RESOURCES, MAX_OUTPUTS = 500, 200
"""https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
LEASE_S = max(queues.MIN_LEASE_S, math.ceil(6 * DeliveryPolicy().timeout_s))
"""What the broker chooses where no lease is asked for: six times the timeout, as AWS advises."""
MAX_RECEIVE_COUNT = DeliveryPolicy().max_attempts + queues.SPARE_RECEIVES

Template = dict[str, Any]
_BUS = policies.Scope("${AWS::Region}", "${AWS::AccountId}", "${Prefix}", "${AWS::Partition}")
_VARIABLE = re.compile(r"\$\{([A-Za-z0-9:]+)\}")
_PLAIN = re.compile(r"[a-z][a-z0-9]*")


def template(
    prefix: str = "mltrigger",
    topics: Mapping[str, Sequence[str]] | None = None,
    *,
    lease_s: int = LEASE_S,
    max_receive_count: int = MAX_RECEIVE_COUNT,
    trusted_account: str = "",
    external_id: str = "",
    payload_bucket: str | None = None,
    create_buckets: bool = False,
    keep_dead_letters: bool = True,
) -> Template:
    """Return the template of a bus as what `json.dumps` takes; CloudFormation reads JSON as it
    reads YAML.

    Parameters
    ----------
    prefix : str
        Of the bus, as in ``aws://region/prefix``: the default of the parameter ``Prefix``.
    topics : mapping of str to sequence of str
        The subscriptions of each topic, by default ``{"documents": ["reader"]}``. A topic is a name
        (FIFO when it ends in ``.fifo``) or a source ``s3://bucket/prefix/*.png``. One topic with
        one subscription has its names as parameters as well.
    lease_s, max_receive_count : int
        Defaults of the parameters ``LeaseSeconds`` and ``MaxReceiveCount``.
    trusted_account, external_id : str
        Defaults of the parameters ``TrustedAccount`` (an account or the ARN of a role) and
        ``ExternalId``. With the first, the stack has a role for that account which can read its
        queues and nothing else, and the second is demanded.
    payload_bucket : str, optional
        An existing bucket for bodies beyond the limit; the roles may use
        :data:`~mltrigger.aws.admin.policies.PAYLOADS` in it.
    create_buckets : bool
        Make the buckets of S3 sources, with their notification. Otherwise they exist, and
        ``subscribe`` adds the notification to those that are there, which CloudFormation cannot.
    keep_dead_letters : bool
        Keep the dead-letter queues when the stack is deleted.
    """
    naming.check_prefix(prefix)
    _check_settings(lease_s, max_receive_count, trusted_account, external_id)
    feeds = [
        _feed(prefix, topic, names)
        for topic, names in ({"documents": ["reader"]} if topics is None else topics).items()
    ]
    _check_distinct(feeds)
    single = (
        len(feeds) == 1
        and len(feeds[0].subscriptions) == 1
        and not feeds[0].source
        and not feeds[0].fifo
    )
    if single:
        feeds = [_with_parameters(feeds[0])]
    subscribed = [queue for feed in feeds for queue in feed.subscriptions]
    resources: dict[str, Any] = {}
    for feed in feeds:
        resources |= dict(_topic(feed))
        for queue in feed.subscriptions:
            resources |= dict(_subscription(feed, queue, keep_dead_letters))
    if create_buckets:
        resources |= _buckets(feeds)
    resources |= _roles(feeds, subscribed, payload_bucket)
    outputs = _outputs(feeds, single)
    if len(resources) > MAX_RESOURCES or len(outputs) > MAX_OUTPUTS:
        raise MltriggerError(
            f"a stack holds at most {MAX_RESOURCES} resources and {MAX_OUTPUTS} outputs; this bus"
            f" has {len(resources)} and {len(outputs)}: make a template for some of its topics each"
        )
    defaults = {
        "LeaseSeconds": lease_s,
        "MaxReceiveCount": max_receive_count,
        "TrustedAccount": trusted_account,
        "ExternalId": external_id,
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": (
            "A bus of mltrigger: SNS topics, SQS queues with dead-letter queues, and the roles that"
            " use them."
        ),
        "Parameters": _parameters(prefix, feeds, single, defaults),
        "Rules": _RULES,
        "Conditions": {
            "HasTrustedAccount": {"Fn::Not": [{"Fn::Equals": [{"Ref": "TrustedAccount"}, ""]}]}
        },
        "Resources": _resolved(resources),
        "Outputs": _resolved(outputs),
    }


def to_json(document: Mapping[str, Any]) -> str:
    """Return the template or policy *document* as JSON text, as the AWS command line takes it."""
    return json.dumps(document, indent=2)


def _check_settings(
    lease_s: int, max_receive_count: int, trusted_account: str, external_id: str
) -> None:
    for name, value, low, high in (
        ("lease_s", lease_s, queues.MIN_LEASE_S, queues.MAX_LEASE_S),
        ("max_receive_count", max_receive_count, 1, queues.MAX_RECEIVES),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidPolicy(
                f"{name} must be a whole number from {low} to {high}, got {value!r}"
            )
    if external_id and not trusted_account:
        raise InvalidName("an external id belongs to a trusted account: give both, or neither")
    if trusted_account:
        # Without an external id the parameter stays empty, and the rule of the template demands it
        # at deployment.
        policies.trust_policy(trusted_account, external_id or None)


# -- names -----------------------------------------------------------------------------------------


class _Queue(NamedTuple):
    """One subscription: the ids of its resources end in *id*; names are expressions of the
    template's parameters.
    """

    id: str
    subscription: str
    queue: str
    dead: str
    tag: str


class _Feed(NamedTuple):
    """One topic and its subscriptions."""

    id: str
    topic: str
    name: str
    source: naming.S3Source | None
    fifo: bool
    subscriptions: tuple[_Queue, ...]
    # the longest prefix that no name has to be shortened for; None when one already is
    room: int | None


def _feed(prefix: str, topic: str, subscriptions: Sequence[str]) -> _Feed:
    if isinstance(subscriptions, str):
        raise InvalidName(
            f"the subscriptions of topic {topic!r} must be a list of names, got the text"
            f" {subscriptions!r}"
        )
    source = naming.S3Source.parse(topic) if topic.startswith("s3://") else None
    called = source.topic_name if source else topic
    check_name("topic", called.removesuffix(naming.FIFO))
    for name in subscriptions:
        check_name("subscription", name)
    if len(set(subscriptions)) != len(subscriptions):
        raise InvalidName(f"topic {topic!r} names a subscription twice: {', '.join(subscriptions)}")
    made, rooms = [], []
    for name in subscriptions:
        queue, dead = (
            naming.queue_name(prefix, called, name),
            naming.dead_name(prefix, called, name),
        )
        rest = f"-{called.removesuffix(naming.FIFO)}-{name}"
        whole = queue.removesuffix(naming.FIFO) == prefix + rest
        rooms.append(naming.MAX_QUEUE - len(dead) + len(prefix) if whole else None)
        at = len(prefix) if whole else 0
        start = "${Prefix}" if whole else ""
        made.append(_Queue(_id(called, name), name, start + queue[at:], start + dead[at:], name))
    room = None if None in rooms else min([40, *(each for each in rooms if each is not None)])
    name = naming.topic_name(prefix, called)
    return _Feed(
        _id(called),
        called,
        "${Prefix}" + name[len(prefix) :],
        source,
        called.endswith(naming.FIFO),
        tuple(made),
        room,
    )


def _check_distinct(feeds: Sequence[_Feed]) -> None:
    """Raise InvalidName when two subscriptions would share a queue: ``a`` of topic ``b-c`` and
    ``c-a`` of topic ``b`` are called alike.
    """
    owners: dict[str, str] = {}
    for feed in feeds:
        for name, owner in [(feed.name, f"topic {feed.topic!r}")] + [
            (name, f"subscription {queue.subscription!r} of topic {feed.topic!r}")
            for queue in feed.subscriptions
            for name in (queue.queue, queue.dead)
        ]:
            kind = "topic" if owner.startswith("topic") else "queue"
            other = owners.setdefault(f"{kind} {name}", owner)
            if other is not owner:
                raise InvalidName(
                    f"{other} and {owner} would share the {kind} {name!r}: rename one of them"
                )
    if not any(feed.subscriptions for feed in feeds):
        raise InvalidName(
            "a template needs at least one topic with a subscription, such as documents=reader"
        )


def _with_parameters(feed: _Feed) -> _Feed:
    """Return the only topic with the names as parameters; CloudFormation refuses what would be too
    long, so nothing gets a wrong name.
    """
    if feed.room is None:
        return feed
    queue = "${Prefix}-${TopicName}-${SubscriptionName}"
    only = feed.subscriptions[0]._replace(
        queue=queue, dead=f"{queue}-{naming.DEAD}", tag="${SubscriptionName}"
    )
    return feed._replace(name="${Prefix}-${TopicName}", subscriptions=(only,))


def _id(*names: str) -> str:
    """Return what ends a logical id: the same for the same names whatever else the template has, or
    an update would replace queues.
    """
    plain = "".join(
        part.capitalize() for name in names for part in re.findall(r"[A-Za-z0-9]+", name)
    )
    if all(_PLAIN.fullmatch(name) for name in names):
        return plain
    return plain[:100] + hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


# -- resources -------------------------------------------------------------------------------------


def _topic(feed: _Feed) -> Iterator[tuple[str, Any]]:
    fifo = (
        {
            "FifoTopic": True,
            "ContentBasedDeduplication": False,
            "FifoThroughputScope": "MessageGroup",
        }
        if feed.fifo
        else {}
    )
    yield (
        f"Topic{feed.id}",
        _resource("AWS::SNS::Topic", {"TopicName": feed.name, **fifo, "Tags": _tags()}),
    )
    if feed.source is not None:
        policy = policies.topic_policy(
            _arn("sns", feed.name), feed.source.bucket, "${AWS::AccountId}"
        )
        yield (
            f"TopicPolicy{feed.id}",
            _resource(
                "AWS::SNS::TopicPolicy",
                {"Topics": [{"Ref": f"Topic{feed.id}"}], "PolicyDocument": policy},
            ),
        )


def _buckets(feeds: Sequence[_Feed]) -> Template:
    found: dict[str, list[tuple[_Feed, naming.S3Source]]] = {}
    for feed in feeds:
        if feed.source is not None:
            found.setdefault(feed.source.bucket, []).append((feed, feed.source))
    return {f"Bucket{_id(name)}": _bucket(name, fed) for name, fed in found.items()}


def _bucket(name: str, fed: Sequence[tuple[_Feed, naming.S3Source]]) -> Template:
    notifications = []
    for feed, source in fed:
        rules = [
            {"Name": end, "Value": value}
            for end, value in (("prefix", source.prefix), ("suffix", source.suffix))
            if value
        ]
        notification = {"Event": "s3:ObjectCreated:*", "Topic": {"Ref": f"Topic{feed.id}"}}
        notifications.append(
            {**notification, "Filter": {"S3Key": {"Rules": rules}}} if rules else notification
        )
    blocked = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    properties = {
        "BucketName": name,
        "NotificationConfiguration": {"TopicConfigurations": notifications},
        # The event names the version of the object that it is about.
        "VersioningConfiguration": {"Status": "Enabled"},
        "PublicAccessBlockConfiguration": dict.fromkeys(blocked, True),
        "Tags": _tags(),
    }
    # S3 tries the topics when the notification is set: their policies must be there by then.
    return {
        **_resource("AWS::S3::Bucket", properties, keep=True),
        "DependsOn": [f"TopicPolicy{feed.id}" for feed, _ in fed],
    }


def _subscription(feed: _Feed, queue: _Queue, keep_dead_letters: bool) -> Iterator[tuple[str, Any]]:
    fifo: Template = (
        {
            "FifoQueue": True,
            "ContentBasedDeduplication": False,
            "DeduplicationScope": "messageGroup",
        }
        if feed.fifo
        else {}
    )
    if feed.fifo:
        fifo["FifoThroughputLimit"] = "perMessageGroupId"
    both = {
        **fifo,
        "SqsManagedSseEnabled": True,
        "MaximumMessageSize": queues.MAX_MESSAGE_BYTES,
        "Tags": _tags(queue.tag),
    }
    dead = {
        "QueueName": queue.dead,
        "MessageRetentionPeriod": queues.DEAD_RETENTION_S,
        # By name, not by reference: each of the two queues names the other.
        "RedriveAllowPolicy": {
            "redrivePermission": "byQueue",
            "sourceQueueArns": [_arn("sqs", queue.queue)],
        },
        **both,
    }
    main = {
        "QueueName": queue.queue,
        "MessageRetentionPeriod": queues.RETENTION_S,
        "VisibilityTimeout": {"Ref": "LeaseSeconds"},
        "ReceiveMessageWaitTimeSeconds": queues.POLL_S,
        "RedrivePolicy": {
            "deadLetterTargetArn": {"Fn::GetAtt": [f"DeadLetterQueue{queue.id}", "Arn"]},
            "maxReceiveCount": {"Ref": "MaxReceiveCount"},
        },
        **both,
    }
    accepts = policies.queue_policy(
        _arn("sqs", queue.queue), _arn("sns", feed.name), "${AWS::AccountId}"
    )
    yield f"DeadLetterQueue{queue.id}", _resource("AWS::SQS::Queue", dead, keep=keep_dead_letters)
    yield f"Queue{queue.id}", _resource("AWS::SQS::Queue", main)
    yield f"QueuePolicy{queue.id}", _queue_policy(f"Queue{queue.id}", accepts)
    yield (
        f"DeadLetterQueuePolicy{queue.id}",
        _queue_policy(
            f"DeadLetterQueue{queue.id}", policies.dead_letter_policy(_arn("sqs", queue.dead))
        ),
    )
    subscribed = {
        "TopicArn": {"Ref": f"Topic{feed.id}"},
        "Protocol": "sqs",
        "Endpoint": {"Fn::GetAtt": [f"Queue{queue.id}", "Arn"]},
        "RawMessageDelivery": True,
    }
    # Or the first messages would be refused by the queue.
    yield (
        f"Subscription{queue.id}",
        {**_resource("AWS::SNS::Subscription", subscribed), "DependsOn": f"QueuePolicy{queue.id}"},
    )


def _queue_policy(queue: str, document: policies.Policy) -> Template:
    return _resource(
        "AWS::SQS::QueuePolicy", {"Queues": [{"Ref": queue}], "PolicyDocument": document}
    )


def _roles(
    feeds: Sequence[_Feed], subscribed: Sequence[_Queue], payload_bucket: str | None
) -> Template:
    """Return the roles of the bus.

    They have no names of their own, so that deploying takes CAPABILITY_IAM and no more.
    """
    here = policies.trust_document("arn:${AWS::Partition}:iam::${AWS::AccountId}:root", None)
    buckets = [feed.source.url for feed in feeds if feed.source]
    publisher = policies.publisher(_BUS, payload_bucket=payload_bucket)
    listener = policies.listener(_BUS, source_buckets=buckets, payload_bucket=payload_bucket)
    consumer = policies.listen_document([_arn("sqs", queue.queue) for queue in subscribed])
    there = policies.trust_document("${TrustedAccount}", "${ExternalId}")
    return {
        "PublisherRole": _role("Publishes on the topics of the bus.", here, "publish", publisher),
        "ListenerRole": _role("Delivers the subscriptions of the bus.", here, "listen", listener),
        "QueueConsumerRole": {
            "Condition": "HasTrustedAccount",
            **_role(
                "Lets another account read the queues of this stack.", there, "listen", consumer
            ),
        },
    }


def _role(
    description: str, trust: policies.Policy, name: str, document: policies.Policy
) -> Template:
    properties = {
        "Description": description,
        "AssumeRolePolicyDocument": trust,
        "Policies": [{"PolicyName": name, "PolicyDocument": document}],
        "Tags": _tags(),
    }
    return _resource("AWS::IAM::Role", properties)


def _resource(kind: str, properties: Template, *, keep: bool = False) -> Template:
    policy = "Retain" if keep else "Delete"
    return {
        "Type": kind,
        "DeletionPolicy": policy,
        "UpdateReplacePolicy": policy,
        "Properties": properties,
    }


def _tags(subscription: str | None = None) -> list[dict[str, str]]:
    tags = queues.Owner("${Prefix}", subscription).tags
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _arn(service: str, name: str) -> str:
    return f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{name}"


def _resolved(value: Any) -> Any:
    """Return *value* with every text that has variables as the function that CloudFormation fills
    them in by.
    """
    if isinstance(value, str):
        if variable := _VARIABLE.fullmatch(value):
            return {"Ref": variable[1]}
        return {"Fn::Sub": value} if _VARIABLE.search(value) else value
    if isinstance(value, dict):
        return {key: _resolved(inner) for key, inner in value.items()}
    return [_resolved(inner) for inner in value] if isinstance(value, list) else value


# -- parameters and outputs ------------------------------------------------------------------------


_RULES = {
    "ExternalIdForTrustedAccount": {
        "RuleCondition": {"Fn::Not": [{"Fn::Equals": [{"Ref": "TrustedAccount"}, ""]}]},
        "Assertions": [
            {
                "Assert": {"Fn::Not": [{"Fn::Equals": [{"Ref": "ExternalId"}, ""]}]},
                "AssertDescription": (
                    "TrustedAccount needs an ExternalId that both accounts have agreed on"
                ),
            }
        ],
    }
}


def _parameters(
    prefix: str, feeds: Sequence[_Feed], single: bool, defaults: Mapping[str, Any]
) -> Template:
    name = "[A-Za-z0-9_-]+"
    rooms = [feed.room for feed in feeds]
    parameters: Template = {
        "Prefix": _text(
            "Of the bus, as in aws://region/prefix; it begins every name.", prefix, name
        )
    }
    if None in rooms:  # a name is shortened for this very prefix
        parameters["Prefix"]["AllowedValues"] = [prefix]
    else:
        parameters["Prefix"] |= {
            "MinLength": 1,
            "MaxLength": min([40, *(room for room in rooms if room is not None)]),
        }
        if single:
            # Together they may be too long for a queue: SQS refuses it then, and nothing gets
            # another name than the library expects.
            sizes = {"MinLength": 1, "MaxLength": 70}
            parameters["TopicName"] = {**_text("Name of the topic.", feeds[0].topic, name), **sizes}
            parameters["SubscriptionName"] = {
                **_text("Name of its subscription.", feeds[0].subscriptions[0].subscription, name),
                **sizes,
            }
            parameters["Prefix"]["MaxLength"] = 40
    return parameters | {
        "LeaseSeconds": _number(
            "Seconds that a received event is hidden from other listeners.",
            defaults["LeaseSeconds"],
            queues.MIN_LEASE_S,
            queues.MAX_LEASE_S,
        ),
        "MaxReceiveCount": _number(
            "Receives after which SQS itself moves a message to the dead letters; well above the"
            " attempts of the subscription.",
            defaults["MaxReceiveCount"],
            1,
            queues.MAX_RECEIVES,
        ),
        "TrustedAccount": _text(
            "Account (12 digits) or role ARN that may read the queues of this stack; empty for"
            " none.",
            defaults["TrustedAccount"],
            f"|{policies.TRUSTED}",
        ),
        "ExternalId": _text(
            "What the trusted account has to name; not empty when there is one.",
            defaults["ExternalId"],
            f"|{policies.EXTERNAL_ID}",
        ),
    }


def _text(description: str, default: str, pattern: str) -> Template:
    return {
        "Type": "String",
        "Description": description,
        "Default": default,
        "AllowedPattern": f"^({pattern})$",
    }


def _number(description: str, default: int, low: int, high: int) -> Template:
    return {
        "Type": "Number",
        "Description": description,
        "Default": default,
        "MinValue": low,
        "MaxValue": high,
    }


def _outputs(feeds: Sequence[_Feed], single: bool) -> Template:
    outputs: Template = {
        "BusURL": _output("For mltrigger.connect.", "aws://${AWS::Region}/${Prefix}")
    }
    for feed in feeds:
        outputs[f"TopicARN{'' if single else feed.id}"] = _output(
            f"Topic {feed.topic}.", {"Ref": f"Topic{feed.id}"}
        )
        for queue in feed.subscriptions:
            end, of = (
                ("", "the subscription")
                if single
                else (queue.id, f"{queue.subscription} of {feed.topic}")
            )
            outputs[f"QueueURL{end}"] = _output(f"Queue of {of}.", {"Ref": f"Queue{queue.id}"})
            outputs[f"DeadLetterQueueURL{end}"] = _output(
                f"Dead letters of {of}.", {"Ref": f"DeadLetterQueue{queue.id}"}
            )
    consumer = {
        "Fn::If": [
            "HasTrustedAccount",
            {"Fn::GetAtt": ["QueueConsumerRole", "Arn"]},
            {"Fn::GetAtt": ["ListenerRole", "Arn"]},
        ]
    }
    return outputs | {
        "QueueConsumerARN": _output(
            "Role to read the queues with: of the trusted account when there is one, else the"
            " listener's.",
            consumer,
        ),
        "PublisherRoleARN": _output(
            "Role to publish with.", {"Fn::GetAtt": ["PublisherRole", "Arn"]}
        ),
        "ListenerRoleARN": _output(
            "Role to deliver with.", {"Fn::GetAtt": ["ListenerRole", "Arn"]}
        ),
    }


def _output(description: str, value: Any) -> Template:
    return {"Description": description, "Value": value}
