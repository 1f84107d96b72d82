"""The two protocols of a broker: ``Broker`` for all, ``Outside`` for a service such as SNS and SQS.

One contract test suite is bound to every broker. A package adds a broker with an entry point of the
group ``mltrigger.brokers``. :mod:`mltrigger.urls` has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mltrigger.broker.values import (
    AT_ONCE,
    Delivery,
    Depth,
    Finding,
    Receipt,
    Sending,
    Settlement,
    SubscriptionSpec,
)
from mltrigger.event.event import Event
from mltrigger.policy import DeliveryPolicy

Prepare = Callable[[Event], Event]
"""Returns an event ready for a model: ``event.open()`` opens its object."""


class Unit(Protocol):
    """A unit of work: one transaction of the log's database."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* after the commit. Never call it after a rollback."""


class Broker(Protocol):
    """Keeps events until they are settled.

    Any thread may call any method. A broker that does not answer raises
    :class:`~mltrigger.errors.StoreError`. Repeating a call is safe.
    """

    ordered: bool
    """Whether a topic named ``….fifo`` keeps the order of each group."""

    def publish(self, topic: str, events: Sequence[Any], unit: Any = None) -> list[Receipt]:
        """Make *events* durable, with a delivery for each matching subscription of *topic*.

        Each is an Event, or the data of a new one: of ``Event(data)``.
        All or nothing. Repeating it with the same ids adds nothing. Without a *unit* the events are
        durable on return, else after its commit. A listener can receive them from then on. Events
        of a unit may reach a service outside, such as SNS, a moment later. An event with the
        extension ``notbefore`` is received from that time on.
        """

    def bind(
        self, subscription: SubscriptionSpec, from_start: bool = False, rebind: bool = False
    ) -> None:
        """Deliver all events that are published on the subscription's topic from now on.

        Idempotent. With *from_start* a new binding also gets the matching events of the archive. A
        version that was replaced by a promote, a canary or a rollback is bound only with *rebind*.
        Without it the subscription keeps its version.
        """

    def unbind(self, name: str, delete: bool = False) -> None:
        """End the subscription *name*. Its open events end as ``skipped``, ``unsubscribed``.

        Idempotent. With *delete* remove also its resources outside, such as a queue.
        """

    def pause(self, name: str, paused: bool = True) -> None:
        """Stop leasing events of the subscription *name*, or go on. Leased events may end."""

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Any = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events again to one subscription only. Return their seqs.

        Dead and skipped events are sent. Open and succeeded events stay as they are, because each
        event has one final outcome. Failures start from zero, attempts go on.
        """

    def cancel(self, seq: int) -> list[str]:
        """End the deliveries of an event that have not begun, as ``skipped``, ``cancelled``.

        Return the names of the subscriptions that had begun with it. Nothing changes for them.
        """

    def discard(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        reason: str,
        up_to: int | None = None,
    ) -> list[int]:
        """Put dead letters away for good, with a *reason*. Return their seqs.

        They stay ``dead`` and are listed no more. *up_to* is the number of a record: one that died
        again after it is left as it is.
        """

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
        unit: Any = None,
    ) -> Sequence[Delivery]:
        """Lease up to *max_events*. Wait at most *wait_s* seconds for the first one.

        With a *unit*, which settles others, lease in its transaction without a wait. A broker that
        cannot do so returns nothing.

        Many plain events may come as :class:`~mltrigger.broker.alike.Alike`.

        The policy's lease hides each from other listeners. After the lease the event comes again
        with a higher attempt, perhaps alone.

        Raises Outdated when the registry has another *generation*, and leases nothing. An event
        published after a version switch must not run the old version.
        """

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a :meth:`receive` that waits in this process."""

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases for *lease_s* seconds from now. Return the lost ones."""

    def settle(self, settlements: Sequence[Settlement], unit: Any = None) -> list[Delivery]:
        """Settle deliveries whose lease is held, fenced by attempt.

        Return the deliveries with a lost lease. Nothing changes for them.
        """

    def ack(self, deliveries: Sequence[Delivery], unit: Any = None) -> bool:
        """Settle deliveries as done, all or none. Return whether it was done.

        ``False`` if a lease is lost, or if they have to be settled one by one.
        """

    def settle_late(self, settlements: Sequence[Settlement], unit: Any = None) -> list[Delivery]:
        """Settle deliveries that were answered after their lease. Return those that count.

        An answer counts if the event is open and has no outcome, and its attempt did not end
        before. A newer lease is lost then. The attempt is no longer abandoned.
        """

    def alone(self, delivery: Delivery, is_alone: bool = True) -> bool:
        """Note that the model will run with *delivery* alone. Return ``False`` for a lost lease.

        Durable on return. If the attempt never ends, the event is to blame: after ``MAX_ABANDONED``
        of them it is dead. Take it back with ``is_alone=False`` before another call begins.
        """

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count visible, delayed, leased and dead events."""


class Outside(Protocol):
    """The duties of a broker whose events lie in a service outside, such as SNS and SQS.

    A bus has one or none. The embedded brokers have none.
    """

    def topic(self, name: str) -> None:
        """Make topic *name* exist in the service. Idempotent."""

    def locate(self, source: str) -> tuple[str, str] | None:
        """Return the canonical URL of a *source* in the service, and a name for its topic.

        ``None`` means that *source* is the name of a topic. Raises InvalidName for a URL that
        cannot be listened to.
        """

    def prepare(self, url: str, policy: DeliveryPolicy) -> Prepare | None:
        """Return how events of the source *url* open their objects. ``None`` without objects."""

    def check(self, topic: str, event: Event) -> None:
        """Raise InvalidEvent if the service would refuse *event*.

        An emitted event is checked before its outcome is recorded.
        """

    def plan(self, subscription: SubscriptionSpec, source: str | None) -> list[Any]:
        """Return the changes that binding would make, as rows of the frame ``PLAN``.

        Changes nothing.
        """

    def findings(
        self, subscription: SubscriptionSpec | None = None, depth: Depth | None = None
    ) -> list[Finding]:
        """Return findings about the resources of the bus, or of one subscription.

        *depth* is given when it is known. Changes nothing.
        """

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Give back messages that are on their way. Nothing is received here any more.

        Returns at once. Idempotent.
        """

    def upkeep(self) -> None:
        """Do regular duties. Called every few seconds while this process delivers."""

    def close(self, drain_s: float, polls_s: float) -> None:
        """Release everything.

        Send outstanding messages for at most *drain_s* seconds. Wait at most *polls_s* seconds for
        long polls.
        """
