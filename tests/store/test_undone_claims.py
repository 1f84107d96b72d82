"""A crash of the database undoes a claim, and the worker that has made it lives on."""

from __future__ import annotations

from typing import Any

import pytest

import mltrigger as mt
from mltrigger.broker import Delivery, Settlement, SubscriptionSpec
from mltrigger.store.lots import By
from mltrigger.store.unit import Invocation
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.invoke import Result

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "filter": {"filter": {"type": [{"exists": True}]}},
    "key": {"key": "tenant", "max_concurrency_per_key": 9},
}
PLACES = ("ready", "keyed", "cursor")


class Worker:
    """Claims, and records what becomes of it, as a listener does."""

    def __init__(self, bus: mt.EventBus, spec: SubscriptionSpec) -> None:
        self.bus, self.spec = bus, spec

    def claim(self) -> Delivery:
        (delivery,) = self.bus.broker.receive(self.spec, 10)
        return delivery

    def claim_undone(self) -> Delivery:
        """Claim, and take that back as a crash does. Numbers of leases go on."""
        of = {"s": self.spec.id}
        sql = "SELECT * FROM {} WHERE subscription_id = :s"
        rows = {place: self.bus._store.read(sql.format(place), of) for place in PLACES}
        delivery = self.claim()
        with self.bus.log.unit() as unit:
            write = unit.transaction.execute
            write("DELETE FROM lease WHERE subscription_id = :s", of)
            next_seq = {"next_seq": rows["cursor"][0][1], **of}
            write("UPDATE cursor SET next_seq = :next_seq WHERE subscription_id = :s", next_seq)
            for place in ("ready", "keyed"):
                for row in rows[place]:
                    given = {chr(97 + n): value for n, value in enumerate(row)}
                    names = ", ".join(f":{name}" for name in given)
                    write(f"INSERT INTO {place} VALUES ({names})", given)
        return delivery

    def end(self, delivery: Delivery, goes_well: bool) -> None:
        settlement = Settlement(delivery, "ack" if goes_well else "retry", counts="failure")
        with self.bus.log.unit() as unit:
            lost = self.bus.broker.settle([settlement], unit)
            counted = self.bus.broker.settle_late([settlement], unit) if lost else []
            outcome = "stale" if lost and not counted else "succeeded" if goes_well else "failed"
            result = Result(output='"ok"') if goes_well else Result(error_type="E", error="no")
            by, now_us = By(None), self.bus._clock.now_us()
            unit.record([Invocation(delivery, outcome, by, result, now_us, now_us, 1)], counted)

    def outcomes(self) -> list[tuple[int, str]]:
        sql = "SELECT attempt, outcome FROM invocation WHERE subscription_id = :s ORDER BY attempt"
        return [tuple(row) for row in self.bus._store.read(sql, {"s": self.spec.id})]  # type: ignore[misc]


@pytest.fixture(params=POLICIES)
def worker(request: pytest.FixtureRequest, bus: mt.EventBus) -> Worker:
    policy = POLICIES[request.param]
    bus.subscribe("work", mt.model("m")(lambda data: data), name="m", listen=False, **policy)
    bus.publish("work", {"tenant": "a"})
    return Worker(bus, bus.spec("m"))


def settled(worker: Worker, clock: SimulatedClock) -> None:
    """End the event, if it is open. Then nothing is missing and nothing there twice."""
    clock.advance(s=5)
    for delivery in worker.bus.broker.receive(worker.spec, 10):
        worker.end(delivery, goes_well=True)
    balance = worker.bus.audit().iloc[0]
    assert (balance["open"], balance["double"], balance["missing"]) == (0, 0, 0)
    assert balance["succeeded"] == 1
    assert balance["balanced"]
    tallied = worker.bus.log.tallies()[worker.spec.id]
    assert sum(tallied.values()) == len(worker.outcomes())


@pytest.mark.parametrize("goes_well", [True, False], ids=["answer", "failure"])
def test_answer_after_its_claim_was_undone_lets_the_event_end_once(
    worker: Worker, clock: SimulatedClock, goes_well: bool
) -> None:
    undone = worker.claim_undone()

    worker.end(undone, goes_well)

    settled(worker, clock)
    assert [outcome for _, outcome in worker.outcomes()] == ["succeeded"]


@pytest.mark.parametrize("goes_well", [True, False], ids=["answer", "failure"])
def test_answer_while_the_event_is_claimed_again_lets_it_end_once(
    worker: Worker, clock: SimulatedClock, goes_well: bool
) -> None:
    undone = worker.claim_undone()
    again = worker.claim()
    assert (again.attempt, again.lease) == (undone.attempt, undone.lease + 1)

    worker.end(undone, goes_well)
    worker.end(again, goes_well=True)

    settled(worker, clock)
    assert worker.outcomes().count((1, "succeeded")) == 1


@pytest.mark.parametrize("goes_well", [True, False], ids=["answer", "failure"])
def test_answer_after_the_event_has_ended_changes_nothing(
    worker: Worker, clock: SimulatedClock, goes_well: bool
) -> None:
    undone = worker.claim_undone()
    worker.end(worker.claim(), goes_well=True)

    worker.end(undone, goes_well)

    settled(worker, clock)
    assert worker.outcomes() == [(1, "succeeded")]


def test_failure_after_another_failure_of_the_same_attempt_does_not_block(
    worker: Worker, clock: SimulatedClock
) -> None:
    undone = worker.claim_undone()
    worker.end(worker.claim(), goes_well=False)

    worker.end(undone, goes_well=False)

    settled(worker, clock)
    assert worker.outcomes() == [(1, "failed"), (2, "succeeded")]
