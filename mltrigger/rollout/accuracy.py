"""How often a version was right: its answers, compared with labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.errors import InvalidComparison, NotFound
from mltrigger.event import codec
from mltrigger.reports import frames
from mltrigger.rollout import agree as rules
from mltrigger.rollout import agreement
from mltrigger.rollout.statistics import exact
from mltrigger.store.labels import Labels
from mltrigger.store.log import Log
from mltrigger.text import short

if TYPE_CHECKING:
    import pandas as pd

COUNTED: dict[str, Any] = {
    "answered": "Int64",
    "labelled": "Int64",
    "right": "Int64",
    "accuracy": "float64",
    "low": "float64",
    "high": "float64",
}
BY = ("version", "role", "type", "subject")
ROLES = ("live", "canary", "correction", "direct")
"""The roles whose answers count. Those of shadows and replays do not."""


def accuracy(
    log: Log,
    labels: Labels,
    subscription_id: int,
    by: str | Sequence[str],
    agree: rules.Agree | float | None,
    confidence: float,
) -> pd.DataFrame:
    """Return the share of right answers for each group of *by*. See ``sub.accuracy``.

    Parameters
    ----------
    subscription_id : int
        The subscription. The answers of its corrections count, too.
    """
    if not 0 < confidence < 1:
        raise InvalidComparison(f"confidence = {confidence!r}: write a share such as 0.95")
    keys, agrees = _checked(by), rules.rule(agree)
    answered: Counter[tuple[Any, ...]] = Counter()
    scores: dict[tuple[Any, ...], list[float]] = {}
    truths = labels.truths(subscription_id)
    rows = log.invocations(
        ("seq", *keys, "output"),
        subscription_id=subscription_id,
        roles=ROLES,
        outcomes=("succeeded",),
        running=False,
    )
    for seq, *group, output in rows:
        answered[tuple(group)] += 1
        if seq in truths and output is not None:
            score = _score(agrees, output, truths[seq])
            scores.setdefault(tuple(group), []).append(score)
    schema = {**dict.fromkeys(keys, "str"), **COUNTED}
    found = [
        (*group, n, *_share(scores.get(group, []), confidence)) for group, n in answered.items()
    ]
    return frames.frame(
        sorted(found, key=lambda row: [str(part) for part in row[: len(keys)]]), schema
    )


def _checked(by: str | Sequence[str]) -> list[str]:
    keys = [by] if isinstance(by, str) else list(by)
    for key in keys:
        if key not in BY:
            raise NotFound.of("column to count by", str(key), BY)
    return list(dict.fromkeys(keys))


def _score(agrees: rules.Agree, output: str, truth: str) -> float:
    """Return how right an answer is, from 0 to 1."""
    answer, right = (codec.loads_own(text.encode()) for text in (output, truth))
    try:
        return agreement.score(agrees, answer, right)
    except Exception as error:
        raise InvalidComparison(
            f"agree failed for the output {short(output)} and the truth {short(truth)}:"
            f" {agreement.said(error)}"
        ) from error


def _share(scores: Sequence[float], confidence: float) -> tuple[Any, ...]:
    """Return the numbers of labelled and of right answers, the share, and its interval."""
    n = len(scores)
    right = sum(score == 1.0 for score in scores)
    if not n:
        return 0, 0, math.nan, math.nan, math.nan
    return n, right, right / n, *exact.interval(right, n, confidence)
