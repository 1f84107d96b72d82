"""Corrections in a SQL store: the answers of one binding, and their new answers in lanes.

A lane of corrections gets the events of those answers as rows. An attempt whose answer differs has
the reason ``corrected``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.event.data import decode_data
from mltrigger.event.event import Event
from mltrigger.event.making import with_data
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.archive import ARCHIVED, SOURCE, archived
from mltrigger.store.lanes import LaneRow, add_to, end_lane, lanes_of, set_lane
from mltrigger.store.registry import next_generation
from mltrigger.store.tables import CODES
from mltrigger.store.transaction import Reader, Transaction

CORRECTED = "corrected"
"""The reason of an answer that differs from the one it replaces."""
_ENDED = f"({CODES['succeeded']}, {CODES['dead']})"
_OUTPUT = f"""
coalesce(o.output, d.output, CASE o.outcome WHEN {CODES["succeeded"]} THEN 'null' END)
"""
_DETAIL = """
LEFT JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
"""
_ANSWERED = f"""
SELECT o.seq, l.model_version_id, l.role = 'canary' FROM lot l CROSS JOIN outcome o
  ON o.subscription_id = l.subscription_id AND o.seq BETWEEN l.low AND l.high AND o.lot_id = l.id
WHERE l.subscription_id = :s AND l.binding = :number AND o.outcome IN {_ENDED}
  AND l.role IN ('live', 'canary') AND l.model_version_id IS NOT NULL
  AND EXISTS (SELECT 1 FROM event e WHERE e.seq = o.seq)
ORDER BY o.seq
"""
# Of an open event there is a row, a lease or both.
_SUCCEEDED = f"""
SELECT seq FROM outcome WHERE subscription_id = :s AND outcome = {CODES["succeeded"]}
"""
# The data of a dead letter that was sent again with others hold for its correction, too.
_RESENT = """
INSERT INTO resent (subscription_id, seq, times, resent_us, data, datacontenttype)
SELECT :s, seq, times, resent_us, data, datacontenttype FROM resent
WHERE subscription_id = :parent AND seq IN ({seqs}) ON CONFLICT DO NOTHING
"""
_OLD = f"""
SELECT o.seq, o.outcome, {_OUTPUT}, m.version FROM outcome o
LEFT JOIN lot l ON l.id = o.lot_id LEFT JOIN model_version m ON m.id = l.model_version_id {_DETAIL}
WHERE o.subscription_id = :s AND o.seq IN ({{seqs}}) AND o.outcome IN {_ENDED}
"""
_COUNTS = f"""
SELECT o.outcome, coalesce(d.reason, '') = '{CORRECTED}', count(*) FROM outcome o {_DETAIL}
WHERE o.subscription_id = :s GROUP BY 1, 2
"""
_OPEN = """
SELECT (SELECT count(*) FROM ready WHERE subscription_id = :s)
  + (SELECT coalesce(sum(n), 0) FROM lease WHERE subscription_id = :s)
"""
_EACH = f"""
SELECT o.seq, o.outcome, {_OUTPUT}, m.version, coalesce(d.reason, l.reason),
  d.error_type, d.error
FROM outcome o LEFT JOIN lot l ON l.id = o.lot_id
LEFT JOIN model_version m ON m.id = l.model_version_id {_DETAIL}
WHERE o.subscription_id = :s AND o.outcome IN (
  {CODES["succeeded"]}, {CODES["dead"]}, {CODES["skipped"]}) ORDER BY o.seq
"""
_OLD_EACH = _EACH.replace("ORDER BY", "AND o.seq BETWEEN :low AND :high ORDER BY")
_NAMES = f"""
SELECT e.seq, event_id(e.id), {SOURCE}, e.subject FROM event e WHERE e.seq BETWEEN :low AND :high
"""
_TRIED = f"""
SELECT r.data, r.datacontenttype, {ARCHIVED} FROM event e
LEFT JOIN resent r ON r.subscription_id = :s AND r.seq = e.seq AND r.data IS NOT NULL
WHERE e.seq = :seq
"""
_CORRECTED = f"""
SELECT CAST(json_extract(l.lane, '$.binding') AS INTEGER), count(DISTINCT o.seq)
FROM subscription l JOIN outcome o ON o.subscription_id = l.id JOIN detail d
  ON d.subscription_id = o.subscription_id AND d.seq = o.seq AND d.attempt = o.attempt
