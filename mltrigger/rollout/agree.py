"""When do two answers agree? Rules for ``compare(agree=…)``, and measures against a truth.

::

    sub.compare(old, new, agree=mt.agree.similar(at_least=0.95))
    sub.compare(old, new, agree=mt.agree.field("label"))
    sub.compare(old, new, agree=0.01)                       # numbers within 0.01
    sub.compare(old, new, agree=lambda old, new: old["total"] == new["total"])
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal

from mltrigger.errors import InvalidComparison, MltriggerError, how_to_install

__all__ = [
    "Measure",
    "character_error_rate",
    "field",
    "measure",
    "same_set",
    "similar",
    "within",
    "word_error_rate",
]

Agree = Callable[[Any, Any], "bool | float"]
"""A function of two outputs: whether they agree, or how much, from 0 to 1."""


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal.

    1 and 1.0 are, True and 1 are not. NaN equals NaN: both versions say the same.
    """
    return _alike(one, other, 0.0, 0.0)


def within(abs: float = 0.0, rel: float = 0.0) -> Agree:  # noqa: A002 - the names of math.isclose
    """Return the rule "numbers differ by at most *abs*, or by the part *rel* of the larger one".

    It holds for the numbers inside lists and objects as well. All else must be equal.

    Examples
    --------
    >>> agree = mt.agree.within(abs=0.1)
    >>> agree({"total": 9.95}, {"total": 10.0})
    True
    """
    for name, value in (("abs", abs), ("rel", rel)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise InvalidComparison(f"{name} must be a number of at least 0, got {value!r}")
    return _Within(float(abs), float(rel))


def same_set(at_least: float = 1.0) -> Agree:
    """Return the rule "the Jaccard similarity of two lists is at least so much".

    Order and repetitions do not count. Two empty lists agree.

    Examples
    --------
    >>> mt.agree.same_set()(["a", "b"], ["b", "a", "a"])
    True
    """
    return _SameSet(_part("at_least", at_least))


def similar(at_least: float = 0.95) -> Agree:
    """Return the rule "the Levenshtein similarity of two texts is at least so much".

    The similarity is 1 minus the distance over the length of the longer text. It needs the extra
    ``compare``.

    Examples
    --------
    >>> mt.agree.similar(0.9)("an invoice of May", "an invoice of Mai")
    True
    """
    return _Similar(_part("at_least", at_least), _levenshtein())


def field(path: str, agree: Agree | float | None = None) -> Agree:
    """Return a rule for one part of the outputs, such as ``"label"`` or ``"boxes[0].text"``.

    *agree* compares the two parts. Default: equality. An output without that part is not
    comparable.

    Examples
    --------
    >>> agree = mt.agree.field("kind")
    >>> agree({"kind": "letter", "sure": 0.9}, {"kind": "letter", "sure": 0.8})
    True
    """
    steps = re.findall(r"[^.\[\]]+|\[-?\d+\]", path)
    if not steps or "".join(steps) != path.replace(".", ""):
        raise InvalidComparison(f'a path is written "label" or "boxes[0].text", got {path!r}')
    return _Field(path, tuple(steps), rule(agree))


def rule(agree: Agree | float | None) -> Agree:
    """Return *agree* as a function. A number is an absolute tolerance, ``None`` is equality."""
    if agree is None:
        return same
    if isinstance(agree, (int, float)) and not isinstance(agree, bool):
        return within(abs=agree)
    if not callable(agree):
        raise InvalidComparison(
            "agree must be None (equality), a number (tolerance), a rule of mt.agree or a function"
            f" of two outputs, got {agree!r}"
        )
    return agree


def takes_equals(agree: Agree) -> bool:
    """Whether *agree* is sure to find equal texts alike, so that they need not be read."""
    return agree is same or isinstance(agree, _Within)


def character_error_rate(truth: str, text: str) -> float:
    """Return the Levenshtein distance of *text*, over the characters of *truth*.

    0 is perfect. It may exceed 1. It needs the extra ``compare``.

    Examples
    --------
    >>> mt.agree.character_error_rate("page", "pace")
    0.25
    """
    return float(_levenshtein().distance(_text(truth), _text(text)) / max(len(truth), 1))


def word_error_rate(truth: str, text: str) -> float:
    """Return the Levenshtein distance in words, over the words of *truth*.

    Words are separated by blanks. 0 is perfect. It may exceed 1. It needs the extra ``compare``.

    Examples
    --------
    >>> mt.agree.word_error_rate("a page of text", "a page of test")
    0.25
    """
    words = _text(truth).split()
    return float(_levenshtein().distance(words, _text(text).split()) / max(len(words), 1))


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """A number to compare: which direction is better, and how it is found.

    Attributes
    ----------
    better : str
        ``"higher"`` or ``"lower"``.
    within : float, optional
        How much worse the mean may be. With it, "not worse" must be shown. Without it, only a
        significant harm counts.
    of : callable, optional
        A function of (truth, output) for labelled events. Default: the number that the model
        reported under this name.

    Examples
    --------
    >>> mt.agree.Measure("lower", within=0.01).better
    'lower'
    """

    better: Literal["higher", "lower"]
    within: float | None = None
    of: Callable[[Any, Any], float] | None = None


def measure(
    better: Literal["higher", "lower"],
    within: float | None = None,
    of: Callable[[Any, Any], float] | None = None,
) -> Measure:
    """Return a checked :class:`Measure`, for ``compare(measures={"cer": …})``.

    ::

        measures={"cer": mt.agree.measure("lower", of=mt.agree.character_error_rate)}

    Examples
    --------
    >>> cer = mt.agree.measure("lower", of=mt.agree.character_error_rate)
    >>> cer.better
    'lower'
    """
    if better not in ("higher", "lower"):
        raise InvalidComparison(
            f'say which direction is better, "higher" or "lower"; got {better!r}'
        )
    if within is not None and not (isinstance(within, (int, float)) and 0 < within < math.inf):
        raise InvalidComparison(f"within must be a positive number or None, got {within!r}")
    return Measure(better, within, of)


# -- the rules -------------------------------------------------------------------------------------


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _alike(one: Any, other: Any, absolute: float, relative: float) -> bool:
    if _number(one) and _number(other):
        if one == other or (one != one and other != other):
            return True
        return bool(abs(one - other) <= max(absolute, relative * max(abs(one), abs(other)))) and (
            math.isfinite(one) and math.isfinite(other)
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            _alike(value, other[key], absolute, relative) for key, value in one.items()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(
            _alike(a, b, absolute, relative) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)


@dataclasses.dataclass(frozen=True, slots=True)
class _Within:
    abs: float
    rel: float

    def __call__(self, one: Any, other: Any) -> bool:
        return _alike(one, other, self.abs, self.rel)


@dataclasses.dataclass(frozen=True, slots=True)
class _SameSet:
    at_least: float

    def __call__(self, one: Any, other: Any) -> bool:
        sets = []
        for value in (one, other):
            if not isinstance(value, list):
                raise TypeError(f"same_set compares lists, got {type(value).__name__}")
            sets.append({_key(element) for element in value})
        union = sets[0] | sets[1]
        return not union or len(sets[0] & sets[1]) >= self.at_least * len(union)


def _key(value: Any) -> Any:
    """Return *value* as a part of a set. True and 1 stay apart."""
    if isinstance(value, list):
        return ("list", *map(_key, value))
    if isinstance(value, dict):
        return ("dict", frozenset((name, _key(inner)) for name, inner in value.items()))
    if value != value:
        return "number", "nan"
    return ("number" if _number(value) else type(value).__name__), value


@dataclasses.dataclass(frozen=True, slots=True)
class _Similar:
    at_least: float
    levenshtein: Any = dataclasses.field(repr=False)

    def __call__(self, one: Any, other: Any) -> bool:
        return bool(
            self.levenshtein.normalized_similarity(_text(one), _text(other)) >= self.at_least
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    path: str
    steps: tuple[str, ...]
    agree: Agree

    def __call__(self, one: Any, other: Any) -> bool | float:
        return self.agree(self._of(one), self._of(other))

    def _of(self, value: Any) -> Any:
        for step in self.steps:
            try:
                value = value[int(step[1:-1]) if step.startswith("[") else step]
            except (LookupError, TypeError):
                raise LookupError(f"the output has no {self.path!r}") from None
        return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text expected, got {type(value).__name__}")
    return value


def _part(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InvalidComparison(f"{name} must be above 0 and at most 1, got {value!r}")
    return float(value)


def _levenshtein() -> Any:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise MltriggerError(
            f"text distances need {error.name}: {how_to_install('compare')}"
        ) from error
    return Levenshtein
