"""How long attempts take, as the share of them that took at most so long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.notebook.plotting import labels, series, style
from mltrigger.text import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

STAGE = {"queue": "waiting time", "model": "model time", "total": "total time"}
_DASHES = {"queue": style.DASHES[2], "model": style.DASHES[0], "total": style.DASHES[1]}
_MARKED = (0.5, 0.95, 0.99)
_GOOD = (0.5, 0.35, 0.65, 0.2, 0.8, 0.9, 0.1, 0.97, 0.03)


def latency(table: pd.DataFrame, about: str, stages: Sequence[str] | None, ax: Axes | None) -> Axes:
    """Draw the ECDF of each series and stage.

    *table* has ``series``, ``n`` (how many attempts a row stands for) and ``*_ms``.
    """
    import numpy as np

    done = table.dropna(subset=["series", "model_ms"])
    each = done["n"].to_numpy()
    found = series.groups(done["series"], each)
    stages = stages or (tuple(STAGE) if len(found) < 2 else ("model",))
    with style.drawing(ax) as ax:
        lines = []
        for place, stage in enumerate(stages):
            values = done[f"{stage}_ms"].to_numpy()
            for group in found:
                shares, ms = series.ecdf(values[group.rows], each[group.rows])
                alone = len(found) == 1
                colour = style.COLOURS[place] if alone else group.colour
                marker = style.MARKERS[place if alone else group.place]
                dash = style.DASHES[group.place] if len(stages) == 1 else _DASHES[stage]
                look = {"color": colour, "marker": marker, "linestyle": dash}
                _line(ax, shares, ms, look | {"linewidth": 2.0 if stage == "model" else 1.5})
                good = tuple(int(np.abs(shares - share).argmin()) for share in _GOOD)
                lines.append(
                    labels.Named(_name(group, stage, alone, stages), ms, shares, colour, good)
                )
        name = STAGE[stages[0]] if len(stages) == 1 else "time"
        _axes(ax, lines, name)
        n = count(sum(group.n for group in found), "call")
        style.title(ax, f"Latency of {style.words(about)}", f"{n} that ended")
        if lines:
            labels.beside(ax, lines)
        else:
            style.nothing(ax, "no call has ended yet")
    return ax


def _name(group: series.Group, stage: str, alone: bool, stages: Sequence[str]) -> str:
    if alone:
        return f"{style.words(group.name)}: {STAGE[stage]}" if len(stages) == 1 else STAGE[stage]
    name = style.words(group.name, 24)
    return name if len(stages) == 1 else f"{name}: {STAGE[stage].partition(' ')[0]}"


def _line(ax: Axes, shares: Any, ms: Any, look: dict[str, Any]) -> None:
    import numpy as np

    marked = [int(np.abs(shares - share).argmin()) for share in _MARKED]
    ax.plot(
        ms,
        shares,
        markersize=5,
        markevery=sorted(set(marked)),
        markeredgecolor="white",
        markeredgewidth=0.6,
        **look,
    )


def _axes(ax: Axes, lines: Sequence[labels.Named], name: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low = min((float(line.x[0]) for line in lines), default=1.0)
    high = max((float(line.x[-1]) for line in lines), default=1.0)
    style.milliseconds(ax.xaxis, name, low, high)
    ax.set_ylim(-0.02, 1.03)
    ax.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 0.95, 1]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ax.set_ylabel("share of calls", parse_math=False)
