"""Figures for Prometheus: the text, counters that only rise, and the ways to read it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from http_client import Caller
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from shared import in_threads, wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.api.access import Tokens
from mltrigger.store.figures import BOUNDS_S
from mltrigger.telemetry import prometheus_text
from mltrigger.telemetry.prometheus import CONTENT_TYPE, escaped
from mltrigger.testing import SimulatedClock


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return each sample of *text* as Prometheus' own parser reads it."""
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    read = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(read) == len(found), "a series is there twice"
    return read


def value(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of *name* with these labels."""
    wanted = set(labels.items())
    found = [
        v for (n, has), v in samples(text).items() if n == f"mltrigger_{name}" and wanted <= has
    ]
    assert found, f"no {name} with {labels}"
    return sum(found)


def picky(number: int) -> int:
    if number < 0:
        raise mt.Reject("negative")
    return number


@pytest.fixture
def answered(bus: mt.EventBus) -> mt.EventBus:
    """A bus on which three events ended, one of them as a dead letter."""
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
    bus.fire("documents", [1, 2, -3], progress=False)
    return bus


def test_outcomes_publications_and_dead_letters_are_counted(answered: mt.EventBus) -> None:
    text = prometheus_text(answered)

    assert value(text, "events_published_total", topic="documents") == 3
    assert value(text, "invocations_total", subscription="ocr", outcome="succeeded") == 2
    assert value(text, "invocations_total", subscription="ocr", outcome="dead") == 1
    assert value(text, "dead_letters_total", subscription="ocr") == 1
    assert value(text, "dead_letters_open", subscription="ocr") == 1
    assert value(text, "dead_letters_by_reason", reason="rejected") == 1
    assert value(text, "listeners", subscription="ocr") == 1


def test_times_are_in_buckets_by_version(bus: mt.EventBus, clock: SimulatedClock) -> None:
    def slow(_: object) -> None:
        clock.advance(s=0.2)

    bus.subscribe("documents", mt.model("ocr", version="1.2.0")(slow))
    bus.fire("documents", 1, progress=False)
    text = prometheus_text(bus)

    named = {"model": "ocr", "version": "1.2.0"}
    assert value(text, "model_seconds_bucket", le="0.1", **named) == 0
    assert value(text, "model_seconds_bucket", le="0.25", **named) == 1
    assert value(text, "model_seconds_sum", **named) == 0.2
    assert value(text, "queue_seconds_bucket", le="0.001", **named) == 1
    assert value(text, "total_seconds_sum", **named) == 0.2


@pytest.mark.parametrize("took_s", [*BOUNDS_S, 90.0])
def test_a_time_on_a_bound_is_in_its_bucket(
    bus: mt.EventBus, clock: SimulatedClock, took_s: float
) -> None:
    model = mt.model("ocr", version="1.0.0")(lambda _: clock.advance(s=took_s))
    bus.subscribe("documents", model, timeout_s=300.0)
    bus.fire("documents", 1, progress=False)

    found = samples(prometheus_text(bus))
    bounds = {
        float(dict(labels)["le"])
        for (name, labels), n in found.items()
        if name == "mltrigger_model_seconds_bucket" and n == 1
    }
    assert min(bounds) == (took_s if took_s in BOUNDS_S else float("inf"))


def test_buckets_rise_to_the_count(answered: mt.EventBus) -> None:
    text = prometheus_text(answered)
    for stage in ("model", "queue", "total"):
        rows = re.findall(rf"mltrigger_{stage}_seconds_bucket{{.*}} (\d+)", text)
        counts = list(map(int, rows))
        assert counts == sorted(counts) and len(counts) == len(BOUNDS_S) + 1
        assert counts[-1] == value(text, f"{stage}_seconds_count") == 3


def test_a_retry_counts_as_an_attempt_and_a_wait_from_its_time(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    answers = iter([mt.Retry(4.0), None])

    def recovers(_: object) -> None:
        if isinstance(answer := next(answers), Exception):
            raise answer

    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(recovers), timeout_s=3_600.0)
    bus.publish("documents", 1)
    wait_until(lambda: sub.depth().delayed == 1)
    clock.advance(s=4.0)
    wait_until(lambda: bus.tally(bus.spec("ocr")).get("succeeded"))
    text = prometheus_text(bus)

    assert value(text, "invocations_total", outcome="failed") == 1
    assert (value(text, "queue_seconds_count"), value(text, "queue_seconds_sum")) == (2, 0.0)
    assert value(text, "total_seconds_sum") == 4.0


# -- counters only rise ----------------------------------------------------------------------------


def counters(text: str) -> dict[Any, float]:
    rises = ("_total", "_bucket", "_count", "_sum")
    return {key: v for key, v in samples(text).items() if key[0].endswith(rises)}


def test_counters_keep_their_numbers_when_events_are_pruned(
    answered: mt.EventBus, clock: SimulatedClock
) -> None:
    before = counters(prometheus_text(answered))
    clock.advance(s=100.0)
    answered.retain(max_age_s=1.0)
    assert answered.prune().events == 2

    assert counters(prometheus_text(answered)) == before


def test_counters_keep_their_numbers_when_dead_letters_are_sent_again(
    answered: mt.EventBus,
) -> None:
    before = counters(prometheus_text(answered))
    sub = answered.subscription("ocr")
    sub.redrive()
    assert answered.wait(progress=False)
    after = counters(prometheus_text(answered))

    assert all(after[key] >= n for key, n in before.items())
    assert value(prometheus_text(answered), "dead_letters_total") == 2


def test_counters_go_on_after_a_restart(file: Path) -> None:
    for n in (1, 2, 3):
        with mt.connect(f"sqlite:///{file}") as bus:
            bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
            bus.fire("documents", n, progress=False)
            text = prometheus_text(bus)
        assert value(text, "invocations_total", outcome="succeeded") == n
        assert value(text, "model_seconds_count") == value(text, "events_published_total") == n


def test_two_readers_of_one_log_count_an_attempt_once(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as one, mt.connect(f"sqlite:///{file}") as other:
        one.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
        for n in (1, 2, 3):
            one.fire("documents", n, progress=False)
            assert {value(prometheus_text(b), "model_seconds_count") for b in (one, other)} == {n}


def test_a_reading_without_time_counts_a_part_and_the_next_one_goes_on(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model("ocr", version="1.0.0", batch=True)(list_of_ones))
        bus.publish_batch("documents", [1] * 50_000)
        assert bus.wait(progress=False)

        behind = []
        for _ in range(5):
            text = prometheus_text(bus, 0.0)
            behind.append(value(text, "histograms_behind"))
            counted = value(text, "model_seconds_count")
            assert value(text, "invocations_total", outcome="succeeded") == 50_000
        assert behind[0] > 0 and behind[-1] == 0 and counted == 50_000
        assert all(a >= b for a, b in itertools.pairwise(behind))


def list_of_ones(batch: list[Any]) -> list[int]:
    return [1] * len(batch)


# -- gauges ----------------------------------------------------------------------------------------


def test_the_backlog_in_seconds_is_that_of_the_recent_rate(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    def slow(_: object) -> None:
        clock.advance(s=0.5)

    sub = bus.subscribe("documents", mt.model("ocr", version="1.0.0")(slow), timeout_s=3_600.0)
    bus.fire("documents", [1, 2, 3, 4], progress=False)
    sub.stop()
    clock.advance(s=60.0)  # an idle minute does not make it slow
    bus.publish_batch("documents", [1] * 10)

    assert value(prometheus_text(bus), "backlog_seconds") == pytest.approx(5.0)


def test_without_a_rate_the_backlog_is_the_age_of_the_oldest_event(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky), listen=False)
    assert value(prometheus_text(bus), "backlog_seconds") == 0
    bus.publish("documents", 1)
    clock.advance(s=42.0)
    text = prometheus_text(bus)

    assert value(text, "backlog_seconds") == value(text, "oldest_event_age_seconds") == 42.0
    assert value(text, "events_waiting") == 1


# -- names -----------------------------------------------------------------------------------------


@given(st.text())
def test_a_hostile_name_stays_in_its_label(name: str) -> None:
    line = f'mltrigger_x{{a="{escaped(name)}"}} 1\n'
    assert line.count("\n") == 1
    (family,) = text_string_to_metric_families(line)
    (sample,) = family.samples

    assert sample.labels == {"a": name}


def test_no_event_has_a_series(bus: mt.EventBus) -> None:
    bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
    run = bus.fire("documents", [1, 2], progress=False)
    few = prometheus_text(bus)
    bus.fire("documents", list(range(60)), progress=False)

    assert len(samples(prometheus_text(bus))) == len(samples(few))
    assert not [i for i in run.results()["event_id"] if i in few]


def test_every_family_has_help_and_a_type(answered: mt.EventBus) -> None:
    text = prometheus_text(answered)
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("mltrigger_") and family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")


# -- the ways to read it ---------------------------------------------------------------------------


def test_the_command_prints_the_figures_of_a_bus(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
        bus.fire("documents", [1, 2], progress=False)

    assert cli.main(["metrics", "--url", f"sqlite:///{file}"]) == 0
    assert value(capsys.readouterr().out, "invocations_total", outcome="succeeded") == 2


def test_the_server_tells_them_to_a_token_that_reads_everything(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus, mt.serve(bus) as server:
        bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
        bus.fire("documents", 1, progress=False)
        tokens = Tokens(bus.registry)
        for n, (scope, status) in enumerate(
            (("read:*", 200), ("administer", 200), ("read:ocr", 403), ("publish:*", 403))
        ):
            with Caller(server.url, tokens.create(f"token-{n}", [scope])) as caller:
                answer = caller.get("/metrics")
            assert answer.status_code == status, scope
            if status == 200:
                assert answer.headers["content-type"] == CONTENT_TYPE
                assert value(answer.text, "invocations_total", outcome="succeeded") == 1


def test_nothing_is_told_without_a_token(file: Path) -> None:
    with (
        mt.connect(f"sqlite:///{file}") as bus,
        mt.serve(bus) as server,
        Caller(server.url, "mlt_wrong") as caller,
    ):
        assert caller.get("/metrics").status_code == 401


def test_readers_at_the_same_time_never_tell_less_than_before(file: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as bus:
        bus.subscribe("documents", mt.model("ocr", version="1.0.0")(picky))
        told: dict[int, list[float]] = {}

        def reads(number: int) -> None:
            for n in range(5):
                if number == 0:
                    bus.fire("documents", n, progress=False)
                told.setdefault(number, []).append(
                    value(prometheus_text(bus, 0.0), "events_published_total")
                )

        in_threads(reads, 4)
        assert all(found == sorted(found) for found in told.values())
        assert value(prometheus_text(bus), "events_published_total") == 5
