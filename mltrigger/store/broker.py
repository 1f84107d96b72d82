"""The SQL broker: events, queues and dead letters in the store's own database, so that record,
hand-on and ack are one commit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mltrigger.broker import (
    AT_ONCE,
    MAX_EVENT_BYTES,
    Delivery,
    Depth,
    Finding,
    Outdated,
    Receipt,
    Sending,
    Settlement,
    Source,
    SubscriptionSpec,
)
from mltrigger.clock import Clock
from mltrigger.errors import InvalidName, StoreError
from mltrigger.event.event import Event, decode_data, encode_data, restored
from mltrigger.policy import MAX_ABANDONED, SUSPECT, DeliveryPolicy
from mltrigger.store import binding, publishing, settling
from mltrigger.store.damage import ERRORS, damaged
from mltrigger.store.publishing import INSERT_AWAITED, INSERT_READY
from mltrigger.store.registry import ensure_topic, generation_of
from mltrigger.store.settling import INSERT_DEAD, again_row, comes_again, dead_row, died_row
from mltrigger.store.timekeeper import Timekeeper
from mltrigger.store.transaction import Row, Store, Transaction
from mltrigger.store.unit import Unit, record_abandoned
from mltrigger.store.wake import Wakeup
from mltrigger.text import short

SWEEP_US = 1_000_000
"""How often at most a listener looks for leases that ran out."""

_SELECT_READY = """
SELECT r.seq, r.visible_us, r.attempt, r.failures, r.abandoned, e.published_us, e.id, e.source, e.type, e.time, e.subject,
  e.datacontenttype, e.dataschema, e.traceparent, e.extensions, e.data, a.times, a.resent_us, a.data, a.datacontenttype
FROM ready r JOIN event e ON e.seq = r.seq LEFT JOIN resent a ON a.subscription_id = r.subscription_id AND a.seq = r.seq
WHERE r.subscription_id = :s AND r.visible_us <= :now AND (SELECT paused FROM subscription WHERE id = :s) = 0
ORDER BY r.visible_us, r.seq LIMIT :n
"""
_DUE = """
SELECT (SELECT min(visible_us) FROM ready WHERE subscription_id = :s AND (SELECT paused FROM subscription WHERE id = :s) = 0),
  (SELECT min(until_us) FROM lease WHERE subscription_id = :s)
