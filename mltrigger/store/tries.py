"""First attempts: the bindings that retries follow, and the figures that a canary is judged by."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader

# An event that was sent again begins anew. An end by unsubscribing is no attempt.
_FIRST = f"""
SELECT o.seq, l.binding, l.role FROM outcome o JOIN lot l ON l.id = o.lot_id
LEFT JOIN resent r ON r.subscription_id = o.subscription_id AND r.seq = o.seq
WHERE o.subscription_id = :s AND o.seq IN ({{seqs}}) AND o.outcome <> {CODES["skipped"]}
  AND coalesce(l.reason, '') <> 'unsubscribed'
  AND (r.resent_us IS NULL OR l.received_us > r.resent_us)
ORDER BY o.seq, o.attempt DESC
"""
_RESENT = "SELECT seq FROM resent WHERE subscription_id = :s AND seq IN ({seqs})"
# An outage says nothing about a version: a server that is busy or away, a process that was killed
# with all events that it had, a batch of which one event took too long. Their events are called
# again, and that attempt counts.
_SILENT = """
coalesce((SELECT d.reason IN ('throttled', 'model_unavailable')
    OR (d.reason = 'timeout' AND coalesce({l}.batch_size, 1) > 1)
  FROM detail d WHERE d.subscription_id = {o}.subscription_id AND d.seq = {o}.seq
    AND d.attempt = {o}.attempt), FALSE)
"""
# After an abandoned attempt an event is called alone. If that dies, too, it is the version's fault.
_TELLS = f"""
CASE {{o}}.outcome
  WHEN {CODES["succeeded"]} THEN TRUE WHEN {CODES["dead"]} THEN TRUE
  WHEN {CODES["stale"]} THEN TRUE
  WHEN {CODES["failed"]} THEN NOT {_SILENT}
  WHEN {CODES["abandoned"]} THEN EXISTS (SELECT 1 FROM outcome before
    WHERE before.subscription_id = {{o}}.subscription_id AND before.seq = {{o}}.seq
      AND before.attempt = {{o}}.attempt - 1 AND before.outcome = {CODES["abandoned"]})
  ELSE FALSE END
"""
_IS_FIRST = f"""
(o.attempt = 1 OR NOT EXISTS (SELECT 1 FROM outcome e LEFT JOIN lot f ON f.id = e.lot_id
  WHERE e.subscription_id = o.subscription_id AND e.seq = o.seq AND e.attempt < o.attempt
    AND {_TELLS.format(o="e", l="f")}))
"""
_BAD = ", ".join(str(CODES[name]) for name in ("failed", "dead", "abandoned"))
_TOOK = "coalesce(o.took_us, l.finished_us - l.started_us)"
# A batch is one call.
_IS_CALL = f"({_TOOK} IS NOT NULL AND (o.took_us IS NOT NULL OR o.place = 0))"
_TRIED = f"""
SELECT l.binding, l.role, count(*), coalesce(sum(o.outcome IN ({_BAD})), 0),
  coalesce(sum({_IS_CALL}), 0), coalesce(sum({_IS_CALL} AND {_TOOK} > :slow), 0)
FROM lot l CROSS JOIN outcome o
  ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
WHERE l.id > :after AND l.subscription_id = :s AND l.binding >= :first
  AND l.role IN ('live', 'canary') AND {_TELLS.format(o="o", l="l")} AND {_IS_FIRST}
GROUP BY l.binding, l.role
"""
_NEWEST_LOT = "SELECT coalesce(max(id), 0) FROM lot"
_FASTEST = f"""
SELECT took FROM (
  SELECT {_TOOK} AS took FROM lot l CROSS JOIN outcome o
    ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
  WHERE l.subscription_id = :s AND l.role = 'live' AND o.outcome = {CODES["succeeded"]}
    AND {_IS_CALL} ORDER BY l.id DESC LIMIT {{most}}
) AS newest ORDER BY took
"""
_MEASURED = """
SELECT l.role, json_extract(d.measures, :name) AS value FROM lot l CROSS JOIN outcome o
  ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
JOIN detail d ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
WHERE l.id > :after AND l.subscription_id = :s AND l.binding >= :first
  AND l.role IN ('live', 'canary') AND json_type(d.measures, :name) IN ('integer', 'real')
ORDER BY o.lot_id, o.place LIMIT :most
"""
_REPORTED = """
SELECT DISTINCT each.key FROM (
  SELECT measures FROM detail WHERE subscription_id = :s AND measures IS NOT NULL
  ORDER BY seq DESC LIMIT 1000
) AS newest, json_each(newest.measures) AS each
"""


class Tried(NamedTuple):
    """First attempts that tell something: their number and failures, timed and slow calls."""

    n: int = 0
    failed: int = 0
    timed: int = 0
    slow: int = 0

    def plus(self, other: Tried) -> Tried:
        """Return the sum of both."""
        return Tried(*map(sum, zip(self, other, strict=True)))


def first_bindings(
    reader: Reader, subscription_id: int, seqs: Collection[int]
) -> dict[int, tuple[int, str] | None]:
    """Return the binding and the role of the first attempt of each event that has one.

    An event that was sent again, and not begun since, has ``None``.
    """
    among, of = ", ".join(str(int(seq)) for seq in seqs), {"s": subscription_id}
    found: dict[int, tuple[int, str] | None] = {
        seq: None for (seq,) in reader.query(_RESENT.format(seqs=among), of)
    }
    for seq, binding, role in reader.query(_FIRST.format(seqs=among), of):
        found[seq] = (binding, role)  # the first attempt comes last
    return found


def newest_lot(reader: Reader) -> int:
    """Return the number of the newest lot."""
    return int(reader.query(_NEWEST_LOT, {})[0][0])


def tried(
    reader: Reader, subscription_id: int, first: int, slow_us: int, after: int
) -> dict[tuple[int, str], Tried]:
    """Return the first attempts since binding *first*, by binding and role.

    Only those of lots after the number *after* are counted.
    """
    of = {"s": subscription_id, "first": first, "slow": slow_us, "after": after}
    return {
        (binding, role): Tried(*map(int, counts))
        for binding, role, *counts in reader.query(_TRIED, of)
    }


def p95_us(reader: Reader, subscription_id: int, most: int = 10_000) -> tuple[int, int]:
    """Return the 95th percentile of the newest live calls that went well, and their number."""
    took = [row[0] for row in reader.query(_FASTEST.format(most=most), {"s": subscription_id})]
    return (int(took[min(len(took) - 1, int(0.95 * len(took)))]), len(took)) if took else (0, 0)


def measured(
    reader: Reader, subscription_id: int, first: int, name: str, after: int, most: int = 20_000
) -> tuple[list[float], list[float]]:
    """Return the numbers of a measure since binding *first*: of the canary, and of live attempts.

    They are in the order of their recording, of lots after the number *after*.
    """
    found: dict[str, list[float]] = {"canary": [], "live": []}
    of = {"s": subscription_id, "first": first, "name": f'$."{name}"'}
    of |= {"after": after, "most": most}
    for role, value in reader.query(_MEASURED, of):
        found[role].append(float(value))
    return found["canary"], found["live"]


def reported(reader: Reader, subscription_id: int) -> set[str]:
    """Return the names of the measures that recent attempts of a subscription have reported."""
    return {name for (name,) in reader.query(_REPORTED, {"s": subscription_id})}
