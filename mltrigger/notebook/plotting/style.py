"""The house style of charts. It holds for one chart, and never for those of the user.

Colours are those of Okabe and Ito, which people with any colour vision tell apart. Lines differ in
their dashes and markers, too, and bars in their hatches, so that they print in grey.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from mltrigger.errors import MltriggerError, how_to_install
from mltrigger.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Blue, vermilion, green, purple, orange, sky: https://jfly.uni-koeln.de/color/"""
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (8, 3)))
INK, QUIET, GRID = "#222222", "#666666", "#DDDDDD"
OTHERS = "#8A8A8A"
"""The colour of all series beyond those with colours of their own."""
OUTCOME = {
    "succeeded": ("#009E73", ""),
    "failed": ("#E69F00", "////"),
    "dead": ("#D55E00", "xxxx"),
    "skipped": ("#BBBBBB", "...."),
    "abandoned": ("#CC79A7", "\\\\\\\\"),
    "interrupted": ("#56B4E9", "----"),
    "stale": ("#F0E442", "++++"),
    "running": ("#0072B2", "oo"),
    "open": ("#FFFFFF", ""),
}
"""The colour and the hatch of each outcome."""
WIDE = 10.0
"""An axis of milliseconds is logarithmic if its values span more than this ratio."""
LEAST_MS = 0.001
"""The clock counts microseconds."""
_LONGEST = 40
_RC = {
    "axes.edgecolor": INK,
    "axes.facecolor": "white",
    "axes.labelcolor": INK,
    "axes.unicode_minus": False,
    "figure.dpi": 110.0,
    "figure.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "hatch.color": "white",
    "hatch.linewidth": 0.8,
    "savefig.facecolor": "white",
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
}


@contextlib.contextmanager
def drawing(ax: Axes | None = None, height: float = 3.8) -> Iterator[Axes]:
    """Give Axes in the house style: *ax*, or new ones. The settings of matplotlib stay."""
    try:
        import matplotlib as mpl
        from matplotlib import pyplot
    except ImportError as error:
        raise MltriggerError(f"a plot needs matplotlib: {how_to_install('plot')}") from error
    with mpl.rc_context():
        mpl.rcParams.update(cast("Any", _RC))
        if ax is None:
            ax = pyplot.subplots(figsize=(7.0, height), layout="constrained")[1]
        _dress(ax)
        yield ax


def _dress(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(QUIET)
    ax.set_axisbelow(True)
    # also for ticks that are made later
    ax.tick_params(labelsize=9, colors=INK, labelcolor=INK, length=3, width=0.8)
    ax.tick_params(which="minor", length=0)
    ax.grid(visible=True, which="major", color=GRID, linewidth=0.7)


def words(text: Any, longest: int = _LONGEST) -> str:
    """Return *text* as one line of a chart. A longer one loses its middle, and shows that."""
    line = visible(" ".join(str(text).split()))
    half = longest // 2
    return line if len(line) <= longest else f"{line[: half - 1]}…{line[-half:]}"


def title(ax: Axes, text: str, about: str) -> None:
    """Write the title of a chart, and under it the number of things it is *about*."""
    ax.set_title(
        text, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22, parse_math=False
    )
    ax.annotate(
        about,
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=QUIET,
        parse_math=False,
        annotation_clip=False,
    )


def nothing(ax: Axes, text: str) -> None:
    """Say in the middle of empty Axes that there is nothing to draw."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=QUIET,
        parse_math=False,
    )


def percent(share: float) -> str:
    """Return a share in per cent. Only all is 100%, and only none is 0%."""
    if share != share:
        return "–"
    if 0 < share < 0.0001:
        return "<0.01%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}".replace(".0%", "%") if share >= 0.1 else f"{100 * share:.2g}%"


def number(value: float) -> str:
    """Return a number of an axis: ``1,500``, ``0.25``."""
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def plain_numbers(axis: Any) -> None:
    """Let *axis* show :func:`number` for each tick."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def milliseconds(axis: Any, name: str, low: float, high: float) -> None:
    """Make *axis* one of milliseconds, logarithmic if *low* and *high* are far apart."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    ax, side = axis.axes, axis.axis_name
    if high > WIDE * max(low, LEAST_MS):
        getattr(ax, f"set_{side}scale")("log", nonpositive="clip")
        limits = max(low, LEAST_MS) / 1.15, high * 1.15
        near = limits[1] / limits[0] < 200.0
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,), numticks=9))
        name = f"{name}, ms (logarithmic)"
    else:
        room = max((high - low) * 0.05, high * 0.02, LEAST_MS)
        limits = max(low - room, 0.0 if low >= 0 else low - room), high + room
        axis.set_major_locator(MaxNLocator(6))
        name = f"{name}, ms"
    getattr(ax, f"set_{side}lim")(*limits)
    plain_numbers(axis)
    axis.set_label_text(name, parse_math=False)
