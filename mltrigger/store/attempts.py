"""The columns of an attempt, and the tables that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.store.archive import SOURCE, TYPE
from mltrigger.store.outcomes import ANSWERING, NO_EVENTS
from mltrigger.store.tables import ATTEMPT, FINAL_CODES
from mltrigger.store.transaction import Reader, Row

VISIBLE = "coalesce(i.visible_us, e.by_rows_us, e.published_us)"
"""Since when a delivery was to be had."""
COLUMNS = {
    "event_id": "event_id(e.id)",
    "source": SOURCE,
    "type": TYPE,
    "topic": "t.name",
    "subscription": "coalesce((SELECT name FROM subscription WHERE id = s.parent_id), s.name)",
    "model": "m.name",
    "version": "m.version",
    "role": "i.role",
    "attempt": "i.attempt",
    "outcome": "i.outcome",
    "reason": "i.reason",
    "published_at": "e.published_us",
    "received_at": "i.received_us",
    "started_at": "i.started_us",
    "finished_at": "i.finished_us",
    "settled_at": "i.settled_us",
    "queue_ms": f"(i.started_us - {VISIBLE}) / 1000.0",
    "model_ms": "(i.finished_us - i.started_us) / 1000.0",
    "total_ms": "(i.finished_us - e.published_us) / 1000.0",
    "batch_size": "i.batch_size",
    "worker": "'worker-' || i.worker_id",
    "trace_id": "trace_id(e.traceparent, e.id)",
    "output": "i.output",
    "error_type": "i.error_type",
    "error": "i.error",
    "stdout": "i.stdout",
    "measures": "i.measures",
    # not columns of the frame
    "subject": "e.subject",
    "seq": "i.seq",
    "row": "i.id",
    "traceback": "i.traceback",
}

# CROSS JOIN says which table is read first. Attempts are found by their events, or by their lots.
_OUTCOME = "o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high"
_DETAIL = """
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
"""
BY_EVENTS = f"({ATTEMPT} FROM outcome o CROSS JOIN lot l ON l.id = o.lot_id {_DETAIL})"
"""Attempts for a look at some events of some subscriptions."""
BY_LOTS = f"""
({ATTEMPT}, l.id AS lot_id, l.n, o.place, o.outcome AS code
FROM lot l CROSS JOIN outcome o ON {_OUTCOME} AND o.lot_id = l.id {_DETAIL})
"""
"""Attempts in the order of their recording."""
BY_EXCEPTIONS = f"""
({ATTEMPT}, o.lot_id, l.n, o.place, o.outcome AS code
FROM outcome o INDEXED BY outcome_exception CROSS JOIN lot l ON l.id = o.lot_id {_DETAIL}
WHERE o.outcome <> 0)
"""
"""Attempts that did not go well, in the order of their recording."""
# A running attempt is its lease. It has the columns of an invocation, as far as they exist yet.
RUNNING = """
(SELECT -1 AS id, seq, subscription_id, attempt, CAST(NULL AS BIGINT) AS model_version_id,
  (SELECT role FROM subscription WHERE id = subscription_id) AS role, 'running' AS outcome,
  NULL AS reason, visible_us, received_us, CAST(NULL AS BIGINT) AS started_us,
  CAST(NULL AS BIGINT) AS finished_us, CAST(NULL AS BIGINT) AS settled_us,
  CAST(NULL AS BIGINT) AS batch_size, worker_id, NULL AS output, NULL AS error_type,
  NULL AS error, NULL AS traceback, NULL AS stdout, NULL AS measures FROM leased)
"""
FROM = """
FROM {attempts} i
JOIN event e ON e.seq = i.seq
JOIN topic t ON t.id = e.topic_id
JOIN subscription s ON s.id = i.subscription_id
LEFT JOIN model_version m ON m.id = i.model_version_id
"""
INVOKED = f"(i.outcome <> 'skipped' OR i.reason IS NULL OR i.reason NOT IN {NO_EVENTS!r})"
FINAL = f"i.code IN {FINAL_CODES}"
AFTER = """
i.lot_id >= coalesce((SELECT max(id) FROM lot WHERE id <= :row), 0) AND i.id > :row
"""
"""The attempts of :data:`BY_LOTS` after a row."""
NEWEST = """
SELECT coalesce(max(id + n), 1) - 1 FROM (SELECT id, n FROM lot ORDER BY id DESC LIMIT 1) AS last
"""
"""The row of the newest attempt, 0 if there is none."""

_EARLIER_US = 5_000_000
"""The time of a record may differ so much from those of its neighbours."""
_LOT_FROM = "SELECT id, settled_us FROM lot WHERE id >= :id ORDER BY id LIMIT 1"


def whose(
    reader: Reader, subscription_id: int | None, roles: Sequence[str], table: str = ""
) -> list[str]:
    """Return the conditions for the attempts of a subscription, or of all, with these *roles*.

    Those of its lanes are among them. The parameter ``s`` is the subscription. *table* comes before
    the names of columns.
    """
    found = []
    among = ", ".join(map(repr, roles))
    if subscription_id is not None:
        lanes = reader.query(
            f"SELECT id FROM subscription WHERE parent_id = :s AND role IN ({among})",
            {"s": subscription_id},
        )
        # A parameter: one text for all subscriptions is prepared once.
        others = "".join(f", {int(number)}" for (number,) in lanes)
        found.append(f"{table}subscription_id IN (:s{others})")
    if subscription_id is None or not {*ANSWERING} <= {*roles}:
        found.append(f"{table}role IN ({among})")
    return found


def settled_since(reader: Reader, since_us: int) -> int:
    """Return the lot from which on all attempts are that were settled since *since_us*."""
    ((newest,),) = reader.query("SELECT coalesce(max(id), 0) FROM lot", {})
    low, high, since_us = 0, int(newest) + 1, since_us - _EARLIER_US
    while high - low > 1:  # all up to low are older
        middle = (low + high) // 2
        found = reader.query(_LOT_FROM, {"id": middle})
        low, high = (middle, high) if found and found[0][1] < since_us else (low, middle)
    return high


def running_of(
    reader: Reader, select: str, where: Sequence[str], parameters: Mapping[str, Any]
) -> list[Row]:
    """Return the attempts that are under way."""
    sql = f"{select} {FROM.format(attempts=RUNNING)} {where_of(where)}"
    return reader.query(f"{sql} ORDER BY i.received_us, i.seq, i.subscription_id", parameters)


def given(parameters: Mapping[str, Any], conditions: Mapping[str, str]) -> list[str]:
    """Return the conditions whose parameter is given."""
    return [text for name, text in conditions.items() if parameters[name] is not None]


def where_of(conditions: Sequence[str]) -> str:
    """Return the WHERE clause for *conditions*, empty for none."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
