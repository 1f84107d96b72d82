"""Following the log: pages of outcomes, and the state of one event. For readers outside."""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.store.attempts import AFTER, BY_LOTS, COLUMNS, FINAL, FROM, INVOKED, NEWEST
from mltrigger.store.tables import FINAL_CODES
from mltrigger.store.transaction import Row, Store

_ENDED_AFTER = f"""
{FROM.format(attempts=BY_LOTS)}
WHERE i.subscription_id = :s AND {AFTER} AND {FINAL} AND {INVOKED}
ORDER BY i.lot_id, i.place LIMIT :limit
"""
_SIZES = f"""
SELECT i.id, coalesce(length(i.output), 0) + coalesce(length(i.error), 0) {_ENDED_AFTER}
"""
_ENDED_SINCE = f"""
SELECT DISTINCT l.subscription_id FROM lot l
WHERE l.id >= coalesce((SELECT max(id) FROM lot WHERE id <= :row), 0) AND EXISTS (
  SELECT 1 FROM outcome o WHERE o.subscription_id = l.subscription_id
    AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id AND l.id + o.place > :row
    AND o.outcome IN {FINAL_CODES})
"""
_OPEN_FOR = """
SELECT s.name, o.state FROM subscription s JOIN (
  SELECT subscription_id, 'waiting' AS state FROM waiting WHERE seq = :seq
  UNION ALL SELECT subscription_id, 'running' FROM leased WHERE seq = :seq
) AS o ON o.subscription_id = s.id WHERE s.parent_id IS NULL ORDER BY s.name
"""


class Following:
    """Reads outcomes in the order of their recording.

    Parameters
    ----------
    store : Store
        The database of the log.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def ended_after(
        self, columns: Sequence[str], subscription_id: int, after_row: int, limit: int, most: int
    ) -> tuple[list[Row], int]:
        """Return the next final outcomes of a subscription, in the order of their recording.

        One row of *columns* each, with at most *most* characters of output in all, but at least
        one. And the number to go on from: nothing is left before it.
        """
        select = ", ".join(COLUMNS[c] for c in columns)
        of = {"row": after_row, "s": subscription_id, "limit": limit}
        with self._store.snapshot() as reader:
            ((newest,),) = reader.query(NEWEST, {})
            rows: list[int] = []
            for row, size in reader.query(_SIZES, of):
                most -= size
                if rows and most < 0:
                    break
                rows.append(row)
            whole = len(rows) < limit and most >= 0
            last = max(newest, after_row) if whole else rows[-1]
            found = reader.query(f"SELECT {select} {_ENDED_AFTER}", {**of, "limit": len(rows)})
        if found:  # somebody outside will act upon them
            self._store.make_durable()
        return found, last

    def ended_since(self, row: int) -> tuple[set[int], int]:
        """Return the subscriptions with final outcomes after *row*, and the newest row."""
        with self._store.snapshot() as reader:
            ((newest,),) = reader.query(NEWEST, {})
            rows = reader.query(_ENDED_SINCE, {"row": row})
        return {number for (number,) in rows}, newest

    def open_for(self, seq: int) -> dict[str, str]:
        """Return subscription -> ``waiting`` or ``running``, for an event that is open there."""
        found: dict[str, str] = dict(self._store.read(_OPEN_FOR, {"seq": seq}))
        self._store.make_durable()
        return found
