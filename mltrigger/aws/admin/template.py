"""A CloudFormation template of a bus, for those who review and deploy a stack themselves.

Settings come from :mod:`mltrigger.aws.admin.topology`, statements from
:mod:`mltrigger.aws.admin.policies`, and names from :mod:`mltrigger.aws.naming`. ``subscribe`` uses
the same ones. So ``mt.connect("aws://region/prefix")`` finds the topics and queues of the stack and
has nothing to change.

A deleted stack leaves its dead-letter queues behind (``Retain``), because they hold unsolved
failures. Their names stay taken: import or delete them before you make the same stack again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mltrigger.aws import naming
from mltrigger.aws.admin import policies, topology
from mltrigger.aws.admin.template_names import (
    Feed,
    Queue,
    feeds_of,
    is_single,
    logical_id,
    with_parameters,
)
from mltrigger.aws.admin.template_parameters import (
    RULES,
    given,
    name_parameters,
    setting_parameters,
)
from mltrigger.errors import InvalidName, InvalidPolicy, MltriggerError
from mltrigger.policy import DeliveryPolicy

MAX_RESOURCES, MAX_OUTPUTS = 500, 200
"""https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
LEASE_S = math.ceil(topology.default_lease_s(DeliveryPolicy()))
MAX_RECEIVE_COUNT = topology.max_receives(DeliveryPolicy())

Template = dict[str, Any]
_BUS = policies.Scope("${AWS::Region}", "${AWS::AccountId}", "${Prefix}", "${AWS::Partition}")
_ACCOUNT = "${AWS::AccountId}"
_VARIABLE = re.compile(r"\$\{([A-Za-z0-9:]+)\}")


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
    """Return the template of a bus as a mapping for `json.dumps`. CloudFormation reads JSON.

    Parameters
    ----------
    prefix : str
        Prefix of the bus, as in ``aws://region/prefix``: the default of the parameter ``Prefix``.
    topics : mapping of str to sequence of str
        The subscriptions of each topic, by default ``{"documents": ["reader"]}``. A topic is a name
        (FIFO if it ends in ``.fifo``) or a source ``s3://bucket/prefix/*.png``. For one topic with
        one subscription, the names are parameters as well.
    lease_s, max_receive_count : int
        Defaults of the parameters ``LeaseSeconds`` and ``MaxReceiveCount``.
    trusted_account, external_id : str
        Defaults of the parameters ``TrustedAccount`` (an account or the ARN of a role) and
        ``ExternalId``. A trusted account gets a role that may read the queues of the stack and
        nothing else. It then needs an external id.
    payload_bucket : str, optional
        An existing bucket for bodies beyond the limit. The roles may use
        :data:`~mltrigger.aws.admin.policies.PAYLOADS` in it.
    create_buckets : bool
        Create the buckets of S3 sources with their notifications. Otherwise the buckets exist, and
        ``subscribe`` adds the notification, which CloudFormation cannot.
    keep_dead_letters : bool
        Keep the dead-letter queues when the stack is deleted.

    Raises
    ------
    InvalidName, InvalidPolicy
        A name or a setting is wrong.
    MltriggerError
        The bus is too large for one stack.
    """
    naming.check_prefix(prefix)
    _check_settings(lease_s, max_receive_count, trusted_account, external_id)
    feeds = feeds_of(prefix, {"documents": ["reader"]} if topics is None else topics)
    single = is_single(feeds)
    if single:
        feeds = [with_parameters(feeds[0])]
    resources = dict(_resources(feeds, payload_bucket, create_buckets, keep_dead_letters))
    outputs = _outputs(feeds, single)
    if len(resources) > MAX_RESOURCES or len(outputs) > MAX_OUTPUTS:
        raise MltriggerError(
            f"a stack holds at most {MAX_RESOURCES} resources and {MAX_OUTPUTS} outputs; this bus"
            f" has {len(resources)} and {len(outputs)}: make a template for some of its topics each"
        )
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": (
            "A bus of mltrigger: SNS topics, SQS queues with dead-letter queues, and the roles that"
            " use them."
        ),
        "Parameters": {
            **name_parameters(prefix, feeds, single),
            **setting_parameters(lease_s, max_receive_count, trusted_account, external_id),
        },
        "Rules": RULES,
        "Conditions": {"HasTrustedAccount": given("TrustedAccount")},
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
        ("lease_s", lease_s, topology.MIN_LEASE_S, topology.MAX_LEASE_S),
        ("max_receive_count", max_receive_count, 1, topology.MAX_RECEIVES),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidPolicy(
                f"{name} must be a whole number from {low} to {high}, got {value!r}"
            )
    if external_id and not trusted_account:
        raise InvalidName("an external id belongs to a trusted account: give both, or neither")
    if trusted_account:
        # Without an external id the parameter stays empty. A rule of the template then demands it
        # at deployment.
        policies.trust_policy(trusted_account, external_id or None)


