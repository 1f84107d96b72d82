"""The verbs of a bus about how long events are kept."""

from __future__ import annotations

import dataclasses

from mltrigger.errors import brief_errors
from mltrigger.reports.lookup import Lookup
from mltrigger.store.retention import Pruned, Retention, prune


@brief_errors
class Keeping(Lookup):
    """Keeps events, and lets old ones go. :class:`~mltrigger.EventBus` has the parts."""

    def retain(self, *, max_age_s: float | None = None, max_events: int | None = None) -> Retention:
        """Limit the age and number of kept events, with their log rows.

        Listeners of all processes prune once a minute. Without arguments everything is kept, the
        default. Open events and dead letters are always kept. A pruned event's id is forgotten: a
        repeat is a new event.
        """
        self._check()
        retention = Retention(max_age_s, max_events)
        self.registry.set_setting("retention", dataclasses.asdict(retention))
        return retention

    def prune(self) -> Pruned:
        """Delete everything beyond :meth:`retain` now. Return the numbers deleted and held."""
        self._check()
        return prune(self._store, self._clock, self.registry.retention())
