"""The bus on AWS as a notebook sees it: the same words as everywhere, on SNS, SQS and S3 over real
HTTP.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from emulators import ACCOUNT, CREDENTIALS, REGION, Account
from shared import Gate, outcomes, wait_until

import mltrigger as mt
from mltrigger.aws.faults import AwsError
from mltrigger.aws.transport.wire import to_message
from mltrigger.broker import Settlement
from mltrigger.store.outcomes import FINAL
from mltrigger.testing import Failing, SimulatedClock

KIB = 1024


announced = pytest.mark.usefixtures("announcing")
"""For a test with notifications of a bucket."""


@pytest.fixture
def announcing(aws: Account) -> None:
    """Skip the test where the emulator has none."""
    if not aws.emulator.announces():
        pytest.skip("this emulator has no notifications of buckets")


def ended(sub: mt.Subscription, number: int = 1, clock: SimulatedClock | None = None) -> list[str]:
    """Wait until *number* events have ended; return how, oldest first.

    Where there is a *clock*, time passes while all of them wait.
    """

    def look() -> list[str] | None:
        found = [outcome for outcome in outcomes(sub) if outcome in FINAL]
        if len(found) >= number:
            return found
        if (
            clock is not None
            and (depth := sub.depth()).delayed
            and not depth.visible
            and not depth.in_flight
        ):
            clock.advance(s=5)
        return None

    return wait_until(look, timeout_s=40) or []


def echo(data: Any) -> Any:
    return data


def raw_of(event: mt.Event) -> Any:
    """Return what a test wants to know of an event."""
    return {
        "type": event.type,
        "source": event.source,
        "id": event.id,
        "data": event.data,
        "subject": event.subject,
    }


def size_and_start(data: str) -> list[Any]:
    return [len(data), data[:1]]


def answers(sub: mt.Subscription) -> list[Any]:
    """Return what the model answered, oldest first."""
    return [json.loads(text) for text in sub.invocations(columns=["output"])["output"].dropna()]


def letters(sub: mt.Subscription) -> dict[str, str]:
    """Return the raw text of the dead letters, and their reasons."""
    found = sub.dead_letters()
    return {
        bytes(raw).decode(): reason
        for raw, reason in zip(found["raw"], found["reason"], strict=True)
    }


def queue_of(aws: Account, name: str) -> str:
    """Return the URL of the queue of a subscription."""
    return next(url for url in aws.queues() if url.endswith((f"-{name}", f"-{name}.fifo")))


def is_balanced(bus: mt.EventBus) -> bool:
    return bool(bus.audit()["balanced"].all())


# -- a notebook ------------------------------------------------------------------------------------


def test_quickstart_runs_unchanged_on_aws(aws: Account) -> None:
    @mt.model("ocr", version="1.0.0")
    def read_page(document: dict[str, str]) -> dict[str, object]:
        return {"text": document["page"].upper(), "letters": len(document["page"])}

    bus = aws.bus()

    sub = bus.subscribe("documents", read_page)
    run = bus.fire("documents", [{"page": "a"}, {"page": "bb"}, {"page": "ccc"}], progress=False)

    assert list(run.results()["text"]) == ["A", "BB", "CCC"]
    assert list(sub.results()["letters"]) == [1, 2, 3]
    assert list(sub.invocations()["outcome"]) == ["succeeded"] * 3
    assert set(sub.latency()["stage"]) == {"queue", "model", "total"}
    assert (sub.latency()["count"] == 3).all()
    assert (sub.invocations()["total_ms"] > 0).all()
    assert is_balanced(bus)
    assert "listening" in repr(sub) and aws.url in repr(bus)
    wait_until(lambda: not aws.waiting(queue_of(aws, "ocr")))


def test_subscriptions_of_one_topic_never_know_of_each_other(aws: Account) -> None:
    def reject(data: int) -> None:
        raise mt.Reject("never")

    bus = aws.bus()
    reader, refuser = (
        bus.subscribe("documents", echo, name="reader"),
        bus.subscribe("documents", reject, name="refuser"),
    )

    run = bus.fire("documents", [1, 2], progress=False)

    assert [r.subscriptions for r in run.receipts] == [("reader", "refuser")] * 2
    assert (ended(reader, 2), ended(refuser, 2)) == (["succeeded"] * 2, ["dead"] * 2)
    assert answers(reader) == [1, 2]
    assert is_balanced(bus)


def test_failing_event_is_tried_again_after_a_backoff_and_dies_with_its_last_error(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    once, never = Failing(times=1), Failing(times=100)
    patient = bus.subscribe("documents", once, name="patient")
    hopeless = bus.subscribe("documents", never, name="hopeless", max_attempts=3)

    bus.publish("documents", {"page": 1})

    assert ended(patient, 1, aws_clock) == ["succeeded"]
    assert ended(hopeless, 1, aws_clock) == ["dead"]
    assert outcomes(patient) == ["failed", "succeeded"]
    tried = hopeless.invocations()
    assert list(tried["attempt"]) == [1, 2, 3]
    assert list(tried["outcome"]) == ["failed", "failed", "dead"]
    (letter,) = hopeless.dead_letters().itertuples()
    assert (letter.reason, letter.attempts, letter.error) == (
        "model_error",
        3,
        "failing on purpose",
    )
    assert json.loads(letter.raw) == {"page": 1}
    assert never.calls == 3
    assert is_balanced(bus)


def test_dead_letter_is_tried_out_sent_again_with_corrected_data_or_put_away(aws: Account) -> None:
    def double(n: int) -> int:
        if not isinstance(n, int):
            raise mt.Reject("not a number")
        return 2 * n

    bus = aws.bus()
    sub, other = bus.subscribe("numbers", double), bus.subscribe("numbers", echo)
    bus.fire("numbers", ["one", "two"], progress=False)
    one, two = sub.dead_letters()["event_id"]

    tried = sub.dry_run(one, data=1)
    again = sub.redrive(one, data=1)
    put_away = sub.discard(two, "a typing error")
    assert bus.wait(20, progress=False)

    assert list(tried["outcome"]) == ["succeeded"]
    assert (again, put_away) == (1, 1)
    assert answers(sub) == [2]
    assert sub.dead_letters().empty
    assert answers(other) == ["one", "two"]
    assert is_balanced(bus)


def test_filter_delivers_the_same_whether_sns_or_the_listener_applies_it(aws: Account) -> None:
    bus = aws.bus()
    given: dict[str, tuple[dict[str, Any], str]] = {
        "typed": ({"type": ["invoice"]}, "attributes"),
        "beginning": ({"tenant": [{"prefix": "no"}]}, "attributes"),
        "either": ({"$or": [{"type": ["letter"]}, {"tenant": ["south"]}]}, "attributes"),
        "anycase": ({"type": [{"equals-ignore-case": "INVOICE"}]}, "attributes"),
        "flagged": ({"urgent": [True]}, "attributes"),
        "costly": ({"total": [{"numeric": [">", 100]}]}, "body"),
    }
    subs = {
        name: bus.subscribe("post", echo, name=name, filter=f, filter_scope=scope)
        for name, (f, scope) in given.items()
    }

    receipts = bus.publish_batch(
        "post",
        [
            mt.Event(
                {"total": 500},
                type="invoice",
                id="a",
                extensions={"tenant": "north", "urgent": True},
            ),
            mt.Event({"total": 5}, type="letter", id="b", extensions={"tenant": "south"}),
            mt.Event("text", type="Invoice", id="c", datacontenttype="text/plain"),
        ],
    )
    assert bus.wait(30, progress=False)

    expected = {
        "typed": "a",
        "beginning": "a",
        "either": "b",
        "anycase": "ac",
        "flagged": "a",
        "costly": "a",
    }
    got = {
        name: "".join(sorted(sub.invocations(columns=["event_id"])["event_id"]))
        for name, sub in subs.items()
    }
    assert got == expected
    assert [sorted(r.subscriptions) for r in receipts] == [
        sorted(n for n, ids in expected.items() if e in ids) for e in "abc"
    ]
    for name, sub in subs.items():
        skipped = sub.skipped()
        assert sorted(skipped["event_id"]) == sorted(set("abc") - set(expected[name]))
        for event_id in "abc":
            last = sub.explain(event_id).iloc[-1]
            assert (last["ok"], last["step"]) == (event_id in expected[name], "outcome")
    # BI-045: the one thing that SNS would lose without a word
    assert "not_json" in subs["costly"].explain("c").set_index("step").loc["filter", "detail"]
    assert is_balanced(bus)
    pushed = {
        s["Endpoint"].rpartition("-")[2]
        for s in aws.feeds()
        if "FilterPolicy" in feed_attributes(aws, s)
    }
    assert pushed == {"typed", "beginning", "either", "costly"}


def feed_attributes(aws: Account, feed: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = aws.sns.get_subscription_attributes(
        SubscriptionArn=feed["SubscriptionArn"]
    )["Attributes"]
    return found


def test_output_is_published_on_another_topic_and_traced(aws: Account) -> None:
    bus = aws.bus()
    pages = bus.subscribe("documents", size_and_start, emit="pages")
    reader = bus.subscribe("pages", raw_of, name="reader")

    receipt = bus.publish("documents", "abc")

    assert ended(pages) == ["succeeded"]
    assert ended(reader) == ["succeeded"]
    assert answers(reader)[0]["data"] == [3, "a"]
    assert list(bus.trace(receipt.event_id)["topic"]) == ["documents", "pages"]
    bus.subscribe("letters", echo, emit="nowhere")
    bus.fire("letters", ["a"], progress=False)
    wait_until(lambda: any(arn.endswith("-nowhere") for arn in aws.topics()))
    assert is_balanced(bus)


def test_topic_that_feeds_itself_is_stopped(aws: Account) -> None:
    """BI-072."""
    bus = aws.bus()
    sub = bus.subscribe("loop", echo, emit="loop")

    bus.publish("loop", "round")

    wait_until(lambda: letters(sub), timeout_s=40)
    assert letters(sub) == {'"round"': "recursion_limit"}
    assert outcomes(sub)[-1] == "dead" and set(outcomes(sub)[:-1]) == {"succeeded"}


# -- sizes -----------------------------------------------------------------------------------------


def test_large_event_goes_by_the_bucket_and_arrives_whole(aws: Account) -> None:
    bucket = aws.bucket()
    bus = aws.bus(bucket=bucket)
    sub = bus.subscribe("documents", size_and_start)

    run = bus.fire("documents", ["x" * 300 * KIB, "y" * 1000, "ü" * 2_000_000], progress=False)

    assert list(run.results()["output"]) == [[300 * KIB, "x"], [1000, "y"], [2_000_000, "ü"]]
    assert len(aws.s3.list_objects_v2(Bucket=bucket)["Contents"]) == 2
    if aws.emulator.movable:  # else it may not know of that
        assert (
            aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["Expiration"][
                "Days"
            ]
            > 14
        )
    assert outcomes(sub) == ["succeeded"] * 3


def test_large_message_of_another_publisher_is_read_from_the_own_bucket_only(aws: Account) -> None:
    ours, theirs = aws.bucket(), aws.bucket()
    bus = aws.bus(bucket=ours)
    queue = aws.queue()
    sub = bus.subscribe(queue, echo)
    large, gone = str(uuid.uuid4()), str(uuid.uuid4())  # as the extended clients name them
    for bucket in (ours, theirs):
        aws.s3.put_object(Bucket=bucket, Key=large, Body=b'{"large": 1}')

    kinds = (
        ("software.amazon.payloadoffloading.PayloadS3Pointer", "ExtendedPayloadSize", ours, large),
        ("com.amazon.sqs.javamessaging.MessageS3Pointer", "SQSLargePayloadSize", ours, large),
        (
            "software.amazon.payloadoffloading.PayloadS3Pointer",
            "ExtendedPayloadSize",
            theirs,
            large,
        ),
        ("software.amazon.payloadoffloading.PayloadS3Pointer", "ExtendedPayloadSize", ours, gone),
    )
    for name, attribute, bucket, key in kinds:
        aws.sqs.send_message(
            QueueUrl=queue,
            MessageBody=json.dumps([name, {"s3BucketName": bucket, "s3Key": key}]),
            MessageAttributes={attribute: {"DataType": "Number", "StringValue": "12"}},
        )

    assert sorted(ended(sub, 4)) == ["dead", "dead", "succeeded", "succeeded"]
    assert answers(sub) == [{"large": 1}] * 2
    assert set(sub.dead_letters()["reason"]) == {"untrusted_bucket", "object_missing"}
    assert any(theirs in error for error in sub.dead_letters()["error"])


def test_without_a_bucket_the_limit_is_named_and_the_last_byte_below_it_passes(
    aws: Account,
) -> None:
    """BI-020, BI-022: bytes count, with those of the attributes."""
    bus = aws.bus()
    bus.subscribe("documents", len, name="reader")
    with pytest.raises(mt.EventTooLarge) as found:
        bus.publish("documents", b"x" * 262_144, datacontenttype="text/plain")
    with pytest.raises(mt.EventTooLarge):
        bus.publish("documents", "é" * 131_073)

    assert "262,144" in str(found.value) and "bucket=" in str(found.value)
    assert bus.events("documents").empty
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    event = mt.Event(b"x", id="a", datacontenttype="text/plain", extensions=trace)
    most = 262_145 - to_message(event, b"x", "text/plain", False, None).size
    run = bus.fire("documents", [dataclasses.replace(event, data=b"x" * most)], progress=False)
    assert list(run.results()["output"]) == [most]
    with pytest.raises(mt.EventTooLarge):
        bus.publish("documents", dataclasses.replace(event, data=b"x" * (most + 1), id="b"))


def test_batch_beyond_the_limit_of_a_call_is_split_and_nothing_is_lost(aws: Account) -> None:
    """BI-023."""
    bus = aws.bus(hooked=True)
    sub = bus.subscribe("documents", len, name="reader", batch_size=10)
    aws.faults.clear()

    receipts = bus.publish_batch("documents", ["x" * 120 * KIB] * 10)

    assert len({r.event_id for r in receipts}) == 10
    assert ended(sub, 10) == ["succeeded"] * 10
    assert answers(sub) == [120 * KIB] * 10
    assert sum(name == "PublishBatch" for name, _ in aws.faults.calls) == 5


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(
            mt.Event("a\x00b", datacontenttype="text/plain"), "invalid_character", id="BI-019 NUL"
        ),
        pytest.param(
            mt.Event("a\ufffeb", datacontenttype="text/plain"),
            "invalid_character",
            id="BI-019 U+FFFE",
        ),
        pytest.param(
            mt.Event(1, extensions={"tenant": "a\x1bb"}), None, id="BI-019 in an extension"
        ),
    ],
)
def test_what_aws_would_refuse_or_lose_is_refused_before_it_is_sent(
    aws: Account, event: mt.Event, reason: str | None
) -> None:
    bus = aws.bus()
    bus.topic("documents")

    with pytest.raises(mt.InvalidEvent) as found:
        bus.publish("documents", event)

    assert reason is None or found.value.reason == reason
    assert bus.events("documents").empty


def test_character_that_sqs_refuses_arrives_inside_of_json(aws: Account) -> None:
    """BI-019: JSON has an escape for each."""
    bus = aws.bus()
    sub = bus.subscribe("documents", echo)

    bus.fire("documents", ["a\x00b", {"\x1b": "a\ufffeb"}], progress=False)

    assert answers(sub) == ["a\x00b", {"\x1b": "a\ufffeb"}]


def test_subject_may_be_what_the_subject_of_sns_may_not(aws: Account) -> None:
    """BI-036: it travels as an attribute, which has no such rules."""
    bus = aws.bus()
    sub = bus.subscribe("documents", raw_of)
    subjects = ["a\nb", "ü" * 1000]

    bus.fire("documents", [mt.Event(1, subject=subject) for subject in subjects], progress=False)

    assert [answer["subject"] for answer in answers(sub)] == subjects


# -- once ------------------------------------------------------------------------------------------


def test_event_that_is_published_again_does_not_run_again(aws: Account) -> None:
    bus = aws.bus()
    model = Failing(times=0)
    sub = bus.subscribe("documents", model, name="reader")

    first = bus.publish("documents", "a", id="1", source="scanner")
    ended(sub)
    second = bus.publish("documents", "a", id="1", source="scanner")
    bus.fire("documents", ["b"], progress=False)

    assert (first.duplicate, second.duplicate, second.seq) == (False, True, first.seq)
    assert model.calls == 2
    assert "duplicate" in set(sub.skipped()["reason"])
    assert is_balanced(bus)


def test_same_message_that_is_received_twice_has_one_outcome(aws: Account) -> None:
    """SQS delivers at least once: here twice to a stranger first, then the same body as two
    messages.
    """
    bus = aws.bus()
    model = Failing(times=0)
    sub = bus.subscribe("documents", model, name="reader", listen=False)
    bus.publish("documents", "a")
    queue = queue_of(aws, "reader")
    (found,) = wait_until(
        lambda: aws.sqs.receive_message(
            QueueUrl=queue, VisibilityTimeout=0, MessageAttributeNames=["All"]
        ).get("Messages")
    )
    aws.sqs.send_message(
        QueueUrl=queue, MessageBody=found["Body"], MessageAttributes=found["MessageAttributes"]
    )

    sub.start()

    assert ended(sub) == ["succeeded"]
    wait_until(lambda: not aws.waiting(queue))
    assert (model.calls, outcomes(sub)) == (1, ["succeeded"])
    assert is_balanced(bus)


def test_event_of_a_listener_that_died_comes_again_and_the_attempt_is_shown_as_abandoned(
    aws: Account, aws_clock: SimulatedClock, file: Path
) -> None:
    bus, dying = (
        aws.bus(f"sqlite:///{file}", clock=aws_clock),
        aws.bus(f"sqlite:///{file}", clock=aws_clock),
    )
    sub = bus.subscribe("documents", echo, listen=False, lease_s=60.0)
    bus.publish("documents", "a")
    (held,) = wait_until(lambda: dying.broker.receive(bus.spec("echo"), 1))
    aws_clock.advance(s=61)

    sub.start()

    assert ended(sub, 1, aws_clock) == ["succeeded"]
    assert outcomes(sub) == ["abandoned", "succeeded"]
    assert held.attempt == 1 and list(sub.invocations()["attempt"]) == [1, 2]
    assert is_balanced(bus)


def test_same_event_at_two_listeners_has_the_outcome_of_the_first_to_record_it(
    aws: Account, aws_clock: SimulatedClock, file: Path, gate: Gate
) -> None:
    """BI-083: a lease that ran out in the middle of a run."""
    slow, quick = (
        aws.bus(f"sqlite:///{file}", clock=aws_clock),
        aws.bus(f"sqlite:///{file}", clock=aws_clock),
    )

    def read(data: str) -> str:
        gate.wait()
        return data

    sub = slow.subscribe("documents", read, lease_s=60.0, timeout_s=3600.0)
    slow.publish("documents", "a")
    assert gate.reached.wait(20)
    aws_clock.advance(s=61)
    (taken,) = wait_until(lambda: quick.broker.receive(slow.spec("read"), 1))

    assert quick.broker.settle([Settlement(taken, "dead_letter", reason="taken")]) == []
    gate.open()

    wait_until(lambda: "running" not in outcomes(sub))
    assert "succeeded" not in outcomes(sub)
    assert len(sub.dead_letters()) == 1


def test_accepted_event_leaves_the_queue_before_the_model_has_run(aws: Account, gate: Gate) -> None:
    def read(data: str) -> str:
        gate.wait()
        return data

    bus = aws.bus()
    sub = bus.subscribe("documents", read, ack="accepted")
    bus.publish("documents", "a")
    assert gate.reached.wait(20)

    wait_until(lambda: not aws.waiting(queue_of(aws, "read")))
    gate.open()

    assert ended(sub) == ["succeeded"]


def test_message_that_sqs_moved_to_the_dead_letter_queue_becomes_a_dead_letter_of_the_log(
    aws: Account,
) -> None:
    bus = aws.bus()
    sub = bus.subscribe("documents", echo, listen=False)
    queue = queue_of(aws, "echo")
    redrive = json.loads(
        aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])[
            "Attributes"
        ]["RedrivePolicy"]
    )
    aws.sqs.set_queue_attributes(
        QueueUrl=queue, Attributes={"RedrivePolicy": json.dumps({**redrive, "maxReceiveCount": 1})}
    )
    bus.publish("documents", "a")

    wait_until(
        lambda: aws.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0, WaitTimeSeconds=0).get(
            "Messages"
        )
    )
    aws.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0, WaitTimeSeconds=0)
    wait_until(lambda: aws.waiting(queue_of(aws, "echo-dead")))
    moved = bus.broker.bury(bus.spec("echo"))

    assert moved == 1
    assert letters(sub) == {'"a"': "worker_died"}
    wait_until(lambda: not aws.waiting(queue_of(aws, "echo-dead")))
    assert sub.redrive() == 1
    sub.start()
    assert bus.wait(20, progress=False)
    assert (outcomes(sub)[-1], list(sub.invocations()["attempt"]), letters(sub)) == (
        "succeeded",
        [1, 2],
        {},
    )
    assert is_balanced(bus)


# -- order -----------------------------------------------------------------------------------------


def of_group(group: str, number: int) -> mt.Event:
    return mt.Event(f"{group}{number}", extensions={"partitionkey": group})


def test_group_keeps_its_order_when_one_of_it_fails_and_is_tried_again(aws: Account) -> None:
    seen: list[str] = []
    failed: set[str] = set()

    def read(data: str) -> str:
        if data == "a2" and data not in failed:
            failed.add(data)
            raise mt.Retry(delay_s=0)
        seen.append(data)
        return data

    bus = aws.bus()
    sub = bus.subscribe("orders.fifo", read)
    bus.publish_batch(
        "orders.fifo", [of_group(group, number) for number in (1, 2, 3) for group in "ab"]
    )

    assert ended(sub, 6) == ["succeeded"] * 6
    assert [x for x in seen if x[0] == "a"] == ["a1", "a2", "a3"]
    assert [x for x in seen if x[0] == "b"] == ["b1", "b2", "b3"]
    assert is_balanced(bus)


def test_batch_of_a_group_is_kept_in_order_when_one_in_the_middle_fails(aws: Account) -> None:
    failed: list[str] = []

    def read(batch: list[str]) -> list[str]:
        if "a2" in batch and not failed:
            failed.append("a2")
            return [ValueError("not yet") if data == "a2" else data for data in batch]  # type: ignore[misc]
        return batch

    bus = aws.bus()
    sub = bus.subscribe("orders.fifo", read, batch=True, listen=False)
    bus.publish_batch(
        "orders.fifo", [of_group(group, number) for number in (1, 2, 3) for group in "ab"]
    )

    sub.start()

    assert ended(sub, 6) == ["succeeded"] * 6
    assert answers(sub).index("a2") < answers(sub).index("a3")
    rows = sub.invocations()
    if aws.emulator.movable:  # else it may give out one of a group at a time
        assert set(rows.loc[rows["outcome"] == "interrupted", "reason"]) == {"group_order"}
    assert sorted(answers(sub)) == sorted(
        f"{group}{number}" for number in (1, 2, 3) for group in "ab"
    )
    assert is_balanced(bus)


def test_group_keeps_its_order_across_publishers_that_share_no_log(aws: Account) -> None:
    seen: list[str] = []

    def read(batch: list[str]) -> list[str]:
        seen.extend(batch)
        return batch

    bus, other = aws.bus(), aws.bus()
    sub = bus.subscribe("orders.fifo", read, batch=True, listen=False)
    for number, publisher in enumerate([other, bus, other, bus], 1):
        publisher.publish("orders.fifo", of_group("a", number))

    sub.start()

    assert ended(sub, 4) == ["succeeded"] * 4
    assert seen == ["a1", "a2", "a3", "a4"]
    assert is_balanced(bus)


def test_ordered_topic_refuses_an_event_without_a_group_and_drops_repeats(aws: Account) -> None:
    """BI-034, BI-035."""
    bus = aws.bus()
    sub = bus.subscribe("orders.fifo", echo)

    with pytest.raises(mt.InvalidEvent) as found:
        bus.publish("orders.fifo", "a")
    first = bus.publish("orders.fifo", "a", id="1", source="shop", extensions={"partitionkey": "k"})
    with pytest.warns(UserWarning, match="other data"):
        second = bus.publish(
            "orders.fifo", "b", id="1", source="shop", extensions={"partitionkey": "k"}
        )

    assert found.value.reason == "missing_group_id" and "partitionkey" in str(found.value)
    assert (second.seq, second.duplicate) == (first.seq, True)
    assert ended(sub) == ["succeeded"] and answers(sub) == ["a"]


# -- what is made and taken away -------------------------------------------------------------------


def test_plan_shows_what_would_be_made_changes_nothing_and_finds_nothing_to_do_afterwards(
    aws: Account,
) -> None:
    bus = aws.bus()

    before = bus.plan("documents", name="reader", filter={"type": ["invoice"]})

    assert set(before["action"]) == {"create"}
    assert set(before["kind"]) == {"topic", "queue", "dead-letter queue", "subscription"}
    assert (aws.queues(), aws.topics(), len(bus.subscriptions()), len(bus.topics())) == (
        [],
        [],
        0,
        0,
    )

    bus.subscribe("documents", echo, name="reader", filter={"type": ["invoice"]}, listen=False)

    assert set(bus.plan()["action"]) == {"keep"}
    assert set(bus.plan("documents", name="reader", filter={"type": ["invoice"]})["action"]) == {
        "keep"
    }
    assert set(bus.plan("documents", name="reader", filter={"type": ["letter"]})["action"]) == {
        "keep",
        "change",
    }


@announced
def test_unsubscribing_with_delete_leaves_nothing_on_aws(aws: Account) -> None:
    bus, bucket = aws.bus(), aws.bucket()
    bus.subscribe("documents", echo, name="reader")
    bus.subscribe("documents", echo, name="other")
    bus.subscribe(f"s3://{bucket}/in/*.png", echo, name="pages")
    bus.publish("documents", "a")

    bus.unsubscribe("reader", delete=True)
    left = [url.rpartition("/")[2] for url in aws.queues()]
    bus.unsubscribe("other", delete=True)
    bus.unsubscribe("pages", delete=True)

    assert f"{aws.prefix}-documents-other" in left and not any("reader" in name for name in left)
    assert (aws.queues(), aws.topics(), aws.feeds()) == ([], [], [])
    assert "TopicConfigurations" not in aws.s3.get_bucket_notification_configuration(Bucket=bucket)
    assert is_balanced(bus)


def test_subscription_that_ended_and_begins_again_gets_what_is_published_from_then_on(
    aws: Account,
) -> None:
    bus = aws.bus()
    sub = bus.subscribe("documents", echo)
    bus.fire("documents", ["first"], progress=False)

    bus.unsubscribe("echo")
    queues, feeds = len(aws.queues()), len(aws.feeds())
    bus.publish("documents", "missed")
    again = bus.subscribe("documents", echo)
    bus.fire("documents", ["second"], progress=False)

    assert (queues, feeds) == (2, 0)
    assert answers(again) == answers(sub) == ["first", "second"]
    assert is_balanced(bus)


def test_cell_that_runs_again_finds_its_subscription(aws: Account) -> None:
    bus = aws.bus()
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(echo))

    again = bus.subscribe("documents", mt.model("ocr", version="1.1.0")(lambda data: [data]))
    bus.fire("documents", ["a"], progress=False)

    assert "was ocr:1.0.0" in repr(again)
    assert (len(aws.queues()), len(aws.feeds()), answers(again)) == (2, 1, [["a"]])


def test_publisher_on_another_machine_needs_no_log_of_the_listener(aws: Account) -> None:
    listener, publisher = aws.bus(), aws.bus()
    sub = listener.subscribe("documents", raw_of)

    publisher.publish("documents", {"page": 1}, type="page", source="scanner/7", subject="p1")
    with pytest.raises(mt.NotFound) as found:
        publisher.publish("docments", {})

    assert ended(sub) == ["succeeded"]
    assert answers(sub)[0] | {"id": ""} == {
        "type": "page",
        "source": "scanner/7",
        "id": "",
        "data": {"page": 1},
        "subject": "p1",
    }
    assert "'documents'" in str(found.value)
    assert is_balanced(listener) and is_balanced(publisher)


def test_closing_gives_back_what_a_poll_brings(aws: Account) -> None:
    bus, other = aws.bus(hooked=True), aws.bus(hooked=True)
    bus.subscribe("documents", echo)  # hidden for six minutes by whoever receives it
    queue = queue_of(aws, "echo")
    wait_until(lambda: aws.faults.of("ReceiveMessage"))

    bus.close(polls_s=0.0)
    other.publish("documents", "a")

    assert wait_until(
        lambda: aws.sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages")
    )


def test_closing_releases_what_runs_marked_as_interrupted(
    aws: Account, gate: Gate, file: Path
) -> None:
    def read(data: str) -> str:
        gate.wait()
        return data

    bus = aws.bus(f"sqlite:///{file}")
    bus.subscribe("documents", read)
    bus.publish("documents", "a")
    assert gate.reached.wait(20)

    bus.close(drain_s=0.1, polls_s=0.0)
    gate.open()
    again = aws.bus(f"sqlite:///{file}")
    sub = again.subscribe("documents", read)

    assert ended(sub) == ["succeeded"]
    assert outcomes(sub) == ["interrupted", "succeeded"]
    assert is_balanced(again)


# -- buckets ---------------------------------------------------------------------------------------


def read_object(event: mt.Event) -> list[Any]:
    """Return the key and what the object holds."""
    with event.open() as file:
        whole = file.read()
        file.seek(1)
        assert file.read() == whole[1:]
    return [event.data["key"], whole.decode()]


def size_of(data: dict[str, Any]) -> int:
    return int(data["size"])


@announced
def test_new_object_runs_through_two_models_whatever_its_name(aws: Account) -> None:
    """BI-058, BI-059, BI-062, BI-063."""
    bus, bucket = aws.bus(), aws.bucket()
    reader = bus.subscribe(f"s3://{bucket}/in/*.png", read_object, name="reader")
    sizer = bus.subscribe(f"s3://{bucket}/in/*.png", size_of, name="sizer")
    keys = [
        "in/a b.png",
        "in/a+b.png",
        "in/ü/ß.png",
        "in/a%20b.png",
        "in/..%2Fpasswd.png",
        "in/a\u202egnp.png",
        "in/&<'\"=.png",
    ]

    for number, key in enumerate(keys):
        aws.s3.put_object(Bucket=bucket, Key=key, Body=b"x" * (number + 1))
    aws.s3.put_object(Bucket=bucket, Key="in/a.txt", Body=b"x")
    aws.s3.put_object(Bucket=bucket, Key="a.png", Body=b"x")

    wait_until(lambda: len(answers(reader)) == len(answers(sizer)) == len(keys), timeout_s=40)
    assert sorted(answers(reader)) == sorted([key, "x" * (n + 1)] for n, key in enumerate(keys))
    assert sorted(answers(sizer)) == list(range(1, len(keys) + 1))
    # BI-057: what S3 sends when a notification is set up is no event, and a row says so
    wait_until(lambda: list(reader.skipped()["reason"]) == ["s3_test_event"])
    assert sizer.skipped().empty
    assert is_balanced(bus)


@announced
def test_right_version_is_read_of_a_versioned_bucket_and_a_replacement_is_told_of_in_any_other(
    aws: Account,
) -> None:
    """BI-069."""
    bus, plain, versioned = aws.bus(), aws.bucket(), aws.bucket(versioned=True)
    subs = [
        bus.subscribe(f"s3://{bucket}/*", read_object, name=f"of{n}", listen=False)
        for n, bucket in enumerate((plain, versioned))
    ]
    for bucket in (plain, versioned):
        put = [
            aws.s3.put_object(Bucket=bucket, Key="page", Body=body) for body in (b"old", b"new!")
        ]
    bus.unsubscribe("of1")  # the emulator does not say which version; S3 does
    subs[1] = bus.subscribe(f"s3://{versioned}/*", read_object, name="of1", listen=False)
    for number, version in enumerate(put):
        record = s3_record(
            "page",
            bucket=versioned,
            versionId=version["VersionId"],
            sequencer=f"0{number}",
            eTag=version["ETag"].strip('"'),
        )
        aws.sqs.send_message(
            QueueUrl=queue_of(aws, "of1"), MessageBody=json.dumps({"Records": [record]})
        )

    for sub in subs:
        sub.start()
        wait_until(lambda sub=sub: len(answers(sub)) == (4 if sub is subs[1] else 2))

    assert sorted(answers(subs[0])) == [["page", "new!"], ["page", "new!"]]
    assert sum("etag_mismatch" in str(printed) for printed in subs[0].invocations()["stdout"]) == 1
    assert sorted(answers(subs[1])) == [
        ["page", "new!"],
        ["page", "new!"],
        ["page", "new!"],
        ["page", "old"],
    ]
    assert (
        sum("etag_mismatch" in str(printed) for printed in subs[1].invocations()["stdout"]) == 1
    ), "of an event without a version"


@announced
def test_object_that_is_gone_is_tried_again_and_one_that_is_too_large_is_not(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    """BI-068, BI-071."""
    bus, bucket = aws.bus(clock=aws_clock), aws.bucket()
    sub = bus.subscribe(
        f"s3://{bucket}/*", read_object, listen=False, max_attempts=3, max_object_mb=1
    )
    aws.s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
    aws.s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    aws.s3.put_object(Bucket=bucket, Key="large", Body=b"x" * (KIB * KIB + 1))
    aws.s3.delete_object(Bucket=bucket, Key="gone")

    sub.start()
    assert sorted(ended(sub, 3, aws_clock)) == ["dead", "dead", "succeeded"]

    found = {row.subject: (row.reason, row.attempts) for row in sub.dead_letters().itertuples()}
    assert found == {"gone": ("object_missing", 3), "large": ("object_too_large", 1)}
    assert ["empty", ""] in answers(sub)


@announced
def test_notification_that_a_bucket_has_already_stays(aws: Account) -> None:
    bus, bucket = aws.bus(), aws.bucket()
    theirs = aws.queue()
    aws.s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "Id": "theirs",
                    "QueueArn": aws.arn(theirs),
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "out/"}]}},
                }
            ]
        },
    )

    sub = bus.subscribe(f"s3://{bucket}/in/*.png", read_object)
    aws.s3.put_object(Bucket=bucket, Key="in/a.png", Body=b"x")
    wait_until(lambda: answers(sub))
    during = aws.s3.get_bucket_notification_configuration(Bucket=bucket)
    bus.unsubscribe("read_object", delete=True)

    after = aws.s3.get_bucket_notification_configuration(Bucket=bucket)
    assert (
        [c["Id"] for c in during["QueueConfigurations"]]
        == [c["Id"] for c in after["QueueConfigurations"]]
        == ["theirs"]
    )
    assert len(during["TopicConfigurations"]) == 1 and "TopicConfigurations" not in after


def s3_record(
    key: str,
    *,
    bucket: str = "scans",
    version: str = "2.1",
    name: str = "ObjectCreated:Put",
    sequencer: str = "0A",
    **thing: Any,
) -> dict[str, Any]:
    """Return a record of a notification; *key* as S3 writes it."""
    return {
        "eventVersion": version,
        "eventSource": "aws:s3",
        "awsRegion": REGION,
        "eventTime": "2026-11-23T09:00:00.000Z",
        "eventName": name,
        "s3": {
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": key, "sequencer": sequencer, **thing},
        },
    }


def test_notifications_in_a_foreign_queue_are_understood_or_dead_with_their_reason(
    aws: Account,
) -> None:
    """BI-057, BI-060 to BI-063, BI-066, BI-067, BI-070."""
    bus, queue = aws.bus(), aws.queue()
    sent = [
        [s3_record("a%2520b", size=1)],
        [s3_record("..%2F..%2Fetc%2Fpasswd"), s3_record("a%E2%80%AEgnp.exe")],
        [s3_record("scan+1.png", urlDecodedKey="other")],
        [s3_record("late", sequencer="0B"), s3_record("late", sequencer="0A")],
        [s3_record("removed", name="ObjectRemoved:Delete")],
        [s3_record("%FF%FE.png")],
        [s3_record("future", version="3.0")],
    ]

    def read(event: mt.Event) -> list[Any]:
        return [
            event.data["key"],
            event.data["size"],
            str(event.extensions.get("sequencer")).lstrip("0"),
        ]

    sub = bus.subscribe(queue, read)
    for records in sent:
        aws.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"Records": records}))
    aws.sqs.send_message(
        QueueUrl=queue,
        MessageBody=json.dumps(
            {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "scans"}
        ),
    )

    ended(sub, 9)
    wait_until(lambda: list(sub.skipped()["reason"]) == ["s3_test_event"])
    expected = [
        ["a%20b", 1, "A"],
        ["../../etc/passwd", None, "A"],
        ["a\u202egnp.exe", None, "A"],
        ["scan 1.png", None, "A"],
        ["late", None, "B"],
        ["late", None, "A"],
        ["removed", None, "A"],
    ]
    assert sorted(answers(sub), key=str) == sorted(expected, key=str)
    assert sorted(sub.dead_letters()["reason"]) == [
        "invalid_key_encoding",
        "unsupported_event_version",
    ]
    assert list(sub.skipped()["type"]) == ["com.amazonaws.s3.TestEvent"]
    assert "s3_test_event" not in set(sub.invocations()["reason"])
    assert is_balanced(bus)


# -- other publishers ------------------------------------------------------------------------------


def attribute(value: str | bytes, kind: str = "String") -> dict[str, Any]:
    return {"DataType": kind, "BinaryValue" if isinstance(value, bytes) else "StringValue": value}


def test_plain_json_of_a_stranger_on_the_own_topic_reaches_every_subscription(aws: Account) -> None:
    bus = aws.bus()
    subs = [bus.subscribe("documents", raw_of, name=name) for name in ("reader", "other")]

    aws.sns.publish(TopicArn=aws.topics()[0], Message='{"page": 1}')

    for sub in subs:
        assert ended(sub) == ["succeeded"]
        assert answers(sub)[0]["data"] == {"page": 1}
    assert is_balanced(bus)


def test_topic_of_somebody_else_is_listened_to_with_a_queue_of_our_own(aws: Account) -> None:
    bus, topic = aws.bus(), aws.topic()
    sub = bus.subscribe(topic, raw_of, name="reader")
    aws.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=aws.arn(aws.queue()))

    aws.sns.publish(TopicArn=topic, Message='{"page": 1}')
    aws.sns.publish(TopicArn=topic, Message="no JSON")

    assert sorted(ended(sub, 2)) == ["dead", "succeeded"]
    assert (answers(sub)[0]["data"], letters(sub)) == ({"page": 1}, {"no JSON": "malformed_json"})
    assert sub.redrive(data={"page": 2}) == 1
    wait_until(lambda: [answer["data"] for answer in answers(sub)] == [{"page": 1}, {"page": 2}])
    bus.unsubscribe("reader", delete=True)
    assert aws.queues() == []
    assert len(aws.sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]) == 1
    assert is_balanced(bus)


def test_queue_of_somebody_else_has_one_subscription_by_arn_or_url(aws: Account) -> None:
    bus, queue = aws.bus(hooked=True), aws.queue()
    arn = aws.arn(queue)
    model = Failing(times=1, error=mt.Retry(delay_s=0))
    sub = bus.subscribe(arn, model, name="reader")
    aws.faults.clear()

    with pytest.raises(mt.NameTaken, match="reader"):
        bus.subscribe(queue, echo, name="second")
    same = bus.subscribe(queue, model, name="reader")
    aws.sqs.send_message(QueueUrl=queue, MessageBody='{"page": 1}')

    assert ended(sub) == ["succeeded"]
    assert (same.topic, answers(sub), outcomes(sub)) == (
        sub.topic,
        [{"page": 1}],
        ["failed", "succeeded"],
    )
    wait_until(lambda: not aws.waiting(queue))
    bus.unsubscribe("reader", delete=True)
    assert aws.waiting(queue) == 0, "it is still there"
    # an emulator only is asked for the URL
    used = {name.removesuffix("Batch") for name, _ in aws.faults.calls} - {"GetQueueUrl"}
    assert used <= {
        "ReceiveMessage",
        "DeleteMessage",
        "ChangeMessageVisibility",
        "GetQueueAttributes",
    }
    assert is_balanced(bus)


def test_what_is_no_json_is_dead_with_its_raw_bytes_unless_text_is_declared(aws: Account) -> None:
    bus, queue, of_text = aws.bus(), aws.queue(), aws.queue()
    sub, reader = (
        bus.subscribe(queue, echo),
        bus.subscribe(of_text, echo, name="text", input="text"),
    )

    for url in (queue, of_text):
        aws.sqs.send_message(QueueUrl=url, MessageBody="grüße, [")
        aws.sqs.send_message(QueueUrl=url, MessageBody='{"good": 1}')

    assert (sorted(ended(sub, 2)), sorted(ended(reader, 2))) == (
        ["dead", "succeeded"],
        ["succeeded"] * 2,
    )
    assert (letters(sub), answers(sub)) == ({"grüße, [": "malformed_json"}, [{"good": 1}])
    assert sorted(answers(reader)) == ["grüße, [", '{"good": 1}']
    assert is_balanced(bus)


def wrapped(message: str, **attributes: dict[str, str]) -> str:
    """Return what SNS delivers without raw message delivery."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": str(uuid.uuid4()),
            "Message": message,
            "MessageAttributes": attributes,
            "TopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:theirs",
            "Timestamp": "2026-11-23T09:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "x",
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/x.pem",
            "UnsubscribeURL": "https://example.com",
        }
    )


