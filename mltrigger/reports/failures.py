"""Failed attempts of open events, and how to tell of them while waiting."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mltrigger.store.outcomes import FINAL
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry

SAID = 200
"""Characters of an error that are told."""
_NEWEST = 100
BUGS = frozenset(
    [
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "ImportError",
        "IndentationError",
        "IndexError",
        "KeyError",
        "LookupError",
        "ModuleNotFoundError",
        "NameError",
        "NotImplementedError",
        "RecursionError",
        "SyntaxError",
        "TypeError",
        "UnboundLocalError",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "ValueError",
        "ZeroDivisionError",
    ]
)
"""Errors of Python that the same code raises again for the same event. A retry is no help."""


class Attempt(NamedTuple):
    """An ended attempt. The fields are columns of the log; ``row`` is its place there."""

    row: int
    seq: int
    source: str
    subscription: str
    model: str | None
    version: str | None
    outcome: str
    reason: str | None
    error_type: str | None
    error: str | None
    output: str | None
    measures: str | None
    attempt: int

    @property
    def problem(self) -> str:
        """Type and message of the error, in one line."""
        return short(": ".join(filter(None, (self.error_type, self.error or self.reason))), SAID)


def attempts(log: Log, after_row: int, seqs: tuple[int, int] | None = None) -> Iterator[Attempt]:
    """Yield the attempts recorded after *after_row* that failed or ended their events."""
    for row in log.invocations(
        Attempt._fields,
        seqs=seqs,
        after_row=after_row,
        outcomes=(*FINAL, "failed"),
        running=False,
    ):
        yield Attempt(*row)


class Failures:
    """The last failed attempt of each open event.

    Parameters
    ----------
    registry : Registry
        Knows how many attempts each subscription has.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._last: dict[tuple[int, str], Attempt] = {}
        self._told: set[tuple[str, str]] = set()
        self._bugs: list[Attempt] = []

    @functools.cached_property
    def _limits(self) -> dict[str, int]:
        return {spec.name: spec.policy.max_attempts for spec in self._registry.subscriptions()}

    def see(self, attempt: Attempt) -> bool:
        """Take note of *attempt*. Return whether it ended its event."""
        key = attempt.seq, attempt.subscription
        self._last.pop(key, None)
        if attempt.outcome != "failed":
            return True
        self._last[key] = attempt
        if attempt.error_type in BUGS:
            told = attempt.subscription, str(attempt.error_type)
            if told not in self._told:
                self._told.add(told)
                self._bugs.append(attempt)
        return False

    def of(self, seq: int, name: str) -> Attempt | None:
        """Return the last failed attempt of subscription *name* on an open event."""
        return self._last.get((seq, name))

    def all(self) -> Sequence[Attempt]:
        """Return the last failed attempt of each open event, the newest last."""
        return list(self._last.values())

    def note(self) -> str:
        """Return the present failures in one line, an empty text without one."""
        newest = list(itertools.islice(reversed(self._last.values()), _NEWEST))
        if not newest:
            return ""
        last = newest[0]
        n = sum(_kind(other) == _kind(last) for other in newest)
        events = f", {'at least ' if n == _NEWEST else ''}{n} events" if n > 1 else ""
        others = f"; {len(newest) - n} fail otherwise" if n < len(newest) else ""
        return f"{last.subscription} fails: {last.problem} ({self._number(last)}{events}){others}"

    def bugs(self) -> Iterator[str]:
        """Yield a warning for each new error that a retry cannot repair."""
        while self._bugs:
            bug = self._bugs.pop(0)
            yield (
                f"{bug.model}:{bug.version} fails: {bug.problem} ({self._number(bug)}). Trying"
                " again does not repair such an error: interrupt the cell, correct the model, and"
                " run its cell again"
            )

    def _number(self, attempt: Attempt) -> str:
        most = self._limits.get(attempt.subscription, 0)
        of = f" of {most}" if attempt.attempt <= most else ""
        return f"attempt {attempt.attempt}{of}"


def _kind(attempt: Attempt) -> tuple[str, str | None, str | None]:
    return attempt.subscription, attempt.error_type, attempt.error
