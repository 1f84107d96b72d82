"""Company: a call that ended too late beside others proves nothing about its event, which is called
without them the next time.
"""

from __future__ import annotations

from collections.abc import Iterable

from mltrigger.broker import Delivery
from mltrigger.versions.running.invoke import Result

_MOST = 100_000


class Company:
    """Remembers the events of one subscription whose calls took too long in company.

    Only this process remembers. Another one lets the event have company once more, and then knows
    it too.
    """

    def __init__(self) -> None:
        self._known: dict[int, None] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def __contains__(self, delivery: object) -> bool:
        return isinstance(delivery, Delivery) and delivery.seq in self._known

    def acquit(
        self, deliveries: Iterable[Delivery], result: Result, n: int
    ) -> dict[Delivery, Result]:
        """Return *result*, of a call with *n* events that took too long, for each of *deliveries*:
        it spends no attempt.

        An event of an ordered group is left out: it is called with those of its group.
        """
        acquitted = {}
        for delivery in deliveries:
            if delivery.group is None:
                self.note(delivery)
                acquitted[delivery] = result._replace(
                    throttled=True,
                    error=f"{result.error}; it was a batch of {n}: each is called alone now",
                )
        return acquitted

    def note(self, delivery: Delivery) -> None:
        """Remember one event."""
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)), None)
        self._known[delivery.seq] = None
