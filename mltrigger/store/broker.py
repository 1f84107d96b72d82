"""The SQL broker: events, queues and dead letters in the store's own database.

So record, hand-on and acknowledgement are one commit.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

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
from mltrigger.event.data import encode_data
from mltrigger.event.event import Event
from mltrigger.event.making import traced
from mltrigger.store import binding, direct, leases, leasing, publishing, settling
from mltrigger.store.leasing import BEHIND
from mltrigger.store.queue import Term
from mltrigger.store.receiving import Receiving
from mltrigger.store.transaction import Store, Transaction
from mltrigger.store.unit import Unit
from mltrigger.store.wake import Wakeup

_FEW = 16
"""How many events a publish hands over at most. The receivers of more are woken."""

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
  UNION ALL SELECT visible_us, seq FROM keyed WHERE subscription_id = :s
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
          AND e.seq <= coalesce(c.last_seq, e.seq)
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
        self.time = store.timekeeper(clock)
        self._receiving = Receiving(store, clock, wakeup, worker_id)

    # -- publish -----------------------------------------------------------------------------------

    def publish(self, topic: str, events: Sequence[Any], unit: Unit | None = None) -> list[Receipt]:
        """Make *events* and their deliveries durable, see :class:`~mltrigger.broker.Broker`."""
        asked = topic, publishing.prepared(events)
        if unit is not None and unit.transaction.store is self._store:
            return self._written(unit.transaction, [asked])[0]
        return self._store.write(self._written, asked)

    def _written(
        self, transaction: Transaction, asked: Sequence[publishing.Asked]
    ) -> list[list[Receipt]]:
        """Publish the samples of several callers. Return the receipts of each."""
        published = publishing.publish(transaction, asked, self.time.published_us(transaction))
        counts: dict[str, int] = {}
        for (topic, _), receipts in zip(asked, published.receipts, strict=True):
            counts[topic] = counts.get(topic, 0) + len(receipts)
        for topic, count in counts.items():
            if count <= _FEW:
                self._receiving.hand_over(transaction, topic, published.woken)
        self._wake_after(transaction, published.woken)
        return published.receipts

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
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        reason: str,
        up_to: int | None = None,
    ) -> list[int]:
        """Put dead letters away for good."""
        now_us = self._clock.now_us()
        with self._store.transaction() as transaction:
            return binding.discard(transaction, subscription.id, seqs, reason, now_us, up_to)

    # -- bind --------------------------------------------------------------------------------------

    def bind(
        self,
        subscription: SubscriptionSpec,
        from_start: bool = False,
        rebind: bool = False,
        outside: bool = False,
    ) -> None:
        """Deliver events from now on, or *from_start* all events of the archive. Idempotent.

        *outside*: it has a queue elsewhere too. *rebind*: also to a version that was replaced.
        """
        with self._store.transaction() as transaction:
            binding.bind(
                transaction,
                subscription,
                from_start,
                self._worker_id(),
                self._clock.now_us(),
                outside,
                rebind,
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
        unit: Unit | None = None,
    ) -> Sequence[Delivery]:
        """Lease up to *max_events*. A publisher, a due delay or an expired lease ends the wait."""
        if unit is None:
            return self._receiving.receive(subscription, max_events, wait_s, generation)
        if unit.transaction.store is not self._store:
            return []
        return self._receiving.follow(unit.transaction, subscription, max_events, generation)

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

    def sweep(self, subscription: SubscriptionSpec, now_us: int) -> None:
        """Put events with an expired lease back. One that killed its worker too often is dead."""
        self._receiving.sweep(subscription, now_us)

    def watched(self) -> None:
        """Take note of a look for all receivers of this process. Receivers rely on it."""
        self._receiving.watched_s = time.monotonic()
        self._receiving.look_for_seats()

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
            back |= self._freed([s.delivery for s in settlements])
            self._wake_after(transaction, ["done", *(f"ready:{s}" for s in back)])
        return lost

    def ack(self, deliveries: Sequence[Delivery], unit: Unit | None = None) -> bool:
        """Settle deliveries as done, if all of them are held."""
        with self.within(unit) as transaction:
            if not settling.ack(transaction, deliveries):
                return False
            freed = self._freed(deliveries)
            self._wake_after(transaction, ["done", *(f"ready:{s}" for s in freed)])
        return True

    def settle_late(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> list[Delivery]:
        """Let late answers count where there is no outcome yet."""
        with self.within(unit) as transaction:
            counted = settling.settle_late(transaction, settlements, self._clock.now_us())
            freed = self._freed(counted)
            self._wake_after(transaction, ["done", *(f"ready:{s}" for s in freed)])
        return counted

    def _freed(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Return the subscriptions of *deliveries* with keys: other events may begin now."""
        if not (keyed := self._receiving.keyed):
            return set()
        return {d.subscription_id for d in deliveries if d.subscription_id in keyed}

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
