"""Attempts over time: how long they took, and how many there were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.notebook.plotting import labels, series, style
from mltrigger.notebook.plotting.latency import STAGE
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FEW = 200
"""Up to so many attempts are shown one by one."""
_BAND = 0.95
_BANDS = 2
"""Up to so many series have a band. More of them would hide each other."""
_GAP = 3
"""A line breaks after so many bins without a call."""
_TIME = "time, UTC"
_RATES = (("second", 1.0), ("minute", 60.0), ("hour", 3_600.0), ("day", 86_400.0))
_MARKS = 12
"""The most changes of the version that have a line."""


def timeline(
    table: pd.DataFrame,
    about: str,
    stage: str,
    changes: Sequence[tuple[int, str]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw the median time of each series over time, and a band up to its 95th percentile.

    *table* has ``series``, ``finished_at``, ``*_ms`` and ``outcome``. *changes* are the times of
    bindings, in microseconds since 1970, and their words.
    """
    import numpy as np

    done = table.dropna(subset=["series", f"{stage}_ms", "finished_at"])
    found = series.groups(done["series"])
    few, width_us, lines = len(done) <= FEW, 0, list[labels.Named]()
    with_band = not few and len(found) <= _BANDS
    with style.drawing(ax) as ax:
        if len(done):
            values, times = done[f"{stage}_ms"].to_numpy(), series.long_ago(done, "finished_at")
            width_us = series.width_of_bins(times, len(done) // (10 * len(found)))
            bins, seen = times // width_us * width_us, []
            for group in found:
                mine = group.rows
                if few:
                    failed = (done["outcome"] != "succeeded").to_numpy()
                    _dots(ax, times[mine], values[mine], failed[mine], group)
                starts, marks, _ = series.of_bins(bins[mine], values[mine], (0.5, _BAND))
                _, (middles,), _ = series.of_bins(bins[mine], times[mine], (0.5,))
                gaps = np.flatnonzero(np.diff(starts) > _GAP * width_us) + 1
                lines.append(_line(ax, middles, marks, gaps, group, with_band))
                seen += [values[mine]] if few else [*marks[: 1 + with_band]]
            low, high = (float(end(np.concatenate(seen))) for end in (np.min, np.max))
            style.milliseconds(ax.yaxis, STAGE[stage], low, high)
            _over(ax, int(times.min()), int(times.max()))
        else:
            ax.set_ylabel(f"{STAGE[stage]}, ms", parse_math=False)
            ax.set_xlabel(_TIME, parse_math=False)
        _title(ax, about, stage, len(done), width_us, "dots" if few else "band" * with_band)
        if lines:
            labels.at_the_end(ax, lines)
            _changes(ax, changes)
        else:
            style.nothing(ax, "no call has ended yet")
    return ax


def _title(ax: Axes, about: str, stage: str, n: int, width_us: int, form: str) -> None:
    said = f"line: median of each {series.width(width_us)}" if width_us else ""
    more = {
        "dots": "dot: a call, cross: one that failed",
        "band": "band: up to the 95th percentile",
    }
    parts = [count(n, "call"), *([said] if said else []), *([more[form]] if form and n else [])]
    head = f"{STAGE[stage].capitalize()} of {style.words(about)} over time"
    style.title(ax, head, " · ".join(parts))


def _dots(ax: Axes, times: Any, values: Any, failed: Any, group: series.Group) -> None:
    for which, marker, size in ((~failed, style.MARKERS[group.place], 14), (failed, "x", 26)):
        if which.any():
            ax.scatter(
                _dates(times[which]),
                values[which],
                s=size,
                marker=marker,
                color=group.colour,
                alpha=1.0 if marker == "x" else 0.55,
                linewidths=1.4 if marker == "x" else 0,
                zorder=3,
            )


def _line(
    ax: Axes, middles: Any, marks: Any, gaps: Any, group: series.Group, with_band: bool
) -> labels.Named:
    """Draw a line through the medians. It breaks where nothing ran."""
    import numpy as np

    at = np.insert(_dates(middles), gaps, np.nan)
    median, high = (np.insert(each, gaps, np.nan) for each in marks)
    name = style.words(group.name, 24)
    ax.plot(
        at,
        median,
        color=group.colour,
        linestyle=style.DASHES[group.place],
        linewidth=1.8,
        marker=style.MARKERS[group.place],
        markersize=4.5,
        markevery=1 if len(gaps) else max(len(at) // 8, 1),
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=name,
    )
    if with_band:
        ax.fill_between(at, median, high, color=group.colour, alpha=0.16, linewidth=0)
    return labels.Named(name, at, median, group.colour)


def throughput(table: pd.DataFrame, about: str, ax: Axes | None = None) -> Axes:
    """Draw how many attempts of each series ended a second, a minute, an hour or a day.

    *table* has ``series`` and ``settled_at``.
    """
    import numpy as np

    done = table.dropna(subset=["series", "settled_at"])
    found = series.groups(done["series"])
    with style.drawing(ax) as ax:
        lines, unit, said = [], "second", ""
        if len(done):
            times = series.long_ago(done, "settled_at")
            edges, places, width_us = _edges(times)
            spans_s = np.diff(edges) / 1e6
            rates = [
                np.bincount(places[group.rows], minlength=len(spans_s)) / spans_s for group in found
            ]
            most = max(float(rate.max()) for rate in rates)
            unit, size = next((each for each in _RATES if most * each[1] >= 1), _RATES[-1])
            for group, rate in zip(found, rates, strict=True):
                lines.append(_steps(ax, edges, rate * size, group, len(found) == 1))
            said = f", mean of {series.width(width_us)}"
            ax.set_ylim(0, most * size * 1.08)
            style.plain_numbers(ax.yaxis)
            _over(ax, int(edges[0]), int(edges[-1]))
        else:
            ax.set_xlabel(_TIME, parse_math=False)
        ax.set_ylabel(f"attempts a {unit}{said}", parse_math=False)
        style.title(
            ax, f"Throughput of {style.words(about)}", f"{count(len(done), 'attempt')} that ended"
        )
        if lines:
            labels.at_the_end(ax, lines)
        else:
            style.nothing(ax, "no attempt has ended yet")
    return ax


def _edges(times: Any) -> tuple[Any, Any, int]:
    """Return the edges of bins, the bin of each time, and the width.

    The last bin ends with the last time, so that its mean is true. It is at least half a bin.
    """
    import numpy as np

    width_us = series.width_of_bins(times, len(times) // 5)
    first, last = int(times.min()), int(times.max())
    whole, rest = divmod(last - first, width_us)
    if whole and rest >= width_us // 2:
        whole, end = whole + 1, last
    else:
        whole, end = max(whole, 1), last if whole else first + width_us
    edges = np.append(first + np.arange(whole) * width_us, end)
    return edges, np.minimum((times - first) // width_us, whole - 1), width_us


def _steps(ax: Axes, edges: Any, rates: Any, group: series.Group, alone: bool) -> labels.Named:
    import numpy as np

    at, heights = _dates(edges), np.append(rates, rates[-1])
    name = style.words(group.name, 24)
    if alone:
        ax.fill_between(at, heights, step="post", color=group.colour, alpha=0.14, linewidth=0)
    ax.plot(
        at,
        heights,
        drawstyle="steps-post",
        color=group.colour,
        linestyle=style.DASHES[group.place],
        linewidth=1.6,
        label=name,
    )
    return labels.Named(name, at, heights, group.colour)


def _over(ax: Axes, first_us: int, last_us: int) -> None:
    """Make the horizontal axis one of time, UTC."""
    from datetime import UTC

    from matplotlib import dates

    room_us = (last_us - first_us) // 50 or 500_000
    ax.set_xlim(*_dates([first_us - room_us, last_us + room_us]))
    axis: Any = dates
    locator = axis.AutoDateLocator(tz=UTC, minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(axis.ConciseDateFormatter(locator, tz=UTC))
    ax.xaxis.get_offset_text().set(fontsize=9, color=style.QUIET)
    ax.set_xlabel(_TIME, parse_math=False)


def _dates(times_us: Any) -> Any:
    """Return microseconds since 1970 as matplotlib counts days."""
    import numpy as np
    from matplotlib import dates

    axis: Any = dates
    return axis.date2num(np.asarray(times_us, np.int64).astype("M8[us]"))


def _changes(ax: Axes, changes: Sequence[tuple[int, str]]) -> None:
    """Draw a line for each change of the version in the time that is shown."""
    low, high = ax.get_xlim()
    inside = [
        (at, text)
        for at, text in zip(_dates([us for us, _ in changes]), _words(changes), strict=True)
        if low < at < high
    ]
    for at, text in inside[-_MARKS:]:
        ax.axvline(at, color=style.QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        ax.annotate(
            text,
            (at, 1),
            (3, -3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=8,
            color=style.QUIET,
            parse_math=False,
        )


def _words(changes: Sequence[tuple[int, str]]) -> list[str]:
    return [style.words(text) for _, text in changes]
