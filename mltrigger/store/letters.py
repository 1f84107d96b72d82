"""Letters: the open dead letters of a subscription that match, step by step in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mltrigger.store import event_keys
from mltrigger.store.matched import Counted
from mltrigger.store.matching import Matching, is_in, parameters
from mltrigger.store.transaction import Reader, Row

FIRST_SEQ = -(2**63)
"""Before the first event."""
_AT_ONCE = 20_000
"""The letters of one statement that counts."""
_SHOWN = "d.error_type, d.error, e.subject, event_id(e.id)"
_STEP = """
SELECT d.seq AS seq, CASE WHEN {fits} THEN 1 ELSE 0 END AS fits{shown}
FROM (
  SELECT seq, attempt, reason, error_type, error, dead_us FROM dead_letter
  WHERE subscription_id = :s AND seq > :after AND discarded_us IS NULL ORDER BY seq LIMIT :limit
) AS d
LEFT JOIN event e ON e.seq = d.seq
LEFT JOIN outcome o ON o.subscription_id = :s AND o.seq = d.seq AND o.attempt = d.attempt
LEFT JOIN lot l ON l.id = o.lot_id
LEFT JOIN model_version m ON m.id = l.model_version_id
"""
_COUNT = "SELECT count(*), coalesce(max(seq), 0), coalesce(sum(fits), 0) FROM ({step}) AS step"


class Found(NamedTuple):
    """The events of some letters. ``after`` is the place to go on from, None at the end."""

    seqs: list[int]
    after: int | None


class Letters:
    """The dead letters that match, as of one moment.

    Parameters
    ----------
    reader : Reader
        A look at that moment.
    subscription_id : int
        Whose letters.
    wanted : Matching
        The version, reason, key, time of death and text that are asked for.
    up_to : int
        The newest record to look at. A letter that came later is left out.
    """

    def __init__(self, reader: Reader, subscription_id: int, wanted: Matching, up_to: int) -> None:
        self._reader, self._wanted, self._s = reader, wanted, subscription_id
        self._of: dict[str, Any] = {"s": subscription_id, "up_to": up_to}
        self._fits = " AND ".join(self._conditions())
        self._is_looked_at = wanted.text is not None or wanted.keys is not None

    def step(self, after: int, size: int) -> Found:
        """Return the letters that match among the next *size*."""
        sql = _STEP.format(fits=self._fits, shown=f", {_SHOWN}" if self._is_looked_at else "")
        rows = self._reader.query(
            f"{sql} ORDER BY d.seq", {**self._of, "after": after, "limit": size}
        )
        fitting = [row for row in rows if row[1]]
        seqs = self._looked_at(fitting) if self._is_looked_at else [row[0] for row in fitting]
        return Found(seqs, rows[-1][0] if len(rows) == size else None)

    def count(self, is_over: Callable[[], bool]) -> Counted:
        """Return how many there are, or how many were found before the time was over."""
        n, after = 0, FIRST_SEQ
        while not is_over():
            if self._is_looked_at:
                found = self.step(after, _AT_ONCE // 10)
                n += len(found.seqs)
                is_last, after = found.after is None, found.after or 0
            else:
                looked, after, more = self._counted(after)
                n, is_last = n + more, looked < _AT_ONCE
            if is_last:
                return Counted(n, True)
        return Counted(n, False)

    def _counted(self, after: int) -> tuple[int, int, int]:
        step = _STEP.format(fits=self._fits, shown="")
        of = {**self._of, "after": after, "limit": _AT_ONCE}
        ((looked, last, n),) = self._reader.query(_COUNT.format(step=step), of)
        return int(looked), int(last), int(n)

    def _conditions(self) -> list[str]:
        wanted = self._wanted
        found = ["e.seq IS NOT NULL", "coalesce(o.lot_id + o.place, 0) <= :up_to"]
        if wanted.versions is not None:
            found.append(f"m.version IN ({self._given('version', wanted.versions)})")
        if wanted.reasons is not None:
            found.append(f"d.reason IN ({self._given('reason', wanted.reasons)})")
        if wanted.since_us is not None:
            found.append("d.dead_us >= :since_us")
            self._of["since_us"] = wanted.since_us
        if wanted.until_us is not None:
            found.append("d.dead_us < :until_us")
            self._of["until_us"] = wanted.until_us
        return found

    def _given(self, name: str, values: Any) -> str:
        named = dict(zip(parameters(name), values, strict=False))
        self._of |= named
        return ", ".join(f":{each}" for each in named) or "NULL"

    def _looked_at(self, rows: list[Row]) -> list[int]:
        """Return those that match also in that which SQL cannot compare."""
        text, keys = self._wanted.text, self._wanted.keys
        if text is not None:
            rows = [row for row in rows if is_in(text, (_said(row[2], row[3]), *row[4:6]))]
        seqs = [int(row[0]) for row in rows]
        if keys is None or not seqs:
            return seqs
        found = event_keys.read(self._reader, ((self._s, seq) for seq in seqs))
        return [seq for seq in seqs if found.get((self._s, seq)) in keys]


def _said(error_type: str | None, error: str | None) -> str | None:
    return f"{error_type}: {error or ''}" if error_type else error
