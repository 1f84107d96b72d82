"""Policy documents and the CloudFormation template of a bus: what AWS' own lists, cfn-lint and the
emulator say about them.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pytest
from emulators import ACCOUNT, REGION, Emulator, moto_server
from shared import wait_until

import mltrigger as mt
import mltrigger.aws
from mltrigger.aws import naming
from mltrigger.aws.admin import policies
from mltrigger.aws.admin.commands import ROLES
from mltrigger.aws.admin.policies import Scope
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.admin.template import template, to_json
from mltrigger.aws.clients import Clients
from mltrigger.aws.lean import LeanSqs
from mltrigger.aws.transport.outside import with_lease
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.broker import SubscriptionSpec
from mltrigger.cli import main
from mltrigger.errors import InvalidName, InvalidPolicy, MltriggerError, NotFound
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy

OTHER = "210987654321"
ACME = Scope.of(REGION, ACCOUNT, "acme")
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
QUEUE = f"arn:aws:sqs:{REGION}:{OTHER}:orders"
TOPIC = f"arn:aws:sns:{REGION}:{OTHER}:orders"
OWN_QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:acme-documents-reader"
OWN_TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:acme-documents"
OBJECTS = "s3://scans/in/*.png"

IDENTITY = {
    "publisher": policies.publisher(ACME),
    "publisher with all": policies.publisher(ACME, payload_bucket="big-bodies", key_arn=KEY),
    "listener": policies.listener(ACME),
    "listener with all": policies.listener(
        ACME,
        emits=True,
        source_buckets=[OBJECTS, "archive", "more/a"],
        payload_bucket="big-bodies",
        lists_buckets=True,
        key_arn=KEY,
    ),
    "queue listener": policies.queue_listener(QUEUE),
    "queue listener with all": policies.queue_listener(QUEUE, f"{QUEUE}-2.fifo", key_arn=KEY),
    "administrator": policies.administrator(ACME),
    "administrator with all": policies.administrator(
        ACME, source_buckets=[OBJECTS], source_topics=[TOPIC], payload_bucket="big-bodies"
    ),
    "assume role": policies.assume_role_policy(f"arn:aws:iam::{ACCOUNT}:role/orders-reader"),
}
BUSES: dict[str, dict[str, Any]] = {
    "default": {},
    "one": {"prefix": "acme", "topics": {"documents": ["reader"]}, "keep_dead_letters": False},
    "several": {
        "prefix": "acme",
        "topics": {"documents": ["reader", "archiver"], "scanned-pages": ["ocr_2"]},
        "payload_bucket": "big-bodies",
    },
    "fifo": {
        "prefix": "acme",
        "topics": {"orders.fifo": ["billing"]},
        "lease_s": 360,
        "max_receive_count": 1000,
    },
    "s3": {
        "prefix": "acme",
        "topics": {OBJECTS: ["ocr"]},
        "trusted_account": OTHER,
        "external_id": "acme-2026",
    },
    "bucket": {
        "prefix": "acme",
        "topics": {OBJECTS: ["ocr"], "s3://scans/out/": ["index"], "s3://archive": ["index"]},
        "create_buckets": True,
        "trusted_account": f"arn:aws:iam::{OTHER}:role/reader",
        "external_id": "acme-2026",
    },
    "shortened": {"prefix": "acme", "topics": {"t" * 80: ["s" * 80]}},
}


def statements(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document["Statement"]


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# -- an evaluation of policies, as far as these documents go ---------------------------------------


def allows(document: Mapping[str, Any], action: str, resource: str = "", **context: str) -> bool:
    """Return whether *document* allows; *context* has the condition keys, ``_`` for ``:``.

    A deny wins, and no statement is a no.
    """
    effects = {
        s["Effect"]
        for s in statements(document)
        if _concerns(s, action, resource, {k.replace("_", ":"): v for k, v in context.items()})
    }
    return effects == {"Allow"}


def _concerns(
    statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]
) -> bool:
    if not any(
        fnmatch.fnmatchcase(action.lower(), pattern.lower())
        for pattern in listed(statement["Action"])
    ):
        return False
    if "Resource" in statement and not any(
        _like(resource, pattern) for pattern in listed(statement["Resource"])
    ):
        return False
    conditions = [
        (key, listed(values))
        for part in statement.get("Condition", {}).values()
        for key, values in part.items()
    ]
    return all(context.get(key) in values for key, values in conditions)


def _like(text: str, pattern: str) -> bool:
    return (
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text) is not None
    )


OWN_PAYLOAD = "arn:aws:s3:::big-bodies/mltrigger-payloads/1"
MATRIX = [
    ("publisher", "sns:Publish", OWN_TOPIC, True),
    ("publisher", "sns:Publish", OWN_TOPIC.replace("acme", "other"), False),
    ("publisher", "sns:Publish", OWN_TOPIC.replace("acme-", "acme"), False),
    ("publisher", "sns:Publish", OWN_TOPIC.replace(REGION, "us-east-1"), False),
    ("publisher", "sns:Publish", OWN_TOPIC.replace(ACCOUNT, OTHER), False),
    ("publisher", "sns:Subscribe", OWN_TOPIC, False),
    ("publisher", "sqs:ReceiveMessage", OWN_QUEUE, False),
    ("publisher", "s3:PutObject", OWN_PAYLOAD, False),
    ("publisher with all", "s3:PutObject", OWN_PAYLOAD, True),
    ("publisher with all", "s3:PutObject", "arn:aws:s3:::big-bodies/else", False),
    ("publisher with all", "s3:GetObject", OWN_PAYLOAD, False),
    ("listener", "sqs:ReceiveMessage", OWN_QUEUE, True),
    ("listener", "sqs:DeleteMessage", f"{OWN_QUEUE}-dead", True),
    ("listener", "sqs:DeleteMessage", QUEUE, False),
    ("listener", "sqs:DeleteQueue", OWN_QUEUE, False),
    ("listener", "sqs:SendMessage", OWN_QUEUE, False),
    ("listener", "sns:Publish", OWN_TOPIC, False),
    ("listener with all", "sns:Publish", OWN_TOPIC, True),
    ("listener with all", "s3:GetObjectVersion", "arn:aws:s3:::scans/in/2026/1.png", True),
    ("listener with all", "s3:GetObject", "arn:aws:s3:::scans/in/1.txt", False),
    ("listener with all", "s3:GetObject", "arn:aws:s3:::scans/out/1.png", False),
    ("listener with all", "s3:GetObject", "arn:aws:s3:::archive/1", True),
    ("listener with all", "s3:GetObject", OWN_PAYLOAD, True),
    ("listener with all", "s3:GetObject", "arn:aws:s3:::big-bodies/else", False),
    ("listener with all", "s3:DeleteObject", OWN_PAYLOAD, False),
    ("listener with all", "s3:ListBucket", "arn:aws:s3:::scans", True),
    ("queue listener", "sqs:ReceiveMessage", QUEUE, True),
    ("queue listener", "sqs:ReceiveMessage", f"{QUEUE}-2", False),
    ("administrator", "sns:CreateTopic", OWN_TOPIC, True),
    ("administrator", "sqs:CreateQueue", OWN_QUEUE, True),
    ("administrator", "sqs:StartMessageMoveTask", f"{OWN_QUEUE}-dead", False),
    ("administrator", "sqs:ReceiveMessage", OWN_QUEUE, False),
    ("listener", "sqs:ListQueueTags", OWN_QUEUE, True),
    ("publisher", "sns:GetTopicAttributes", OWN_TOPIC, True),
    ("administrator", "sqs:PurgeQueue", OWN_QUEUE, False),
    ("administrator", "sqs:DeleteQueue", QUEUE, False),
    ("administrator", "sns:Subscribe", TOPIC, False),
    ("administrator", "s3:PutBucketNotification", "arn:aws:s3:::scans", False),
    ("administrator with all", "sns:Subscribe", TOPIC, True),
    ("administrator with all", "sns:Unsubscribe", f"{TOPIC}:5be8358c", True),
    ("administrator with all", "sns:Publish", TOPIC, False),
    ("administrator with all", "s3:PutBucketNotification", "arn:aws:s3:::scans", True),
    ("administrator with all", "s3:PutBucketNotification", "arn:aws:s3:::archive", False),
    ("administrator with all", "s3:PutLifecycleConfiguration", "arn:aws:s3:::big-bodies", True),
    ("administrator with all", "s3:PutLifecycleConfiguration", "arn:aws:s3:::scans", False),
    ("assume role", "sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/orders-reader", True),
    ("assume role", "sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/orders", False),
]


@pytest.mark.parametrize(
    ("role", "action", "resource", "allowed"),
    MATRIX,
    ids=lambda value: str(value).rpartition(":")[2],
)
def test_a_role_may_do_its_part_and_nothing_beside_it(
    role: str, action: str, resource: str, allowed: bool
) -> None:
    assert allows(IDENTITY[role], action, resource) == allowed


# -- what AWS' lists say ---------------------------------------------------------------------------


@functools.cache
def services() -> dict[str, Any]:
    """Return AWS' service reference as cfn-lint carries it: for each service its actions, and the
    ARNs of its kinds of resources.
    """
    data: dict[str, Any] = json.loads(
        (files("cfnlint.data.AdditionalSpecs") / "Policies.json").read_text()
    )
    return data


def reference(action: str) -> dict[str, Any]:
    service, _, name = action.partition(":")
    found: dict[str, Any] = services()[service]["Actions"][name.lower()]
    return found


def arn_of(service: str, kind: str) -> list[str]:
    formats = services()[service]["Resources"][kind]["ARNFormats"]
    return [re.sub(r"\$\{\w+\}", "[^:]*", text) for text in formats]


@pytest.mark.parametrize("role", IDENTITY)
class TestIdentityPolicy:
    def test_every_action_exists(self, role: str) -> None:
        for statement in statements(IDENTITY[role]):
            for action in statement["Action"]:
                reference(action)

    def test_every_action_is_limited_to_the_kind_of_resource_that_it_concerns(
        self, role: str
    ) -> None:
        for statement in statements(IDENTITY[role]):
            for action in set(statement["Action"]) - set(policies.WITHOUT_RESOURCE):
                formats = [
                    text
                    for kind in reference(action)["Resources"]
                    for text in arn_of(action.partition(":")[0], kind)
                ]

                assert all(
                    any(re.fullmatch(text, arn) for text in formats)
                    for arn in statement["Resource"]
                ), action

    def test_nothing_is_allowed_by_wildcard(self, role: str) -> None:
        """Resources are `*` only where AWS knows no resource, and then in one region."""
        for statement in statements(IDENTITY[role]):
            assert not [action for action in statement["Action"] if "*" in action]
            if "*" in statement["Resource"]:
                assert set(statement["Action"]) <= set(policies.WITHOUT_RESOURCE)
                assert statement["Condition"] == {"StringEquals": {"aws:RequestedRegion": REGION}}
            else:
                assert all(
                    re.match(r"arn:aws:\w+:[^*]*:[^*]+", arn) for arn in statement["Resource"]
                )

    def test_its_statements_have_names_of_their_own(self, role: str) -> None:
        """IAM takes letters and digits in a Sid, and each once."""
        sids = [statement["Sid"] for statement in statements(IDENTITY[role])]

        assert len(set(sids)) == len(sids)
        assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)

    def test_it_fits_into_a_managed_policy(self, role: str) -> None:
        """6,144 characters without white space:
        https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html.
        """
        assert len(json.dumps(IDENTITY[role], separators=(",", ":"))) <= 6144


def test_only_what_aws_can_limit_to_no_resource_is_allowed_on_all() -> None:
    assert {
        action: "Resources" in reference(action) for action in policies.WITHOUT_RESOURCE
    } == dict.fromkeys(policies.WITHOUT_RESOURCE, False)
    assert all(len(reason) > 20 for reason in policies.WITHOUT_RESOURCE.values())


def test_listening_to_a_foreign_queue_takes_exactly_four_actions() -> None:
    document = policies.queue_listener(QUEUE)

    assert [set(statement["Action"]) for statement in statements(document)] == [
        {
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
        }
    ]
    assert [statement["Resource"] for statement in statements(document)] == [[QUEUE]]


def test_a_key_is_used_only_when_one_is_given_and_only_through_the_services() -> None:
    used = [s for s in statements(IDENTITY["listener with all"]) if s["Sid"] == "UseKey"]

    assert [
        s
        for role in ("publisher", "listener", "queue listener")
        for s in statements(IDENTITY[role])
        if "kms:Decrypt" in s["Action"]
    ] == []
    assert used[0]["Resource"] == [KEY]
    assert used[0]["Condition"]["StringEquals"]["kms:ViaService"] == [
        f"sqs.{REGION}.amazonaws.com",
        f"s3.{REGION}.amazonaws.com",
    ]


@pytest.mark.parametrize(
    ("region", "partition"),
    [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("eusc-de-east-1", "aws-eusc")],
)
def test_arns_are_of_the_partition_of_the_region(region: str, partition: str) -> None:
    document = policies.listener(Scope.of(region, ACCOUNT, "acme"), source_buckets=[OBJECTS])

    assert {arn.split(":")[1] for s in statements(document) for arn in s["Resource"]} == {partition}


def test_a_pattern_of_keys_never_allows_less_than_it_matches_nor_a_policy_variable() -> None:
    (statement,) = (
        s
        for s in statements(
            policies.listener(ACME, source_buckets=["s3://scans/[ab]/${aws:username}/*"])
        )
        if s["Sid"] == "ReadObjects"
    )

    assert statement["Resource"] == ["arn:aws:s3:::scans/?/?{aws:username}/*"]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Scope.of("Ireland", ACCOUNT, "acme"), "region 'Ireland'"),
        (lambda: Scope.of(REGION, "123", "acme"), "account '123'"),
        (lambda: Scope.of(REGION, ACCOUNT, "acme*"), "acme*"),
        (lambda: policies.queue_listener(), "at least one queue"),
        (lambda: policies.queue_listener("*"), "is no ARN"),
        (lambda: policies.queue_listener(TOPIC), "in sns"),
        (lambda: policies.administrator(ACME, source_topics=[QUEUE]), "in sqs"),
        (lambda: policies.publisher(ACME, payload_bucket="*"), "bucket name"),
        (lambda: policies.publisher(ACME, key_arn="*"), "key ARN '*'"),
        (lambda: policies.trust_policy("*", "acme-2026"), "trusted principal '*'"),
        (lambda: policies.trust_policy(OTHER, "x"), "external id 'x'"),
        (lambda: policies.assume_role_policy(f"arn:aws:iam::{ACCOUNT}:role/*"), "role ARN"),
    ],
)
def test_what_would_widen_a_policy_is_refused(make: Any, named: str) -> None:
    with pytest.raises(InvalidName) as refused:
        make()

    assert named in str(refused.value)


# -- from account to account, and what queues and topics accept ------------------------------------


@pytest.mark.parametrize(
    "trusted", [OTHER, f"arn:aws:iam::{OTHER}:root", f"arn:aws:iam::{OTHER}:role/reader"]
)
def test_a_role_is_assumed_with_the_agreed_external_id_only(trusted: str) -> None:
    document = policies.trust_policy(trusted, "acme-2026")

    assert [statement["Principal"] for statement in statements(document)] == [{"AWS": trusted}]
    assert allows(document, "sts:AssumeRole", sts_ExternalId="acme-2026")
    assert not allows(document, "sts:AssumeRole", sts_ExternalId="somebody-else")
    assert not allows(document, "sts:AssumeRole")


FROM_TOPIC = {
    "aws_SourceArn": OWN_TOPIC,
    "aws_SourceAccount": ACCOUNT,
    "aws_SecureTransport": "true",
}


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({}, True),
        ({"aws_SourceArn": f"{OWN_TOPIC}-2"}, False),
        ({"aws_SourceAccount": OTHER}, False),
        ({"aws_SecureTransport": "false"}, False),
    ],
    ids=["its topic", "another topic", "another account", "no TLS"],
)
def test_a_queue_accepts_messages_of_its_topic_over_tls_only(
    changed: dict[str, str], accepted: bool
) -> None:
    document = policies.queue_policy(OWN_QUEUE, OWN_TOPIC, ACCOUNT)

    assert allows(document, "sqs:SendMessage", OWN_QUEUE, **(FROM_TOPIC | changed)) == accepted
    assert not allows(document, "sqs:ReceiveMessage", OWN_QUEUE, **(FROM_TOPIC | changed))


def test_a_topic_accepts_notifications_of_its_bucket_over_tls_only() -> None:
    document = policies.topic_policy(OWN_TOPIC, "scans", ACCOUNT)
    context = {
        "aws_SourceArn": "arn:aws:s3:::scans",
        "aws_SourceAccount": ACCOUNT,
        "aws_SecureTransport": "true",
    }

    assert allows(document, "sns:Publish", OWN_TOPIC, **context)
    assert not allows(
        document, "sns:Publish", OWN_TOPIC, **context | {"aws_SourceArn": "arn:aws:s3:::other"}
    )
    assert not allows(document, "sns:Publish", OWN_TOPIC, **context | {"aws_SourceAccount": OTHER})
    assert not allows(
        document, "sns:Publish", OWN_TOPIC, **context | {"aws_SecureTransport": "false"}
    )


def test_a_dead_letter_queue_is_denied_without_tls() -> None:
    (statement,) = statements(policies.dead_letter_policy(OWN_QUEUE))

    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_only_denials_and_services_concern_everybody() -> None:
    documents = [
        policies.queue_policy(OWN_QUEUE, OWN_TOPIC, ACCOUNT),
        policies.topic_policy(OWN_TOPIC, "scans", ACCOUNT),
        policies.dead_letter_policy(OWN_QUEUE),
    ]

    for statement in (s for document in documents for s in statements(document)):
        assert statement["Effect"] == "Deny" or (
            set(statement["Principal"]) == {"Service"} and "*" not in statement["Action"]
        )


# -- the template ----------------------------------------------------------------------------------


def filled(value: Any, given: Mapping[str, Any]) -> Any:
    """Return *value* of a template with the parameters of *given* put in; what refers to a resource
    stays as it is.
    """
    if isinstance(value, dict):
        if set(value) == {"Ref"}:
            return given.get(value["Ref"], value)
        if set(value) == {"Fn::GetAtt"}:
            return given.get(".".join(value["Fn::GetAtt"]), value)
        if set(value) == {"Fn::Sub"}:
            return re.sub(r"\$\{([\w:]+)\}", lambda found: str(given[found[1]]), value["Fn::Sub"])
        return {key: filled(inner, given) for key, inner in value.items()}
    return [filled(inner, given) for inner in value] if isinstance(value, list) else value


def resources(document: Mapping[str, Any], kind: str, **given: str) -> dict[str, dict[str, Any]]:
    """Return the properties of the resources of a *kind*, with parameters at their defaults or as
    *given*, and ids as *given*.
    """
    values = {name: parameter["Default"] for name, parameter in document["Parameters"].items()}
    values |= {"AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws"} | given
    return {
        name: filled(r["Properties"], values)
        for name, r in document["Resources"].items()
        if r["Type"] == kind
    }


def queue_names(document: Mapping[str, Any], **given: str) -> set[str]:
    return {
        properties["QueueName"]
        for properties in resources(document, "AWS::SQS::Queue", **given).values()
    }


uses_cfn_lint = pytest.mark.xdist_group("cfn-lint")  # one process imports it


def findings(document: Mapping[str, Any]) -> list[str]:
    from cfnlint.api import ManualArgs, lint

    return [
        str(found)
        for found in lint(
            to_json(document), config=ManualArgs(regions=[REGION], include_checks=["I"])
        )
    ]


@uses_cfn_lint
@pytest.mark.parametrize("bus", ["default", "several", "fifo", "bucket", "shortened"])
def test_cfn_lint_has_nothing_to_say(bus: str) -> None:
    assert findings(template(**BUSES[bus])) == []


@uses_cfn_lint
def test_cfn_lint_would_say_something() -> None:
    document = template("acme")
    document["Resources"]["QueueDocumentsReader"]["Properties"]["VisibilityTimeout"] = 43_201
    document["Resources"]["PublisherRole"]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ][0]["Action"] = ["sns:PublishBatch"]

    assert len(findings(document)) >= 2


@pytest.mark.parametrize("bus", BUSES)
def test_topics_and_queues_have_the_names_that_the_library_looks_for(bus: str) -> None:
    document, prefix = template(**BUSES[bus]), BUSES[bus].get("prefix", "mltrigger")
    topics = {
        naming.S3Source.parse(topic).topic_name if topic.startswith("s3:") else topic: names
        for topic, names in BUSES[bus].get("topics", {"documents": ["reader"]}).items()
    }

    assert {p["TopicName"] for p in resources(document, "AWS::SNS::Topic").values()} == {
        naming.topic_name(prefix, topic) for topic in topics
    }
    assert queue_names(document) == {
        name(prefix, topic, subscription)
        for topic, names in topics.items()
        for subscription in names
        for name in (naming.queue_name, naming.dead_name)
    }


def test_one_subscription_is_named_by_parameters() -> None:
    given = {"Prefix": "beta", "TopicName": "orders", "SubscriptionName": "billing"}
    document = template("acme", {"documents": ["reader"]})

    assert queue_names(document, **given) == {"beta-orders-billing", "beta-orders-billing-dead"}
    assert {p["TopicName"] for p in resources(document, "AWS::SNS::Topic", **given).values()} == {
        "beta-orders"
    }
    tags = [t for p in resources(document, "AWS::SQS::Queue", **given).values() for t in p["Tags"]]
    assert {(t["Key"], t["Value"]) for t in tags} == {
        ("mltrigger:bus", "beta"),
        ("mltrigger:subscription", "billing"),
    }


def test_another_prefix_never_gives_another_name_than_the_library_does() -> None:
    """A prefix is refused as soon as the library would shorten a name."""
    document = template("acme", {"d" * 30: ["r" * 20, "reader"]})
    longest = document["Parameters"]["Prefix"]["MaxLength"]

    for length in (1, longest):
        prefix = "p" * length
        assert naming.dead_name(prefix, "d" * 30, "r" * 20) in queue_names(document, Prefix=prefix)
    prefix = "p" * (longest + 1)
    assert naming.queue_name(prefix, "d" * 30, "r" * 20) not in queue_names(document, Prefix=prefix)


def test_a_shortened_name_holds_for_one_prefix_only() -> None:
    assert template(**BUSES["shortened"])["Parameters"]["Prefix"]["AllowedValues"] == ["acme"]


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        (("TrustedAccount", ["", OTHER, f"arn:aws:iam::{OTHER}:role/a/reader"]), True),
        (("TrustedAccount", ["*", "12345", "arn:aws:iam::1:role/x", f"{OTHER},{ACCOUNT}"]), False),
        (("ExternalId", ["", "acme-2026"]), True),
        (("ExternalId", ["x", "a b", "*"]), False),
        (("Prefix", ["acme", "A_b-1"]), True),
        (("Prefix", ["", "a.b", "*"]), False),
    ],
)
def test_a_parameter_has_a_pattern(values: tuple[str, list[str]], accepted: bool) -> None:
    name, texts = values
    pattern = template("acme")["Parameters"][name]["AllowedPattern"]

    assert [bool(re.fullmatch(pattern, text)) for text in texts] == [accepted] * len(texts)


@pytest.mark.parametrize("bus", ["one", "several", "s3", "bucket"])
def test_the_roles_have_the_statements_of_the_policies(bus: str) -> None:
    buckets = [topic for topic in BUSES[bus]["topics"] if topic.startswith("s3:")]
    bodies = BUSES[bus].get("payload_bucket")
    document = template(**BUSES[bus])
    roles = resources(document, "AWS::IAM::Role")
    queues = [
        f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        for name in queue_names(document)
        if not name.endswith("-dead")
    ]

    def inline(name: str) -> Any:
        (policy,) = roles[name]["Policies"]
        return policy["PolicyDocument"]

    assert inline("PublisherRole") == policies.publisher(ACME, payload_bucket=bodies)
    assert inline("ListenerRole") == policies.listener(
        ACME, source_buckets=buckets, payload_bucket=bodies
    )
    (consumer,) = inline("QueueConsumerRole")["Statement"]
    assert (sorted(consumer["Resource"]), consumer["Action"]) == (
        sorted(queues),
        list(policies.QUEUE_ACTIONS),
    )


def test_the_role_for_another_account_is_made_with_an_external_id_or_not_at_all() -> None:
    document = template(**BUSES["s3"])
    role = resources(document, "AWS::IAM::Role")["QueueConsumerRole"]
    (rule,) = document["Rules"].values()

    assert role["AssumeRolePolicyDocument"] == policies.trust_policy(OTHER, "acme-2026")
    assert document["Resources"]["QueueConsumerRole"]["Condition"] == "HasTrustedAccount"
    assert rule["RuleCondition"] == document["Conditions"]["HasTrustedAccount"]
    assert rule["Assertions"][0]["Assert"] == {
        "Fn::Not": [{"Fn::Equals": [{"Ref": "ExternalId"}, ""]}]
    }


def test_dead_letters_stay_when_the_stack_goes_unless_it_is_asked_for() -> None:
    def kept(keep: bool) -> set[str]:
        made = template("acme", keep_dead_letters=keep)["Resources"]
        return {name for name, resource in made.items() if resource["DeletionPolicy"] == "Retain"}

    assert kept(True) == {"DeadLetterQueueDocumentsReader"}
    assert kept(False) == set()


def test_an_id_of_a_resource_does_not_depend_on_what_else_there_is() -> None:
    """Or adding a subscription to a stack would replace the queues that are there."""
    alone = template("acme", {"scanned-pages": ["ocr"]})["Resources"]
    more = template(
        "acme",
        {"documents": ["reader"], "scanned_pages": ["ocr"], "scanned-pages": ["archiver", "ocr"]},
    )["Resources"]

    assert set(alone) < set(more)


def test_the_notification_of_a_bucket_that_the_stack_makes_follows_the_policies_of_the_topics() -> (
    None
):
    document = template(**BUSES["bucket"])
    buckets = {
        p["BucketName"]: p["NotificationConfiguration"]["TopicConfigurations"]
        for p in resources(document, "AWS::S3::Bucket").values()
    }
    waits = [
        r["DependsOn"] for r in document["Resources"].values() if r["Type"] == "AWS::S3::Bucket"
    ]

    assert {name: len(fed) for name, fed in buckets.items()} == {"scans": 2, "archive": 1}
    assert buckets["scans"][0]["Filter"]["S3Key"]["Rules"] == [
        {"Name": "prefix", "Value": "in/"},
        {"Name": "suffix", "Value": ".png"},
    ]
    assert {name for names in waits for name in names} == set(
        resources(document, "AWS::SNS::TopicPolicy")
    )


def test_a_bucket_that_exists_is_left_to_subscribe() -> None:
    assert resources(template(**BUSES["s3"]), "AWS::S3::Bucket") == {}


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"prefix": "a.b"}, InvalidName, "a.b"),
        ({"topics": {"a b": ["x"]}}, InvalidName, "a b"),
        ({"topics": {"a": ["x", "x"]}}, InvalidName, "twice"),
        ({"topics": {"a": "reader"}}, InvalidName, "list of names"),
        ({"topics": {}}, InvalidName, "at least one topic"),
        ({"topics": {"a": ["b-c"], "a-b": ["c"]}}, InvalidName, "share the queue"),
        ({"topics": {"a": ["b", "b-dead"]}}, InvalidName, "share the queue"),
        ({"lease_s": 43_201}, InvalidPolicy, "43201"),
        ({"max_receive_count": 0}, InvalidPolicy, "max_receive_count"),
        ({"trusted_account": "me"}, InvalidName, "'me'"),
        ({"external_id": "acme-2026"}, InvalidName, "trusted account"),
        (
            {"topics": {f"t{n}": [f"s{n}"] for n in range(100)}},
            MltriggerError,
            "at most 500 resources",
        ),
    ],
)
def test_a_template_that_could_not_be_deployed_is_refused(
    settings: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error) as refused:
        template(**settings)

    assert named in str(refused.value)


# -- on the emulator -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with moto_server() as running:
        yield running


def test_iam_takes_every_document(emulator: Emulator) -> None:
    iam: Any = emulator.client("iam")

    for role, document in IDENTITY.items():
        iam.create_policy(PolicyName=role.replace(" ", "-"), PolicyDocument=json.dumps(document))
    iam.create_role(
        RoleName="reader",
        AssumeRolePolicyDocument=json.dumps(policies.trust_policy(OTHER, "acme-2026")),
    )


def deployed(emulator: Emulator, document: Mapping[str, Any]) -> dict[str, str]:
    """Make what *document* describes by the calls that CloudFormation makes for it; return names or
    ARNs by logical id.

    The emulator has a CloudFormation too, which knows neither the policies of queues and topics nor
    subscriptions.
    """
    sns: Any = emulator.client("sns")
    sqs: Any = emulator.client("sqs")
    iam: Any = emulator.client("iam")
    ids: dict[str, str] = {}
    for name, topic in resources(document, "AWS::SNS::Topic").items():
        ids[name] = sns.create_topic(
            Name=topic.pop("TopicName"), Tags=topic.pop("Tags"), Attributes=as_texts(topic)
        )["TopicArn"]
    for policy in resources(document, "AWS::SNS::TopicPolicy", **ids).values():
        (arn,) = policy["Topics"]
        sns.set_topic_attributes(
            TopicArn=arn,
            AttributeName="Policy",
            AttributeValue=json.dumps(policy["PolicyDocument"]),
        )
    # dead letters first, as the references between them demand
    for name in resources(document, "AWS::SQS::Queue"):
        queue = resources(document, "AWS::SQS::Queue", **ids)[name]
        tags = {tag["Key"]: tag["Value"] for tag in queue.pop("Tags")}
        ids[name] = sqs.create_queue(
            QueueName=queue.pop("QueueName"), tags=tags, Attributes=as_texts(queue)
        )["QueueUrl"]
        ids[f"{name}.Arn"] = sqs.get_queue_attributes(
            QueueUrl=ids[name], AttributeNames=["QueueArn"]
        )["Attributes"]["QueueArn"]
    for policy in resources(document, "AWS::SQS::QueuePolicy", **ids).values():
        (url,) = policy["Queues"]
        sqs.set_queue_attributes(
            QueueUrl=url, Attributes={"Policy": json.dumps(policy["PolicyDocument"])}
        )
    for feed in resources(document, "AWS::SNS::Subscription", **ids).values():
        sns.subscribe(
            TopicArn=feed.pop("TopicArn"),
            Protocol=feed.pop("Protocol"),
            Endpoint=feed.pop("Endpoint"),
            Attributes=as_texts(feed),
        )
    for name, role in resources(document, "AWS::IAM::Role", **ids).items():
        if document["Resources"][name].get("Condition") is None:
            called = f"{document['Parameters']['Prefix']['Default']}-{name}"
            iam.create_role(
                RoleName=called,
                AssumeRolePolicyDocument=json.dumps(role["AssumeRolePolicyDocument"]),
                Tags=role["Tags"],
            )
            (inline,) = role["Policies"]
            iam.put_role_policy(
                RoleName=called,
                PolicyName=inline["PolicyName"],
                PolicyDocument=json.dumps(inline["PolicyDocument"]),
            )
    return ids


def as_texts(properties: Mapping[str, Any]) -> dict[str, str]:
    """Return the properties of a resource as the attributes that the service takes."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in properties.items()
    }


