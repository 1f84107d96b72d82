"""The SQL broker: events, queues and dead letters in the store's own database.

So record, hand-on and acknowledgement are one commit.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from mltrigger.broker import (
    AT_ONCE,
    MAX_EVENT_BYTES,
    Delivery,
    Depth,
    Outdated,
    Receipt,
    Sending,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.clock import Clock
from mltrigger.errors import StoreError
from mltrigger.event.data import encode_data
from mltrigger.event.event import Event
from mltrigger.event.making import traced
from mltrigger.store import binding, direct, leases, leasing, publishing, ranges, settling
from mltrigger.store.leasing import BEHIND
from mltrigger.store.queue import Term, deliveries
from mltrigger.store.timekeeper import Timekeeper
from mltrigger.store.transaction import Store, Transaction
from mltrigger.store.unit import Unit
from mltrigger.store.wake import Wakeup

SWEEP_US = 1_000_000
"""The shortest time between two looks for expired leases."""
_WATCHED_S = 3.0
"""A watch that was silent for longer does not count."""

_CHARGE = """
UPDATE lease SET abandoned = CASE WHEN abandoned > 0 THEN abandoned + 1 ELSE 1 END
WHERE subscription_id = :s AND number = :number AND low = :seq
"""
_CLEAR = """
UPDATE lease SET abandoned = CASE WHEN abandoned > 1 THEN abandoned - 1 ELSE :before END
WHERE subscription_id = :s AND number = :number AND low = :seq
"""
_DEPTH = f"""
WITH rows_of AS (
  SELECT visible_us, seq FROM ready WHERE subscription_id = :s
  UNION ALL SELECT visible_us, seq FROM awaited WHERE subscription_id = :s
)
SELECT
  (SELECT count(*) FROM rows_of WHERE visible_us <= :now)
    + CASE WHEN c.next_seq IS NULL THEN 0 ELSE {BEHIND} END,
  (SELECT count(*) FROM rows_of WHERE visible_us > :now),
  (SELECT coalesce(sum(n), 0) FROM lease WHERE subscription_id = :s),
  (SELECT count(*) FROM dead_letter WHERE subscription_id = :s AND discarded_us IS NULL),
  (SELECT min(published_us) FROM event WHERE seq = (
    SELECT min(seq) FROM (
      SELECT min(seq) AS seq FROM rows_of
      UNION ALL SELECT min(low) FROM lease WHERE subscription_id = :s
      UNION ALL SELECT min(e.seq) FROM event e
        WHERE e.topic_id = s.topic_id AND e.seq >= c.next_seq AND e.by_rows_us IS NULL
    ) AS open
  )),
  (SELECT min(visible_us) FROM rows_of WHERE visible_us > :now)
