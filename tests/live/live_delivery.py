"""Deliveries: order, repeats, visibility, dead letters, large bodies; and the codes with which SQS
says what we understand by them.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import rig
from rig import Live

import mltrigger as mt
from mltrigger.aws.faults import MISSING, STALE_HANDLE
from mltrigger.aws.transport.polls import Message
from mltrigger.aws.transport.settler import HIDE_CAP_S, visibility_s


def same(data: Any) -> Any:
    return data


MODEL = mt.model(same, version="1.0.0")


def test_the_quickstart(live: Live) -> None:
    with live.bus() as bus:
        subs = [bus.subscribe("documents", MODEL, name=name) for name in ("first", "second")]
        run = bus.fire(
            "documents", [{"n": n} for n in range(50)], progress=False, timeout_s=rig.PATIENCE_S
        )

        assert len(run.results()) == 100
        assert [set(sub.invocations()["outcome"]) for sub in subs] == [{"succeeded"}] * 2
        assert bus.audit()["balanced"].all()
        live.sees(
            f"publish to model start, 50 events: {subs[0].invocations()['queue_ms'].median():.0f}"
            " ms median"
        )


def test_bodies_of_any_kind_come_back_as_they_were(live: Live) -> None:
    samples = [
        "",
        "\x00\x1b\ufffe",
        "ä" * 1000,
        b"\x00\xff",
        None,
        True,
        1.5,
        [1, {"a": "\u2028"}],
        {"deep": [[[]]]},
    ]
    with live.bus() as bus:
        sub = bus.subscribe("documents", mt.model(same, version="1.0.0"))
        receipts = bus.publish_batch("documents", samples)
        assert bus.wait(rig.PATIENCE_S, progress=False)

        assert set(sub.invocations()["event_id"]) == {r.event_id for r in receipts}
        assert set(sub.invocations()["outcome"]) <= {"succeeded"}


def test_a_body_beyond_the_limit_goes_by_the_bucket_and_comes_back(live: Live) -> None:
    bucket = live.bucket()
    with live.bus(bucket=bucket) as bus:
        sub = bus.subscribe("documents", mt.model(len, name="size", version="1.0.0"))
        bus.publish("documents", "x" * 3_000_000)

        assert rig.within(lambda: list(sub.invocations()["output"]) == ["3000000"])


def test_an_event_that_is_published_twice_is_delivered_once(live: Live) -> None:
    with live.bus() as bus:
        sub = bus.subscribe("documents", MODEL, name="reader")
        for _ in range(2):
            bus.publish("documents", 1, id="same", source="/live")
        assert bus.wait(rig.PATIENCE_S, progress=False)
        time.sleep(3)

        assert len(sub.invocations()) == 1
        assert bus.audit()["balanced"].all()


def test_a_failure_is_tried_again_ends_as_a_dead_letter_and_is_redriven(live: Live) -> None:
    def picky(data: Any) -> Any:
        if data == "bad":
            raise ValueError("no")
        return data

    with live.bus() as bus:
        sub = bus.subscribe("documents", mt.model(picky, version="1.0.0"), max_attempts=2)
        bus.publish_batch("documents", ["good", "bad"])
        assert bus.wait(rig.PATIENCE_S, progress=False)
        assert (
            sorted(sub.invocations()["outcome"]) == ["dead", "failed", "succeeded"]
            or len(sub.dead_letters()) == 1
        )

        sub.redrive(data="fine")
        assert bus.wait(rig.PATIENCE_S, progress=False)
        assert len(sub.dead_letters()) == 0


def test_the_order_of_a_group_is_kept_although_one_of_it_fails_at_first(live: Live) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    failed: list[int] = []
    guard = threading.Lock()

    def keep(event: mt.Event) -> None:
        group, number = event.data
        with guard:
            if number == 3 and group == "a" and not failed:
                failed.append(number)
                raise mt.Retry(delay_s=1)
            seen[group].append(number)

    with live.bus() as bus:
        bus.subscribe("orders.fifo", mt.model(keep, version="1.0.0"), max_concurrency=3)
        for number in range(10):
            bus.publish_batch(
                "orders.fifo", [mt.Event([g, number], extensions={"partitionkey": g}) for g in seen]
            )
        assert bus.wait(2 * rig.PATIENCE_S, progress=False)

    assert failed == [3]
    assert seen == {group: list(range(10)) for group in seen}


def test_a_listener_that_dies_gives_its_event_back(live: Live) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        sub = bus.subscribe("documents", MODEL, name="reader", listen=False)
        bus.publish("documents", 1)
        url = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-documents-reader")["QueueUrl"]
        # and nothing more is heard of whoever received it
        assert len(live.received(url, VisibilityTimeout=3)) == 1
        sub.start()

        assert rig.within(lambda: list(sub.invocations()["outcome"]) == ["succeeded"])


def test_what_sqs_moves_to_the_dead_letter_queue_is_taken_over(live: Live) -> None:
    with live.bus(prefix := live.bus_prefix()) as bus:
        sub = bus.subscribe("documents", MODEL, name="reader", listen=False)
        url = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-documents-reader")["QueueUrl"]
        attributes = live.clients.sqs.get_queue_attributes(
            QueueUrl=url, AttributeNames=["RedrivePolicy"]
        )["Attributes"]
        redrive = {**json.loads(attributes["RedrivePolicy"]), "maxReceiveCount": 1}
        live.clients.sqs.set_queue_attributes(
            QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(redrive)}
        )
        # "takes up to 60 seconds for the change to propagate" (API_SetQueueAttributes)
        time.sleep(0 if live.emulator else 60)
        bus.publish("documents", {"a": 1}, id="moved")

        assert len(live.received(url, VisibilityTimeout=1)) == 1
        time.sleep(2)
        live.received(url, wait_s=5)
        broker: Any = bus.broker
        dead = live.clients.sqs.get_queue_url(QueueName=f"{prefix}-documents-reader-dead")[
            "QueueUrl"
        ]

        def moved() -> bool:
            asked = live.clients.sqs.get_queue_attributes(
                QueueUrl=dead, AttributeNames=["ApproximateNumberOfMessages"]
            )
            return bool(asked["Attributes"]["ApproximateNumberOfMessages"] == "1")

        with rig.only_aws("it does not move it, or not on the receive after the last one"):
            assert rig.within(moved, every_s=2.0)
        assert rig.within(lambda: broker.bury(bus.spec("reader")), every_s=2.0) == 1
        assert list(sub.dead_letters()["event_id"]) == ["moved"]


# -- receipt handles and visibility ----------------------------------------------------------------


def hidden(live: Live, queue: str, handle: str, seconds: int) -> str | None:
    return rig.refusal(
        lambda: live.bare("sqs").change_message_visibility(
            QueueUrl=queue, ReceiptHandle=handle, VisibilityTimeout=seconds
        )
    )


def sent_and_received(live: Live, queue: str, **given: Any) -> dict[str, Any]:
    live.clients.sqs.send_message(QueueUrl=queue, MessageBody="x")
    (message,) = live.received(queue, **given)
    return message


def test_nothing_is_hidden_for_more_than_twelve_hours_since_it_was_received(live: Live) -> None:
    queue = live.queue()
    asked_us = int(time.time() * 1e6)
    handle = sent_and_received(live, queue)["ReceiptHandle"]
    time.sleep(3)
    now_us = int(time.time() * 1e6)

    wanted = visibility_s(Message(queue, handle, asked_us, asked_us), now_us + 10**12, now_us)

    assert HIDE_CAP_S - 10 < wanted < HIDE_CAP_S
    with rig.only_aws("it counts from the change, not from the receive"):
        assert hidden(live, queue, handle, HIDE_CAP_S) in STALE_HANDLE
    assert hidden(live, queue, handle, wanted) is None


def test_the_codes_for_a_lease_that_is_lost_are_those_we_know(live: Live) -> None:
    queue = live.queue()
    expired = sent_and_received(live, queue, VisibilityTimeout=1)["ReceiptHandle"]
    time.sleep(3)
    seen = {"expired": hidden(live, queue, expired, 30)}
    (again,) = live.received(queue)
    seen["stale, hide"] = hidden(live, queue, expired, 30)
    live.clients.sqs.delete_message(QueueUrl=queue, ReceiptHandle=again["ReceiptHandle"])
    seen["deleted"] = hidden(live, queue, again["ReceiptHandle"], 30)
    seen["no handle"] = hidden(live, queue, "nonsense", 30)
    seen["delete, no handle"] = rig.refusal(
        lambda: live.bare("sqs").delete_message(QueueUrl=queue, ReceiptHandle="nonsense")
    )
    entries = [{"Id": "a", "ReceiptHandle": "nonsense", "VisibilityTimeout": 30}]
    seen["batch"] = rig.refusal(
        lambda: live.bare("sqs").change_message_visibility_batch(QueueUrl=queue, Entries=entries)
    )

    live.sees(f"codes for lost leases: {seen}")
    with rig.only_aws("its codes are others"):
        assert {code for code in seen.values() if code is not None} <= STALE_HANDLE
        assert seen["no handle"] is not None


def test_what_deleting_with_a_stale_handle_does_is_seen(live: Live) -> None:
    """Documented for standard queues as: it succeeds, and the message might not be deleted."""
    queue = live.queue()
    stale = sent_and_received(live, queue, VisibilityTimeout=1)["ReceiptHandle"]
    time.sleep(2)
    (again,) = live.received(queue, VisibilityTimeout=2)

    said = rig.refusal(lambda: live.bare("sqs").delete_message(QueueUrl=queue, ReceiptHandle=stale))
    time.sleep(3)
    still = live.received(queue, wait_s=5)

    assert again["MessageId"]
    live.sees(
        f"a stale handle deletes: SQS says {said or 'yes'}, and the message is"
        f" {'still there' if still else 'gone'}"
    )


def test_the_code_for_a_queue_that_is_not_there_is_one_we_know(live: Live) -> None:
    url = live.queue()
    missing = url + "-none"

    assert rig.refusal(lambda: live.bare("sqs").receive_message(QueueUrl=missing)) in MISSING
    assert (
        rig.refusal(lambda: live.bare("sqs").get_queue_url(QueueName=missing.rpartition("/")[2]))
        in MISSING
    )


def test_a_call_that_sqs_refuses_for_some_entries_says_for_which(live: Live) -> None:
    queue = live.queue()
    handle = sent_and_received(live, queue)["ReceiptHandle"]

    answer = live.bare("sqs").delete_message_batch(
        QueueUrl=queue,
        Entries=[{"Id": "0", "ReceiptHandle": handle}, {"Id": "1", "ReceiptHandle": "nonsense"}],
    )

    with rig.only_aws("it refuses none, or with another code"):
        assert [each["Id"] for each in answer.get("Failed", ())] == ["1"]
        assert answer["Failed"][0]["Code"] in STALE_HANDLE
        assert answer["Failed"][0]["SenderFault"] is True
