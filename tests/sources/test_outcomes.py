"""Outcomes as a source: each final outcome of a subscription is one event, for any listeners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from emulators import Account
from shared import settle, wait_until

import mltrigger as mt
from mltrigger.event.event import MAX_HOPS
from mltrigger.testing import SimulatedClock

ROOT = Path(mt.__file__).parent.parent


def ocr(document: Any) -> Any:
    if document == "blank":
        raise mt.Reject("a blank page")
    if document == "torn":
        raise ValueError("a torn page")
    return {"words": len(document)}


def whole(event: mt.Event) -> dict[str, Any]:
    return {"id": event.id, "type": event.type, "data": event.data}


def feed(bus: mt.EventBus, **options: Any) -> mt.Subscription:
    return bus.subscribe("outcomes://ocr", mt.model(whole, name="feed"), **options)


def seen(sub: mt.Subscription) -> list[tuple[str, str]]:
    """Return the event and the outcome of each event of the feed, sorted."""
    data = sub.results()["data"] if len(sub.results()) else []
    return sorted((each["event_id"], each["outcome"]) for each in data)


@pytest.fixture
def quiet(url: str) -> Iterator[mt.EventBus]:
    """A bus on which circles are bound on purpose."""
    with warnings.catch_warnings(), mt.connect(url) as bus:
        warnings.simplefilter("ignore")
        yield bus


# -- the events ------------------------------------------------------------------------------------


def test_each_final_outcome_is_one_event_with_all_that_the_log_knows(
    url: str, clock: SimulatedClock
) -> None:
    with mt.connect(url, clock=clock) as bus:
        sub = bus.subscribe("documents", mt.model(ocr, name="ocr", version="1.2.0"), max_attempts=2)
        follower = feed(bus)
        event = mt.Event("abc", id="1", source="scanner", type="scan", subject="page 1")
        bus.publish_batch("documents", [event, mt.Event("torn", id="2"), mt.Event("blank", id="3")])
        settle(bus, clock, sub)
        assert bus.wait(30, progress=False)

        assert seen(follower) == [("1", "succeeded"), ("2", "dead"), ("3", "dead")]
        found = {each["event_id"]: each for each in follower.results()["data"]}
        rows = sub.invocations().set_index(["event_id", "attempt"])
        columns = ["source", "type", "topic", "subscription", "model", "version", "outcome"]
        for key in [("1", 1), ("2", 2), ("3", 1)]:
            data, row = found[key[0]], rows.loc[key]
            assert data["attempt"] == key[1]
            assert [data[name] for name in columns] == [row[name] for name in columns]
            for name in ("published_at", "received_at", "started_at", "finished_at", "settled_at"):
                assert data[name] == row[name].isoformat(timespec="microseconds")
        assert found["1"]["output"] == {"words": 3}
        assert (found["1"]["subject"], found["1"]["error"]) == ("page 1", None)
        assert (found["2"]["error_type"], found["2"]["error"]) == ("ValueError", "a torn page")
        assert (found["3"]["reason"], found["3"]["output"]) == ("rejected", None)


def test_outcomes_belong_to_the_trace_and_the_chain_of_their_event(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"))
    feed(bus)
    extensions = {"partitionkey": "blue", "tenant": "a"}
    bus.publish("documents", mt.Event("abc", id="1", subject="page 1", extensions=extensions))
    assert bus.wait(30, progress=False)

    (outcome,) = bus.events("outcomes-ocr").to_dict("records")
    (cause,) = bus.events("documents").to_dict("records")
    assert (outcome["type"], outcome["source"]) == (
        "mltrigger.outcome.succeeded",
        "mltrigger/outcomes/ocr",
    )
    assert (outcome["subject"], outcome["trace_id"]) == ("page 1", cause["trace_id"])
    event = bus.log.archived(2)[0]
    assert dict(event.extensions) | {"traceparent": ""} == {
        "traceparent": "",
        "partitionkey": "blue",
        "causationid": "1",
        "hops": 1,
    }
    for known in ("1", event.id):
        assert list(bus.trace(known)["subscription"]) == ["ocr", "feed"]


def test_skipped_outcomes_come_too_and_a_filter_chooses(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"), listen=False)
    everything = feed(bus)
    dead = feed(bus, name="dead", filter={"type": ["mltrigger.outcome.dead"]})
    late = bus.publish("documents", "x", delay_s=3600)
    bus.cancel(late)
    bus.subscribe("documents", mt.model(ocr, name="ocr"))
    bus.publish("documents", mt.Event("blank", id="2"))
    assert bus.wait(30, progress=False)

    assert seen(everything) == sorted([("2", "dead"), (late.event_id, "skipped")])
    assert seen(dead) == [("2", "dead")]
    assert bus.audit()["balanced"].all()


def test_a_redriven_dead_letter_that_succeeds_is_a_second_outcome(bus: mt.EventBus) -> None:
    good = False

    def mends(document: Any) -> Any:
        if not good:
            raise mt.Reject("not yet")
        return 1

    sub = bus.subscribe("documents", mt.model(mends, name="ocr"))
    follower = feed(bus)
    bus.publish("documents", mt.Event("x", id="1"))
    assert bus.wait(30, progress=False)
    good = True
    sub.redrive()
    assert bus.wait(30, progress=False)

    found = follower.results()
    assert [(d["outcome"], d["attempt"]) for d in found["data"]] == [("dead", 1), ("succeeded", 2)]
    assert found["id"].is_unique


def test_an_output_too_large_for_a_second_event_is_left_out_and_named(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(lambda n: "x" * n, name="ocr"))
    follower = feed(bus)
    bus.publish_batch("documents", [16 * 1024 * 1024 - 200, 1000])
    assert bus.wait(60, progress=False)

    outputs = [each["output"] for each in follower.results()["data"]]
    assert sorted(outputs, key=str) == [None, "x" * 1000]
    events = [bus.log.archived(seq)[0] for seq in (3, 4)]
    assert sorted(str(e.extensions.get("leftout")) for e in events) == ["None", "output"]


# -- from where ------------------------------------------------------------------------------------


def test_the_first_event_is_the_next_outcome_or_the_oldest(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"))
    bus.publish_batch("documents", [mt.Event("abc", id=str(n)) for n in range(3)])
    assert bus.wait(30, progress=False)

    latest = feed(bus)
    bus.publish("documents", mt.Event("abc", id="3"))
    assert bus.wait(30, progress=False)
    assert seen(latest) == [("3", "succeeded")]

    earliest = feed(bus, name="all", start="earliest")
    bus.publish("documents", mt.Event("abc", id="4"))
    assert bus.wait(30, progress=False)
    assert seen(earliest) == [(str(n), "succeeded") for n in range(5)]
    # those that are there become events of the topic: other subscriptions get them, too
    assert seen(latest) == seen(earliest)
    assert latest.results()["id"].is_unique


def test_outcomes_while_nobody_listened_come_later(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        feed(bus, listen=False)
        bus.publish_batch("documents", [mt.Event("abc", id=str(n)) for n in range(1200)])
        assert bus.broker.depth(bus.spec("feed")).open == 0
        wait_until(lambda: bus.tally(bus.spec("ocr")).get("succeeded") == 1200)
    with mt.connect(f"sqlite:///{file}") as bus:
        follower = feed(bus)
        assert bus.wait(60, progress=False)

        assert len(set(seen(follower))) == len(seen(follower)) == 1200
        (row,) = bus.topics().query("topic == 'outcomes-ocr'").to_dict("records")
        assert (row["watches"], row["behind"], row["events"]) == ("outcomes://ocr", 0, 1200)


def test_a_wrong_name_lists_the_near_ones_and_nothing_is_made(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"))

    with pytest.raises(mt.NotFound, match="no subscription 'orc'; did you mean 'ocr'"):
        bus.subscribe("outcomes://orc", print, name="feed")
    assert bus.registry.topics() == ["documents"]


@pytest.mark.parametrize(
    "text", ["outcomes://", "outcomes://a/b", "outcomes://a?x=1", "outcomes:a"]
)
def test_another_form_is_refused(bus: mt.EventBus, text: str) -> None:
    with pytest.raises(mt.InvalidName, match="outcomes://NAME"):
        bus.subscribe(text, print, name="feed")


def test_a_subscription_made_anew_is_followed_and_delete_forgets_the_place(
    bus: mt.EventBus,
) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"))
    follower = feed(bus)
    bus.publish("documents", mt.Event("abc", id="1"))
    assert bus.wait(30, progress=False)
    bus.unsubscribe("ocr")
    bus.subscribe("pages", mt.model(ocr, name="ocr"))
    bus.publish("pages", mt.Event("abc", id="2"))
    assert bus.wait(30, progress=False)
    assert seen(follower) == [("1", "succeeded"), ("2", "succeeded")]

    with pytest.warns(UserWarning, match="outcomes of 'ocr' from now on are delivered when"):
        bus.unsubscribe("feed")
    bus.publish("pages", mt.Event("abc", id="3"))
    assert bus.wait(30, progress=False)
    feed(bus)
    assert bus.wait(30, progress=False)
    assert seen(follower)[-1] == ("3", "succeeded")

    bus.unsubscribe("feed", delete=True)
    bus.publish("pages", mt.Event("abc", id="4"))
    assert bus.wait(30, progress=False)
    feed(bus)
    bus.publish("pages", mt.Event("abc", id="5"))
    assert bus.wait(30, progress=False)
    assert [event_id for event_id, _ in seen(follower)] == ["1", "2", "3", "5"]


# -- nothing is lost, nothing comes twice ----------------------------------------------------------


def test_numbers_that_are_given_again_hide_no_outcome(file: Path) -> None:
    """SQLite gives the number of the newest row again after it was pruned."""
    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe("documents", mt.model(ocr, name="ocr"))
        follower = feed(bus)
        bus.publish_batch("documents", [mt.Event("abc", id=f"a{n}") for n in range(20)])
        assert bus.wait(30, progress=False)
        follower.stop()
        bus.topic("others")
        for n in range(40):
            bus.publish("others", n)
        bus.retain(max_events=1)
        bus.prune()
        assert len(sub.invocations()) == 0
        # as many as before and more: their numbers go over those that were read
        bus.publish_batch("documents", [mt.Event("abc", id=f"b{n}") for n in range(50)])
        wait_until(lambda: len(sub.invocations()) == 50)
        bus.retain()

        again = feed(bus)
        assert bus.wait(30, progress=False)
        new = {event_id for event_id, _ in seen(again) if event_id.startswith("b")}
        assert new == {f"b{n}" for n in range(50)}
        assert again.results()["id"].is_unique


def test_an_answer_after_its_lease_is_followed(file: Path, clock: SimulatedClock) -> None:
    """The row of an abandoned attempt is written anew, perhaps under the same number."""
    url = f"sqlite:///{file}"
    with mt.connect(url, clock=clock) as bus:
        bus.subscribe("documents", mt.model(ocr, name="ocr"), listen=False)
        follower = feed(bus, listen=False)
        bus.publish("documents", mt.Event("abc", id="1"))
        spec = bus.spec("ocr")
        listener = bus.borrowed_listener(spec)
        (delivery,) = bus.broker.receive(spec, 1)
        clock.advance(s=3600)
        bus.broker.sweep(spec, clock.now_us())
        assert list(bus.subscription("ocr").invocations()["outcome"]) == ["abandoned"]
        feed(bus)
        wait_until(lambda: "connected" in list(bus.topics()["state"]))
        assert not len(follower.results())

        listener.process([delivery])
        assert bus.wait(30, progress=False)
        assert seen(follower) == [("1", "succeeded")]


def test_a_reader_that_is_killed_anywhere_loses_and_doubles_nothing(file: Path) -> None:
    """The reader runs in processes that are killed while outcomes come."""
    url, program = (
        f"sqlite:///{file}",
        (
            "import sys, mltrigger as mt\n"
            "bus = mt.connect(sys.argv[1])\n"
            "bus.listen(bus.spec('feed'))\n"
            "print('reads', flush=True)\n"
            "sys.stdin.read()\n"
        ),
    )
    with mt.connect(url) as bus:
        sub = bus.subscribe("documents", mt.model(ocr, name="ocr"))
        bus.subscribe("outcomes://ocr", "builtins:len", name="feed", listen=False, timeout_s=1)
        for round_ in range(2):
            reader = subprocess.Popen(
                [sys.executable, "-c", program, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                text=True,
            )
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reads\n"
            ids = [f"{round_}-{n}" for n in range(300)]
            bus.publish_batch("documents", [mt.Event("abc", id=each) for each in ids])
            before = round_ * 300
            wait_until(lambda before=before: counted(bus) > before)
            reader.send_signal(signal.SIGKILL)
            reader.communicate()
        follower = bus.subscribe("outcomes://ocr", "builtins:len", name="feed", timeout_s=1)
        wait_until(lambda: bus.tally(bus.spec(sub.name)).get("succeeded") == 600)
        assert bus.wait(60, progress=False)

        events = bus.events("outcomes-ocr")
        assert len(events) == len(set(events["event_id"])) == 600
        assert follower.depth().open == 0


def counted(bus: mt.EventBus) -> int:
    return int(bus.topics().set_index("topic").loc["outcomes-ocr", "events"])


def test_one_of_several_listeners_reads(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as one, mt.connect(f"sqlite:///{file}") as other:
        one.subscribe("documents", mt.model(ocr, name="ocr"))
        subs = [feed(bus) for bus in (one, other)]
        one.publish_batch("documents", ["abc"] * 100)
        assert one.wait(30, progress=False)

        assert len(subs[0].results()) == 100
        assert other.topics().set_index("topic").loc["outcomes-ocr", "events"] == 100
        states = {bus._engine.feeders.status("outcomes-ocr").state for bus in (one, other)}  # type: ignore[union-attr]
        assert states == {"connected", "standby"}


def test_an_outcome_is_an_event_at_once(file: Path) -> None:
    """It wakes the reader: half of all come sooner than a look without a wake-up, after 1 s."""
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model(ocr, name="ocr"))
        follower = feed(bus)
        for n in range(21):
            bus.publish("documents", "abc")
            wait_until(lambda n=n: len(follower.results()) == n + 1)
        took_s = sorted(
            (event["published_at"] - datetime.fromisoformat(event["time"])).total_seconds()
            for event in bus.events("outcomes-ocr").to_dict("records")
        )

        assert took_s[10] < 0.8, took_s


def test_outcomes_are_followed_on_aws_and_large_outputs_left_out(
    aws: Account, tmp_path: Path
) -> None:
    with aws.bus(f"sqlite:///{tmp_path}/log.db") as bus:
        bus.subscribe("documents", mt.model(lambda n: "x" * n, name="ocr"))
        follower = feed(bus)
        bus.publish_batch("documents", [2_000_000, 10])
        wait_until(lambda: len(follower.results()) == 2)

        outputs = [each["output"] for each in follower.results()["data"]]
        assert sorted(outputs, key=str) == [None, "x" * 10]


# -- circles ---------------------------------------------------------------------------------------


def circles(bus: mt.EventBus) -> list[str]:
    table = bus.doctor()
    return list(table[table["check"] == "emit"]["finding"])


def test_a_circle_through_outcomes_is_told_and_the_doctor_names_it(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model(ocr, name="ocr"), listen=False)
    with pytest.warns(UserWarning, match="'feed' emits from 'outcomes-ocr' to 'documents', the"):
        feed(bus, emit="documents", listen=False)

    (finding,) = circles(bus)
    assert "the outcomes of 'ocr' go to 'feed'" in finding


@pytest.mark.parametrize(
    ("passing", "closes"),
    [
        ({"type": [{"anything-but": {"prefix": "mltrigger.outcome."}}]}, False),
        ({"type": ["mltrigger.outcome.dead"]}, True),
        ({"source": [{"anything-but": "mltrigger/outcomes/ocr"}]}, False),
        ({"tenant": ["blue"]}, True),
    ],
)
def test_a_filter_that_keeps_all_outcomes_out_closes_no_circle(
    quiet: mt.EventBus, passing: dict[str, Any], closes: bool
) -> None:
    quiet.subscribe("documents", mt.model(ocr, name="ocr"), listen=False)
    feed(quiet, emit="documents", filter=passing, listen=False)

    assert len(circles(quiet)) == int(closes)


def test_a_subscription_that_follows_itself_ends(quiet: mt.EventBus) -> None:
    quiet.subscribe("documents", mt.model(whole, name="ocr"))
    quiet.unsubscribe("ocr")
    quiet.subscribe("documents", mt.model(whole, name="ocr"), listen=False)
    quiet.registry.source_topic("outcomes://ocr", "outcomes-ocr")
    quiet.unsubscribe("ocr")
    sub = quiet.subscribe(
        "outcomes://ocr", mt.model(whole, name="ocr"), name="ocr", start="earliest"
    )
    assert len(circles(quiet)) == 1
    quiet.publish("outcomes-ocr", mt.Event(1, id="first"))
    assert quiet.wait(60, progress=False)

    assert len(sub.results()) == MAX_HOPS + 1
    wait_until(lambda: detail(quiet) == "1 outcome left out: they go in a circle")


def detail(bus: mt.EventBus) -> str:
    return str(bus.topics().set_index("topic").loc["outcomes-ocr", "detail"])


def test_a_circle_that_multiplies_ends_at_max_descendants(quiet: mt.EventBus) -> None:
    """Each outcome becomes two documents, each of which has an outcome."""
    quiet.subscribe("documents", mt.model(whole, name="ocr"), max_descendants=100)
    for name in ("a", "b"):
        quiet.subscribe(
            "outcomes://ocr",
            mt.model(whole, name=name),
            emit="documents",
            max_descendants=100,
        )
    quiet.publish("documents", mt.Event(1, id="first"))
    assert quiet.wait(120, progress=False)

    assert len(quiet.events("outcomes-ocr")) <= 101
    assert len(quiet.events("documents")) <= 101
    assert quiet.audit()["balanced"].all()


def test_following_does_not_use_up_the_descendants_of_the_followed(bus: mt.EventBus) -> None:
    def splits(n: int) -> int:
        for part in range(40):
            bus.publish("parts", part)
        return n

    bus.topic("parts")
    bus.subscribe("documents", mt.model(splits, name="split"), max_descendants=50)
    bus.subscribe("parts", mt.model(whole, name="ocr"), max_descendants=50)
    follower = feed(bus, max_descendants=50)
    bus.publish("documents", 1)
    assert bus.wait(30, progress=False)

    assert len(follower.results()) == 40
    assert bus.tally(bus.spec("split")) == {"succeeded": 1}
