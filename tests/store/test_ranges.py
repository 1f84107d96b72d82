"""Ranges of the log: what waits behind a cursor, what is leased together, and what leaves it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import range_child
from audit import rows
from range_child import Process
from shared import wait_until

import mltrigger as mt
from mltrigger.broker import Delivery, Settlement, SubscriptionSpec
from mltrigger.event.delay import delayed
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.reports.audit import Balance, audit
from mltrigger.store.retention import Retention, prune
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.store.unit import Invocation
from mltrigger.store.wake import Wakeup
from mltrigger.store.watch import Watch
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.invoke import Result

LEASE_S = 3_600.0
ODD = FilterPolicy.parse({"type": ["odd"]}, "MessageAttributes")
EVEN = FilterPolicy.parse({"type": ["even"]}, "MessageAttributes")


class Side(Process):
    """A worker with a simulated clock, and short words for it."""

    clock: SimulatedClock

    def bind(
        self,
        name: str = "reader",
        topic: str = "numbers",
        passing: FilterPolicy | None = None,
        from_start: bool = False,
    ) -> SubscriptionSpec:
        policy = DeliveryPolicy(lease_s=LEASE_S)
        spec = SubscriptionSpec(name, topic, "square:latest", policy, filter=passing)
        self.broker.bind(spec, from_start)
        found = self.registry.subscription(name)
        assert found is not None
        return found

    def publish(self, *numbers: int, topic: str = "numbers", later_s: float = 0.0) -> list[int]:
        """Publish events whose id is their number; return their places in the log."""
        now_us = self.clock.now_us()
        events = [
            delayed(mt.Event(n, id=str(n), type="odd" if n % 2 else "even"), later_s, None, now_us)
            for n in numbers
        ]
        return [r.seq for r in self.broker.publish(topic, events)]

    def succeed(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Record and settle; return the deliveries whose lease was lost."""
        with self.log.unit() as unit:
            lost = self.broker.settle([Settlement(d, "ack") for d in deliveries], unit)
            unit.record(
                [
                    Invocation(d, "succeeded", None, Result(), None, None, 1)
                    for d in deliveries
                    if d not in lost
                ]
            )
        return lost

    def drain(self, spec: SubscriptionSpec) -> list[int]:
        """Let all that can be received succeed; return it."""
        found: list[Delivery] = []
        while held := self.broker.receive(spec, 100):
            assert self.succeed(held) == []
            found += held
        return numbers(found)

    def balance(self) -> Balance:
        (balance,) = audit(self.store)
        return balance


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(d.event.id) for d in deliveries]


@pytest.fixture
def side(clock: SimulatedClock) -> Iterator[Side]:
    side = Side(SqliteStore(), clock, Wakeup())
    yield side
    side.store.close()


# -- filters ---------------------------------------------------------------------------------------


def test_filter_that_is_set_decides_about_later_events_only(side: Side) -> None:
    spec = side.bind()
    side.publish(1, 2, 3, 4)
    held = side.broker.receive(spec, 1)

    spec = side.bind(passing=ODD)
    side.publish(5, 6)

    assert side.succeed(held) == []
    assert numbers(held) + side.drain(spec) == [1, 2, 3, 4, 5]
    balance = side.balance()
    assert (balance.balanced, balance.published, balance.filtered) == (True, 6, 1)


def test_filter_that_is_changed_while_events_wait_drops_none_of_them(side: Side) -> None:
    spec = side.bind()
    side.publish(1, 2)
    spec = side.bind(passing=ODD)
    side.publish(3, 4)
    spec = side.bind(passing=EVEN)
    side.publish(5, 6)

    assert side.balance().balanced
    assert side.drain(spec) == [1, 2, 3, 6]
    balance = side.balance()
    assert (balance.balanced, balance.succeeded, balance.filtered) == (True, 4, 2)


