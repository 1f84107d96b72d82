"""The duties of the AWS broker outside of the event's way: look, plan, check and upkeep."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from mltrigger.aws.admin import doctor
from mltrigger.aws.admin.resources import Resources
from mltrigger.aws.admin.topology import default_lease_s
from mltrigger.aws.naming import S3Source, aws_kind, source_topic_name, source_url
from mltrigger.aws.transport.backlog import Backlog
from mltrigger.aws.transport.objects import BucketSource
from mltrigger.aws.transport.outbox import Outbox
from mltrigger.aws.transport.payloads import Payloads
from mltrigger.aws.transport.receiving import Intake
from mltrigger.aws.transport.settler import Settler
from mltrigger.aws.transport.targets import Targets
from mltrigger.broker import (
    MAX_EVENT_BYTES,
    Depth,
    Finding,
    Prepare,
    SubscriptionSpec,
)
from mltrigger.clock import Clock
from mltrigger.errors import InvalidName
from mltrigger.event.data import encode_data
from mltrigger.event.event import Event
from mltrigger.policy import DeliveryPolicy
from mltrigger.store.broker import SqlBroker
from mltrigger.store.registry import Registry
from mltrigger.store.transaction import Store
from mltrigger.store.wake import Wakeup
from mltrigger.text import short

logger = logging.getLogger("mltrigger")

BURY_EVERY_S = 60.0
"""Seconds between two looks into the dead-letter queues, in a process that listens."""


class AwsOutside:
    """The duties of a broker on AWS for its resources, and the parts of the broker.

    Parameters
    ----------
    clients : Clients
        SNS, SQS, S3.
    resources : Resources
        Finds and makes topics and queues.
    store, registry, clock, wakeup, worker_id
        As for :class:`~mltrigger.store.broker.SqlBroker`: the log's database.
    bucket : str, optional
        The bucket for bodies beyond SNS' limit.
    """

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
        self._clients, self._resources, self._registry = clients, resources, registry
        self._clock, self._wakeup, self._worker_id = clock, wakeup, worker_id
        self._sql = SqlBroker(store, clock, wakeup, worker_id)
        self._payloads = Payloads(clients, bucket)
        self._targets = Targets(resources, registry)
        self._outbox = Outbox(clients, store, clock, self._targets, self._payloads)
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
        self.backlog = Backlog(
            lambda: clients.sqs,
            lambda spec: self._intake.place(spec).queue_url,
            store,
            clock,
            wakeup,
        )
        self._buried_s = time.monotonic()

    # -- resources --------------------------------------------------------------------------------

    def topic(self, name: str) -> None:
        """Make topic *name* exist. Idempotent."""
        self._targets.make(name)

    def plan(self, subscription: SubscriptionSpec, source: str | None) -> list[Any]:
        """Return the changes that binding would make on AWS. Change nothing."""
        return self._resources.plan(with_lease(subscription), source)

    def findings(
        self, subscription: SubscriptionSpec | None = None, depth: Depth | None = None
    ) -> list[Finding]:
        """Return findings about the resources on AWS. Change nothing."""
        if subscription is None:
            waiting = self._outbox.waiting()
            return [
                *doctor.account_findings(self._clients, time.time()),
                *([doctor.unsent_finding(*waiting)] if waiting else []),
            ]
        source, listening = (
            self._registry.sources().get(subscription.topic),
            subscription.id in self._registry.live_listeners(),
        )
        known = depth or self.depth(subscription)
        found = doctor.findings(
            self._clients,
            self._resources,
            with_lease(subscription),
            source,
            known,
            listening=listening,
        )
        overdue = self.backlog.overdue(subscription)
        return [*found, *([doctor.overdue_finding(subscription.name, overdue)] if overdue else [])]

    def prepare(self, url: str, policy: DeliveryPolicy) -> Prepare | None:
        """Return how events of a bucket open their objects. Queues and topics announce none."""
        if aws_kind(url) != "s3":
            return None
        return BucketSource(self._clients, S3Source.parse(url), policy.max_object_mb << 20).prepare

    def locate(self, source: str) -> tuple[str, str] | None:
        """Return the canonical URL or ARN of a source on AWS, and a name for its topic.

        Return ``None`` for a topic of the bus.
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

    def check(self, topic: str, event: Event) -> None:
        """Raise InvalidEvent if AWS would refuse *event* on *topic*."""
        self._outbox.message((event, *encode_data(event, MAX_EVENT_BYTES)), self._targets.of(topic))

    # -- look --------------------------------------------------------------------------------------

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count the events of the log, and unreceived messages of others by SQS' own count."""
        depth = self._sql.depth(subscription)
        # Messages that are about to be deleted must not count.
        waiting = 0 if self._settler.busy else self.backlog.count(subscription)
        known = depth.visible + depth.delayed
        return Depth(
            max(depth.visible, waiting) if waiting > known else depth.visible,
            depth.delayed,
            depth.in_flight,
            depth.dead,
            depth.oldest_s,
            depth.next_s,
        )

    # -- upkeep -----------------------------------------------------------------------------------

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Give back the messages of running polls."""
        self._intake.leave(subscription)

    def tell_all(self, timeout_s: float) -> None:
        """Send waiting events, and tell SQS the rest, before this process is frozen."""
        end_s = time.monotonic() + timeout_s
        if not self._outbox.drain(timeout_s):
            logger.warning("events wait to be sent: the next invocation sends them")
        self._outbox.flush_at_times()
        self._settler.flush(max(0.0, end_s - time.monotonic()))

    def upkeep(self) -> None:
        """Send unconfirmed events again. Once a minute, look into the dead-letter queues."""
        self._outbox.flush()
        if time.monotonic() - self._buried_s >= BURY_EVERY_S:
            self._buried_s = time.monotonic()
            for spec in self._registry.subscriptions():
                if self._intake.is_listening(spec):
                    self.bury(spec)
                    self.backlog.reconcile(spec)

    def close(self, drain_s: float, polls_s: float) -> None:
        """Give back messages of running polls. Tell SQS the rest, for at most *drain_s* seconds."""
        self._intake.leave_all()
        end_s = time.monotonic() + drain_s
        self._outbox.drain(drain_s)
        self._outbox.stop()
        self._settler.flush(max(0.0, end_s - time.monotonic()))
        self._intake.close(polls_s)
        self._settler.stop()


def with_lease(subscription: SubscriptionSpec) -> SubscriptionSpec:
    """Return *subscription* with a lease: if it asks for none, six times the timeout."""
    policy = subscription.policy
    if policy.lease_s is not None:
        return subscription
    lease_s = default_lease_s(policy)
    return dataclasses.replace(
        subscription, policy=dataclasses.replace(policy, lease_s=float(lease_s))
    )
