"""SQS of moto keeps the order of a group as AWS does, however its requests meet.

While moto looks for messages to give out, it forgets one by one that they were in flight. If two of
a group came back, it gives out the later one first. A request that changes messages may also come in
the middle of such a look.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from moto.sqs.models import Message, Queue, SQSBackend

_HELD_UP_S = 0.02
_EMPTY_S = 0.2


def keep_order(patch: pytest.MonkeyPatch) -> None:
    """Let moto forget all messages that came back before it looks, and look undisturbed."""
    lock = threading.RLock()
    receive = SQSBackend.receive_message

    def receives(
        self: SQSBackend,
        queue_name: str,
        count: int,
        wait_seconds_timeout: int,
        visibility_timeout: int,
        message_attribute_names: list[str] | None = None,
    ) -> list[Message]:
        queue = self.get_queue(queue_name)
        end_s = time.monotonic() + wait_seconds_timeout
        while True:
            with lock:
                queue.pending_messages.difference_update(queue.messages)
                found = receive(
                    self, queue_name, count, 0, visibility_timeout, message_attribute_names
                )
            if found or time.monotonic() >= end_s:
                return found
            if queue.messages:  # those of a group with one in flight
                time.sleep(_HELD_UP_S)
            else:
                queue.wait_for_messages(_EMPTY_S)  # type: ignore[arg-type]  # it takes parts too

    def undisturbed(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **named: Any) -> Any:
            with lock:
                return change(*given, **named)

        return changed

    patch.setattr(SQSBackend, "receive_message", receives)
    for name in ("change_message_visibility", "change_message_visibility_batch"):
        patch.setattr(SQSBackend, name, undisturbed(getattr(SQSBackend, name)))
    patch.setattr(Queue, "delete_message", undisturbed(Queue.delete_message))