FROM subscription s JOIN cursor c ON c.subscription_id = s.id WHERE s.id = :s
"""
_EMPTY = (0, 0, 0, 0, None, None)


class SqlBroker:
    """A broker in a SQL store: one SQLite file for a laptop, or memory for a test.

    Parameters
    ----------
    store : Store
        The database.
    clock : Clock
        Decides when leases expire and delays end.
    wakeup : Wakeup
        Wakes listeners in this and other processes.
    worker_id : callable
        Returns the number of this process. Asked at the first claim.
    """

    ordered = False

    def __init__(
        self, store: Store, clock: Clock, wakeup: Wakeup, worker_id: Callable[[], int]
    ) -> None:
        self._store, self._clock, self._wakeup, self._worker_id = store, clock, wakeup, worker_id
        self.time = Timekeeper(clock)
        self._swept: dict[int, int] = {}
        self._idle: set[int] = set()
        self.watched_s = -math.inf
        """The monotonic time of the last look for all receivers of this process."""

    # -- publish -----------------------------------------------------------------------------------

    def publish(
        self, topic: str, events: Sequence[Event], unit: Unit | None = None
    ) -> list[Receipt]:
        """Make *events* and their deliveries durable, see :class:`~mltrigger.broker.Broker`."""
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in events]

        def write(transaction: Transaction) -> list[Receipt]:
            published = publishing.publish(
                transaction, topic, encoded, self.time.published_us(transaction)
            )
            self._wake_after(transaction, published.woken)
            return published.receipts

        if unit is not None and unit.transaction.store is self._store:
            return write(unit.transaction)
        return self._store.write(write)

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Unit | None = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events to one subscription only.

        Its open events, and those that succeeded, stay as they are.
        """
        with self.within(unit) as transaction:
            sent = binding.send(
                transaction, subscription.id, seqs, sending, self._worker_id(), self._clock.now_us()
            )
            self._wake_after(transaction, [f"ready:{subscription.id}"])
        return sent

    def cancel(self, seq: int) -> list[str]:
        """End the deliveries of an event that have not begun. Return the names of the others."""
        with self._store.transaction() as transaction:
            begun = binding.cancel(transaction, seq, self._worker_id(), self._clock.now_us())
            self._wake_after(transaction, ["done"])
        return begun

    def discard(
        self, subscription: SubscriptionSpec, seqs: Sequence[int], reason: str
    ) -> list[int]:
        """Put dead letters away for good."""
        with self._store.transaction() as transaction:
            return binding.discard(transaction, subscription.id, seqs, reason, self._clock.now_us())

    # -- bind --------------------------------------------------------------------------------------

    def bind(
        self, subscription: SubscriptionSpec, from_start: bool = False, outside: bool = False
    ) -> None:
        """Deliver events from now on, or *from_start* all events of the archive. Idempotent.

        *outside*: it has a queue elsewhere too.
        """
        with self._store.transaction() as transaction:
            binding.bind(
                transaction,
                subscription,
                from_start,
                self._worker_id(),
                self._clock.now_us(),
                outside,
            )

    def unbind(self, name: str, delete: bool = False) -> None:
        """Deliver no more to *name*. Its open events end as skipped."""
        with self._store.transaction() as transaction:
            if binding.unbind(transaction, name, self._worker_id(), self._clock.now_us()):
                self._wake_after(transaction, ["done"])

    def pause(self, name: str, paused: bool = True) -> None:
        """Stop leasing for *name*, or go on."""
        with self._store.transaction() as transaction:
            transaction.execute(
                "UPDATE subscription SET paused = :p WHERE name = :name",
                {"name": name, "p": int(paused)},
            )
            woken = transaction.query(
                "SELECT id FROM subscription WHERE name = :name", {"name": name}
            )
            self._wake_after(transaction, [f"ready:{number}" for (number,) in woken])

    # -- receive -----------------------------------------------------------------------------------

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
    ) -> Sequence[Delivery]:
        """Lease up to *max_events*. A publisher, a due delay or an expired lease ends the wait."""
        key = f"ready:{subscription.id}"
        self._wakeup.join(key, f"topic:{subscription.topic}")
        seen = self._wakeup.generation(key)
        # After an empty look, asking for the next due time is cheaper than another empty
        # claim.
        due_s = self._due_s(subscription) if subscription.id in self._idle else 0.0
        found = self._claim(subscription, max_events, generation) if due_s <= 0 else []
        if not found and wait_s > 0:
            watched = time.monotonic() - self.watched_s < _WATCHED_S
            longest_s = wait_s if watched else min(wait_s, self._wakeup.poll_s)
            due_s = due_s if due_s > 0 else self._due_s(subscription)
            woken = self._wakeup.wait(key, seen, max(0.0, min(longest_s, due_s)))
            if woken or due_s <= longest_s:  # else nothing came, and the next call looks again
                found = self._claim(subscription, max_events, generation)
        (self._idle.discard if found else self._idle.add)(subscription.id)
        return found

    def begin(
        self, subscription: SubscriptionSpec, events: Sequence[Event], generation: str
    ) -> direct.Begun:
        """Write *events* of a direct call and lease them, in one commit.

        The commit need not reach the disk. The outcome follows, and only that is told.

        Raises
        ------
        Outdated
            When the registry has changed since *generation*.
        """
        encoded = [(traced(event), *encode_data(event, MAX_EVENT_BYTES)) for event in events]
        with self._store.transaction(durable=False) as transaction:
            at = leasing.standing(transaction, subscription.id)
            if at is None or (at.generation or "") != generation:
                raise Outdated
            now_us = self.time.published_us(transaction)
            until_us = now_us + int(subscription.policy.lease * 1e6)
            number = leases.next_number(transaction, subscription.id)
            term = Term(subscription.id, number, now_us, until_us, self._worker_id())
            return direct.begin(transaction, subscription, encoded, at, term)

    def begun(self, subscription: SubscriptionSpec, events: Sequence[Event]) -> list[int] | None:
        """Return the numbers of the events of a direct call, if none of them has to run now.

        Raises
        ------
        IdTaken
            When one has other data than before.
        """
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in events]
        return direct.begun(self._store, subscription, encoded)

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a receive that waits in this process."""
        self._wakeup.notify_here(f"ready:{subscription.id}")

    def _claim(
        self, subscription: SubscriptionSpec, max_events: int, generation: str | None
    ) -> Sequence[Delivery]:
        asked_s, now_us = time.monotonic(), self._clock.now_us()
        try:
            if now_us - self._swept.get(subscription.id, -SWEEP_US) >= SWEEP_US:
                self._swept[subscription.id] = now_us
                self.sweep(subscription, now_us)
            return self._lease(subscription, max_events, generation)
        finally:
            # leases expired that nobody could extend: their holders come first
            if _waited(asked_s):
                self._swept[subscription.id] = self._clock.now_us()

    def _lease(
        self, subscription: SubscriptionSpec, max_events: int, generation: str | None
    ) -> Sequence[Delivery]:
        lease_us, worker_id = int(subscription.policy.lease * 1e6), self._worker_id()
        # Not durable: a power cut that loses a claim only repeats the event. The next outcome makes
        # it durable anyway.
        with self._store.transaction(durable=False) as transaction:
            at = leasing.standing(transaction, subscription.id)
            if generation is not None and (at is None or (at.generation or "") != generation):
                raise Outdated
            if at is None:
                return []
            # Read the time after the wait for the store, else the lease might begin in the past.
            now_us = self._clock.now_us()
            term = Term(subscription.id, at.next_lease, now_us, now_us + lease_us, worker_id)
            if (alike := ranges.claim(transaction, at, term, max_events)) is not None:
                return alike
            found = leasing.claim(transaction, at, term, max_events)
            try:
                return deliveries(transaction, found, term)
            except StoreError as error:  # one cannot be read, and nobody has worked on any of them
                leasing.put_back(transaction, term, found)
                unreadable = error
        raise unreadable

    def sweep(self, subscription: SubscriptionSpec, now_us: int) -> None:
        """Put events with an expired lease back. One that killed its worker too often is dead."""
        if not leasing.has_expired(self._store, subscription.id, now_us):
            return
        asked_s = time.monotonic()
        with self._store.transaction() as transaction:
            if not _waited(asked_s) and leasing.sweep(
                transaction, subscription.id, now_us, subscription.role
            ):
                self._wake_after(transaction, ["done"])

    def _due_s(self, subscription: SubscriptionSpec) -> float:
        """Return the seconds until the next delayed event or look at leases. 0 or less: now."""
        due = leasing.due(self._store, subscription.id)
        if due.beyond and not due.paused:
            return 0.0
        until_us, visible_us = due.until_us, None if due.paused else due.visible_us
        if until_us is not None:  # not before the next sweep, which finds it
            until_us = max(until_us, self._swept.get(subscription.id, 0) + SWEEP_US)
        due_us = min((at for at in (visible_us, until_us) if at is not None), default=None)
        return float("inf") if due_us is None else (due_us - self._clock.now_us()) / 1e6

    # -- settle ------------------------------------------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases for *lease_s* from now. Return the lost ones."""
        with self._store.transaction(durable=False) as transaction:
            # after the wait for the store
            until_us = self._clock.now_us() + int(lease_s * 1e6)
            return settling.extend(transaction, deliveries, until_us)

    def settle(self, settlements: Sequence[Settlement], unit: Unit | None = None) -> list[Delivery]:
        """Settle deliveries that are still held. Return the others, which stay unchanged."""
        if not settlements:
            return []
        with self.within(unit) as transaction:
            lost, back = settling.settle(transaction, settlements, self._clock.now_us())
            self._wake_after(transaction, ["done", *(f"ready:{s}" for s in back)])
        return lost

    def ack(self, deliveries: Sequence[Delivery], unit: Unit | None = None) -> bool:
        """Settle deliveries as done, if all of them are held."""
        with self.within(unit) as transaction:
            if not settling.ack(transaction, deliveries):
                return False
            self._wake_after(transaction, ["done"])
        return True

    def settle_late(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> list[Delivery]:
        """Let late answers count where there is no outcome yet."""
        with self.within(unit) as transaction:
            counted = settling.settle_late(transaction, settlements, self._clock.now_us())
            self._wake_after(transaction, ["done"])
        return counted

    def alone(self, delivery: Delivery, is_alone: bool = True) -> bool:
        """Count the attempt as abandoned until it ends, or no longer. Return whether it is held."""
        s, number, seq = delivery.subscription_id, delivery.lease, delivery.seq
        of = {"s": s, "number": number, "seq": seq}
        with self._store.transaction() as transaction:
            held = leases.held(transaction, s, number, [seq])
            if held:
                leases.single_out(transaction, held[seq], seq)
                before = {} if is_alone else {"before": min(0, delivery.abandoned)}
                transaction.execute(_CHARGE if is_alone else _CLEAR, {**of, **before})
        delivery.alone = is_alone
        return bool(held)

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count waiting, delayed, leased and dead events."""
        at = {"s": subscription.id, "now": self._clock.now_us()}
        rows = self._store.read(_DEPTH, at)
        visible, delayed, in_flight, dead, oldest_us, next_us = rows[0] if rows else _EMPTY
        oldest_s = None if oldest_us is None else (at["now"] - oldest_us) / 1e6
        return Depth(
            visible,
            delayed,
            in_flight,
            dead,
            oldest_s,
            None if next_us is None else (next_us - at["now"]) / 1e6,
        )

    def _wake_after(self, transaction: Transaction, keys: Collection[str]) -> None:
        """Wake the waiters of *keys*: listeners at once, those of outcomes when it is durable."""
        if ready := [key for key in keys if key != "done"]:
            transaction.after_visible(functools.partial(self._wakeup.notify, ready))
        if "done" in keys:
            transaction.after_commit(functools.partial(self._wakeup.notify, ["done"]))

    @contextlib.contextmanager
    def within(self, unit: Unit | None) -> Iterator[Transaction]:
        """Write inside *unit* if it is a transaction of this store, else in a new one."""
        if unit is not None and unit.transaction.store is self._store:
            yield unit.transaction
        else:
            with self._store.transaction() as transaction:
                yield transaction


def _waited(since_s: float) -> bool:
    """Whether the store was silent since *since_s* (monotonic) for so long that leases expired."""
    return time.monotonic() - since_s > SWEEP_US / 1e6
