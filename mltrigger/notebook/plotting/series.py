"""From frames of attempts to the few points of a chart, column by column."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mltrigger.notebook.plotting.style import COLOURS, OTHERS
from mltrigger.reports.quantiles import quantiles
from mltrigger.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

MOST = len(COLOURS)
"""So many series have a colour of their own. The others are drawn together."""
POINTS = 500
"""Up to so many attempts are all drawn. More of them are drawn as quantiles."""
BINS = 60
_SHARES = (0.5, 0.95, 0.99)
_TAIL = (0.995, 0.999, 0.9995, 0.9999)
_FINE_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)
_STEPS_S: tuple[float, ...] = (
    *_FINE_S,
    *(60 * m for m in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)),
)
_DAY_S = 86_400


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The attempts of one series: which rows they are, its name and its colour."""

    name: str
    rows: Any
    colour: str
    n: int
    place: int


def groups(names: Any, each: Any = None) -> list[Group]:
    """Return the rows of each name, sorted by name. The rarest beyond six are one group.

    *each* says how many attempts a row stands for.
    """
    import numpy as np
    import pandas as pd

    codes, known = pd.factorize(names, sort=True)
    there = codes >= 0
    weights = None if each is None else np.asarray(each)[there]
    sizes = np.bincount(codes[there], weights, minlength=len(known)).astype(np.int64)
    most = MOST if len(known) <= MOST else MOST - 1
    kept = sorted(np.argsort(-sizes, kind="stable")[:most].tolist())
    found = [
        Group(str(known[code]), codes == code, COLOURS[place], int(sizes[code]), place)
        for place, code in enumerate(kept)
    ]
    if len(kept) < len(known):
        rest = there & ~np.isin(codes, kept)
        others = int(sizes.sum() - sizes[kept].sum())
        found.append(Group(f"{len(known) - len(kept)} others", rest, OTHERS, others, MOST - 1))
    return found


def ecdf(values: Any, each: Any) -> tuple[Any, Any]:
    """Return shares, and the quantiles of *values* at these shares. All values if they are few."""
    import numpy as np

    n = int(np.sum(each))
    steps = n if n <= POINTS else POINTS
    shares = np.unique(
        [*np.linspace(0, 1, max(steps, 2)), *_SHARES, *(_TAIL if n > POINTS else ())]
    )
    return shares, np.round(quantiles(values, each, shares)[1], 3)


def width_of_bins(times_us: Any, most: int = BINS) -> int:
    """Return a round width of bins for *times_us*, in microseconds. There are *most* of them."""
    span_s = float(times_us.max() - times_us.min()) / 1e6
    wanted = span_s / max(min(most, BINS), 1) or 1.0
    if wanted > _STEPS_S[-1]:
        step_s: float = -(-wanted // _DAY_S) * _DAY_S
    else:
        step_s = next(s for s in _STEPS_S if s >= wanted)
    return round(step_s * 1e6)


def of_bins(bins: Any, values: Any, shares: Sequence[float]) -> tuple[Any, Any, Any]:
    """Return the bins that have *values*, quantiles of the values in each, and their numbers."""
    import numpy as np

    order = np.lexsort((values, bins))
    values = values[order]
    starts, first, sizes = np.unique(bins[order], return_index=True, return_counts=True)
    found = []
    for share in shares:
        places = share * (sizes - 1)
        low, high = (values[first + near(places).astype(np.int64)] for near in (np.floor, np.ceil))
        found.append(low + (high - low) * (places % 1))
    return starts, np.array(found), sizes


def long_ago(table: pd.DataFrame, column: str) -> Any:
    """Return a column of times as microseconds since 1970. Missing ones must be gone."""
    import numpy as np

    return table[column].to_numpy("M8[us]").astype(np.int64)


def width(width_us: int) -> str:
    """Return the width of a bin in words: ``10 s``, ``2 hours``."""
    s = width_us / 1e6
    for unit, size in (("day", _DAY_S), ("hour", 3600), ("minute", 60)):
        if s >= size and s % size == 0:
            return count(int(s // size), unit)
    return f"{s:g} s" if s >= 1 else f"{s * 1000:g} ms"
