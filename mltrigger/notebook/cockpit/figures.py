"""Figures of the newest attempts: throughput, and latency as a distribution and over time.

They are computed by columns from a window of the newest attempts. So a look costs the same for any
length of the log, and reads only the attempts since the last look.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.notebook.cockpit.texts import iso, rounded
from mltrigger.store.glance import FAILED, Attempt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]
    Times = NDArray[np.float64]

MOST = 2_000
"""The attempts of the window."""
STAGES = ("queue", "model", "total")
BINS, POINTS = 60, 64
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 86_400)
_MOST_VERSIONS = 8
_SECOND = 1_000_000
NOTHING: Mapping[str, Any] = {
    "throughput": {"step_s": 1, "start": None, "versions": {}, "failed": []},
    "latency": {
        "ecdf": [],
        "table": [],
        "over_time": {"start": None, "step_s": 1, "versions": {}},
    },
    "window": {"attempts": 0, "is_cut": False, "versions_left_out": 0},
}
"""The figures of no attempts."""

Read = Callable[[int | None, int, int], list[Attempt]]
"""Returns the newest attempts of a subscription after a row, at most so many."""


class Window:
    """The newest attempts of one subscription, or of all. A look reads only the news.

    Parameters
    ----------
    read : callable
        See :data:`Read`.
    subscription_id : int or None
        Whose attempts.
    """

    def __init__(self, read: Read, subscription_id: int | None) -> None:
        self._read, self.subscription_id = read, subscription_id
        self._rows: collections.deque[Attempt] = collections.deque(maxlen=MOST)
        self._row = 0

    def look(self, row: int) -> bool:
        """Read the attempts up to *row*, the newest one. Return whether there were any."""
        if row == self._row:
            return False
        news = self._read(self.subscription_id, self._row, MOST)
        self._rows.extend(news)
        self._row = max(row, news[-1].row if news else 0)
        return bool(news)

    def columns(self) -> Columns:
        """Return the attempts by columns."""
        return Columns.of(self._rows)


@dataclasses.dataclass(frozen=True)
class Columns:
    """Attempts by columns. Times are milliseconds, ``nan`` where no model was called."""

    version: Numbers
    settled_us: Numbers
    failed: Numbers
    queue: Times
    model: Times
    total: Times

    @classmethod
    def of(cls, rows: Sequence[Attempt] | collections.deque[Attempt]) -> Columns:
        """Return the columns of *rows*."""
        import numpy as np

        plain = [(r.version, r.settled_us, r.outcome) for r in rows]
        version, settled, outcome = np.array(plain, np.int64).reshape(-1, 3).T
        nothing = (float("nan"),) * 3
        timed = [
            nothing
            if r.started_us is None or r.finished_us is None
            else (
                (r.started_us - r.visible_us) / 1000,
                (r.finished_us - r.started_us) / 1000,
                (r.finished_us - r.published_us) / 1000,
            )
            for r in rows
        ]
        queue, model, total = np.array(timed, np.float64).reshape(-1, 3).T
        return cls(version, settled, np.isin(outcome, FAILED).astype(np.int64), queue, model, total)


def figures(of: Columns, names: Mapping[int, str]) -> dict[str, Any]:
    """Return the figures of *of* as JSON values. *names* are the versions by number.

    The newest versions have lines of their own. There are at most eight of them.
    """
    if not len(of.version):
        return {**NOTHING}
    shown = _newest_versions(of, names)
    step_us, start_us, place = _bins(of)
    return {
        "throughput": _throughput(of, shown, step_us, start_us, place),
        "latency": {
            "ecdf": [_ecdf(stage, name, ran) for stage, name, ran in _each(of, shown)],
            "table": [_row(stage, name, ran) for stage, name, ran in _each(of, shown)],
            "over_time": _over_time(of, shown, step_us, start_us, place),
        },
        "window": {
            "attempts": len(of.version),
            "is_cut": len(of.version) >= MOST,
            "versions_left_out": len({*of.version.tolist()} & names.keys()) - len(shown),
        },
    }


def _newest_versions(of: Columns, names: Mapping[int, str]) -> list[tuple[str, int]]:
    """Return name and number of the versions, the one that answered last at the end."""
    import numpy as np

    found, last = np.unique(of.version[::-1], return_index=True)
    newest = sorted(zip(last.tolist(), found.tolist(), strict=True))[:_MOST_VERSIONS]
    return [(names[number], number) for _, number in reversed(newest) if number in names]


def _bins(of: Columns) -> tuple[int, int, Numbers]:
    """Return the width of a bin, the start of the first one, and the bin of each attempt."""
    first, last = int(of.settled_us.min()), int(of.settled_us.max())
    wanted = (last - first) / _SECOND / (BINS - 1)
    step_s = next((s for s in _STEPS_S if s >= wanted), -int(-wanted // 86_400) * 86_400)
    step_us = step_s * _SECOND
    start_us = first - first % step_us
    return step_us, start_us, (of.settled_us - start_us) // step_us


def _throughput(
    of: Columns, shown: Sequence[tuple[str, int]], step_us: int, start_us: int, place: Numbers
) -> dict[str, Any]:
    import numpy as np

    n = int(place.max()) + 1
    return {
        "step_s": step_us // _SECOND,
        "start": iso(start_us),
        "versions": {
            name: np.bincount(place[of.version == number], minlength=n).tolist()
            for name, number in shown
        },
        "failed": np.bincount(place[of.failed.astype(bool)], minlength=n).tolist(),
    }


def _each(of: Columns, shown: Sequence[tuple[str, int]]) -> list[tuple[str, str, Times]]:
    """Return the sorted times of each stage and version that has any."""
    import numpy as np

    found = []
    for stage in STAGES:
        values: Times = getattr(of, stage)
        for name, number in sorted(shown):
            ran = values[(of.version == number) & ~np.isnan(values)]
            if len(ran):
                found.append((stage, name, np.sort(ran)))
    return found


def _row(stage: str, name: str, ran: Times) -> dict[str, Any]:
    import numpy as np

    p50, p95, p99 = np.quantile(ran, (0.5, 0.95, 0.99)).tolist()
    return {
        "stage": stage,
        "version": name,
        "count": len(ran),
        "p50_ms": rounded(p50),
        "p95_ms": rounded(p95),
        "p99_ms": rounded(p99),
        "max_ms": rounded(float(ran[-1])),
    }


def _ecdf(stage: str, name: str, ran: Times) -> dict[str, Any]:
    """Return at most 64 points of the distribution, more of them in the slow tail."""
    import numpy as np

    if len(ran) <= POINTS:
        share = np.arange(1, len(ran) + 1) / len(ran)
        ms = ran
    else:
        parts = (
            np.linspace(0, 0.9, 37),
            np.linspace(0.9, 0.99, 14)[1:],
            np.linspace(0.99, 1, 15)[1:],
        )
        share = np.concatenate(parts)
        ms = np.quantile(ran, share)
    return {
        "stage": stage,
        "version": name,
        "ms": [rounded(value) for value in ms.tolist()],
        "share": np.round(share, 5).tolist(),
        "count": len(ran),
    }


def _over_time(
    of: Columns, shown: Sequence[tuple[str, int]], step_us: int, start_us: int, place: Numbers
) -> dict[str, Any]:
    """Return the quantiles of the total time in each bin, None where no model ran."""
    import numpy as np

    n, versions = int(place.max()) + 1, {}
    for name, number in shown:
        ours = (of.version == number) & ~np.isnan(of.total)
        if not ours.any():
            continue
        lines: dict[str, list[float | None]] = {"p50_ms": [None] * n, "p95_ms": [None] * n}
        places, times = place[ours], of.total[ours]
        for at in np.unique(places).tolist():
            p50, p95 = np.quantile(times[places == at], (0.5, 0.95)).tolist()
            lines["p50_ms"][at], lines["p95_ms"][at] = rounded(p50), rounded(p95)
        versions[name] = lines
    return {"start": iso(start_us), "step_s": step_us // _SECOND, "versions": versions}
