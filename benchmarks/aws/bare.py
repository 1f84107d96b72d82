"""The limit: boto3 alone.

Receive ten, hand each body to a function that does nothing, delete the ten in one call; no log, no
objects.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.aws.server import Server, session
from benchmarks.aws.side import say, wait_for_end, wait_for_go
from benchmarks.latency import pace

ALL = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
"""What a receiver of events asks for beside the body."""


def noop(data: Any) -> None:
    """Do nothing: the handler."""


def loop(
    sqs: Any,
    url: str,
    handle: Callable[[Any], object],
    asked: dict[str, Any],
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Receive, handle and delete."""
    while not until():
        messages = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=20, **asked
        ).get("Messages", [])
        for message in messages:
            handle(json.loads(message["Body"]))
        if messages:
            entries = [
                {"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]}
                for i, message in enumerate(messages)
            ]
            answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            assert not answer.get("Failed"), answer["Failed"]


def drain(url: str, threads: int, with_attributes: bool) -> None:
    """Empty the queue, in one loop or in several threads with a client each."""
    clients = [session().client("sqs") for _ in range(threads)]
    asked = ALL if with_attributes else {}
    wait_for_go()
    for sqs in clients:
        threading.Thread(target=loop, args=(sqs, url, noop, asked), daemon=True).start()
    wait_for_end()


def poll(url: str, count: int) -> None:
    """Note how long each of *count* events took from before the call of publish to the handler, in
    milliseconds.
    """
    taken_ms: list[float] = []
    sqs = session().client("sqs")
    wait_for_go()
    loop(
        sqs,
        url,
        lambda data: taken_ms.append((time.monotonic_ns() - data["sent_ns"]) / 1e6),
        ALL,
        lambda: len(taken_ms) >= count,
    )
    say(taken_ms)
    wait_for_end()


def send(topic_arn: str, count: int) -> None:
    """Publish an event now and then, *count* and some before them."""
    sns = session().client("sns")
    wait_for_go()
    pace(lambda data: sns.publish(TopicArn=topic_arn, Message=json.dumps(data)), count)
    say("sent")
    wait_for_end()


def pair(server: Server, name: str) -> tuple[str, str]:
    """Make a topic and a queue that gets its messages as they are; return the ARN of the one and
    the URL of the other.
    """
    sns, sqs = server.client("sns"), server.client("sqs")
    topic, url = (
        sns.create_topic(Name=name)["TopicArn"],
        sqs.create_queue(QueueName=name)["QueueUrl"],
    )
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    sns.subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes={"RawMessageDelivery": "true"}
    )
    return topic, url


def arguments(what: str, *more: object) -> list[str]:
    """Return the command line of a process that calls the function *what*."""
    return ["benchmarks.aws.bare", what, *map(str, more)]


if __name__ == "__main__":
    asked, place, number, *rest = sys.argv[1:]
    if asked == "drain":
        drain(place, int(number), "attributes" in rest)
    else:
        {"poll": poll, "send": send}[asked](place, int(number))
