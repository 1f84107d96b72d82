"""The statements that begin and end the transactions of a store, and the words of its losses."""

from __future__ import annotations

from mltrigger.store.postgresql import lives

_MARKS = 1_000
"""Commits of a process between two deletions of its old marks."""
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;{local}SET LOCAL synchronous_commit TO off;
SELECT pg_advisory_xact_lock({key});
SELECT version, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
  coalesce((SELECT last_value FROM lot_seq WHERE is_called), 1), {life}
FROM schema_version
"""
"""The version is read behind the lock: an upgrade holds it."""
_PATIENT = "SET LOCAL idle_in_transaction_session_timeout TO '10min'"
"""A reader holds no lock, and may do something long between two queries."""
_KEEP = "LOCK TABLE schema_version IN ACCESS SHARE MODE"
"""No partition is dropped while somebody looks at one moment: a snapshot would miss its rows."""
LOOK = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", f"{_PATIENT};{_KEEP}"
"""The snapshot comes after the lock."""
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
VERSION = f"SELECT pg_snapshot_xmax(pg_current_snapshot())::text, {lives.NOW}, {_NOW}"
"""A crash may undo numbers of transactions. The next ones then have them, in another life."""
HAS_MARK = "SELECT 1 FROM mark WHERE token = '{token}' AND number = {number}"
CRASHED = (
    "the server has crashed, and the newest events and outcomes that were read may be gone; read"
    " them again"
)
LOST = (
    "the server ended before this was on its disk, and nothing of it is there; call again, with the"
    " same ids"
)


def begin(local: str, key: int) -> str:
    """Return the statements that begin a write: it holds the lock *key*, with *local* settings."""
    return BEGIN.format(local=local, key=key, life=lives.NOW)


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
