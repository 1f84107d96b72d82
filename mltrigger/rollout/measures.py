"""Measures and labels of pairs: reported numbers, and outputs against a truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mltrigger.errors import MltriggerError, NotFound
from mltrigger.rollout.agree import Agree, Measure
from mltrigger.rollout.agreement import Unreadable, judge_values, said, values
from mltrigger.rollout.pairs import OK, UNFINISHED, Pairs, Truths, measured, number

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True, slots=True)
class Numbers:
    """A measure of all pairs on both sides. NaN: not there.

    ``errors`` has the pairs on which its function failed.
    """

    old: np.ndarray[Any, Any]
    new: np.ndarray[Any, Any]
    errors: dict[int, str]

    def differences(self, among: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return new minus old of the pairs *among* that have both."""
        import numpy as np

        found = (self.new - self.old)[among]
        known: np.ndarray[Any, Any] = found[np.isfinite(found)]
        return known


class Read:
    """The outputs of labelled pairs, read once. A failed attempt has none."""

    def __init__(self, pairs: Pairs, known: Truths) -> None:
        self.known, self.n = known, len(pairs)
        self.sides = []
        for side, at in ((pairs.old, pairs.old_at), (pairs.new, pairs.new_at)):
            places = at[list(known.at)].tolist()
            self.sides.append(
                (values([side.outputs[i] for i in places]), [int(side.states[i]) for i in places])
            )


def right(read: Read, agree: Agree) -> np.ndarray[Any, Any]:
    """Return for each pair which version is right, or nearer. A failed one is wrong."""
    import numpy as np

    found = np.full(read.n, np.nan)
    scores, unfinished = [], np.zeros(len(read.known.at), bool)
    for outputs, states in read.sides:
        judged = judge_values(outputs, read.known.truths, agree)
        scores.append(np.where(np.array(states) == OK, np.nan_to_num(judged.scores, nan=0.0), 0.0))
        unfinished |= np.array(states, int) == UNFINISHED
    found[list(read.known.at)] = np.where(unfinished, np.nan, np.sign(scores[1] - scores[0]))
    return found


def numbers(name: str, measure: Measure, pairs: Pairs, read: Read | None) -> Numbers:
    """Return a measure of all pairs: as reported, or of labelled outputs."""
    import numpy as np

    if measure.of is None:
        sides = [measured(side) for side in (pairs.old, pairs.new)]
        known = {key for side in sides for each in side for key in each}
        if name not in known:
            raise NotFound.of("measure", name, known, "report it in the model, or give of=")
        old, new = (
            np.array([number(side[i].get(name)) for i in at.tolist()], float)
            for side, at in zip(sides, (pairs.old_at, pairs.new_at), strict=True)
        )
        return Numbers(old, new, {})
    if read is None:
        raise NotFound(
            f"the measure {name!r} needs labels: give labels=, or bus.label(event, truth)"
        )
    columns: list[Any] = []
    errors: dict[int, str] = {}
    for outputs, states in read.sides:
        column = np.full(read.n, np.nan)
        for at, truth, output, state in zip(
            read.known.at, read.known.truths, outputs, states, strict=True
        ):
            if state == OK:
                column[at], error = _applied(measure.of, truth, output)
                errors |= {at: error} if error else {}
        columns.append(column)
    return Numbers(columns[0], columns[1], errors)


def _applied(of: Callable[[Any, Any], float], truth: Any, output: Any) -> tuple[float, str]:
    """Return a measure against a label, and the error if there is none."""
    if isinstance(output, Unreadable):
        return float("nan"), said(output.error)
    try:
        return float(of(truth, output)), ""
    except Exception as error:
        if isinstance(error, MltriggerError) and isinstance(error.__cause__, ImportError):
            raise  # a missing library is a fault of no pair
        return float("nan"), said(error)
