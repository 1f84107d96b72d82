"""Waiting until nothing is left to do, with a report on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mltrigger.reports.bar import Bar
from mltrigger.reports.failures import SAID, Failures, attempts
from mltrigger.reports.outlook import Hold, Outlook
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.broker import Broker
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry
    from mltrigger.store.wake import Wakeup

LOOK_S = 0.05
"""The shortest time between two reads of the log while waiting."""
OUTLOOK_S = 0.5
"""How often it is asked why events are open."""
_POLL_S = 0.2


class Idle:
    """Waits until watched folders hold nothing new and no delivery is open.

    Parameters
    ----------
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
        self._log, self._broker, self._registry = log, broker, registry
        self._outlook, self._settled = outlook, settled
        self._failures = Failures(registry)
        # earlier failures are no news: their events may have been sent again
        newest = log.invocations(("row",), limit=1, running=False)
        self._read_to = max((row for (row,) in newest), default=0)

    def wait(self, wakeup: Wakeup, timeout_s: float, progress: bool) -> bool:
        """Return whether that was reached within *timeout_s* seconds.

        Returns False early, with a warning, if it cannot be reached.
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
                # Look at folders only where that decides: it takes time. New files become open.
                settled = hopeless >= open_ and self._settled()
                open_ = self._log.progress()[1] if settled else open_
                left = end - time.monotonic()
                if (settled and not open_) or left <= 0:
                    self._log.make_durable()
                    return settled and not open_
                if settled and hopeless >= open_:
                    bar.warn(_stuck(held))
                    return False
                wakeup.wait("done", seen, min(left, _POLL_S))
                time.sleep(min(LOOK_S, left))

    def _held(self) -> dict[str, tuple[Hold, int]]:
        """Return the subscriptions on hold that have open events, and how many."""
        found = {}
        for name, hold in self._outlook.of().items():
            spec = self._registry.subscription(name)
            depth = spec and self._broker.depth(spec)
            if depth and depth.open:
                found[name] = hold, depth.open
        return found

    def _look(self, bar: Bar) -> None:
        """Read new attempts, warn of new bugs."""
        for attempt in attempts(self._log, self._read_to):
            self._read_to = max(self._read_to, attempt.row)
            self._failures.see(attempt)
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


def notes_of(holds: Mapping[str, Hold]) -> str:
    """Return in one line why the events of subscriptions wait."""
    return "; ".join(f"{name}: {short(hold.why, SAID)}" for name, hold in holds.items())
