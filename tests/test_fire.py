"""``fire`` and the Run it returns: samples aligned with results, waiting with an end, warnings that
say what is missing.
"""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import io
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import Gate, in_memory, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.testing import SimulatedClock

CAR = {"make": "Volvo", "year": 1987}
Car = collections.namedtuple("Car", ["make", "year"])
RECORDS = np.array([("Volvo", 1987), ("Saab", 1991)], dtype=[("make", "U9"), ("year", "i4")])
FIXED = ["sample", "subscription", "model", "version", "outcome", "reason", "error"]
KEY = ["event_id", "source"]


def sqlite_row() -> sqlite3.Row:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        row: sqlite3.Row = database.execute("SELECT 'Volvo' AS make, 1987 AS year").fetchone()
        return row


ROW = sqlite_row()


@pytest.fixture(autouse=True)
def no_unexpected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def double(n: float) -> float:
    return 2 * n


def write(n: float) -> str:
    return str(n)


def fire(bus: mt.EventBus, topic: str, samples: Any, **options: Any) -> mt.Run:
    return bus.fire(topic, samples, progress=False, **options)


# -- alignment -------------------------------------------------------------------------------------


def test_results_have_one_row_a_sample_in_the_order_of_the_samples(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double, max_concurrency=4)

    results = fire(bus, "numbers", [5, 3, 9, 1, 7]).results()

    assert list(results["sample"]) == [0, 1, 2, 3, 4]
    assert list(results["output"]) == [10, 6, 18, 2, 14]


