"""What one event leads to: circles are told when they are bound, chains and trees are bounded, a
model does not wait for itself.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared import is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.delivery.lineage import FEW, Descent
from mltrigger.event.event import MAX_HOPS
from mltrigger.testing import SimulatedClock
from mltrigger.versions.running.current import Place, Running, current, during


def same(data: Any) -> Any:
    return data


def named(name: str, model: Callable[[Any], Any] = same) -> mt.Model:
    return mt.model(model, name=name, version="1.0.0")


def told(warned: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in warned if "circle" in str(w.message)]


@pytest.fixture
def quiet() -> Iterator[mt.EventBus]:
    """A bus on which circles are bound on purpose."""
    with warnings.catch_warnings(), mt.connect("memory://") as bus:
        warnings.simplefilter("ignore")
        yield bus


# -- circles are told ------------------------------------------------------------------------------


def circles_of(bus: mt.EventBus) -> list[str]:
    table = bus.doctor()
    return list(table[table["check"] == "emit"]["finding"])


def test_subscription_that_closes_a_circle_is_told_and_the_doctor_names_it(
    bus: mt.EventBus,
) -> None:
    bus.topic("raw"), bus.topic("clean"), bus.topic("sorted")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        bus.subscribe("raw", named("a"), emit="clean", listen=False)
        bus.subscribe("clean", named("b"), emit="sorted", listen=False)
        assert told(warned) == []
        bus.subscribe("sorted", named("c"), emit="raw", listen=False)

    (message,) = told(warned)
    assert (
        "'c' emits from 'sorted' to 'raw', 'a' emits from 'raw' to 'clean', 'b' emits from 'clean'"
        " to 'sorted'" in message
    )
    assert "filter=" in message
    (finding,) = circles_of(bus)
    assert "'a' emits from 'raw' to 'clean'" in finding


def test_two_subscriptions_that_emit_to_their_own_topic_multiply(bus: mt.EventBus) -> None:
    bus.topic("t")
    with pytest.warns(UserWarning, match="'a' emits from 't' to 't'"):
        bus.subscribe("t", named("a"), emit="t", listen=False)
    with pytest.warns(
        UserWarning, match="'b' emits from 't' to 't'; 'a' is in it too, so that events multiply"
    ):
        bus.subscribe("t", named("b"), emit="t", listen=False)

    assert len(circles_of(bus)) == 1


def test_two_circles_are_told_apart(quiet: mt.EventBus) -> None:
    for topic in ("a", "b"):
        quiet.topic(topic)
        quiet.subscribe(topic, named(f"on-{topic}"), emit=topic, listen=False)

    assert len(circles_of(quiet)) == 2


@pytest.mark.parametrize(
    ("passing", "closes"),
    [
        ({"type": [{"anything-but": "mltrigger.output"}]}, False),
        ({"source": ["scanner"]}, False),
        ({"type": ["mltrigger.output"]}, True),
        ({"tenant": ["blue"]}, True),
        ({"type": ["scan"], "tenant": ["blue"]}, True),
    ],
)
def test_filter_that_keeps_outputs_out_closes_no_circle(
    bus: mt.EventBus, passing: dict[str, Any], closes: bool
) -> None:
    bus.topic("t")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        bus.subscribe("t", named("a"), emit="t", filter=passing, listen=False)

    assert (len(told(warned)), len(circles_of(bus))) == (int(closes), int(closes))


# -- trees are bounded -----------------------------------------------------------------------------


def test_tree_that_feeds_itself_ends_after_max_descendants(quiet: mt.EventBus) -> None:
    quiet.topic("raw"), quiet.topic("clean")
    subs = [
        quiet.subscribe(source, named(name), emit=goal, max_descendants=200)
        for name, source, goal in (
            ("a1", "raw", "clean"),
            ("a2", "raw", "clean"),
            ("b1", "clean", "raw"),
            ("b2", "clean", "raw"),
        )
    ]
    quiet.publish("raw", 1)
    quiet.publish("raw", 2)
    wait_until(lambda: all(is_settled(sub) for sub in subs))

    assert len(quiet.events()) == 2 + 2 * 200
    letters = [letter for sub in subs for letter in sub.dead_letters()["reason"]]
    assert set(letters) == {"too_many_descendants"}
    assert quiet.audit()["balanced"].all()


def test_tree_is_bounded_over_several_processes_that_share_a_store(file: Any) -> None:
    one, other = (mt.connect(f"sqlite:///{file}") for _ in range(2))
    with one, other, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.topic("t")
        model = named("a")
        for bus in (one, other):
            bus.subscribe("t", model, name="a", emit="t", max_descendants=100)
            bus.subscribe("t", model, name="b", emit="t", max_descendants=100)
        one.publish("t", 1)
        wait_until(lambda: is_settled(one.subscription("a")) and is_settled(one.subscription("b")))

        # what each process counts by itself comes late
        assert 100 - FEW <= len(one.events()) - 1 <= 100 + 2 * FEW


def test_what_is_stopped_keeps_its_answer_and_says_what_to_do(quiet: mt.EventBus) -> None:
    quiet.topic("t")
    sub = quiet.subscribe("t", named("a"), emit="t", name="a", max_descendants=1)
    again = quiet.subscribe("t", named("a"), emit="t", name="b", max_descendants=1)
    quiet.publish("t", 1)
    wait_until(lambda: is_settled(sub) and is_settled(again))

    rows = [row for s in (sub, again) for row in s.dead_letters().to_dict(orient="records")]
    assert {row["reason"] for row in rows} <= {"too_many_descendants", "recursion_limit"}


def test_counts_of_a_few_descendants_cost_the_store_nothing(quiet: mt.EventBus) -> None:
    quiet.topic("out")
    sub = quiet.subscribe("in", named("a"), emit="out")
    quiet.publish_batch("in", list(range(50)))
    wait_until(lambda: is_settled(sub))

    assert quiet._store.read("SELECT count(*) FROM descent") == [(0,)]
    assert len(quiet.events("out")) == 50


def test_descent_is_exact_across_those_who_count_beyond_a_few(quiet: mt.EventBus) -> None:
    counters = [Descent(quiet.log._clock) for _ in range(2)]

    def add(counter: Descent, n: int) -> dict[str, int]:
        with quiet.log.unit() as unit:
            return counter.add(unit.transaction, ["root"] * n)

    assert add(counters[0], FEW) == {}
    assert add(counters[0], 1) == {"root": FEW + 1}
    assert add(counters[1], FEW + 4) == {"root": 2 * FEW + 5}
    assert add(counters[0], 1) == {"root": 2 * FEW + 6}
    assert counters[0].of("root") == 2 * FEW + 6


def test_counts_go_with_the_events_that_they_are_about(clock: SimulatedClock) -> None:
    with warnings.catch_warnings(), mt.connect("memory://", clock=clock) as bus:
        warnings.simplefilter("ignore")
        bus.topic("t")
        subs = [
            bus.subscribe("t", named("a"), emit="t", name=name, max_descendants=50)
            for name in ("a", "b")
        ]
        bus.publish("t", 1)
        wait_until(lambda: all(is_settled(sub) for sub in subs))
        assert bus._store.read("SELECT count(*) FROM descent") == [(1,)]

        for sub in subs:
            sub.discard(None, reason="a loop")
            sub.stop()
        bus.retain(max_age_s=10)
        clock.advance(s=60)
        bus.topic("u")
        bus.publish("u", 1)
        bus.prune()
        bus.prune()

        assert bus._store.read("SELECT count(*) FROM descent") == [(0,)]


# -- models that publish ---------------------------------------------------------------------------


def test_event_that_a_model_publishes_is_led_to_by_its_event(quiet: mt.EventBus) -> None:
    quiet.topic("out")

    def publishes(n: int) -> None:
        quiet.publish("out", n, extensions={"tenant": "blue"})

    sub = quiet.subscribe("in", publishes)
    receipt = quiet.publish("in", 1)
    wait_until(lambda: is_settled(sub))

    (row,) = quiet.events("out").to_dict(orient="records")
    (cause,) = quiet.events("in").to_dict(orient="records")
    assert (row["causation_id"], row["hops"], row["trace_id"]) == (
        receipt.event_id,
        1,
        cause["trace_id"],
    )


def test_the_root_of_a_chain_survives_it(quiet: mt.EventBus) -> None:
    roots: list[tuple[int, str]] = []

    def notes(event: mt.Event) -> object:
        roots.append((event.hops, event.root))
        return event.data

    for source, goal in (("a", "b"), ("b", "c"), ("c", "d")):
        quiet.topic(goal)
        quiet.subscribe(source, named(f"from-{source}", notes), emit=goal)
    last = quiet.subscribe("d", named("last", notes))
    quiet.publish("a", 1, id="first")
    wait_until(lambda: is_settled(last) and len(roots) == 4)

    assert sorted(roots) == [(n, "first") for n in range(4)]


def test_model_that_publishes_to_its_own_topic_is_told_once_and_ends(bus: mt.EventBus) -> None:
    said: list[str] = []

    def feeds_itself(n: int) -> None:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            bus.publish("own", n + 1)
        said.extend(str(w.message) for w in warned)

    sub = bus.subscribe("own", feeds_itself)
    bus.publish("own", 0)
    wait_until(lambda: is_settled(sub))

    (message,) = said
    assert message.startswith(
        "the model of 'feeds_itself' publishes to 'own', the topic that it listens to"
    )
    assert outcomes(sub) == ["succeeded"] * MAX_HOPS + ["dead"]
    assert list(sub.dead_letters()["reason"]) == ["recursion_limit"]


def test_model_that_publishes_many_is_bounded(quiet: mt.EventBus) -> None:
    def fans_out(n: int) -> None:
        quiet.publish_batch("own", [n + 1] * 20)

    sub = quiet.subscribe("own", fans_out, max_descendants=100)
    quiet.publish("own", 0)
    wait_until(lambda: is_settled(sub))

    assert len(quiet.events("own")) == 1 + 100
    assert set(sub.dead_letters()["reason"]) == {"too_many_descendants"}
    assert "max_descendants is 100" in sub.dead_letters()["error"].iloc[0]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_model_that_connects_at_every_call_is_bounded_too(file: Any, isolation: str) -> None:
    url = f"sqlite:///{file}"

    def fans_out(n: int) -> None:
        import mltrigger

        with mltrigger.connect(url) as bus:
            bus.publish_batch("own", [n + 1] * 2)

    with mt.connect(url) as bus:
        sub = bus.subscribe("own", fans_out, max_descendants=100, isolation=isolation)
        bus.publish("own", 0)
        wait_until(lambda: is_settled(sub), timeout_s=60)

        assert 100 - FEW <= len(bus.events("own")) - 1 <= 100
        assert set(sub.dead_letters()["reason"]) == {"too_many_descendants"}


def test_models_that_are_async_or_take_batches_publish_for_their_events(quiet: mt.EventBus) -> None:
    quiet.topic("out")

    async def waits(n: int) -> None:
        quiet.publish("out", ["async", n])

    @mt.model("batch", batch=True)
    def batch(rows: list[int]) -> list[int]:
        quiet.publish("out", ["batch", *rows])
        return rows

    subs = [quiet.subscribe("in", waits), quiet.subscribe("in", batch)]
    receipt = quiet.publish("in", 1)
    wait_until(lambda: all(is_settled(sub) for sub in subs))

    assert quiet.events("out")["causation_id"].tolist() == [receipt.event_id] * 2


def test_outside_of_models_nothing_is_inherited(quiet: mt.EventBus) -> None:
    quiet.topic("t")
    quiet.publish("t", 1)

    assert current() is None
    assert quiet.events("t")["hops"].tolist() == [0]


# -- nobody waits for itself -----------------------------------------------------------------------


def test_model_that_fires_on_its_own_topic_is_refused_at_once(bus: mt.EventBus) -> None:
    def fires(n: int) -> None:
        bus.fire("own", n + 1, progress=False)

    sub = bus.subscribe("own", fires, timeout_s=1000)
    bus.publish("own", 0)
    wait_until(lambda: is_settled(sub))

    (letter,) = sub.dead_letters().to_dict(orient="records")
    assert (letter["reason"], letter["attempts"], letter["error_type"]) == (
        "waits_for_itself",
        1,
        "Circular",
    )
    assert "it fires on 'own', which 'fires' listens to" in letter["error"]
    assert len(bus.events("own")) == 1


def test_model_that_fires_on_the_topic_of_one_that_waits_for_it_is_refused(
    bus: mt.EventBus,
) -> None:
    def asks(n: int) -> object:
        return bus.fire("second", n, progress=False).results()["reason"].tolist()

    def asks_back(n: int) -> None:
        bus.fire("first", n, progress=False)

    first = bus.subscribe("first", asks, timeout_s=1000)
    second = bus.subscribe("second", asks_back, timeout_s=1000)
    bus.publish("first", 0)
    wait_until(lambda: is_settled(first) and is_settled(second))

    assert list(first.results()["output"]) == [["waits_for_itself"]]
    assert "the model of 'asks' waits for this very event" in second.dead_letters()["error"].iloc[0]


def test_model_may_fire_what_its_own_filter_keeps_out(bus: mt.EventBus) -> None:
    def fires(data: dict[str, str]) -> str:
        return str(bus.fire("t", mt.Event(1, type="part"), progress=False).results()["outcome"][0])

    sub = bus.subscribe("t", fires, filter={"type": ["whole"]})
    parts = bus.subscribe("t", named("parts"), filter={"type": ["part"]})
    bus.publish("t", {}, type="whole")
    wait_until(lambda: is_settled(sub) and is_settled(parts))

    assert sub.results()["output"].tolist() == ["succeeded"]


def test_model_that_waits_until_nothing_is_open_is_refused_at_once(bus: mt.EventBus) -> None:
    def waits(n: int) -> None:
        bus.wait(progress=False)

    sub = bus.subscribe("t", waits, timeout_s=1000)
    bus.publish("t", 0)
    wait_until(lambda: is_settled(sub))

    assert list(sub.dead_letters()["reason"]) == ["waits_for_itself"]


def test_model_may_fire_and_wait_on_another_bus(bus: mt.EventBus) -> None:
    with mt.connect("memory://") as other:
        other.subscribe("t", named("there"))

        def fires(n: int) -> object:
            run = other.fire("t", n, progress=False)
            return [other.wait(progress=False), run.results()["outcome"].tolist()]

        sub = bus.subscribe("t", fires)
        bus.publish("t", 0)
        wait_until(lambda: is_settled(sub))

        assert sub.results()["output"].tolist() == [[True, ["succeeded"]]]


def test_a_thread_of_its_own_is_no_call() -> None:
    found: list[object] = []
    with during(Running(Place("a", "t", "home"), (mt.Event(1),))):
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()

        assert current() is not None
    assert found == [None]
