"""How often two versions agree, by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mltrigger.notebook.plotting import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 25
"""So many slices have a row, those with the least agreement."""
_ROOM = 0.22


def agreement(
    rows: Sequence[tuple[str, float, float, float]],
    head: tuple[str, str],
    by: str,
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the agreement of each slice with its interval.

    Each of *rows* has a name, the figure, and the interval. *head* has the title and the line under
    it. *limit* is the agreement that was asked for.
    """
    whole, parts = list(rows[:1]), sorted(rows[1:], key=lambda row: (row[1], row[0]))
    more = len(parts) - MOST
    rows = [*whole, *parts[:MOST]]
    with style.drawing(ax, height=min(max(1.9 + 0.34 * len(rows), 2.4), 12.0)) as ax:
        said = f", {MOST} of {len(parts)} slices: those that agree least" if more > 0 else ""
        style.title(ax, style.words(head[0], 70), f"{head[1]}{said}")
        ax.set_xlabel("agreement with its interval", parse_math=False)
        if not rows:
            style.nothing(ax, "nothing was compared")
            return ax
        for place, (_, figure, low, high) in enumerate(rows):
            _draw(ax, place, figure, (low, high), place == 0)
        _axes(ax, rows, by, limit)
    return ax


def _draw(ax: Axes, place: int, figure: float, interval: tuple[float, float], whole: bool) -> None:
    colour = style.INK if whole else style.COLOURS[0]
    ax.plot(
        interval,
        [place, place],
        color=colour,
        linewidth=2.2,
        solid_capstyle="butt",
        marker="|",
        markersize=8,
        zorder=2,
    )
    ax.plot(
        [figure],
        [place],
        "D" if whole else "o",
        color=colour,
        markersize=6,
        markeredgecolor="white",
        zorder=3,
    )
    ax.annotate(
        style.percent(figure),
        (1, place),
        (-2, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
        parse_math=False,
    )


def _axes(
    ax: Axes, rows: Sequence[tuple[str, float, float, float]], by: str, limit: float | None
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low = min([row[2] for row in rows] + ([limit] if limit is not None else []))
    span = max(1.0 - low, 0.001)
    ax.set_xlim(low - 0.04 * span, 1.0 + _ROOM * span)
    ax.set_ylim(len(rows) - 0.4, -0.9)
    ticks = [t for t in MaxNLocator(5).tick_values(low, 1.0) if low - 0.04 * span <= t <= 1.0]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}%"))
    ax.grid(visible=False, axis="y")
    if limit is not None:
        ax.axvline(
            limit, color=style.COLOURS[1], linestyle=style.DASHES[1], linewidth=1.2, zorder=1
        )
        right = limit < low + span / 2
        ax.annotate(
            f"asked for: {style.percent(limit)}",
            (limit, -0.85),
            (4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize=8,
            color=style.COLOURS[1],
            parse_math=False,
        )
    ax.set_yticks(range(len(rows)), [style.words(row[0]) for row in rows], parse_math=False)
    ax.tick_params(axis="y", length=0)
    if by != "slice":
        ax.set_ylabel(style.words(by), parse_math=False)
