"""The promise of brokers/base.py, sentence by sentence, on every broker.

A new broker is one line in ``BROKERS``.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from emulators import REGION, Emulator
from shared import wait_until

import mltrigger as mt
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.transport.broker import AwsBroker
from mltrigger.broker import (
    MAX_EVENT_BYTES,
    Broker,
    Delivery,
    Depth,
    Sending,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.event.delay import delayed
from mltrigger.filters import FilterPolicy
from mltrigger.policy import MAX_ABANDONED, SUSPECT, DeliveryPolicy
from mltrigger.reports.audit import audit
from mltrigger.store.broker import SqlBroker
from mltrigger.store.log import Log
from mltrigger.store.opening import store_at
from mltrigger.store.registry import Registry
from mltrigger.store.retention import Retention, prune
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.transaction import Store
from mltrigger.store.unit import Invocation
from mltrigger.store.wake import SocketWakeup, Wakeup
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.invoke import Result

LEASE_S = 30.0


@dataclasses.dataclass
class Side:
    """A broker, and what is needed to look at it from outside.

    ``another`` opens the same queues a second time, as another process would; ``close`` releases
    everything. ``sent`` waits until a service outside was told everything: a database knows it when
    a unit commits, SNS and SQS are told by threads soon afterwards.
    """

    broker: Broker
    log: Log
    registry: Registry
    clock: SimulatedClock
    store: Store
    another: Callable[[], Side]
    close: Callable[[], None]
    sent: Callable[[], None] = lambda: None
    upkeep: Callable[[], None] = lambda: None
    max_event_bytes: int = MAX_EVENT_BYTES
    many: int = 400

    def bind(
        self,
        name: str = "reader",
        topic: str = "documents",
        *,
        from_start: bool = False,
        passing: FilterPolicy | None = None,
        **policy: float,
    ) -> SubscriptionSpec:
        """Bind a subscription and return it as the registry knows it."""
        spec = SubscriptionSpec(
            name,
            topic,
            "ocr:latest",
            DeliveryPolicy(**{"lease_s": LEASE_S, **policy}),
            filter=passing,
        )
        self.broker.bind(spec, from_start)
        found = self.registry.subscription(name)
        assert found is not None
        return found

    def publish(self, *data: object, topic: str = "documents") -> list[str]:
        """Publish events whose id is their data; return the ids."""
        self.broker.publish(topic, [mt.Event(d, id=str(d)) for d in data])
        return [str(d) for d in data]

    def receive(self, spec: SubscriptionSpec, most: int = 100) -> list[Delivery]:
        """Receive until nothing more comes: a broker may lease apart what it suspects of killing
        its worker.
        """
        found: list[Delivery] = []
        while len(found) < most and (more := self.broker.receive(spec, most - len(found))):
            found += more
        return found

    def ids(self, spec: SubscriptionSpec, most: int = 100) -> list[str]:
        """Receive, and return the ids only."""
        return [d.event.id for d in self.receive(spec, most)]

    def settle(self, delivery: Delivery, verdict: str, **details: object) -> list[Delivery]:
        return self.broker.settle([Settlement(delivery, verdict, **details)])  # type: ignore[arg-type]

    def attempts(self, spec: SubscriptionSpec) -> list[tuple[int, str, str | None]]:
        """Return (attempt, outcome, reason) of what has ended, oldest first."""
        return self.log.invocations(
            ["attempt", "outcome", "reason"], subscription_id=spec.id, running=False
        )  # type: ignore[return-value]


def _sql(store: Store, clock: SimulatedClock, wakeup: Wakeup, another: Callable[[], Side]) -> Side:
    registry = Registry(store, clock)
    worker_id = registry.join()

    def close() -> None:
        wakeup.close()
        store.close()

    broker = SqlBroker(store, clock, wakeup, lambda: worker_id)
    return Side(
        broker, Log(store, clock, lambda: worker_id), registry, clock, store, another, close
    )


def memory(_: pytest.FixtureRequest, __: Path, clock: SimulatedClock) -> Side:
    store, wakeup = SqliteStore(None), Wakeup()

    def another() -> Side:
        return _sql(store, clock, wakeup, another)

    return another()


def sqlite(_: pytest.FixtureRequest, file: Path, clock: SimulatedClock) -> Side:
    def another() -> Side:
        store = SqliteStore(file)
        return _sql(store, clock, SocketWakeup(store.location or ""), another)

    return another()


def postgresql(request: pytest.FixtureRequest, _: Path, clock: SimulatedClock) -> Side:
    url = request.getfixturevalue("team")

    def another() -> Side:
        store, wakeup = store_at(url)
        return _sql(store, clock, wakeup, another)

    return another()


def aws(request: pytest.FixtureRequest, file: Path, clock: SimulatedClock) -> Side:
    """SNS, SQS and S3 on moto's server; its time is ahead of the machine's by what the simulated
    clock was advanced.
    """
    emulator: Emulator = request.getfixturevalue("emulator")
    if not emulator.movable:
        request.getfixturevalue("monkeypatch").setattr(SimulatedClock, "advance", _cannot_be_moved)
    start_us = clock.now_us()
    emulator.ahead_s = lambda: (clock.now_us() - start_us) / 1e6
    prefix = emulator.fresh_prefix()
    emulator.client("s3").create_bucket(
        Bucket=f"{prefix}-payloads", CreateBucketConfiguration={"LocationConstraint": REGION}
    )

    def another() -> Side:
        store = SqliteStore(file)
        wakeup = SocketWakeup(store.location or "")
        registry = Registry(store, clock)
        worker_id = registry.join()
        resources = Resources(emulator.clients, prefix)
        broker = AwsBroker(
            emulator.clients,
            resources,
            store,
            registry,
            clock,
            wakeup,
            lambda: worker_id,
            f"{prefix}-payloads",
        )

        def close() -> None:
            broker.close(2.0, 0.0)
            wakeup.close()
            store.close()

        def sent() -> None:
            broker.tell_all(timeout_s=20.0)

        log = Log(store, clock, lambda: worker_id)
        # moto is slow with many
        upkeep = broker.upkeep
        return Side(broker, log, registry, clock, store, another, close, sent, upkeep, many=60)

    return another()


def _cannot_be_moved(_: SimulatedClock, **__: float) -> None:
    pytest.skip("the time of this emulator cannot be moved")


BROKERS: dict[str, Callable[[pytest.FixtureRequest, Path, SimulatedClock], Side]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgresql": postgresql,
    "aws": aws,
}


@pytest.fixture(params=BROKERS)
def side(request: pytest.FixtureRequest, file: Path, clock: SimulatedClock) -> Iterator[Side]:
    side = BROKERS[request.param](request, file, clock)
    yield side
    side.close()


@pytest.fixture
def other(side: Side) -> Iterator[Side]:
    """The same queues, opened a second time."""
    other = side.another()
    yield other
    other.close()


# -- publish ---------------------------------------------------------------------------------------


def test_what_was_published_is_there_for_everybody_who_opens_the_broker(
    side: Side, other: Side
) -> None:
    spec = side.bind()

    side.publish("a", "b")

    assert other.ids(spec) == ["a", "b"]


def test_data_without_an_event_are_published_as_a_new_event(side: Side) -> None:
    spec = side.bind()

    receipts = side.broker.publish("documents", [{"n": 1}, mt.Event("b", id="b"), b"c"])
    receipts += side.broker.publish("documents", ["d", None])

    found = {delivery.event.id: delivery.event for delivery in side.receive(spec)}
    events = [found[receipt.event_id] for receipt in receipts]
    assert [event.data for event in events] == [{"n": 1}, "b", b"c", "d", None]
    for event in (events[0], *events[3:]):
        assert (event.type, event.source) == ("mltrigger.event", "mltrigger")
        assert (event.subject, event.datacontenttype) == (None, None)
        assert event.traceparent
        assert abs((datetime.now(UTC) - event.time).total_seconds()) < 60


def test_event_arrives_as_it_was_published(side: Side) -> None:
    spec = side.bind()
    at = datetime(2026, 11, 23, 9, 30, 0, 125, tzinfo=timezone(timedelta(hours=-8)))
    sent = mt.Event(
        {"pages": [1, 2.5, None, True, "ü"]},
        id="a-1",
        type="document.scanned",
        source="scanner/7",
        subject="letter.png",
        time=at,
        datacontenttype="application/json",
        dataschema="https://example.com/schema",
        extensions={"tenant": "north", "priority": 3, "urgent": True},
    )

    side.broker.publish("documents", [sent])
    (delivery,) = side.receive(spec)

    got = delivery.event
    assert (got.data, got.id, got.type, got.source, got.subject) == (
        sent.data,
        "a-1",
        "document.scanned",
        "scanner/7",
        "letter.png",
    )
    assert (got.datacontenttype, got.dataschema) == (
        "application/json",
        "https://example.com/schema",
    )
    assert got.time == at
    assert {name: got.extensions[name] for name in sent.extensions} == sent.extensions


@pytest.mark.parametrize(
    "data", [None, "", 0, [], {}, "ü\x00", b"", b"\x00\xff", {"a": {"b": [1]}}], ids=repr
)
def test_data_of_every_kind_arrives_unchanged(side: Side, data: object) -> None:
    spec = side.bind()

    side.broker.publish("documents", [mt.Event(data)])
    (delivery,) = side.receive(spec)

    assert delivery.event.data == data
    assert type(delivery.event.data) is type(data)


def test_not_a_number_arrives_as_not_a_number(side: Side) -> None:
    spec = side.bind()

    side.broker.publish("documents", [mt.Event({"score": math.nan})])

    assert math.isnan(side.receive(spec)[0].event.data["score"])


def test_published_event_travels_in_a_trace_and_keeps_the_one_it_came_with(side: Side) -> None:
    spec = side.bind()
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    side.broker.publish(
        "documents",
        [mt.Event(1, id="new"), mt.Event(2, id="traced", extensions={"traceparent": given})],
    )
    traces = {d.event.id: d.event.traceparent for d in side.receive(spec)}

    assert traces["traced"] == given
    assert traces["new"] is not None
    assert traces["new"] != given


def test_receipts_come_in_the_order_of_the_events_and_name_the_subscriptions(side: Side) -> None:
    side.bind("first")
    side.bind("second")

    receipts = side.broker.publish("documents", [mt.Event(i, id=str(i)) for i in range(3)])

    assert [r.event_id for r in receipts] == ["0", "1", "2"]
    assert receipts[0].seq < receipts[1].seq < receipts[2].seq
    assert not any(r.duplicate for r in receipts)
    assert {r.subscriptions for r in receipts} == {("first", "second")}


def test_publishing_the_same_ids_again_adds_nothing(side: Side) -> None:
    spec = side.bind()
    events = [mt.Event(i, id=str(i)) for i in range(3)]
    first = side.broker.publish("documents", events)

    again = side.broker.publish("documents", events)

    assert [r.duplicate for r in again] == [True, True, True]
    assert [r.seq for r in again] == [r.seq for r in first]
    assert side.ids(spec) == ["0", "1", "2"]


def test_publishing_an_event_again_that_was_processed_does_not_deliver_it_again(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.settle(side.receive(spec)[0], "ack")

    side.publish("a")

    assert side.receive(spec) == []


def test_batch_that_repeats_some_ids_adds_only_the_others(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "c")

    receipts = side.broker.publish("documents", [mt.Event(i, id=i) for i in ("a", "b", "c", "d")])

    assert [r.duplicate for r in receipts] == [True, False, True, False]
    assert sorted(side.ids(spec)) == ["a", "b", "c", "d"]


def test_id_that_occurs_twice_in_one_batch_is_delivered_once_with_the_first_data(
    side: Side,
) -> None:
    spec = side.bind()

    with pytest.warns(UserWarning, match="the first stays"):
        receipts = side.broker.publish(
            "documents",
            [mt.Event("first", id="a"), mt.Event("b", id="b"), mt.Event("second", id="a")],
        )

    assert [r.duplicate for r in receipts] == [False, False, True]
    assert receipts[2].seq == receipts[0].seq
    assert [(d.event.id, d.event.data) for d in side.receive(spec)] == [("a", "first"), ("b", "b")]


def test_same_id_from_another_source_or_on_another_topic_is_another_event(side: Side) -> None:
    documents, pages = side.bind("d", "documents"), side.bind("p", "pages")

    side.broker.publish(
        "documents", [mt.Event(1, id="a", source="x"), mt.Event(2, id="a", source="y")]
    )
    side.broker.publish("pages", [mt.Event(3, id="a", source="x")])

    assert [d.event.data for d in side.receive(documents)] == [1, 2]
    assert [d.event.data for d in side.receive(pages)] == [3]


def test_duplicate_receipt_names_only_the_subscriptions_that_the_event_was_delivered_to(
    side: Side,
) -> None:
    side.bind("early")
    side.publish("a")
    late = side.bind("late")

    (receipt,) = side.broker.publish("documents", [mt.Event("a", id="a")])

    assert side.receive(late) == []
    assert receipt.subscriptions == ("early",)


def test_batch_with_one_event_that_cannot_be_published_publishes_nothing(side: Side) -> None:
    spec = side.bind()

    with pytest.raises(mt.NotEncodable):
        side.broker.publish("documents", [mt.Event(1), mt.Event(object()), mt.Event(3)])

    assert side.receive(spec) == []
    assert side.log.events("documents") == []


def test_publish_that_failed_can_be_repeated_with_the_same_ids(side: Side) -> None:
    spec = side.bind()
    with pytest.raises(mt.NotEncodable):
        side.broker.publish("documents", [mt.Event(1, id="a"), mt.Event(object(), id="b")])

    receipts = side.broker.publish("documents", [mt.Event(1, id="a"), mt.Event(2, id="b")])

    assert [r.duplicate for r in receipts] == [False, False]
    assert side.ids(spec) == ["a", "b"]


def test_publishing_nothing_is_nothing(side: Side) -> None:
    side.bind()

    assert side.broker.publish("documents", []) == []


def test_unknown_topic_is_refused_with_the_near_names(side: Side) -> None:
    side.bind(topic="documents")

    with pytest.raises(mt.NotFound, match=r"no topic 'document'; did you mean 'documents'\?"):
        side.broker.publish("document", [mt.Event(1)])


def test_topic_without_a_subscription_keeps_its_events(side: Side) -> None:
    side.registry.topic("documents")

    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])

    assert receipt.subscriptions == ()
    assert side.ids(side.bind(from_start=True)) == ["a"]


def test_subscriptions_of_one_topic_never_know_of_each_other(side: Side) -> None:
    one, two = side.bind("one"), side.bind("two")
    side.publish("a", "b")

    for delivery in side.receive(one):
        side.settle(delivery, "ack")

    assert side.broker.depth(one) == Depth(0, 0, 0, 0, None)
    assert side.ids(two) == ["a", "b"]


def test_event_reaches_the_subscriptions_of_its_topic_only(side: Side) -> None:
    documents, pages = side.bind("d", "documents"), side.bind("p", "pages")

    side.publish("a", topic="documents")

    assert side.receive(pages) == []
    assert side.ids(documents) == ["a"]


def test_event_published_in_a_unit_is_there_when_the_unit_commits(side: Side, other: Side) -> None:
    spec = side.bind()

    with side.log.unit() as unit:
        receipts = side.broker.publish("documents", [mt.Event(1, id="a")], unit)
    side.sent()

    assert [r.event_id for r in receipts] == ["a"]
    assert other.ids(spec) == ["a"]


def test_event_as_large_as_allowed_is_delivered_and_one_byte_more_is_refused(side: Side) -> None:
    spec = side.bind()
    most = b"x" * side.max_event_bytes

    with pytest.raises(mt.EventTooLarge, match="max_event_bytes") as refused:
        side.broker.publish("documents", [mt.Event(1), mt.Event(most + b"x")])
    side.broker.publish("documents", [mt.Event(most)])
    (delivery,) = side.receive(spec)

    assert refused.value.reason == "too_large"
    assert delivery.event.data == most


# -- bind ------------------------------------------------------------------------------------------


def test_new_subscription_gets_what_is_published_from_now_on(side: Side) -> None:
    side.registry.topic("documents")
    side.publish("before")

    spec = side.bind()
    side.publish("after")

    assert side.ids(spec) == ["after"]


def test_binding_again_changes_nothing_and_keeps_the_queue(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "b")
    side.settle(side.receive(spec, 1)[0], "retry", delay_s=0)
    leased = side.receive(spec, 1)

    again = side.bind()
    side.publish("c")

    assert again.id == spec.id
    assert side.broker.depth(again).in_flight == 1
    rest = side.receive(again)
    assert sorted(d.event.id for d in leased + rest) == ["a", "b", "c"]
    assert sorted(d.failures for d in leased + rest) == [0, 0, 1]


def test_rebinding_to_another_version_and_policy_keeps_the_queue(side: Side) -> None:
    spec = side.bind()
    side.publish("a")

    side.broker.bind(
        dataclasses.replace(spec, selector="ocr:2.0.0", policy=DeliveryPolicy(max_attempts=7))
    )

    rebound = side.registry.subscription(spec.name)
    assert rebound is not None
    assert (rebound.id, rebound.selector, rebound.policy.max_attempts) == (spec.id, "ocr:2.0.0", 7)
    assert side.ids(rebound) == ["a"]


def test_new_subscription_from_the_start_gets_the_archive_too(side: Side) -> None:
    side.registry.topic("documents")
    side.registry.topic("pages")
    side.publish("a", "b")
    side.publish("elsewhere", topic="pages")

    spec = side.bind(from_start=True)
    side.publish("c")

    assert side.ids(spec) == ["a", "b", "c"]


def test_binding_from_the_start_again_does_not_repeat_the_archive(side: Side) -> None:
    side.registry.topic("documents")
    side.publish("a")
    spec = side.bind(from_start=True)
    side.settle(side.receive(spec)[0], "ack")

    side.bind(from_start=True)

    assert side.receive(spec) == []


def test_unbound_subscription_gets_nothing_and_ends_what_was_open(side: Side) -> None:
    spec = side.bind()
    side.publish("waiting", "leased")
    (leased,) = side.receive(spec, 1)

    side.broker.unbind(spec.name)
    side.publish("later")

    assert side.receive(spec) == []
    assert side.settle(leased, "ack") == [leased]
    assert side.registry.subscription(spec.name) is None
    assert side.broker.publish("documents", [mt.Event(1)])[0].subscriptions == ()


def test_unbinding_twice_or_a_name_that_never_was_is_nothing(side: Side) -> None:
    spec = side.bind()
    other = side.bind("other")
    side.publish("a")

    side.broker.unbind(spec.name)
    side.broker.unbind(spec.name)
    side.broker.unbind("nobody")

    assert side.ids(other) == ["a"]


def test_subscription_that_is_bound_again_gets_what_is_published_from_then_on(side: Side) -> None:
    spec = side.bind()
    side.publish("forgotten")
    side.broker.unbind(spec.name)

    again = side.bind()
    side.publish("new")

    assert side.ids(again) == ["new"]


def test_subscription_that_is_bound_again_from_the_start_gets_what_it_has_not_ended(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish("ended", "leased", "waiting")
    ended, _leased = side.receive(spec, 2)
    _record_and_settle(side, ended, "succeeded", "ack")
    side.broker.unbind(spec.name)
    side.publish("while it was away")

    again = side.bind(from_start=True)

    assert side.ids(again) == ["leased", "waiting", "while it was away"]


# -- send ------------------------------------------------------------------------------------------


def archived(side: Side, *ids: str) -> list[int]:
    """Publish before anybody listens; return the places in the archive."""
    side.registry.topic("documents")
    return [r.seq for r in side.broker.publish("documents", [mt.Event(i, id=i) for i in ids])]


def test_event_that_is_sent_reaches_one_subscription_only(side: Side) -> None:
    seqs = archived(side, "a", "b")
    one, two = side.bind("one"), side.bind("two")

    side.broker.send(one, seqs[:1])

    assert side.ids(one) == ["a"]
    assert side.receive(two) == []


def test_event_sent_in_a_unit_that_raises_is_not_sent(side: Side) -> None:
    seqs = archived(side, "a")
    spec = side.bind()

    with pytest.raises(ZeroDivisionError), side.log.unit() as unit:
        side.broker.send(spec, seqs, unit)
        raise ZeroDivisionError

    assert side.receive(spec) == []


def test_sending_an_event_that_still_waits_does_not_block_the_subscription(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    side.clock.advance(s=1)

    side.broker.send(spec, [receipt.seq])

    assert "a" in side.ids(spec)
    side.publish("b")
    assert "b" in side.ids(spec)


def test_sending_an_event_that_is_in_flight_does_not_block_the_subscription(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    (leased,) = side.receive(spec)

    side.broker.send(spec, [receipt.seq])
    side.publish("b")

    assert "b" in side.ids(spec)
    assert side.settle(leased, "ack") == []


def test_event_that_is_sent_again_after_it_died_begins_anew_and_its_attempts_go_on(
    side: Side,
) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    (first,) = side.receive(spec)
    _record_and_settle(side, first, "dead", "dead_letter")
    assert [d.event_id for d in side.log.dead_letters(spec.id)] == ["a"]

    assert side.broker.send(spec, [receipt.seq]) == [receipt.seq]
    (again,) = side.receive(spec)

    assert (again.attempt, again.failures, again.abandoned) == (first.attempt + 1, 0, 0)
    assert again.event.extensions["redrive"] == 1
    assert side.log.dead_letters(spec.id) == []
    assert side.settle(first, "ack") == [first]  # fenced
    _record_and_settle(side, again, "succeeded", "ack")
    # one final outcome
    assert [outcome for _, outcome, _ in side.attempts(spec)] == ["failed", "succeeded"]


def test_event_that_succeeded_is_not_sent_again(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    _record_and_settle(side, side.receive(spec)[0], "succeeded", "ack")

    assert side.broker.send(spec, [receipt.seq]) == []
    assert side.receive(spec) == []
    assert [outcome for _, outcome, _ in side.attempts(spec)] == ["succeeded"]


def test_events_are_sent_again_at_a_rate(side: Side) -> None:
    spec = side.bind()
    seqs = [
        r.seq for r in side.broker.publish("documents", [mt.Event(i, id=str(i)) for i in range(5)])
    ]
    for delivery in side.receive(spec):
        _record_and_settle(side, delivery, "dead", "dead_letter")

    side.broker.send(spec, seqs, sending=Sending(rate_per_s=2.0))

    assert len(side.receive(spec)) == 1
    side.clock.advance(s=1.0)
    assert len(side.receive(spec)) == 2
    side.clock.advance(s=1.0)
    assert len(side.receive(spec)) == 2


def test_event_is_sent_again_with_other_data_to_one_subscription_only(side: Side) -> None:
    spec, other = side.bind("one"), side.bind("two")
    (receipt,) = side.broker.publish("documents", [mt.Event({"page": None}, id="a")])
    _record_and_settle(side, side.receive(spec)[0], "dead", "dead_letter")

    side.broker.send(spec, [receipt.seq], sending=Sending(data=b'{"page": 1}'))

    assert [d.event.data for d in side.receive(spec)] == [{"page": 1}]
    assert [d.event.data for d in side.receive(other)] == [{"page": None}]


def test_discarded_dead_letter_stays_dead_and_is_listed_no_more(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    _record_and_settle(side, side.receive(spec)[0], "dead", "dead_letter")

    assert side.broker.discard(spec, [receipt.seq], "a test page") == [receipt.seq]

    assert side.broker.discard(spec, [receipt.seq], "again") == []
    assert side.log.dead_letters(spec.id) == []
    assert side.broker.depth(spec).dead == 0
    assert [outcome for _, outcome, _ in side.attempts(spec)] == ["dead"]


def test_dead_letter_that_died_again_after_a_record_is_left_as_it_is(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish("documents", [mt.Event(1, id="a")])
    _record_and_settle(side, side.receive(spec)[0], "dead", "dead_letter")
    up_to = side.log.newest_row()
    side.broker.send(spec, [receipt.seq])
    _record_and_settle(side, side.receive(spec)[0], "dead", "dead_letter")

    assert side.broker.send(spec, [receipt.seq], sending=Sending(up_to=up_to)) == []
    assert side.broker.discard(spec, [receipt.seq], "a test page", up_to) == []
    assert side.broker.depth(spec).dead == 1

    up_to = side.log.newest_row()
    assert side.broker.send(spec, [receipt.seq], sending=Sending(up_to=up_to)) == [receipt.seq]
    side.broker.cancel(receipt.seq)
    assert side.broker.send(spec, [receipt.seq], sending=Sending(up_to=up_to)) == []


def test_paused_subscription_leases_nothing_until_it_is_resumed(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.broker.pause(spec.name)

    assert side.receive(spec) == other.receive(spec) == []
    assert side.broker.depth(spec).visible == 1

    side.broker.pause(spec.name, False)
    assert other.ids(spec) == ["a"]


def test_lease_of_a_paused_subscription_runs_out_all_the_same(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.receive(spec)
    side.broker.pause(spec.name)

    side.clock.advance(s=LEASE_S + 1)
    side.receive(spec)

    assert side.broker.depth(spec) == Depth(
        visible=1, delayed=0, in_flight=0, dead=0, oldest_s=pytest.approx(LEASE_S + 1)
    )


def test_filter_decides_at_publish_and_receipts_say_so(side: Side) -> None:
    cheap = side.bind(
        "cheap", passing=FilterPolicy.parse({"price": [{"numeric": ["<", 10]}]}, "MessageBody")
    )
    invoices = side.bind("invoices", passing=FilterPolicy.parse({"type": ["invoice"]}))
    everything = side.bind("everything")

    receipts = side.broker.publish(
        "documents",
        [
            mt.Event({"price": 5}, id="a"),
            mt.Event({"price": 50}, id="b", type="invoice"),
            mt.Event(b"\xff", id="c", type="invoice"),
        ],
    )

    assert [r.subscriptions for r in receipts] == [
        ("cheap", "everything"),
        ("invoices", "everything"),
        ("invoices", "everything"),
    ]
    assert side.ids(cheap) == ["a"]
    assert side.ids(invoices) == ["b", "c"]
    assert side.ids(everything) == ["a", "b", "c"]


def test_new_subscription_from_the_start_gets_what_passes_its_filter(side: Side) -> None:
    side.bind("first")
    side.broker.publish("documents", [mt.Event({"page": page}, id=str(page)) for page in range(4)])

    spec = side.bind(
        "second",
        from_start=True,
        passing=FilterPolicy.parse({"page": [{"numeric": [">=", 2]}]}, "MessageBody"),
    )

    assert side.ids(spec) == ["2", "3"]


# -- receive ---------------------------------------------------------------------------------------


def test_delivery_says_when_and_for_the_how_manieth_time(side: Side) -> None:
    spec = side.bind()
    published_us = side.clock.now_us()
    (receipt,) = side.broker.publish("documents", [mt.Event(1)])
    side.clock.advance(s=2)

    (delivery,) = side.receive(spec)

    assert (delivery.seq, delivery.subscription_id) == (receipt.seq, spec.id)
    assert (delivery.attempt, delivery.failures, delivery.abandoned) == (1, 0, 0)
    assert (delivery.published_us, delivery.visible_us, delivery.received_us) == (
        published_us,
        published_us,
        published_us + 2_000_000,
    )


def test_oldest_events_come_first_and_never_more_than_asked_for(side: Side) -> None:
    spec = side.bind()
    for i in range(5):
        side.publish(i)
        side.clock.advance(s=1)

    assert [side.ids(spec, 2), side.ids(spec, 2), side.ids(spec, 2), side.ids(spec, 2)] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
        [],
    ]


def test_lease_hides_an_event_from_everybody(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.receive(spec)

    side.clock.advance(s=LEASE_S - 1)

    assert side.receive(spec) == []
    assert other.receive(spec) == []


def test_event_whose_lease_ran_out_comes_again_with_a_higher_attempt(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)

    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)

    assert second.event == first.event
    assert second.attempt > first.attempt
    assert (second.failures, second.abandoned) == (0, SUSPECT)


def test_event_whose_lease_ran_out_comes_before_those_that_were_published_after_it(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a")
    side.receive(spec)
    side.clock.advance(s=1)
    side.publish("b")

    side.clock.advance(s=LEASE_S + 1)

    assert other.ids(spec, 1) == ["a"]


def test_attempt_that_never_ended_leaves_an_abandoned_row(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.receive(spec)

    side.clock.advance(s=LEASE_S + 1)
    side.receive(spec)

    assert side.attempts(spec) == [(1, "abandoned", "lease_expired")]


def test_event_that_was_abandoned_too_often_alone_is_dead_because_its_worker_died(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish("killer")
    for attempt in range(1, MAX_ABANDONED + 1):
        (delivery,) = side.receive(spec)
        assert (delivery.attempt, delivery.abandoned) == (attempt, attempt - 1)
        assert side.broker.alone(delivery)
        side.clock.advance(s=LEASE_S + 1)

    assert side.receive(spec) == []

    assert side.broker.depth(spec) == Depth(0, 0, 0, 1, None)
    assert side.attempts(spec) == [
        (1, "abandoned", "lease_expired"),
        (2, "abandoned", "lease_expired"),
        (3, "dead", "worker_died"),
    ]
    assert [(d.event_id, d.reason) for d in side.log.dead_letters(spec.id)] == [
        ("killer", "worker_died")
    ]


def test_events_that_were_not_abandoned_stay_alive_beside_one_that_was(side: Side) -> None:
    spec = side.bind()
    side.publish("killer")
    for n in range(MAX_ABANDONED):
        for delivery in side.receive(spec):
            if delivery.event.id == "killer":
                side.broker.alone(delivery)
        side.clock.advance(s=LEASE_S + 1)
        side.publish(f"harmless {n}")

    assert side.ids(spec) == ["harmless 0", "harmless 1", "harmless 2"]


def test_event_that_never_ran_alone_never_dies_of_its_workers_end(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    for attempt in range(1, 3 * MAX_ABANDONED):
        (delivery,) = side.receive(spec)
        assert (delivery.attempt, delivery.abandoned) == (attempt, 0 if attempt == 1 else SUSPECT)
        side.clock.advance(s=LEASE_S + 1)

    assert side.broker.depth(spec).dead == 0


def test_attempt_alone_that_ended_is_not_counted(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.broker.alone(first)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = side.receive(spec)
    side.broker.alone(second)

    side.settle(second, "retry", counts="failure")

    (third,) = side.receive(spec)
    assert (second.abandoned, third.abandoned, third.failures) == (1, 1, 1)


def test_attempt_that_is_alone_no_longer_is_not_counted(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.broker.alone(first)

    side.broker.alone(first, False)
    side.clock.advance(s=LEASE_S + 1)

    assert [d.abandoned for d in side.receive(spec)] == [SUSPECT]


def test_nobody_runs_alone_without_a_lease(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    other.receive(spec)

    assert not side.broker.alone(first)


# -- answers that come after their lease -----------------------------------------------------------


def answered(
    side: Side, delivery: Delivery, verdict: str, outcome: str, **details: object
) -> list[Delivery]:
    """Record an answer as a listener does; return those that count although their lease was lost."""
    settlement = Settlement(delivery, verdict, **details)  # type: ignore[arg-type]
    with side.log.unit() as unit:
        lost = side.broker.settle([settlement], unit)
        counted = side.broker.settle_late([settlement], unit) if lost else []
        outcome = "stale" if lost and not counted else outcome
        unit.record([Invocation(delivery, outcome, None, Result(), None, None, 1)], counted)  # type: ignore[arg-type]
    return counted


def test_late_answer_is_the_outcome_when_nobody_else_works_on_the_event(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)
    other.settle(second, "release")

    assert answered(side, first, "ack", "succeeded") == [first]

    assert other.receive(spec) == []
    assert side.attempts(spec) == [(1, "succeeded", None)]
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)
    assert side.log.tallies()[spec.id] == {"succeeded": 1, "abandoned": 0}


def test_of_two_who_work_on_an_event_only_the_first_answer_counts(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)

    assert answered(side, first, "ack", "succeeded") == [first]
    assert answered(other, second, "dead_letter", "dead") == []

    assert side.attempts(spec) == [(1, "succeeded", None), (2, "stale", None)]
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)
    assert side.log.dead_letters(spec.id) == []


def test_late_answer_changes_nothing_once_there_is_an_outcome(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)
    answered(other, second, "ack", "succeeded")

    assert answered(side, first, "dead_letter", "dead") == []

    assert sorted(side.attempts(spec)) == [(1, "stale", None), (2, "succeeded", None)]


def test_late_failure_is_counted_and_its_attempt_abandoned_no_longer(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.broker.alone(first)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)
    assert second.abandoned == 1

    assert answered(side, first, "retry", "failed", counts="failure") == [first]
    other.settle(second, "release")

    (third,) = other.receive(spec)
    assert (third.failures, third.abandoned) == (1, 0)
    assert side.attempts(spec)[0] == (1, "failed", None)


def test_who_gives_an_event_back_late_has_not_died_with_it(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)
    assert second.abandoned == SUSPECT

    assert answered(side, first, "release", "interrupted") == []
    other.settle(second, "release")

    assert [d.abandoned for d in other.receive(spec)] == [0]


def test_answer_from_before_an_event_was_sent_again_is_none(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (second,) = other.receive(spec)
    answered(other, second, "dead_letter", "dead")
    side.clock.advance(s=1)
    side.broker.send(spec, [first.seq], sending=Sending(data=b"2"))

    assert answered(side, first, "ack", "succeeded") == []

    assert [d.event.data for d in other.receive(spec)] == [2]


def test_receive_without_events_returns_at_once_or_after_the_wait(side: Side) -> None:
    spec = side.bind()

    began = time.monotonic()
    assert side.broker.receive(spec, 10) == []
    assert side.broker.receive(spec, 10, wait_s=0.05) == []

    assert time.monotonic() - began < 5


def test_waiting_receive_returns_when_something_is_published(side: Side, other: Side) -> None:
    spec = side.bind()
    with Waiting(side, spec) as waiting:
        other.publish("a")

    assert [d.event.id for d in waiting.received] == ["a"]


def test_waiting_receive_returns_when_something_is_released(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (held,) = side.receive(spec)
    with Waiting(side, spec) as waiting:
        side.settle(held, "release")

    assert [d.event.id for d in waiting.received] == ["a"]


def test_wake_ends_a_waiting_receive(side: Side) -> None:
    spec = side.bind()
    with Waiting(side, spec, once=True) as waiting:
        wait_until(lambda: side.broker.wake(spec) or not waiting.is_alive())

    assert waiting.received == []


class Waiting(threading.Thread):
    """Receives in a thread of its own until there is something; ``once`` gives up with the first
    receive.
    """

    def __init__(self, side: Side, spec: SubscriptionSpec, once: bool = False) -> None:
        super().__init__(daemon=True)
        self._side, self._spec, self._once = side, spec, once
        self.received: list[Delivery] = []

    def run(self) -> None:
        deadline = time.monotonic() + 20
        while not self.received and time.monotonic() < deadline:
            self.received = self._side.broker.receive(self._spec, 10, wait_s=20)
            if self._once:
                return

    def __enter__(self) -> Waiting:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join(timeout=30)
        assert not self.is_alive()


def test_two_brokers_never_lease_the_same_event_at_once(side: Side, other: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish(*range(side.many))
    received: list[str] = []
    start = threading.Barrier(4)

    def drain(mine: Side) -> None:
        start.wait()
        while deliveries := mine.receive(spec, 7):
            received.extend(d.event.id for d in deliveries)
            # as the listener does it: a queue outside may deliver twice, and the outcome tells
            with mine.log.unit() as unit:
                assert mine.broker.settle([Settlement(d, "ack") for d in deliveries], unit) == []
                unit.record(
                    [
                        Invocation(d, "succeeded", None, Result(output="1"), None, None, 1)
                        for d in deliveries
                    ]
                )

    threads = [threading.Thread(target=drain, args=(mine,)) for mine in (side, side, other, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert sorted(received, key=int) == [str(i) for i in range(side.many)]
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


# -- delays and cancelling -------------------------------------------------------------------------


def test_event_with_a_delay_comes_at_its_time_and_after_a_restart(side: Side) -> None:
    spec = side.bind()
    now_us = side.clock.now_us()
    side.broker.publish("documents", [delayed(mt.Event("late", id="late"), 7200.0, None, now_us)])
    side.publish("now")
    side.sent()

    assert side.ids(spec) == ["now"]
    side.clock.advance(s=7100)
    later = side.another()
    later.upkeep()
    assert "late" not in later.ids(spec)
    later.clock.advance(s=101)
    later.upkeep()

    (delivery,) = [d for d in later.receive(spec) if d.event.id == "late"]
    assert delivery.since_us >= now_us + 7_200_000_000
    later.close()


def test_event_with_a_delay_that_is_published_again_does_not_come_earlier(side: Side) -> None:
    spec = side.bind()
    late = delayed(mt.Event("late", id="late"), 7200.0, None, side.clock.now_us())
    for _ in range(2):
        side.broker.publish("documents", [late])
    side.sent()

    assert side.ids(spec) == []


def test_cancelled_event_never_comes_where_it_has_not_begun(side: Side) -> None:
    begun, waiting = side.bind("begun"), side.bind("waiting")
    side.publish("a")
    (held,) = side.receive(begun)

    assert side.broker.cancel(held.seq) == ["begun"]
    side.sent()

    assert side.ids(waiting) == []
    assert side.attempts(waiting) == [(1, "skipped", "cancelled")]
    assert side.broker.depth(waiting).open == 0
    assert side.settle(held, "ack") == []


def test_event_that_was_leased_and_given_back_has_not_begun_and_is_cancelled(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "b")
    held = side.receive(spec)
    for delivery in held:
        side.settle(delivery, "release")

    assert side.broker.cancel(held[0].seq) == []
    side.sent()

    assert side.ids(spec) == ["b"]
    assert [(outcome, reason) for _, outcome, reason in side.attempts(spec)] == [
        ("skipped", "cancelled")
    ]


def test_cancelled_event_with_a_delay_is_never_sent(side: Side) -> None:
    spec = side.bind()
    (receipt,) = side.broker.publish(
        "documents", [delayed(mt.Event("late", id="late"), 60.0, None, side.clock.now_us())]
    )

    assert side.broker.cancel(receipt.seq) == []
    side.clock.advance(s=70)
    side.upkeep()
    side.sent()

    assert side.ids(spec) == []


# -- extend ----------------------------------------------------------------------------------------


def test_extended_lease_holds_from_now(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a")
    held = side.receive(spec)
    side.clock.advance(s=LEASE_S - 1)

    assert side.broker.extend(held, LEASE_S) == []
    side.sent()
    side.clock.advance(s=LEASE_S - 1)

    assert other.receive(spec) == []
    assert side.settle(held[0], "ack") == []


def test_extend_says_which_leases_were_lost(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("lost", "kept")
    lost, kept = side.receive(spec)
    side.broker.extend([kept], 10 * LEASE_S)
    side.sent()
    side.clock.advance(s=LEASE_S + 1)
    (taken,) = other.receive(spec)

    assert side.broker.extend([lost, kept], LEASE_S) == [lost]
    side.sent()
    side.clock.advance(s=LEASE_S + 1)

    # The extension of the old lease has not prolonged the new one.
    assert [d.event.id for d in other.receive(spec)] == ["lost", "kept"]
    assert taken.event.id == "lost"


def test_extending_nothing_is_nothing(side: Side) -> None:
    assert side.broker.extend([], 1.0) == []


# -- settle ----------------------------------------------------------------------------------------


def test_acked_event_never_comes_again(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (delivery,) = side.receive(spec)

    assert side.settle(delivery, "ack") == []
    side.clock.advance(s=10 * LEASE_S)

    assert side.receive(spec) == []
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


def test_retry_returns_after_its_delay_and_counts_a_failure(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (first,) = side.receive(spec)

    side.settle(first, "retry", delay_s=20)

    side.clock.advance(s=19.9)
    assert side.receive(spec) == []
    side.clock.advance(s=0.1)
    (second,) = side.receive(spec)
    assert second.attempt > first.attempt
    assert (second.failures, second.abandoned) == (1, 0)
    assert second.visible_us == first.received_us + 20_000_000


def test_retry_that_is_not_the_models_fault_counts_no_failure(side: Side) -> None:
    spec = side.bind()
    side.publish("a")

    side.settle(side.receive(spec)[0], "retry", counts="nothing")

    assert side.receive(spec)[0].failures == 0


def test_released_event_is_visible_at_once_as_if_nothing_had_happened(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "b")
    (first,) = side.receive(spec, 1)

    side.settle(first, "release")
    (second,) = side.receive(spec, 1)

    assert second.event == first.event  # not behind the others
    assert second.attempt > first.attempt
    assert (second.failures, second.abandoned) == (0, 0)
    assert side.attempts(spec) == []


def test_dead_letter_is_kept_apart_with_its_reason_and_last_error(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (delivery,) = side.receive(spec)

    side.settle(
        delivery,
        "dead_letter",
        reason="rejected",
        error_type="Reject",
        error="blank page",
        traceback="Traceback …",
    )

    side.clock.advance(s=10 * LEASE_S)
    assert side.receive(spec) == []
    assert side.broker.depth(spec).dead == 1
    (letter,) = side.log.dead_letters(spec.id)
    assert (letter.event_id, letter.reason, letter.attempts) == ("a", "rejected", 1)
    assert (letter.error_type, letter.error, letter.traceback) == (
        "Reject",
        "blank page",
        "Traceback …",
    )
    assert letter.data == b'"a"'


def test_settlements_of_one_call_stand_or_fall_alone(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("lost", "acked", "again", "dead")
    lost, acked, again, dead = side.receive(spec)
    side.broker.extend([acked, again, dead], 10 * LEASE_S)
    side.sent()
    side.clock.advance(s=LEASE_S + 1)
    other.receive(spec)

    settled = side.broker.settle(
        [
            Settlement(lost, "dead_letter"),
            Settlement(acked, "ack"),
            Settlement(again, "retry"),
            Settlement(dead, "dead_letter"),
        ]
    )

    assert settled == [lost]
    assert side.ids(spec) == ["again"]
    assert [d.event_id for d in side.log.dead_letters(spec.id)] == ["dead"]


def test_settling_nothing_is_nothing(side: Side) -> None:
    assert side.broker.settle([]) == []


def test_settling_twice_changes_nothing_the_second_time(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    (delivery,) = side.receive(spec)
    side.settle(delivery, "ack")

    assert side.settle(delivery, "retry") == [delivery]

    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


@pytest.mark.parametrize("verdict", ["ack", "retry", "dead_letter", "release"])
def test_whoever_lost_the_lease_changes_nothing(side: Side, other: Side, verdict: str) -> None:
    spec = side.bind()
    side.publish("a")
    (stale,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (current,) = other.receive(spec)
    before = side.broker.depth(spec)

    assert side.settle(stale, verdict) == [stale]

    assert side.broker.depth(spec) == before
    assert side.receive(spec) == []
    assert other.settle(current, "ack") == []


def test_event_put_back_after_its_lease_ran_out_is_lost_to_its_first_holder(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a")
    (stale,) = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    (current,) = other.receive(spec)
    other.settle(current, "release")

    assert side.settle(stale, "ack") == [stale]

    assert side.ids(spec) == ["a"]


# -- ranges: what is leased together goes its own ways -------------------------------------------------


def test_member_that_was_abandoned_comes_again_alone_and_its_neighbours_had_ended(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a", "b", "c")
    first, left, last = side.receive(spec)
    for delivery in (first, last):
        _record_and_settle(side, delivery, "succeeded", "ack")

    side.clock.advance(s=LEASE_S + 1)
    (again,) = other.receive(spec)

    assert again.event == left.event
    assert again.attempt > left.attempt
    assert (again.failures, again.abandoned) == (0, SUSPECT)
    assert side.settle(left, "ack") == [left]
    assert sorted(o for _, o, _ in side.attempts(spec)) == ["abandoned", "succeeded", "succeeded"]


def test_member_that_is_retried_counts_its_own_failure_and_its_neighbours_none(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b", "c")
    first, middle, last = side.receive(spec)

    _record_and_settle(side, middle, "failed", "retry")
    (again,) = side.receive(spec)

    assert (again.event.id, again.failures) == ("b", 1)
    for delivery in (last, again, first):
        _record_and_settle(side, delivery, "succeeded", "ack")
    assert sorted(o for _, o, _ in side.attempts(spec)) == ["failed", *["succeeded"] * 3]
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


def test_members_that_are_released_come_again_and_the_others_stay_leased(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b", "c", "d")
    first, *middle, last = side.receive(spec)

    for delivery in middle:
        side.settle(delivery, "release")

    assert side.broker.depth(spec).in_flight == 2
    again = side.receive(spec)
    assert sorted(d.event.id for d in again) == ["b", "c"]
    assert {(d.failures, d.abandoned) for d in again} == {(0, 0)}
    assert side.broker.settle([Settlement(d, "ack") for d in (last, *again, first)]) == []
    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


def test_member_that_died_can_be_sent_again_while_its_neighbours_are_leased(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b", "c")
    first, middle, last = side.receive(spec)
    _record_and_settle(side, middle, "dead", "dead_letter")
    assert side.broker.depth(spec) == Depth(0, 0, 2, 1, 0.0)

    assert side.broker.send(spec, [first.seq, middle.seq, last.seq]) == [middle.seq]

    (again,) = side.receive(spec)
    assert (again.event.id, again.event.extensions["redrive"]) == ("b", 1)
    for delivery in (first, again, last):
        _record_and_settle(side, delivery, "succeeded", "ack")
    assert sorted(o for _, o, _ in side.attempts(spec)) == ["failed", *["succeeded"] * 3]


def test_member_whose_lease_was_not_extended_expires_without_its_neighbours(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a", "b", "c", "d")
    held = side.receive(spec)
    kept = [held[0], held[3]]
    assert side.broker.extend(kept, 10 * LEASE_S) == []
    side.sent()

    side.clock.advance(s=LEASE_S + 1)

    assert other.ids(spec) == ["b", "c"]
    assert side.broker.extend(held, LEASE_S) == held[1:3]
    assert side.broker.settle([Settlement(d, "ack") for d in held]) == held[1:3]


def test_lots_that_share_a_claim_extend_their_leases_apart(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish(*"abcdef")
    held = side.receive(spec)
    assert side.broker.extend(held[0::2], 4 * LEASE_S) == []
    assert side.broker.extend(held[1::2], 2 * LEASE_S) == []
    side.sent()

    side.clock.advance(s=2 * LEASE_S + 1)

    assert other.ids(spec) == ["b", "d", "f"]
    assert side.broker.settle([Settlement(d, "ack") for d in held[0::2]]) == []


def test_member_that_kills_its_worker_alone_is_dead_and_its_neighbours_are_not_blamed(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish("a", "killer", "c")
    for _ in range(MAX_ABANDONED):
        for delivery in side.receive(spec):
            if delivery.event.id == "killer":
                assert side.broker.alone(delivery)
        side.clock.advance(s=LEASE_S + 1)

    rest = side.receive(spec)

    assert sorted(d.event.id for d in rest) == ["a", "c"]
    assert {(d.failures, d.abandoned) for d in rest} == {(0, SUSPECT)}
    assert [(d.event_id, d.reason) for d in side.log.dead_letters(spec.id)] == [
        ("killer", "worker_died")
    ]


@pytest.mark.parametrize(("verdict", "outcome"), [("ack", "succeeded"), ("dead_letter", "dead")])
def test_late_answer_for_a_member_ends_it_inside_the_range_of_another(
    side: Side, other: Side, verdict: str, outcome: str
) -> None:
    spec = side.bind()
    side.publish("a", "b", "c")
    old = side.receive(spec)
    side.clock.advance(s=LEASE_S + 1)
    new = other.receive(spec)

    assert answered(side, old[1], verdict, outcome) == [old[1]]

    assert other.broker.settle([Settlement(d, "ack") for d in new]) == [
        d for d in new if d.event.id == "b"
    ]
    assert side.broker.depth(spec).open == 0


def test_late_answer_to_an_event_that_was_unsubscribed_meanwhile_does_not_end_it_twice(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish("a", "b")
    held = next(d for d in side.receive(spec) if d.event.id == "a")
    side.broker.unbind(spec.name)
    again = side.bind(from_start=True)

    assert answered(side, held, "ack", "succeeded") == []

    rest = side.receive(again)
    assert sorted(d.event.id for d in rest) == ["a", "b"]
    for delivery in rest:
        _record_and_settle(side, delivery, "succeeded", "ack")
    assert [b.balanced for b in audit(side.store)] == [True]


def test_range_half_settled_when_its_worker_dies_is_finished_by_another(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish(*range(8))
    held = side.receive(spec)
    for delivery in held[::2]:
        _record_and_settle(side, delivery, "succeeded", "ack")

    side.clock.advance(s=LEASE_S + 1)
    rest = other.receive(spec)
    for delivery in rest:
        _record_and_settle(other, delivery, "succeeded", "ack")

    assert sorted(d.event.id for d in rest) == sorted(d.event.id for d in held[1::2])
    outcomes = [outcome for _, outcome, _ in side.attempts(spec)]
    assert (outcomes.count("succeeded"), outcomes.count("abandoned")) == (8, 4)
    assert [b.balanced for b in audit(side.store)] == [True]


def test_rebinding_while_a_range_is_leased_loses_and_repeats_nothing(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b", "c")
    held = side.receive(spec, 2)

    again = side.bind(from_start=True, lease_s=3600.0)
    side.publish("d")

    rest = side.receive(again)
    assert sorted(d.event.id for d in held + rest) == ["a", "b", "c", "d"]
    assert side.broker.settle([Settlement(d, "ack") for d in held + rest]) == []


def test_unsubscribing_in_the_middle_of_a_range_ends_what_is_left_of_it(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "b", "c", "d")
    held = sorted(side.receive(spec, 3), key=lambda d: d.event.id)
    assert len(held) == 3
    _record_and_settle(side, held[1], "succeeded", "ack")

    side.broker.unbind(spec.name)

    assert side.broker.settle([Settlement(d, "ack") for d in held]) == held
    assert sorted((o, r) for _, o, r in side.attempts(spec)) == [
        *[("skipped", "unsubscribed")] * 3,
        ("succeeded", None),
    ]
    assert [(b.balanced, b.open) for b in audit(side.store)] == [(True, 0)]


def test_pausing_in_the_middle_of_a_range_lets_it_end_and_keeps_the_place(
    side: Side, other: Side
) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b", "c", "d")
    held = side.receive(spec, 2)
    side.broker.pause(spec.name)
    side.settle(held[0], "release")

    assert other.receive(spec) == []
    assert side.settle(held[1], "ack") == []
    side.broker.pause(spec.name, False)

    left = sorted({"a", "b", "c", "d"} - {held[1].event.id})
    assert sorted(other.ids(spec)) == left


def test_retention_deletes_nothing_that_a_range_or_the_slowest_subscription_holds(
    side: Side,
) -> None:
    slow, fast = side.bind("slow", lease_s=3600.0), side.bind("fast", lease_s=3600.0)
    side.publish(*range(6))
    for delivery in side.receive(fast):
        _record_and_settle(side, delivery, "succeeded", "ack")
    side.sent()
    held = sorted(side.receive(slow, 4), key=lambda d: d.seq)
    _record_and_settle(side, held[0], "succeeded", "ack")
    seqs = {d.seq for d in held[1:]} | {held[-1].seq + 1, held[-1].seq + 2}

    prune(side.store, side.clock, Retention(max_events=1))

    assert seqs <= {seq for seq, *_ in side.store.read("SELECT seq FROM event")}
    rest = [*held[1:], *side.receive(slow)]
    assert sorted({d.event.id for d in [held[0], *rest]}) == [str(i) for i in range(6)]
    assert side.broker.settle([Settlement(d, "ack") for d in rest]) == []


def test_two_processes_on_one_cursor_never_share_an_event_and_settle_their_own(
    side: Side, other: Side
) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish(*range(12))

    mine, theirs = side.receive(spec, 5), other.receive(spec, 5)
    rest = side.receive(spec)

    every = [*mine, *theirs, *rest]
    assert sorted(int(d.event.id) for d in every) == list(range(12))
    assert other.broker.settle([Settlement(d, "ack") for d in theirs]) == []
    assert side.broker.settle([Settlement(d, "retry") for d in mine]) == []
    assert sorted(other.ids(spec)) == sorted(d.event.id for d in mine)


def test_ack_ends_all_deliveries_or_none_and_says_so(side: Side, other: Side) -> None:
    """On a service outside it may always refuse: each delivery is settled one by one then."""
    spec = side.bind()
    side.publish("a", "b", "c")
    held = side.receive(spec)
    side.broker.extend([held[0], held[2]], 10 * LEASE_S)
    side.sent()
    side.clock.advance(s=LEASE_S + 1)
    (taken,) = other.receive(spec)

    assert not side.broker.ack(held)

    assert side.broker.depth(spec).in_flight == 3
    if not side.broker.ack([held[0], held[2]]):
        assert side.broker.depth(spec).in_flight == 3
        assert side.broker.settle([Settlement(held[0], "ack"), Settlement(held[2], "ack")]) == []
    assert side.broker.depth(spec).in_flight == 1
    assert not side.broker.ack([held[0]])
    assert other.settle(taken, "ack") == []


def test_ack_in_a_unit_that_raises_ends_nothing(side: Side) -> None:
    spec = side.bind()
    side.publish("a", "b")
    held = side.receive(spec)

    with pytest.raises(ZeroDivisionError), side.log.unit() as unit:
        side.broker.ack(held, unit)
        raise ZeroDivisionError

    assert side.broker.settle([Settlement(d, "ack") for d in held]) == []


def test_ack_of_two_subscriptions_ends_none_if_one_lease_is_lost(side: Side) -> None:
    one, two = side.bind("one"), side.bind("two")
    side.publish("a")
    held = [*side.receive(one), *side.receive(two)]
    side.settle(held[1], "release")

    assert not side.broker.ack(held)

    assert side.settle(held[0], "ack") == []


def test_delivery_that_is_settled_twice_in_one_call_ends_once(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("a", "b")
    first, second = side.receive(spec)

    lost = side.broker.settle([Settlement(first, "ack"), Settlement(first, "retry")])

    assert lost == [first]
    assert side.broker.depth(spec).open == 1
    assert side.settle(second, "ack") == []


# -- unit of work ----------------------------------------------------------------------------------


def _record_and_settle(side: Side, delivery: Delivery, outcome: str, verdict: str) -> None:
    with side.log.unit() as unit:
        side.broker.settle([Settlement(delivery, verdict)], unit)  # type: ignore[arg-type]
        unit.record([_invocation(side, delivery, outcome)])


def _invocation(side: Side, delivery: Delivery, outcome: str) -> Invocation:
    now_us = side.clock.now_us()
    return Invocation(delivery, outcome, None, Result(output="1"), now_us, now_us, 1)  # type: ignore[arg-type]


def test_record_hand_on_and_settle_take_effect_together(side: Side, other: Side) -> None:
    source, sink = side.bind("source", "documents"), side.bind("sink", "pages")
    side.publish("a")
    (delivery,) = side.receive(source)

    with side.log.unit() as unit:
        side.broker.settle([Settlement(delivery, "ack")], unit)
        unit.record([_invocation(side, delivery, "succeeded")])
        side.broker.publish("pages", [mt.Event("page", id="page")], unit)
    side.sent()

    assert other.broker.depth(source) == Depth(0, 0, 0, 0, None)
    assert other.attempts(source) == [(1, "succeeded", None)]
    assert other.ids(sink) == ["page"]


def test_next_events_are_leased_in_the_unit_that_settles_the_last_ones_or_not_at_all(
    side: Side, other: Side
) -> None:
    spec = side.bind()
    side.publish("a", "b")
    (delivery,) = side.broker.receive(spec, 1)

    with side.log.unit() as unit:
        side.broker.settle([Settlement(delivery, "ack")], unit)
        unit.record([_invocation(side, delivery, "succeeded")])
        found = side.broker.receive(spec, 1, unit=unit)
    side.sent()

    assert len(found) == isinstance(side.broker, SqlBroker), "a queue outside is not in the unit"
    assert other.broker.depth(spec).open == 1
    assert [d.attempt for d in found or side.receive(spec)] == [1]
    assert other.ids(spec) == []


def test_unit_that_raises_leases_nothing(side: Side, other: Side) -> None:
    spec = side.bind()
    side.publish("a", "b")
    (delivery,) = side.broker.receive(spec, 1)

    with pytest.raises(ZeroDivisionError), side.log.unit() as unit:
        side.broker.settle([Settlement(delivery, "ack")], unit)
        side.broker.receive(spec, 1, unit=unit)
        raise ZeroDivisionError

    assert side.settle(delivery, "ack") == []
    assert len(other.ids(spec)) == 1


@pytest.mark.parametrize("verdict", ["ack", "retry", "dead_letter", "release"])
def test_unit_that_raises_undoes_record_hand_on_and_settle(
    side: Side, other: Side, verdict: str
) -> None:
    source, sink = side.bind("source", "documents"), side.bind("sink", "pages")
    side.publish("a")
    (delivery,) = side.receive(source)
    before = side.broker.depth(source)

    with pytest.raises(ZeroDivisionError), side.log.unit() as unit:
        side.broker.settle([Settlement(delivery, verdict)], unit)  # type: ignore[arg-type]
        unit.record([_invocation(side, delivery, "succeeded")])
        side.broker.publish("pages", [mt.Event("page", id="page")], unit)
        raise ZeroDivisionError

    assert other.broker.depth(source) == before
    assert other.attempts(source) == []
    assert other.receive(sink) == []
    assert side.log.tallies() == {}
    assert side.settle(delivery, "ack") == []  # the lease is still held


def test_what_shall_follow_the_commit_happens_once_and_never_after_a_failure(side: Side) -> None:
    done: list[str] = []

    with side.log.unit() as unit:
        unit.after_commit(lambda: done.append("committed"))
        assert done == []
    with pytest.raises(ZeroDivisionError), side.log.unit() as unit:
        unit.after_commit(lambda: done.append("undone"))
        raise ZeroDivisionError

    assert done == ["committed"]


# -- depth -----------------------------------------------------------------------------------------


def test_depth_counts_every_event_where_it_is(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish("in flight", "delayed", "dead", "acked")
    side.clock.advance(s=5)
    _, delayed, dead, acked = side.receive(spec)
    side.settle(delayed, "retry", delay_s=100)
    side.settle(dead, "dead_letter")
    side.settle(acked, "ack")
    side.publish("visible", "visible too")
    side.clock.advance(s=1)

    assert side.broker.depth(spec) == Depth(
        visible=2, delayed=1, in_flight=1, dead=1, oldest_s=6.0, next_s=99.0
    )


def test_depth_of_a_subscription_without_events_is_zero(side: Side) -> None:
    spec = side.bind()

    assert side.broker.depth(spec) == Depth(0, 0, 0, 0, None)


def test_dead_and_settled_events_have_no_age(side: Side) -> None:
    spec = side.bind()
    side.publish("a")
    side.settle(side.receive(spec)[0], "dead_letter")
    side.clock.advance(s=60)

    assert side.broker.depth(spec) == Depth(0, 0, 0, 1, None)


def test_events_sent_published_and_settled_always_add_up(side: Side) -> None:
    spec = side.bind(lease_s=3600.0)
    side.publish(*range(30))
    verdicts = ["ack", "retry", "dead_letter", "release"]
    for i, delivery in enumerate(side.receive(spec, 20)):
        side.settle(delivery, verdicts[i % 4], delay_s=60.0)

    depth = side.broker.depth(spec)

    # and five were acked
    assert depth == Depth(visible=15, delayed=5, in_flight=0, dead=5, oldest_s=0.0, next_s=60.0)
