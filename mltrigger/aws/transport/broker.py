"""The broker on Amazon SNS and SQS: a message stays in its queue until its outcome is durable in
the log, then it is deleted.

The log keeps what it keeps for every broker: the archive, attempts, leases, dead letters, and what
is expected. SNS and SQS carry the events. What is published is written down first and sent after
the commit (a transactional outbox); what comes is looked up before it is leased, so that a repeat
finds its outcome and is deleted without running the model.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.aws.admin import doctor as health
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.admin.topology import default_lease_s
from mltrigger.aws.faults import MISSING, THROTTLED, AwsError, code_of, explained
from mltrigger.aws.naming import S3Source, aws_kind, source_topic_name, source_url
from mltrigger.aws.transport.admission import READY_OF_AWAITED, Taken
from mltrigger.aws.transport.objects import BucketSource
from mltrigger.aws.transport.outbox import Outbox, Outgoing, Target
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.aws.transport.polls import Message, Raw
from mltrigger.aws.transport.receiving import Intake
from mltrigger.aws.transport.settler import Settler
from mltrigger.broker import (
    AT_ONCE,
    MAX_EVENT_BYTES,
    Delivery,
    Depth,
    Finding,
    Outdated,
    Prepare,
    Receipt,
    Sending,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.clock import Clock
from mltrigger.errors import InvalidName, InvalidPolicy, NameTaken, StoreError
from mltrigger.event.event import Event, encode_data, traced
from mltrigger.names import FIFO
from mltrigger.policy import DeliveryPolicy
from mltrigger.store import publishing
from mltrigger.store.broker import SqlBroker
from mltrigger.store.registry import Registry
from mltrigger.store.settling import comes_again
from mltrigger.store.transaction import Store
from mltrigger.store.unit import Unit
from mltrigger.store.wake import Wakeup
from mltrigger.text import short

logger = logging.getLogger("mltrigger")

BURY_EVERY_S = 60.0
"""How often a process that listens looks into the dead-letter queues for what SQS moved there."""
OVERDUE_US = 20 * 60 * 1_000_000
"""How long after its time a message may come: longer than SNS takes to apply a filter (15 minutes)."""
_OVERDUE = """
SELECT seq FROM awaited WHERE subscription_id = :s AND visible_us <= :then AND seq NOT IN (SELECT seq FROM unsent) ORDER BY seq LIMIT :n
"""
_NEWEST = """
SELECT e.published_us FROM invocation i JOIN event e ON e.seq = i.seq WHERE i.subscription_id = :s ORDER BY i.seq DESC LIMIT 1
"""
_EXTEND_S = 1.0
"""How long to wait for SQS to have heard of something."""
_COUNT_S = 1.0


class AwsBroker:
    """A broker on SNS and SQS, with a log in a SQL store.

    Parameters
    ----------
    clients : Clients
        SNS, SQS, S3.
    resources : Resources
        Finds and makes topics and queues.
    store, registry, clock, wakeup, worker_id
        As for :class:`~mltrigger.store.broker.SqlBroker`: the log's database.
    bucket : str, optional
        Where bodies beyond SNS' limit go.
    """

    ordered = True

    def __init__(
        self,
        clients: Any,
        resources: Resources,
        store: Store,
        registry: Registry,
        clock: Clock,
        wakeup: Wakeup,
        worker_id: Callable[[], int],
        bucket: str | None = None,
    ) -> None:
        self._clients, self._resources, self._store, self._registry = (
            clients,
            resources,
            store,
            registry,
        )
        self._clock, self._wakeup, self._worker_id = clock, wakeup, worker_id
        self._sql = SqlBroker(store, clock, wakeup, worker_id)
        self._payloads = Payloads(clients, bucket)
        self._outbox = Outbox(clients, store, clock, self._target, self._make, self._payloads)
        self._settler = Settler(lambda: clients.lean_sqs, clock)
        self._intake = Intake(
            clients,
            resources,
            store=store,
            registry=registry,
            clock=clock,
            worker_id=worker_id,
            payloads=self._payloads,
            settler=self._settler,
            arrived=lambda number: wakeup.notify_here(f"ready:{number}"),
        )
        self.bury = self._intake.bury
        self._targets: dict[str, Target] = {}
        self._counted: dict[int, tuple[float, int]] = {}
        self._buried_s = time.monotonic()

    # -- publish -----------------------------------------------------------------------------------

    def publish(
        self, topic: str, events: Sequence[Event], unit: Unit | None = None
    ) -> list[Receipt]:
        """Write events and what is expected of them into the log, then send them; see
        :class:`~mltrigger.broker.Broker`.

        Without a *unit* they are on SNS on return. With one they are sent when it commits; what is
        refused then is sent again later.
        """
        if not events:
            return []
        if topic not in self._targets and topic not in self._registry.topics():
            self._discover(topic)
        target = self._target(topic)
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in map(traced, events)]
        messages = [self._outbox.message(e, target) for e in encoded]
        with self._sql.within(unit) as transaction:
            published = publishing.publish(
                transaction, topic, encoded, self._sql.time.published_us(transaction), carried=True
            )
            unconfirmed = self._outbox.unconfirmed(transaction, [r.seq for r in published.receipts])
            outgoing = {
                r.seq: Outgoing(r.seq, m)
                for r, m in zip(published.receipts, messages, strict=True)
                if not r.duplicate or r.seq in unconfirmed
            }
            self._outbox.add(transaction, list(outgoing))
            if unit is not None:
                transaction.after_commit(
                    functools.partial(self._outbox.send_soon, topic, list(outgoing.values()))
                )
        if unit is None:
            self._outbox.send(topic, list(outgoing.values()))
            self._outbox.flush_at_times()  # who only publishes has nobody else who would
        return published.receipts

    def check(self, topic: str, event: Event) -> None:
        """Raise InvalidEvent when AWS would refuse *event* on *topic*."""
        self._outbox.message((event, *encode_data(event, MAX_EVENT_BYTES)), self._target(topic))

    def _discover(self, topic: str) -> None:
        """Take a topic into the registry that others have made; raise NotFound when there is none."""
        self._targets[topic] = Target(self._resources.find_topic(topic), None)
        self._registry.topic(topic)

    def _target(self, topic: str) -> Target:
        """Return where the events of *topic* go; nothing is asked of AWS."""
        if topic not in self._targets:
            source = self._registry.sources().get(topic)
            if source is not None and aws_kind(source) == "sqs":
                self._targets[topic] = Target(None, self._resources.queue_url(source))
            else:
                self._targets[topic] = Target(self._resources.topic_arn(topic, source), None)
        return self._targets[topic]

    def _make(self, topic: str) -> Target:
        arn = self._resources.ensure_topic(topic, self._registry.sources().get(topic))
        self._targets[topic] = Target(arn, None)
        return self._targets[topic]

    # -- bind --------------------------------------------------------------------------------------

    def bind(self, subscription: SubscriptionSpec, from_start: bool = False) -> None:
        """Make topic and queue as far as they are not there, then bind in the log; idempotent."""
        self._own_log()
        subscription = with_lease(subscription)
        source = self._registry.sources().get(subscription.topic)
        others = [
            s.name
            for s in self._registry.subscriptions()
            if s.topic == subscription.topic and s.name != subscription.name
        ]
        if source is not None and aws_kind(source) == "sqs" and others:
            raise NameTaken(
                f"{others[0]!r} listens to this queue already, and each message goes to one"
                " listener only: unsubscribe it, or let the queue's owner publish to a topic,"
                " which any number of subscriptions can have"
            )
        if subscription.topic.endswith(FIFO) and subscription.policy.ack == "accepted":
            raise InvalidPolicy(
                "ack='accepted' gives an event up before it has run: the order of its group would"
                " be lost on a FIFO topic"
            )
        place = self._resources.ensure(subscription, source)
        if not place.owned and (missing := self._resources.preflight(place.queue_url)):
            raise AwsError("; ".join(m.message for m in missing), "AccessDenied")
        self._payloads.let_expire()
        self._sql.bind(subscription, from_start, outside=True)
        found = self._registry.subscription(subscription.name)
        if found is not None:
            self._intake.made(found, place)

    def _own_log(self) -> None:
        """See to it that the log belongs to this bus: what is expected of queues is expected of
        these.
        """
        mine = {"bus": f"{self._clients.region}/{self._resources.prefix}"}
        kept = self._registry.setting("aws")
        if kept is None:
            self._registry.set_setting("aws", mine)
        elif kept != mine:
            raise StoreError(
                f"the log belongs to the bus aws://{kept['bus']}: name another one for this bus,"
                " log='sqlite:///other.db'"
            )

    def unbind(self, name: str, delete: bool = False) -> None:
        """Deliver no more to *name*; with *delete* what was made for it on AWS goes as well."""
        spec = self._registry.subscription(name)
        if spec is not None:
            source = self._registry.sources().get(spec.topic)
            self._intake.forget(spec)
            if delete:
                last = not any(
                    s.topic == spec.topic and s.name != name for s in self._registry.subscriptions()
                )
                self._settler.flush(_EXTEND_S)
                self._resources.delete(spec, source, last=last)
                if last:
                    self._targets.pop(spec.topic, None)
            else:
                self._resources.remove(spec, source)
        self._sql.unbind(name)

    def pause(self, name: str, paused: bool = True) -> None:
        """Lease nothing more of *name*, or go on."""
        self._sql.pause(name, paused)

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Unit | None = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events to one subscription only: out of the log, which needs no right to
        send to its queue.
        """
        return self._sql.send(subscription, seqs, unit, sending)

    def discard(
        self, subscription: SubscriptionSpec, seqs: Sequence[int], reason: str
    ) -> list[int]:
        """Put dead letters away for good."""
        return self._sql.discard(subscription, seqs, reason)

    # -- receive -----------------------------------------------------------------------------------

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
    ) -> list[Delivery]:
        """Lease what the log has ready (what was sent again), else what the queue has; long polls
        go on between two calls.
        """
        key = f"ready:{subscription.id}"
        seen = self._wakeup.generation(key)
        if ready := self._sql.receive(subscription, max_events, generation=generation):
            return ready
        if subscription.id in self._registry.paused():
            self._intake.leave(subscription)
            self._wakeup.wait(key, seen, min(wait_s, self._wakeup.poll_s))
            return []
        if subscription.emit is not None:
            self._target(subscription.emit)  # now: inside a unit nobody should have to ask AWS
        inlet = self._intake.inlet(subscription)
        if wait_s <= 0:
            self._settler.flush(_EXTEND_S)  # what is done with shall not be what this finds
            return self._intake.taken(subscription, inlet.poll_now(max_events))
        self._check_generation(generation)
        deliveries = self._intake.taken(subscription, inlet.take(max_events))
        if deliveries:
            # while these are worked on, the next ones are on their way
            inlet.want(max_events - len(deliveries))
            return deliveries
        inlet.want(max_events)
        if self._wakeup.wait(key, seen, min(wait_s, self._wakeup.poll_s)):
            self._check_generation(generation)
            return self._sql.receive(subscription, max_events) or self._intake.taken(
                subscription, inlet.take(max_events)
            )
        return []

    def _check_generation(self, generation: str | None) -> None:
        """Raise Outdated when the registry has another one: looked at before messages are taken,
        which are on their way for longer.
        """
        if generation is not None and self._registry.generation() != generation:
            raise Outdated

    def accept(self, subscription: SubscriptionSpec, received: Sequence[Raw]) -> Taken:
        """Lease messages that somebody else has received and will settle, a Lambda function's; and
        what the log has ready.

        Nobody else may ever sweep or deliver for such a subscription.
        """
        ready = self._sql.receive(subscription, max(1, len(received)))
        taken = self._intake.lease(
            subscription, [self._intake.arrived(subscription, r) for r in received]
        )
        return taken._replace(deliveries=[*ready, *taken.deliveries])

    def tell_all(self, timeout_s: float) -> None:
        """Send what waits to be sent, before this process is frozen."""
        if not self._outbox.drain(timeout_s):
            logger.warning("events wait to be sent: the next invocation sends them")
        self._outbox.flush_at_times()

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a receive that is waiting in this process; its poll goes on."""
        self._sql.wake(subscription)

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Give back what polls bring from now on."""
        self._intake.leave(subscription)

    # -- settle ------------------------------------------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases in the log and in SQS; return those that were already lost."""
        now_us = self._clock.now_us()
        lost = self._sql.extend(deliveries, lease_s)
        hidden = [
            (d.message, now_us + int(lease_s * 1e6))
            for d in deliveries
            if isinstance(d.message, Message) and d not in lost
        ]
        self._settler.hide(hidden, wait_s=0.0)  # the leases of others wait for this thread
        return lost

    def settle(self, settlements: Sequence[Settlement], unit: Unit | None = None) -> list[Delivery]:
        """Settle in the log; SQS is told after the commit."""
        if not settlements:
            return []
        with self._sql.within(unit) as transaction:
            lost = self._sql.settle(
                settlements, unit or Unit(transaction, self._clock, self._worker_id)
            )
            held = [s for s in settlements if s.delivery not in lost] if lost else list(settlements)
            self._intake.settled(lost)
            transaction.after_commit(functools.partial(self._tell, held, self._clock.now_us()))
        return lost

    def settle_late(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> list[Delivery]:
        """Let answers count in the log that came after their lease; the message of one that ended
        is deleted.
        """
        with self._sql.within(unit) as transaction:
            counted = self._sql.settle_late(
                settlements, unit or Unit(transaction, self._clock, self._worker_id)
            )
            ended = [
                s
                for s in settlements
                if s.delivery in counted and s.verdict in ("ack", "dead_letter")
            ]
            transaction.after_commit(lambda: self._tell(ended, self._clock.now_us()))
        return counted

    def alone(self, delivery: Delivery, is_alone: bool = True) -> bool:
        """Note in the log that *delivery* runs alone."""
        return self._sql.alone(delivery, is_alone)

    def _tell(self, settlements: Sequence[Settlement], now_us: int) -> None:
        """Tell SQS what was committed: a message whose delivery ended is deleted, the others come
        again when it is time.
        """
        self._intake.settled([s.delivery for s in settlements])
        done: list[Message] = []
        again: list[tuple[Message, int]] = []
        for s in settlements:
            message = s.delivery.message
            if not isinstance(message, Message) or message.lent:
                continue
            if s.verdict in ("ack", "dead_letter") or not comes_again(s):
                done.append(message)
            else:
                again.append(
                    (message, now_us + int(s.delay_s * 1e6) if s.verdict == "retry" else 0)
                )
        self._settler.delete(done)
        self._settler.hide(again)

    # -- look --------------------------------------------------------------------------------------

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count what the log knows of; what others have published and nobody has received yet is
        added from SQS' own count.
        """
        depth = self._sql.depth(subscription)
        # what is about to be deleted must not count
        waiting = 0 if self._settler.busy else self._count(subscription)
        known = depth.visible + depth.delayed
        return Depth(
            max(depth.visible, waiting) if waiting > known else depth.visible,
            depth.delayed,
            depth.in_flight,
            depth.dead,
            depth.oldest_s,
            depth.next_s,
        )

    def _count(self, subscription: SubscriptionSpec) -> int:
        """Return SQS' approximate number of visible messages, of a moment ago at most; 0 when it
        does not say.
        """
        now_s = time.monotonic()
        counted = self._counted.get(subscription.id)
        if counted is None or now_s - counted[0] > _COUNT_S:
            try:
                answer = self._clients.sqs.get_queue_attributes(
                    QueueUrl=self._intake.place(subscription).queue_url,
                    AttributeNames=["ApproximateNumberOfMessages"],
                )
                counted = (now_s, int(answer["Attributes"]["ApproximateNumberOfMessages"]))
            except Exception as error:
                if code_of(error) not in THROTTLED | MISSING:
                    logger.warning(
                        "the depth of a queue is not known: %s",
                        explained(error, "sqs:GetQueueAttributes", subscription.name),
                    )
                counted = (now_s, 0)
            self._counted[subscription.id] = counted
        return counted[1]

    # -- keep --------------------------------------------------------------------------------------

    def topic(self, name: str) -> None:
        """Make topic *name* exist; idempotent."""
        self._make(name)

    def plan(self, subscription: SubscriptionSpec, source: str | None) -> list[Any]:
        """Return what :meth:`bind` would create or change on AWS; nothing is changed."""
        return self._resources.plan(with_lease(subscription), source)

    def findings(
        self, subscription: SubscriptionSpec | None = None, depth: Depth | None = None
    ) -> list[Finding]:
        """Return what there is to say about what is on AWS; it is only read."""
        if subscription is None:
            waiting = self._outbox.waiting()
            return [
                *health.account_findings(self._clients, time.time()),
                *([health.unsent_finding(*waiting)] if waiting else []),
            ]
        source, listening = (
            self._registry.sources().get(subscription.topic),
            subscription.id in self._registry.live_listeners(),
        )
        known = depth or self.depth(subscription)
        found = health.findings(
            self._clients,
            self._resources,
            with_lease(subscription),
            source,
            known,
            listening=listening,
        )
        overdue = self._store.read(
            _OVERDUE, {"s": subscription.id, "then": self._clock.now_us() - OVERDUE_US, "n": 1_000}
        )
        return [
            *found,
            *([health.overdue_finding(subscription.name, len(overdue))] if overdue else []),
        ]

    def prepare(self, url: str, policy: DeliveryPolicy) -> Prepare | None:
        """Return how events of a bucket open their objects. Queues and topics announce none."""
        if aws_kind(url) != "s3":
            return None
        return BucketSource(self._clients, S3Source.parse(url), policy.max_object_mb << 20).prepare

    def locate(self, source: str) -> tuple[str, str] | None:
        """Return the canonical URL or ARN of a source on AWS, and a name for its topic; ``None``
        for a topic of the bus.
        """
        if aws_kind(source) is None:
            if "://" in source or source.startswith("arn:"):
                raise InvalidName(
                    f"{short(source)} is no source: s3://bucket/prefix/*.png, or the ARN of a topic"
                    " or queue, or a queue's URL"
                )
            return None
        return source_url(source, self._clients.region), source_topic_name(
            source, self._clients.region
        )

    def upkeep(self) -> None:
        """Send what was not confirmed; from time to time, fetch what SQS moved to dead-letter
        queues.
        """
        self._outbox.flush()
        if time.monotonic() - self._buried_s >= BURY_EVERY_S:
            self._buried_s = time.monotonic()
            for spec in self._registry.subscriptions():
                if self._intake.is_listening(spec):
                    self.bury(spec)
                    self._reconcile(spec)

    def _reconcile(self, subscription: SubscriptionSpec) -> None:
        """Deliver out of the log what should have come long ago, and is not in the queue: SNS takes minutes to learn of a filter and may
        judge one otherwise, a queue may be purged, a message may expire. Should its message come after all, it is recognised.
        """
        if not self._store.read(
            _OVERDUE, {"s": subscription.id, "then": self._clock.now_us() - OVERDUE_US, "n": 1}
        ):
            return
        due = {
            "s": subscription.id,
            "then": self._come_so_far_us(subscription) - OVERDUE_US,
            "n": 1_000,
        }
        with self._store.transaction() as transaction:
            seqs = [seq for (seq,) in transaction.query(_OVERDUE, due)]
            for seq in seqs:
                transaction.execute(
                    READY_OF_AWAITED + " AND seq = :seq", {"s": subscription.id, "seq": seq}
                )
                transaction.execute(
                    "DELETE FROM awaited WHERE subscription_id = :s AND seq = :seq",
                    {"s": subscription.id, "seq": seq},
                )
            transaction.after_commit(
                functools.partial(self._wakeup.notify, [f"ready:{subscription.id}"])
            )
        if seqs:
            logger.warning(
                "subscription %s: %d events were overdue in its queue and are delivered out of"
                " the log",
                subscription.name,
                len(seqs),
            )

    def _come_so_far_us(self, subscription: SubscriptionSpec) -> int:
        """Return up to when what was published has come: now if nothing waits in the queue, else
        the time of the newest that has come.
        """
        now_us = self._clock.now_us()
        if not self._count(subscription):
            return now_us
        newest = self._store.read(_NEWEST, {"s": subscription.id})
        return min(now_us, newest[0][0]) if newest else 0

    def close(self, drain_s: float, polls_s: float) -> None:
        """Give back what polls bring, and let SQS hear within *drain_s* seconds what it does not
        know yet.
        """
        self._intake.leave_all()
        end_s = time.monotonic() + drain_s
        self._outbox.drain(drain_s)
        self._outbox.stop()
        self._settler.flush(max(0.0, end_s - time.monotonic()))
        self._intake.close(polls_s)
        self._settler.stop()


def with_lease(subscription: SubscriptionSpec) -> SubscriptionSpec:
    """Return *subscription* with a lease: where none was asked for, six times the timeout, as AWS
    advises for a function behind a queue.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
    """
    policy = subscription.policy
    if policy.lease_s is not None:
        return subscription
    lease_s = default_lease_s(policy)
    return dataclasses.replace(
        subscription, policy=dataclasses.replace(policy, lease_s=float(lease_s))
    )
