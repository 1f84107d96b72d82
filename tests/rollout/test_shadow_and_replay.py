"""Lanes: shadows and replays answer every event once, and nobody outside hears of them."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from emulators import Account
from model_servers import ModelServer
from shared import Gate, wait_until
from stores import SQL, url_of

import mltrigger as mt

KINDS = ("plain", "filter", "batches", "process", "address", "async", "queue", "ordered")


def answers(version: str, name: str = "ocr") -> mt.Model:
    """A version that answers with its number."""
    said = version

    def ocr(document: object) -> str:
        return said

    return mt.model(ocr, name=name, version=version)


def batched(version: str) -> mt.Model:
    said = version

    def ocr(documents: list[object]) -> list[str]:
        return [said] * len(documents)

    return mt.model(ocr, name="ocr", version=version, batch=True)


def asynchronous(version: str) -> mt.Model:
    said = version

    async def ocr(document: object) -> str:
        return said

    return mt.model(ocr, name="ocr", version=version)


class Kind:
    """A subscription of one kind, and a second version of its model."""

    def __init__(self, request: pytest.FixtureRequest, tmp_path: Path, stack: Any) -> None:
        kind: str = request.param
        self.topic = "documents.fifo" if kind == "ordered" else "documents"
        if kind in ("queue", "ordered"):
            account: Account = request.getfixturevalue("aws")
            self.bus = account.bus(f"sqlite:///{tmp_path}/bus.db")
        else:
            self.bus = stack.enter_context(mt.connect(f"sqlite:///{tmp_path}/bus.db"))
        options: dict[str, Any] = {"emit": "answers.fifo" if kind == "ordered" else "answers"}
        make: Callable[[str], Any] = answers
        if kind == "filter":
            options["filter"] = {"subject": ["even"]}
        elif kind == "batches":
            make = batched
        elif kind == "process":
            options["isolation"] = "process"
        elif kind == "async":
            make = asynchronous
        elif kind == "address":
            urls = {v: stack.enter_context(ModelServer(v)).url for v in ("1.0.0", "1.1.0")}

            def make(version: str) -> Any:
                return mt.model(urls[version], name="ocr", version=version)

        self.kind, self.keys = kind, dict[str, str]()
        self.sub = self.bus.subscribe(self.topic, make("1.0.0"), name="ocr", **options)
        self.bus.register(make("1.1.0"))

    def fire(self, n: int) -> list[str]:
        """Publish *n* events, wait for the live answers, and return the ids that pass."""
        events = [
            mt.Event(
                i,
                subject="even" if i % 2 == 0 else "odd",
                type="page",
                extensions={"partitionkey": f"customer-{i % 3}"},
            )
            for i in range(n)
        ]
        self.keys |= {e.id: str(e.extensions["partitionkey"]) for e in events}
        self.bus.fire(self.topic, events, progress=False)
        return [e.id for e in events if self.kind != "filter" or e.subject == "even"]


@pytest.fixture(params=KINDS)
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    with contextlib.ExitStack() as stack:
        yield Kind(request, tmp_path, stack)


def test_lanes_answer_each_event_once_and_change_nothing_for_the_live_version(each: Kind) -> None:
    before = each.fire(10)
    shadow = each.sub.shadow("1.1.0")
    after = each.fire(12)
    shadow.wait()
    replay = each.sub.replay("1.1.0", wait=True)

    found = each.sub.invocations(role="all")
    by_role = {role: found[found["role"] == role] for role in ("live", "shadow", "replay")}
    assert sorted(by_role["live"]["event_id"]) == sorted(before + after)
    assert sorted(by_role["shadow"]["event_id"]) == sorted(after)
    assert sorted(by_role["replay"]["event_id"]) == sorted(before + after)
    assert set(found["outcome"]) == {"succeeded"}
    assert set(found["subscription"]) == {"ocr"}
    assert {*by_role["live"]["version"]} == {"1.0.0"}
    assert {*by_role["shadow"]["version"], *by_role["replay"]["version"]} == {"1.1.0"}
    assert replay.state == "done"
    assert set(replay.results()["output"]) == {"1.1.0"}

    assert set(each.sub.results()["output"]) == {"1.0.0"}
    assert len(each.sub.results()) == len(before + after)
    assert len(each.bus.events("answers.fifo" if each.kind == "ordered" else "answers")) == len(
        before + after
    )
    (balance,) = each.bus.audit().to_dict("records")
    assert balance["balanced"]
    assert balance["succeeded"] == len(before + after)


def test_canary_promote_and_correction_give_each_event_one_answer(each: Kind) -> None:
    before = each.fire(8)
    each.sub.canary("1.1.0", steps=[0.5])
    during = each.fire(24)
    each.sub.promote()
    after = each.fire(6)
    correction = each.sub.correct(0).start().wait()

    found = each.sub.invocations(role=["live", "canary"])
    assert sorted(found["event_id"]) == sorted(before + during + after)
    assert set(found["outcome"]) == {"succeeded"}
    roles = found.groupby("event_id")["role"].first().astype(str)
    versions = found.groupby("event_id")["version"].first().astype(str)
    assert set(roles[before + after]) == {"live"}
    assert set(versions[before]) == {"1.0.0"}
    assert set(versions[after]) == {"1.1.0"}
    assert set(zip(roles[during], versions[during], strict=True)) <= {
        ("live", "1.0.0"),
        ("canary", "1.1.0"),
    }
    by_key = versions[during].groupby([each.keys[event_id] for event_id in during]).nunique()
    assert set(by_key) == {1}
    assert [bound.answered for bound in each.sub.history()] == [
        len(before),
        len(during),
        len(after),
    ]

    assert correction.progress().corrected == len(before)
    texts = each.bus.events("answers.fifo" if each.kind == "ordered" else "answers")
    assert len(texts) == len(before + during + after) + len(before)
    (balance,) = each.bus.audit().to_dict("records")
    assert balance["balanced"]
    assert balance["corrected"] == len(before)


# -- what a lane is not ----------------------------------------------------------------------------


@pytest.fixture(params=SQL)
def bus(request: pytest.FixtureRequest) -> Iterator[mt.EventBus]:
    with mt.connect(url_of(request)) as bus:
        yield bus


def test_lanes_are_in_no_list_and_no_count_of_subscriptions(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    shadow = sub.shadow("1.1.0")
    run = bus.fire("documents", [1, 2, 3], progress=False)
    shadow.wait()

    assert list(bus.subscriptions()["subscription"]) == ["ocr"]
    assert list(bus.topics()["subscriptions"]) == [1]
    assert list(run.results()["subscription"]) == ["ocr"] * 3
    assert set(run.invocations()["role"]) == set(bus.invocations()["role"]) == {"live"}
    assert run.receipts[0].subscriptions == ("ocr",)
    assert set(bus.latency()["count"]) == set(sub.latency()["count"]) == {3}
    assert set(sub.latency()["version"]) == {"1.0.0"}
    assert "3 succeeded" in repr(sub)
    assert len(bus.doctor().query("about != 'bus' and about != 'ocr'")) == 0
    with pytest.raises(mt.NotFound, match=r"did you mean|known|subscription"):
        bus.subscription(shadow.name)


def test_repeat_of_an_event_does_not_name_the_shadow(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    sub.shadow("1.1.0").wait()
    event = mt.Event(1)

    bus.publish("documents", event)

    assert bus.publish("documents", event).subscriptions == ("ocr",)


def test_failures_of_a_lane_are_rows_and_no_dead_letters(bus: mt.EventBus) -> None:
    def bad(document: object) -> str:
        raise ValueError("no")

    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(mt.model(bad, name="ocr", version="1.1.0"))
    shadow = sub.shadow("1.1.0")
    bus.fire("documents", [1, 2], progress=False)
    shadow.wait()

    assert list(shadow.invocations()["outcome"]) == ["dead"] * 2  # one attempt each
    assert set(shadow.invocations()["error"]) == {"no"}
    assert (shadow.progress().done, shadow.progress().failed) == (2, 2)
    assert len(sub.dead_letters()) == 0
    assert sub.depth().dead == 0
    assert list(sub.results()["output"]) == ["1.0.0"] * 2


# -- a share ---------------------------------------------------------------------------------------


def test_share_is_chosen_by_the_key_of_an_event_and_leaves_no_row_of_the_others(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    shadow = sub.shadow("1.1.0", share=0.3)
    events = [mt.Event(n, subject=f"page {n % 50}") for n in range(400)]
    bus.fire("documents", events, progress=False)
    shadow.wait()

    found = shadow.invocations()
    subjects = {e.id: e.subject for e in events}
    mine = {subjects[event_id] for event_id in found["event_id"]}
    assert 3 <= len(mine) <= 27
    assert len(found) == 8 * len(mine)  # each event of a chosen key
    assert set(found["role"]) == {"shadow"}
    assert shadow.progress().remaining == 0


# -- cells run again -------------------------------------------------------------------------------


def test_same_shadow_again_is_the_same_lane_and_another_share_replaces_it(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))

    first = sub.shadow("1.1.0", share=0.5)
    assert sub.shadow("1.1.0", share=0.5).name == first.name
    second = sub.shadow("1.1.0", share=0.7)

    assert second.name != first.name
    assert first.state == "stopped"
    assert [lane.role for lane in sub.lanes()] == ["live", "shadow", "shadow"]


# -- bad input -------------------------------------------------------------------------------------


def test_wrong_settings_and_an_unknown_version_are_refused(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    with pytest.raises(mt.NotFound, match=r"ocr:1\.0\.0"):
        sub.shadow("1.0.1")
    for share in (0, 1.5, -1, True, "half"):
        with pytest.raises(mt.InvalidPolicy, match="share"):
            sub.shadow("1.0.0", share=share)  # type: ignore[arg-type]
    with pytest.raises(mt.InvalidPolicy, match="max_concurrency"):
        sub.shadow("1.0.0", concurrency=0)
    with pytest.raises(mt.InvalidPolicy, match="max_rate_per_s"):
        sub.replay("1.0.0", max_rate_per_s=-1, limit=1)
    with pytest.raises(mt.InvalidPolicy, match="limit"):
        sub.replay("1.0.0", limit=0)
    with pytest.raises(mt.NotFound, match="recorded"):
        sub.shadow("1.0.0", effects="record")  # type: ignore[arg-type]
    with pytest.raises(mt.NotFound, match="nothing to replay"):
        sub.replay("1.0.0")
    assert len(sub.lanes()) == 1


def test_replay_older_than_the_retention_says_so(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.fire("documents", list(range(20)), progress=False)
    bus.retain(max_events=5)
    bus.prune()

    with pytest.warns(UserWarning, match=r"were deleted, as bus\.retain"):
        replay = sub.replay("1.0.0", since="2d", wait=True)

    assert (replay.progress().total, replay.progress().done) == (5, 5)
    with pytest.raises(mt.NotFound, match="nothing to replay"):
        sub.replay("1.0.0", until="3d")


# -- replays ---------------------------------------------------------------------------------------


def test_replay_takes_the_newest_events_that_pass_the_filter(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"), filter={"subject": ["even"]})
    events = [mt.Event(n, subject="odd" if n % 2 else "even") for n in range(40)]
    bus.fire("documents", events, progress=False)

    replay = sub.replay("1.0.0", limit=7, wait=True)

    assert set(replay.invocations()["event_id"]) == {e.id for e in events[26::2]}
    assert replay.progress().total == 7


def test_replay_of_named_events_calls_the_version_with_those_alone(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    receipts = bus.publish_batch("documents", range(8))
    bus.wait(progress=False)
    frame = sub.invocations(columns=["event_id", "source"])

    lane = sub.replay("1.1.0", events=frame.iloc[[1, 4, 4]], max_rate_per_s=1000, wait=True)
    other = sub.replay("1.1.0", events=receipts[6].event_id, wait=True)
    sub.replay("1.1.0", wait=True)  # all of them is another lane than a few

    assert (lane.progress().total, other.progress().total) == (2, 1)
    called = Counter(sub.invocations(role="replay")["event_id"])
    chosen = {receipts[n].event_id for n in (1, 4, 6)}
    assert {event for event, n in called.items() if n == 2} == chosen
    assert sum(called.values()) == 11
    with pytest.raises(mt.InvalidPolicy, match="leave since, until and limit out"):
        sub.replay("1.1.0", events=frame, limit=3)
    with pytest.raises(mt.NotFound, match="no event 'nothing'"):
        sub.replay("1.1.0", events=["nothing"])
    with pytest.raises(mt.NotFound, match="nothing to replay"):
        sub.replay("1.1.0", events=frame.iloc[:0])


def test_replay_of_all_that_match_takes_each_event_once_in_parts(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.rollout.replaying._STEP", 2)
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    bus.publish_batch("documents", [mt.Event(n, subject=f"{n % 3}.pdf") for n in range(9)])
    bus.wait(progress=False)
    up_to = bus.log.newest_row()
    chosen = {*sub.invocations(text="1.pdf")["event_id"]}
    bus.publish("documents", mt.Event(9, subject="1.pdf"))
    bus.wait(progress=False)

    where: Any = {"text": "1.pdf", "up_to": up_to}
    lane = sub.replay("1.1.0", where=where, wait=True)

    assert (lane.state, lane.progress().total, lane.progress().done) == ("done", 3, 3)
    assert {*sub.invocations(role="replay")["event_id"]} == chosen
    assert sub.replay("1.1.0", wait=True).progress().total == 10  # all is another lane than a part
    with pytest.raises(mt.InvalidPolicy, match="leave since, until, limit and events out"):
        sub.replay("1.1.0", where=where, limit=3)
    with pytest.raises(mt.NotFound, match="nothing to replay"):
        sub.replay("1.1.0", where={"text": "no such text"})
    with pytest.raises(mt.NotFound, match="did you mean 'outcome'"):
        sub.replay("1.1.0", where={"outcom": "dead"})  # type: ignore[typeddict-unknown-key]


def test_replay_of_all_that_match_goes_on_where_a_killed_process_was(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.rollout.replaying._STEP", 2)
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    bus.publish_batch("documents", range(7))
    bus.wait(progress=False)
    where: Any = {"outcome": "succeeded", "up_to": bus.log.newest_row()}

    class Killed(BaseException):
        pass

    def kill(done: int) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("mltrigger.rollout.replaying.reached", kill)
        patched.setattr(type(bus.rollout.lanes), "end", lambda *_: False)  # it has no time for this
        with pytest.raises(Killed):
            sub.replay("1.1.0", where=where)

    lane = sub.replay("1.1.0", where=where, wait=True)

    assert (lane.state, lane.progress().total, lane.progress().done) == ("done", 7, 7)
    assert len(sub.lanes()) == 2


def test_replay_of_an_id_that_two_sources_have_asks_for_the_source(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"), name="ocr")
    bus.publish_batch("documents", [mt.Event(n, id="page", source=f"s{n}") for n in range(2)])
    bus.wait(progress=False)
    bus.register(answers("1.1.0"))

    with pytest.raises(mt.AmbiguousEvent, match="say which, source="):
        sub.replay("1.1.0", events="page")
    lane = sub.replay("1.1.0", events="page", source="s1", wait=True)

    assert lane.results()["source"].tolist() == ["s1"]


def test_replay_at_a_rate_begins_no_more_than_that(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.fire("documents", list(range(60)), progress=False)

    replay = sub.replay("1.0.0", max_rate_per_s=20).wait()

    started = replay.invocations()["started_at"]
    assert len(started) == 60
    assert (started.max() - started.min()).total_seconds() >= 1.5  # a second's worth at once


def test_stopped_replay_goes_on_where_it_was(bus: mt.EventBus, gate: Gate) -> None:
    calls: list[object] = []

    def slow(document: object) -> object:
        calls.append(document)
        if len(calls) == 5:
            gate.wait()
        return document

    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(mt.model(slow, name="ocr", version="1.1.0"))
    bus.fire("documents", list(range(20)), progress=False)
    replay = sub.replay("1.1.0")
    wait_until(lambda: len(calls) == 5)

    replay.stop()
    gate.open()
    wait_until(lambda: replay.progress().remaining + replay.progress().done == 20)
    assert replay.state == "stopped"
    (again,) = [lane for lane in sub.lanes() if lane.role == "replay"]
    assert again.start().wait().state == "done"

    assert sorted(replay.invocations().query("outcome == 'succeeded'")["output"].map(int)) == [
        *range(20)
    ]
    assert len(calls) == 20
    with pytest.raises(mt.NotFound, match="is done"):
        replay.start()


def test_delayed_event_comes_to_the_shadow_when_it_is_due(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    shadow = sub.shadow("1.1.0")

    bus.fire("documents", [1], delay_s=0.2, progress=False)
    wait_until(lambda: shadow.progress().done == 1)

    assert list(shadow.invocations()["outcome"]) == ["succeeded"]


# -- the end of a subscription ---------------------------------------------------------------------


def test_unsubscribing_ends_the_lanes_and_a_new_binding_does_not_revive_them(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    bus.fire("documents", [1], progress=False)
    shadow, replay = sub.shadow("1.1.0"), sub.replay("1.1.0", max_rate_per_s=0.01)

    sub.unsubscribe()
    again = bus.subscribe("documents", answers("1.0.0"))
    bus.fire("documents", [2], progress=False)

    assert [shadow.state, replay.state] == ["unsubscribed"] * 2
    assert len(shadow.invocations()) == 0
    assert {lane.state for lane in again.lanes()} == {"listening", "unsubscribed"}
    for lane in (shadow, replay):
        with pytest.raises(mt.NotFound, match="ended with its subscription"):
            lane.start()


def test_canary_shadow_and_replay_run_at_the_same_time(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    for version in ("1.1.0", "1.2.0"):
        bus.register(answers(version))
    sub.canary("1.1.0", steps=[0.5], min_s=3600)
    shadow = sub.shadow("1.2.0")
    run = bus.fire("documents", list(range(60)), progress=False)
    shadow.wait()
    replay = sub.replay("1.2.0", wait=True)

    assert set(run.results()["output"]) == {"1.0.0", "1.1.0"}
    assert Counter(sub.invocations(role="all")["role"])["shadow"] == 60
    assert replay.progress().done == 60
    assert [lane.role for lane in sub.lanes()] == ["live", "canary", "shadow", "replay"]
    frame = sub.lanes().frame()
    assert list(frame["share"])[1] == 0.5
    assert frame["done"].iloc[1] == (run.results()["output"] == "1.1.0").sum()


def test_frame_of_lanes_has_its_columns_and_dtypes_with_and_without_lanes(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    empty = sub.lanes().frame()
    sub.shadow("1.0.0", why="<b>look</b>")

    pd.testing.assert_series_equal(empty.dtypes, sub.lanes().frame().dtypes)
    assert "<b>look" not in sub.lanes()._repr_html_()
    assert "&lt;b&gt;look" in sub.lanes()[1]._repr_html_()
    assert "share" in sub.lanes()[1].progress()._repr_html_()


# -- lanes that misbehave --------------------------------------------------------------------------


def test_hanging_shadow_holds_back_neither_live_calls_nor_the_end_of_the_bus(
    tmp_path: Path,
) -> None:
    for_ever = threading.Event()

    def hangs(document: object) -> str:
        for_ever.wait()
        return "late"

    bus = mt.connect(f"sqlite:///{tmp_path}/bus.db")
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(mt.model(hangs, name="ocr", version="1.1.0"))
    shadow = sub.shadow("1.1.0")
    run = bus.fire("documents", list(range(50)), progress=False)
    wait_until(lambda: sub.invocations(role="shadow")["outcome"].tolist() == ["running"])

    closer = threading.Thread(target=bus.close)
    closer.start()
    closer.join(10)
    still_closing = closer.is_alive()
    for_ever.set()

    assert set(run.results()["output"]) == {"1.0.0"}
    assert not still_closing
    assert shadow.name.startswith("ocr~shadow-")


def test_shadow_in_a_process_that_dies_fails_its_events_alone(tmp_path: Path) -> None:
    def dies(document: int) -> int:
        import os

        if document % 5 == 0:
            os._exit(3)
        return document

    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        sub = bus.subscribe("documents", answers("1.0.0"), isolation="process")
        bus.register(mt.model(dies, name="ocr", version="1.1.0"))
        shadow = sub.shadow("1.1.0")
        run = bus.fire("documents", list(range(10)), progress=False)
        shadow.wait()

        assert set(run.results()["output"]) == {"1.0.0"}
        ended = shadow.invocations().query("outcome in ['succeeded', 'dead']")
        assert Counter(ended["outcome"]) == {"succeeded": 8, "dead": 2}
        assert set(ended.query("outcome == 'dead'")["reason"]) == {"worker_died"}
        assert sub.depth().dead == 0


class Liar:
    """An answer that cannot be written down, and that raises when it is looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_shadow_that_lies_is_recorded_and_nothing_else(bus: mt.EventBus) -> None:
    lies: list[Any] = [Liar(), float("nan"), "x" * 2_000_000, object]

    def lying(document: int) -> Any:
        return lies[document]

    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(mt.model(lying, name="ocr", version="1.1.0"))
    shadow = sub.shadow("1.1.0")
    run = bus.fire("documents", [0, 1, 2, 3], progress=False)
    shadow.wait()

    assert list(run.results()["output"]) == ["1.0.0"] * 4
    assert sorted(shadow.invocations()["event_id"]) == sorted(r.event_id for r in run.receipts)
    assert shadow.progress().remaining == 0


