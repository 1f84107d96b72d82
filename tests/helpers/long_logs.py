"""A long log in PostgreSQL, made by the server itself: events with their outcomes, all done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from faults_of_postgres import raw

LOT = 1_000
"""The attempts of one lot."""
AGE_US = 3_600_000_000
"""The oldest event is an hour old. Those before it come from the package, and are no younger."""

_LIKE = "SELECT topic_id, source_id, type_id FROM event ORDER BY seq LIMIT 1"
_MODEL = """
SELECT subscription_id, model_version_id, worker_id, id + n FROM lot ORDER BY id DESC LIMIT 1
"""
# A UUID of version 7, as the package gives them: milliseconds, and then the number of the event.
_ID = """
decode(lpad(to_hex(({us}) / 1000), 12, '0') || '7' || lpad(to_hex(n & 4095), 3, '0') || '8'
  || lpad(to_hex(n), 15, '0'), 'hex')
"""
_US = "%(begin)s + (n - %(first)s) * %(step)s"
_DATA = """convert_to('{"n":' || n || ',"text":"' || repeat('x', %(bytes)s) || '"}', 'UTF8')"""
_EVENTS = f"""
INSERT INTO event (seq, topic_id, id, source_id, type_id, published_us, lag_us, datacontenttype,
  data)
SELECT n, %(topic)s, {_ID.format(us=_US)}, %(source)s, %(type)s, {_US}, 0, 'application/json', {_DATA}
FROM generate_series(%(low)s::bigint, %(high)s) n
"""
_OUTCOMES = f"""
INSERT INTO outcome (subscription_id, seq, attempt, lot_id, place, outcome, output)
SELECT %(subscription)s, n, 1, %(lot)s + (n - %(first)s) / {LOT} * {LOT}, (n - %(first)s) %% {LOT},
  (SELECT outcome FROM outcome WHERE seq = %(like)s LIMIT 1), NULL
FROM generate_series(%(low)s::bigint, %(high)s) n
"""
_LOTS = f"""
INSERT INTO lot (id, n, subscription_id, low, high, model_version_id, role, received_us, started_us,
  finished_us, settled_us, batch_size, worker_id, binding)
SELECT %(lot)s + n - %(first)s, {LOT}, %(subscription)s, n, n + {LOT - 1}, %(model)s, 'live',
  {_US} + 1000, {_US} + 2000, {_US} + 3000, {_US} + 4000, {LOT}, %(worker)s, %(binding)s
FROM generate_series(%(low)s::bigint, %(high)s, {LOT}) n
"""


def lengthen(
    url: str, count: int, data_bytes: int = 100, say: Callable[[int], object] = lambda n: None
) -> None:
    """Add *count* answered events to the log at *url*, which has a few of one subscription.

    *count* is a multiple of a thousand. No process may have the log open.
    """
    with raw(url) as session:
        ((topic, source, kind),) = session.execute(_LIKE).fetchall()
        ((subscription, model, worker, lot),) = session.execute(_MODEL).fetchall()
        ((like, newest, now_us, binding),) = session.execute(
            "SELECT min(seq), max(seq), max(published_us), (SELECT max(binding) FROM lot) FROM event"
        ).fetchall()
        kinds = {"topic": topic, "source": source, "type": kind, "bytes": data_bytes}
        mine = {"subscription": subscription, "model": model, "worker": worker, "lot": lot}
        of: dict[str, Any] = {**kinds, **mine, "like": like, "binding": binding}
        of |= {"first": newest + 1, "begin": now_us, "step": max(1, AGE_US // count)}
        _age(session)
        of["begin"] -= AGE_US
        size = 1 << 18  # the numbers of one partition
        last = newest + count
        for part in range(last // size + 2):
            _make(session, ["event", "outcome", "detail"], part)
        for part in range((lot + count) // size + 2):
            _make(session, ["lot"], part)
        for low in range(newest + 1, last + 1, 100 * LOT):
            high = min(low + 100 * LOT - 1, last)
            for statement in (_EVENTS, _OUTCOMES, _LOTS):
                session.execute(statement, {**of, "low": low, "high": high})
            say(high - newest)
        session.execute(
            "SELECT setval('event_seq', %s), setval('lot_seq', %s)", [last, lot + count]
        )
        session.execute(
            "UPDATE cursor SET next_seq = %s WHERE subscription_id = %s", [last + 1, subscription]
        )
        session.execute(
            "INSERT INTO tally (subscription_id, worker_id, outcome, n) VALUES (%s, %s, 'succeeded', %s)",
            [subscription, worker, count],
        )


def _age(session: psycopg.Connection[Any]) -> None:
    """Let all that is there be older than what comes."""
    session.execute("UPDATE event SET published_us = published_us - %s", [2 * AGE_US])


def _make(session: psycopg.Connection[Any], tables: list[str], number: int) -> None:
    session.execute("SELECT make_partition(%s::text[], %s)", [tables, number])
