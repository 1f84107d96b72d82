"""The adapter the other way: a subscription inside an AWS Lambda function that Lambda feeds from
the subscription's queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mltrigger.aws.transport.broker import AwsBroker
from mltrigger.aws.transport.polls import Message, Raw
from mltrigger.errors import InvalidEvent, InvalidModel
from mltrigger.names import FIFO
from mltrigger.text import short

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.delivery.listener import Listener
    from mltrigger.handle import Subscription

Response = dict[str, list[dict[str, str]]]
_SPARE_S = 2.0
"""Before the function's time is over, nothing more is begun: what has run must be recorded."""


def lambda_handler(subscription: Subscription) -> Callable[[Mapping[str, Any], Any], Response]:
    """Return a handler for AWS Lambda that runs *subscription* on what its queue brings.

    Outcomes, attempts and dead letters are recorded in the bus's log as by any listener, and a
    repeat of an event that has an outcome does not run the model. The event source mapping needs
    ``ReportBatchItemFailures``
    (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html): only what has to
    come again is returned. What is dead has its dead letter in the log, and is not returned. Of an
    ordered group, everything behind a failure is returned with it.

    An error of ours, such as a log that does not answer, is raised: then all messages come again.

    Parameters
    ----------
    subscription : Subscription
        Of a bus on AWS, made with ``listen=False``. A log in ``/tmp`` is that of one execution
        environment: repeats and attempts are known within it, and dead letters stay there until it
        is gone (``sub.dead_letters()`` in the handler, or ``emit=``, tells others). SQLite needs a
        local disk; a shared file system is none.

    Examples
    --------
    ::

        bus = mt.connect("aws://eu-west-1/acme", log="sqlite:////tmp/acme.db")
        handler = mltrigger.aws.lambda_handler(bus.subscribe("documents", read_page, listen=False))
    """
    if subscription.policy.ack == "accepted":
        raise InvalidModel(
            "in a Lambda function only what has ended may be gone from the queue: subscribe with"
            " ack='completed'"
        )
    bus, broker = subscription._bus, subscription._bus.broker
    if not isinstance(broker, AwsBroker):
        raise InvalidModel(
            "lambda_handler needs a subscription of a bus on AWS: bus ="
            " mt.connect('aws://region/prefix', log=…)"
        )

    # one, as long as nobody binds the subscription anew
    listeners: dict[SubscriptionSpec, Listener] = {}

    def listener(spec: SubscriptionSpec) -> Listener:
        if spec not in listeners:
            for old in listeners.values():
                old.stop(0.0)
            listeners.clear()
            listeners[spec] = bus.borrowed_listener(spec)
        return listeners[spec]

    def handle(event: Mapping[str, Any], context: Any = None) -> Response:
        now_us = bus.log.now_us()
        spec = bus.spec(subscription.name)
        received = [_raw(record, now_us) for record in _records(event)]
        if not received:
            return {"batchItemFailures": []}
        taken = broker.accept(spec, received)
        listener(spec).process(taken.deliveries, time.monotonic() + _left_s(context))
        # afterwards nothing here runs any more
        broker.tell_all(_left_s(context) if context is not None else _SPARE_S)
        ended = bus.log.ended(spec.id, [d.seq for d in taken.deliveries])
        again = {
            id(d.message) for d in taken.deliveries if d.message is not None and d.seq not in ended
        } | {id(message) for message, *_ in taken.early}
        return {
            "batchItemFailures": [
                {"itemIdentifier": r.message_id} for r in received if id(r.message) in again
            ]
        }

    return handle


def _records(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not all(
        isinstance(r, Mapping) and r.get("eventSource") == "aws:sqs" for r in records
    ):
        raise InvalidEvent(
            f"{short(event)} is no event of an SQS queue: map the subscription's queue to this"
            " function, not a topic or a bucket"
        )
    return records


def _raw(record: Mapping[str, Any], now_us: int) -> Raw:
    """Return a record as a message; Lambda writes the names of its members small."""
    system = record.get("attributes", {})
    sent = system.get("SentTimestamp")
    queue, group = str(record.get("eventSourceARN", "")), system.get("MessageGroupId")
    ordered = group if queue.endswith(FIFO) else None
    message = Message(
        queue, str(record.get("receiptHandle", "")), now_us, now_us, ordered, lent=True
    )
    return Raw(
        message,
        str(record.get("body", "")),
        record.get("messageAttributes") or {},
        str(record["messageId"]),
        int(sent) * 1000 if sent else None,
        group,
    )


def _left_s(context: Any) -> float:
    """Return the seconds in which something may still be begun."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return float("inf") if left is None else max(0.0, left() / 1000 - _SPARE_S)
