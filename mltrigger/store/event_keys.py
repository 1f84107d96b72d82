"""The keys of events, found again in their data: attempts do not keep them.

An event that was sent again with other data has the key of these: its calls are ordered by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.placing import NO_KEY, placing_of
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Row

_POLICIES = "SELECT id, policy FROM subscription"
_EVENTS = f"SELECT {ARCHIVED} FROM event e WHERE e.seq IN ({{}})"
_EDITED = """
SELECT subscription_id, seq, data, datacontenttype FROM resent
WHERE data IS NOT NULL AND subscription_id IN ({subscriptions}) AND seq IN ({seqs})
"""
OTHERS = """
(SELECT a.data FROM resent a WHERE a.subscription_id = i.subscription_id AND a.seq = i.seq),
  (SELECT a.datacontenttype FROM resent a
    WHERE a.subscription_id = i.subscription_id AND a.seq = i.seq)
"""
"""The data of an attempt ``i`` that replace those of its event, and their media type."""
_AT_ONCE = 1_000


class Keys:
    """Says the keys of events for all subscriptions that have a ``key``."""

    def __init__(self, reader: Reader) -> None:
        found = {s: placing_of(policy, s) for s, policy in reader.query(_POLICIES, {})}
        self._placings = {s: p for s, p in found.items() if p is not None and p.key is not None}

    @property
    def subscriptions(self) -> list[int]:
        """The numbers of the subscriptions that have a key."""
        return sorted(self._placings)

    def of(
        self, subscription_id: int, event: Row, others: Row | tuple[Any, ...] = (None, None)
    ) -> str | None:
        """Return the key of a row with the columns ``ARCHIVED``, ``None`` if nothing has one.

        *others* are data that replace its own, if not None, and their media type.
        """
        placing = self._placings.get(subscription_id)
        if placing is None:
            return None
        seen, (data, media_type) = archived(event), others
        if data is not None:
            seen = seen._replace(raw=bytes(data), media_type=media_type)
        return placing.place(Seen(*seen))[0] or NO_KEY


def read(reader: Reader, attempts: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Return the keys of pairs of subscription and event, where the subscription has keys."""
    keys, wanted = Keys(reader), sorted({*attempts})
    having = {*keys.subscriptions}
    pairs = [(s, seq) for s, seq in wanted if s in having]
    seqs, events = sorted({seq for _, seq in pairs}), dict[int, Row]()
    among_ids = ", ".join(map(str, sorted({s for s, _ in pairs})))
    edited: dict[tuple[int, int], tuple[Any, ...]] = {}
    for first in range(0, len(seqs), _AT_ONCE):
        among = ", ".join(str(int(seq)) for seq in seqs[first : first + _AT_ONCE])
        events |= {row[0]: row for row in reader.query(_EVENTS.format(among), {})}
        again = reader.query(_EDITED.format(subscriptions=among_ids, seqs=among), {})
        edited |= {(s, seq): tuple(others) for s, seq, *others in again}
    found = {
        (s, seq): keys.of(s, events[seq], edited.get((s, seq), (None, None)))
        for s, seq in pairs
        if seq in events
    }
    return {pair: key for pair, key in found.items() if key is not None}
