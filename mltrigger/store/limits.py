"""The limits of lanes: how much of the archive each of them may hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.store.transaction import Reader

HOLD_EVENTS = 1_000_000
"""The newest events of the log that a lane may hold. An older one may be deleted."""
HOLD_S = 7 * 86_400.0
"""The age of the oldest event that a lane may hold."""
ALL = 2**62
"""Beyond all events: such a lane holds none."""

_OPEN = """
SELECT s.id, s.name, s.bound, s.lane, c.next_seq, coalesce(c.last_seq, 9223372036854775807),
  (SELECT min(seq) FROM ready WHERE subscription_id = s.id),
  (SELECT count(*) FROM event e WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq
    AND e.seq <= coalesce(c.last_seq, e.seq))
FROM subscription s JOIN cursor c ON c.subscription_id = s.id
WHERE s.parent_id IS NOT NULL AND (c.next_seq IS NOT NULL OR EXISTS (
  SELECT 1 FROM ready r WHERE r.subscription_id = s.id))
"""
_AT = "SELECT seq, published_us FROM event WHERE seq >= :seq ORDER BY seq LIMIT 1"
_NTH = "SELECT seq FROM event WHERE seq >= :low ORDER BY seq DESC LIMIT 1 OFFSET :before"
# Both ends in one search would read the whole log.
_ENDS = """
SELECT coalesce((SELECT min(seq) FROM event), 1), coalesce((SELECT max(seq) FROM event), 0)
"""


class Held(NamedTuple):
    """An open lane, its first open event, and the number of events behind it.

    Events before ``floor`` may be deleted.
    """

    id: int
    name: str
    low: int
    n: int
    floor: int
    hold_events: int
    hold_s: float

    @property
    def is_beyond(self) -> bool:
        """Whether it has more open events than it may hold."""
        return self.low < self.floor


def floors(reader: Reader, now_us: int) -> dict[int, int]:
    """Return the first event that each lane may hold, for lanes that may hold fewer than they do.

    A lane that has ended holds none.
    """
    found = {number: ALL for number, _, bound, *_ in reader.query(_OPEN, {}) if not bound}
    return found | {each.id: each.floor for each in held(reader, now_us) if each.is_beyond}


def held(reader: Reader, now_us: int) -> list[Held]:
    """Return the open lanes with open events."""
    ((_, newest),) = reader.query(_ENDS, {})
    found = []
    for number, name, bound, lane, next_seq, last_seq, row, n in reader.query(_OPEN, {}):
        behind = next_seq if next_seq is not None and next_seq <= min(last_seq, newest) else None
        places = [seq for seq in (row, behind) if seq is not None]
        if not bound or not places:
            continue
        settings: Mapping[str, Any] = json.loads(lane)
        events = int(settings.get("hold_events", HOLD_EVENTS))
        age_s = float(settings.get("hold_s", HOLD_S))
        low = min(places)
        floor = max(
            _newest_of(reader, events, low, newest), since(reader, now_us - int(age_s * 1e6), low)
        )
        found.append(Held(number, name, low, n or 0, floor, events, age_s))
    return found


def _newest_of(reader: Reader, n: int, low: int, newest: int) -> int:
    """Return the first of the *n* newest events, *low* if that one is older.

    Numbers have gaps: after a crash of a server they go on from a later one.
    """
    if newest - n + 1 <= low:
        return low
    rows = reader.query(_NTH, {"low": low, "before": n - 1})
    return int(rows[0][0]) if rows else low


def since(reader: Reader, at_us: int, low: int = 0) -> int:
    """Return the first event from *low* on that was published at that time or later.

    The log is in the order of publication. Without one: the number after the newest event.
    """
    ((oldest, newest),) = reader.query(_ENDS, {})
    low, high = max(low, int(oldest)) - 1, int(newest) + 1
    while high - low > 1:
        middle = (low + high) // 2
        rows = reader.query(_AT, {"seq": middle})
        if rows and rows[0][1] < at_us:
            low = max(middle, min(rows[0][0], high - 1))
        else:
            high = middle
    return high
