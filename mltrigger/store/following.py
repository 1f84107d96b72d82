"""Following the log: pages of outcomes, and the state of one event. For readers outside."""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.store.attempts import COLUMNS, FROM, INVOKED
from mltrigger.store.outcomes import FINAL
from mltrigger.store.transaction import Row, Store

_ENDED_AFTER = f"""
SELECT i.id, coalesce(length(i.output), 0) + coalesce(length(i.error), 0) FROM invocation i
WHERE i.id > :row AND i.id <= :newest AND i.subscription_id = :s AND i.outcome IN {FINAL!r}
  AND {INVOKED}
ORDER BY i.id LIMIT :limit
"""
_ENDED_SINCE = f"""
SELECT DISTINCT subscription_id FROM invocation
WHERE id > :row AND id <= :newest AND outcome IN {FINAL!r}
"""
_OPEN_FOR = """
SELECT s.name, o.state FROM subscription s JOIN (
  SELECT subscription_id, 'waiting' AS state FROM waiting WHERE seq = :seq
  UNION ALL SELECT subscription_id, 'running' FROM lease WHERE seq = :seq
) AS o ON o.subscription_id = s.id ORDER BY s.name
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
        newest = self._newest()
        of = {"row": after_row, "newest": newest, "s": subscription_id, "limit": limit}
        ids: list[int] = []
        for number, size in self._store.read(_ENDED_AFTER, of):
            most -= size
            if ids and most < 0:
                break
            ids.append(number)
        whole = len(ids) < limit and most >= 0
        last = max(newest, after_row) if whole else ids[-1]
        select = ", ".join(COLUMNS[c] for c in columns)
        among = ", ".join(map(str, ids))
        rows = self._store.read(
            f"SELECT {select} {FROM.format(attempts='invocation')} WHERE i.id IN ({among})"
            " ORDER BY i.id"
        )
        return rows, last

    def ended_since(self, row: int) -> tuple[set[int], int]:
        """Return the subscriptions with final outcomes after *row*, and the newest number."""
        newest = self._newest()
        rows = self._store.read(_ENDED_SINCE, {"row": row, "newest": newest})
        return {number for (number,) in rows}, newest

    def _newest(self) -> int:
        ((newest,),) = self._store.read("SELECT coalesce(max(id), 0) FROM invocation")
        return int(newest)

    def open_for(self, seq: int) -> dict[str, str]:
        """Return subscription -> ``waiting`` or ``running``, for an event that is open there."""
        return dict(self._store.read(_OPEN_FOR, {"seq": seq}))
