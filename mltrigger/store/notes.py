"""Notes of sources in the store, and leases: for all processes of a bus."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from mltrigger.broker import Mark
from mltrigger.clock import Clock
from mltrigger.store.endings import StoredEndings
from mltrigger.store.transaction import Reader, Row, Store, Transaction

_SET = """
INSERT INTO setting (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_GET = "SELECT value FROM setting WHERE name = :name"


class StoredNotes:
    """The notes of one bus.

    Parameters
    ----------
    store : Store
        Keeps them beside the settings.
    clock : Clock
        Ends the leases.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._holder = uuid.uuid4().hex

    def now_us(self) -> int:
        """Return the time of the bus."""
        return self._clock.now_us()

    def held(self, name: str) -> bool:
        """Whether any process has the lease *name*."""
        return _lease(_Read(self._store), f"lease:{name}")[1] > self._clock.now_us()

    def recall(self, name: str) -> Any:
        """Return the note *name*, ``None`` if there is none."""
        rows = self._store.read(_GET, {"name": f"source:{name}"})
        return next((json.loads(value) for (value,) in rows), None)

    def remember(self, name: str, note: Any) -> None:
        """Keep *note*. Durable on return."""
        with self._store.transaction() as transaction:
            _keep(transaction, f"source:{name}", note)

    def lease(self, name: str, lease_s: float) -> bool:
        """Take or renew a lease. Return whether this bus has it."""
        now_us = self._clock.now_us()
        with self._store.transaction(durable=False) as transaction:
            holder, until_us = _lease(transaction, f"lease:{name}")
            if holder != self._holder and until_us > now_us:
                return False
            until_us = now_us + round(lease_s * 1e6)
            _keep(transaction, f"lease:{name}", [self._holder, until_us])
        return True

    def release(self, name: str) -> None:
        """Give a lease back, if this bus has it."""
        with self._store.transaction(durable=False) as transaction:
            if _lease(transaction, f"lease:{name}")[0] == self._holder:
                transaction.execute("DELETE FROM setting WHERE name = :n", {"n": f"lease:{name}"})

    def newest(self) -> Mark:
        """Return the place of the newest attempt in the log."""
        return StoredEndings(self._store).newest()


def _keep(transaction: Transaction, name: str, note: Any) -> None:
    transaction.execute(_SET, {"name": name, "value": json.dumps(note)})


class _Read(NamedTuple):
    store: Store

    def query(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        return self.store.read(sql, parameters)


def _lease(reader: Reader, name: str) -> tuple[str, int]:
    for (value,) in reader.query(_GET, {"name": name}):
        holder, until_us = json.loads(value)
        return str(holder), int(until_us)
    return "", 0
