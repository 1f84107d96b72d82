"""The catalogue of malformed and hostile inputs (``bad_inputs.json``), each case of it applied to
the embedded broker.

What is expected (outcome, reason code, number of attempts) is read from the file; the table here
only says how a case is applied. A body that a foreign queue would deliver, and the listener
dead-letter, is refused to its publisher here: nothing of it is stored.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import datetime as dt
import decimal
import functools
import hashlib
import io
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import settle, wait_until

import mltrigger as mt
from mltrigger import clock as clocks
from mltrigger.broker import MAX_EVENT_BYTES
from mltrigger.delivery.recorder import Recorder
from mltrigger.store.lots import By
from mltrigger.store.sqlite import files
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.invoke import MAX_OUTPUT_BYTES, Result

CASES: dict[str, dict[str, Any]] = {
    case["id"]: case
    for case in json.loads(
        (Path(__file__).parents[1] / "data" / "bad_inputs.json").read_text("utf-8")
    )["cases"]
}
HOSTILE = "<img src=x onerror=alert(1)>"
PATIENCE_S = 60.0
JSON = "application/json"
Action = Callable[["Bench"], object]


def echo(data: Any) -> Any:
    return data


@dataclasses.dataclass
class Bench:
    """A bus on which time is told, and where the case may put files."""

    bus: mt.EventBus
    clock: SimulatedClock
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def fire(self, samples: list[Any], topic: str = "pages") -> mt.Run:
        return self.bus.fire(topic, samples, timeout_s=PATIENCE_S, progress=False)

    def refused(self, action: Callable[[], object], error: type[Exception]) -> Exception:
        with pytest.raises(error) as caught:
            action()
        assert len(str(caught.value)) < 1000
        return caught.value

    def all_is_well(self, sub: mt.Subscription) -> None:
        """The listener is alive, the next good event succeeds, and every event is accounted for."""
        assert self.fire(["good"], sub.topic).results().query(f"subscription == {sub.name!r}")[
            "outcome"
        ].tolist() == ["succeeded"]
        assert sub.state == "listening"
        audit = self.bus.audit()
        assert audit["balanced"].all(), audit.to_string()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    clock = SimulatedClock()
    with mt.connect("memory://", clock=clock) as bus:
        yield Bench(bus, clock, tmp_path, monkeypatch)


# -- the ways a case is applied --------------------------------------------------------------------


def check_reason(case: dict[str, Any], found: object) -> None:
    assert found == case.get("reason_code", found)


@dataclasses.dataclass(frozen=True)
class RefusedAtPublish:
    """A typed error at the caller, with the reason code; nothing is stored."""

    publish: tuple[Action, ...]
    error: type[Exception] = mt.InvalidEvent
    reason: str | None = None
    outcomes = ("dead_letter", "reject_at_publish", "http_error")

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        sub = bench.bus.subscribe("pages", echo)
        for publish in self.publish:
            error = bench.refused(functools.partial(publish, bench), self.error)
            if self.reason is not None:
                assert getattr(error, "reason", None) == self.reason
            elif isinstance(error, mt.InvalidEvent):
                check_reason(case, error.reason)
        assert (
            len(bench.bus.events()) == len(sub.invocations()) == case.get("model_attempts", 0) == 0
        )
        bench.all_is_well(sub)


@dataclasses.dataclass(frozen=True)
class RefusedAtSubscribe:
    """A typed error at the caller; neither subscription nor topic is there."""

    subscribe: tuple[Action, ...]
    error: type[Exception]
    says: str
    outcomes = ("reject_at_register",)

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        sub = bench.bus.subscribe("pages", echo)
        for subscribe in self.subscribe:
            error = bench.refused(functools.partial(subscribe, bench), self.error)
            assert self.says in str(error)
            if isinstance(error, mt.InvalidFilter):
                check_reason(case, error.reason)
        assert bench.bus.subscriptions()["subscription"].tolist() == ["echo"]
        assert bench.bus.topics()["topic"].tolist() == ["pages"]
        bench.all_is_well(sub)


@dataclasses.dataclass(frozen=True)
class Delivered:
    """The model runs once an event, gets what it should, and its answer is the outcome."""

    samples: Callable[[], list[Any]]
    expected: Callable[[], list[Any]] | None = None
    model: Callable[[Any], Any] = echo
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    warns: str | None = None
    outcomes = (
        "delivered",
        "accepted",
        "two events",
        "split",
        "process executor",
        "the child",
        "captured",
    )

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        got: list[Any] = []

        def kept(data: Any) -> Any:
            got.append(data)
            return self.model(data)

        isolated = self.options.get("isolation") == "process"
        sub = bench.bus.subscribe(
            "pages",
            mt.model(self.model if isolated else kept, name="kept"),
            max_attempts=1,
            **self.options,
        )
        samples = self.samples()
        with (
            contextlib.nullcontext()
            if self.warns is None
            else pytest.warns(UserWarning, match=self.warns)
        ):
            run = bench.fire(samples)

        assert run.results()["outcome"].tolist() == ["succeeded"] * len(samples), (
            run.results().to_string()
        )
        assert run.invocations()["attempt"].tolist() == [case.get("model_attempts", 1)] * len(
            samples
        )
        assert len(sub.dead_letters()) == 0
        if self.expected is not None:
            assert (run.results()["output"].tolist() if isolated else got) == self.expected()
        bench.all_is_well(bench.bus.subscribe("pages", echo) if "filter" in self.options else sub)


@dataclasses.dataclass(frozen=True)
class Unkept:
    """Dead after one attempt, since the answer has no JSON form; and nothing is handed on."""

    answers: tuple[Callable[[], Any], ...]
    outcomes = ("dead_letter",)

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        for answer in self.answers:

            def model(given: Any, answer: Callable[[], Any] = answer) -> Any:
                return answer() if given == "bad" else given

            sub = bench.bus.subscribe("pages", model)
            hands_on = bench.bus.subscribe("pages", model, name="hands-on", emit="next")
            run = bench.fire(["bad"])
            rows = run.invocations().query(f"subscription == {sub.name!r}").reset_index()

            reason = case.get("reason_code", "result_not_serialisable")
            assert run.results()[["outcome", "reason"]].values.tolist() == [["dead", reason]] * 2
            assert len(rows) == case["model_attempts"]
            assert "the model ran, and its answer cannot be kept: $" in rows["error"][0]
            assert len(rows["error"][0]) < 5000
            assert set(hands_on.dead_letters()["raw"]) == {b'"bad"'}
            assert len(bench.bus.events("next")) == 0
            hands_on.unsubscribe()
            bench.all_is_well(sub)
            sub.unsubscribe()


@dataclasses.dataclass(frozen=True)
class Dies:
    """Every attempt is recorded; then a dead letter with the reason and the raw bytes, beside
    events that are not harmed.
    """

    model: Callable[[Any], Any]
    attempts: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    error: str = ""
    outcomes = ("failed_then_dead_letter", "process executor", "SIGKILL")

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        sub = bench.bus.subscribe(
            "pages", self.model, **{"max_attempts": self.attempts, **self.options}
        )
        bench.bus.publish("pages", {"do": "bad", "with": "\u00e9"})
        settle(bench.bus, bench.clock, sub)
        dead, rows = sub.dead_letters(), sub.invocations()

        assert case["model_attempts"] in ("max_attempts", self.attempts)
        assert rows["outcome"].tolist() == ["failed"] * (self.attempts - 1) + ["dead"], rows[
            ["outcome", "reason", "error"]
        ].to_string()
        assert rows["attempt"].tolist() == list(range(1, self.attempts + 1))
        assert (
            set(rows["reason"])
            == set(dead["reason"])
            <= set(self.reasons or (case["reason_code"],))
        )
        assert self.error in dead["error"][0]
        assert dead["error"].str.len().max() < 20_000
        assert dead["raw"].tolist() == ['{"do":"bad","with":"\u00e9"}'.encode()]
        bench.all_is_well(sub)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A case with steps of its own; *act* returns the subscription that must be alive afterwards."""

    act: Callable[[dict[str, Any], Bench], mt.Subscription | None]

    def check(self, case: dict[str, Any], bench: Bench) -> None:
        bench.all_is_well(
            self.act(case, bench) or bench.bus.subscribe("pages", mt.model(echo, name="after"))
        )