# -- resources -------------------------------------------------------------------------------------


def _resources(
    feeds: Sequence[Feed],
    payload_bucket: str | None,
    create_buckets: bool,
    keep_dead_letters: bool,
) -> Iterator[tuple[str, Template]]:
    """Yield the resources by their logical ids."""
    for feed in feeds:
        yield from _topic(feed)
        for queue in feed.subscriptions:
            yield from _queues(feed, queue, keep_dead_letters)
            yield from _feed(feed, queue)
    if create_buckets:
        yield from _buckets(feeds)
    yield from _roles(feeds, payload_bucket)


def _topic(feed: Feed) -> Iterator[tuple[str, Template]]:
    fifo = {"FifoTopic": True} if feed.fifo else {}
    settings = {"TopicName": feed.name, **fifo, **topology.topic(fifo=feed.fifo), "Tags": _tags()}
    yield f"Topic{feed.id}", _resource("AWS::SNS::Topic", settings)
    if feed.source is not None:
        policy = policies.topic_policy(_arn("sns", feed.name), feed.source.bucket, _ACCOUNT)
        attached = {"Topics": [{"Ref": f"Topic{feed.id}"}], "PolicyDocument": policy}
        yield f"TopicPolicy{feed.id}", _resource("AWS::SNS::TopicPolicy", attached)


def _queues(feed: Feed, queue: Queue, keep_dead_letters: bool) -> Iterator[tuple[str, Template]]:
    """Yield the queue of a subscription and its dead-letter queue, with their policies."""
    # By name, not by reference: each of the two queues names the other.
    arn, dead_arn = _arn("sqs", queue.queue), _arn("sqs", queue.dead)
    work = topology.work_queue(
        fifo=feed.fifo,
        lease_s={"Ref": "LeaseSeconds"},
        dead_arn={"Fn::GetAtt": [f"DeadLetterQueue{queue.id}", "Arn"]},
        receives={"Ref": "MaxReceiveCount"},
    )
    dead = topology.dead_letter_queue(fifo=feed.fifo, source_arn=arn)
    accepts = policies.queue_policy(arn, _arn("sns", feed.name), _ACCOUNT)
    for kind, name, settings, keep, document in (
        ("DeadLetterQueue", queue.dead, dead, keep_dead_letters, None),
        ("Queue", queue.queue, work, False, accepts),
    ):
        fifo = {"FifoQueue": True} if feed.fifo else {}
        properties = {"QueueName": name, **fifo, **settings, "Tags": _tags(queue.tag)}
        yield f"{kind}{queue.id}", _resource("AWS::SQS::Queue", properties, keep=keep)
        attached = {
            "Queues": [{"Ref": f"{kind}{queue.id}"}],
            "PolicyDocument": document or policies.dead_letter_policy(dead_arn),
        }
        yield f"{kind}Policy{queue.id}", _resource("AWS::SQS::QueuePolicy", attached)


def _feed(feed: Feed, queue: Queue) -> Iterator[tuple[str, Template]]:
    """Yield the subscription of a queue to its topic."""
    properties = {
        "TopicArn": {"Ref": f"Topic{feed.id}"},
        "Protocol": "sqs",
        "Endpoint": {"Fn::GetAtt": [f"Queue{queue.id}", "Arn"]},
        **topology.feed(),
    }
    subscribed = _resource("AWS::SNS::Subscription", properties)
    # Without the policy, the queue would refuse the first messages.
    yield f"Subscription{queue.id}", {**subscribed, "DependsOn": f"QueuePolicy{queue.id}"}


def _buckets(feeds: Sequence[Feed]) -> Iterator[tuple[str, Template]]:
    found: dict[str, list[tuple[Feed, naming.S3Source]]] = {}
    for feed in feeds:
        if feed.source is not None:
            found.setdefault(feed.source.bucket, []).append((feed, feed.source))
    for name, fed in found.items():
        yield f"Bucket{logical_id(name)}", _bucket(name, fed)