"""
_DELETE_READY = (
    "DELETE FROM ready WHERE subscription_id = :s AND visible_us = :visible_us AND seq = :seq"
)
INSERT_LEASE = """
INSERT INTO lease (subscription_id, seq, attempt, failures, abandoned, visible_us, received_us, until_us, worker_id, outside)
VALUES (:s, :seq, :attempt, :failures, :abandoned, :visible_us, :received_us, :until_us, :worker_id, :outside)
"""
_SELECT_HELD = (
    "SELECT seq, attempt, failures, abandoned FROM lease WHERE subscription_id = :s AND seq BETWEEN"
    " :low AND :high"
)
_DELETE_LEASE = "DELETE FROM lease WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt"
_EXTEND_LEASE = (
    "UPDATE lease SET until_us = :until_us WHERE subscription_id = :s AND seq = :seq AND attempt ="
    " :attempt"
)
_CHARGE = """
UPDATE lease SET abandoned = CASE WHEN abandoned > 0 THEN abandoned + 1 ELSE 1 END
WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt
"""
_CLEAR = """
UPDATE lease SET abandoned = CASE WHEN abandoned > 1 THEN abandoned - 1 ELSE :before END
WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt
"""
_SELECT_EXPIRED = """
SELECT subscription_id, seq, attempt, visible_us, received_us, worker_id, failures, abandoned, outside FROM lease
WHERE subscription_id = :s AND until_us <= :now
"""


class SqlBroker:
    """A broker in a SQL store: one SQLite file for a laptop, its memory for a test.

    Parameters
    ----------
    store : Store
        The database.
    clock : Clock
        Decides when leases run out and delays end.
    wakeup : Wakeup
        Tells waiting listeners, here and in other processes, that there is something.
    worker_id : callable
        The number of this process, asked for at the first claim.
    """

    ordered = False

    def __init__(
        self, store: Store, clock: Clock, wakeup: Wakeup, worker_id: Callable[[], int]
    ) -> None:
        self._store, self._clock, self._wakeup, self._worker_id = store, clock, wakeup, worker_id
        self.time = Timekeeper(clock)
        self._swept: dict[int, int] = {}
        self._idle: set[int] = set()

    # -- publish -----------------------------------------------------------------------------------

    def publish(
        self, topic: str, events: Sequence[Event], unit: Unit | None = None
    ) -> list[Receipt]:
        """Make *events* and their deliveries durable; see :class:`~mltrigger.broker.Broker`."""
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in events]
        with self.within(unit) as transaction:
            published = publishing.publish(
                transaction, topic, encoded, self.time.published_us(transaction)
            )
            if published.woken:
                transaction.after_commit(
                    functools.partial(self._wakeup.notify, [f"ready:{s}" for s in published.woken])
                )
        return published.receipts

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Unit | None = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events to one subscription only; those that it has open, or that
        succeeded, stay as they are.
        """
        with self.within(unit) as transaction:
            sent = binding.send(
                transaction, subscription.id, seqs, sending, self._worker_id(), self._clock.now_us()
            )
            transaction.after_commit(
                functools.partial(self._wakeup.notify, [f"ready:{subscription.id}"])
            )
        return sent

    def discard(
        self, subscription: SubscriptionSpec, seqs: Sequence[int], reason: str
    ) -> list[int]:
        """Put dead letters away for good."""
        with self._store.transaction() as transaction:
            return binding.discard(transaction, subscription.id, seqs, reason, self._clock.now_us())

    def check(self, topic: str, event: Event) -> None:
        """Every event that could be made can be published here."""

    def topic(self, name: str) -> None:
        """Make topic *name* exist; idempotent."""
        with self._store.transaction() as transaction:
            ensure_topic(transaction, name, self._clock.now_us())

    def locate(self, source: str) -> tuple[str, str] | None:
        """Return ``None`` for a topic; nothing outside can be listened to from here."""
        if "://" in source or source.startswith("arn:"):
            raise InvalidName(
                f"{short(source)} is listened to from a bus on AWS: bus ="
                " mt.connect('aws://region/prefix'), then bus.subscribe(…); here a source is the"
                " name of a topic or a folder, file:///scans/*.png"
            )
        return None

    # -- bind --------------------------------------------------------------------------------------

    def bind(
        self, subscription: SubscriptionSpec, from_start: bool = False, outside: bool = False
    ) -> None:
        """Deliver what is published from now on, or *from_start* everything in the archive;
        idempotent.

        *outside* says that it has a queue elsewhere too.
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

    def plan(self, subscription: SubscriptionSpec, source: str | None) -> list[Any]:
        """Nothing has to be created outside."""
        return []

    def findings(
        self, subscription: SubscriptionSpec | None = None, depth: Depth | None = None
    ) -> list[Finding]:
        """Nothing is outside."""
        return []

    def source(self, url: str, policy: DeliveryPolicy) -> Source | None:
        """Nothing outside is a source here."""
        return None

    def unbind(self, name: str, delete: bool = False) -> None:
        """Deliver no more to *name*; what was open ends as skipped."""
        with self._store.transaction() as transaction:
            if binding.unbind(transaction, name, self._worker_id(), self._clock.now_us()):
                transaction.after_commit(functools.partial(self._wakeup.notify, ["done"]))

    def pause(self, name: str, paused: bool = True) -> None:
        """Lease nothing more of *name*, or go on."""
        with self._store.transaction() as transaction:
            transaction.execute(
                "UPDATE subscription SET paused = :p WHERE name = :name",
                {"name": name, "p": int(paused)},
            )
            woken = transaction.query(
                "SELECT id FROM subscription WHERE name = :name", {"name": name}
            )
            transaction.after_commit(
                functools.partial(self._wakeup.notify, [f"ready:{number}" for (number,) in woken])
            )

    # -- receive -----------------------------------------------------------------------------------

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
    ) -> list[Delivery]:
        """Lease up to *max_events*; woken by a publisher, or by time when a delay or a lease ends."""
        key = f"ready:{subscription.id}"
        seen = self._wakeup.generation(key)
        # Where nothing was found last time, a look at what falls due next is cheaper than a claim
        # that finds nothing again.
        due_s = self._due_s(subscription) if subscription.id in self._idle else 0.0
        deliveries = self._claim(subscription, max_events, generation) if due_s <= 0 else []
        if not deliveries and wait_s > 0:
            longest_s = min(wait_s, self._wakeup.poll_s)
            due_s = due_s if due_s > 0 else self._due_s(subscription)
            woken = self._wakeup.wait(key, seen, max(0.0, min(longest_s, due_s)))
            if woken or due_s <= longest_s:  # else nothing has come, and the next call looks again
                deliveries = self._claim(subscription, max_events, generation)
        (self._idle.discard if deliveries else self._idle.add)(subscription.id)
        return deliveries

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a receive that is waiting in this process."""
        self._wakeup.notify_here(f"ready:{subscription.id}")

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Nothing is ever on its way here."""

    def upkeep(self) -> None:
        """Nothing is due here."""

    def close(self, drain_s: float, polls_s: float) -> None:
        """Nothing is held here."""

    def _claim(
        self, subscription: SubscriptionSpec, max_events: int, generation: str | None
    ) -> list[Delivery]:
        asked_s, now_us = time.monotonic(), self._clock.now_us()
        try:
            if now_us - self._swept.get(subscription.id, -SWEEP_US) >= SWEEP_US:
                self._swept[subscription.id] = now_us
                self.sweep(subscription, now_us)
            return self._lease(subscription, max_events, generation)
        finally:
            # leases ran out that nobody could extend: let those who hold them come first
            if _waited(asked_s):
                self._swept[subscription.id] = self._clock.now_us()

    def _lease(
        self, subscription: SubscriptionSpec, max_events: int, generation: str | None
    ) -> list[Delivery]:
        lease_us, worker_id = int(subscription.policy.lease * 1e6), self._worker_id()
        # Not durable: losing a claim at a power cut only repeats the event; the next outcome makes
        # it durable anyway.
        with self._store.transaction(durable=False) as transaction:
            if generation is not None and generation_of(transaction) != generation:
                raise Outdated
            # here, after the wait for the store: or the lease might be over as it begins
            now_us = self._clock.now_us()
            rows = _together(
                transaction.query(
                    _SELECT_READY, {"s": subscription.id, "now": now_us, "n": max_events}
                )
            )
            transaction.execute_many(_DELETE_READY, [(subscription.id, r[1], r[0]) for r in rows])
            until_us = now_us + lease_us
            leases = [
                (subscription.id, r[0], r[2] + 1, r[3], r[4], r[1], now_us, until_us, worker_id, 0)
                for r in rows
            ]
            transaction.execute_many(INSERT_LEASE, leases)
        try:
            return [delivery(row, subscription.id, now_us) for row in rows]
        except StoreError:  # one cannot be read: nobody was at work on any of them
            self._put_back(leases)
            raise

    def _put_back(self, leases: Sequence[Row]) -> None:
        with self._store.transaction() as transaction:
            transaction.execute_many(_DELETE_LEASE, [row[:3] for row in leases])
            transaction.execute_many(
                INSERT_READY,
                [(row[0], row[5], row[1], row[2] - 1, row[3], row[4]) for row in leases],
            )

    def sweep(self, subscription: SubscriptionSpec, now_us: int) -> None:
        """Put events back whose lease ran out; one that killed its worker too often is dead."""
        at = {"s": subscription.id, "now": now_us}
        if not self._store.read(_SELECT_EXPIRED + " LIMIT 1", at):
            return
        asked_s = time.monotonic()
        with self._store.transaction() as transaction:
            if _waited(asked_s):
                return
            rows = transaction.query(_SELECT_EXPIRED, at)
            transaction.execute_many(_DELETE_LEASE, [r[:3] for r in rows])
            # an attempt alone was counted when it began
            again = [r for r in rows if r[7] < MAX_ABANDONED]
            dead = [r for r in rows if r[7] >= MAX_ABANDONED]
            # In its old place: behind all that came meanwhile it would wait for the whole backlog
            # once more.
            for insert, outside in ((INSERT_READY, 0), (INSERT_AWAITED, 1)):
                rows_back = [
                    (r[0], r[3], r[1], r[2], r[6], r[7] or SUSPECT)
                    for r in again
                    if r[8] == outside
                ]
                transaction.execute_many(insert, rows_back)
            transaction.execute_many(INSERT_DEAD, [died_row(r, now_us) for r in dead])
            record_abandoned(transaction, [r[:6] for r in again], "abandoned", now_us)
            record_abandoned(transaction, [r[:6] for r in dead], "dead", now_us)
            if dead:
                transaction.after_commit(functools.partial(self._wakeup.notify, ["done"]))

    def _due_s(self, subscription: SubscriptionSpec) -> float:
        """Return the seconds until the next delayed event or the next look at leases; not above 0
        when something is due.
        """
        visible_us, until_us = self._store.read(_DUE, {"s": subscription.id})[0]
        if until_us is not None:  # not before the next sweep, which is what would find it
            until_us = max(until_us, self._swept.get(subscription.id, 0) + SWEEP_US)
        due_us = min((at for at in (visible_us, until_us) if at is not None), default=None)
        return float("inf") if due_us is None else (due_us - self._clock.now_us()) / 1e6

    # -- settle ------------------------------------------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases for *lease_s* from now; return those that were already lost."""
        with self._store.transaction(durable=False) as transaction:
            # here: it may have waited for the store
            until_us = self._clock.now_us() + int(lease_s * 1e6)
            rows = [(until_us, d.subscription_id, d.seq, d.attempt) for d in deliveries]
            if transaction.execute_many(_EXTEND_LEASE, rows) == len(rows):
                return []
            held = self._held(transaction, deliveries)
            return [d for d in deliveries if d not in held]

    def settle(self, settlements: Sequence[Settlement], unit: Unit | None = None) -> list[Delivery]:
        """Settle what is still held; return what was not: nothing was changed for it."""
        if not settlements:
            return []
        with self.within(unit) as transaction:
            counts = self._held(transaction, [s.delivery for s in settlements])
            lost = (
                []
                if len(counts) == len(settlements)
                else [s.delivery for s in settlements if s.delivery not in counts]
            )
            held = [s for s in settlements if s.delivery in counts] if lost else settlements
            now_us = self._clock.now_us()
            transaction.execute_many(
                _DELETE_LEASE,
                [(s.delivery.subscription_id, s.delivery.seq, s.delivery.attempt) for s in held],
            )
            back = [s for s in held if s.verdict in ("retry", "release")]
            transaction.execute_many(
                INSERT_READY,
                [again_row(s, now_us, *counts[s.delivery]) for s in back if not comes_again(s)],
            )
            transaction.execute_many(
                INSERT_AWAITED,
                [again_row(s, now_us, *counts[s.delivery]) for s in back if comes_again(s)],
            )
            transaction.execute_many(
                INSERT_DEAD, [dead_row(s, now_us) for s in held if s.verdict == "dead_letter"]
            )
            keys_to_wake = {f"ready:{s.delivery.subscription_id}" for s in back} | {"done"}
            transaction.after_commit(functools.partial(self._wakeup.notify, keys_to_wake))
        return lost

    def settle_late(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> list[Delivery]:
        """Let answers count that came after their lease, as far as there is no outcome yet."""
        with self.within(unit) as transaction:
            counted = settling.settle_late(transaction, settlements, self._clock.now_us())
            transaction.after_commit(functools.partial(self._wakeup.notify, ["done"]))
        return counted

    def alone(self, delivery: Delivery, is_alone: bool = True) -> bool:
        """Count the attempt as abandoned until it ends, or no longer; return whether its lease is
        still held.
        """
        of = {
            "s": delivery.subscription_id,
            "seq": delivery.seq,
            "attempt": delivery.attempt,
            "before": min(0, delivery.abandoned),
        }
        with self._store.transaction() as transaction:
            held = transaction.execute(_CHARGE if is_alone else _CLEAR, of) == 1
        delivery.alone = is_alone
        return held

    @staticmethod
    def _held(
        transaction: Transaction, deliveries: Sequence[Delivery]
    ) -> dict[Delivery, tuple[int, int]]:
        """Return those whose lease is held, with their failures and abandoned attempts: a late
        answer may have changed them.
        """
        held: dict[tuple[int, int, int], tuple[int, int]] = {}
        for s in {d.subscription_id for d in deliveries}:
            seqs = [d.seq for d in deliveries if d.subscription_id == s]
            rows = transaction.query(_SELECT_HELD, {"s": s, "low": min(seqs), "high": max(seqs)})
            held |= {
                (s, seq, attempt): (failures, abandoned)
                for seq, attempt, failures, abandoned in rows
            }
        return {
            d: counts
            for d in deliveries
            if (counts := held.get((d.subscription_id, d.seq, d.attempt))) is not None
        }

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count what is waiting, delayed, in flight and dead."""
        at = {"s": subscription.id, "now": self._clock.now_us()}
        visible, delayed, in_flight, dead, oldest_us, next_us = self._store.read(
            "SELECT (SELECT count(*) FROM waiting WHERE subscription_id = :s AND visible_us <="
            " :now), (SELECT count(*) FROM waiting WHERE subscription_id = :s AND visible_us >"
            " :now), (SELECT count(*) FROM lease WHERE subscription_id = :s), (SELECT count(*) FROM"
            " dead_letter WHERE subscription_id = :s AND discarded_us IS NULL), (SELECT"
            " min(published_us) FROM event WHERE seq = (SELECT min(seq) FROM (SELECT min(seq) AS"
            " seq FROM waiting WHERE subscription_id = :s UNION ALL SELECT min(seq) FROM lease"
            " WHERE subscription_id = :s) AS open)), (SELECT min(visible_us) FROM waiting WHERE"
            " subscription_id = :s AND visible_us > :now)",
            at,
        )[0]
        oldest_s = None if oldest_us is None else (at["now"] - oldest_us) / 1e6
        return Depth(
            visible,
            delayed,
            in_flight,
            dead,
            oldest_s,
            None if next_us is None else (next_us - at["now"]) / 1e6,
        )

    @contextlib.contextmanager
    def within(self, unit: Unit | None) -> Iterator[Transaction]:
        """Write inside *unit* when it is a transaction of this very store, else in an own one."""
        if unit is not None and unit.transaction.store is self._store:
            yield unit.transaction
        else:
            with self._store.transaction() as transaction:
                yield transaction


def _together(rows: list[Row]) -> list[Row]:
    """Return those of *rows*, oldest first, that are leased together; alone what was abandoned
    before, so that it harms nobody.
    """
    suspect = next((i for i, row in enumerate(rows) if row[4]), None)
    return rows if suspect is None else rows[: max(1, suspect)]


def _waited(since_s: float) -> bool:
    """Whether the store did not answer for so long, since the monotonic time *since_s*, that leases
    ran out meanwhile.
    """
    return time.monotonic() - since_s > SWEEP_US / 1e6


def delivery(row: Row, subscription_id: int, now_us: int) -> Delivery:
    """Return the delivery of a row with the columns of a claim, leased at *now_us*."""
    (
        seq,
        visible_us,
        attempt,
        failures,
        abandoned,
        published_us,
        id_,
        source,
        type_,
        time,
        subject,
        media_type,
        schema,
        traceparent,
        extensions,
        data,
        times,
        resent_us,
        other_data,
        other_type,
    ) = row
    try:
        others = (
            {"traceparent": traceparent, **json.loads(extensions)}
            if extensions
            else {"traceparent": traceparent}
        )
        if times:
            others["redrive"] = times
            if other_data is not None:
                data, media_type = other_data, other_type
        event = restored(
            decode_data(data, media_type),
            type_,
            source,
            id_,
            time,
            subject,
            media_type,
            schema,
            others,
            data,
        )
    except ERRORS as error:
        raise damaged("event" if other_data is None else "resent", seq, error) from error
    return Delivery(
        event,
        seq,
        subscription_id,
        attempt + 1,
        failures,
        abandoned,
        published_us,
        visible_us,
        now_us,
        resent_us or published_us,
    )
