"""What a user asks when something looks wrong: does it add up, why did this fire, what should I
change.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from shared import Gate, is_settled, settle, wait_until

import mltrigger as mt
from mltrigger.delivery.pace import Pace
from mltrigger.store.sqlite.store import SqliteStore
from mltrigger.testing import SimulatedClock


def balance(bus: mt.EventBus, name: str) -> dict[str, Any]:
    table = bus.audit()
    return table[table["subscription"] == name].iloc[0].to_dict()  # type: ignore[return-value]


def details(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["step"], table["detail"], strict=True))


# -- audit -----------------------------------------------------------------------------------------


def test_audit_balances_filters_failures_and_what_is_open(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def odd(n: int) -> int:
        if n == 1:
            raise mt.Reject("one")
        return n

    every = bus.subscribe("numbers", odd, name="every")
    waits = bus.subscribe("numbers", odd, name="waits", listen=False)
    some = bus.subscribe("numbers", odd, name="some", filter={"subject": [{"prefix": "b"}]})
    for n in range(6):
        bus.publish("numbers", n, subject="big" if n > 3 else "small")
    wait_until(lambda: is_settled(every) and is_settled(some))

    table = bus.audit()

    assert table["balanced"].all()
    assert {
        k: balance(bus, "every")[k] for k in ("published", "filtered", "succeeded", "dead", "open")
    } == {
        "published": 6,
        "filtered": 0,
        "succeeded": 5,
        "dead": 1,
        "open": 0,
    }
    assert (balance(bus, "some")["filtered"], balance(bus, "some")["succeeded"]) == (4, 2)
    assert (balance(bus, "waits")["open"], waits.depth().visible) == (6, 6)


def test_audit_stays_exact_when_the_filter_changes_and_after_unsubscribing(
    bus: mt.EventBus,
) -> None:
    def model(n: int) -> int:
        return n

    sub = bus.subscribe("numbers", model, filter={"subject": ["a"]})
    for subject in "aab":
        bus.publish("numbers", 1, subject=subject)
    wait_until(lambda: is_settled(sub))
    sub = bus.subscribe("numbers", model, filter={"subject": ["b"]})
    for subject in "aab":
        bus.publish("numbers", 1, subject=subject)
    wait_until(lambda: is_settled(sub))
    sub.stop()
    bus.publish("numbers", 1, subject="b")
    bus.unsubscribe(sub.name)
    bus.publish("numbers", 1, subject="b")

    found = balance(bus, "model")

    assert found["balanced"]
    assert [found[k] for k in ("published", "filtered", "succeeded", "skipped", "open")] == [
        7,
        3,
        3,
        1,
        0,
    ]


def test_audit_names_what_is_missing_and_what_is_double(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe("numbers", abs, listen=False)
        for id_ in ("lost", "twice", "fine"):
            bus.publish("numbers", 1, id=id_)
        store = SqliteStore(file)
        with store.transaction() as transaction:
            transaction.execute("UPDATE cursor SET next_seq = 2", {})  # beyond the first one
            for attempt in (1, 2):
                transaction.execute(
                    "INSERT INTO outcome (subscription_id, seq, attempt, lot_id, place, outcome)"
                    " SELECT 1, seq, :n, 1, :n, 0 FROM event WHERE id = 'twice'",
                    {"n": attempt},
                )
        store.close()

        found = balance(bus, sub.name)

        assert not found["balanced"]
        assert (found["missing"], found["double"], found["events"]) == (1, 1, "lost, twice")
        assert "missing" in details(bus.explain("lost", sub.name))["outcome"]


def test_events_of_the_archive_that_a_new_subscription_gets_are_counted(bus: mt.EventBus) -> None:
    bus.topic("numbers")
    bus.publish_batch("numbers", range(5))
    sub = bus.subscribe("numbers", abs, start="earliest")
    wait_until(lambda: is_settled(sub))

    assert [balance(bus, "abs")[k] for k in ("published", "succeeded", "balanced")] == [5, 5, True]


# -- explain and skipped ---------------------------------------------------------------------------


def test_explain_says_clause_by_clause_why_an_event_did_not_fire(bus: mt.EventBus) -> None:
    sub = bus.subscribe(
        "orders",
        abs,
        listen=False,
        filter={"price": [{"numeric": [">", 10]}], "kind": ["book"]},
        filter_scope="body",
    )
    bus.publish("orders", {"price": 5, "kind": "book"}, id="cheap")

    table = bus.explain("cheap", sub.name)

    clauses = table[table["step"].str.startswith("filter")].set_index("step")
    assert clauses["ok"].to_dict() == {"filter $.price": False, "filter $.kind": True}
    assert "found 5" in clauses.loc["filter $.price", "detail"]
    assert details(table)["outcome"] == "skipped: filtered"
    (row,) = sub.skipped().to_dict(orient="records")
    assert (row["event_id"], row["reason"]) == ("cheap", "filtered")
    assert "price" in row["detail"]


def test_explain_answers_before_the_fact_and_publishes_nothing(bus: mt.EventBus) -> None:
    bus.subscribe(
        "orders", abs, listen=False, filter={"price": [{"numeric": [">", 10]}]}, filter_scope="body"
    )

    assert details(bus.explain({"price": 50}, "abs"))["outcome"] == "would be delivered"
    assert (
        details(bus.explain(mt.Event({"price": 5}), "abs"))["outcome"] == "would not be delivered"
    )
    assert details(bus.explain(mt.Event(b"no json", datacontenttype="text/plain"), "abs"))[
        "filter"
    ].startswith("not_json")
    assert len(bus.events()) == 0


def test_explain_hints_at_the_other_scope(bus: mt.EventBus) -> None:
    bus.subscribe("orders", abs, listen=False, filter={"price": [5]})

    assert "filter_scope='body'" in " ".join(bus.explain({"price": 5}, "abs")["detail"])


def test_explain_tells_the_story_of_attempts_redrives_and_repeats(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def fails(n: int) -> None:
        raise ValueError("no")

    sub = bus.subscribe("numbers", fails, max_attempts=2)
    receipt = bus.publish("numbers", 1, id="x")
    settle(bus, clock, sub)
    with pytest.warns(UserWarning, match="other data"):
        bus.publish("numbers", 2, id="x")
    bus.publish("numbers", 1, id="x")

    told = details(bus.explain(receipt, sub.name))

    assert "ValueError: no" in told["attempt 1"]
    assert told["duplicate"].startswith("published 2 more times, 1 of them with other data")
    assert told["outcome"] == "dead: model_error"
    assert "waiting" in told["dead letter"]
    assert list(sub.skipped()["reason"]) == ["duplicate"]


@pytest.mark.parametrize(
    ("first", "again", "differs"),
    [
        ({"a": 1, "b": {"c": [1, 2], "d": 3}}, {"b": {"d": 3, "c": [1, 2]}, "a": 1}, False),
        (
            mt.Event(b'{"a": 1,  "b": 2}', datacontenttype="application/json"),
            {"b": 2, "a": 1},
            False,
        ),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}, True),
        ({"a": 1}, {"a": True}, True),
        ([1, 2], [2, 1], True),
        (9007199254740993, 9007199254740992, True),
        (b"ab", b"ba", True),
    ],
)
def test_repeat_with_the_same_value_in_other_words_is_no_other_data(
    bus: mt.EventBus, first: object, again: object, differs: bool
) -> None:
    bus.topic("documents")
    bus.publish("documents", first, id="x", source="/here")

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        receipt = bus.publish("documents", again, id="x", source="/here")

    assert receipt.duplicate
    assert [str(w.message) for w in told if "other data" in str(w.message)] == [
        str(w.message) for w in told
    ]
    assert bool(told) == differs


def test_pruning_costs_the_same_however_much_is_kept() -> None:
    def steps(kept: int) -> int:
        count = [0]
        with mt.connect("memory://") as bus:
            bus.topic("t")
            bus.publish_batch("t", [None] * (kept + 3_000))
            bus.retain(max_events=kept)
            with bus.log.unit() as unit:
                unit.transaction._driver.set_progress_handler(
                    lambda: count.__setitem__(0, count[0] + 1), 1000
                )  # type: ignore[attr-defined]

            assert bus.prune().events == 3_000
            pruned = count[0]

            assert len(bus.events()) == kept
        return pruned

    assert steps(30_000) <= 1.1 * steps(2_000)


def test_event_older_than_max_age_is_skipped_without_the_model(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    calls: list[int] = []
    sub = bus.subscribe("numbers", calls.append, name="reader", max_age_s=60, listen=False)
    bus.publish("numbers", 1, id="old")
    clock.advance(s=61)
    bus.publish("numbers", 2, id="new")

    sub.start()
    wait_until(lambda: is_settled(sub))

    assert calls == [2]
    assert list(sub.skipped()["reason"]) == ["expired"]
    assert sub.invocations().set_index("event_id")["outcome"].to_dict() == {
        "old": "skipped",
        "new": "succeeded",
    }
    assert balance(bus, "reader")["balanced"]


@pytest.mark.parametrize(("event", "name"), [("nothing", "abs"), ("x", "abz")])
def test_explain_names_what_it_does_not_know(bus: mt.EventBus, event: str, name: str) -> None:
    bus.subscribe("numbers", abs, listen=False)
    bus.publish("numbers", 1, id="x")

    with pytest.raises(mt.NotFound):
        bus.explain(event, name)


# -- pause, rate -----------------------------------------------------------------------------------


def test_paused_subscription_waits_everywhere_and_resumes(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs)
    sub.pause()
    run = bus.publish_batch("numbers", range(3))

    assert sub.state == "paused"
    assert (sub.depth().visible, len(sub.invocations())) == (3, 0)
    assert bool(bus.subscriptions()["paused"].item())
    assert "sub.resume()" in " ".join(sub.doctor()["advice"])
    assert details(bus.explain(run[0], sub.name))["paused"].startswith("yes")

    sub.resume()
    wait_until(lambda: is_settled(sub))
    assert (sub.state, len(sub.invocations())) == ("listening", 3)


def test_pace_allows_a_burst_and_then_the_rate() -> None:
    pace = Pace(10.0)
    assert pace.room(0) == 10
    pace.spend(10, 0)
    assert (pace.room(50_000), pace.wait_s(50_000)) == (0, pytest.approx(0.05))
    assert pace.room(100_000) == 1
    assert pace.room(10_000_000) == 10
    assert (Pace(None).room(0) > 10**6, Pace(None).wait_s(0)) == (True, 0.0)
    assert Pace(0.5).room(0) == 1


def test_rate_limit_holds_for_a_backlog() -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", abs, max_rate_per_s=20)
        bus.publish_batch("numbers", range(30))
        started = time.monotonic()
        wait_until(lambda: is_settled(sub))

        assert time.monotonic() - started > 0.4  # 20 at once, 10 more at 20 a second
        assert len(sub.invocations()) == 30


# -- retention -------------------------------------------------------------------------------------


def test_retention_lets_old_events_go_and_never_what_is_open_or_dead(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def odd(n: int) -> int:
        if n == 1:
            raise mt.Reject("one")
        return n

    sub = bus.subscribe("numbers", odd)
    bus.publish_batch("numbers", range(4))
    wait_until(lambda: is_settled(sub))
    sub.stop()
    bus.publish("numbers", 4, id="open")
    bus.retain(max_age_s=14 * 86400)

    assert bus.prune() == (0, 0, 0)
    clock.advance(s=14 * 86400 + 1)
    bus.publish("numbers", 5, id="newest")

    assert bus.prune() == (3, 3, 2)
    assert list(bus.events()["event_id"])[1:] == ["open", "newest"]
    assert list(sub.dead_letters()["error"]) == ["one"]
    assert bus.audit()["balanced"].all()

    sub.discard(sub.dead_letters(), "old")
    assert bus.prune() == (1, 1, 1)
    sub.start()
    wait_until(lambda: is_settled(sub))
    assert balance(bus, sub.name)["balanced"]


def test_retention_by_count_keeps_the_newest(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs)
    bus.publish_batch("numbers", range(10))
    wait_until(lambda: is_settled(sub))
    bus.retain(max_events=3)

    assert bus.prune().events == 7
    assert [int(d) for d in bus.events()["data"]] == [7, 8, 9]
    bus.publish("numbers", 10)
    wait_until(lambda: is_settled(sub))
    assert balance(bus, sub.name)["balanced"]


def test_everything_is_kept_until_something_else_is_agreed(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe("numbers", abs)
    bus.publish_batch("numbers", range(3))
    wait_until(lambda: is_settled(sub))
    clock.advance(s=10 * 365 * 86400)

    assert bus.prune() == (0, 0, 0)
    with pytest.raises(mt.InvalidPolicy, match="max_age_s"):
        bus.retain(max_age_s=0)


# -- doctor ----------------------------------------------------------------------------------------


def checks(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["check"], table["severity"], strict=True))


def test_doctor_finds_nothing_where_nothing_is_wrong(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs)

    assert sub.doctor().to_dict(orient="records") == [
        {
            "severity": "ok",
            "about": "abs",
            "check": "all",
            "finding": "nothing to change",
            "advice": "",
        }
    ]


def test_doctor_compares_run_times_with_the_timeout_and_the_lease(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def slow(n: int) -> int:
        clock.advance(s=0.9)
        return n

    sub = bus.subscribe("numbers", slow, timeout_s=60, lease_s=0.5)
    bus.publish_batch("numbers", range(25))
    wait_until(lambda: is_settled(sub))
    sub = bus.subscribe("numbers", slow, timeout_s=1, lease_s=0.5)

    found = sub.doctor().set_index("check")

    assert found.loc["timeout_s", "severity"] == "warning"
    assert "timeout_s=2.7" in found.loc["timeout_s", "advice"]
    # below p99, and below window + timeout
    assert list(found.loc[["lease_s"], "severity"]) == ["warning", "warning"]


def test_doctor_sees_contradictions_before_anything_has_happened(bus: mt.EventBus) -> None:
    bus.retain(max_age_s=100)
    sub = bus.subscribe("numbers", abs, max_attempts=20, max_age_s=1000, timeout_s=10, lease_s=15)

    found = checks(sub.doctor())

    assert {"retry budget", "retention", "lease_s on SQS"} <= found.keys()


def test_doctor_says_who_has_to_deliver_what_waits(bus: mt.EventBus) -> None:
    def local(n: int) -> int:
        return n

    bus.subscribe("numbers", local, listen=False)
    bus.subscribe("numbers", portable, listen=False)
    bus.publish("numbers", 1)

    found = bus.doctor().set_index("about")

    assert list(found.loc[["local", "portable"], "severity"]) == ["error", "error"]
    assert "lives in a notebook only" in found.loc["local", "advice"]
    assert "mltrigger worker" in found.loc["portable", "advice"]


def portable(n: int) -> int:
    return n


def test_doctor_counts_dead_letters_and_abandoned_attempts(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    def rejects(n: int) -> int:
        raise mt.Reject("no")

    sub = bus.subscribe("numbers", rejects)
    bus.publish_batch("numbers", range(3))
    wait_until(lambda: is_settled(sub))

    row = sub.doctor().set_index("check").loc["dead letters"]
    assert row["finding"] == "3 dead letters: 3 rejected"


def test_doctor_sees_files_that_others_can_read(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        file.chmod(0o644)

        assert checks(bus.doctor())["file mode"] == "warning"


# -- time that is told -----------------------------------------------------------------------------


def test_months_of_backoff_leases_and_retention_pass_in_no_time() -> None:
    clock = mt.testing.SimulatedClock()
    failing = mt.testing.Failing(times=9)
    started = time.monotonic()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", failing, max_attempts=10)
        dies = bus.subscribe(
            "numbers",
            mt.testing.Failing(times=99, error=mt.Retry(delay_s=86400)),
            name="dies",
            max_attempts=5,
        )
        began_us = clock.now_us()
        bus.publish("numbers", 7)
        mt.testing.settle(bus, clock)

        assert (failing.calls, sub.results()["output"].tolist()) == (10, [7])
        assert list(dies.dead_letters()["reason"]) == ["retry"]
        assert clock.now_us() - began_us >= 4 * 86400 * 1e6
        bus.retain(max_age_s=14 * 86400)
        clock.advance(s=15 * 86400)
        bus.publish("numbers", 8)
        dies.discard(dies.dead_letters(), "seen")
        assert bus.prune().events == 1
    assert time.monotonic() - started < 60


# -- what must not happen --------------------------------------------------------------------------


def test_heartbeats_go_on_while_old_events_are_let_go(
    file: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr("mltrigger.delivery.engine.PRUNE_S", 0.05)
    begun, running = threading.Event(), threading.Event()

    def prune(self: mt.EventBus) -> None:
        begun.set()
        gate.wait()

    monkeypatch.setattr(mt.EventBus, "prune", prune)
    with mt.connect(f"sqlite:///{file}") as bus, mt.connect(f"sqlite:///{file}") as other:
        bus.retain(max_events=1000)

        def slow(n: int) -> None:
            running.set()
            assert begun.wait(20)
            time.sleep(1.5)

        sub = bus.subscribe("numbers", slow, lease_s=0.6, timeout_s=30)
        bus.publish("numbers", 1)
        assert running.wait(20)
        spec = other.registry.subscription("slow")

        def ended() -> bool:
            other.broker.receive(spec, 1)  # somebody else looks for what a dead worker left
            return is_settled(sub)

        wait_until(ended)
        assert list(sub.invocations()["outcome"]) == ["succeeded"]
        gate.open()


def test_age_of_a_redriven_event_counts_from_its_redrive(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    failing = mt.testing.Failing(times=1, error=mt.Reject("first"))
    sub = bus.subscribe("numbers", failing, max_age_s=3600)
    bus.publish("numbers", 7)
    wait_until(lambda: is_settled(sub))
    clock.advance(s=86400)

    assert sub.redrive() == 1
    wait_until(lambda: is_settled(sub))

    assert sub.results()["output"].tolist() == [7]


def test_audit_sees_what_was_never_due(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs, filter={"subject": ["a"]})
    receipt = bus.publish("numbers", 1, id="x", subject="b")
    with bus._store.transaction() as transaction:
        row = {"s": sub._spec.id, "seq": receipt.seq}
        transaction.execute("INSERT INTO ready VALUES (:s, 0, :seq, 0, 0, 0)", row)

    found = balance(bus, sub.name)

    assert (found["surplus"], found["balanced"], found["events"]) == (1, False, "x")


def test_event_that_was_sent_on_request_is_no_surplus(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs, filter={"subject": ["a"]})
    receipt = bus.publish("numbers", 1, subject="b")
    bus.broker.send(sub._spec, [receipt.seq])
    wait_until(lambda: is_settled(sub) and len(sub.results()))

    assert [
        balance(bus, sub.name)[k] for k in ("filtered", "sent", "succeeded", "surplus", "balanced")
    ] == [1, 1, 1, 0, True]


def test_what_was_let_go_meanwhile_is_not_sent(bus: mt.EventBus) -> None:
    def rejects(n: int) -> None:
        raise mt.Reject("no")

    sub = bus.subscribe("numbers", rejects)
    seq = bus.publish("numbers", 1).seq
    wait_until(lambda: len(sub.dead_letters()))
    sub.discard(sub.dead_letters(), "seen")
    assert bus.broker.send(sub._spec, [seq]) == []
    bus.publish("numbers", 2)
    wait_until(lambda: is_settled(sub))
    bus.retain(max_events=1)
    bus.prune()

    assert bus.broker.send(sub._spec, [seq]) == []
    assert sub.depth().visible == 0


def test_name_of_a_subscription_cannot_be_taken_to_another_topic(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs, listen=False)
    bus.topic("others")

    with pytest.raises(mt.NameTaken, match="another topic"):
        bus.broker.bind(dataclasses.replace(sub._spec, topic="others"))
    assert sub.topic == "numbers"
    assert bus.audit()["balanced"].all()


def test_store_that_fails_while_a_batch_fills_costs_no_event(
    bus: mt.EventBus, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def double(numbers: list[int]) -> list[int]:
        return [2 * n for n in numbers]

    sub = bus.subscribe("numbers", double, batch=True, batch_window_s=5, batch_size=4, listen=False)
    bus.publish("numbers", 1)
    receive, calls = bus.broker.receive, []

    def failing(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise mt.StoreError("locked")
        return receive(*given)

    monkeypatch.setattr(bus.broker, "receive", failing)
    sub.start()
    wait_until(lambda: len(sub.results()))

    assert list(sub.invocations()["outcome"]) == ["succeeded"]


def test_fire_says_why_nobody_runs(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs, filter={"subject": ["a"]})
    with pytest.warns(UserWarning, match="no event passed the filter of 'abs'"):
        bus.fire("numbers", [1], progress=False)
    sub.pause()
    with pytest.warns(UserWarning) as said:
        bus.fire("numbers", [mt.Event(1, subject="a")], progress=False, timeout_s=0.01)
    assert "'abs' is paused" in str(said[0].message)


def test_receipt_says_which_of_several_events_with_one_id_is_meant(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", abs, listen=False, filter={"source": ["b"]})
    first, second = (
        bus.publish("numbers", 1, id="1", source="a"),
        bus.publish("numbers", 2, id="1", source="b"),
    )

    assert details(sub.explain(first))["outcome"] == "skipped: filtered"
    assert details(sub.explain(second))["outcome"] == "open"
    assert details(sub.explain("1", source="b"))["outcome"] == "open"
    with pytest.raises(mt.AmbiguousEvent, match="from 2 sources: 'a', 'b'; say which, source='a'"):
        sub.explain("1")


def test_duplicates_of_others_are_not_listed(bus: mt.EventBus) -> None:
    bus.topic("numbers")
    for _ in range(2):
        bus.publish("numbers", 1, id="before")
    sub = bus.subscribe("numbers", abs, listen=False)
    for _ in range(2):
        bus.publish("numbers", 1, id="mine")

    assert list(sub.skipped()["event_id"]) == ["mine"]


def test_dry_run_of_an_isolated_model_does_not_harm_this_process(clock: SimulatedClock) -> None:
    def crashes(n: int) -> None:
        os._exit(3)

    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", crashes, isolation="process")
        bus.publish("numbers", 1)
        mt.testing.settle(bus, clock)

        assert list(sub.dry_run()["reason"]) == ["worker_died"]


@pytest.mark.parametrize(
    "policy", [{"max_rate_per_s": 1}, {"batch_window_s": 5, "batch": True}], ids=["rate", "window"]
)
def test_settle_lets_time_pass_for_whoever_waits_for_it(policy: dict[str, Any]) -> None:
    clock = mt.testing.SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("numbers", each, **policy)
        bus.publish_batch("numbers", range(3))
        mt.testing.settle(bus, clock)

        assert len(sub.results()) == 3


def each(numbers: Any) -> Any:
    return numbers


def test_explain_takes_a_subscription_or_its_name(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(lambda page: page))
    receipt = bus.fire("documents", [1], progress=False).receipts[0]

    assert bus.explain(receipt, sub).equals(bus.explain(receipt, sub.name))
