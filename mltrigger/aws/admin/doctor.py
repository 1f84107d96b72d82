"""The state of a bus on AWS, compared with its settings. It is only read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from mltrigger.aws.admin.plan import Change, as_object, call
from mltrigger.aws.admin.queues import receives_of
from mltrigger.aws.admin.resources import Place, Resources
from mltrigger.aws.admin.topology import SPARE_RECEIVES
from mltrigger.aws.faults import DENIED, MISSING, THROTTLED, AwsError
from mltrigger.aws.naming import Arn
from mltrigger.broker import Depth, Finding, SubscriptionSpec
from mltrigger.errors import MltriggerError, NotFound
from mltrigger.policy import MAX_ABANDONED, retry_budget_s
from mltrigger.text import short

IN_FLIGHT = 120_000
"""The most messages of a queue that may be received and not deleted. Then SQS gives no more.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""
SKEW_S = 60.0
"""AWS refuses requests signed more than five minutes off.

https://docs.aws.amazon.com/general/latest/gr/signing-aws-api-requests.html
"""
UNSENT_S = 60.0
"""Longer than a publisher's own retries. Beyond it, somebody has to look."""
_NEAR = 0.8
_AGE = 0.5
_ATTRIBUTES = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "MessageRetentionPeriod",
    "RedrivePolicy",
)
_EXPLAINED = {
    "VisibilityTimeout": (
        "it is the lease, by default six times timeout_s plus batch_window_s; a function behind the"
        " queue depends on it"
    ),
    "MessageRetentionPeriod": "what waits for longer is deleted by SQS unseen",
    "Policy": "it lets the topic send and refuses what comes without TLS",
    "RedrivePolicy": "it is the net for events that kill their worker",
    "RedriveAllowPolicy": "it keeps other queues from using these dead letters",
    "SqsManagedSseEnabled": "it encrypts what waits",
    "RawMessageDelivery": "without it messages come wrapped",
    "FilterPolicy": "the listener applies the whole filter in any case; SNS spares the deliveries",
}


def account_findings(clients: Any, now_s: float) -> Iterator[Finding]:
    """Yield findings about credentials and the clock of this machine, which says *now_s*."""
    try:
        answer = call(clients.sts, "get_caller_identity", clients.region)
    except AwsError as error:
        yield Finding(
            "error",
            "bus",
            "credentials",
            str(error),
            "nothing can be sent or received until they work",
        )
        return
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if not said:
        return
    skew_s = now_s - parsedate_to_datetime(said).timestamp()
    if abs(skew_s) > SKEW_S:
        yield Finding(
            "warning",
            "bus",
            "clock",
            f"this machine's clock is {skew_s:+.0f} s off AWS'",
            "set it (chrony, ntpd): AWS refuses requests that are five minutes off, and queue_ms"
            " counts from SQS' time",
        )


def unsent_finding(count: int, oldest_s: float) -> Finding:
    """Return the finding about *count* events that SNS has not confirmed.

    The oldest is *oldest_s* seconds old.
    """
    return Finding(
        "warning" if oldest_s > UNSENT_S else "info",
        "bus",
        "unsent",
        f"{count:,} event{'' if count == 1 else 's'} published here {'is' if count == 1 else 'are'}"
        f" not confirmed by SNS yet, the oldest for {oldest_s:.0f} s",
        "they are kept, and sent again by any process that listens on this log: start one"
        " (sub.start() or `mltrigger worker`); its log says why they are refused",
    )


def overdue_finding(name: str, count: int) -> Finding:
    """Return the finding about *count* events that should have come through the queue long ago."""
    return Finding(
        "warning",
        name,
        "overdue",
        f"{count:,} event{'' if count == 1 else 's'} published here should have come through its"
        " queue 20 minutes ago",
        "a listener delivers them out of the log once the queue is empty or has come further: look"
        " whether SNS dropped them (its filter, its metric NumberOfNotificationsFilteredOut), or"
        " somebody purged the queue",
    )