def test_filter_that_is_removed_lets_the_cursor_begin_behind_what_was_held_back(
    side: Side,
) -> None:
    spec = side.bind(passing=ODD)
    side.publish(1, 2, 3)
    held = side.broker.receive(spec, 1)
    spec = side.bind()
    side.publish(4, 5)

    assert side.balance().balanced
    assert side.succeed(held) == []
    assert side.drain(spec) == [3, 4, 5]
    balance = side.balance()
    assert (balance.balanced, balance.succeeded, balance.filtered) == (True, 4, 1)


def test_filter_that_is_set_and_removed_again_delivers_each_event_once(side: Side) -> None:
    spec = side.bind()
    side.publish(1, 2)
    for passing in (ODD, None, EVEN, None):
        spec = side.bind(passing=passing)
    side.publish(3, 4)

    assert side.drain(spec) == [1, 2, 3, 4]
    assert side.balance().balanced


# -- delayed and cancelled events ------------------------------------------------------------------


def test_delayed_event_leaves_a_gap_in_the_range_and_comes_at_its_time(side: Side) -> None:
    spec = side.bind()
    side.publish(1)
    side.publish(2, later_s=10.0)
    side.publish(3)

    held = side.broker.receive(spec, 10)
    assert numbers(held) == [1, 3]
    side.clock.advance(s=11)
    late = side.broker.receive(spec, 10)

    assert numbers(late) == [2]
    assert side.succeed([held[0], *late, held[1]]) == []
    assert side.balance().balanced


@pytest.mark.parametrize("how", ["settled first", "settled last", "extended", "given back"])
def test_delayed_event_that_is_leased_beside_a_range_around_it_is_a_lease_of_its_own(
    side: Side, how: str
) -> None:
    spec = side.bind()
    side.publish(1)
    side.publish(2, 3, later_s=10.0)
    side.publish(4)
    side.clock.advance(s=11)
    held = side.broker.receive(spec, 10)
    assert numbers(held) == [1, 4, 2, 3]  # those that wait longest come first
    plain, late = held[:2], held[2:]

    if how == "extended":
        assert side.broker.extend(late, 2 * LEASE_S) == []
        side.clock.advance(s=LEASE_S + 1)
        for n in (1, 4):
            assert numbers(side.broker.receive(spec, 10)) == [n]
        assert side.succeed(held) == plain
        return
    if how == "given back":
        assert side.broker.settle([Settlement(d, "release") for d in late]) == []
        assert side.broker.depth(spec).in_flight == 2
        assert side.succeed(late) == late
        late = side.broker.receive(spec, 10)
        assert numbers(late) == [2, 3]
    first, second = (plain, late) if how == "settled last" else (late, plain)
    assert side.succeed(first) == []
    assert side.succeed(first) == first
    assert side.succeed(second) == []
    assert side.balance().balanced


def test_cancelled_event_ends_behind_one_cursor_and_goes_on_in_the_range_of_another(
    side: Side,
) -> None:
    ahead, behind = side.bind("ahead"), side.bind("behind")
    side.publish(1)
    (seq,) = side.publish(2)
    side.publish(3)
    held = side.broker.receive(ahead, 10)

    assert side.broker.cancel(seq) == ["ahead"]

    assert side.drain(behind) == [1, 3]
    assert side.broker.depth(ahead).in_flight == 3
    assert side.succeed(held) == []
    assert [(b.balanced, b.succeeded, b.skipped) for b in audit(side.store)] == [
        (True, 3, 0),
        (True, 2, 1),
    ]


def test_cancelled_member_of_a_range_comes_back_when_its_lease_runs_out(side: Side) -> None:
    spec = side.bind()
    _, seq, _ = side.publish(1, 2, 3)
    side.broker.receive(spec, 10)
    side.broker.cancel(seq)

    side.clock.advance(s=LEASE_S + 1)

    assert side.drain(spec) == [1, 2, 3]
    assert side.balance().balanced


def test_new_subscription_from_the_start_gets_an_event_that_others_had_cancelled(
    side: Side,
) -> None:
    side.bind("early")
    _, seq, _ = side.publish(1, 2, 3)
    side.broker.cancel(seq)

    late = side.bind("late", from_start=True)

    assert sorted(side.drain(late)) == [1, 2, 3]
    assert all(b.balanced for b in audit(side.store))


