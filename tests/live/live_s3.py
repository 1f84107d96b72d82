"""Buckets: every key arrives as it is, each event opens its version, and nobody's notification is
lost.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import rig
from rig import Live

import mltrigger as mt
from mltrigger.aws.faults import MISSING
from mltrigger.errors import NameTaken

KEYS = [
    "in/scan.png",
    "in/a b.png",
    "in/a+b.png",
    "in/a%20b.png",
    "in/100%.png",
    "in/ä ö+ü.png",
    "in/日本.png",
    "in/😀.png",
    'in/"q"&<x>.png',
    "in/a=b;c,d@e:f$g.png",
    "in/../up.png",
    "in//double.png",
    "in/tab\there.png",
    "in/back\\slash.png",
    "in/[1]{2}^`|~#.png",
    "in/a'b!(c)*.png",
]


def read(event: mt.Event) -> dict[str, str]:
    with event.open() as file:
        return {"key": event.data["key"], "text": file.read().decode()}


READ = mt.model(read, version="1.0.0")


def succeeded(sub: mt.Subscription) -> Any:
    """Return the invocations that succeeded; what S3 sends as a test is among the others, as
    skipped.
    """
    found = sub.invocations()
    return found[found["outcome"] == "succeeded"]


def outputs(sub: mt.Subscription, count: int) -> list[Any]:
    """Return the outputs, when there are *count* or time is over."""
    rig.within(lambda: len(succeeded(sub)) >= count, every_s=1.0, timeout_s=rig.PATIENCE_S)
    return [json.loads(output) for output in succeeded(sub)["output"]]


def test_every_key_arrives_as_it_is_and_opens_its_object(live: Live) -> None:
    bucket = live.bucket()
    with live.bus() as bus:
        sub = bus.subscribe(f"s3://{bucket}/in/*.png", READ, name="reader")
        live.clients.s3.put_object(Bucket=bucket, Key="in/other.txt", Body=b"not announced")
        for key in KEYS:
            live.clients.s3.put_object(Bucket=bucket, Key=key, Body=key.encode())

        found = outputs(sub, len(KEYS))

        assert sorted(output["key"] for output in found) == sorted(KEYS)
        assert all(output["key"] == output["text"] for output in found)
        assert len(sub.dead_letters()) == 0


def test_the_test_event_of_s3_is_put_away(live: Live) -> None:
    bucket = live.bucket()
    with live.bus() as bus:
        sub = bus.subscribe(f"s3://{bucket}/in/*.png", READ, name="reader")

        with rig.only_aws("it sends none, or under another name"):
            assert rig.within(
                lambda: list(sub.skipped()["reason"]) == ["s3_test_event"], every_s=1.0
            )
        assert sub.invocations().empty


def test_two_subscribers_of_a_bucket_get_every_object(live: Live) -> None:
    bucket = live.bucket()
    with live.bus() as bus:
        subs = [
            bus.subscribe(f"s3://{bucket}/in/*.png", READ, name=name)
            for name in ("first", "second")
        ]
        live.clients.s3.put_object(Bucket=bucket, Key="in/a.png", Body=b"x")

        assert [len(outputs(sub, 1)) for sub in subs] == [1, 1]


def test_an_event_opens_its_own_version_although_there_is_a_newer_one(live: Live) -> None:
    bucket = live.bucket(versioned=True)
    with live.bus() as bus:
        sub = bus.subscribe(f"s3://{bucket}/*", READ, name="reader", listen=False)
        for text in (b"first", b"second"):
            live.clients.s3.put_object(Bucket=bucket, Key="a b", Body=text)
        sub.start()

        found = outputs(sub, 2)
        with rig.only_aws("it has no versions, or does not announce them"):
            assert all(json.loads(data)["version_id"] for data in bus.events(sub.topic)["data"])
        assert sorted(output["text"] for output in found) == ["first", "second"]


def test_an_object_that_was_deleted_is_a_dead_letter(live: Live) -> None:
    bucket = live.bucket()
    with live.bus() as bus:
        sub = bus.subscribe(f"s3://{bucket}/*", READ, name="reader", listen=False, max_attempts=1)
        live.clients.s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
        live.clients.s3.delete_object(Bucket=bucket, Key="gone")
        sub.start()

        assert rig.within(lambda: len(sub.dead_letters()) == 1, every_s=1.0)
        assert "ObjectMissing" in set(sub.invocations()["error_type"])


def test_the_notification_of_somebody_else_is_kept(live: Live) -> None:
    bucket, topic = live.bucket(), live.topic()
    _may_publish(live, topic, bucket)
    theirs = {"Id": "theirs", "TopicArn": topic, "Events": ["s3:ObjectRemoved:*"]}
    rig.within(lambda: rig.refusal(lambda: _notify(live, bucket, [theirs])) is None)
    with live.bus() as bus:
        bus.subscribe(f"s3://{bucket}/in/*", READ, name="reader", listen=False)
        assert {e["Id"] == "theirs" for e in _entries(live, bucket)} == {True, False}

        bus.unsubscribe("reader", delete=True)

    assert [e["Id"] for e in _entries(live, bucket)] == ["theirs"]


def test_notifications_that_overlap_are_refused_by_s3_and_by_us_before(live: Live) -> None:
    bucket, topic = live.bucket(), live.topic()
    _may_publish(live, topic, bucket)
    entry = {"Id": "a", "TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}
    rules = {"Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "in/"}]}}}
    rig.within(lambda: rig.refusal(lambda: _notify(live, bucket, [entry])) is None)

    with rig.only_aws("it announces an object twice"):
        assert (
            rig.refusal(lambda: _notify(live, bucket, [entry, {**entry, **rules, "Id": "b"}]))
            == "InvalidArgument"
        )
    with live.bus() as bus, pytest.raises(NameTaken, match="already"):
        bus.subscribe(f"s3://{bucket}/in/*", READ, name="reader", listen=False)


def _may_publish(live: Live, topic: str, bucket: str) -> None:
    from mltrigger.aws.admin.policies import topic_policy

    document = json.dumps(topic_policy(topic, bucket, live.clients.account))
    live.clients.sns.set_topic_attributes(
        TopicArn=topic, AttributeName="Policy", AttributeValue=document
    )


def _notify(live: Live, bucket: str, entries: list[dict[str, Any]]) -> None:
    live.bare("s3").put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"TopicConfigurations": entries}
    )


def _entries(live: Live, bucket: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live.clients.s3.get_bucket_notification_configuration(
        Bucket=bucket
    ).get("TopicConfigurations", [])
    return found


def test_the_keys_of_eventbridge_are_not_encoded(live: Live) -> None:
    bucket, queue = live.bucket(), live.queue()
    events, rule = live.bare("events"), live.name("rule")
    arn = f"arn:{live.clients.partition}:events:{live.clients.region}:{live.clients.account}:rule/{rule}"
    allow = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": live.arn(queue),
    }
    allow["Condition"] = {"ArnEquals": {"aws:SourceArn": arn}}
    live.clients.sqs.set_queue_attributes(
        QueueUrl=queue,
        Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [allow]})},
    )
    pattern = json.dumps({"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}}})
    if code := rig.refusal(lambda: events.put_rule(Name=rule, EventPattern=pattern)):
        pytest.skip(f"making a rule is not allowed here: {code}")
    events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": live.arn(queue)}])
    live.clients.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    # until S3 and EventBridge know of it: "about five minutes" for the former, says its guide
    time.sleep(0 if live.emulator else 60)

    with live.bus() as bus:
        sub = bus.subscribe(
            queue, mt.model(lambda event: event, name="seen", version="1.0.0"), name="seen"
        )

        def told() -> set[str]:
            return {json.loads(data)["key"] for data in bus.events(sub.topic)["data"]}

        def arrived() -> bool:
            for key in KEYS[:6]:
                live.clients.s3.put_object(Bucket=bucket, Key=key, Body=b"x")
            return rig.within(lambda: told() >= set(KEYS[:6]), timeout_s=3 if live.emulator else 20)

        with rig.only_aws("it has no EventBridge for buckets, or loses keys on this way"):
            assert rig.within(arrived, timeout_s=1 if live.emulator else 360)
        assert told() == set(KEYS[:6])


def test_the_code_for_a_bucket_that_is_not_there_is_one_we_know(live: Live) -> None:
    asked = live.name("none-")

    assert (
        rig.refusal(lambda: live.clients.s3.get_bucket_notification_configuration(Bucket=asked))
        in MISSING
    )
