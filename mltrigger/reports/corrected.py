"""Corrections in reports: results show the newest answers, and the audit counts them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mltrigger.event.event import DEFAULT_SOURCE, Event, derived_id
from mltrigger.store import corrections
from mltrigger.store.corrections import CORRECTED
from mltrigger.store.keys import id_key
from mltrigger.store.lanes import LaneRow, in_lane, lanes_of
from mltrigger.store.matching import Matching, in_json, is_in
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from mltrigger.store.corrections import Replacement

_GIVEN_UP = ("unsubscribed", "replaced")
"""Lanes that ended so have dropped their open events."""
_RETENTION = "SELECT value FROM setting WHERE name = 'retention'"
_EMITS = "SELECT emit_topic_id FROM subscription WHERE id = :s"
_PUBLISHED = """
SELECT count(*) FROM event e
WHERE e.seq > :after AND e.source_id = (SELECT id FROM name WHERE text = :source)
  AND json_extract(e.extensions, '$.corrects') IS NOT NULL
"""
_RECORDED = f"""
SELECT o.seq, event_id(e.id), (SELECT text FROM name WHERE id = e.source_id)
FROM outcome o JOIN event e ON e.seq = o.seq JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
WHERE o.subscription_id = :s AND o.outcome = {CODES["succeeded"]} AND d.reason = '{CORRECTED}'
"""
_THERE = "SELECT 1 FROM event WHERE id = :id LIMIT 1"


def replace(
    table: pd.DataFrame,
    outputs: Sequence[str | None],
    measures: Sequence[str | None],
    replaced: Mapping[tuple[str, str], Replacement],
) -> tuple[pd.DataFrame, Sequence[str | None], Sequence[str | None]]:
    """Return results, outputs and figures with the newest answers, whose reason says so."""
    texts, figures = list(outputs), list(measures)
    rows: dict[int, Replacement] = {}
    for row, key in enumerate(zip(table["event_id"], table["source"], strict=True)):
        if (new := replaced.get(key)) is not None:
            rows[row], texts[row], figures[row] = new, new.output, new.measures
    if not rows:
        return table, outputs, measures
    changed, news = table.copy(), list(rows.values())
    columns: dict[str, list[Any]] = {
        "model": [new.model for new in news],
        "version": [new.version for new in news],
        "outcome": ["succeeded"] * len(news),
        "reason": [CORRECTED] * len(news),
        "error": [None] * len(news),
    }
    for name, values in columns.items():
        changed.loc[list(rows), name] = values
    return changed, texts, figures


def changes(wanted: Matching) -> bool:
    """Whether *wanted* asks for something that a correction changes."""
    return unchanged(wanted) != wanted


def unchanged(wanted: Matching) -> Matching:
    """Return the part of *wanted* that holds before and after a correction."""
    return dataclasses.replace(wanted, versions=None, outcomes=None, reasons=None, text=None)


def matching(
    table: pd.DataFrame,
    outputs: Sequence[str | None],
    measures: Sequence[str | None],
    wanted: Matching,
    limit: int | None,
) -> tuple[pd.DataFrame, Sequence[str | None], Sequence[str | None]]:
    """Return the newest results that match as they are shown, with outputs and figures."""
    given = {"version": wanted.versions, "outcome": wanted.outcomes, "reason": wanted.reasons}
    kept = list(range(len(table)))
    for name, values in given.items():
        if values is not None:
            column = table[name].tolist()
            kept = [row for row in kept if column[row] in values]
    if wanted.text is not None:
        columns = [*(table[name].tolist() for name in ("error", "subject", "event_id")), outputs]
        shown = list(zip(*columns, strict=True))
        texts = {wanted.text, in_json(wanted.text)}
        kept = [row for row in kept if any(is_in(text, shown[row]) for text in texts)]
    if limit is not None:
        kept = kept[-limit:] if limit else []
    rest = table.iloc[kept].reset_index(drop=True)
    return rest, [outputs[row] for row in kept], [measures[row] for row in kept]


def balance(reader: Reader, parent_id: int, blind: bool = False) -> tuple[int, list[int]]:
    """Return how many answers were replaced, and the events whose correction is lost.

    A lane has each of its events once. Each replaced answer has its event on the topic. With
    *blind* that event is not looked for. None of this can be told once the retention deletes
    events.
    """
    lanes = [lane for lane in lanes_of(reader, parent_id) if lane.role == "correction"]
    counts = {lane: corrections.counts(reader, lane.id) for lane in lanes}
    n = sum(found.corrected for found in counts.values())
    retention = [json.loads(value) for (value,) in reader.query(_RETENTION, {})]
    if not lanes or any(limit for each in retention for limit in each.values()):
        return n, []
    lost = {
        seq
        for lane, found in counts.items()
        if lane.ended not in _GIVEN_UP and lane.settings.get("total", 0) > found.done + found.open
        for seq in _left_out(reader, parent_id, lane)
    }
    emitting = [lane for lane in lanes if reader.query(_EMITS, {"s": lane.id}) != [(None,)]]
    unpublished = [] if blind else _unpublished(reader, emitting, counts)
    return n, sorted(lost | {*unpublished})


def _left_out(reader: Reader, parent_id: int, lane: LaneRow) -> set[int]:
    number = int(lane.settings["binding"])
    answered = {a.seq for a in corrections.answered(reader, parent_id, number)}
    return answered - in_lane(reader, lane.id)


def _unpublished(
    reader: Reader, lanes: Sequence[LaneRow], counts: Mapping[LaneRow, corrections.Counts]
) -> list[int]:
    """Return the events whose correction was not published. They are looked up if counts differ."""
    if not lanes:
        return []
    of = str(lanes[0].settings["of"])
    after = min(int(lane.settings["after"]) for lane in lanes)
    at = {"after": after, "source": f"{DEFAULT_SOURCE}/{of}"}
    ((published,),) = reader.query(_PUBLISHED, at)
    if published >= sum(counts[lane].corrected for lane in lanes):
        return []
    return [
        seq
        for lane in lanes
        for seq, cause_id, source in reader.query(_RECORDED, {"s": lane.id})
        if not reader.query(_THERE, {"id": _key(of, lane, Event(id=cause_id, source=source))})
    ]


def _key(of: str, lane: LaneRow, cause: Event) -> bytes | str:
    return id_key(derived_id(cause, of, str(lane.settings["binding"]), lane.selector))
