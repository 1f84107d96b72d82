"""The time of the server, for all processes of all machines.

Each write transaction learns it. Between two of them the monotonic clock of the machine goes on. So
no wall clock of a machine matters. If the server's clock is set back, the processes go on at the
speed of their monotonic clocks. Later processes begin at the newest time that they have written.
"""

from __future__ import annotations

import time

from mltrigger.clock import Clock, SystemClock
from mltrigger.store.transaction import Store, Transaction

_NEWEST = """
SELECT (SELECT max(seen_us) FROM worker), (SELECT published_us FROM event ORDER BY seq DESC LIMIT 1)
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

    def __init__(self, server: ServerTime, clock: Clock) -> None:
        self._time, self._clock = server, clock
        self.tell()

    def tell(self) -> None:
        """Set the clock to the time of the server, but never back."""
        if isinstance(self._clock, SystemClock) and self._time.offset_us is not None:
            self._clock.lead(self._time.offset_us)

    def follow(self, store: Store) -> None:
        """Begin no earlier than the newest time in the store: the server's clock may be behind."""
        if isinstance(self._clock, SystemClock):
            store.version()  # the time of the server
            written_us = [us for us in store.read(_NEWEST)[0] if us is not None]
            if written_us:
                self._clock.follow(max(written_us) - time.monotonic_ns() // 1000)

    def keep(self, transaction: Transaction) -> None:
        """Do nothing: the times that we write are there for later processes."""

    def published_us(self, transaction: Transaction) -> int:
        """Return the time of a publish: that of the server, as *transaction* has learnt it."""
        return self._clock.now_us()