def findings(
    clients: Any,
    resources: Resources,
    spec: SubscriptionSpec,
    source: str | None,
    depth: Depth,
    *,
    listening: bool,
) -> list[Finding]:
    """Return the findings about the resources of *spec*.

    Parameters
    ----------
    clients, resources
        Clients of AWS, and the resources of the bus.
    spec : SubscriptionSpec
        With the lease that its queue shall have.
    source : str or None
        The source of its topic, ``None`` for a topic of ours.
    depth : Depth
        The depth by the log.
    listening : bool
        Whether a listener is alive, in any process that shares the log.
    """
    found: list[Finding] = []
    try:
        place = resources.find(spec, source)
    except NotFound as error:
        return [
            Finding(
                "error",
                spec.name,
                "queue",
                str(error),
                "events published meanwhile are not in it: sub.explain says which are due",
            )
        ]
    except MltriggerError as error:
        return [_unknown(spec, "queue", error)]
    known = Known(clients, place)
    if place.owned:
        found += _planned(resources, spec, source, known)
        found += _buried(known, spec)
    else:
        found += _permissions(resources, spec, place)
    found += _receives(known, spec)
    found += _kept(known, spec, depth)
    found += _waiting(known, spec, listening=listening)
    return found + [_unknown(spec, "attributes", error) for error in known.refused]


class Known:
    """Attributes of the queue and the dead-letter queue, each read once. Empty if not allowed."""

    def __init__(self, clients: Any, place: Place) -> None:
        self._clients, self.place = clients, place
        self.refused: list[AwsError] = []
        self.queue = self._read(place.queue_url)
        dead = as_object(self.queue.get("RedrivePolicy")).get("deadLetterTargetArn")
        # Somebody else's dead-letter queue: no right to look there is no finding.
        self.dead = (
            self._read(place.dead_url)
            if place.dead_url
            else self._foreign(str(dead))
            if dead
            else {}
        )

    def _read(self, url: str) -> Mapping[str, str]:
        try:
            answer = call(
                self._clients.sqs,
                "get_queue_attributes",
                _name(url),
                QueueUrl=url,
                AttributeNames=list(_ATTRIBUTES),
            )
        except AwsError as error:
            self.refused.append(error)
            return {}
        attributes: Mapping[str, str] = answer.get("Attributes", {})
        return attributes

    def _foreign(self, arn: str) -> Mapping[str, str]:
        refused = list(self.refused)
        try:
            queue = Arn.parse(arn)
            given = {"QueueName": queue.resource, "QueueOwnerAWSAccountId": queue.account}
            return self._read(
                str(call(self._clients.sqs, "get_queue_url", queue.resource, **given)["QueueUrl"])
            )
        except MltriggerError:
            return {}
        finally:
            self.refused = refused


# -- what it should be -----------------------------------------------------------------------------


def _planned(
    resources: Resources, spec: SubscriptionSpec, source: str | None, known: Known
) -> Iterator[Finding]:
    """Compare the resources with those that subscribing would make."""
    try:
        changes = resources.plan(spec, source)
    except MltriggerError as error:
        yield _unknown(spec, "settings", error)
        return
    for change in changes:
        if change.action == "create" and change.setting is None:
            yield Finding(
                "error",
                spec.name,
                change.kind,
                f"{change.kind} {change.name!r} does not exist",
                "subscribing again makes it; what was published meanwhile did not arrive",
            )
        elif change.action == "change" and not (
            change.setting == "RedrivePolicy" and _too_few(known, spec)
        ):
            yield _different(spec, change)


def _different(spec: SubscriptionSpec, change: Change) -> Finding:
    setting = str(change.setting)
    now = "not set" if change.now is None else short(change.now)
    why = _EXPLAINED.get(setting)
    return _warning(
        spec,
        setting,
        f"{change.kind} {change.name!r}: {setting} is {now}; subscribing would set"
        f" {short(change.wanted)}",
        f"subscribe again to set it{f': {why}' if why else ''}; bus.plan() shows both in full",
    )


def _permissions(resources: Resources, spec: SubscriptionSpec, place: Place) -> Iterator[Finding]:
    """Check the four permissions for listening to somebody else's queue."""
    try:
        missing = resources.preflight(place.queue_url)
    except MltriggerError as error:
        yield _unknown(spec, "permissions", error)
        return
    for action, message in missing:
        yield Finding(
            "error",
            spec.name,
            "permission",
            f"{action} is missing on {_name(place.queue_url)!r}: {message}",
            "its owner has to allow it: mltrigger aws policies --role queue-listener --queue"
            f" {place.queue_arn}",
        )


# -- what contradicts itself -----------------------------------------------------------------------


def _too_few(known: Known, spec: SubscriptionSpec) -> bool:
    receives = receives_of(known.queue)
    spare = SPARE_RECEIVES if known.place.owned else MAX_ABANDONED
    return 0 < receives < spec.policy.max_attempts + spare