def test_subscribe_has_nothing_to_change_on_a_stack(emulator: Emulator) -> None:
    topics = {"documents": ["reader", "archiver"], "orders.fifo": ["billing"]}
    found = Resources(Clients(emulator.session(), REGION, emulator.url), "planned")

    ids = deployed(emulator, template("planned", topics))

    specs = [
        with_lease(SubscriptionSpec(name, topic, "ocr:latest"))
        for topic, names in topics.items()
        for name in names
    ]
    assert [
        change for spec in specs for change in found.plan(spec) if change.action != "keep"
    ] == []
    place = found.find(specs[0])
    assert (place.queue_url, place.topic_arn) == (
        ids["QueueDocumentsReader"],
        ids["TopicDocuments"],
    )


def test_the_lease_of_a_stack_is_the_one_that_subscribing_would_set(emulator: Emulator) -> None:
    with mt.connect(
        f"aws://{REGION}/{emulator.fresh_prefix()}",
        endpoint_url=emulator.url,
        session=emulator.session(),
        log="memory://",
    ) as bus:
        plan = bus.plan("documents", name="reader")

    wanted = plan.loc[plan["setting"] == "VisibilityTimeout", "wanted"].iloc[0]
    default = template("acme", {"documents": ["reader"]})["Parameters"]["LeaseSeconds"]["Default"]
    assert wanted == str(default)


