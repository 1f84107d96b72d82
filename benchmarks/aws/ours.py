"""mltrigger on SNS and SQS, with its log in a SQLite file: publishing, emptying a queue, and from
publish to the start of the model.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import mltrigger as mt
from benchmarks.aws.server import REGION, Server, session
from benchmarks.aws.side import say, wait_for_end, wait_for_go
from benchmarks.harness import Counted, payloads
from benchmarks.latency import pace

TOPIC = "documents"
SETTINGS: dict[str, dict[str, Any]] = {
    "batch": {"batch_size": 100},
    "one": {},
    "slots": {"max_concurrency": 4},
}
"""How the subscriptions that are measured are delivered, by their names."""
PUBLISHED = 500
"""Events in one call of ``publish_batch``."""


def connect(prefix: str, log: str) -> mt.EventBus:
    """Open the bus *prefix* on the server of this process, with its log in the file *log*."""
    return mt.connect(
        f"aws://{REGION}/{prefix}",
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        session=session(),
        log=f"sqlite:///{log}",
    )


def model(name: str) -> mt.Model:
    """Return the model of a subscription: it does nothing, in a batch or one event a call."""
    counted = Counted()
    return mt.model("noop", batch=name == "batch")(counted.many if name == "batch" else counted.one)


def publish(prefix: str, log: str, count: int, names: Iterable[str]) -> None:
    """Make the subscriptions *names*, then publish *count* events in batches."""
    with connect(prefix, log) as bus:
        bus.topic(TOPIC)
        for name in names:
            bus.subscribe(TOPIC, model(name), name=name, listen=False, **SETTINGS[name])
        wait_for_go()
        for i in range(0, count, PUBLISHED):
            bus.publish_batch(TOPIC, payloads(count)[i : i + PUBLISHED])
        say("sent")
        wait_for_end()


def drain(prefix: str, log: str, name: str) -> None:
    """Deliver one of the subscriptions."""
    with connect(prefix, log) as bus:
        sub = bus.subscribe(TOPIC, model(name), name=name, listen=False, **SETTINGS[name])
        wait_for_go()
        sub.start()
        wait_for_end()


def poll(prefix: str, log: str, count: int) -> None:
    """Note how long each of *count* events took from before the call of ``publish`` to the model,
    in milliseconds.
    """
    taken_ms: list[float] = []
    enough = threading.Event()

    def arrive(data: Any) -> None:
        taken_ms.append((time.monotonic_ns() - data["sent_ns"]) / 1e6)
        if len(taken_ms) >= count:
            enough.set()

    with connect(prefix, log) as bus:
        sub = bus.subscribe(TOPIC, mt.model("arrivals")(arrive), listen=False)
        wait_for_go()
        sub.start()
        enough.wait()
        say(taken_ms)
        wait_for_end()


def send(prefix: str, log: str, count: int) -> None:
    """Publish an event now and then, *count* and some before them."""
    with connect(prefix, log) as bus:
        bus.topic(TOPIC)
        wait_for_go()
        pace(lambda data: bus.publish(TOPIC, data), count)
        say("sent")
        wait_for_end()


def arguments(what: str, prefix: str, log: str, *more: object) -> list[str]:
    """Return the command line of a process that calls the function *what*."""
    return ["benchmarks.aws.ours", what, prefix, log, *map(str, more)]


def twin(server: Server, prefix: str, name: str) -> str:
    """Subscribe a queue to the topic of the bus, so that it gets the very same messages; return its
    URL.
    """
    url: str = server.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    account = url.rsplit("/", 2)[1]
    server.client("sns").subscribe(
        TopicArn=f"arn:aws:sns:{REGION}:{account}:{prefix}-{TOPIC}",
        Protocol="sqs",
        Endpoint=f"arn:aws:sqs:{REGION}:{account}:{name}",
        Attributes={"RawMessageDelivery": "true"},
    )
    return url


if __name__ == "__main__":
    asked, bus_, log_, *rest = sys.argv[1:]
    if asked == "publish":
        publish(bus_, log_, int(rest[0]), rest[1:])
    elif asked == "drain":
        drain(bus_, log_, rest[0])
    else:
        {"poll": poll, "send": send}[asked](bus_, log_, int(rest[0]))
