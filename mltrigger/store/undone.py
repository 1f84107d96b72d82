"""Claims that a crash of the database has undone, while their worker lives on.

Such an attempt has the number that the next one gets. Its answer counts if it ends the event.
Otherwise nothing is left of it: the event comes again.
"""

from __future__ import annotations

from mltrigger.broker import Delivery
from mltrigger.store.transaction import Transaction

_PLACES = ("ready", "awaited", "keyed")
_PLACE = """
SELECT 1 FROM {place} WHERE subscription_id = :s AND seq = :seq AND attempt < :attempt
"""
_UNDONE = f"""
SELECT 1 FROM lease WHERE subscription_id = :s AND low <= :seq AND high >= :seq
  AND attempt <= :attempt AND number <> :number
UNION ALL {" UNION ALL ".join(_PLACE.format(place=place) for place in _PLACES)}
UNION ALL SELECT 1 FROM cursor c JOIN subscription s ON s.id = c.subscription_id
  JOIN event e ON e.topic_id = s.topic_id
  WHERE c.subscription_id = :s AND e.seq = :seq AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
    AND e.seq <= coalesce(c.last_seq, e.seq)
LIMIT 1
"""


def is_undone(transaction: Transaction, delivery: Delivery) -> bool:
    """Whether the event of *delivery*, whose lease is lost, waits as if it had not been claimed."""
    of = {
        "s": delivery.subscription_id,
        "seq": delivery.seq,
        "attempt": delivery.attempt,
        "number": delivery.lease,
    }
    return bool(transaction.query(_UNDONE, of))
