"""The time of a store: the same for all processes of a machine, with any wall clocks.

The store keeps how far its time is ahead of the monotonic clock, which all processes share until
the machine boots again. A later process always follows upwards. It follows downwards where a live
listener shows that the later clock is ahead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from mltrigger.clock import Clock, SystemClock, boot_id
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.transaction import Row, Store, Transaction

ALIVE_US = 15_000_000
"""A worker not seen for this long counts as gone."""
STEP_US = 1_000_000
"""Clocks that differ by less are equal."""
_ASK_US = 1_000_000
_KEPT = "SELECT value FROM setting WHERE name = 'clock'"
_SEEN = "SELECT max(seen_us) FROM worker"
_KEEP = """
INSERT INTO setting (name, value) VALUES ('clock', :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
# A publish is due at once: a time "in the future" is only another clock. Retries and
# delays have times of their own.
_AHEAD = """
FROM {place} WHERE subscription_id IN (SELECT id FROM subscription) AND visible_us > :now
AND visible_us = (SELECT published_us FROM event e WHERE e.seq = {place}.seq)
"""
_PLACES = ("ready", "awaited")

Ask = Callable[[str, Mapping[str, Any]], list[Row]]


class Timekeeper:
    """Keeps one process to the time of the store.

    Parameters
    ----------
    clock : Clock
        The clock of this process. Only a SystemClock is ever corrected.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = clock.boot if isinstance(clock, SystemClock) else boot_id()
        self._kept_us: int | None = None
        self._ask_us = 0

    def follow(self, store: Store) -> None:
        """Take over the time of earlier processes."""
        self._agree(lambda sql, given: store.read(sql, given))

    def keep(self, transaction: Transaction) -> None:
        """Leave our time for later processes. After a jump of the clock, take over theirs."""
        clock, kept_us = self._clock, self._offset_us(transaction.query)
        if not isinstance(clock, SystemClock) or not self._boot:
            return
        if kept_us is None or clock.offset_us > kept_us + STEP_US:
            self._kept_us = clock.offset_us
            transaction.execute(
                _KEEP, {"value": json.dumps({"boot": self._boot, "offset_us": clock.offset_us})}
            )
        else:
            clock.follow(kept_us)

    def published_us(self, transaction: Transaction) -> int:
        """Return the time of a publish: now, or the listeners' time if our clock is ahead.

        Else the listeners would wait.
        """
        monotonic_us = time.monotonic_ns() // 1000
        if monotonic_us >= self._ask_us:
            self._ask_us = monotonic_us + _ASK_US
            self._agree(transaction.query)
            if self._kept_us is None:
                self.keep(transaction)
        now_us = self._clock.now_us()
        if self._kept_us is None:
            return now_us
        store_us = monotonic_us + self._kept_us
        if now_us - store_us <= STEP_US:
            return now_us
        if _is_lead(transaction.query, store_us):
            return store_us
        self.keep(transaction)
        return now_us

    def _agree(self, ask: Ask) -> None:
        clock, kept_us = self._clock, self._offset_us(ask)
        self._kept_us = kept_us
        if kept_us is None or not isinstance(clock, SystemClock):
            return
        if clock.offset_us <= kept_us:
            clock.follow(kept_us)
        elif clock.offset_us > kept_us + STEP_US and _is_lead(
            ask, time.monotonic_ns() // 1000 + kept_us
        ):
            clock.adopt(kept_us)

    def _offset_us(self, ask: Ask) -> int | None:
        """Return the lead of the store's time over the monotonic clock. ``None`` after a boot."""
        rows = ask(_KEPT, {})
        if not rows or not self._boot:
            return None
        try:
            kept = json.loads(rows[0][0])
            return int(kept["offset_us"]) if kept["boot"] == self._boot else None
        except ERRORS as error:
            raise damaged("setting", "clock", error) from error


def _is_lead(ask: Ask, store_us: int) -> bool:
    """Whether a live worker keeps the store's time, which is *store_us* now."""
    seen_us = ask(_SEEN, {})[0][0]
    return seen_us is not None and abs(store_us - seen_us) < ALIVE_US


def ahead(store: Store, now_us: int) -> tuple[int, float] | None:
    """Return the number of deliveries published in the future, and the longest wait in seconds.

    ``None`` without any.
    """
    counts = [
        store.read(
            f"SELECT count(*), max(visible_us) {_AHEAD.format(place=place)}",
            {"now": now_us + STEP_US},
        )[0]
        for place in _PLACES
    ]
    waiting = sum(count for count, _ in counts)
    return (
        (waiting, (max(until_us for _, until_us in counts if until_us) - now_us) / 1e6)
        if waiting
        else None
    )


def bring_forward(transaction: Transaction, now_us: int) -> None:
    """Make events that were published in the future visible now.

    Their publisher had another clock, and has left.
    """
    for place in _PLACES:
        due = _AHEAD.format(place=place).replace(f"FROM {place} ", "", 1)
        transaction.execute(f"UPDATE {place} SET visible_us = :now {due}", {"now": now_us})
