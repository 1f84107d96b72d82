"""Figures of the log for a monitor: counters that only rise, run times in buckets, drain rates.

A monitor takes a counter that falls for one that began anew. Retention deletes attempts, and a late
answer changes an outcome. So the counters are kept beside the log: each reading adds the news since
the last one. They survive a restart, and all readers share them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.clock import Clock
from mltrigger.store.attempts import VISIBLE, settled_since
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader, Row, Store

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""The upper bounds of the buckets, in seconds. One more bucket has all that is slower."""
STAGES = ("model", "queue", "total")
"""The measured times: of the model, of the wait before an attempt, and since the publication."""
WINDOW_S = 300.0
"""The drain rate is that of the attempts of so many seconds."""
BUDGET_S = 0.5
"""A reading counts so long. A later one goes on."""

_SETTING = "figures"
_STEP = 20_000
_MOST_LOTS = 10_000
_FRESH: Mapping[str, Any] = {
    "lot": 0,
    "seq": {},
    "published": {},
    "attempts": {},
    "times": {},
    "dead": {},
}
_DEAD = CODES["dead"]
_KEPT = "SELECT value FROM setting WHERE name = :name"
_KEEP = """
INSERT INTO setting (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_TALLIES = "SELECT subscription_id, outcome, sum(n) FROM tally GROUP BY subscription_id, outcome"
_TOPICS = "SELECT id, name FROM topic ORDER BY name"
_PUBLISHED = """
SELECT count(*), coalesce(max(seq), 0) FROM event WHERE topic_id = :t AND seq > :after
"""
_VERSIONS = "SELECT id, name, version FROM model_version"
_NEWEST = "SELECT coalesce(max(id), 0) FROM lot"
_NEXT = "SELECT coalesce(min(id), 0) FROM lot WHERE id > :after"
_RECENT = f"""
SELECT subscription_id, received_us, settled_us, n FROM lot WHERE id >= :first
ORDER BY id DESC LIMIT {_MOST_LOTS}
"""


def _place(column: str, low: int = 0, high: int = len(BOUNDS_S)) -> str:
    """Return the SQL for the bucket of *column*, in microseconds."""
    if low == high:
        return str(low)
    middle = (low + high) // 2
    below, above = _place(column, low, middle), _place(column, middle + 1, high)
    bound_us = round(BOUNDS_S[middle] * 1e6)
    return f"CASE WHEN {column} <= {bound_us} THEN {below} ELSE {above} END"


_TIMES = f"""
SELECT s, v, is_dead, {", ".join(f"{_place(stage)} AS {stage}_place" for stage in STAGES)},
  count(*), {", ".join(f"sum({stage})" for stage in STAGES)}
FROM (
  SELECT i.s, i.v, i.is_dead, i.finished_us - i.started_us AS model,
    i.started_us - {VISIBLE} AS queue,
    i.finished_us - e.published_us AS total
  FROM (
    SELECT o.seq, o.subscription_id AS s, coalesce(l.model_version_id, 0) AS v, d.visible_us,
      CASE WHEN o.outcome = {_DEAD} THEN 1 ELSE 0 END AS is_dead,
      l.started_us + coalesce(o.began_us, 0) AS started_us,
      CASE WHEN o.took_us IS NULL THEN l.finished_us
        ELSE l.started_us + coalesce(o.began_us, 0) + o.took_us END AS finished_us
    FROM lot l
    JOIN outcome o ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high
      AND o.lot_id = l.id
    LEFT JOIN detail d
      ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
    WHERE l.id > :after AND l.id <= :up_to
      AND (l.finished_us IS NOT NULL OR o.outcome = {_DEAD})
  ) AS i
  JOIN event e ON e.seq = i.seq
) AS timed
GROUP BY 1, 2, 3, 4, 5, 6
"""


class Times(NamedTuple):
    """How many attempts are in each bucket, and the sum of their times in seconds."""

    buckets: Sequence[int]
    sum_s: float


class Figures(NamedTuple):
    """The figures of a log.

    - ``published``: events by topic.
    - ``attempts``: attempts by subscription and outcome.
    - ``dead``: events that became dead letters, by subscription. Some come again, and die again.
    - ``times``: by subscription and version, the :class:`Times` of each of :data:`STAGES`.
    - ``versions``: the name and version of each model version.
    - ``behind``: numbers of attempts that ``times`` do not have yet.
    """

    published: Mapping[str, int]
    attempts: Mapping[int, Mapping[str, int]]
    dead: Mapping[int, int]
    times: Mapping[tuple[int, int], Sequence[Times]]
    versions: Mapping[int, tuple[str, str]]
    behind: int


class FigureReader:
    """Reads the figures of a store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def read(
        self, budget_s: float = BUDGET_S, spent_s: Callable[[], float] = time.monotonic
    ) -> Figures:
        """Count the news of the log, and return all figures.

        Parameters
        ----------
        budget_s : float
            How long to count run times. The rest is counted next time.
        spent_s : callable
            Returns seconds for the budget.
        """
        end_s = spent_s() + budget_s
        while True:
            with self._store.snapshot() as reader:
                kept = _kept(reader)
                state, behind = _counted(reader, kept)
                topics = dict(map(tuple, reader.query(_TOPICS, {})))
                versions = {row[0]: (row[1], row[2]) for row in reader.query(_VERSIONS, {})}
            if state != kept and not _keep(self._store, kept, state):
                continue  # what was told and is not kept would fall
            if behind <= 0 or spent_s() >= end_s:
                return _figures(state, topics, versions, behind)

    def rates(self) -> dict[int, float]:
        """Return the drain rate of each subscription, see :func:`rates`."""
        with self._store.snapshot() as reader:
            return rates(reader, self._clock.now_us())


