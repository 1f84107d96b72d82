"""The guard of a canary: rules that may be looked at as often as one likes.

Each rule is an e-value, a function of the counts alone. So any listener may compute it from the
store at any time, and the chance of a false alarm over all looks together stays below ``alpha``
(Ville, 1939).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mltrigger.errors import InvalidPolicy
from mltrigger.rollout.statistics import always
from mltrigger.store.tries import Tried
from mltrigger.text import card_of

SLOW = 0.05
"""The share of calls that is slower than a 95th percentile."""
Better = Literal["higher", "lower"]


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """The rules by which a canary is rolled back.

    Parameters
    ----------
    errors : float, optional
        How many times the error rate of the live version is tolerated. ``None``: no such rule.
    p95 : float, optional
        How many times the 95th percentile of the live run time is tolerated. The rule counts calls
        that are slower than that.
    measures : mapping, optional
        Measures of ``mt.report`` that must not get worse, and which is better: ``"higher"`` or
        ``"lower"``.
    alpha : float
        The chance that the guard ever rolls a version back that keeps all rules.

    Examples
    --------
    >>> mt.Guard(errors=1.5, p95=1.3).alpha
    0.05
    """

    errors: float | None = 1.5
    p95: float | None = 1.3
    measures: Mapping[str, Better] = dataclasses.field(default_factory=dict)
    alpha: float = 0.05

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value!r}: write a number from 1 on, or None"
            for name, value in (("errors", self.errors), ("p95", self.p95))
            if value is not None and not _is_from(value, 1.0)
        ]
        if not isinstance(self.measures, Mapping):
            raise InvalidPolicy(
                f"invalid guard: measures = {self.measures!r:.60}: write {{'confidence': 'higher'}}"
            )
        problems += [
            f"measures[{name!r}] = {better!r}: write 'higher' or 'lower'"
            for name, better in self.measures.items()
            if better not in ("higher", "lower")
        ]
        if not (_is_number(self.alpha) and 0.0 < self.alpha < 1.0):
            problems.append(f"alpha = {self.alpha!r}: write a number between 0 and 1")
        if self.errors is None and self.p95 is None and not self.measures:
            problems.append("no rule: give errors, p95 or measures")
        if problems:
            raise InvalidPolicy("invalid guard: " + "; ".join(problems))

    @property
    def rules(self) -> int:
        """The number of rules. They share ``alpha``."""
        return (self.errors is not None) + (self.p95 is not None) + len(self.measures)

    def to_plan(self) -> dict[str, Any]:
        """Return the guard as JSON values."""
        return {**dataclasses.asdict(self), "measures": dict(self.measures)}

    def _repr_html_(self) -> str:
        return card_of("Guard", self)


@dataclasses.dataclass(frozen=True, slots=True)
class Alarm:
    """One rule of a guard with its figures. It is broken from ``limit`` on."""

    rule: str
    e: float
    limit: float
    text: str

    @property
    def is_broken(self) -> bool:
        """Whether the rule is broken."""
        return self.e >= self.limit


def alarms(
    guard: Guard,
    canary: Tried,
    live: Tried,
    measured: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> list[Alarm]:
    """Return each rule of *guard* with its e-value.

    Half of the chance of a rule goes to the bound of the live rate, half to the canary: it is
    compared with the largest live rate that the live calls allow.

    Parameters
    ----------
    guard : Guard
        The rules.
    canary, live : Tried
        First attempts of both versions, since the canary began.
    measured : mapping, optional
        The numbers of each measure, of the canary and of the live version.
    """
    each = guard.alpha / guard.rules
    limit, confidence = 2.0 / each, 1.0 - each / 2.0
    found = []
    if guard.errors is not None:
        base = always.upper(live.failed, live.n, confidence) if live.n else 1.0
        e = always.rate(canary.failed, canary.n, base, guard.errors) if canary.n else 1.0
        text = (
            f"{canary.failed} of {canary.n} canary attempts failed, {live.failed} of {live.n} live"
            f" ones; tolerated: {guard.errors:g} times as many"
        )
        found.append(Alarm("errors", e, limit, text))
    if guard.p95 is not None:
        base = always.upper(live.slow, live.timed, confidence) if live.timed else 1.0
        slow = max(base, SLOW)
        e = always.rate(canary.slow, canary.timed, slow) if canary.timed else 1.0
        text = (
            f"{canary.slow} of {canary.timed} canary calls were slower than {guard.p95:g} times the"
            f" live p95, {live.slow} of {live.timed} live ones"
        )
        found.append(Alarm("p95", e, limit, text))
    for name, better in guard.measures.items():
        found.append(_measure(name, better, (measured or {}).get(name, ([], [])), 1.0 / each))
    return found


def _measure(
    name: str, better: Better, given: tuple[Sequence[float], Sequence[float]], limit: float
) -> Alarm:
    """Compare the numbers of both versions, pair by pair in the order they came.

    The differences are symmetric if both versions are alike.
    """
    canary, live = ([x for x in values if math.isfinite(x)] for values in given)
    sign = 1.0 if better == "higher" else -1.0
    worse = [sign * (b - a) for a, b in zip(canary, live, strict=False)]
    squares = sum(d * d for d in worse)
    e = always.positive(sum(worse), squares) if squares else 1.0
    text = f"{name}: mean {_mean(canary)} of {len(canary)} canary, {_mean(live)} of live attempts"
    return Alarm(name, e, limit, f"{text}; {better} is better")


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4g}" if values else "unknown"


def _is_from(value: Any, least: float) -> bool:
    return _is_number(value) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
