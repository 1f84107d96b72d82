"""Receiving: poll queues, understand messages, and lease their events."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.aws.admin.resources import Place, Resources
from mltrigger.aws.faults import explained
from mltrigger.aws.naming import S3Source, aws_kind
from mltrigger.aws.transport.admission import Early, Taken, bury, take_in
from mltrigger.aws.transport.archiving import Arrived, Lease
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.aws.transport.polls import MOST_A_CALL, Inlet, Message, Raw, raw
from mltrigger.aws.transport.settler import HIDE_CAP_S, Settler
from mltrigger.broker import Delivery, Outdated, SubscriptionSpec
from mltrigger.clock import Clock
from mltrigger.delivery.threads import ThreadWorkers
from mltrigger.errors import MltriggerError, StoreError
from mltrigger.event.envelopes import Item, Unreadable
from mltrigger.store import leasing
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store

logger = logging.getLogger("mltrigger")

Key = tuple[int, int]
"""A delivery: its subscription and its number in the archive."""

Queue = tuple[int, str]
"""A subscription and its topic. The same subscription on another topic has another queue."""

_OUTAGE_S = 30.0
"""Seconds until a message comes again that an outage of ours kept from being processed."""
_SYNC = "UPDATE worker SET seen_us = seen_us WHERE id = :id"
_BURY_S = 60.0
_MOVED = "received more often than maxReceiveCount allows: SQS moved it to the dead-letter queue"


class Intake:
    """Receives for the subscriptions of one process.

    Parameters
    ----------
    clients, resources
        SQS, and the places of queues.
    store, registry, clock, worker_id
        The log's database, its registry, the time, and the number of this process.
    payloads : Payloads
        Understands messages.
    settler : Settler
        Tells SQS about settled messages.
    arrived : callable
        Called with a subscription's number when something has come for it.
    """

    def __init__(
        self,
        clients: Any,
        resources: Resources,
        *,
        store: Store,
        registry: Registry,
        clock: Clock,
        worker_id: Callable[[], int],
        payloads: Payloads,
        settler: Settler,
        arrived: Callable[[int], None],
    ) -> None:
        self._clients, self._resources, self._payloads, self._settler = (
            clients,
            resources,
            payloads,
            settler,
        )
        self._store, self._registry, self._clock, self._worker_id = (
            store,
            registry,
            clock,
            worker_id,
        )
        self._told = arrived
        self._workers = ThreadWorkers()
        self._guard = threading.Lock()
        self._places: dict[Queue, Place] = {}
        self._inlets: dict[Queue, Inlet] = {}
        self._held: dict[Key, Message] = {}
        self._buckets: dict[str, S3Source | None] = {}
        self._leases_s: dict[int, float] = {}

    # -- where -------------------------------------------------------------------------------------

    def place(self, subscription: SubscriptionSpec) -> Place:
        """Return the place of a subscription's messages. AWS is asked once."""
        queue = (subscription.id, subscription.topic)
        if queue not in self._places:
            self._places[queue] = self._resources.find(
                subscription, self._registry.sources().get(subscription.topic)
            )
        return self._places[queue]

    def made(self, subscription: SubscriptionSpec, place: Place) -> None:
        """Note *place* as the place of a subscription's messages."""
        self._places[subscription.id, subscription.topic] = place

    def is_listening(self, subscription: SubscriptionSpec) -> bool:
        """Whether this process has received for the subscription."""
        return (subscription.id, subscription.topic) in self._inlets

    def inlet(self, subscription: SubscriptionSpec) -> Inlet:
        """Return the polls of a subscription."""
        self._leases_s[subscription.id] = subscription.policy.lease
        queue = (subscription.id, subscription.topic)
        with self._guard:
            if queue not in self._inlets:
                self._inlets[queue] = Inlet(
                    functools.partial(self._poll, subscription),
                    self._give_back,
                    functools.partial(self._told, subscription.id),
                    self._workers,
                )
            return self._inlets[queue]

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Give back the messages of running polls."""
        inlet = self._inlets.get((subscription.id, subscription.topic))
        if inlet is not None:
            inlet.leave()

    def forget(self, subscription: SubscriptionSpec) -> None:
        """Forget the place of a subscription that was ended."""
        self.leave(subscription)
        self._places.pop((subscription.id, subscription.topic), None)

    def leave_all(self) -> None:
        """Give back the messages of running polls, for all subscriptions."""
        for inlet in list(self._inlets.values()):
            inlet.leave()

    def close(self, polls_s: float) -> None:
        """Wait at most *polls_s* seconds for the running polls. Their messages are given back."""
        end_s = time.monotonic() + polls_s
        for inlet in list(self._inlets.values()):
            inlet.wait_until_landed(max(0.0, end_s - time.monotonic()))
        self._workers.close()

    # -- receive -----------------------------------------------------------------------------------

    def _poll(self, subscription: SubscriptionSpec, most: int, wait_s: int) -> list[Raw]:
        """Ask SQS once, with the lease that the subscription has now."""
        return self._received(
            self.place(subscription).queue_url, most, wait_s, self._leases_s[subscription.id]
        )

    def _received(self, queue_url: str, most: int, wait_s: int, lease_s: float) -> list[Raw]:
        asked_us = self._clock.now_us()
        try:
            answer = self._clients.lean_sqs.receive_message(
                QueueUrl=queue_url,
                MaxNumberOfMessages=min(most, MOST_A_CALL),
                WaitTimeSeconds=wait_s,
                VisibilityTimeout=min(HIDE_CAP_S, max(1, math.ceil(lease_s))),
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
            )
        except Exception as error:
            raise explained(error, "sqs:ReceiveMessage", queue_url.rpartition("/")[2]) from error
        received_us = self._clock.now_us()
        return [raw(m, queue_url, asked_us, received_us) for m in answer.get("Messages", ())]

    def _give_back(self, unwanted: Sequence[Raw], delay_s: float = 0.0) -> None:
        if unwanted:
            until_us = self._clock.now_us() + int(delay_s * 1e6)
            self._settler.hide([(r.message, until_us) for r in unwanted])

    def taken(
        self,
        subscription: SubscriptionSpec,
        received: Sequence[Raw],
        generation: str | None = None,
    ) -> list[Delivery]:
        """Lease received messages in one transaction of the log. Delete those that are done.

        If the registry has not that *generation*, raise Outdated and keep them for the next call.
        """
        received = self._young(subscription, received)
        if not received:
            return []
        arrived = []
        for r in received:
            try:
                arrived.append(self.arrived(subscription, r))
            except StoreError as error:
                # S3 does not answer for this one. The others need not wait.
                logger.warning(
                    "subscription %s: a message has to wait: %s", subscription.name, error
                )
                self._give_back([r], _OUTAGE_S)
        try:
            none = Taken([], [], [])
            taken = self.lease(subscription, arrived, generation) if arrived else none
        except Outdated:
            known = [r for r in received if any(a.message is r.message for a in arrived)]
            self.inlet(subscription).untake(known)
            raise
        except BaseException:
            # An outage of ours: SQS counts the receive, although it is no attempt.
            self._give_back(
                [r for r in received if any(a.message is r.message for a in arrived)], _OUTAGE_S
            )
            raise
        self._settler.delete(taken.done)
        self._put_off(taken.early)
        return taken.deliveries

    def _young(self, subscription: SubscriptionSpec, received: Sequence[Raw]) -> list[Raw]:
        """Return the messages whose lease has not half ended. Give back the others."""
        after_us = self._clock.now_us() - int(subscription.policy.lease * 1e6 / 2)
        young = [r for r in received if r.message.received_us > after_us]
        if len(young) != len(received):
            self._give_back([r for r in received if r.message.received_us <= after_us])
        return young

    def lease(
        self,
        subscription: SubscriptionSpec,
        arrived: Sequence[Arrived],
        generation: str | None = None,
    ) -> Taken:
        """Lease arrived messages whose events have no outcome and no other lease."""
        accepted = subscription.policy.ack == "accepted"
        with self._store.transaction(durable=accepted) as transaction:
            at = leasing.standing(transaction, subscription.id)
            if generation is not None and (at is None or (at.generation or "") != generation):
                raise Outdated
            binding = (at.binding if at is not None else None) or 0
            now_us = self._clock.now_us()
            until_us = min(a.message.received_us for a in arrived) + int(
                subscription.policy.lease * 1e6
            )
            taken = take_in(
                transaction,
                subscription,
                arrived,
                Lease(now_us, until_us, self._worker_id(), accepted, binding),
            )
        # A power cut may lose a lease, but no record that lets a message be deleted.
        if taken.moved and not accepted:
            with self._store.transaction() as transaction:
                transaction.execute(_SYNC, {"id": self._worker_id()})
        if taken.moved:
            self._told(subscription.id)
        for delivery in taken.deliveries:
            if isinstance(delivery.message, Message):
                self._held[subscription.id, delivery.seq] = delivery.message
        return taken

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Forget the messages of these deliveries."""
        for d in deliveries:
            if self._held.get((d.subscription_id, d.seq)) is d.message:
                self._held.pop((d.subscription_id, d.seq), None)

    def _put_off(self, early: Sequence[Early]) -> None:
        """Hide early messages. If this process works on one, use its new receipt."""
        for message, _, key in early:
            held = self._held.get(key) if key is not None else None
            if held is not None and held.queue == message.queue:
                held.received_again(message)
        self._settler.hide([(e.message, e.at_us) for e in early])

    def arrived(self, subscription: SubscriptionSpec, received: Raw) -> Arrived:
        """Return the content of a message for a subscription."""
        place = self.place(subscription)
        identity = self._payloads.identity(received)
        understand = functools.partial(self._understood, received, place.queue_arn, subscription)
        # Read from S3 here, not in a transaction. A message that names its event may never need it.
        read = understand if identity else functools.partial(_as_it_is, understand())
        sent_us = received.sent_us or self._clock.now_us()
        return Arrived(
            received.message, received.message_id, identity, read, sent_us, alone=not place.owned
        )

    def _understood(
        self, received: Raw, origin: str, subscription: SubscriptionSpec
    ) -> Sequence[Item]:
        try:
            return self._payloads.understand(
                received, origin, subscription.policy, self._bucket_of(subscription)
            )
        except StoreError:
            raise
        except MltriggerError as error:
            # One wrong message must not block the others.
            text = received.body.encode("utf-8", "surrogatepass")
            return [
                Unreadable(
                    getattr(error, "reason", "invalid_event"), str(error), received.message_id, text
                )
            ]

    def _bucket_of(self, subscription: SubscriptionSpec) -> S3Source | None:
        """Return the source of a subscription if it is a bucket. It never changes."""
        if subscription.topic not in self._buckets:
            url = self._registry.sources().get(subscription.topic, "")
            self._buckets[subscription.topic] = (
                S3Source.parse(url) if aws_kind(url) == "s3" else None
            )
        return self._buckets[subscription.topic]

    # -- the dead-letter queue ---------------------------------------------------------------------

    def bury(self, subscription: SubscriptionSpec) -> int:
        """Take messages of the dead-letter queue over into the log, as dead letters.

        Return the number of messages.
        """
        place, total = self.place(subscription), 0
        while place.dead_url is not None and (
            received := self._received(place.dead_url, MOST_A_CALL, 0, _BURY_S)
        ):
            arrived = [self.arrived(subscription, r) for r in received]
            with self._store.transaction() as transaction:
                now_us = self._clock.now_us()
                done = bury(
                    transaction,
                    subscription,
                    arrived,
                    Lease(now_us, now_us, self._worker_id()),
                    _MOVED,
                )
            self._settler.delete(done)
            total += len(done)
        return total


def _as_it_is(items: Sequence[Item]) -> Sequence[Item]:
    return items
