"""``since`` is the same in every call: a time with its zone, or an age on the clock of the bus."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import public_api
import pytest
from emulators import Account

import mltrigger as mt
from mltrigger.testing import SimulatedClock

Call = Callable[[mt.EventBus, Any], int]


def read(page: Any) -> Any:
    return page


def rows(table: pd.DataFrame) -> int:
    return len(table)


def calls(table: pd.DataFrame) -> int:
    """Return how many calls a frame of latencies is about."""
    return int(table.loc[table["stage"] == "model", "count"].sum())


def replayed(bus: mt.EventBus, since: Any) -> int:
    """Return how many events a replay takes. It begins none of them."""
    sub = bus.subscription("read")
    try:
        return sub.replay(sub.selector, since=since, max_rate_per_s=0.001).progress().total or 0
    except mt.NotFound:
        return 0


def compared(bus: mt.EventBus, since: Any) -> int:
    """Return on how many events a version is compared with itself."""
    sub = bus.subscription("read")
    if len(sub.results()):
        sub.replay(sub.selector, wait=True)
    try:
        return sub.compare(sub.selector, sub.selector, since=since).counts["pairs"]
    except mt.NothingToCompare:
        return 0


def drawn(axes: Any) -> int:
    """Return how many calls or attempts a chart is about, and close it."""
    from matplotlib import pyplot

    texts = [note.get_text() for note in axes.texts]
    pyplot.close(axes.figure)
    return next(
        int(found[1]) for text in texts if (found := re.match(r"(\d+) (call|attempt)", text))
    )


@pytest.fixture(autouse=True)
def _no_window() -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")


CHARTS = ("plot_latency", "plot_timeline", "plot_throughput", "plot_outcomes")
CALLS: dict[str, Call] = {
    "EventBus.events": lambda bus, since: rows(bus.events(since=since)),
    "EventBus.invocations": lambda bus, since: rows(bus.invocations(since=since)),
    "EventBus.latency": lambda bus, since: calls(bus.latency(since=since)),
    "Subscription.invocations": lambda bus, since: rows(
        bus.subscription("read").invocations(since=since)
    ),
    "Subscription.results": lambda bus, since: rows(bus.subscription("read").results(since=since)),
    "Subscription.latency": lambda bus, since: calls(bus.subscription("read").latency(since=since)),
    "Subscription.compare": compared,
    "Subscription.replay": replayed,
    **{
        f"EventBus.{name}": lambda bus, since, name=name: drawn(
            getattr(bus, name)("read", since=since)
        )
        for name in CHARTS
    },
    **{
        f"Subscription.{name}": lambda bus, since, name=name: drawn(
            getattr(bus.subscription("read"), name)(since=since)
        )
        for name in CHARTS
    },
}


@pytest.fixture
def tried(sample: Callable[[Sequence[str], int], Sequence[str]]) -> dict[str, Call]:
    """The calls, and every third chart: to draw one takes longer than all that it shows."""
    charts = [name for name in CALLS if ".plot_" in name]
    left_out = {*charts} - {*sample(charts, 3)}
    return {name: call for name, call in CALLS.items() if name not in left_out}


@pytest.fixture
def old_and_new(bus: mt.EventBus, clock: SimulatedClock) -> mt.EventBus:
    """A bus with an event of three days ago, and one of now."""
    bus.subscribe("pages", read)
    bus.fire("pages", [1], progress=False)
    clock.advance(s=3 * 86_400)
    bus.fire("pages", [2], progress=False)
    return bus


def now(clock: SimulatedClock) -> datetime:
    return datetime.fromtimestamp(clock.now_us() / 1e6, UTC)


def test_every_public_call_with_since_is_tried_here() -> None:
    found = {
        line.partition("(")[0].removeprefix("mltrigger.")
        for line in public_api.lines()
        if re.search(r"[(, ](since|until): ", line)
    }

    methods = {name for name in found if "." in name}
    assert methods == {*CALLS, "Subscription.dead_letters"}
    # the functions of the module are the methods of the default bus
    assert {f"EventBus.{name}" for name in found - methods} <= set(CALLS)


@pytest.mark.slow(every=4)  # each form, each store
@pytest.mark.parametrize(
    "since",
    [
        "2d",
        "2D",
        " 2 d ",
        "1d24h",
        "1d 24h",
        "48h",
        "47h59m60s",
        "2880m",
        "172800s",
        "0.25w",
        timedelta(days=2),
        pd.Timedelta(days=2),
    ],
    ids=str,
)
def test_age_counts_back_from_the_clock_of_the_bus(
    since: Any, old_and_new: mt.EventBus, tried: dict[str, Call]
) -> None:
    for name, call in tried.items():
        assert call(old_and_new, since) == 1, name


def test_time_may_be_of_any_zone_and_kind(
    old_and_new: mt.EventBus, clock: SimulatedClock, tried: dict[str, Call]
) -> None:
    then = now(clock) - timedelta(days=2)
    elsewhere = then.astimezone(timezone(timedelta(hours=5, minutes=45)))
    texts = then.isoformat(), then.isoformat().replace("+00:00", "Z"), elsewhere.isoformat()

    for since in (then, elsewhere, pd.Timestamp(then), *texts):
        for name, call in tried.items():
            assert call(old_and_new, since) == 1, (name, since)


def test_longer_age_takes_all_and_no_since_is_no_limit(
    old_and_new: mt.EventBus, clock: SimulatedClock, tried: dict[str, Call]
) -> None:
    for name, call in CALLS.items():
        assert call(old_and_new, "3d") == 2, name  # the old one is exactly three days old
        assert call(old_and_new, now(clock) + timedelta(days=1)) == 0, name
    for name, call in tried.items():
        for since in ("4d", "99w", None):
            assert call(old_and_new, since) == 2, (name, since)


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (7, "a number has no unit: '7s' are seconds"),
        (1.5, "a number has no unit: '1.5s' are seconds"),
        (np.int64(7), "a number has no unit"),
        (float("nan"), "a number has no unit"),
        (True, "got True"),
        ("", "since must be a time with its zone"),
        ("2", "'1h30m', '2w'"),
        ("2x", "got 2x"),
        ("-2d", "got -2d"),
        ("m2", "got m2"),
        ("2h1d", "got 2h1d"),
        ("yesterday", "got yesterday"),
        ("9" * 500 + "d", "since must be a time with its zone"),
        ("9" * 90 + "d", "at most 100 years"),
        ("5300w", "at most 100 years"),
        (timedelta.max, "at most 100 years"),
        ("0d", "above 0 s"),
        (timedelta(), "above 0 s"),
        (timedelta(days=-2), "above 0 s"),
        (pd.NaT, "got NaT"),
        (date(2026, 11, 28), "since must be a time with its zone"),
        (datetime(2026, 11, 28), r"is naive; give its zone, for example datetime\.now\(UTC\)"),
        (pd.Timestamp("2026-11-28"), "is naive"),
        ("2026-11-28T09:00", "is naive"),
        (["2d"], "since must be a time with its zone"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_time_is_refused_with_the_forms(since: Any, said: str, bus: mt.EventBus) -> None:
    bus.subscribe("pages", read, listen=False)

    for call in CALLS.values():
        with pytest.raises(mt.InvalidEvent, match=said):
            call(bus, since)


def test_since_is_the_same_on_aws(aws: Account) -> None:
    bus = aws.bus()
    bus.subscribe("pages", read)
    bus.fire("pages", [1], progress=False)

    for name, call in CALLS.items():
        later = datetime.now(UTC) + timedelta(days=1)
        assert (call(bus, "1h"), call(bus, later)) == (1, 0), name
