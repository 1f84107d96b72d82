"""The seam: what a broker promises. One contract test suite is bound to every implementation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from mltrigger.event.event import Event
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.text import card, card_of

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Most bytes of data an event may have; larger objects belong in a folder or a bucket."""

Verdict = Literal["ack", "retry", "dead_letter", "release"]
Count = Literal["failure", "death", "nothing"]
"""What a retry is counted as: the model failed, its process died, or it is nobody's fault."""


@dataclasses.dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """One subscription as the registry keeps it: topic, filter, selector and delivery policy, under
    a name.

    ``emit`` names the topic that outputs go on to; ``filter`` decides which events are delivered,
    all without one; ``id`` is the registry's number.
    """

    name: str
    topic: str
    selector: str
    policy: DeliveryPolicy = dataclasses.field(default_factory=DeliveryPolicy)
    emit: str | None = None
    filter: FilterPolicy | None = None
    id: int = 0


class Receipt(NamedTuple):
    """What publishing one event did.

    ``duplicate`` says that the event (same topic, source and id) was published before: nothing was
    added. ``seq`` is its place in the archive; ``subscriptions`` are the names that it was
    delivered to.
    """

    event_id: str
    seq: int
    duplicate: bool
    subscriptions: tuple[str, ...]

    def _repr_html_(self) -> str:
        facts = [
            ("event", self.event_id),
            ("delivered to", ", ".join(self.subscriptions) or "no subscription"),
        ]
        return card(
            "Receipt",
            [*facts, ("duplicate", "yes: it was published before")] if self.duplicate else facts,
        )


# Five values are made for each event that is consumed. As frozen dataclasses they would cost more
# than the model call around them: tuples are as immutable and three times as fast to make. A
# delivery has an identity, which a tuple has not.
@dataclasses.dataclass(slots=True, eq=False)
class Delivery:
    """One lease of one event for one subscription; no two are equal.

    Times are microseconds since 1970. Not to be changed.

    ``attempt`` rises with every claim and fences the lease: whoever holds an older one changes
    nothing. ``failures`` counts what the model failed. ``abandoned`` counts the attempts that ran
    alone and never ended; it is ``SUSPECT`` when one only ran beside others. ``alone`` says that
    this attempt runs alone, see :meth:`Broker.alone`. Its age counts from ``since_us``: when it was
    published, or sent again. ``message`` is what stands for it in a queue outside, if one carries
    it. Those of one ``group`` are processed in order.
    """

    event: Event
    seq: int
    subscription_id: int
    attempt: int
    failures: int
    abandoned: int
    published_us: int
    visible_us: int
    received_us: int
    since_us: int = 0
    message: object | None = None
    group: str | None = None
    alone: bool = False


class Settlement(NamedTuple):
    """What shall become of one delivery.

    ``ack``: done. ``retry``: visible again after ``delay_s``, and counted as ``counts`` says.
    ``release``: visible again now, nothing happened. ``dead_letter``: kept apart with ``reason``
    and the last error.
    """

    delivery: Delivery
    verdict: Verdict
    delay_s: float = 0.0
    counts: Count = "failure"
    reason: str | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Depth:
    """How many events of a subscription are where.

    ``oldest_s`` is the age of the oldest one that is not settled, ``next_s`` the time until the
    first of the delayed ones is visible. ``dead`` are the dead letters that wait for somebody:
    those that were redriven or discarded are not among them.
    """

    visible: int
    delayed: int
    in_flight: int
    dead: int
    oldest_s: float | None
    next_s: float | None = None

    @property
    def open(self) -> int:
        """How many events have no outcome yet: they wait, or are leased."""
        return self.visible + self.delayed + self.in_flight

    def _repr_html_(self) -> str:
        return card_of("Depth", self, {"oldest_s": " s", "next_s": " s"})


class Sending(NamedTuple):
    """How events are sent again: at most ``rate_per_s`` of them a second, the first after
    ``delay_s``, with other ``data`` if given.
    """

    rate_per_s: float | None = None
    data: bytes | None = None
    media_type: str | None = None
    delay_s: float = 0.0


AT_ONCE = Sending()


class Outdated(Exception):  # a signal, not an error
    """The registry is not as the caller knows it: somebody rebound, registered or moved an alias
    meanwhile. Nothing was leased.
    """


Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "ok")


class Finding(NamedTuple):
    """One thing the doctor found: how bad, about what, and what to do now."""

    severity: Severity
    about: str
    check: str
    finding: str
    advice: str


class Source(Protocol):
    """Something that exists and becomes events: a folder, a bucket."""

    def prepare(self, event: Event) -> Event:
        """Return *event* ready for a model: bound to how its object is opened."""


def prepared_by(source: Source | None) -> Callable[[Event], Event]:
    """Return what makes an event ready for a model: of *source*, or of none, where there is nothing
    to do.
    """
    return source.prepare if source is not None else lambda event: event


class Unit(Protocol):
    """A unit of work: one transaction of the log's database."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* once the unit is durable; never if it is rolled back."""


