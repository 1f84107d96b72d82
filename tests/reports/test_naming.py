"""Every call that takes an event takes its id, itself, its receipt, or a row of a frame."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import public_api
import pytest
from shared import Gate, wait_until
from stores import ALL, url_of

import mltrigger as mt
from mltrigger.testing import SimulatedClock

Call = Callable[..., Any]


def drawn(plot: Call) -> Call:
    """Return a call that answers with the words of a chart."""

    def call(event: Any, **given: Any) -> Any:
        from matplotlib import pyplot

        pyplot.switch_backend("agg")
        axes = plot(event, **given)
        said = [axes.get_title(loc="left"), *(note.get_text() for note in axes.texts)]
        pyplot.close(axes.figure)
        return said

    return call


CALLS: dict[str, Callable[[mt.Subscription], Call]] = {
    "EventBus.cancel": lambda sub: sub.__mltrigger_bus__().cancel,
    "EventBus.explain": lambda sub: (
        lambda event, **given: sub.__mltrigger_bus__().explain(event, sub.name, **given)
    ),
    "EventBus.trace": lambda sub: sub.__mltrigger_bus__().trace,
    "EventBus.plot_trace": lambda sub: drawn(sub.__mltrigger_bus__().plot_trace),
    "Subscription.plot_trace": lambda sub: drawn(sub.plot_trace),
    "Subscription.discard": lambda sub: lambda events, **given: sub.discard(events, "why", **given),
    "Subscription.dry_run": lambda sub: sub.dry_run,
    "Subscription.explain": lambda sub: sub.explain,
    "Subscription.redrive": lambda sub: sub.redrive,
}


def labelled(sub: mt.Subscription) -> Call:
    """Label an event, and return the event of the label."""
    bus = sub.__mltrigger_bus__()

    def call(event: Any, **given: Any) -> Any:
        bus.label(event, 1, **given)
        return bus.labels()[["event_id", "source"]].iloc[-1].tolist()

    return call


CALLS_OF_ANY = {**CALLS, "EventBus.label": labelled}
"""With those that take an event that is not there yet."""


def refuse(page: Any) -> Any:
    raise mt.Reject("no page")


@pytest.fixture(params=ALL)
def anywhere(request: pytest.FixtureRequest, clock: SimulatedClock, gate: Gate) -> Iterator[Any]:
    """A bus on each store. Those here have a clock that stands still."""
    if request.param == "aws":
        yield request.getfixturevalue("aws").bus()
        return
    with mt.connect(url_of(request), clock=clock) as bus:
        yield bus


PAGES = (
    mt.Event(1, id="page-1", source="a", subject="one"),
    mt.Event(2, id="page-1", source="b", subject="two"),
    mt.Event(3, id="page-2", source="a", subject="three"),
)
"""One id of two sources, and one of its own."""


@pytest.fixture
def run(anywhere: mt.EventBus) -> mt.Run:
    """The run of the pages. All are dead."""
    sub = anywhere.subscribe("pages", refuse)
    run = anywhere.fire("pages", PAGES, progress=False)
    wait_until(lambda: len(sub.dead_letters()) == len(PAGES))
    return run


@pytest.fixture
def refused(anywhere: mt.EventBus, run: mt.Run) -> mt.Subscription:
    """The subscription with the pages as dead letters."""
    return anywhere.subscription("refuse")


def names_of_the_second(bus: mt.EventBus, run: mt.Run) -> Iterator[Any]:
    """Yield all that names the second page exactly."""
    yield PAGES[1]
    yield run.receipts[1]
    sub = bus.subscription("refuse")
    for table in (
        bus.events(),
        sub.invocations(),
        sub.dead_letters(),
        sub.results(),
        sub.dry_run(),
        run.results(),
    ):
        rows = table[(table["event_id"] == "page-1") & (table["source"] == "b")]
        yield rows.iloc[0]
        yield from rows.itertuples()
        yield from rows.itertuples(index=False)
        yield {"event_id": "page-1", "source": "b"}


def asked(call: str, sub: mt.Subscription, event: Any, **given: Any) -> Any:
    """Return the answer to a call, in a form to compare."""
    answer = CALLS_OF_ANY[call](sub)(event, **given)
    return (
        answer.drop(columns="model_ms", errors="ignore").to_csv()
        if hasattr(answer, "to_csv")
        else answer
    )


READ_ONLY = [name for name in CALLS_OF_ANY if not name.endswith(("discard", "redrive"))]


def test_every_public_call_that_takes_an_event_is_tried_here() -> None:
    found = {
        line.partition("(")[0].removeprefix("mltrigger.")
        for line in public_api.lines()
        if re.search(r"[(, ](event|events|event_id): 'Any", line)
    }

    # A case needs an answer, and these events have none: tests/cli/test_export_case.py has some.
    # A replay needs a version: tests/rollout/test_shadow_and_replay.py names its events.
    tried = found - {"testing.record_case", "Subscription.replay"}
    methods = {name for name in tried if "." in name}
    assert methods == set(CALLS_OF_ANY)
    assert {f"EventBus.{name}" for name in tried - methods} <= set(CALLS_OF_ANY)
    for line in public_api.lines():
        if line.partition("(")[0].removeprefix("mltrigger.") in found:
            assert "*, " in line and "source: 'str | None' = None" in line, line


def test_event_has_many_names_and_each_means_the_same(
    anywhere: mt.EventBus,
    run: mt.Run,
    refused: mt.Subscription,
    sample: Callable[[Sequence[Any], int], Sequence[Any]],
) -> None:
    names = list(names_of_the_second(anywhere, run))
    for call in READ_ONLY:
        wanted = asked(call, refused, "page-1", source="b")
        # To draw a chart takes longer than all that it shows.
        for name in sample(names, 5) if call.endswith("plot_trace") else names:
            assert asked(call, refused, name) == wanted, (call, name)
        assert asked(call, refused, "page-1", source="a") != wanted or call.endswith("cancel")


def test_dead_letters_are_chosen_by_any_name(
    anywhere: mt.EventBus, run: mt.Run, refused: mt.Subscription
) -> None:
    for name in names_of_the_second(anywhere, run):
        assert refused.dry_run(name)["source"].tolist() == ["b"]
        assert refused.dry_run([name, "page-2"])["event_id"].tolist() == ["page-1", "page-2"]
    assert refused.dry_run(source="a")["event_id"].tolist() == ["page-1", "page-2"]
    assert refused.dry_run(refused.results()).shape[0] == 3
    assert refused.dry_run([]).empty

    assert refused.discard(refused.results().iloc[0], "of no use") == 1
    assert refused.redrive(mt.Event(id="page-1", source="b")) == 1
    wait_until(lambda: len(refused.invocations()) == 4)


@pytest.mark.parametrize("call", CALLS_OF_ANY)
def test_id_of_two_sources_asks_for_the_source(call: str, refused: mt.Subscription) -> None:
    for name in ("page-1", {"event_id": "page-1"}):
        with pytest.raises(
            mt.AmbiguousEvent,
            match="'page-1' is there from 2 sources: 'a', 'b'; say which, source=",
        ) as raised:
            CALLS_OF_ANY[call](refused)(name)
        assert raised.value.sources == ("a", "b")
    CALLS_OF_ANY[call](refused)("page-1", source="b")


@pytest.mark.parametrize("call", CALLS)
def test_wrong_source_is_named_with_the_right_ones(call: str, refused: mt.Subscription) -> None:
    with pytest.raises(mt.NotFound, match=r"no event 'page-1' of source 'c'.*from 'a', 'b'"):
        CALLS[call](refused)("page-1", source="c")
    with pytest.raises(mt.InvalidEvent, match="has source 'a', and source='b' was given"):
        CALLS[call](refused)(mt.Event(id="page-1", source="a"), source="b")
    with pytest.raises(mt.InvalidEvent, match="source must be the text"):
        CALLS[call](refused)("page-1", source=7)


@pytest.mark.parametrize("call", CALLS)
def test_unknown_id_lists_the_near_ones(call: str, refused: mt.Subscription) -> None:
    with pytest.raises(mt.NotFound, match="'page-1'"):
        CALLS[call](refused)("page-11")
    with pytest.raises(mt.NotFound, match="'zebra'"):
        CALLS[call](refused)("zebra")


@pytest.mark.parametrize("call", [name for name in CALLS_OF_ANY if not name.endswith("explain")])
@pytest.mark.parametrize("wrong", [7, 1.5, b"page-1", {"id": "page-1"}, {"event_id": 7}, object()])
def test_what_names_no_event_is_refused(call: str, wrong: Any, bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", refuse, listen=False)

    with pytest.raises(mt.InvalidEvent, match="give an event id, an Event, a Receipt, or a row"):
        CALLS_OF_ANY[call](sub)(wrong)


@pytest.mark.parametrize("call", CALLS_OF_ANY)
def test_id_that_no_event_can_have_is_refused(call: str, bus: mt.EventBus) -> None:
    with pytest.raises(mt.InvalidEvent, match="lone surrogate"):
        CALLS_OF_ANY[call](bus.subscribe("pages", refuse, listen=False))("\ud800")


def test_frame_of_events_is_refused_where_one_is_meant(refused: mt.Subscription) -> None:
    for call in ("EventBus.cancel", "EventBus.trace"):
        with pytest.raises(mt.InvalidEvent, match=r"take one row, for example frame\.iloc\[0\]"):
            CALLS[call](refused)(refused.invocations())


def test_beginning_of_an_id_and_a_misspelt_one_are_completed(anywhere: mt.EventBus) -> None:
    anywhere.topic("pages")
    ids = [anywhere.publish("pages", n).event_id for n in range(3)]
    anywhere.publish("pages", 4, id="invoice-2026-0417")

    for given, meant in (
        (ids[1][:30], ids[1]),
        (f"{ids[1][:34]}…", ids[1]),
        ("invoice-2026", "invoice-2026-0417"),
        ("invoice-2026-0418", "invoice-2026-0417"),
    ):
        with pytest.raises(mt.NotFound, match=f"did you mean .*'{meant}'"):
            anywhere.trace(given)
    with pytest.raises(mt.NotFound, match=r"no event 'x'; bus\.events\(\) lists the newest"):
        anywhere.trace("x")


def test_receipt_means_the_event_of_its_topic_alone(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    left = bus.subscribe("left", abs, name="left", listen=False)
    right = bus.subscribe("right", abs, name="right", listen=False)
    first, _ = (bus.publish(topic, 1, id="1") for topic in ("left", "right"))

    assert bus.cancel(first) == []
    assert (left.depth().open, right.depth().open) == (0, 1)
    assert bus.cancel("1") == []
    assert right.depth().open == 0


def test_data_that_look_like_a_row_are_explained_as_data(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", refuse, listen=False, filter={"source": ["shop"]})

    steps = sub.explain({"event_id": "unknown", "price": 5}).set_index("step")["detail"]
    of_shop = sub.explain({"price": 5}, source="shop").set_index("step")["detail"]

    assert steps["published"].startswith("not yet")
    assert steps["outcome"] == "would not be delivered"
    assert of_shop["outcome"] == "would be delivered"


def test_results_name_their_events_whatever_the_outputs_are_called(bus: mt.EventBus) -> None:
    sub = bus.subscribe("pages", mt.model(lambda page: {"source": "mine", "event_id": 7}, name="m"))

    run = bus.fire("pages", [mt.Event(1, id="1", source="theirs")], progress=False)

    for table in (run.results(), sub.results(), sub.results(limit=1)):
        assert table[["event_id", "source"]].iloc[0].tolist() == ["1", "theirs"]
        assert table[["output_event_id", "output_source"]].iloc[0].tolist() == [7, "mine"]
        assert list(table.columns[-2:]) == ["event_id", "source"]


def test_open_results_name_their_events_too(bus: mt.EventBus) -> None:
    bus.subscribe("pages", refuse, listen=False)

    with pytest.warns(UserWarning):
        run = bus.fire("pages", [mt.Event(1, id="1", source="a")], timeout_s=0, progress=False)

    assert run.results()[["outcome", "event_id", "source"]].iloc[0].tolist() == ["open", "1", "a"]
