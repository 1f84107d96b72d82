"""History: the ledger of one subscription, as values and as a frame."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, overload

from mltrigger.rollout.columns import HISTORY
from mltrigger.store import corrections
from mltrigger.store.ledger import Binding
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader
from mltrigger.text import card, short, table_html

if TYPE_CHECKING:
    import pandas as pd

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ANSWERED = f"""
SELECT l.binding, l.role = 'canary', count(*) FROM lot l CROSS JOIN outcome o
  ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
WHERE l.subscription_id = :s AND o.outcome IN ({CODES["succeeded"]}, {CODES["dead"]})
  AND l.role IN ('live', 'canary') AND l.model_version_id IS NOT NULL
GROUP BY l.binding, l.role = 'canary'
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """One binding of a subscription, as its history shows it.

    Attributes
    ----------
    number : int
        Its place in the ledger, from 0.
    kind : str
        ``bind`` by ``subscribe``, ``promote``, ``canary``, ``step``, or ``rollback``.
    version : str
        The version that answers, such as ``ocr:1.0.0``. A selector if it is not exact.
    canary : str or None
        The version that answers the ``share`` of the events.
    from_event : int
        The number of the first event that it holds for.
    at : datetime
        When it was made, by ``by``, and ``why``.
    verdict : str or None
        The word of the verdict that it was made on.
    answered, by_canary : int
        How many events it answered in all, and the part of the canary.
    corrected : int
        How many of these answers were replaced, see ``sub.correct``.
    """

    number: int
    kind: str
    version: str
    canary: str | None
    share: float
    from_event: int
    at: datetime
    by: str
    why: str | None
    verdict: str | None
    answered: int
    by_canary: int
    corrected: int = 0
    subscription: str = ""

    def __str__(self) -> str:
        canary = f", {self.share:.3g} of them by {self.canary}" if self.canary else ""
        why = f": {short(self.why, 200)}" if self.why else ""
        corrected = f", {self.corrected} of them corrected" if self.corrected else ""
        return (
            f"{self.number} {self.kind} {self.version}{canary}, from event {self.from_event} on,"
            f" {self.answered} answered{corrected}{why}"
        )

    def _repr_html_(self) -> str:
        facts = [(n, v) for n in HISTORY if (v := getattr(self, n)) not in (None, "")]
        return card(f"Binding {self.number} of {self.subscription}", facts)


class History(Sequence[Bound]):
    """The bindings of one subscription, oldest first."""

    def __init__(self, subscription: str, bound: Sequence[Bound]) -> None:
        self._subscription, self._bound = subscription, tuple(bound)

    def __len__(self) -> int:
        return len(self._bound)

    @overload
    def __getitem__(self, place: int) -> Bound: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Bound]: ...

    def __getitem__(self, place: int | slice) -> Bound | Sequence[Bound]:
        return self._bound[place]

    def __iter__(self) -> Iterator[Bound]:
        return iter(self._bound)

    def __repr__(self) -> str:
        return "\n".join([f"History of {self._subscription}:", *(f"  {b}" for b in self._bound)])

    def _repr_html_(self) -> str:
        rows = [[getattr(b, column) for column in HISTORY] for b in self._bound]
        shown = [["" if v is None else short(v, 200) for v in row] for row in rows]
        return table_html(list(HISTORY), shown, f"History of {self._subscription}")

    def frame(self) -> pd.DataFrame:
        """Return one row a binding, always with the same columns and dtypes."""
        from mltrigger.reports import frames

        rows = [[getattr(b, column) for column in HISTORY] for b in self._bound]
        at = list(HISTORY).index("at")
        for row in rows:
            row[at] = (row[at] - _EPOCH) // timedelta(microseconds=1)
        return frames.carded(frames.sentences(rows, HISTORY), "history")


def read(reader: Reader, name: str, subscription_id: int, rows: Sequence[Binding]) -> History:
    """Return the history of a subscription."""
    counts: dict[tuple[int, bool], int] = {
        (number, bool(by_canary)): n
        for number, by_canary, n in reader.query(_ANSWERED, {"s": subscription_id})
    }
    replaced = corrections.corrected(reader, subscription_id)
    return History(name, [_bound(name, row, counts, replaced.get(row.number, 0)) for row in rows])


def _bound(name: str, row: Binding, counts: dict[tuple[int, bool], int], corrected: int) -> Bound:
    by_canary = counts.get((row.number, True), 0)
    return Bound(
        row.number,
        row.kind,
        row.answers,
        row.canary,
        row.share,
        row.from_seq,
        _EPOCH + timedelta(microseconds=row.made_us),
        row.made_by,
        row.why,
        _word(row.verdict),
        counts.get((row.number, False), 0) + by_canary,
        by_canary,
        corrected,
        name,
    )


def _word(verdict: str | None) -> str | None:
    said: Any = json.loads(verdict) if verdict else None
    return str(said.get("word")) if isinstance(said, dict) else None
