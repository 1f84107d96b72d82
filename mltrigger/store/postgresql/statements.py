"""The statements around the transactions of a store."""

from __future__ import annotations

_MARKS = 1_000
"""Commits of a process between two deletions of its old marks."""
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;{local}SET LOCAL synchronous_commit TO off;
SELECT pg_advisory_xact_lock({key});
SELECT version, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
  coalesce((SELECT last_value FROM lot_seq WHERE is_called), 1), (SELECT value FROM life LIMIT 1)
FROM schema_version
"""
"""The version is read behind the lock: an upgrade holds it."""
LOOK = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;{local}"
    "SET LOCAL idle_in_transaction_session_timeout TO '10min'"
)
"""A reader holds no lock, and may do something long between two queries."""
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
VERSION = f"SELECT pg_snapshot_xmax(pg_current_snapshot())::text, {_NOW}"
HAS_MARK = "SELECT 1 FROM mark WHERE token = '{token}' AND number = {number}"


def mark(token: str, number: int, kept: int, synced: int) -> tuple[str, int]:
    """Return the statements that leave the mark of a commit, and the first mark that stays.

    Now and then they delete those from *kept* to *synced*.
    """
    insert = f"INSERT INTO mark (token, number) VALUES ('{token}', {number})"
    if number == 1:  # processes that died have left some
        return f"DELETE FROM mark WHERE made_at < now() - interval '1 day'; {insert}", kept
    if number % _MARKS:
        return insert, kept
    old = f"number >= {kept} AND number < {synced}"
    return f"DELETE FROM mark WHERE token = '{token}' AND {old}; {insert}", synced
