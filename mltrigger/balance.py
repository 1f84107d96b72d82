"""The audit: what was published and what became of it, counted from two sides. G2 of the promise, as numbers."""

from __future__ import annotations

from typing import NamedTuple

from mltrigger.brokers.publishing import Seen
from mltrigger.store.log import ARCHIVED, archived
from mltrigger.store.revisions import History, Period, histories
from mltrigger.store.transaction import Reader, Row, Store

SHOWN = 10
"""Events that are named at most where the sides differ."""

_FINAL = "('succeeded', 'dead', 'skipped')"
_MINE = "e.topic_id = :t AND e.seq > :low AND e.seq <= :high"
_COUNT = f"SELECT count(*) FROM event e WHERE {_MINE}"
_UNACCOUNTED = f"""
SELECT {ARCHIVED}, e.published_us FROM event e WHERE {_MINE}
AND NOT EXISTS (SELECT 1 FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = :s AND i.outcome IN {_FINAL})
AND NOT EXISTS (SELECT 1 FROM lease l WHERE l.subscription_id = :s AND l.seq = e.seq)
AND e.seq NOT IN (SELECT r.seq FROM ready r WHERE r.subscription_id = :s)
ORDER BY e.seq
"""
_ENDED = f"SELECT subscription_id, outcome, count(*) FROM invocation WHERE outcome IN {_FINAL} GROUP BY subscription_id, outcome"
_OPEN = (
    "SELECT subscription_id, count(*) FROM (SELECT subscription_id FROM ready UNION ALL SELECT subscription_id FROM lease) AS o GROUP BY 1"
)
_DOUBLE = f"""
SELECT seq, subscription_id FROM (
  SELECT seq, subscription_id FROM invocation WHERE outcome IN {_FINAL}
  UNION ALL SELECT seq, subscription_id FROM ready UNION ALL SELECT seq, subscription_id FROM lease) AS found
GROUP BY seq, subscription_id HAVING count(*) > 1
"""

_ANYWHERE = f"""
SELECT count(DISTINCT seq) FROM (
  SELECT seq FROM invocation WHERE subscription_id = :s AND outcome IN {_FINAL}
  UNION ALL SELECT seq FROM ready WHERE subscription_id = :s UNION ALL SELECT seq FROM lease WHERE subscription_id = :s) AS found
"""


class Balance(NamedTuple):
    """One subscription: what was due to it, and what is there.

    ``published`` events of its topic while it was bound, less the ``filtered`` ones, plus those ``sent`` to it beside that, are
    ``succeeded`` + ``dead`` + ``skipped`` + ``open``; then it is ``balanced``. ``missing`` were due and are nowhere; ``double`` have
    more than one outcome or place; ``events`` names the first of both.
    """

    topic: str
    subscription: str
    published: int
    filtered: int
    sent: int
    succeeded: int
    dead: int
    skipped: int
    open: int
    missing: int
    double: int
    balanced: bool
    events: str | None


def audit(store: Store) -> list[Balance]:
    """Return one balance a subscription, of those that were unsubscribed too; all of the same moment."""
    with store.snapshot() as reader:
        ended: dict[tuple[int, str], int] = {(s, outcome): n for s, outcome, n in reader.query(_ENDED, {})}
        open_: dict[int, int] = {row[0]: row[1] for row in reader.query(_OPEN, {})}
        double: dict[int, list[int]] = {}
        for seq, s in reader.query(_DOUBLE, {}):
            double.setdefault(s, []).append(seq)
        return [_balance(reader, history, ended, open_.get(history.id, 0), double.get(history.id, [])) for history in histories(reader)]


def _balance(reader: Reader, history: History, ended: dict[tuple[int, str], int], open_: int, double: list[int]) -> Balance:
    published = nowhere = 0
    missing: list[int] = []
    for period in history.periods:
        if not period.bound:
            continue
        published += reader.query(_COUNT, _of(history, period))[0][0]
        left = unaccounted(reader, history, period)
        nowhere += len(left)
        missing += [row[0] for row in left if Seen(*archived(row[:-1])).passes(period.filter)]
    filtered = nowhere - len(missing)
    succeeded, dead, skipped = (ended.get((history.id, outcome), 0) for outcome in ("succeeded", "dead", "skipped"))
    somewhere = reader.query(_ANYWHERE, {"s": history.id})[0][0]
    sent = somewhere - (published - nowhere)
    due = published - filtered + sent
    balanced = due == succeeded + dead + skipped + open_ and not missing and not double
    return Balance(
        history.topic, history.name, published, filtered, sent, succeeded, dead, skipped, open_, len(missing), len(double), balanced,
        _named(reader, [*missing, *double]),
    )  # fmt: skip


def unaccounted(reader: Reader, history: History, period: Period) -> list[Row]:
    """Return the events of one period that have no outcome and no place, with ``ARCHIVED`` columns and when they were published."""
    return reader.query(_UNACCOUNTED, _of(history, period))


def _of(history: History, period: Period) -> dict[str, int]:
    high = period.high if period.high < 2**62 else 2**62
    return {"s": history.id, "t": history.topic_id, "low": period.low, "high": int(high)}


def _named(reader: Reader, seqs: list[int]) -> str | None:
    rows: list[Row] = [row for seq in seqs[:SHOWN] for row in reader.query("SELECT id FROM event WHERE seq = :seq", {"seq": seq})]
    return ", ".join(id_ for (id_,) in rows) + (", …" if len(seqs) > SHOWN else "") if seqs else None