CLOUDEVENT = {
    "specversion": "1.0",
    "id": "7",
    "source": "shop",
    "type": "order.placed",
    "data": {"n": 1},
}


def test_envelopes_of_other_publishers_are_understood(aws: Account) -> None:
    """BI-033, BI-073, BI-075, BI-076."""
    bus, queue = aws.bus(), aws.queue()
    sub = bus.subscribe(queue, raw_of)
    twice = wrapped(wrapped('{"n": 1}'))
    binary = {
        "ce-specversion": "1.0",
        "ce-id": "8",
        "ce-source": "shop",
        "ce-type": "order.paid",
        "ce-tenant": "north",
    }
    sent: list[tuple[str, dict[str, Any]]] = [
        (wrapped('{"wrapped": 1}'), {}),
        ('{"Type": "Notification", "Message": "{}"}', {}),
        (twice, {}),
        (json.dumps(CLOUDEVENT), {"content-type": attribute("application/cloudevents+json")}),
        ('{"n": 2}', {name: attribute(value) for name, value in binary.items()}),
        ('{"n": 3}', {"photo": attribute(b"\x89PNG", "Binary.png")}),
    ]

    for body, attributes in sent:
        aws.sqs.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes)

    assert ended(sub, 6) == ["succeeded"] * 6
    found = {json.dumps(a["data"]): a for a in answers(sub)}
    assert {
        '{"wrapped": 1}',
        '{"Type": "Notification", "Message": "{}"}',
        '{"n": 3}',
    } <= found.keys()
    assert any(
        "Notification" in text and "wrapped" not in text and "TopicArn" in text for text in found
    ), "one envelope is taken off"
    assert (found['{"n": 1}']["type"], found['{"n": 1}']["id"], found['{"n": 1}']["source"]) == (
        "order.placed",
        "7",
        "shop",
    )
    assert (found['{"n": 2}']["type"], found['{"n": 2}']["id"]) == ("order.paid", "8")


