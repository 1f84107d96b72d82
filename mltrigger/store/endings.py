"""Endings: the final outcomes of one subscription, in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Sequence

from mltrigger.broker import Ending, Endings, Mark
from mltrigger.store.outcomes import FINAL, NO_EVENTS
from mltrigger.store.transaction import Reader, Row, Store

_SPAN = 50_000
"""The attempts of all subscriptions that one look goes through."""
_EARLIER_US = 5_000_000
"""The time of a record may differ so much from those of its neighbours."""
_MARK = "SELECT id, seq, subscription_id, attempt, outcome, settled_us FROM invocation"
_NEWEST = f"{_MARK} ORDER BY id DESC LIMIT 1"
_END = """
SELECT max(id) FROM (
  SELECT id FROM invocation WHERE id > :after AND id <= :until ORDER BY id LIMIT :span
) AS next
"""
_ANSWERS = f"""
FROM invocation i
JOIN subscription s ON s.id = i.subscription_id
JOIN event e ON e.seq = i.seq
WHERE i.id > :after AND i.id <= :until AND s.name = :name AND i.outcome IN {FINAL!r}
  AND i.role NOT IN ('shadow', 'replay')
  AND (i.outcome <> 'skipped' OR i.reason IS NULL OR i.reason NOT IN {NO_EVENTS!r})
"""
_READ = f"""
SELECT i.id, i.seq, e.id, e.source, e.type, e.time, e.subject,
  (SELECT name FROM topic WHERE id = e.topic_id), e.traceparent, e.extensions,
  (SELECT name FROM model_version WHERE id = i.model_version_id),
  (SELECT version FROM model_version WHERE id = i.model_version_id),
  i.outcome, i.reason, i.attempt, e.published_us, i.received_us, i.started_us, i.finished_us,
  i.settled_us, i.output, i.error_type, i.error
{_ANSWERS} ORDER BY i.id LIMIT :most
"""


class StoredEndings:
    """The endings of all subscriptions of one store.

    Attempts get rising numbers, and one transaction writes at a time. So no ending appears behind
    one that was read, but for the case that :meth:`_after` is about.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def newest(self) -> Mark:
        """Return the place of the newest attempt, the beginning if there is none."""
        return _one(self._store.read(_NEWEST))

    def read(self, subscription: str, after: Mark, most: int, until: int | None = None) -> Endings:
        """Return the next endings of *subscription* after *after*, at most *most*.

        Those after number *until* are left out.
        """
        with self._store.snapshot() as reader:
            newest = _one(reader.query(_NEWEST, {})).number
            last = newest if until is None else min(newest, until)
            begin = _after(reader, after, newest)
            span = {"after": begin, "until": last, "span": _SPAN}
            ((end,),) = reader.query(_END, span)
            end = begin if end is None else end
            rows = reader.query(
                _READ, {"name": subscription, "after": begin, "until": end, "most": most}
            )
            found = list(map(Ending._make, rows))
            end = found[-1].number if len(found) == most else end
            marks = reader.query(f"{_MARK} WHERE id = :end", {"end": end})
        read_to = _one(marks) if marks else after._replace(number=end)
        return Endings(found, read_to, more=end < last and bool(found or end > begin))

    def count(self, subscription: str, after: Mark, until: int | None = None) -> int:
        """Return how many endings of *subscription* come after *after*, up to *until*."""
        with self._store.snapshot() as reader:
            newest = _one(reader.query(_NEWEST, {})).number
            span = {
                "name": subscription,
                "after": _after(reader, after, newest),
                "until": newest if until is None else min(newest, until),
            }
            ((n,),) = reader.query(f"SELECT count(*) {_ANSWERS}", span)
        return int(n)


def _after(reader: Reader, mark: Mark, newest: int) -> int:
    """Return the number after which the unread endings are.

    The attempt of *mark* may be gone: it was pruned, or it was abandoned and got its answer late.
    Then its number may be given again. So the search begins a little before its time.
    """
    found = reader.query(f"{_MARK} WHERE id = :number", {"number": mark.number})
    now = _one(found)
    if mark.number == 0 or (
        now[:4] == mark[:4] and (now.outcome == mark.outcome or mark.outcome != "abandoned")
    ):
        return mark.number
    low, high, since_us = 0, newest + 1, mark.settled_us - _EARLIER_US
    while high - low > 1:  # all up to low are older
        middle = (low + high) // 2
        rows = reader.query(f"{_MARK} WHERE id >= :id ORDER BY id LIMIT 1", {"id": middle})
        if rows and _one(rows).settled_us < since_us:
            low = middle
        else:
            high = middle
    return low


def _one(rows: Sequence[Row]) -> Mark:
    return Mark(*rows[0]) if rows else Mark()
