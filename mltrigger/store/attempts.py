"""The columns of an attempt, and the tables that they come from."""

from __future__ import annotations

from mltrigger.store.outcomes import NO_EVENTS

COLUMNS = {
    "event_id": "e.id",
    "source": "e.source",
    "type": "e.type",
    "topic": "t.name",
    "subscription": "s.name",
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
    "queue_ms": "(i.started_us - i.visible_us) / 1000.0",
    "model_ms": "(i.finished_us - i.started_us) / 1000.0",
    "total_ms": "(i.finished_us - e.published_us) / 1000.0",
    "batch_size": "i.batch_size",
    "worker": "i.worker_id",
    "trace_id": "substr(e.traceparent, 4, 32)",
    "output": "i.output",
    "error_type": "i.error_type",
    "error": "i.error",
    "stdout": "i.stdout",
    # not columns of the frame
    "subject": "e.subject",
    "seq": "i.seq",
    "row": "i.id",
}

# A running attempt is its lease. It has the columns of an invocation, as far as they exist yet.
RUNNING = """
(SELECT -1 AS id, seq, subscription_id, attempt, NULL AS model_version_id,
  (SELECT role FROM subscription WHERE id = subscription_id) AS role, 'running' AS outcome,
  NULL AS reason, visible_us, received_us, NULL AS started_us, NULL AS finished_us,
  NULL AS settled_us, NULL AS batch_size, worker_id, NULL AS output, NULL AS error_type,
  NULL AS error, NULL AS stdout FROM lease)
"""
FROM = """
FROM {attempts} i
JOIN event e ON e.seq = i.seq
JOIN topic t ON t.id = e.topic_id
JOIN subscription s ON s.id = i.subscription_id
LEFT JOIN model_version m ON m.id = i.model_version_id
"""
INVOKED = f"(i.outcome <> 'skipped' OR i.reason IS NULL OR i.reason NOT IN {NO_EVENTS!r})"
