"""The rules of a verdict: from counts to :class:`~mltrigger.rollout.verdict.Draft`.

Each rule is shown when its interval is wholly on the good side of its limit. An observed rate shows
nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mltrigger.errors import InvalidComparison
from mltrigger.rollout.agree import Measure
from mltrigger.rollout.statistics import always, exact, resampling, sizes
from mltrigger.rollout.statistics.exact import Bound, Interval
from mltrigger.rollout.verdict import Draft, Rule
from mltrigger.text import count

_FEWEST = 2
_SLICE_GROUPS = 250


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """The requirements on a new version.

    Attributes
    ----------
    agree_at_least : float, optional
        The least agreement that must be shown. ``None`` asks for no agreement.
    confidence : float
        The confidence of intervals, and of all tests of harm together.
    within : float
        How much larger the share of errors, or of wrong answers, may be.
    slow_at_most : float, optional
        The share of calls that may be slower than the old version's p95. Of its own calls it is
        0.05. ``None`` asks for no speed.
    repeated : bool
        Whether the data are looked at more than once. E-values and confidence sequences then take
        the place of tests and intervals.
    seed : int
        The seed of resampling.
    """

    agree_at_least: float | None = 0.99
    confidence: float = 0.95
    within: float = 0.01
    slow_at_most: float | None = 0.10
    repeated: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        shares = ("agree_at_least", "confidence", "within", "slow_at_most")
        for name in shares:
            value = getattr(self, name)
            if value is None and name in ("agree_at_least", "slow_at_most"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
                advice = (
                    ": 1 cannot be shown by any number of events"
                    if name == "agree_at_least" and value == 1
                    else ""
                )
                raise InvalidComparison(
                    f"{name} must be a share between 0 and 1, got {value!r}{advice}"
                )

    @property
    def bound(self) -> Bound:
        """The upper bound of a rate."""
        return always.upper if self.repeated else exact.upper

    @property
    def alpha(self) -> float:
        """The chance of an error."""
        return 1.0 - self.confidence


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """Disagreement: its sum over *total* pairs. ``graded``: some pairs agree in part."""

    against: float
    total: int
    graded: bool = False

    @property
    def rate(self) -> float:
        """The observed disagreement."""
        return self.against / self.total if self.total else 0.0


def agreement(found: Tally, noise: Tally | None, asked: Asked) -> Draft:
    """Return the rule that the versions agree often enough.

    With *noise*, the disagreement of the old version with itself is subtracted: its lower bound
    from the upper bound of the disagreement. Both bounds share the error.
    """
    limit = 1.0 - (asked.agree_at_least or 0.0)
    graded = found.graded or (noise is not None and noise.graded)
    bound = always.upper if graded else asked.bound

    def most(n: float) -> float:
        """Return the upper bound of the disagreement, if there were *n* pairs."""
        if noise is None:
            return bound(found.rate * n, n, asked.confidence)
        own = noise.total * n / max(found.total, 1)
        less = 1.0 - bound((1 - noise.rate) * own, own, _half(asked)) if own else 0.0
        return bound(found.rate * n, n, _half(asked)) - less

    def least(n: float) -> float:
        if noise is None:
            return 1.0 - bound((1 - found.rate) * n, n, asked.confidence)
        own = noise.total * n / max(found.total, 1)
        more = bound(noise.rate * own, own, _half(asked)) if own else 1.0
        return 1.0 - bound((1 - found.rate) * n, n, _half(asked)) - more

    n = found.total
    high, low = (most(n), least(n)) if n else (1.0, 0.0)
    passed = True if high <= limit else False if low > limit else None
    needs = None
    if passed is None:
        needs = sizes.more(lambda size: min(most(size) - limit, limit - least(size)), n)
    shown = Interval(max(0.0, 1 - high), min(1.0, 1 - low))
    bounds = f"at most {shown.high:.4f}" if passed is False else f"at least {shown.low:.4f}"
    text = (
        f"agree on {n - found.against:,.6g} of {count(n, 'pair')}"
        f"{f' ({1 - found.rate:.2%})' if n else ''}{_beside(noise, low, high)}: {bounds}"
        f" shown, {asked.agree_at_least} wanted{_needs(passed is None, needs)}"
    )
    return Draft(Rule("agreement", passed, 1 - found.rate if n else None, shown, needs, text))


def _half(asked: Asked) -> float:
    return (1.0 + asked.confidence) / 2


def _beside(noise: Tally | None, low: float, high: float) -> str:
    if noise is None:
        return ""
    said = "no difference beyond it" if low <= 0 <= high else "a difference beyond it"
    return (
        f"; the old version disagrees with itself on {noise.against:,.6g} of"
        f" {count(noise.total, 'event')} ({noise.rate:.2%}), {said}"
    )


def _needs(is_open: bool, needs: int | None) -> str:
    if not is_open:
        return ""
    if needs is None:
        return f"; more than {sizes.MOST:,.0f} events would be needed"
    return f"; {sizes.needed(max(needs, 1))}"


@dataclasses.dataclass(frozen=True, slots=True)
class Discordant:
    """Pairs on which one version alone is good: ``worse`` where the old one was."""

    worse: int
    better: int
    total: int


def paired(name: str, bad: str, found: Discordant, asked: Asked, quiet: bool = False) -> Draft:
    """Return the rule that the new version is not *bad* more often. McNemar's exact test."""
    worse, better, n = found.worse, found.better, found.total
    if not n:
        text = "no pair to judge; at least 1 more event needed"
        return Draft(Rule(name, None, None, None, None, text), None, quiet)
    p = _more(worse, better, asked)
    high = exact.net_upper(worse, better, n, asked.confidence, asked.bound)
    passed, needs = True if high <= asked.within else None, None
    is_open = passed is None and p > asked.alpha
    if is_open and not quiet:

        def gap(size: float) -> float:
            part = size / n
            shown = exact.net_upper(
                worse * part, better * part, size, asked.confidence, asked.bound
            )
            return min(
                shown - asked.within, _more(worse * part, better * part, asked) - asked.alpha
            )

        needs = sizes.more(gap, n)
    text = (
        f"{worse:,} newly {bad}, {better:,} no longer, of {count(n, 'pair')}"
        f" ({(worse - better) / n:+.2%}): at most {high:+.2%} shown, {asked.within:+.2%}"
        f" allowed{_needs(is_open, needs)}"
    )
    shown = exact.net(worse, better, n, asked.confidence, asked.bound)
    return Draft(Rule(name, passed, (worse - better) / n, shown, needs, text), p, quiet)


