"""The columns of very many attempts, made of their parts when they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrigger.store.bulk import IN_DETAIL, KINDS, Bulk, joined
from mltrigger.store.outcomes import NO_EVENTS, OUTCOMES, ROLES
from mltrigger.store.tables import CODES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mltrigger.store.bulk import Numbers

NONE = -(2**63)
"""Stands for a missing number. Numpy takes it for a missing time."""

_PACKED = ("event_id", "trace_id", "subject", "output")


class Coded(NamedTuple):
    """A column of few different values: their places in a list. The last place is for none."""

    codes: Numbers
    values: Sequence[str | None]


class Packed(NamedTuple):
    """A column of texts, in parts, and the texts in place of some of them, by their places."""

    parts: Sequence[Any]
    others: Mapping[int, str]


class Columns:
    """The columns of the attempts of *bulk*, in the order of their events.

    Attributes
    ----------
    n : int
        The number of attempts.
    order : numpy.ndarray
        The places of those that were asked for, in the order of their recording.
    """

    def __init__(self, bulk: Bulk) -> None:
        import numpy as np

        self._bulk, self._lots = bulk, bulk.lots
        numbers = joined(("row", "kind"), [part.numbers for part in bulk.parts])
        self._rows, self._kinds = numbers["row"], numbers["kind"]
        self.n = len(self._rows)
        self._lot = np.searchsorted(self._lots["id"], self._rows, "right") - 1
        self._details = [row for part in bulk.parts for row in part.details]
        self._places = self._places_of_details()
        self._reasons = self._detail("reason") | self._shared_reasons()
        self.order = self._asked()

    def column(self, name: str) -> Any:
        """Return a column of an invocation frame.

        It is an array of numbers, or Coded, or Packed, or a mapping of places to texts if few
        attempts have one.
        """
        if name in _PACKED:
            return self._packed(name)
        if name in ("error_type", "error", "stdout", "measures"):
            return self._detail(name)
        return self._makers[name]()

    @functools.cached_property
    def _makers(self) -> dict[str, Callable[[], Any]]:
        largest = self._bulk.largest
        return {
            "source": lambda: self._coded(self._names // largest % largest, "name"),
            "type": lambda: self._coded(self._names % largest, "name"),
            "topic": lambda: self._coded(self._names // largest**2, "topic"),
            "subscription": lambda: self._coded(self._of_lot("subscription"), "subscription"),
            "model": lambda: self._coded(self._of_lot("model"), "model"),
            "version": lambda: self._coded(self._of_lot("model"), "version"),
            "role": lambda: Coded(self._of_lot("role"), ROLES),
            "attempt": lambda: self._kinds // KINDS,
            "outcome": lambda: Coded(self._kinds % KINDS, OUTCOMES),
            "reason": lambda: self._reasons,
            "published_at": lambda: self._published,
            "received_at": lambda: self._of_lot("received"),
            "started_at": lambda: self._started,
            "finished_at": lambda: self._finished,
            "settled_at": lambda: self._of_lot("settled"),
            "queue_ms": lambda: _ms(self._visible(), self._started),
            "model_ms": lambda: _ms(self._started, self._finished),
            "total_ms": lambda: _ms(self._published, self._finished),
            "batch_size": lambda: _or_none(self._of_lot("size")),
            "worker": self._worker,
        }

    # -- which ones --------------------------------------------------------------------------------

    def _asked(self) -> Numbers:
        import numpy as np

        rows = self._rows
        # The lot of an attempt may not be here. Then its row is beyond the end of an earlier one.
        asked = (self._lot >= 0) & (rows < self._of_lot("id") + self._of_lot("n"))
        for place in np.flatnonzero(self._kinds % KINDS == CODES["skipped"]).tolist():
            asked[place] &= self._reasons.get(place) not in NO_EVENTS
        order = np.flatnonzero(asked)
        if (np.diff(rows[order]) > 0).all():
            return order
        return order[np.argsort(rows[order], kind="stable")]

    def _places_of_details(self) -> list[int]:
        import numpy as np

        if not self._details:
            return []
        by_row = np.argsort(self._rows, kind="stable")
        rows = [row for row, *_ in self._details]
        places = by_row[np.searchsorted(self._rows, rows, sorter=by_row)]
        return [int(place) for place in places]

    def _detail(self, name: str) -> dict[int, Any]:
        """Return place -> value for the attempts that have a detail."""
        column = ("row", "visible_us", *IN_DETAIL).index(name)
        return {
            place: row[column]
            for place, row in zip(self._places, self._details, strict=True)
            if row[column] is not None
        }

    def _shared_reasons(self) -> dict[int, str]:
        """Return the reasons that attempts have from their lots."""
        import numpy as np

        by_lot, own = self._bulk.reasons, self._detail("reason")
        if not by_lot:
            return {}
        lots = self._of_lot("id")
        places = np.flatnonzero(np.isin(lots, list(by_lot)))
        found = zip(places.tolist(), lots[places].tolist(), strict=True)
        return {place: by_lot[lot] for place, lot in found if place not in own}

    def _of_lot(self, name: str) -> Numbers:
        return self._lots[name][self._lot]

    # -- columns -----------------------------------------------------------------------------------

    def _numbers(self, name: str) -> Numbers:
        return joined([name], [part.numbers for part in self._bulk.parts])[name]

    @functools.cached_property
    def _published(self) -> Numbers:
        return self._numbers("published")

    def _visible(self) -> Numbers:
        visible = self._numbers("due")
        for place, us in self._detail("visible_us").items():
            visible[place] = us
        return visible

    @functools.cached_property
    def _started(self) -> Numbers:
        """When each attempt began: with its lot, or some time after it."""
        import numpy as np

        began = self._of_lot("started")
        return np.where(began < 0, NONE, began + self._numbers("began"))

    @functools.cached_property
    def _finished(self) -> Numbers:
        import numpy as np

        took, started = self._numbers("took"), self._started
        own = np.where(started == NONE, NONE, started + took)
        return np.where(took < 0, _or_none(self._of_lot("finished")), own)

    @functools.cached_property
    def _names(self) -> Numbers:
        return self._numbers("names")

    def _coded(self, codes: Numbers, table: str) -> Coded:
        names = self._bulk.names[table]
        return Coded(codes, [names.get(n) for n in range(max(names, default=0) + 2)])

    def _worker(self) -> Coded:
        import numpy as np

        workers, codes = np.unique(self._lots["worker"], return_inverse=True)
        return Coded(codes[self._lot], [f"worker-{worker}" for worker in workers])

    def _packed(self, name: str) -> Packed:
        parts = [part.texts[name] for part in self._bulk.parts]
        return Packed(parts, self._detail(name) if name in IN_DETAIL else {})


def _ms(begin: Numbers, end: Numbers) -> NDArray[np.float64]:
    import numpy as np

    found = (end - begin) / 1000.0
    found[(end == NONE) | (begin == NONE)] = np.nan
    return found


def _or_none(numbers: Numbers) -> Numbers:
    import numpy as np

    return np.where(numbers < 0, NONE, numbers)
