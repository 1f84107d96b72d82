"""Publisher: the verbs of a bus that publish, and that wait for outcomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.broker import Receipt
from mltrigger.errors import brief_errors
from mltrigger.event.delay import delayed
from mltrigger.event.making import as_event
from mltrigger.reports.naming import find
from mltrigger.reports.waiting import Idle
from mltrigger.run.fired import Run, samples_of, warn_if_nobody_gets
from mltrigger.run.labelling import Labelling

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrigger.delivery.lineage import Lineage
    from mltrigger.reports.outlook import Outlook
    from mltrigger.store.wake import Wakeup

FIRE_TIMEOUT_S = 60.0


@brief_errors
class Publisher(Labelling):
    """Publishes on a bus. :class:`~mltrigger.EventBus` has the parts, and the other verbs."""

    wakeup: Wakeup
    _lineage: Lineage
    _outlook: Outlook
    _sources_settled: Callable[[], bool]

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        delay_s: float | None = None,
        at: datetime | None = None,
        **attributes: Any,
    ) -> Receipt:
        """Publish one event. Return its receipt when it is durable.

        Parameters
        ----------
        topic : str
            An existing topic. A wrong name lists the near ones.
        data
            The data, or a whole :class:`~mltrigger.Event`.
        delay_s, at : float or datetime, optional
            The seconds that it waits, or its time, of any length. It survives a restart.
        **attributes
            ``type``, ``source``, ``subject``, ``id``, ``time``, ``extensions`` of the event.
        """
        self._check()
        if attributes:
            data = dataclasses.replace(as_event(data), **attributes)
        return self._lineage.publish(topic, self._delayed([data], delay_s, at))[0]

    def publish_batch(
        self,
        topic: str,
        samples: Iterable[Any],
        *,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> list[Receipt]:
        """Publish many samples in one commit, all or nothing.

        Each is data or an Event. Each row of a frame is one. *delay_s* and *at* are as for
        :meth:`publish`.
        """
        self._check()
        return self._lineage.publish(topic, self._delayed(samples_of(samples), delay_s, at))

    def _delayed(
        self, samples: Sequence[Any], delay_s: float | None, at: datetime | None
    ) -> Sequence[Any]:
        if delay_s is None and at is None:
            return samples
        now_us = self._clock.now_us()
        return [delayed(as_event(sample), delay_s, at, now_us) for sample in samples]

    def cancel(self, event: Any, *, source: str | None = None) -> list[str]:
        """End an event for all subscriptions that have not begun with it.

        It ends as ``skipped`` there, reason ``cancelled``. Return the names of the subscriptions
        that had begun. Nothing changes for them.

        Parameters
        ----------
        event : str, Event, Receipt, or a row of a frame
            Its id, itself, its receipt, or a row with ``event_id``: a Series, a named tuple of
            ``itertuples`` or a mapping. Only a receipt means the event of one topic.
        source : str, optional
            The source of an id that two sources have.

        Raises
        ------
        NotFound
            When there is no such event. The error lists similar ids.
        AmbiguousEvent
            When several sources have the id. The error lists them.
        """
        self._check()
        found = find(self.log, event, source)
        return sorted({name for each in found for name in self.broker.cancel(each.seq)})

    def fire(
        self,
        topic: str,
        samples: Any,
        *,
        timeout_s: float = FIRE_TIMEOUT_S,
        progress: bool = True,
        delay_s: float | None = None,
        at: datetime | None = None,
    ) -> Run:
        """Publish *samples* and wait until every subscription of *topic* has ended them.

        Listeners of all processes count. The bar shows failures and attempts. A subscription
        without a listener gives a warning at once. It returns early if no outcome can come: no
        listener can start, a pause, a model that cannot be loaded.

        Parameters
        ----------
        samples
            An iterable of data or Events, a DataFrame (each row is an object), or one mapping,
            text, row of a frame or Event.
        timeout_s : float
            Seconds to wait. After that the run is returned as it is, with a warning.
        progress : bool
            Whether to show a progress bar.
        """
        self._check()
        receipts = self._lineage.publish(
            topic, self._delayed(samples_of(samples), delay_s, at), awaited=True
        )
        run = self.run_of(topic, receipts)
        if len(run):
            warn_if_nobody_gets(self.registry, run)
        return run.wait_for_what_can_come(timeout_s, progress)

    def run_of(self, topic: str, receipts: Sequence[Receipt]) -> Run:
        """Return the run of events that were published before."""
        return Run(topic, list(receipts), self.log, self.wakeup, self.registry, self._outlook)

    def wait(self, timeout_s: float = FIRE_TIMEOUT_S, *, progress: bool = True) -> bool:
        """Wait until nothing is left to do: all sources read, all events and their effects ended.

        Return whether it was reached within *timeout_s* seconds. It gives up early, with a warning,
        if no open event can end.
        """
        self._check()
        self._lineage.check_wait()
        idle = Idle(self.log, self.broker, self.registry, self._outlook, self._sources_settled)
        return idle.wait(self.wakeup, timeout_s, progress)
