"""The envelope of SNS in SQS.

https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
Signatures are not checked: the queue's policy decides who may send. Nothing that an envelope
names is ever fetched.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mltrigger.errors import InvalidEvent
from mltrigger.event import codec
from mltrigger.event.checks import parse_time
from mltrigger.event.envelopes.arrival import Arrival, as_subject, read_attributes
from mltrigger.event.envelopes.cloudevents import context
from mltrigger.text import short

CONFIRMATIONS = frozenset({"SubscriptionConfirmation", "UnsubscribeConfirmation"})
CONFIRMATION_TYPE = "com.amazonaws.sns.Confirmation"
"""The type of a request to confirm a subscription or its end."""
_TOPIC_ARN = re.compile(r"arn:aws[a-z0-9-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_TEXTS = ("Type", "MessageId", "TopicArn", "Timestamp")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Layer(NamedTuple):
    """A message without its wrapping, and the subject of the innermost envelope.

    ``confirmation``: it only asks to confirm a subscription. ``malformed``: the problem of its
    envelope.
    """

    arrival: Arrival
    subject: str | None = None
    confirmation: bool = False
    malformed: str | None = None


def unwrapped(arrival: Arrival, levels: int = 1) -> Arrival:
    """Return the message inside at most *levels* envelopes of SNS.

    Returns *arrival* itself if it is in none. Id, origin and time are those of the notification,
    which stay the same when SNS delivers it twice.
    """
    return peel(arrival, levels).arrival


def peel(arrival: Arrival, levels: int) -> Layer:
    """Do the work of :func:`unwrapped`, and return more facts of the envelopes."""
    layer = Layer(arrival)
    for _ in range(levels):
        envelope = _envelope(layer.arrival)
        if envelope is None:
            break
        if envelope["Type"] in CONFIRMATIONS:
            return layer._replace(confirmation=True)
        if not isinstance(envelope.get("Message"), str):
            return layer._replace(malformed=_not_text(envelope.get("Message")))
        layer = _inside(envelope, layer.arrival)
    return layer


def _envelope(arrival: Arrival) -> dict[str, Any] | None:
    """Return the body as an envelope, or ``None``.

    An envelope has all members that SNS writes beside the message, in the form of SNS.
    """
    # A look at the text first: most bodies are none, and would be parsed twice.
    if '"TopicArn"' not in arrival.body or context(read_attributes(arrival.attributes)) is not None:
        return None
    try:
        body = codec.loads(arrival.body)
        if not isinstance(body, dict) or not all(
            isinstance(body.get(name), str) for name in _TEXTS
        ):
            return None
        parse_time(body["Timestamp"])
    except InvalidEvent:
        return None
    if not body["MessageId"] or not _TOPIC_ARN.fullmatch(body["TopicArn"]):
        return None
    if body["Type"] == "Notification":
        return body
    confirms = (
        body["Type"] in CONFIRMATIONS
        and isinstance(body.get("Message"), str)
        and isinstance(body.get("Token"), str)
        and isinstance(body.get("SubscribeURL"), str)
    )
    return body if confirms else None


def _not_text(message: Any) -> str:
    return (
        f"an envelope of SNS has its message as text, this one has {short(message)}: encode the"
        " message as JSON text, then wrap it"
    )


def _inside(envelope: dict[str, Any], arrival: Arrival) -> Layer:
    subject, attributes = envelope.get("Subject"), envelope.get("MessageAttributes")
    inner = arrival._replace(
        body=envelope["Message"],
        attributes={**arrival.attributes, **(attributes if isinstance(attributes, dict) else {})},
        message_id=envelope["MessageId"],
        origin=envelope["TopicArn"],
        sent_us=(parse_time(envelope["Timestamp"]) - _EPOCH) // timedelta(microseconds=1),
    )
    return Layer(inner, as_subject(subject) if isinstance(subject, str) else None)
