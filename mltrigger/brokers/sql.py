"""The SQL broker: events, queues and dead letters in the store's own database, so that record, hand-on and ack are one commit."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence

from mltrigger.brokers.base import Delivery, Depth, Receipt, Settlement, SubscriptionSpec
from mltrigger.brokers.wake import Wakeup
from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.events import Event, decode_data, encode_data, restored
from mltrigger.identity import new_trace
from mltrigger.policy import MAX_ABANDONED
from mltrigger.store.log import Unit, record_abandoned
from mltrigger.store.registry import ensure_topic
from mltrigger.store.transaction import Row, Store, Transaction

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Most bytes of data an event may have (``max_event_bytes``); larger objects belong in a folder or a bucket."""
SWEEP_US = 1_000_000
"""How often at most a listener looks for leases that ran out."""

_INSERT_EVENT = """
INSERT INTO event (seq, topic_id, id, source, type, time, subject, datacontenttype, dataschema, traceparent, extensions, data,
  published_us)
VALUES (:seq, :topic_id, :id, :source, :type, :time, :subject, :datacontenttype, :dataschema, :traceparent, :extensions, :data,
  :published_us)
ON CONFLICT (id, source, topic_id) DO NOTHING
"""
_INSERT_READY = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
VALUES (:subscription_id, :visible_us, :seq, :attempt, :failures, :abandoned) ON CONFLICT DO NOTHING
"""
_SELECT_READY = """
SELECT r.seq, r.visible_us, r.attempt, r.failures, r.abandoned, e.published_us, e.id, e.source, e.type, e.time, e.subject,
  e.datacontenttype, e.dataschema, e.traceparent, e.extensions, e.data
FROM ready r JOIN event e ON e.seq = r.seq
WHERE r.subscription_id = :s AND r.visible_us <= :now ORDER BY r.visible_us, r.seq LIMIT :n
"""
_DELETE_READY = "DELETE FROM ready WHERE subscription_id = :s AND visible_us = :visible_us AND seq = :seq"
_INSERT_LEASE = """
INSERT INTO lease (subscription_id, seq, attempt, failures, abandoned, visible_us, received_us, until_us, worker_id)
VALUES (:s, :seq, :attempt, :failures, :abandoned, :visible_us, :received_us, :until_us, :worker_id)
"""
_SELECT_HELD = "SELECT seq, attempt FROM lease WHERE subscription_id = :s AND seq BETWEEN :low AND :high"
_DELETE_LEASE = "DELETE FROM lease WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt"
_EXTEND_LEASE = "UPDATE lease SET until_us = :until_us WHERE subscription_id = :s AND seq = :seq AND attempt = :attempt"
_SELECT_EXPIRED = """
SELECT subscription_id, seq, attempt, visible_us, received_us, worker_id, failures, abandoned FROM lease
WHERE subscription_id = :s AND until_us <= :now
"""
_INSERT_DEAD = """
INSERT INTO dead_letter (subscription_id, seq, attempt, reason, error_type, error, traceback, dead_us)
VALUES (:s, :seq, :attempt, :reason, :error_type, :error, :traceback, :now) ON CONFLICT DO NOTHING
"""
_SELECT_SEQ = "SELECT seq FROM event WHERE id = :id AND source = :source AND topic_id = :topic_id"
_DELIVERED = """
SELECT 1 FROM invocation WHERE seq = :seq AND subscription_id = :s AND outcome IN ('succeeded', 'dead', 'skipped')
UNION ALL SELECT 1 FROM lease WHERE subscription_id = :s AND seq = :seq
UNION ALL SELECT 1 FROM ready WHERE subscription_id = :s AND seq = :seq LIMIT 1
"""
_OPEN = "SELECT seq FROM ready WHERE subscription_id = :s UNION ALL SELECT seq FROM lease WHERE subscription_id = :s"
_READY_FROM_START = """
INSERT INTO ready (subscription_id, visible_us, seq, attempt, failures, abandoned)
SELECT s.id, :now, e.seq, (SELECT coalesce(max(attempt), 0) FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = s.id), 0, 0
FROM event e JOIN subscription s ON s.topic_id = e.topic_id WHERE s.name = :name AND NOT EXISTS (
  SELECT 1 FROM invocation i WHERE i.seq = e.seq AND i.subscription_id = s.id AND i.outcome IN ('succeeded', 'dead', 'skipped'))