WHERE l.parent_id = :s AND l.role = 'correction' AND o.outcome = {CODES["succeeded"]}
  AND d.reason = '{CORRECTED}' GROUP BY 1
"""
_REPLACED = f"""
SELECT event_id(e.id), {SOURCE}, m.name, m.version, {_OUTPUT}, d.measures
FROM subscription s JOIN outcome o ON o.subscription_id = s.id {_DETAIL}
JOIN event e ON e.seq = o.seq
JOIN lot l ON l.id = o.lot_id JOIN model_version m ON m.id = l.model_version_id
WHERE s.parent_id = :s AND s.role = 'correction' AND o.outcome = {CODES["succeeded"]}
  AND d.reason = '{CORRECTED}' ORDER BY s.id
"""


class Replacement(NamedTuple):
    """The newest answer of an event that was corrected. ``output`` and ``measures`` are JSON."""

    model: str
    version: str
    output: str | None
    measures: str | None


class Answered(NamedTuple):
    """An event that a binding answered, by a version, which was the canary or not."""

    seq: int
    version_id: int
    by_canary: bool


class Old(NamedTuple):
    """The answer so far. ``output`` is JSON, ``None`` for a dead event."""

    outcome: int
    output: str | None
    version: str | None

    def differs(self, output: str | None) -> bool:
        """Whether *output* is another answer. The order of keys in JSON does not matter."""
        if self.outcome != CODES["succeeded"] or self.output is None or output is None:
            return True
        return self.output != output and _canonical(self.output) != _canonical(output)


class Counts(NamedTuple):
    """The events of a lane: with a differing answer, with the same, dead, skipped, and open."""

    corrected: int = 0
    same: int = 0
    dead: int = 0
    skipped: int = 0
    open: int = 0

    @property
    def done(self) -> int:
        """The events that have ended."""
        return self.corrected + self.same + self.dead + self.skipped


class Given(NamedTuple):
    """The last attempt of an event that has ended. ``output`` is JSON."""

    seq: int
    outcome: int
    output: str | None
    version: str | None
    reason: str | None
    error_type: str | None
    error: str | None


def answered(reader: Reader, parent_id: int, number: int) -> list[Answered]:
    """Return the final answers of a binding whose events are still in the archive, by number."""
    return [
        Answered(seq, version_id, bool(by_canary))
        for seq, version_id, by_canary in reader.query(
            _ANSWERED, {"s": parent_id, "number": number}
        )
    ]


def lanes(reader: Reader, parent_id: int, number: int) -> list[LaneRow]:
    """Return the lanes that correct the answers of a binding, oldest first."""
    return [
        lane
        for lane in lanes_of(reader, parent_id)
        if lane.role == "correction" and lane.settings.get("binding") == number
    ]


def done_by(reader: Reader, given: Sequence[LaneRow], version: str) -> set[int]:
    """Return the events that *version* has answered in one of the *given* lanes."""
    return {
        seq
        for lane in given
        if lane.selector == version
        for (seq,) in reader.query(_SUCCEEDED, {"s": lane.id})
    }


def add(
    transaction: Transaction, lane_id: int, parent_id: int, seqs: Sequence[int], now_us: int
) -> None:
    """Add events to a lane, but for those that are in it."""
    among = ", ".join(str(int(seq)) for seq in seqs)
    transaction.execute(_RESENT.format(seqs=among), {"s": lane_id, "parent": parent_id})
    add_to(transaction, lane_id, seqs, now_us)


def leave(transaction: Transaction, lane: LaneRow) -> None:
    """End a lane for good. Its open events belong to no lane any more."""
    end_lane(transaction, lane.id, "replaced")
    ended = {**lane.settings, "ended": "replaced"}
    set_lane(transaction, lane.id, ended)
    for place in ("ready", "lease"):
        transaction.execute(f"DELETE FROM {place} WHERE subscription_id = :s", {"s": lane.id})


def set_policy(transaction: Transaction, lane_id: int, policy: DeliveryPolicy) -> None:
    """Replace the policy of a lane. Its listeners begin anew."""
    next_generation(transaction)
    transaction.execute(
        "UPDATE subscription SET policy = :policy WHERE id = :s",
        {"s": lane_id, "policy": policy.to_json()},
    )


def old_answers(
    reader: Reader, parent_id: int, lane_id: int, seqs: Collection[int]
) -> dict[int, Old]:
    """Return the newest answers of events: of the subscription, or of an earlier lane."""
    among = ", ".join(str(int(seq)) for seq in seqs)
    earlier = [
        lane.id
        for lane in lanes_of(reader, parent_id)
        if lane.role == "correction" and lane.id < lane_id
    ]
    found = {}
    for number in (parent_id, *earlier):
        for seq, *answer in reader.query(_OLD.format(seqs=among), {"s": number}):
            # a correction that failed leaves the answer as it is
            old = Old(*answer)
            if number == parent_id or (seq in found and old.outcome == CODES["succeeded"]):
                found[seq] = old
    return found


def counts(reader: Reader, lane_id: int) -> Counts:
    """Count the events of a lane."""
    n = {
        (outcome, bool(differs)): int(found)
        for outcome, differs, found in reader.query(_COUNTS, {"s": lane_id})
    }
    ((open_,),) = reader.query(_OPEN, {"s": lane_id})
    succeeded, dead, skipped = (CODES[name] for name in ("succeeded", "dead", "skipped"))
    return Counts(
        n.get((succeeded, True), 0),
        n.get((succeeded, False), 0),
        n.get((dead, False), 0),
        n.get((skipped, False), 0),
        int(open_),
    )


def each(reader: Reader, lane_id: int, span: tuple[int, int] | None = None) -> list[Given]:
    """Return the ended events of a lane or subscription, those of *span* if given."""
    low, high = span or (0, 0)
    of = {"s": lane_id, "low": low, "high": high}
    return [Given(*row) for row in reader.query(_OLD_EACH if span else _EACH, of)]


def names(reader: Reader, span: tuple[int, int]) -> dict[int, tuple[str, str, str | None]]:
    """Return id, source and subject of the events of *span*, by number."""
    rows = reader.query(_NAMES, {"low": span[0], "high": span[1]})
    return {seq: (event_id, source, subject) for seq, event_id, source, subject in rows}


def events(reader: Reader, parent_id: int, seqs: Iterable[int]) -> list[tuple[int, Event]]:
    """Return events as their subscription gets them."""
    found = []
    for seq in seqs:
        for data, media_type, *row in reader.query(_TRIED, {"s": parent_id, "seq": seq}):
            event, raw, own_type = archived(row)
            given = (raw, own_type) if data is None else (data, media_type)
            found.append((seq, with_data(event, decode_data(*given))))
    return found


def corrected(reader: Reader, parent_id: int) -> Mapping[int, int]:
    """Return how many answers of each binding were replaced."""
    return {int(number): int(n) for number, n in reader.query(_CORRECTED, {"s": parent_id})}


def replacements(reader: Reader, parent_id: int) -> dict[tuple[str, str], Replacement]:
    """Return the answers that replace others, by id and source of their event."""
    return {
        (event_id, source): Replacement(*rest)
        for event_id, source, *rest in reader.query(_REPLACED, {"s": parent_id})
    }


def _canonical(text: str) -> Any:
    return json.dumps(json.loads(text), sort_keys=True)