def test_filter_of_another_publishers_attributes_uses_their_names(aws: Account) -> None:
    bus, topic, queue = aws.bus(), aws.topic(), aws.queue()
    subs = [
        bus.subscribe(source, echo, name=f"of{n}", filter={"eventType": ["paid"]})
        for n, source in enumerate((topic, queue))
    ]

    for number, kind in enumerate(("paid", "open", "paid")):
        aws.sns.publish(
            TopicArn=topic, Message=str(number), MessageAttributes={"eventType": attribute(kind)}
        )
        aws.sqs.send_message(
            QueueUrl=queue,
            MessageBody=str(number),
            MessageAttributes={"eventType": attribute(kind)},
        )

    for sub in subs:
        wait_until(lambda sub=sub: sorted(answers(sub)) == [0, 2])
        wait_until(lambda sub=sub: list(sub.skipped()["reason"]) == ["filtered"])
        (kept_out,) = sub.skipped()["event_id"]
        assert sub.explain(kept_out).iloc[-1]["detail"] == "skipped: filtered"
    wait_until(lambda: not aws.waiting(queue))
    assert is_balanced(bus)


# -- who may ---------------------------------------------------------------------------------------


def test_role_of_another_account_is_assumed_with_its_external_id(aws: Account) -> None:
    if not aws.emulator.movable:
        pytest.skip("this emulator may have no roles")
    role = f"arn:aws:iam::{ACCOUNT}:role/{aws.prefix}-listener"
    asked: list[str] = []
    session = aws.emulator.session()
    with mt.connect(
        aws.url,
        log="memory://",
        endpoint_url=aws.emulator.url,
        session=session,
        role_arn=role,
        external_id="shared-secret",
    ) as bus:
        clients = bus.broker._clients  # type: ignore[attr-defined]
        clients.sqs.meta.events.register(
            "before-send.sqs",
            lambda request, **_: asked.append(str(request.headers["Authorization"])),
        )
        identity = clients.sts.get_caller_identity()["Arn"]
        sub = bus.subscribe("documents", echo)
        bus.fire("documents", ["a"], progress=False)

        assert answers(sub) == ["a"]
    assert ":assumed-role/" in identity and "mltrigger" in identity
    assert asked and not any("Credential=testing/" in text for text in asked)