# -- other topics, retention, damage ---------------------------------------------------------------


def test_events_of_other_topics_inside_a_range_are_none_of_its_members(side: Side) -> None:
    numbers_, others = side.bind("numbers"), side.bind("others", "others")
    for n in range(6):
        side.publish(n, topic=("numbers", "others")[n % 2])

    held = side.broker.receive(numbers_, 10)

    assert numbers(held) == [0, 2, 4]
    assert (side.broker.depth(numbers_).in_flight, side.broker.depth(others).in_flight) == (3, 0)
    assert side.drain(others) == [1, 3, 5]
    assert side.succeed(held[1:2]) == []
    side.clock.advance(s=LEASE_S + 1)
    assert side.drain(numbers_) == [0, 4]
    assert all(b.balanced for b in audit(side.store))


def test_retention_goes_up_to_the_lowest_cursor_and_keeps_what_a_range_holds(side: Side) -> None:
    fast, slow = side.bind("fast"), side.bind("slow")
    seqs = side.publish(*range(8))
    side.drain(fast)
    side.succeed(side.broker.receive(slow, 2))
    held = side.broker.receive(slow, 3)
    side.succeed(held[1:2])

    pruned = prune(side.store, side.clock, Retention(max_events=1))

    kept = [seq for (seq,) in side.store.read("SELECT seq FROM event ORDER BY seq")]
    assert kept == [seqs[2], seqs[4], *seqs[5:]]
    assert pruned.events == 3
    assert side.succeed([held[0], held[2]]) == []
    assert side.drain(slow) == [5, 6, 7]
    assert all(b.balanced for b in audit(side.store))


def test_range_with_a_damaged_event_is_leased_to_nobody_and_no_attempt_is_lost(side: Side) -> None:
    spec = side.bind()
    _, seq, _ = side.publish(1, 2, 3)
    damage = "UPDATE event SET data = :data WHERE seq = :seq"
    with side.store.transaction() as transaction:
        ((whole,),) = transaction.query("SELECT data FROM event WHERE seq = :seq", {"seq": seq})
        transaction.execute(damage, {"seq": seq, "data": b"\xff{"})

    for _ in range(3):
        with pytest.raises(mt.StoreError, match=f"row {seq} of its table event"):
            side.broker.receive(spec, 10)
    depth = side.broker.depth(spec)
    assert (depth.visible, depth.in_flight) == (3, 0)
    assert side.balance().balanced
    with side.store.transaction() as transaction:
        transaction.execute(damage, {"seq": seq, "data": whole})

    held = side.broker.receive(spec, 10)
    assert [(d.event.id, d.attempt, d.failures, d.abandoned) for d in held] == [
        ("1", 1, 0, 0),
        ("2", 1, 0, 0),
        ("3", 1, 0, 0),
    ]


# -- from the start --------------------------------------------------------------------------------