# -- inputs and models -----------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def circular() -> Any:
    value: dict[str, Any] = {}
    value["d"] = value
    return value


def raw(*bodies: bytes) -> tuple[Action, ...]:
    """Publish bytes that say they are JSON."""
    return tuple(
        functools.partial(
            lambda body, bench: bench.bus.publish("pages", body, datacontenttype=JSON), body
        )
        for body in bodies
    )


def filtered(*policies: Any, **options: Any) -> tuple[Action, ...]:
    return tuple(
        functools.partial(
            lambda p, bench: bench.bus.subscribe("scans", echo, name="f", filter=p, **options), p
        )
        for p in policies
    )


def named(extension: str, bench: Bench) -> object:
    return bench.bus.publish("pages", 1, extensions={extension: 1})


def structured(**changes: Any) -> Action:
    """Publish CloudEvents JSON; a change to None leaves the member out."""
    members = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1, **changes}
    text = json.dumps({name: value for name, value in members.items() if value is not None})
    return lambda bench: bench.bus.publish("pages", mt.Event.from_json(text))


def bad(given: Any) -> bool:
    return isinstance(given, dict) and given.get("do") == "bad"


def raises_when_told(given: Any) -> Any:
    if bad(given):
        raise ValueError("x")
    return given


def over_a_lock() -> mt.Model:
    lock = threading.Lock()
    return mt.model(lambda given: (lock, given), name="locked")


class Unprintable:
    def __repr__(self) -> str:
        raise SystemExit("repr")

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise SystemExit("reduce")