def _more(more: float, fewer: float, asked: Asked) -> float:
    """Return the p-value of "*more* is not more", valid at every look if *asked*."""
    if not asked.repeated:
        return exact.mcnemar_more(more, fewer)
    return _inverse(always.discordant(more, fewer, "more"))


def _inverse(e: float) -> float:
    return min(1.0, 1.0 / e) if e else 1.0


def latency(slow: int, total: int, p95_ms: float, asked: Asked) -> Draft:
    """Return the rule that few calls are slower than the old version's p95."""
    limit = asked.slow_at_most or 0.0
    if not total:
        return Draft(Rule("latency", None, None, None, None, "no pair with two latencies"))
    high = asked.bound(slow, total, asked.confidence)

    def harm(k: float, n: float) -> float:
        return _inverse(always.rate(k, n, limit)) if asked.repeated else exact.tail(k, n, limit)

    def gap(size: float) -> float:
        k = slow * size / total
        return min(asked.bound(k, size, asked.confidence) - limit, harm(k, size) - asked.alpha)

    passed = True if high <= limit else None
    p = harm(slow, total)
    is_open = passed is None and p > asked.alpha
    needs = sizes.more(gap, total) if is_open else None
    text = (
        f"{slow:,} of {count(total, 'call')} ({slow / total:.1%}) slower than {p95_ms:,.2f} ms, the"
        f" old p95: at most {high:.1%} shown, {limit:.0%} allowed{_needs(is_open, needs)}"
    )
    shown = exact.two_sided(asked.bound, slow, total, asked.confidence)
    return Draft(Rule("latency", passed, slow / total, shown, needs, text), p)


def numbers(
    name: str, measure: Measure, differences: Any, asked: Asked, quiet: bool = False
) -> Draft:
    """Return the rule that a measure is not worse. *differences* are new minus old, of pairs."""
    n = len(differences)
    if n < _FEWEST:
        text = f"only {count(n, 'pair')} with it on both sides; 2 are the least"
        return Draft(Rule(name, None, None, None, _FEWEST - n, text), None, quiet)
    mean, sign = float(differences.mean()), 1.0 if measure.better == "higher" else -1.0
    # the one-sided bound that matters, as an end of a two-sided interval
    wide = 2 * asked.confidence - 1 if measure.within is not None else asked.confidence
    if asked.repeated:
        total, squares = float(differences.sum()), float((differences**2).sum())
        p = _inverse(always.positive(-sign * total, squares))
        shown = always.centre(n, total, squares, asked.confidence)
        one_sided = always.centre(n, total, squares, wide) if wide > 0 else shown
    else:
        groups = _SLICE_GROUPS if quiet else resampling.GROUPS
        p = resampling.sign_flips(differences, asked.seed, groups=groups) if mean else 1.0
        p = p if mean * sign < 0 else 1.0
        shown = resampling.mean_interval(differences, asked.confidence, asked.seed, groups=groups)
        one_sided = shown
        if measure.within is not None and wide > 0:
            one_sided = resampling.mean_interval(differences, wide, asked.seed, groups=groups)
    worst = -sign * (one_sided.low if sign > 0 else one_sided.high)
    text = (
        f"mean {mean:+.4g} over {count(n, 'pair')}, from {shown.low:+.4g} to {shown.high:+.4g}"
        f" ({measure.better} is better)"
    )
    if measure.within is None:
        rule = Rule(name, True, mean, shown, None, f"{text}: no significant harm")
        return Draft(_but_harm(rule, p, asked, text), p, quiet)
    passed = True if worst <= measure.within else None
    needs = None
    is_open = passed is None and p > asked.alpha
    if is_open:
        # the interval shrinks with the root of the number of pairs
        half, room = abs(worst + sign * mean), measure.within + sign * mean
        needs = math.ceil(n * (half / room) ** 2) - n if room > 0 and math.isfinite(half) else None
        needs = None if needs is not None and needs > sizes.MOST else needs
    text += f": at most {worst:.4g} worse shown, {measure.within:g} allowed"
    return Draft(Rule(name, passed, mean, shown, needs, text + _needs(is_open, needs)), p, quiet)


def _but_harm(rule: Rule, p: float, asked: Asked, text: str) -> Rule:
    """Return *rule* without its reassurance, if a harm is significant."""
    return dataclasses.replace(rule, text=text) if p <= asked.alpha else rule
