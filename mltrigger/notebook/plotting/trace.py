"""The way of one event: when each attempt waited and ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.notebook.plotting import style
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 40
"""So many attempts have a row. The title says how many more there are."""
_ROOM = 1.35


class _Row(NamedTuple):
    name: str
    waits: float
    starts: float
    ends: float
    outcome: str
    ran: bool


def trace(table: pd.DataFrame, about: str, ax: Axes | None = None) -> Axes:
    """Draw each attempt of a trace as a row: a thin bar while it waits, a thick one while it runs.

    *table* is a frame of ``bus.trace``.
    """
    rows = _rows(table.head(MOST))
    with style.drawing(ax, height=min(max(1.7 + 0.34 * len(rows), 2.4), 12.0)) as ax:
        ax.set_xlabel("time since the first event was published, ms", parse_math=False)
        more = f", the first {MOST} of them" if len(table) > MOST else ""
        called = int(table["subscription"].notna().sum())
        style.title(
            ax,
            f"The way of {style.words(about)}",
            f"{count(called, 'attempt')}{more} · thin: waiting, thick: the model",
        )
        if not rows:
            style.nothing(ax, "no such event")
            return ax
        from matplotlib.ticker import MaxNLocator

        for place, row in enumerate(rows):
            _draw(ax, place, row)
        high = max(row.ends for row in rows)
        ax.set_xlim(0, max(high, 0.1) * _ROOM)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(visible=False, axis="y")
        style.plain_numbers(ax.xaxis)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_yticks(range(len(rows)), [row.name for row in rows], parse_math=False)
        ax.tick_params(axis="y", length=0)
    return ax


def _rows(table: pd.DataFrame) -> list[_Row]:
    first = table["published_at"].min()
    since = (table["published_at"] - first).dt.total_seconds() * 1000.0
    return [
        _row(float(published), values)
        for published, values in zip(since, table.to_dict("records"), strict=True)
    ]


def _row(published: float, values: dict[Any, Any]) -> _Row:
    known = {name: value for name, value in values.items() if value == value and value is not None}
    if "subscription" not in known:
        name = f"{known['topic']}: nobody asked for it"
        return _Row(_deeper(name, known["hop"]), published, published, published, "open", False)
    attempt = f", attempt {known['attempt']}" if known.get("attempt", 1) != 1 else ""
    version = f" {known['version']}" if "version" in known else ""
    name = f"{known['subscription']}{version}{attempt}"
    total, model, queue = (float(known.get(f"{s}_ms", 0.0)) for s in ("total", "model", "queue"))
    ends = published + total
    starts = ends - model
    ran = "model_ms" in known
    outcome = str(known.get("outcome", "open"))
    return _Row(_deeper(name, known["hop"]), max(starts - queue, 0.0), starts, ends, outcome, ran)


def _deeper(name: str, hop: int) -> str:
    """Return *name* with a sign for the events that led to it."""
    return f"{'→ ' * min(int(hop), 4)}{style.words(name, 36)}"


def _draw(ax: Axes, place: int, row: _Row) -> None:
    colour, hatch = style.OUTCOME.get(row.outcome, style.OUTCOME["open"])
    wait = row.starts - row.waits
    ax.barh(place, wait, left=row.waits, height=0.14, color=style.QUIET, linewidth=0, zorder=2)
    ax.barh(
        place,
        row.ends - row.starts,
        left=row.starts,
        height=0.56,
        color=colour,
        hatch=hatch,
        edgecolor="white",
        linewidth=0,
        zorder=3,
    )
    ax.vlines(row.starts, place - 0.28, place + 0.28, color=colour, linewidth=1.2, zorder=3)
    took = f"{row.ends - row.starts:,.2f} ms" if row.ran else ""
    said = " " if row.outcome == "open" else row.outcome
    ax.annotate(
        f"{took}{'' if row.outcome == 'succeeded' and row.ran else f' {said}'}".strip(),
        (row.ends, place),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        parse_math=False,
        zorder=4,
    )
