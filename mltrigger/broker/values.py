"""The values that cross the seam: subscriptions, deliveries, settlements, receipts, findings."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from mltrigger.event.event import Event
from mltrigger.filters import FilterPolicy
from mltrigger.policy import DeliveryPolicy
from mltrigger.text import card, card_of

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The size limit of an event's data. Larger objects belong in a folder or a bucket."""

Verdict = Literal["ack", "retry", "dead_letter", "release"]
Count = Literal["failure", "death", "nothing"]
"""The count that a retry raises: failures of the model, deaths of its process, or none."""


@dataclasses.dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """One subscription as the registry keeps it.

    ``emit`` is the topic of its outputs. ``filter`` selects the events. Without one all
    are delivered. ``id`` is the registry's number. ``role`` is ``live``, or ``direct`` for
    calls whose callers wait: no listener receives those. A lane has the role ``shadow``, ``replay``
    or ``correction``, the number of its parent, and its settings in ``lane``, as JSON.
    """

    name: str
    topic: str
    selector: str
    policy: DeliveryPolicy = dataclasses.field(default_factory=DeliveryPolicy)
    emit: str | None = None
    filter: FilterPolicy | None = None
    id: int = 0
    role: str = "live"
    parent_id: int = 0
    lane: str = ""

    @property
    def is_placed(self) -> bool:
        """Whether its events wait by key and priority. Lanes and direct calls have no places."""
        policy = self.policy
        return self.role == "live" and (policy.key is not None or policy.priority is not None)

    @property
    def is_limited(self) -> bool:
        """Whether its claims have limits over all processes, or an order of their own."""
        return self.is_placed or (
            self.role == "live" and self.policy.max_rate_per_s_total is not None
        )


class Receipt(NamedTuple):
    """The result of publishing one event.

    ``duplicate``: an event with this topic, source and id exists. Nothing was added then. ``seq``
    is its place in the archive. ``subscriptions`` are the names that it was delivered to.
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


# Each consumed event makes five of these values. As frozen dataclasses they would cost more than
# the model call. A tuple is as immutable and made three times as fast. A delivery needs an
# identity, which a tuple lacks.
@dataclasses.dataclass(slots=True, eq=False)
class Delivery:
    """One lease of one event for one subscription.

    No two are equal. None is ever changed. Times are microseconds since 1970.

    ``attempt`` rises with every claim and fences the lease: an older one changes nothing.
    ``failures`` counts failures of the model. ``abandoned`` counts attempts that ran alone and
    never ended. It is ``SUSPECT`` after one that ran beside others. ``alone``: this attempt runs
    alone, see :meth:`Broker.alone`. ``since_us``: published, or sent again. Its age counts from
    here. ``lease`` is the number of its lease. ``message`` is its message in an outside queue, if
    any. Events of one ``group`` are processed in order.
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
    lease: int = 0
    message: object | None = None
    group: str | None = None
    alone: bool = False


class Settlement(NamedTuple):
    """A verdict on one delivery.

    ``ack``: done. ``retry``: visible again after ``delay_s``. ``counts`` names the count.
    ``release``: visible again now, and nothing is counted. ``dead_letter``: kept apart with
    ``reason`` and the last error.
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
    """The number of events of a subscription, by their state.

    ``oldest_s`` is the age of the oldest open one. ``next_s`` is the time until the first delayed
    one is visible. ``dead`` counts dead letters, without those redriven or discarded.
    """

    visible: int
    delayed: int
    in_flight: int
    dead: int
    oldest_s: float | None
    next_s: float | None = None

    @property
    def open(self) -> int:
        """The number of events without an outcome: waiting or leased."""
        return self.visible + self.delayed + self.in_flight

    def _repr_html_(self) -> str:
        return card_of("Depth", self, {"oldest_s": " s", "next_s": " s"})


class Sending(NamedTuple):
    """Options of sending again: rate, delay of the first, and other ``data`` if given.

    With ``up_to`` only dead letters are sent that were recorded by then, as for ``discard``.
    """

    rate_per_s: float | None = None
    data: bytes | None = None
    media_type: str | None = None
    delay_s: float = 0.0
    up_to: int | None = None


AT_ONCE = Sending()


class Outdated(Exception):  # a signal, not an error
    """The registry has changed since the caller read it. Nothing was leased."""


Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "ok")


class Finding(NamedTuple):
    """One result of the doctor: its severity, its subject, and the advice."""

    severity: Severity
    about: str
    check: str
    finding: str
    advice: str
