"""What SQS, SNS and S3 take: the checks of mltrigger.aws.limits say the same as AWS, value by
value, on both sides of each limit.
"""

from __future__ import annotations

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


def checked(body: str, attributes: Attributes, group: str | None = None) -> None:
    limits.check_message(body, attributes, group=group, fifo=group is not None, limit=None)


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
    from mltrigger.event.data import encode_data
    from mltrigger.event.making import traced

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
    limit = limits.SNS_MESSAGE.high if service == "sns" else limits.SQS_MESSAGE.high
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

    agree(lambda: limits.check_size(sum(map(len, bodies)), limit), ask, accepted=not over)


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
        lambda: checked(body, attributes),
        ask,
        accepted=character in TAKEN,
    )


@pytest.mark.parametrize("service", ["sns", "sqs"])
def test_a_body_is_not_empty(live: Live, queue: str, topic: str, service: str) -> None:
    def ask() -> Any:
        if service == "sns":
            return live.bare("sns").publish(TopicArn=topic, Message="")
        return live.bare("sqs").send_message(QueueUrl=queue, MessageBody="")

    agree(lambda: checked("", {}), ask, accepted=False)


# -- ids and names ----------------------------------------------------------------

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

    agree(
        lambda: checked("x", {}, value),
        lambda: live.bare("sqs").send_message(QueueUrl=fifo_queue, MessageBody="x", **ids),
        GROUPS[value],
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
