"""The charts, seen through their Axes: numbers, words, and strings that mean harm."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import is_settled, settle, wait_until

import mltrigger as mt
from mltrigger.notebook import plotting
from mltrigger.testing import SimulatedClock

pytestmark = pytest.mark.needs("matplotlib")

HOSTILE = "$\\frac{1}{0}$\nnext\x1b[31m\u202e<b>&"
START_US = 1_790_000_000_000_000


@pytest.fixture(autouse=True)
def pyplot() -> Iterator[Any]:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    yield pyplot
    pyplot.close("all")


def attempts(n: int, versions: tuple[str, ...] = ("1.0.0",), seed: int = 0) -> pd.DataFrame:
    """Return *n* attempts of half an hour as the charts get them."""
    chance = np.random.default_rng(seed)
    series = np.resize(np.array(versions, object), n)
    queue, model = chance.lognormal(1, 1, n), chance.lognormal(3, 0.4, n)
    ended = pd.to_datetime(
        START_US + np.sort(chance.integers(0, 1_800_000_000, n)), unit="us", utc=True
    )
    outcome = chance.choice(["succeeded", "failed", "dead"], n, p=[0.9, 0.06, 0.04])
    return pd.DataFrame(
        {
            "series": series,
            "n": np.ones(n, np.int64),
            "queue_ms": queue,
            "model_ms": model,
            "total_ms": queue + model,
            "finished_at": ended,
            "settled_at": ended,
            "outcome": pd.Categorical(outcome, ["succeeded", "failed", "dead"]),
        }
    )


CHARTS = {
    "latency": lambda table, about="ocr", ax=None: plotting.latency(table, about, None, ax),
    "timeline": lambda table, about="ocr", ax=None: plotting.timeline(
        table, about, "total", (), ax
    ),
    "throughput": lambda table, about="ocr", ax=None: plotting.throughput(table, about, ax),
    "outcomes": lambda table, about="ocr", ax=None: plotting.outcomes(table, about, ax),
}


def texts(ax: Any) -> list[str]:
    """Return all that is written in and around *ax*."""
    from matplotlib.text import Text

    return [found.get_text() for found in ax.findobj(Text) if found.get_text()]


def live(bus: mt.EventBus, clock: SimulatedClock) -> mt.Subscription:
    """Return a subscription with two versions, failures, and the calls of each."""

    def ocr(n: int) -> int:
        if n % 5 == 0:
            raise ValueError("no page")
        return n

    model = mt.model(ocr, name="ocr", version="1.0.0")
    sub = bus.subscribe("documents", model, max_attempts=2)
    bus.publish_batch("documents", range(30))
    settle(bus, clock, sub)
    sub.promote(mt.model(ocr, name="ocr", version="1.1.0"), why="faster")
    clock.advance(s=60)
    bus.publish_batch("documents", range(30))
    settle(bus, clock, sub)
    return sub


@pytest.fixture
def memory(clock: SimulatedClock) -> Iterator[mt.EventBus]:
    with mt.connect("memory://", clock=clock) as bus:
        yield bus


@pytest.fixture
def lived(memory: mt.EventBus, clock: SimulatedClock) -> mt.Subscription:
    return live(memory, clock)


# -- what is drawn ---------------------------------------------------------------------------------


def test_the_lines_of_latency_go_through_the_quantiles_of_the_frame(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = live(bus, clock)
    for stage in ("queue", "model", "total"):
        axes = sub.plot_latency(stage=stage)

        shown = sub.latency().query("stage == @stage").set_index("version")
        assert [text for text in texts(axes) if text in ("1.0.0", "1.1.0")] == list(shown.index)
        for line, (_, row) in zip(axes.get_lines(), shown.iterrows(), strict=True):
            drawn = dict(zip(np.round(line.get_ydata(), 9), line.get_xdata(), strict=True))
            for share, name in ((0.5, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms"), (1, "max_ms")):
                assert drawn[share] == pytest.approx(row[name], abs=0.0011)


def test_one_version_has_a_line_for_each_stage(lived: mt.Subscription) -> None:
    axes = lived.plot_latency(version="ocr:1.1.0")

    assert len(axes.get_lines()) == 3
    assert {"waiting time", "model time", "total time"} <= set(texts(axes))


def test_times_counted_by_lot_give_the_same_lines_as_single_ones(memory: mt.EventBus) -> None:
    """Times of large lots come with the number of their attempts."""
    model = mt.model("all", batch=True, version="1.0.0")(lambda numbers: numbers)
    sub, bus = memory.subscribe("numbers", model, batch_size=64), memory
    bus.publish_batch("numbers", range(640))
    wait_until(lambda: is_settled(sub))

    by_lot, single = sub.plot_latency(stage="model"), sub.plot_latency(stage="model", role="live")

    for one, other in zip(by_lot.get_lines(), single.get_lines(), strict=True):
        assert np.allclose(one.get_xydata(), other.get_xydata())


def test_the_axis_is_logarithmic_only_for_times_that_differ_widely_and_says_so() -> None:
    table = attempts(100)
    near = plotting.latency(table.assign(model_ms=np.linspace(10, 20, 100)), "ocr", ["model"], None)
    far = plotting.latency(table.assign(model_ms=np.geomspace(1, 500, 100)), "ocr", ["model"], None)

    assert (near.get_xscale(), near.get_xlabel()) == ("linear", "model time, ms")
    assert (far.get_xscale(), far.get_xlabel()) == ("log", "model time, ms (logarithmic)")


def test_a_wait_of_zero_stays_in_a_logarithmic_chart() -> None:
    table = attempts(50).assign(queue_ms=np.concatenate([[0.0], np.geomspace(0.5, 900, 49)]))

    axes = plotting.latency(table, "ocr", ["queue"], None)

    assert axes.get_lines()[0].get_xdata()[0] == 0.0
    axes.figure.canvas.draw()


def test_the_timeline_has_the_median_of_each_bin_and_each_change_of_the_version(
    lived: mt.Subscription,
) -> None:
    axes = lived.plot_timeline(stage="model")

    assert axes.get_ylabel().startswith("model time, ms")
    assert axes.get_xlabel() == "time, UTC"
    medians = [line for line in axes.get_lines() if line.get_label() in ("1.0.0", "1.1.0")]
    calls = lived.invocations(columns=["version", "model_ms"])
    for line in medians:
        mine = calls.loc[calls["version"] == line.get_label(), "model_ms"]
        drawn = np.asarray(line.get_ydata(), float)
        assert ((drawn >= mine.min()) & (drawn <= mine.max()))[np.isfinite(drawn)].all()
    assert len(medians) == 2
    assert "promote ocr:1.1.0" in texts(axes)


def test_the_steps_of_throughput_hold_all_attempts(lived: mt.Subscription) -> None:
    from matplotlib.dates import num2date

    axes = lived.plot_throughput()

    size = {"second": 1, "minute": 60, "hour": 3600}[axes.get_ylabel().split()[2].rstrip(",")]
    total = 0.0
    for line in axes.get_lines():
        at = [moment.timestamp() for moment in num2date(line.get_xdata())]
        total += (np.diff(at) * np.asarray(line.get_ydata())[:-1] / size).sum()
    assert total == pytest.approx(len(lived.invocations()), rel=1e-3)


def test_each_outcome_has_a_bar_with_its_number(lived: mt.Subscription) -> None:
    axes = lived.plot_outcomes()

    counts = lived.invocations().value_counts(["version", "outcome"])
    widths = sorted(int(bar.get_width()) for bar in axes.patches)
    assert widths == sorted(counts[counts > 0])
    for n in counts[counts > 0]:
        assert any(text.startswith(f"{n} (") for text in texts(axes))


def test_the_trace_has_a_row_for_each_attempt_with_its_time(lived: mt.Subscription) -> None:
    event = lived.invocations().iloc[0]

    axes = lived.plot_trace(event)

    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows[:1] == ["ocr 1.0.0"]
    assert all(name in ("ocr 1.0.0", "ocr 1.0.0, attempt 2") for name in rows)
    assert any("ms" in text and "failed" in text for text in texts(axes)) or len(rows) == 1


def test_a_comparison_is_drawn_from_two_versions_or_as_it_is(lived: mt.Subscription) -> None:
    lived.replay("1.0.0", wait=True)
    found = lived.compare("1.0.0", "1.1.0")

    for axes in (lived.plot_compare(found), lived.plot_compare("1.0.0", "1.1.0")):
        assert axes.get_yticklabels()[0].get_text() == "all pairs"
        assert axes.get_xlabel() == "agreement with its interval"
    with pytest.raises(mt.InvalidComparison, match="two versions"):
        lived.plot_compare("1.0.0")
    with pytest.raises(mt.InvalidComparison, match="alone"):
        lived.plot_compare(found, by="type")


# -- which attempts --------------------------------------------------------------------------------


def test_filters_are_those_of_the_frames(lived: mt.Subscription) -> None:
    axes = lived.plot_outcomes(version="1.1.0", since="30s")

    assert sum(bar.get_width() for bar in axes.patches) == len(
        lived.invocations(since="30s").query("version == '1.1.0'")
    )


def test_a_version_with_its_model_is_that_of_no_other_model() -> None:
    with mt.connect("memory://") as bus:
        for name in ("fraud", "ocr"):
            bus.subscribe("pages", mt.model(name, version="1.0.0")(lambda page: page), name=name)
        bus.fire("pages", [1, 2, 3], progress=False)

        for draw in (bus.plot_outcomes, bus.plot_latency, bus.plot_throughput, bus.plot_timeline):
            said = texts(draw(version="ocr:1.0.0"))
            assert any(re.match("3 (attempts|calls)", text) for text in said)
            assert "fraud 1.0.0" not in said
        both = texts(bus.plot_outcomes(version=["ocr:1.0.0", "1.0.0"]))
        assert {"ocr 1.0.0", "fraud 1.0.0"} <= set(both)
        assert "no attempt yet" in texts(
            bus.subscription("ocr").plot_outcomes(version="fraud:1.0.0")
        )
        assert "3 calls that ended" in texts(
            bus.subscription("ocr").plot_latency(version="ocr:1.0.0")
        )
        with pytest.raises(mt.NotFound, match=r"did you mean 'ocr:1\.0\.0'"):
            bus.plot_latency(version="ocr:1.0.1")


def test_a_bus_draws_its_subscriptions_beside_each_other(lived: mt.Subscription) -> None:
    bus = lived.__mltrigger_bus__()
    other = bus.subscribe(
        "documents", lambda page: page, name="other", version="3.0.0", start="earliest"
    )
    wait_until(lambda: is_settled(other))

    assert {"ocr 1.0.0", "ocr 1.1.0", "other 3.0.0"} <= set(texts(bus.plot_outcomes()))
    assert "other 3.0.0" in texts(bus.plot_latency())
    assert set(texts(bus.plot_throughput("ocr"))) & {"1.0.0", "1.1.0"} == {"1.0.0", "1.1.0"}
    assert bus.plot_timeline().get_xlabel() == "time, UTC"
    assert bus.plot_trace(lived.invocations().iloc[0]).get_title(loc="left")


@pytest.mark.parametrize(
    "ask",
    [
        lambda sub: sub.plot_latency(stage="modle"),
        lambda sub: sub.plot_timeline(stage="modle"),
        lambda sub: sub.plot_outcomes(version="1.1.o"),
        lambda sub: sub.plot_throughput(role="shado"),
        lambda sub: sub.__mltrigger_bus__().plot_outcomes("orc"),
    ],
)
def test_a_wrong_word_is_answered_with_the_near_ones(lived: mt.Subscription, ask: Any) -> None:
    with pytest.raises(mt.NotFound, match="did you mean"):
        ask(lived)


# -- any number of points --------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("n", [0, 1, 2, 250])
def test_a_chart_of_few_attempts_is_drawn_and_says_how_many(chart: str, n: int) -> None:
    axes = CHARTS[chart](attempts(n))

    axes.figure.canvas.draw()
    assert any(text.startswith(f"{n} ") for text in texts(axes))
    assert ("yet" in " ".join(texts(axes))) == (n == 0)


@pytest.mark.slow(every=4)
@pytest.mark.parametrize("chart", CHARTS)
def test_a_million_attempts_are_a_few_hundred_points(chart: str) -> None:
    table = attempts(1_000_000, ("1.0.0", "1.1.0"))

    began_s = time.process_time()
    axes = CHARTS[chart](table)

    assert time.process_time() - began_s < 20
    assert sum(len(line.get_xdata()) for line in axes.get_lines()) < 2_000
    assert sum(len(dots.get_offsets()) for dots in axes.collections) < 2_000
    assert "1,000,000" in " ".join(texts(axes))


@pytest.mark.parametrize("chart", ["latency", "timeline", "throughput"])
def test_more_series_than_colours_are_drawn_together(chart: str) -> None:
    axes = CHARTS[chart](attempts(4000, tuple(f"{n}.0.0" for n in range(20))))

    assert len(axes.get_lines()) == 6
    assert "15 others" in texts(axes)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_same_attempts_give_the_same_chart(chart: str) -> None:
    def seen() -> list[Any]:
        axes = CHARTS[chart](attempts(3000, ("1.0.0", "1.1.0")))
        axes.figure.canvas.draw()
        lines = [line.get_xydata().tobytes() for line in axes.get_lines()]
        labels = [
            (note.get_text(), note.get_position(), note.xyann)
            for note in axes.texts
            if hasattr(note, "xyann")
        ]
        return [lines, labels, bytes(axes.figure.canvas.buffer_rgba())]

    assert seen() == seen()


# -- how it is drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS)
def test_a_name_is_no_formula_and_one_line(chart: str) -> None:
    axes = CHARTS[chart](attempts(300, (HOSTILE, "1.0.0")), HOSTILE)

    axes.figure.canvas.draw()
    assert any("$\\frac{1}{0}$ next" in text for text in texts(axes))
    for text in texts(axes):
        assert not {"\n", "\x1b", "\u202e"} & set(text)


def test_the_slices_of_a_comparison_are_no_formulas() -> None:
    rows = [("all pairs", 0.98, 0.97, 0.99), (HOSTILE, 0.9, 0.8, 0.95)]

    axes = plotting.agreement(rows, (HOSTILE, "2 pairs"), HOSTILE, 0.99)

    axes.figure.canvas.draw()
    assert not {"\n", "\x1b"} & set("".join(texts(axes)))
    assert "asked for: 99%" in texts(axes)


@pytest.mark.parametrize("chart", CHARTS)
def test_nothing_that_is_written_is_cut_by_the_edge_of_the_figure(chart: str) -> None:
    table = attempts(900, ("a-rather-long-version-name+1", "another-long-version-name+2"))

    axes = CHARTS[chart](table)
    axes.figure.canvas.draw()

    whole = axes.figure.bbox
    for note in axes.texts:
        box = note.get_window_extent()
        assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, note.get_text()


@pytest.mark.parametrize("chart", CHARTS)
def test_given_axes_are_drawn_on_and_returned(chart: str, pyplot: Any) -> None:
    figure, (left, right) = pyplot.subplots(1, 2)

    assert CHARTS[chart](attempts(20), ax=right) is right
    assert not left.has_data()
    assert pyplot.get_fignums() == [figure.number]


@pytest.mark.parametrize("chart", CHARTS)
def test_the_settings_of_the_user_stay(chart: str) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    CHARTS[chart](attempts(20))

    assert dict(mpl.rcParams) == before


def test_series_differ_in_more_than_their_colour() -> None:
    axes = plotting.latency(attempts(500, ("a", "b", "c", "d")), "ocr", ["model"], None)

    looks = {(line.get_marker(), str(line._unscaled_dash_pattern)) for line in axes.get_lines()}
    assert len(looks) == 4
    assert len({line.get_marker() for line in axes.get_lines()}) == 4


def test_a_chart_without_matplotlib_names_the_extra(
    lived: mt.Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(mt.MltriggerError, match=r"a plot needs matplotlib.*'\.\[plot\]'"):
        lived.plot_outcomes()
