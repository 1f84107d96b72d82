"""How attempts ended, as bars with their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrigger.notebook.plotting import series, style
from mltrigger.store.outcomes import OUTCOMES
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_ROW, _GAP = 1.0, 0.7
_ROOM = 1.45
"""The axis is longer than its bars by this factor, so that numbers have room."""


def outcomes(table: pd.DataFrame, about: str, ax: Axes | None = None) -> Axes:
    """Draw a bar for each outcome of each series, with its number and its share.

    *table* has ``series`` and ``outcome``.
    """
    there = table.assign(series=table["series"].astype(object).fillna("without a version"))
    found = series.groups(there["series"])
    bars: list[tuple[str, str, int, int]] = []
    for group in found:
        tally = there["outcome"][group.rows].value_counts()
        bars += [
            (group.name, outcome, int(tally[outcome]), group.n)
            for outcome in OUTCOMES
            if tally.get(outcome, 0)
        ]
    names = [name for name, *_ in bars]
    rows = len(bars) * _ROW + len(found) * _GAP
    with style.drawing(ax, height=min(max(1.6 + 0.3 * rows, 2.2), 9.0)) as ax:
        ax.set_xlabel("attempts", parse_math=False)
        style.title(ax, f"Outcomes of {style.words(about)}", count(len(there), "attempt"))
        if not bars:
            style.nothing(ax, "no attempt yet")
            return ax
        places, place = [], 0.0
        for i, name in enumerate(names):
            place += _ROW + (_GAP if i and name != names[i - 1] else 0.0)
            places.append(place)
        _draw(ax, bars, places)
        _names(ax, names, places, many=len(found) > 1)
    return ax


def _draw(ax: Axes, bars: list[tuple[str, str, int, int]], places: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (_, outcome, n, total), at in zip(bars, places, strict=True):
        colour, hatch = style.OUTCOME[outcome]
        ax.barh(
            at, n, height=0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0, zorder=2
        )
        ax.annotate(
            f"{n:,} ({style.percent(n / total)})",
            (n, at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            parse_math=False,
        )
    ax.set_xlim(0, max(n for _, _, n, _ in bars) * _ROOM)
    ax.set_ylim(max(*places, 2.2) + 0.7, min(places) - 1.3)
    ax.grid(visible=False, axis="y")
    style.plain_numbers(ax.xaxis)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_yticks(places, [outcome for _, outcome, *_ in bars], parse_math=False)
    ax.tick_params(axis="y", length=0)


def _names(ax: Axes, names: list[str], places: list[float], many: bool) -> None:
    """Write the name of each series above its bars."""
    for i, (name, at) in enumerate(zip(names, places, strict=True)):
        if i == 0 or name != names[i - 1]:
            ax.annotate(
                style.words(name),
                (0, at - 0.5),
                (2, 1),
                textcoords="offset points",
                va="bottom",
                fontsize=9,
                fontweight="bold" if many else "normal",
                color=style.INK,
                parse_math=False,
            )
