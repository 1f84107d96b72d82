"""Subscriptions with a key, a priority, or limits that hold in all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until
from stores import SQL, url_of

import mltrigger as mt
from mltrigger.broker import Delivery
from mltrigger.store import pace
from mltrigger.testing import SimulatedClock

Data = dict[str, Any]


@pytest.fixture(params=SQL)
def bus(request: pytest.FixtureRequest, clock: SimulatedClock) -> Iterator[mt.EventBus]:
    with mt.connect(url_of(request), clock=clock) as opened:
        yield opened


def answer(_: Data) -> int:
    return 1


class Line:
    """The deliveries of one subscription, received and settled by hand."""

    def __init__(self, bus: mt.EventBus, **policy: Any) -> None:
        self.bus = bus
        self.sub = bus.subscribe(
            "work", answer, name="line", version="1.0.0", listen=False, **policy
        )

    def take(self, most: int = 1) -> list[Delivery]:
        return list(self.bus.broker.receive(self.bus.spec("line"), most))

    def end(self, deliveries: list[Delivery], verdict: Any = "ack", **how: Any) -> None:
        self.bus.broker.settle([mt_settlement(d, verdict, **how) for d in deliveries])

    def order(self, field: str, most: int = 1) -> list[Any]:
        """Take and end events until none is left. Return a field of each."""
        found = []
        while taken := self.take(most):
            found += [d.event.data.get(field) for d in taken]
            self.end(taken)
        return found


def mt_settlement(delivery: Delivery, verdict: Any, **how: Any) -> Any:
    from mltrigger.broker import Settlement

    return Settlement(delivery, verdict, **how)


def of(tenant: Any, n: int, **more: Any) -> list[Data]:
    return [{"tenant": tenant, "n": i, **more} for i in range(n)]


def tenants(deliveries: list[Delivery]) -> list[Any]:
    return [d.event.data["tenant"] for d in deliveries]


# -- the limit of a key ----------------------------------------------------------------------------


def test_no_more_events_of_a_key_are_leased_than_its_limit(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=2)
    bus.publish_batch("work", [*of("a", 5), *of("b", 1)])

    first = line.take(100)
    assert sorted(tenants(first)) == ["a", "a", "b"]
    assert line.take(100) == []

    line.end(first[:1] if tenants(first)[0] == "a" else first[1:2])
    assert tenants(line.take(100)) == ["a"]


@pytest.mark.parametrize("verdict", ["ack", "retry", "release", "dead_letter"])
def test_each_end_of_a_delivery_frees_its_key(bus: mt.EventBus, verdict: str) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", of("a", 2))
    taken = line.take(10)

    line.end(taken, verdict, delay_s=60.0)

    assert len(line.take(10)) == 1


def test_leases_that_ran_out_no_longer_count(bus: mt.EventBus, clock: SimulatedClock) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1, timeout_s=10)
    bus.publish_batch("work", of("a", 1))
    (lost,) = line.take(10)

    clock.advance(s=21)

    (again,) = line.take(10)
    assert (again.seq, again.attempt) == (lost.seq, 2)


def test_retries_delays_and_redrives_keep_to_the_limit(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", of("a", 3))
    bus.publish("work", {"tenant": "a", "n": 3}, delay_s=5)
    line.end(line.take(10), "dead_letter")
    line.end(line.take(10), "retry", delay_s=5.0)
    line.sub.redrive()
    clock.advance(s=6)

    attempts = []
    while taken := line.take(10):
        assert len(taken) == 1
        assert line.take(10) == []
        attempts.append(taken[0].attempt)
        line.end(taken)

    assert sorted(attempts) == [1, 1, 1, 2]  # by hand no outcome is recorded: a redrive is new


def test_events_without_the_key_share_one(bus: mt.EventBus) -> None:
    line = Line(bus, key="order.tenant", max_concurrency_per_key=1)
    odd: list[Any] = [{"order": {}}, {"order": [1]}, {"order": {"tenant": None}}, "text", 7]
    bus.publish_batch("work", odd)

    assert len(line.take(10)) == 1


def test_numbers_and_texts_are_keys(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", [*of(1, 1), *of("1", 1), *of(1.0, 1), *of(1.5, 1), *of(True, 1)])

    assert len(line.take(10)) == 3


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("subject", {"subject": "b"}),
        ("type", {"type": "com.example.b"}),
        ("source", {"source": "/b"}),
        ("shard", {"extensions": {"shard": "b"}}),
        ("data.type", {"data": {"type": "b"}}),
    ],
)
def test_key_is_an_attribute_or_a_path(bus: mt.EventBus, key: str, other: Data) -> None:
    line = Line(bus, key=key, max_concurrency_per_key=1)
    plain: Data = {"data": {"type": "a"}, "subject": "a", "extensions": {"shard": "a"}}

    bus.publish_batch(
        "work", [mt.Event(**plain), mt.Event(**plain), mt.Event(**{**plain, **other})]
    )

    assert len(line.take(10)) == 2


def test_long_keys_that_begin_alike_are_different(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", [*of("x" * 5_000 + "a", 1), *of("x" * 5_000 + "b", 1)])

    assert len(line.take(10)) == 2


def test_suspect_is_leased_alone_and_the_others_keep_their_places(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    line = Line(bus, key="tenant", timeout_s=10)
    bus.publish_batch("work", [*of("a", 2), *of("b", 2)])
    assert len(line.take(10)) == 4
    clock.advance(s=21)

    alone = [line.take(10) for _ in range(4)]

    assert [len(taken) for taken in alone] == [1, 1, 1, 1]
    assert len({d.seq for taken in alone for d in taken}) == 4


# -- fair shares -----------------------------------------------------------------------------------


def waits(line: Line, clock: SimulatedClock, tenant: str, flood: int, slots: int) -> list[float]:
    """Return how long each of ten events waited. A call takes a second, *slots* run at once."""
    if flood:
        line.bus.publish_batch("work", of("flood", flood))
    running = line.take(slots)
    line.bus.publish_batch("work", of(tenant, 10))
    began_s, waited = clock.now_us() / 1e6, []
    while len(waited) < 10:
        clock.advance(s=1)
        line.end(running)
        running = line.take(slots)
        waited += [clock.now_us() / 1e6 - began_s for d in running if tenants([d]) == [tenant]]
    return waited


@pytest.mark.parametrize("slots", [1, 4])
def test_beside_a_flood_a_key_waits_less_than_twice_as_long_as_alone(
    bus: mt.EventBus, clock: SimulatedClock, slots: int
) -> None:
    line = Line(bus, key="tenant", timeout_s=600)

    alone = waits(line, clock, "small", 0, slots)
    assert line.take(100) == []
    beside = waits(line, clock, "other", 10_000, slots)

    assert sum(beside) < 2 * sum(alone)
    assert max(beside) < 2 * max(alone)


def test_keys_take_turns(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    bus.publish_batch("work", [*of("a", 12), *of("b", 12), *of("c", 12)])

    order = line.order("tenant")

    assert {order.count(t) for t in order} == {12}
    for n in range(12, 24):  # after the first turns
        assert len(set(order[n : n + 3])) == 3


def test_key_that_sends_one_event_at_a_time_does_not_hold_up_a_backlog(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    bus.publish_batch("work", of("a", 40))
    order = []
    for _ in range(40):
        bus.publish("work", {"tenant": "b", "n": 0})
        taken = line.take()
        order += tenants(taken)
        line.end(taken)

    assert order.count("a") >= 18


def test_stream_of_new_keys_does_not_hold_up_a_backlog(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    bus.publish_batch("work", of("a", 10))
    order = []
    for n in range(60):
        bus.publish_batch("work", of(f"new-{n}", 2))
        taken = line.take(2)
        order += tenants(taken)
        line.end(taken)

    assert order.count("a") >= 5


def test_batch_takes_the_same_from_each_key(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    bus.publish_batch("work", [*of("a", 100), *of("b", 100), *of("c", 3)])

    taken = tenants(line.take(43))

    assert taken.count("c") == 3
    assert abs(taken.count("a") - taken.count("b")) <= 2
    assert len(taken) == 43


# -- priority --------------------------------------------------------------------------------------


def test_highest_number_goes_first_and_no_number_last(bus: mt.EventBus) -> None:
    line = Line(bus, priority="job.size")
    sizes = [1, -3, True, 9.5, "8", None, 7, float("nan"), 10**400]
    bus.publish_batch("work", [{"n": n, "job": {"size": size}} for n, size in enumerate(sizes)])

    assert line.order("n") == [3, 6, 0, 1, 2, 4, 5, 7, 8]


def test_events_of_the_same_priority_go_in_their_order(bus: mt.EventBus) -> None:
    line = Line(bus, priority="size")
    bus.publish_batch("work", [{"n": n, "size": 1} for n in range(5)])

    assert line.order("n") == [0, 1, 2, 3, 4]


def test_priority_orders_the_events_of_each_key(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", priority="n")
    bus.publish_batch("work", [*of("a", 20), *of("b", 3)])

    taken = [line.take(), line.take(), line.take()]
    line.end([d for each in taken for d in each])
    rest = line.order("n")

    assert [d.event.data["n"] for each in taken for d in each] == [19, 18, 17]
    assert rest.index(0) < 8  # the last one of b is not behind the backlog of a


def test_age_lifts_an_event_above_a_stream_of_higher_priorities(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    line = Line(bus, priority="size")
    bus.publish_batch("work", [{"n": "old", "size": 1}, {"n": "older", "size": 0}])
    order = []
    for second in range(120):
        bus.publish("work", {"n": second, "size": 1_000_000})
        taken = line.take()
        order += [d.event.data["n"] for d in taken]
        line.end(taken)
        clock.advance(s=1)

    assert "old" not in order[:60]
    assert {"old", "older"} <= set(order[60:72])


# -- the total rate --------------------------------------------------------------------------------


def test_total_rate_allows_one_second_at_once_and_then_the_rate(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    line = Line(bus, max_rate_per_s_total=10)
    bus.publish_batch("work", of("a", 100))

    counts = []
    for _ in range(11):
        counts.append(len(line.take(100)))
        clock.advance(s=0.5)

    assert counts == [10, *[5] * 10]


@pytest.mark.parametrize(
    "policy", [{}, {"key": "tenant"}, {"filter": {"type": [{"exists": True}]}}]
)
def test_total_rate_holds_over_all_connections(
    tmp_path: Path, clock: SimulatedClock, policy: Data
) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    with mt.connect(url, clock=clock) as one, mt.connect(url, clock=clock) as two:
        line = Line(one, max_rate_per_s_total=4, **policy)
        one.publish_batch("work", of("a", 100))
        spec = two.spec("line")

        taken = [len(line.take(3)), len(two.broker.receive(spec, 3)), len(line.take(3))]
        clock.advance(s=1)
        taken.append(len(two.broker.receive(spec, 100)))

    assert taken == [3, 1, 0, 4]


def test_rate_below_one_a_second_lets_one_begin(bus: mt.EventBus, clock: SimulatedClock) -> None:
    line = Line(bus, max_rate_per_s_total=0.1)
    bus.publish_batch("work", of("a", 3))

    counts = []
    for _ in range(21):
        counts.append(len(line.take(100)))
        clock.advance(s=1)

    assert counts == [1, *[0] * 9, 1, *[0] * 9, 1]


def test_faster_rate_holds_at_once_after_a_slow_one(bus: mt.EventBus) -> None:
    slow = Line(bus, max_rate_per_s_total=0.01)
    bus.publish_batch("work", of("a", 50))
    assert len(slow.take(10)) == 1

    fast = Line(bus, max_rate_per_s_total=20)

    assert [len(fast.take(30)) for _ in range(2)] == [20, 0]


def test_clock_that_was_set_back_stops_no_rate_for_long() -> None:
    now_us = 10**15
    spent = pace.Pace(10).spent(10, now_us)
    back_us = now_us - 3_600_000_000

    assert [spent.room(99, now_us - us) for us in (0, 50_000)] == [0, 0], "clocks differ a little"
    assert spent.room(99, back_us) == 10
    assert spent.next_us(back_us) == back_us
    assert spent.spent(10, back_us).room(99, back_us) == 0


def test_listener_waits_for_the_rate_and_goes_on_by_itself(tmp_path: Path) -> None:
    with mt.connect(f"sqlite:///{tmp_path / 'bus.db'}") as bus:
        sub = bus.subscribe("work", answer, name="line", max_rate_per_s_total=20, batch_size=1)
        bus.publish_batch("work", of("a", 30))
        wait_until(lambda: not sub.depth().open)
        began = sub.invocations()["received_at"].sort_values()

    assert (began.iloc[-1] - began.iloc[20]).total_seconds() >= 0.35


# -- binding ---------------------------------------------------------------------------------------


def test_waiting_events_get_the_new_key_when_it_is_changed(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", [{"tenant": "a", "shard": n % 2} for n in range(4)])
    assert len(line.take(10)) == 1

    changed = Line(bus, key="shard", max_concurrency_per_key=1)

    assert len(changed.take(10)) == 2


@pytest.mark.parametrize("later", [{}, {"priority": "n"}, {"max_rate_per_s_total": 1e6}])
def test_nothing_is_lost_when_a_key_comes_and_goes(bus: mt.EventBus, later: Data) -> None:
    line = Line(bus)
    bus.publish_batch("work", of("a", 3))
    Line(bus, key="tenant")
    bus.publish_batch("work", of("b", 3))
    line.end(line.take(2))
    Line(bus, **later)
    bus.publish_batch("work", of("c", 3))

    assert len(line.order("n", most=2)) == 7
    assert not bus.audit()[["double", "surplus"]].to_numpy().any()


def test_new_subscription_from_the_start_has_the_archive_by_key(bus: mt.EventBus) -> None:
    bus.topic("work")
    bus.publish_batch("work", [*of("a", 3), *of("b", 3)])
    line = Line(bus, key="tenant", max_concurrency_per_key=1, start="earliest")

    assert sorted(tenants(line.take(10))) == ["a", "b"]


def test_unsubscribed_and_cancelled_events_leave_their_places(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    receipts = bus.publish_batch("work", of("a", 3))
    bus.cancel(receipts[0])
    assert line.sub.depth().visible == 2

    line.sub.unsubscribe()

    assert line.sub.depth().open == 0
    assert Line(bus, key="tenant").take(10) == []
    assert bus.audit()["balanced"].all()


def test_filter_and_key_hold_together(bus: mt.EventBus) -> None:
    line = Line(
        bus,
        key="tenant",
        max_concurrency_per_key=1,
        filter={"n": [{"numeric": [">", 0]}]},
        filter_scope="body",
    )
    bus.publish_batch("work", [*of("a", 3), *of("b", 1)])

    assert [d.event.data for d in line.take(10)] == [{"tenant": "a", "n": 1}]


def test_open_events_with_a_place_are_not_pruned(bus: mt.EventBus, clock: SimulatedClock) -> None:
    line = Line(bus, key="tenant")
    bus.publish_batch("work", of("a", 3))
    clock.advance(s=1_000)
    bus.retain(max_age_s=10)
    bus.prune()

    assert len(line.order("n")) == 3


def test_lanes_do_not_keep_to_the_limits_of_the_live_version(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1, max_rate_per_s_total=0.001)
    shadow = line.sub.shadow(mt.model("answer", version="2.0.0")(lambda data: 2))
    bus.publish_batch("work", of("a", 5))
    line.sub.start()

    wait_until(lambda: len(shadow.results()) == 5)
    assert line.sub.depth().open == 4


@pytest.mark.parametrize("path", ["tenant", "data.tenant"])
def test_canary_gets_all_events_of_a_key_or_none(bus: mt.EventBus, path: str) -> None:
    first, second = (
        mt.model("m", version=f"{n}.0.0")(lambda data, n=n: [data["tenant"], n]) for n in (1, 2)
    )
    sub = bus.subscribe("work", first, name="line", key=path)
    sub.canary(second, steps=[0.5])
    bus.publish_batch("work", [{"tenant": n % 20, "n": n} for n in range(200)])
    wait_until(lambda: not sub.depth().open)

    pairs = {tuple(output) for output in sub.results()["output"]}
    assert len(pairs) == 20
    assert {version for _, version in pairs} == {1, 2}
    assert bus.audit()["balanced"].all()


def test_attempts_of_lost_workers_are_of_the_version_that_their_key_chose(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    line = Line(bus, key="tenant", timeout_s=10)
    line.sub.canary(mt.model("answer", version="2.0.0")(lambda data: 2), steps=[0.5])
    receipts = bus.publish_batch("work", [{"tenant": n % 20, "n": n} for n in range(100)])
    assert len(line.take(200)) == 100
    clock.advance(s=21)
    line.take()

    rows = bus.invocations("line").set_index("event_id")
    lost = rows[rows["outcome"] == "abandoned"]
    roles = {(n % 20, lost.loc[r.event_id, "role"]) for n, r in enumerate(receipts)}
    assert len(lost) == 100
    assert len(roles) == 20
    assert {role for _, role in roles} == {"live", "canary"}


# -- why it waits ----------------------------------------------------------------------------------


def said(bus: mt.EventBus, event: Any) -> list[str]:
    steps = bus.explain(event, "line")
    return list(steps.loc[steps["step"] == "waits for", "detail"])


def test_depth_by_key_says_why_each_key_waits(bus: mt.EventBus, clock: SimulatedClock) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    bus.publish_batch("work", [*of("a", 3), *of("b", 1), *of(None, 2)])
    bus.publish("work", {"tenant": "later", "n": 0}, delay_s=60)
    line.take(2)
    clock.advance(s=5)

    frame = line.sub.depth(by="key").set_index("key")

    assert list(frame.columns) == ["waiting", "in_flight", "delayed", "oldest_s", "why", "until"]
    assert dict(frame.loc["a"]) | {"until": None} == {
        "waiting": 2,
        "in_flight": 1,
        "delayed": 0,
        "oldest_s": 5.0,
        "why": "key at its limit: 1 of 1 in flight",
        "until": None,
    }
    assert (frame.loc["later", "why"], frame.loc["later", "delayed"]) == ("delayed", 1)
    assert (frame.loc["later", "until"].timestamp() - clock.now_us() / 1e6) == 55
    assert frame["waiting"].sum() + frame["in_flight"].sum() == 6


def test_depth_by_key_is_the_same_frame_when_empty(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    empty = line.sub.depth(by="key")
    bus.publish_batch("work", of("a", 1))
    full = line.sub.depth(by="key")

    assert list(empty.dtypes) == list(full.dtypes)
    assert (len(empty), len(full)) == (0, 1)


def test_events_without_a_key_are_one_row_whose_key_is_missing(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant")
    empty = line.sub.depth(by="key")
    bus.publish_batch("work", [{"n": 1}, {"tenant": None}, {"tenant": ["a"]}, {"tenant": ""}])
    without = line.sub.depth(by="key")
    bus.publish_batch("work", of("a", 1))
    both = line.sub.depth(by="key")

    assert (list(without["key"].isna()), list(without["waiting"])) == ([True], [4])
    assert list(both["key"].isna()) == [True, False]
    assert both["key"][1] == "a"
    assert list(empty.dtypes) == list(without.dtypes) == list(both.dtypes)


def test_depth_by_key_needs_a_key(bus: mt.EventBus) -> None:
    line = Line(bus)
    with pytest.raises(mt.InvalidPolicy, match="do not wait by key"):
        line.sub.depth(by="key")
    with pytest.raises(mt.NotFound, match="known: 'key'"):
        line.sub.depth(by="tenant")


def test_explain_says_that_a_key_is_at_its_limit_and_how_many_are_before(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)
    receipts = bus.publish_batch("work", of("a", 4))
    line.take(10)

    assert said(bus, receipts[3]) == [
        "tenant 'a': key at its limit: 1 of 1 in flight",
        "behind 2 of its key",
    ]


@pytest.mark.parametrize("policy", [{}, {"priority": "n"}, {"key": "tenant"}])
def test_explain_says_until_when_the_rate_is_used_up(
    bus: mt.EventBus, clock: SimulatedClock, policy: Data
) -> None:
    line = Line(bus, max_rate_per_s_total=0.1, **policy)
    receipts = bus.publish_batch("work", of("a", 2))
    (taken,) = line.take(10)
    (waiting,) = [r for r in receipts if r.seq != taken.seq]

    (detail,) = said(bus, waiting)

    assert "rate of 0.1/s is used up until 20" in detail
    clock.advance(s=10)
    assert len(line.take(10)) == 1


# -- several connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ack", "settle"])
def test_receiver_elsewhere_is_woken_when_its_key_is_free(tmp_path: Path, how: str) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    with mt.connect(url) as one, mt.connect(url) as two, ThreadPoolExecutor(1) as pool:
        line = Line(one, key="tenant", max_concurrency_per_key=1)
        one.publish_batch("work", of("a", 2))
        taken = line.take()
        two.wakeup.poll_s = 600.0  # no look without a reason
        waits = pool.submit(two.broker.receive, two.spec("line"), 1, 600.0)
        wait_until(lambda: two.wakeup._keys[f"ready:{two.spec('line').id}"].waiters)  # type: ignore[attr-defined]

        if how == "ack":
            one.broker.ack(taken)
        else:
            line.end(taken)

        assert [d.event.data["n"] for d in waits.result(60)] == [1]


# -- cost ------------------------------------------------------------------------------------------


def steps_of(bus: mt.EventBus, call: Callable[[], object]) -> int:
    """Return how many hundred steps of SQLite's machine *call* takes."""
    counted: list[int] = []
    with bus.log.unit() as unit:
        driver = unit.transaction._driver
    driver.set_progress_handler(lambda: counted.append(1), 100)  # type: ignore[attr-defined]
    call()
    driver.set_progress_handler(None, 100)  # type: ignore[attr-defined]
    return len(counted)


@pytest.mark.parametrize("bus", ["memory", "sqlite"], indirect=True)
def test_backlog_of_a_key_at_its_limit_costs_a_claim_nothing(bus: mt.EventBus) -> None:
    line = Line(bus, key="tenant", max_concurrency_per_key=1)

    def cost(backlog: int) -> int:
        bus.publish_batch("work", [*of("a", backlog), *of("b", 1)])
        line.end([d for d in line.take(10) if tenants([d]) == ["b"]])
        bus.publish_batch("work", of("b", 1))
        taken: list[Delivery] = []
        steps = steps_of(bus, lambda: taken.extend(line.take(10)))
        assert tenants(taken) == ["b"]
        line.end(taken)
        return steps

    few = cost(10)
    assert cost(10_000) <= few + 5