def _bucket(name: str, fed: Sequence[tuple[Feed, naming.S3Source]]) -> Template:
    notifications = []
    for feed, source in fed:
        rules = topology.key_rules(source)
        filtered = {"Filter": {"S3Key": {"Rules": rules}}} if rules else {}
        notifications += [
            {"Event": event, "Topic": {"Ref": f"Topic{feed.id}"}, **filtered}
            for event in topology.ANNOUNCED
        ]
    blocked = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    properties = {
        "BucketName": name,
        "NotificationConfiguration": {"TopicConfigurations": notifications},
        # An event names the version of its object.
        "VersioningConfiguration": {"Status": "Enabled"},
        "PublicAccessBlockConfiguration": dict.fromkeys(blocked, True),
        "Tags": _tags(),
    }
    # S3 tests the topics when it gets the notification: their policies must exist by then.
    return {
        **_resource("AWS::S3::Bucket", properties, keep=True),
        "DependsOn": [f"TopicPolicy{feed.id}" for feed, _ in fed],
    }


def _roles(feeds: Sequence[Feed], payload_bucket: str | None) -> Iterator[tuple[str, Template]]:
    """Yield the roles of the bus.

    They have no names, so that CAPABILITY_IAM is enough to deploy them.
    """
    here = policies.trust_document("arn:${AWS::Partition}:iam::${AWS::AccountId}:root", None)
    there = policies.trust_document("${TrustedAccount}", "${ExternalId}")
    buckets = [feed.source.url for feed in feeds if feed.source]
    read = [_arn("sqs", queue.queue) for feed in feeds for queue in feed.subscriptions]
    publisher = policies.publisher(_BUS, payload_bucket=payload_bucket)
    listener = policies.listener(_BUS, source_buckets=buckets, payload_bucket=payload_bucket)
    consumer = policies.listen_document(read)
    consumer_role = _role(
        "Lets another account read the queues of this stack.", there, "listen", consumer
    )
    yield "PublisherRole", _role("Publishes on the topics of the bus.", here, "publish", publisher)
    yield "ListenerRole", _role("Delivers the subscriptions of the bus.", here, "listen", listener)
    yield "QueueConsumerRole", {"Condition": "HasTrustedAccount", **consumer_role}


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
    tags = topology.Owner("${Prefix}", subscription).tags
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _arn(service: str, name: str) -> str:
    return f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{name}"


def _resolved(value: Any) -> Any:
    """Return *value* with every text with variables as ``Ref`` or ``Fn::Sub``."""
    if isinstance(value, str):
        if variable := _VARIABLE.fullmatch(value):
            return {"Ref": variable[1]}
        return {"Fn::Sub": value} if _VARIABLE.search(value) else value
    if isinstance(value, dict):
        return {key: _resolved(inner) for key, inner in value.items()}
    return [_resolved(inner) for inner in value] if isinstance(value, list) else value


# -- outputs ---------------------------------------------------------------------------------------


def _outputs(feeds: Sequence[Feed], single: bool) -> Template:
    outputs = {"BusURL": _output("For mltrigger.connect.", "aws://${AWS::Region}/${Prefix}")}
    for feed in feeds:
        end = "" if single else feed.id
        outputs[f"TopicARN{end}"] = _output(f"Topic {feed.topic}.", {"Ref": f"Topic{feed.id}"})
        for queue in feed.subscriptions:
            end = "" if single else queue.id
            of = "the subscription" if single else f"{queue.subscription} of {feed.topic}"
            for output, kind, about in (
                ("QueueURL", "Queue", f"Queue of {of}."),
                ("DeadLetterQueueURL", "DeadLetterQueue", f"Dead letters of {of}."),
            ):
                outputs[f"{output}{end}"] = _output(about, {"Ref": f"{kind}{queue.id}"})
    publisher, listener, consumer = (
        {"Fn::GetAtt": [role, "Arn"]}
        for role in ("PublisherRole", "ListenerRole", "QueueConsumerRole")
    )
    return outputs | {
        "QueueConsumerARN": _output(
            "Role that reads the queues: of the trusted account if there is one, else the"
            " listener's.",
            {"Fn::If": ["HasTrustedAccount", consumer, listener]},
        ),
        "PublisherRoleARN": _output("Role that publishes.", publisher),
        "ListenerRoleARN": _output("Role that delivers.", listener),
    }


def _output(description: str, value: Any) -> Template:
    return {"Description": description, "Value": value}
