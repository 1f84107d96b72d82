"""Quantiles of the times of attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mltrigger.clock import rounded_ms
from mltrigger.reports.frames import LATENCY, STAGES, frame

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = (0.5, 0.95, 0.99, 1.0)


def latency(times: pd.DataFrame) -> pd.DataFrame:
    """Return count and quantiles for each stage and version.

    *times* has the columns ``version`` and ``*_ms`` of an invocation frame, and perhaps ``n``: how
    many attempts a row stands for.
    """
    import numpy as np
    import pandas as pd

    done = times.dropna(subset=["version", "model_ms"])
    codes, versions = pd.factorize(done["version"], sort=True)
    each = done["n"].to_numpy() if "n" in done else np.ones(len(done), np.int64)
    rows = []
    for stage in STAGES:
        values = done[f"{stage}_ms"].to_numpy()
        for code, version in enumerate(versions):
            mine = codes == code
            n, found = quantiles(values[mine], each[mine], _SHOWN)
            rows.append((stage, version, n, *map(rounded_ms, found)))
    return frame(rows, LATENCY)


def quantiles(values: Any, each: Any, shares: Any) -> tuple[int, list[float]]:
    """Return the number of *values*, and their quantiles at *shares*.

    *each* says how often a value is there.
    Between two values they lie on a line, as those of ``numpy.quantile`` do.
    """
    import numpy as np

    order = np.argsort(values)
    values, ends = values[order], np.cumsum(each[order])
    n = int(ends[-1])
    places = np.asarray(shares) * (n - 1)
    low, high = (
        values[np.searchsorted(ends, near(places), "right")] for near in (np.floor, np.ceil)
    )
    return n, (low + (high - low) * (places % 1)).tolist()