def test_subscribe_to_a_bucket_of_a_stack_adds_the_notification_only(emulator: Emulator) -> None:
    source = "s3://planned-scans/in/*.png"
    called = naming.S3Source.parse(source).topic_name
    found = Resources(Clients(emulator.session(), REGION, emulator.url), "bucket")
    s3: Any = emulator.client("s3")

    s3.create_bucket(
        Bucket="planned-scans", CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    deployed(emulator, template("bucket", {source: ["ocr"]}))

    changes = found.plan(with_lease(SubscriptionSpec("ocr", called, "ocr:latest")), source)
    assert {change.kind for change in changes if change.action != "keep"} == {"bucket notification"}


class Asked:
    """The permissions that the calls of a session take, as IAM names them; those of the lean client
    among them.
    """

    IAM: ClassVar[dict[str, str]] = {
        "sns:PublishBatch": "sns:Publish",
        "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
        "s3:HeadObject": "s3:GetObject",
        "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
        "s3:GetBucketNotificationConfiguration": "s3:GetBucketNotification",
        "s3:PutBucketNotificationConfiguration": "s3:PutBucketNotification",
        "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
        "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    }

    BESIDE: ClassVar[dict[str, tuple[str, ...]]] = {
        "sns:CreateTopic": ("sns:TagResource",),
        "sqs:CreateQueue": ("sqs:TagQueue",),
    }
    """What AWS asks for beside: ours are never made without tags."""

    def __init__(self, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.called: set[str] = set()
        session.events.register("before-call", self._before)
        usual = LeanSqs._call

        def lean(client: LeanSqs, action: str, *given: Any) -> Any:
            self._note("sqs", action)
            return usual(client, action, *given)

        monkeypatch.setattr(LeanSqs, "_call", lean)

    def _before(self, model: Any, params: dict[str, Any], **_: Any) -> None:
        self._note(model.service_model.service_name, model.name)
        if model.name in ("GetObject", "HeadObject") and "versionId" in params["query_string"]:
            self.called.add("s3:GetObjectVersion")

    def _note(self, service: str, operation: str) -> None:
        if service != "sts":  # who somebody is takes no permission
            action = f"{service}:{operation}"
            self.called |= {self.IAM.get(action, action), *self.BESIDE.get(action, ())}


def granted(document: Mapping[str, Any]) -> set[str]:
    return {action for statement in statements(document) for action in statement["Action"]}


def test_what_administering_calls_is_exactly_what_the_administrator_may(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = "managed-scans"
    source, theirs = f"s3://{bucket}/in/*.png", f"arn:aws:sns:{REGION}:{ACCOUNT}:theirs"
    emulator.client("sns").create_topic(Name="theirs")
    emulator.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    session = emulator.session()
    asked = Asked(session, monkeypatch)
    made = Clients(session, REGION, emulator.url)
    found = Resources(made, "managed", pause=lambda s: None)

    for at in (None, source, theirs):
        topic = "documents" if at is None else naming.source_topic_name(at, REGION)
        spec = SubscriptionSpec(
            f"reader-{len(topic)}", topic, "ocr:latest", filter=FilterPolicy.parse({"type": ["a"]})
        )
        found.plan(spec, at)
        found.ensure(spec, at)
        found.find(spec, at)
        found.remove(spec, at)
        found.ensure(dataclasses.replace(spec, policy=DeliveryPolicy(lease_s=900)), at)
        if at is None:
            found.ensure(dataclasses.replace(spec, filter=FilterPolicy.parse({"type": ["b"]})), at)
        found.delete(spec, at, last=True)
    with pytest.raises(NotFound):
        found.find(SubscriptionSpec("raeder", "documents", "ocr:latest"))
    with pytest.raises(NotFound):
        found.find_topic("document")
    Payloads(made, bucket).let_expire()

    document = policies.administrator(
        ACME, source_buckets=[bucket], source_topics=[theirs], payload_bucket=bucket
    )
    # Asked for where somebody else's topic lets this account subscribe and not list.
    assert asked.called | {"sns:ListSubscriptions"} == granted(document)


def test_what_delivering_calls_is_exactly_what_a_listener_may(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefix, bucket, log = (
        emulator.fresh_prefix(),
        f"{emulator.fresh_prefix()}-scans",
        f"sqlite:///{tmp_path / 'bus.db'}",
    )
    at = {"endpoint_url": emulator.url, "log": log, "bucket": bucket}
    emulator.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    emulator.client("s3").put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    with mt.connect(f"aws://{REGION}/{prefix}", session=emulator.session(), **at) as bus:
        bus.subscribe(
            "pages", "test_aws_policies:fails_once", name="reader", emit="texts", listen=False
        )
        bus.subscribe(f"s3://{bucket}/in/*", "test_aws_policies:reads", name="opener", listen=False)
        bus.topic("texts")
        bus.publish("pages", "a" * 300_000)
        emulator.client("s3").put_object(Bucket=bucket, Key="in/a.png", Body=b"x")
    session = emulator.session()
    asked = Asked(session, monkeypatch)

    with mt.connect(f"aws://{REGION}/{prefix}", session=session, **at) as bus:
        for name in ("reader", "opener"):
            bus.subscription(name).start()
        wait_until(
            lambda: all(
                "succeeded" in set(bus.subscription(n).invocations()["outcome"])
                for n in ("reader", "opener")
            ),
            timeout_s=60,
        )
        wait_until(
            lambda: (
                bus.subscription("reader").depth().dead == 0
                and "sqs:GetQueueAttributes" in asked.called
            )
        )
        for name in ("reader", "opener"):
            bus.broker.bury(bus.spec(name))

    document = policies.listener(ACME, emits=True, source_buckets=[bucket], payload_bucket=bucket)
    # The emulator announces no versions of objects.
    assert asked.called | {"s3:GetObjectVersion"} == granted(document)


def test_what_publishing_calls_is_exactly_what_a_publisher_may(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefix, bucket = emulator.fresh_prefix(), f"{emulator.fresh_prefix()}-bodies"
    emulator.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    with mt.connect(
        f"aws://{REGION}/{prefix}",
        session=emulator.session(),
        endpoint_url=emulator.url,
        log="memory://",
    ) as bus:
        bus.topic("pages")
    session = emulator.session()
    asked = Asked(session, monkeypatch)

    with mt.connect(
        f"aws://{REGION}/{prefix}",
        session=session,
        endpoint_url=emulator.url,
        log="memory://",
        bucket=bucket,
    ) as bus:
        bus.publish_batch("pages", ["small", "a" * 300_000])

    assert asked.called == granted(policies.publisher(ACME, payload_bucket=bucket))


def fails_once(event: mt.Event) -> str:
    """Fail at the first attempt of each event; found by its import path."""
    if event.id not in _FAILED:
        _FAILED.add(event.id)
        raise ValueError("once")
    return "b" * 300_000


def reads(event: mt.Event) -> str:
    with event.open() as file:
        return str(file.read(), "utf-8")


_FAILED: set[str] = set()


# -- the command line ------------------------------------------------------------------------------

GIVEN = {
    "publisher": ["--region", REGION, "--account", ACCOUNT, "--prefix", "acme"],
    "listener": [
        "--region",
        REGION,
        "--account",
        ACCOUNT,
        "--prefix",
        "acme",
        "--emits",
        "--source-bucket",
        OBJECTS,
    ],
    "queue-listener": ["--queue", QUEUE],
    "administrator": [
        "--region",
        REGION,
        "--account",
        ACCOUNT,
        "--prefix",
        "acme",
        "--source-topic",
        TOPIC,
    ],
    "trust": ["--trusted", OTHER, "--external-id", "acme-2026"],
    "assume-role": ["--role-arn", f"arn:aws:iam::{ACCOUNT}:role/orders-reader"],
}
PRINTED = {
    "publisher": policies.publisher(ACME),
    "listener": policies.listener(ACME, emits=True, source_buckets=[OBJECTS]),
    "queue-listener": policies.queue_listener(QUEUE),
    "administrator": policies.administrator(ACME, source_topics=[TOPIC]),
    "trust": policies.trust_policy(OTHER, "acme-2026"),
    "assume-role": IDENTITY["assume role"],
}


@pytest.mark.parametrize("role", ROLES)
def test_the_policy_of_every_role_is_printed(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["aws", "policies", "--role", role, *GIVEN[role]])

    assert status == 0
    assert json.loads(capsys.readouterr().out) == PRINTED[role]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_says_what_it_needs(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["aws", "policies", "--role", role])

    printed = capsys.readouterr()
    assert (status, printed.out) == (1, "")
    assert f"role {role} needs {GIVEN[role][0]}" in printed.err


def test_an_option_that_a_role_does_not_know_is_refused_rather_than_ignored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(
        [
            "aws",
            "policies",
            "--role",
            "publisher",
            *GIVEN["publisher"],
            "--external-id",
            "acme-2026",
        ]
    )

    assert status == 1
    assert "--external-id" in capsys.readouterr().err


def test_the_template_of_several_topics_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--topic",
        "documents=reader,archiver",
        "--topic",
        "s3://scans/dt=*/*.png=ocr",
        "--lease-s",
        "360",
        "--delete-dead-letters",
    ]
    status = main(
        [
            "aws",
            "template",
            "--prefix",
            "acme",
            *options,
            "--trusted-account",
            OTHER,
            "--external-id",
            "acme-2026",
        ]
    )

    topics = {"documents": ["reader", "archiver"], "s3://scans/dt=*/*.png": ["ocr"]}
    assert status == 0
    assert json.loads(capsys.readouterr().out) == template(
        "acme",
        topics,
        lease_s=360,
        keep_dead_letters=False,
        trusted_account=OTHER,
        external_id="acme-2026",
    )


@pytest.mark.parametrize("topic", ["documents", "documents=", "=reader", "documents=reader,"])
def test_a_topic_without_a_subscription_is_explained(
    topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["aws", "template", "--topic", topic])

    assert status == 1
    assert "documents=reader,archiver" in capsys.readouterr().err


def test_help_names_every_role(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["aws", "policies", "--help"])

    described = capsys.readouterr().out.partition("options:")[0]
    assert [role for role in ROLES if role not in described] == []


def test_printing_a_document_needs_neither_boto3_nor_pandas() -> None:
    arguments = ["aws", "policies", "--role", "trust", *GIVEN["trust"]]
    code = (
        f"import sys; from mltrigger.cli import main; main({arguments!r});"
        " print(sorted(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert [
        library for library in ("boto3", "botocore", "pandas") if f"'{library}'" in printed
    ] == []


def test_the_rooms_of_the_package_are_loaded_when_they_are_asked_for() -> None:
    assert mltrigger.aws.admin.policies is policies
    assert mltrigger.aws.admin.template.template is template
    assert {"lambda_handler", "policies", "template"} <= set(dir(mltrigger.aws))
    with pytest.raises(AttributeError, match="no attribute 'polices'"):
        mltrigger.aws.polices  # noqa: B018
