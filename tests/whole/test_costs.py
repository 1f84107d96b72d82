"""Checks of what any sender may send: four times the input costs about four times the time, never
sixteen.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Callable

import pandas as pd
import pytest

import mltrigger as mt
from mltrigger.aws.naming import S3Source
from mltrigger.event import codec
from mltrigger.event.envelopes import Arrival, understand
from mltrigger.filters import FilterPolicy, from_message_attributes
from mltrigger.text import harmless, one_line, redacted, short, visible

pytestmark = pytest.mark.filterwarnings("ignore:.* twice in one object")

Work = Callable[[int], Callable[[], object]]


def growth(work: Work, size: int) -> float:
    """Return how much longer *work* takes for four times *size*; this thread's own time, the best
    of several runs in turn.

    The collector of garbage stands still: a pass over all that earlier tests left would count for
    the larger size alone.
    """

    def spent_s(do: Callable[[], object]) -> float:
        began_s = time.thread_time()
        do()
        return time.thread_time() - began_s

    small, large = work(size), work(4 * size)
    gc.disable()
    try:
        pairs = [(spent_s(small), spent_s(large)) for _ in range(4)]
    finally:
        gc.enable()
    return min(pair[1] for pair in pairs) / max(min(pair[0] for pair in pairs), 1e-6)


def arriving(body: str) -> Callable[[], object]:
    return lambda: understand(Arrival(body, {}, "m-1", "arn:aws:sqs:eu-west-1:123456789012:q"))


def a_key_twice(count: int) -> str:
    return "{" + ",".join(f'"field{n}":null' for n in range(count)) + f',"field{count - 1}":0}}'


def publishing(count: int) -> Callable[[], object]:
    event = mt.Event(a_key_twice(count).encode(), datacontenttype="application/json")

    def publish() -> object:
        with mt.connect("memory://") as bus:
            bus.topic("t")
            return bus.publish("t", event)

    return publish


def refused(call: Callable[[], object], error: type[Exception]) -> Callable[[], object]:
    def do() -> None:
        with pytest.raises(error):
            call()

    return do


LINE = {"kind": "item", "by": {"name": "y"}}
RECORD = {"eventSource": "aws:s3", "s3": {}}
WILDCARD = FilterPolicy.parse({"key": [{"wildcard": "*a*a*a*a*b"}]}, "MessageBody")
LINES = FilterPolicy.parse(
    {
        "lines": {
            "kind": ["fee"],
            "by": {"name": [{"anything-but": ["x"]}]},
            "void": [{"exists": False}],
        }
    },
    "MessageBody",
)
IMAGES = S3Source.parse("s3://scans/*a*a*a*a?[!b]*c.png")

CASES: dict[str, tuple[Work, int]] = {
    "a key twice, published": (publishing, 8_000),
    "a key twice, from a queue": (lambda n: arriving(a_key_twice(n)), 8_000),
    "a key twice in each of many objects": (
        lambda n: arriving("[" + ",".join(['{"a":1,"a":2}'] * n) + "]"),
        4_000,
    ),
    "a key twice in a policy": (
        lambda n: refused(lambda: FilterPolicy.parse(a_key_twice(n)), mt.InvalidFilter),
        2_000,
    ),
    "nearly a number": (
        lambda n: (
            lambda: from_message_attributes({"n": {"Type": "Number", "Value": "1" * n + "x"}})
        ),
        8_000,
    ),
    "a wildcard that nearly matches": (
        lambda n: lambda: WILDCARD.matches_body({"key": "a" * n}),
        40_000,
    ),
    "an array of objects under a filter": (
        lambda n: lambda: LINES.matches_body({"lines": [LINE] * n}),
        2_000,
    ),
    "arrays in arrays under a filter": (
        lambda n: lambda: LINES.matches_body({"lines": [[[LINE] * 10] * 10] * n}),
        40,
    ),
    "a key of S3 that nearly matches": (lambda n: lambda: IMAGES.matches("a" * n), 20_000),
    "records of S3 of which none can be read": (
        lambda n: arriving(json.dumps({"Records": [RECORD] * n})),
        1_000,
    ),
    "text that nearly holds secrets": (
        lambda n: lambda: redacted("eyJaaaaaaaa." * n + "://a:" * n + "password=" * n + "AKIA" * n),
        2_000,
    ),
    "one long word that may be a secret": (
        lambda n: lambda: redacted("key: " + "a" * n + " ://" + "b:" * n + "bearer " + "c." * n),
        5_000,
    ),
    "control characters": (
        lambda n: (
            lambda: (harmless("\x1b" * n), one_line("\r" * n), visible("\x07" * n), short("\n" * n))
        ),
        10_000,
    ),
    "line ends before a formula": (
        lambda n: lambda: mt.to_csv(pd.DataFrame({"a": ["\n\r \xa0" * n + "=1"]})),
        10_000,
    ),
    "a long name above many values": (
        lambda n: lambda: codec.dumps({"k" * n: [0] * n + [math.nan]}),
        50_000,
    ),
    "brackets": (lambda n: refused(lambda: codec.loads("[" * n), mt.InvalidEvent), 10_000),
    "escapes": (lambda n: lambda: codec.loads('"' + "\\u00e9" * n + '"'), 10_000),
}


@pytest.mark.parametrize("case", CASES)
def test_four_times_the_input_takes_about_four_times_as_long(case: str) -> None:
    work, size = CASES[case]

    assert growth(work, size) < 9


def asked_of_many(count: int) -> Callable[[], object]:
    """Return the question of the doctor on a bus with *count* subscriptions, to each of which
    twenty processes listen.
    """
    bus = mt.connect("memory://")
    bus.register(len, name="m", version="1.0.0")
    workers = [bus.registry.join() for _ in range(20)]
    for number in range(count):
        bus.subscribe("t", "m:1.0.0", name=f"s{number}", listen=False)
    with bus._store.transaction() as transaction:
        for spec in bus.registry.subscriptions():
            for worker in workers:
                transaction.execute(
                    "INSERT INTO listener (subscription_id, worker_id) VALUES (:s, :w)",
                    {"s": spec.id, "w": worker},
                )
    bus.doctor()  # imports what it needs
    return bus.doctor


def test_the_doctor_takes_time_in_proportion_to_the_subscriptions() -> None:
    assert growth(asked_of_many, 40) < 8
