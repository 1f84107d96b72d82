"""The verdict about a new version: one word, and the arithmetic of each rule behind it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from mltrigger.errors import InvalidComparison
from mltrigger.rollout.statistics.exact import Interval, holm
from mltrigger.rollout.statistics.sizes import needed
from mltrigger.text import card, count, short, table_html

Word = Literal["SHIP", "HOLD", "WORSE", "NOT YET"]
"""``SHIP``: all rules are shown. ``WORSE``: a harm is significant.

``HOLD``: decided against a rule, without a significant harm. ``NOT YET``: more events are needed.
"""
_MARKS = {True: "shown", False: "failed", None: "open"}
_DIGITS = 6
_NOTHING = 1e-12
MOST_SLICES = 10
"""A verdict names so many harms of slices, the clearest ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a verdict.

    Attributes
    ----------
    name : str
        Such as ``agreement`` or ``errors in type=invoice``.
    passed : bool, optional
        ``None`` while the data decide neither way.
    figure : float, optional
        The observed number.
    interval : tuple of float, optional
        Its confidence interval.
    needs : int, optional
        How many more events would decide, at the present rates. ``None`` if no number can be named.
    text : str
        The arithmetic, in words.
    harm : bool
        Whether a failure means that the new version is worse.
    """

    name: str
    passed: bool | None
    figure: float | None
    interval: tuple[float, float] | None
    needs: int | None
    text: str
    harm: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A rule before the correction for several tests.

    ``p`` is the p-value of the harm, or 1 over its e-value. A ``quiet`` rule is only shown when its
    harm is significant.
    """

    rule: Rule
    p: float | None = None
    quiet: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """SHIP, HOLD, WORSE or NOT YET, with each rule.

    Attributes
    ----------
    word : str
        The verdict.
    versions : tuple of str
        The old and the new version.
    rules : tuple of Rule
        The rules. Of those about slices, only the ones with a significant harm.
    pairs : int
        How many events both versions answered.
    confidence : float
        The confidence of each interval, and of all tests of harm together.
    repeated : bool
        Whether it holds at every look. Otherwise it holds for one look.
    """

    word: Word
    versions: tuple[str, str]
    rules: tuple[Rule, ...]
    pairs: int
    confidence: float = 0.95
    repeated: bool = False

    @classmethod
    def of(
        cls,
        drafts: Sequence[Draft],
        versions: tuple[str, str],
        pairs: int,
        confidence: float = 0.95,
        repeated: bool = False,
    ) -> Verdict:
        """Decide. All tests of harm together err with the chance 1 - *confidence* (Holm, 1979)."""
        rules = tuple(settled(drafts, confidence, repeated))
        return cls(decided(rules), versions, rules, pairs, confidence, repeated)

    @property
    def needs(self) -> int | None:
        """How many more events decide all open rules. ``None`` if that cannot be said."""
        waiting = [rule.needs for rule in self.rules if rule.passed is None]
        known = [needs for needs in waiting if needs is not None]
        return max(known) if known and len(known) == len(waiting) else None

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        looks = "at every look" if self.repeated else "for one look"
        needs = self.needs if self.word == "NOT YET" else None
        more = f", {needed(max(needs, 1))}" if needs is not None else ""
        return (
            f"{self.word}: {self.versions[0]} -> {self.versions[1]},"
            f" {count(self.pairs, 'pair')}, {self.confidence:.0%} confidence {looks}{more}"
        )

    def __str__(self) -> str:
        width = max((len(rule.name) for rule in self.rules), default=0)
        return "\n".join(
            [
                self.summary,
                *(
                    f"  {_MARKS[rule.passed]:6}  {rule.name:{width}}  {rule.text}"
                    for rule in self.rules
                ),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return card(self.summary, [], self.table())

    def table(self) -> str:
        """Return the rules as an HTML table."""
        return table_html(
            ("rule", "", "arithmetic"),
            [(rule.name, _MARKS[rule.passed], rule.text) for rule in self.rules],
        )

    def to_json(self) -> str:
        """Return the verdict as short JSON text, for a row of a table."""
        rules = [
            {
                "name": rule.name,
                "passed": rule.passed,
                "figure": _rounded(rule.figure),
                "interval": None if rule.interval is None else [*map(_rounded, rule.interval)],
                "needs": rule.needs,
                "text": rule.text,
                "harm": rule.harm,
            }
            for rule in self.rules
        ]
        return json.dumps(
            {
                "word": self.word,
                "versions": self.versions,
                "pairs": self.pairs,
                "confidence": self.confidence,
                "repeated": self.repeated,
                "rules": rules,
            },
            separators=(",", ":"),
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """Return the verdict of :meth:`to_json`. Figures have six digits.

        Raises
        ------
        InvalidComparison
            If the text is no verdict, or its word does not follow from its rules.
        """
        try:
            found = json.loads(text)
            rules = tuple(map(_rule, found["rules"]))
            verdict = cls(**{**found, "versions": tuple(found["versions"]), "rules": rules})
            _check(verdict)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            missing = "there is no member " if isinstance(error, KeyError) else ""
            raise InvalidComparison(
                f"no verdict of a comparison: {missing}{short(str(error), 100)}; to_json() of a"
                " verdict writes one"
            ) from error
        follows = decided(rules)
        if verdict.word != follows:
            raise InvalidComparison(
                f"the verdict says {short(str(verdict.word))}, but {follows} follows from its rules"
            )
        return verdict


def decided(rules: Iterable[Rule]) -> Word:
    """Return the word that follows from *rules*. No rules decide nothing."""
    rules = list(rules)
    if any(rule.harm and rule.passed is False for rule in rules):
        return "WORSE"
    if any(rule.passed is False for rule in rules):
        return "HOLD"
    return "SHIP" if rules and all(rule.passed for rule in rules) else "NOT YET"


def settled(drafts: Sequence[Draft], confidence: float, repeated: bool) -> list[Rule]:
    """Return the rules of *drafts*, those with a significant harm failed."""
    tested = [i for i, draft in enumerate(drafts) if draft.p is not None]
    adjusted = dict(zip(tested, holm([drafts[i].p or 0.0 for i in tested]), strict=True))
    harmed = {i: p for i, p in adjusted.items() if p <= 1 - confidence + _NOTHING}
    quiet = sorted((i for i in harmed if drafts[i].quiet), key=lambda i: harmed[i])
    left_out = set(quiet[MOST_SLICES:])
    rules = []
    for i, draft in enumerate(drafts):
        if i in harmed and i not in left_out:
            rules.append(_harmed(draft, harmed[i], len(tested), repeated))
        elif not draft.quiet:
            rules.append(draft.rule)
    if left_out:
        text = f"{len(left_out)} more rules of slices with a significant harm"
        rules.append(Rule("other slices", False, None, None, None, text, harm=True))
    return rules


def _harmed(draft: Draft, p: float, tests: int, repeated: bool) -> Rule:
    e = f"e = {1 / p:,.4g}" if p else "e is infinite"
    evidence = e if repeated else f"p = {p:.2g}"
    holm_ = f" (Holm over {tests} tests)" if tests > 1 else ""
    return dataclasses.replace(
        draft.rule,
        passed=False,
        needs=None,
        harm=True,
        text=f"{draft.rule.text}. A significant harm: {evidence}{holm_}",
    )


def _rounded(value: float | None) -> float | None:
    """Return *value* with six digits. JSON has no infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _rule(found: Any) -> Rule:
    rule = Rule(**{**found, "interval": _interval(found["interval"])})
    passed = rule.passed is None or isinstance(rule.passed, bool)
    if not (passed and isinstance(rule.harm, bool) and _are_texts(rule.name, rule.text)):
        raise TypeError(f"the rule {rule.name!r:.60} has members of another type")
    return rule


def _check(verdict: Verdict) -> None:
    if len(verdict.versions) != 2 or not _are_texts(*verdict.versions):
        raise TypeError("versions are the old and the new one")
    if type(verdict.pairs) is not int or not isinstance(verdict.repeated, bool):
        raise TypeError("pairs or repeated has another type")
    if not isinstance(verdict.confidence, float):
        raise TypeError("confidence has another type")


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _interval(found: Sequence[float | None] | None) -> tuple[float, float] | None:
    if found is None:
        return None
    low, high = found
    return Interval(-math.inf if low is None else low, math.inf if high is None else high)
