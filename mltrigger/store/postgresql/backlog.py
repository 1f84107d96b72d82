"""The backlog as one SELECT, for programs that scale workers by it."""

from __future__ import annotations

from collections.abc import Collection

from mltrigger.errors import InvalidName
from mltrigger.store.postgresql.quoting import identifier, literal

NOW_US = "CAST(extract(epoch FROM now()) * 1000000 AS bigint)"
"""The clock of the server, in microseconds since 1970."""


def backlog_sql(
    schema: str | None,
    subscriptions: Collection[str] = (),
    *,
    most: int = 100_000,
    now_us: str = NOW_US,
) -> str:
    """Return a SELECT of the number of events that workers have to do now, as one line.

    It counts events that are due or leased. A lease counts, so that a worker is not taken away from
    its calls. Delayed events do not count before they are due, and paused subscriptions not at all.
    The lanes of a subscription count with it.

    Parameters
    ----------
    schema : str or None
        The schema of the tables. ``None`` for the search path.
    subscriptions : collection of str
        Their names. Empty means all, without direct calls, whose callers do the work.
    most : int
        Each kind of backlog of a subscription is counted up to here, so that the SELECT is cheap.
    now_us : str
        The SQL of the present time in microseconds.

    Raises
    ------
    InvalidName
        If *schema* or a name cannot be one, or *most* is below 1.
    """
    if most < 1:
        raise InvalidName(f"the backlog is counted up to at least 1, not {most}")
    at = "" if schema is None else f"{identifier(schema)}."
    sql = f"""
SELECT CAST(coalesce(sum(b.n), 0) AS bigint) AS backlog FROM (
SELECT (SELECT count(*) FROM (SELECT 1 AS one FROM {at}event e
WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
AND e.seq <= coalesce(c.last_seq, e.seq) LIMIT {most}) AS behind)
+ (SELECT count(*) FROM (SELECT 1 AS one FROM {at}ready r
WHERE r.subscription_id = s.id AND r.visible_us <= {now_us} LIMIT {most}) AS due)
+ (SELECT coalesce(sum(l.n), 0) FROM {at}lease l WHERE l.subscription_id = s.id) AS n
FROM {at}subscription s JOIN {at}cursor c ON c.subscription_id = s.id
WHERE s.bound = 1 AND s.paused = 0 AND {_chosen(at, subscriptions)}) AS b
"""
    return " ".join(sql.split("\n")).strip()


def _chosen(at: str, subscriptions: Collection[str]) -> str:
    if not subscriptions:
        return "s.role <> 'direct'"
    names = ", ".join(literal(name) for name in sorted(set(subscriptions)))
    return (
        f"(s.name IN ({names}) OR s.parent_id IN"
        f" (SELECT p.id FROM {at}subscription p WHERE p.name IN ({names})))"
    )
