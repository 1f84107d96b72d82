"""Malformed and hostile inputs that the catalogue does not have (test_bad_inputs_catalogue.py), and
other ways in for those it has.

After each of them the listener is alive and the next good event passes, and what was published is
what ended or is open.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import mltrigger as mt

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
PATIENCE_S = 15.0


def echo(data: Any) -> Any:
    return data


@pytest.fixture
def memory_bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


@pytest.fixture
def sub(memory_bus: mt.EventBus) -> mt.Subscription:
    sub: mt.Subscription = memory_bus.subscribe("pages", echo, max_attempts=1)
    return sub


def assert_the_next_good_event_passes(bus: mt.EventBus, sub: mt.Subscription) -> None:
    before = len(bus.events())
    run = bus.fire(sub.topic, ["good"], timeout_s=PATIENCE_S, progress=False)

    assert run.results()["outcome"].tolist() == ["succeeded"]
    assert sub.state == "listening"
    assert len(bus.events()) == before + 1
    depth, done = sub.depth(), sub.invocations()["outcome"]
    assert (
        len(bus.events(sub.topic))
        == done.isin(["succeeded", "dead", "skipped"]).sum()
        + depth.visible
        + depth.delayed
        + depth.in_flight
    )


def circular() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def coroutine() -> Any:
    async def answer() -> None: ...

    return answer()


def nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


# -- refused at publish: nothing is stored ---------------------------------------------------------

JSON = {"datacontenttype": "application/json"}
Publish = Callable[[mt.EventBus], object]


@pytest.mark.parametrize(
    ("publish", "error", "says"),
    [
        pytest.param(
            lambda bus: bus.publish("pages", lambda: 0),
            mt.NotEncodable,
            r"\$: .*function",
            id="a function",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", {"a": [object()]}),
            mt.NotEncodable,
            r"\$\.a\[0\]",
            id="an object",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", (x for x in "ab")),
            mt.NotEncodable,
            "generator",
            id="a generator",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", coroutine()),
            mt.NotEncodable,
            "coroutine",
            id="a coroutine",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", circular()),
            mt.NotEncodable,
            "contains itself",
            id="a circle",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", nested(900)),
            mt.NotEncodable,
            "100 levels",
            id="BI-012 900 levels",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", nested(20_000)),
            mt.NotEncodable,
            "100 levels",
            id="BI-011 20,000 levels",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", {(1, 2): 3}),
            mt.NotEncodable,
            "key",
            id="a key without text",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", "a\ud800"),
            mt.NotEncodable,
            "surrogate",
            id="BI-014 lone surrogate",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 10**5000),
            mt.NotEncodable,
            "",
            id="BI-010 5,000 digits",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, subject="\ud800"),
            mt.InvalidEvent,
            "subject",
            id="surrogate in the subject",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, time=datetime(2026, 1, 1)),
            mt.InvalidEvent,
            "naive",
            id="a naive time",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, time="2026-01-01"),
            mt.InvalidEvent,
            "time",
            id="a time that is text",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, id=""), mt.InvalidEvent, "id must", id="an empty id"
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, id=5),
            mt.InvalidEvent,
            "id must",
            id="an id that is a number",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, source=" "),
            mt.InvalidEvent,
            "source must",
            id="an empty source",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, extensions={"A": 1}),
            mt.InvalidEvent,
            "extension",
            id="a bad extension",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", 1, extensions=None),
            mt.InvalidEvent,
            "extensions",
            id="no extensions",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", b"a", datacontenttype="xyz"),
            mt.InvalidEvent,
            "media type",
            id="a bad media type",
        ),
        pytest.param(
            lambda bus: bus.publish("pages", {"a": 1}, datacontenttype="image/png"),
            mt.InvalidEvent,
            "bytes",
            id="no bytes",
        ),
        pytest.param(
            lambda bus: bus.publish("pagse", 1), mt.NotFound, "'pages'", id="BI-089 unknown topic"
        ),
        pytest.param(
            lambda bus: bus.publish_batch("pages", [1, 2, object()]),
            mt.NotEncodable,
            "object",
            id="one of three",
        ),
        pytest.param(
            lambda bus: bus.fire("pages", [1, object()], progress=False),
            mt.NotEncodable,
            "object",
            id="one of two fired",
        ),
    ],
)
def test_an_event_that_cannot_be_kept_is_refused_and_nothing_is_stored(
    memory_bus: mt.EventBus,
    sub: mt.Subscription,
    publish: Publish,
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error) as caught:
        publish(memory_bus)

    assert re.search(says, str(caught.value))
    assert len(str(caught.value)) < 1000
    assert len(memory_bus.events()) == 0
    assert_the_next_good_event_passes(memory_bus, sub)


# -- refused at subscribe --------------------------------------------------------------------------


def generating(data: Any) -> Any:
    yield data


def without_argument() -> Any: ...


@pytest.mark.parametrize(
    ("subscribe", "error", "says"),
    [
        pytest.param(
            lambda bus: bus.subscribe("scans", "ocr:1.0.0"),
            mt.NotFound,
            "no model 'ocr'",
            id="unknown model",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", "echo:1.0.0"),
            mt.NotFound,
            "no model version 'echo:1.0.0'",
            id="unknown version",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", "echo@champion"),
            mt.NotFound,
            "no alias",
            id="unknown alias",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", "echo:v1"),
            mt.NotFound,
            "no selector",
            id="no selector",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", without_argument),
            mt.InvalidModel,
            "one argument",
            id="BI-111 no argument",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", generating),
            mt.InvalidModel,
            "generator",
            id="BI-111 generator",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", "ecko.models:read"),
            mt.NotFound,
            "No module named",
            id="no such module",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", lambda x: x),
            mt.InvalidModel,
            "lambda",
            id="a lambda",
        ),
        pytest.param(lambda bus: bus.subscribe("scans", 5), mt.InvalidModel, "int", id="a number"),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, version="1"),
            mt.InvalidModel,
            "semantic version",
            id="half a version",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, max_attempts=0),
            mt.InvalidPolicy,
            "max_attempts",
            id="no attempts",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, max_attempts=None),
            mt.InvalidPolicy,
            "max_attempts",
            id="attempts None",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, timeout_s=math.nan),
            mt.InvalidPolicy,
            "timeout_s",
            id="timeout NaN",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, attempts=3),
            mt.InvalidPolicy,
            "'max_attempts'",
            id="unknown setting",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, start="yesterday"),
            mt.NotFound,
            "'latest'",
            id="unknown start",
        ),
        pytest.param(
            lambda bus: bus.subscribe("s c a n s", len),
            mt.InvalidName,
            "topic name",
            id="a bad topic",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, name="a b"),
            mt.InvalidName,
            "subscription name",
            id="a bad name",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, emit="a b"),
            mt.InvalidName,
            "topic name",
            id="a bad topic to emit to",
        ),
        pytest.param(
            lambda bus: bus.subscribe("scans", len, name="echo"),
            mt.NameTaken,
            "'pages'",
            id="a name that is taken",
        ),
        pytest.param(
            lambda bus: bus.subscribe("file:///no/such/folder/*", len),
            mt.InvalidName,
            "folder",
            id="no folder",
        ),
    ],
)
def test_a_subscription_that_cannot_be_is_refused_and_is_not_there(
    memory_bus: mt.EventBus,
    sub: mt.Subscription,
    subscribe: Publish,
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error) as caught:
        subscribe(memory_bus)

    assert says in str(caught.value)
    assert memory_bus.topics()["topic"].tolist() == ["pages"]
    assert memory_bus.subscriptions()["subscription"].tolist() == ["echo"]
    assert_the_next_good_event_passes(memory_bus, sub)


def test_other_code_under_a_released_version_is_refused_and_the_first_goes_on(
    memory_bus: mt.EventBus,
) -> None:
    def answer(data: Any) -> int:
        return 1

    def other(data: Any) -> int:
        return 2

    memory_bus.subscribe("pages", answer, version="1.0.0")
    with pytest.raises(mt.VersionConflict, match=r"answer:1\.0\.0 .*immutable"):
        memory_bus.subscribe("pages", mt.model(other, name="answer"), version="1.0.0")

    assert memory_bus.fire("pages", [0], timeout_s=PATIENCE_S, progress=False).results()[
        "output"
    ].tolist() == [1]


def test_a_question_about_an_unknown_column_is_answered_with_the_near_ones(
    memory_bus: mt.EventBus, sub: mt.Subscription
) -> None:
    for ask in (sub.invocations, memory_bus.invocations):
        with pytest.raises(mt.NotFound, match="no column 'eror'; did you mean 'error'"):
            ask(columns=["outcome", "eror"])
    with pytest.raises(mt.NotFound, match="no column"):
        sub.invocations(columns=["output; DROP TABLE event"])
    with pytest.raises(mt.NotFound, match="no event 'nothing'"):
        memory_bus.trace("nothing")

    assert_the_next_good_event_passes(memory_bus, sub)


# -- unusual, and delivered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        2**63,
        -(2**64),
        int("1" * 4300),
        math.inf,
        b"\x00\xff",
        "a\x00b\x1b\ufffe",
        HOSTILE,
        "",
        None,
        {"$numberDouble": "about 5"},
        nested(90),
        {"": {"": ""}},
        "'; DROP TABLE event; --",
    ],
    ids=[
        "2**63",
        "-2**64",
        "BI-009 4,300 digits",
        "inf",
        "bytes",
        "BI-019 control characters",
        "markup",
        "empty",
        "None",
        "like a tag",
        "90 levels",
        "empty keys",
        "SQL",
    ],
)
def test_unusual_data_arrives_as_it_was_given(memory_bus: mt.EventBus, data: Any) -> None:
    seen: list[Any] = []

    def keep(given: Any) -> Any:
        seen.append(given)
        return given

    sub = memory_bus.subscribe("pages", keep)
    run = memory_bus.fire("pages", [mt.Event(data)], timeout_s=PATIENCE_S, progress=False)

    assert seen == [data]
    assert run.results()["outcome"].tolist() == ["succeeded"]
    assert len(memory_bus.events()) == 1
    assert_the_next_good_event_passes(memory_bus, sub)


# -- what a model does with it ---------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise GeneratorExit("str")


def raises(error: Callable[[], BaseException]) -> Any:
    raise error()


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        pytest.param(lambda: raises(lambda: SystemExit(1)), "model_error", id="SystemExit"),
        pytest.param(lambda: raises(KeyboardInterrupt), "model_error", id="KeyboardInterrupt"),
        pytest.param(
            lambda: raises(Unprintable), "model_error", id="BI-101 an unprintable exception"
        ),
        pytest.param(
            lambda: raises(lambda: ValueError("x" * 5_000_000)), "model_error", id="a huge message"
        ),
        pytest.param(lambda: raises(lambda: mt.Reject("no page")), "rejected", id="Reject"),
        pytest.param(
            lambda: raises(lambda: mt.Retry("soon")),
            "model_error",
            id="Retry with a text as its delay",
        ),  # type: ignore[arg-type]
        pytest.param(
            lambda: raises(lambda: mt.Retry(math.inf)), "model_error", id="Retry after for ever"
        ),
        pytest.param(
            lambda: raises(lambda: mt.Retry(math.nan)), "model_error", id="Retry after NaN"
        ),
    ],
)
def test_a_model_that_misbehaves_leaves_a_dead_letter_with_its_reason(
    memory_bus: mt.EventBus, behave: Callable[[], Any], reason: str
) -> None:
    def model(data: Any) -> Any:
        return behave() if data == "bad" else data

    sub = memory_bus.subscribe("pages", model, max_attempts=1)
    # No warning about an open outcome: the event has ended when fire returns.
    run = memory_bus.fire("pages", ["bad", "good"], timeout_s=PATIENCE_S, progress=False)
    dead = sub.dead_letters()

    assert run.results()["outcome"].tolist() == ["dead", "succeeded"]
    assert dead[["reason", "data"]].values.tolist() == [[reason, '"bad"']]
    assert dead["error"].str.len().max() < 20_000
    assert_the_next_good_event_passes(memory_bus, sub)


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        pytest.param(lambda: "\ud800", "result_not_serialisable", id="a lone surrogate"),
        pytest.param(lambda: 10**5000, "result_not_serialisable", id="5,000 digits"),
        pytest.param(coroutine, "result_not_serialisable", id="a coroutine"),
    ],
)
def test_an_answer_that_cannot_be_kept_is_dead_at_once_and_never_handed_on(
    memory_bus: mt.EventBus, behave: Callable[[], Any], reason: str
) -> None:
    def model(data: Any) -> Any:
        return behave() if data == "bad" else data

    sub = memory_bus.subscribe("pages", model)
    hands_on = memory_bus.subscribe("pages", model, name="hands-on", emit="next")
    run = memory_bus.fire("pages", ["bad"], timeout_s=PATIENCE_S, progress=False)

    assert run.results()[["outcome", "reason"]].values.tolist() == [
        ["dead", reason],
        ["dead", reason],
    ]
    assert len(memory_bus.events("next")) == 0
    hands_on.unsubscribe()
    assert_the_next_good_event_passes(memory_bus, sub)


def test_a_model_cannot_change_what_another_one_gets(memory_bus: mt.EventBus) -> None:
    seen: list[Any] = []

    def greedy(data: dict[str, Any]) -> None:
        data.clear()
        os.environ.pop("MLTRIGGER_NOTHING", None)

    def modest(data: dict[str, Any]) -> None:
        seen.append(data)

    memory_bus.subscribe("pages", greedy)
    memory_bus.subscribe("pages", modest)
    given = {"page": 1}
    memory_bus.fire("pages", [given, given], timeout_s=PATIENCE_S, progress=False)

    assert seen == [{"page": 1}, {"page": 1}]
    assert given == {"page": 1}


# -- what a store of an earlier release may hold ---------------------------------------------------


@pytest.mark.parametrize("value", ['"words"', "true", '{"kind"', 7, True])
@pytest.mark.parametrize("name", ["messageattributes", "hops", "causationid"])
def test_extension_that_an_earlier_release_took_breaks_no_later_read(
    tmp_path: Path, name: str, value: Any
) -> None:
    file = tmp_path / "bus.db"
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.topic("pages")
        bus.publish("pages", "old", id="poisoned")
        bus.publish("pages", "good", extensions={"kind": "a"})
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        assert (
            store.execute(
                "UPDATE event SET extensions = ? WHERE id = 'poisoned'",
                (json.dumps({name: value}),),
            ).rowcount
            == 1
        )

    with mt.connect(f"sqlite:///{file}") as bus:
        some = bus.subscribe("pages", echo, name="some", filter={"kind": ["a"]}, start="earliest")
        every = bus.subscribe("pages", echo, name="every", start="earliest", emit="next")
        assert bus.wait(PATIENCE_S, progress=False)

        assert some.results()["output"].tolist() == ["good"]
        assert sorted(every.results()["output"]) == ["good", "old"]
        assert not bus.explain("poisoned", "some")["ok"].all()
        assert bus.audit()["balanced"].all()
        assert len(bus.events("pages")) == 2 and len(bus.trace("poisoned")) == 2
        assert some.skipped()["event_id"].tolist() == ["poisoned"]


def test_events_that_name_each_other_as_their_cause_are_traced(memory_bus: mt.EventBus) -> None:
    """In several topics each: looking each of them up again for each that named it would take for
    ever.
    """
    for topic in ("a", "b", "c", "d"):
        memory_bus.topic(topic)
        memory_bus.publish(topic, 1, id="egg", extensions={"causationid": "hen"})
        memory_bus.publish(topic, 2, id="hen", extensions={"causationid": "egg"})
        memory_bus.publish(topic, 3, id="self", extensions={"causationid": "self"})

    assert sorted(memory_bus.trace("egg")["event_id"]) == ["egg"] * 4 + ["hen"] * 4
    assert memory_bus.trace("self")["event_id"].tolist() == ["self"] * 4


def test_event_that_only_names_its_cause_stands_in_its_own_trace(memory_bus: mt.EventBus) -> None:
    memory_bus.topic("pages")
    memory_bus.publish("pages", 1, id="cause")
    memory_bus.publish("pages", 2, id="effect", extensions={"causationid": "cause"})

    assert memory_bus.trace("effect")["event_id"].tolist() == ["cause", "effect"]
