"""The verbs of a bus about the truth: label events, and list the labels."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from mltrigger.errors import brief_errors
from mltrigger.reports import labels
from mltrigger.reports.naming import named
from mltrigger.run.keeping import Keeping
from mltrigger.store.ledger import user
from mltrigger.text import Told, count

if TYPE_CHECKING:
    import pandas as pd

    from mltrigger.store.labels import Label


@brief_errors
class Labelling(Keeping):
    """Keeps labels. :class:`~mltrigger.EventBus` has the parts, and the other verbs."""

    def label(
        self,
        event: Any,
        truth: Any,
        *,
        source: str | None = None,
        at: datetime | None = None,
        by: str | None = None,
    ) -> int:
        """Keep the *truth* about an event, whenever it comes. ``sub.accuracy()`` compares with it.

        A later truth replaces an earlier one. An event that does not exist may still come.

        Parameters
        ----------
        event
            Its id, an Event, a Receipt, or a row with ``event_id``.
        truth
            The right answer, in the form of the model's output. It needs a JSON form.
        source : str, optional
            The source of an id that several sources have.
        at : datetime, optional
            Since when it is known. Of several truths the one with the latest time counts. Default:
            now.
        by : str, optional
            Who says so. Default: the user of this process.

        Returns
        -------
        int
            1. A notebook shows it as a sentence.

        Raises
        ------
        AmbiguousEvent
            If events of several sources have the id.
        """
        self._check()
        key = named(event, source)
        if key.source is None and key.seq is not None:
            own = [each.source for each in self.log.find(key.event_id) if each.seq == key.seq]
            key = key._replace(source=next(iter(own), None))
        return self._kept([labels.label(key, truth, at, by or user())])

    def label_batch(self, table: Any, *, by: str | None = None) -> int:
        """Keep many labels. All are checked before the first one is kept.

        Parameters
        ----------
        table : DataFrame, or sequence of mappings
            The columns ``event_id`` and ``truth``, and perhaps ``source``, ``at`` and ``by``.
        by : str, optional
            As for :meth:`label`.

        Returns
        -------
        int
            The number of labels. A notebook shows it as a sentence.
        """
        self._check()
        return self._kept(list(labels.each(table, by or user())))

    def labels(self) -> pd.DataFrame:
        """Return every label as one row, in the order in which they came.

        ``truth`` is JSON. ``known`` says whether the event exists. ``latest`` marks the label of an
        event that counts.
        """
        self._check()
        return labels.frame(self.log.labels)

    def _kept(self, found: list[Label]) -> int:
        sources = self.log.labels.sources(sorted({label.event_id for label in found}))
        self.log.labels.add(labels.completed(found, sources))
        unknown = len({label.event_id for label in found} - sources.keys())
        later = f"; {count(unknown, 'event')} of them not published yet" if unknown else ""
        return Told(len(found), f"{count(len(found), 'label')} kept{later}")
