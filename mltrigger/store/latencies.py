"""The latencies of very many attempts, counted by lot.

The attempts of a lot begin and end together, and events that were published together have waited
equally long. So most latencies are known from few rows, and only their number is counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mltrigger.store.attempts import BY_LOTS, FROM, VISIBLE
from mltrigger.store.bulk import lots_of
from mltrigger.store.transaction import Reader

if TYPE_CHECKING:
    from mltrigger.store.bulk import Numbers

SMALL = 20
"""Lots and publishes of fewer events are read as attempts."""
_OWN = 2**32
_TIMES = """
SELECT e.seq, e.published_us FROM event e WHERE e.seq IN (
  SELECT CAST(value AS BIGINT) FROM json_each(:seqs))
"""
_MIDDLES = """
SELECT f.seq, f.published_us, g.seq, g.published_us
FROM json_each(:middles) m
CROSS JOIN event f ON f.seq = (SELECT max(seq) FROM event WHERE seq <= CAST(m.value AS BIGINT))
CROSS JOIN event g ON g.seq = (SELECT min(seq) FROM event WHERE seq > CAST(m.value AS BIGINT))
ORDER BY m.key
"""
_PART = "CAST(json_extract(value, '$[{}]') AS BIGINT)"
# An attempt with a start of its own has a duration of its own, too.
_COUNTS = f"""
WITH stretch AS MATERIALIZED (
  SELECT key, {_PART.format(0)} AS s, {_PART.format(1)} AS lot, {_PART.format(2)} AS low,
    {_PART.format(3)} AS high
  FROM json_each(:stretches)
)
SELECT (
  SELECT count(*) + {_OWN} * count(o.took_us) FROM outcome o
  WHERE o.subscription_id = t.s AND o.lot_id = t.lot AND o.seq BETWEEN t.low AND t.high
)
FROM stretch t ORDER BY t.key
"""
# Attempts that have waited since another time than the publication of their event.
_OTHERWISE = """
SELECT o.lot_id FROM detail d CROSS JOIN outcome o
  ON o.subscription_id = d.subscription_id AND o.seq = d.seq AND o.attempt = d.attempt
WHERE d.visible_us IS NOT NULL
UNION SELECT o.lot_id FROM event e CROSS JOIN outcome o
  ON o.subscription_id IN (SELECT id FROM subscription) AND o.seq = e.seq
WHERE e.by_rows_us IS NOT NULL
"""
_SINGLE = f"""
SELECT i.model_version_id, i.started_us - {VISIBLE}, i.finished_us - i.started_us,
  i.finished_us - e.published_us
{FROM.format(attempts=BY_LOTS)} WHERE i.lot_id IN ({{lots}}) AND i.finished_us IS NOT NULL
"""


class Latencies(NamedTuple):
    """Latencies in microseconds, and how many attempts have each.

    ``version`` has numbers of model versions, and ``names`` their versions.
    """

    version: Numbers
    queue: Numbers
    model: Numbers
    total: Numbers
    n: Numbers
    names: Mapping[int, str]


def read(reader: Reader, subscription_id: int | None, since_us: int | None) -> Latencies | None:
    """Return the latencies of all ended calls, ``None`` if lots or publishes are too small."""
    import numpy as np

    lots = lots_of(reader, subscription_id, since_us=since_us)
    ended = (lots["started"] >= 0) & (lots["finished"] >= 0) & (lots["model"] >= 0)
    lots = {name: values[ended] for name, values in lots.items()}
    attempts = int(lots["n"].sum())
    if attempts < SMALL * len(lots["n"]) or not attempts:
        return None
    found = _stretches(reader, lots, attempts // SMALL)
    if found is None:
        return None
    lot, begin, end, published = found
    stretches = np.stack([lots["subscription"][lot], lots["id"][lot], begin, end], 1).tolist()
    counts = [n for (n,) in reader.query(_COUNTS, {"stretches": json.dumps(stretches)})]
    own, n = np.divmod(np.array(counts), _OWN)
    others = np.isin(lots["id"], [each for (each,) in reader.query(_OTHERWISE, {})])
    others[lot[own > 0]] = True
    others[np.setdiff1d(np.arange(len(others)), lot)] = True
    if int(lots["n"][others].sum()) > attempts // SMALL:
        return None
    alike = ~others[lot]
    lot, published, n = lot[alike], published[alike], n[alike]
    started, finished = lots["started"][lot], lots["finished"][lot]
    latencies = np.stack(
        [lots["model"][lot], started - published, finished - started, finished - published, n]
    )
    single = _single(reader, lots["id"][others].tolist())
    version, queue, model, total, n = np.concatenate([latencies, single], 1)
    return Latencies(version, queue, model, total, n, _versions(reader))


def _single(reader: Reader, lots: list[int]) -> Numbers:
    """Return the latencies of all attempts of *lots*."""
    import numpy as np

    among = ", ".join(map(str, lots))
    rows = reader.query(_SINGLE.format(lots=among), {})
    return np.array([(*row, 1) for row in rows], np.int64).reshape(-1, 5).T


def _versions(reader: Reader) -> dict[int, str]:
    return dict(map(tuple, reader.query("SELECT id, version FROM model_version", {})))


def _stretches(reader: Reader, lots: Mapping[str, Numbers], most: int) -> Numbers | None:
    """Return stretches of lots whose events were published together. ``None`` if over *most*.

    One row each for the place of the lot, the first and the last event, and the time. If two events
    have the same microsecond, so have all between them. A lot that has lost an end is left out.
    """
    import numpy as np

    ends = np.unique(np.concatenate([lots["low"], lots["high"]])).tolist()
    times = dict(map(tuple, reader.query(_TIMES, {"seqs": json.dumps(ends)})))
    spans = [
        (lot, a, b)
        for lot, (a, b) in enumerate(zip(lots["low"].tolist(), lots["high"].tolist(), strict=True))
        if a in times and b in times
    ]
    done: list[tuple[int, int, int, int]] = []
    while True:
        done += [(lot, a, b, times[a]) for lot, a, b in spans if times[a] == times[b]]
        spans = [(lot, a, b) for lot, a, b in spans if times[a] != times[b]]
        if not spans:
            return np.array(done, np.int64).reshape(-1, 4).T
        if len(done) + len(spans) > most:
            return None
        middles = [(a + b) // 2 for _, a, b in spans]
        rows = reader.query(_MIDDLES, {"middles": json.dumps(middles)})
        times |= {f: us for f, us, _, _ in rows} | {g: us for _, _, g, us in rows}
        halves = zip(spans, rows, strict=True)
        spans = [
            half for (lot, a, b), (f, _, g, _) in halves for half in ((lot, a, f), (lot, g, b))
        ]