def _receives(known: Known, spec: SubscriptionSpec) -> Iterator[Finding]:
    """Compare our attempts with the receives after which SQS moves a message away."""
    if not _too_few(known, spec):
        return
    receives, attempts = receives_of(known.queue), spec.policy.max_attempts
    early = receives <= attempts
    advice = (
        "subscribe again to set it"
        if known.place.owned
        else f"ask its owner for more than {attempts + MAX_ABANDONED}"
    )
    yield Finding(
        "error" if early else "warning",
        spec.name,
        "maxReceiveCount",
        f"SQS moves a message to the dead letters after {receives} receives; max_attempts is"
        f" {attempts}" + ("" if early else ", and receives that no attempt comes of count as well"),
        f"{advice}, or lower max_attempts: what SQS takes away never gets its last attempts",
    )


def _kept(known: Known, spec: SubscriptionSpec, depth: Depth) -> Iterator[Finding]:
    """Compare SQS' retention with the time that attempts may take."""
    kept_s = int(known.queue.get("MessageRetentionPeriod") or 0)
    dead_s = int(known.dead.get("MessageRetentionPeriod") or 0)
    if 0 < dead_s < kept_s:
        yield _warning(
            spec,
            "dead-letter retention",
            f"the dead-letter queue keeps messages for {dead_s:,} s, the queue for {kept_s:,} s,"
            " and a message keeps its age when it moves",
            "MessageRetentionPeriod of the dead-letter queue should be the longer one, 1209600 (14"
            " days): what moves late is gone at once",
        )
    if not kept_s or spec.policy.ack == "accepted":
        return
    budget_s = (
        retry_budget_s(spec.policy.max_attempts) + spec.policy.max_attempts * spec.policy.timeout_s
    )
    if budget_s > kept_s:
        yield _warning(
            spec,
            "queue retention",
            f"{spec.policy.max_attempts} attempts may take {budget_s:,.0f} s; the queue keeps a"
            f" message for {kept_s:,} s",
            "lower max_attempts or timeout_s, or raise MessageRetentionPeriod: SQS deletes the"
            " message before its last attempts",
        )
    if depth.oldest_s is not None and depth.oldest_s > _AGE * kept_s:
        yield _warning(
            spec,
            "age",
            f"the oldest open event is {depth.oldest_s:,.0f} s old; SQS deletes it at {kept_s:,} s",
            "add workers, or raise MessageRetentionPeriod of the queue (at most 1209600)",
        )


# -- what is in there ------------------------------------------------------------------------------


def _buried(known: Known, spec: SubscriptionSpec) -> Iterator[Finding]:
    if waiting := _count(known.dead, "ApproximateNumberOfMessages"):
        yield _warning(
            spec,
            "dead-letter queue",
            f"about {waiting:,} message(s) that SQS moved wait in the dead-letter queue",
            "a process that listens takes them over into the log within a minute or two, and"
            " sub.dead_letters() shows them: start one",
        )


def _waiting(known: Known, spec: SubscriptionSpec, *, listening: bool) -> Iterator[Finding]:
    hidden = _count(known.queue, "ApproximateNumberOfMessagesNotVisible")
    if hidden and not listening:
        yield Finding(
            "info",
            spec.name,
            "in flight",
            f"about {hidden:,} message(s) are hidden although no listener of this log is alive",
            "they come back when their lease is over; if they do not, somebody else receives from"
            " this queue",
        )
    if hidden > _NEAR * IN_FLIGHT:
        yield _warning(
            spec,
            "in flight",
            f"about {hidden:,} messages are received, not deleted; at {IN_FLIGHT:,} SQS gives no"
            " more",
            "fewer listeners, a lower max_attempts or shorter delays: what waits for its retry is"
            " in flight as well",
        )


def _warning(spec: SubscriptionSpec, check: str, problem: str, advice: str) -> Finding:
    return Finding("warning", spec.name, check, problem, advice)


def _count(attributes: Mapping[str, str], name: str) -> int:
    return int(attributes.get(name) or 0)


def _unknown(spec: SubscriptionSpec, check: str, error: MltriggerError) -> Finding:
    """Return the finding for a check that failed.

    A listener need not have the right, and a service may not answer.
    """
    code = error.code if isinstance(error, AwsError) else ""
    if code in DENIED:
        return Finding(
            "info",
            spec.name,
            check,
            f"not looked at: {error}",
            "no harm: a listener needs no such right; `mltrigger aws policies --role administrator`"
            " has it",
        )
    if code in THROTTLED | MISSING:
        return _warning(spec, check, f"not looked at: {error}", "ask again in a minute")
    return Finding("error", spec.name, check, str(error), "deliveries need what is refused here")


def _name(url: str) -> str:
    return url.rpartition("/")[2]
