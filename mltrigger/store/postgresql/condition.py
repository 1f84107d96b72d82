"""The condition of a server, for the doctor: open transactions, a pooler, and room for sessions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from mltrigger.broker import Finding
from mltrigger.store.postgresql.sessions import Sessions

LONG_S = 300
"""A transaction that is open for longer is worth a word."""
FULL = 0.8
"""A server with a larger share of its sessions open is worth a word."""
_KEPT = "the server keeps old rows for it, and all readers get slower"
_OPEN = """
SELECT pid, usename, application_name, xact_start, state
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND xact_start < clock_timestamp() - %(long_s)s * interval '1 second'
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR state IN (
    'idle in transaction', 'idle in transaction (aborted)'))
ORDER BY xact_start, pid
LIMIT 10
"""
"""Without the role pg_read_all_stats it has the transactions of the own user only."""
_SESSIONS = """
SELECT (SELECT count(*) FROM pg_stat_activity
    WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'),
  current_setting('max_connections')::int
"""


def findings(sessions: Sessions) -> Iterator[Finding]:
    """Return the findings of the doctor about the server.

    Raises
    ------
    psycopg.Error
        When it does not answer.
    """
    with sessions.reading() as session:
        is_open = session.execute(_OPEN, {"long_s": LONG_S}).fetchall()
        ((used, most),) = session.execute(_SESSIONS).fetchall()
    for pid, user, application, since, state in is_open:
        yield _transaction(pid, user, application, since, state)
    if sessions.is_pooled:
        yield Finding(
            "info",
            "bus",
            "pooler",
            "a pooler in transaction mode lies in between, and no notification comes through:"
            " listeners look ten times a second",
            "none, or name the server itself in the URL: an event is delivered sooner then",
        )
    if used > FULL * most:
        yield Finding(
            "warning",
            "bus",
            "sessions",
            f"{used} of {most} sessions of the server are open",
            "close idle programs, put a pooler in between, or raise max_connections: a process of"
            " the bus needs up to eight",
        )


def _transaction(
    pid: int, user: str | None, application: str | None, since: datetime, state: str | None
) -> Finding:
    named = f", application {application!r:.70}" if application else ""
    rests = "does nothing in" if (state or "").startswith("idle") else "works in"
    return Finding(
        "warning",
        "bus",
        "open transaction",
        f"the session {pid} of user {user!r}{named} {rests} a transaction that is open since"
        f" {since:%Y-%m-%d %H:%M:%S} UTC: {_KEPT}",
        f"COMMIT there, or end it with SELECT pg_terminate_backend({pid})",
    )
