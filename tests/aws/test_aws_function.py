"""A subscription inside an AWS Lambda function: what it answers, what it records, and that it
leaves SQS to Lambda.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from emulators import Account
from shared import outcomes, wait_until

import mltrigger as mt
from mltrigger.aws import lambda_handler
from mltrigger.testing import Failing, SimulatedClock

Handler = Callable[..., dict[str, list[dict[str, str]]]]


class Context:
    """What Lambda tells a function about its time."""

    def __init__(self, left_s: float) -> None:
        self._end_s = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return int(1000 * (self._end_s - time.monotonic()))


class Mapping:
    """The event source mapping: receives from the queue, calls the function, and deletes what it
    does not return.
    """

    def __init__(self, aws: Account, name: str) -> None:
        self._sqs = aws.sqs
        self.queue = next(
            url for url in aws.queues() if url.endswith((f"-{name}", f"-{name}.fifo"))
        )
        self._arn = aws.arn(self.queue)

    def records(self, number: int) -> list[dict[str, Any]]:
        """Receive *number* messages, as Lambda spells them."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            answer = self._sqs.receive_message(
                QueueUrl=self.queue,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                AttributeNames=["All"],
            )
            found.extend(map(self._record, answer.get("Messages", ())))
            return len(found) >= number

        wait_until(look)
        return found

    def end(
        self, records: Sequence[dict[str, Any]], answer: dict[str, list[dict[str, str]]]
    ) -> list[str]:
        """Delete what the function has not returned, make the rest visible; return the bodies of
        the rest.
        """
        again = {failed["itemIdentifier"] for failed in answer["batchItemFailures"]}
        for record in records:
            if record["messageId"] in again:
                self._sqs.change_message_visibility(
                    QueueUrl=self.queue, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=0
                )
            else:
                self._sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=record["receiptHandle"])
        return [json.loads(record["body"]) for record in records if record["messageId"] in again]

    def _record(self, message: dict[str, Any]) -> dict[str, Any]:
        attributes = {
            name: {
                "dataType": a["DataType"],
                "stringValue": a.get("StringValue"),
                "stringListValues": [],
                "binaryListValues": [],
            }
            for name, a in message.get("MessageAttributes", {}).items()
        }
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": attributes,
            "eventSource": "aws:sqs",
            "eventSourceARN": self._arn,
            "awsRegion": "eu-west-1",
        }


def fail_on_b(data: str) -> str:
    if data.startswith("b"):
        raise ValueError("b")
    return data


def test_only_what_has_to_come_again_is_returned_and_sqs_is_left_to_lambda(aws: Account) -> None:
    bus = aws.bus(hooked=True)
    sub = bus.subscribe("documents", fail_on_b, listen=False)
    bus.publish_batch("documents", ["a", "b", "c"])
    handler, queue = lambda_handler(sub), Mapping(aws, "fail_on_b")
    records = queue.records(3)
    aws.faults.clear()

    answer = handler({"Records": records}, Context(60))

    assert queue.end(records, answer) == ["b"]
    assert sorted(outcomes(sub)) == ["failed", "succeeded", "succeeded"]
    bus.close()
    assert [
        name
        for name, _ in aws.faults.calls
        if name in ("ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
    ] == []


def test_attempts_are_counted_over_invocations_and_what_is_dead_is_not_returned(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    model = Failing(times=100)
    sub = bus.subscribe("documents", model, name="reader", listen=False, max_attempts=2)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "reader")

    left = []
    for _ in range(2):
        records = queue.records(1)
        left.append(queue.end(records, handler({"Records": records})))
        aws_clock.advance(s=10)

    assert left == [["a"], []]
    assert (list(sub.invocations()["attempt"]), outcomes(sub), model.calls) == (
        [1, 2],
        ["failed", "dead"],
        2,
    )
    assert aws.waiting(queue.queue) == 0
    assert list(sub.dead_letters()["attempts"]) == [2]
    assert bus.audit()["balanced"].all()


def test_repeat_is_recognised_and_does_not_run_the_model(aws: Account) -> None:
    bus = aws.bus()
    model = Failing(times=0)
    sub = bus.subscribe("documents", model, name="reader", listen=False)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "reader")
    records = queue.records(1)

    first, second = handler({"Records": records}), handler({"Records": records})
    both = handler({"Records": [*records, *records]})

    assert first == second == both == {"batchItemFailures": []}
    assert (model.calls, outcomes(sub)) == (1, ["succeeded"])


def test_what_comes_before_its_backoff_is_over_is_returned_without_an_attempt(
    aws: Account, aws_clock: SimulatedClock
) -> None:
    bus = aws.bus(clock=aws_clock)
    model = Failing(times=1, error=mt.Retry(delay_s=60))
    sub = bus.subscribe("documents", model, name="reader", listen=False)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "reader")
    records = queue.records(1)
    handler({"Records": records})

    early = handler({"Records": records})
    aws_clock.advance(s=61)
    late = handler({"Records": records})

    assert [len(answer["batchItemFailures"]) for answer in (early, late)] == [1, 0]
    assert model.calls == 2


