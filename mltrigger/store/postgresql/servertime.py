"""The time of the server, for all processes of all machines.

Each write transaction learns it. Between two of them the monotonic clock of the machine goes on. So
no wall clock of a machine matters. If the server's clock is set back, the processes go on at the
speed of their monotonic clocks. The lead that they have then is kept for later processes.
"""

from __future__ import annotations

from mltrigger.clock import Clock, SystemClock
from mltrigger.store.transaction import Store, Transaction

_STEP_US = 1_000_000
"""Leads that differ by less are equal."""
_KEPT = "SELECT value FROM setting WHERE name = 'lead'"
_KEEP = """
INSERT INTO setting (name, value) VALUES ('lead', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


class ServerTime:
    """How far the server's clock is ahead of the monotonic one of this machine."""

    def __init__(self) -> None:
        self.offset_us: int | None = None
        self._followers: list[ServerKeeper] = []

    def keeper(self, clock: Clock) -> ServerKeeper:
        """Return the part that keeps *clock* to the server's time."""
        keeper = ServerKeeper(self, clock)
        self._followers.append(keeper)
        return keeper

    def seen(self, server_us: int, sent_us: int, came_us: int) -> None:
        """Take note of the server's time at some moment between two of the monotonic clock.

        The answer of least delay is the most exact one. It holds until another one contradicts it.
        """
        least, most = server_us - came_us, server_us - sent_us
        now = least if self.offset_us is None else min(max(self.offset_us, least), most)
        if now != self.offset_us:
            self.offset_us = now
            for follower in self._followers:
                follower.tell()


class ServerKeeper:
    """Keeps one clock to the server's time. A simulated clock stays as it is."""

    def __init__(self, time: ServerTime, clock: Clock) -> None:
        self._time, self._clock, self._lead_us = time, clock, 0
        self.tell()

    def tell(self) -> None:
        """Set the clock to the time of the server, but never back."""
        if isinstance(self._clock, SystemClock) and self._time.offset_us is not None:
            self._clock.lead(self._time.offset_us + self._lead_us)

    def follow(self, store: Store) -> None:
        """Take over the lead of earlier processes over the server's clock."""
        rows = store.read(_KEPT)
        self._lead_us = int(rows[0][0]) if rows else 0
        self.tell()

    def keep(self, transaction: Transaction) -> None:
        """Leave our lead for later processes, after a jump of the server's clock."""
        if not isinstance(self._clock, SystemClock) or self._time.offset_us is None:
            return
        lead_us = max(0, self._clock.offset_us - self._time.offset_us)
        rows = transaction.query(_KEPT, {})
        kept_us = int(rows[0][0]) if rows else 0
        if abs(lead_us - kept_us) > _STEP_US:
            transaction.execute(_KEEP, {"value": str(lead_us)})

    def published_us(self, transaction: Transaction) -> int:
        """Return the time of a publish: that of the server, as *transaction* has learnt it."""
        return self._clock.now_us()
