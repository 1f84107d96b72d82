"""Check permissions on a queue without touching a message."""

from __future__ import annotations

from typing import Any, NamedTuple

from mltrigger.aws.admin.plan import call
from mltrigger.aws.faults import DENIED, MISSING, AwsError
from mltrigger.errors import NotFound

_NO_HANDLE = "mltrigger-preflight"
_BEYOND = 11
"""More messages than a receive may ask for."""
_NO_QUEUE = MISSING - {"404"}
_AS_MEANT = (
    "Invalid",
    "ReceiptHandle",
    "OutOfRange",
    "NotInflight",
    "MessageNotInflight",
    "ValidationError",
)
"""Parts of codes that say that the request is wrong, which it is on purpose."""


class Missing(NamedTuple):
    """A permission that listening needs and does not have."""

    action: str
    message: str


def preflight(clients: Any, queue_url: str) -> list[Missing]:
    """Return the missing permissions of the four that listening to a queue needs.

    AWS checks permissions before it checks the request. So three requests are wrong on purpose:
    DeleteMessage and ChangeMessageVisibility have an invalid receipt handle, and ReceiveMessage
    asks for 11 messages, one too many. Without the permission AWS says so. With it AWS says that
    the request is wrong, and no message is received, counted or hidden. GetQueueAttributes reads
    one attribute. If AWS ever checks a permission after the request, it counts as granted: there
    is no false alarm.

    Raises
    ------
    NotFound
        There is no such queue, or this account may not see it.
    AwsError
        AWS gave another answer.
    """
    about = queue_url.rpartition("/")[2]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        (
            "sqs:ReceiveMessage",
            "receive_message",
            {"MaxNumberOfMessages": _BEYOND, "WaitTimeSeconds": 0},
        ),
        ("sqs:DeleteMessage", "delete_message", {"ReceiptHandle": _NO_HANDLE}),
        (
            "sqs:ChangeMessageVisibility",
            "change_message_visibility",
            {"ReceiptHandle": _NO_HANDLE, "VisibilityTimeout": 30},
        ),
        ("sqs:GetQueueAttributes", "get_queue_attributes", {"AttributeNames": ["QueueArn"]}),
    ]
    found = []
    for action, operation, given in asked:
        try:
            call(clients.sqs, operation, about, QueueUrl=queue_url, **given)
        except AwsError as error:
            if error.code in DENIED:
                found.append(Missing(action, str(error)))
            elif error.code in _NO_QUEUE:
                raise NotFound(
                    f"no queue {queue_url!r}, or this account may not see it: is the URL right?"
                    f" {error}"
                ) from error
            elif not any(part in error.code for part in _AS_MEANT):
                raise
    return found