def test_wrong_credentials_and_missing_permissions_are_one_clear_error(
    aws: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = aws.bus(hooked=True)
    aws.faults.refuse("GetCallerIdentity", "InvalidClientTokenId", status=403)
    with pytest.raises(AwsError, match="no valid credentials") as unknown:
        bus.subscribe("documents", echo)
    aws.faults.refuse("CreateTopic", "AuthorizationError", status=403)
    with pytest.raises(AwsError, match="allow sns:CreateTopic; `mltrigger aws policies`") as denied:
        bus.subscribe("documents", echo)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    nobody = aws.bus(session=boto3.Session())
    with pytest.raises(AwsError, match="no valid credentials") as none:
        nobody.subscribe("documents", echo)
    with pytest.raises(AwsError, match="no-such-profile"):
        aws.bus(session=None, profile="no-such-profile")

    assert (unknown.value.code, denied.value.code, none.value.code) == (
        "InvalidClientTokenId",
        "AuthorizationError",
        "NoCredentialsError",
    )
    assert all("testing" not in str(error.value) for error in (unknown, denied, none))
    sub = bus.subscribe("documents", echo)
    assert list(bus.fire("documents", ["a"], progress=False).results()["output"]) == ["a"]
    assert outcomes(sub) == ["succeeded"]


def test_denied_publish_keeps_the_event_and_sends_it_when_it_may(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(hooked=True, clock=aws_clock)
    sub = bus.subscribe("documents", echo)
    aws.faults.refuse("PublishBatch", "AuthorizationError", status=403)

    with pytest.raises(AwsError, match="allow sns:Publish"):
        bus.publish("documents", "a", id="1", source="scanner")
    aws_clock.advance(s=6)
    bus.broker.upkeep()

    assert ended(sub) == ["succeeded"]
    assert bus.publish("documents", "a", id="1", source="scanner").duplicate
    assert is_balanced(bus)


MODELS = """
import os
import mltrigger as mt

@mt.model("double", version="1.0.0")
def double(n):
    return {"pid": os.getpid(), "twice": 2 * n}

@mt.model("reader", version="1.0.0")
def reader(event: mt.Event):
    with event.open() as file:
        return [os.getpid(), file.read().decode()]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of models."""
    (tmp_path / "aws_models.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("aws_models", None)


def test_worker_delivers_with_endpoint_and_credentials_of_its_environment(
    aws: Account, home: Path
) -> None:
    import aws_models  # type: ignore[import-not-found]

    bus = aws.bus("sqlite:///mltrigger.db")
    sub = bus.subscribe("numbers", aws_models.double, listen=False)
    bus.publish_batch("numbers", range(5))
    path = os.pathsep.join(
        [str(Path(mt.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": path,
        "AWS_ENDPOINT_URL": aws.emulator.url,
        **{name.upper(): value for name, value in CREDENTIALS.items()},
    }
    command = [sys.executable, "-m", "mltrigger", "worker", "--url", aws.url]
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        assert ended(sub, 5) == ["succeeded"] * 5
    finally:
        worker.terminate()
        said, _ = worker.communicate(timeout=60)

    assert worker.returncode == 0 and "Traceback" not in said, said
    assert sorted(answer["twice"] for answer in answers(sub)) == [0, 2, 4, 6, 8]
    assert {answer["pid"] for answer in answers(sub)} == {worker.pid}
    assert is_balanced(bus)


@announced
def test_model_in_a_process_of_its_own_reads_objects_and_is_told_why_it_cannot(
    aws: Account, home: Path
) -> None:
    import aws_models

    bus, bucket = aws.bus("sqlite:///mltrigger.db"), aws.bucket()
    sub = bus.subscribe(
        f"s3://{bucket}/*",
        aws_models.reader,
        listen=False,
        isolation="process",
        max_attempts=1,
        max_object_mb=1,
    )
    for key, size in (("page", 1), ("gone", 1), ("large", KIB * KIB + 1)):
        aws.s3.put_object(Bucket=bucket, Key=key, Body=b"x" * size)
    aws.s3.delete_object(Bucket=bucket, Key="gone")

    sub.start()

    assert sorted(ended(sub, 3)) == ["dead", "dead", "succeeded"]
    ((pid, text),) = answers(sub)
    assert (pid != os.getpid(), text) == (True, "x")
    assert dict(zip(sub.dead_letters()["subject"], sub.dead_letters()["reason"], strict=True)) == {
        "gone": "object_missing",
        "large": "object_too_large",
    }


# -- AWS does not do as it is asked ----------------------------------------------------------------


def calm(
    bus: mt.EventBus, aws: Account, sub: mt.Subscription, model: Failing, expected: list[str]
) -> None:
    """Check that nothing was lost, nothing ran or ended twice, and the queue is empty at last."""
    assert ended(sub, len(expected)) == ["succeeded"] * len(expected)
    wait_until(lambda: not aws.waiting(queue_of(aws, sub.name)), timeout_s=40)
    assert outcomes(sub) == ["succeeded"] * len(expected)
    assert model.calls == len(expected)
    assert sorted(answers(sub)) == expected
    assert is_balanced(bus)
    assert sub.state == "listening"


@pytest.mark.parametrize(
    ("code", "status"),
    [("RequestThrottled", 400), ("OverLimit", 403), ("InternalError", 500), ("AccessDenied", 403)],
)
def test_receive_that_fails_for_a_while_loses_nothing(aws: Account, code: str, status: int) -> None:
    bus = aws.bus(hooked=True)
    model = Failing(times=0)
    sub = bus.subscribe("documents", model, name="reader", listen=False)
    aws.faults.refuse("ReceiveMessage", code, times=2, status=status)

    sub.start()
    bus.publish_batch("documents", ["a", "b"])

    calm(bus, aws, sub, model, ["a", "b"])


@pytest.mark.parametrize("code", ["InternalError", "ReceiptHandleIsInvalid"])
def test_delete_that_fails_for_some_entries_is_repeated_for_those_and_no_event_runs_again(
    aws: Account, code: str
) -> None:
    """BI-084: what has an outcome is recognised, and deleted, when it comes again."""
    bus = aws.bus(hooked=True)
    model = Failing(times=0)
    sub = bus.subscribe("documents", model, name="reader", listen=False)
    bus.publish_batch("documents", list("abcdef"))
    aws.faults.refuse_entries("DeleteMessageBatch", code, lambda i: i % 2 == 0)

    sub.start()

    calm(bus, aws, sub, model, list("abcdef"))


def test_publish_that_was_applied_and_answered_with_an_error_is_not_delivered_twice(
    aws: Account,
) -> None:
    bus = aws.bus(hooked=True)
    model = Failing(times=0)
    # a copy that comes while the first one runs waits for so long
    sub = bus.subscribe("documents", model, name="reader", lease_s=2.0)
    aws.faults.fail_after("PublishBatch")

    bus.publish_batch("documents", ["a", "b", "c"])

    calm(bus, aws, sub, model, ["a", "b", "c"])
    assert sum(name == "PublishBatch" for name, _ in aws.faults.calls) == 2


def test_entries_that_sns_did_not_take_are_sent_again(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(hooked=True, clock=aws_clock)
    sub = bus.subscribe("documents", echo)
    aws.faults.refuse_one_of_a_publish()

    with pytest.raises(AwsError, match="1 of 3 events on 'documents' were not taken"):
        bus.publish_batch("documents", ["a", "b", "c"])
    aws_clock.advance(s=6)
    bus.broker.upkeep()

    assert ended(sub, 3) == ["succeeded"] * 3
    assert is_balanced(bus)


def test_lease_that_sqs_does_not_extend_lets_the_attempt_end_and_be_recorded(
    aws: Account, gate: Gate
) -> None:
    """BI-085."""

    def read(data: str) -> str:
        gate.wait()
        return data

    bus = aws.bus(hooked=True)
    sub = bus.subscribe("documents", read, lease_s=1.5, timeout_s=60.0)
    for code in (
        "ReceiptHandleIsInvalid",
        "InvalidParameterValue",
        "AWS.SimpleQueueService.MessageNotInflight",
    ):
        aws.faults.refuse_entries("ChangeMessageVisibilityBatch", code)
    aws.faults.refuse("ChangeMessageVisibilityBatch", "AccessDenied", status=403)

    bus.publish("documents", "a")
    assert gate.reached.wait(20)
    wait_until(lambda: len(aws.faults.of("ChangeMessageVisibilityBatch")) >= 4)
    gate.open()

    assert ended(sub) == ["succeeded"]
    assert outcomes(sub) == ["succeeded"]
    wait_until(lambda: not aws.waiting(queue_of(aws, "read")))
    assert is_balanced(bus)


def test_queue_that_is_deleted_while_its_event_runs_costs_no_outcome_and_no_other_subscription(
    aws: Account, gate: Gate
) -> None:
    """BI-086."""

    def read(data: str) -> str:
        gate.wait()
        return data

    bus = aws.bus()
    sub, other = bus.subscribe("documents", read), bus.subscribe("letters", echo)
    bus.publish("documents", "a")
    assert gate.reached.wait(20)

    aws.sqs.delete_queue(QueueUrl=queue_of(aws, "read"))
    gate.open()

    assert ended(sub) == ["succeeded"]
    wait_until(lambda: sub.state.startswith("waiting for the store: "), timeout_s=40)
    assert list(bus.fire("letters", ["b"], progress=False).results()["output"]) == ["b"]
    again = bus.subscribe("documents", read)
    assert list(bus.fire("documents", ["c"], progress=False).results()["output"]) == ["c"]
    assert outcomes(again) == ["succeeded"] * 2
    assert outcomes(other) == ["succeeded"]
    assert is_balanced(bus)


@pytest.mark.parametrize(
    "policy",
    [
        {"priority": "size"},
        {"max_rate_per_s_total": 5.0},
        {"key": "tenant", "max_concurrency_per_key": 2},
    ],
    ids=lambda policy: "-".join(policy),
)
def test_limits_that_sqs_cannot_keep_are_refused_before_anything_is_made(
    aws: Account, policy: dict[str, Any]
) -> None:
    bus = aws.bus()
    with pytest.raises(mt.InvalidPolicy, match=r"cannot hold on aws://"):
        bus.subscribe("documents", lambda text: text, name="reader", **policy)
    assert bus.subscriptions().empty


def test_key_alone_is_taken_and_events_are_delivered(aws: Account) -> None:
    bus = aws.bus()
    sub = bus.subscribe("documents", lambda data: data["n"], name="reader", key="tenant")
    run = bus.fire("documents", [{"tenant": "a", "n": 1}, {"tenant": "b", "n": 2}], progress=False)

    assert sorted(run.results()["output"]) == [1, 2]
    with pytest.raises(mt.InvalidPolicy, match="on aws:// they wait in SQS"):
        sub.depth(by="key")
