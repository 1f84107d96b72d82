"""A candidate beside the live version, at the same time.

It is always-valid, also when the base drifts.
"""

from __future__ import annotations

import dataclasses
import json
import math

from mltrigger.rollout.statistics.always import EFFECTS
from mltrigger.rollout.statistics.special import e_value, log_sum


@dataclasses.dataclass(frozen=True, slots=True)
class Concurrent:
    """Evidence against "the candidate's odds of failure are at most *factor* times the live ones".

    Events come in blocks of both lanes over the same time. Within a block the number of failures is
    given, and only their place counts: the candidate's part has Fisher's noncentral hypergeometric
    distribution. Each block multiplies likelihood ratios of :data:`EFFECTS`. So the rate may drift
    from block to block, and the candidate's share may change. Grünwald, Ly, Pérez-Ortiz and ter
    Schure (2021) do the same with survival times.

    The end of a block must not depend on its failures. A block with one lane says nothing: wait
    until both have events. A rate at most *factor* times the live rate is not enough where failures
    are frequent: odds ratios are larger than ratios of rates.

    Attributes
    ----------
    factor : float
        The tolerated odds ratio.
    logs : tuple of float
        The sum of the logarithms of the likelihood ratios, for each effect.
    candidate, live : tuple of int
        Failures and events so far. For people: the evidence is in ``logs``.
    """

    factor: float = 1.0
    logs: tuple[float, ...] = (0.0,) * len(EFFECTS)
    candidate: tuple[int, int] = (0, 0)
    live: tuple[int, int] = (0, 0)

    def update(self, failures: int, total: int, live_failures: int, live_total: int) -> Concurrent:
        """Return the evidence with one more block: candidate first, then the live lane."""
        if not (0 <= failures <= total and 0 <= live_failures <= live_total):
            raise ValueError(
                f"failures are from 0 to the total, got {failures} of {total} and"
                f" {live_failures} of {live_total}"
            )
        logs = _ratios(failures, total, live_failures, live_total, self.factor)
        return self + Concurrent(self.factor, logs, (failures, total), (live_failures, live_total))

    def __add__(self, other: Concurrent) -> Concurrent:
        """Return the evidence of both. Their blocks have no event in common."""
        if self.factor != other.factor:
            raise ValueError(f"evidence of different factors: {self.factor!r} and {other.factor!r}")
        return Concurrent(
            self.factor,
            tuple(a + b for a, b in zip(self.logs, other.logs, strict=True)),
            (self.candidate[0] + other.candidate[0], self.candidate[1] + other.candidate[1]),
            (self.live[0] + other.live[0], self.live[1] + other.live[1]),
        )

    @property
    def e(self) -> float:
        """The e-value. 20 or more refutes the hypothesis with 95 % confidence."""
        return e_value(log_sum(list(self.logs)) - math.log(len(self.logs)))

    def to_json(self) -> str:
        """Return the state as JSON text: some 13 numbers."""
        return json.dumps([self.factor, self.logs, self.candidate, self.live])

    @classmethod
    def from_json(cls, text: str) -> Concurrent:
        """Return the state of :meth:`to_json`."""
        factor, logs, candidate, live = json.loads(text)
        return cls(factor, tuple(logs), tuple(candidate), tuple(live))


def _ratios(
    failures: int, total: int, live_failures: int, live_total: int, factor: float
) -> tuple[float, ...]:
    """Return the logarithms of the likelihood ratios of one block, for each effect."""
    both = failures + live_failures
    least, most = max(0, both - live_total), min(both, total)
    if least == most:
        return (0.0,) * len(EFFECTS)
    ways = [
        _log_choose(total, i) + _log_choose(live_total, both - i) for i in range(least, most + 1)
    ]

    def norm(odds: float) -> float:
        step = math.log(odds)
        return log_sum([way + (least + i) * step for i, way in enumerate(ways)])

    here = norm(factor)
    return tuple(failures * math.log(effect) - norm(factor * effect) + here for effect in EFFECTS)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
