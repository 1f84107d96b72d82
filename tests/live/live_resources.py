"""What subscribing makes: AWS takes it, keeps it as it was wanted, protects it, and nothing of it
stays behind.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import rig
from rig import Live

import mltrigger as mt
from mltrigger.aws.admin import policies
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.clients import Clients, open_session
from mltrigger.aws.faults import code_of


def same(data: Any) -> Any:
    return data


MODEL = mt.model(same, version="1.0.0")


def attributes(live: Live, name: str) -> dict[str, str]:
    url = live.clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]
    found: dict[str, str] = live.clients.sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=["All"]
    )["Attributes"]
    return found


@pytest.mark.parametrize(
    ("topic", "options"),
    [
        ("documents", {}),
        ("orders.fifo", {}),
        ("some", {"filter": {"kind": ["invoice", {"prefix": "x"}]}}),
        ("body", {"filter": {"a": {"b": [{"numeric": [">", 1]}]}}, "filter_scope": "body"}),
        ("slow", {"timeout_s": 3600}),
    ],
    ids=["topic", "fifo", "attributes", "body", "slow"],
)
def test_after_subscribing_there_is_nothing_left_to_do(
    live: Live, topic: str, options: dict[str, Any]
) -> None:
    with live.bus() as bus:
        bus.subscribe(topic, MODEL, name="reader", listen=False, **options)

        plan = bus.plan()

    assert set(plan["action"]) == {"keep"}, plan[plan["action"] != "keep"].to_string()


def test_subscribing_to_a_bucket_leaves_nothing_to_do(live: Live) -> None:
    with live.bus() as bus:
        bus.subscribe(f"s3://{live.bucket()}/in/*.png", MODEL, name="reader", listen=False)

        assert set(bus.plan()["action"]) == {"keep"}


def test_a_doctor_finds_nothing_wrong_with_what_was_made(live: Live) -> None:
    with live.bus() as bus:
        bus.subscribe("documents", MODEL, name="reader")

        found = bus.doctor()

    assert set(found["severity"]) <= {"ok", "info"}, found.to_string()


def test_queues_are_encrypted_and_keep_dead_letters_for_longer(live: Live) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("documents", MODEL, name="reader", listen=False)
    queue, dead = (
        attributes(live, f"{prefix}-documents-reader"),
        attributes(live, f"{prefix}-documents-reader-dead"),
    )

    with rig.only_aws("it does not show encryption"):
        shown = (queue["SqsManagedSseEnabled"], dead["SqsManagedSseEnabled"])
    assert shown == ("true", "true")
    assert json.loads(queue["RedrivePolicy"])["deadLetterTargetArn"] == dead["QueueArn"]
    assert (queue["MessageRetentionPeriod"], dead["MessageRetentionPeriod"]) == (
        "864000",
        "1209600",
    )


def test_only_its_queue_may_use_a_dead_letter_queue(live: Live) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("documents", MODEL, name="reader", listen=False)
    queue, dead = (
        attributes(live, f"{prefix}-documents-reader"),
        attributes(live, f"{prefix}-documents-reader-dead"),
    )

    with rig.only_aws("it does not show the policy"):
        shown = json.loads(dead["RedriveAllowPolicy"])
    assert shown == {"redrivePermission": "byQueue", "sourceQueueArns": [queue["QueueArn"]]}


def test_no_other_queue_may_use_our_dead_letter_queue(live: Live) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("documents", MODEL, name="reader", listen=False)
    redrive = {
        "deadLetterTargetArn": attributes(live, f"{prefix}-documents-reader-dead")["QueueArn"],
        "maxReceiveCount": 1,
    }
    other = live.queue()

    with rig.only_aws("it takes any queue for a dead-letter queue"):
        assert rig.refusal(
            lambda: live.bare("sqs").set_queue_attributes(
                QueueUrl=other, Attributes={"RedrivePolicy": json.dumps(redrive)}
            )
        )


def test_our_queues_are_reached_by_tls_only(live: Live) -> None:
    with rig.only_aws("it has no TLS"):
        assert not live.emulator
    plain = live.bare("sqs", use_ssl=False)
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("documents", MODEL, name="reader", listen=False)
    ours = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-documents-reader")[
        "QueueUrl"
    ].replace("https://", "http://")
    theirs = live.queue().replace("https://", "http://")

    asked = {"AttributeNames": ["QueueArn"]}
    assert rig.refusal(lambda: plain.get_queue_attributes(QueueUrl=theirs, **asked)) is None, (
        "no plain HTTP here at all: nothing is shown"
    )
    refused = rig.within(
        lambda: rig.refusal(lambda: plain.get_queue_attributes(QueueUrl=ours, **asked))
    )
    assert refused is not None
    assert "AccessDenied" in refused


def test_nobody_but_the_topic_sends_to_our_queue_without_a_right_of_their_own(live: Live) -> None:
    """A topic of the same account whose ARN is not that of the policy delivers nothing."""
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("documents", MODEL, name="reader", listen=False)
    url = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-documents-reader")["QueueUrl"]
    other = live.topic()
    live.clients.sns.subscribe(
        TopicArn=other,
        Protocol="sqs",
        Endpoint=live.arn(url),
        Attributes={"RawMessageDelivery": "true"},
    )

    live.clients.sns.publish(TopicArn=other, Message="{}")

    with rig.only_aws("it lets everybody send"):
        assert live.received(url, wait_s=10) == []


def test_unsubscribing_with_delete_leaves_nothing(live: Live) -> None:
    bucket = live.bucket()
    with live.bus(prefix := live.bus_prefix()) as bus:
        for source, name in (
            ("documents", "reader"),
            ("orders.fifo", "biller"),
            (f"s3://{bucket}/*", "ocr"),
        ):
            bus.subscribe(source, MODEL, name=name, listen=False)
        for name in ("reader", "biller", "ocr"):
            bus.unsubscribe(name, delete=True)

    janitor = rig.Janitor(live.prefix, live.clients.region)
    left = rig.within(
        lambda: [url for url in janitor._queues() if f"/{prefix}-" in url] == [], timeout_s=90
    )
    assert left, "queues are still listed 90 s after they were deleted"
    assert [arn for arn in janitor._topics() if f":{prefix}-" in arn] == []
    configuration = live.clients.s3.get_bucket_notification_configuration(Bucket=bucket)
    assert {name for name in configuration if name != "ResponseMetadata"} == set()


# -- permissions -----------------------------------------------------------------------------------


def test_looking_for_permissions_receives_counts_and_hides_nothing(live: Live) -> None:
    queue = live.queue()
    live.clients.sqs.send_message(QueueUrl=queue, MessageBody="x")

    assert Resources(live.clients, live.bus_prefix()).preflight(queue) == []

    (message,) = live.received(queue)
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def role(live: Live, document: dict[str, Any]) -> str:
    """Make a role with this policy that this account may assume; the check is not run when it may
    not be made.
    """
    name = live.name("role")
    trust = policies.trust_policy(live.clients.account, "live-checks")
    try:
        made = live.clients.iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=json.dumps(trust)
        )
        live.clients.iam.put_role_policy(
            RoleName=name, PolicyName="listen", PolicyDocument=json.dumps(document)
        )
    except Exception as error:
        if live.emulator:
            pytest.xfail(f"emulator gap: it has no IAM ({code_of(error)})")
        pytest.skip(f"making a role is not allowed here: {code_of(error)}")
    return str(made["Role"]["Arn"])


def assumed(live: Live, role_arn: str) -> Clients:
    """Return clients of the role; IAM takes some seconds until it knows it."""

    def clients() -> Clients | None:
        session = open_session(live.clients.region, role_arn=role_arn, external_id="live-checks")
        found = Clients(session, live.clients.region)
        try:
            _ = found.account
        except mt.MltriggerError:
            return None
        return found

    found = rig.within(clients, every_s=3.0)
    if found is None:
        pytest.skip("the role could not be assumed: sts:AssumeRole is not allowed here")
    time.sleep(0 if live.emulator else 10)  # until its policy is everywhere
    return found


def test_four_permissions_are_all_that_listening_takes(live: Live) -> None:
    queue = live.queue()
    arn = role(live, policies.queue_listener(live.arn(queue)))
    clients = assumed(live, arn)

    assert Resources(clients, live.bus_prefix()).preflight(queue) == []

    live.clients.sqs.send_message(QueueUrl=queue, MessageBody='{"a": 1}')
    with live.bus(role_arn=arn, external_id="live-checks") as bus:
        sub = bus.subscribe(queue, MODEL, name="theirs")
        assert rig.within(lambda: list(sub.invocations()["outcome"]) == ["succeeded"])
        bus.wait(10, progress=False)
    assert live.received(queue, wait_s=5) == []


@pytest.mark.parametrize("action", policies.QUEUE_ACTIONS)
def test_a_permission_that_is_missing_is_named(live: Live, action: str) -> None:
    queue = live.queue()
    document = policies.queue_listener(live.arn(queue))
    for statement in document["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != action]
    clients = assumed(live, role(live, document))

    found = rig.within(
        lambda: Resources(clients, live.bus_prefix()).preflight(queue),
        timeout_s=0 if live.emulator else rig.PATIENCE_S,
    )

    with rig.only_aws("it allows everything to everybody"):
        assert found
    assert [missing.action for missing in found] == [action]


# -- a stack ---------------------------------------------------------------------------------------


def test_a_stack_of_the_template_has_what_subscribing_wants(live: Live) -> None:
    with rig.only_aws("its CloudFormation makes neither policies nor subscriptions"):
        assert not live.emulator
    from mltrigger.aws.admin.template import template, to_json

    prefix, name = live.bus_prefix(), live.name("stack")
    document = template(prefix, {"documents": ["reader"]}, keep_dead_letters=False)
    cloudformation = live.bare("cloudformation")
    try:
        cloudformation.create_stack(
            StackName=name, TemplateBody=to_json(document), Capabilities=["CAPABILITY_IAM"]
        )
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name)
    except Exception as error:
        if "AccessDenied" in str(error) or "not authorized" in str(error):
            pytest.skip(f"making a stack with roles is not allowed here: {error}")
        raise

    (made,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}
    assert outputs["BusURL"] == f"aws://{live.clients.region}/{prefix}"
    with live.bus(prefix) as bus:
        plan = bus.plan("documents", name="reader")
    assert set(plan["action"]) == {"keep"}, plan[plan["action"] != "keep"].to_string()
