"""The broker on Amazon SNS and SQS, with a log in a SQL store.

As for every broker, the log keeps archive, attempts, leases, dead letters, and expected
deliveries. SNS and SQS carry the events. A published event is written first and sent after the
commit (a transactional outbox). A received event is looked up before it is leased. So a repeat
finds its outcome and is deleted without a run of the model. A message stays in its queue until its
outcome is durable in the log.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from mltrigger.aws.faults import AwsError
from mltrigger.aws.naming import aws_kind
from mltrigger.aws.transport.admission import Taken
from mltrigger.aws.transport.outbox import Outgoing
from mltrigger.aws.transport.outside import AwsOutside, with_lease
from mltrigger.aws.transport.polls import Message, Raw
from mltrigger.broker import (
    AT_ONCE,
    MAX_EVENT_BYTES,
    Delivery,
    Outdated,
    Receipt,
    Sending,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.errors import InvalidEvent, InvalidPolicy, NameTaken, StoreError
from mltrigger.event.data import encode_data
from mltrigger.event.delay import due_us
from mltrigger.event.making import as_event, traced
from mltrigger.names import FIFO
from mltrigger.store import publishing
from mltrigger.store.placing import check_outside
from mltrigger.store.settling import comes_again
from mltrigger.store.unit import Unit

logger = logging.getLogger("mltrigger")

_EXTEND_S = 1.0
"""Seconds to wait until SQS has been told."""


class AwsBroker(AwsOutside):
    """The verbs of :class:`~mltrigger.broker.Broker` on SNS and SQS.

    Its parameters and its other duties are those of
    :class:`~mltrigger.aws.transport.outside.AwsOutside`.
    """

    ordered = True

    # -- publish -----------------------------------------------------------------------------------

    def publish(self, topic: str, events: Sequence[Any], unit: Unit | None = None) -> list[Receipt]:
        """Write events and their expected deliveries into the log, then send them.

        See :class:`~mltrigger.broker.Broker`. Without a *unit* SNS has them on return. With one
        they are sent when it commits. Refused ones are sent again later.
        """
        if not events:
            return []
        self._targets.discover(topic)
        target = self._targets.of(topic)
        begun = [traced(as_event(event)) for event in events]
        encoded = [(event, *encode_data(event, MAX_EVENT_BYTES)) for event in begun]
        messages = [self._outbox.message(e, target) for e in encoded]
        dues = [due_us(event.extensions) for event, _, _ in encoded]
        if target.fifo and any(dues):
            raise InvalidEvent(
                f"topic {topic!r} keeps the order of its events, so none can wait: publish it later"
            )
        with self._sql.within(unit) as transaction:
            published = publishing.publish(
                transaction,
                [(topic, encoded)],
                self._sql.time.published_us(transaction),
                carried=True,
            )
            (receipts,) = published.receipts
            unconfirmed = self._outbox.unconfirmed(transaction, [r.seq for r in receipts])
            outgoing = {
                r.seq: Outgoing(r.seq, m)
                for r, m in zip(receipts, messages, strict=True)
                if not r.duplicate or r.seq in unconfirmed
            }
            later = {r.seq: due for r, due in zip(receipts, dues, strict=True)}
            ready = self._outbox.add(transaction, {seq: later[seq] for seq in outgoing})
            now = [outgoing[seq] for seq in ready]
            if unit is not None:
                transaction.after_commit(functools.partial(self._outbox.send_soon, topic, now))
        if unit is None:
            self._outbox.send(topic, now)
            self._outbox.flush_at_times()  # who only publishes has nobody else who would
        return receipts

    def cancel(self, seq: int) -> list[str]:
        """End the deliveries of an event that have not begun. It is sent no more."""
        with self._sql.within(None) as transaction:
            self._outbox.forget(transaction, seq)
        return self._sql.cancel(seq)

    # -- bind --------------------------------------------------------------------------------------

    def bind(
        self, subscription: SubscriptionSpec, from_start: bool = False, rebind: bool = False
    ) -> None:
        """Make the missing resources, then bind in the log. Idempotent."""
        check_outside(subscription.policy)
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
        self._sql.bind(subscription, from_start, outside=True, rebind=rebind)
        found = self._registry.subscription(subscription.name)
        if found is not None:
            self._intake.made(found, place)

    def _own_log(self) -> None:
        """Note that the log belongs to this bus. It expects deliveries of this bus's queues.

        Raise StoreError if it belongs to another one.
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
        """End the deliveries to *name*. With *delete* also delete its AWS resources."""
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
                    self._targets.forget(spec.topic)
            else:
                self._resources.remove(spec, source)
        self._sql.unbind(name)

    def pause(self, name: str, paused: bool = True) -> None:
        """Stop or continue the leases of *name*."""
        self._sql.pause(name, paused)

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Unit | None = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events to one subscription, out of the log.

        This needs no right to send to its queue.
        """
        return self._sql.send(subscription, seqs, unit, sending)

    def discard(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        reason: str,
        up_to: int | None = None,
    ) -> list[int]:
        """Put dead letters away for good."""
        return self._sql.discard(subscription, seqs, reason, up_to)

    # -- receive -----------------------------------------------------------------------------------

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
        unit: Unit | None = None,
    ) -> Sequence[Delivery]:
        """Lease events that the log has ready, else those of the queue.

        The log has events that were sent again. Long polls continue between two calls.
        """
        if unit is not None:
            return []  # a queue is not in the transaction of the log
        key = f"ready:{subscription.id}"
        seen = self._wakeup.generation(key)
        if ready := self._sql.receive(subscription, max_events, generation=generation):
            return ready
        if subscription.id in self._registry.paused():
            self._intake.leave(subscription)
            self._wakeup.wait(key, seen, min(wait_s, self._wakeup.poll_s))
            return []
        if subscription.emit is not None:
            self._targets.of(subscription.emit)  # now: a unit must not wait for AWS
        inlet = self._intake.inlet(subscription)
        if wait_s <= 0:
            self._settler.flush(_EXTEND_S)  # settled messages must not come again
            return self._intake.taken(subscription, inlet.poll_now(max_events), generation)
        self._check_generation(generation)
        deliveries = self._intake.taken(subscription, inlet.take(max_events), generation)
        if deliveries:
            # The next ones travel while the model works on these.
            inlet.want(max_events - len(deliveries))
            return deliveries
        inlet.want(max_events)
        if self._wakeup.wait(key, seen, min(wait_s, self._wakeup.poll_s)):
            self._check_generation(generation)
            ready = self._sql.receive(subscription, max_events, generation=generation)
            return ready or self._intake.taken(subscription, inlet.take(max_events), generation)
        return []

    def _check_generation(self, generation: str | None) -> None:
        """Raise Outdated if the registry has another generation.

        This comes before messages are taken, which may have travelled for a while.
        """
        if generation is not None and self._registry.generation() != generation:
            raise Outdated

    def accept(self, subscription: SubscriptionSpec, received: Sequence[Raw]) -> Taken:
        """Lease messages that another service received and settles, and events of the log.

        They are those of a Lambda function. No other listener may serve such a subscription.
        """
        ready = self._sql.receive(subscription, max(1, len(received)))
        taken = self._intake.lease(
            subscription, [self._intake.arrived(subscription, r) for r in received]
        )
        return taken._replace(deliveries=[*ready, *taken.deliveries])

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a waiting receive in this process. Its poll continues."""
        self._sql.wake(subscription)

    # -- settle ------------------------------------------------------------------------------------

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases in the log and in SQS. Return the lost ones."""
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
        """Settle in the log. SQS is told after the commit."""
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

    def ack(self, deliveries: Sequence[Delivery], unit: Unit | None = None) -> bool:
        """Settle deliveries as done, unless one has a message, which is settled on its own."""
        if any(d.message is not None for d in deliveries):
            return False
        return self._sql.ack(deliveries, unit)

    def settle_late(
        self, settlements: Sequence[Settlement], unit: Unit | None = None
    ) -> list[Delivery]:
        """Count answers in the log that came after their lease.

        The message of an event that ended is deleted.
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
        """Tell SQS the committed settlements.

        Messages of ended deliveries are deleted. The others come again at their time.
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