class Markup:
    def __repr__(self) -> str:
        return HOSTILE

    def _repr_html_(self) -> str:
        return HOSTILE


@dataclasses.dataclass
class Page:
    number: int


ODD_ANSWERS: dict[str, tuple[Any, Any]] = {
    "numpy scalar": (np.float32(1.5), 1.5),
    "numpy NaN": (np.float32("nan"), {"$numberDouble": "NaN"}),
    "numpy array": (np.arange(3), [0, 1, 2]),
    "frame": (pd.DataFrame({"a": [1]}), [{"a": 1}]),
    "bytes": (b"\x00", {"$binary": {"base64": "AA==", "subType": "00"}}),
    "set": ({2, 1}, [1, 2]),
    "decimal": (decimal.Decimal("1.10"), {"$numberDecimal": "1.10"}),
    "datetime": (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "2026-01-01T00:00:00+00:00"),
    "dataclass": (Page(1), {"number": 1}),
}


# Models for a process of their own are sent by value, with what they import inside.


def dies_when_told(given: Any) -> Any:
    import os
    import signal

    if isinstance(given, dict):
        os.kill(os.getpid(), signal.SIGSEGV)
    return given


def eats_when_told(given: Any) -> Any:
    return len(bytearray(10**11)) if isinstance(given, dict) else given


def spins_when_told(given: Any) -> Any:
    while isinstance(given, dict):
        pass
    return given


def ignores_when_told(given: Any) -> Any:
    import signal
    import time

    if isinstance(given, dict):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1e6)
    return given


def forks(given: Any) -> Any:
    import os

    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with subprocess.Popen(["true"]):
        return given


def prints_a_lot(given: Any) -> Any:
    import os

    print("x" * 10_000_000)
    os.write(1, b"\xff")
    return given


