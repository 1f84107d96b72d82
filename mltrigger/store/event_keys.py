"""The keys of events, found again in their data: attempts do not keep them."""

from __future__ import annotations

from collections.abc import Iterable

from mltrigger.store.archive import ARCHIVED, archived
from mltrigger.store.placing import NO_KEY, placing_of
from mltrigger.store.topics import Seen
from mltrigger.store.transaction import Reader, Row

_POLICIES = "SELECT id, policy FROM subscription"
_EVENTS = f"SELECT {ARCHIVED} FROM event e WHERE e.seq IN ({{}})"
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

    def of(self, subscription_id: int, event: Row) -> str | None:
        """Return the key of a row with the columns ``ARCHIVED``, ``None`` if nothing has one."""
        placing = self._placings.get(subscription_id)
        return None if placing is None else placing.place(Seen(*archived(event)))[0] or NO_KEY


def read(reader: Reader, attempts: Iterable[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Return the keys of pairs of subscription and event, where the subscription has keys."""
    keys, wanted = Keys(reader), sorted({*attempts})
    having = {*keys.subscriptions}
    pairs = [(s, seq) for s, seq in wanted if s in having]
    seqs, events = sorted({seq for _, seq in pairs}), dict[int, Row]()
    for first in range(0, len(seqs), _AT_ONCE):
        among = ", ".join(str(int(seq)) for seq in seqs[first : first + _AT_ONCE])
        events |= {row[0]: row for row in reader.query(_EVENTS.format(among), {})}
    found = {(s, seq): keys.of(s, events[seq]) for s, seq in pairs if seq in events}
    return {pair: key for pair, key in found.items() if key is not None}