def rates(reader: Reader, now_us: int) -> dict[int, float]:
    """Return attempts a second by subscription, over the last :data:`WINDOW_S` seconds.

    Only time counts in which an attempt was in hand. So an idle hour does not make a subscription
    look slow, and parallel listeners add up.
    """
    first = settled_since(reader, now_us - int(WINDOW_S * 1e6))
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for s, received_us, settled_us, n in reader.query(_RECENT, {"first": first}):
        spans.setdefault(s, []).append((received_us, settled_us, n))
    return {s: _rate(sorted(each)) for s, each in spans.items()}


def _rate(spans: Sequence[tuple[int, int, int]]) -> float:
    busy_us, end_us = 0, 0
    for low_us, high_us, _ in spans:
        busy_us += max(0, high_us - max(low_us, end_us))
        end_us = max(end_us, high_us)
    return sum(n for _, _, n in spans) / max(busy_us, 1_000) * 1e6


def _kept(reader: Reader) -> dict[str, Any]:
    rows = reader.query(_KEPT, {"name": _SETTING})
    return {**_FRESH, **(json.loads(rows[0][0]) if rows else {})}


def _keep(store: Store, before: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Keep *state*. Return ``False`` if another reader has counted since *before*."""
    with store.transaction(durable=False) as transaction:
        if _kept(transaction) != before:
            return False
        transaction.execute(_KEEP, {"name": _SETTING, "value": json.dumps(state)})
    return True


def _counted(reader: Reader, kept: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the state after counting the news, and how many numbers of attempts are left."""
    published, seqs = dict(kept["published"]), dict(kept["seq"])
    for topic_id, _ in reader.query(_TOPICS, {}):
        key = str(topic_id)
        given = {"t": topic_id, "after": seqs.get(key, 0)}
        ((n, newest),) = reader.query(_PUBLISHED, given)
        if n:
            published[key], seqs[key] = published.get(key, 0) + int(n), int(newest)
    attempts = dict(kept["attempts"])
    for s, outcome, n in reader.query(_TALLIES, {}):
        last, total = attempts.get(f"{s}/{outcome}", (0, 0))
        attempts[f"{s}/{outcome}"] = [int(n), total + max(0, int(n) - last)]
    ((newest_lot,),) = reader.query(_NEWEST, {})
    ((next_lot,),) = reader.query(_NEXT, {"after": kept["lot"]})
    times, dead, up_to = kept["times"], dict(kept["dead"]), int(newest_lot)
    if next_lot:
        up_to = min(up_to, int(next_lot) + _STEP)
        rows = reader.query(_TIMES, {"after": kept["lot"], "up_to": up_to})
        times = _added(times, rows)
        for s, _, is_dead, _, _, _, n, *_ in rows:
            if is_dead:
                dead[str(s)] = dead.get(str(s), 0) + int(n)
    state = {
        "lot": max(up_to, kept["lot"]),
        "seq": seqs,
        "published": published,
        "attempts": attempts,
        "times": times,
        "dead": dead,
    }
    return state, int(newest_lot) - up_to


def _added(times: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Return *times* with *rows* of _TIMES. Each stage is a list of buckets and the sum at last."""
    found = {key: [list(stage) for stage in stages] for key, stages in times.items()}
    for s, v, _, *rest in rows:
        places, n, sums = rest[:3], int(rest[3]), rest[4:]
        if sums[0] is None:  # its model was never called
            continue
        empty = [[0] * (len(BOUNDS_S) + 2) for _ in STAGES]
        stages = found.setdefault(f"{s}/{v}", empty)
        for stage, place, sum_us in zip(stages, places, sums, strict=True):
            stage[place] += n
            stage[-1] += int(sum_us)
    return found


def _figures(
    state: Mapping[str, Any],
    topics: Mapping[int, str],
    versions: Mapping[int, tuple[str, str]],
    behind: int,
) -> Figures:
    attempts: dict[int, dict[str, int]] = {}
    for key, (_, total) in state["attempts"].items():
        s, _, outcome = key.partition("/")
        attempts.setdefault(int(s), {})[outcome] = total
    times = {
        (int(key.partition("/")[0]), int(key.partition("/")[2])): [
            Times(stage[:-1], stage[-1] / 1e6) for stage in stages
        ]
        for key, stages in state["times"].items()
    }
    published = {name: state["published"].get(str(n), 0) for n, name in topics.items()}
    dead = {int(s): n for s, n in state["dead"].items()}
    return Figures(published, attempts, dead, times, versions, behind)