def rearranges(given: Any) -> Any:
    import os
    import random
    import signal
    import warnings

    os.chdir("/")
    os.environ["MLTRIGGER_REARRANGED"] = "1"
    os.umask(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("error")
    random.seed(0)
    return given


for _model in (
    dies_when_told,
    eats_when_told,
    spins_when_told,
    ignores_when_told,
    forks,
    prints_a_lot,
    rearranges,
):
    # so that it travels with the call, and no process imports this file
    _model.__module__ = "__main__"


# -- cases with steps of their own -----------------------------------------------------------------


def text_where_json_is_due(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """As JSON it is refused; as text it is delivered."""
    RefusedAtPublish(raw(b"hello", b'{"a": 1}\n{"a": 2}')).check(case, bench)
    sub = bench.bus.subscription("echo")
    run = bench.fire([mt.Event("hello", datacontenttype="text/plain"), "hello"])
    assert run.results()["output"].tolist()[1] == "hello"
    return sub


def wide_filter(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """AWS refuses it; here it works, and the doctor says so."""
    sub = bench.bus.subscribe(
        "pages",
        mt.model(echo, name="wide"),
        filter=ast.literal_eval(case["input"]),
        filter_scope="body",
    )
    kept_out = bench.bus.publish("pages", {"a": 1})

    assert bench.fire([{"a": 10**11}]).results()["outcome"].tolist() == ["succeeded"]
    assert kept_out.subscriptions == ()
    assert "SNS would refuse this filter" in set(sub.doctor()["advice"])
    return bench.bus.subscribe("pages", echo)


def body_filter_and_text(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """SNS loses it silently; here it can be seen."""
    sub = bench.bus.subscribe(
        "pages", mt.model(echo, name="picky"), filter={"a": ["b"]}, filter_scope="body"
    )
    receipt = bench.bus.publish("pages", b"hello", datacontenttype="text/plain")

    assert receipt.subscriptions == ()
    assert len(sub.invocations()) == case["model_attempts"]
    assert [
        (reason, "not_json" in detail)
        for reason, detail in sub.skipped()[["reason", "detail"]].values
    ] == [("filtered", True)]
    assert bench.bus.audit()["filtered"].tolist() == [1]
    return bench.bus.subscribe("pages", echo)


def other_source(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe("pages", echo)
    run = bench.fire([mt.Event(1, id="7"), mt.Event(2, id="7", source="other")])

    assert run.results()["output"].tolist() == [1, 2]
    assert [receipt.duplicate for receipt in run.receipts] == [False, False]
    return sub


def other_data(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """The first is kept; the warning holds both hashes, and the event says for ever that it was
    repeated.
    """
    sub = bench.bus.subscribe("pages", echo)
    bench.fire([mt.Event("first", id="7")])
    hashes = [hashlib.sha256(text).hexdigest()[:12] for text in (b'"first"', b'"second"')]
    with pytest.warns(
        UserWarning, match=f"'7' was published before with other data.*{hashes[0]}.*{hashes[1]}"
    ):
        again = bench.fire([mt.Event("second", id="7")])

    assert again.receipts[0].duplicate
    assert again.results()["output"].tolist() == ["first"]
    assert bench.bus.events()["data"].tolist() == ['"first"']
    assert len(sub.invocations()) == case["model_attempts"]
    assert sub.skipped()[["reason", "detail"]].values.tolist() == [
        ["duplicate", "published 1 more times, 1 of them with other data"]
    ]
    assert "duplicate" in set(sub.explain("7")["step"])
    return sub


def any_time(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe("pages", echo)
    times = [
        "2999-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "2016-12-31T23:59:60Z",
        "1970-01-01T00:00:00Z",
    ]
    members = {"specversion": "1.0", "source": "s", "type": "t"}
    run = bench.fire(
        [mt.Event.from_json(json.dumps({**members, "id": time, "time": time})) for time in times]
    )
    rows = run.invocations()

    assert rows["outcome"].tolist() == ["succeeded"] * 4
    assert set(rows["attempt"]) == {case["model_attempts"]}
    assert set(rows["published_at"]) == {pd.Timestamp(bench.clock.now_us(), unit="us", tz="UTC")}
    assert rows["event_id"].tolist() == times
    assert len(bench.bus.events()) == 4
    return sub


@contextlib.contextmanager
def watching(
    bench: Bench, model: Callable[[mt.Event], Any], *names: str, **options: Any
) -> Iterator[mt.Subscription]:
    """Subscribe to a folder with files that have been lying there for a minute."""
    folder = bench.folder / "scans"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"page")
        os.utime(folder / name, (time.time() - 60,) * 2)
    sub = bench.bus.subscribe(f"file://{folder}/*", mt.model(model, name="opens"), **options)
    bench.bus.wait(PATIENCE_S, progress=False)
    yield sub
    sub.unsubscribe()  # what comes now by hand announces no file


def _read(event: mt.Event) -> str:
    with event.open() as file:
        return file.read().decode()


def forged_names(case: dict[str, Any], bench: Bench) -> None:
    """The event is delivered, its name is only data, and nothing outside of the folder is opened."""

    def opens(event: mt.Event) -> Any:
        try:
            return _read(event)
        except mt.InvalidEvent as error:
            return error.reason

    with watching(bench, opens) as sub:
        names = ["../../etc/passwd", "/etc/passwd", "a\x00b", "C:\\x", "..", "file:///etc/passwd"]
        run = bench.fire([mt.Event(None, subject=name) for name in names], sub.topic)
        assert run.results()["output"].tolist() == ["nothing_to_open"] * len(names)
        assert set(run.invocations()["attempt"]) == {case["model_attempts"]}


def strange_names(case: dict[str, Any], bench: Bench) -> None:
    names = ["a\u202egnp.exe", "a\nb", "\x1b[2J", HOSTILE.replace("/", "")]
    with watching(bench, _read, *names) as sub:
        rows, results = sub.invocations(), sub.results()
        shown = [
            results.to_string(),
            results._repr_html_(),
            bench.bus.events().to_string(),
        ]  # type: ignore[operator]

        assert rows["outcome"].tolist() == ["succeeded"] * 4
        assert set(rows["attempt"]) == {case["model_attempts"]}
        assert not [text for text in shown for mark in ("\u202e", "\x1b") if mark in text]
        assert "<img" not in shown[1]


def gone_before_it_is_read(case: dict[str, Any], bench: Bench) -> None:
    def late(event: mt.Event) -> str:
        (bench.folder / "scans" / str(event.subject)).unlink(missing_ok=True)
        return _read(event)

    with watching(bench, late, max_attempts=3) as sub:
        bench.bus.publish(sub.topic, None, subject="a.png")
        settle(bench.bus, bench.clock, sub)
        assert (
            sub.invocations()["reason"].tolist() == [case["reason_code"]] * case["model_attempts"]
        )
        assert sub.dead_letters()["raw"].tolist() == [b"null"]


def feeds_itself(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe("loop", echo, emit="loop")
    bench.bus.publish("loop", 1)
    settle(bench.bus, bench.clock, sub)
    dead, rows = sub.dead_letters(), sub.invocations()

    assert dead["reason"].tolist() == [case["reason_code"]]
    assert rows["model_ms"].isna().sum() == 1  # the last one: its model was not called
    assert len(rows) == 17
    sub.unsubscribe()
    return bench.bus.subscribe("pages", echo, name="after")


def two_workers(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """The lease ran out while the first worker ran: the second one counts, the first one is stale."""
    bus, clock = bench.bus, bench.clock
    sub = bus.subscribe("pages", echo, listen=False)
    spec, by = bus.spec("echo"), By(bus.registry.versions("echo")[0].id)
    recorder = Recorder(spec, bus.broker, bus.log, clock)
    bus.publish("pages", 1)
    (first,) = bus.broker.receive(spec, 1)
    clock.advance(s=spec.policy.lease + 2)
    (second,) = bus.broker.receive(spec, 1)
    for delivery, output in ((second, "2"), (first, "1")):
        recorder.record(
            [recorder.ended(delivery, Result(output=output), by, clock.now_us(), clock.now_us(), 1)]
        )
    rows = sub.invocations()

    assert sorted(zip(rows["attempt"], rows["outcome"], strict=True)) == [
        (1, "stale"),
        (2, "succeeded"),
    ]
    assert len(rows) == case["model_attempts"]
    assert sub.results()["output"].tolist() == [2]
    return sub.start()


def clock_jumps(case: dict[str, Any], bench: Bench) -> None:
    """Back: time goes on; forward: it follows, once."""
    wall = [time.time_ns()]
    bench.monkeypatch.setattr(clocks.time, "time_ns", lambda: wall[0])
    clock = clocks.SystemClock()
    with mt.connect("memory://", clock=clock) as bus:
        sub = bus.subscribe("pages", echo, listen=False, timeout_s=600)
        spec = bus.spec("echo")
        bus.publish("pages", 1)
        assert len(bus.broker.receive(spec, 1)) == 1
        for jump_s, again in ((-3600, 0), (2 * 3600 + 3600, 1), (-3600, 0)):
            before_us = clock.now_us()
            wall[0] += jump_s * 10**9
            assert clock.now_us() >= before_us
            assert len(bus.broker.receive(spec, 1)) == again
        assert sub.depth().in_flight == 1


def model_unavailable(case: dict[str, Any], bench: Bench) -> None:
    """A topic that nobody knows is refused; a model that cannot be called leases nothing, and
    nothing is dropped.
    """
    bench.refused(lambda: bench.bus.publish("pages", 1), mt.NotFound)
    url = f"sqlite:///{bench.folder}/bus.db"
    with mt.connect(url) as notebook:
        notebook.subscribe("pages", lambda_of_a_notebook(), name="there", listen=False)
    with mt.connect(url) as elsewhere:
        sub = elsewhere.subscription("there").start()
        elsewhere.publish("pages", 1)
        wait_until(lambda: sub.state.startswith("waiting for the model"))
        depth = sub.depth()
        assert (depth.visible, depth.in_flight, depth.dead) == (1, 0, 0)
        assert len(sub.invocations()) == case["model_attempts"]
        elsewhere.subscribe("pages", lambda_of_a_notebook(), name="there")
        assert elsewhere.wait(PATIENCE_S, progress=False)
        assert sub.results()["outcome"].tolist() == ["succeeded"]
        assert elsewhere.audit()["balanced"].all()


def lambda_of_a_notebook() -> mt.Model:
    return mt.model(lambda given: given, name="here-only")


def odd_answers(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe(
        "pages", mt.model(lambda name: ODD_ANSWERS.get(name, (name, 0))[0], name="odd")
    )
    run = bench.fire(list(ODD_ANSWERS))

    assert run.results()["outcome"].tolist() == ["succeeded"] * len(ODD_ANSWERS)
    assert dict(zip(ODD_ANSWERS, map(json.loads, sub.invocations()["output"]), strict=True)) == {
        n: t for n, (_, t) in ODD_ANSWERS.items()
    }
    return sub


def huge_answer(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe(
        "pages", mt.model(lambda given: "x" * 50_000_000 if given == "bad" else given, name="huge")
    )
    run = bench.fire(["bad"])
    kept = json.loads(sub.invocations()["output"][0])

    assert run.results()[["outcome", "reason"]].values.tolist() == [
        ["succeeded", case["reason_code"]]
    ]
    assert kept["bytes"] == 50_000_002 > MAX_OUTPUT_BYTES
    assert kept["sha256"] == hashlib.sha256(b'"' + b"x" * 50_000_000 + b'"').hexdigest()
    assert len(kept["truncated"]) == 1000
    return sub


def floods_its_output(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    sub = bench.bus.subscribe("pages", mt.model(prints_a_lot, name="loud"), isolation="process")
    assert bench.fire(["loud"]).results()["output"].tolist() == ["loud"]
    assert 60_000 < len(sub.invocations()["stdout"][0]) < 70_000
    assert "more" in sub.invocations()["stdout"][0][-40:]
    return sub


def secrets_in_an_error(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    def leaks(given: Any) -> Any:
        if given == "bad":
            print("postgresql://u:pw@h/db?password=q7")
            raise RuntimeError("postgresql://u:pw@h/db?password=q7")
        return given

    sub = bench.bus.subscribe("pages", leaks, max_attempts=1)
    bench.fire(["bad"])
    rows, dead = sub.invocations(), sub.dead_letters()
    for text in (*rows["error"], *rows["stdout"], *dead["error"], *dead["traceback"]):
        assert ":***@h/db?password=***" in text
        assert ":pw@" not in text
        assert "q7" not in text
    assert dead["raw"].tolist() == [b'"bad"']
    return sub


def rearranges_the_process(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    before = Path.cwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)
    sub = bench.bus.subscribe("pages", mt.model(rearranges, name="rearranges"), isolation="process")
    assert bench.fire([1]).results()["outcome"].tolist() == ["succeeded"]
    assert (Path.cwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    return sub


def leaks_descriptors(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """The doctor notices; a model in a process of its own is started anew from time to time
    (``max_calls``).
    """
    kept: list[Any] = []

    def leaky(given: Any) -> int:
        kept.append(open(os.devnull))  # noqa: PTH123, SIM115
        return len(kept)

    sub = bench.bus.subscribe("pages", leaky)
    bench.fire([1, 2, 3])
    bench.monkeypatch.setattr(
        resource,
        "getrlimit",
        lambda _: (len(os.listdir("/proc/self/fd")), 0),  # noqa: PTH208
    )
    assert "file descriptors" in set(bench.bus.doctor()["check"])
    for file in kept:
        file.close()
    return sub


def stores_that_are_none(case: dict[str, Any], bench: Bench) -> None:
    good = bench.folder / "good.db"
    mt.connect(f"sqlite:///{good}").close()
    newer = bench.folder / "newer.db"
    shutil.copy(good, newer)
    with contextlib.closing(sqlite3.connect(newer)) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
        connection.commit()
    (bench.folder / "random.db").write_bytes(bytes(range(64)))
    (bench.folder / "half.db").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for name in ("newer.db", "random.db", "half.db"):
        before = (bench.folder / name).read_bytes()
        error = bench.refused(
            functools.partial(mt.connect, f"sqlite:///{bench.folder / name}"), mt.StoreError
        )
        assert name in str(error)
        assert (bench.folder / name).read_bytes() == before


def store_on_a_network(case: dict[str, Any], bench: Bench) -> None:
    mounts = bench.folder / "mounts"
    mounts.write_text(f"server:/export {bench.folder} nfs4 rw 0 0\n")
    bench.monkeypatch.setattr(
        files, "network_filesystem", functools.partial(files.network_filesystem, mounts=str(mounts))
    )
    error = bench.refused(lambda: mt.connect(f"sqlite:///{bench.folder}/bus.db"), mt.StoreError)
    assert "nfs4" in str(error)
    assert not (bench.folder / "bus.db").exists()


def markup(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """tests/whole/test_security.py has the other fields and views."""
    sub = bench.bus.subscribe("pages", mt.model(lambda given: {case["input"]: given}, name="shout"))
    run = bench.fire([mt.Event(case["input"], subject=case["input"])])
    shown = [
        o._repr_html_()
        for o in (bench.bus, sub, run, run.results(), sub.invocations(), bench.bus.events())
    ]
    assert not [text for text in shown if "<img" in text]
    assert [text for text in shown if "&lt;img" in text]
    return sub


def formulas(case: dict[str, Any], bench: Bench) -> None:
    frame = pd.DataFrame(
        {
            case["input"]: [case["input"], "plain", None],
            "n": [-1, 2, 3],
            "x": [-0.5, None, 1.0],
            "mixed": ["+1", -1, "@a"],
        }
    )
    safe, unsafe = mt.to_csv(frame), mt.to_csv(frame, safe=False)
    mt.to_csv(frame, bench.folder / "out.csv")

    assert safe is not None
    rows = list(csv.reader(io.StringIO(safe)))
    assert rows == [
        ["'" + case["input"], "n", "x", "mixed"],
        ["'" + case["input"], "-1", "-0.5", "'+1"],
        ["plain", "2", "", "-1"],
        ["", "3", "1.0", "'@a"],
    ]
    assert (bench.folder / "out.csv").read_text() == safe
    assert unsafe == frame.to_csv(index=False)
    assert frame.columns[0] == case["input"]


def pickled_data(case: dict[str, Any], bench: Bench) -> mt.Subscription:
    """They are bytes like any others; tests/whole/test_security.py has the other ways in."""
    body = pickle.dumps(Evil(bench.folder / "created"))
    sub = bench.bus.subscribe("pages", mt.model(lambda given: given, name="opaque"))
    assert bench.fire([body]).results()["output"].tolist() == [body]
    assert not (bench.folder / "created").exists()
    return sub


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def forged_log_lines(case: dict[str, Any], bench: Bench) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(
        logging.Formatter("%(levelname)s %(message)s").format(record)
    )  # type: ignore[method-assign]
    logger = logging.getLogger("mltrigger")
    logger.addHandler(handler)
    try:
        for text in ast.literal_eval(case["input"].partition(",")[0]), "\x1b[2J", "\u202e", "\x85":
            logger.warning("subscription %s: %s", "pages", text)
            try:
                raise ValueError(text)
            except ValueError:
                logger.exception("failed")
    finally:
        logger.removeHandler(handler)
    assert len(lines) == 8
    assert all(line.isprintable() for line in lines)


# -- the table -------------------------------------------------------------------------------------

Way = RefusedAtPublish | RefusedAtSubscribe | Delivered | Unkept | Dies | Scene
MIB = 1024 * 1024

APPLIED: dict[str, Way] = {
    "BI-002": RefusedAtPublish(raw(b"  \n\t ")),
    "BI-005": Scene(text_where_json_is_due),
    "BI-007": RefusedAtPublish(raw(b'{"x": NaN}', b"Infinity", b"[-Infinity]")),
    "BI-008": RefusedAtPublish(raw(b'{"x": 1e999}')),
    "BI-009": Delivered(
        lambda: [2**64, -(2**63) - 1, int("1" * 4300), mt.Event(b"9" * 4300, datacontenttype=JSON)],
        lambda: [2**64, -(2**63) - 1, int("1" * 4300), int("9" * 4300)],
    ),
    "BI-010": RefusedAtPublish(raw(b"1" * 5000)),
    "BI-011": RefusedAtPublish(raw(b"[" * 100_000 + b"]" * 100_000)),
    "BI-012": RefusedAtPublish(raw(b"[" * 900 + b"]" * 900, b"[" * 101 + b"]" * 101)),
    "BI-013": Delivered(
        lambda: [mt.Event(b'{"a":1,"a":2}', datacontenttype=JSON)],
        lambda: [{"a": 2}],
        warns="'a' twice in one object",
    ),
    "BI-014": RefusedAtPublish(raw(b'"\\ud800"', b'{"\\udfff": 1}')),
    "BI-017": RefusedAtPublish(raw("{}".encode("utf-16"), "{}".encode("utf-32"), b'"\xff"')),
    "BI-020": Delivered(lambda: [b"x" * MAX_EVENT_BYTES, "x" * (MAX_EVENT_BYTES - 2)], model=len),
    "BI-022": RefusedAtPublish(
        (lambda bench: bench.bus.publish("pages", "\u00e9" * (MAX_EVENT_BYTES // 2)),),
        mt.EventTooLarge,
    ),
    "BI-023": Delivered(lambda: ["x" * 120 * 1024] * 10, lambda: ["x" * 120 * 1024] * 10),
    "BI-025": RefusedAtPublish(
        (
            lambda bench: bench.bus.publish("pages", "x" * (64 * MIB)),
            lambda bench: bench.bus.publish_batch("pages", ["small", b"x" * (MAX_EVENT_BYTES + 1)]),
        ),
        mt.EventTooLarge,
    ),
    "BI-031": RefusedAtPublish(
        tuple(functools.partial(named, name) for name in ("AWS.x", "amazon.x", ".a", "a.", "a..b")),
        reason="invalid_event",  # an extension of CloudEvents, which has stricter names
    ),
    "BI-037": RefusedAtSubscribe(filtered("{"), mt.InvalidFilter, "JSON"),
    "BI-039": RefusedAtSubscribe(filtered({"a": []}), mt.InvalidFilter, "a: an empty list"),
    "BI-040": RefusedAtSubscribe(
        filtered({"a": {"b": ["c"]}}), mt.InvalidFilter, "a: attributes are flat"
    ),
    "BI-041": RefusedAtSubscribe(
        filtered({f"k{i}": ["a"] for i in range(6)}, {key: list("abcdefgh") for key in "abc"}),
        mt.InvalidFilter,
        "filter",
    ),
    "BI-042": RefusedAtSubscribe(filtered({"a": [{"regex": "x"}]}), mt.InvalidFilter, "regex"),
    "BI-043": Delivered(
        lambda: [{"ip": "10.1.2.3", "name": "scan-1.png"}],
        options={
            "filter": {"ip": [{"cidr": "10.0.0.0/8"}], "name": [{"wildcard": "scan-*.png"}]},
            "filter_scope": "body",
        },
    ),
    "BI-044": Scene(wide_filter),
    "BI-045": Scene(body_filter_and_text),
    "BI-047": RefusedAtPublish(
        (
            structured(specversion=None),
            structured(specversion="0.3"),
            structured(id=None),
            structured(id=""),
            structured(source=None),
            structured(type=None),
            structured(type=5),
            structured(time="2026-01-01T00:00Z"),
            structured(time="2026-01-01T00:00:00+01"),
            structured(time="yesterday"),
            structured(datacontenttype="xyz"),
            structured(Upper="a"),
            structured(under_score="a"),
            structured(data_base64="AA=="),
            structured(data=None, data_base64="?"),
            structured(nested={"a": 1}),
            structured(float=1.5),
            lambda bench: bench.bus.publish("pages", mt.Event.from_json("[]")),
        )
    ),
    "BI-052": RefusedAtPublish((structured(number=2**31),)),
    "BI-054": Scene(other_source),
    "BI-055": Scene(other_data),
    "BI-056": Scene(any_time),
    "BI-062": Scene(forged_names),
    "BI-063": Scene(strange_names),
    "BI-068": Scene(gone_before_it_is_read),
    "BI-072": Scene(feeds_itself),
    "BI-083": Scene(two_workers),
    "BI-087": Scene(clock_jumps),
    "BI-089": Scene(model_unavailable),
    "BI-090": Dies(raises_when_told, 3, error="x"),
    "BI-093": Dies(dies_when_told, 3, {"isolation": "process", "max_attempts": 5}, error="SIGSEGV"),
    "BI-094": Dies(
        eats_when_told,
        3,
        {"isolation": "process", "memory_limit_mb": 4096},
        ("worker_died", "model_error"),
    ),
    "BI-095": Dies(spins_when_told, 2, {"isolation": "process", "timeout_s": 1.0}),
    "BI-096": Dies(ignores_when_told, 1, {"isolation": "process", "timeout_s": 1.0}),
    "BI-097": Delivered(lambda: [1], lambda: [1], forks, {"isolation": "process"}),
    "BI-099": Scene(odd_answers),
    "BI-100": Unkept((threading.Lock, lambda: print, object)),
    "BI-101": Unkept((Unprintable, Markup)),
    "BI-102": Scene(odd_answers),
    "BI-103": Unkept((circular,)),
    "BI-104": Scene(huge_answer),
    "BI-105": Scene(floods_its_output),
    "BI-106": Scene(secrets_in_an_error),
    "BI-108": Scene(rearranges_the_process),
    "BI-109": Scene(leaks_descriptors),
    "BI-110": RefusedAtSubscribe(
        (lambda bench: bench.bus.subscribe("scans", over_a_lock(), isolation="process"),),
        mt.InvalidModel,
        "isolation='thread'",
    ),
    "BI-111": RefusedAtSubscribe(
        (lambda bench: bench.bus.subscribe("scans", mt.model(lambda: 0, name="f")),),
        mt.InvalidModel,
        "one argument",
    ),
    "BI-124": Scene(stores_that_are_none),
    "BI-126": Scene(store_on_a_network),
    "BI-128": Scene(markup),
    "BI-129": Scene(formulas),
    "BI-131": Scene(pickled_data),
    "BI-135": Scene(forged_log_lines),
}

_AWS = "SNS and SQS only: "
_S3 = "S3 only: "
_HTTP = "there is no HTTP receiver: "
ELSEWHERE: dict[str, str] = {
    "BI-019": _AWS
    + "XML; the embedded broker keeps every character (tests/whole/test_bad_inputs.py)",
    "BI-030": _AWS + "message attributes with a data type",
    "BI-033": _AWS + "message attributes with a data type",
    "BI-034": _AWS + "FIFO topics and queues",
    "BI-035": _AWS + "MessageDeduplicationId; BI-055 is its counterpart here",
    "BI-036": _AWS + "the subject of a notification; here it is text like any other",
    "BI-046": "the matcher, which needs no broker: tests/filters/test_filters.py",
    "BI-048": _HTTP + "binary mode",
    "BI-049": _HTTP + "binary mode",
    "BI-057": _S3 + "its test event",
    "BI-059": _S3 + "keys in notifications are percent-encoded",
    "BI-060": _S3 + "keys in notifications are percent-encoded",
    "BI-061": _S3 + "urlDecodedKey",
    "BI-066": _S3 + "eventVersion",
    "BI-067": _S3 + "fields of notifications",
    "BI-069": (
        _S3 + "versionId; a file that was replaced is another event (tests/sources/test_folder.py)"
    ),
    "BI-070": _S3 + "sequencer",
    "BI-071": "the model's: event.open() is a stream that nothing of ours reads or decodes",
    "BI-073": _AWS + "the envelope of SNS in SQS",
    "BI-075": _AWS + "the envelope of SNS in SQS",
    "BI-076": _AWS + "the envelope of SNS in SQS",
    "BI-079": _HTTP + "webhooks of SNS",
    "BI-080": _HTTP + "webhooks of SNS",
    "BI-081": _AWS + "MessageStructure",
    "BI-084": _AWS + "receipt handles; BI-083 is its counterpart here",
    "BI-085": _AWS + "ChangeMessageVisibility",
    "BI-086": _AWS + "a queue that was deleted or purged",
    "BI-114": "models behind HTTP only",
    "BI-115": "models behind HTTP only",
    "BI-118": "models behind HTTP only",
    "BI-120": "models on SageMaker only",
    "BI-127": "PostgreSQL only",
    "BI-132": "models of MLflow only",
    "BI-133": (
        "nothing here fetches what an event names; event.open() of a URL is refused in BI-062"
    ),
    "BI-134": _HTTP + "a local API",
}


def test_every_case_is_either_applied_here_or_named_as_belonging_elsewhere() -> None:
    assert sorted([*APPLIED, *ELSEWHERE]) == sorted(CASES)


@pytest.mark.parametrize("id", APPLIED)
def test_bad_input_ends_as_the_catalogue_says(id: str, bench: Bench) -> None:  # noqa: A002 - the catalogue's word
    case, way = CASES[id], APPLIED[id]
    if not isinstance(way, Scene):
        assert any(outcome in case["outcome"] for outcome in way.outcomes), case["outcome"]
    way.check(case, bench)
