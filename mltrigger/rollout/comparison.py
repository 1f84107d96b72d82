"""Two versions compared by the events that both answered: ``compare_frames``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidComparison
from mltrigger.reports import frames
from mltrigger.rollout import comparison_page as page
from mltrigger.rollout.agree import Agree, Measure, rule
from mltrigger.rollout.agree import measure as checked
from mltrigger.rollout.comparing import MISSING_NEW, MISSING_OLD, STATES, Compared, compared
from mltrigger.rollout.pairs import Side, paired, required, slices
from mltrigger.rollout.rules import Asked
from mltrigger.rollout.verdict import Verdict

if TYPE_CHECKING:
    import os

    import pandas as pd

FRAME: dict[str, Any] = {
    "event_id": "str",
    "source": "str",
    "slice": "str",
    "state": frames.OneOf(STATES),
    "agreement": "float64",
    "old_outcome": "str",
    "new_outcome": "str",
    "old_output": "str",
    "new_output": "str",
    "old_ms": "float64",
    "new_ms": "float64",
    "error": "str",
}
"""The columns of :meth:`Comparison.frame`. Two for each measure follow."""
_FLIPS = ("flip", "new_failed", "old_failed", "not_comparable")


def compare_frames(
    left: pd.DataFrame,
    right: pd.DataFrame,
    *,
    agree: Agree | float | None = None,
    by: str | Callable[[Mapping[str, Any]], Any] | None = None,
    noise: pd.DataFrame | None = None,
    labels: pd.DataFrame | None = None,
    agree_at_least: float | None = 0.99,
    confidence: float = 0.95,
    measures: Mapping[str, str | Measure] | None = None,
    within: float = 0.01,
    slow_at_most: float | None = 0.10,
    repeated: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare the attempts of an old version (*left*) with those of a new one (*right*).

    Parameters
    ----------
    left, right : DataFrame
        Attempts with the columns of an invocation frame, each of one version. A column ``measures``
        may hold dictionaries.
    agree : callable or float, optional
        When two outputs agree: a rule of :mod:`mltrigger.rollout.agree`, a tolerance, or a function
        of both. Default: equality.
    by : str or callable, optional
        A column, or a function of a row, that divides events into slices.
    noise : DataFrame, optional
        Attempts of the old version again on some of the events. Its disagreement with itself is
        subtracted.
    labels : DataFrame, optional
        Truths, with the columns ``event_id``, ``label`` and perhaps ``source``.
    agree_at_least : float, optional
        The agreement that must be shown. ``None`` asks for none.
    confidence : float
        The confidence of intervals, and of all tests of harm together.
    measures : mapping, optional
        ``"higher"``, ``"lower"`` or :func:`mltrigger.rollout.agree.measure` for each measure.
    within : float
        How much larger the share of errors, or of wrong answers, may be.
    slow_at_most : float, optional
        The share of calls that may be slower than the old version's p95. ``None`` asks for no
        speed, such as where a replay ran while the machine was busier.
    repeated : bool
        Whether the comparison is looked at more than once.
    seed : int
        The seed of resampling.

    Raises
    ------
    NothingToCompare
        If no event was answered by both.
    InvalidComparison
        If a setting makes no sense, or a frame has several versions.
    NotFound
        If a column, or a measure that no attempt reports, is asked for.
    """
    asked = Asked(agree_at_least, confidence, within, slow_at_most, repeated, seed)
    if not isinstance(measures or {}, Mapping):
        raise InvalidComparison(f"measures = {measures!r:.60}: write {{'confidence': 'higher'}}")
    wanted = {
        name: given if isinstance(given, Measure) else checked(given)  # type: ignore[arg-type]
        for name, given in (measures or {}).items()
    }
    old, new = Side.of(left, "left"), Side.of(right, "right")
    pairs = required(paired(old, new))
    again = None if noise is None else paired(old, _noise(noise, old))
    found = compared(pairs, rule(agree), again, labels, wanted, slices(pairs, by))
    drafts = found.drafts(asked, wanted)
    verdict = Verdict.of(
        drafts, (old.version, new.version), len(pairs), asked.confidence, asked.repeated
    )
    name = by if isinstance(by, str) else "slice"
    return Comparison(verdict, found, name, asked.agree_at_least)


def _noise(attempts: pd.DataFrame, old: Side) -> Side:
    found = Side.of(attempts, "noise")
    if found.version and found.version != old.version:
        raise InvalidComparison(
            f"noise is the old version once more: {old.version} expected, got {found.version}"
        )
    return found


class Comparison:
    """Two versions, compared event by event. Its repr is the verdict with its arithmetic.

    Attributes
    ----------
    verdict : Verdict
        SHIP, HOLD, WORSE or NOT YET.
    counts : dict of str to int
        Pairs, and all rows that are no pair or cannot be judged.
    """

    def __init__(
        self, verdict: Verdict, found: Compared, by: str, agree_at_least: float | None = None
    ) -> None:
        self.verdict = verdict
        self.counts: dict[str, int] = found.counts
        self._found, self._by, self._agree_at_least = found, by, agree_at_least

    @property
    def versions(self) -> tuple[str, str]:
        """The old and the new version."""
        return self.verdict.versions

    @property
    def first_error(self) -> str | None:
        """Why the first pair that is not comparable is none, ``None`` without one."""
        return next(iter(self._found.errors.values()), None)

    def frame(self) -> pd.DataFrame:
        """Return each event as a row: pairs first, then the events of one side alone."""
        return self._rows(STATES)

    def flips(self) -> pd.DataFrame:
        """Return the events on which the versions do not agree.

        Pairs that are not comparable, and those that one version failed on, are among them.
        """
        return self._rows(_FLIPS)

    def missing(self) -> pd.DataFrame:
        """Return the events that only one version answered."""
        return self._rows((MISSING_NEW, MISSING_OLD))

    def _rows(self, states: tuple[str, ...]) -> pd.DataFrame:
        import numpy as np

        found = self._found
        wanted = np.isin(found.states(), [STATES.index(state) for state in states])
        kept = np.flatnonzero(wanted)
        return frames.beside(frames.frame(found.rows(kept), FRAME), found.measure_columns(kept))

    def slices(self) -> pd.DataFrame:
        """Return each slice as a row: pairs, flips and the interval of their agreement."""
        return frames.frame(self._found.slice_rows(self.verdict.confidence), page.SLICES)

    def latency(self) -> pd.DataFrame:
        """Return count and quantiles of the model's time for both versions, over all pairs."""
        return frames.frame(self._found.latency_rows(self.versions), page.LATENCY)

    def plot(self, ax: Any = None) -> Any:
        """Draw the agreement of each slice with its interval, and return the matplotlib axes.

        It needs the extra ``plot``.
        """
        return page.plot(self, self._by, self._agree_at_least, ax)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the comparison as one HTML file that needs no other, and return its path.

        It has the first 200 flips. A file of that name is replaced.
        """
        where = Path(path)
        where.write_text(page.whole(self, self._by), "utf-8")
        return where

    def __repr__(self) -> str:
        return page.text(self, self._by)

    def _repr_html_(self) -> str:
        return page.card(self, self._by)
