"""What a bus on AWS promises when something goes wrong: regression tests of a review that looked
for lost, stuck and repeated events.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from emulators import REGION, Account
from shared import outcomes, wait_until
from test_aws_bus import (
    answers,
    echo,
    ended,
    is_balanced,
    letters,
    of_group,
    queue_of,
    raw_of,
    size_and_start,
)
from test_aws_function import Context, Mapping

import mltrigger as mt
from mltrigger.aws import lambda_handler
from mltrigger.aws.faults import AwsError
from mltrigger.broker import Settlement
from mltrigger.errors import StoreError
from mltrigger.testing import Failing, SimulatedClock

KIB = 1024
OVERDUE_S = 20 * 60


def send(aws: Account, queue: str, body: Any, **attributes: tuple[str, str]) -> None:
    """Send a message as somebody else would."""
    given = {
        name.replace("_", "-"): {"DataType": kind, "StringValue": value}
        for name, (kind, value) in attributes.items()
    }
    aws.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(body), MessageAttributes=given)


def topic_of(aws: Account, name: str) -> str:
    """Return the ARN of a topic of the bus."""
    return next(arn for arn in aws.topics() if arn.endswith(f"-{name}"))


# -- what is handed on -----------------------------------------------------------------------------


def test_output_that_aws_refuses_is_a_dead_letter_and_the_next_event_is_processed(
    aws: Account,
) -> None:
    def widen(data: int) -> str:
        return "x" * data

    bus = aws.bus()
    sub = bus.subscribe("documents", widen, emit="pages")
    reader = bus.subscribe("pages", size_and_start, name="reader")

    bus.publish_batch("documents", [300 * KIB, 3])

    assert sorted(ended(sub, 2)) == ["dead", "succeeded"]
    assert letters(sub) == {str(300 * KIB): "too_large"}
    assert ended(reader) == ["succeeded"] and answers(reader) == [[3, "x"]]
    assert is_balanced(bus)


def test_output_for_an_ordered_topic_stays_in_the_group_of_its_cause(aws: Account) -> None:
    def group_of(event: mt.Event) -> Any:
        return [event.data, event.extensions["partitionkey"]]

    bus = aws.bus()
    sub = bus.subscribe("documents", echo, emit="pages.fifo")
    reader = bus.subscribe("pages.fifo", group_of, name="reader")

    bus.publish("documents", of_group("a", 1))
    bus.publish("documents", "without a group")

    assert sorted(ended(sub, 2)) == ["dead", "succeeded"]
    assert letters(sub) == {'"without a group"': "missing_group_id"}
    assert ended(reader) == ["succeeded"] and answers(reader) == [["a1", "a"]]


# -- what comes ------------------------------------------------------------------------------------


def test_thirty_events_of_one_message_all_succeed(aws: Account) -> None:
    dead = aws.queue()
    bus, queue = (
        aws.bus(),
        aws.queue(
            RedrivePolicy=json.dumps({"deadLetterTargetArn": aws.arn(dead), "maxReceiveCount": 2})
        ),
    )

    def work(data: int) -> int:
        time.sleep(0.02)  # or a listener may have all of them at once
        return data

    sub = bus.subscribe(queue, work)
    events = [
        {"specversion": "1.0", "id": str(n), "source": "s", "type": "x", "data": n}
        for n in range(30)
    ]

    send(aws, queue, events, content_type=("String", "application/cloudevents-batch+json"))

    assert ended(sub, 30) == ["succeeded"] * 30
    assert sorted(answers(sub)) == list(range(30))
    wait_until(lambda: not aws.waiting(queue))
    assert sub.dead_letters().empty and not aws.waiting(dead) and is_balanced(bus)


def test_attribute_that_no_filter_can_hold_keeps_no_other_message_back(aws: Account) -> None:
    bus, queue = aws.bus(), aws.queue()
    sub = bus.subscribe(queue, echo, listen=False)
    send(aws, queue, 1)
    send(aws, queue, "odd", tags=("String.Array", '["\\ud800"]'))
    send(aws, queue, 2)

    sub.start()

    assert len(ended(sub, 3)) == 3
    assert {1, 2} <= {answer for answer in answers(sub) if isinstance(answer, int)}
    wait_until(lambda: not aws.waiting(queue))
    assert is_balanced(bus)


def notification(message: Any, **changes: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "9b1c2f6e-7f0b-5d5e-a6c0-40a1b8b3a111",
        "TopicArn": f"arn:aws:sns:{REGION}:123456789012:others",
        "Subject": "new page",
        "Message": message,
        "Timestamp": "2026-11-23T09:29:59.800Z",
        **changes,
    }


def test_envelopes_of_any_make_are_understood_or_say_what_is_wrong_with_them(aws: Account) -> None:
    """A byte order mark is no part of the data; what cannot be read is a dead letter with a reason;
    what holds nothing is no invocation.
    """
    bus, queue = aws.bus(), aws.queue()
    sub = bus.subscribe(queue, raw_of, name="reader")
    mark = "\ufeff"
    for body in (
        mark + json.dumps(notification(mark + '{"page": 1}')),
        json.dumps(notification({"page": 2}, MessageId="m-2")),
        '{"Records": []}',
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "scans"}),
        mark,
        '{"n": 1e400}',
    ):
        aws.sqs.send_message(QueueUrl=queue, MessageBody=body)

    wait_until(lambda: len(sub.skipped()) == 2 and len(sub.invocations()) == 4)
    (answer,) = answers(sub)
    assert (answer["data"], answer["subject"]) == ({"page": 1}, "new page")
    assert sorted(sub.dead_letters()["reason"]) == [
        "empty_body",
        "malformed_envelope",
        "number_out_of_range",
    ]
    assert sorted(zip(sub.skipped()["reason"], sub.skipped()["type"], strict=True)) == [
        ("no_records", "mltrigger.empty"),
        ("s3_test_event", "com.amazonaws.s3.TestEvent"),
    ]
    assert (
        set(sub.results()["outcome"]) == {"succeeded", "dead"} == set(sub.invocations()["outcome"])
    )
    assert is_balanced(bus)


def test_a_thousand_bad_records_of_one_message_do_not_keep_it_a_thousand_times(
    aws: Account,
) -> None:
    bus, queue = aws.bus(), aws.queue()
    sub = bus.subscribe(queue, raw_of, name="reader")
    records = [
        {"eventSource": "aws:s3", "s3": {}, "number": n, "pad": "x" * 150} for n in range(1_000)
    ]
    body = json.dumps({"Records": records})
    aws.sqs.send_message(QueueUrl=queue, MessageBody=body)

    wait_until(lambda: sub.depth().dead == 1_000)
    raws = sub.dead_letters()["raw"].tolist()
    assert raws[0] == body.encode()
    assert json.loads(raws[-1]) == records[-1]
    assert sum(map(len, raws)) < 5 * 1024 * 1024
    assert is_balanced(bus)


def test_body_that_s3_does_not_give_out_holds_only_its_own_message_back(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(hooked=True, bucket=aws.bucket(), clock=aws_clock)
    sub = bus.subscribe("documents", size_and_start, listen=False)
    bus.publish_batch("documents", ["x" * 300 * KIB, "a", "b"])
    aws.faults.refuse("GetObject", "AccessDenied", status=403)

    sub.start()
    assert ended(sub, 2) == ["succeeded"] * 2
    assert sorted(answers(sub)) == [[1, "a"], [1, "b"]]
    aws_clock.advance(s=31)

    assert ended(sub, 3) == ["succeeded"] * 3
    assert [300 * KIB, "x"] in answers(sub)
    assert sub.dead_letters().empty and is_balanced(bus)


@pytest.mark.parametrize(
    "key", ["hr/salaries.json", "mltrigger-payloads", "0b1f062c-5246-4672-b0b4-8821884a11e2/../a"]
)
def test_message_cannot_name_any_object_of_the_bucket_as_its_body(aws: Account, key: str) -> None:
    bucket, queue = aws.bucket(), aws.queue()
    bus = aws.bus(bucket=bucket)
    sub = bus.subscribe(queue, echo)
    aws.s3.put_object(Bucket=bucket, Key=key, Body=b'{"boss": 1}')
    where = [
        "software.amazon.payloadoffloading.PayloadS3Pointer",
        {"s3BucketName": bucket, "s3Key": key},
    ]

    send(aws, queue, where, ExtendedPayloadSize=("Number", "11"))

    assert ended(sub) == ["dead"]
    assert letters(sub) == {json.dumps(where): "untrusted_key"}


def test_files_of_a_folder_are_events_of_a_bus_on_aws_too(aws: Account, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.png").write_text("picture")

    def read(event: mt.Event) -> str:
        with event.open() as file:
            return str(file.read(), "utf-8")

    sub = aws.bus().subscribe(f"file://{tmp_path}/*.txt", read)

    assert ended(sub) == ["succeeded"]
    assert answers(sub) == ["text"]


# -- what does not come ----------------------------------------------------------------------------


def test_event_whose_message_is_gone_is_delivered_out_of_the_log(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", echo, listen=False)
    bus.publish("documents", "a")
    aws.sqs.purge_queue(QueueUrl=queue_of(aws, "echo"))
    spec = bus.spec("echo")

    aws_clock.advance(s=OVERDUE_S - 1)
    bus.broker.backlog.reconcile(spec)
    assert bus.broker.receive(spec, 10) == []
    aws_clock.advance(s=2)
    (said,) = bus.doctor().query("check == 'overdue'").itertuples()
    assert said.about == "echo" and "1 event" in said.finding
    bus.broker.backlog.reconcile(spec)
    sub.start()

    assert ended(sub) == ["succeeded"]
    assert answers(sub) == ["a"] and is_balanced(bus)


def test_overdue_event_whose_message_only_waits_is_left_to_its_queue(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", echo, listen=False)
    bus.publish("documents", "a")

    aws_clock.advance(s=OVERDUE_S + 1)
    bus.broker.backlog.reconcile(bus.spec("echo"))
    (delivery,) = bus.broker.receive(bus.spec("echo"), 10)

    assert delivery.message is not None
    assert bus.broker.settle([Settlement(delivery, "ack")]) == []
    wait_until(lambda: not aws.waiting(queue_of(aws, "echo")))
    assert sub.dead_letters().empty


def test_overdue_event_that_later_ones_have_overtaken_is_delivered_while_its_queue_is_never_empty(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    """SNS drops what it judges otherwise than this bus: in a busy queue the event would be open for
    ever.
    """
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", echo, listen=False)
    bus.publish("documents", "dropped")
    aws.sqs.purge_queue(QueueUrl=queue_of(aws, "echo"))
    aws_clock.advance(s=OVERDUE_S + 1)
    bus.publish("documents", "come")
    sub.start()
    wait_until(lambda: outcomes(sub) == ["succeeded"])
    sub.stop()
    bus.publish("documents", "waiting")

    bus.broker.backlog.reconcile(bus.spec("echo"))
    assert sub.depth().visible == 2
    sub.start()

    assert ended(sub, 3) == ["succeeded"] * 3
    assert sorted(answers(sub)) == ["come", "dropped", "waiting"] and is_balanced(bus)


def test_retry_in_two_days_waits_in_the_log_and_not_in_the_queue(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", Failing(times=1, error=mt.Retry(2 * 86_400)), name="reader")
    bus.publish("documents", "a")

    wait_until(lambda: outcomes(sub) == ["failed"] and not aws.waiting(queue_of(aws, "reader")))
    aws_clock.advance(s=2 * 86_400 - 60)
    assert sub.depth().delayed == 1
    aws_clock.advance(s=61)

    assert ended(sub) == ["succeeded"]
    assert outcomes(sub) == ["failed", "succeeded"] and is_balanced(bus)


def test_what_somebody_is_at_work_on_stays_in_the_dead_letter_queue(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", echo, listen=False, lease_s=600.0)
    bus.publish("documents", "a")
    spec, queue, dead = bus.spec("echo"), queue_of(aws, "echo"), queue_of(aws, "echo-dead")
    (found,) = aws.sqs.receive_message(
        QueueUrl=queue, VisibilityTimeout=0, MessageAttributeNames=["All"]
    )["Messages"]
    (delivery,) = wait_until(lambda: bus.broker.receive(spec, 1))
    aws.sqs.send_message(
        QueueUrl=dead, MessageBody=found["Body"], MessageAttributes=found["MessageAttributes"]
    )

    during = bus.broker.bury(spec)
    left = aws.waiting(dead)
    assert bus.broker.settle([Settlement(delivery, "dead_letter", reason="model_error")]) == []
    aws_clock.advance(s=61)

    assert (during, left) == (0, 1)
    assert bus.broker.bury(spec) == 1
    wait_until(lambda: not aws.waiting(dead))
    assert letters(sub) == {'"a"': "model_error"}


# -- several buses ---------------------------------------------------------------------------------


def test_log_of_another_bus_is_refused(aws: Account, file: Path) -> None:
    aws.bus(f"sqlite:///{file}").subscribe("documents", echo, listen=False)
    other = aws.emulator.fresh_prefix()

    with (
        mt.connect(
            f"aws://{REGION}/{other}",
            log=f"sqlite:///{file}",
            endpoint_url=aws.emulator.url,
            session=aws.emulator.session(),
        ) as bus,
        pytest.raises(StoreError, match=f"{REGION}/{aws.prefix}"),
    ):
        bus.subscribe("documents", echo, name="reader", listen=False)


def test_subscriptions_with_and_without_a_queue_share_a_log(aws: Account, file: Path) -> None:
    bus = aws.bus(f"sqlite:///{file}")
    with mt.connect(f"sqlite:///{file}") as local:
        near = local.subscribe("documents", echo, name="near")
        far = bus.subscribe("documents", echo, name="far")

        bus.publish("documents", "from aws")
        local.publish("documents", "from here")

        for sub in (near, far):
            assert ended(sub, 2) == ["succeeded"] * 2
            assert sorted(answers(sub)) == ["from aws", "from here"]
        assert is_balanced(bus) and is_balanced(local)


def test_subscription_that_begins_again_on_another_topic_is_received_from_its_new_queue(
    aws: Account, file: Path
) -> None:
    manager, worker = aws.bus(f"sqlite:///{file}"), aws.bus(f"sqlite:///{file}")
    model = mt.model("reader", version="1.0.0")(echo)
    worker.register(model)
    sub = manager.subscribe("first", model, listen=False)
    worker.listen(worker.spec("reader"))
    manager.publish("first", "a")
    assert ended(sub) == ["succeeded"]

    manager.unsubscribe("reader")
    wait_until(lambda: worker.listener_state("reader") == "stopped")
    again = manager.subscribe("second", model, listen=False)
    worker.listen(worker.spec("reader"))
    manager.publish("second", "b")

    assert ended(again, 2) == ["succeeded"] * 2
    assert answers(again) == ["a", "b"]


def test_message_that_arrives_after_the_end_of_its_subscription_leaves_nothing_open(
    aws: Account, file: Path
) -> None:
    bus, other = aws.bus(f"sqlite:///{file}"), aws.bus(f"sqlite:///{file}")
    bus.subscribe("documents", echo, listen=False)
    spec, queue = bus.spec("echo"), queue_of(aws, "echo")
    aws.sns.publish(TopicArn=topic_of(aws, "documents"), Message='{"a": 1}')
    wait_until(lambda: aws.waiting(queue))

    other.unsubscribe("echo")

    assert bus.broker.receive(spec, 10) == []
    assert bus.audit()["open"].sum() == 0 and is_balanced(bus)
    assert bus.wait(5, progress=False)


# -- what is sent ----------------------------------------------------------------------------------


def test_ordered_event_that_was_refused_is_not_overtaken(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(hooked=True, clock=aws_clock)
    sub = bus.subscribe("orders.fifo", echo)
    aws.faults.refuse_one_of_a_publish()

    with pytest.raises(mt.MltriggerError, match="kept and sent again"):
        bus.publish_batch(
            "orders.fifo", [of_group(group, number) for number in range(7) for group in "ab"]
        )
    bus.publish("orders.fifo", of_group("a", 7))

    assert ended(sub, 15) == ["succeeded"] * 15
    assert [answer for answer in answers(sub) if answer[0] == "a"] == [
        f"a{number}" for number in range(8)
    ]
    assert [answer for answer in answers(sub) if answer[0] == "b"] == [
        f"b{number}" for number in range(7)
    ]
    assert is_balanced(bus)


def test_event_that_waits_for_its_bucket_holds_no_other_back(
    aws: Account, aws_clock: SimulatedClock, file: Path
) -> None:
    bus = aws.bus(f"sqlite:///{file}", bucket=f"{aws.prefix}-gone", clock=aws_clock)
    sub = bus.subscribe("documents", size_and_start)

    with pytest.raises(mt.MltriggerError, match="1 of 3 events"):
        bus.publish_batch("documents", ["x" * 300 * KIB, "a", "b"])
    bus.publish("documents", "c")
    assert ended(sub, 3) == ["succeeded"] * 3
    bus.close(polls_s=0.0)

    again = aws.bus(f"sqlite:///{file}", clock=aws_clock)
    aws_clock.advance(s=10)
    again.broker._outbox._flushed_s = 0.0  # it looks again at most every five real seconds
    again.publish("documents", "d")
    sub = again.subscribe("documents", size_and_start)

    assert ended(sub, 4) == ["succeeded"] * 4
    assert sorted(answers(sub)) == [[1, letter] for letter in "abcd"]


def test_ordered_event_behind_one_that_needs_a_bucket_is_kept_until_there_is_one(
    aws: Account, aws_clock: SimulatedClock, file: Path
) -> None:
    large = mt.Event("x" * 300 * KIB, extensions={"partitionkey": "a"})
    with aws.bus(f"sqlite:///{file}", bucket=f"{aws.prefix}-gone", clock=aws_clock) as first:
        first.subscribe("orders.fifo", size_and_start, listen=False)
        with pytest.raises(AwsError, match="1 of 1 events"):
            first.publish("orders.fifo", large)

    with (
        aws.bus(f"sqlite:///{file}", clock=aws_clock) as second,
        pytest.raises(AwsError, match="to keep the order"),
    ):
        second.publish("orders.fifo", of_group("a", 1))
    aws_clock.advance(s=10)
    third = aws.bus(f"sqlite:///{file}", bucket=aws.bucket(), clock=aws_clock)
    third.broker.upkeep()
    sub = third.subscribe("orders.fifo", size_and_start)

    assert ended(sub, 2) == ["succeeded"] * 2
    assert answers(sub) == [[300 * KIB, "x"], [2, "a"]]


# -- in a function ---------------------------------------------------------------------------------


def test_invocation_that_was_killed_costs_its_event_a_lease_and_no_more(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("documents", echo, listen=False, lease_s=60.0)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "echo")
    records = queue.records(1)
    killed = lambda_handler(sub)
    # the end of the process, after the lease and before the model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mltrigger.delivery.on_call.OnCall.process", _die)
        with pytest.raises(SystemExit):
            killed({"Records": records}, Context(60))

    early = handler({"Records": records}, Context(60))
    aws_clock.advance(s=61)
    late = handler({"Records": records}, Context(60))

    assert [len(answer["batchItemFailures"]) for answer in (early, late)] == [1, 0]
    assert outcomes(sub) == ["abandoned", "succeeded"] and is_balanced(bus)


def _die(*_: Any) -> None:
    raise SystemExit


def test_dead_letter_that_is_sent_again_runs_in_the_next_invocation(aws: Account) -> None:
    bus = aws.bus()
    sub = bus.subscribe(
        "documents", Failing(times=1, error=mt.Reject("not yet")), name="reader", listen=False
    )
    handler, queue = lambda_handler(sub), Mapping(aws, "reader")
    for data in ("a", "b"):
        bus.publish("documents", data)
        records = queue.records(1)
        assert queue.end(records, handler({"Records": records}, Context(60))) == []
        if data == "a":
            assert sub.redrive() == 1

    assert outcomes(sub).count("succeeded") == 2 and sorted(answers(sub)) == ["a", "b"]
    assert sub.dead_letters().empty and is_balanced(bus)


def test_function_refuses_to_give_events_up_before_they_have_run(aws: Account) -> None:
    sub = aws.bus().subscribe("documents", echo, listen=False, ack="accepted")

    with pytest.raises(mt.InvalidModel, match="ack='completed'"):
        lambda_handler(sub)


def test_output_is_on_its_way_when_the_function_returns(aws: Account) -> None:
    bus = aws.bus()
    bus.subscribe("pages", echo, name="reader", listen=False)
    sub = bus.subscribe("documents", raw_of, emit="pages", listen=False)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "raw_of")
    records = queue.records(1)

    assert handler({"Records": records}, Context(60)) == {"batchItemFailures": []}
    assert aws.waiting(queue_of(aws, "reader")) == 1


def test_nothing_of_a_group_overtakes_what_a_function_has_to_try_again(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    seen: list[str] = []

    def read(data: str) -> str:
        seen.append(data)
        if seen == ["a1"]:
            raise mt.Retry(60)
        return data

    bus = aws.bus(clock=aws_clock)
    sub = bus.subscribe("orders.fifo", read, listen=False)
    bus.publish_batch("orders.fifo", [of_group("a", 1), of_group("a", 2), of_group("b", 1)])
    handler, queue = lambda_handler(sub), Mapping(aws, "read")

    left = []
    for pause_s in (5, 61, 0):
        records = queue.records(1)
        left.append(queue.end(records, handler({"Records": records}, Context(60))))
        aws_clock.advance(s=pause_s)
        if not aws.waiting(queue.queue):
            break

    assert left == [["a1", "a2"], ["a1", "a2"], []]
    assert [data for data in seen if data[0] == "a"] == ["a1", "a1", "a2"]
    assert is_balanced(bus)
