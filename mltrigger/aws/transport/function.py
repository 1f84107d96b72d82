"""A subscription inside an AWS Lambda function behind the subscription's queue."""

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
    from mltrigger.delivery.on_call import OnCall
    from mltrigger.handle import Bus, Subscription

Response = dict[str, list[dict[str, str]]]
_SPARE_S = 2.0
"""Seconds before the function's end in which nothing new begins: results must be recorded."""


def lambda_handler(subscription: Subscription) -> Callable[[Mapping[str, Any], Any], Response]:
    """Return a handler for AWS Lambda that runs *subscription* on the messages of its queue.

    The bus's log records outcomes, attempts and dead letters, as for any listener. A repeat of an
    event with an outcome does not run the model. The event source mapping needs
    ``ReportBatchItemFailures``
    (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html). The handler
    returns only the messages that have to come again. A dead event has its dead letter in the log
    and is not returned. In an ordered group, the messages behind a failure are returned with it.

    An error of ours, such as a log that does not answer, is raised. Then all messages come again.

    Parameters
    ----------
    subscription : Subscription
        Of a bus on AWS, made with ``listen=False``. A log in ``/tmp`` belongs to one execution
        environment: it knows only its own repeats and attempts, and keeps dead letters only as long
        as it lives. Read them by ``sub.dead_letters()`` in the handler, or send outputs on by
        ``emit=``. SQLite needs a local disk, not a shared file system.

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
    bus = subscription.__mltrigger_bus__()
    if not isinstance(bus.broker, AwsBroker):
        raise InvalidModel(
            "lambda_handler needs a subscription of a bus on AWS: bus ="
            " mt.connect('aws://region/prefix', log=…)"
        )
    return _Handler(bus, bus.broker, subscription.name)


class _Handler:
    """The handler of one subscription."""

    def __init__(self, bus: Bus, broker: AwsBroker, name: str) -> None:
        self._bus, self._broker, self._name = bus, broker, name
        self._listening: tuple[SubscriptionSpec, OnCall] | None = None

    def __call__(self, event: Mapping[str, Any], context: Any = None) -> Response:
        now_us = self._bus.log.now_us()
        spec = self._bus.spec(self._name)
        received = [_raw(record, now_us) for record in _records(event)]
        if not received:
            return {"batchItemFailures": []}
        taken = self._broker.accept(spec, received)
        self._listener(spec).process(taken.deliveries, time.monotonic() + _left_s(context))
        # Nothing runs here after the answer.
        self._broker.tell_all(_left_s(context) if context is not None else _SPARE_S)
        ended = self._bus.log.ended(spec.id, [d.seq for d in taken.deliveries])
        again = {
            id(d.message) for d in taken.deliveries if d.message is not None and d.seq not in ended
        } | {id(message) for message, *_ in taken.early}
        return {
            "batchItemFailures": [
                {"itemIdentifier": r.message_id} for r in received if id(r.message) in again
            ]
        }

    def _listener(self, spec: SubscriptionSpec) -> OnCall:
        """Return the listener. Make a new one if the subscription was bound anew."""
        if self._listening is not None:
            bound, listener = self._listening
            if bound == spec:
                return listener
            listener.stop(0.0)
        listener = self._bus.borrowed_listener(spec)
        self._listening = (spec, listener)
        return listener


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
    """Return a record as a message. Lambda writes the names of its members in lower case."""
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
    """Return the seconds in which work may still begin."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return float("inf") if left is None else max(0.0, left() / 1000 - _SPARE_S)
