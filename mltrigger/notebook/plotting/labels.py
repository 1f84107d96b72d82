"""Labels beside the lines that they name, instead of a legend.

Places are found in pixels, for the size that the chart has now. The same chart gets the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

_SIZE = 9
_GAP = 7.0
"""Points between a line and its label."""
_FINE = 400
"""Points of a line that a label is kept away from."""
_SIDES = ((1, 0), (-1, 0), (1, -1), (-1, 1), (0, 1), (0, -1))
_OFF = 100.0
"""A label outside of the Axes is this much worse than one on a point of a line."""
_ON_LABEL = 25.0


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A line with its name. Places near the first of *good* are tried first."""

    text: str
    x: Any
    y: Any
    colour: str
    good: tuple[int, ...] = ()


def beside(ax: Axes, lines: Sequence[Named]) -> None:
    """Write the name of each line where it hides least."""
    import numpy as np

    _lay_out(ax)
    pixels = [_fine(ax, line) for line in lines]
    crowd = np.concatenate([np.empty((0, 2)), *pixels])
    taken: list[Any] = []
    for line in lines:
        label = _label(ax, line)
        box = label.get_window_extent()
        size = np.array([box.width, box.height])
        found = [
            (cost(place, size, crowd, taken, ax.bbox), index, place, point)
            for index, (place, point) in enumerate(_candidates(ax, line, size))
        ]
        _, _, place, (x, y) = min(found, key=lambda each: each[:2])
        taken.append((place, size))
        to_points = 72 / ax.figure.dpi
        offset = (place + size / 2 - ax.transData.transform((x, y))) * to_points
        label.remove()
        ax.annotate(
            line.text,
            (x, y),
            tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            color=line.colour,
            fontsize=_SIZE,
            parse_math=False,
            path_effects=_halo(),
            zorder=5,
        )


def at_the_end(ax: Axes, lines: Sequence[Named]) -> None:
    """Write the name of each line to the right of its last point, and make room for it."""
    import numpy as np

    _lay_out(ax)
    labels = [_label(ax, line) for line in lines]
    boxes = [label.get_window_extent() for label in labels]
    for label in labels:
        label.remove()
    widest = max((box.width for box in boxes), default=0.0)
    dots = ax.figure.dpi / 72
    low, high = ax.get_xlim()
    share = min((widest + 2 * _GAP * dots) / max(ax.bbox.width, 1.0), 0.5)
    ax.set_xlim(low, low + (high - low) / (1 - share))
    ends = [ax.transData.transform((float(line.x[-1]), float(line.y[-1]))) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: (ends[i][1], i))
    heights = _spread(
        [ends[i][1] for i in order], [boxes[i].height * 1.1 for i in order], ax.bbox.y0
    )
    for i, height in zip(order, heights, strict=True):
        offset = np.array([_GAP, (height - ends[i][1]) / dots])
        ax.annotate(
            lines[i].text,
            (float(lines[i].x[-1]), float(lines[i].y[-1])),
            tuple(offset),
            textcoords="offset points",
            va="center",
            color=lines[i].colour,
            fontsize=_SIZE,
            parse_math=False,
            path_effects=_halo(),
            zorder=5,
        )


def _label(ax: Axes, line: Named) -> Text:
    return ax.text(0, 0, line.text, fontsize=_SIZE, parse_math=False)


def _lay_out(ax: Axes) -> None:
    """Give the Axes the size that they will have."""
    figure: Any = ax.figure
    if hasattr(figure, "get_layout_engine") and figure.get_layout_engine() is not None:
        figure.draw_without_rendering()


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def _spread(wanted: Sequence[float], sizes: Sequence[float], lowest: float) -> list[float]:
    """Return places, lowest first, as near to those *wanted* as labels do not overlap."""
    placed: list[tuple[list[int], float]] = []  # groups that touch, with their middle
    for i, place in enumerate(wanted):
        group, middle = [i], max(place, lowest + sizes[i] / 2)
        while placed:
            before, other = placed[-1]
            room = (sum(sizes[k] for k in before) + sum(sizes[k] for k in group)) / 2
            if middle - other >= room:
                break
            placed.pop()
            group = [*before, *group]
            least = lowest + sum(sizes[k] for k in group) / 2
            middle = max(sum(wanted[k] for k in group) / len(group), least)
        placed.append((group, middle))
    found = [0.0] * len(wanted)
    for group, middle in placed:
        at = middle - sum(sizes[k] for k in group) / 2
        for k in group:
            found[k] = at + sizes[k] / 2
            at += sizes[k]
    return found


def _fine(ax: Axes, line: Named) -> Any:
    """Return many points along *line*, in pixels."""
    import numpy as np

    points = ax.transData.transform(np.column_stack([line.x, line.y]))
    points = points[np.isfinite(points).all(1)]
    if len(points) < 2:
        return points
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    places = np.linspace(0, way[-1], _FINE)
    return np.column_stack([np.interp(places, way, points[:, k]) for k in (0, 1)])


def _candidates(ax: Axes, line: Named, size: Any) -> list[tuple[Any, tuple[float, float]]]:
    """Return lower left corners for a label of *size*, and the points that they stand at."""
    import numpy as np

    gap = _GAP * ax.figure.dpi / 72
    found = []
    for index in line.good or range(len(line.x)):
        point = float(line.x[index]), float(line.y[index])
        middle = ax.transData.transform(point)
        for side in _SIDES:
            away = np.array(side)
            found.append((middle + away * (size / 2 + gap) - size / 2, point))
    return found


def cost(place: Any, size: Any, crowd: Any, taken: Sequence[Any], inside: Any) -> float:
    """Return how much a label at *place* hides: points of lines, other labels, the edge."""
    inner = (crowd >= place - 2) & (crowd <= place + size + 2)
    hidden = float(inner.all(1).sum())
    hidden += _ON_LABEL * sum(
        bool((place < other + its).all() and (other < place + size).all()) for other, its in taken
    )
    low, high = (inside.x0, inside.y0), (inside.x1, inside.y1)
    return hidden + _OFF * float((place < low).any() or (place + size > high).any())