def test_each_sample_has_a_row_for_every_subscriber(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", mt.model(double, version="1.0.0"))
    bus.subscribe("numbers", mt.model(write, version="2.0.0"))

    results = fire(bus, "numbers", [1, 2]).results()

    assert list(
        zip(
            results["sample"],
            results["subscription"],
            results["version"],
            results["output"],
            strict=True,
        )
    ) == [
        (0, "double", "1.0.0", 2),
        (0, "write", "2.0.0", "1"),
        (1, "double", "1.0.0", 4),
        (1, "write", "2.0.0", "2"),
    ]


def test_outcomes_of_failures_stand_beside_the_others(bus: mt.EventBus) -> None:
    def invert(n: int) -> float:
        if n < 0:
            raise mt.Reject("negative")
        return 1 / n

    bus.subscribe("numbers", invert, max_attempts=1)

    results = fire(bus, "numbers", [2, 0, -1]).results()

    assert list(results["outcome"]) == ["succeeded", "dead", "dead"]
    assert list(results["reason"])[1:] == ["model_error", "rejected"]
    assert list(results["error"])[1:] == ["ZeroDivisionError: division by zero", "Reject: negative"]
    assert results["output"][0] == 0.5
    assert results["output"][1:].isna().all()


def test_outputs_that_are_objects_become_columns(bus: mt.EventBus) -> None:
    def describe(n: int) -> dict[str, Any]:
        return {"half": n // 2, "model": "mine"} if n % 2 == 0 else {"odd": True}

    bus.subscribe("numbers", describe)

    results = fire(bus, "numbers", [4, 5]).results()

    assert list(results.columns) == [*FIXED, "half", "output_model", "odd", *KEY]
    # a missing value does not turn whole numbers into floats
    assert results["half"].dtype == "Int64"
    assert (results["half"][0], results["output_model"][0], results["odd"][1]) == (2, "mine", True)
    assert list(results["model"]) == ["describe", "describe"]


def test_result_of_an_event_that_needed_several_attempts_is_its_last_one(
    bus: mt.EventBus, clock: SimulatedClock, gate: Gate
) -> None:
    failures = iter([ValueError, KeyError])

    def recovers(n: int) -> int:
        gate.wait()
        for error in failures:
            raise error
        return n

    sub = bus.subscribe("numbers", recovers, timeout_s=40_000)
    with pytest.warns(UserWarning, match="still open"):
        run = fire(bus, "numbers", [7], timeout_s=0)
    gate.open()
    settle(bus, clock, sub)

    assert list(run.results()["outcome"]) == ["succeeded"]
    assert list(run.invocations()["outcome"]) == ["failed", "failed", "succeeded"]


def test_run_knows_its_own_samples_only(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)
    fire(bus, "numbers", [1, 2])

    run = fire(bus, "numbers", [3])

    assert len(run) == 1
    assert list(run.results()["output"]) == [6]
    assert len(run.invocations()) == 1
    assert len(sub.invocations()) == 3


def test_event_that_was_fired_before_is_found_with_its_result(bus: mt.EventBus) -> None:
    calls: list[int] = []

    def counts(n: int) -> int:
        calls.append(n)
        return 2 * n

    bus.subscribe("numbers", counts)
    event = mt.Event(21, id="n-21")
    fire(bus, "numbers", event)

    again = fire(bus, "numbers", event)

    assert [r.duplicate for r in again.receipts] == [True]
    assert list(again.results()["output"]) == [42]
    assert calls == [21]


def test_same_event_twice_in_one_run_has_its_result_in_both_places(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double)
    event = mt.Event(1, id="a")

    run = fire(bus, "numbers", [event, mt.Event(2, id="b"), event], timeout_s=5)

    assert run.open == 0
    assert list(run.results()["output"]) == [2, 4, 2]


def test_event_that_was_published_before_a_subscription_is_not_waited_for_there(
    bus: mt.EventBus,
) -> None:
    bus.subscribe("numbers", double)
    event = mt.Event(1, id="a")
    fire(bus, "numbers", event)
    bus.subscribe("numbers", mt.model(write, name="late"))

    run = fire(bus, "numbers", event, timeout_s=5)

    assert list(run.results()["subscription"]) == ["double"]


# -- what can be fired -----------------------------------------------------------------------------


@in_memory
@pytest.mark.parametrize(
    ("samples", "seen"),
    [
        ({"page": 1}, [{"page": 1}]),
        ("one text, not its letters", ["one text, not its letters"]),
        (b"\x89PNG", [b"\x89PNG"]),
        (7, [7]),
        (None, [None]),
        ([1, "a", None], [1, "a", None]),
        (lambda: ({"n": n} for n in range(2)), [{"n": 0}, {"n": 1}]),
        (mt.Event("whole event"), ["whole event"]),
        ([mt.Event("a"), "b"], ["a", "b"]),
        (range(2), [0, 1]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        (pd.Series(["a", "b"]), [["a", "b"]]),
        (pd.DataFrame({"make": ["Volvo"], "year": [1987]}).iloc[0], [CAR]),
        (pd.DataFrame([[1, 2], [3, 4]]).iloc[0], [[1, 2]]),
        (Car("Volvo", 1987), [CAR]),
        ([Car("Volvo", 1987), Car("Saab", 1991)], [CAR, {"make": "Saab", "year": 1991}]),
        (RECORDS[0], [CAR]),
        (RECORDS, [CAR, {"make": "Saab", "year": 1991}]),
        (ROW, [CAR]),
        ([ROW, ROW], [CAR, CAR]),
        (bytearray(b"not its numbers"), [b"not its numbers"]),
        (np.array(7), [7]),
        (
            pd.DataFrame({"n": [1, 2], "name": ["a", "b"]}),
            [{"n": 1, "name": "a"}, {"n": 2, "name": "b"}],
        ),
        (
            pd.DataFrame(
                {"at": pd.to_datetime(["2026-11-23"]), "score": [np.float32(0.5)], "none": [pd.NA]}
            ),
            [{"at": "2026-11-23T00:00:00", "score": 0.5, "none": None}],
        ),
        (dt.date(2026, 11, 23), ["2026-11-23"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_samples_may_come_as(bus: mt.EventBus, samples: Any, seen: list[Any]) -> None:
    got: list[Any] = []
    bus.subscribe("anything", mt.model(lambda value: got.append(value), name="keeps"))

    run = fire(bus, "anything", samples() if callable(samples) else samples)

    assert got == seen
    assert len(run) == len(seen)


def test_a_column_of_a_frame_is_one_event_and_the_way_to_fire_each_value_is_said(
    bus: mt.EventBus,
) -> None:
    sub = bus.subscribe("texts", mt.model(len, name="length"))

    with pytest.warns(
        UserWarning,
        match=(
            r"the Series 'text' is one event, a list; fire\(series\.tolist\(\)\) makes an event of"
            r" each"
        ),
    ):
        fire(bus, "texts", pd.DataFrame({"text": ["a", "b", "c"]})["text"])

    assert list(sub.results()["output"]) == [3]


def test_empty_frame_and_empty_list_fire_nothing_without_a_warning(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double)

    for samples in ([], pd.DataFrame({"n": []})):
        run = fire(bus, "numbers", samples)
        assert (len(run), run.open, len(run.results())) == (0, 0, 0)


# -- frames ----------------------------------------------------------------------------------------


def test_results_have_the_same_columns_and_dtypes_when_there_are_none(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double)

    empty, full = fire(bus, "numbers", []).results(), fire(bus, "numbers", [1.5]).results()

    assert list(empty.columns) == list(full.columns) == [*FIXED, "output", *KEY]
    for column in [*FIXED, *KEY]:
        assert empty[column].dtype == full[column].dtype, column
    assert full["sample"].dtype == "Int64"
    assert isinstance(full["outcome"].dtype, pd.CategoricalDtype)


def test_invocations_have_the_same_columns_and_dtypes_when_there_are_none(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)

    empty = sub.invocations()
    fire(bus, "numbers", [1])
    full = sub.invocations()

    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert str(full["published_at"].dtype) == "datetime64[us, UTC]"
    assert fire(bus, "numbers", []).invocations().dtypes.to_dict() == full.dtypes.to_dict()


# -- waiting ---------------------------------------------------------------------------------------


def test_fire_returns_after_its_timeout_with_what_is_there_and_says_what_is_not(
    bus: mt.EventBus, gate: Gate
) -> None:
    def waits(n: int) -> int:
        if n == 2:
            gate.wait()
        return n

    bus.subscribe("numbers", waits)
    bus.subscribe("numbers", double)

    with pytest.warns(
        UserWarning,
        match=r"1 of 4 outcomes are still open after 0\.5 s: 1 of 'waits'; run\.wait\(\) goes on",
    ):
        run = fire(bus, "numbers", [1, 2], timeout_s=0.5)

    results = run.results()
    assert list(results["outcome"]) == ["succeeded", "succeeded", "open", "succeeded"]
    assert run.open == 1
    assert "1 open" in repr(run)
    assert results["output"][2] is None or pd.isna(results["output"][2])


def test_wait_goes_on_where_fire_gave_up(bus: mt.EventBus, gate: Gate) -> None:
    def waits(n: int) -> int:
        gate.wait()
        return 10 * n

    bus.subscribe("numbers", waits)
    with pytest.warns(UserWarning, match="still open"):
        run = fire(bus, "numbers", [1, 2], timeout_s=0)
    gate.open()

    assert run.wait(20, progress=False) is run
    assert run.open == 0
    assert list(run.results()["output"]) == [10, 20]
    assert repr(run) == "Run('numbers': 2 samples, 2 succeeded)"


def test_results_are_read_again_without_waiting(bus: mt.EventBus, gate: Gate) -> None:
    def waits(n: int) -> int:
        gate.wait()
        return n

    bus.subscribe("numbers", waits)
    with pytest.warns(UserWarning, match="still open"):
        run = fire(bus, "numbers", 1, timeout_s=0)
    gate.open()

    wait_until(lambda: list(run.results()["outcome"]) == ["succeeded"])


def test_bus_waits_until_everything_that_an_event_caused_has_ended(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double, emit="doubled")
    bus.subscribe("doubled", write, emit="texts")
    last = bus.subscribe("texts", mt.model(lambda text: text * 2, name="twice"))
    bus.publish_batch("numbers", [1, 2])

    assert bus.wait(20, progress=False)

    assert sorted(last.invocations()["output"]) == ['"22"', '"44"']


def test_bus_waits_no_longer_than_it_is_told(bus: mt.EventBus, gate: Gate) -> None:
    bus.subscribe("numbers", mt.model(lambda _: gate.wait(), name="waits"))
    bus.publish("numbers", 1)

    assert not bus.wait(0.05, progress=False)


def test_samples_that_fail_while_they_are_made_publish_nothing(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double)

    with pytest.raises(ZeroDivisionError):
        bus.fire("numbers", (1 // (2 - n) for n in range(5)), progress=False)

    assert bus.events("numbers").empty
    assert list(fire(bus, "numbers", 1).results()["output"]) == [2]


def test_fire_warns_at_once_when_nobody_listens(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double, listen=False)
    bus.subscribe("numbers", write)

    with pytest.warns(UserWarning) as caught:
        run = fire(bus, "numbers", 1, timeout_s=0)

    assert "no live listener for 'double': its events wait until one starts" in str(
        caught[0].message
    )
    bus.subscription("double").start()
    assert list(run.wait(20, progress=False).results()["outcome"]) == ["succeeded", "succeeded"]


def test_stopped_subscription_is_not_taken_for_a_live_one(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)
    sub.stop()

    with pytest.warns(UserWarning) as caught:
        fire(bus, "numbers", 1, timeout_s=0)

    assert "no live listener for 'double'" in str(caught[0].message)


def test_fire_warns_when_the_topic_has_no_subscription_and_does_not_wait(bus: mt.EventBus) -> None:
    bus.topic("numbers")

    began = time.monotonic()
    with pytest.warns(
        UserWarning,
        match="topic 'numbers' has no subscription: the events are kept, and nobody runs",
    ):
        run = fire(bus, "numbers", [1, 2])

    assert time.monotonic() - began < 10
    assert (len(run), len(run.results()), len(bus.events("numbers"))) == (2, 0, 2)
    assert repr(run) == "Run('numbers': 2 samples, no subscription)"


def test_warnings_point_at_the_line_that_fired(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double, listen=False)

    with pytest.warns(UserWarning) as caught:
        bus.fire("numbers", 1, timeout_s=0, progress=False)
        sub.fire(1, timeout_s=0, progress=False)

    assert [str(w.message).partition(" ")[0] for w in caught] == ["no", "1", "no", "1"]
    assert {w.filename for w in caught} == {__file__}


def test_unknown_topic_is_refused_before_anything_is_published(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double)

    with pytest.raises(mt.NotFound, match="did you mean 'numbers'"):
        fire(bus, "number", 1)
    assert bus.events().empty


def test_sample_that_cannot_be_published_publishes_none(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)

    with pytest.raises(mt.NotEncodable, match=r"\$\.f: a value of type 'function'"):
        fire(bus, "numbers", [1, {"f": double}])

    assert bus.events("numbers").empty
    assert outcomes(sub) == []


def test_subscription_fires_on_its_own_topic(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)

    assert list(sub.fire([4], progress=False).results()["output"]) == [8]


def test_runs_of_several_threads_do_not_mix(bus: mt.EventBus) -> None:
    bus.subscribe("numbers", double, max_concurrency=2)
    wrong: list[object] = []

    def cell(first: int) -> None:
        for n in range(first, first + 5):
            outputs = list(fire(bus, "numbers", [n, -n]).results()["output"])
            if outputs != [2 * n, -2 * n]:
                wrong.append(outputs)

    threads = [threading.Thread(target=cell, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert wrong == []
    assert len(bus.events("numbers")) == 40


# -- what is said while one waits ------------------------------------------------------------------


class Stream(io.StringIO):
    """Standard error, and which threads wrote to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: set[int] = set()

    def write(self, text: str) -> int:
        self.writers.add(threading.get_ident())
        return super().write(text)


class Unloadable:
    """A model whose weights are nowhere."""

    def warm_up(self) -> None:
        raise FileNotFoundError("weights-v2.bin")

    def __call__(self, data: Any) -> Any:
        return data


def shown(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[mt.Run, str, Stream]:
    """Fire one sample with the bar; return the run, everything on standard error, and the stream."""
    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = bus.fire("mails", [{"sender": "a@b"}], **options)
    return run, stream.getvalue(), stream


def failing(error: Exception) -> Any:
    def parse(mail: Any) -> str:
        raise error

    return mt.model(parse, name="parse", version="1.0.0")


def test_progress_bar_counts_outcomes_and_leaves_nothing_on_stdout(
    bus: mt.EventBus, capsys: pytest.CaptureFixture[str]
) -> None:
    bus.subscribe("numbers", double)

    bus.fire("numbers", [1, 2, 3], progress=True)

    assert capsys.readouterr().out == ""


@in_memory
@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused by 10.0.0.7"),
        RuntimeError("CUDA out of memory"),
        ValueError("no date"),
    ],
)
def test_bar_says_what_fails_and_which_attempt_it_is(
    bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    # the clock stands still: the second attempt does not come
    bus.subscribe("mails", failing(error))

    _, text, stream = shown(bus, monkeypatch, timeout_s=0.5)

    assert f"parse fails: {type(error).__name__}: {error} (attempt 1 of 5)" in text
    assert stream.writers == {threading.get_ident()}


@in_memory
@pytest.mark.parametrize(
    "error",
    [
        KeyError("sender"),
        TypeError("not a text"),
        NameError("spam"),
        AttributeError("no splitt"),
        IndexError("3"),
    ],
)
def test_an_error_that_cannot_pass_is_told_at_once_and_once(
    bus: mt.EventBus, error: Exception
) -> None:
    bus.subscribe("mails", failing(error))

    with pytest.warns(UserWarning) as caught:
        bus.fire("mails", [1, 2, 3], progress=False, timeout_s=0.5)

    told = [str(w.message) for w in caught if "interrupt the cell" in str(w.message)]
    assert len(told) == 1
    assert told[0].startswith(
        f"parse:1.0.0 fails: {type(error).__name__}: {error} (attempt 1 of 5)"
    )
    assert caught[0].filename == __file__


def test_a_failure_that_may_pass_is_no_warning(bus: mt.EventBus, clock: SimulatedClock) -> None:
    failures = iter([ConnectionError("refused")])

    def recovers(n: int) -> int:
        for error in failures:
            clock.advance(s=0)
            raise error
        return n

    sub = bus.subscribe("numbers", recovers)
    threading.Thread(
        target=lambda: (wait_until(lambda: sub.depth().delayed), settle(bus, clock, sub)),
        daemon=True,
    ).start()

    assert list(fire(bus, "numbers", 7).results()["output"]) == [7]


def test_open_row_has_the_failure_of_its_last_attempt(bus: mt.EventBus) -> None:
    bus.subscribe("mails", failing(ConnectionError("refused")))

    with pytest.warns(UserWarning, match="still open"):
        row = fire(bus, "mails", 1, timeout_s=0.5).results().iloc[0]

    assert (row["outcome"], row["reason"], row["error"]) == (
        "open",
        "model_error",
        "ConnectionError: refused",
    )
    assert (row["model"], row["version"]) == ("parse", "1.0.0")


def test_run_shows_the_error_of_its_dead_samples(bus: mt.EventBus) -> None:
    bus.subscribe("mails", failing(KeyError("sender")), max_attempts=1)

    page = fire(bus, "mails", [1, 2])._repr_html_()

    assert "error, 2 times" in page
    assert "parse: KeyError: &#x27;sender&#x27;" in page


# -- what cannot come ------------------------------------------------------------------------------


@in_memory
@pytest.mark.parametrize("progress", [True, False])
def test_fire_returns_when_its_model_cannot_be_loaded_and_the_row_says_why(
    bus: mt.EventBus, progress: bool
) -> None:
    sub = bus.subscribe("mails", mt.model(Unloadable, name="broken", version="1.0.0"))
    why = "model broken:1.0.0 could not be loaded: FileNotFoundError: weights-v2.bin"

    began = time.monotonic()
    with pytest.warns(UserWarning) as caught:
        run = bus.fire("mails", 1, progress=progress)

    assert time.monotonic() - began < 20
    assert f"none can come by itself: 1 of 'broken' ({why})" in str(caught[0].message)
    row = run.results().iloc[0]
    assert (row["outcome"], row["reason"], row["error"]) == ("open", "held", why)
    finding = sub.doctor().query("check == 'model'")["finding"].item()
    assert finding == f"it cannot be called here: {why}; 1 event waiting"


@pytest.mark.parametrize("hold", ["stop", "pause"])
def test_fire_returns_at_once_when_only_a_command_could_go_on(bus: mt.EventBus, hold: str) -> None:
    sub = bus.subscribe("numbers", mt.model(lambda n: n, name="same", version="1.0.0"))
    getattr(sub, hold)()

    began = time.monotonic()
    with pytest.warns(UserWarning) as caught:
        run = fire(bus, "numbers", 1)

    assert time.monotonic() - began < 20
    words = {
        "stop": (
            "no live listener for 'same': its events wait until one starts; sub.start() delivers"
            " here"
        ),
        "pause": "'same' is paused: its events wait until sub.resume()",
    }
    assert str(caught[0].message) == words[hold]
    row = run.results().iloc[0]
    assert (row["outcome"], row["reason"]) == (
        "open",
        {"stop": "no_listener", "pause": "paused"}[hold],
    )
    {"stop": sub.start, "pause": sub.resume}[hold]()
    assert list(run.wait(20, progress=False).results()["output"]) == [1]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_fire_waits_for_a_worker_that_may_start_and_says_so(bus: mt.EventBus) -> None:
    sub = bus.subscribe("words", "builtins:len", name="length", listen=False)
    threading.Timer(0.7, sub.start).start()

    with pytest.warns(UserWarning) as caught:
        run = fire(bus, "words", "word", timeout_s=20)

    assert list(run.results()["output"]) == [4]
    assert [str(w.message) for w in caught] == [
        "no live listener for 'length': its events wait until one starts; sub.start() delivers"
        " here, `mltrigger worker --subscription length` in a process of its own"
    ]


def test_outcomes_that_can_come_are_waited_for_beside_those_that_cannot(
    bus: mt.EventBus, gate: Gate
) -> None:
    bus.subscribe("numbers", mt.model(lambda n: n, name="stopped", version="1.0.0"), listen=False)
    bus.subscribe("numbers", mt.model(lambda n: (gate.wait(), n)[1], name="slow", version="1.0.0"))
    threading.Timer(0.3, gate.open).start()

    with pytest.warns(UserWarning) as caught:
        run = fire(bus, "numbers", 5)

    assert "no live listener for 'stopped'" in str(caught[0].message)

    assert list(run.results()["outcome"]) == ["open", "succeeded"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_model_that_lives_in_another_notebook_is_said_at_the_beginning(
    bus: mt.EventBus, url: str
) -> None:
    bus.subscribe("numbers", mt.model(lambda n: n, name="mine", version="1.0.0"), name="reader")
    with mt.connect(url) as other:
        other.subscribe(
            "numbers", mt.model(lambda n: -n, name="mine", version="2.0.0"), name="reader"
        )

    wait_until(lambda: "another notebook" in bus.subscription("reader").state)

    began = time.monotonic()
    with pytest.warns(UserWarning) as caught:
        run = fire(bus, "numbers", 1)

    assert "model mine:2.0.0 lives in another notebook; run the cell that defines it here" in str(
        caught[0].message
    )
    assert time.monotonic() - began < 20
    assert list(run.results()["reason"]) == ["held"]


def test_bus_says_what_it_cannot_wait_for(bus: mt.EventBus) -> None:
    sub = bus.subscribe("numbers", double)
    sub.pause()
    bus.publish_batch("numbers", [1, 2])

    began = time.monotonic()
    with pytest.warns(
        UserWarning,
        match=r"2 events are open, and nothing can end them by itself: 2 of 'double' \(paused",
    ):
        assert not bus.wait(progress=False)

    assert time.monotonic() - began < 20


def test_failures_before_a_redrive_are_no_news(bus: mt.EventBus) -> None:
    failures = [KeyError("total")]

    def once(page: Any) -> Any:
        while failures:
            raise failures.pop()
        return page

    sub = bus.subscribe("pages", once, max_attempts=1)
    fire(bus, "pages", 1)
    sub.redrive()

    assert bus.wait(20, progress=False)  # without a warning
    assert list(sub.results()["output"]) == [1]