def test_subscription_that_comes_back_from_the_start_gets_what_it_had_not_answered(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish(1, 2, 3, 4, 5)
    held = side.broker.receive(spec, 4)
    side.succeed(held[1:3])
    side.broker.unbind(spec.name)
    side.publish(6)

    spec = side.bind(from_start=True)
    side.publish(7)

    assert side.succeed(held) == held
    assert side.drain(spec) == [1, 4, 5, 6, 7]
    balance = side.balance()
    assert (balance.balanced, balance.succeeded, balance.skipped) == (True, 7, 0)


def test_answer_from_before_a_subscription_came_back_ends_nothing(side: Side) -> None:
    spec = side.bind()
    side.publish(1)
    (old,) = side.broker.receive(spec, 1)
    side.broker.unbind(spec.name)
    spec = side.bind(from_start=True)

    assert side.broker.settle_late([Settlement(old, "ack")]) == []

    assert side.drain(spec) == [1]
    assert side.balance().balanced


def test_stale_answer_changes_neither_the_reason_nor_the_details_of_what_ended_before(
    side: Side,
) -> None:
    spec = side.bind()
    side.publish(1)
    (old,) = side.broker.receive(spec, 1)
    side.broker.unbind(spec.name)
    error = Result(error_type="ValueError", error="too late", traceback="Traceback …")
    with side.log.unit() as unit:
        unit.record([Invocation(old, "stale", None, error, None, None, 1, "told", "printed")])

    assert side.store.read("SELECT outcome, reason, error, stdout FROM invocation") == [
        ("skipped", "unsubscribed", None, None)
    ]
    assert side.drain(side.bind(from_start=True)) == [1]
    assert side.balance().balanced


def test_answer_that_is_told_twice_after_its_lease_counts_once(side: Side) -> None:
    spec = side.bind()
    side.publish(1)
    (old,) = side.broker.receive(spec, 1)
    side.clock.advance(s=LEASE_S + 1)
    side.broker.receive(spec, 1)
    failed = Settlement(old, "retry")
    for expected in ([old], []):
        with side.log.unit() as unit:
            counted = side.broker.settle_late([failed], unit)
            unit.record(
                [Invocation(old, "failed", None, Result(), None, None, 1)] if counted else [],
                counted,
            )
        assert counted == expected

    side.clock.advance(s=LEASE_S + 1)

    assert [d.failures for d in side.broker.receive(spec, 1)] == [1]


# -- several processes, each with several threads --------------------------------------------------


@pytest.mark.parametrize(
    ("events", "kills", "seed"),
    [
        (400, 3, 1),
        *(pytest.param(4_000, 25, seed, marks=pytest.mark.slow) for seed in (2, 3, 4)),
    ],
)
def test_processes_on_one_cursor_that_are_killed_and_settle_in_pieces_end_each_event_once(
    file: Path,
    start_worker: Callable[[int], subprocess.Popen[str]],
    events: int,
    kills: int,
    seed: int,
) -> None:
    """No lease runs out in an hour, so a process that loses one has shared it with another."""
    chance, mine = random.Random(seed), range_child.of_file(file)
    policy = DeliveryPolicy(lease_s=LEASE_S)
    mine.broker.bind(SubscriptionSpec("reader", "numbers", "square:latest", policy))
    spec = mine.registry.subscription("reader")
    assert spec is not None
    watch = Watch(mine.store, mine.clock, mine.wakeup, mine.living, mine.registry, mine.broker)
    workers = [start_worker(number) for number in range(2)]
    published = 0

    def is_done() -> bool:
        watch.look()
        return mine.broker.depth(spec).open == 0

    for round_ in range(kills):
        while published < events * (round_ + 1) // kills:
            batch = range(published, min(events, published + chance.randint(1, 40)))
            published = batch.stop
            for topic in ("numbers", "others") if chance.random() < 0.2 else ("numbers",):
                mine.registry.topic(topic)
                mine.broker.publish(topic, [mt.Event(n, id=f"{topic} {n}") for n in batch])
        wait_until(lambda: mine.broker.depth(spec).in_flight > 0 or is_done())
        victim = workers.pop(0)
        victim.kill()
        assert victim.communicate(timeout=60)[1] == ""
        workers.append(start_worker(round_ + 2))
        watch.look()
    wait_until(is_done)
    for worker in workers:
        worker.kill()
        assert worker.communicate(timeout=60)[1] == ""

    (balance,) = audit(mine.store)
    assert (balance.balanced, balance.published) == (True, events)
    assert balance.succeeded + balance.dead == events
    assert mine.broker.depth(spec).dead == balance.dead
    tallies = Counter(outcome for (outcome,) in rows(file, "SELECT outcome FROM invocation"))
    assert "stale" not in tallies
    assert mine.log.tallies()[spec.id] == dict(tallies)  # type: ignore[comparison-overlap]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]
    mine.living.close()
    mine.wakeup.close()
    mine.store.close()


@pytest.fixture
def start_worker(file: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Start a process that works on the cursor until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(seed: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, range_child.__file__, str(file), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
