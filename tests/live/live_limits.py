"""What SQS, SNS and S3 take: the checks of mltrigger.aws.limits say the same as AWS, value by
value, on both sides of each limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import rig
from rig import Live

import mltrigger as mt
from mltrigger.aws import limits

Attributes = dict[str, dict[str, Any]]
STRING = {"DataType": "String", "StringValue": "x"}


def text(kind: str, value: str) -> dict[str, Any]:
    return {"DataType": kind, "StringValue": value}


def agree(check: Callable[[], Any], ask: Callable[[], Any], accepted: bool) -> None:
    """Assert that mltrigger and AWS both accept, or both refuse."""
    mine = rig.ours(check)
    theirs = rig.refusal(ask)

    assert (mine is None) == accepted, f"mltrigger: {mine or 'accepted'}"
    with rig.only_aws(f"it {'refuses' if theirs else 'takes'} this"):
        assert (theirs is None) == accepted, theirs


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [0, 1])
def test_an_event_may_be_as_large_as_sns_takes_and_no_larger(live: Live, over: int) -> None:
    with live.bus() as bus:
        sub = bus.subscribe("large", mt.model(len, name="size", version="1.0.0"))
        overhead = _size(bus, "")
        data = "x" * (limits.SNS_MESSAGE.high - overhead + over)

        if over:
            with pytest.raises(mt.EventTooLarge, match="262,144"):
                bus.publish("large", data, id="1", source="/live", type="t")
        else:
            with rig.only_aws("it takes no message of 256 KiB"):
                bus.publish("large", data, id="1", source="/live", type="t")
            assert bus.wait(rig.PATIENCE_S, progress=False)
            assert list(sub.invocations()["output"]) == [str(len(data))]


def _size(bus: mt.EventBus, data: str) -> int:
    from mltrigger.aws.transport.wire import to_message
    from mltrigger.event.event import encode_data, traced

    event = traced(mt.Event(data, id="1", source="/live", type="t"))
    return to_message(event, *encode_data(event, 1 << 22), fifo=False, limit=None).size


@pytest.mark.parametrize(
    "attributes", [{}, {"name": text("String", "value")}], ids=["body", "body+attribute"]
)
@pytest.mark.parametrize("over", [0, 1])
def test_the_size_of_a_message_of_sns_is_counted_as_sns_counts(
    live: Live, topic: str, over: int, attributes: Attributes
) -> None:
    body = "x" * (limits.SNS_MESSAGE.high - limits.message_bytes("", attributes) + over)

    agree(
        lambda: limits.check_size(limits.message_bytes(body, attributes), limits.SNS_MESSAGE.high),
        lambda: live.bare("sns").publish(
            TopicArn=topic, Message=body, MessageAttributes=attributes
        ),
        accepted=not over,
    )


@pytest.mark.parametrize(
    "attributes", [{}, {"name": text("String", "value")}], ids=["body", "body+attribute"]
)
@pytest.mark.parametrize("over", [0, 1])
def test_the_size_of_a_message_of_sqs_is_counted_as_sqs_counts(
    live: Live, queue: str, over: int, attributes: Attributes
) -> None:
    body = "x" * (limits.SQS_MESSAGE.high - limits.message_bytes("", attributes) + over)

    agree(
        lambda: limits.check_size(limits.message_bytes(body, attributes), limits.SQS_MESSAGE.high),
        lambda: live.bare("sqs").send_message(
            QueueUrl=queue, MessageBody=body, MessageAttributes=attributes
        ),
        accepted=not over,
    )


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_the_messages_of_one_call_together_are_no_larger_than_one(
    live: Live, queue: str, topic: str, service: str, over: int
) -> None:
    limit = limits.SNS_BATCH.high if service == "sns" else limits.SQS_BATCH.high
    bodies = ["x" * (limit // 2), "x" * (limit - limit // 2 + over)]
    ids = ["a", "b"]

    def ask() -> Any:
        if service == "sns":
            entries = [{"Id": i, "Message": b} for i, b in zip(ids, bodies, strict=True)]
            return live.bare("sns").publish_batch(
                TopicArn=topic, PublishBatchRequestEntries=entries
            )
        return live.bare("sqs").send_message_batch(
            QueueUrl=queue,
            Entries=[{"Id": i, "MessageBody": b} for i, b in zip(ids, bodies, strict=True)],
        )

    agree(lambda: limits.check_batch(ids, map(len, bodies), limit), ask, accepted=not over)


IDS = {
    "ten": ([f"e{n}" for n in range(10)], True),
    "eleven": ([f"e{n}" for n in range(11)], False),
    "none": ([], False),
    "twice": (["a", "a"], False),
    "80 characters": (["a" * 80], True),
    "81 characters": (["a" * 81], False),
    "all characters": (["aZ09-_"], True),
    "dot": (["a.b"], False),
    "blank": (["a b"], False),
}


@pytest.mark.parametrize("case", IDS)
@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_the_entries_of_one_call(
    live: Live, queue: str, topic: str, service: str, case: str
) -> None:
    ids, accepted = IDS[case]

    def ask() -> Any:
        if service == "sns":
            return live.bare("sns").publish_batch(
                TopicArn=topic, PublishBatchRequestEntries=[{"Id": i, "Message": "x"} for i in ids]
            )
        return live.bare("sqs").send_message_batch(
            QueueUrl=queue, Entries=[{"Id": i, "MessageBody": "x"} for i in ids]
        )

    agree(lambda: limits.check_batch(ids, [1] * len(ids), 262_144), ask, accepted)


# -- characters ------------------------------------------------------------------------------------

TAKEN = "\t\n\r\x20\x7f\x85\ud7ff\ue000\ufdd0\ufffd\U00010000\U0001fffe\U0010ffff\u202e\u2028"
REFUSED = "\x00\x01\x08\x0b\x0c\x0e\x1b\x1f\ufffe\uffff"


@pytest.mark.parametrize("character", [*TAKEN, *REFUSED], ids=lambda c: f"U+{ord(c):04X}")
@pytest.mark.parametrize("place", ["SQS body", "SQS attribute", "SNS message", "SNS attribute"])
def test_the_characters_of_a_message(
    live: Live, queue: str, topic: str, place: str, character: str
) -> None:
    value = f"a{character}b"
    attributes = {"a": text("String", value if "attribute" in place else "x")}
    body = value if "attribute" not in place else "x"

    def ask() -> Any:
        if place.startswith("SQS"):
            return live.bare("sqs").send_message(
                QueueUrl=queue, MessageBody=body, MessageAttributes=attributes
            )
        return live.bare("sns").publish(TopicArn=topic, Message=body, MessageAttributes=attributes)

    agree(
        lambda: (limits.check_body(body), limits.check_attributes(attributes)),
        ask,
        accepted=character in TAKEN,
    )


@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_a_body_is_not_empty(live: Live, queue: str, topic: str, service: str) -> None:
    def ask() -> Any:
        if service == "sns":
            return live.bare("sns").publish(TopicArn=topic, Message="")
        return live.bare("sqs").send_message(QueueUrl=queue, MessageBody="")

    agree(lambda: limits.check_body(""), ask, accepted=False)


# -- attributes ------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, tuple[Attributes, bool]] = {
    "ten": ({f"a{n}": STRING for n in range(10)}, True),
    "eleven": ({f"a{n}": STRING for n in range(11)}, False),
    **{
        f"name {name[:12]!r} of {len(name)}": ({name: STRING}, accepted)
        for name, accepted in {
            "a": True,
            "A-z_0.9": True,
            "ce-type": True,
            "x" * 256: True,
            "x" * 257: False,
            ".a": False,
            "a.": False,
            "a..b": False,
            "a b": False,
            "é": False,
            "a/b": False,
            "AWS.x": False,
            "aws.x": False,
            "Amazon.x": False,
            "amazon.x": False,
            "awsx": True,
        }.items()
    },
    **{
        f"type {kind[:16]!r} of {len(kind)}": ({"a": text(kind, "1")}, accepted)
        for kind, accepted in {
            "String": True,
            "Number": True,
            "String.custom": True,
            "Number.int": True,
            "Text": False,
            "string": False,
            "": False,
            "String." + "x" * 249: True,
            "String." + "x" * 250: False,
        }.items()
    },
    **{
        f"number {value[:12]} of {len(value)}": ({"a": text("Number", value)}, accepted)
        for value, accepted in {
            "0": True,
            "-1.5e3": True,
            "+7": True,
            "9" * 38: True,
            "9" * 39: False,
            "1e126": True,
            "1e127": False,
            "1e-128": True,
            "abc": False,
            "": False,
            "1,5": False,
            "NaN": False,
        }.items()
    },
    "binary": ({"a": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}}, True),
    "binary.png": ({"a": {"DataType": "Binary.png", "BinaryValue": b"\x00"}}, True),
    "empty binary": ({"a": {"DataType": "Binary", "BinaryValue": b""}}, False),
    "empty string": ({"a": text("String", "")}, False),
    "string without a value": ({"a": {"DataType": "String"}}, False),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_message_attributes_of_sqs(live: Live, queue: str, case: str) -> None:
    attributes, accepted = ATTRIBUTES[case]

    agree(
        lambda: limits.check_attributes(attributes),
        lambda: live.bare("sqs").send_message(
            QueueUrl=queue, MessageBody="x", MessageAttributes=attributes
        ),
        accepted,
    )


@pytest.mark.parametrize("case", [case for case, (_, accepted) in ATTRIBUTES.items() if accepted])
def test_message_attributes_that_we_send_are_taken_by_sns(
    live: Live, topic: str, case: str
) -> None:
    attributes, _ = ATTRIBUTES[case]

    with rig.only_aws("it refuses attributes that SNS takes"):
        assert (
            rig.refusal(
                lambda: live.bare("sns").publish(
                    TopicArn=topic, Message="x", MessageAttributes=attributes
                )
            )
            is None
        )


@pytest.mark.parametrize(
    "case", [case for case, (_, accepted) in ATTRIBUTES.items() if not accepted]
)
def test_what_sns_says_to_attributes_that_we_do_not_send(live: Live, topic: str, case: str) -> None:
    """SNS is laxer than SQS in places; what it takes and SQS refuses would be lost on delivery.

    It is noted, not judged.
    """
    attributes, _ = ATTRIBUTES[case]
    said = rig.refusal(
        lambda: live.bare("sns").publish(TopicArn=topic, Message="x", MessageAttributes=attributes)
    )

    if said is None:
        live.sees(f"SNS takes attributes that SQS refuses: {case}")


# -- ids, subjects, names, settings ----------------------------------------------------------------

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
GROUPS = {
    "a": True,
    PUNCTUATION: True,
    "x" * 128: True,
    "x" * 129: False,
    "a b": False,
    "é": False,
    "": False,
    "a\n": False,
}


@pytest.mark.parametrize("value", GROUPS, ids=lambda v: f"{v[:8]!r} of {len(v)}")
@pytest.mark.parametrize("which", ["MessageGroupId", "MessageDeduplicationId"])
def test_the_ids_of_fifo_queues(live: Live, fifo_queue: str, which: str, value: str) -> None:
    ids = {"MessageGroupId": live.name(), "MessageDeduplicationId": live.name(), which: value}
    limit = limits.GROUP_ID if which == "MessageGroupId" else limits.DEDUPLICATION_ID

    agree(
        lambda: limits.check_id(limit, value),
        lambda: live.bare("sqs").send_message(QueueUrl=fifo_queue, MessageBody="x", **ids),
        GROUPS[value],
    )


SUBJECTS = {
    "a": True,
    "Invoice 17, paid": True,
    "x" * 100: True,
    "x" * 101: False,
    "a\nb": False,
    "a\tb": False,
    "\x7f": False,
}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: f"{s[:8]!r} of {len(s)}")
def test_the_subject_of_a_notification(live: Live, topic: str, subject: str) -> None:
    agree(
        lambda: limits.check_subject(subject),
        lambda: live.bare("sns").publish(TopicArn=topic, Message="x", Subject=subject),
        SUBJECTS[subject],
    )


STRUCTURES = {
    '{"default": "a"}': True,
    '{"default": "a", "sqs": "b"}': True,
    "{}": False,
    '{"sqs": "b"}': False,
    "not json": False,
    '{"default": 1}': False,
    "[]": False,
}


@pytest.mark.parametrize("message", STRUCTURES)
def test_a_message_for_each_protocol(live: Live, topic: str, message: str) -> None:
    agree(
        lambda: limits.check_structure(message),
        lambda: live.bare("sns").publish(TopicArn=topic, Message=message, MessageStructure="json"),
        STRUCTURES[message],
    )


@pytest.mark.parametrize(
    ("end", "length", "accepted"),
    [("", 80, True), ("", 81, False), (".x", 20, False), ("é", 20, False)],
)
def test_the_name_of_a_queue(live: Live, end: str, length: int, accepted: bool) -> None:
    name = live.name("n").ljust(length - len(end), "x") + end

    agree(
        lambda: limits.check_queue_name(name),
        lambda: live.bare("sqs").create_queue(QueueName=name),
        accepted,
    )


@pytest.mark.parametrize(
    ("end", "length", "accepted"),
    [("", 256, True), ("", 257, False), (".x", 20, False), ("é", 20, False)],
)
def test_the_name_of_a_topic(live: Live, end: str, length: int, accepted: bool) -> None:
    name = live.name("n").ljust(length - len(end), "x") + end

    agree(
        lambda: limits.check_topic_name(name),
        lambda: live.bare("sns").create_topic(Name=name),
        accepted,
    )


SETTINGS = [
    ("VisibilityTimeout", limits.VISIBILITY_S),
    ("DelaySeconds", limits.DELAY_S),
    ("MessageRetentionPeriod", limits.RETENTION_S),
    ("ReceiveMessageWaitTimeSeconds", limits.WAIT_S),
    ("MaximumMessageSize", limits.QUEUE_MESSAGE_SIZE),
]


@pytest.mark.parametrize("end", ["low", "high", "below", "above"])
@pytest.mark.parametrize(("name", "limit"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_the_range_of_a_setting_of_a_queue(
    live: Live, name: str, limit: limits.Limit, end: str
) -> None:
    value = {"low": limit.low, "high": limit.high, "below": limit.low - 1, "above": limit.high + 1}[
        end
    ]
    other = live.queue()

    agree(
        lambda: limits.within(limit, value),
        lambda: live.bare("sqs").set_queue_attributes(
            QueueUrl=other, Attributes={name: str(value)}
        ),
        accepted=end in ("low", "high"),
    )


@pytest.mark.parametrize(
    ("receives", "accepted"), [(1, True), (1000, True), (0, False), (1001, False)]
)
def test_the_range_of_the_receives_before_a_message_is_dead(
    live: Live, queue: str, receives: int, accepted: bool
) -> None:
    redrive = json.dumps({"deadLetterTargetArn": live.arn(queue), "maxReceiveCount": receives})
    other = live.queue()

    agree(
        lambda: limits.within(limits.RECEIVE_COUNT, receives),
        lambda: live.bare("sqs").set_queue_attributes(
            QueueUrl=other, Attributes={"RedrivePolicy": redrive}
        ),
        accepted,
    )


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"MaxNumberOfMessages": 11}, limits.RECEIVE_MESSAGES),
        ({"MaxNumberOfMessages": 0}, limits.RECEIVE_MESSAGES),
        ({"WaitTimeSeconds": 21}, limits.WAIT_S),
        ({"VisibilityTimeout": 43_201}, limits.VISIBILITY_S),
    ],
    ids=str,
)
def test_a_receive_that_asks_for_too_much_is_refused(
    live: Live, given: dict[str, int], limit: limits.Limit
) -> None:
    (value,) = given.values()
    empty = live.queue()

    agree(
        lambda: limits.within(limit, value),
        lambda: live.bare("sqs").receive_message(QueueUrl=empty, **given),
        accepted=False,
    )


@pytest.mark.parametrize(("length", "accepted"), [(1024, True), (1025, False)])
def test_the_length_of_a_key(live: Live, length: int, accepted: bool) -> None:
    bucket = live.bucket()
    key = "ü" * (length // 2) + "x" * (length % 2)

    agree(
        lambda: limits.check_key(key),
        lambda: live.bare("s3").put_object(Bucket=bucket, Key=key, Body=b"x"),
        accepted,
    )


@pytest.mark.parametrize("count", [10, 11])
def test_raw_delivery_loses_a_message_with_more_than_ten_attributes(live: Live, count: int) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        bus.subscribe("many", mt.model(len, name="reader", version="1.0.0"), listen=False)
        arn = f"arn:{live.clients.partition}:sns:{live.clients.region}:{live.clients.account}:{prefix}-many"
        url = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-many-reader")["QueueUrl"]

        live.clients.sns.publish(
            TopicArn=arn, Message="{}", MessageAttributes={f"a{n}": STRING for n in range(count)}
        )
        found = live.received(url, wait_s=20 if count == 10 else 8)

    with rig.only_aws("it delivers more than ten attributes, or not even ten"):
        assert len(found) == (1 if count == 10 else 0)
