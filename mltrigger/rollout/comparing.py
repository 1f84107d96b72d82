"""The work of a comparison: states of pairs, disagreements, accuracy, measures and slices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.rollout import rules
from mltrigger.rollout.agree import Agree, Measure
from mltrigger.rollout.agreement import Judged, judge
from mltrigger.rollout.measures import Numbers, Read, numbers, right
from mltrigger.rollout.pairs import (
    FAILED,
    OK,
    Pairs,
    Side,
    Truths,
    truths,
)
from mltrigger.rollout.rules import Asked, Discordant, Tally
from mltrigger.rollout.statistics import exact
from mltrigger.rollout.verdict import Draft

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING_NEW, MISSING_OLD = "missing_new", "missing_old"
STATES = (
    "same",
    "flip",
    "not_comparable",
    "new_failed",
    "old_failed",
    "both_failed",
    "unfinished",
    MISSING_NEW,
    MISSING_OLD,
)
"""The states of an event in a comparison. An ``unfinished`` pair was skipped, stopped or still
runs on one side.
"""
MOST_SLICES = 100
"""So many slices are tested, the largest ones."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A comparison in numbers. Arrays have an entry for each pair.

    Attributes
    ----------
    codes : array
        The state of each pair, as a place in :data:`STATES`.
    scores : array
        The agreement of pairs that both versions answered. NaN elsewhere.
    right : array, optional
        For labelled pairs 1 where only the new version is right, -1 where only the old one is.
        NaN without a label.
    slices : list of str, optional
        The slice of each pair, then of the events of one side.
    """

    pairs: Pairs
    codes: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    errors: dict[int, str]
    noise: Tally | None
    right: np.ndarray[Any, Any] | None
    labels: Truths | None
    numbers: dict[str, Numbers]
    slices: list[str] | None

    @property
    def counts(self) -> dict[str, int]:
        """Pairs, and rows that are no pair or cannot be judged."""
        import numpy as np

        found = np.bincount(self.codes, minlength=len(STATES)).tolist()
        counts = {"pairs": len(self.pairs), **dict(zip(STATES, found, strict=True))}
        counts[MISSING_NEW] = len(self.pairs.only_old)
        counts[MISSING_OLD] = len(self.pairs.only_new)
        if self.noise is not None:
            counts["noise"] = self.noise.total
        if self.labels is not None:
            counts |= {
                "labelled": len(self.labels.at),
                "labels_without_pair": self.labels.unknown,
                "labels_of_two_sources": self.labels.ambiguous,
            }
        if self.slices is not None:
            counts["slices_not_tested"] = max(0, len(self._slices()[1]) - MOST_SLICES)
        for name, measure in self.numbers.items():
            old, new = np.isfinite(measure.old), np.isfinite(measure.new)
            counts[f"{name}_missing_old"] = int((new & ~old).sum())
            counts[f"{name}_missing_new"] = int((old & ~new).sum())
            counts[f"{name}_missing_both"] = int((~old & ~new).sum())
            counts[f"{name}_errors"] = len(measure.errors)
        return counts

    def tally(self, among: np.ndarray[Any, Any]) -> Tally:
        """Return the disagreement among pairs. One that is not comparable disagrees."""
        import numpy as np

        answered = among & (self.codes <= STATES.index("not_comparable"))
        scores = np.nan_to_num(self.scores[answered], nan=0.0)
        graded = bool(((scores > 0) & (scores < 1)).any())
        against = float((1.0 - scores).sum())
        return Tally(against if graded else round(against), int(answered.sum()), graded)

    def drafts(self, asked: Asked, wanted: Mapping[str, Measure]) -> list[Draft]:
        """Return all rules: over all pairs, then quietly over each slice."""
        import numpy as np

        every = np.ones(len(self.pairs), bool)
        drafts = []
        if asked.agree_at_least is not None:
            drafts.append(rules.agreement(self.tally(every), self.noise, asked))
        drafts += self._harms(every, "", asked, wanted)
        timed = self._timed()
        if asked.slow_at_most is not None and timed.any():
            drafts.append(rules.latency(*self._slow(timed), asked))
        for name, among in self.sliced():
            drafts += self._harms(among, f" in {name}", asked, wanted)
        return drafts

    def _harms(
        self,
        among: np.ndarray[Any, Any],
        where: str,
        asked: Asked,
        wanted: Mapping[str, Measure],
    ) -> Iterator[Draft]:
        quiet = bool(where)
        yield rules.paired(f"errors{where}", "failed", self._errors(among), asked, quiet)
        if self.right is not None:
            wrong = self._wrong(among)
            if wrong.total or not quiet:
                yield rules.paired(f"accuracy{where}", "wrong", wrong, asked, quiet)
        for name, measure in wanted.items():
            differences = self.numbers[name].differences(among)
            yield rules.numbers(f"{name}{where}", measure, differences, asked, quiet)

    def _errors(self, among: np.ndarray[Any, Any]) -> Discordant:
        counts = {name: int((self.codes[among] == i).sum()) for i, name in enumerate(STATES)}
        judged = int(among.sum()) - counts["unfinished"]
        return Discordant(counts["new_failed"], counts["old_failed"], judged)

    def _wrong(self, among: np.ndarray[Any, Any]) -> Discordant:
        import numpy as np

        found = self.right[among] if self.right is not None else np.empty(0)
        found = found[np.isfinite(found)]
        return Discordant(int((found < 0).sum()), int((found > 0).sum()), len(found))

    def _timed(self) -> np.ndarray[Any, Any]:
        import numpy as np

        old, new = self.times()
        found: np.ndarray[Any, Any] = self.pairs.both(OK, OK) & np.isfinite(old) & np.isfinite(new)
        return found

    def times(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the milliseconds of the model for each pair, old and new."""
        return self.pairs.old.ms[self.pairs.old_at], self.pairs.new.ms[self.pairs.new_at]

    def _slow(self, timed: np.ndarray[Any, Any]) -> tuple[int, int, float]:
        import numpy as np

        old, new = self.times()
        p95 = float(np.quantile(old[timed], 0.95, method="higher"))
        return int((new[timed] > p95).sum()), int(timed.sum()), p95

    def sliced(self) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Yield the name and the pairs of each slice that is tested, the largest first."""
        codes, names = self._slices()
        for code, name in enumerate(names[:MOST_SLICES]):
            yield name, codes == code

    def _slices(self) -> tuple[np.ndarray[Any, Any], list[str]]:
        """Return the slice of each pair as a number, and the names. 0 is the largest slice."""
        import numpy as np
        import pandas as pd

        named = np.array((self.slices or [])[: len(self.pairs)], object)
        codes, names = pd.factorize(named)
        order = np.argsort(-np.bincount(codes, minlength=len(names)), kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        return ranks[codes], [str(names[i]) for i in order.tolist()]

    def slice_rows(self, confidence: float) -> Iterator[tuple[Any, ...]]:
        """Yield a row for each slice, as ``comparison_page.SLICES`` says."""
        import numpy as np

        codes, names = self._slices()
        if not names:
            return

        def sums(weights: np.ndarray[Any, Any]) -> list[Any]:
            found: list[Any] = np.bincount(codes, weights, len(names)).tolist()
            return found

        answered = self.codes <= STATES.index("not_comparable")
        agreed = sums(np.where(answered, np.nan_to_num(self.scores, nan=0.0), 0.0))
        flips = sums((self.codes > 0) & (self.codes <= STATES.index("old_failed")))
        worse, better = (
            sums(self.codes == STATES.index(f"{side}_failed")) for side in ("new", "old")
        )
        interval = functools.cache(exact.interval)
        columns = (np.bincount(codes).tolist(), flips, agreed, sums(answered), worse, better)
        for name, n, flip, good, total, new, old in zip(names, *columns, strict=True):
            share = good / total if total else None
            yield name, n, flip, share, *interval(good, total, confidence), new, old

    def latency_rows(self, versions: tuple[str, str]) -> Iterator[tuple[Any, ...]]:
        """Yield quantiles of the model's time for both versions."""
        import numpy as np

        timed = self._timed()
        for version, ms in zip(versions, self.times(), strict=True):
            known = ms[timed]
            quantiles = (
                np.quantile(known, (0.5, 0.95, 0.99, 1)).tolist() if len(known) else [None] * 4
            )
            yield version, len(known), *quantiles

    def states(self) -> np.ndarray[Any, Any]:
        """Return the state of each row: pairs first, then events of one side."""
        import numpy as np

        alone = (len(self.pairs.only_old), len(self.pairs.only_new))
        missing = np.repeat([STATES.index(MISSING_NEW), STATES.index(MISSING_OLD)], alone)
        return np.concatenate([self.codes, missing])

    def rows(self, kept: np.ndarray[Any, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows at the places *kept*, as ``comparison.FRAME`` says."""
        import numpy as np

        pairs, n, slices = self.pairs, len(self.pairs), self.slices
        at = [
            np.concatenate([found, *others])[kept].tolist()
            for found, others in (
                (pairs.old_at, (pairs.only_old, np.full(len(pairs.only_new), -1))),
                (pairs.new_at, (np.full(len(pairs.only_old), -1), pairs.only_new)),
            )
        ]
        sides = [_Cells(side) for side in (pairs.old, pairs.new)]
        states, scores = self.states()[kept].tolist(), self.scores.tolist()
        errors = dict(self.errors)
        for measure in self.numbers.values():
            errors = measure.errors | errors
        for i, state, a, b in zip(kept.tolist(), states, *at, strict=True):
            source, event_id = pairs.old.keys[a] if a >= 0 else pairs.new.keys[b]
            old, new = sides[0].of(a), sides[1].of(b)
            part, score = slices[i] if slices else None, scores[i] if i < n else None
            both = (each for cells in zip(old, new, strict=True) for each in cells)
            yield event_id, source, part, STATES[state], score, *both, errors.get(i)

    def measure_columns(self, kept: np.ndarray[Any, Any]) -> dict[str, Any]:
        """Return two columns for each measure, with NaN for events of one side."""
        import numpy as np

        rest = np.full(len(self.pairs.only_old) + len(self.pairs.only_new), np.nan)
        return {
            f"{side}_{name}": np.concatenate([getattr(found, side), rest])[kept]
            for name, found in self.numbers.items()
            for side in ("old", "new")
        }


class _Cells:
    """Outcome, output and time of an event on one side. There is none at the place -1."""

    def __init__(self, side: Side) -> None:
        outcomes = side.table["outcome"].astype(object).tolist()
        self._rows = [*zip(outcomes, side.outputs, side.ms.tolist(), strict=True)]

    def of(self, place: int) -> tuple[Any, ...]:
        return self._rows[place] if place >= 0 else (None, None, None)


def compared(
    pairs: Pairs,
    agree: Agree,
    again: Pairs | None,
    labels: pd.DataFrame | None,
    wanted: Mapping[str, Measure],
    slices: list[str] | None,
) -> Compared:
    """Judge all pairs. *again* are pairs of the old version with itself."""
    import numpy as np

    answered = np.flatnonzero(pairs.both(OK, OK))
    judged = _judged(pairs, answered, agree)
    scores = np.full(len(pairs), np.nan)
    scores[answered] = judged.scores
    codes = np.full(len(pairs), STATES.index("unfinished"))
    codes[answered] = np.select(
        [np.isnan(scores[answered]), scores[answered] == 1.0],
        [STATES.index("not_comparable"), STATES.index("same")],
        STATES.index("flip"),
    )
    for old, new, state in (
        (OK, FAILED, "new_failed"),
        (FAILED, OK, "old_failed"),
        (FAILED, FAILED, "both_failed"),
    ):
        codes[pairs.both(old, new)] = STATES.index(state)
    known = truths(pairs, labels)
    read = Read(pairs, known) if known is not None else None
    return Compared(
        pairs,
        codes,
        scores,
        {int(answered[i]): error for i, error in judged.errors.items()},
        None if again is None else _noise(again, agree),
        None if read is None else right(read, agree),
        known,
        {name: numbers(name, measure, pairs, read) for name, measure in wanted.items()},
        slices,
    )


def _judged(pairs: Pairs, answered: np.ndarray[Any, Any], agree: Agree) -> Judged:
    old = [pairs.old.outputs[i] for i in pairs.old_at[answered].tolist()]
    new = [pairs.new.outputs[i] for i in pairs.new_at[answered].tolist()]
    return judge(old, new, agree)


def _noise(again: Pairs, agree: Agree) -> Tally:
    """Count how often a version disagrees with itself. Only comparable pairs can say so."""
    import numpy as np

    judged = _judged(again, np.flatnonzero(again.both(OK, OK)), agree)
    scores = [score for score in judged.scores if score == score]
    against = sum(1.0 - score for score in scores)
    return Tally(against if judged.graded else round(against), len(scores), judged.graded)