def test_behind_a_failure_everything_of_its_group_is_returned_and_nothing_of_another(
    aws: Account,
) -> None:
    if not aws.emulator.movable:
        pytest.skip("this emulator may give out one of a group at a time")
    bus = aws.bus()
    sub = bus.subscribe("orders.fifo", fail_on_b, listen=False)
    names = ["a1", "x1", "b2", "x2", "a3"]
    bus.publish_batch(
        "orders.fifo",
        [
            mt.Event(n, extensions={"partitionkey": "other" if n[0] == "x" else "one"})
            for n in names
        ],
    )
    handler, queue = lambda_handler(sub), Mapping(aws, "fail_on_b")
    records = queue.records(5)

    again = queue.end(records, handler({"Records": records}))

    assert again == ["b2", "a3"]
    assert sorted(json.loads(o) for o in sub.invocations()["output"].dropna()) == ["a1", "x1", "x2"]


def test_what_could_not_begin_in_time_is_returned_without_costing_an_attempt(aws: Account) -> None:
    bus = aws.bus()
    seen: list[str] = []

    def read(data: str) -> str:
        seen.append(data)
        if len(seen) == 1:
            wait_until(lambda: context.get_remaining_time_in_millis() < 1500)
        return data

    sub = bus.subscribe("documents", read, listen=False)
    bus.publish_batch("documents", ["a", "b", "c"])
    handler, queue = lambda_handler(sub), Mapping(aws, "read")
    records = queue.records(3)
    context = Context(2.3)

    again = queue.end(records, handler({"Records": records}, context))
    rest = queue.records(2)
    last = queue.end(rest, handler({"Records": rest}, Context(60)))

    assert (len(again), last) == (2, [])
    assert sorted(seen) == ["a", "b", "c"]
    assert [o for o in outcomes(sub) if o == "succeeded"] == ["succeeded"] * 3
    assert "failed" not in outcomes(sub)
    assert bus.audit()["balanced"].all()


def test_what_nobody_understands_is_a_dead_letter_and_is_not_returned(aws: Account) -> None:
    bus, foreign = aws.bus(), aws.queue()
    sub = bus.subscribe(foreign, fail_on_b, listen=False)
    record = {
        "messageId": "0b1f062c-5246-4672-b0b4-8821884a11e2",
        "receiptHandle": "x",
        "body": "no JSON",
        "attributes": {},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": aws.arn(foreign),
    }

    assert lambda_handler(sub)({"Records": [record]}) == {"batchItemFailures": []}
    (letter,) = sub.dead_letters().itertuples()
    assert (letter.reason, letter.raw) == ("malformed_json", b"no JSON")


def test_filter_is_applied_to_what_sns_could_not_filter(aws: Account) -> None:
    bus = aws.bus()
    model = Failing(times=0)
    sub = bus.subscribe(
        "documents",
        model,
        name="reader",
        listen=False,
        filter={"type": [{"equals-ignore-case": "INVOICE"}]},
    )
    bus.publish_batch("documents", [mt.Event(t, type=t) for t in ("invoice", "letter")])
    handler, queue = lambda_handler(sub), Mapping(aws, "reader")
    records = queue.records(2)

    assert queue.end(records, handler({"Records": records})) == []
    assert (model.calls, outcomes(sub)) == (1, ["succeeded"])
    assert list(sub.skipped()["reason"]) == ["filtered"]


def test_wrong_event_or_bus_is_told(aws: Account) -> None:
    bus = aws.bus()
    handler = lambda_handler(bus.subscribe("documents", fail_on_b, listen=False))

    assert handler({"Records": []}) == {"batchItemFailures": []}
    for wrong in ({}, {"Records": [{"eventSource": "aws:s3"}]}, []):
        with pytest.raises(mt.InvalidEvent, match="no event of an SQS queue"):
            handler(wrong)
    with mt.connect("memory://") as other, pytest.raises(mt.InvalidModel, match="aws://"):
        lambda_handler(other.subscribe("documents", fail_on_b, listen=False))


def test_log_that_does_not_answer_fails_the_whole_batch(aws: Account) -> None:
    bus = aws.bus()
    sub = bus.subscribe("documents", fail_on_b, listen=False)
    bus.publish("documents", "a")
    handler, queue = lambda_handler(sub), Mapping(aws, "fail_on_b")
    records = queue.records(1)

    bus.close()

    with pytest.raises(mt.MltriggerError):
        handler({"Records": records})


def test_warm_function_finds_a_canary_and_its_end(aws: Account) -> None:
    def version(number: str) -> mt.Model:
        def ocr(document: str) -> str:
            return number

        return mt.model(ocr, name="ocr", version=number)

    bus = aws.bus()
    sub = bus.subscribe("documents", version("1.0.0"), listen=False)
    handler, queue = lambda_handler(sub), Mapping(aws, "ocr")

    def call() -> None:
        bus.publish("documents", "a")
        records = queue.records(1)
        queue.end(records, handler({"Records": records}, Context(60)))

    call()
    sub.canary(version("2.0.0"), steps=[1.0])
    call()
    sub.rollback()
    call()

    assert sorted(sub.results()["output"]) == ["1.0.0", "1.0.0", "2.0.0"]
