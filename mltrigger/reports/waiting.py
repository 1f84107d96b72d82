"""Waiting: what is said meanwhile, and until nothing is left to do."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from mltrigger.reports.bar import Bar
from mltrigger.reports.outlook import Hold, Outlook
from mltrigger.store.outcomes import FINAL
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.broker import Broker
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry
    from mltrigger.store.transaction import Row
    from mltrigger.store.wake import Wakeup

LOOK_S = 0.05
"""How often at most the log is read while waiting; the wake-up comes as soon as something was
recorded.
"""
OUTLOOK_S = 0.5
"""How often it is asked what open outcomes wait for."""
ATTEMPT = (
    "row",
    "seq",
    "subscription",
    "model",
    "version",
    "outcome",
    "reason",
    "error_type",
    "error",
    "output",
    "attempt",
)
"""The columns of an attempt that are read while waiting."""
_SAID = 200
_NEWEST = 100
BUGS = frozenset(
    {
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
    }
)
"""Errors of Python that the same code raises again for the same event: trying again does not end
them.
"""


class Failures:
    """The failed attempts of events that are tried again, and how to tell of them.

    Parameters
    ----------
    registry : Registry
        Knows how many attempts each subscription has.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._rows: dict[tuple[int, str], Row] = {}
        self._told: set[tuple[str, str]] = set()
        self._bugs: list[Row] = []

    @functools.cached_property
    def _limits(self) -> dict[str, int]:
        return {spec.name: spec.policy.max_attempts for spec in self._registry.subscriptions()}

    def __len__(self) -> int:
        """Return how many events failed and are not ended."""
        return len(self._rows)

    def see(self, row: Row) -> bool:
        """Take notice of an attempt, a row with the columns ``ATTEMPT``; return whether it ended
        its event.
        """
        key = row[1], row[2]
        self._rows.pop(key, None)
        if row[5] != "failed":
            return True
        self._rows[key] = row
        if row[7] in BUGS and (row[2], row[7]) not in self._told:
            self._told.add((row[2], row[7]))
            self._bugs.append(row)
        return False

    def of(self, seq: int, name: str) -> Row | None:
        """Return the last failed attempt of subscription *name* on an event that is open."""
        return self._rows.get((seq, name))

    def rows(self) -> list[Row]:
        """Return the last failed attempt of each event that is open, the newest last."""
        return list(self._rows.values())

    def note(self) -> str:
        """Return in one line what fails now; empty when nothing does."""
        newest = list(itertools.islice(reversed(self._rows.values()), _NEWEST))
        if not newest:
            return ""
        row = newest[0]
        n = sum((other[2], other[7], other[8]) == (row[2], row[7], row[8]) for other in newest)
        events = f", {'at least ' if n == _NEWEST else ''}{n} events" if n > 1 else ""
        others = f"; {len(newest) - n} fail otherwise" if n < len(newest) else ""
        return f"{row[2]} fails: {error_of(row)} ({self._attempt(row)}{events}){others}"

    def bugs(self) -> Iterator[str]:
        """Yield a warning for each new error that trying again cannot end."""
        while self._bugs:
            row = self._bugs.pop(0)
            yield (
                f"{row[3]}:{row[4]} fails: {error_of(row)} ({self._attempt(row)}). Trying again"
                " does not repair such an error: interrupt the cell, correct the model, and run"
                " its cell again"
            )

    def _attempt(self, row: Row) -> str:
        most = self._limits.get(row[2], 0)
        return f"attempt {row[10]} of {most}" if row[10] <= most else f"attempt {row[10]}"


class Idle:
    """Waits until watched folders hold nothing new and no delivery is open.

    Parameters
    ----------
    log, broker, registry, outlook
        The parts.
    settled : callable
        Returns whether watched folders hold nothing new.
    """

    def __init__(
        self,
        log: Log,
        broker: Broker,
        registry: Registry,
        outlook: Outlook,
        settled: Callable[[], bool],
    ) -> None:
        self._log, self._broker, self._registry, self._outlook, self._settled = (
            log,
            broker,
            registry,
            outlook,
            settled,
        )
        self._failures = Failures(registry)
        # What failed before is no news: it may have been sent again since.
        self._read_to = max(
            (row[0] for row in log.invocations(("row",), limit=1, running=False)), default=0
        )

    def wait(self, wakeup: Wakeup, timeout_s: float, progress: bool) -> bool:
        """Return whether that was reached within *timeout_s* seconds; ``False`` before, with a
        warning, when it cannot be.
        """
        end, next_s, held = time.monotonic() + timeout_s, 0.0, dict[str, tuple[Hold, int]]()
        first: int | None = None
        with Bar("waiting", progress) as bar:
            while True:
                seen = wakeup.generation("done")
                ended, open_ = self._log.progress()
                first = ended if first is None else first
                if open_ and time.monotonic() >= next_s:
                    held, next_s = self._held(), time.monotonic() + OUTLOOK_S
                    self._look(bar)
                bar.show(ended - first, ended - first + open_, self._note(held) if open_ else "")
                hopeless = sum(n for hold, n in held.values() if hold.final)
                # Folders are looked at only where that decides: it takes its time. What was
                # published by this is open.
                settled = hopeless >= open_ and self._settled()
                open_ = self._log.progress()[1] if settled else open_
                left = end - time.monotonic()
                if (settled and not open_) or left <= 0:
                    return settled and not open_
                if settled and hopeless >= open_:
                    bar.warn(_stuck(held))
                    return False
                wakeup.wait("done", seen, min(left, 0.2))
                time.sleep(min(LOOK_S, left))

    def _held(self) -> dict[str, tuple[Hold, int]]:
        """Return the subscriptions that wait for something, and how many events they have open."""
        found = {}
        for name, hold in self._outlook.of().items():
            spec = self._registry.subscription(name)
            depth = spec and self._broker.depth(spec)
            if depth and depth.open:
                found[name] = hold, depth.open
        return found

    def _look(self, bar: Bar) -> None:
        """Read what was recorded since."""
        for row in self._log.invocations(
            ATTEMPT, after_row=self._read_to, outcomes=(*FINAL, "failed"), running=False
        ):
            self._read_to = max(self._read_to, row[0])
            self._failures.see(row)
        for message in self._failures.bugs():
            bar.warn(message)

    def _note(self, held: Mapping[str, tuple[Hold, int]]) -> str:
        return notes_of({name: hold for name, (hold, _) in held.items()}) or self._failures.note()


def _stuck(held: Mapping[str, tuple[Hold, int]]) -> str:
    waits = ", ".join(f"{n} of {name!r} ({hold.why})" for name, (hold, n) in held.items())
    return (
        f"{sum(n for _, n in held.values())} events are open, and nothing can end them by itself:"
        f" {waits}"
    )


def error_of(row: Row) -> str:
    """Return type and message of an attempt's error, in one line."""
    return short(": ".join(part for part in (row[7], row[8] or row[6]) if part), _SAID)


def notes_of(holds: Mapping[str, Hold]) -> str:
    """Return in one line what the subscriptions *holds* wait for."""
    return "; ".join(f"{name}: {short(hold.why, _SAID)}" for name, hold in holds.items())
