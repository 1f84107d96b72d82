"""The watch: one look a second for all that wait in a process.

It finds events that fell due without a wake-up, and gives back those of processes that died.
"""

from __future__ import annotations

import threading
from typing import Any

from mltrigger.clock import Clock
from mltrigger.store import leasing
from mltrigger.store.broker import SqlBroker
from mltrigger.store.registry import Registry
from mltrigger.store.sqlite.living import Living
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup

_AGAIN_US = 1_000_000

_HOLDERS = """
SELECT DISTINCT l.worker_id FROM lease l JOIN worker w ON w.id = l.worker_id
WHERE w.place = :place
"""
_HELD = "SELECT DISTINCT subscription_id FROM lease WHERE worker_id = :w"
_END = "UPDATE lease SET until_us = :now WHERE worker_id = :w AND until_us > :now"


class Watch:
    """Looks for all waiting receivers of a process. An idle look costs one number.

    Parameters
    ----------
    broker : SqlBroker
        The broker in *store*.
    living : Living
        The locks of the workers of *store*.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wakeup: Wakeup,
        living: Living,
        registry: Registry,
        broker: SqlBroker,
    ) -> None:
        self._store, self._clock, self._wakeup, self._living = store, clock, wakeup, living
        self._registry, self._broker = registry, broker
        self._seen: object = None
        self._holders: set[int] = set()
        self._due_us: float = 0
        self._guard = threading.Lock()

    def look(self) -> object:
        """Give back the events of workers that died, and wake receivers with events that are due.

        Return a value that differs after each commit. Receivers rely on these looks. A while after
        the last one they look themselves again.
        """
        with self._guard:
            self._broker.watched()
            seen = self._store.version()  # first: all later changes are news
            changed = seen != self._seen
            if changed:
                self._holders = self._found_holders()
            if dead := self._living.gone(self._holders):
                self._give_back(dead)
            if changed or dead or self._clock.now_us() >= self._due_us:
                self._wake_due()
            self._seen = seen
            return seen

    def version(self) -> object:
        """Return a value that differs after each commit. Nothing else is done."""
        with self._guard:
            return self._store.version()

    def _found_holders(self) -> set[int]:
        if (place := self._living.place) is None:
            return set()
        return {number for (number,) in self._store.read(_HOLDERS, {"place": place})}

    def _give_back(self, dead: set[int]) -> None:
        """End the leases of *dead* workers now. Safe to repeat, and beside another process."""
        of: list[dict[str, Any]] = [{"w": number, "now": self._clock.now_us()} for number in dead]
        with self._store.transaction(durable=False) as transaction:
            held = {s for each in of for (s,) in transaction.query(_HELD, each)}
            for each in of:
                transaction.execute(_END, each)
        for spec in [*self._registry.subscriptions(None), *self._registry.lanes()]:
            if spec.id in held:
                self._broker.sweep(spec, self._clock.now_us())
        self._wakeup.notify([f"ready:{number}" for number in held])
        self._holders -= dead

    def _wake_due(self) -> None:
        now_us, due = self._clock.now_us(), leasing.due_of_all(self._store)
        for number, due_us in due:
            if due_us <= now_us:
                self._wakeup.notify_here(f"ready:{number}")
        for spec in self._registry.subscriptions("direct"):  # nobody receives those
            self._broker.sweep(spec, now_us)
        # nobody may have taken them: look again
        self._due_us = min(
            (max(due_us, now_us + _AGAIN_US) for _, due_us in due), default=float("inf")
        )
