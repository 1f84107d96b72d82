"""Guilt needs proof: an event is blamed only for a call that it had to itself.

A call may end badly because of another call beside it. There are two such ends:

- *The process died.* Any call in it may be the cause. The broker counts the attempt as abandoned,
  and the event becomes a suspect. A suspect runs alone in its process, in a turn of
  :mod:`mltrigger.versions.running.turns`. Only a death in such a turn counts against the event.
- *The call took too long.* Another event of the batch may be the cause, or another call in the
  process. No attempt is spent. :class:`Suspects` remembers the event, and its next call has no
  company.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mltrigger.broker import Delivery
from mltrigger.broker.alike import Alike
from mltrigger.versions.running.invoke import Result

_MOST = 100_000
UNLIKELY = 5
"""Attempts from which an abandoned event is a suspect although its model runs elsewhere.

Such a model seldom ends this process. An answer that needs too much memory may do it.
"""


class Suspects:
    """Says which events of one subscription are called on their own.

    Late calls are remembered in this process only. Another process lets the event have company once
    more, and then remembers it too.
    """

    def __init__(self) -> None:
        self._late: dict[int, None] = {}

    def split(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Return the deliveries that share no lot with others, and the rest."""
        late = self._late
        if isinstance(deliveries, Alike) and late.keys().isdisjoint(deliveries.seqs):
            return [], deliveries
        own = [d for d in deliveries if d.abandoned or d.seq in late]
        return own, [d for d in deliveries if d not in own] if own else deliveries

    def together(self, deliveries: Sequence[Delivery], runs_here: bool, batches: bool) -> int:
        """Return how many of *deliveries* come before the first one that needs its own turn.

        *runs_here* means that the model runs in this process. A late event needs its own turn only
        where each event is a call: a batch of one has no company.
        """
        late: Collection[int] = () if batches else self._late
        if isinstance(deliveries, Alike) and not late:
            return len(deliveries)
        for i, d in enumerate(deliveries):
            if d.seq in late or (d.abandoned and (runs_here or d.attempt > UNLIKELY)):
                return i
        return len(deliveries)

    def remember(self, delivery: Delivery) -> None:
        """Call this event without company from now on."""
        while len(self._late) >= _MOST:
            self._late.pop(next(iter(self._late)), None)
        self._late[delivery.seq] = None

    def acquit_late(self, results: dict[Delivery, Result]) -> dict[Delivery, Result]:
        """Return *results* of a batch. If several are late, none of them is blamed."""
        late = [
            d
            for d, result in results.items()
            if result.reason == "timeout" and not result.permanent
        ]
        if len(late) < 2:
            return results
        return {**results, **self.acquit(late, results[late[0]], len(results))}

    def acquit(
        self, deliveries: Iterable[Delivery], result: Result, n: int
    ) -> dict[Delivery, Result]:
        """Return *result* for each of *deliveries*, so that it spends no attempt.

        It comes from a call with *n* events that took too long. Events of an ordered group are left
        out: they are always called with their group.
        """
        acquitted = {}
        for delivery in deliveries:
            if delivery.group is None:
                self.remember(delivery)
                acquitted[delivery] = result._replace(
                    throttled=True,
                    error=f"{result.error}; it was a batch of {n}: each is called alone now",
                )
        return acquitted