# -- processes -------------------------------------------------------------------------------------

WORKER = """
import sys
import mltrigger as mt

def ocr(document):
    return "1.0.0"

def newer(document):
    import time
    time.sleep(0.002)
    return "1.1.0"

bus = mt.connect(sys.argv[1])
sub = bus.subscribe("documents", mt.model(ocr, name="ocr", version="1.0.0"))
bus.register(mt.model(newer, name="ocr", version="1.1.0"))
print("ready", flush=True)
sys.stdin.readline()
bus.close()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    started: list[subprocess.Popen[str]] = []

    def start(url: str) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, str(script), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def test_two_processes_share_a_replay_and_it_survives_the_death_of_one(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    url = f"sqlite:///{tmp_path}/bus.db"
    first = start(url)
    with mt.connect(url) as bus:
        sub = bus.subscription("ocr")
        bus.publish_batch("documents", list(range(1_500)))
        wait_until(lambda: len(sub.results()) == 1_500)
        replay = sub.replay("1.1.0")
        wait_until(lambda: replay.progress().done > 50)
        start(url)
        wait_until(
            lambda: sub.invocations(role="replay", columns=["worker"])["worker"].nunique() > 1
        )
        first.kill()
        wait_until(lambda: replay.state == "done")

        found = sub.invocations(role="replay")
        final = found[found["outcome"].isin(["succeeded", "dead"])]
        assert len(final) == final["event_id"].nunique() == 1_500
        assert set(final["outcome"]) == {"succeeded"}
        assert list(bus.audit()["balanced"]) == [True]


def test_replay_that_nobody_runs_says_so_and_goes_on_later(tmp_path: Path) -> None:
    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus:
        sub = bus.subscribe("documents", answers("1.0.0"))
        bus.fire("documents", [1, 2], progress=False)
        sub.stop()
        replay = sub.replay("1.0.0")

        with pytest.warns(UserWarning, match="2 events left: waiting for a listener of 'ocr'"):
            replay.wait()
        sub.start()

        assert replay.wait().state == "done"


# -- the archive -----------------------------------------------------------------------------------


def test_lane_holds_the_archive_up_to_its_limit_and_the_doctor_says_so(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.rollout.lanes.HOLD_EVENTS", 30)
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    replayed = sub.shadow("1.1.0", max_rate_per_s=0.001)  # one event, then it waits
    bus.fire("documents", [0], progress=False)
    wait_until(lambda: replayed.progress().done == 1)
    bus.fire("documents", list(range(1, 21)), progress=False)
    bus.retain(max_events=5)

    assert bus.prune().events == 1  # the one that the lane has answered
    assert len(bus.doctor().query("check == 'lane'")) == 0

    bus.fire("documents", list(range(21, 61)), progress=False)
    (finding,) = bus.doctor().query("check == 'lane'").to_dict("records")
    assert finding["about"] == replayed.name
    assert "more than the 30 events or 7 days" in finding["finding"]
    assert len(sub.doctor().query("check == 'lane'")) == 1
    bus.prune()
    assert len(bus.events()) == 30
    assert replayed.progress().remaining == 30

    replayed.stop()
    bus.prune()
    assert len(bus.events()) == 5


def test_stopped_replay_of_single_events_goes_on_without_those_that_were_deleted(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.fire("documents", list(range(20)), progress=False)
    replay = sub.replay("1.0.0", max_rate_per_s=0.001)
    wait_until(lambda: replay.progress().done == 1)
    replay.stop()
    bus.retain(max_events=5)
    bus.prune()

    assert len(bus.events()) == 5
    at = replay.start().progress()
    assert at.done + at.remaining == 6


# -- comparisons -----------------------------------------------------------------------------------


def reads(version: str, wrong: int = 0) -> mt.Model:
    """A version that reads a page, and every so many pages another way."""
    every = wrong

    def ocr(page: int) -> dict[str, Any]:
        return {"text": "?" if every and page % every == 0 else f"page {page}"}

    return mt.model(ocr, name="ocr", version=version)


def test_compare_pairs_live_answers_with_those_of_a_shadow_and_of_a_replay(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", reads("1.0.0"))
    bus.register(reads("1.1.0", wrong=10))
    bus.fire("documents", list(range(1, 51)), progress=False)
    shadow = sub.shadow("1.1.0")
    bus.fire("documents", list(range(51, 101)), progress=False)
    shadow.wait()
    only_shadow = sub.compare("1.0.0", "1.1.0")
    sub.replay("1.1.0", wait=True)

    found = sub.compare("ocr:1.0.0", "ocr:1.1.0", by="type", agree_at_least=None)

    assert (only_shadow.counts["pairs"], found.counts["pairs"]) == (50, 100)
    assert found.counts["flip"] == len(found.flips()) == 10
    assert found.versions == ("ocr:1.0.0", "ocr:1.1.0")
    assert found.verdict.repeated  # the shadow goes on
    shadow.stop()
    assert sub.compare("1.0.0", "1.1.0").verdict.repeated  # perhaps for its figures
    assert not sub.compare("1.0.0", "1.1.0", repeated=False).verdict.repeated


def test_compare_without_pairs_says_how_to_get_them(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", reads("1.0.0"))
    bus.register(reads("1.1.0"))
    bus.fire("documents", [1], progress=False)

    with pytest.raises(mt.NothingToCompare, match=r"replay.*shadow"):
        sub.compare("1.0.0", "1.1.0")
    with pytest.raises(mt.NotFound, match=r"ocr:1\.0\.0"):
        sub.compare("1.0.0", "1.2.0")
    with pytest.raises(mt.InvalidComparison, match="noise"):
        sub.compare("1.0.0", "1.1.0", noise=-1)


def test_noise_runs_the_old_version_again_once_and_is_no_side_of_the_comparison(
    bus: mt.EventBus,
) -> None:
    calls: list[int] = []

    def random(page: int) -> int:
        calls.append(page)
        return calls.count(page)  # another answer each time

    sub = bus.subscribe("documents", mt.model(random, name="ocr", version="1.0.0"))
    bus.register(reads("1.1.0"))
    bus.fire("documents", list(range(40)), progress=False)
    sub.replay("1.1.0", wait=True)

    sub.compare("1.0.0", "1.1.0", noise=10)
    found = sub.compare("1.0.0", "1.1.0", noise=10)

    assert len(calls) == 50
    assert found.counts["pairs"] == 40
    assert "noise" in repr(found)


def test_newest_replay_counts_and_a_verdict_of_a_comparison_promotes(bus: mt.EventBus) -> None:
    answered = iter(["other"] * 5 + ["same"] * 5)

    def newer(page: int) -> str:
        return next(answered)

    sub = bus.subscribe("documents", mt.model(lambda page: "same", name="ocr", version="1.0.0"))
    bus.register(mt.model(newer, name="ocr", version="1.1.0"))
    bus.fire("documents", list(range(5)), progress=False)
    sub.replay("1.1.0", wait=True)
    assert sub.compare("1.0.0", "1.1.0").counts["flip"] == 5
    sub.replay("1.1.0", wait=True)

    found = sub.compare("1.0.0", "1.1.0", agree_at_least=None, within=0.9, slow_at_most=0.9)

    assert (found.counts["pairs"], found.counts["flip"]) == (5, 0)
    sub.promote("1.1.0", verdict=found, force=None if found.verdict.word == "SHIP" else "few")
    assert sub.selector == "ocr:1.1.0" or sub.history()[-1].version == "ocr:1.1.0"


def test_version_is_compared_with_itself_by_its_lanes(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", reads("1.0.0"))
    bus.fire("documents", list(range(30)), progress=False)
    sub.replay("1.0.0", wait=True)

    assert sub.compare("1.0.0", "1.0.0").counts["same"] == 30


def test_labels_are_part_of_a_comparison(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", reads("1.0.0"))
    bus.register(reads("1.1.0", wrong=2))
    run = bus.fire("documents", list(range(1, 21)), progress=False)
    sub.replay("1.1.0", wait=True)
    for receipt, page in zip(run.receipts, range(1, 21), strict=True):
        bus.label(receipt.event_id, {"text": f"page {page}"})
    bus.label("another event", "of another topic")

    found = sub.compare("1.0.0", "1.1.0")

    assert found.counts["labelled"] == 20
    assert found.counts["labels_without_pair"] == 0


# -- with other parts ------------------------------------------------------------------------------


def test_share_of_plain_events_in_batches_is_called_in_batches(bus: mt.EventBus) -> None:
    sub = bus.subscribe("documents", batched("1.0.0"), batch_size=200)
    bus.register(batched("1.1.0"))
    shadow = sub.shadow("1.1.0", share=0.5)
    bus.publish_batch("documents", list(range(1_000)))
    wait_until(lambda: len(sub.results()) == 1_000)
    shadow.wait()

    found = shadow.invocations()
    assert 400 <= len(found) <= 600
    assert set(found["outcome"]) == {"succeeded"}
    assert found["batch_size"].max() > 1


def test_shadow_waits_for_the_recorded_effect_of_a_slower_live_call(
    bus: mt.EventBus, gate: Gate
) -> None:
    charged: list[int] = []

    def pay(order: int) -> str:
        gate.wait()
        return str(mt.once("charge", charge, order))

    def pay_faster(order: int) -> str:
        return str(mt.once("charge", charge, order))

    def charge(order: int) -> str:
        charged.append(order)
        return f"receipt {order}"

    sub = bus.subscribe("orders", mt.model(pay, name="pay", version="1.0.0"))
    bus.register(mt.model(pay_faster, name="pay", version="1.1.0"))
    shadow = sub.shadow("1.1.0")
    bus.publish("orders", 7)
    wait_until(lambda: "failed" in set(sub.invocations(role="shadow")["outcome"]))
    gate.open()
    wait_until(lambda: shadow.progress().done == 1)

    assert charged == [7]
    assert list(shadow.results()["output"]) == ["receipt 7"]


def test_cancelled_event_is_cancelled_in_its_lanes_and_only_subscriptions_are_named(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("documents", answers("1.0.0"))
    bus.register(answers("1.1.0"))
    shadow = sub.shadow("1.1.0")
    sub.stop()
    receipt = bus.publish("documents", 1)

    assert list(bus.cancel(receipt)) == []

    assert shadow.progress().remaining == 0
    assert list(sub.invocations(role="shadow")["reason"]) == ["cancelled"]


def test_lane_does_not_use_the_executor_of_the_live_version(tmp_path: Path) -> None:
    class Pool(futures.ThreadPoolExecutor):
        """A pool that a lane must not break."""

        calls = 0

        def submit(self, *given: Any, **named: Any) -> Any:
            Pool.calls += 1
            return super().submit(*given, **named)

    with mt.connect(f"sqlite:///{tmp_path}/bus.db") as bus, Pool(1) as pool:
        sub = bus.subscribe("documents", answers("1.0.0"), executor=pool)
        bus.register(answers("1.1.0"))
        bus.fire("documents", [1, 2], progress=False)
        before = Pool.calls

        replay = sub.replay("1.1.0", wait=True)

        assert set(replay.results()["output"]) == {"1.1.0"}
        assert Pool.calls == before > 0