class Broker(Protocol):
    """Keeps events until they are settled. Every method may be called from any thread.

    A broker that does not answer raises :class:`~mltrigger.errors.StoreError`; repeating the call
    is safe.
    """

    ordered: bool
    """Whether topics whose name ends in ``.fifo`` keep the order of each group."""

    def topic(self, name: str) -> None:
        """Make topic *name* exist; idempotent."""

    def locate(self, source: str) -> tuple[str, str] | None:
        """Return the canonical URL of a *source* outside and a name for its topic; ``None`` when
        *source* is the name of a topic.

        Raises InvalidName when it is none, or cannot be listened to from here.
        """

    def publish(self, topic: str, events: Sequence[Event], unit: Any = None) -> list[Receipt]:
        """Make the *events* and one delivery for each subscription of *topic* whose filter matches
        durable, all or nothing.

        Repeating it with the same ids adds nothing. Without a *unit* it is durable on return, else
        when the unit commits. A listener can receive it from then on; where a unit's events go to a
        service outside, such as SNS, soon afterwards.
        """

    def check(self, topic: str, event: Event) -> None:
        """Raise InvalidEvent when :meth:`publish` would refuse *event*: what is emitted must be
        known to be good before it is recorded.
        """

    def bind(self, subscription: SubscriptionSpec, from_start: bool = False) -> None:
        """Deliver what is published on the subscription's topic from now on; idempotent.

        With *from_start* a new binding also gets every event of the topic that is in the archive
        and passes the filter.
        """

    def unbind(self, name: str, delete: bool = False) -> None:
        """Deliver no more to the subscription *name*; what it had not settled ends as ``skipped``,
        ``unsubscribed``. Idempotent.

        With *delete* what :meth:`bind` made for it outside, such as a queue, goes as well.
        """

    def plan(self, subscription: SubscriptionSpec, source: str | None) -> list[Any]:
        """Return what :meth:`bind` would create or change outside, as rows of the frame ``PLAN``;
        nothing is changed.
        """

    def findings(
        self, subscription: SubscriptionSpec | None = None, depth: Depth | None = None
    ) -> list[Finding]:
        """Return what there is to say about what the bus, or one subscription of which *depth* is
        known, has outside; changes nothing.
        """

    def source(self, url: str, policy: DeliveryPolicy) -> Source | None:
        """Return what makes events of the source at *url* ready for a model."""

    def pause(self, name: str, paused: bool = True) -> None:
        """Lease nothing more of the subscription *name* to anybody, until it is called with
        ``False``; what is leased may end.
        """

    def send(
        self,
        subscription: SubscriptionSpec,
        seqs: Sequence[int],
        unit: Any = None,
        sending: Sending = AT_ONCE,
    ) -> list[int]:
        """Deliver archived events to one subscription only, its dead letters and what it skipped
        among them: redrive.

        What is open already stays as it is, and so does what has succeeded: there is one final
        outcome for each. The others begin anew, with no failures counted and the attempts going on.
        Returns the seqs that were sent.
        """

    def discard(
        self, subscription: SubscriptionSpec, seqs: Sequence[int], reason: str
    ) -> list[int]:
        """Put dead letters away for good, with the *reason*: they stay ``dead`` and are listed no
        more. Returns their seqs.
        """

    def receive(
        self,
        subscription: SubscriptionSpec,
        max_events: int,
        wait_s: float = 0.0,
        generation: str | None = None,
    ) -> list[Delivery]:
        """Lease up to *max_events*, waiting at most *wait_s* seconds for the first one.

        Raises Outdated and leases nothing when the registry has another *generation* than the one
        given: what is published after a version was switched must not run the version before.

        Each is hidden from other listeners for the policy's lease; one whose lease ran out comes
        again with a higher attempt, and may come alone.
        """

    def wake(self, subscription: SubscriptionSpec) -> None:
        """End a :meth:`receive` that is waiting in this process."""

    def leave(self, subscription: SubscriptionSpec) -> None:
        """Nobody here receives for the subscription any more: give back what is on its way.

        Returns at once; idempotent.
        """

    def upkeep(self) -> None:
        """Do what is due beside deliveries; called every few seconds while something is delivered
        in this process.
        """

    def close(self, drain_s: float, polls_s: float) -> None:
        """Tell the service what it does not know yet, within *drain_s* seconds, wait *polls_s* for
        polls, and let go of everything.
        """

    def extend(self, deliveries: Sequence[Delivery], lease_s: float) -> list[Delivery]:
        """Hold the leases for *lease_s* seconds from now; return those that were already lost."""

    def settle(self, settlements: Sequence[Settlement], unit: Any = None) -> list[Delivery]:
        """Settle deliveries whose lease is still held, fenced by attempt; return those whose lease
        was lost (nothing changed).
        """

    def settle_late(self, settlements: Sequence[Settlement], unit: Any = None) -> list[Delivery]:
        """Settle deliveries that have lost their lease and were answered all the same; return those
        whose answer counts.

        Their attempts are abandoned no longer. An answer counts unless the event has its outcome,
        or is open no more; whoever has leased it since has lost it then.
        """

    def alone(self, delivery: Delivery, is_alone: bool = True) -> bool:
        """Note that the model is about to run with *delivery* and nothing else; return ``False``
        when its lease was lost.

        If the attempt never ends, the event is to blame: ``MAX_ABANDONED`` of them, and it is dead.
        Durable on return. Take it back with ``is_alone=False`` before anything else begins.
        """

    def depth(self, subscription: SubscriptionSpec) -> Depth:
        """Count what is waiting, delayed, in flight and dead."""
