"""The agreement of many pairs of outputs.

A pair that cannot be compared is kept, with its error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from mltrigger.errors import MltriggerError
from mltrigger.event import codec
from mltrigger.rollout.agree import Agree, takes_equals
from mltrigger.text import short

_ERROR = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """How much each pair agrees, from 0 to 1. ``errors`` has the pairs that are not comparable.

    Their score is NaN.
    """

    scores: list[float]
    errors: dict[int, str]

    @property
    def graded(self) -> bool:
        """Whether some pair agrees in part."""
        return any(0.0 < score < 1.0 for score in self.scores)


class Unreadable:
    """A text that is no JSON. ``error`` says why."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def values(texts: Sequence[str | None]) -> list[Any]:
    """Return the JSON values of *texts*. A missing text is None, a bad one :class:`Unreadable`."""
    there = [text for text in texts if text is not None]
    try:
        read = iter(codec.loads_each(there))
    except Exception:
        read = iter([_value(text) for text in there])
    return [None if text is None else next(read) for text in texts]


def _value(text: str) -> Any:
    try:
        return codec.loads(text)
    except Exception as error:
        return Unreadable(error)


def judge(old: Sequence[str | None], new: Sequence[str | None], agree: Agree) -> Judged:
    """Apply *agree* to each pair of outputs, which are JSON texts.

    An exception of *agree* counts for its pair alone.
    """
    unread = range(len(old))
    scores = [1.0] * len(old)
    if takes_equals(agree):
        unread = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]  # type: ignore[assignment]
    return _judge(
        scores, unread, values([old[i] for i in unread]), values([new[i] for i in unread]), agree
    )


def judge_values(old: Sequence[Any], new: Sequence[Any], agree: Agree) -> Judged:
    """Apply *agree* to each pair of values, as :func:`judge` does."""
    return _judge([1.0] * len(old), range(len(old)), old, new, agree)


def _judge(
    scores: list[float],
    places: Sequence[int],
    old: Sequence[Any],
    new: Sequence[Any],
    agree: Agree,
) -> Judged:
    errors: dict[int, str] = {}
    for place, one, other in zip(places, old, new, strict=True):
        try:
            scores[place] = score(agree, one, other)
        except Exception as error:
            if isinstance(error, MltriggerError) and isinstance(error.__cause__, ImportError):
                raise  # a missing library is a fault of no pair
            scores[place], errors[place] = math.nan, said(error)
    return Judged(scores, errors)


def score(agree: Agree, one: Any, other: Any) -> float:
    """Return how much two values agree, from 0 to 1."""
    for value in (one, other):
        if isinstance(value, Unreadable):
            raise value.error
    found = agree(one, other)
    if found is True or found is False:
        return float(found)
    number = float(found)  # also the numbers and booleans of numpy
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"agree returns True, False or a number from 0 to 1, got {number!r}")
    return number


def said(error: Exception) -> str:
    """Return an error in one line."""
    return short(f"{type(error).__name__}: {error}", _ERROR)