"""
_LAST_ATTEMPT = "SELECT coalesce(max(attempt), 0) FROM invocation WHERE seq = :seq AND subscription_id = :s"
_BOUND = "SELECT id, name FROM subscription WHERE topic_id = :t AND bound = 1 ORDER BY id"


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

    def __init__(self, store: Store, clock: Clock, wakeup: Wakeup, worker_id: Callable[[], int]) -> None:
        self._store, self._clock, self._wakeup, self._worker_id = store, clock, wakeup, worker_id
        self._swept: dict[int, int] = {}
        self._idle: set[int] = set()

    # -- publish --------------------------------------------------------------------------------------------------------------

    def publish(self, topic: str, events: Sequence[Event], unit: Unit | None = None) -> list[Receipt]:
        """Make *events* and their deliveries durable; see :class:`~mltrigger.brokers.base.Broker`."""
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in events]
        with self._within(unit) as transaction:
            found = transaction.query("SELECT id FROM topic WHERE name = :name", {"name": topic})
            if not found:
                known = [name for (name,) in transaction.query("SELECT name FROM topic", {})]
                raise NotFound.of("topic", topic, known, "subscribe to it or call bus.topic(…) to make it; bus.topics() lists all")
            topic_id, now_us = found[0][0], self._clock.now_us()
            base = transaction.query("SELECT coalesce(max(seq), 0) FROM event", {})[0][0]
            rows = [_event_row(*e, seq, topic_id, now_us) for seq, e in enumerate(encoded, base + 1)]
            added = transaction.execute_many(_INSERT_EVENT, rows)
            bound = transaction.query(_BOUND, {"t": topic_id})
            names = tuple(name for _, name in bound)
            if added == len(rows):
                receipts = [Receipt(row[2], row[0], False, names) for row in rows]
            else:
                receipts = self._receipts(transaction, events, base, topic_id, bound)
            fresh = [r.seq for r in receipts if not r.duplicate]
            transaction.execute_many(_INSERT_READY, [(s, now_us, seq, 0, 0, 0) for s, _ in bound for seq in fresh])
            if fresh and bound:
                transaction.after_commit(functools.partial(self._wakeup.notify, [f"ready:{s}" for s, _ in bound]))
        return receipts

    @staticmethod
    def _receipts(transaction: Transaction, events: Sequence[Event], base: int, topic_id: int, bound: Sequence[Row]) -> list[Receipt]:
        """Return the receipts of *events*, where some were there before, or stand twice among them."""
        receipts: list[Receipt] = []
        seen: set[int] = set()
        for event in events:
            seq = transaction.query(_SELECT_SEQ, {"id": event.id, "source": event.source, "topic_id": topic_id})[0][0]
            duplicate = seq <= base or seq in seen
            mine = [name for s, name in bound if seq > base or transaction.query(_DELIVERED, {"s": s, "seq": seq})]
            receipts.append(Receipt(event.id, seq, duplicate, tuple(mine)))
            seen.add(seq)
        return receipts

    def send(self, subscription: SubscriptionSpec, seqs: Sequence[int], unit: Unit | None = None) -> None:
        """Deliver archived events to one subscription only; those that it has open already stay as they are."""
        with self._within(unit) as transaction:
            of = {"s": subscription.id}
            waiting = {seq for (seq,) in transaction.query(_OPEN, of)}
            rows = []
            for seq in dict.fromkeys(seqs):
                if seq not in waiting:
                    last = transaction.query(_LAST_ATTEMPT, {**of, "seq": seq})[0][0]
                    rows.append((subscription.id, self._clock.now_us(), seq, last, 0, 0))
            transaction.execute_many(_INSERT_READY, rows)
            transaction.after_commit(functools.partial(self._wakeup.notify, [f"ready:{subscription.id}"]))

    # -- bind -----------------------------------------------------------------------------------------------------------------

    def bind(self, subscription: SubscriptionSpec, from_start: bool = False) -> None:
        """Deliver what is published from now on, or *from_start* everything in the archive; idempotent."""
        with self._store.transaction() as transaction:
            now_us = self._clock.now_us()
            emit = ensure_topic(transaction, subscription.emit, now_us) if subscription.emit else None
            row = {
                "name": subscription.name, "selector": subscription.selector, "policy": subscription.policy.to_json(), "emit": emit,
                "topic_id": ensure_topic(transaction, subscription.topic, now_us), "now": now_us,
            }  # fmt: skip
            known = transaction.query("SELECT id, bound FROM subscription WHERE name = :name", row)
            if known:
                transaction.execute(
                    "UPDATE subscription SET topic_id = :topic_id, selector = :selector, policy = :policy, emit_topic_id = :emit, "
                    "bound = 1 WHERE name = :name",
                    row,
                )
            else:
                transaction.execute(
                    "INSERT INTO subscription (name, topic_id, selector, emit_topic_id, policy, since_seq, created_us, bound) "
                    "VALUES (:name, :topic_id, :selector, :emit, :policy, (SELECT coalesce(max(seq), 0) FROM event), :now, 1)",
                    row,
                )
            if from_start and not (known and known[0][1]):
                transaction.execute(_READY_FROM_START, row)

    def unbind(self, name: str) -> None:
        """Deliver no more to *name*, and forget what it had not settled; its log stays."""
        with self._store.transaction() as transaction:
            for (number,) in transaction.query("SELECT id FROM subscription WHERE name = :name", {"name": name}):
                transaction.execute("DELETE FROM ready WHERE subscription_id = :s", {"s": number})
                transaction.execute("DELETE FROM lease WHERE subscription_id = :s", {"s": number})
                transaction.execute("UPDATE subscription SET bound = 0 WHERE id = :s", {"s": number})

    # -- receive --------------------------------------------------------------------------------------------------------------

    def receive(self, subscription: SubscriptionSpec, max_events: int, wait_s: float = 0.0) -> list[Delivery]:
        """Lease up to *max_events*; woken by a publisher, or by time when a delay or a lease ends."""
        key = f"ready:{subscription.id}"
        seen = self._wakeup.generation(key)
        # Where nothing was found last time, a look at what falls due next is cheaper than a claim that finds nothing again.
        due_s = self._due_s(subscription) if subscription.id in self._idle else 0.0
        deliveries = self._claim(subscription, max_events) if due_s <= 0 else []
        if not deliveries and wait_s > 0:
            longest_s = min(wait_s, self._wakeup.poll_s)
            due_s = due_s if due_s > 0 else self._due_s(subscription)
            woken = self._wakeup.wait(key, seen, max(0.0, min(longest_s, due_s)))
            if woken or due_s <= longest_s:  # else nothing has come, and the next call looks again
                deliveries = self._claim(subscription, max_events)
        (self._idle.discard if deliveries else self._idle.add)(subscription.id)
        return deliveries

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a receive that is waiting in this process."""
        self._wakeup.notify_here(f"ready:{subscription.id}")

    def _claim(self, subscription: SubscriptionSpec, max_events: int) -> list[Delivery]:
        now_us, worker_id = self._clock.now_us(), self._worker_id()
        if now_us - self._swept.get(subscription.id, -SWEEP_US) >= SWEEP_US:
            self._swept[subscription.id] = now_us
            self._sweep(subscription, now_us)
        lease_us = int(subscription.policy.lease * 1e6)
        # Not durable: losing a claim at a power cut only repeats the event; the next outcome makes it durable anyway.
        with self._store.transaction(durable=False) as transaction:
            rows = transaction.query(_SELECT_READY, {"s": subscription.id, "now": now_us, "n": max_events})
            transaction.execute_many(_DELETE_READY, [(subscription.id, r[1], r[0]) for r in rows])
            until_us = now_us + lease_us
            leases = [(subscription.id, r[0], r[2] + 1, r[3], r[4], r[1], now_us, until_us, worker_id) for r in rows]
            transaction.execute_many(_INSERT_LEASE, leases)
        return [_delivery(row, subscription.id, now_us) for row in rows]

    def _sweep(self, subscription: SubscriptionSpec, now_us: int) -> None:
        """Put events back whose lease ran out; one that killed its worker too often is dead."""
        at = {"s": subscription.id, "now": now_us}
        if not self._store.read(_SELECT_EXPIRED + " LIMIT 1", at):
            return
        with self._store.transaction() as transaction:
            rows = transaction.query(_SELECT_EXPIRED, at)
            transaction.execute_many(_DELETE_LEASE, [r[:3] for r in rows])
            again = [r for r in rows if r[7] + 1 < MAX_ABANDONED]
            dead = [r for r in rows if r[7] + 1 >= MAX_ABANDONED]
            transaction.execute_many(_INSERT_READY, [(r[0], now_us, r[1], r[2], r[6], r[7] + 1) for r in again])
            transaction.execute_many(_INSERT_DEAD, [_worker_died(r, now_us) for r in dead])
            record_abandoned(transaction, [r[:6] for r in again], "abandoned", now_us)
            record_abandoned(transaction, [r[:6] for r in dead], "dead", now_us)
            if dead:
                transaction.after_commit(functools.partial(self._wakeup.notify, ["done"]))

    def _due_s(self, subscription: SubscriptionSpec) -> float:
        """Return the seconds until the next delayed event or the end of the next lease; not above 0 when something is due."""
        rows = self._store.read(
            "SELECT min(v) FROM (SELECT min(visible_us) AS v FROM ready WHERE subscription_id = :s "
            "UNION ALL SELECT min(until_us) FROM lease WHERE subscription_id = :s) AS next",
            {"s": subscription.id},
        )
        due_us = rows[0][0]
        return float("inf") if due_us is None else (due_us - self._clock.now_us()) / 1e6

    # -- settle ---------------------------------------------------------------------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases for *lease_s* from now; return those that were already lost."""
        until_us = self._clock.now_us() + int(lease_s * 1e6)
        with self._store.transaction(durable=False) as transaction:
            rows = [(until_us, d.subscription_id, d.seq, d.attempt) for d in deliveries]
            if transaction.execute_many(_EXTEND_LEASE, rows) == len(rows):
                return []
            return self._lost(transaction, deliveries)

    def settle(self, settlements: Sequence[Settlement], unit: Unit | None = None) -> list[Delivery]:
        """Settle what is still held; return what was not: nothing was changed for it."""
        if not settlements:
            return []
        with self._within(unit) as transaction:
            lost = self._lost(transaction, [s.delivery for s in settlements])
            held = [s for s in settlements if s.delivery not in lost] if lost else settlements
            now_us = self._clock.now_us()
            transaction.execute_many(_DELETE_LEASE, [(s.delivery.subscription_id, s.delivery.seq, s.delivery.attempt) for s in held])
            back = [s for s in held if s.verdict in ("retry", "release")]
            transaction.execute_many(_INSERT_READY, [_again(s, now_us) for s in back])
            transaction.execute_many(_INSERT_DEAD, [_dead(s, now_us) for s in held if s.verdict == "dead_letter"])
            keys_to_wake = {f"ready:{s.delivery.subscription_id}" for s in back} | {"done"}
            transaction.after_commit(functools.partial(self._wakeup.notify, keys_to_wake))
        return lost

    @staticmethod
    def _lost(transaction: Transaction, deliveries: Sequence[Delivery]) -> list[Delivery]:
        held: set[tuple[int, int, int]] = set()
        for s in {d.subscription_id for d in deliveries}:
            seqs = [d.seq for d in deliveries if d.subscription_id == s]
            held |= {(s, *row) for row in transaction.query(_SELECT_HELD, {"s": s, "low": min(seqs), "high": max(seqs)})}
        return [d for d in deliveries if (d.subscription_id, d.seq, d.attempt) not in held]

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count what is waiting, delayed, in flight and dead."""
        at = {"s": subscription.id, "now": self._clock.now_us()}
        visible, delayed, in_flight, dead, oldest_us = self._store.read(
            "SELECT (SELECT count(*) FROM ready WHERE subscription_id = :s AND visible_us <= :now), "
            "(SELECT count(*) FROM ready WHERE subscription_id = :s AND visible_us > :now), "
            "(SELECT count(*) FROM lease WHERE subscription_id = :s), "
            "(SELECT count(*) FROM dead_letter WHERE subscription_id = :s), "
            "(SELECT min(published_us) FROM event WHERE seq = (SELECT min(seq) FROM (SELECT min(seq) AS seq FROM ready "
            "WHERE subscription_id = :s UNION ALL SELECT min(seq) FROM lease WHERE subscription_id = :s) AS open))",
            at,
        )[0]
        return Depth(visible, delayed, in_flight, dead, None if oldest_us is None else (at["now"] - oldest_us) / 1e6)

    @contextlib.contextmanager
    def _within(self, unit: Unit | None) -> Iterator[Transaction]:
        """Write inside *unit* when it is a transaction of this very store, else in an own one."""
        if unit is not None and unit.transaction.store is self._store:
            yield unit.transaction
        else:
            with self._store.transaction() as transaction:
                yield transaction


def _event_row(event: Event, data: bytes, media_type: str | None, seq: int, topic_id: int, now_us: int) -> Row:
    others = {n: v for n, v in event.extensions.items() if n != "traceparent"} if event.extensions else None
    return (
        seq, topic_id, event.id, event.source, event.type, event.time.isoformat(), event.subject, media_type, event.dataschema,
        event.traceparent or new_trace(), json.dumps(others) if others else None, data, now_us,
    )  # fmt: skip


def _delivery(row: Row, subscription_id: int, now_us: int) -> Delivery:
    (seq, visible_us, attempt, failures, abandoned, published_us, id_, source, type_, time, subject, media_type, schema, traceparent,
     extensions, data) = row  # fmt: skip
    others = {"traceparent": traceparent, **json.loads(extensions)} if extensions else {"traceparent": traceparent}
    event = restored(decode_data(data, media_type), type_, source, id_, time, subject, media_type, schema, others)
    return Delivery(event, seq, subscription_id, attempt + 1, failures, abandoned, published_us, visible_us, now_us)


def _again(settlement: Settlement, now_us: int) -> Row:
    d = settlement.delivery
    if settlement.verdict == "release":
        return (d.subscription_id, d.visible_us, d.seq, d.attempt, d.failures, d.abandoned)
    visible_us = now_us + int(settlement.delay_s * 1e6)
    return (d.subscription_id, visible_us, d.seq, d.attempt, d.failures + settlement.failed, d.abandoned)


def _dead(settlement: Settlement, now_us: int) -> Row:
    d, s = settlement.delivery, settlement
    return (d.subscription_id, d.seq, d.attempt, s.reason or "model_error", s.error_type, s.error, s.traceback, now_us)


def _worker_died(row: Row, now_us: int) -> Row:
    error = f"{MAX_ABANDONED} attempts began and never ended: the event may kill the process that works on it"
    return (row[0], row[1], row[2], "worker_died", None, error, None, now_us)
